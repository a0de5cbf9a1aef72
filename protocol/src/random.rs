//! Pseudo-random numbers from a seed that is given: for choosing whom to gossip with and for jitter, never for secrets.

use core::convert::Infallible;
use core::time::Duration;

/// SplitMix64: one word of state, full period, good enough to choose among peers.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) const fn seeded(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// A number below `bound`; zero when the bound is zero.
    pub(crate) const fn below(&mut self, bound: usize) -> usize {
        ((self.next() as u128 * bound as u128) >> 64) as usize
    }

    /// A duration between `base` and one and a half times that, so that nodes started together do not stay in step.
    pub(crate) fn jitter(&mut self, base: Duration) -> Duration {
        base + base / 128 * (self.next() % 64) as u32
    }

    /// Up to `count` different members of `from`, in random order.
    pub(crate) fn pick<T: Copy>(&mut self, from: &[T], count: usize) -> alloc::vec::Vec<T> {
        let mut pool = from.to_vec();
        let count = count.min(pool.len());
        for place in 0..count {
            let other = place + self.below(pool.len() - place);
            pool.swap(place, other);
        }
        pool.truncate(count);
        pool
    }
}

/// The finalizer of SplitMix64: every bit of the input reaches every bit of the output. Not for secrets.
pub(crate) const fn mix(word: u64) -> u64 {
    let word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

impl rand_core::TryRng for Random {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok((self.next() >> 32) as u32)
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(self.next())
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        for chunk in bytes.chunks_mut(8) {
            let word = self.next().to_le_bytes();
            chunk.copy_from_slice(&word[..chunk.len()]);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sequence_is_the_published_one() {
        let mut random = Random::seeded(1_234_567);
        assert_eq!(random.next(), 6_457_827_717_110_365_317);
        assert_eq!(random.next(), 3_203_168_211_198_807_973);
    }

    #[test]
    fn picks_are_different_members() {
        let mut random = Random::seeded(7);
        let from: alloc::vec::Vec<u32> = (0..20).collect();
        for count in 0..25 {
            let mut picked = random.pick(&from, count);
            picked.sort_unstable();
            picked.dedup();
            assert_eq!(picked.len(), count.min(20));
        }
        assert_eq!(random.below(0), 0);
    }
}

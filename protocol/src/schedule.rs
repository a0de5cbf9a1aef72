//! What is to be done when: at most one time for each thing, the earliest first.

use alloc::collections::{BTreeMap, BTreeSet};

use crate::time::Instant;

/// A queue of things by time, in which a thing can be moved.
#[derive(Clone, Debug)]
pub(crate) struct Schedule<K> {
    times: BTreeMap<K, Instant>,
    order: BTreeSet<(Instant, K)>,
}

impl<K: Copy + Ord> Schedule<K> {
    /// From now on `key` is due at `at`, or not at all.
    pub(crate) fn set(&mut self, key: K, at: Option<Instant>) {
        let before = match at {
            Some(at) => self.times.insert(key, at),
            None => self.times.remove(&key),
        };
        if before == at {
            return;
        }
        before.map(|before| self.order.remove(&(before, key)));
        at.map(|at| self.order.insert((at, key)));
    }

    /// When the next thing is due.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.order.first().map(|(at, _)| *at)
    }

    /// What is due first.
    pub(crate) fn first(&self) -> Option<K> {
        self.order.first().map(|(_, key)| *key)
    }

    pub(crate) fn len(&self) -> usize {
        self.order.len()
    }

    /// Takes out what has been due for longest, if anything is.
    pub(crate) fn pop(&mut self, now: Instant) -> Option<K> {
        let (_, key) = self.order.first().copied().filter(|(at, _)| *at <= now)?;
        self.set(key, None);
        Some(key)
    }
}

impl<K> Default for Schedule<K> {
    fn default() -> Self {
        Self { times: BTreeMap::new(), order: BTreeSet::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn things_come_out_in_the_order_of_their_last_times() {
        let at = Instant::from_micros;
        let mut schedule = Schedule::default();
        (1..=4u64).for_each(|key| schedule.set(key, Some(at(10 * key))));
        schedule.set(1, Some(at(35)));
        schedule.set(2, None);
        schedule.set(3, Some(at(30)));
        assert_eq!(schedule.next(), Some(at(30)));
        let mut popped = |now| core::iter::from_fn(|| schedule.pop(at(now))).collect::<alloc::vec::Vec<_>>();
        assert_eq!(popped(29), []);
        assert_eq!(popped(39), [3, 1]);
        assert_eq!(popped(99), [4]);
        assert_eq!(schedule.next(), None);
    }
}

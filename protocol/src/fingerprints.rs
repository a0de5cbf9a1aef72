//! What a peer holds, as far as two bytes a thing can say: a table of short fingerprints in buckets.
//!
//! A key's hash names a page, a bucket in the page and a 16-bit remainder; the table keeps the remainders of a bucket sorted and
//! all buckets of a page in one row. With at most twelve remainders a bucket, a key that is not there is taken for one that is in
//! 12 of 65,536 cases, at a little over two bytes a key. Removing is exact as long as only what was inserted is removed, and pages
//! of the same geometry can be compared by a check sum. A table can't grow: its owner sends a larger one.

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;

use crate::random::mix;

/// A multiset of 64-bit hashes, remembered approximately.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    geometry: Geometry,
    pages: Vec<Page>,
    len: usize,
}

/// The shape of a table: both sides of a transfer must use the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// The number of pages is two to this power, at most [`Geometry::PAGE_BITS_MAX`].
    pub page_bits: u8,
    /// Buckets in each page, at least 1 and at most [`Geometry::BUCKETS_MAX`].
    pub buckets: u16,
}

/// A part of a table: the unit of transfer, audit and repair.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// How many remainders each bucket has.
    counts: Box<[u8]>,
    /// Bucket after bucket, sorted within each.
    remainders: Vec<u16>,
    /// XOR over the mixed hashes of what is in the page.
    sum: u64,
}

/// How many remainders a bucket has on average when a new table is filled, and when it counts as outgrown.
const LOAD_NEW: usize = 8;
const LOAD_MAX: usize = 12;

impl Geometry {
    /// More pages would not make the work per page smaller for any inventory that is permitted.
    pub const PAGE_BITS_MAX: u8 = 8;
    /// With [`Self::PAGE_BITS_MAX`] this makes room for some twelve million keys.
    pub const BUCKETS_MAX: u16 = 4096;

    /// The shape for `count` keys and half as many again.
    pub fn fitting(count: u64) -> Self {
        let count = usize::try_from(count).unwrap_or(usize::MAX).max(64);
        let page_bits = (count / 1024).checked_ilog2().map_or(0, |bits| (bits + 1).min(u32::from(Self::PAGE_BITS_MAX)));
        let buckets = (count >> page_bits).div_ceil(LOAD_NEW).min(usize::from(Self::BUCKETS_MAX));
        Self { page_bits: page_bits as u8, buckets: buckets as u16 }
    }

    /// Whether these numbers, which may come from a peer, make a table.
    pub const fn is_valid(self) -> bool {
        self.page_bits <= Self::PAGE_BITS_MAX && self.buckets >= 1 && self.buckets <= Self::BUCKETS_MAX
    }

    /// The number of pages.
    pub const fn pages(self) -> usize {
        1 << self.page_bits
    }

    /// The page that `hash` belongs to.
    pub const fn page_of(self, hash: u64) -> usize {
        // In two steps, because shifting by 64 is not defined.
        (hash >> 1 >> (63 - self.page_bits)) as usize
    }

    /// The first hash and the last that belong to `page`.
    pub const fn hashes_of(self, page: usize) -> (u64, u64) {
        let width = u64::MAX >> self.page_bits;
        let first = if self.page_bits == 0 { 0 } else { (page as u64) << (64 - self.page_bits) };
        (first, first + width)
    }

    fn bucket_of(self, hash: u64) -> usize {
        let within = hash << self.page_bits;
        ((u128::from(within) * u128::from(self.buckets)) >> 64) as usize
    }
}

impl Table {
    /// An empty table for about `count` keys. `geometry` must be valid.
    pub fn new(geometry: Geometry) -> Self {
        debug_assert!(geometry.is_valid(), "geometries from outside are checked at the wire");
        Self { geometry, pages: vec![Page::default(); geometry.pages()], len: 0 }
    }

    /// Remembers `hash` once more. False, and nothing done, when its bucket is full, which random hashes never bring about.
    pub fn insert(&mut self, hash: u64) -> bool {
        let inserted = self.pages[self.geometry.page_of(hash)].insert(self.geometry, hash);
        self.len += usize::from(inserted);
        inserted
    }

    /// Forgets `hash` once. False, and nothing done, when it is not there.
    pub fn remove(&mut self, hash: u64) -> bool {
        let removed = self.pages[self.geometry.page_of(hash)].remove(self.geometry, hash);
        self.len -= usize::from(removed);
        removed
    }

    /// Puts a page that the owner sent in the place of the one at `index`. False, and nothing done, when there is no such place.
    pub fn replace(&mut self, index: usize, page: Page) -> bool {
        let Some(place) = self.pages.get_mut(index) else {
            return false;
        };
        self.len = self.len - place.remainders.len() + page.remainders.len();
        *place = page;
        true
    }

    /// Whether `hash` is there: certain when false, else wrong in at most 2 of 10,000 cases.
    pub fn contains(&self, hash: u64) -> bool {
        self.pages[self.geometry.page_of(hash)].contains(self.geometry, hash)
    }

    /// The check sum of the page at `index`, zero where there is none.
    pub fn sum(&self, index: usize) -> u64 {
        self.pages.get(index).map_or(0, |page| page.sum)
    }

    /// Keys remembered.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing is remembered.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The shape of this table.
    pub const fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// Whether false answers have become likelier than promised, so that a larger table should take its place.
    pub const fn outgrown(&self) -> bool {
        self.len > self.geometry.pages() * self.geometry.buckets as usize * LOAD_MAX
    }

    /// Memory in use, in bytes.
    pub fn bytes(&self) -> usize {
        let page = |page: &Page| size_of::<Page>() + page.counts.len() + page.remainders.capacity() * 2;
        self.pages.iter().map(page).sum::<usize>() + size_of::<Self>()
    }
}

impl Page {
    /// The page of the given hashes, all of which must belong to it.
    pub fn of(geometry: Geometry, hashes: impl IntoIterator<Item = u64>) -> Self {
        let mut page = Self::default();
        for hash in hashes {
            page.insert(geometry, hash);
        }
        page
    }

    /// A page that a peer described: `counts` of remainders for each bucket, the `remainders` as pairs of bytes, little end first.
    /// `None` when the parts don't fit each other or the geometry.
    pub fn from_parts(geometry: Geometry, counts: &[u8], remainders: &[u8], sum: u64) -> Option<Self> {
        let total: usize = counts.iter().map(|count| usize::from(*count)).sum();
        let bucketed = counts.len() == usize::from(geometry.buckets) || counts.is_empty();
        if !bucketed || total * 2 != remainders.len() {
            return None;
        }
        let remainders: Vec<u16> =
            remainders.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect();
        let mut from = 0;
        for count in counts {
            let bucket = &remainders[from..from + usize::from(*count)];
            if !bucket.is_sorted() {
                return None;
            }
            from += bucket.len();
        }
        Some(Self { counts: counts.into(), remainders, sum })
    }

    /// What [`Self::from_parts`] makes a page of: counts, remainders, check sum.
    pub fn parts(&self) -> (&[u8], Vec<u8>, u64) {
        let remainders = self.remainders.iter().flat_map(|remainder| remainder.to_le_bytes()).collect();
        (&self.counts, remainders, self.sum)
    }

    fn insert(&mut self, geometry: Geometry, hash: u64) -> bool {
        if self.counts.is_empty() {
            self.counts = vec![0; usize::from(geometry.buckets)].into();
        }
        let (bucket, start, end) = self.bucket(geometry, hash);
        if self.counts[bucket] == u8::MAX {
            return false;
        }
        if self.remainders.len() == self.remainders.capacity() {
            // Doubling would cost more memory than all else here.
            self.remainders.reserve_exact(self.remainders.len() / 8 + 8);
        }
        let remainder = hash as u16;
        let place = start + self.remainders[start..end].partition_point(|other| *other < remainder);
        self.remainders.insert(place, remainder);
        self.counts[bucket] += 1;
        self.sum ^= mix(hash);
        true
    }

    fn remove(&mut self, geometry: Geometry, hash: u64) -> bool {
        let (bucket, start, end) = self.bucket(geometry, hash);
        let Ok(place) = self.remainders[start..end].binary_search(&(hash as u16)) else {
            return false;
        };
        self.remainders.remove(start + place);
        self.counts[bucket] -= 1;
        self.sum ^= mix(hash);
        true
    }

    fn contains(&self, geometry: Geometry, hash: u64) -> bool {
        let (_, start, end) = self.bucket(geometry, hash);
        self.remainders[start..end].contains(&(hash as u16))
    }

    /// The bucket of `hash` and where its remainders begin and end.
    fn bucket(&self, geometry: Geometry, hash: u64) -> (usize, usize, usize) {
        let bucket = geometry.bucket_of(hash);
        let Some(count) = self.counts.get(bucket) else {
            return (bucket, 0, 0);
        };
        let start = self.counts[..bucket].iter().map(|count| usize::from(*count)).sum();
        (bucket, start, start + usize::from(*count))
    }
}

/// What one hash contributes to the check sum of its page.
pub(crate) const fn share_of_sum(hash: u64) -> u64 {
    mix(hash)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::random::Random;

    fn filled(count: u64, random: &mut Random) -> (Table, Vec<u64>) {
        let mut table = Table::new(Geometry::fitting(count));
        let hashes: Vec<u64> = (0..count).map(|_| random.next()).collect();
        assert!(hashes.iter().all(|hash| table.insert(*hash)));
        (table, hashes)
    }

    #[test]
    fn a_million_keys_take_little_more_than_two_megabytes() {
        let (table, hashes) = filled(1_000_000, &mut Random::seeded(1));
        assert!(table.bytes() < 2_500_000, "{}", table.bytes());
        assert!(hashes.iter().all(|hash| table.contains(*hash)));
    }

    #[test]
    fn false_answers_are_as_rare_as_promised() {
        let mut random = Random::seeded(2);
        let (mut table, _) = filled(100_000, &mut random);
        while !table.outgrown() {
            table.insert(random.next());
        }
        let wrong = (0..1_000_000).filter(|_| table.contains(random.next())).count();
        assert!(wrong < 220, "{wrong} of a million when full");
    }

    #[test]
    fn a_new_table_has_room_for_half_as_many_again() {
        for count in [0, 1, 63, 64, 1000, 1024, 5000, 1_000_000] {
            let geometry = Geometry::fitting(count);
            assert!(geometry.is_valid());
            let room = geometry.pages() * usize::from(geometry.buckets) * LOAD_MAX;
            assert!(room as u64 >= count + count / 2, "{count}: {room}");
        }
        assert!(Geometry::fitting(u64::MAX).is_valid());
    }

    #[test]
    fn pages_cover_all_hashes_once() {
        for page_bits in 0..=8 {
            let geometry = Geometry { page_bits, buckets: 9 };
            let mut next = 0u64;
            for page in 0..geometry.pages() {
                let (first, last) = geometry.hashes_of(page);
                assert_eq!(first, next);
                assert_eq!((geometry.page_of(first), geometry.page_of(last)), (page, page));
                next = last.wrapping_add(1);
            }
            assert_eq!(next, 0);
        }
    }

    #[test]
    fn a_full_bucket_refuses() {
        let mut table = Table::new(Geometry::fitting(0));
        let inserted = (0..1000).filter(|_| table.insert(42)).count();
        assert_eq!((inserted, table.len()), (255, 255));
    }

    proptest! {
        #[test]
        fn it_is_a_multiset(steps in prop::collection::vec((0u64..40, any::<bool>()), 0..300)) {
            let mut table = Table::new(Geometry { page_bits: 2, buckets: 3 });
            let mut model = alloc::collections::BTreeMap::<u64, usize>::new();
            for (number, add) in steps {
                let hash = mix(number);
                let count = model.entry(hash).or_default();
                if add {
                    prop_assert!(table.insert(hash));
                    *count += 1;
                } else if *count > 0 {
                    prop_assert!(table.remove(hash));
                    *count -= 1;
                }
            }
            prop_assert_eq!(table.len(), model.values().sum::<usize>());
            prop_assert!(model.iter().all(|(hash, count)| *count == 0 || table.contains(*hash)));
            // The same contents inserted in another order make the same table.
            let mut other = Table::new(table.geometry());
            for (hash, count) in model.iter().rev() {
                (0..*count).for_each(|_| { other.insert(*hash); });
            }
            prop_assert!(table.pages.iter().zip(&other.pages).all(|(a, b)| a.remainders == b.remainders && a.sum == b.sum));
        }

        #[test]
        fn pages_survive_the_wire(hashes in prop::collection::vec(any::<u64>(), 0..200)) {
            let geometry = Geometry { page_bits: 0, buckets: 20 };
            let page = Page::of(geometry, hashes);
            let (counts, remainders, sum) = page.parts();
            prop_assert_eq!(Page::from_parts(geometry, counts, &remainders, sum), Some(page.clone()));
        }

        #[test]
        fn no_parts_panic(counts: Vec<u8>, remainders: Vec<u8>, hash: u64) {
            let geometry = Geometry { page_bits: 0, buckets: 4 };
            if let Some(page) = Page::from_parts(geometry, &counts, &remainders, 0) {
                let mut table = Table::new(geometry);
                table.replace(0, page);
                table.insert(hash);
                table.remove(hash);
            }
        }
    }
}

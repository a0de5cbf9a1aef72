//! What this node holds, as a versioned log that peers can follow.
//!
//! Every change has a sequence; a peer asks for those after the last it has. When the log no longer reaches back so far, it asks for
//! pages of fingerprints instead. An epoch is one life of the log: it begins empty and is filled when the node starts.

use alloc::collections::{BTreeSet, VecDeque};

use crate::fingerprints::{Geometry, Page, share_of_sum};
use crate::identity::Incarnation;
use crate::message::{Audit, CHANGES_MAX, Change, Delta, PageAnswer, REMAINDERS_MAX, Shape};
use crate::wire::{Few, FewBytes};

/// Changes kept for peers that are a little behind.
const LOG_MAX: usize = 16 * 1024;

/// Keys told to others; more are kept by the store, but only this node knows of them.
const KEYS_MAX: usize = 6_000_000;

/// The node's own inventory.
#[derive(Clone, Debug)]
pub(crate) struct Inventory {
    epoch: Incarnation,
    held: BTreeSet<u64>,
    /// The most recent changes; the last has the number `sequence`.
    log: VecDeque<Change>,
    sequence: u64,
    /// Check sums of 256 pages; those of fewer are sums of these.
    sums: [u64; 1 << Geometry::PAGE_BITS_MAX],
}

impl Inventory {
    pub(crate) const fn new(epoch: Incarnation) -> Self {
        Self {
            epoch,
            held: BTreeSet::new(),
            log: VecDeque::new(),
            sequence: 0,
            sums: [0; 1 << Geometry::PAGE_BITS_MAX],
        }
    }

    /// Notes that a key came (or else went). False when that is no news.
    pub(crate) fn change(&mut self, short: u64, added: bool) -> bool {
        let changed =
            if !added { self.held.remove(&short) } else { self.held.len() < KEYS_MAX && self.held.insert(short) };
        if changed {
            self.sequence += 1;
            self.log.push_back(Change::new(short, added));
            if self.log.len() > LOG_MAX {
                self.log.pop_front();
            }
            self.sums[short as usize >> (usize::BITS - u32::from(Geometry::PAGE_BITS_MAX))] ^= share_of_sum(short);
        }
        changed
    }

    pub(crate) fn holds(&self, short: u64) -> bool {
        self.held.contains(&short)
    }

    pub(crate) const fn epoch(&self) -> Incarnation {
        self.epoch
    }

    pub(crate) const fn sequence(&self) -> u64 {
        self.sequence
    }

    pub(crate) fn count(&self) -> u64 {
        self.held.len() as u64
    }

    /// The changes after `after` of the given epoch: none when the log doesn't reach back to it or it is another epoch's.
    pub(crate) fn delta(&self, epoch: Incarnation, after: u64) -> Delta {
        let missing = self.sequence.checked_sub(after).and_then(|missing| usize::try_from(missing).ok());
        let changes = match missing {
            Some(missing) if epoch == self.epoch && missing <= self.log.len() => {
                Few::of(self.log.iter().skip(self.log.len() - missing).take(CHANGES_MAX).copied())
            }
            _ => Few::of([]),
        };
        Delta { epoch: self.epoch, after, changes, last: self.sequence }
    }

    /// One page in the shape that the peer asked for; `None` when there is no such page or it would not fit a message.
    pub(crate) fn page(&self, shape: Shape, index: u16) -> Option<PageAnswer> {
        let geometry = Geometry::from(shape);
        if !geometry.is_valid() || usize::from(index) >= geometry.pages() {
            return None;
        }
        let (first, last) = geometry.hashes_of(usize::from(index));
        // Counted before it is made: a peer may have asked for all of a large inventory at once.
        if self.held.range(first..=last).take(REMAINDERS_MAX / 2 + 1).count() > REMAINDERS_MAX / 2 {
            return None;
        }
        let page = Page::of(geometry, self.held.range(first..=last).copied());
        let (counts, remainders, sum) = page.parts();
        Some(PageAnswer {
            epoch: self.epoch,
            sequence: self.sequence,
            shape,
            index,
            counts: FewBytes::of(counts),
            remainders: FewBytes::of(&remainders),
            sum,
        })
    }

    /// The check sums of two to the `page_bits` pages; `None` for more than there can be.
    pub(crate) fn audit(&self, page_bits: u8) -> Option<Audit> {
        let each = self.sums.len().checked_shr(u32::from(page_bits)).filter(|each| *each > 0)?;
        let sums = self.sums.chunks(each).map(|chunk| chunk.iter().fold(0, |sum, share| sum ^ share));
        Some(Audit { epoch: self.epoch, sequence: self.sequence, sums: Few::of(sums) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::mix;

    fn filled(count: u64) -> Inventory {
        let mut inventory = Inventory::new(Incarnation(5));
        (0..count).for_each(|number| assert!(inventory.change(mix(number), true)));
        inventory
    }

    #[test]
    fn only_news_is_logged() {
        let mut inventory = filled(3);
        assert!(!inventory.change(mix(1), true));
        assert!(!inventory.change(mix(9), false));
        assert!(inventory.change(mix(1), false));
        assert_eq!((inventory.sequence(), inventory.count(), inventory.holds(mix(1))), (4, 2, false));
    }

    #[test]
    fn deltas_reach_back_as_far_as_the_log() {
        let inventory = filled(LOG_MAX as u64 + 10);
        let delta = inventory.delta(Incarnation(5), LOG_MAX as u64);
        assert_eq!((delta.changes.len(), delta.last), (10, LOG_MAX as u64 + 10));
        assert_eq!(delta.changes[0], Change::new(mix(LOG_MAX as u64), true));
        assert_eq!(inventory.delta(Incarnation(5), 10).changes.len(), CHANGES_MAX);
        assert!(inventory.delta(Incarnation(5), 9).changes.is_empty());
        assert!(inventory.delta(Incarnation(4), LOG_MAX as u64).changes.is_empty());
        assert!(inventory.delta(Incarnation(5), u64::MAX).changes.is_empty());
    }

    #[test]
    fn sums_of_pages_are_the_sums_in_the_audit() {
        let inventory = filled(5000);
        for page_bits in 0..=8 {
            let shape = Shape { page_bits, buckets: 2048 };
            let audit = inventory.audit(page_bits).unwrap();
            assert_eq!(audit.sums.len(), 1 << page_bits);
            for (index, sum) in audit.sums.iter().enumerate() {
                assert_eq!(inventory.page(shape, index as u16).unwrap().sum, *sum);
            }
        }
        assert_eq!(inventory.audit(9), None);
        assert_eq!(inventory.audit(255), None);
    }

    #[test]
    fn pages_that_make_no_sense_are_refused() {
        let inventory = filled(30_000);
        assert_eq!(inventory.page(Shape { page_bits: 0, buckets: 4096 }, 0), None, "too many for one message");
        assert_eq!(inventory.page(Shape { page_bits: 4, buckets: 0 }, 0), None);
        assert_eq!(inventory.page(Shape { page_bits: 4, buckets: 300 }, 16), None);
        assert!(inventory.page(Shape { page_bits: 4, buckets: 300 }, 15).is_some());
    }
}

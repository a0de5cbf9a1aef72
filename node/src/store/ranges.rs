//! Which bytes of a growing file are there: sorted, disjoint, non-adjacent ranges.

use std::ops::Range;

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Ranges(Vec<Range<u64>>);

impl Ranges {
    pub(super) fn insert(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let from = self.0.partition_point(|r| r.end < range.start);
        let to = self.0.partition_point(|r| r.start <= range.end);
        let mut merged = range;
        if from < to {
            merged.start = merged.start.min(self.0[from].start);
            merged.end = merged.end.max(self.0[to - 1].end);
        }
        self.0.splice(from..to, [merged]);
    }

    /// End of the run that contains `offset`; `offset` itself when it is absent.
    pub(super) fn until(&self, offset: u64) -> u64 {
        let i = self.0.partition_point(|r| r.end <= offset);
        self.0.get(i).filter(|r| r.start <= offset).map_or(offset, |r| r.end)
    }

    /// The first gap inside `within`.
    pub(super) fn missing(&self, within: Range<u64>) -> Option<Range<u64>> {
        let start = self.until(within.start);
        let i = self.0.partition_point(|r| r.start < start);
        let end = self.0.get(i).map_or(within.end, |r| r.start.min(within.end));
        (start < end).then_some(start..end)
    }

    pub(super) fn bytes(&self) -> u64 {
        self.0.iter().map(|r| r.end - r.start).sum()
    }

    /// Is it what `insert` makes, inside `0..total`?
    pub(super) fn is_sound(&self, total: u64) -> bool {
        self.0.iter().all(|r| r.start < r.end && r.end <= total) && self.0.windows(2).all(|w| w[0].end < w[1].start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn agrees_with_a_bitmap(inserts in prop::collection::vec((0u64..64, 0u64..20), 0..20), at in 0u64..90) {
            let mut ranges = Ranges::default();
            let mut model = [false; 90];
            for (start, len) in inserts {
                ranges.insert(start..start + len);
                (start..start + len).for_each(|i| model[i as usize] = true);
            }
            prop_assert!(ranges.is_sound(90));
            prop_assert_eq!(ranges.bytes(), model.iter().filter(|b| **b).count() as u64);
            let until = (at..90).find(|i| !model[*i as usize]).unwrap_or(90);
            prop_assert_eq!(ranges.until(at), until);
            let gap = (at..90).find(|i| !model[*i as usize]).map(|s| s..(s..90).find(|i| model[*i as usize]).unwrap_or(90));
            prop_assert_eq!(ranges.missing(at..90), gap);
        }
    }
}

//! Sums of equal intervals, the oldest of which make room for the newest. An interval has its place by its time, so
//! that what lies there from an earlier round is known by its start.

use std::ops::RangeInclusive;

use super::Sums;

/// One ring. Times are seconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ring {
    /// Seconds of an interval.
    pub(super) step: u64,
    slots: Box<[Slot]>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Slot {
    /// Of the interval; 0 when nothing was ever here.
    pub(super) start: u64,
    pub(super) sums: Sums,
    /// Has changed since it was last written.
    unwritten: bool,
}

impl Ring {
    pub(super) fn new((step, len): (u64, usize)) -> Self {
        Self { step, slots: vec![Slot::default(); len].into() }
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    /// Adds to the interval of `now`.
    pub(super) fn add(&mut self, now: u64, sums: &Sums) {
        let start = now - now % self.step;
        let place = self.place(start);
        let slot = &mut self.slots[place];
        if slot.start != start {
            *slot = Slot { start, ..Slot::default() };
        }
        slot.sums = slot.sums.plus(sums);
        slot.unwritten = true;
    }

    /// The intervals that begin within `times`, in no order.
    pub(super) fn within(&self, times: RangeInclusive<u64>) -> impl Iterator<Item = (u64, &Sums)> {
        self.slots
            .iter()
            .filter(move |slot| slot.start > 0 && times.contains(&slot.start))
            .map(|slot| (slot.start, &slot.sums))
    }

    /// All intervals up to that of `now`, with the start of the first.
    pub(super) fn last(&self, now: u64) -> (u64, Vec<Option<Sums>>) {
        let end = now - now % self.step;
        let first = end.saturating_sub(self.step * (self.slots.len() as u64 - 1));
        let starts = (0..self.slots.len() as u64).map(|i| first + i * self.step);
        let sums = starts.map(|start| Some(self.slots[self.place(start)]).filter(|s| s.start == start).map(|s| s.sums));
        (first, sums.collect())
    }

    /// What was kept of an interval. One that has another place, as after a change of the dimensions, is left out.
    pub(super) fn restore(&mut self, place: usize, start: u64, sums: Sums) {
        if start > 0 && start.is_multiple_of(self.step) && place < self.slots.len() && self.place(start) == place {
            self.slots[place] = Slot { start, sums, unwritten: false };
        }
    }

    /// The intervals that have changed since this was last asked, with their places.
    pub(super) fn take_unwritten(&mut self) -> impl Iterator<Item = (usize, Slot)> {
        self.slots
            .iter_mut()
            .enumerate()
            .filter_map(|(place, slot)| std::mem::take(&mut slot.unwritten).then_some((place, *slot)))
    }

    fn place(&self, start: u64) -> usize {
        // The remainder is below a `usize`.
        (start / self.step % self.slots.len() as u64) as usize
    }
}

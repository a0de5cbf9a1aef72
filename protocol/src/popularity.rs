//! What is asked for how often: counters that halve every minute, for objects, or every month, for package names.
//!
//! Fixed point and without logarithms, so that every machine comes to the same numbers.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::time::Duration;

use crate::time::Instant;

/// The time in which a counter without requests halves.
pub(crate) const HALF_LIFE: Duration = Duration::from_secs(60);

/// The same for package names: a new version comes weeks after the last one was asked for.
pub(crate) const NAME_HALF_LIFE: Duration = Duration::from_secs(30 * 24 * 3600);

/// One request, in the units of all amounts.
pub const REQUEST: u32 = 256;

/// A count of requests in which those of one half-life ago weigh half.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Counter {
    amount: u32,
    at: Instant,
}

impl Counter {
    pub(crate) const fn new(now: Instant) -> Self {
        Self { amount: 0, at: now }
    }

    pub(crate) fn add(&mut self, now: Instant, amount: u32) {
        self.add_over(HALF_LIFE, now, amount);
    }

    /// What is left of it, exact at whole half-lives and linear in between.
    pub(crate) fn amount(&self, now: Instant) -> u32 {
        self.amount_over(HALF_LIFE, now)
    }

    fn add_over(&mut self, half_life: Duration, now: Instant, amount: u32) {
        self.amount = self.amount_over(half_life, now).saturating_add(amount);
        self.at = now;
    }

    fn amount_over(&self, half_life: Duration, now: Instant) -> u32 {
        let elapsed = now.since(self.at).as_millis();
        let half_life = half_life.as_millis();
        let halvings = u32::try_from(elapsed / half_life).unwrap_or(u32::MAX);
        let whole = u128::from(self.amount.checked_shr(halvings).unwrap_or(0));
        let rest = elapsed % half_life;
        (whole - whole * rest / (2 * half_life)) as u32
    }
}

/// Counters of many things, bounded: when there are too many, the least asked for are forgotten.
#[derive(Clone, Debug)]
pub(crate) struct Popularity<K> {
    counters: BTreeMap<K, Counter>,
    capacity: usize,
    half_life: Duration,
}

impl<K: Ord + Clone> Popularity<K> {
    pub(crate) const fn new(capacity: usize, half_life: Duration) -> Self {
        Self { counters: BTreeMap::new(), capacity, half_life }
    }

    pub(crate) fn add(&mut self, now: Instant, key: K, amount: u32) {
        if self.counters.len() >= self.capacity && !self.counters.contains_key(&key) {
            self.forget_least(now);
        }
        self.counters.entry(key).or_insert_with(|| Counter::new(now)).add_over(self.half_life, now, amount);
    }

    pub(crate) fn amount(&self, now: Instant, key: &K) -> u32 {
        self.counters.get(key).map_or(0, |counter| counter.amount_over(self.half_life, now))
    }

    /// The `count` most asked for, most first; equal ones in their own order.
    pub(crate) fn tops(&self, now: Instant, count: usize) -> Vec<(K, u32)> {
        let mut all: Vec<_> = self
            .counters
            .iter()
            .map(|(key, counter)| (key.clone(), counter.amount_over(self.half_life, now)))
            .collect();
        all.retain(|(_, amount)| *amount >= REQUEST / 2);
        all.sort_by(|(a, more), (b, less)| less.cmp(more).then_with(|| a.cmp(b)));
        all.truncate(count);
        all
    }

    /// A quarter goes at once, so that the sorting is paid for by many additions.
    fn forget_least(&mut self, now: Instant) {
        let half_life = self.half_life;
        let mut amounts: Vec<u32> = self.counters.values().map(|it| it.amount_over(half_life, now)).collect();
        let quarter = amounts.len() / 4;
        let (_, bar, _) = amounts.select_nth_unstable(quarter);
        let bar = *bar;
        let mut excess = quarter + 1;
        self.counters.retain(|_, counter| {
            let goes = excess > 0 && counter.amount_over(half_life, now) <= bar;
            excess -= usize::from(goes);
            !goes
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(count: u64) -> Instant {
        Instant::from_micros(count * 1_000_000)
    }

    #[test]
    fn counters_halve_every_minute() {
        let mut counter = Counter::new(seconds(0));
        counter.add(seconds(0), 1024);
        assert_eq!(counter.amount(seconds(30)), 768);
        assert_eq!(counter.amount(seconds(60)), 512);
        assert_eq!(counter.amount(seconds(120)), 256);
        assert_eq!(counter.amount(seconds(1_000_000_000)), 0);
        // A clock that went back does no harm.
        counter.add(seconds(60), 1);
        assert_eq!(counter.amount(seconds(0)), 513);
    }

    #[test]
    fn the_least_asked_for_are_forgotten_first() {
        let mut popularity = Popularity::new(100, HALF_LIFE);
        for key in 0..100u32 {
            popularity.add(seconds(1), key, REQUEST * (key + 1));
        }
        popularity.add(seconds(1), 1000, REQUEST);
        assert!(popularity.counters.len() <= 100);
        assert_eq!(popularity.amount(seconds(1), &0), 0);
        assert_eq!(popularity.amount(seconds(1), &99), REQUEST * 100);
        assert_eq!(popularity.tops(seconds(1), 2), [(99, REQUEST * 100), (98, REQUEST * 99)]);
    }

    #[test]
    fn names_are_remembered_for_months() {
        let mut popularity = Popularity::new(100, NAME_HALF_LIFE);
        popularity.add(seconds(0), "vlc", 4 * REQUEST);
        assert_eq!(popularity.amount(seconds(30 * 24 * 3600), &"vlc"), 2 * REQUEST);
        assert_eq!(popularity.amount(seconds(365 * 24 * 3600), &"vlc"), 0);
    }

    #[test]
    fn equal_counters_are_not_all_forgotten() {
        let mut popularity = Popularity::new(100, HALF_LIFE);
        for key in 0..1000u32 {
            popularity.add(seconds(1), key, REQUEST);
            assert!(popularity.counters.len() <= 100);
        }
        assert!(popularity.counters.len() >= 70);
    }
}

//! Reads everything about once a month, so that what rots is found while upstream still has it.
//!
//! Keys are hashes, so they lie evenly: how far the walk through them has come is how far the round has come, and each is
//! due when that part of the month has passed. The work is spread evenly without any count of it, and the two numbers of
//! a [`Round`] are all that a restart has to know.

use std::sync::Weak;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::files::{sealed, unsealed};
use super::{Blob, Entry, Inner, Store};
use crate::classify::KeyHash;
use crate::fault::Fault;
use crate::os::clock::Timestamp;
use crate::os::tasks;

/// In this time everything is read once.
const ROUND: Duration = Duration::from_secs(30 * 24 * 3600);

/// Most bytes a second, when the machine was off and much is due.
const RATE_MAX: u64 = 4 * 1024 * 1024;

/// How far it has come is recorded this often.
const SAVE_EVERY: Duration = Duration::from_secs(10 * 60);

/// After a start others have the disk for themselves.
const START_WAIT: Duration = Duration::from_secs(60);

/// Longest sleep: objects come that are due earlier.
const WAIT_MAX: Duration = Duration::from_secs(3600);

/// How far a round has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Round {
    started: Timestamp,
    /// The first key, as a number, that has not been read; `None` when all have.
    next: Option<u128>,
}

impl Round {
    fn new(now: Timestamp) -> Self {
        Self { started: now, next: Some(0) }
    }

    /// When the key with this number has its turn.
    fn due(&self, key: u128) -> Timestamp {
        // As many 65536ths of the month as of all keys.
        let part = u32::try_from(key >> 112).unwrap_or(u32::MAX);
        self.started + ROUND / 65_536 * part
    }

    /// The round that goes on at `now`: this one, until its month is over.
    fn at(self, now: Timestamp) -> Self {
        let over = self.next.is_none() && now.since(self.started) >= ROUND;
        // It cannot have begun in the future: the clock was wrong then or is now.
        if over || self.started > now { Self::new(now) } else { self }
    }
}

/// The thread: until the store is closed or gone.
pub(super) fn run(store: &Weak<Inner>, stop: &Receiver<()>) {
    tasks::lowest_priority();
    let mut wait = START_WAIT;
    let mut round = None;
    let mut saved_at = Timestamp::default();
    loop {
        let stopped = !matches!(stop.recv_timeout(wait.min(WAIT_MAX)), Err(RecvTimeoutError::Timeout));
        let Some(store) = store.upgrade().map(Store) else { return };
        let now = store.0.clock.now();
        let current = round.get_or_insert_with(|| store.load_round());
        if !stopped {
            wait = store.scrub(current, |nap| !matches!(stop.recv_timeout(nap), Err(RecvTimeoutError::Timeout)));
        }
        if stopped || now.since(saved_at) >= SAVE_EVERY {
            saved_at = now;
            store.save_round(current);
        }
        if stopped {
            return;
        }
    }
}

impl Store {
    fn load_round(&self) -> Round {
        let saved = std::fs::read(self.0.files.path("scrub")).ok();
        let round = saved.and_then(|bytes| postcard::from_bytes(unsealed(&bytes)?).ok());
        round.unwrap_or_else(|| Round::new(self.0.clock.now()))
    }

    fn save_round(&self, round: &Round) {
        // What is not recorded is read again.
        if let Ok(bytes) = postcard::to_allocvec(round) {
            let _ = self.0.files.write_whole(&self.0.files.path("scrub"), &sealed(&bytes));
        }
    }

    /// Reads the next object if it is due; says how long to wait then. `nap` sleeps, and says whether to stop.
    fn scrub(&self, round: &mut Round, mut nap: impl FnMut(Duration) -> bool) -> Duration {
        let now = self.0.clock.now();
        *round = round.at(now);
        let Some(from) = round.next else { return (round.started + ROUND).since(now) };
        let mut found = None;
        let walked = self.0.index.walk(KeyHash(from.to_be_bytes()), |entry| {
            found = Some(entry);
            false
        });
        let key = |entry: &Entry| u128::from_be_bytes(entry.key.0);
        let Some(entry) = found.filter(|entry| key(entry) >= from) else {
            // Past the last one, which is no reason to end when the index cannot be read just now.
            round.next = round.next.filter(|_| walked.is_err());
            return WAIT_MAX;
        };
        let wait = round.due(key(&entry)).since(now);
        if !wait.is_zero() {
            return wait;
        }
        let read = Blob::open(&self.0.files, &entry, &self.0.clock).and_then(|blob| {
            let mut at = 0;
            while at < blob.len() {
                let len = blob.check(at..blob.len())?.len() as u64;
                at += len.max(1);
                if nap(Duration::from_millis(len * 1000 / RATE_MAX)) {
                    return Ok(false);
                }
            }
            Ok(true)
        });
        match read {
            // Told to stop: it has its turn again.
            Ok(false) => return Duration::ZERO,
            Ok(true) => {}
            Err(fault) => self.drop_if_still_damaged(&entry, &fault),
        }
        round.next = key(&entry).checked_add(1);
        Duration::ZERO
    }

    /// What has been replaced or evicted while it was read was not damaged.
    fn drop_if_still_damaged(&self, entry: &Entry, fault: &Fault) {
        if matches!(self.0.index.look_up(&entry.key), Ok(Some(known)) if known.object == entry.object) {
            self.drop_damaged(entry, fault);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::tests::{flip, put, store_in};

    #[test]
    fn keys_are_due_evenly_over_the_month() {
        let round = Round::new(Timestamp(1000));
        assert_eq!(round.due(0), Timestamp(1000));
        let middle = round.due(u128::MAX / 2 + 1).since(round.started);
        assert!(middle.abs_diff(ROUND / 2) < Duration::from_secs(60), "{middle:?}");
        let last = round.due(u128::MAX).since(round.started);
        assert!(last < ROUND && ROUND - last < Duration::from_secs(60), "{last:?}");
    }

    #[test]
    fn a_round_ends_with_its_month_and_a_wrong_clock_begins_anew() {
        let (start, late) = (Timestamp(5), Timestamp(5) + ROUND);
        let round = Round { started: start, next: Some(7) };
        assert_eq!(round.at(late), round, "it is late, and goes on where it is");
        let done = Round { next: None, ..round };
        assert_eq!(done.at(Timestamp(late.0 - 1)), done);
        assert_eq!(done.at(late), Round::new(late));
        assert_eq!(Round::new(late).at(start), Round::new(start));
    }

    #[tokio::test]
    async fn all_are_read_in_a_month_across_restarts_and_the_damaged_go() {
        let dir = tempfile::tempdir().unwrap();
        let (mut store, clock) = store_in(&dir);
        for i in 0..20u8 {
            put(&store, &format!("http://example.org/p{i}"), &vec![i; 100_000]).await;
        }
        store.settle();
        flip(&store, "http://example.org/p3", 70_000);
        let start = clock.now();
        store.save_round(&Round::new(start));
        let (mut napped, mut hours_with_work) = (Duration::ZERO, 0);
        for hour in 0..=30 * 24 {
            if hour % 100 == 0 {
                // As a stop and a start would do.
                store.close();
                drop(store);
                store = Store::open(crate::store::tests::options(&dir, &clock)).unwrap();
            }
            let mut round = store.load_round();
            let before = round.next;
            while store.scrub(&mut round, |nap| {
                napped += nap;
                false
            }) == Duration::ZERO
            {}
            hours_with_work += u32::from(round.next != before);
            store.save_round(&round);
            clock.advance(Duration::from_secs(3600));
        }
        assert_eq!(store.load_round(), Round::new(start + ROUND), "the next round has begun");
        assert!(hours_with_work > 15, "the work was spread: {hours_with_work}");
        // 19 whole ones, and of the damaged one nothing counts.
        assert_eq!(napped, Duration::from_millis(100_000 * 1000 / RATE_MAX) * 19);
        store.settle();
        assert_eq!(store.usage().objects, 19);
    }

    #[tokio::test]
    async fn a_stop_in_the_middle_of_an_object_comes_back_to_it() {
        let dir = tempfile::tempdir().unwrap();
        let (store, clock) = store_in(&dir);
        put(&store, "http://example.org/p", &vec![1; 100_000]).await;
        store.settle();
        let mut round = Round::new(clock.now());
        clock.advance(ROUND);
        let before = round;
        assert_eq!(store.scrub(&mut round, |_| true), Duration::ZERO);
        assert_eq!(round, before);
        assert_eq!(store.scrub(&mut round, |_| false), Duration::ZERO);
        assert_ne!(round.next, before.next);
    }
}

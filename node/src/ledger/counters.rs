//! Counters that many threads may advance at once: each thread has its own cache lines, a reader adds them up.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::outcome::{Outcome, Subject};

/// Threads beyond this many share.
const SHARDS: usize = 8;

/// What is counted beside requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Amount {
    BytesFromMemory,
    BytesFromDisk,
    BytesFromPeers,
    BytesFromUpstream,
    BytesToPeers,
    Revalidations,
    ClientAborts,
    Evictions,
    BytesEvicted,
    BytesTunnelled,
}

const AMOUNTS: usize = 10;
const OUTCOMES: usize = Outcome::ALL.len();
const SUBJECTS: usize = Subject::ALL.len();

/// One thread's part. Aligned so that no two share a cache line (or a pair of them, which processors fetch together).
#[derive(Debug, Default)]
#[repr(align(128))]
struct Shard {
    amounts: [AtomicU64; AMOUNTS],
    bytes_to_clients: [AtomicU64; SUBJECTS],
    requests: [[AtomicU64; SUBJECTS]; OUTCOMES],
}

#[derive(Debug, Default)]
pub(super) struct Counters([Shard; SHARDS]);

impl Counters {
    pub(super) fn count_request(&self, outcome: Outcome, subject: Subject) {
        self.shard().requests[outcome as usize][subject as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn add(&self, amount: Amount, by: u64) {
        self.shard().amounts[amount as usize].fetch_add(by, Ordering::Relaxed);
    }

    pub(super) fn add_bytes_to_clients(&self, subject: Subject, by: u64) {
        self.shard().bytes_to_clients[subject as usize].fetch_add(by, Ordering::Relaxed);
    }

    pub(super) fn requests(&self, outcome: Outcome, subject: Subject) -> u64 {
        self.sum(|shard| &shard.requests[outcome as usize][subject as usize])
    }

    pub(super) fn amount(&self, amount: Amount) -> u64 {
        self.sum(|shard| &shard.amounts[amount as usize])
    }

    pub(super) fn bytes_to_clients(&self, subject: Subject) -> u64 {
        self.sum(|shard| &shard.bytes_to_clients[subject as usize])
    }

    fn sum(&self, pick: impl Fn(&Shard) -> &AtomicU64) -> u64 {
        self.0.iter().map(|s| pick(s).load(Ordering::Relaxed)).sum()
    }

    fn shard(&self) -> &Shard {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        thread_local! {
            static MINE: Cell<usize> = Cell::new(NEXT.fetch_add(1, Ordering::Relaxed) % SHARDS);
        }
        &self.0[MINE.get()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_lost_between_threads() {
        let counters = Counters::default();
        std::thread::scope(|scope| {
            for _ in 0..20 {
                scope.spawn(|| {
                    for _ in 0..1000 {
                        counters.count_request(Outcome::Hit, Subject::Package);
                        counters.add(Amount::BytesTunnelled, 3);
                        counters.add_bytes_to_clients(Subject::Own, 2);
                    }
                });
            }
        });
        assert_eq!(counters.requests(Outcome::Hit, Subject::Package), 20_000);
        assert_eq!(counters.requests(Outcome::Hit, Subject::Other), 0);
        assert_eq!(counters.amount(Amount::BytesTunnelled), 60_000);
        assert_eq!(counters.bytes_to_clients(Subject::Own), 40_000);
    }
}

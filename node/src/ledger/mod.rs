//! What happened: counters, the access log and the words for both. Written by every stage, read by people and
//! monitoring; it influences no decision.

pub mod access_log;
mod counters;
mod format;
pub mod history;
pub mod metrics;
pub mod outcome;
pub mod status;
mod trouble;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

pub use access_log::AccessLog;
pub use outcome::{Hierarchy, Outcome, Subject};
pub use status::{Status, Traffic};

use crate::fault::Fault;
use crate::os::clock::Timestamp;
use counters::{Amount, Counters};
use status::Failure;
use trouble::Troubles;

/// A request that is over: what the access log says of it.
#[derive(Debug, Clone)]
pub struct Record<'a> {
    pub finished: Timestamp,
    /// From the first byte of the request to the last of the answer.
    pub elapsed: Duration,
    pub client: IpAddr,
    pub method: &'a str,
    /// As the client asked for it.
    pub url: &'a str,
    pub status: u16,
    /// Of the answer's body that went to the client.
    pub bytes: u64,
    pub outcome: Outcome,
    pub subject: Subject,
    /// Who was asked, in the words of [`Hierarchy`]; `None` is nobody.
    pub from: Option<&'a str>,
    /// The answer's `Content-Type`.
    pub content_type: Option<&'a str>,
    pub user_agent: Option<&'a str>,
    pub referer: Option<&'a str>,
    /// The client went before the answer was complete.
    pub aborted: bool,
    /// The label of the fault that ended or replaced the answer.
    pub fault: Option<&'static str>,
}

/// Where the bytes of an answer lay when they were sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    Memory,
    Disk,
    /// In a flight, a passed-on answer or a text of the node itself: counted where they were received.
    Elsewhere,
}

/// The counters and the access log. Nothing in it blocks or waits.
#[derive(Debug, Default)]
pub struct Ledger {
    counters: Counters,
    faults: Mutex<BTreeMap<&'static str, u64>>,
    icp_answers: Mutex<BTreeMap<&'static str, u64>>,
    icp_refused: Mutex<BTreeMap<&'static str, u64>>,
    troubles: Troubles,
    access_log: Option<AccessLog>,
}

impl Ledger {
    /// A ledger that writes lines to this access log, if any.
    pub fn new(access_log: Option<AccessLog>) -> Arc<Self> {
        Arc::new(Self { access_log, ..Self::default() })
    }

    /// Counts a request that is over. Its bytes are counted by [`Ledger::sent`] as they go.
    pub fn ended(&self, outcome: Outcome, subject: Subject, is_aborted: bool, fault: Option<&'static str>) {
        self.counters.count_request(outcome, subject);
        if is_aborted {
            self.counters.add(Amount::ClientAborts, 1);
        }
        if let Some(label) = fault {
            *self.faults().entry(label).or_default() += 1;
        }
    }

    /// Bytes of an answer's body were given to a client's connection.
    pub fn sent(&self, subject: Subject, origin: Origin, bytes: u64) {
        self.counters.add_bytes_to_clients(subject, bytes);
        match origin {
            Origin::Memory => self.counters.add(Amount::BytesFromMemory, bytes),
            Origin::Disk => self.counters.add(Amount::BytesFromDisk, bytes),
            Origin::Elsewhere => {}
        }
    }

    /// Bytes of a body crossed the uplink, whoever they are for.
    pub fn received_from_upstream(&self, bytes: u64) {
        self.counters.add(Amount::BytesFromUpstream, bytes);
    }

    pub fn received_from_peers(&self, bytes: u64) {
        self.counters.add(Amount::BytesFromPeers, bytes);
    }

    pub fn sent_to_peers(&self, bytes: u64) {
        self.counters.add(Amount::BytesToPeers, bytes);
    }

    /// Bytes went through a tunnel, either way.
    pub fn tunnelled(&self, bytes: u64) {
        self.counters.add(Amount::BytesTunnelled, bytes);
    }

    /// Upstream was asked whether a stored object is current.
    pub fn revalidated(&self) {
        self.counters.add(Amount::Revalidations, 1);
    }

    /// An object was dropped for want of room.
    pub fn evicted(&self, bytes: u64) {
        self.counters.add(Amount::Evictions, 1);
        self.counters.add(Amount::BytesEvicted, bytes);
    }

    /// A fault that ended no answer (a refused request, a background refresh, a peer); those that did come with their
    /// record. `what` was asked for.
    pub fn failed(&self, now: Timestamp, what: &str, fault: &Fault) {
        *self.faults().entry(fault.label()).or_default() += 1;
        self.note(now, what, fault);
    }

    /// A question of ICP was answered so.
    pub fn icp_answered(&self, word: &'static str) {
        *locked(&self.icp_answers).entry(word).or_default() += 1;
    }

    /// A datagram was no question of ICP.
    pub fn icp_refused(&self, word: &'static str) {
        *locked(&self.icp_refused).entry(word).or_default() += 1;
    }

    /// For people: a fault of which the count comes with its record.
    pub fn note(&self, now: Timestamp, what: &str, fault: &Fault) {
        self.troubles.note(now, what, fault);
    }

    /// What failed of late, the latest first.
    pub fn failures(&self) -> Vec<Failure> {
        self.troubles.latest()
    }

    /// The sums for `status`.
    pub fn traffic(&self) -> Traffic {
        let requests = |wanted: &dyn Fn(Outcome) -> bool| -> u64 {
            let outcomes = Outcome::ALL.into_iter().filter(|o| wanted(*o));
            outcomes.flat_map(|o| Subject::ALL.map(|s| self.counters.requests(o, s))).sum()
        };
        let is = |outcome: Outcome| requests(&|o| o == outcome);
        Traffic {
            requests: requests(&|o| o != Outcome::Own),
            hits: requests(&Outcome::is_hit),
            peer_hits: is(Outcome::PeerHit),
            misses: is(Outcome::Miss) + is(Outcome::RefreshModified),
            stale: is(Outcome::Stale),
            errors: is(Outcome::Error),
            bytes_to_clients: (Subject::ALL.into_iter())
                .filter(|s| *s != Subject::Own)
                .map(|s| self.counters.bytes_to_clients(s))
                .sum(),
            bytes_from_memory: self.counters.amount(Amount::BytesFromMemory),
            bytes_from_disk: self.counters.amount(Amount::BytesFromDisk),
            bytes_from_peers: self.counters.amount(Amount::BytesFromPeers),
            bytes_from_upstream: self.counters.amount(Amount::BytesFromUpstream),
            bytes_to_peers: self.counters.amount(Amount::BytesToPeers),
        }
    }

    /// The access log, to reopen or close it.
    pub fn access_log(&self) -> Option<&AccessLog> {
        self.access_log.as_ref()
    }

    fn faults(&self) -> MutexGuard<'_, BTreeMap<&'static str, u64>> {
        locked(&self.faults)
    }
}

fn locked<T>(counts: &Mutex<T>) -> MutexGuard<'_, T> {
    counts.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn traffic_adds_up() {
        let ledger = Ledger::new(None);
        for outcome in Outcome::ALL {
            ledger.ended(outcome, Subject::Package, false, None);
        }
        ledger.ended(Outcome::Hit, Subject::MutableMetadata, false, None);
        ledger.sent(Subject::Package, Origin::Memory, 1);
        ledger.sent(Subject::Other, Origin::Disk, 20);
        ledger.sent(Subject::Package, Origin::Elsewhere, 300);
        ledger.sent(Subject::Own, Origin::Elsewhere, 1_000_000);
        ledger.received_from_upstream(4000);
        ledger.received_from_peers(50_000);
        ledger.sent_to_peers(600_000);
        assert_eq!(
            ledger.traffic(),
            Traffic {
                requests: 13,
                hits: 5,
                peer_hits: 1,
                misses: 2,
                stale: 1,
                errors: 1,
                bytes_to_clients: 321,
                bytes_from_memory: 1,
                bytes_from_disk: 20,
                bytes_from_peers: 50_000,
                bytes_from_upstream: 4000,
                bytes_to_peers: 600_000,
            }
        );
    }

    #[test]
    fn faults_are_counted_by_label() {
        let ledger = Ledger::new(None);
        let failed = || ledger.ended(Outcome::Error, Subject::Other, false, Some("refused"));
        failed();
        ledger.failed(Timestamp(0), "/x", &Fault::bad_request("x"));
        failed();
        let faults: Vec<_> = ledger.faults().clone().into_iter().collect();
        assert_eq!(faults, [("bad-request", 1), ("refused", 2)]);
    }
}

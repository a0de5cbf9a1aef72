//! How good a source each peer has been lately, and so in which order to ask.
//!
//! A failed dial or a stall counts at once: membership alone is slow to declare a peer dead.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::time::Duration;

use crate::identity::{Key, NodeId, affinity};
use crate::popularity::{Counter, REQUEST};
use crate::time::Instant;

/// What came of asking a peer for an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It sent what was asked for; with the time to the first byte.
    Served(Duration),
    /// It did not have it.
    NotHere,
    /// It has it but is too busy.
    Busy,
    /// It stopped sending.
    Stalled,
    /// The connection broke or could not be made.
    Broken,
    /// It sent wrong bytes.
    Wrong,
}

/// Where to get an object from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Whom to ask, best first. Empty: claim it.
    pub sources: Vec<Source>,
    /// Whether to keep what a peer sends: not worth it for what others have and few ask for here.
    pub keep: bool,
}

/// A peer that probably has an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Source {
    /// Who.
    pub peer: NodeId,
    /// When it has sent nothing for this long, ask the next one as well.
    pub hedge_after: Duration,
}

/// Misconduct weighs in requests' units and halves every minute; over this a peer is asked last.
const DOUBTFUL: u32 = 4 * REQUEST;
/// After wrong bytes a peer is not asked at all for this long.
const BANISHMENT: Duration = Duration::from_secs(600);
/// Sources in a plan.
const SOURCES_MAX: usize = 8;

/// The conduct of all peers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Health {
    peers: BTreeMap<NodeId, Conduct>,
}

#[derive(Clone, Debug)]
struct Conduct {
    blame: Counter,
    /// Requests to it that this node has open.
    open: u32,
    busy_until: Instant,
    banished_until: Instant,
    /// Time to the first byte, smoothed.
    first_byte: Option<Duration>,
}

impl Health {
    fn of(&mut self, now: Instant, peer: NodeId) -> &mut Conduct {
        let default =
            || Conduct { blame: Counter::new(now), open: 0, busy_until: now, banished_until: now, first_byte: None };
        self.peers.entry(peer).or_insert_with(default)
    }

    pub(crate) fn asked(&mut self, now: Instant, peer: NodeId) {
        self.of(now, peer).open += 1;
    }

    pub(crate) fn answered(&mut self, now: Instant, peer: NodeId, outcome: Outcome) {
        let conduct = self.of(now, peer);
        conduct.open = conduct.open.saturating_sub(1);
        match outcome {
            Outcome::Served(first) => {
                conduct.first_byte = Some(conduct.first_byte.map_or(first, |smooth| (smooth * 7 + first) / 8));
            }
            // Fingerprints err now and then.
            Outcome::NotHere => conduct.blame.add(now, REQUEST / 4),
            Outcome::Busy => conduct.busy_until = now + Duration::from_secs(1),
            Outcome::Stalled | Outcome::Broken => conduct.blame.add(now, 8 * REQUEST),
            Outcome::Wrong => conduct.banished_until = now + BANISHMENT,
        }
    }

    /// A dial failed, or the connection broke.
    pub(crate) fn unreachable(&mut self, now: Instant, peer: NodeId) {
        let conduct = self.of(now, peer);
        conduct.open = 0;
        conduct.blame.add(now, 8 * REQUEST);
    }

    /// It answered again: what was held against its reachability is forgiven.
    pub(crate) fn reachable(&mut self, now: Instant, peer: NodeId) {
        self.of(now, peer).blame = Counter::new(now);
    }

    pub(crate) fn forget(&mut self, now: Instant, peer: NodeId) {
        self.peers.retain(|id, conduct| *id != peer || conduct.banished_until > now);
    }

    pub(crate) fn is_banished(&self, now: Instant, peer: NodeId) -> bool {
        self.peers.get(&peer).is_some_and(|conduct| conduct.banished_until > now)
    }

    /// Smaller is better: doubtful last, then by load; equals are told apart by the key, so that different keys ask different peers.
    pub(crate) fn rank(&self, now: Instant, peer: NodeId, load: u8, key: Key) -> (bool, u32, u64) {
        let conduct = self.peers.get(&peer);
        let doubtful = conduct.is_some_and(|conduct| conduct.blame.amount(now) > DOUBTFUL);
        let busy = conduct.is_some_and(|conduct| conduct.busy_until > now);
        let open = conduct.map_or(0, |conduct| conduct.open);
        // In steps, lest a difference of one in load send everybody to the same peer.
        let cost = u32::from(load) / 32 + open + if busy { 8 } else { 0 };
        (doubtful, cost, affinity(peer, key))
    }

    /// The sources among `holders`, which come with their loads.
    pub(crate) fn sources(&self, now: Instant, key: Key, holders: impl Iterator<Item = (NodeId, u8)>) -> Vec<Source> {
        let mut ranked: Vec<_> = holders
            .filter(|(peer, _)| !self.is_banished(now, *peer))
            .map(|(peer, load)| (self.rank(now, peer, load, key), peer))
            .collect();
        ranked.sort_unstable();
        ranked.truncate(SOURCES_MAX);
        ranked
            .into_iter()
            .map(|((doubtful, ..), peer)| Source { peer, hedge_after: self.hedge_after(peer, doubtful) })
            .collect()
    }

    fn hedge_after(&self, peer: NodeId, doubtful: bool) -> Duration {
        if doubtful {
            return Duration::from_millis(50);
        }
        let usual = self.peers.get(&peer).and_then(|conduct| conduct.first_byte).unwrap_or(Duration::from_millis(25));
        (usual * 4).clamp(Duration::from_millis(100), Duration::from_millis(250))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Instant = Instant::from_micros(1_000_000);
    const KEY: Key = Key([1; 16]);

    fn order(health: &Health, now: Instant, loads: &[(u8, u8)]) -> Vec<u8> {
        let holders = loads.iter().map(|(node, load)| (NodeId([*node; 16]), *load));
        health.sources(now, KEY, holders).iter().map(|source| source.peer.0[0]).collect()
    }

    #[test]
    fn the_idle_are_asked_before_the_busy_and_the_doubtful_last() {
        let mut health = Health::default();
        assert_eq!(order(&health, NOW, &[(1, 200), (2, 0), (3, 100)]), [2, 3, 1]);
        health.unreachable(NOW, NodeId([2; 16]));
        assert_eq!(order(&health, NOW, &[(1, 200), (2, 0), (3, 100)]), [3, 1, 2]);
        health.reachable(NOW, NodeId([2; 16]));
        assert_eq!(order(&health, NOW, &[(1, 200), (2, 0), (3, 100)]), [2, 3, 1]);
    }

    #[test]
    fn one_that_sent_wrong_bytes_is_not_asked_for_a_while() {
        let mut health = Health::default();
        health.answered(NOW, NodeId([1; 16]), Outcome::Wrong);
        health.forget(NOW, NodeId([1; 16]));
        assert_eq!(order(&health, NOW, &[(1, 0), (2, 255)]), [2]);
        assert_eq!(order(&health, NOW + BANISHMENT, &[(1, 0), (2, 255)]), [1, 2]);
    }

    #[test]
    fn own_requests_weigh() {
        let mut health = Health::default();
        (0..3).for_each(|_| health.asked(NOW, NodeId([1; 16])));
        assert_eq!(order(&health, NOW, &[(1, 0), (2, 40)]), [2, 1]);
        (0..3).for_each(|_| health.answered(NOW, NodeId([1; 16]), Outcome::Served(Duration::from_millis(1))));
        assert_eq!(order(&health, NOW, &[(1, 0), (2, 40)]), [1, 2]);
    }
}

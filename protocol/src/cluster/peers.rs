//! With whom this node is connected, and who of them misbehaves.
//!
//! One connection with each peer. Of two that were made at the same time both sides keep the one that the lower id dialled; of two
//! made at different times the later, since the other side would not have made it had the earlier still been good.

use alloc::collections::BTreeMap;
use core::net::SocketAddr;
use core::time::Duration;

use super::ConnectionId;
use crate::identity::{Incarnation, NodeId};
use crate::output::Why;
use crate::popularity::{Counter, REQUEST};
use crate::time::Instant;

/// Connections at once.
const CONNECTED_MAX: usize = 4096;
/// Peers whose misconduct is remembered.
const OFFENDERS_MAX: usize = 4096;
/// Two connections made within this of each other were dialled by both sides at the same time.
const SAME_TIME: Duration = Duration::from_secs(3);
/// Who has not said hello by then is not of use.
const HELLO_PATIENCE: Duration = Duration::from_secs(5);
/// The fourth offence within some ten seconds, or the sixth within a minute, and a peer is put aside.
const OFFENCES_MAX: u32 = 7 * REQUEST / 2;
/// For so long.
const ASIDE: Duration = Duration::from_secs(60);
/// One that speaks another version is not dialled again for so long: it may have been upgraded then.
const OTHER_VERSION: Duration = Duration::from_secs(30);
/// What a peer may make this node do, in units of about a small message: so many at once, so many a second.
const BUDGET: u32 = 20_000;
const BUDGET_PER_SECOND: u64 = 5_000;
const COMPLAIN_EVERY: Duration = Duration::from_secs(1);

/// All connections, and the memory of misconduct that outlives them.
#[derive(Debug, Default)]
pub(super) struct Peers {
    peers: BTreeMap<NodeId, Peer>,
    offenders: BTreeMap<NodeId, Offender>,
}

/// One connection.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) connection: ConnectionId,
    pub(super) since: Instant,
    dialler: NodeId,
    pub(super) address: Option<SocketAddr>,
    /// The life in which the peer is, once it has said hello.
    pub(super) greeted: Option<Incarnation>,
    /// Whether it has told its head on this connection: what others say of it may be older.
    has_told: bool,
    budget: u32,
    budget_at: Instant,
    /// A flood is complained of once a second.
    complain_at: Instant,
}

#[derive(Debug)]
struct Offender {
    offences: Counter,
    total: u64,
    aside_until: Instant,
    /// Whether it may come by itself meanwhile.
    may_come: bool,
}

/// What to do about a new connection.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Use it. With the one to close, if there was one.
    Take(Option<ConnectionId>),
    /// Close it.
    Refuse(Why),
}

impl Peers {
    /// A connection is up.
    pub(super) fn connected(
        &mut self,
        now: Instant,
        dialler: NodeId,
        peer: NodeId,
        connection: ConnectionId,
        address: Option<SocketAddr>,
    ) -> Verdict {
        if self.offenders.get(&peer).is_some_and(|offender| now < offender.aside_until && !offender.may_come) {
            return Verdict::Refuse(Why::PutAside);
        }
        if self.peers.len() >= CONNECTED_MAX && !self.peers.contains_key(&peer) {
            return Verdict::Refuse(Why::TooMany);
        }
        let new = Peer {
            connection,
            since: now,
            dialler,
            address,
            greeted: None,
            has_told: false,
            budget: BUDGET,
            budget_at: now,
            complain_at: now,
        };
        let Some(old) = self.peers.get_mut(&peer) else {
            self.peers.insert(peer, new);
            return Verdict::Take(None);
        };
        let same_time = now.since(old.since) < SAME_TIME && old.dialler != dialler;
        if same_time && old.dialler < dialler {
            return Verdict::Refuse(Why::Spare);
        }
        let spare = old.connection;
        // A new connection is no new budget.
        *old = Peer { budget: old.budget, budget_at: old.budget_at, complain_at: old.complain_at, ..new };
        Verdict::Take(Some(spare))
    }

    /// A connection has ended. False when it was not the one in use.
    pub(super) fn disconnected(&mut self, peer: NodeId, connection: ConnectionId) -> bool {
        let used = self.peers.get(&peer).is_some_and(|known| known.connection == connection);
        if used {
            self.peers.remove(&peer);
        }
        used
    }

    pub(super) fn of(&self, peer: NodeId) -> Option<&Peer> {
        self.peers.get(&peer)
    }

    pub(super) fn remove(&mut self, peer: NodeId) -> Option<Peer> {
        self.peers.remove(&peer)
    }

    pub(super) fn is_connected(&self, peer: NodeId) -> bool {
        self.peers.contains_key(&peer)
    }

    /// Connected, and it has said hello.
    pub(super) fn is_greeted(&self, peer: NodeId) -> bool {
        self.peers.get(&peer).is_some_and(|peer| peer.greeted.is_some())
    }

    /// All who have said hello, in the order of their ids.
    pub(super) fn greeted(&self) -> impl Iterator<Item = NodeId> {
        self.peers.iter().filter(|(_, peer)| peer.greeted.is_some()).map(|(id, _)| *id)
    }

    /// The peer has said hello, in this life. True when it had not before.
    pub(super) fn greet(&mut self, peer: NodeId, incarnation: Incarnation) -> bool {
        self.peers.get_mut(&peer).is_some_and(|peer| peer.greeted.replace(incarnation).is_none())
    }

    /// The peer has told its own head.
    pub(super) fn told(&mut self, peer: NodeId) {
        if let Some(peer) = self.peers.get_mut(&peer) {
            peer.has_told = true;
        }
    }

    /// Whether the peer has told its own head on this connection.
    pub(super) fn has_told(&self, peer: NodeId) -> bool {
        self.peers.get(&peer).is_some_and(|peer| peer.has_told)
    }

    /// Takes `cost` off what a peer may make this node do. False when there is not so much left: its message is dropped then.
    /// With whether that is worth a complaint.
    pub(super) fn afford(&mut self, now: Instant, peer: NodeId, cost: u32) -> (bool, bool) {
        let Some(peer) = self.peers.get_mut(&peer) else {
            return (false, false);
        };
        let earned = now.since(peer.budget_at).as_millis() as u64 * BUDGET_PER_SECOND / 1000;
        if earned > 0 {
            peer.budget = u32::try_from(u64::from(peer.budget) + earned).unwrap_or(BUDGET).min(BUDGET);
            peer.budget_at = now;
        }
        if peer.budget >= cost {
            peer.budget -= cost;
            return (true, false);
        }
        let complain = now >= peer.complain_at;
        if complain {
            peer.complain_at = now + COMPLAIN_EVERY;
        }
        (false, complain)
    }

    /// Counts an offence. True when it was one too many: the peer is then put aside.
    pub(super) fn offended(&mut self, now: Instant, peer: NodeId) -> bool {
        let Some(offender) = self.offender(now, peer) else {
            return false;
        };
        offender.offences.add(now, REQUEST);
        offender.total += 1;
        let too_many = offender.offences.amount(now) >= OFFENCES_MAX;
        if too_many {
            offender.aside_until = now + ASIDE;
            offender.may_come = false;
            offender.offences = Counter::new(now);
        }
        too_many
    }

    /// The peer speaks another version. Until when it should not be dialled.
    pub(super) fn speaks_otherwise(&mut self, now: Instant, peer: NodeId) -> Instant {
        let until = now + OTHER_VERSION;
        if let Some(offender) = self.offender(now, peer) {
            offender.aside_until = offender.aside_until.max(until);
            offender.may_come = true;
        }
        until
    }

    /// Until when a peer is put aside, if it is.
    pub(super) fn aside_until(&self, now: Instant, peer: NodeId) -> Option<Instant> {
        self.offenders.get(&peer).map(|offender| offender.aside_until).filter(|until| now < *until)
    }

    /// Offences of a peer, since it was first met.
    pub(super) fn offences(&self, peer: NodeId) -> u64 {
        self.offenders.get(&peer).map_or(0, |offender| offender.total)
    }

    /// Those who should have said hello by now.
    pub(super) fn silent(&self, now: Instant) -> alloc::vec::Vec<NodeId> {
        let late = |peer: &Peer| peer.greeted.is_none() && now.since(peer.since) >= HELLO_PATIENCE;
        self.peers.iter().filter(|(_, peer)| late(peer)).map(|(id, _)| *id).collect()
    }

    /// Forgets old offences; once a second will do.
    pub(super) fn tidy(&mut self, now: Instant) {
        let peers = &self.peers;
        self.offenders.retain(|id, offender| {
            now < offender.aside_until || offender.offences.amount(now) > 0 || peers.contains_key(id)
        });
    }

    fn offender(&mut self, now: Instant, peer: NodeId) -> Option<&mut Offender> {
        if self.offenders.len() >= OFFENDERS_MAX && !self.offenders.contains_key(&peer) {
            return None;
        }
        let fresh = || Offender { offences: Counter::new(now), total: 0, aside_until: now, may_come: false };
        Some(self.offenders.entry(peer).or_insert_with(fresh))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOW: NodeId = NodeId([1; 16]);
    const HIGH: NodeId = NodeId([9; 16]);

    fn at(millis: u64) -> Instant {
        Instant::from_micros(millis * 1000)
    }

    fn connect(peers: &mut Peers, now: Instant, dialler: NodeId, number: u64) -> Verdict {
        peers.connected(now, dialler, HIGH, ConnectionId(number), None)
    }

    #[test]
    fn of_two_dials_at_once_both_sides_keep_the_same() {
        for (first, second, kept) in [(LOW, HIGH, 1), (HIGH, LOW, 2)] {
            let mut peers = Peers::default();
            assert_eq!(connect(&mut peers, at(0), first, 1), Verdict::Take(None));
            connect(&mut peers, at(100), second, 2);
            assert_eq!(peers.of(HIGH).map(|peer| peer.connection), Some(ConnectionId(kept)));
        }
    }

    #[test]
    fn a_later_connection_takes_the_place_of_an_earlier() {
        let mut peers = Peers::default();
        connect(&mut peers, at(0), LOW, 1);
        assert_eq!(connect(&mut peers, at(10_000), HIGH, 2), Verdict::Take(Some(ConnectionId(1))));
        assert!(!peers.disconnected(HIGH, ConnectionId(1)), "the end of the old one is no news");
        assert!(peers.disconnected(HIGH, ConnectionId(2)));
    }

    #[test]
    fn offenders_are_put_aside_and_may_come_back() {
        let mut peers = Peers::default();
        connect(&mut peers, at(0), LOW, 1);
        assert!((0..3).all(|_| !peers.offended(at(0), HIGH)));
        assert!(peers.offended(at(0), HIGH));
        assert_eq!(connect(&mut peers, at(1000), HIGH, 2), Verdict::Refuse(Why::PutAside));
        assert_eq!(connect(&mut peers, at(60_000), HIGH, 2), Verdict::Take(Some(ConnectionId(1))));
        assert_eq!(peers.offences(HIGH), 4);
        // Rare ones are forgiven.
        assert!((1..20).all(|minute| !peers.offended(at(60_000 + minute * 60_000), HIGH)));
    }

    #[test]
    fn a_flood_is_cut_and_complained_of_once_a_second() {
        let mut peers = Peers::default();
        connect(&mut peers, at(0), LOW, 1);
        let answers: alloc::vec::Vec<_> = (0..BUDGET * 2).map(|_| peers.afford(at(1), HIGH, 1)).collect();
        assert_eq!(answers.iter().filter(|(done, _)| *done).count(), BUDGET as usize);
        assert_eq!(answers.iter().filter(|(_, complain)| *complain).count(), 1);
        assert_eq!(peers.afford(at(1000), HIGH, 1000), (true, false));
    }
}

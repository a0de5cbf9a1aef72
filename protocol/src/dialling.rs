//! Which addresses to connect to, and when: those discovered until they turn out to be members, those of members until connected.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use core::net::SocketAddr;
use core::time::Duration;

use crate::identity::NodeId;
use crate::random::Random;
use crate::schedule::Schedule;
use crate::time::Instant;

/// Dials open at once: more at a time lose packets to each other.
const OPEN_MAX: usize = 16;
/// Addresses that nobody is known to live at: anyone on the LAN can announce more.
const UNKNOWN_MAX: usize = 256;
/// Addresses in all.
const ADDRESSES_MAX: usize = 8192;
const FIRST_RETRY: Duration = Duration::from_millis(500);
/// For some minutes: a site that falls apart should soon be one again.
const LATER_RETRY: Duration = Duration::from_secs(8);
const PERSISTENT: u32 = 60;
const LAST_RETRY: Duration = Duration::from_secs(60);
/// A dial that the driver has not answered by then is taken for failed.
const PATIENCE: Duration = Duration::from_secs(10);
/// Addresses at which this node has met itself.
const OWN_MAX: usize = 64;
/// An address not heard of for this long, and not connected to, is forgotten.
const STALE: Duration = Duration::from_secs(3600);
/// The higher id lets the lower one dial first, so that most pairs dial once.
const COURTESY: Duration = Duration::from_millis(400);

/// Who is connected when its turn comes is looked at again after this.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// The addresses known.
#[derive(Clone, Debug, Default)]
pub(crate) struct Dialling {
    candidates: BTreeMap<SocketAddr, Candidate>,
    /// Where each peer lives.
    homes: BTreeMap<NodeId, BTreeSet<SocketAddr>>,
    /// Those that nobody is known to live at, by when they were last heard of.
    unknown: Schedule<SocketAddr>,
    /// When each is to be dialled, or looked at again.
    due: Schedule<SocketAddr>,
    /// Dials that the driver has not answered yet, and until when it is waited for.
    open: BTreeMap<SocketAddr, Instant>,
    own: BTreeSet<SocketAddr>,
}

#[derive(Clone, Copy, Debug)]
struct Candidate {
    /// Who lives there, as far as is known.
    peer: Option<NodeId>,
    /// Whether a member or a certificate said so, and not just anybody.
    proven: bool,
    /// Configured: never forgotten.
    seed: bool,
    failures: u32,
    next: Instant,
    heard: Instant,
}

impl Dialling {
    /// An address from the configuration.
    pub(crate) fn seed(&mut self, now: Instant, address: SocketAddr) {
        self.put(address, Some(Candidate { seed: true, ..Candidate::new(now, None) }));
    }

    /// Somebody may be reached at `address`, perhaps `peer`.
    pub(crate) fn discovered(&mut self, now: Instant, own: NodeId, address: SocketAddr, peer: Option<NodeId>) {
        if self.own.contains(&address) {
            return;
        }
        let peer = peer.filter(|peer| *peer != own);
        if let Some(mut candidate) = self.candidates.get(&address).copied() {
            candidate.heard = now;
            if !candidate.proven && peer.is_some() {
                candidate.peer = peer;
            }
            // It has just been announced again, so it may be back.
            candidate.next = candidate.next.min(now + FIRST_RETRY);
            self.put(address, Some(candidate));
            return;
        }
        if self.unknown.len() >= UNKNOWN_MAX
            && let Some(stalest) = self.unknown.first()
        {
            self.put(stalest, None);
        }
        let next = now + peer.map_or(Duration::ZERO, |peer| courtesy(own, peer));
        self.put(address, Some(Candidate { next, ..Candidate::new(now, peer) }));
    }

    /// `peer` may be reached at `address`: a member says so.
    pub(crate) fn lives_at(&mut self, now: Instant, own: NodeId, peer: NodeId, address: SocketAddr) {
        if self.own.contains(&address) || peer == own || !self.has_room(address) {
            return;
        }
        let next = now + courtesy(own, peer);
        let known = self.candidates.get(&address).copied();
        let candidate = known.unwrap_or(Candidate { next, ..Candidate::new(now, None) });
        self.put(address, Some(Candidate { peer: Some(peer), proven: true, heard: now, ..candidate }));
    }

    /// `peer` answered at `address`.
    pub(crate) fn connected(&mut self, now: Instant, peer: NodeId, address: SocketAddr) {
        self.open.remove(&address);
        if self.has_room(address) {
            let seed = self.candidates.get(&address).is_some_and(|candidate| candidate.seed);
            self.put(address, Some(Candidate { proven: true, seed, ..Candidate::new(now, Some(peer)) }));
        }
    }

    fn has_room(&self, address: SocketAddr) -> bool {
        self.candidates.len() < ADDRESSES_MAX || self.candidates.contains_key(&address)
    }

    /// A connection broke: try again soon, wherever the peer was last known.
    pub(crate) fn disconnected(&mut self, now: Instant, peer: NodeId, random: &mut Random) {
        self.change_all(peer, |candidate| candidate.next = now + random.jitter(FIRST_RETRY / 4));
    }

    /// Nobody answered. Returns who should have.
    pub(crate) fn failed(&mut self, now: Instant, address: SocketAddr, random: &mut Random) -> Option<NodeId> {
        let candidate = *self.candidates.get(&address)?;
        self.open.remove(&address);
        let failures = candidate.failures.saturating_add(1);
        let pause = (FIRST_RETRY * (1 << failures.min(8)) / 2).min(LATER_RETRY);
        let pause = if failures > PERSISTENT { LAST_RETRY } else { pause };
        self.put(address, Some(Candidate { failures, next: now + random.jitter(pause), ..candidate }));
        candidate.peer
    }

    /// `peer` has just been heard of as alive: what failed before is forgotten.
    pub(crate) fn hurry(&mut self, now: Instant, own: NodeId, peer: NodeId) {
        let next = now + courtesy(own, peer);
        self.change_all(peer, |candidate| {
            candidate.failures = 0;
            candidate.next = candidate.next.min(next);
        });
    }

    /// A peer is not to be dialled before `until`.
    pub(crate) fn postpone(&mut self, peer: NodeId, until: Instant) {
        self.change_all(peer, |candidate| candidate.next = candidate.next.max(until));
    }

    /// This node itself answered at `address`.
    pub(crate) fn is_own(&mut self, address: SocketAddr) {
        self.put(address, None);
        if self.own.len() < OWN_MAX {
            self.own.insert(address);
        }
    }

    /// Forgets what nobody has spoken of for long; once in a while will do.
    pub(crate) fn tidy(&mut self, now: Instant, connected: impl Fn(NodeId) -> bool) {
        let stale = |candidate: &Candidate| {
            !candidate.seed && !candidate.peer.is_some_and(&connected) && now.since(candidate.heard) >= STALE
        };
        let stale = self.candidates.iter().filter(|(_, candidate)| stale(candidate)).map(|(address, _)| *address);
        stale.collect::<Vec<_>>().into_iter().for_each(|address| self.put(address, None));
    }

    /// Whether there is an address at which nobody has failed to answer yet.
    pub(crate) fn is_hopeful(&self) -> bool {
        self.candidates.values().any(|candidate| candidate.failures == 0)
    }

    /// The addresses at which `peer` may be reached.
    pub(crate) fn addresses_of(&self, peer: NodeId) -> impl Iterator<Item = SocketAddr> {
        self.homes.get(&peer).into_iter().flatten().copied()
    }

    /// The addresses to dial now.
    pub(crate) fn due(&mut self, now: Instant, connected: impl Fn(NodeId) -> bool) -> Vec<SocketAddr> {
        let late: Vec<SocketAddr> =
            self.open.iter().filter(|(_, until)| **until <= now).map(|(address, _)| *address).collect();
        for address in late {
            self.open.remove(&address);
            self.due.set(address, self.candidates.contains_key(&address).then_some(now));
        }
        let mut dials = Vec::new();
        while self.open.len() < OPEN_MAX
            && let Some(address) = self.due.pop(now)
        {
            let peer = self.candidates.get(&address).and_then(|candidate| candidate.peer);
            if peer.is_some_and(&connected) {
                self.due.set(address, Some(now + LOOK_AGAIN));
            } else {
                self.open.insert(address, now + PATIENCE);
                dials.push(address);
            }
        }
        dials
    }

    /// When to ask again whom to dial.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let due = self.due.next().filter(|_| self.open.len() < OPEN_MAX);
        self.open.values().copied().chain(due).min()
    }

    fn change_all(&mut self, peer: NodeId, mut change: impl FnMut(&mut Candidate)) {
        for address in self.addresses_of(peer).collect::<Vec<_>>() {
            if let Some(mut candidate) = self.candidates.get(&address).copied() {
                change(&mut candidate);
                self.put(address, Some(candidate));
            }
        }
    }

    /// What is known of an address from now on, if anything. All changes come through here, so that what is derived stays right.
    fn put(&mut self, address: SocketAddr, candidate: Option<Candidate>) {
        let before = match candidate {
            Some(candidate) => self.candidates.insert(address, candidate),
            None => self.candidates.remove(&address),
        };
        let (before, peer) = (before.and_then(|before| before.peer), candidate.and_then(|candidate| candidate.peer));
        if before != peer {
            if let Some(before) = before
                && let Some(addresses) = self.homes.get_mut(&before)
            {
                addresses.remove(&address);
                if addresses.is_empty() {
                    self.homes.remove(&before);
                }
            }
            if let Some(peer) = peer {
                self.homes.entry(peer).or_default().insert(address);
            }
        }
        let unknown = candidate.filter(|candidate| !candidate.proven && !candidate.seed);
        self.unknown.set(address, unknown.map(|candidate| candidate.heard));
        let is_open = self.open.contains_key(&address);
        self.due.set(address, candidate.filter(|_| !is_open).map(|candidate| candidate.next));
    }
}

impl Candidate {
    const fn new(now: Instant, peer: Option<NodeId>) -> Self {
        Self { peer, proven: false, seed: false, failures: 0, next: now, heard: now }
    }
}

fn courtesy(own: NodeId, peer: NodeId) -> Duration {
    if own.keeps_own_dial(peer) { Duration::ZERO } else { COURTESY }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: NodeId = NodeId([0; 16]);

    fn address(number: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], number))
    }

    fn at(millis: u64) -> Instant {
        Instant::from_micros(millis * 1000)
    }

    #[test]
    fn a_flood_of_addresses_is_bounded_and_dialled_few_at_a_time() {
        let mut dialling = Dialling::default();
        (0..5000).for_each(|number| dialling.discovered(at(u64::from(number)), OWN, address(number), None));
        assert_eq!(dialling.candidates.len(), UNKNOWN_MAX);
        assert_eq!(dialling.due(at(5000), |_| false).len(), OPEN_MAX);
        assert_eq!(dialling.due(at(5000), |_| false).len(), 0);
    }

    #[test]
    fn failures_are_retried_ever_more_rarely_but_for_ever() {
        let (mut dialling, mut random) = (Dialling::default(), Random::seeded(1));
        dialling.discovered(at(0), OWN, address(1), None);
        let mut now = at(0);
        for _ in 0..100 {
            assert_eq!(dialling.due(now, |_| false), [address(1)]);
            dialling.failed(now, address(1), &mut random);
            let next = dialling.deadline().unwrap();
            assert!(next > now && next.since(now) <= LAST_RETRY * 3 / 2);
            now = next;
        }
    }

    #[test]
    fn the_connected_are_not_dialled() {
        let (mut dialling, mut random) = (Dialling::default(), Random::seeded(1));
        let peer = NodeId([1; 16]);
        dialling.lives_at(at(0), OWN, peer, address(1));
        assert!(dialling.addresses_of(peer).eq([address(1)]));
        assert!(dialling.due(at(0), |_| true).is_empty());
        assert!(dialling.due(at(9000), |_| false).is_empty(), "nothing was said of it");
        dialling.disconnected(at(9000), peer, &mut random);
        assert_eq!(dialling.due(at(9200), |_| false), [address(1)]);
        // Even had nobody said that the connection is no more.
        dialling.connected(at(9300), peer, address(1));
        assert!(dialling.due(at(9300), |_| true).is_empty());
        assert_eq!(dialling.due(at(69_300), |_| false), [address(1)]);
    }

    #[test]
    fn a_dial_without_an_answer_is_made_again() {
        let mut dialling = Dialling::default();
        (0..40).for_each(|number| dialling.discovered(at(0), OWN, address(number), None));
        let first = dialling.due(at(0), |_| false);
        assert_eq!((first.len(), dialling.deadline()), (OPEN_MAX, Some(at(10_000))));
        let more: BTreeSet<SocketAddr> =
            [10_000, 20_000].into_iter().flat_map(|time| dialling.due(at(time), |_| false)).collect();
        assert_eq!(more.len(), 24 + 8, "those that waited come before those that were tried");
    }

    #[test]
    fn what_is_forgotten_leaves_nothing_behind() {
        let mut dialling = Dialling::default();
        let peers = [1, 2].map(|peer| NodeId([peer; 16]));
        dialling.lives_at(at(0), OWN, peers[0], address(1));
        dialling.lives_at(at(0), OWN, peers[1], address(1));
        assert_eq!(dialling.addresses_of(peers[0]).count(), 0, "it has moved out");
        dialling.tidy(at(0) + STALE, |_| false);
        assert!(dialling.homes.is_empty() && dialling.deadline().is_none());
    }

    #[test]
    fn a_flood_does_not_push_out_the_configured_and_own_addresses_are_let_be() {
        let mut dialling = Dialling::default();
        dialling.seed(at(0), address(9999));
        dialling.is_own(address(7));
        (0..5000).for_each(|number| {
            dialling.discovered(at(1), OWN, address(number), Some(NodeId([(number % 250) as u8 + 1; 16])));
        });
        assert_eq!(dialling.candidates.len(), UNKNOWN_MAX + 1);
        assert!(dialling.candidates.contains_key(&address(9999)) && !dialling.candidates.contains_key(&address(7)));
        dialling.tidy(at(0) + STALE * 2, |_| false);
        assert_eq!(dialling.candidates.len(), 1);
    }
}

//! Which addresses to connect to, and when: those discovered until they turn out to be members, those of members until connected.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use core::net::SocketAddr;
use core::time::Duration;

use crate::identity::NodeId;
use crate::random::Random;
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

/// The addresses known.
#[derive(Clone, Debug, Default)]
pub(crate) struct Dialling {
    candidates: BTreeMap<SocketAddr, Candidate>,
    own: BTreeSet<SocketAddr>,
}

#[derive(Clone, Debug)]
struct Candidate {
    /// Who lives there, as far as is known.
    peer: Option<NodeId>,
    /// Whether a member or a certificate said so, and not just anybody.
    proven: bool,
    /// Configured: never forgotten.
    seed: bool,
    failures: u32,
    next: Instant,
    open: bool,
    heard: Instant,
}

impl Dialling {
    /// An address from the configuration.
    pub(crate) fn seed(&mut self, now: Instant, address: SocketAddr) {
        self.candidates.insert(address, Candidate { seed: true, ..Candidate::new(now, None) });
    }

    /// Somebody may be reached at `address`, perhaps `peer`.
    pub(crate) fn discovered(&mut self, now: Instant, own: NodeId, address: SocketAddr, peer: Option<NodeId>) {
        if self.own.contains(&address) {
            return;
        }
        let peer = peer.filter(|peer| *peer != own);
        if let Some(candidate) = self.candidates.get_mut(&address) {
            candidate.heard = now;
            if !candidate.proven && peer.is_some() {
                candidate.peer = peer;
            }
            if !candidate.open {
                // It has just been announced again, so it may be back.
                candidate.next = candidate.next.min(now + FIRST_RETRY);
            }
            return;
        }
        let unknown = || self.candidates.iter().filter(|(_, candidate)| !candidate.proven && !candidate.seed);
        if unknown().count() >= UNKNOWN_MAX {
            let stale =
                unknown().min_by_key(|(address, candidate)| (candidate.heard, **address)).map(|(address, _)| *address);
            stale.map(|address| self.candidates.remove(&address));
        }
        let next = now + peer.map_or(Duration::ZERO, |peer| courtesy(own, peer));
        self.candidates.insert(address, Candidate { next, ..Candidate::new(now, peer) });
    }

    /// `peer` may be reached at `address`: a member says so.
    pub(crate) fn lives_at(&mut self, now: Instant, own: NodeId, peer: NodeId, address: SocketAddr) {
        if self.own.contains(&address) || peer == own || !self.has_room(address) {
            return;
        }
        let next = now + courtesy(own, peer);
        let candidate = self.candidates.entry(address).or_insert(Candidate { next, ..Candidate::new(now, None) });
        candidate.peer = Some(peer);
        candidate.proven = true;
        candidate.heard = now;
    }

    /// `peer` answered at `address`.
    pub(crate) fn connected(&mut self, now: Instant, peer: NodeId, address: SocketAddr) {
        if self.has_room(address) {
            let seed = self.candidates.get(&address).is_some_and(|candidate| candidate.seed);
            self.candidates.insert(address, Candidate { proven: true, seed, ..Candidate::new(now, Some(peer)) });
        }
    }

    fn has_room(&self, address: SocketAddr) -> bool {
        self.candidates.len() < ADDRESSES_MAX || self.candidates.contains_key(&address)
    }

    /// A connection broke: try again soon, wherever the peer was last known.
    pub(crate) fn disconnected(&mut self, now: Instant, peer: NodeId, random: &mut Random) {
        for candidate in self.candidates.values_mut().filter(|candidate| candidate.peer == Some(peer)) {
            candidate.next = now + random.jitter(FIRST_RETRY / 4);
        }
    }

    /// Nobody answered. Returns who should have.
    pub(crate) fn failed(&mut self, now: Instant, address: SocketAddr, random: &mut Random) -> Option<NodeId> {
        let candidate = self.candidates.get_mut(&address)?;
        candidate.open = false;
        candidate.failures = candidate.failures.saturating_add(1);
        let pause = (FIRST_RETRY * (1 << candidate.failures.min(8)) / 2).min(LATER_RETRY);
        let pause = if candidate.failures > PERSISTENT { LAST_RETRY } else { pause };
        candidate.next = now + random.jitter(pause);
        candidate.peer
    }

    /// `peer` has just been heard of as alive: what failed before is forgotten.
    pub(crate) fn hurry(&mut self, now: Instant, own: NodeId, peer: NodeId) {
        let next = now + courtesy(own, peer);
        for candidate in self.candidates.values_mut().filter(|candidate| candidate.peer == Some(peer)) {
            candidate.failures = 0;
            if !candidate.open {
                candidate.next = candidate.next.min(next);
            }
        }
    }

    /// A peer is not to be dialled before `until`.
    pub(crate) fn postpone(&mut self, peer: NodeId, until: Instant) {
        for candidate in self.candidates.values_mut().filter(|candidate| candidate.peer == Some(peer)) {
            candidate.next = candidate.next.max(until);
        }
    }

    /// This node itself answered at `address`.
    pub(crate) fn is_own(&mut self, address: SocketAddr) {
        self.candidates.remove(&address);
        if self.own.len() < OWN_MAX {
            self.own.insert(address);
        }
    }

    /// Forgets what nobody has spoken of for long; once in a while will do.
    pub(crate) fn tidy(&mut self, now: Instant, connected: impl Fn(NodeId) -> bool) {
        self.candidates.retain(|_, candidate| {
            candidate.seed || candidate.peer.is_some_and(&connected) || now.since(candidate.heard) < STALE
        });
    }

    /// Whether there is an address at which nobody has failed to answer yet.
    pub(crate) fn is_hopeful(&self) -> bool {
        self.candidates.values().any(|candidate| candidate.failures == 0)
    }

    /// The addresses at which each peer may be reached.
    pub(crate) fn all_addresses(&self) -> BTreeMap<NodeId, Vec<SocketAddr>> {
        let mut all: BTreeMap<NodeId, Vec<SocketAddr>> = BTreeMap::new();
        for (address, candidate) in &self.candidates {
            candidate.peer.into_iter().for_each(|peer| all.entry(peer).or_default().push(*address));
        }
        all
    }

    /// The addresses to dial now.
    pub(crate) fn due(&mut self, now: Instant, connected: impl Fn(NodeId) -> bool) -> Vec<SocketAddr> {
        let mut open = self.candidates.values().filter(|candidate| candidate.open && now < candidate.next).count();
        let mut dials = Vec::new();
        for (address, candidate) in &mut self.candidates {
            if open >= OPEN_MAX {
                break;
            }
            if candidate.next <= now && !candidate.peer.is_some_and(&connected) {
                candidate.open = true;
                candidate.next = now + PATIENCE;
                dials.push(*address);
                open += 1;
            }
        }
        dials
    }

    pub(crate) fn deadline(&self, connected: impl Fn(NodeId) -> bool) -> Option<Instant> {
        let open = self.candidates.values().filter(|candidate| candidate.open).count();
        let waits = self
            .candidates
            .values()
            .filter(|candidate| !candidate.peer.is_some_and(&connected) && (candidate.open || open < OPEN_MAX));
        waits.map(|candidate| candidate.next).min()
    }
}

impl Candidate {
    const fn new(now: Instant, peer: Option<NodeId>) -> Self {
        Self { peer, proven: false, seed: false, failures: 0, next: now, open: false, heard: now }
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
            let next = dialling.deadline(|_| false).unwrap();
            assert!(next > now && next.since(now) <= LAST_RETRY * 3 / 2);
            now = next;
        }
    }

    #[test]
    fn the_connected_are_not_dialled() {
        let mut dialling = Dialling::default();
        let peer = NodeId([1; 16]);
        dialling.lives_at(at(0), OWN, peer, address(1));
        assert!(dialling.due(at(0), |_| true).is_empty());
        assert_eq!(dialling.due(at(0), |_| false), [address(1)]);
        assert_eq!(dialling.all_addresses()[&peer], [address(1)]);
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

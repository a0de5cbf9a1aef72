//! Which addresses to connect to, and when: those discovered until they turn out to be members, those of members until connected.

use alloc::collections::BTreeMap;
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
const LAST_RETRY: Duration = Duration::from_secs(30);
/// A dial that the driver has not answered by then is taken for failed.
const PATIENCE: Duration = Duration::from_secs(10);
/// The higher id lets the lower one dial first, so that most pairs dial once.
const COURTESY: Duration = Duration::from_millis(400);

/// The addresses known.
#[derive(Clone, Debug, Default)]
pub(crate) struct Dialling {
    candidates: BTreeMap<SocketAddr, Candidate>,
}

#[derive(Clone, Debug)]
struct Candidate {
    /// Who lives there, as far as is known.
    peer: Option<NodeId>,
    failures: u32,
    next: Instant,
    open: bool,
    heard: Instant,
}

impl Dialling {
    /// Somebody may be reached at `address`.
    pub(crate) fn discovered(&mut self, now: Instant, address: SocketAddr) {
        if let Some(candidate) = self.candidates.get_mut(&address) {
            candidate.heard = now;
            if !candidate.open {
                // It has just been announced again, so it may be back.
                candidate.next = candidate.next.min(now + FIRST_RETRY);
            }
            return;
        }
        let unknown = || self.candidates.iter().filter(|(_, candidate)| candidate.peer.is_none());
        if unknown().count() >= UNKNOWN_MAX {
            let stale =
                unknown().min_by_key(|(address, candidate)| (candidate.heard, **address)).map(|(address, _)| *address);
            stale.map(|address| self.candidates.remove(&address));
        }
        self.candidates.insert(address, Candidate { peer: None, failures: 0, next: now, open: false, heard: now });
    }

    /// `peer` may be reached at `address`.
    pub(crate) fn lives_at(&mut self, now: Instant, own: NodeId, peer: NodeId, address: SocketAddr) {
        let next = if own.keeps_own_dial(peer) { now } else { now + COURTESY };
        if self.candidates.len() >= ADDRESSES_MAX && !self.candidates.contains_key(&address) {
            return;
        }
        let candidate = self.candidates.entry(address).or_insert(Candidate {
            peer: None,
            failures: 0,
            next,
            open: false,
            heard: now,
        });
        candidate.peer = Some(peer);
        candidate.heard = now;
    }

    /// `peer` answered at `address`.
    pub(crate) fn connected(&mut self, now: Instant, peer: NodeId, address: SocketAddr) {
        if self.candidates.len() < ADDRESSES_MAX || self.candidates.contains_key(&address) {
            self.candidates
                .insert(address, Candidate { peer: Some(peer), failures: 0, next: now, open: false, heard: now });
        }
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
        let pause = (FIRST_RETRY * (1 << candidate.failures.min(8)) / 2).min(LAST_RETRY);
        candidate.next = now + random.jitter(pause);
        candidate.peer
    }

    /// The own address, or one that shall not be dialled again.
    pub(crate) fn forget(&mut self, address: SocketAddr) {
        self.candidates.remove(&address);
    }

    /// The addresses at which `peer` may be reached.
    pub(crate) fn addresses_of(&self, peer: NodeId) -> Vec<SocketAddr> {
        self.candidates
            .iter()
            .filter(|(_, candidate)| candidate.peer == Some(peer))
            .map(|(address, _)| *address)
            .collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    fn address(number: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], number))
    }

    fn at(millis: u64) -> Instant {
        Instant::from_micros(millis * 1000)
    }

    #[test]
    fn a_flood_of_addresses_is_bounded_and_dialled_few_at_a_time() {
        let mut dialling = Dialling::default();
        (0..5000).for_each(|number| dialling.discovered(at(u64::from(number)), address(number)));
        assert_eq!(dialling.candidates.len(), UNKNOWN_MAX);
        assert_eq!(dialling.due(at(5000), |_| false).len(), OPEN_MAX);
        assert_eq!(dialling.due(at(5000), |_| false).len(), 0);
    }

    #[test]
    fn failures_are_retried_ever_more_rarely_but_for_ever() {
        let (mut dialling, mut random) = (Dialling::default(), Random::seeded(1));
        dialling.discovered(at(0), address(1));
        let mut now = at(0);
        for _ in 0..30 {
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
        dialling.lives_at(at(0), NodeId([0; 16]), peer, address(1));
        assert!(dialling.due(at(0), |_| true).is_empty());
        assert_eq!(dialling.due(at(0), |_| false), [address(1)]);
        assert_eq!(dialling.addresses_of(peer), [address(1)]);
    }
}

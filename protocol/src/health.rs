//! How good a source each peer has been lately, and so in which order to ask.
//!
//! A failed dial or a stall counts at once: membership alone is slow to declare a peer dead. What is held against a peer wears off, so
//! that it is tried again. Equal peers are taken in another order by each asker and for each key: what peers tell of their load is a
//! second old, and whoever looks idlest must not be asked by all at once.

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
/// A first byte within this is as good as at once.
const PROMPT: Duration = Duration::from_millis(10);
/// How slow a peer was is forgotten after this, so that it is tried again.
const SLOW_FOR: Duration = Duration::from_secs(30);
/// Sources in a plan.
const SOURCES_MAX: usize = 8;

/// The conduct of all peers.
#[derive(Clone, Debug)]
pub(crate) struct Health {
    own: NodeId,
    peers: BTreeMap<NodeId, Conduct>,
}

#[derive(Clone, Debug)]
struct Conduct {
    blame: Counter,
    /// Requests to it that this node has open.
    open: u32,
    busy_until: Instant,
    banished_until: Instant,
    /// Time to the first byte, smoothed, and when it was last measured.
    first_byte: Option<(Duration, Instant)>,
}

impl Health {
    pub(crate) const fn new(own: NodeId) -> Self {
        Self { own, peers: BTreeMap::new() }
    }

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
                let smooth = conduct.first_byte(now).map_or(first, |before| (before * 7 + first) / 8);
                conduct.first_byte = Some((smooth, now));
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

    /// Smaller is better: doubtful last, then by how soon an answer is to be expected; equals in the order of this node and key.
    pub(crate) fn rank(&self, now: Instant, peer: NodeId, load: u8, key: Key) -> (bool, u32, u64) {
        let conduct = self.peers.get(&peer);
        let doubtful = conduct.is_some_and(|conduct| conduct.blame.amount(now) > DOUBTFUL);
        let busy = conduct.is_some_and(|conduct| conduct.busy_until > now);
        let open = conduct.map_or(0, |conduct| conduct.open);
        let slow = conduct.and_then(|conduct| conduct.first_byte(now)).map_or(0, slowness);
        // In steps, lest a difference of one in load send everybody to the same peer.
        let cost = u32::from(load) / 32 + open + slow + if busy { 8 } else { 0 };
        (doubtful, cost, affinity(peer, self.order(key)))
    }

    /// Of this node and key: for another asker or another key equal peers stand in another order.
    fn order(&self, key: Key) -> Key {
        let mut order = key.0;
        order.iter_mut().zip(self.own.0).for_each(|(byte, own)| *byte ^= own);
        Key(order)
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
            .map(|((doubtful, ..), peer)| Source { peer, hedge_after: self.hedge_after(now, peer, doubtful) })
            .collect()
    }

    fn hedge_after(&self, now: Instant, peer: NodeId, doubtful: bool) -> Duration {
        if doubtful {
            return Duration::from_millis(50);
        }
        let usual =
            self.peers.get(&peer).and_then(|conduct| conduct.first_byte(now)).unwrap_or(Duration::from_millis(25));
        (usual * 4).clamp(Duration::from_millis(100), Duration::from_millis(250))
    }
}

impl Conduct {
    fn first_byte(&self, now: Instant) -> Option<Duration> {
        self.first_byte.filter(|(_, at)| now.since(*at) < SLOW_FOR).map(|(first, _)| first)
    }
}

/// What slowness costs, in open requests: one for each doubling.
fn slowness(first_byte: Duration) -> u32 {
    let times = first_byte.as_micros() / PROMPT.as_micros();
    times.checked_ilog2().map_or(0, |doublings| doublings + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Instant = Instant::from_micros(1_000_000);
    const KEY: Key = Key([1; 16]);
    const OWN: NodeId = NodeId([99; 16]);

    fn order(health: &Health, now: Instant, loads: &[(u8, u8)]) -> Vec<u8> {
        let holders = loads.iter().map(|(node, load)| (NodeId([*node; 16]), *load));
        health.sources(now, KEY, holders).iter().map(|source| source.peer.0[0]).collect()
    }

    #[test]
    fn the_idle_are_asked_before_the_busy_and_the_doubtful_last() {
        let mut health = Health::new(OWN);
        assert_eq!(order(&health, NOW, &[(1, 200), (2, 0), (3, 100)]), [2, 3, 1]);
        health.unreachable(NOW, NodeId([2; 16]));
        assert_eq!(order(&health, NOW, &[(1, 200), (2, 0), (3, 100)]), [3, 1, 2]);
        health.reachable(NOW, NodeId([2; 16]));
        assert_eq!(order(&health, NOW, &[(1, 200), (2, 0), (3, 100)]), [2, 3, 1]);
    }

    #[test]
    fn one_that_sent_wrong_bytes_is_not_asked_for_a_while() {
        let mut health = Health::new(OWN);
        health.answered(NOW, NodeId([1; 16]), Outcome::Wrong);
        health.forget(NOW, NodeId([1; 16]));
        assert_eq!(order(&health, NOW, &[(1, 0), (2, 255)]), [2]);
        assert_eq!(order(&health, NOW + BANISHMENT, &[(1, 0), (2, 255)]), [1, 2]);
    }

    #[test]
    fn own_requests_weigh() {
        let mut health = Health::new(OWN);
        (0..3).for_each(|_| health.asked(NOW, NodeId([1; 16])));
        assert_eq!(order(&health, NOW, &[(1, 0), (2, 40)]), [2, 1]);
        (0..3).for_each(|_| health.answered(NOW, NodeId([1; 16]), Outcome::Served(Duration::from_millis(1))));
        assert_eq!(order(&health, NOW, &[(1, 0), (2, 40)]), [1, 2]);
    }

    /// An asker and four peers, each of which takes its own time for one request; one may never answer.
    struct Shop {
        health: Health,
        took: [Duration; 4],
        shares: [u32; 4],
        /// Requests that are open: when they end, with whom and how.
        open: Vec<(Instant, u8, Outcome)>,
        hedged: u32,
    }

    const NEVER: Duration = Duration::MAX;

    impl Shop {
        fn new(took: [Duration; 4]) -> Self {
            Self { health: Health::new(OWN), took, shares: [0; 4], open: Vec::new(), hedged: 0 }
        }

        /// A request for a new key every `pause`; the peers tell nothing of their load.
        fn run(&mut self, from: Duration, to: Duration, pause: Duration) {
            let mut now = Instant::default() + from;
            let mut number = from.as_millis() as u64;
            while now < Instant::default() + to {
                let (over, open) = self.open.iter().partition(|(at, ..)| *at <= now);
                self.open = open;
                let over: Vec<(Instant, u8, Outcome)> = over;
                over.into_iter().for_each(|(_, peer, outcome)| self.health.answered(now, NodeId([peer; 16]), outcome));
                number += 1;
                self.ask(now, Key(NodeId::of_public_key(&number.to_le_bytes()).0));
                now = now + pause;
            }
        }

        fn ask(&mut self, now: Instant, key: Key) {
            let mut at = now;
            for source in self.health.sources(now, key, (0..4).map(|peer| (NodeId([peer; 16]), 0))) {
                let peer = source.peer.0[0];
                self.health.asked(now, source.peer);
                self.shares[usize::from(peer)] += 1;
                let took = self.took[usize::from(peer)];
                if took != NEVER {
                    self.open.push((at + took, peer, Outcome::Served(took)));
                    return;
                }
                self.hedged += 1;
                at = at + source.hedge_after;
                self.open.push((at, peer, Outcome::Stalled));
            }
        }
    }

    const fn millis(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn equal_peers_get_equal_shares() {
        // Idle between requests, and with several open at each.
        for pause in [millis(20), millis(1)] {
            let mut shop = Shop::new([millis(8); 4]);
            shop.run(Duration::ZERO, millis(20_000), pause);
            let mean = shop.shares.iter().sum::<u32>() / 4;
            assert!(shop.shares.iter().all(|share| share.abs_diff(mean) < mean / 5), "{:?}", shop.shares);
        }
    }

    #[test]
    fn a_slow_peer_gets_less_and_is_tried_again() {
        let mut shop = Shop::new([millis(8), millis(8), millis(8), millis(80)]);
        shop.run(Duration::ZERO, MINUTE, millis(2));
        let [quick, .., slow] = shop.shares;
        assert!(slow > 0 && slow < quick / 4, "{:?}", shop.shares);
        // It has recovered: what was measured is forgotten in time.
        shop.took[3] = millis(8);
        shop.shares = [0; 4];
        shop.run(MINUTE, MINUTE * 3, millis(2));
        let [quick, .., slow] = shop.shares;
        assert!(slow > quick / 2, "{:?}", shop.shares);
    }

    #[test]
    fn a_stalled_peer_is_left_after_its_hedge_and_comes_back() {
        let mut shop = Shop::new([millis(8), millis(8), millis(8), NEVER]);
        shop.run(Duration::ZERO, MINUTE, millis(10));
        assert!(shop.hedged > 0 && shop.hedged < 30, "only those on their way when it stalled waited: {}", shop.hedged);
        shop.took[3] = millis(8);
        shop.shares = [0; 4];
        shop.run(MINUTE, MINUTE * 4, millis(10));
        let [sound, .., back] = shop.shares;
        assert!(back > sound / 2, "{:?}", shop.shares);
    }

    #[test]
    fn many_askers_do_not_all_ask_the_same() {
        let mut shares = [0u32; 4];
        for asker in 0..100u8 {
            let health = Health::new(NodeId::of_public_key(&[asker]));
            let first = health.sources(NOW, KEY, (0..4).map(|peer| (NodeId([peer; 16]), 0)))[0].peer;
            shares[usize::from(first.0[0])] += 1;
        }
        assert!(shares.iter().all(|share| (12..40).contains(share)), "{shares:?}");
    }
}

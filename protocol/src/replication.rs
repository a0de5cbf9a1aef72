//! Copies of what is popular: reported to each key's home, decided there once for the site, placed where there is room and little load.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::time::Duration;

use crate::identity::{Key, NodeId};
use crate::message::{DEMANDS_MAX, Demand, Message};
use crate::outbox::Outbox;
use crate::popularity::{HALF_LIFE, Popularity, REQUEST};
use crate::time::Instant;
use crate::wire::Few;

/// Keys whose demand a home remembers, and that a node reports.
const KEYS_MAX: usize = 8192;
/// Reports are sent this often.
const REPORT_EVERY: Duration = Duration::from_secs(2);
/// Twenty requests spread over a minute have decayed to some fourteen when the last comes.
const SECOND_COPY: u32 = 12 * REQUEST;
/// Each further copy takes so many times the demand.
const STEP: u32 = 10;
/// A copy that has not been made by then is given to somebody else.
const COPY_PATIENCE: Duration = Duration::from_secs(30);
/// After a copy was made, its holder's inventory says so within this.
const SETTLE: Duration = Duration::from_secs(5);
/// Copies that one home has made at once.
const OPEN_MAX: usize = 8;
/// Keys looked at in one call.
const SCAN_MAX: usize = 512;

/// Demand seen here, demand reported to this node as a home, and copies on their way.
#[derive(Clone, Debug)]
pub(crate) struct Replication {
    copies_max: usize,
    /// All that was asked for here.
    local: Popularity<Key>,
    /// Asked for here since the last report, by key.
    unreported: BTreeMap<Key, u32>,
    /// Which home has been told of a key before; another is told everything.
    told: BTreeMap<Key, NodeId>,
    report_at: Instant,
    demand: Popularity<Key>,
    /// Copies asked for, with who takes them and until when that is believed.
    open: BTreeMap<Key, (NodeId, Instant)>,
}

/// What is known of a node that could hold a copy.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) node: NodeId,
    pub(crate) load: u8,
    pub(crate) room: u8,
    pub(crate) holds: bool,
    /// Neither draining nor doubtful.
    pub(crate) takes: bool,
}

impl Replication {
    pub(crate) const fn new(copies_max: usize) -> Self {
        Self {
            copies_max,
            local: Popularity::new(KEYS_MAX, HALF_LIFE),
            unreported: BTreeMap::new(),
            told: BTreeMap::new(),
            report_at: Instant::from_micros(0),
            demand: Popularity::new(KEYS_MAX, HALF_LIFE),
            open: BTreeMap::new(),
        }
    }

    /// Clients of this node asked for `key`.
    pub(crate) fn requested(&mut self, now: Instant, key: Key, times: u32) {
        let news = times.saturating_mul(REQUEST);
        self.local.add(now, key, news);
        self.note(now, key, news);
    }

    /// There is something to report of `key`.
    fn note(&mut self, now: Instant, key: Key, news: u32) {
        if self.unreported.is_empty() {
            self.report_at = now + REPORT_EVERY;
        }
        if self.unreported.len() < KEYS_MAX || self.unreported.contains_key(&key) {
            let amount = self.unreported.entry(key).or_default();
            *amount = amount.saturating_add(news);
        }
    }

    pub(crate) fn local(&self) -> &Popularity<Key> {
        &self.local
    }

    /// What a peer was asked for.
    pub(crate) fn reported(&mut self, now: Instant, demands: &[Demand]) {
        for demand in demands {
            // More than a hundred thousand requests in two seconds nobody has.
            self.demand.add(now, demand.key, demand.amount.min(100_000 * REQUEST));
        }
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        (!self.unreported.is_empty()).then_some(self.report_at)
    }

    /// Reports to the homes, when it is time.
    pub(crate) fn report(&mut self, now: Instant, own: NodeId, home: impl Fn(Key) -> Option<NodeId>, out: &mut Outbox) {
        if self.unreported.is_empty() || now < self.report_at {
            return;
        }
        let mut reports: BTreeMap<NodeId, Vec<Demand>> = BTreeMap::new();
        for (key, news) in core::mem::take(&mut self.unreported) {
            let Some(home) = home(key) else { continue };
            let before = self.told.insert(key, home);
            let amount = if before == Some(home) { news } else { self.local.amount(now, &key).max(news) };
            reports.entry(home).or_default().push(Demand { key, amount });
        }
        if self.told.len() > KEYS_MAX {
            let local = &self.local;
            self.told.retain(|key, _| local.amount(now, key) > REQUEST);
        }
        for (home, demands) in reports {
            if home == own {
                self.reported(now, &demands);
                continue;
            }
            for some in demands.chunks(DEMANDS_MAX) {
                out.send(home, Message::Demands(Few::of(some.iter().copied())));
            }
        }
    }

    /// As the home of what is popular: sees to it that there are as many copies as wanted. Called once a second.
    /// Returns whom to ask for which copy from whom.
    pub(crate) fn decide(
        &mut self,
        now: Instant,
        own: NodeId,
        is_home: impl Fn(Key) -> bool,
        places: impl Fn(Key) -> Vec<Place>,
    ) -> Vec<(NodeId, Key, NodeId)> {
        self.open.retain(|_, (_, until)| now < *until);
        let mut copies = Vec::new();
        for (key, demand) in self.demand.tops(now, SCAN_MAX) {
            if demand < SECOND_COPY || self.open.len() >= OPEN_MAX {
                break;
            }
            if self.open.contains_key(&key) || !is_home(key) {
                continue;
            }
            if let Some((to, from)) = choose(&places(key), self.wanted(demand)) {
                self.open.insert(key, (to, now + COPY_PATIENCE));
                copies.push((to, key, from));
            }
        }
        debug_assert!(copies.iter().all(|(to, _, from)| to != from), "{own:?} would have a node copy from itself");
        copies
    }

    /// A copy was taken or not.
    pub(crate) fn copied(&mut self, now: Instant, from: NodeId, key: Key, done: bool) {
        if let Some((to, until)) = self.open.get_mut(&key).filter(|(to, _)| *to == from) {
            debug_assert_eq!(*to, from);
            *until = if done { now + SETTLE } else { now };
        }
    }

    /// A member is gone: the copies it was taking will not come, and what it was told as a home the next home has to hear.
    pub(crate) fn gone(&mut self, now: Instant, node: NodeId) {
        self.open.retain(|_, (to, _)| *to != node);
        let untold: Vec<Key> = self.told.iter().filter(|(_, home)| **home == node).map(|(key, _)| *key).collect();
        for key in untold {
            self.told.remove(&key);
            if self.local.amount(now, &key) > 0 {
                self.note(now, key, 0);
            }
        }
    }

    fn wanted(&self, demand: u32) -> usize {
        let mut wanted = 1;
        let mut bar = SECOND_COPY;
        while wanted < self.copies_max && demand >= bar {
            wanted += 1;
            bar = bar.saturating_mul(STEP);
        }
        wanted
    }
}

/// Who takes a copy from whom, when there are fewer than `wanted`: the emptiest and least loaded from the least loaded.
pub(crate) fn choose(places: &[Place], wanted: usize) -> Option<(NodeId, NodeId)> {
    let holders = places.iter().filter(|place| place.holds);
    if holders.clone().count() >= wanted {
        return None;
    }
    let from = holders.min_by_key(|place| (place.load, place.node))?;
    // Room in coarse steps: among those with about as much, the idle ones.
    let takers = places.iter().filter(|place| !place.holds && place.takes && place.room > 8);
    let to = takers.min_by_key(|place| (255 - place.room / 32 * 32, place.load, place.node))?;
    Some((to.node, from.node))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: Key = Key([9; 16]);

    fn node(number: u8) -> NodeId {
        NodeId([number; 16])
    }

    fn place(number: u8, load: u8, room: u8, holds: bool) -> Place {
        Place { node: node(number), load, room, holds, takes: true }
    }

    fn at(millis: u64) -> Instant {
        Instant::from_micros(millis * 1000)
    }

    #[test]
    fn the_emptiest_and_idlest_takes_from_the_idlest_holder() {
        let places = [
            place(1, 90, 10, true),
            place(2, 10, 10, true),
            place(3, 0, 20, false),
            place(4, 50, 200, false),
            place(5, 20, 210, false),
        ];
        assert_eq!(choose(&places, 3), Some((node(5), node(2))));
        assert_eq!(choose(&places, 2), None);
        assert_eq!(choose(&places[2..], 2), None, "nobody has it");
        assert_eq!(choose(&[place(1, 0, 0, true), place(2, 0, 5, false)], 2), None, "nobody has room");
    }

    #[test]
    fn twenty_requests_within_a_minute_make_a_second_copy_and_five_do_not() {
        for (requests, expected) in [(20u64, 1), (5, 0)] {
            let mut replication = Replication::new(3);
            let mut out = Outbox::default();
            for request in 0..requests {
                let now = at(request * 60_000 / requests);
                replication.requested(now, KEY, 1);
                replication.report(now + REPORT_EVERY, node(1), |_| Some(node(1)), &mut out);
            }
            let places = [place(1, 0, 100, true), place(2, 0, 100, false)];
            let copies = replication.decide(at(62_000), node(1), |_| true, |_| places.to_vec());
            assert_eq!(copies.len(), expected, "{requests} requests");
            // Not again while it is on its way, but again when it has failed.
            assert!(replication.decide(at(63_000), node(1), |_| true, |_| places.to_vec()).is_empty());
            replication.copied(at(63_500), node(2), KEY, false);
            assert_eq!(replication.decide(at(64_000), node(1), |_| true, |_| places.to_vec()).len(), expected);
        }
    }

    #[test]
    fn a_new_home_is_told_everything() {
        let (mut replication, mut out) = (Replication::new(3), Outbox::default());
        (0..10).for_each(|_| replication.requested(at(0), KEY, 1));
        replication.report(at(2000), node(1), |_| Some(node(2)), &mut out);
        replication.requested(at(2000), KEY, 1);
        replication.report(at(4000), node(1), |_| Some(node(3)), &mut out);
        assert_eq!(demands(&mut out), [(node(2), 10), (node(3), 10)]);
    }

    #[test]
    fn what_a_home_knew_that_is_gone_the_next_one_is_told() {
        let (mut replication, mut out) = (Replication::new(3), Outbox::default());
        (0..10).for_each(|_| replication.requested(at(0), KEY, 1));
        replication.report(at(2000), node(1), |_| Some(node(2)), &mut out);
        assert_eq!(demands(&mut out), [(node(2), 10)]);
        replication.gone(at(2000), node(4));
        assert_eq!(replication.deadline(), None, "that one was told nothing");
        replication.gone(at(2000), node(2));
        replication.report(replication.deadline().unwrap(), node(1), |_| Some(node(3)), &mut out);
        assert_eq!(demands(&mut out), [(node(3), 9)], "it has decayed a little");
    }

    /// Who was told of how many requests.
    fn demands(out: &mut Outbox) -> Vec<(NodeId, u32)> {
        let told = |(to, message)| match message {
            Message::Demands(demands) => (to, demands[0].amount / REQUEST),
            other => panic!("{other:?}"),
        };
        out.messages().into_iter().map(told).collect()
    }
}

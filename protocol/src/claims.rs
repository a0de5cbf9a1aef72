//! Each object once: who fetches it from upstream, and whom all others read it from.
//!
//! A key's home grants one claim and sends the others into a tree under the one who fetches, so that nobody has to feed them all.
//! The fetcher renews its lease at the home and at the deputy, which so knows of the flight when the home dies. Whoever finds the
//! node that it follows broken claims again and says so. A home that is silent is passed over; when the deputy is silent too, the
//! asker goes upstream alone: a broken site never breaks a download.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::time::Duration;

use crate::identity::{Key, NodeId};
use crate::message::{KEYS_MAX, Message, Verdict};
use crate::outbox::Outbox;
use crate::output::Output;
use crate::rendezvous::home_and_deputy;
use crate::time::Instant;
use crate::wire::Few;

/// How long a home may take to answer.
const PATIENCE: Duration = Duration::from_millis(50);
/// Who looks so much later than it wanted was asleep itself: the answer may have come meanwhile.
const OVERSLEPT: Duration = Duration::from_millis(100);
/// A home that was silent is passed over for so long.
const SILENCE: Duration = Duration::from_secs(1);
const RENEW_EVERY: Duration = Duration::from_millis(500);
/// A lease that is not renewed ends.
const LEASE: Duration = Duration::from_secs(2);
/// A lease whose flight has not got on for this long is not renewed.
const STUCK: Duration = Duration::from_secs(30);
/// A flight that has ended is remembered until its inventory has surely been heard of.
const AFTERGLOW: Duration = Duration::from_secs(10);
/// Those who read from one node.
const FANOUT: usize = 4;
/// Flights remembered by a home, and claims open at an asker: more are granted without being remembered.
const FLIGHTS_MAX: usize = 16 * 1024;
/// Participants of one flight; later ones follow the first.
const PARTICIPANTS_MAX: usize = 1024;

/// Where the state machine stands when it acts.
pub(crate) struct Scene<'a> {
    pub(crate) now: Instant,
    pub(crate) own: NodeId,
    /// Live and connected members that may be homes, this node too unless it drains.
    pub(crate) homes: &'a [NodeId],
}

/// Claims asked, leases held, and flights of which this node is the home.
#[derive(Clone, Debug, Default)]
pub(crate) struct Claims {
    asked: BTreeMap<Key, Asked>,
    /// With when each last got on.
    leases: BTreeMap<Key, Instant>,
    renew_at: Instant,
    flights: BTreeMap<Key, Flight>,
    silent_until: BTreeMap<NodeId, Instant>,
}

#[derive(Clone, Debug)]
struct Asked {
    broken: Option<NodeId>,
    /// Who has been asked; when the first is silent the deputy is.
    home: NodeId,
    deputy: Option<NodeId>,
    until: Instant,
}

#[derive(Clone, Debug)]
struct Flight {
    /// The fetcher first, then those who follow, each with its place in the tree.
    participants: Vec<Participant>,
    until: Instant,
    /// The object is stored at the fetcher.
    landed: bool,
}

#[derive(Clone, Copy, Debug)]
struct Participant {
    node: NodeId,
    /// Whom it reads from; itself for the fetcher.
    parent: NodeId,
    /// How many read from it.
    children: usize,
}

impl Scene<'_> {
    /// The home of `key` and its deputy, but for those that were silent lately.
    fn homes(&self, key: Key, silent: &BTreeMap<NodeId, Instant>) -> (Option<NodeId>, Option<NodeId>) {
        let speaks = |node: &NodeId| silent.get(node).is_none_or(|until| *until <= self.now);
        home_and_deputy(key, self.homes.iter().copied().filter(speaks))
    }
}

impl Claims {
    /// This node wants `key` and no peer has it; or following `broken` failed.
    pub(crate) fn claim(&mut self, scene: &Scene<'_>, key: Key, broken: Option<NodeId>, out: &mut Outbox) {
        let (home, deputy) = scene.homes(key, &self.silent_until);
        match home {
            Some(home) if home == scene.own => {
                let verdict = self.judge(scene, scene.own, key, broken);
                self.settle(scene, key, verdict, out);
            }
            Some(home) if self.asked.len() < FLIGHTS_MAX => {
                out.send(home, Message::Claim(key, broken));
                self.asked.insert(key, Asked { broken, home, deputy, until: scene.now + PATIENCE });
            }
            _ => out.push(Output::Granted { key, shared: false }),
        }
    }

    /// A connection broke: what was asked there is asked elsewhere.
    pub(crate) fn disconnected(&mut self, now: Instant, peer: NodeId) {
        self.asked.values_mut().filter(|asked| asked.home == peer).for_each(|asked| asked.until = now);
    }

    /// A peer claims `key`, whose home we are in its eyes; `holder` is another that probably has it.
    pub(crate) fn claimed(
        &mut self,
        scene: &Scene<'_>,
        from: NodeId,
        key: Key,
        broken: Option<NodeId>,
        holder: Option<NodeId>,
        out: &mut Outbox,
    ) {
        let verdict = match holder {
            // The asker has not heard of it yet. One that followed in vain is not sent to the next who may not have it either.
            Some(holder) if broken.is_none() && !self.is_under_way(scene.now, key) => Verdict::Follow(holder),
            _ => self.judge(scene, from, key, broken),
        };
        out.send(from, Message::Verdict(key, verdict));
    }

    /// A home has answered.
    pub(crate) fn verdict(&mut self, scene: &Scene<'_>, from: NodeId, key: Key, verdict: Verdict, out: &mut Outbox) {
        self.silent_until.remove(&from);
        if self.asked.get(&key).is_some_and(|asked| asked.home == from) {
            self.asked.remove(&key);
            self.settle(scene, key, verdict, out);
        }
    }

    /// A peer is fetching these.
    pub(crate) fn renewed(&mut self, now: Instant, from: NodeId, keys: &[Key]) {
        for key in keys {
            let Some(flight) = self.flights.get_mut(key) else {
                self.open(now, *key, from);
                continue;
            };
            if flight.fetcher() == from {
                flight.until = now + LEASE;
            } else if now >= flight.until {
                *flight = Flight::of(from, now);
            }
        }
    }

    /// A flight that this node granted, or is told of, has ended.
    pub(crate) fn ended_at(&mut self, now: Instant, from: NodeId, key: Key, stored: bool) {
        if !stored {
            if self.flights.get(&key).is_some_and(|flight| flight.fetcher() == from) {
                self.flights.remove(&key);
            }
            return;
        }
        if !self.flights.contains_key(&key) {
            self.open(now, key, from);
        }
        if let Some(flight) = self.flights.get_mut(&key).filter(|flight| flight.fetcher() == from) {
            flight.landed = true;
            flight.until = now + AFTERGLOW;
        }
    }

    /// This node's own flight has got on.
    pub(crate) fn progressed(&mut self, now: Instant, key: Key) {
        if let Some(last) = self.leases.get_mut(&key) {
            *last = now;
        }
    }

    /// This node's own flight has ended.
    pub(crate) fn ended(&mut self, scene: &Scene<'_>, key: Key, stored: bool, out: &mut Outbox) {
        self.asked.remove(&key);
        if self.leases.remove(&key).is_some() {
            self.tell_ended(scene, key, stored, out);
        }
    }

    /// This node has taken a copy for another. Gossip of it may take seconds in a large site, and whom it was taken from may be gone before:
    /// until then who claims it is sent here.
    pub(crate) fn taken(&mut self, scene: &Scene<'_>, key: Key, out: &mut Outbox) {
        self.tell_ended(scene, key, true, out);
    }

    fn tell_ended(&mut self, scene: &Scene<'_>, key: Key, stored: bool, out: &mut Outbox) {
        let (home, deputy) = scene.homes(key, &self.silent_until);
        for node in home.into_iter().chain(deputy) {
            if node == scene.own {
                self.ended_at(scene.now, scene.own, key, stored);
            } else {
                out.send(node, Message::Ended(key, stored));
            }
        }
    }

    /// Members came or went: new homes should hear of this node's flights at once.
    pub(crate) fn homes_changed(&mut self, now: Instant) {
        self.renew_at = self.renew_at.min(now);
    }

    /// A member is gone: what it fetched is free to be claimed.
    pub(crate) fn gone(&mut self, node: NodeId) {
        self.flights.retain(|_, flight| flight.fetcher() != node || flight.landed);
        for flight in self.flights.values_mut() {
            flight.remove(node);
        }
        self.flights.retain(|_, flight| !flight.participants.is_empty());
        self.silent_until.remove(&node);
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        let asked = self.asked.values().map(|asked| asked.until).min();
        asked.into_iter().chain((!self.leases.is_empty()).then_some(self.renew_at)).min()
    }

    pub(crate) fn advance(&mut self, scene: &Scene<'_>, out: &mut Outbox) {
        for asked in self.asked.values_mut().filter(|asked| scene.now.since(asked.until) > OVERSLEPT) {
            asked.until = scene.now + PATIENCE;
        }
        let silent: Vec<Key> =
            self.asked.iter().filter(|(_, asked)| asked.until <= scene.now).map(|(key, _)| *key).collect();
        for key in silent {
            self.pass_over(scene, key, out);
        }
        if !self.leases.is_empty() && self.renew_at <= scene.now {
            self.renew(scene, out);
        }
    }

    /// Forgets what has expired; once a second will do.
    pub(crate) fn tidy(&mut self, now: Instant) {
        self.flights.retain(|_, flight| now < flight.until);
        self.silent_until.retain(|_, until| now < *until);
    }

    /// The home was silent: ask the deputy, or else go alone.
    fn pass_over(&mut self, scene: &Scene<'_>, key: Key, out: &mut Outbox) {
        let Some(asked) = self.asked.remove(&key) else {
            return;
        };
        self.silent_until.insert(asked.home, scene.now + SILENCE);
        match asked.deputy {
            Some(deputy) if deputy == scene.own => {
                let verdict = self.judge(scene, scene.own, key, asked.broken);
                self.settle(scene, key, verdict, out);
            }
            Some(deputy) => {
                out.send(deputy, Message::Claim(key, asked.broken));
                self.asked.insert(key, Asked { home: deputy, deputy: None, until: scene.now + PATIENCE, ..asked });
            }
            None => {
                // Not shared, but told as soon as somebody listens.
                self.lease(scene, key, out);
                out.push(Output::Granted { key, shared: false });
            }
        }
    }

    fn settle(&mut self, scene: &Scene<'_>, key: Key, verdict: Verdict, out: &mut Outbox) {
        match verdict {
            Verdict::Follow(peer) if peer != scene.own => out.push(Output::Follow { key, peer }),
            Verdict::Follow(_) | Verdict::Granted => {
                self.lease(scene, key, out);
                out.push(Output::Granted { key, shared: true });
            }
        }
    }

    /// Holds a lease, and tells home and deputy.
    fn lease(&mut self, scene: &Scene<'_>, key: Key, out: &mut Outbox) {
        if self.leases.len() >= FLIGHTS_MAX {
            return;
        }
        if self.leases.is_empty() {
            self.renew_at = scene.now + RENEW_EVERY;
        }
        self.leases.insert(key, scene.now);
        let (home, deputy) = scene.homes(key, &self.silent_until);
        self.tell(scene, home.into_iter().chain(deputy).map(|node| (node, key)), out);
    }

    fn renew(&mut self, scene: &Scene<'_>, out: &mut Outbox) {
        self.renew_at = scene.now + RENEW_EVERY;
        self.leases.retain(|_, last| scene.now.since(*last) < STUCK);
        let mut tell = Vec::new();
        for key in self.leases.keys() {
            let (home, deputy) = scene.homes(*key, &self.silent_until);
            tell.extend(home.into_iter().chain(deputy).map(|node| (node, *key)));
        }
        self.tell(scene, tell, out);
    }

    fn tell(&mut self, scene: &Scene<'_>, keys: impl IntoIterator<Item = (NodeId, Key)>, out: &mut Outbox) {
        let mut lists: BTreeMap<NodeId, Vec<Key>> = BTreeMap::new();
        for (node, key) in keys {
            lists.entry(node).or_default().push(key);
        }
        for (node, keys) in lists {
            if node == scene.own {
                self.renewed(scene.now, scene.own, &keys);
                continue;
            }
            for some in keys.chunks(KEYS_MAX) {
                out.send(node, Message::Renew(Few::of(some.iter().copied())));
            }
        }
    }

    fn is_under_way(&self, now: Instant, key: Key) -> bool {
        self.flights.get(&key).is_some_and(|flight| now < flight.until)
    }

    /// What a home says.
    fn judge(&mut self, scene: &Scene<'_>, asker: NodeId, key: Key, broken: Option<NodeId>) -> Verdict {
        let now = scene.now;
        if let Some(flight) = self.flights.get_mut(&key).filter(|flight| now < flight.until) {
            if let Some(broken) = broken {
                flight.remove(broken);
            }
            flight.detach(asker);
            if !flight.participants.is_empty() && flight.fetcher() != asker {
                return Verdict::Follow(flight.seat(asker));
            }
        }
        self.open(now, key, asker);
        Verdict::Granted
    }

    fn open(&mut self, now: Instant, key: Key, fetcher: NodeId) {
        if self.flights.len() < FLIGHTS_MAX || self.flights.contains_key(&key) {
            self.flights.insert(key, Flight::of(fetcher, now));
        }
    }
}

impl Flight {
    fn of(fetcher: NodeId, now: Instant) -> Self {
        let root = Participant { node: fetcher, parent: fetcher, children: 0 };
        Self { participants: alloc::vec![root], until: now + LEASE, landed: false }
    }

    fn fetcher(&self) -> NodeId {
        self.participants[0].node
    }

    /// Finds a place in the tree: under the earliest with room that does not itself read from the asker.
    fn seat(&mut self, asker: NodeId) -> NodeId {
        let found = (0..self.participants.len())
            .find(|place| {
                self.participants[*place].children < FANOUT && !self.reads_from(self.participants[*place].node, asker)
            })
            .unwrap_or(0);
        self.participants[found].children += 1;
        let parent = self.participants[found].node;
        if let Some(known) = self.participants.iter_mut().find(|participant| participant.node == asker) {
            known.parent = parent;
        } else if self.participants.len() < PARTICIPANTS_MAX {
            self.participants.push(Participant { node: asker, parent, children: 0 });
        }
        parent
    }

    /// Whether `node` reads from `source`, at once or through others; or is it.
    fn reads_from(&self, node: NodeId, source: NodeId) -> bool {
        let mut at = node;
        for _ in 0..=self.participants.len() {
            if at == source {
                return true;
            }
            match self.participants.iter().find(|participant| participant.node == at) {
                Some(participant) if participant.parent != at => at = participant.parent,
                _ => return false,
            }
        }
        true
    }

    /// Takes `node` off the one that it reads from: it asks for another.
    fn detach(&mut self, node: NodeId) {
        let Some(parent) = self
            .participants
            .iter()
            .skip(1)
            .find(|participant| participant.node == node)
            .map(|participant| participant.parent)
        else {
            return;
        };
        if let Some(parent) = self.participants.iter_mut().find(|participant| participant.node == parent) {
            parent.children = parent.children.saturating_sub(1);
        }
    }

    /// Strikes a node that broke. Without a fetcher the flight is over: the next who asks is granted.
    fn remove(&mut self, node: NodeId) {
        if self.participants.first().is_some_and(|fetcher| fetcher.node == node) {
            self.participants.clear();
        } else {
            self.detach(node);
            self.participants.retain(|participant| participant.node != node);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(number: u8) -> NodeId {
        NodeId([number; 16])
    }

    const KEY: Key = Key([9; 16]);

    fn at(millis: u64) -> Instant {
        Instant::from_micros(millis * 1000)
    }

    fn home_with_claims(askers: impl Iterator<Item = u8>) -> (Claims, Vec<Verdict>) {
        let (mut claims, homes) = (Claims::default(), [node(1)]);
        let scene = Scene { now: at(0), own: node(1), homes: &homes };
        let verdicts = askers.map(|asker| claims.judge(&scene, node(asker), KEY, None)).collect();
        (claims, verdicts)
    }

    #[test]
    fn one_is_granted_and_nobody_feeds_more_than_four() {
        let (_, verdicts) = home_with_claims(2..=100);
        assert_eq!(verdicts.iter().filter(|verdict| **verdict == Verdict::Granted).count(), 1);
        for source in 2..=100 {
            assert!(verdicts.iter().filter(|verdict| **verdict == Verdict::Follow(node(source))).count() <= FANOUT);
        }
    }

    #[test]
    fn a_broken_fetcher_is_replaced_by_the_first_who_says_so() {
        let (mut claims, _) = home_with_claims(2..=9);
        let homes = [node(1)];
        let scene = Scene { now: at(10), own: node(1), homes: &homes };
        assert_eq!(claims.judge(&scene, node(3), KEY, Some(node(2))), Verdict::Granted);
        assert_eq!(claims.judge(&scene, node(4), KEY, Some(node(2))), Verdict::Follow(node(3)));
    }

    #[test]
    fn nobody_is_made_to_follow_its_own_followers() {
        let (mut claims, _) = home_with_claims(2..=40);
        let homes = [node(1)];
        let scene = Scene { now: at(10), own: node(1), homes: &homes };
        for asker in (3..=40).chain(3..=40) {
            claims.judge(&scene, node(asker), KEY, Some(node(200)));
            let flight = &claims.flights[&KEY];
            assert!(
                (3..=40).all(|other| flight.reads_from(node(other), node(2))),
                "all read from the fetcher in the end"
            );
        }
    }

    #[test]
    fn leases_end_without_renewal_and_a_landing_is_remembered() {
        let (mut claims, _) = home_with_claims(2..=2);
        let homes = [node(1)];
        let later = Scene { now: at(1900), own: node(1), homes: &homes };
        claims.renewed(later.now, node(2), &[KEY]);
        let scene = Scene { now: at(3800), ..later };
        assert_eq!(claims.judge(&scene, node(3), KEY, None), Verdict::Follow(node(2)));
        claims.ended_at(scene.now, node(2), KEY, true);
        let scene = Scene { now: at(13_000), ..scene };
        assert_eq!(claims.judge(&scene, node(4), KEY, None), Verdict::Follow(node(2)));
        let scene = Scene { now: at(14_000), ..scene };
        assert_eq!(claims.judge(&scene, node(5), KEY, None), Verdict::Granted);
    }

    #[test]
    fn a_silent_home_is_passed_over_and_then_nobody_is_waited_for() {
        let homes = [node(1), node(2), node(3)];
        let (first, second) = home_and_deputy(KEY, homes);
        let own = homes.into_iter().find(|node| Some(*node) != first && Some(*node) != second).unwrap();
        let (mut claims, mut out) = (Claims::default(), Outbox::default());
        let scene = |now| Scene { now, own, homes: &homes };
        claims.claim(&scene(at(0)), KEY, None, &mut out);
        assert_eq!(out.messages(), [(first.unwrap(), Message::Claim(KEY, None))]);
        assert_eq!(claims.deadline(), Some(at(50)));
        claims.advance(&scene(at(50)), &mut out);
        assert_eq!(out.messages(), [(second.unwrap(), Message::Claim(KEY, None))]);
        claims.advance(&scene(at(100)), &mut out);
        assert!(core::iter::from_fn(|| out.pop()).any(|output| output == Output::Granted { key: KEY, shared: false }));
        // A late answer changes nothing any more.
        claims.verdict(&scene(at(101)), second.unwrap(), KEY, Verdict::Follow(node(7)), &mut out);
        assert_eq!(out.pop(), None);
    }

    #[test]
    fn who_was_asleep_itself_waits_for_the_answer_a_little_longer() {
        let homes = [node(1), node(2), node(3)];
        let (first, second) = home_and_deputy(KEY, homes);
        let own = homes.into_iter().find(|node| Some(*node) != first && Some(*node) != second).unwrap();
        let (mut claims, mut out) = (Claims::default(), Outbox::default());
        let scene = |now| Scene { now, own, homes: &homes };
        claims.claim(&scene(at(0)), KEY, None, &mut out);
        out.messages();
        claims.advance(&scene(at(4000)), &mut out);
        assert_eq!((out.pop(), claims.deadline()), (None, Some(at(4050))));
        claims.verdict(&scene(at(4001)), first.unwrap(), KEY, Verdict::Follow(node(7)), &mut out);
        assert_eq!(out.pop(), Some(Output::Follow { key: KEY, peer: node(7) }));
    }
}

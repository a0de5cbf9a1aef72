//! What was forgotten on purpose: an order of one node that all others follow, those that are away as soon as they are back.
//!
//! Whoever has heard of an order remembers it for a while, and tells it to everybody whom it meets. An order says how long ago it was
//! given: what upstream has confirmed since then is another matter, and stays. Nobody is told what to keep or to serve: the worst that
//! an order can do is that something has to be fetched again.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;
use core::time::Duration;

use crate::identity::{Key, NodeId};
use crate::message::{Cause, Forget, Message, What};
use crate::outbox::Outbox;
use crate::output::Output;
use crate::time::Instant;

/// How long an order is remembered. Who is away for longer may still have what was forgotten.
const REMEMBERED: Duration = Duration::from_secs(7 * 24 * 3600);
/// Orders remembered; the oldest go first.
const ORDERS_MAX: usize = 256;
/// Of those, about all below a URL: following one takes a while.
const BELOW_MAX: usize = 16;
/// Who has not answered by then is not waited for.
const PATIENCE: Duration = Duration::from_secs(5);
/// Orders of this node for whose answers somebody waits at once.
const ASKED_MAX: usize = 64;
/// Orders of others that this node is following at once. Further ones are as good as not heard of.
const FOLLOWING_MAX: usize = ORDERS_MAX;

/// Orders heard of, given, and being followed.
#[derive(Debug, Default)]
pub(crate) struct Forgetting {
    orders: VecDeque<Order>,
    asked: BTreeMap<u64, Asked>,
    /// With who wants to know what came of it.
    following: BTreeMap<u64, Option<NodeId>>,
}

#[derive(Debug)]
struct Order {
    id: u64,
    what: What,
    cause: Cause,
    at: Instant,
}

/// An order of this node's, whose outcome is waited for.
#[derive(Debug)]
struct Asked {
    waiting: Vec<NodeId>,
    silent: Vec<NodeId>,
    nodes: u32,
    objects: u64,
    until: Instant,
}

impl Forgetting {
    /// This node wants all to forget something. With somebody who waits for what comes of it the answers of `members` are counted;
    /// `peers`, who may only look dead, are told, too.
    pub(crate) fn order(
        &mut self,
        now: Instant,
        forget: (u64, What, Cause),
        is_waited_for: bool,
        (peers, members): (Vec<NodeId>, Vec<NodeId>),
        out: &mut Outbox,
    ) {
        let (id, what, cause) = forget;
        let answer = is_waited_for && self.asked.len() < ASKED_MAX;
        for peer in &peers {
            let what = what.clone();
            out.send(*peer, Message::Forget(Forget { id, age: 0, cause, answer, what }));
        }
        self.remember(Order { id, what, cause, at: now });
        if is_waited_for {
            let (waiting, silent) = if answer { (members, Vec::new()) } else { (Vec::new(), members) };
            self.asked.insert(id, Asked { waiting, silent, nodes: 0, objects: 0, until: now + PATIENCE });
            self.settle(id, out);
        }
    }

    /// A peer tells of an order, its own or another's.
    pub(crate) fn told(&mut self, now: Instant, from: NodeId, forget: Forget, out: &mut Outbox) {
        let Forget { id, age, cause, answer, what } = forget;
        let is_news = !self.orders.iter().any(|order| order.id == id);
        let is_too_much = self.following.len() >= FOLLOWING_MAX;
        if !is_news || is_too_much || age >= millis(REMEMBERED) || !what.is_sensible() {
            if answer {
                out.send(from, Message::Forgot(id, 0));
            }
            return;
        }
        let age = Duration::from_millis(age);
        let at = Instant::from_micros(now.as_micros().saturating_sub(age.as_micros() as u64));
        self.remember(Order { id, what: what.clone(), cause, at });
        self.following.insert(id, answer.then_some(from));
        out.push(Output::Forget { id, what, cause, age });
    }

    /// This node has followed an order, and so many objects went.
    pub(crate) fn followed(&mut self, id: u64, objects: u64, out: &mut Outbox) {
        if let Some(Some(asker)) = self.following.remove(&id) {
            out.send(asker, Message::Forgot(id, objects));
        }
    }

    /// A peer has followed an order of this node.
    pub(crate) fn answered(&mut self, from: NodeId, id: u64, objects: u64, out: &mut Outbox) {
        let Some(asked) = self.asked.get_mut(&id) else { return };
        let Some(place) = asked.waiting.iter().position(|peer| *peer == from) else { return };
        asked.waiting.swap_remove(place);
        asked.nodes += u32::from(objects > 0);
        asked.objects = asked.objects.saturating_add(objects);
        self.settle(id, out);
    }

    /// Tells one who has just been met of all that it may have missed.
    pub(crate) fn introduce(&self, now: Instant, peer: NodeId, out: &mut Outbox) {
        for order in self.orders.iter().filter(|order| now.since(order.at) < REMEMBERED) {
            let Order { id, what, cause, at } = order;
            let (age, what) = (millis(now.since(*at)), what.clone());
            out.send(peer, Message::Forget(Forget { id: *id, age, cause: *cause, answer: false, what }));
        }
    }

    /// Was this, which upstream has confirmed so long ago, to be forgotten since? Why, if it was.
    pub(crate) fn is_forgotten(&self, now: Instant, keys: &[Key], url: &str, age: Duration) -> Option<Cause> {
        let concerns = |order: &&Order| now.since(order.at) <= age && order.what.concerns(keys, url);
        // A purge counts for more than that upstream has none of it.
        self.orders.iter().filter(concerns).map(|order| order.cause).max()
    }

    /// A peer is gone: its answer is not waited for.
    pub(crate) fn parted(&mut self, peer: NodeId, out: &mut Outbox) {
        let concerned: Vec<u64> =
            self.asked.iter().filter(|(_, asked)| asked.waiting.contains(&peer)).map(|(id, _)| *id).collect();
        for id in concerned {
            if let Some(asked) = self.asked.get_mut(&id) {
                asked.waiting.retain(|waiting| *waiting != peer);
                asked.silent.push(peer);
            }
            self.settle(id, out);
        }
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.asked.values().map(|asked| asked.until).min()
    }

    /// Who has been waited for long enough is not waited for any longer.
    pub(crate) fn advance(&mut self, now: Instant, out: &mut Outbox) {
        let late: Vec<u64> = self.asked.iter().filter(|(_, asked)| asked.until <= now).map(|(id, _)| *id).collect();
        for id in late {
            if let Some(asked) = self.asked.get_mut(&id) {
                asked.silent.append(&mut asked.waiting);
            }
            self.settle(id, out);
        }
    }

    /// Forgets what is old; once in a while will do.
    pub(crate) fn tidy(&mut self, now: Instant) {
        self.orders.retain(|order| now.since(order.at) < REMEMBERED);
    }

    fn settle(&mut self, id: u64, out: &mut Outbox) {
        if self.asked.get(&id).is_some_and(|asked| asked.waiting.is_empty())
            && let Some(Asked { silent, nodes, objects, .. }) = self.asked.remove(&id)
        {
            out.push(Output::Forgotten { id, objects, nodes, silent });
        }
    }

    /// The same once more takes the place of what was said before.
    fn remember(&mut self, order: Order) {
        self.orders.retain(|known| (&known.what, known.cause) != (&order.what, order.cause));
        let is_below = |order: &Order| matches!(order.what, What::Below(_));
        if is_below(&order) && self.orders.iter().filter(|order| is_below(order)).count() == BELOW_MAX {
            let first = self.orders.iter().position(is_below);
            first.map(|first| self.orders.remove(first));
        }
        if self.orders.len() == ORDERS_MAX {
            self.orders.pop_front();
        }
        self.orders.push_back(order);
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Few, FewBytes};

    const KEY: Key = Key([9; 16]);

    fn node(number: u8) -> NodeId {
        NodeId([number; 16])
    }

    fn at(millis: u64) -> Instant {
        Instant::from_micros(millis * 1000)
    }

    fn keys() -> What {
        What::Keys(Few::of([KEY]))
    }

    fn told(id: u64, age: u64, what: What) -> Forget {
        Forget { id, age, cause: Cause::Purged, answer: true, what }
    }

    #[test]
    fn the_answers_of_all_are_counted_and_nobody_is_waited_for_without_end() {
        let (mut own, mut out) = (Forgetting::default(), Outbox::default());
        let (peers, members) = ((2..=6).map(node).collect(), (2..=5).map(node).collect());
        own.order(at(0), (7, keys(), Cause::Purged), true, (peers, members), &mut out);
        assert_eq!(out.messages().len(), 5);
        own.answered(node(2), 7, 3, &mut out);
        own.answered(node(2), 7, 3, &mut out);
        own.answered(node(3), 7, 0, &mut out);
        own.answered(node(9), 7, 100, &mut out);
        own.parted(node(4), &mut out);
        assert_eq!((out.pop(), own.deadline()), (None, Some(at(5000))));
        own.advance(at(5000), &mut out);
        let silent = alloc::vec![node(4), node(5)];
        assert_eq!(out.pop(), Some(Output::Forgotten { id: 7, objects: 3, nodes: 1, silent }));
        own.answered(node(5), 7, 1, &mut out);
        assert_eq!((out.pop(), own.deadline()), (None, None));
    }

    #[test]
    fn an_order_is_followed_once_and_told_on_as_old_as_it_is() {
        let (mut own, mut out) = (Forgetting::default(), Outbox::default());
        own.told(at(10_000), node(2), told(7, 4000, keys()), &mut out);
        let (what, age) = (keys(), Duration::from_secs(4));
        assert_eq!(out.pop(), Some(Output::Forget { id: 7, what, cause: Cause::Purged, age }));
        own.followed(7, 1, &mut out);
        assert_eq!(out.messages(), [(node(2), Message::Forgot(7, 1))]);
        own.told(at(11_000), node(3), told(7, 0, keys()), &mut out);
        assert_eq!(out.messages(), [(node(3), Message::Forgot(7, 0))], "no news");
        own.introduce(at(12_000), node(4), &mut out);
        let again = Forget { answer: false, ..told(7, 6000, keys()) };
        assert_eq!(out.messages(), [(node(4), Message::Forget(again))]);
    }

    #[test]
    fn what_upstream_has_confirmed_since_is_not_forgotten() {
        let (mut own, mut out) = (Forgetting::default(), Outbox::default());
        let below = |prefix: &[u8]| What::Below(FewBytes::of(prefix));
        own.order(at(60_000), (1, keys(), Cause::Gone), false, Default::default(), &mut out);
        own.order(at(60_000), (2, below(b"http://example.org/a"), Cause::Purged), false, Default::default(), &mut out);
        assert_eq!(out.pop(), None);
        let ask = |key: Key, url: &str, age: u64| {
            own.is_forgotten(at(70_000), &[Key([1; 16]), key], url, Duration::from_secs(age))
        };
        assert_eq!(ask(KEY, "http://example.org/b", 10), Some(Cause::Gone));
        assert_eq!(ask(KEY, "http://example.org/b", 9), None);
        assert_eq!(ask(KEY, "http://example.org/a/c", 10), Some(Cause::Purged), "a purge counts for more");
        assert_eq!(ask(Key([2; 16]), "http://example.org/a/c", 10), Some(Cause::Purged));
        assert_eq!(ask(Key([2; 16]), "http://example.org/a/c", 9), None);
        assert_eq!(ask(Key([2; 16]), "http://example.org/b", 100), None);
    }

    #[test]
    fn what_is_remembered_and_done_at_once_has_bounds() {
        let (mut own, mut out) = (Forgetting::default(), Outbox::default());
        for id in 0..10_000 {
            let mut key = [0; 16];
            key[..8].copy_from_slice(&u64::to_le_bytes(id));
            own.told(at(id), node(2), told(id, 0, What::Keys(Few::of([Key(key)]))), &mut out);
        }
        assert_eq!((own.orders.len(), own.following.len()), (ORDERS_MAX, FOLLOWING_MAX));
        own.following.clear();
        for id in 10_000..10_100u64 {
            let prefix = alloc::format!("http://example.org/{id}/");
            own.told(at(id), node(2), told(id, 0, What::Below(FewBytes::of(prefix.as_bytes()))), &mut out);
        }
        assert_eq!((own.orders.len(), own.following.len()), (ORDERS_MAX, 100));
        assert_eq!(own.orders.iter().filter(|order| matches!(order.what, What::Below(_))).count(), BELOW_MAX);
        // An order for all there is, or from before anybody's time, is none.
        for (id, age, what) in [
            (20_001, 0, What::Below(FewBytes::of(b"http://"))),
            (20_002, 0, What::Below(FewBytes::of(b""))),
            (20_003, u64::MAX, keys()),
        ] {
            own.told(at(20_000), node(2), told(id, age, what), &mut out);
            assert!(own.orders.iter().all(|order| order.id != id));
        }
        own.tidy(at(20_000) + REMEMBERED);
        assert!(own.orders.is_empty());
    }
}

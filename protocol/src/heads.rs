//! News of every node: the newest head of each, and its spreading by gossip.
//!
//! A head that is news is passed on in a few rounds to a few members each; nothing is sent when there is no news.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::time::Duration;

use crate::identity::NodeId;
use crate::message::{HEADS_MAX, Head, Message};
use crate::outbox::Outbox;
use crate::random::Random;
use crate::time::Instant;
use crate::wire::GrownFew;

/// Between two rounds.
const ROUND: Duration = Duration::from_millis(200);
/// Members told in each round.
const FANOUT: usize = 3;

/// The newest heads and those still to be passed on.
#[derive(Clone, Debug, Default)]
pub(crate) struct Heads {
    newest: BTreeMap<NodeId, Head>,
    /// How many more rounds each is part of.
    rumours: BTreeMap<NodeId, u8>,
    next_round: Instant,
}

impl Heads {
    /// Takes note of a head. True when it is news, which is then passed on in rounds that suit a site of `members` nodes. Not so the first
    /// of a node: it tells that one itself to everybody it meets, and at a cold start there is one for each pair.
    pub(crate) fn learn(&mut self, now: Instant, head: Head, members: usize) -> bool {
        let known = self.newest.get(&head.node).map(|known| (known.epoch, known.beat));
        let news = known.is_none_or(|known| (head.epoch, head.beat) > known);
        if news {
            self.newest.insert(head.node, head);
        }
        if news && known.is_some() {
            if self.rumours.is_empty() {
                self.next_round = self.next_round.max(now);
            }
            let rounds = (members + 1).ilog2() / 2 + 2;
            self.rumours.insert(head.node, rounds as u8);
        }
        news
    }

    pub(crate) fn of(&self, node: NodeId) -> Option<&Head> {
        self.newest.get(&node)
    }

    /// Forgets what was known of a node that is gone: should it come back, it says everything anew.
    pub(crate) fn forget(&mut self, node: NodeId) {
        self.newest.remove(&node);
        self.rumours.remove(&node);
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        (!self.rumours.is_empty()).then_some(self.next_round)
    }

    /// Passes the newest news on.
    pub(crate) fn round(&mut self, now: Instant, connected: &[NodeId], random: &mut Random, out: &mut Outbox) {
        if self.rumours.is_empty() || now < self.next_round {
            return;
        }
        self.next_round = now + ROUND;
        let mut freshest: Vec<(u8, NodeId)> = self.rumours.iter().map(|(node, rounds)| (*rounds, *node)).collect();
        freshest.sort_unstable_by_key(|(rounds, node)| (core::cmp::Reverse(*rounds), *node));
        freshest.truncate(HEADS_MAX);
        let message =
            Message::Heads(GrownFew::of(freshest.iter().filter_map(|(_, node)| self.newest.get(node).copied())));
        for peer in random.pick(connected, FANOUT) {
            out.send(peer, message.clone());
        }
        for (rounds, node) in freshest {
            if rounds > 1 {
                self.rumours.insert(node, rounds - 1);
            } else {
                self.rumours.remove(&node);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Incarnation;

    #[test]
    fn only_what_is_news_after_the_first_is_passed_on() {
        let (mut heads, mut out, mut random) = (Heads::default(), Outbox::default(), Random::seeded(1));
        let now = Instant::from_micros(1_000_000);
        let node = NodeId([1; 16]);
        let head = Head {
            node,
            epoch: Incarnation(1),
            beat: 1,
            sequence: 0,
            count: 0,
            load: 0,
            room: 0,
            draining: false,
            bytes: 0,
        };
        assert!(heads.learn(now, head, 9));
        assert_eq!(heads.deadline(), None, "it has told everybody itself");
        assert!(!heads.learn(now, head, 9));
        assert!(heads.learn(now, Head { beat: 2, ..head }, 9));
        let mut rounds = 0;
        while let Some(at) = heads.deadline() {
            heads.round(at, &[NodeId([2; 16])], &mut random, &mut out);
            rounds += 1;
        }
        assert_eq!((rounds, out.messages().len()), (3, 3));
    }
}

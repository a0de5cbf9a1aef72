//! Freshness confirmed once for the site: who asks upstream whether a stored answer is still current, and who is told.
//!
//! Ages are measured by each node's own clock from the moment at which upstream was asked, so that an answer never looks younger
//! than it is.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::time::Duration;

use crate::claims::Scene;
use crate::identity::{Key, NodeId, Version};
use crate::message::{Freshness, Message};
use crate::outbox::Outbox;
use crate::output::Output;
use crate::rendezvous::home;
use crate::time::Instant;

/// How long a home may take to say anything.
const PATIENCE: Duration = Duration::from_millis(50);
/// How long somebody else's question to upstream may take before one asks oneself.
const WAIT: Duration = Duration::from_secs(5);
/// Confirmations remembered by a home.
const KNOWN_MAX: usize = 16 * 1024;
/// How long they are.
const REMEMBERED: Duration = Duration::from_secs(600);
/// Who waits for one answer; further ones ask upstream themselves.
const WAITING_MAX: usize = 256;

/// Questions asked, and what this node knows as a home.
#[derive(Clone, Debug, Default)]
pub(crate) struct Confirmations {
    asked: BTreeMap<Key, Instant>,
    known: BTreeMap<Key, Known>,
}

#[derive(Clone, Debug, Default)]
struct Known {
    confirmed: Option<(Version, Instant, NodeId)>,
    /// Who is asking upstream, and until when that is believed.
    asking: Option<(NodeId, Instant)>,
    waiting: Vec<NodeId>,
}

impl Confirmations {
    /// This node wants to know whether upstream has confirmed `key` within `age`.
    pub(crate) fn confirm(&mut self, scene: &Scene<'_>, key: Key, age: Duration, out: &mut Outbox) {
        match home(key, scene.homes.iter().copied()) {
            Some(home) if home != scene.own => {
                self.asked.insert(key, scene.now + PATIENCE);
                out.send(home, Message::Confirm(key, millis(age)));
            }
            _ => {
                let answer = self.judge(scene.now, scene.own, key, age);
                self.settle(scene.now, key, answer, out);
            }
        }
    }

    /// A peer wants to know.
    pub(crate) fn asked(&mut self, now: Instant, from: NodeId, key: Key, age: u32, out: &mut Outbox) {
        let answer = self.judge(now, from, key, Duration::from_millis(u64::from(age)));
        out.send(from, Message::Freshness(key, answer));
    }

    /// A home answers.
    pub(crate) fn answered(&mut self, now: Instant, key: Key, answer: Freshness, out: &mut Outbox) {
        if self.asked.remove(&key).is_some() {
            self.settle(now, key, answer, out);
        }
    }

    /// This node has asked upstream, `ago`.
    pub(crate) fn confirmed(
        &mut self,
        scene: &Scene<'_>,
        key: Key,
        version: Option<Version>,
        ago: Duration,
        out: &mut Outbox,
    ) {
        match home(key, scene.homes.iter().copied()) {
            Some(home) if home != scene.own => out.send(home, Message::Confirmed(key, version, millis(ago))),
            _ => self.reported(scene, scene.own, key, version, millis(ago), out),
        }
    }

    /// A peer has asked upstream, so many milliseconds ago.
    pub(crate) fn reported(
        &mut self,
        scene: &Scene<'_>,
        from: NodeId,
        key: Key,
        version: Option<Version>,
        ago: u32,
        out: &mut Outbox,
    ) {
        let now = scene.now;
        if self.known.len() >= KNOWN_MAX && !self.known.contains_key(&key) {
            return;
        }
        let known = self.known.entry(key).or_default();
        known.asking = known.asking.filter(|(node, _)| *node != from);
        let waiting = core::mem::take(&mut known.waiting);
        if let Some(version) = version {
            let before = Duration::from_millis(u64::from(ago));
            let asked_at = Instant::from_micros(now.as_micros().saturating_sub(before.as_micros() as u64));
            if known.confirmed.is_none_or(|(_, at, _)| at <= asked_at) {
                known.confirmed = Some((version, asked_at, from));
            }
        }
        for node in waiting {
            // Those who waited are told what there is; where there is nothing, the first of them asks and the others wait on.
            let answer = version.map_or_else(
                || self.judge(now, node, key, Duration::ZERO),
                |version| Freshness::Known { version, age: ago, by: from },
            );
            if node == scene.own {
                self.asked.remove(&key);
                self.settle(now, key, answer, out);
            } else {
                out.send(node, Message::Freshness(key, answer));
            }
        }
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.asked.values().min().copied()
    }

    /// Whoever has waited long enough asks upstream.
    pub(crate) fn advance(&mut self, now: Instant, out: &mut Outbox) {
        let late: Vec<Key> = self.asked.iter().filter(|(_, until)| **until <= now).map(|(key, _)| *key).collect();
        for key in late {
            self.asked.remove(&key);
            out.push(Output::AskUpstream(key));
        }
    }

    /// Forgets what is old; once a second will do.
    pub(crate) fn tidy(&mut self, now: Instant) {
        self.known.retain(|_, known| {
            let remembered = known.confirmed.is_some_and(|(_, at, _)| now.since(at) < REMEMBERED);
            remembered || known.asking.is_some_and(|(_, until)| now < until)
        });
    }

    fn settle(&mut self, now: Instant, key: Key, answer: Freshness, out: &mut Outbox) {
        match answer {
            Freshness::Yourself => out.push(Output::AskUpstream(key)),
            Freshness::Wait => {
                self.asked.insert(key, now + WAIT);
            }
            Freshness::Known { version, age, by } => {
                out.push(Output::Fresh { key, version, age: Duration::from_millis(u64::from(age)), by });
            }
        }
    }

    fn judge(&mut self, now: Instant, asker: NodeId, key: Key, age: Duration) -> Freshness {
        if self.known.len() >= KNOWN_MAX && !self.known.contains_key(&key) {
            return Freshness::Yourself;
        }
        let known = self.known.entry(key).or_default();
        if let Some((version, at, by)) = known.confirmed.filter(|(_, at, _)| now.since(*at) <= age) {
            return Freshness::Known { version, age: millis(now.since(at)), by };
        }
        let others = known.asking.is_some_and(|(node, until)| node != asker && now < until);
        if others && known.waiting.len() < WAITING_MAX {
            if !known.waiting.contains(&asker) {
                known.waiting.push(asker);
            }
            return Freshness::Wait;
        }
        known.asking = Some((asker, now + WAIT));
        Freshness::Yourself
    }
}

/// Rounded up: an answer may look older than it is, never younger.
fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_micros().div_ceil(1000)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: Key = Key([9; 16]);
    const VERSION: Version = Version([4; 16]);

    fn node(number: u8) -> NodeId {
        NodeId([number; 16])
    }

    fn at(millis: u64) -> Instant {
        Instant::from_micros(millis * 1000)
    }

    #[test]
    fn upstream_is_asked_once_for_all() {
        let (mut home, mut out) = (Confirmations::default(), Outbox::default());
        let homes = [node(1)];
        for asker in 2..=5 {
            home.asked(at(0), node(asker), KEY, 1000, &mut out);
        }
        let answers: Vec<_> = out.messages().into_iter().map(|(_, message)| message).collect();
        assert_eq!(answers[0], Message::Freshness(KEY, Freshness::Yourself));
        assert!(answers[1..].iter().all(|answer| *answer == Message::Freshness(KEY, Freshness::Wait)));
        let scene = Scene { now: at(300), own: node(1), homes: &homes };
        home.reported(&scene, node(2), KEY, Some(VERSION), 250, &mut out);
        let known = Message::Freshness(KEY, Freshness::Known { version: VERSION, age: 250, by: node(2) });
        assert_eq!(out.messages(), [3, 4, 5].map(|asker| (node(asker), known.clone())));
        home.asked(at(500), node(6), KEY, 1000, &mut out);
        assert_eq!(
            out.messages()[0].1,
            Message::Freshness(KEY, Freshness::Known { version: VERSION, age: 450, by: node(2) })
        );
        home.asked(at(1051), node(6), KEY, 1000, &mut out);
        assert_eq!(out.messages()[0].1, Message::Freshness(KEY, Freshness::Yourself));
    }

    #[test]
    fn when_upstream_fails_for_one_the_next_asks() {
        let (mut home, mut out) = (Confirmations::default(), Outbox::default());
        let homes = [node(1)];
        (2..=4).for_each(|asker| home.asked(at(0), node(asker), KEY, 0, &mut out));
        out.messages();
        home.reported(&Scene { now: at(10), own: node(1), homes: &homes }, node(2), KEY, None, 10, &mut out);
        let answers: Vec<_> = out.messages().into_iter().map(|(_, message)| message).collect();
        assert_eq!(answers, [Message::Freshness(KEY, Freshness::Yourself), Message::Freshness(KEY, Freshness::Wait)]);
    }

    #[test]
    fn a_silent_home_is_not_waited_for() {
        let (mut asker, mut out) = (Confirmations::default(), Outbox::default());
        let homes = [node(1)];
        asker.confirm(&Scene { now: at(0), own: node(2), homes: &homes }, KEY, Duration::from_secs(1), &mut out);
        assert_eq!(asker.deadline(), Some(at(50)));
        out.messages();
        asker.advance(at(50), &mut out);
        assert_eq!(out.pop(), Some(Output::AskUpstream(KEY)));
    }
}

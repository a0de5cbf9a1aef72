//! Copies: placed on other nodes because they are wanted or because this node leaves, and taken from others.

use alloc::vec::Vec;
use core::time::Duration;

use super::Cluster;
use crate::claims::Scene;
use crate::health::Outcome;
use crate::identity::{Key, NodeId};
use crate::message::Message;
use crate::output::{Output, Why};
use crate::rendezvous::home;
use crate::replication::{Place, choose};
use crate::time::Instant;

/// Copies that this node takes at once.
const COPYING_MAX: usize = 64;
/// What this node offers at once.
const OFFERS_MAX: usize = 64;
/// Who has not taken an offer by then will not.
const OFFER_PATIENCE: Duration = Duration::from_secs(30);
/// Nodes tried for one offer.
const TRIES: u8 = 3;

/// An offer of this node's that somebody should take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Offer {
    to: NodeId,
    until: Instant,
    tries: u8,
}

impl Cluster {
    /// As the home of what is popular.
    pub(super) fn place_copies(&mut self) {
        let mut replication = core::mem::replace(&mut self.replication, crate::replication::Replication::new(0));
        let own = self.own;
        let is_home = |key| home(key, self.homes.iter().copied()) == Some(own);
        let copies = replication.decide(self.now, own, is_home, |key| self.places(key));
        self.replication = replication;
        for (to, key, from) in copies {
            if to == own {
                self.take_copy(own, key, from);
            } else {
                self.send(to, Message::Copy(key, from));
            }
        }
    }

    /// All nodes that could hold a copy, this one too.
    fn places(&self, key: Key) -> Vec<Place> {
        let own = Place {
            node: self.own,
            load: self.head.load,
            room: self.head.room,
            holds: self.inventory.holds(key.short()),
            takes: !self.draining(),
        };
        let others = self.peers.greeted().filter(|peer| self.is_live(*peer)).filter_map(|node| {
            let head = self.heads.of(node)?;
            Some(Place {
                node,
                load: head.load,
                room: head.room,
                // One that leaves takes what it has with it.
                holds: !head.draining && self.mirrors.holds(node, key.short()),
                takes: !head.draining && !self.health.rank(self.now, node, head.load, key).0,
            })
        });
        core::iter::once(own).chain(others).collect()
    }

    /// A home, or one that leaves, wants this node to have a copy.
    pub(super) fn asked_to_copy(&mut self, asker: NodeId, key: Key, source: NodeId) {
        if self.inventory.holds(key.short()) {
            self.tell_taken(key);
            self.send(asker, Message::Copied(key, true));
        } else if self.draining() || source == self.own || !self.take_copy(asker, key, source) {
            self.send(asker, Message::Copied(key, false));
        }
    }

    fn take_copy(&mut self, asker: NodeId, key: Key, from: NodeId) -> bool {
        let room = self.copying.len() < COPYING_MAX && !self.copying.contains_key(&key);
        if room {
            self.copying.insert(key, asker);
            self.out.push(Output::Copy { key, from });
        }
        room
    }

    /// This node has taken a copy, or could not.
    pub(super) fn copied(&mut self, key: Key, done: bool) {
        let asker = self.copying.remove(&key);
        if done && asker.is_some() {
            self.tell_taken(key);
        }
        match asker {
            Some(asker) if asker == self.own => self.replication.copied(self.now, self.own, key, done),
            Some(asker) => self.send(asker, Message::Copied(key, done)),
            None => {}
        }
    }

    fn tell_taken(&mut self, key: Key) {
        let scene = Scene { now: self.now, own: self.own, homes: &self.homes };
        self.claims.taken(&scene, key, &mut self.out);
    }

    /// A peer has taken a copy, or could not.
    pub(super) fn copied_by(&mut self, from: NodeId, key: Key, done: bool) {
        self.replication.copied(self.now, from, key, done);
        let Some(offer) = self.offers.get(&key).copied().filter(|offer| offer.to == from) else {
            return;
        };
        self.offers.remove(&key);
        if done {
            self.out.push(Output::Handed { key, to: Some(from) });
        } else {
            self.offer_to_next(key, offer.tries, Some(from));
        }
    }

    pub(super) fn drain(&mut self, draining: bool) {
        if self.head.draining != draining {
            self.head.draining = draining;
            self.refresh_home(self.own);
            // Until all have heard of it some ask this node about a key and some the next home, and each may grant it.
            self.tell_all();
        }
    }

    pub(super) fn offer(&mut self, key: Key) {
        if self.offers.contains_key(&key) {
            return;
        }
        if self.copies_elsewhere(key) > 0 || self.offers.len() >= OFFERS_MAX {
            self.out.push(Output::Handed { key, to: None });
            return;
        }
        self.offer_to_next(key, TRIES, None);
    }

    fn offer_to_next(&mut self, key: Key, tries: u8, refused: Option<NodeId>) {
        let mut places = self.places(key);
        places.retain(|place| Some(place.node) != refused);
        places.iter_mut().for_each(|place| {
            place.holds = place.node == self.own;
            place.takes &= place.node != self.own;
        });
        match choose(&places, 2).filter(|_| tries > 0) {
            Some((to, from)) => {
                self.offers.insert(key, Offer { to, until: self.now + OFFER_PATIENCE, tries: tries - 1 });
                self.send(to, Message::Copy(key, from));
            }
            None => self.out.push(Output::Handed { key, to: None }),
        }
    }

    /// Offers to whom is gone or has not answered go to the next.
    pub(super) fn retry_offers(&mut self) {
        let now = self.now;
        let overdue: Vec<(Key, Offer)> = self
            .offers
            .iter()
            .filter(|(_, offer)| offer.until <= now || !self.is_live(offer.to))
            .map(|(key, offer)| (*key, *offer))
            .collect();
        for (key, offer) in overdue {
            self.offers.remove(&key);
            self.offer_to_next(key, offer.tries, Some(offer.to));
        }
    }

    /// What came of asking a peer for an object.
    pub(super) fn answered(&mut self, peer: NodeId, outcome: Outcome) {
        self.health.answered(self.now, peer, outcome);
        if outcome == Outcome::Wrong {
            self.out.misbehaved(peer, Why::WrongBytes);
        }
    }
}

//! What this node holds and what others do: heads, and the mirrors that follow them.

use alloc::vec::Vec;
use core::time::Duration;

use super::{Cluster, GATHER, RETHINK};
use crate::identity::{Key, NodeId};
use crate::message::{Demand, Head, Message, NAME_MAX, NameDemand, TOPS_MAX, Tops};
use crate::output::Output;
use crate::wire::{Few, FewBytes, GrownFew};

/// Between two heads of this node.
const HEAD_EVERY: Duration = Duration::from_millis(200);
/// Gossip may have lost this node's head: each peer is told it directly once in so many seconds while it is new, that is twice.
const DIRECT_EVERY: usize = 30;
const NEW: Duration = Duration::from_secs(2 * DIRECT_EVERY as u64);
/// Later once in so many seconds, should even that have been lost.
const AGAIN_EVERY: usize = 600;
/// Each peer is told what this node is asked for most once in so many seconds.
const TOPS_EVERY: usize = 60;
/// Load and room are told when they have changed by so much.
const LOAD_STEP: u8 = 16;
/// The bytes stored are told by themselves when they have changed by such a part.
const BYTES_STEP: u64 = 64;

impl Cluster {
    /// The store has a key, or no longer.
    pub(super) fn holding(&mut self, key: Key, added: bool) {
        if self.inventory.change(key.short(), added) {
            self.news();
        }
    }

    pub(super) fn loaded(&mut self, load: u8, room: u8, bytes: u64) {
        let moved = |before: u8, now: u8| before.abs_diff(now) >= LOAD_STEP || (before == 0) != (now == 0);
        // What people read of it may be a little old.
        let grown = self.head.bytes.abs_diff(bytes) > self.head.bytes / BYTES_STEP;
        if moved(self.head.load, load) || moved(self.head.room, room) || grown {
            (self.head.load, self.head.room, self.head.bytes) = (load, room, bytes);
            self.news();
        }
    }

    /// There is something to tell of this node, soon.
    pub(super) fn news(&mut self) {
        self.head_at = self.head_at.or(Some(self.now));
    }

    /// Passes on what is news, when it is time.
    pub(super) fn tell_news(&mut self) {
        let now = self.now;
        if self.head_at.is_some_and(|at| at <= now) {
            let next = self.head_told + HEAD_EVERY;
            if next <= now {
                self.renew_head();
            } else {
                self.head_at = Some(next);
            }
        }
        if self.heads.deadline().is_some_and(|at| at <= now) {
            let connected: Vec<NodeId> = self.peers.greeted().collect();
            self.heads.round(now, &connected, &mut self.random, &mut self.out);
        }
    }

    /// Tells every peer at once what is new of this node, for what can't wait.
    pub(super) fn tell_all(&mut self) {
        self.renew_head();
        for peer in self.peers.greeted().collect::<Vec<_>>() {
            self.introduce_own_head(peer);
        }
    }

    /// Brings this node's own head up to date.
    fn renew_head(&mut self) {
        self.head_at = None;
        self.head_told = self.now;
        self.head.beat = self.head.beat.saturating_add(1);
        self.head.sequence = self.inventory.sequence();
        self.head.count = self.inventory.count();
        self.heads.learn(self.now, self.head, self.membership.live().len());
    }

    /// To one who has just been met, or to all: nobody else will tell it so soon.
    pub(super) fn introduce_own_head(&mut self, peer: NodeId) {
        self.out.send_on_stream(peer, Message::Heads(GrownFew::of([self.head])));
    }

    /// Somebody has a head of somebody.
    pub(super) fn heard(&mut self, from: NodeId, head: Head) {
        let now = self.now;
        if head.node == from {
            self.peers.told(from);
        }
        if head.node == self.own {
            self.heard_of_myself(head);
            return;
        }
        // Of strangers nothing is kept, nor of lives that nobody has lived: there would be no end to it.
        let life = self.membership.live().get(&head.node).map(|contact| contact.incarnation);
        let sensible = life.map_or(head.node == from, |life| head.epoch <= life);
        if !sensible || !self.heads.learn(now, head, self.membership.live().len()) {
            return;
        }
        self.mirrors.announced(now, head.node, (head.epoch, head.sequence, head.count), &mut self.random);
        self.ask_soon();
        let home = self.homes.binary_search(&head.node).is_ok();
        if home == head.draining {
            self.refresh_home(head.node);
        }
    }

    /// A greater head of this node than it has told of: from a life before, or made up. What is true must be greater still.
    fn heard_of_myself(&mut self, head: Head) {
        if head.epoch > self.head.epoch {
            if head.epoch > self.membership.own().incarnation {
                return;
            }
            // Impossible for heads of a sound site: the epoch is never behind the lives that were told of.
            self.inventory.live_again(self.membership.own().incarnation);
            self.head.epoch = self.membership.own().incarnation;
        } else if head.epoch < self.head.epoch || head.beat <= self.head.beat {
            return;
        }
        self.head.beat = head.beat;
        self.news();
    }

    /// An answer to one of the questions about an inventory.
    pub(super) fn copied_inventory(&mut self, from: NodeId, message: Message) {
        let now = self.now;
        match message {
            Message::Delta(delta) => self.mirrors.delta(now, from, delta, &mut self.suspicions),
            Message::Page(page) => self.mirrors.page(now, from, &page, &mut self.suspicions),
            Message::Audit(audit) => self.mirrors.audit(now, from, &audit, &mut self.random),
            _ => {}
        }
        while let Some(output) = self.suspicions.pop() {
            if let Output::Misbehaved { peer, why } = output {
                self.offended(peer, why);
            }
        }
        self.ask_soon();
    }

    /// There is news of what somebody holds.
    pub(super) fn ask_soon(&mut self) {
        self.ask_at = self.ask_at.min(self.now.max(self.asked_at + GATHER));
    }

    /// Asks peers what they hold.
    pub(super) fn ask(&mut self) {
        let now = self.now;
        let (peers, members) = (&self.peers, self.membership.live());
        let connected = |peer| peers.is_greeted(peer) && members.contains_key(&peer);
        self.mirrors.ask(now, connected, &mut self.out);
        self.asked_at = now;
        let next = self.mirrors.deadline().unwrap_or(self.tick_at);
        self.ask_at = next.max(now + RETHINK);
    }

    /// Tells some peers, in turn, what gossip may have lost.
    pub(super) fn tell_in_turn(&mut self) {
        let greeted: Vec<NodeId> = self.peers.greeted().collect();
        let new = self.now.since(self.head_told) <= NEW;
        for peer in in_turn(&greeted, self.ticks, if new { DIRECT_EVERY } else { AGAIN_EVERY }) {
            self.send(peer, Message::Heads(GrownFew::of([self.head])));
        }
        let tops = self.own_tops();
        if tops.objects.is_empty() && tops.names.is_empty() {
            return;
        }
        for peer in in_turn(&greeted, self.ticks, TOPS_EVERY) {
            self.send(peer, Message::Tops(tops.clone()));
        }
    }

    fn own_tops(&self) -> Tops {
        let objects = self.replication.local().tops(self.now, TOPS_MAX);
        let names = self.names.tops(self.now, TOPS_MAX);
        Tops {
            objects: Few::of(objects.into_iter().map(|(key, amount)| Demand { key, amount })),
            names: Few::of(names.into_iter().map(|(name, amount)| NameDemand { name: FewBytes::of(&name), amount })),
        }
    }

    pub(super) fn requested_name(&mut self, name: &str, amount: u32) {
        let bytes = name.as_bytes();
        self.names.add(self.now, bytes[..bytes.len().min(NAME_MAX)].to_vec(), amount);
    }
}

/// Those whose turn it is, when everybody's comes once in `every` seconds.
fn in_turn(peers: &[NodeId], tick: u64, every: usize) -> Vec<NodeId> {
    let place = (tick % every as u64) as usize;
    peers[peers.len() * place / every..peers.len() * (place + 1) / every].to_vec()
}

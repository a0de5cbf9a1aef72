//! Messages: each goes to the part that owns it.

use super::Cluster;
use crate::claims::Scene;
use crate::identity::NodeId;
use crate::message::{Forget, Message, What};
use crate::output::Why;

/// Frames in one packet or stretch of a stream; a driver hands them on one by one or as they came.
const FRAMES_MAX: usize = 64;
/// A message costs one, and one more for each so many bytes.
const BYTES_PER_COST: usize = 512;

impl Cluster {
    pub(super) fn receive(&mut self, from: NodeId, bytes: &[u8]) {
        if from == self.own {
            return self.heard_own_key(bytes);
        }
        if !self.peers.is_connected(from) {
            return;
        }
        let mut rest = bytes;
        for _ in 0..FRAMES_MAX {
            if rest.is_empty() {
                return;
            }
            let (message, after) = match Message::decode(rest) {
                Ok(decoded) => decoded,
                Err(_) => return self.offended(from, Why::Malformed),
            };
            let length = rest.len() - after.len();
            rest = after;
            let (affordable, complain) = self.peers.afford(self.now, from, cost(message.as_ref(), length));
            if complain {
                self.offended(from, Why::Flood);
            }
            if !affordable {
                continue;
            }
            // A kind that this version does not know is skipped.
            let Some(message) = message else { continue };
            // A datagram may overtake the first words on the stream: it is as good as lost.
            if matches!(message, Message::Hello(_)) || self.peers.is_greeted(from) {
                self.dispatch(from, message);
            }
        }
        self.offended(from, Why::Flood);
    }

    fn dispatch(&mut self, from: NodeId, message: Message) {
        let now = self.now;
        let scene = Scene { now, own: self.own, homes: &self.homes };
        match message {
            Message::Hello(hello) => self.hello(from, &hello),
            Message::Swim(packet) => self.swim(from, &packet),
            Message::Members(members) => self.listed(from, &members),
            Message::Bye(incarnation) => self.bye(from, incarnation),

            Message::Heads(heads) => heads.iter().for_each(|head| self.heard(from, *head)),
            Message::Pull(epoch, after) => self.out.send(from, Message::Delta(self.inventory.delta(epoch, after))),
            Message::PageAsk(shape, index) => {
                if let Some(page) = self.inventory.page(shape, index) {
                    self.out.send(from, Message::Page(page));
                }
            }
            Message::AuditAsk(page_bits) => {
                if let Some(audit) = self.inventory.audit(page_bits) {
                    self.out.send(from, Message::Audit(audit));
                }
            }
            Message::Delta(_) | Message::Page(_) | Message::Audit(_) => self.copied_inventory(from, message),

            Message::Claim(key, broken) => {
                let holder = self.holder_for(from, key);
                let scene = Scene { now, own: self.own, homes: &self.homes };
                self.claims.claimed(&scene, from, key, broken, holder, &mut self.out);
            }
            Message::Verdict(key, verdict) => self.claims.verdict(&scene, from, key, verdict, &mut self.out),
            Message::Renew(keys) => self.claims.renewed(now, from, &keys),
            Message::Ended(key, stored) => self.claims.ended_at(now, from, key, stored),
            Message::Confirm(key, age) => self.confirmations.asked(now, from, key, age, &mut self.out),
            Message::Freshness(key, freshness) => {
                self.confirmations.answered(now, from, key, freshness, &mut self.out);
            }
            Message::Confirmed(key, version, ago) => {
                self.confirmations.reported(&scene, from, key, version, ago, &mut self.out);
            }

            Message::Forget(forget) => self.forgetting.told(now, from, forget, &mut self.out),
            Message::Forgot(id, objects) => self.forgetting.answered(from, id, objects, &mut self.out),
            Message::UsesUplink(is_used) => self.uplink.heard(from, is_used),

            Message::Demands(demands) => self.replication.reported(now, &demands),
            Message::Copy(key, source) => self.asked_to_copy(from, key, source),
            Message::Copied(key, done) => self.copied_by(from, key, done),
            Message::Tops(tops) => {
                self.tops.insert(from, (tops, now));
            }
        }
    }
}

/// What a message makes this node do, in units of a small one.
fn cost(message: Option<&Message>, bytes: usize) -> u32 {
    let work = match message {
        Some(Message::PageAsk(..)) => 64,
        Some(Message::Pull(..)) => 8,
        Some(Message::AuditAsk(..)) => 4,
        // All that is stored is looked at, or one thing on the disk. As many as are told to one just met are affordable at once.
        Some(Message::Forget(Forget { what: What::Below(_), .. })) => 1000,
        Some(Message::Forget(_)) => 8,
        _ => 1,
    };
    work + (bytes / BYTES_PER_COST) as u32
}

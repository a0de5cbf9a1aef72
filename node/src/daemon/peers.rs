//! What the site wants of this node, and what the node shows of the site.

use std::sync::{Arc, Weak};

use futures_util::future::BoxFuture;
use imirror_protocol::{MemberStatus, NodeId};
use tokio::sync::Semaphore;

use super::Parts;
use super::drain::Leaving;
use crate::classify::{Class, KeyHash};
use crate::cluster;
use crate::cluster::links::PeerStream;
use crate::cluster::site::{Host, Load, Order};
use crate::door::peer::{Limits, PeerDoor};
use crate::journey::Journey;
use crate::ledger::status::{Member, Site};
use crate::os::load::Busyness;
use crate::repos::Generations;
use crate::store::{Copies, Entry, Usage, Watcher};

/// See the module head.
pub(super) struct Duties {
    journey: Journey,
    door: PeerDoor,
    busyness: Busyness,
    parts: Weak<Parts>,
    /// One order after the other: each may look at all that is stored.
    forgetting: Arc<Semaphore>,
}

impl Duties {
    pub(super) fn new(parts: &Arc<Parts>) -> Self {
        let (flights, ledger) = (parts.journey.flights().clone(), parts.ledger.clone());
        let door = PeerDoor::new(flights, ledger, parts.clock.clone(), Limits::default());
        let forgetting = Arc::new(Semaphore::new(1));
        Self {
            journey: parts.journey.clone(),
            door,
            busyness: Busyness::default(),
            parts: Arc::downgrade(parts),
            forgetting,
        }
    }
}

impl Host for Duties {
    fn serve(&self, peer: NodeId, mut stream: PeerStream) -> BoxFuture<'static, ()> {
        let door = self.door.clone();
        Box::pin(async move {
            let ended = door.serve(peer, &mut stream).await;
            tracing::debug!(node = %peer, ?ended, "a peer was served");
            stream.sent().await;
        })
    }

    fn copy(&self, key: KeyHash, from: NodeId) -> BoxFuture<'static, bool> {
        let journey = self.journey.clone();
        Box::pin(async move { journey.copy(key, from).await })
    }

    fn forget(&self, order: Order) -> BoxFuture<'static, u64> {
        let (journey, in_turn) = (self.journey.clone(), self.forgetting.clone());
        Box::pin(async move {
            // Never fails: the semaphore is never closed.
            let _turn = in_turn.acquire().await;
            journey.obey(&order).await
        })
    }

    fn load(&self) -> Load {
        let usage = self.journey.store().usage();
        let free = usage.limit_bytes.saturating_sub(usage.bytes) as f64 / usage.limit_bytes.max(1) as f64;
        Load { load: in_byte(self.busyness.now()), room: in_byte(free), bytes: usage.bytes }
    }

    fn share_uplink(&self, nodes: usize) -> bool {
        self.journey.upstreams().share(nodes)
    }

    fn report(&self, question: &str) -> Option<String> {
        self.parts.upgrade()?.tell(question)
    }
}

/// Tells the site what the store holds.
pub(super) struct Watch {
    pub(super) site: cluster::site::Site,
    pub(super) generations: Arc<Generations>,
    pub(super) leaving: Leaving,
}

impl Watcher for Watch {
    fn stored(&self, entry: &Entry) {
        // What is not ours goes to no peer.
        if entry.class.is_ours() {
            let is_new = self.leaving.so_far().is_some() && !self.site.has(&entry.key);
            self.site.holds(&entry.key, true);
            if is_new {
                self.leaving.arrived(entry.key);
            }
        }
    }

    fn removed(&self, key: &KeyHash) {
        self.site.holds(key, false);
    }

    fn is_alone(&self) -> bool {
        self.site.is_alone()
    }

    fn copies(&self, key: &KeyHash) -> Copies {
        match self.site.copies_elsewhere(key) {
            0 => Copies::Sole,
            _ if self.site.is_spare(key) => Copies::Spare,
            _ => Copies::Duplicate,
        }
    }

    fn is_superseded(&self, entry: &Entry) -> bool {
        entry.class == Class::Package && self.generations.is_superseded(&entry.url)
    }
}

/// A part of one, in 255ths.
fn in_byte(part: f64) -> u8 {
    (part.clamp(0.0, 1.0) * 255.0).round() as u8
}

/// The nodes of the site: this one first, then the others in the order of their ids.
pub(super) fn status(parts: &Parts, usage: &Usage, address: &str) -> Site {
    let status = parts.site.status();
    let load = |load: u8| f64::from(load) / 255.0;
    let own = Member {
        name: parts.config.name.clone(),
        id: parts.identity.node.to_string(),
        address: address.to_owned(),
        state: if status.head.draining { "draining" } else { "alive" }.into(),
        objects: usage.objects,
        bytes: usage.bytes,
        load: load(status.head.load),
        round_trip_ms: None,
        report: None,
    };
    let member = |member: &MemberStatus| {
        let head = member.head;
        let state = match head {
            _ if !member.connected => "suspect",
            Some(head) if head.draining => "draining",
            _ => "alive",
        };
        Member {
            name: if member.name.is_empty() { member.node.to_string() } else { member.name.clone() },
            id: member.node.to_string(),
            address: member.client_address.map_or_else(String::new, |address| address.to_string()),
            state: state.into(),
            objects: head.map_or(0, |head| head.count),
            bytes: head.map_or(0, |head| head.bytes),
            load: head.map_or(0.0, |head| load(head.load)),
            round_trip_ms: parts.site.round_trip(member.node).map(|time| time.as_secs_f64() * 1e3),
            report: parts.sight.report(member.node),
        }
    };
    Site {
        id: parts.identity.site.to_string(),
        nodes: std::iter::once(own).chain(status.members.iter().map(member)).collect(),
    }
}

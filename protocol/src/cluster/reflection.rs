//! Somebody shows this node's own certificate: the node itself, met at one of its own addresses, or another that was given a copy of
//! its key. The first words tell which: only another is in another life.

use alloc::vec::Vec;
use core::net::SocketAddr;
use core::time::Duration;

use super::{Cluster, ConnectionId};
use crate::identity::Incarnation;
use crate::message::Message;
use crate::output::{Output, Why};
use crate::time::Instant;

/// Such connections at once.
const OPEN_MAX: usize = 8;
/// How long such a connection stays: long enough for both sides to hear each other's first words.
const PATIENCE: Duration = Duration::from_secs(2);
/// People are told of a copied key once in so long.
const TELL_EVERY: Duration = Duration::from_secs(60);

/// The connections with oneself, or with a double.
#[derive(Debug, Default)]
pub(super) struct Reflections {
    open: Vec<Reflection>,
    told: Option<Instant>,
}

#[derive(Debug)]
struct Reflection {
    connection: ConnectionId,
    /// Where it was dialled, while it is unknown who lives there.
    address: Option<SocketAddr>,
    until: Instant,
}

impl Cluster {
    /// A connection with who has this node's key. `dialled`: at which address.
    pub(super) fn met_own_key(&mut self, connection: ConnectionId, dialled: Option<SocketAddr>) {
        if self.reflections.open.len() >= OPEN_MAX {
            self.end_reflection(connection, dialled);
            return;
        }
        let until = self.now + PATIENCE;
        self.reflections.open.push(Reflection { connection, address: dialled, until });
        self.say_hello(self.own);
    }

    /// Bytes from who has this node's key; only the first words count.
    pub(super) fn heard_own_key(&mut self, bytes: &[u8]) {
        if self.reflections.open.is_empty() {
            return;
        }
        if let Ok((Some(Message::Hello(hello)), _)) = Message::decode(bytes) {
            self.recognised(hello.incarnation);
        }
    }

    fn recognised(&mut self, incarnation: Incarnation) {
        if incarnation == self.membership.own().incarnation {
            for reflection in core::mem::take(&mut self.reflections.open) {
                reflection.address.into_iter().for_each(|address| self.dialling.is_own(address));
                self.end_reflection(reflection.connection, None);
            }
            return;
        }
        // The connections stay a moment longer, so that the double hears of it as well.
        if self.reflections.told.is_none_or(|told| self.now.since(told) >= TELL_EVERY) {
            self.reflections.told = Some(self.now);
            self.out.push(Output::DuplicateIdentity);
        }
    }

    /// Such a connection has ended by itself.
    pub(super) fn lost_reflection(&mut self, connection: ConnectionId) {
        let open = &mut self.reflections.open;
        if let Some(place) = open.iter().position(|reflection| reflection.connection == connection) {
            let address = open.swap_remove(place).address;
            address.into_iter().for_each(|address| self.dial_failed(address));
        }
    }

    /// Ends those that have stayed long enough; once a second will do.
    pub(super) fn tidy_reflections(&mut self) {
        let now = self.now;
        let (over, open) = core::mem::take(&mut self.reflections.open).into_iter().partition(|open| open.until <= now);
        self.reflections.open = open;
        let over: Vec<Reflection> = over;
        over.into_iter().for_each(|reflection| self.end_reflection(reflection.connection, reflection.address));
    }

    /// `again`: where it is worth to look again later.
    fn end_reflection(&mut self, connection: ConnectionId, again: Option<SocketAddr>) {
        self.out.push(Output::Disconnect { peer: self.own, connection, why: Why::Myself });
        again.into_iter().for_each(|address| self.dial_failed(address));
    }
}

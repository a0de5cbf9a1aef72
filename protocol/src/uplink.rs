//! An uplink that is to carry only so much is shared by the nodes that download from it: each that is held to a limit says when it
//! begins and when it has ended, and takes its part of the limit, one for each that has begun.
//!
//! Told to everybody at once, and by itself: a download that begins should not wait for its part until gossip has gone round.

use alloc::collections::BTreeSet;

use crate::identity::NodeId;
use crate::message::Message;
use crate::outbox::Outbox;

/// Who downloads from upstream.
#[derive(Clone, Debug, Default)]
pub(crate) struct Uplink {
    is_used: bool,
    /// Connected peers that do.
    others: BTreeSet<NodeId>,
}

impl Uplink {
    /// This node downloads, or does no more; `peers` are to know.
    pub(crate) fn used(&mut self, is_used: bool, peers: impl Iterator<Item = NodeId>, out: &mut Outbox) {
        if is_used != self.is_used {
            self.is_used = is_used;
            peers.for_each(|peer| out.send(peer, Message::UsesUplink(is_used)));
        }
    }

    /// A peer has just been met: it takes this node for one that does not download.
    pub(crate) fn met(&self, peer: NodeId, out: &mut Outbox) {
        if self.is_used {
            out.send(peer, Message::UsesUplink(true));
        }
    }

    /// A peer says whether it downloads.
    pub(crate) fn heard(&mut self, from: NodeId, is_used: bool) {
        match is_used {
            true => drop(self.others.insert(from)),
            false => drop(self.others.remove(&from)),
        }
    }

    /// There is no connection with a peer any more.
    pub(crate) fn parted(&mut self, peer: NodeId) {
        self.others.remove(&peer);
    }

    /// How many nodes share the uplink, this one always among them.
    pub(crate) fn users(&self) -> usize {
        self.others.len() + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(number: u8) -> NodeId {
        NodeId([number; 16])
    }

    #[test]
    fn each_change_is_told_once_and_to_newcomers() {
        let (mut uplink, mut out) = (Uplink::default(), Outbox::default());
        let peers = || [node(2), node(3)].into_iter();
        uplink.used(false, peers(), &mut out);
        uplink.met(node(4), &mut out);
        assert_eq!(out.messages(), []);
        uplink.used(true, peers(), &mut out);
        uplink.used(true, peers(), &mut out);
        uplink.met(node(4), &mut out);
        let told = |node, is_used| (node, Message::UsesUplink(is_used));
        assert_eq!(out.messages(), [told(node(2), true), told(node(3), true), told(node(4), true)]);
        uplink.used(false, peers(), &mut out);
        assert_eq!(out.messages(), [told(node(2), false), told(node(3), false)]);
    }

    #[test]
    fn who_has_said_so_and_is_there_counts() {
        let mut uplink = Uplink::default();
        assert_eq!(uplink.users(), 1);
        for (number, is_used) in [(2, true), (3, true), (2, true), (4, false)] {
            uplink.heard(node(number), is_used);
        }
        assert_eq!(uplink.users(), 3);
        uplink.heard(node(2), false);
        uplink.parted(node(3));
        uplink.parted(node(9));
        assert_eq!(uplink.users(), 1);
    }
}

//! What the state machine wants done, and why.

use alloc::vec::Vec;
use core::fmt;
use core::net::SocketAddr;
use core::time::Duration;

use crate::cluster::ConnectionId;
use crate::identity::{Incarnation, Key, NodeId, Version};
use crate::message::{Cause, Lane, What};

/// Something for the driver to do or to know.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Output {
    /// Send a frame to a connected peer; drop it when the connection is gone.
    Send {
        /// To whom.
        to: NodeId,
        /// The bytes, as they are.
        frame: Vec<u8>,
        /// How.
        lane: Lane,
    },
    /// Connect to this address and say [`crate::Input::Connected`] or [`crate::Input::DialFailed`], within 10 s.
    Dial(SocketAddr),
    /// Close a connection.
    Disconnect {
        /// With whom.
        peer: NodeId,
        /// Which of those with this peer.
        connection: ConnectionId,
        /// For the log.
        why: Why,
    },
    /// A node has become a live member of the site.
    MemberUp {
        /// Who.
        peer: NodeId,
        /// Where it says it can be reached.
        address: Option<SocketAddr>,
    },
    /// A member has died or left.
    MemberDown(NodeId),
    /// This node was believed dead and has come back under a new incarnation.
    Rejoined(Incarnation),
    /// Another node uses this node's identity: its key was copied, and one of the two needs a new one.
    DuplicateIdentity,
    /// Answers [`crate::Input::Claim`]: fetch it from upstream.
    Granted {
        /// What.
        key: Key,
        /// Whether the site knows: false when no home answered and this node goes on its own.
        shared: bool,
    },
    /// Answers [`crate::Input::Claim`]: read it from this peer, which has it or is getting it.
    Follow {
        /// What.
        key: Key,
        /// From whom.
        peer: NodeId,
    },
    /// Answers [`crate::Input::Confirm`]: ask upstream and say [`crate::Input::Confirmed`].
    AskUpstream(Key),
    /// Answers [`crate::Input::Confirm`]: upstream has confirmed this version.
    Fresh {
        /// What.
        key: Key,
        /// Which version is current.
        version: Version,
        /// How long ago, at most.
        age: Duration,
        /// Who has it, where that is not this node.
        by: NodeId,
    },
    /// Read this object from a peer into the store, and say [`crate::Input::Copied`].
    Copy {
        /// What.
        key: Key,
        /// From whom.
        from: NodeId,
    },
    /// Answers [`crate::Input::Offer`]: who takes it. `None`: nobody can, or there are other copies anyway.
    Handed {
        /// What.
        key: Key,
        /// To whom.
        to: Option<NodeId>,
    },
    /// Forget this, if upstream has confirmed it last before that, and say [`crate::Input::Forgot`]. What is only [`Cause::Gone`] stays
    /// where a repository that is served still names it.
    Forget {
        /// Which order that is.
        id: u64,
        /// What.
        what: What,
        /// Why.
        cause: Cause,
        /// How long ago that was wanted.
        age: Duration,
    },
    /// Answers [`crate::Input::Forget`]: what the others have forgotten.
    Forgotten {
        /// Which order.
        id: u64,
        /// Objects, at all of them.
        objects: u64,
        /// Nodes that had any.
        nodes: u32,
        /// Who has not answered. They are told again when they are met again.
        silent: Vec<NodeId>,
    },
    /// A peer did what no sound node does. For the log and the counters; what is to be done has been done.
    Misbehaved {
        /// Who.
        peer: NodeId,
        /// What.
        why: Why,
    },
}

/// What is wrong with a peer, or why a connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Why {
    /// It sent bytes that are no message.
    Malformed,
    /// It sent a membership packet that makes no sense.
    Membership,
    /// Its inventory contradicts itself.
    Inventory,
    /// It sent wrong bytes of an object.
    WrongBytes,
    /// It speaks no version that this node understands.
    Version,
    /// It misbehaved again and again and is put aside for a while.
    PutAside,
    /// It sends more than a node has reason to.
    Flood,
    /// It did not say who it is in time.
    Silent,
    /// There is another connection with it.
    Spare,
    /// It is this node itself, or one that has its key.
    Myself,
    /// There are too many connections.
    TooMany,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Malformed => "it sent bytes that are no message",
            Self::Membership => "it sent a membership packet that makes no sense",
            Self::Inventory => "its inventory contradicts itself",
            Self::WrongBytes => "it sent wrong bytes of an object",
            Self::Version => "it speaks no version that this node understands",
            Self::PutAside => "it misbehaved again and again",
            Self::Flood => "it sends more than a node has reason to",
            Self::Silent => "it did not say hello in time",
            Self::Spare => "there is another connection with it",
            Self::Myself => "it is this node itself",
            Self::TooMany => "there are too many connections",
        })
    }
}

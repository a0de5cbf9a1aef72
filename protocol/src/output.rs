//! What the state machine wants done, and why.

use alloc::vec::Vec;
use core::fmt;
use core::net::SocketAddr;
use core::time::Duration;

use crate::identity::{Incarnation, Key, NodeId, Version};
use crate::message::Lane;

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
    /// Connect to this address and say `Input::Connected` or `Input::DialFailed`.
    Dial(SocketAddr),
    /// Close the connection to a peer.
    Disconnect {
        /// Whose.
        peer: NodeId,
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
    /// Answers `Input::Claim`: fetch it from upstream.
    Granted {
        /// What.
        key: Key,
        /// Whether the site knows: false when no home answered and this node goes on its own.
        shared: bool,
    },
    /// Answers `Input::Claim`: read it from this peer, which has it or is getting it.
    Follow {
        /// What.
        key: Key,
        /// From whom.
        peer: NodeId,
    },
    /// Answers `Input::Confirm`: ask upstream and say `Input::Confirmed`.
    AskUpstream(Key),
    /// Answers `Input::Confirm`: upstream has confirmed this version.
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
    /// Read this object from a peer into the store, and say `Input::Copied`.
    Copy {
        /// What.
        key: Key,
        /// From whom.
        from: NodeId,
    },
    /// Answers `Input::Offer`: who takes it. `None`: nobody can, or there are other copies anyway.
    Handed {
        /// What.
        key: Key,
        /// To whom.
        to: Option<NodeId>,
    },
    /// A peer did what no sound node does.
    Misbehaved {
        /// Who.
        peer: NodeId,
        /// What.
        why: Why,
    },
}

/// What is wrong with a peer.
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
        })
    }
}

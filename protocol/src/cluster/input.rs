//! What the driver tells the state machine.

use alloc::string::String;
use alloc::vec::Vec;
use core::net::SocketAddr;
use core::time::Duration;

use crate::health::Outcome;
use crate::identity::{Key, NodeId, Version};
use crate::message::{Cause, What};

/// Which connection: numbered by the driver, never twice the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ConnectionId(pub u64);

/// Something that has happened or is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Input {
    /// Nothing but that time has passed: for when [`super::Cluster::poll_deadline`] is reached.
    Tick,

    /// Somebody may be reached at `address`: from mDNS or a file of addresses that were good once. A hint, trusted no further.
    Discovered {
        /// Where.
        address: SocketAddr,
        /// Who is said to live there, which saves a needless second dial.
        peer: Option<NodeId>,
    },
    /// This node can be reached at these addresses now, best first; the first four are told. Link-local ones mean nothing elsewhere.
    Addresses(Vec<SocketAddr>),
    /// A connection is up and the peer's certificate has said who it is. Messages go on the latest connection with a peer that has
    /// not been asked to be closed.
    Connected {
        /// With whom. With this node itself, too, or with one that has a copy of its key: frames to and from this node's own id go
        /// over such a connection as over any other, and tell which of the two it is.
        peer: NodeId,
        /// The driver's number.
        connection: ConnectionId,
        /// Where the peer can be dialled, if the connection shows that.
        address: Option<SocketAddr>,
        /// Whether this node dialled, and so answers an [`crate::Output::Dial`] for `address`.
        dialled: bool,
    },
    /// Answers [`crate::Output::Dial`]: nobody there, or nobody of this site.
    DialFailed(SocketAddr),
    /// A connection has ended, whoever ended it. Not needed after [`crate::Output::Disconnect`].
    Disconnected {
        /// With whom.
        peer: NodeId,
        /// Which.
        connection: ConnectionId,
    },
    /// A whole frame from the control stream, or a datagram.
    Received {
        /// From whom.
        from: NodeId,
        /// The bytes as they came.
        bytes: Vec<u8>,
    },
    /// A peer's control stream can't be read on: [`crate::message::Message::header`] refused what it sent.
    Garbled(NodeId),

    /// The store has this key, since just now or since before the start. Told of each once.
    Stored(Key),
    /// The store no longer has it.
    Removed(Key),
    /// How busy this node is (0 idle, 255 overloaded), how much of its store is free or easily freed (0 none, 255 all), and the bytes
    /// of the objects in it.
    Load {
        /// Busy.
        load: u8,
        /// Free.
        room: u8,
        /// Stored.
        bytes: u64,
    },
    /// Whether this node downloads from upstream now, if it is held to a limit that is one for the whole site.
    UsesUplink(bool),
    /// A client asked for this: counted for popularity, nothing else.
    Requested(Key),
    /// The same, so many times since it was last told.
    RequestedOften {
        /// What.
        key: Key,
        /// How often.
        times: u32,
    },
    /// Clients have asked for a package of this name (with its architecture, say).
    RequestedName {
        /// The first 64 bytes count.
        name: String,
        /// How often, in units of [`crate::REQUEST`].
        amount: u32,
    },

    /// A key is needed from upstream, because no source of [`super::Cluster::plan`] has it or `broken`, the last one followed,
    /// failed. Answered by [`crate::Output::Granted`] or [`crate::Output::Follow`], within 100 ms; in the first second
    /// of a node's life, while it has not met the others it knows of, within 1.1 s.
    ///
    /// A new version of what is held already is claimed under a key of its own, say of the URL and the validator.
    Claim {
        /// What.
        key: Key,
        /// Whom it was read from in vain.
        broken: Option<NodeId>,
    },
    /// A granted download has got on. Told at least every 20 s, else others stop waiting for it.
    Progress(Key),
    /// A granted download is over.
    Ended {
        /// What.
        key: Key,
        /// Whether the store has it now.
        stored: bool,
    },
    /// Is what is stored under `key` still current, judging by an answer of upstream's that is at most `age` old? Answered by
    /// [`crate::Output::Fresh`] or [`crate::Output::AskUpstream`], within 5.1 s.
    Confirm {
        /// What.
        key: Key,
        /// How old an answer may be.
        age: Duration,
    },
    /// Upstream has been asked, at the bidding of [`crate::Output::AskUpstream`] or not.
    Confirmed {
        /// What about.
        key: Key,
        /// What it has; `None`: no answer.
        version: Option<Version>,
        /// How long ago it was asked.
        ago: Duration,
    },

    /// All others are to forget something, those that are away when they are back; this node has done so. What upstream confirms
    /// from now on stays.
    Forget {
        /// A number that no other order of any node has: a random one.
        id: u64,
        /// What.
        what: What,
        /// Why.
        cause: Cause,
        /// Whether [`crate::Output::Forgotten`] is waited for, which comes within 5 s.
        answer: bool,
    },
    /// Answers [`crate::Output::Forget`].
    Forgot {
        /// Which order.
        id: u64,
        /// How many objects went.
        objects: u64,
    },

    /// A peer is being asked for an object.
    Asked(NodeId),
    /// What came of it: one for each [`Input::Asked`].
    Answered {
        /// Who was asked.
        peer: NodeId,
        /// What came of it.
        outcome: Outcome,
    },
    /// Answers [`crate::Output::Copy`].
    Copied {
        /// What.
        key: Key,
        /// Whether the store has it now.
        done: bool,
    },

    /// Whether this node is about to leave: it gets no more work but still serves.
    Drain(bool),
    /// While draining: who takes this key? Answered by [`crate::Output::Handed`] once somebody has it, or nobody will. At most
    /// 64 at once.
    Offer(Key),
    /// This node goes now. Says so to all; the driver sends what is polled and then closes everything.
    Leave,
}

//! What nodes say to each other: every kind of message, its bound, and its bytes.
//!
//! A kind's number and its fields in their order are for ever. A later version may append fields to a message (an older reader
//! ignores them) and add kinds (it skips them), but neither change a field nor add a variant to an enum. What is appended to a message
//! is a [`Later`] field, what is appended to the items of a list is told after the list, see [`GrownFew`].

use alloc::vec::Vec;
use core::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::fingerprints::Geometry;
use crate::identity::{Incarnation, Key, NodeId, Version};
use crate::wire::{self, BODY_MAX, Few, FewBytes, Grown, GrownFew, Header, Later, WireError, frame, split};

/// The version that this code speaks.
pub const VERSION: u16 = 1;

/// The oldest version that this code understands.
pub const VERSION_OLDEST: u16 = 1;

/// The first words on a connection, in both directions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The version that the sender speaks.
    pub version: u16,
    /// The oldest version that the sender understands.
    pub oldest: u16,
    /// The sender's present life.
    pub incarnation: Incarnation,
    /// Where the sender can be reached, best first.
    pub addresses: Few<SocketAddr, ADDRESSES_MAX>,
    /// The greatest life of the receiver that the sender has heard of, zero for none: a receiver whose wall clock went back learns of it here.
    pub yours: Incarnation,
    /// A check sum of the members that the sender knows: whoever has the same needs no list.
    pub members: u64,
    /// What people call the sender, UTF-8. Appended.
    pub name: Later<FewBytes<NODE_NAME_MAX>>,
    /// The TCP port at which the sender serves clients; zero: the port of its addresses. Appended.
    pub client_port: Later<u16>,
}

/// What everybody should know of a node: gossiped whenever it changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// Whose.
    pub node: NodeId,
    /// The life in which its inventory's log began.
    pub epoch: Incarnation,
    /// Counts the heads of this epoch: a greater one is newer.
    pub beat: u32,
    /// The last change in the log of the inventory.
    pub sequence: u64,
    /// Keys in the inventory.
    pub count: u64,
    /// How busy it is: 0 idle, 255 overloaded.
    pub load: u8,
    /// How much of its store is free for more: 0 full, 255 empty.
    pub room: u8,
    /// Whether it is about to leave and wants no more work.
    pub draining: bool,
    /// Bytes of the objects in its store. Appended.
    #[serde(skip)]
    pub bytes: u64,
}

/// What the sender believes of one member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Who.
    pub node: NodeId,
    /// In which life.
    pub incarnation: Incarnation,
    /// How often it has refuted a suspicion in this life.
    pub refutations: u16,
    /// Whether it lives.
    pub state: State,
    /// Where it can be reached, best first.
    pub addresses: Few<SocketAddr, ADDRESSES_MAX>,
    /// The newest head of it.
    pub head: Option<Head>,
    /// [`Hello::name`] of it. Appended.
    #[serde(skip)]
    pub name: FewBytes<NODE_NAME_MAX>,
    /// [`Hello::client_port`] of it. Appended.
    #[serde(skip)]
    pub client_port: u16,
}

/// Whether a member lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    /// It does.
    Alive,
    /// It has not answered lately.
    Suspect,
    /// It does not, until it comes back with a greater incarnation.
    Down,
}

/// A change of an inventory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// [`Key::short`], little end first.
    pub short: [u8; 8],
    /// Added or else removed.
    pub added: bool,
}

/// Answers [`Message::Pull`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delta {
    /// The epoch of the log.
    pub epoch: Incarnation,
    /// The sequence after which the changes come.
    pub after: u64,
    /// Consecutive changes. None, although there are later ones: the log no longer reaches back so far, so pages are needed.
    pub changes: Few<Change, CHANGES_MAX>,
    /// The last change in the log.
    pub last: u64,
}

/// Answers [`Message::PageAsk`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PageAnswer {
    /// The epoch of the log.
    pub epoch: Incarnation,
    /// The last change that the page contains.
    pub sequence: u64,
    /// The shape that was asked for.
    pub shape: Shape,
    /// Which page.
    pub index: u16,
    /// See [`crate::fingerprints::Page::from_parts`].
    pub counts: FewBytes<{ Geometry::BUCKETS_MAX as usize }>,
    /// See [`crate::fingerprints::Page::from_parts`].
    pub remainders: FewBytes<REMAINDERS_MAX>,
    /// The check sum of the page.
    pub sum: u64,
}

/// [`Geometry`] on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shape {
    /// See [`Geometry::page_bits`].
    pub page_bits: u8,
    /// See [`Geometry::buckets`].
    pub buckets: u16,
}

/// Answers [`Message::AuditAsk`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Audit {
    /// The epoch of the log.
    pub epoch: Incarnation,
    /// The last change that the sums contain.
    pub sequence: u64,
    /// The check sum of each page.
    pub sums: Few<u64, 256>,
}

/// What a home says to a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// Fetch it from upstream, for the site.
    Granted,
    /// This node has it or is getting it: read from there.
    Follow(NodeId),
}

/// What a home says about freshness.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Freshness {
    /// Ask upstream and say what came of it.
    Yourself,
    /// Somebody is asking upstream: the answer will follow.
    Wait,
    /// Upstream has confirmed.
    Known {
        /// What upstream has.
        version: Version,
        /// How long ago, in milliseconds, rounded up.
        age: u32,
        /// Who asked upstream, and so has it.
        by: NodeId,
    },
}

/// How often something was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Demand {
    /// What.
    pub key: Key,
    /// How often, in units of 1/256 request, decayed.
    pub amount: u32,
}

/// Asks to forget something, see [`crate::Input::Forget`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forget {
    /// The order, which is told again and again: known ones are no news.
    pub id: u64,
    /// How long ago it was given, in milliseconds. What upstream has confirmed since then stays.
    pub age: u64,
    /// Why.
    pub cause: Cause,
    /// Whether the sender waits for [`Message::Forgot`].
    pub answer: bool,
    /// What.
    pub what: What,
}

/// Why something is to be forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Cause {
    /// All its upstreams have it no more. What a repository still names stays all the same.
    Gone,
    /// An operator wants it so.
    Purged,
}

/// What is to be forgotten.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum What {
    /// These keys, which are names of one object.
    Keys(Few<Key, NAMES_MAX>),
    /// Whatever has a URL that begins with this, `http://HOST/` at least, UTF-8.
    Below(FewBytes<BELOW_MAX>),
}

impl What {
    /// Whether that can be meant: neither nothing nor everything.
    pub fn is_sensible(&self) -> bool {
        match self {
            Self::Keys(keys) => !keys.is_empty(),
            Self::Below(prefix) => core::str::from_utf8(prefix)
                .ok()
                .and_then(|prefix| prefix.split_once("://"))
                .and_then(|(_, rest)| rest.split_once('/'))
                .is_some_and(|(host, _)| !host.is_empty()),
        }
    }

    /// Whether an object with these names and this URL is meant.
    pub(crate) fn concerns(&self, names: &[Key], url: &str) -> bool {
        match self {
            Self::Keys(keys) => keys.iter().any(|key| names.contains(key)),
            Self::Below(prefix) => url.as_bytes().starts_with(prefix),
        }
    }
}

/// A package name and how often it was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NameDemand {
    /// The name, UTF-8.
    pub name: FewBytes<NAME_MAX>,
    /// How often, in units of 1/256 request, decayed.
    pub amount: u32,
}

/// What a node is asked for most.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tops {
    /// Objects, most wanted first.
    pub objects: Few<Demand, TOPS_MAX>,
    /// Package names, most wanted first.
    pub names: Few<NameDemand, TOPS_MAX>,
}

/// Addresses told of one node.
pub const ADDRESSES_MAX: usize = 4;
/// Bytes of what people call a node.
pub const NODE_NAME_MAX: usize = 64;
/// Members taken from one message.
pub const MEMBERS_MAX: usize = 400;
/// Members put into one message: what surely fits [`crate::wire::BODY_MAX`]. Longer lists come in several.
pub const MEMBERS_SENT: usize = 256;
/// Heads in one datagram.
pub const HEADS_MAX: usize = 20;
/// Changes in one delta.
pub const CHANGES_MAX: usize = 4096;
/// Bytes of remainders in one page.
pub const REMAINDERS_MAX: usize = 56 * 1024;
/// Keys in one renewal.
pub const KEYS_MAX: usize = 256;
/// Entries in one report of demand.
pub const DEMANDS_MAX: usize = 256;
/// Entries in a list of what is wanted most.
pub const TOPS_MAX: usize = 16;
/// Bytes of a package name; longer ones are not counted.
pub const NAME_MAX: usize = 64;
/// Names of one object that is to be forgotten.
pub const NAMES_MAX: usize = 8;
/// Bytes of what the URLs begin with that are to be forgotten.
pub const BELOW_MAX: usize = 2048;
/// Bytes of a membership packet.
pub const SWIM_MAX: usize = 1068;

/// Everything that one node says to another.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Message {
    /// First words.
    Hello(Hello),
    /// A packet of the membership protocol.
    Swim(FewBytes<SWIM_MAX>),
    /// What the sender believes of all members, or of some.
    Members(GrownFew<Member, MEMBERS_MAX>),
    /// News of nodes, the sender or others.
    Heads(GrownFew<Head, HEADS_MAX>),
    /// Asks for the changes of the receiver's inventory in an epoch after a sequence.
    Pull(Incarnation, u64),
    /// Answers it.
    Delta(Delta),
    /// Asks for a page of the receiver's inventory.
    PageAsk(Shape, u16),
    /// Answers it.
    Page(PageAnswer),
    /// Asks for the check sums of pages, two to this power in number.
    AuditAsk(u8),
    /// Answers it.
    Audit(Audit),
    /// Asks the key's home who fetches it. With a node: following that one failed.
    Claim(Key, Option<NodeId>),
    /// Answers it.
    Verdict(Key, Verdict),
    /// The sender is still fetching these; also how a new home learns of a flight.
    Renew(Few<Key, KEYS_MAX>),
    /// The sender's flight has ended, with the object in its store or not.
    Ended(Key, bool),
    /// Asks the key's home whether upstream has confirmed it in the last so many milliseconds.
    Confirm(Key, u32),
    /// Answers it.
    Freshness(Key, Freshness),
    /// What came of asking upstream: its version, or nothing; how many milliseconds ago it was asked.
    Confirmed(Key, Option<Version>, u32),
    /// How often keys at home at the receiver were asked for at the sender since its last report.
    Demands(Few<Demand, DEMANDS_MAX>),
    /// Asks the receiver to take a copy from a node.
    Copy(Key, NodeId),
    /// Whether a copy was taken.
    Copied(Key, bool),
    /// What the sender is asked for most.
    Tops(Tops),
    /// The sender leaves now.
    Bye(Incarnation),
    /// Asks to forget something.
    Forget(Forget),
    /// Answers it: so many objects went.
    Forgot(u64, u64),
    /// Whether the sender, which is held to a limit, downloads from upstream now. Not before it has said so.
    UsesUplink(bool),
}

/// How a message should travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lane {
    /// As a QUIC datagram: may get lost.
    Datagram,
    /// On the control stream: reliable and in order.
    Stream,
}

macro_rules! kinds {
    ($($name:ident($($field:ident),+) = $number:literal, $lane:ident, $bound:expr;)*) => {
        impl Message {
            /// The frame of this message.
            pub fn encode(&self) -> Vec<u8> {
                match self {
                    $(Self::$name($($field),+) => frame($number, &body(&($($field,)+))),)*
                }
            }

            /// The first message in `bytes` and the bytes after it. `None` for a kind unknown to this version.
            ///
            /// # Errors
            /// Bytes that are no frame, or a frame that is not what its kind promises.
            pub fn decode(bytes: &[u8]) -> Result<(Option<Self>, &[u8]), WireError> {
                let (kind, body, rest) = split(bytes)?;
                let message = match kind {
                    $($number => {
                        if body.len() > Self::body_max($number) { return Err(WireError::TooLong) }
                        let ($($field,)+) = read(body)?;
                        Some(Self::$name($($field),+))
                    })*
                    _ => None,
                };
                Ok((message, rest))
            }

            /// The greatest body that is taken of a kind.
            const fn body_max(kind: u8) -> usize {
                match kind {
                    $($number => $bound,)*
                    _ => BODY_MAX,
                }
            }

            /// How this kind travels.
            pub const fn lane(&self) -> Lane {
                match self {
                    $(Self::$name(..) => Lane::$lane,)*
                }
            }

            /// The kind's number.
            pub const fn kind(&self) -> u8 {
                match self {
                    $(Self::$name(..) => $number,)*
                }
            }
        }

        #[cfg(test)]
        const KINDS: &[(u8, usize)] = &[$(($number, $bound)),*];
    };
}

// The bounds leave room for fields that later versions append.
kinds! {
    Hello(hello) = 1, Stream, 1024;
    Swim(packet) = 2, Datagram, 1090;
    Members(members) = 3, Stream, 64 * 1024;
    Heads(heads) = 4, Datagram, 1090;
    Pull(epoch, after) = 5, Stream, 64;
    Delta(delta) = 6, Stream, 64 * 1024;
    PageAsk(shape, index) = 7, Stream, 64;
    Page(page) = 8, Stream, 64 * 1024;
    AuditAsk(page_bits) = 9, Stream, 64;
    Audit(audit) = 10, Stream, 4096;
    Claim(key, broken) = 11, Stream, 128;
    Verdict(key, verdict) = 12, Stream, 128;
    Renew(keys) = 13, Stream, 8192;
    Ended(key, stored) = 14, Stream, 128;
    Confirm(key, age) = 15, Stream, 128;
    Freshness(key, freshness) = 16, Stream, 128;
    Confirmed(key, version, age) = 17, Stream, 128;
    Demands(demands) = 18, Stream, 8192;
    Copy(key, from) = 19, Stream, 128;
    Copied(key, done) = 20, Stream, 128;
    Tops(tops) = 21, Stream, 4096;
    Bye(incarnation) = 22, Stream, 64;
    Forget(forget) = 23, Stream, 4096;
    Forgot(id, objects) = 24, Stream, 64;
    UsesUplink(is_used) = 25, Stream, 64;
}

impl Message {
    /// As [`wire::header`], and holds the length against the bound of the kind, so that no memory is set aside for more than that.
    ///
    /// # Errors
    /// As there, or a message longer than its kind may be: the stream must be given up.
    pub fn header(bytes: &[u8]) -> Result<Option<Header>, WireError> {
        let header = wire::header(bytes)?;
        match header {
            Some(Header { kind, body, .. }) if body > Self::body_max(kind) => Err(WireError::TooLong),
            _ => Ok(header),
        }
    }
}

fn body<T: Serialize>(fields: &T) -> Vec<u8> {
    // Can only fail for types without a known length, of which there are none here.
    let bytes = postcard::to_allocvec(fields);
    debug_assert!(bytes.is_ok(), "a message that can't be encoded");
    bytes.unwrap_or_default()
}

fn read<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, WireError> {
    // What is left over is from a later version.
    postcard::take_from_bytes(body).map(|(fields, _)| fields).map_err(|_| WireError::BadBody)
}

impl Grown for Head {
    type More = u64;

    fn more(&self) -> u64 {
        self.bytes
    }

    fn grow(&mut self, bytes: u64) {
        self.bytes = bytes;
    }
}

/// What was appended to [`Member`]: the bytes of its head, its name, its port for clients.
type MoreOfMember = (u64, FewBytes<NODE_NAME_MAX>, u16);

impl Grown for Member {
    type More = MoreOfMember;

    fn more(&self) -> MoreOfMember {
        (self.head.map_or(0, |head| head.bytes), self.name.clone(), self.client_port)
    }

    fn grow(&mut self, (bytes, name, client_port): MoreOfMember) {
        if let Some(head) = &mut self.head {
            head.bytes = bytes;
        }
        self.name = name;
        self.client_port = client_port;
    }
}

impl From<Shape> for Geometry {
    fn from(shape: Shape) -> Self {
        Self { page_bits: shape.page_bits, buckets: shape.buckets }
    }
}

impl From<Geometry> for Shape {
    fn from(geometry: Geometry) -> Self {
        Self { page_bits: geometry.page_bits, buckets: geometry.buckets }
    }
}

impl Change {
    pub(crate) const fn new(short: u64, added: bool) -> Self {
        Self { short: short.to_le_bytes(), added }
    }

    pub(crate) const fn hash(self) -> u64 {
        u64::from_le_bytes(self.short)
    }
}

#[cfg(test)]
mod tests;

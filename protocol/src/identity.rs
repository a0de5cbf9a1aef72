//! Who and what: the names of nodes and of the things they hold.

use core::cmp::Ordering;
use core::fmt;

use serde::{Deserialize, Serialize};

use crate::random::mix;

/// A node of the site: the first half of the BLAKE3 hash of the public key in its certificate.
///
/// An address says nothing about who answers there; only the certificate does.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct NodeId(pub [u8; 16]);

/// As the bytes are, but compared as one number: all tables of nodes are ordered, so that this is most of what a large site computes.
impl Ord for NodeId {
    fn cmp(&self, other: &Self) -> Ordering {
        u128::from_be_bytes(self.0).cmp(&u128::from_be_bytes(other.0))
    }
}

impl PartialOrd for NodeId {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl NodeId {
    /// The id of the node whose certificate has this public key (its DER encoding, SubjectPublicKeyInfo).
    pub fn of_public_key(key: &[u8]) -> Self {
        let hash = blake3::derive_key("imirror 2026 node id of a public key", key);
        Self(first_half(hash))
    }

    /// Whether to keep the connection dialled by `self` to `peer`, when both have dialled each other at once: that of the
    /// lower id. Both sides come to the same answer.
    pub fn keeps_own_dial(self, peer: Self) -> bool {
        self < peer
    }

    pub(crate) const fn halves(self) -> (u64, u64) {
        let whole = u128::from_le_bytes(self.0);
        (whole as u64, (whole >> 64) as u64)
    }
}

/// What a thing is asked for by: the hash of a canonical URL or of a content digest, 128 bits that look random.
///
/// The site never needs to know which of the two it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Key(pub [u8; 16]);

impl Key {
    /// What inventories hold of a key.
    pub const fn short(self) -> u64 {
        let whole = u128::from_le_bytes(self.0);
        whole as u64
    }
}

/// Which life of a node: greater for every start and after every death that the site believed in wrongly. Under 2^48.
///
/// The driver begins with the milliseconds of the wall clock; should that have gone back, peers say so and the node catches up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Incarnation(pub u64);

impl Incarnation {
    /// The greatest that fits the wire.
    pub const MAX: Self = Self((1 << 48) - 1);

    /// The one after this.
    pub const fn next(self) -> Self {
        if self.0 < Self::MAX.0 { Self(self.0 + 1) } else { Self::MAX }
    }
}

/// What a peer answered a question about freshness with: the first half of a hash over validators or content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Version(pub [u8; 16]);

/// A number for (node, key) that all nodes compute alike; the greatest among the members is the key's home.
pub(crate) const fn affinity(node: NodeId, key: Key) -> u64 {
    let (low, high) = node.halves();
    let (key_low, key_high) = NodeId(key.0).halves();
    mix(mix(mix(key_low ^ low) ^ key_high) ^ high)
}

const fn first_half(hash: [u8; 32]) -> [u8; 16] {
    let mut half = [0; 16];
    let mut at = 0;
    while at < 16 {
        half[at] = hash[at];
        at += 1;
    }
    half
}

fn hex(bytes: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex(&self.0, f)
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex(&self.0[..4], f)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex(&self.0, f)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex(&self.0[..4], f)
    }
}

#[cfg(test)]
mod tests {
    use alloc::format;

    use super::*;

    #[test]
    fn the_id_of_a_key_never_changes() {
        assert_eq!(format!("{}", NodeId::of_public_key(b"a key")), "a9ed4d31126cab1da1187019ac004e6c");
    }

    #[test]
    fn exactly_one_of_two_dials_is_kept() {
        let (a, b) = (NodeId([1; 16]), NodeId([2; 16]));
        assert_ne!(a.keeps_own_dial(b), b.keeps_own_dial(a));
    }

    #[test]
    fn incarnations_stop_at_the_limit() {
        assert_eq!(Incarnation(4).next(), Incarnation(5));
        assert_eq!(Incarnation::MAX.next(), Incarnation::MAX);
    }
}

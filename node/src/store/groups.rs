//! The flat list of BLAKE3 chaining values of an object's 64 KiB groups (PEERS.md section 4: half the bytes of a tree, the
//! fastest check, and any group can be checked alone). The groups may be hashed in any order.

use blake3::hazmat::{ChainingValue, HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root};

use super::ObjectId;

/// Bytes of a group: a power of two chunks of 1 KiB.
pub(super) const GROUP: u64 = imirror_protocol::transfer::GROUP;

/// How many groups a content of this length has. One group or less has no list: its hash is the object's name.
pub(super) fn count(len: u64) -> u64 {
    len.div_ceil(GROUP)
}

/// The chaining value of the group with this index.
pub(super) fn chaining_value(index: u64, bytes: &[u8]) -> ChainingValue {
    let mut hasher = blake3::Hasher::new();
    hasher.set_input_offset(index * GROUP);
    hasher.update(bytes);
    hasher.finalize_non_root()
}

/// The object's name from the list of all its groups' values; at least two groups.
pub(super) fn root(values: &[ChainingValue]) -> Option<ObjectId> {
    (values.len() >= 2).then(|| {
        let (left, right) = values.split_at(left_len(values.len()));
        ObjectId(*merge_subtrees_root(&subtree(left), &subtree(right), Mode::Hash).as_bytes())
    })
}

/// The list of an object that is not (yet) here: tells right groups from wrong ones, whoever sends them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupList {
    object: ObjectId,
    size: u64,
    values: Vec<ChainingValue>,
}

impl GroupList {
    /// Checks the list against the object's name; `None` when it is not the list of such an object. An object of one group or less
    /// has an empty list. The size is proven but for the length of the last group, which is proven by that group.
    pub fn new(object: ObjectId, size: u64, values: Vec<ChainingValue>) -> Option<Self> {
        let right = match count(size) {
            0 => values.is_empty() && object.0 == *blake3::hash(&[]).as_bytes(),
            1 => values.is_empty(),
            groups => values.len() as u64 == groups && root(&values) == Some(object),
        };
        right.then_some(Self { object, size, values })
    }

    /// How many values the list of an object of `size` bytes has.
    pub fn len_of(size: u64) -> u64 {
        if size > GROUP { count(size) } else { 0 }
    }

    pub fn object(&self) -> ObjectId {
        self.object
    }

    /// Length of the object in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Are these the bytes of the group with this index, all of them?
    pub fn is_right(&self, index: u64, bytes: &[u8]) -> bool {
        let Some(length) = index.checked_mul(GROUP).and_then(|start| self.size.checked_sub(start)) else {
            return false;
        };
        if bytes.is_empty() || bytes.len() as u64 != length.min(GROUP) {
            return false;
        }
        if self.size <= GROUP {
            return blake3::hash(bytes).as_bytes() == &self.object.0;
        }
        let value = usize::try_from(index).ok().and_then(|index| self.values.get(index));
        value == Some(&chaining_value(index, bytes))
    }
}

fn subtree(values: &[ChainingValue]) -> ChainingValue {
    match values {
        [one] => *one,
        _ => {
            let (left, right) = values.split_at(left_len(values.len()));
            merge_subtrees_non_root(&subtree(left), &subtree(right), Mode::Hash)
        }
    }
}

/// The largest power of two below `len` (BLAKE3, section 2.1).
fn left_len(len: usize) -> usize {
    (len - 1).checked_ilog2().map_or(1, |log| 1 << log)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_of_the_list_is_the_plain_hash() {
        for len in [65_537, 100_000, 131_072, 131_073, 196_608, 262_144, 262_145, 1_000_003] {
            let content: Vec<u8> = (0..len).map(|i| (i * 31 % 253) as u8).collect();
            let values: Vec<_> =
                content.chunks(GROUP as usize).enumerate().map(|(i, group)| chaining_value(i as u64, group)).collect();
            assert_eq!(values.len() as u64, count(len as u64));
            assert_eq!(root(&values).unwrap().0, *blake3::hash(&content).as_bytes(), "{len}");
        }
        assert_eq!(root(&[]), None);
        assert_eq!(root(&[[0; 32]]), None);
    }
}

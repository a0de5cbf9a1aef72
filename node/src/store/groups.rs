//! The flat list of BLAKE3 chaining values of an object's 64 KiB groups (PEERS.md section 4: half the bytes of a tree, the
//! fastest check, and any group can be checked alone). The groups may be hashed in any order.

use blake3::hazmat::{ChainingValue, HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root};

use super::ObjectId;

/// Bytes of a group: a power of two chunks of 1 KiB.
pub(super) const GROUP: u64 = 64 * 1024;

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

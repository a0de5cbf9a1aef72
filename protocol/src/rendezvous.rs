//! Where a key is at home: highest random weight hashing over the live members.
//!
//! A member that comes or goes moves only the keys that it gains or loses, and everybody computes the same without asking.

use crate::identity::{Key, NodeId, affinity};

/// The home of `key` among `members`, and the one that takes over when it is gone. `None` where there are too few.
pub fn home_and_deputy(key: Key, members: impl IntoIterator<Item = NodeId>) -> (Option<NodeId>, Option<NodeId>) {
    let (mut first, mut second) = (None, None);
    for member in members {
        let entry = Some((affinity(member, key), member));
        if entry > first {
            second = first;
            first = entry;
        } else if entry > second {
            second = entry;
        }
    }
    (first.map(|(_, node)| node), second.map(|(_, node)| node))
}

/// The home of `key` among `members`.
pub fn home(key: Key, members: impl IntoIterator<Item = NodeId>) -> Option<NodeId> {
    home_and_deputy(key, members).0
}

#[cfg(test)]
mod tests {
    use alloc::collections::BTreeMap;
    use alloc::vec::Vec;

    use super::*;

    fn node(number: u64) -> NodeId {
        NodeId::of_public_key(&number.to_le_bytes())
    }

    fn key(number: u64) -> Key {
        Key(NodeId::of_public_key(&number.to_be_bytes()).0)
    }

    #[test]
    fn all_versions_agree_on_homes() {
        let nodes: Vec<_> = (0..10).map(node).collect();
        let homes: Vec<_> = (0..12).map(|k| home(key(k), nodes.iter().copied())).collect();
        let places: Vec<_> =
            homes.iter().map(|home| nodes.iter().position(|node| Some(*node) == *home).unwrap()).collect();
        assert_eq!(places, [4, 2, 6, 9, 3, 0, 3, 7, 3, 1, 9, 1]);
    }

    #[test]
    fn the_deputy_becomes_home_when_the_home_goes() {
        let nodes: Vec<_> = (0..10).map(node).collect();
        for k in 0..200 {
            let (first, second) = home_and_deputy(key(k), nodes.iter().copied());
            assert_ne!(first, second);
            let rest = nodes.iter().copied().filter(|node| Some(*node) != first);
            assert_eq!(home(key(k), rest), second);
        }
    }

    #[test]
    fn homes_are_spread_evenly() {
        let nodes: Vec<_> = (0..10).map(node).collect();
        let mut counts = BTreeMap::new();
        for k in 0..10_000 {
            *counts.entry(home(key(k), nodes.iter().copied())).or_insert(0) += 1;
        }
        assert!(counts.values().all(|count| (850..1150).contains(count)), "{counts:?}");
    }

    #[test]
    fn few_members_are_no_trouble() {
        assert_eq!(home_and_deputy(key(1), []), (None, None));
        assert_eq!(home_and_deputy(key(1), [node(1)]), (Some(node(1)), None));
    }
}

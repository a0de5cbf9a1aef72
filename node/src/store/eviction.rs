//! Which object goes first when room is needed.
//!
//! Superseded versions and what other nodes have, too, go before all else, so that together the nodes hold more than one of
//! them (R13). Among those that are alike in this, hyperbolic caching (Blankstein, Sen, Freedman, USENIX ATC 2017): what an
//! object is worth is how often it was used per time and byte since it came. Such a worth changes with time, so it cannot be
//! kept in a queue; instead a random sample is drawn and its least worthy go, which comes close to the exact order (Redis
//! evicts like that). The index is ordered by hashes, so a sample is a walk from a random place, and no table of all objects
//! is held in memory.

use std::cmp::Ordering;

use crate::classify::Class;
use crate::os::clock::Timestamp;
use crate::os::disk::Space;

/// What is used and what may be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Room {
    /// Bytes of objects: they can go.
    pub(super) stored: u64,
    /// Bytes of downloads and of what is known of repositories: they cannot.
    pub(super) unmovable: u64,
    pub(super) limit: u64,
    pub(super) space: Space,
}

impl Room {
    /// The most that could ever be added, if all objects went.
    pub(super) fn most(&self) -> u64 {
        let by_limit = self.limit.saturating_sub(self.unmovable);
        by_limit.min((self.space.free + self.stored).saturating_sub(self.space.reserve()))
    }

    /// Bytes of objects that have to go before `incoming` more may come.
    pub(super) fn surplus(&self, incoming: u64) -> u64 {
        let over = (self.stored + self.unmovable).saturating_add(incoming).saturating_sub(self.limit);
        let short = incoming.saturating_add(self.space.reserve()).saturating_sub(self.space.free);
        over.max(short)
    }
}

/// What is known of a candidate.
#[derive(Debug, Clone, Copy)]
pub(super) struct Candidate {
    pub(super) class: Class,
    pub(super) size: u64,
    pub(super) uses: u64,
    pub(super) stored_at: Timestamp,
    pub(super) used_at: Timestamp,
    pub(super) copies: Copies,
    /// Its repository has something else in its place.
    pub(super) is_superseded: bool,
}

/// Who has an object, were this node to have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Copies {
    /// Another node has it, too, and that one is to keep it.
    Spare,
    /// Other nodes have it, too; this one is to keep it.
    Duplicate,
    /// Nobody else.
    Sole,
}

/// What goes before what, whatever it is worth (R13).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Tier {
    /// Hardly anybody will ask for it again.
    Superseded,
    Kept(Copies),
}

impl Tier {
    pub(super) const LAST: Self = Self::Kept(Copies::Sole);
}

impl Candidate {
    pub(super) fn tier(&self) -> Tier {
        match (self.is_superseded, self.class) {
            (true, _) => Tier::Superseded,
            // Metadata is small, asked for by everybody, and a package is of little use without it.
            (_, Class::MutableMetadata | Class::ImmutableMetadata) => Tier::LAST,
            _ => Tier::Kept(self.copies),
        }
    }
}

/// A worth that can be sorted by.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Worth(pub(super) f64);

impl Eq for Worth {}

impl PartialOrd for Worth {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Worth {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.total_cmp(&other.0)
    }
}

/// Uses per second and byte, weighted by class. Larger is worthier.
pub(super) fn worth(candidate: &Candidate, now: Timestamp) -> f64 {
    let weight = match candidate.class {
        Class::MutableMetadata | Class::ImmutableMetadata => 8.0,
        Class::Package => 1.0,
        Class::Other => 0.25,
    };
    let age = now.since(candidate.stored_at).as_secs_f64() + 1.0;
    let idle = now.since(candidate.used_at).as_secs_f64() + 1.0;
    // The time since the last use counts as well, so that what was popular long ago goes at last.
    weight * candidate.uses.max(1) as f64 / (age.max(1.0) * idle.sqrt() * candidate.size.max(4096) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_keeps_the_limit_and_the_reserve() {
        let space = Space { total: 1000, free: 300 };
        let room = Room { stored: 200, unmovable: 100, limit: 400, space };
        assert_eq!((room.surplus(0), room.surplus(100), room.surplus(150)), (0, 0, 50), "the limit");
        let room = Room { limit: 5000, ..room };
        assert_eq!((room.surplus(250), room.surplus(251), room.most()), (0, 1, 450), "a twentieth stays free");
        // Others have filled the disk: the reserve is made free again, and no more is possible than that.
        let room = Room { space: Space { total: 1000, free: 0 }, stored: 30, ..room };
        assert_eq!((room.surplus(0), room.most()), (50, 0));
        assert_eq!(Room { limit: 100, ..room }.most(), 0);
        assert_eq!(room.surplus(u64::MAX), u64::MAX);
    }

    #[test]
    fn the_big_the_unused_and_the_old_go_first() {
        let now = Timestamp(1_000_000_000);
        let base = Candidate {
            class: Class::Package,
            size: 1_000_000,
            uses: 10,
            stored_at: Timestamp(0),
            used_at: Timestamp(900_000_000),
            copies: Copies::Sole,
            is_superseded: false,
        };
        let w = |c: Candidate| worth(&c, now);
        assert!(w(Candidate { size: 2_000_000, ..base }) < w(base));
        assert!(w(Candidate { uses: 1, ..base }) < w(base));
        assert!(w(Candidate { used_at: Timestamp(1000), ..base }) < w(base));
        assert!(w(Candidate { class: Class::Other, ..base }) < w(base));
        assert!(w(Candidate { class: Class::MutableMetadata, ..base }) > w(base));
        assert!(w(Candidate { uses: 0, size: 0, stored_at: now, used_at: now, ..base }).is_finite());
    }

    #[test]
    fn what_others_have_goes_before_what_they_have_not() {
        let of = |class, copies, is_superseded| {
            let at = Timestamp(0);
            Candidate { class, size: 1, uses: 1, stored_at: at, used_at: at, copies, is_superseded }.tier()
        };
        let order = [
            of(Class::Package, Copies::Sole, true),
            of(Class::Package, Copies::Spare, false),
            of(Class::Package, Copies::Duplicate, false),
            of(Class::Package, Copies::Sole, false),
        ];
        assert!(order.is_sorted_by(|a, b| a < b), "{order:?}");
        assert_eq!(of(Class::MutableMetadata, Copies::Spare, false), order[3]);
    }
}

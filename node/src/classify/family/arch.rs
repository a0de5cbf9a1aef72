//! Arch Linux: pacman.

use super::{Found, Place, before};
use crate::classify::Class;

pub(super) fn classify(place: &Place<'_>) -> Found {
    let name = place.name.strip_suffix(".sig").unwrap_or(&place.name);
    // What makepkg can write (makepkg.conf(5), PKGEXT and DBEXT).
    let stem = ["", ".gz", ".bz2", ".xz", ".zst", ".lrz", ".lzo", ".Z", ".lz4", ".lz"]
        .iter()
        .find_map(|kind| before(name, kind)?.strip_suffix(".tar"));
    if stem.and_then(|stem| before(stem, ".pkg")).is_some() {
        return Some((Class::Package, None));
    }
    let database = stem.unwrap_or(name);
    (before(database, ".db").or(before(database, ".files")).is_some()).then_some((Class::MutableMetadata, None))
}

//! RPM: dnf, dnf5, yum and zypper.

use super::{Found, Place, before, is_word};
use crate::classify::{Algorithm, Class, Digest};

pub(super) fn classify(place: &Place<'_>) -> Found {
    if before(&place.name, ".rpm").or(before(&place.name, ".drpm")).is_some() {
        return Some((Class::Package, None));
    }
    if place.parent == "repodata" {
        return Some(repodata(&place.name));
    }
    yast(place).or_else(|| mirror_list(place))
}

/// A file that is named by its checksum never changes (`0123…-primary.xml.zst`), the others do.
fn repodata(name: &str) -> (Class, Option<Digest>) {
    const CHECKSUMS: [Algorithm; 5] =
        [Algorithm::Md5, Algorithm::Sha1, Algorithm::Sha256, Algorithm::Sha384, Algorithm::Sha512];
    let checksum = name.split_once('-').map_or("", |(checksum, _)| checksum);
    match CHECKSUMS.iter().find_map(|algorithm| Digest::from_hex(*algorithm, checksum)) {
        Some(digest) => (Class::ImmutableMetadata, Some(digest)),
        None => (Class::MutableMetadata, None),
    }
}

/// What zypper looks for in a repository, besides `repodata`.
fn yast(place: &Place<'_>) -> Found {
    let name = place.name.as_ref();
    let signed = name.strip_suffix(".asc").or_else(|| name.strip_suffix(".key")).unwrap_or(name);
    let media = place.parent.strip_prefix("media.").is_some_and(|number| number.parse::<u8>().is_ok());
    let found = match signed {
        "media" | "products" => media,
        // The name is anybody's; these are the folders that SUSE's repositories have.
        "content" => matches!(&*place.parent, "suse" | "oss" | "non-oss"),
        _ => place.parent == "descr" && place.grandparent == "setup",
    };
    found.then_some((Class::MutableMetadata, None))
}

/// The lists of mirrors that dnf asks for: `/metalink?repo=…`, `/mirrorlist/RELEASE/REPO`, `/?release=…&arch=…&repo=…`.
pub(super) fn mirror_list(place: &Place<'_>) -> Found {
    let by_query = match place.name.as_ref() {
        "metalink" | "mirrorlist" | "metalink.xml" => place.gives("repo"),
        "" => place.folders().next().is_none() && ["release", "arch", "repo"].iter().all(|p| place.gives(p)),
        _ => false,
    };
    let release = place.folders().skip_while(|folder| *folder != "mirrorlist").nth(1);
    let by_path = release.is_some_and(|release| release.starts_with(|c: char| c.is_ascii_digit()));
    (by_query || by_path && is_word(&place.name, "-_")).then_some((Class::MutableMetadata, None))
}

//! Debian and what descends from it: apt.

use super::{Found, Place, before, is_word};
use crate::classify::{Algorithm, Class, Digest};

pub(super) fn classify(place: &Place<'_>) -> Found {
    if place.grandparent == "by-hash" {
        return by_hash(&place.parent, &place.name).map(|digest| (Class::ImmutableMetadata, Some(digest)));
    }
    let package = [".deb", ".udeb", ".ddeb"].iter().any(|ending| before(&place.name, ending).is_some());
    if package || is_source(place) {
        return Some((Class::Package, None));
    }
    is_index(place).then_some((Class::MutableMetadata, None))
}

fn by_hash(algorithm: &str, name: &str) -> Option<Digest> {
    let algorithm = match algorithm {
        "MD5Sum" => Algorithm::Md5,
        "SHA1" => Algorithm::Sha1,
        "SHA256" => Algorithm::Sha256,
        "SHA512" => Algorithm::Sha512,
        _ => return None,
    };
    Digest::from_hex(algorithm, name)
}

/// A file of a source package, `NAME_VERSION…` (deb-src-control(5), dpkg-source(1)): the description, the original with its
/// components and signatures, what Debian adds; the only tarball of a native source has nothing else in its name, as
/// many other tarballs, and counts in a pool only.
fn is_source(place: &Place<'_>) -> bool {
    let name = place.name.strip_suffix(".asc").unwrap_or(&place.name);
    let Some((_, rest)) = name.split_once('_').filter(|(package, _)| is_word(package, "+-.")) else {
        return false;
    };
    if let Some(version) = before(rest, ".dsc").or(before(rest, ".diff.gz")) {
        return is_version(version);
    }
    let Some((stem, _)) = rest.rsplit_once(".tar.").filter(|(_, kind)| COMPRESSIONS.contains(kind)) else {
        return false;
    };
    if let Some(version) = before(stem, ".debian") {
        return is_version(version);
    }
    match stem.rsplit_once(".orig") {
        Some((version, "")) => is_version(version),
        Some((version, component)) => {
            is_version(version) && component.strip_prefix('-').is_some_and(|component| is_word(component, "-"))
        }
        None => is_version(stem) && place.folders().any(|folder| folder == "pool"),
    }
}

/// deb-version(7), without an epoch, which file names lack.
fn is_version(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_digit()) && is_word(text, ".+-~")
}

/// An index of a repository. `Release` and the lists of packages stand in any folder, for flat repositories have no others;
/// the rest only where an archive has them.
fn is_index(place: &Place<'_>) -> bool {
    let name = place.name.as_ref();
    if matches!(name, "InRelease" | "Release" | "Release.gpg") {
        return true;
    }
    if let Some(index) = place.parent.strip_suffix(".diff") {
        return is_patch(name) && (is_list(index) || is_contents(index) || is_translation(index));
    }
    let stem = uncompressed(name);
    is_list(stem)
        || match place.parent.as_ref() {
            "i18n" => name == "Index" || is_translation(stem),
            "dep11" => is_appstream(stem),
            "cnf" => stem.strip_prefix("Commands-").is_some_and(|arch| is_word(arch, "-")),
            _ => is_contents(stem) && place.folders().any(|folder| folder == "dists"),
        }
}

const COMPRESSIONS: [&str; 6] = ["gz", "xz", "bz2", "zst", "lzma", "lz4"];

fn uncompressed(name: &str) -> &str {
    COMPRESSIONS.iter().find_map(|kind| before(name, kind)?.strip_suffix('.')).unwrap_or(name)
}

fn is_list(stem: &str) -> bool {
    matches!(stem, "Packages" | "Sources")
}

fn is_contents(stem: &str) -> bool {
    stem.strip_prefix("Contents-").is_some_and(|arch| is_word(arch, "-"))
}

fn is_translation(stem: &str) -> bool {
    stem.strip_prefix("Translation-").is_some_and(|language| is_word(language, "-_@"))
}

/// `Components-amd64.yml`, `icons-64x64@2.tar`, `CID-Index-amd64.json`.
fn is_appstream(stem: &str) -> bool {
    let named = |first: &str, last: &str| {
        stem.strip_prefix(first).and_then(|rest| before(rest, last)).is_some_and(|what| is_word(what, "-@"))
    };
    named("Components-", ".yml") || named("icons-", ".tar") || named("CID-Index-", ".json")
}

/// `Index`, `2024-01-31-2013.12.gz`, `T-2024-01-31-2013.12-F-2024-01-25-0205.10.gz`.
fn is_patch(name: &str) -> bool {
    let dated = |stem: &str| stem.trim_start_matches("T-").starts_with("20") && is_word(stem, "-.");
    name == "Index" || before(name, ".gz").is_some_and(dated)
}

//! The families' file names. Class follows from the last segments of the path alone, percent-decoded for the comparison
//! only; the key keeps what the client sent.

use super::{Algorithm, Class, Classified, Digest, Format, Url};

/// What a URL names.
pub fn classify(url: &Url) -> Classified {
    let path = decoded(url.path());
    let other = Classified { class: Class::Other, format: None, digest: None };
    let mut segments = path.rsplit('/');
    let Some(name) = segments.next().filter(|name| !name.is_empty()) else { return other };
    let (parent, grandparent) = (segments.next().unwrap_or_default(), segments.next().unwrap_or_default());
    let found = rpm(name, parent, url.query())
        .or_else(|| deb(name, parent, grandparent))
        .or_else(|| arch(name))
        .or_else(|| alpine(name));
    found.map_or(other, |(format, class, digest)| Classified { class, format: Some(format), digest })
}

type Found = Option<(Format, Class, Option<Digest>)>;

fn rpm(name: &str, parent: &str, query: Option<&str>) -> Found {
    let found = |class, digest| Some((Format::Rpm, class, digest));
    if name.ends_with(".rpm") || name.ends_with(".drpm") {
        return found(Class::Package, None);
    }
    if parent == "repodata" {
        if matches!(name, "repomd.xml" | "repomd.xml.asc" | "repomd.xml.key" | "repomd.xml.sig") {
            return found(Class::MutableMetadata, None);
        }
        let checksum = name.split('-').next().unwrap_or_default();
        let hex = checksum.bytes().all(|b| b.is_ascii_hexdigit());
        return match checksum.len() {
            _ if !hex || checksum.len() == name.len() => found(Class::MutableMetadata, None),
            32 => found(Class::ImmutableMetadata, Digest::from_hex(Algorithm::Md5, checksum)),
            40 => found(Class::ImmutableMetadata, Digest::from_hex(Algorithm::Sha1, checksum)),
            64 => found(Class::ImmutableMetadata, Digest::from_hex(Algorithm::Sha256, checksum)),
            128 => found(Class::ImmutableMetadata, Digest::from_hex(Algorithm::Sha512, checksum)),
            _ => found(Class::MutableMetadata, None),
        };
    }
    let lists =
        matches!(name, "metalink" | "mirrorlist" | "metalink.xml") && query.is_some_and(|q| q.contains("repo="));
    let yast = matches!(name, "media" | "products") && parent == "media.1";
    (lists || yast).then_some((Format::Rpm, Class::MutableMetadata, None))
}

fn deb(name: &str, parent: &str, grandparent: &str) -> Found {
    let found = |class, digest| Some((Format::Deb, class, digest));
    if grandparent == "by-hash" {
        let algorithm = match parent {
            "MD5Sum" => Algorithm::Md5,
            "SHA1" => Algorithm::Sha1,
            "SHA256" => Algorithm::Sha256,
            "SHA512" => Algorithm::Sha512,
            _ => return None,
        };
        return Digest::from_hex(algorithm, name).and_then(|digest| found(Class::ImmutableMetadata, Some(digest)));
    }
    let source = [".orig.tar.", ".debian.tar.", ".orig-"].iter().any(|part| name.contains(part));
    if [".deb", ".udeb", ".ddeb", ".dsc"].iter().any(|e| name.ends_with(e)) || source || name.ends_with(".diff.gz") {
        return found(Class::Package, None);
    }
    let stem = ["gz", "xz", "bz2", "zst", "lzma", "lz4", "gpg", "diff"]
        .iter()
        .find_map(|e| name.strip_suffix(e)?.strip_suffix('.'))
        .unwrap_or(name);
    let index = matches!(stem, "InRelease" | "Release" | "Packages" | "Sources" | "Index")
        || ["Contents-", "Translation-", "Components-", "icons-", "Commands-"].iter().any(|p| stem.starts_with(p));
    let diff = parent.ends_with(".diff");
    (index || diff).then_some((Format::Deb, Class::MutableMetadata, None))
}

fn arch(name: &str) -> Found {
    let name = name.strip_suffix(".sig").unwrap_or(name);
    if name.contains(".pkg.tar") {
        return Some((Format::Arch, Class::Package, None));
    }
    let database = [".db", ".files"].iter().any(|kind| {
        name.find(kind).is_some_and(|at| {
            let after = &name[at + kind.len()..];
            at > 0 && (after.is_empty() || after.starts_with(".tar."))
        })
    });
    database.then_some((Format::Arch, Class::MutableMetadata, None))
}

fn alpine(name: &str) -> Found {
    match name {
        "APKINDEX.tar.gz" | "Packages.adb" => Some((Format::Alpine, Class::MutableMetadata, None)),
        _ if name.ends_with(".apk") => Some((Format::Alpine, Class::Package, None)),
        _ => None,
    }
}

/// Percent-decoded where that is ASCII; anything else stays as it is.
fn decoded(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    let mut rest = path;
    while let Some((before, after)) = rest.split_once('%') {
        out.push_str(before);
        match after.get(..2).and_then(|hex| u8::from_str_radix(hex, 16).ok()).filter(u8::is_ascii_graphic) {
            Some(byte) => {
                out.push(char::from(byte));
                rest = &after[2..];
            }
            None => {
                out.push('%');
                rest = after;
            }
        }
    }
    out.push_str(rest);
    out
}

/// What a URL is called in the cache: `countme=N`, by which dnf counts machines once a week, names nothing (CLIENTS.md 1).
pub fn cache_key(url: &Url) -> Url {
    let Some(query) = url.query().filter(|query| query.contains("countme=")) else { return url.clone() };
    let kept: Vec<_> = query.split('&').filter(|part| !part.starts_with("countme=")).collect();
    let question = if kept.is_empty() { "" } else { "?" };
    url.with_path_and_query(&format!("{}{question}{}", url.path(), kept.join("&"))).unwrap_or_else(|_| url.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use Class::*;
    use Format::*;

    const SHA256: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[test]
    fn real_urls() {
        let sha = |path: &str| path.replace("{sha}", SHA256);
        for (path, class, format, digest) in [
            (
                "/pub/fedora/linux/updates/41/Everything/x86_64/Packages/v/vim-9.1-1.fc41.x86_64.rpm",
                Package,
                Some(Rpm),
                false,
            ),
            ("/fedora/drpms/a-1_2.x86_64.drpm", Package, Some(Rpm), false),
            ("/centos/source/a-1.src.rpm?token=1", Package, Some(Rpm), false),
            ("/x/libstdc%2b%2b-12.rpm", Package, Some(Rpm), false),
            ("/x/a%2erpm", Package, Some(Rpm), false),
            ("/fedora/repodata/repomd.xml", MutableMetadata, Some(Rpm), false),
            ("/fedora/repodata/repomd.xml.asc", MutableMetadata, Some(Rpm), false),
            ("/fedora/repodata/primary.xml.gz", MutableMetadata, Some(Rpm), false),
            ("/fedora/repodata/{sha}-primary.xml.zst", ImmutableMetadata, Some(Rpm), true),
            ("/fedora/repodata/{sha}-primary.xml.zck", ImmutableMetadata, Some(Rpm), true),
            (
                "/old/repodata/0123456789abcdef0123456789abcdef01234567-filelists.sqlite.bz2",
                ImmutableMetadata,
                Some(Rpm),
                true,
            ),
            ("/metalink?repo=fedora-41&arch=x86_64", MutableMetadata, Some(Rpm), false),
            ("/mirrorlist?repo=epel-9&arch=x86_64", MutableMetadata, Some(Rpm), false),
            ("/metalink", Other, None, false),
            ("/suse/media.1/media", MutableMetadata, Some(Rpm), false),
            ("/debian/pool/main/v/vim/vim_9.0-1_amd64.deb", Package, Some(Deb), false),
            ("/debian/pool/main/v/vim/vim_9.0.orig.tar.xz", Package, Some(Deb), false),
            ("/debian/pool/main/v/vim/vim_9.0-1.debian.tar.xz", Package, Some(Deb), false),
            ("/debian/pool/main/v/vim/vim_9.0-1.dsc", Package, Some(Deb), false),
            ("/debian/dists/bookworm/InRelease", MutableMetadata, Some(Deb), false),
            ("/debian/dists/bookworm/Release.gpg", MutableMetadata, Some(Deb), false),
            ("/debian/dists/bookworm/main/binary-amd64/Packages.xz", MutableMetadata, Some(Deb), false),
            ("/debian/dists/bookworm/main/i18n/Translation-en.bz2", MutableMetadata, Some(Deb), false),
            ("/debian/dists/bookworm/main/Contents-amd64.gz", MutableMetadata, Some(Deb), false),
            ("/debian/dists/bookworm/main/dep11/Components-amd64.yml.gz", MutableMetadata, Some(Deb), false),
            ("/debian/dists/bookworm/main/binary-amd64/Packages.diff/Index", MutableMetadata, Some(Deb), false),
            ("/debian/dists/bookworm/main/binary-amd64/by-hash/SHA256/{sha}", ImmutableMetadata, Some(Deb), true),
            ("/debian/dists/bookworm/main/binary-amd64/by-hash/SHA256/xyz", Other, None, false),
            ("/archlinux/core/os/x86_64/core.db", MutableMetadata, Some(Arch), false),
            ("/archlinux/core/os/x86_64/core.db.tar.gz", MutableMetadata, Some(Arch), false),
            ("/archlinux/core/os/x86_64/core.files.sig", MutableMetadata, Some(Arch), false),
            ("/archlinux/core/os/x86_64/vim-9.1-1-x86_64.pkg.tar.zst", Package, Some(Arch), false),
            ("/archlinux/core/os/x86_64/vim-9.1-1-x86_64.pkg.tar.zst.sig", Package, Some(Arch), false),
            ("/alpine/v3.20/main/x86_64/APKINDEX.tar.gz", MutableMetadata, Some(Alpine), false),
            ("/alpine/v3.20/main/x86_64/vim-9.1-r0.apk", Package, Some(Alpine), false),
            ("/", Other, None, false),
            ("/index.html", Other, None, false),
            ("/a.rpm/", Other, None, false),
            ("/search?file=a.rpm", Other, None, false),
            ("/A.RPM", Other, None, false),
            ("/.db", Other, None, false),
            ("/%zz%1", Other, None, false),
        ] {
            let url = Url::parse(&format!("http://example.org{}", sha(path))).unwrap();
            let got = classify(&url);
            assert_eq!((got.class, got.format, got.digest.is_some()), (class, format, digest), "{path}");
        }
    }

    #[test]
    fn countme_names_nothing() {
        for (url, key) in [
            ("http://example.org/metalink?repo=f41&arch=x&countme=3", "http://example.org/metalink?repo=f41&arch=x"),
            ("http://example.org/metalink?countme=1", "http://example.org/metalink"),
            ("http://example.org/a?discountme=1", "http://example.org/a?discountme=1"),
        ] {
            assert_eq!(cache_key(&Url::parse(url).unwrap()).as_str(), key);
        }
    }

    proptest::proptest! {
        #[test]
        fn no_path_panics(path in "\\PC{0,60}") {
            if let Ok(url) = Url::parse(&format!("http://example.org/{path}")) {
                classify(&url);
                cache_key(&url);
            }
        }
    }
}

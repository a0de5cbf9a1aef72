use super::*;
use Class::*;
use Format::*;

const SHA256: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// URLs with what they name.
pub(crate) fn real_urls() -> Vec<(Url, Class)> {
    let sha = |path: &str| path.replace("{sha}", SHA256).replace("{sha32}", &SHA256[..32]);
    let url = |path: &str| Url::parse(&format!("http://example.org{}", sha(path))).unwrap();
    REAL.iter().map(|(path, class, ..)| (url(path), *class)).collect()
}

#[test]
fn real_urls_are_told_apart() {
    for ((url, _), (path, class, format, digest)) in real_urls().into_iter().zip(REAL) {
        let got = classify(&url);
        assert_eq!((got.class, got.format, got.digest.is_some()), (*class, *format, *digest), "{path}");
    }
}

const REAL: &[(&str, Class, Option<Format>, bool)] = &[
    ("/pub/fedora/linux/updates/41/Everything/x86_64/Packages/v/vim-9.1-1.fc41.x86_64.rpm", Package, Some(Rpm), false),
    ("/fedora/drpms/a-1_2.x86_64.drpm", Package, Some(Rpm), false),
    ("/centos/source/a-1.src.rpm?token=1", Package, Some(Rpm), false),
    ("/x/libstdc%2b%2b-12.rpm", Package, Some(Rpm), false),
    ("/x/a%2erpm", Package, Some(Rpm), false),
    ("/fedora/repodata/repomd.xml", MutableMetadata, Some(Rpm), false),
    ("/fedora/repodata/repomd.xml.asc", MutableMetadata, Some(Rpm), false),
    ("/fedora/repodata/primary.xml.gz", MutableMetadata, Some(Rpm), false),
    ("/fedora/repodata/{sha}-primary.xml.zst", ImmutableMetadata, Some(Rpm), true),
    ("/fedora/repodata/{sha}-primary.xml.zck", ImmutableMetadata, Some(Rpm), true),
    ("/old/repodata/0123456789abcdef0123456789abcdef01234567-filelists.sqlite.bz2", ImmutableMetadata, Some(Rpm), true),
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
    ("/%+1/%\u{e9}", Other, None, false),
    // Lists of mirrors.
    ("/mirrorlist/9/baseos", MutableMetadata, Some(Rpm), false),
    ("/mirrorlist/10-kitten/appstream?countme=1", MutableMetadata, Some(Rpm), false),
    ("/?release=7&arch=x86_64&repo=os", MutableMetadata, Some(Rpm), false),
    ("/?release=7&arch=x86_64&repo=updates&infra=stock", MutableMetadata, Some(Rpm), false),
    ("/?release=7&arch=x86_64&repo=", Other, None, false),
    ("/search/?release=7&arch=x86_64&repo=os", Other, None, false),
    ("/mirrorlist/all/", Other, None, false),
    ("/mirrorlist/all/https", Other, None, false),
    ("/mirrorlist/9/index.html", Other, None, false),
    ("/mirrorlist?repository=a", Other, None, false),
    ("/mirrorlist?monorepo=a", Other, None, false),
    ("/tumbleweed/repo/oss/x86_64/vim-9.1-1.1.x86_64.rpm?mirrorlist", Other, None, false),
    ("/tumbleweed/repo/oss/repodata/repomd.xml?metalink", Other, None, false),
    // RPM metadata.
    ("/repo/repodata/{sha}{sha32}-primary.xml.gz", ImmutableMetadata, Some(Rpm), true),
    ("/repo/repodata/{sha}{sha}-primary.xml.gz", ImmutableMetadata, Some(Rpm), true),
    ("/repo/repodata/{sha}12-primary.xml.gz", MutableMetadata, Some(Rpm), false),
    ("/repo/repodata/{sha}", MutableMetadata, Some(Rpm), false),
    ("/suse/content", MutableMetadata, Some(Rpm), false),
    ("/distribution/13.2/repo/oss/content.asc", MutableMetadata, Some(Rpm), false),
    ("/distribution/13.2/repo/oss/suse/setup/descr/packages.gz", MutableMetadata, Some(Rpm), false),
    ("/suse/media.1/products.key", MutableMetadata, Some(Rpm), false),
    ("/api/content", Other, None, false),
    ("/social/media", Other, None, false),
    // A slash that is part of a segment.
    ("/a/repodata%2Frepomd.xml", Other, None, false),
    ("/a/repodata%2frepomd.xml", Other, None, false),
    ("/dists%2Fbookworm/main/Contents-amd64.gz", Other, None, false),
    ("/a/%72epodata/repomd%2Exml", MutableMetadata, Some(Rpm), false),
    ("/a/b.rpm%2F", Other, None, false),
    // Debian.
    ("/repo/Packages.gz", MutableMetadata, Some(Deb), false),
    ("/repo/./Packages", MutableMetadata, Some(Deb), false),
    ("/repo/Sources.xz", MutableMetadata, Some(Deb), false),
    ("/repo/Release", MutableMetadata, Some(Deb), false),
    ("/InRelease", MutableMetadata, Some(Deb), false),
    ("/debian/dists/bookworm/main/i18n/Index", MutableMetadata, Some(Deb), false),
    ("/debian/dists/bookworm/main/i18n/Translation-pt_BR.xz", MutableMetadata, Some(Deb), false),
    ("/debian/dists/bookworm/main/Contents-udeb-amd64.gz", MutableMetadata, Some(Deb), false),
    ("/debian/dists/bookworm/main/Contents-amd64.diff/Index", MutableMetadata, Some(Deb), false),
    ("/debian/dists/sid/main/binary-amd64/Packages.diff/2024-01-31-2013.12.gz", MutableMetadata, Some(Deb), false),
    (
        "/debian/dists/sid/main/binary-amd64/Packages.diff/T-2024-01-31-2013.12-F-2024-01-25-0205.10.gz",
        MutableMetadata,
        Some(Deb),
        false,
    ),
    ("/debian/dists/bookworm/main/dep11/icons-64x64@2.tar.gz", MutableMetadata, Some(Deb), false),
    ("/debian/dists/bookworm/main/dep11/CID-Index-amd64.json.gz", MutableMetadata, Some(Deb), false),
    ("/ubuntu/dists/noble/main/cnf/Commands-amd64.xz", MutableMetadata, Some(Deb), false),
    ("/debian/pool/main/d/dpkg/dpkg_1.22.6.tar.xz", Package, Some(Deb), false),
    ("/debian/pool/main/g/gcc-12/gcc-12_12.2.0-14+b1.diff.gz", Package, Some(Deb), false),
    ("/debian/pool/main/n/node-a/node-a_1.0%2b~cs1.orig-types.tar.gz.asc", Package, Some(Deb), false),
    ("/repo/google-stable_current_amd64.deb", Package, Some(Deb), false),
    // The web has such names as well.
    ("/icons-32.png", Other, None, false),
    ("/icons-64x64.tar.gz", Other, None, false),
    ("/img/dep11/icons-32.png", Other, None, false),
    ("/Translation-guide.html", Other, None, false),
    ("/i18n/Translation-guide.html", Other, None, false),
    ("/Contents-page.html", Other, None, false),
    ("/dists/Contents-page.html", Other, None, false),
    ("/docs/Contents-overview", Other, None, false),
    ("/Components-list.js", Other, None, false),
    ("/Commands-overview", Other, None, false),
    ("/wiki/Index", Other, None, false),
    ("/foo.diff/comments", Other, None, false),
    ("/Packages.diff/comments", Other, None, false),
    ("/Packages.html", Other, None, false),
    ("/Release.gz", Other, None, false),
    ("/fix.diff.gz", Other, None, false),
    ("/my_fix.diff.gz", Other, None, false),
    ("/a.orig-b.html", Other, None, false),
    ("/photo.orig.tar.gz", Other, None, false),
    ("/downloads/tool_1.2.3_linux_amd64.tar.gz", Other, None, false),
    ("/src/contrib/digest_0.6.35.tar.gz", Other, None, false),
    ("/notes.dsc", Other, None, false),
    // Arch and Alpine.
    ("/foo.pkg.tar.html", Other, None, false),
    ("/foo.pkg.tar", Package, Some(Arch), false),
    ("/.pkg.tar.zst", Other, None, false),
    ("/core.db.html", Other, None, false),
    ("/core.db.tar.html", Other, None, false),
    ("/x86_64/my.db.repo.db.tar.zst", MutableMetadata, Some(Arch), false),
    ("/.apk", Other, None, false),
];

#[test]
fn countme_names_nothing_where_dnf_asks_for_mirrors() {
    for (url, key) in [
        ("http://example.org/metalink?repo=f41&arch=x&countme=3", "http://example.org/metalink?repo=f41&arch=x"),
        ("http://example.org/mirrorlist/9/baseos?countme=1", "http://example.org/mirrorlist/9/baseos"),
        ("http://example.org/?countme=4&release=7&arch=x&repo=os", "http://example.org/?release=7&arch=x&repo=os"),
        ("http://example.org/metalink?countme=1", "http://example.org/metalink?countme=1"),
        ("http://example.org/poll?countme=1", "http://example.org/poll?countme=1"),
        ("http://example.org/a.rpm?countme=1", "http://example.org/a.rpm?countme=1"),
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

use proptest::prelude::*;

use super::*;
use crate::repos::relation::{Comparison, needs, provided};

/// A list in short: `NAME VERSION ARCH`, what it provides, what it needs.
struct Short<'l>(Format, &'l [(&'l str, &'l str, &'l str)]);

impl Packages for Short<'_> {
    fn count(&self) -> usize {
        self.1.len()
    }

    fn package(&self, index: usize) -> Option<Package<'_>> {
        let (id, provides, wants) = self.1.get(index)?;
        let mut words = id.split(' ');
        let (name, version, arch) = (words.next()?, words.next()?, words.next().unwrap_or("noarch"));
        Some(Package { name, version, arch, provides: provided(self.0, provides), needs: needs(self.0, wants) })
    }
}

impl Short<'_> {
    /// The packages, then, after a bar, what is missing.
    fn resolved(&self, wanted: &[&str]) -> String {
        let resolution = resolve(self, self.0, None, wanted);
        assert!(!resolution.is_cut);
        let ids = resolution.packages.iter().map(|index| self.1[*index].0.to_owned());
        let missing = resolution.missing.iter().map(|missing| match &missing.needed_by {
            Some(by) => format!("{} for {by}", missing.what),
            None => missing.what.clone(),
        });
        let all: Vec<String> = ids.chain(["-".to_owned()]).chain(missing).collect();
        all.join(", ").trim_end_matches(", -").replace("-, ", "- ")
    }
}

#[test]
fn rpm_packages() {
    let list = Short(
        Format::Rpm,
        &[
            ("vlc 1:3.0.20-1.fc41 x86_64", "vlc(x86-64) = 1:3.0.20-1.fc41", "libvlc.so.5()(64bit)\n/bin/sh"),
            (
                "vlc 1:3.0.21-1.fc41 x86_64",
                "",
                "libvlc.so.5()(64bit)\n/bin/sh\nvlc-core = 1:3.0.21-1.fc41\nnothing >= 3",
            ),
            ("vlc 1:3.0.21-1.fc41 i686", "", "libvlc.so.5"),
            ("vlc 1:3.0.22-1.fc41 src", "", "gcc"),
            ("vlc-core 1:3.0.20-1.fc41 x86_64", "", ""),
            ("vlc-core 1:3.0.21-1.fc41 x86_64", "", "(font-a or font-b)\n(vlc-selinux if selinux-policy)"),
            ("vlc-libs 1:3.0.21-1.fc41 x86_64", "libvlc.so.5()(64bit)", "(crate(x) >= 1 with crate(x) < 2.0~)"),
            ("vlc-libs-compat 4 x86_64", "libvlc.so.5()(64bit)", ""),
            ("vlc-libs 1:3.0.21-1.fc41 i686", "libvlc.so.5", ""),
            ("bash 5.2-1 x86_64", "/bin/sh", "glibc >= 2.3"),
            ("glibc 2.40-1 x86_64", "", ""),
            ("glibc 2.40~rc1-1 x86_64", "", ""),
            ("font-b 1-1 noarch", "", "fontconfig"),
            ("fontconfig 2-1 i686", "", ""),
            ("fontconfig 2-1 x86_64", "", "(gone if kde)\ngone-too"),
            ("rust-x2 2.0~beta-1 noarch", "crate(x) = 2.0~beta", ""),
            ("rust-x1 1.9-1 noarch", "crate(x) = 1.9", ""),
            ("rust-x3 3.0-1 noarch", "crate(x) = 3.0", ""),
            ("vlc-selinux 1-1 noarch", "", ""),
            ("other 1-1 x86_64", "", ""),
        ],
    );
    assert_eq!(
        list.resolved(&["vlc", "vlc"]),
        "vlc 1:3.0.21-1.fc41 x86_64, vlc-libs 1:3.0.21-1.fc41 x86_64, bash 5.2-1 x86_64, vlc-core 1:3.0.21-1.fc41 x86_64, \
         rust-x1 1.9-1 noarch, glibc 2.40-1 x86_64, font-b 1-1 noarch, vlc-selinux 1-1 noarch, fontconfig 2-1 x86_64, \
         - nothing >= 3 for vlc, gone-too for fontconfig"
    );
    assert_eq!(
        list.resolved(&["vlc-core", "rust-?1"]),
        "vlc-core 1:3.0.21-1.fc41 x86_64, rust-x1 1.9-1 noarch, font-b 1-1 noarch, vlc-selinux 1-1 noarch, \
         fontconfig 2-1 x86_64, - gone-too for fontconfig"
    );
    assert_eq!(list.resolved(&["/bin/sh", "none", "no*ne"]), "bash 5.2-1 x86_64, glibc 2.40-1 x86_64, - no*ne, none");
    let other = resolve(&list, Format::Rpm, Some("i686"), &["vlc"]);
    assert_eq!(other.packages, [2, 8]);
}

#[test]
fn deb_packages() {
    let list = Short(
        Format::Deb,
        &[
            (
                "mutt 2.2-1 amd64",
                "mail-reader, imap-client",
                "libc6 (>= 2.36), default-mta | mail-transport-agent, awk",
            ),
            (
                "mutt 2.2-1+deb12u1 amd64",
                "mail-reader",
                "libc6 (>= 2.36), default-mta | mail-transport-agent, awk, perl:any",
            ),
            ("libc6 2.36-9 i386", "", ""),
            ("libc6 2.36-9 amd64", "", "libgcc-s1, libcrypt1 (>= 1:4.4.10-10~)"),
            ("libgcc-s1 12.2-14 amd64", "libgcc1 (= 1:12.2-14)", "libc6 (>= 2.35), gcc-12-base (= 12.2-14)"),
            ("gcc-12-base 12.2-14 all", "", ""),
            ("libcrypt1 1:4.4.33-2 amd64", "", ""),
            ("exim4 4.96-15 all", "mail-transport-agent", "debconf (>= 0.5) | debconf-2.0, libgcc1 (>= 1:3)"),
            ("postfix 3.7-1 amd64", "mail-transport-agent", ""),
            ("mawk 1.3-1 amd64", "awk", ""),
            ("original-awk 1-1 amd64", "awk", ""),
            ("cdebconf 0.270 amd64", "debconf-2.0", "gone (<< 3) | gone-too"),
            ("perl 5.36-7 amd64", "", ""),
            ("old 1 amd64", "", "libc6 (<< 2)"),
        ],
    );
    assert_eq!(
        list.resolved(&["mutt"]),
        "mutt 2.2-1+deb12u1 amd64, libc6 2.36-9 amd64, exim4 4.96-15 all, mawk 1.3-1 amd64, perl 5.36-7 amd64, \
         libgcc-s1 12.2-14 amd64, libcrypt1 1:4.4.33-2 amd64, cdebconf 0.270 amd64, gcc-12-base 12.2-14 all, \
         - gone < 3 | gone-too for cdebconf"
    );
    let chosen = "postfix 3.7-1 amd64, mutt 2.2-1+deb12u1 amd64, libc6";
    assert!(list.resolved(&["postfix", "mutt"]).starts_with(chosen), "what is there already will do");
    assert_eq!(list.resolved(&["old"]), "old 1 amd64, - libc6 < 2 for old");
}

#[test]
fn arch_packages() {
    let list = Short(
        Format::Arch,
        &[
            ("pacman 6.1.0-3 x86_64", "libalpm.so=14-64", "bash\nglibc\nlibcurl.so=4-64\nsh"),
            ("bash 5.2.026-2 x86_64", "sh", "readline>=8\nglibc"),
            ("dash 0.5-1 x86_64", "sh", ""),
            ("readline 8.2-1 x86_64", "libreadline.so=8-64", "glibc<2.30"),
            ("glibc 2.39-1 x86_64", "", ""),
            ("curl 8.8-1 x86_64", "libcurl.so=4-64", ""),
            ("lib32-curl 8.8-1 x86_64", "libcurl.so=4-32", ""),
        ],
    );
    assert_eq!(
        list.resolved(&["pac*"]),
        "pacman 6.1.0-3 x86_64, bash 5.2.026-2 x86_64, glibc 2.39-1 x86_64, curl 8.8-1 x86_64, readline 8.2-1 x86_64, \
         - glibc < 2.30 for readline"
    );
}

#[test]
fn alpine_packages() {
    let list = Short(
        Format::Alpine,
        &[
            (
                "vlc 3.0.20-r1 x86_64",
                "cmd:vlc=3.0.20-r1",
                "so:libc.musl-x86_64.so.1 vlc-libs=3.0.20-r1 pc:x11>=1.7 !gone cmd:sh~1",
            ),
            ("vlc-libs 3.0.20-r0 x86_64", "so:libvlc.so.5=5.6", ""),
            ("vlc-libs 3.0.20-r1 x86_64", "so:libvlc.so.5=5.6", "so:libnone.so.1"),
            ("musl 1.2.5-r0 x86_64", "so:libc.musl-x86_64.so.1=1", ""),
            ("libx11-dev 1.8.9-r1 x86_64", "pc:x11=1.8.9", ""),
            ("busybox 1.36-r2 x86_64", "cmd:sh=1.36-r2", ""),
        ],
    );
    assert_eq!(
        list.resolved(&["cmd:vlc"]),
        "vlc 3.0.20-r1 x86_64, musl 1.2.5-r0 x86_64, vlc-libs 3.0.20-r1 x86_64, libx11-dev 1.8.9-r1 x86_64, \
         busybox 1.36-r2 x86_64, - so:libnone.so.1 for vlc-libs"
    );
}

#[test]
fn patterns() {
    for (pattern, name, expected) in [
        ("gstreamer*", "gstreamer1-plugins", true),
        ("*", "", true),
        ("*-libs", "vlc-libs", true),
        ("*-libs", "vlc-libs-x", false),
        ("a*b*c", "aXbXbXc", true),
        ("a*b*c", "aXbXcX", false),
        ("?lc", "vlc", true),
        ("?lc", "lc", false),
        ("v?*c", "vc", false),
    ] {
        assert_eq!(fits(pattern, name), expected, "{pattern} {name}");
    }
    assert!(!fits(&"*a".repeat(200), &"a".repeat(199)));
}

/// Each needs the same thing in a version of its own, which all of the others seem to provide.
struct Hostile(Vec<String>);

impl Packages for Hostile {
    fn count(&self) -> usize {
        self.0.len()
    }

    fn package(&self, index: usize) -> Option<Package<'_>> {
        let name = &self.0[index];
        let relation = Relation { name: "x", bounds: vec![(Comparison::Less, name)] };
        let needs = vec![Need { any_of: vec![relation], is_optional: false }];
        let provides = vec![Provided { name: "x", version: Some("9") }];
        Some(Package { name, version: "1", arch: "x86_64", provides, needs })
    }
}

#[test]
fn what_a_list_may_cost_is_bounded() {
    let list = |count: u32| Hostile((0..count).map(|i| format!("0.{i}")).collect());
    let many = resolve(&list(CHOSEN_MAX as u32 + 9), Format::Deb, None, &["*"]);
    assert_eq!((many.packages.len(), many.is_cut), (CHOSEN_MAX, true));
    let dear = resolve(&list(5_000), Format::Deb, None, &["*"]);
    assert_eq!((dear.packages.len(), dear.missing.len() < MISSING_MAX, dear.is_cut), (5_000, true, true));
    let few = resolve(&list(500), Format::Deb, None, &["*"]);
    assert_eq!((few.packages.len(), few.missing.len(), few.is_cut), (500, 500, false));
}

/// `NAME`, `NAME=VERSION` or `NAME>=VERSION` as the family writes it, with what separates it from the next.
fn written(format: Format, word: &str) -> String {
    let at = word.find(['=', '>']).unwrap_or(word.len());
    let (name, bound) = word.split_at(at);
    let version = bound.trim_start_matches(['=', '>']);
    let sign = bound.strip_suffix(version).unwrap_or_default();
    match (format, sign) {
        (Format::Rpm, "") | (Format::Arch, _) => format!("{word}\n"),
        (Format::Rpm, _) => format!("{name} {sign} {version}\n"),
        (Format::Deb, "") => format!("{word},"),
        (Format::Deb, _) => format!("{name} ({sign} {version}),"),
        (Format::Alpine, _) => format!("{word} "),
    }
}

proptest! {
    /// Whatever the lists say: each need of a chosen package is met by a chosen one, or it is missing.
    #[test]
    fn needs_are_met_or_missing(
        format in prop_oneof![Just(Format::Rpm), Just(Format::Deb), Just(Format::Arch), Just(Format::Alpine)],
        rows in proptest::collection::vec(("[a-e] [0-2] (x|y|any)", "([a-e](=[0-2])? ?){0,2}", "([a-h](>=[0-3])? ?){0,3}"), 1..12),
    ) {
        let text = |text: &str| text.split_whitespace().map(|word| written(format, word)).collect::<String>();
        let rows: Vec<_> = rows.iter().map(|(id, provides, wants)| (id.clone(), text(provides), text(wants))).collect();
        let short: Vec<_> = rows.iter().map(|(a, b, c)| (&**a, &**b, &**c)).collect();
        let list = Short(format, &short);
        let resolution = resolve(&list, format, None, &["a", "b*"]);
        prop_assert_eq!(&resolution, &resolve(&list, format, None, &["a", "b*"]));
        let missing: HashSet<&str> = resolution.missing.iter().map(|missing| &*missing.what).collect();
        let chosen: Vec<_> = resolution.packages.iter().filter_map(|index| list.package(*index)).collect();
        for need in chosen.iter().flat_map(|package| &package.needs) {
            let met = chosen.iter().any(|package| need.any_of.iter().any(|relation| package.meets(format, relation)));
            prop_assert!(met || missing.contains(&*need.to_string()), "{}", need);
        }
        let all: HashSet<_> = resolution.packages.iter().collect();
        prop_assert_eq!(all.len(), resolution.packages.len());
    }
}

//! Whatever a list says, reading it ends, with packages that make sense or with an error.

use proptest::prelude::*;

use super::*;
use crate::repos::tar::tests::archive;

const SHA: &str = "ed7002b439e9ac845f22357d822bac1444730fbdb6016d3ec9432297b9ec9f73";

const FORMS: [Form; 5] = [Form::Primary, Form::Packages, Form::Sources, Form::Database, Form::Apkindex];

fn listed(form: Form, bytes: &[u8]) -> io::Result<Vec<Package>> {
    let mut packages = Vec::new();
    read(form, bytes, |package| {
        packages.push(package);
        Ok(())
    })?;
    Ok(packages)
}

/// What real lists look like, with whatever is hard in them.
fn right(form: Form) -> Vec<u8> {
    let text = match form {
        Form::Primary => {
            return format!(
                r#"<?xml version="1.0" encoding="UTF-8"?>
<!-- made by hand -->
<metadata xmlns="http://linux.duke.edu/metadata/common" xmlns:rpm="http://linux.duke.edu/metadata/rpm" packages="3">
<package type="rpm"><name>a</name><arch>x86_64</arch><version epoch="2" ver="1.0~rc1^git1" rel="3.module_f41+1+abc"/>
<checksum type="sha256" pkgid="YES">{SHA}</checksum><summary>&#x3c;A&amp;B&gt;</summary><description><![CDATA[<x>&]]>
more</description><packager/><url>http://example.org/?a&amp;b</url><time file="1" build="2"/><size package="1234" installed="5" archive="6"/>
<location href="Packages/a/a.rpm"/><format><rpm:license>X</rpm:license><rpm:header-range start="4504" end="8"/>
<rpm:provides><rpm:entry name="a" flags="EQ" epoch="2" ver="1.0~rc1^git1" rel="3"/><rpm:entry name="config(a)"/></rpm:provides>
<rpm:requires><rpm:entry name="(b or c &gt;= 2)"/><rpm:entry name="d" flags="GE" epoch="0" ver="1" pre="1"/></rpm:requires>
<file>/usr/bin/a</file><file type="dir">/etc/a</file></format></package>
<package type="rpm"><name>elsewhere</name><checksum type="sha256">{SHA}</checksum><size package="1"/>
<location xml:base="http://example.org/" href="b.rpm"/></package>
<package type="rpm"><name>no-size</name><checksum type="sha">x</checksum><location href="c.rpm"/></package></metadata>"#
            )
            .into_bytes();
        }
        Form::Packages => format!(
            "Package: a\r\nVersion: 1:1.0~rc1-1\r\nArchitecture: amd64\r\nDepends: b (>= 1) | c,\r\n d:any\r\nDescription: a\r\n long\r\n .\r\n\
             Filename: pool/a.deb\r\nSize: 12\r\nSHA256: {SHA}\r\n\r\n# a comment\nPackage: b\nSize: 1\n"
        ),
        Form::Sources => format!(
            "Package: a\nDirectory: pool\nVersion: 1\nChecksums-Sha256:\n {SHA} 1 a.dsc\n {SHA}  22 a.tar.xz\nFiles:\n {} 1 a.dsc\n",
            "0".repeat(32)
        ),
        Form::Database => {
            let desc = format!(
                "%FILENAME%\na.pkg.tar.zst\n\n%NAME%\na\n\n%VERSION%\n1:1-1\n\n%CSIZE%\n5\n\n%SHA256SUM%\n{SHA}\n\n%DEPENDS%\nb>=1\n"
            );
            return archive(&[("a-1/desc", &desc), ("a-1/files", "x"), ("b-1/desc", "%NAME%\nb\n")]);
        }
        Form::Apkindex => {
            let index = "C:Q1abc=\nP:a\nV:1.0_rc1-r0\nA:x86_64\nS:5\nD:so:b.so.1 !c\np:cmd:a=1\n\nP:b\nV:1\nS:1\n\n";
            return archive(&[(".SIGN.RSA.x", "s"), ("DESCRIPTION", "d"), ("APKINDEX", index)]);
        }
    };
    text.into_bytes()
}

/// What may be relied on.
fn check(packages: &[Package]) -> Result<(), TestCaseError> {
    for package in packages {
        let Package { path, name, version, arch, .. } = package;
        prop_assert!([path, name, version, arch].iter().all(|value| value.len() <= VALUE_MAX));
        prop_assert!(!path.starts_with('/') && path.split('/').all(|part| !matches!(part, "" | "." | "..")), "{path}");
    }
    Ok(())
}

#[test]
fn real_shapes_are_read() {
    let names = |form| listed(form, &right(form)).unwrap().into_iter().map(|package| package.path).collect::<Vec<_>>();
    assert_eq!(names(Form::Primary), ["Packages/a/a.rpm"]);
    assert_eq!(names(Form::Packages), ["pool/a.deb"]);
    assert_eq!(names(Form::Sources), ["pool/a.dsc", "pool/a.tar.xz"]);
    assert_eq!(names(Form::Database), ["a.pkg.tar.zst"]);
    assert_eq!(names(Form::Apkindex), ["a-1.0_rc1-r0.apk", "b-1.apk"]);
}

/// Where to change a list, and how.
#[derive(Debug, Clone)]
enum Damage {
    Cut(prop::sample::Index),
    Set(prop::sample::Index, Vec<u8>),
    Insert(prop::sample::Index, String),
    Repeat(prop::sample::Index, prop::sample::Index, usize),
}

impl Damage {
    fn apply(&self, bytes: &mut Vec<u8>) {
        let at = |index: &prop::sample::Index| index.index(bytes.len() + 1);
        match self {
            Self::Cut(place) => bytes.truncate(at(place)),
            Self::Set(place, with) => {
                let from = at(place);
                let end = (from + with.len()).min(bytes.len());
                bytes[from..end].copy_from_slice(&with[..end - from]);
            }
            Self::Insert(place, text) => {
                let from = at(place);
                drop(bytes.splice(from..from, text.bytes()));
            }
            Self::Repeat(a, b, times) => {
                let (from, end) = (at(a).min(at(b)), at(a).max(at(b)));
                let part = bytes[from..end].repeat(*times);
                drop(bytes.splice(end..end, part));
            }
        }
    }
}

fn damage() -> impl Strategy<Value = Damage> {
    let shapes = "(<|>|&|&amp;|&#0;|&x;|]]>|<!--|-->|<!\\[CDATA\\[|<package>|</package>|xml:base=\"x\"|\r|\n|\n\n| |:|%|%NAME%|\\.\\./|/|~|\\^|é|\u{0}|-1|99999999999999999999){1,3}";
    prop_oneof![
        any::<prop::sample::Index>().prop_map(Damage::Cut),
        (any::<prop::sample::Index>(), any::<Vec<u8>>()).prop_map(|(at, with)| Damage::Set(at, with)),
        (any::<prop::sample::Index>(), shapes).prop_map(|(at, text)| Damage::Insert(at, text)),
        (any::<prop::sample::Index>(), any::<prop::sample::Index>(), 1usize..4)
            .prop_map(|(a, b, n)| Damage::Repeat(a, b, n)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn what_is_damaged_is_survived(form in prop::sample::select(&FORMS[..]), how in prop::collection::vec(damage(), 1..4)) {
        let mut bytes = right(form);
        how.iter().for_each(|damage| damage.apply(&mut bytes));
        if let Ok(packages) = listed(form, &bytes) {
            check(&packages)?;
        }
    }

    #[test]
    fn any_bytes_are_survived(form in prop::sample::select(&FORMS[..]), bytes in any::<Vec<u8>>(), text in any::<String>()) {
        for bytes in [&bytes, text.as_bytes()] {
            if let Ok(packages) = listed(form, bytes) {
                check(&packages)?;
            }
        }
    }
}

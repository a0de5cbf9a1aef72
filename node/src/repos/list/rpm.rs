//! RPM's `primary.xml` (createrepo's; there is no written specification: librepo and createrepo_c read it like this).

use std::io::{self, BufRead};

use quick_xml::Reader;
use quick_xml::events::{BytesStart, Event};

use super::{Package, VALUE_MAX, bad, checked, checked_path};
use crate::classify::{Algorithm, Digest};
use crate::repos::xml::entity;
use crate::repos::{Promise, xml};

/// How deep elements may lie in each other.
const DEPTH_MAX: usize = 32;

/// Longest markup or text between two of them, in bytes; a description may be long.
const EVENT_MAX: usize = 4 * 1024 * 1024;

/// A package as far as it has been read.
#[derive(Default)]
struct Partial {
    name: String,
    arch: String,
    version: String,
    digest: Option<Digest>,
    size: Option<u64>,
    path: Option<String>,
    /// It lies outside of the repository, by `xml:base`.
    is_elsewhere: bool,
}

/// Whose text is being read.
#[derive(Clone, Copy, PartialEq)]
enum Text {
    Name,
    Arch,
    Checksum(Option<Algorithm>),
}

pub(super) fn read(input: impl BufRead, each: &mut dyn FnMut(Package) -> io::Result<()>) -> io::Result<()> {
    let mut reader = Reader::from_reader(input);
    let mut buffer = Vec::new();
    let mut depth = 0;
    let mut package: Option<Partial> = None;
    let mut text = None;
    let mut value = String::new();
    let mut is_primary = false;
    loop {
        buffer.clear();
        let at = reader.buffer_position();
        let event = reader.read_event_into(&mut buffer).map_err(|e| bad(format!("at byte {at}: {e}")))?;
        let is_empty = matches!(event, Event::Empty(_));
        match event {
            Event::Start(element) | Event::Empty(element) => {
                depth += usize::from(!is_empty);
                if depth > DEPTH_MAX {
                    return Err(bad(format!("at byte {at}: elements lie too deep in each other")));
                }
                text = None;
                match (element.local_name().as_ref(), &mut package) {
                    ("metadata", None) => is_primary = true,
                    ("package", None) if is_primary && !is_empty => package = Some(Partial::default()),
                    (name, Some(package)) => {
                        text = package.begin(name, &element)?.filter(|_| !is_empty);
                        value.clear();
                    }
                    _ => {}
                }
            }
            Event::Text(part) if text.is_some() => {
                value.push_str(&part);
                checked(&value)?;
            }
            Event::GeneralRef(name) if text.is_some() => {
                value.push_str(&entity(&name).map_err(|e| bad(format!("at byte {at}: {e}")))?);
            }
            Event::CData(part) if text.is_some() => {
                value.push_str(&part);
                checked(&value)?;
            }
            Event::End(element) => {
                depth = depth.checked_sub(1).ok_or_else(|| bad(format!("at byte {at}: an end without a start")))?;
                if let (Some(package), Some(text)) = (&mut package, text.take()) {
                    package.end(text, value.trim());
                }
                if element.local_name().as_ref() == "package"
                    && let Some(done) = package.take()
                    && let Some(done) = done.finish().map_err(|e| bad(format!("at byte {at}: {e}")))?
                {
                    each(done)?;
                }
            }
            Event::Eof if depth > 0 => return Err(bad("the end is missing")),
            Event::Eof if !is_primary => return Err(bad("it is no list of packages")),
            Event::Eof => return Ok(()),
            _ => {}
        }
        if buffer.len() > EVENT_MAX {
            return Err(bad(format!("at byte {at}: something has no end")));
        }
    }
}

impl Partial {
    /// An element inside a package; says whose text follows.
    fn begin(&mut self, name: &str, element: &BytesStart<'_>) -> io::Result<Option<Text>> {
        let attribute = |name: &str| -> io::Result<Option<String>> {
            let value = xml::attribute(element, name)?;
            value.as_deref().map_or(Ok(()), |value| checked(value).map(|_| ()))?;
            Ok(value)
        };
        match name {
            "name" => return Ok(Some(Text::Name)),
            "arch" => return Ok(Some(Text::Arch)),
            "checksum" => return Ok(Some(Text::Checksum(attribute("type")?.and_then(|kind| algorithm(&kind))))),
            "version" => {
                let part = |name| Ok::<_, io::Error>(attribute(name)?.unwrap_or_default());
                let (epoch, version, release) = (part("epoch")?, part("ver")?, part("rel")?);
                let epoch = if epoch.is_empty() || epoch == "0" { String::new() } else { format!("{epoch}:") };
                self.version = format!("{epoch}{version}-{release}");
            }
            "size" => self.size = attribute("package")?.and_then(|size| size.parse().ok()),
            "location" => {
                self.is_elsewhere = attribute("xml:base")?.is_some_and(|base| !base.is_empty());
                self.path = attribute("href")?;
            }
            _ => {}
        }
        Ok(None)
    }

    fn end(&mut self, text: Text, value: &str) {
        // `format` has elements of the same names; what comes first is the package's own.
        let set = |place: &mut String| {
            if place.is_empty() {
                value[..value.len().min(VALUE_MAX)].clone_into(place);
            }
        };
        match text {
            Text::Name => set(&mut self.name),
            Text::Arch => set(&mut self.arch),
            Text::Checksum(Some(algorithm)) if self.digest.is_none() => {
                self.digest = Digest::from_hex(algorithm, value);
            }
            Text::Checksum(_) => {}
        }
    }

    /// Nothing where it lies elsewhere or has no digest that is known here.
    fn finish(self) -> io::Result<Option<Package>> {
        let (Some(path), Some(digest), false) = (self.path, self.digest, self.is_elsewhere) else { return Ok(None) };
        // Old repositories leave the length out; then there is no telling.
        let Some(size) = self.size else { return Ok(None) };
        Ok(Some(Package {
            path: checked_path(&path)?,
            name: self.name,
            version: self.version,
            arch: self.arch,
            promise: Promise { digest, size },
        }))
    }
}

/// As createrepo names them; `sha` is SHA-1.
pub(crate) fn algorithm(name: &str) -> Option<Algorithm> {
    Some(match name {
        "md5" => Algorithm::Md5,
        "sha" | "sha1" => Algorithm::Sha1,
        "sha256" => Algorithm::Sha256,
        "sha384" => Algorithm::Sha384,
        "sha512" => Algorithm::Sha512,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::super::{Form, read};
    use super::*;

    fn listed(text: &str) -> io::Result<Vec<Package>> {
        let mut packages = Vec::new();
        read(Form::Primary, text.as_bytes(), |package| {
            packages.push(package);
            Ok(())
        })?;
        Ok(packages)
    }

    fn package(inside: &str) -> String {
        format!(
            r#"<?xml version="1.0" encoding="UTF-8"?>
<metadata xmlns="http://linux.duke.edu/metadata/common" xmlns:rpm="http://linux.duke.edu/metadata/rpm" packages="1">
<package type="rpm">{inside}</package></metadata>"#
        )
    }

    const SHA: &str = "ed7002b439e9ac845f22357d822bac1444730fbdb6016d3ec9432297b9ec9f73";

    #[test]
    fn a_package() {
        let text = package(&format!(
            r#"<name>a&amp;b</name><arch>x86_64</arch><version epoch="2" ver="1.0~rc1^git" rel="3.fc41"/>
            <checksum type="sha256" pkgid="YES">{SHA}</checksum><summary>A &lt;b> <![CDATA[c]]></summary>
            <size package="1234" installed="5" archive="6"/><!-- x --><location href="Packages/a/a%20b.rpm"/>
            <format><rpm:license>X</rpm:license><rpm:provides><rpm:entry name="a" flags="EQ" epoch="0" ver="1"/></rpm:provides>
            <rpm:header-range start="4504" end="8"/><file>/usr/bin/a</file></format>"#
        ));
        let packages = listed(&text).unwrap();
        let [package] = &packages[..] else { panic!("{packages:?}") };
        assert_eq!((&*package.name, &*package.arch, &*package.version), ("a&b", "x86_64", "2:1.0~rc1^git-3.fc41"));
        assert_eq!((&*package.path, package.promise.size), ("Packages/a/a%20b.rpm", 1234));
        assert_eq!(package.promise.digest.hex(), SHA);
    }

    #[test]
    fn what_says_nothing_of_a_file_is_passed_over() {
        let checksum = format!(r#"<checksum type="sha256">{SHA}</checksum>"#);
        for inside in [
            format!(r#"{checksum}<size package="1"/><location xml:base="http://example.org/" href="a.rpm"/>"#),
            format!(r#"{checksum}<location href="a.rpm"/>"#),
            r#"<checksum type="sha256">00</checksum><size package="1"/><location href="a.rpm"/>"#.to_owned(),
            r#"<checksum type="crc">00</checksum><size package="1"/><location href="a.rpm"/>"#.to_owned(),
        ] {
            assert_eq!(listed(&package(&inside)).unwrap(), [], "{inside}");
        }
    }

    #[test]
    fn what_is_malformed_is_no_list() {
        let right =
            package(&format!(r#"<checksum type="sha256">{SHA}</checksum><size package="1"/><location href="a.rpm"/>"#));
        assert_eq!(listed(&right).unwrap().len(), 1);
        for wrong in [
            right.replace("</metadata>", ""),
            right.replace("a.rpm", "../a.rpm"),
            right.replace("a.rpm", "/a.rpm"),
            right.replace("</package>", "</wrong>"),
            right.replace("href=", "href"),
            "<x>".repeat(100),
            "<html><body>not found</body></html>".into(),
            String::new(),
        ] {
            assert!(listed(&wrong).is_err(), "{wrong:.80}");
        }
    }
}

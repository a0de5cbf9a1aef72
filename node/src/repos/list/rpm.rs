//! RPM's `primary.xml` (createrepo's; there is no written specification: librepo and createrepo_c read it like this).

use std::io::{self, BufRead, Read};

use quick_xml::Reader;
use quick_xml::events::{BytesStart, Event};

use super::{Package, Relations, bad, checked, checked_path};
use crate::classify::{Algorithm, Digest};
use crate::repos::xml;
use crate::repos::xml::entity;

/// How deep elements may lie in each other.
const DEPTH_MAX: usize = 32;

/// Longest markup or text between two of them, in bytes; a description may be long.
const EVENT_MAX: usize = 4 * 1024 * 1024;

/// Bytes of what one package provides or needs; of more the rest is left out. A kernel's has some hundred thousand.
const RELATIONS_MAX: usize = 2 * 1024 * 1024;

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
    relations: Relations,
    section: Section,
}

/// Which relations are being read.
#[derive(Clone, Copy, Default)]
enum Section {
    Provides,
    Requires,
    Recommends,
    /// What conflicts, for one.
    #[default]
    Other,
}

/// Whose text is being read.
#[derive(Clone, Copy, PartialEq)]
enum Text {
    Name,
    Arch,
    Checksum(Option<Algorithm>),
    File,
}

pub(super) fn read(input: impl BufRead, each: &mut dyn FnMut(Package) -> io::Result<()>) -> io::Result<()> {
    let mut reader = Reader::from_reader(PerEvent { input, left: EVENT_MAX });
    let mut buffer = Vec::new();
    let mut depth = 0;
    let mut package: Option<Partial> = None;
    let mut text = None;
    let mut value = String::new();
    let mut is_primary = false;
    loop {
        buffer.clear();
        reader.get_mut().left = EVENT_MAX;
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
                checked(&value)?;
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
    }
}

/// Fails before one event takes too much memory.
struct PerEvent<R> {
    input: R,
    left: usize,
}

impl<R: BufRead> Read for PerEvent<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let read = self.fill_buf()?.read(buf)?;
        self.consume(read);
        Ok(read)
    }
}

impl<R: BufRead> BufRead for PerEvent<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.left == 0 {
            return Err(bad("something has no end"));
        }
        self.input.fill_buf()
    }

    fn consume(&mut self, amount: usize) {
        self.left = self.left.saturating_sub(amount);
        self.input.consume(amount);
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
                self.version = evr(&part("epoch")?, &part("ver")?, &part("rel")?);
            }
            "size" => self.size = attribute("package")?.and_then(|size| size.parse().ok()),
            "location" => {
                self.is_elsewhere = attribute("xml:base")?.is_some_and(|base| !base.is_empty());
                self.path = attribute("href")?;
            }
            "provides" => self.section = Section::Provides,
            "requires" => self.section = Section::Requires,
            "recommends" => self.section = Section::Recommends,
            "conflicts" | "obsoletes" | "suggests" | "supplements" | "enhances" => self.section = Section::Other,
            "entry" => {
                let mut line = attribute("name")?.unwrap_or_default();
                if let Some(sign) = attribute("flags")?.and_then(|flags| sign(&flags)) {
                    let part = |name| Ok::<_, io::Error>(attribute(name)?.unwrap_or_default());
                    line = format!("{line} {sign} {}", evr(&part("epoch")?, &part("ver")?, &part("rel")?));
                }
                self.relate(self.section, &line);
            }
            // Those that packages often need are listed here; the others are in a list of their own.
            "file" => return Ok(Some(Text::File)),
            _ => {}
        }
        Ok(None)
    }

    fn end(&mut self, text: Text, value: &str) {
        // `format` has elements of the same names; what comes first is the package's own.
        let set = |place: &mut String| {
            if place.is_empty() {
                value.clone_into(place);
            }
        };
        match text {
            Text::Name => set(&mut self.name),
            Text::Arch => set(&mut self.arch),
            Text::Checksum(Some(algorithm)) if self.digest.is_none() => {
                self.digest = Digest::from_hex(algorithm, value);
            }
            Text::Checksum(_) => {}
            Text::File => self.relate(Section::Provides, value),
        }
    }

    fn relate(&mut self, section: Section, line: &str) {
        let text = match section {
            Section::Provides => &mut self.relations.provides,
            Section::Requires => &mut self.relations.needs,
            Section::Recommends => &mut self.relations.recommends,
            Section::Other => return,
        };
        if !line.contains('\n') && text.len() + line.len() < RELATIONS_MAX {
            let separator = if text.is_empty() { "" } else { "\n" };
            text.push_str(separator);
            text.push_str(line);
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
            size,
            digest: Some(digest),
            relations: self.relations,
        }))
    }
}

/// `EPOCH:VERSION-RELEASE`; what is not there is left out, and so is an epoch of zero.
fn evr(epoch: &str, version: &str, release: &str) -> String {
    let epoch = if epoch.is_empty() || epoch == "0" { String::new() } else { format!("{epoch}:") };
    let release = if release.is_empty() { String::new() } else { format!("-{release}") };
    format!("{epoch}{version}{release}")
}

fn sign(flags: &str) -> Option<&'static str> {
    Some(match flags {
        "EQ" => "=",
        "LT" => "<",
        "LE" => "<=",
        "GT" => ">",
        "GE" => ">=",
        _ => return None,
    })
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
            <format><rpm:license>X</rpm:license><rpm:provides><rpm:entry name="a" flags="EQ" epoch="0" ver="1"/><rpm:entry name="lib(x)(64bit)"/></rpm:provides>
            <rpm:requires><rpm:entry name="b" flags="GE" epoch="2" ver="1" rel="3" pre="1"/><rpm:entry name="(c if d)"/></rpm:requires>
            <rpm:conflicts><rpm:entry name="x"/></rpm:conflicts><rpm:recommends><rpm:entry name="e"/></rpm:recommends>
            <rpm:header-range start="4504" end="8"/><file>/usr/bin/a&amp;b</file></format>"#
        ));
        let packages = listed(&text).unwrap();
        let [package] = &packages[..] else { panic!("{packages:?}") };
        assert_eq!((&*package.name, &*package.arch, &*package.version), ("a&b", "x86_64", "2:1.0~rc1^git-3.fc41"));
        assert_eq!((&*package.path, package.size), ("Packages/a/a%20b.rpm", 1234));
        assert_eq!(package.digest.as_ref().unwrap().hex(), SHA);
        let Relations { provides, needs, recommends } = &package.relations;
        assert_eq!(&**provides, "a = 1\nlib(x)(64bit)\n/usr/bin/a&b");
        assert_eq!((&**needs, &**recommends), ("b >= 2:1-3\n(c if d)", "e"));
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
    fn what_has_no_end_is_given_up() {
        struct Counted<R>(R, usize);
        impl<R: Read> Read for Counted<R> {
            fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
                let read = self.0.read(buf)?;
                self.1 += read;
                Ok(read)
            }
        }
        for start in ["<metadata>", "<metadata><package name='", "<metadata><!--", "<metadata><package><name>", "<"] {
            let mut endless = Counted(start.as_bytes().chain(io::repeat(b'x')), 0);
            assert!(read(Form::Primary, &mut endless, |_| Ok(())).is_err());
            assert!(endless.1 < 2 * EVENT_MAX, "{start}: {}", endless.1);
        }
        let name = format!("<name>{}&#233;</name>", "a".repeat(4095));
        assert!(listed(&package(&name)).is_err(), "longer than a name is, and no character is cut");
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

//! Metalinks as distributions serve them (version 3.0, or RFC 5854): which mirrors have a repository, and what its root of trust
//! must be. Pure.

use quick_xml::Reader;
use quick_xml::XmlVersion::Explicit1_0;
use quick_xml::events::{BytesStart, Event};

use crate::classify::Url;

/// More mirrors than this are not used: the first of them are near, and a request tries only a few.
pub const MIRRORS_MAX: usize = 32;

/// What all URLs of a repository's metalink end with: they name its root of trust.
pub const ROOT: &str = "/repodata/repomd.xml";
pub const ROOT_NAME: &str = "repomd.xml";

/// Older versions that are still permitted, and digests of one version.
const VERSIONS_MAX: usize = 32;
const HASHES_MAX: usize = 8;

/// The versions of `repomd.xml` that a repository's metalink permits.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Root {
    pub current: Version,
    pub older: Vec<Version>,
}

/// What is known of one version. All of it is harmless in XML.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Version {
    /// Seconds since 1970.
    pub timestamp: Option<u64>,
    pub size: Option<u64>,
    /// Algorithm (`sha256`) and hexadecimal digest.
    pub hashes: Vec<(String, String)>,
}

/// Why a document is of no use.
#[derive(Debug, thiserror::Error)]
pub enum BadMetalink {
    #[error("it is no XML: {0}")]
    Xml(#[from] quick_xml::Error),
    #[error("it is no UTF-8")]
    Encoding,
    #[error("it names no mirror of a repository by http or https")]
    NoMirrors,
}

/// The base URLs of a repository's mirrors, the preferred ones first. Mirrors by other schemes are left out.
pub fn mirrors(document: &[u8]) -> Result<Vec<Url>, BadMetalink> {
    let text = std::str::from_utf8(document).map_err(|_| BadMetalink::Encoding)?;
    let mut found = urls(text)?;
    // Equally preferred ones stay in the order of the document.
    found.sort_by_key(|(rank, _)| *rank);
    let mut bases = Vec::new();
    for base in found.into_iter().filter_map(|(_, url)| base(&url)) {
        if bases.len() < MIRRORS_MAX && !bases.contains(&base) {
            bases.push(base);
        }
    }
    if bases.is_empty() { Err(BadMetalink::NoMirrors) } else { Ok(bases) }
}

/// Which versions of `repomd.xml` are permitted; `None` when the document has no digest of it.
pub fn root(document: &[u8]) -> Option<Root> {
    let mut reader = Reader::from_str(std::str::from_utf8(document).ok()?);
    let mut root = Root::default();
    let (mut inside, mut older) = (false, false);
    // The element whose text is being read: its name, its `type` and the text.
    let mut open: Option<(String, Option<String>, String)> = None;
    loop {
        let event = reader.read_event().ok()?;
        match &event {
            Event::Start(tag) if tag.local_name().as_ref() == "file" => {
                inside = attribute(tag, "name").ok()?.as_deref() == Some(ROOT_NAME);
            }
            Event::Start(tag) if inside && tag.local_name().as_ref() == "alternate" => {
                older = true;
                root.older.push(Version::default());
            }
            Event::Start(tag) if inside => {
                open = Some((tag.local_name().as_ref().to_owned(), attribute(tag, "type").ok()?, String::new()));
            }
            Event::Text(part) => {
                if let Some((.., text)) = &mut open {
                    text.push_str(part);
                }
            }
            Event::End(tag) if tag.local_name().as_ref() == "alternate" => older = false,
            Event::End(tag) if tag.local_name().as_ref() == "file" && inside => break,
            Event::End(_) => {
                let version = if older { root.older.last_mut()? } else { &mut root.current };
                if let Some((name, kind, text)) = open.take() {
                    version.learn(&name, kind.as_deref(), text.trim());
                }
            }
            Event::Eof => break,
            _ => {}
        }
    }
    root.older.retain(|version| !version.hashes.is_empty());
    root.older.truncate(VERSIONS_MAX);
    (!root.current.hashes.is_empty()).then_some(root)
}

impl Version {
    fn learn(&mut self, element: &str, kind: Option<&str>, text: &str) {
        match element {
            "timestamp" => self.timestamp = text.parse().ok(),
            "size" => self.size = text.parse().ok(),
            "hash" => {
                // RFC 5854 has it with a dash.
                let kind = kind.unwrap_or_default().replace('-', "").to_ascii_lowercase();
                let digits = match kind.as_str() {
                    "md5" => 32,
                    "sha1" => 40,
                    "sha224" => 56,
                    "sha256" => 64,
                    "sha384" => 96,
                    "sha512" => 128,
                    _ => return,
                };
                if text.len() == digits && text.bytes().all(|b| b.is_ascii_hexdigit()) && self.hashes.len() < HASHES_MAX
                {
                    self.hashes.push((kind, text.to_ascii_lowercase()));
                }
            }
            _ => {}
        }
    }
}

/// The texts of all `<url>` with their ranks.
fn urls(text: &str) -> Result<Vec<(u32, String)>, quick_xml::Error> {
    let mut reader = Reader::from_str(text);
    let mut found = Vec::new();
    let mut open: Option<(u32, String)> = None;
    loop {
        let event = reader.read_event()?;
        match (&event, &mut open) {
            (Event::Start(tag), _) if tag.local_name().as_ref() == "url" => open = Some((rank(tag)?, String::new())),
            (Event::Text(part), Some((_, url))) => url.push_str(part),
            (Event::CData(part), Some((_, url))) => url.push_str(part),
            (Event::GeneralRef(name), Some((_, url))) => {
                url.extend(name.resolve_char_ref()?);
                // The others that XML itself knows cannot stand in a URL.
                url.extend((&**name == "amp").then_some('&'));
            }
            (Event::End(tag), Some(_)) if tag.local_name().as_ref() == "url" => found.extend(open.take()),
            (Event::Eof, _) => return Ok(found),
            _ => {}
        }
    }
}

/// Lower is better: `priority` (RFC 5854 4.2.16.2, from 1), or `preference` of version 3.0 (from 100 down).
fn rank(tag: &BytesStart<'_>) -> Result<u32, quick_xml::Error> {
    let number = |name| -> Result<Option<u32>, quick_xml::Error> {
        Ok(attribute(tag, name)?.and_then(|value| value.trim().parse().ok()))
    };
    let by_preference = number("preference")?.map(|preference| 100_u32.saturating_sub(preference));
    Ok(number("priority")?.or(by_preference).unwrap_or(u32::MAX))
}

fn attribute(tag: &BytesStart<'_>, name: &str) -> Result<Option<String>, quick_xml::Error> {
    let attribute = tag.try_get_attribute(name)?;
    Ok(attribute.map(|attribute| attribute.normalized_value(Explicit1_0)).transpose()?.map(|value| value.into_owned()))
}

fn base(url: &str) -> Option<Url> {
    Url::parse(url.trim().strip_suffix(ROOT)?).ok().filter(|base| base.query().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(urls: &str) -> Result<Vec<String>, String> {
        let document = format!("<?xml version=\"1.0\"?><metalink><files>{urls}</files></metalink>");
        let bases = mirrors(document.as_bytes()).map_err(|e| e.to_string())?;
        Ok(bases.iter().map(ToString::to_string).collect())
    }

    const FEDORA: &str = r#"<?xml version="1.0" encoding="utf-8"?>
<!DOCTYPE metalink [<!ENTITY lol "lol"><!ENTITY lots "&lol;&lol;&lol;">]>
<metalink version="3.0" xmlns="http://www.metalinker.org/" type="dynamic" xmlns:mm0="http://example.org/mirrormanager">
 <files>
  <file name="repomd.xml">
   <mm0:timestamp>1730000000</mm0:timestamp>
   <size>7425</size>
   <verification><hash type="sha256">ab</hash></verification>
   <mm0:alternates><mm0:alternate><size>1</size></mm0:alternate></mm0:alternates>
   <resources maxconnections="1">
    <url protocol="rsync" type="rsync" location="DE" preference="100">rsync://near.example.org/fedora/repodata/repomd.xml</url>
    <url protocol="http" type="http" location="FR" preference="98">
      http://far.example.org/a&amp;b/&#x66;edora/repodata/repomd.xml
    </url>
    <url protocol="https" type="https" location="DE" preference="100">https://near.example.org/fedora/repodata/repomd.xml</url>
    <url protocol="http" type="http" location="DE" preference="100"><![CDATA[http://near.example.org/fedora/repodata/repomd.xml]]></url>
    <url protocol="https" type="https" location="DE" preference="99">https://near.example.org/fedora/repodata/repomd.xml</url>
   </resources>
  </file>
 </files>
</metalink>"#;

    #[test]
    fn a_distributions_metalink() {
        let bases: Vec<_> = mirrors(FEDORA.as_bytes()).unwrap().iter().map(ToString::to_string).collect();
        let expected =
            ["https://near.example.org/fedora", "http://near.example.org/fedora", "http://far.example.org/a&b/fedora"];
        assert_eq!(bases, expected);
    }

    #[test]
    fn forms_and_orders() {
        let url = |attributes: &str, url: &str| format!("<url {attributes}>{url}/repodata/repomd.xml</url>");
        let all = [
            url("", "http://unranked.example.org/x"),
            url("priority=\"2\"", "http://second.example.org:8080/x"),
            url("priority=\"1\"", "http://first.example.org"),
            url("preference=\"many\"", "http://odd.example.org/x"),
        ];
        let expected = [
            "http://first.example.org/",
            "http://second.example.org:8080/x",
            "http://unranked.example.org/x",
            "http://odd.example.org/x",
        ];
        assert_eq!(of(&all.concat()).unwrap(), expected);
        let many: String = (0..100).map(|i| url("", &format!("http://m{i}.example.org/x"))).collect();
        assert_eq!(of(&many).unwrap().len(), MIRRORS_MAX);
    }

    #[test]
    fn what_is_of_no_use() {
        for (urls, why) in [
            ("", "it names no mirror"),
            ("<url>http://example.org/other.iso</url>", "it names no mirror"),
            ("<url>ftp://example.org/x/repodata/repomd.xml</url>", "it names no mirror"),
            ("<url>http://user:x@example.org/x/repodata/repomd.xml</url>", "it names no mirror"),
            ("<url>http://example.org/x?y/repodata/repomd.xml</url>", "it names no mirror"),
            ("<url>http://exam ple.org/x/repodata/repomd.xml</url>", "it names no mirror"),
            ("<url>&lots;/repodata/repomd.xml</url>", "it names no mirror"),
            ("<url><b></url>", "it is no XML"),
            ("<url", "it is no XML"),
        ] {
            let error = of(urls).unwrap_err();
            assert!(error.starts_with(why), "{urls}: {error}");
        }
        assert!(matches!(mirrors(b"<url>\xff"), Err(BadMetalink::Encoding)));
        assert!(mirrors(b"<!DOCTYPE html><p>Log in<br></p>").is_err());
    }

    #[test]
    fn the_permitted_versions_of_the_root() {
        let sha = |digit: char| digit.to_string().repeat(64);
        let document = format!(
            r#"<metalink xmlns:mm0="http://example.org/"><files>
            <file name="other.iso"><size>9</size><verification><hash type="sha256">{0}</hash></verification></file>
            <file name="repomd.xml"><mm0:timestamp>1730000000</mm0:timestamp><size> 7425 </size>
             <verification><hash type="sha256">{1}</hash><hash type="md5">short</hash><hash type="crc">00</hash></verification>
             <mm0:alternates>
              <mm0:alternate><mm0:timestamp>1720000000</mm0:timestamp><size>7000</size>
               <verification><hash type="sha-256">{2}</hash></verification></mm0:alternate>
              <mm0:alternate><size>1</size></mm0:alternate>
             </mm0:alternates>
             <resources><url>http://example.org/repodata/repomd.xml</url></resources></file></files></metalink>"#,
            sha('0'),
            sha('A'),
            sha('b')
        );
        let version = |timestamp, size, digit| Version {
            timestamp: Some(timestamp),
            size: Some(size),
            hashes: vec![("sha256".into(), sha(digit))],
        };
        let expected =
            Root { current: version(1_730_000_000, 7425, 'a'), older: vec![version(1_720_000_000, 7000, 'b')] };
        assert_eq!(root(document.as_bytes()), Some(expected));
        assert_eq!(root(FEDORA.as_bytes()), None, "its digest is none");
        assert_eq!(root(b"<html>"), None);
        assert_eq!(root(b"<metalink><file name='repomd.xml'><hash type='sha256'>"), None);
        let split = format!("<file name='repomd.xml'><hash type='sha256'>{}&amp;{}</hash></file>", sha('a'), sha('b'));
        assert_eq!(root(split.as_bytes()), None);
    }

    proptest::proptest! {
        #[test]
        fn no_document_panics(cut in 0..FEDORA.len(), noise in "\\PC{0,8}") {
            let at = (cut..).find(|at| FEDORA.is_char_boundary(*at)).unwrap();
            let _ = mirrors(format!("{}{noise}{}", &FEDORA[..at], &FEDORA[at..]).as_bytes());
            let _ = root(format!("{}{noise}{}", &FEDORA[..at], &FEDORA[at..]).as_bytes());
            let _ = mirrors(&FEDORA.as_bytes()[..at]);
        }
    }
}

//! Metalinks as distributions serve them (version 3.0, or RFC 5854): which mirrors have a repository. Pure.

use quick_xml::Reader;
use quick_xml::XmlVersion::Explicit1_0;
use quick_xml::events::{BytesStart, Event};

use crate::classify::Url;

/// More mirrors than this are not used: the first of them are near, and a request tries only a few.
pub const MIRRORS_MAX: usize = 32;

/// What all URLs of a repository's metalink end with: they name its root of trust.
const ROOT: &str = "/repodata/repomd.xml";

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
        let attribute = tag.try_get_attribute(name)?;
        let value = attribute.map(|attribute| attribute.normalized_value(Explicit1_0)).transpose()?;
        Ok(value.and_then(|value| value.trim().parse().ok()))
    };
    let by_preference = number("preference")?.map(|preference| 100_u32.saturating_sub(preference));
    Ok(number("priority")?.or(by_preference).unwrap_or(u32::MAX))
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

    proptest::proptest! {
        #[test]
        fn no_document_panics(cut in 0..FEDORA.len(), noise in "\\PC{0,8}") {
            let at = (cut..).find(|at| FEDORA.is_char_boundary(*at)).unwrap();
            let _ = mirrors(format!("{}{noise}{}", &FEDORA[..at], &FEDORA[at..]).as_bytes());
            let _ = mirrors(&FEDORA.as_bytes()[..at]);
        }
    }
}

//! Roots of repositories: the files that a client trusts first, and what they name.

use std::collections::BTreeMap;
use std::io::{self, Read};

use quick_xml::Reader;
use quick_xml::events::Event;
use sha2::{Digest as _, Sha256};

use super::Promise;
use super::list::{Form, algorithm, paragraphs};
use super::xml::attribute;
use crate::classify::{Algorithm, Digest, Url};

/// Files that one root may name; Ubuntu's have some ten thousand.
const FILES_MAX: usize = 200_000;

/// Longest root in bytes; Ubuntu's has less than two million.
const BYTES_MAX: u64 = 32 * 1024 * 1024;

/// The form of a root.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Kind {
    /// RPM's `repodata/repomd.xml`.
    Repomd,
    /// Debian's `Release`, or `InRelease`, which is signed in itself.
    Release,
    /// Arch's `NAME.db`, which is itself the list.
    Database,
    /// Alpine's `APKINDEX.tar.gz`, likewise.
    Apkindex,
}

impl Kind {
    /// The form of the list that a root is itself.
    fn own_form(self) -> Option<Form> {
        match self {
            Self::Repomd | Self::Release => None,
            Self::Database => Some(Form::Database),
            Self::Apkindex => Some(Form::Apkindex),
        }
    }
}

/// Where a root stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub kind: Kind,
    /// What the files that it names lie below: a URL that ends with a slash.
    pub folder: String,
    /// What packages lie below, likewise.
    pub base: String,
}

/// What a root says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing {
    /// When this generation was made, in seconds since 1970, as the repository says.
    pub made: Option<u64>,
    /// All files that it names, by their paths below the folder.
    pub files: BTreeMap<String, Promise>,
    /// Those that list packages. One list in several compressions stands here several times.
    pub lists: Vec<(String, Form)>,
    /// The root itself, where it lists packages.
    pub own: Option<(Digest, Form)>,
    /// The parts of `repomd.xml` by their types, which stay when the names of the files change; of `Release` the names stay.
    pub parts: BTreeMap<String, String>,
    /// Files can also be had by their digests (`Acquire-By-Hash`).
    pub by_hash: bool,
}

impl Listing {
    /// Digests of all lists of packages, with their forms.
    pub fn digests(&self) -> impl Iterator<Item = (&Digest, Form)> {
        let named = self.lists.iter().filter_map(|(path, form)| Some((&self.files.get(path)?.digest, *form)));
        named.chain(self.own.as_ref().map(|(digest, form)| (digest, *form)))
    }
}

/// Is this the URL of a root?
pub fn place(url: &Url) -> Option<Place> {
    let text = url.as_str();
    if text.contains('?') {
        return None;
    }
    let (folder, name) = text.rsplit_once('/')?;
    match name {
        "repomd.xml" => {
            let base = format!("{}/", folder.strip_suffix("/repodata")?);
            Some(Place { kind: Kind::Repomd, folder: base.clone(), base })
        }
        "InRelease" | "Release" => {
            let folder = format!("{folder}/");
            let base = folder.rfind("/dists/").map_or(folder.as_str(), |at| &folder[..=at]).to_owned();
            Some(Place { kind: Kind::Release, folder, base })
        }
        "APKINDEX.tar.gz" => own(Kind::Apkindex, folder),
        name if name.strip_suffix(".db").is_some_and(|name| !name.is_empty()) => own(Kind::Database, folder),
        _ => None,
    }
}

/// Is this the URL of a root that names other files, which have to fit it? One that is itself the list goes alone.
pub fn names_others(url: &Url) -> bool {
    place(url).is_some_and(|place| place.kind.own_form().is_none())
}

/// A root whose packages lie beside it.
fn own(kind: Kind, folder: &str) -> Option<Place> {
    let folder = format!("{folder}/");
    Some(Place { kind, base: folder.clone(), folder })
}

/// All bytes of a root.
///
/// # Errors
/// It cannot be read, or is longer than the root of any repository.
pub fn bytes_of(content: impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    content.take(BYTES_MAX + 1).read_to_end(&mut bytes)?;
    match bytes.len() as u64 <= BYTES_MAX {
        true => Ok(bytes),
        false => Err(bad("it is longer than the root of any repository")),
    }
}

/// Reads a root. Of one that is itself the list only its digest: whoever wants the packages reads it as such.
///
/// # Errors
/// It is none, or malformed.
pub fn read(kind: Kind, bytes: &[u8]) -> io::Result<Listing> {
    match kind {
        Kind::Repomd => repomd(bytes),
        Kind::Release => release(bytes),
        Kind::Database | Kind::Apkindex => {
            let digest = Digest::new(Algorithm::Sha256, &Sha256::digest(bytes));
            Ok(Listing { own: digest.zip(kind.own_form()), ..Listing::default() })
        }
    }
}

fn bad(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}

impl Listing {
    /// The file of this generation that takes the place of another's.
    pub fn counterpart<'l>(&'l self, other: &Self, path: &'l str) -> Option<&'l str> {
        match other.parts.iter().find(|(_, part)| *part == path) {
            Some((kind, _)) => self.parts.get(kind).map(String::as_str),
            None => self.files.contains_key(path).then_some(path),
        }
    }
}

/// A `data` element of `repomd.xml`.
#[derive(Default)]
struct Data {
    kind: String,
    path: Option<String>,
    digest: Option<Digest>,
    size: Option<u64>,
    made: Option<u64>,
}

fn repomd(bytes: &[u8]) -> io::Result<Listing> {
    let mut reader = Reader::from_reader(bytes);
    let mut listing = Listing::default();
    let (mut data, mut text, mut depth, mut is_root): (Option<Data>, Option<String>, usize, bool) = Default::default();
    let mut digest_by = None;
    loop {
        let at = reader.buffer_position();
        let event = reader.read_event().map_err(|e| bad(format!("at byte {at}: {e}")))?;
        let is_empty = matches!(event, Event::Empty(_));
        match event {
            Event::Start(element) | Event::Empty(element) => {
                depth += usize::from(!is_empty);
                text = (!is_empty).then(String::new);
                match (element.local_name().as_ref(), &mut data) {
                    ("repomd", _) => is_root = true,
                    ("data", None) if !is_empty => {
                        let kind = attribute(&element, "type")?.unwrap_or_default();
                        data = Some(Data { kind, ..Data::default() });
                    }
                    ("location", Some(data)) => {
                        let elsewhere = attribute(&element, "xml:base")?.is_some_and(|base| !base.is_empty());
                        data.path = attribute(&element, "href")?.filter(|_| !elsewhere);
                    }
                    ("checksum", Some(_)) => digest_by = attribute(&element, "type")?.and_then(|t| algorithm(&t)),
                    _ => {}
                }
            }
            Event::Text(part) => {
                if let Some(text) = &mut text {
                    text.push_str(&part);
                }
            }
            Event::End(element) => {
                depth = depth.checked_sub(1).ok_or_else(|| bad("an end without a start"))?;
                let value = text.take().unwrap_or_default();
                let value = value.trim();
                match (element.local_name().as_ref(), &mut data) {
                    ("checksum", Some(data)) => {
                        data.digest = digest_by.take().and_then(|by| Digest::from_hex(by, value));
                    }
                    ("size", Some(data)) => data.size = value.parse().ok(),
                    // Some write fractions of a second.
                    ("timestamp", Some(data)) => {
                        data.made = value.split('.').next().and_then(|seconds| seconds.parse().ok());
                    }
                    ("data", Some(_)) => listing.add(data.take().unwrap_or_default())?,
                    _ => {}
                }
            }
            Event::Eof if depth == 0 && is_root => return Ok(listing),
            Event::Eof => return Err(bad("it is not a whole repomd.xml")),
            _ => {}
        }
    }
}

impl Listing {
    fn add(&mut self, data: Data) -> io::Result<()> {
        self.made = self.made.max(data.made);
        // Old ones have no lengths; what is not known cannot be promised.
        let (Some(path), Some(digest), Some(size)) = (data.path, data.digest, data.size) else { return Ok(()) };
        if self.files.len() >= FILES_MAX {
            return Err(bad("it names more files than any repository has"));
        }
        if matches!(&*data.kind, "primary" | "primary_zck") {
            self.lists.push((path.clone(), Form::Primary));
        }
        self.parts.insert(data.kind, path.clone());
        self.files.insert(path, Promise { digest, size });
        Ok(())
    }
}

fn release(bytes: &[u8]) -> io::Result<Listing> {
    const DIGESTS: [(&str, Algorithm); 4] = [
        ("sha256", Algorithm::Sha256),
        ("sha512", Algorithm::Sha512),
        ("sha1", Algorithm::Sha1),
        ("md5sum", Algorithm::Md5),
    ];
    let mut listing = Listing::default();
    let mut seen = 0;
    paragraphs(signed_text(bytes)?, &["date", "acquire-by-hash", "sha256", "sha512", "sha1", "md5sum"], |fields| {
        seen += 1;
        listing.made = listing.made.or_else(|| date(fields.get("date")?));
        listing.by_hash |= fields.get("acquire-by-hash").is_some_and(|value| value.eq_ignore_ascii_case("yes"));
        let Some((files, by)) = DIGESTS.iter().find_map(|(name, by)| Some((fields.get(name)?, *by))) else {
            return Ok(());
        };
        for line in files.lines().filter(|line| !line.trim().is_empty()) {
            let mut words = line.split_ascii_whitespace();
            let promise = words.next().zip(words.next()).and_then(|(digest, size)| {
                Some(Promise { digest: Digest::from_hex(by, digest)?, size: size.parse().ok()? })
            });
            let (Some(promise), Some(path)) = (promise, words.next()) else {
                return Err(bad(format!("the line {line:?} is no file")));
            };
            if listing.files.len() >= FILES_MAX {
                return Err(bad("it names more files than any repository has"));
            }
            if let Some(form) = form(path) {
                listing.lists.push((path.to_owned(), form));
            }
            listing.files.insert(path.to_owned(), promise);
        }
        Ok(())
    })?;
    match (seen, listing.files.is_empty()) {
        (1, false) => Ok(listing),
        _ => Err(bad("it is no Release file")),
    }
}

/// What is signed of a text that carries its signature (RFC 9580 section 7); all of any other.
fn signed_text(bytes: &[u8]) -> io::Result<&[u8]> {
    let bytes = bytes.trim_ascii_start();
    if !bytes.starts_with(b"-----BEGIN PGP SIGNED MESSAGE-----") {
        return Ok(bytes);
    }
    let find = |needle: &[u8], from: usize| {
        bytes[from..].windows(needle.len()).position(|window| window == needle).map(|at| at + from)
    };
    let head = [&b"\n\n"[..], b"\n\r\n"].iter().filter_map(|blank| find(blank, 0).map(|at| at + blank.len())).min();
    let (Some(start), Some(end)) = (head, find(b"\n-----BEGIN PGP SIGNATURE-----", 0)) else {
        return Err(bad("the signature is not whole"));
    };
    bytes.get(start..end).ok_or_else(|| bad("the signature is not whole"))
}

/// The form of a list by its path below the folder.
fn form(path: &str) -> Option<Form> {
    let name = path.rsplit('/').next()?;
    let stem = [".gz", ".xz", ".zst"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
    match stem {
        "Packages" => Some(Form::Packages),
        "Sources" => Some(Form::Sources),
        _ => None,
    }
}

/// As in `Date: Sat, 09 Nov 2024 10:11:12 UTC`.
fn date(text: &str) -> Option<u64> {
    let text = text.trim();
    let text = text.strip_suffix("UTC").map_or_else(|| text.to_owned(), |text| format!("{text}GMT"));
    let at = httpdate::parse_http_date(&text).ok()?;
    Some(at.duration_since(std::time::UNIX_EPOCH).ok()?.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SHA: &str = "ed7002b439e9ac845f22357d822bac1444730fbdb6016d3ec9432297b9ec9f73";

    #[test]
    fn places() {
        let of = |url: &str| place(&Url::parse(url).unwrap()).map(|place| (place.kind, place.folder, place.base));
        let rpm = "http://example.org/f/x86_64/".to_owned();
        assert_eq!(of("http://example.org/f/x86_64/repodata/repomd.xml"), Some((Kind::Repomd, rpm.clone(), rpm)));
        assert_eq!(
            of("http://example.org/debian/dists/bookworm/updates/InRelease"),
            Some((
                Kind::Release,
                "http://example.org/debian/dists/bookworm/updates/".into(),
                "http://example.org/debian/".into()
            ))
        );
        let flat = "http://example.org/flat/".to_owned();
        assert_eq!(of("http://example.org/flat/Release"), Some((Kind::Release, flat.clone(), flat)));
        let beside = "http://example.org/core/os/x86_64/".to_owned();
        let of_database = of("http://example.org/core/os/x86_64/core.db");
        assert_eq!(of_database, Some((Kind::Database, beside.clone(), beside.clone())));
        let is_alone = |url: &str| !names_others(&Url::parse(url).unwrap());
        assert!(is_alone("http://example.org/core.db") && !is_alone("http://example.org/flat/Release"));
        let of_index = of("http://example.org/core/os/x86_64/APKINDEX.tar.gz");
        assert_eq!(of_index, Some((Kind::Apkindex, beside.clone(), beside)));
        for other in [
            "http://example.org/.db",
            "http://example.org/core.files",
            "http://example.org/repomd.xml",
            "http://example.org/a/InRelease?x",
            "http://example.org/",
        ] {
            assert_eq!(of(other), None, "{other}");
        }
    }

    #[test]
    fn a_repomd() {
        let text = format!(
            r#"<?xml version="1.0"?><repomd xmlns="http://linux.duke.edu/metadata/repo"><revision>1</revision>
            <data type="primary"><checksum type="sha256">{SHA}</checksum><open-checksum type="sha256">00</open-checksum>
            <location href="repodata/{SHA}-primary.xml.zst"/><timestamp>1700000000</timestamp><size>45</size><open-size>9</open-size></data>
            <data type="other"><checksum type="sha">{sha1}</checksum><location href="repodata/other.xml.gz"/><size>5</size>
            <timestamp>1700000001.5</timestamp></data>
            <data type="group"><location href="repodata/comps.xml"/></data>
            <data type="gone"><checksum type="sha256">{SHA}</checksum><location xml:base="http://a/" href="b"/><size>5</size></data></repomd>"#,
            sha1 = "a".repeat(40)
        );
        let listing = read(Kind::Repomd, text.as_bytes()).unwrap();
        let primary = format!("repodata/{SHA}-primary.xml.zst");
        assert_eq!(listing.made, Some(1_700_000_001));
        assert_eq!(listing.lists, [(primary.clone(), Form::Primary)]);
        assert_eq!(listing.files.keys().map(String::as_str).collect::<Vec<_>>(), [&*primary, "repodata/other.xml.gz"]);
        assert_eq!((listing.files[&primary].digest.hex(), listing.files[&primary].size), (SHA.to_owned(), 45));
        for wrong in [&text[..text.len() - 9], "<html></html>", "", "<repomd>"] {
            assert!(read(Kind::Repomd, wrong.as_bytes()).is_err(), "{wrong:.40}");
        }
    }

    #[test]
    fn counterparts() {
        let data = |kind: &str, path: &str| {
            format!(
                r#"<data type="{kind}"><checksum type="sha256">{SHA}</checksum><location href="{path}"/><size>5</size></data>"#
            )
        };
        let repomd = |name: &str| {
            let data = data("primary", &format!("repodata/{name}-primary.xml")) + &data("other", "repodata/other.xml");
            read(Kind::Repomd, format!("<repomd>{data}</repomd>").as_bytes()).unwrap()
        };
        let (old, new) = (repomd("1"), repomd("2"));
        assert_eq!(new.counterpart(&old, "repodata/1-primary.xml"), Some("repodata/2-primary.xml"));
        assert_eq!(new.counterpart(&old, "repodata/other.xml"), Some("repodata/other.xml"));
        assert_eq!(new.counterpart(&old, "repodata/none.xml"), None);
        let release = |path: &str| read(Kind::Release, format!("SHA256:\n {SHA} 5 {path}\n").as_bytes()).unwrap();
        let (old, new) = (release("a/Packages"), release("a/Packages"));
        assert_eq!(new.counterpart(&old, "a/Packages"), Some("a/Packages"));
        assert_eq!(release("b/Packages").counterpart(&old, "a/Packages"), None);
    }

    #[test]
    fn a_release_signed_or_not() {
        let text = format!(
            "Origin: Debian\nSuite: stable\nDate: Sat, 09 Nov 2024 10:11:12 UTC\nAcquire-By-Hash: yes\nMD5Sum:\n {md5} 1 main/x\n\
             SHA256:\n {SHA} 12 main/binary-amd64/Packages\n {SHA}  13  main/binary-amd64/Packages.xz\n {SHA} 3 main/source/Sources.gz\n\
             \x20{SHA} 4 main/i18n/Translation-en.bz2\n",
            md5 = "0".repeat(32)
        );
        let listing = read(Kind::Release, text.as_bytes()).unwrap();
        assert_eq!((listing.made, listing.files.len(), listing.by_hash), (Some(1_731_147_072), 4, true));
        let lists: Vec<_> = listing.lists.iter().map(|(path, form)| (&**path, *form)).collect();
        assert_eq!(
            lists,
            [
                ("main/binary-amd64/Packages", Form::Packages),
                ("main/binary-amd64/Packages.xz", Form::Packages),
                ("main/source/Sources.gz", Form::Sources)
            ]
        );
        let signed = format!(
            "-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\n{text}-----BEGIN PGP SIGNATURE-----\n\nabc\n-----END PGP SIGNATURE-----\n"
        );
        assert_eq!(read(Kind::Release, signed.as_bytes()).unwrap(), listing);
        for wrong in [&signed[..signed.len() - 80], "Origin: x\n", "", "<html>", "SHA256:\n xx 1 a\n"] {
            assert!(read(Kind::Release, wrong.as_bytes()).is_err(), "{wrong:.40}");
        }
    }

    /// Of which real roots there are parts of.
    fn pieces() -> impl Strategy<Value = String> {
        let known = prop::sample::select(vec![
            "<repomd>",
            "</repomd>",
            "<data type=\"primary\">",
            "<data type=\"primary_zck\">",
            "</data>",
            "<size>5</size>",
            "<size>99999999999999999999</size>",
            "<checksum type=\"sha256\">",
            "</checksum>",
            "<location href=\"repodata/a\"/>",
            "<location href=\"../../../etc/passwd\"/>",
            "<timestamp>1</timestamp>",
            "<!-- ",
            " -->",
            "<![CDATA[",
            "&lt;",
            "&x;",
            "SHA256:\n",
            "MD5Sum:\n",
            "Date: Sat, 09 Nov 2024 10:11:12 UTC\n",
            "Acquire-By-Hash: yes\n",
            " main/x\n",
            " 5 ",
            " 5 ../x\n",
            "-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA512\n\n",
            "-----BEGIN PGP SIGNATURE-----\n",
            "\n",
            "- ",
            SHA,
        ]);
        let piece = prop_oneof![6 => known.prop_map(str::to_owned), 1 => any::<String>()];
        prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn any_root_is_survived(text in pieces(), bytes in any::<Vec<u8>>()) {
            for kind in [Kind::Repomd, Kind::Release, Kind::Database, Kind::Apkindex] {
                for bytes in [text.as_bytes(), &bytes] {
                    let Ok(listing) = read(kind, bytes) else { continue };
                    prop_assert!(listing.files.len() <= FILES_MAX);
                    for path in listing.files.keys() {
                        let leads_out = path.split('/').any(|part| matches!(part, "" | "." | ".."));
                        prop_assert!(!leads_out, "{path}");
                    }
                    // What one root calls a list it also names with its digest.
                    prop_assert!(listing.lists.iter().all(|(path, _)| listing.files.contains_key(path)));
                    prop_assert_eq!(listing.counterpart(&listing, "nothing"), None);
                }
            }
        }
    }
}

//! `Vary` (RFC 9111 4.1): which of several answers under one URL a request selects.

use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, HeaderName, VARY};
use http::{HeaderMap, HeaderValue, StatusCode};

use crate::classify::{KeyHash, Url};
use crate::journey::cache_control::members;

/// More names than this are taken for `*`.
const NAMES_MAX: usize = 16;

/// So many variants are kept of one URL.
pub const VARIANTS_MAX: usize = 16;

/// The request fields by which an answer varies, sorted; `None` for `*`, which no request can satisfy, and for what cannot
/// be read. A coded answer varies by `Accept-Encoding`, whether it says so or not.
pub fn names(fields: &HeaderMap) -> Option<Vec<HeaderName>> {
    let mut names = Vec::new();
    for line in fields.get_all(VARY) {
        for name in line.to_str().ok()?.split(',').map(str::trim).filter(|name| !name.is_empty()) {
            // `*` is a legal character of a field name.
            names.push(HeaderName::try_from(name).ok().filter(|_| !name.contains('*'))?);
        }
    }
    let coded = fields.get(CONTENT_ENCODING).is_some_and(|v| !v.as_bytes().eq_ignore_ascii_case(b"identity"));
    names.extend(coded.then_some(ACCEPT_ENCODING));
    names.sort_by(|a, b| a.as_str().cmp(b.as_str()));
    names.dedup();
    (names.len() <= NAMES_MAX).then_some(names)
}

/// What stands under a URL whose answers vary, in the place of an answer: by which fields they do, and which are stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Variants {
    /// Part of all keys: without this list, or with a new one, older variants are not found again.
    generation: String,
    /// Sorted, never empty.
    names: Vec<HeaderName>,
    /// The newest last.
    keys: Vec<KeyHash>,
}

/// A place for a variant.
#[derive(Debug, PartialEq, Eq)]
pub struct Admitted {
    pub variants: Variants,
    pub key: KeyHash,
    /// Keys of variants that are not to be kept any longer.
    pub superfluous: Vec<KeyHash>,
}

impl Variants {
    /// No answer is stored with this status, so none is taken for a list.
    const STATUS: StatusCode = StatusCode::CONTINUE;
    const GENERATION: HeaderName = HeaderName::from_static("generation");
    const KEY: HeaderName = HeaderName::from_static("variant");

    /// Reads what is stored under a URL; `None` when that is an answer.
    pub fn read(status: StatusCode, fields: &HeaderMap) -> Option<Self> {
        let text = |value: &HeaderValue| value.to_str().ok().map(str::to_owned);
        let key = |value: &HeaderValue| u128::from_str_radix(value.to_str().ok()?, 16).ok();
        (status == Self::STATUS).then_some(())?;
        Some(Self {
            generation: fields.get(Self::GENERATION).and_then(text)?,
            names: names(fields).filter(|names| !names.is_empty())?,
            keys: fields.get_all(Self::KEY).iter().filter_map(key).map(|key| KeyHash(key.to_be_bytes())).collect(),
        })
    }

    /// As it is stored.
    pub fn head(&self) -> (StatusCode, HeaderMap) {
        let mut fields = HeaderMap::new();
        fields.extend(HeaderValue::try_from(&self.generation).ok().map(|value| (Self::GENERATION, value)));
        for name in &self.names {
            fields.append(VARY, HeaderValue::from(name.clone()));
        }
        for key in &self.keys {
            if let Ok(value) = HeaderValue::try_from(format!("{:032x}", u128::from_be_bytes(key.0))) {
                fields.append(Self::KEY, value);
            }
        }
        (Self::STATUS, fields)
    }

    /// The key of the variant that a request selects.
    pub fn key(&self, url: &Url, request: &HeaderMap) -> KeyHash {
        // A line break stands in no URL and no field, so two different selections never read the same.
        let mut text = format!("{}\n{}", url.as_str(), self.generation);
        for name in &self.names {
            text.push('\n');
            text.push_str(name.as_str());
            if let Some(value) = normal(name, request) {
                text.push(':');
                text.push_str(&value);
            }
        }
        KeyHash::of(text.as_bytes())
    }

    /// Finds a place for the answer to `request`, which varies by `names`, among those that are known. `generation` is a new
    /// one, for when answers vary by more than was known: then all have new keys.
    pub fn admit(
        known: Option<Self>,
        url: &Url,
        request: &HeaderMap,
        names: &[HeaderName],
        generation: String,
    ) -> Admitted {
        let before = known.unwrap_or(Self { generation: String::new(), names: Vec::new(), keys: Vec::new() });
        let mut all: Vec<_> = before.names.iter().chain(names).cloned().collect();
        all.sort_by(|a, b| a.as_str().cmp(b.as_str()));
        all.dedup();
        if all.len() > NAMES_MAX {
            all = names.to_vec();
        }
        let (mut variants, mut superfluous) = match all == before.names {
            true => (before, Vec::new()),
            false => (Self { generation, names: all, keys: Vec::new() }, before.keys),
        };
        let key = variants.key(url, request);
        variants.keys.retain(|known| *known != key);
        variants.keys.push(key);
        let surplus = variants.keys.len().saturating_sub(VARIANTS_MAX);
        superfluous.extend(variants.keys.drain(..surplus));
        Admitted { variants, key, superfluous }
    }
}

/// A field's value in the one form of all that mean the same; `None` when it is missing, which is not the same as empty
/// (RFC 9110 12.5.3). The order of what a client accepts means nothing, and neither does the case of codings.
fn normal(name: &HeaderName, request: &HeaderMap) -> Option<String> {
    let lines: Vec<_> = request.get_all(name).iter().map(|line| String::from_utf8_lossy(line.as_bytes())).collect();
    if lines.is_empty() {
        return None;
    }
    let all: Vec<_> = lines.iter().flat_map(|line| members(line)).collect();
    if *name != ACCEPT_ENCODING {
        return Some(all.join(","));
    }
    let mut codings: Vec<_> = all.iter().map(|coding| coding.to_ascii_lowercase().replace([' ', '\t'], "")).collect();
    codings.sort();
    codings.dedup();
    Some(codings.join(","))
}

#[cfg(test)]
mod tests {
    use super::super::fields;
    use super::*;

    #[test]
    fn names_rfc9110_12_5_5() {
        let names =
            |pairs| names(&fields(pairs)).map(|n| n.iter().map(|n| n.to_string()).collect::<Vec<_>>().join(" "));
        for (pairs, expected) in [
            (&[][..], Some("")),
            (&[("vary", "")], Some("")),
            (&[("vary", "Accept-Encoding")], Some("accept-encoding")),
            (&[("vary", "b, a,, a"), ("vary", "C")], Some("a b c")),
            (&[("vary", "*")], None),
            (&[("vary", "a"), ("vary", "b, *")], None),
            (&[("vary", "a b")], None),
            (&[("vary", "a,b,c,d,e,f,g,h,i,j,k,l,m,n,o,p,q")], None),
        ] {
            assert_eq!(names(pairs).as_deref(), expected, "{pairs:?}");
        }
    }

    fn url() -> Url {
        Url::parse("http://example.org/a").unwrap()
    }

    fn varying(names: &[HeaderName]) -> Variants {
        Variants::admit(None, &url(), &HeaderMap::new(), names, "1".into()).variants
    }

    #[test]
    fn what_is_coded_varies_by_coding() {
        assert_eq!(names(&fields(&[("content-encoding", "gzip")])), Some(vec![ACCEPT_ENCODING]));
        assert_eq!(names(&fields(&[("content-encoding", "identity")])), Some(vec![]));
        assert_eq!(names(&fields(&[("content-encoding", "gzip"), ("vary", "*")])), None);
    }

    #[test]
    fn selections_rfc9111_4_1() {
        let varies = varying(&[ACCEPT_ENCODING, http::header::ACCEPT_LANGUAGE]);
        let key = |pairs| varies.key(&url(), &fields(pairs));
        for (a, b, same) in [
            (&[][..], &[][..], true),
            (&[], &[("user-agent", "x")], true),
            (&[("accept-encoding", "gzip, br")], &[("accept-encoding", "br ,GZIP")], true),
            (&[("accept-encoding", "gzip, br")], &[("accept-encoding", "gzip"), ("accept-encoding", "br")], true),
            (&[("accept-encoding", "gzip;q=1")], &[("accept-encoding", "gzip; q=1")], true),
            (&[("accept-language", "de,en")], &[("accept-language", "de, en")], true),
            (&[("accept-language", "de,en")], &[("accept-language", "en,de")], false),
            (&[("accept-encoding", "gzip")], &[("accept-encoding", "br")], false),
            (&[("accept-encoding", "")], &[], false),
            (&[("accept-encoding", "a")], &[("accept-language", "a")], false),
        ] {
            assert_eq!(key(a) == key(b), same, "{a:?} {b:?}");
        }
        assert_ne!(key(&[]), url().key_hash());
    }

    #[test]
    fn a_list_is_read_as_it_was_written_and_no_answer_is_a_list() {
        let mut list = varying(&[ACCEPT_ENCODING, http::header::ACCEPT_LANGUAGE]);
        for coding in ["gzip", "br"] {
            let request = fields(&[("accept-encoding", coding)]);
            list = Variants::admit(Some(list), &url(), &request, &[ACCEPT_ENCODING], "2".into()).variants;
        }
        assert_eq!((list.keys.len(), list.generation.as_str()), (3, "1"));
        let (status, fields) = list.head();
        assert_eq!(Variants::read(status, &fields), Some(list));
        assert_eq!(Variants::read(StatusCode::OK, &fields), None);
        assert_eq!(Variants::read(status, &HeaderMap::new()), None);
    }

    #[test]
    fn variants_are_bounded_and_the_oldest_goes() {
        let mut list = None;
        let mut keys = Vec::new();
        for i in 0..=VARIANTS_MAX {
            let request =
                HeaderMap::from_iter([(ACCEPT_ENCODING, HeaderValue::try_from(format!("coding-{i}")).unwrap())]);
            let admitted = Variants::admit(list, &url(), &request, &[ACCEPT_ENCODING], "1".into());
            keys.push(admitted.key);
            let gone: &[KeyHash] = if i == VARIANTS_MAX { &keys[..1] } else { &[] };
            assert_eq!(admitted.superfluous, gone);
            list = Some(admitted.variants);
        }
        assert_eq!(list.unwrap().keys.len(), VARIANTS_MAX);
    }

    #[test]
    fn who_varies_by_more_has_new_keys() {
        let before = varying(&[ACCEPT_ENCODING]);
        let old = before.key(&url(), &HeaderMap::new());
        let more = [http::header::ACCEPT_LANGUAGE];
        let after = Variants::admit(Some(before.clone()), &url(), &HeaderMap::new(), &more, "2".into());
        assert_eq!(after.variants.names, [ACCEPT_ENCODING, http::header::ACCEPT_LANGUAGE]);
        assert_eq!(after.superfluous, [old]);
        assert_ne!(after.key, old);
        // By less, or by nothing: the place is that of all.
        let less = Variants::admit(Some(before), &url(), &HeaderMap::new(), &[], "2".into());
        assert_eq!((less.key, less.superfluous), (old, vec![]));
        // After the list is lost nothing of it is found again.
        let lost = Variants::admit(None, &url(), &HeaderMap::new(), &[ACCEPT_ENCODING], "3".into());
        assert_ne!(lost.key, old);
    }

    proptest::proptest! {
        #[test]
        fn other_languages_select_another_answer(a in "[a-z]{0,6}", b in "[a-z]{0,6}") {
            let list = varying(&[http::header::ACCEPT_LANGUAGE]);
            let key = |text: &str| {
                let value = HeaderValue::from_str(text).unwrap();
                list.key(&url(), &HeaderMap::from_iter([(http::header::ACCEPT_LANGUAGE, value)]))
            };
            proptest::prop_assert_eq!(key(&a) == key(&b), a == b);
        }
    }
}

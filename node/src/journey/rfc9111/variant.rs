//! `Vary` (RFC 9111 4.1): which of several answers under one URL a request selects.

use http::HeaderMap;
use http::header::{ACCEPT_ENCODING, HeaderName, VARY};

use crate::classify::{KeyHash, Url};
use crate::journey::cache_control::members;

/// More names than this are taken for `*`.
const NAMES_MAX: usize = 16;

/// The request fields by which an answer varies, sorted; `None` for `*`, which no request can satisfy, and for what cannot
/// be read.
pub fn names(fields: &HeaderMap) -> Option<Vec<HeaderName>> {
    let mut names = Vec::new();
    for line in fields.get_all(VARY) {
        for name in line.to_str().ok()?.split(',').map(str::trim).filter(|name| !name.is_empty()) {
            // `*` is a legal character of a field name.
            names.push(HeaderName::try_from(name).ok().filter(|_| !name.contains('*'))?);
        }
    }
    names.sort_by(|a, b| a.as_str().cmp(b.as_str()));
    names.dedup();
    (names.len() <= NAMES_MAX).then_some(names)
}

/// The key of the answer that a request selects: the URL's own when nothing varies. `names` are sorted, as `names` gives them.
pub fn variant_key(url: &Url, names: &[HeaderName], request: &HeaderMap) -> KeyHash {
    if names.is_empty() {
        return url.key_hash();
    }
    // A line break stands in no URL and no field, so two different selections never read the same.
    let mut text = url.as_str().to_owned();
    for name in names {
        text.push('\n');
        text.push_str(name.as_str());
        if let Some(value) = normal(name, request) {
            text.push(':');
            text.push_str(&value);
        }
    }
    KeyHash::of(text.as_bytes())
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

    #[test]
    fn selections_rfc9111_4_1() {
        let url = Url::parse("http://example.org/a").unwrap();
        let varies = [ACCEPT_ENCODING, http::header::ACCEPT_LANGUAGE];
        let key = |pairs| variant_key(&url, &varies, &fields(pairs));
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
        assert_eq!(variant_key(&url, &[], &fields(&[("accept", "x")])), url.key_hash());
        assert_ne!(key(&[]), url.key_hash());
    }

    proptest::proptest! {
        #[test]
        fn other_languages_select_another_answer(a in "[a-z]{0,6}", b in "[a-z]{0,6}") {
            let url = Url::parse("http://example.org/a").unwrap();
            let key = |text: &str| {
                let value = http::HeaderValue::from_str(text).unwrap();
                let request = HeaderMap::from_iter([(http::header::ACCEPT_LANGUAGE, value)]);
                variant_key(&url, &[http::header::ACCEPT_LANGUAGE], &request)
            };
            proptest::prop_assert_eq!(key(&a) == key(&b), a == b);
        }
    }
}

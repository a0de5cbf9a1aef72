//! The files that the pages are made of, in the program itself: nothing is loaded from elsewhere.

use bytes::Bytes;
use http::header::{CACHE_CONTROL, ETAG, IF_NONE_MATCH};
use http::{HeaderMap, HeaderValue, Response, StatusCode};

use super::pages::text;

const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";

/// Name below `/-/assets/`, kind, content.
const ASSETS: [(&str, &str, &str); 6] = [
    ("page.css", STYLE, include_str!("assets/page.css")),
    ("page.js", SCRIPT, include_str!("assets/page.js")),
    ("uplot.css", STYLE, include_str!("assets/uplot.css")),
    ("uplot.js", SCRIPT, include_str!("assets/uplot.js")),
    ("uplot.LICENSE", "text/plain; charset=utf-8", include_str!("assets/uplot.LICENSE")),
    ("icon.svg", "image/svg+xml", include_str!("assets/icon.svg")),
];

/// The file of this path, unless the reader has it as it is.
pub(super) fn answer(path: &str, fields: &HeaderMap) -> Option<Response<Bytes>> {
    let name = path.split('?').next()?.strip_prefix("/-/assets/")?;
    let (_, kind, content) = ASSETS.into_iter().find(|(known, ..)| *known == name)?;
    let tag = format!("\"{}\"", blake3::hash(content.as_bytes()).to_hex().get(..16)?);
    let known = fields.get(IF_NONE_MATCH).and_then(|tags| tags.to_str().ok());
    let mut response = match known.is_some_and(|tags| tags.split(',').any(|known| known.trim() == tag)) {
        true => text(StatusCode::NOT_MODIFIED, kind, Bytes::new()),
        false => text(StatusCode::OK, kind, Bytes::from_static(content.as_bytes())),
    };
    let fields = response.headers_mut();
    // A new program may have new files: ask each time, and get nothing when they are the same.
    fields.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    fields.insert(ETAG, HeaderValue::try_from(tag).ok()?);
    Some(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_that_has_the_file_gets_nothing() {
        let mut fields = HeaderMap::new();
        let first = answer("/-/assets/page.css", &fields).unwrap();
        assert!(first.status() == StatusCode::OK && first.body().len() > 1000);
        for (tags, status) in [("\"other\"", 200), ("\"other\", TAG", 304)] {
            let tags = tags.replace("TAG", first.headers()[ETAG].to_str().unwrap());
            fields.insert(IF_NONE_MATCH, HeaderValue::try_from(tags).unwrap());
            let again = answer("/-/assets/page.css", &fields).unwrap();
            assert_eq!((again.status().as_u16(), again.body().is_empty()), (status, status == 304));
        }
        assert!(answer("/-/assets/../secret", &fields).is_none());
    }

    #[test]
    fn nothing_is_loaded_from_elsewhere_and_nothing_runs_that_the_policy_forbids() {
        for (name, _, content) in ASSETS.iter().filter(|(name, ..)| name.starts_with("page.")) {
            for word in ["http:", "https:", "@import", "eval(", "new Function", "document.write"] {
                assert!(!content.contains(word), "{name} has {word}");
            }
        }
    }
}

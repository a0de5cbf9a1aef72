//! Where a redirect leads: `Location` resolved against the URL that was asked (RFC 3986 section 5.2). Pure. Nothing is
//! percent-decoded, and dot segments go only where the RFC resolves them.

use crate::classify::Url;

/// Redirects that are followed within one fetch.
pub(super) const REDIRECTS_MAX: usize = 10;

/// Is it a status whose `Location` is to be followed with the same method?
pub(super) fn is_redirect(status: http::StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

/// Do both URLs lead to the same server, so that everything said to one may be said to the other?
pub(super) fn same_server(a: &Url, b: &Url) -> bool {
    a.is_https() == b.is_https() && a.authority() == b.authority()
}

/// The target of a redirect.
///
/// # Errors
/// Says what is wrong with the `Location`.
pub(super) fn target(asked: &Url, location: &[u8]) -> Result<Url, &'static str> {
    const NO_URL: &str = "a redirect to what is no URL";
    let location = std::str::from_utf8(location).map_err(|_| NO_URL)?;
    let target = resolve(asked, location).ok_or(NO_URL)?;
    if asked.is_https() && !target.is_https() {
        return Err("a redirect from https to http");
    }
    Ok(target)
}

/// A reference relative to the URL under which it stands.
pub fn resolve(base: &Url, reference: &str) -> Option<Url> {
    let reference = reference.split('#').next().unwrap_or_default();
    if has_scheme(reference) {
        return Url::parse(reference).ok();
    }
    if let Some(rest) = reference.strip_prefix("//") {
        return Url::parse(&format!("{}://{rest}", base.scheme())).ok();
    }
    if reference.is_empty() {
        return Some(base.clone());
    }
    let (path, query) = match reference.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (reference, None),
    };
    let path = match path {
        "" => base.path().to_owned(),
        absolute if absolute.starts_with('/') => without_dot_segments(absolute),
        relative => {
            let folder = base.path().rsplit_once('/').map_or("", |(folder, _)| folder);
            without_dot_segments(&format!("{folder}/{relative}"))
        }
    };
    let query = query.map(|query| format!("?{query}")).unwrap_or_default();
    base.with_path_and_query(&(path + &query)).ok()
}

/// RFC 3986 section 3.1: a letter, then letters, digits, `+`, `-` and `.`, then a colon.
fn has_scheme(reference: &str) -> bool {
    reference.split_once(':').is_some_and(|(scheme, _)| {
        scheme.starts_with(|c: char| c.is_ascii_alphabetic())
            && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'))
    })
}

/// RFC 3986 section 5.2.4 for a path that begins with a slash.
fn without_dot_segments(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let is_last = segments.peek().is_none();
        match segment {
            "." | ".." => {
                if segment == ".." {
                    kept.pop();
                }
                if is_last {
                    kept.push("");
                }
            }
            _ => kept.push(segment),
        }
    }
    format!("/{}", kept.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_of_rfc_3986() {
        let base = Url::parse("http://a/b/c/d;p?q").unwrap();
        for (reference, expected) in [
            ("http://G/x", "http://g/x"),
            ("g", "http://a/b/c/g"),
            ("./g", "http://a/b/c/g"),
            ("g/", "http://a/b/c/g/"),
            ("/g", "http://a/g"),
            ("//g", "http://g/"),
            ("?y", "http://a/b/c/d;p?y"),
            ("g?y", "http://a/b/c/g?y"),
            ("#s", "http://a/b/c/d;p?q"),
            ("g#s", "http://a/b/c/g"),
            (";x", "http://a/b/c/;x"),
            ("", "http://a/b/c/d;p?q"),
            (".", "http://a/b/c/"),
            ("./", "http://a/b/c/"),
            ("..", "http://a/b/"),
            ("../g", "http://a/b/g"),
            ("../..", "http://a/"),
            ("../../../g", "http://a/g"),
            ("/./g", "http://a/g"),
            ("/../g", "http://a/g"),
            ("g.", "http://a/b/c/g."),
            ("..g", "http://a/b/c/..g"),
            ("./g/.", "http://a/b/c/g/"),
            ("g;x=1/../y", "http://a/b/c/y"),
            ("g?y/../x", "http://a/b/c/g?y/../x"),
            ("a//b", "http://a/b/c/a//b"),
            ("./a:b", "http://a/b/c/a:b"),
            ("1:b", "http://a/b/c/1:b"),
            ("%2e%2e/x%0d%0ay", "http://a/b/c/%2e%2e/x%0d%0ay"),
        ] {
            assert_eq!(target(&base, reference.as_bytes()).unwrap().as_str(), expected, "{reference:?}");
        }
    }

    #[test]
    fn what_is_not_followed() {
        let https = Url::parse("https://a/b").unwrap();
        for bad in ["http://a/b", "ftp://a/", "file:///etc/passwd", "mailto:x", "http://u:p@a/", "a b", "http://"] {
            assert!(target(&https, bad.as_bytes()).is_err(), "{bad:?}");
        }
        assert!(target(&https, b"/\xff").is_err());
        assert_eq!(target(&https, b"//c/d").unwrap().as_str(), "https://c/d");
    }

    proptest::proptest! {
        #[test]
        fn any_location_is_handled(location in "[./a:?#%]{0,20}") {
            let base = Url::parse("http://a/b/c").unwrap();
            if let Ok(url) = target(&base, location.as_bytes()) {
                proptest::prop_assert!(Url::parse(url.as_str()).is_ok());
            }
        }
    }
}

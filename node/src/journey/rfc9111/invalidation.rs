//! What an unsafe method takes out of the cache (RFC 9111 4.4).

use http::header::{CONTENT_LOCATION, LOCATION};
use http::{HeaderMap, Method, StatusCode};

use crate::classify::Url;

/// Does a method change what it is about? One that is not known here may.
pub fn is_unsafe(method: &Method) -> bool {
    !matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE)
}

/// The URLs of which nothing stored may be used without validation any more: what was asked for, and what `Location` and
/// `Content-Location` name at the same origin (elsewhere a server has no say). Nothing for a safe method or an error.
/// `resolve` reads a reference relative to a URL (RFC 3986 5).
pub fn invalidated(
    method: &Method,
    url: &Url,
    status: StatusCode,
    fields: &HeaderMap,
    resolve: impl Fn(&Url, &str) -> Option<Url>,
) -> Vec<Url> {
    if !is_unsafe(method) || !(status.is_success() || status.is_redirection()) {
        return Vec::new();
    }
    let same_origin = |other: &Url| (other.scheme(), other.authority()) == (url.scheme(), url.authority());
    let named = [LOCATION, CONTENT_LOCATION].into_iter().filter_map(|name| {
        let reference = fields.get(name)?.to_str().ok()?;
        resolve(url, reference).filter(same_origin)
    });
    let mut all: Vec<_> = std::iter::once(url.clone()).chain(named).collect();
    all.dedup();
    all
}

#[cfg(test)]
mod tests {
    use super::super::fields;
    use super::*;

    fn resolve(base: &Url, reference: &str) -> Option<Url> {
        match reference.starts_with('/') {
            true => base.with_path_and_query(reference).ok(),
            false => Url::parse(reference).ok(),
        }
    }

    #[test]
    fn what_goes_rfc9111_4_4() {
        const A: &str = "http://example.org/a";
        for (method, status, pairs, gone) in [
            ("POST", 200, &[][..], &[A][..]),
            ("PUT", 204, &[], &[A]),
            ("DELETE", 303, &[], &[A]),
            ("PATCH", 200, &[], &[A]),
            ("FROBNICATE", 200, &[], &[A]),
            ("GET", 200, &[], &[]),
            ("HEAD", 200, &[], &[]),
            ("OPTIONS", 200, &[], &[]),
            ("POST", 404, &[], &[]),
            ("POST", 500, &[], &[]),
            ("POST", 201, &[("location", "/b")], &[A, "http://example.org/b"]),
            ("POST", 201, &[("location", "http://example.org:80/b")], &[A, "http://example.org/b"]),
            (
                "POST",
                200,
                &[("content-location", "/c"), ("location", "/b")],
                &[A, "http://example.org/b", "http://example.org/c"],
            ),
            ("POST", 201, &[("location", "http://evil.example.org/b")], &[A]),
            ("POST", 201, &[("location", "https://example.org/b")], &[A]),
            ("POST", 201, &[("location", "http://example.org:81/b")], &[A]),
            ("POST", 201, &[("location", "/a")], &[A]),
            ("POST", 201, &[("location", "::")], &[A]),
        ] {
            let method = method.parse().unwrap();
            let status = StatusCode::from_u16(status).unwrap();
            let got = invalidated(&method, &Url::parse(A).unwrap(), status, &fields(pairs), resolve);
            assert_eq!(got.iter().map(Url::as_str).collect::<Vec<_>>(), gone, "{method} {status} {pairs:?}");
        }
    }
}

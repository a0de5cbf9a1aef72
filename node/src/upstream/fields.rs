//! Fields that belong to one connection and not to the message (RFC 9110 section 7.6.1). Pure.

use http::header::{
    AGE, AUTHORIZATION, CACHE_CONTROL, CONNECTION, CONTENT_LENGTH, COOKIE, DATE, EXPECT, EXPIRES, HOST, SET_COOKIE,
    VARY,
};
use http::{HeaderMap, HeaderName};

/// Hop-by-hop in every message, named by `Connection` or not; besides these all of `proxy-*`.
const HOP_BY_HOP: [&str; 7] =
    ["connection", "te", "trailer", "transfer-encoding", "upgrade", "keep-alive", "http2-settings"];

/// End-to-end fields that a sender may not remove by naming them in `Connection`: it would change what the message means, or
/// let a cache reuse it more freely than its origin meant.
const KEPT: [HeaderName; 10] =
    [HOST, CONTENT_LENGTH, CACHE_CONTROL, AUTHORIZATION, COOKIE, AGE, DATE, EXPIRES, SET_COOKIE, VARY];

/// Removes what concerns one connection only: the fields that `Connection` names, and those always hop-by-hop.
pub fn strip_hop_by_hop(fields: &mut HeaderMap) {
    let named: Vec<HeaderName> = fields
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .filter(|name| !KEPT.contains(name))
        .collect();
    for name in named {
        fields.remove(name);
    }
    remove_if(fields, |name| HOP_BY_HOP.contains(&name) || name.starts_with("proxy-"));
}

/// Brings a request's fields into the form in which they are sent: `Host` is made from the URL, and an expectation has
/// been met by whoever holds the body. A length without a body would make the next request part of this one.
pub(super) fn prepare(fields: &mut HeaderMap, has_body: bool) {
    strip_hop_by_hop(fields);
    fields.remove(EXPECT);
    fields.remove(HOST);
    if !has_body && fields.get(CONTENT_LENGTH).is_some_and(|length| length != "0") {
        fields.remove(CONTENT_LENGTH);
    }
}

/// What a redirect to another host may carry along: nothing that tells who the client is.
pub(super) fn keep_only_safe(fields: &mut HeaderMap) {
    remove_if(fields, |name| {
        let safe = name.starts_with("if-") || name.starts_with("accept");
        !safe && !matches!(name, "range" | "user-agent" | "cache-control" | "via" | "cdn-loop")
    });
}

/// What a probe says of itself: as the request that failed, but for everything that belongs to its content.
pub(super) fn keep_only_introduction(fields: &mut HeaderMap) {
    remove_if(fields, |name| !matches!(name, "user-agent" | "accept" | "accept-encoding" | "via" | "cdn-loop"));
}

fn remove_if(fields: &mut HeaderMap, foreign: impl Fn(&str) -> bool) {
    let names: Vec<HeaderName> = fields.keys().filter(|name| foreign(name.as_str())).cloned().collect();
    for name in names {
        fields.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(list: &[(&str, &str)]) -> HeaderMap {
        list.iter().map(|(n, v)| (n.parse::<HeaderName>().unwrap(), v.parse().unwrap())).collect()
    }

    fn names(fields: &HeaderMap) -> Vec<&str> {
        let mut names: Vec<_> = fields.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn hop_by_hop_fields_go_and_the_rest_stays() {
        let mut map = fields(&[
            ("connection", "close, X-Hop"),
            ("connection", "content-length,, b@d, vary"),
            ("x-hop", "1"),
            ("keep-alive", "timeout=5"),
            ("proxy-authorization", "Basic x"),
            ("proxy-connection", "keep-alive"),
            ("te", "trailers"),
            ("trailer", "x"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("content-length", "5"),
            ("etag", "\"v1\""),
            ("vary", "accept"),
        ]);
        strip_hop_by_hop(&mut map);
        assert_eq!(names(&map), ["content-length", "etag", "vary"]);
    }

    #[test]
    fn a_length_goes_with_its_body() {
        for (length, has_body, stays) in [("5", true, true), ("5", false, false), ("0", false, true)] {
            let mut map = fields(&[("content-length", length)]);
            prepare(&mut map, has_body);
            assert_eq!(map.contains_key(CONTENT_LENGTH), stays, "{length} {has_body}");
        }
    }

    #[test]
    fn only_safe_fields_go_to_another_host() {
        let mut map = fields(&[
            ("range", "bytes=0-"),
            ("if-range", "\"v\""),
            ("accept-encoding", "identity"),
            ("user-agent", "x"),
            ("via", "1.1 a"),
            ("cookie", "c"),
            ("authorization", "Basic x"),
            ("x-token", "t"),
        ]);
        keep_only_safe(&mut map);
        assert_eq!(names(&map), ["accept-encoding", "if-range", "range", "user-agent", "via"]);
    }
}

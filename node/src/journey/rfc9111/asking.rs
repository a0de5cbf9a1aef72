//! What of a client's request goes upstream on behalf of all who will share the answer.

use http::header::{
    ACCEPT, ACCEPT_ENCODING, ACCEPT_LANGUAGE, AUTHORIZATION, CACHE_CONTROL, CONTENT_LENGTH, COOKIE, DNT, EXPECT, HOST,
    HeaderName, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE, PRAGMA, RANGE, REFERER,
    UPGRADE_INSECURE_REQUESTS, USER_AGENT, VIA,
};
use http::{HeaderMap, HeaderValue};

/// Conditions on what a client has itself.
const CONDITIONS: [HeaderName; 5] = [IF_MATCH, IF_NONE_MATCH, IF_MODIFIED_SINCE, IF_UNMODIFIED_SINCE, IF_RANGE];

/// The fields of a request whose answer others will get, too, without those that are about one client's copy or connection;
/// `None` when a field might change the answer in a way that no key tells (`X-Forwarded-Host` and the like: who sends one
/// could poison the answer of all others). Fields of one connection have been removed before.
pub fn shared_fields(fields: &HeaderMap) -> Option<HeaderMap> {
    let mut shared = HeaderMap::new();
    for (name, value) in fields {
        if is_sent(name) {
            shared.append(name, value.clone());
        } else if !is_left_out(name) {
            return None;
        }
    }
    Some(shared)
}

/// Credentials are sent, too: whether an answer to them may be shared is for `storable` to say.
fn is_sent(name: &HeaderName) -> bool {
    [ACCEPT, ACCEPT_ENCODING, ACCEPT_LANGUAGE, USER_AGENT, CACHE_CONTROL, PRAGMA, VIA, AUTHORIZATION, COOKIE]
        .contains(name)
        || name == "cdn-loop"
}

/// Fields that a server has to do without anyhow, as many clients do not send them.
fn is_left_out(name: &HeaderName) -> bool {
    let plain = [HOST, EXPECT, RANGE, REFERER, DNT, UPGRADE_INSECURE_REQUESTS, CONTENT_LENGTH].contains(name);
    plain
        || CONDITIONS.contains(name)
        || name.as_str().starts_with("sec-")
        || matches!(name.as_str(), "priority" | "x-forwarded-for" | "keep-alive")
}

/// Does the client ask for a part, or only for what it has not? Where nothing is stored such a request is no reason to fetch
/// the whole, but for a range that is the whole.
pub fn wants_less(fields: &HeaderMap) -> bool {
    let part = fields.get(RANGE).is_some_and(|range| range != HeaderValue::from_static("bytes=0-"));
    part || CONDITIONS.iter().any(|name| fields.contains_key(name))
}

#[cfg(test)]
mod tests {
    use super::super::fields;
    use super::*;

    #[test]
    fn only_what_a_key_can_tell_is_shared() {
        let browser = fields(&[
            ("host", "example.org"),
            ("accept-encoding", "gzip"),
            ("accept-language", "de"),
            ("user-agent", "x"),
            ("referer", "http://example.org/"),
            ("sec-fetch-mode", "navigate"),
            ("if-none-match", "\"a\""),
            ("range", "bytes=0-"),
            ("x-forwarded-for", "192.0.2.1"),
        ]);
        let sent = fields(&[("accept-encoding", "gzip"), ("accept-language", "de"), ("user-agent", "x")]);
        assert_eq!(shared_fields(&browser), Some(sent));
        for name in ["x-forwarded-host", "x-rewrite-url", "forwarded", "origin", "x-requested-with", "x-api-key"] {
            assert_eq!(shared_fields(&fields(&[("host", "example.org"), (name, "x")])), None, "{name}");
        }
    }

    #[test]
    fn less_than_the_whole() {
        for (pairs, less) in [
            (&[][..], false),
            (&[("range", "bytes=0-")], false),
            (&[("range", "bytes=0-0")], true),
            (&[("range", "bytes=5-")], true),
            (&[("range", "bytes=0-"), ("if-range", "\"a\"")], true),
            (&[("if-none-match", "\"a\"")], true),
        ] {
            assert_eq!(wants_less(&fields(pairs)), less, "{pairs:?}");
        }
    }
}

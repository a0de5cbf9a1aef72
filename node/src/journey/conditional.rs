//! A client's conditions (RFC 9110 13) held against a stored answer: is it sent whole, not at all, or refused, and does the
//! client's range count? Knows no class and no freshness: that what is stored may be used has been decided before.

use std::time::SystemTime;

use http::header::{
    ETAG, HeaderName, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE, LAST_MODIFIED,
};
use http::{HeaderMap, HeaderValue, Method, StatusCode};

use super::cache_control;

/// What a request's conditions come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// Answer as if there were no conditions; a range has its own (`range_counts`).
    Full,
    /// 304: the client has it already.
    NotModified,
    /// 412: the client wants a version that this is not.
    PreconditionFailed,
}

/// Evaluates in the order of RFC 9110 13.2.2. Conditions count only where the answer without them is a success (13.2.1).
///
/// A cache may ignore `If-Match` and `If-Unmodified-Since` (RFC 9111 4.3.2). Here they are honoured on what is current: a
/// downloader that continues with `If-Match` and a range would otherwise join two versions.
pub fn evaluate(method: &Method, request: &HeaderMap, stored_status: StatusCode, stored: &HeaderMap) -> Condition {
    if !stored_status.is_success() {
        return Condition::Full;
    }
    let reads = method == Method::GET || method == Method::HEAD;
    if request.contains_key(IF_MATCH) {
        if !any_tag(request, IF_MATCH, stored, strongly_equal) {
            return Condition::PreconditionFailed;
        }
    } else if let (Some(since), Some(modified)) = (date(request, IF_UNMODIFIED_SINCE), date(stored, LAST_MODIFIED))
        && modified > since
    {
        return Condition::PreconditionFailed;
    }
    if request.contains_key(IF_NONE_MATCH) {
        return match any_tag(request, IF_NONE_MATCH, stored, weakly_equal) {
            true if reads => Condition::NotModified,
            true => Condition::PreconditionFailed,
            false => Condition::Full,
        };
    }
    match (date(request, IF_MODIFIED_SINCE), date(stored, LAST_MODIFIED)) {
        (Some(since), Some(modified)) if reads && modified <= since => Condition::NotModified,
        _ => Condition::Full,
    }
}

/// Does `If-Range` let a range count (RFC 9110 13.1.5)? Without the field it always does. A tag must match strongly, a
/// date exactly: apt continues a download with the date that it was told, so a stored `Last-Modified` must never be rewritten.
pub fn range_counts(request: &HeaderMap, stored: &HeaderMap) -> bool {
    let mut conditions = request.get_all(IF_RANGE).iter();
    let Some(condition) = conditions.next() else {
        return true;
    };
    if conditions.next().is_some() {
        return false;
    }
    let text = condition.as_bytes();
    if text.starts_with(b"\"") || text.starts_with(b"W/") {
        return sole(stored, ETAG).is_some_and(|ours| strongly_equal(condition.as_bytes(), ours.as_bytes()));
    }
    match (date(request, IF_RANGE), date(stored, LAST_MODIFIED)) {
        (Some(theirs), Some(ours)) => theirs == ours,
        _ => false,
    }
}

/// Does any tag of a list fit the stored one, or is the list `*`, which fits whatever is stored?
fn any_tag(request: &HeaderMap, name: HeaderName, stored: &HeaderMap, equal: fn(&[u8], &[u8]) -> bool) -> bool {
    let ours = sole(stored, ETAG).map(HeaderValue::as_bytes);
    let mut tags = request.get_all(name).iter().filter_map(|line| line.to_str().ok()).flat_map(cache_control::tags);
    tags.any(|tag| tag == "*" || ours.is_some_and(|ours| equal(tag.as_bytes(), ours)))
}

/// RFC 9110 8.8.3.2: the same, and neither is weak.
pub fn strongly_equal(a: &[u8], b: &[u8]) -> bool {
    a == b && is_opaque_tag(a)
}

/// RFC 9110 8.8.3.2: the same but for weakness.
pub fn weakly_equal(a: &[u8], b: &[u8]) -> bool {
    let opaque = |tag: &'_ [u8]| tag.strip_prefix(b"W/").unwrap_or(tag).to_vec();
    let (a, b) = (opaque(a), opaque(b));
    a == b && is_opaque_tag(&a)
}

fn is_opaque_tag(tag: &[u8]) -> bool {
    tag.len() >= 2 && tag.starts_with(b"\"") && tag.ends_with(b"\"")
}

/// The date of a field; `None` when it is missing, repeated or no date, which all mean the same: there is no condition.
pub fn date(fields: &HeaderMap, name: HeaderName) -> Option<SystemTime> {
    httpdate::parse_http_date(sole(fields, name)?.to_str().ok()?).ok()
}

fn sole(fields: &HeaderMap, name: HeaderName) -> Option<&HeaderValue> {
    let mut values = fields.get_all(name).iter();
    let value = values.next()?;
    values.next().is_none().then_some(value)
}

#[cfg(test)]
mod tests;

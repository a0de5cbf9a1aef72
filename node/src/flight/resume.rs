//! What may be added to a download that broke off. Pure: two versions are never spliced (R8d).

use std::time::Duration;

use http::header::{CONTENT_LENGTH, CONTENT_RANGE, DATE, ETAG, HeaderName, IF_RANGE, LAST_MODIFIED, RANGE};
use http::{HeaderMap, HeaderValue, StatusCode};

use crate::fault::{Cause, Fault};

/// Bytes before the gap that are asked for again from another mirror and compared.
pub(super) const OVERLAP: u64 = 64 * 1024;

/// What is known of the version being downloaded.
#[derive(Debug, Clone, Copy)]
pub(super) struct Version<'a> {
    /// The fields of the answer that the download began with.
    pub(super) fields: &'a HeaderMap,
    pub(super) total: Option<u64>,
    /// A digest will tell in the end whether the bytes are right.
    pub(super) digest_known: bool,
}

/// How to ask for what is missing.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Question {
    /// The first byte asked for: the gap's, or earlier when the bytes before it have to be compared.
    pub(super) from: u64,
    pub(super) fields: HeaderMap,
}

/// The fields that ask for `start..end` (`end` of `None`: all the rest) of this very version.
///
/// With a validator `If-Range` makes a server with another version send the whole of it. Without one, or at another mirror
/// (whose validators may differ for the same bytes), what came before is asked for again and compared: `OVERLAP`
/// bytes where a validator or digest helps, else everything.
pub(super) fn question(version: Version<'_>, start: u64, end: Option<u64>, same_source: bool) -> Question {
    let validator = strong_validator(version.fields);
    let from = match (&validator, same_source) {
        _ if version.digest_known => start,
        (Some(_), true) => start,
        (Some(_), false) if version.total.is_some() => start.saturating_sub(OVERLAP),
        _ => 0,
    };
    let mut fields = HeaderMap::new();
    if from > 0 || end.is_some() {
        let range = match end {
            Some(end) => format!("bytes={from}-{}", end.saturating_sub(1)),
            None => format!("bytes={from}-"),
        };
        if let Ok(range) = HeaderValue::try_from(range) {
            fields.insert(RANGE, range);
        }
        if let (Some(validator), true) = (validator, same_source) {
            fields.insert(IF_RANGE, validator);
        }
    }
    Question { from, fields }
}

/// Where the body of the answer to `question` begins in the content; a fault when it is of no use.
pub(super) fn begins_at(
    version: Version<'_>,
    question: &Question,
    host: &str,
    status: StatusCode,
    fields: &HeaderMap,
    same_source: bool,
) -> Result<u64, Fault> {
    let changed = || Fault::new(Cause::Changed { host: host.into() });
    let malformed = |detail: &str| Fault::new(Cause::Malformed { host: host.into(), detail: detail.into() });
    let (begin, total) = match status {
        StatusCode::OK => (0, length(fields)),
        StatusCode::PARTIAL_CONTENT => {
            let (begin, total) =
                content_range(fields).ok_or_else(|| malformed("206 without a usable Content-Range"))?;
            if begin != question.from {
                return Err(malformed("206 with another range than was asked for"));
            }
            (begin, total)
        }
        other => return Err(Fault::new(Cause::Status { host: host.into(), status: other.as_u16() })),
    };
    if let (Some(ours), Some(theirs)) = (version.total, total)
        && ours != theirs
    {
        return Err(changed());
    }
    let differs = |name| match (version.fields.get(&name), fields.get(&name)) {
        (Some(ours), Some(theirs)) => ours != theirs,
        _ => false,
    };
    // Mirrors of one repository keep its modification times; entity tags are each server's own.
    let other_version = if same_source { differs(ETAG) || differs(LAST_MODIFIED) } else { differs(LAST_MODIFIED) };
    if other_version && !version.digest_known {
        return Err(changed());
    }
    Ok(begin)
}

/// The validator that `If-Range` may carry: a strong entity tag, else the date if that is strong (RFC 9110 13.1.5).
pub fn strong_validator(fields: &HeaderMap) -> Option<HeaderValue> {
    match fields.get(ETAG) {
        Some(tag) if tag.as_bytes().starts_with(b"\"") => Some(tag.clone()),
        _ => fields.get(LAST_MODIFIED).filter(|_| modified_long_before(fields)).cloned(),
    }
}

/// What was modified just before it was sent may have been modified again in the same second. The date names a version only
/// when it was old already, by so much that it does not matter whose clocks these are (RFC 9110 8.8.2.2).
fn modified_long_before(fields: &HeaderMap) -> bool {
    const LONG: Duration = Duration::from_secs(60);
    let date = |name: HeaderName| httpdate::parse_http_date(fields.get(name)?.to_str().ok()?).ok();
    match (date(LAST_MODIFIED), date(DATE)) {
        (Some(modified), Some(sent)) => sent.duration_since(modified).is_ok_and(|age| age >= LONG),
        _ => false,
    }
}

fn length(fields: &HeaderMap) -> Option<u64> {
    fields.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// First byte and total (`*` is `None`) of a `Content-Range` (RFC 9110 14.4).
fn content_range(fields: &HeaderMap) -> Option<(u64, Option<u64>)> {
    let value = fields.get(CONTENT_RANGE)?.to_str().ok()?;
    let (range, total) = value.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last) = (first.parse::<u64>().ok()?, last.parse::<u64>().ok()?);
    let total = match total {
        "*" => None,
        digits => Some(digits.parse::<u64>().ok()?),
    };
    (first <= last && total.is_none_or(|t| last < t)).then_some((first, total))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(n, v)| (n.parse::<HeaderName>().unwrap(), HeaderValue::from_static(v))).collect()
    }

    const MODIFIED: &str = "Mon, 02 Jan 2023 03:04:05 GMT";

    fn version(fields: &HeaderMap, digest_known: bool) -> Version<'_> {
        Version { fields, total: Some(1_000_000), digest_known }
    }

    #[test]
    fn questions() {
        let tagged = fields(&[("etag", "\"a\""), ("last-modified", MODIFIED)]);
        let weak =
            fields(&[("etag", "W/\"a\""), ("last-modified", MODIFIED), ("date", "Tue, 03 Jan 2023 03:04:05 GMT")]);
        let bare = fields(&[]);
        let ask = |head: &HeaderMap, digest, start, end, same| {
            let q = question(version(head, digest), start, end, same);
            let text = |name: &str| q.fields.get(name).map(|v| v.to_str().unwrap().to_owned());
            (q.from, text("range"), text("if-range"))
        };
        let some = |s: &str| Some(s.to_owned());
        assert_eq!(ask(&tagged, false, 500_000, None, true), (500_000, some("bytes=500000-"), some("\"a\"")));
        assert_eq!(ask(&tagged, false, 500, Some(600), true), (500, some("bytes=500-599"), some("\"a\"")));
        assert_eq!(ask(&weak, false, 500_000, None, true), (500_000, some("bytes=500000-"), some(MODIFIED)));
        // Another mirror: no If-Range, an overlap is compared.
        assert_eq!(ask(&tagged, false, 500_000, None, false), (434_464, some("bytes=434464-"), None));
        assert_eq!(ask(&tagged, true, 500_000, None, false), (500_000, some("bytes=500000-"), None));
        // Nothing to tell versions apart: everything is compared.
        assert_eq!(ask(&bare, false, 500_000, None, true), (0, None, None));
        assert_eq!(ask(&bare, true, 500_000, None, true), (500_000, some("bytes=500000-"), None));
    }

    #[test]
    fn a_date_is_strong_when_it_was_old() {
        let strong = |tag: &'static str, modified: &'static str, sent: Option<&'static str>| {
            let mut head = fields(&[("etag", tag), ("last-modified", modified)]);
            head.extend(sent.map(|sent| (DATE, HeaderValue::from_static(sent))));
            strong_validator(&head).map(|value| value.to_str().unwrap().to_owned())
        };
        for (sent, counts) in [
            (Some("Mon, 02 Jan 2023 03:04:05 GMT"), false),
            (Some("Mon, 02 Jan 2023 03:04:06 GMT"), false),
            (Some("Mon, 02 Jan 2023 03:05:04 GMT"), false),
            (Some("Mon, 02 Jan 2023 03:05:05 GMT"), true),
            (Some("Sun, 01 Jan 2023 03:04:05 GMT"), false),
            (Some("soon"), false),
            (None, false),
        ] {
            assert_eq!(strong("W/\"a\"", MODIFIED, sent), counts.then(|| MODIFIED.to_owned()), "{sent:?}");
            assert_eq!(strong("\"a\"", MODIFIED, sent), Some("\"a\"".to_owned()), "{sent:?}");
        }
        assert_eq!(strong("W/\"a\"", "yesterday", Some("Mon, 02 Jan 2023 03:05:05 GMT")), None);
    }

    #[test]
    fn answers() {
        let ours = fields(&[("etag", "\"a\""), ("last-modified", MODIFIED)]);
        let judge = |digest, same, status: u16, theirs: &[(&'static str, &'static str)]| {
            let q = Question { from: 500, fields: HeaderMap::new() };
            let status = StatusCode::from_u16(status).unwrap();
            begins_at(version(&ours, digest), &q, "example.org", status, &fields(theirs), same).map_err(|f| f.label())
        };
        let range = ("content-range", "bytes 500-999999/1000000");
        assert_eq!(judge(false, true, 206, &[range, ("etag", "\"a\"")]), Ok(500));
        assert_eq!(judge(false, true, 206, &[range]), Ok(500));
        assert_eq!(judge(false, true, 206, &[("content-range", "bytes 500-999/*")]), Ok(500));
        assert_eq!(judge(false, true, 206, &[range, ("etag", "\"b\"")]), Err("changed"));
        assert_eq!(judge(false, false, 206, &[range, ("etag", "\"b\"")]), Ok(500));
        assert_eq!(
            judge(false, false, 206, &[range, ("last-modified", "Mon, 02 Jan 2023 03:04:06 GMT")]),
            Err("changed")
        );
        assert_eq!(judge(true, false, 206, &[range, ("last-modified", "Mon, 02 Jan 2023 03:04:06 GMT")]), Ok(500));
        assert_eq!(judge(true, true, 206, &[("content-range", "bytes 500-999/1000")]), Err("changed"));
        assert_eq!(judge(false, true, 206, &[("content-range", "bytes 499-999999/1000000")]), Err("malformed"));
        assert_eq!(judge(false, true, 206, &[("content-range", "bytes 500-1000000/1000000")]), Err("malformed"));
        assert_eq!(judge(false, true, 206, &[("content-range", "bytes 500-18446744073709551616/1")]), Err("malformed"));
        assert_eq!(judge(false, true, 206, &[]), Err("malformed"));
        assert_eq!(judge(false, true, 200, &[("content-length", "1000000")]), Ok(0));
        assert_eq!(judge(false, true, 200, &[("content-length", "1000001")]), Err("changed"));
        assert_eq!(judge(false, true, 200, &[("etag", "\"b\"")]), Err("changed"));
        assert_eq!(judge(false, true, 416, &[]), Err("status"));
        assert_eq!(judge(false, true, 503, &[]), Err("status"));
    }
}

//! Does an answer fit what was asked? What hyper lets through and RFC 9110 and 9112 do not. Pure.

use std::sync::Arc;

use http::header::{
    CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderName, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE,
    IF_UNMODIFIED_SINCE, RANGE, TRANSFER_ENCODING,
};
use http::{HeaderMap, HeaderValue, StatusCode};

use crate::fault::{Cause, Fault};

/// What a request asked for, as far as it decides which answers make sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Asks {
    range: bool,
    condition: bool,
}

impl Asks {
    pub(super) fn of(fields: &HeaderMap) -> Self {
        let has = |names: &[HeaderName]| names.iter().any(|name| fields.contains_key(name));
        Self {
            range: has(&[RANGE]),
            condition: has(&[IF_NONE_MATCH, IF_MODIFIED_SINCE, IF_MATCH, IF_UNMODIFIED_SINCE, IF_RANGE]),
        }
    }

    /// Refuses an answer that nobody can use safely, and brings the fields of the others in order: one framing, one
    /// length. To be called before the hop-by-hop fields are removed.
    ///
    /// # Errors
    /// `Malformed`.
    pub(super) fn check(self, host: &Arc<str>, status: StatusCode, fields: &mut HeaderMap) -> Result<(), Fault> {
        let wrong = match status.as_u16() {
            101 => Some("101 although no upgrade was asked for"),
            206 if !self.range => Some("206 although no range was asked for"),
            206 if !is_sound_partial(fields) => Some("206 with an impossible Content-Range"),
            304 if !self.condition => Some("304 although there was no condition"),
            _ => settle_framing(status, fields).err(),
        };
        let fault = |detail: &str| Fault::new(Cause::Malformed { host: host.clone(), detail: detail.into() });
        wrong.map_or(Ok(()), |detail| Err(fault(detail)))
    }
}

/// One `Content-Length` at most, and none beside `Transfer-Encoding`, which overrides it (RFC 9112 section 6.3).
fn settle_framing(status: StatusCode, fields: &mut HeaderMap) -> Result<(), &'static str> {
    if fields.contains_key(TRANSFER_ENCODING) {
        let mut codings = fields.get_all(TRANSFER_ENCODING).iter();
        let is_chunked = codings.next().is_some_and(|v| v.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked"));
        if !is_chunked || codings.next().is_some() {
            return Err("a transfer coding other than chunked, although none was offered");
        }
        fields.remove(CONTENT_LENGTH);
    }
    if status == StatusCode::NO_CONTENT {
        fields.remove(CONTENT_LENGTH);
    }
    match length(fields)? {
        Some(length) => fields.insert(CONTENT_LENGTH, HeaderValue::from(length)),
        None => None,
    };
    Ok(())
}

/// The value of all `Content-Length` fields, which may repeat one value (RFC 9110 section 8.6).
fn length(fields: &HeaderMap) -> Result<Option<u64>, &'static str> {
    let mut length = None;
    for value in fields.get_all(CONTENT_LENGTH) {
        for number in value.as_bytes().split(|b| *b == b',') {
            let number = decimal(number.trim_ascii()).ok_or("a Content-Length that is no number")?;
            if length.replace(number).is_some_and(|earlier| earlier != number) {
                return Err("more than one Content-Length");
            }
        }
    }
    Ok(length)
}

/// A 206 has one range, whose length is that of its body, or is multipart. Units other than bytes are not ours to judge.
fn is_sound_partial(fields: &HeaderMap) -> bool {
    let text = |name| fields.get(name).and_then(|v: &HeaderValue| v.to_str().ok()).unwrap_or_default();
    if !fields.contains_key(CONTENT_RANGE) {
        return text(CONTENT_TYPE).to_ascii_lowercase().starts_with("multipart/byteranges");
    }
    let parsed = || {
        let (range, total) = text(CONTENT_RANGE).strip_prefix("bytes ")?.trim().split_once('/')?;
        let (first, last) = range.split_once('-')?;
        let (first, last) = (decimal(first.as_bytes())?, decimal(last.as_bytes())?);
        let fits = match total {
            "*" => true,
            total => last < decimal(total.as_bytes())?,
        };
        let length = length(fields).ok()?;
        Some(first <= last && fits && length.is_none_or(|length| length.checked_sub(1) == Some(last - first)))
    };
    parsed().unwrap_or(false)
}

/// Digits only, and not more than fit.
fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(list: &[(&str, &str)]) -> HeaderMap {
        list.iter().map(|(n, v)| (n.parse::<HeaderName>().unwrap(), v.parse().unwrap())).collect()
    }

    fn verdict(asked: &[(&str, &str)], status: u16, answer: &[(&str, &str)]) -> Result<HeaderMap, Fault> {
        let mut answer = fields(answer);
        let status = StatusCode::from_u16(status).unwrap();
        Asks::of(&fields(asked)).check(&"example.org".into(), status, &mut answer).map(|()| answer)
    }

    #[test]
    fn answers_to_what_was_not_asked() {
        let ranged = [("range", "bytes=0-4")];
        let five = [("content-range", "bytes 0-4/9"), ("content-length", "5")];
        let conditional = [("if-none-match", "\"v\"")];
        let none: [(&str, &str); 0] = [];
        for (asked, status, answer, good) in [
            (&none[..], 200, &none[..], true),
            (&none, 999, &none, true),
            (&none, 416, &none, true),
            (&none, 101, &none, false),
            (&none, 206, &five, false),
            (&ranged, 206, &five, true),
            (&ranged, 200, &none, true),
            (&ranged, 206, &none, false),
            (&ranged, 206, &[("content-type", "Multipart/ByteRanges; boundary=x")], true),
            (&ranged, 206, &[("content-range", "bytes 0-4/*")], true),
            (&ranged, 206, &[("content-range", "bytes 5-9/4")], false),
            (&ranged, 206, &[("content-range", "bytes 9-5/10")], false),
            (&ranged, 206, &[("content-range", "bytes +0-4/9")], false),
            (&ranged, 206, &[("content-range", "bytes 0-4/9"), ("content-length", "6")], false),
            (&ranged, 206, &[("content-range", "bytes 0-4/9"), ("content-length", "0")], false),
            (&ranged, 206, &[("content-range", "bytes 0-18446744073709551615/18446744073709551616")], false),
            (&none, 304, &none, false),
            (&conditional, 304, &none, true),
        ] {
            assert_eq!(verdict(asked, status, answer).is_ok(), good, "{asked:?} {status} {answer:?}");
        }
    }

    #[test]
    fn one_framing_is_left() {
        let length = |answer: &[(&str, &str)]| {
            verdict(&[], 200, answer).map(|f| f.get(CONTENT_LENGTH).map(|v| v.to_str().unwrap().to_owned()))
        };
        assert_eq!(length(&[("content-length", "3")]).unwrap().as_deref(), Some("3"));
        assert_eq!(length(&[("content-length", "3"), ("content-length", "3")]).unwrap().as_deref(), Some("3"));
        assert_eq!(length(&[("content-length", "3, 3")]).unwrap().as_deref(), Some("3"));
        assert_eq!(length(&[("transfer-encoding", "Chunked"), ("content-length", "3")]).unwrap(), None);
        for bad in [
            &[("content-length", "3"), ("content-length", "5")][..],
            &[("content-length", "3,5")],
            &[("content-length", "-1")],
            &[("content-length", "+1")],
            &[("content-length", "")],
            &[("content-length", "18446744073709551616")],
            &[("transfer-encoding", "gzip")],
            &[("transfer-encoding", "gzip, chunked")],
            &[("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")],
        ] {
            assert!(length(bad).is_err(), "{bad:?}");
        }
        assert!(verdict(&[], 204, &[("content-length", "3")]).unwrap().is_empty());
    }
}

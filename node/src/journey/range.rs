//! `Range` (RFC 9110 14): which bytes of a content a request wants, and the `multipart/byteranges` of several ranges.

use std::ops::Range;

use bytes::Bytes;

use super::{Segment, Segments};

/// More ranges than this in one request are not honoured.
const RANGES_MAX: usize = 256;

/// What a `Range` field comes to for a content of a known length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// No range, or one that is to be ignored.
    Whole,
    One(Range<u64>),
    Several(Vec<Range<u64>>),
    /// 416
    Unsatisfiable,
}

/// Reads a `Range` field.
pub fn parse(field: &str, length: u64) -> Wanted {
    let Some(set) = field.trim().strip_prefix("bytes=") else { return Wanted::Whole };
    let mut ranges = Vec::new();
    for spec in set.split(',').map(str::trim).filter(|spec| !spec.is_empty()) {
        if ranges.len() == RANGES_MAX {
            return Wanted::Whole;
        }
        match spec_range(spec, length) {
            Some(range) => ranges.push(range),
            None => return Wanted::Whole,
        }
    }
    if ranges.is_empty() {
        return Wanted::Whole;
    }
    ranges.retain(|range| !range.is_empty());
    // Ranges that overlap would send a byte more than once: a way to make much of little (RFC 9110 17.15).
    let mut sorted = ranges.clone();
    sorted.sort_by_key(|range| range.start);
    if sorted.windows(2).any(|pair| pair[1].start < pair[0].end) {
        return Wanted::Whole;
    }
    match <[_; 1]>::try_from(ranges) {
        Ok([one]) => Wanted::One(one),
        Err(none) if none.is_empty() => Wanted::Unsatisfiable,
        Err(several) => Wanted::Several(several),
    }
}

/// One range, empty when it begins behind the end; `None` when it is malformed.
fn spec_range(spec: &str, length: u64) -> Option<Range<u64>> {
    let (first, last) = spec.split_once('-')?;
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        digits.then(|| text.parse().unwrap_or(u64::MAX))
    };
    if first.is_empty() {
        let suffix: u64 = number(last)?;
        return Some(length.saturating_sub(suffix)..length);
    }
    let first = number(first)?;
    let end = if last.is_empty() { u64::MAX } else { number(last).filter(|last| *last >= first)?.saturating_add(1) };
    Some(first.min(length)..end.min(length))
}

/// A `multipart/byteranges` body with its exact length.
pub struct Multipart {
    pub content_type: String,
    pub length: u64,
    pub segments: Segments,
}

/// Parts in the form that zchunk's parser wants (CLIENTS.md 1): a boundary of letters and digits, numeric totals.
/// `None` when they would be longer than the content itself, which is then the better answer (RFC 9110 14.2, 17.15).
pub fn multipart(ranges: &[Range<u64>], total: u64, content_type: Option<&str>, seed: &[u8]) -> Option<Multipart> {
    let boundary = format!("imirror{}", &blake3::hash(seed).to_hex()[..20]);
    let kind = content_type.map(|t| format!("Content-Type: {t}\r\n")).unwrap_or_default();
    let mut segments = Vec::with_capacity(2 * ranges.len() + 1);
    for (i, range) in ranges.iter().enumerate() {
        let before = if i == 0 { "" } else { "\r\n" };
        let last = range.end.saturating_sub(1);
        let head = format!("{before}--{boundary}\r\n{kind}Content-Range: bytes {}-{last}/{total}\r\n\r\n", range.start);
        segments.push(Segment::Text(head.into()));
        segments.push(Segment::Data(range.clone()));
    }
    segments.push(Segment::Text(Bytes::from(format!("\r\n--{boundary}--\r\n"))));
    let segments = Segments::multipart(segments);
    let length = segments.remaining().filter(|length| *length <= total)?;
    Some(Multipart { content_type: format!("multipart/byteranges; boundary={boundary}"), length, segments })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn fields() {
        for (field, wanted) in [
            ("bytes=0-0", Wanted::One(0..1)),
            ("bytes=5-", Wanted::One(5..100)),
            ("bytes=-1", Wanted::One(99..100)),
            ("bytes=-1000", Wanted::One(0..100)),
            ("bytes=0-18446744073709551616", Wanted::One(0..100)),
            ("bytes=-9223372036854775809", Wanted::One(0..100)),
            ("bytes=0-9, 20-29", Wanted::Several(vec![0..10, 20..30])),
            ("bytes=20-29,0-9", Wanted::Several(vec![20..30, 0..10])),
            ("bytes=0-9,200-", Wanted::One(0..10)),
            ("bytes=100-", Wanted::Unsatisfiable),
            ("bytes=-0", Wanted::Unsatisfiable),
            ("bytes=5-2", Wanted::Whole),
            ("bytes=a-b", Wanted::Whole),
            ("bytes=", Wanted::Whole),
            ("bytes=1", Wanted::Whole),
            ("bytes=+1-2", Wanted::Whole),
            ("lines=0-1", Wanted::Whole),
            ("bytes=0-,0-", Wanted::Whole),
            ("bytes=0-5,3-9", Wanted::Whole),
        ] {
            assert_eq!(parse(field, 100), wanted, "{field}");
        }
        let many =
            |n: u64| format!("bytes={}", (0..n).map(|i| format!("{}-{}", 2 * i, 2 * i)).collect::<Vec<_>>().join(","));
        assert!(matches!(parse(&many(256), 1000), Wanted::Several(ranges) if ranges.len() == 256));
        assert_eq!(parse(&many(257), 1000), Wanted::Whole);
    }

    #[test]
    fn a_multipart_body_to_the_byte() {
        let content: Vec<u8> = (0..1000).map(|i| b'0' + (i % 10) as u8).collect();
        let mut parts = multipart(&[0..2, 5..6], 1000, Some("x/y"), b"seed").unwrap();
        let boundary = parts.content_type.split('=').nth(1).unwrap().to_owned();
        assert!(boundary.bytes().all(|b| b.is_ascii_alphanumeric()));
        let mut body = Vec::new();
        loop {
            match (parts.segments.text(), parts.segments.data(100)) {
                (Some(text), data) => {
                    body.extend_from_slice(&text);
                    assert!(data.is_none() || !data.unwrap().is_empty());
                }
                (None, Some(range)) => {
                    body.extend_from_slice(&content[range.start as usize..range.end as usize]);
                    parts.segments.advance(range.end - range.start);
                }
                (None, None) => break,
            }
        }
        let expected = format!(
            "--{boundary}\r\nContent-Type: x/y\r\nContent-Range: bytes 0-1/1000\r\n\r\n01\r\n\
             --{boundary}\r\nContent-Type: x/y\r\nContent-Range: bytes 5-5/1000\r\n\r\n5\r\n--{boundary}--\r\n"
        );
        assert_eq!(String::from_utf8(body).unwrap(), expected);
        assert_eq!(parts.length, expected.len() as u64);
    }

    #[test]
    fn parts_that_are_longer_than_the_content_are_no_answer() {
        let tiny: Vec<_> = (0..256).map(|i| 2 * i..2 * i + 1).collect();
        let length = multipart(&tiny, 1 << 30, None, b"seed").unwrap().length;
        assert!(length < 256 * 128, "{length}");
        assert!(multipart(&tiny, length, None, b"seed").is_some());
        assert!(multipart(&tiny, 10_000, None, b"seed").is_none());
        assert!(multipart(&[0..50, 51..100], 100, None, b"seed").is_none());
    }

    proptest! {
        #[test]
        fn never_more_than_the_content(field in "bytes=[0-9,-]{0,30}", length in 0u64..1000) {
            let ranges = match parse(&field, length) {
                Wanted::One(range) => vec![range],
                Wanted::Several(ranges) => ranges,
                _ => vec![],
            };
            prop_assert!(ranges.iter().all(|r| r.start < r.end && r.end <= length));
            prop_assert!(ranges.iter().map(|r| r.end - r.start).sum::<u64>() <= length);
        }
    }
}

//! Replies: what goes back to the client, before the door turns it into bytes on a connection.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream::BoxStream;
use http::header::{ACCEPT_RANGES, AGE, CONTENT_LENGTH, CONTENT_TYPE, DATE, HeaderName, VIA};
use http::{HeaderMap, HeaderValue, StatusCode};

use super::Segments;
use crate::fault::Fault;
use crate::flight::Reader;
use crate::ledger::Outcome;
use crate::store::{Blob, Entry, Head};
use crate::upstream::AnswerBody;

/// `Cache-Status` (RFC 9211).
pub(super) const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

/// An answer for a client.
pub struct Reply {
    pub status: StatusCode,
    pub fields: HeaderMap,
    pub content: Content,
    pub outcome: Outcome,
    /// Where the bytes came from, in the access log's words (`HIER_DIRECT/192.0.2.1`); nothing when from here.
    pub from: Option<String>,
}

/// Where the bytes of an answer come from.
pub enum Content {
    Empty,
    Text(Bytes),
    Stored(Stored, Segments),
    Flying(Box<Reader>, Segments),
    Passed(Box<AnswerBody>),
    /// Texts of the node itself, as they come.
    Live(BoxStream<'static, Bytes>),
}

/// A stored object that is being sent.
pub struct Stored {
    pub entry: Arc<Entry>,
    pub blob: Arc<Blob>,
}

impl Reply {
    /// A short plain text.
    pub fn text(status: StatusCode, text: impl Into<Bytes>, outcome: Outcome) -> Self {
        let mut fields = HeaderMap::new();
        fields.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        Self { status, fields, content: Content::Text(text.into()), outcome, from: None }
    }

    /// The answer to a request that failed: what, which upstream, why.
    pub fn fault(fault: &Fault, what: &str, name: &str) -> Self {
        let status = fault.http_status();
        let first = match fault.is_unreachable() {
            true => "No route to host",
            false => status.canonical_reason().unwrap_or("Error"),
        };
        let outcome = if status == StatusCode::FORBIDDEN { Outcome::Denied } else { Outcome::Error };
        let mut reply =
            Self::text(status, format!("{first}\n\nimirror {name} could not serve {what}:\n{fault}\n"), outcome);
        if let Ok(value) = HeaderValue::try_from(format!("{name}; fwd=miss; detail={}", fault.label())) {
            reply.fields.insert(CACHE_STATUS, value);
        }
        reply
    }
}

/// The fields that a stored head and a selection make.
pub(super) fn content_fields(head: &Head, via: &HeaderValue, age: Option<u64>, cache_status: HeaderValue) -> HeaderMap {
    let mut fields = HeaderMap::with_capacity(head.fields.len() + 6);
    fields.extend(head.fields.clone());
    // The door dates each answer; `Age` says how old the content is.
    fields.remove(DATE);
    append_via(&mut fields, via);
    if let Some(age) = age {
        fields.insert(AGE, age.into());
    }
    fields.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    fields.insert(CACHE_STATUS, cache_status);
    fields
}

/// Adds this node to `Via`.
pub(super) fn append_via(fields: &mut HeaderMap, via: &HeaderValue) {
    let others = fields.get_all(VIA).iter().chain([via]).filter_map(|value| value.to_str().ok());
    if let Ok(all) = HeaderValue::try_from(others.collect::<Vec<_>>().join(", ")) {
        fields.insert(VIA, all);
    }
}

/// `Content-Range` of a single range.
pub(super) fn content_range(range: &Range<u64>, total: u64) -> Option<HeaderValue> {
    HeaderValue::try_from(format!("bytes {}-{}/{total}", range.start, range.end.saturating_sub(1))).ok()
}

/// Sets or removes `Content-Length`.
pub(super) fn set_length(fields: &mut HeaderMap, length: Option<u64>) {
    match length {
        Some(length) => fields.insert(CONTENT_LENGTH, length.into()),
        None => fields.remove(CONTENT_LENGTH),
    };
}

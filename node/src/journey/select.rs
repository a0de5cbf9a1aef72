//! What of a content a client gets: everything, ranges, or the word that it has it already.

use std::sync::Arc;

use http::header::{AGE, CONTENT_RANGE, CONTENT_TYPE, RANGE};
use http::{HeaderMap, HeaderValue, Method, StatusCode};

use super::conditional::{self, Condition};
use super::promises::Handing;
use super::reply::{content_fields, content_range, set_length};
use super::{Asked, Content, Journey, Reply, Segments, Stored, range, rfc9111};
use crate::classify::Class;
use crate::cluster::source::Told;
use crate::flight::Flight;
use crate::ledger::{Hierarchy, Outcome};
use crate::store::{Blob, Entry, Head};

/// What of a content is sent, and under which head.
struct Selected {
    status: StatusCode,
    fields: HeaderMap,
    /// Nothing for an answer without a body.
    segments: Option<Segments>,
}

impl Selected {
    fn into_reply(self, outcome: Outcome, from: Option<String>, content: impl FnOnce(Segments) -> Content) -> Reply {
        let content = self.segments.map_or(Content::Empty, content);
        Reply { status: self.status, fields: self.fields, content, outcome, from }
    }
}

impl Journey {
    pub(super) fn stored_reply(&self, asked: &Asked, entry: Arc<Entry>, blob: Arc<Blob>, outcome: Outcome) -> Reply {
        let outcome = if outcome == Outcome::Hit && blob.in_memory() { Outcome::MemoryHit } else { outcome };
        let now = self.0.clock.now();
        let age = match entry.class {
            Class::Other => rfc9111::current_age(&entry.head.fields, entry.confirmed_at(), now),
            _ => now.since(entry.confirmed_at()),
        };
        let age = age.as_secs();
        let fields = content_fields(&entry.head, &self.0.hops.via, Some(age), self.cache_status(outcome));
        let selected = select(asked, &entry.head, Some(entry.size), fields);
        self.note_handed(asked, selected.status, Handing::Stored(&entry));
        selected.into_reply(outcome, None, |segments| Content::Stored(Stored { entry, blob }, segments))
    }

    pub(super) fn flying_reply(&self, asked: &Asked, flight: &Arc<Flight>, outcome: Outcome) -> Reply {
        let head = &flight.plan().head;
        // Who joins later gets it older than it came.
        let age = head
            .fields
            .contains_key(AGE)
            .then(|| rfc9111::current_age(&head.fields, flight.started(), self.0.clock.now()).as_secs());
        let fields = content_fields(head, &self.0.hops.via, age, self.cache_status_with(flight, outcome));
        let selected = select(asked, head, flight.total(), fields);
        self.note_handed(asked, selected.status, Handing::Flying(flight));
        let reader = Box::new(flight.reader());
        selected.into_reply(outcome, Some(flight.source()), |segments| Content::Flying(reader, segments))
    }
}

impl Journey {
    /// The answer to a HEAD by what a peer has told.
    pub(super) fn told_reply(&self, asked: &Asked, peer: &str, told: &Told, outcome: Outcome) -> Reply {
        let head = &told.described.head;
        let cache_status = self.cache_status_after(peer, told.object.is_some(), outcome, false);
        let fields = content_fields(head, &self.0.hops.via, Some(told.confirmed_age.as_secs()), cache_status);
        let from = Hierarchy::Sibling(peer).to_string();
        select(asked, head, told.total, fields).into_reply(outcome, Some(from), |_| Content::Empty)
    }
}

/// Conditions and ranges of the client, for a content of which the length may not be known yet.
fn select(asked: &Asked, head: &Head, total: Option<u64>, mut fields: HeaderMap) -> Selected {
    match conditional::evaluate(&asked.method, &asked.fields, head.status, &head.fields) {
        Condition::Full => {}
        Condition::NotModified => {
            fields.remove(CONTENT_TYPE);
            return Selected { status: StatusCode::NOT_MODIFIED, fields, segments: None };
        }
        Condition::PreconditionFailed => {
            set_length(&mut fields, Some(0));
            return Selected { status: StatusCode::PRECONDITION_FAILED, fields, segments: None };
        }
    }
    // Ranges are of GET alone, and of a content, not of what is said instead of one (RFC 9110 14.2).
    let ranges = asked.method == Method::GET && head.status == StatusCode::OK;
    let range = asked.fields.get(RANGE).and_then(|v| v.to_str().ok()).filter(|_| ranges);
    let wanted = match (range, total) {
        (Some(range), Some(total)) if conditional::range_counts(&asked.fields, &head.fields) => {
            range::parse(range, total)
        }
        _ => range::Wanted::Whole,
    };
    let known_total = total.unwrap_or_default();
    let whole = |fields: &mut HeaderMap| {
        // RFC 9110 8.6
        set_length(fields, total.filter(|_| head.status != StatusCode::NO_CONTENT));
        (head.status, Segments::whole(total))
    };
    let (status, segments) = match wanted {
        range::Wanted::Whole => whole(&mut fields),
        range::Wanted::One(range) => {
            set_length(&mut fields, Some(range.end - range.start));
            fields.extend(content_range(&range, known_total).map(|value| (CONTENT_RANGE, value)));
            (StatusCode::PARTIAL_CONTENT, Segments::range(range))
        }
        range::Wanted::Several(ranges) => {
            let kind = fields.get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).map(str::to_owned);
            match range::multipart(&ranges, known_total, kind.as_deref(), asked.key.as_str().as_bytes()) {
                Some(parts) => {
                    fields.extend(HeaderValue::try_from(parts.content_type).ok().map(|value| (CONTENT_TYPE, value)));
                    set_length(&mut fields, Some(parts.length));
                    (StatusCode::PARTIAL_CONTENT, parts.segments)
                }
                None => whole(&mut fields),
            }
        }
        range::Wanted::Unsatisfiable => {
            let value = HeaderValue::try_from(format!("bytes */{known_total}"));
            fields.extend(value.ok().map(|value| (CONTENT_RANGE, value)));
            set_length(&mut fields, Some(0));
            return Selected { status: StatusCode::RANGE_NOT_SATISFIABLE, fields, segments: None };
        }
    };
    Selected { status, fields, segments: Some(segments) }
}

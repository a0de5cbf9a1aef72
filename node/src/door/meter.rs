//! Counts one answer and writes its line in the access log when it has ended, however it ends.

use std::sync::Arc;

use http::header::{CONTENT_TYPE, HeaderName, REFERER, USER_AGENT};
use http::{HeaderValue, Method, StatusCode};

use super::client::Client;
use crate::classify::Url;
use crate::fault::Fault;
use crate::journey::{AtOnce, Reply, Shortcut};
use crate::ledger::{Origin, Outcome, Record, Subject};
use crate::os::clock::Timestamp;

/// One request and its answer.
pub(super) struct Meter {
    client: Arc<Client>,
    started: Timestamp,
    method: Method,
    what: What,
    subject: Subject,
    status: StatusCode,
    outcome: Outcome,
    bytes: u64,
    fault: Option<&'static str>,
    ended: bool,
    line: Option<Box<ForLine>>,
}

/// What was asked for.
#[derive(Debug)]
pub(super) enum What {
    Url(Url),
    /// What a short cut knows.
    Known(Arc<Shortcut>),
    Text(String),
}

/// What only the access log wants to know; not gathered without one.
#[derive(Debug, Default)]
struct ForLine {
    user_agent: Option<HeaderValue>,
    referer: Option<HeaderValue>,
    content_type: Option<HeaderValue>,
    from: Option<String>,
}

impl Meter {
    /// `field` finds one of the request's.
    pub(super) fn start(
        client: &Arc<Client>,
        started: Timestamp,
        method: &Method,
        field: impl Fn(HeaderName) -> Option<HeaderValue>,
    ) -> Self {
        let line = client.door.ledger.access_log().map(|_| {
            Box::new(ForLine { user_agent: field(USER_AGENT), referer: field(REFERER), ..ForLine::default() })
        });
        Self {
            client: client.clone(),
            started,
            method: method.clone(),
            what: What::Text(String::new()),
            subject: Subject::Other,
            status: StatusCode::OK,
            outcome: Outcome::Error,
            bytes: 0,
            fault: None,
            ended: false,
            line,
        }
    }

    pub(super) fn names(&mut self, what: What, subject: Subject) {
        self.what = what;
        self.subject = subject;
    }

    pub(super) fn answered(&mut self, reply: &Reply) {
        self.outcome = reply.outcome;
        self.status = reply.status;
        if let Some(line) = &mut self.line {
            line.content_type = reply.fields.get(CONTENT_TYPE).cloned();
            line.from.clone_from(&reply.from);
        }
    }

    /// It is answered as the short cut says.
    pub(super) fn short_cut(&mut self, found: &AtOnce) {
        self.names(What::Known(found.shortcut.clone()), found.shortcut.class().into());
        self.outcome = found.shortcut.outcome();
        if let Some(line) = &mut self.line {
            line.content_type = found.hot.entry.head.fields.get(CONTENT_TYPE).cloned();
        }
    }

    pub(super) fn sent(&mut self, bytes: u64) {
        self.bytes += bytes;
        let origin = match self.outcome {
            Outcome::MemoryHit => Origin::Memory,
            Outcome::Hit | Outcome::RefreshUnmodified | Outcome::Stale => Origin::Disk,
            _ => Origin::Elsewhere,
        };
        self.client.door.ledger.sent(self.subject, origin, bytes);
    }

    /// What was asked for, as far as it is known.
    pub(super) fn what(&self) -> &str {
        self.what.as_str()
    }

    /// Who gets the answer.
    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    /// When it was asked for.
    pub(super) fn started(&self) -> Timestamp {
        self.started
    }

    /// Bytes of the body so far.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The answer has been given whole.
    pub(super) fn complete(&mut self) {
        self.ended = true;
    }

    pub(super) fn failed(&mut self, fault: &Fault) {
        tracing::debug!(what = self.what.as_str(), %fault, "an answer was cut off");
        let door = &self.client.door;
        door.ledger.note(door.clock.now(), self.what.as_str(), fault);
        self.fault = Some(fault.label());
        self.ended = true;
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        let door = &self.client.door;
        door.ledger.ended(self.outcome, self.subject, !self.ended, self.fault);
        let (Some(line), Some(log)) = (&self.line, door.ledger.access_log()) else { return };
        let now = door.clock.now();
        log.write(&Record {
            finished: now,
            elapsed: now.since(self.started),
            client: self.client.address,
            method: self.method.as_str(),
            url: self.what.as_str(),
            status: self.status.as_u16(),
            bytes: self.bytes,
            outcome: self.outcome,
            subject: self.subject,
            from: line.from.as_deref(),
            content_type: text(line.content_type.as_ref()),
            user_agent: text(line.user_agent.as_ref()),
            referer: text(line.referer.as_ref()),
            aborted: !self.ended,
            fault: self.fault,
        });
    }
}

fn text(field: Option<&HeaderValue>) -> Option<&str> {
    field?.to_str().ok()
}

impl What {
    fn as_str(&self) -> &str {
        match self {
            Self::Url(url) => url.as_str(),
            Self::Known(shortcut) => shortcut.url.as_str(),
            Self::Text(text) => text,
        }
    }
}

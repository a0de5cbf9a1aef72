//! Counts one answer and writes its line in the access log when it has ended, however it ends.

use std::net::IpAddr;
use std::sync::Arc;

use http::header::{REFERER, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, StatusCode};

use crate::fault::Fault;
use crate::ledger::{Ledger, Origin, Outcome, Record, Subject};
use crate::os::clock::{Clock, Timestamp};

/// One request and its answer.
pub(super) struct Meter {
    ledger: Arc<Ledger>,
    clock: Clock,
    started: Timestamp,
    client: IpAddr,
    method: Method,
    url: String,
    subject: Subject,
    user_agent: Option<HeaderValue>,
    referer: Option<HeaderValue>,
    status: StatusCode,
    outcome: Outcome,
    from: Option<String>,
    bytes: u64,
    fault: Option<&'static str>,
    ended: bool,
}

impl Meter {
    pub(super) fn start(
        ledger: &Arc<Ledger>,
        clock: &Clock,
        client: IpAddr,
        method: &Method,
        fields: &HeaderMap,
    ) -> Self {
        Self {
            ledger: ledger.clone(),
            clock: clock.clone(),
            started: clock.now(),
            client,
            method: method.clone(),
            url: String::new(),
            subject: Subject::Other,
            user_agent: fields.get(USER_AGENT).cloned(),
            referer: fields.get(REFERER).cloned(),
            status: StatusCode::OK,
            outcome: Outcome::Error,
            from: None,
            bytes: 0,
            fault: None,
            ended: false,
        }
    }

    pub(super) fn names(&mut self, url: String, subject: Subject) {
        self.url = url;
        self.subject = subject;
    }

    pub(super) fn outcome(&mut self, outcome: Outcome, status: StatusCode, from: Option<String>) {
        self.outcome = outcome;
        self.status = status;
        self.from = from;
    }

    pub(super) fn sent(&mut self, bytes: u64) {
        self.bytes += bytes;
        let origin = match self.outcome {
            Outcome::MemoryHit => Origin::Memory,
            Outcome::Hit | Outcome::RefreshUnmodified | Outcome::Stale => Origin::Disk,
            _ => Origin::Elsewhere,
        };
        self.ledger.sent(self.subject, origin, bytes);
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
        tracing::debug!(url = self.url, %fault, "an answer was cut off");
        self.fault = Some(fault.label());
        self.ended = true;
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        let now = self.clock.now();
        self.ledger.record(&Record {
            finished: now,
            elapsed: now.since(self.started),
            client: self.client,
            method: self.method.as_str(),
            url: &self.url,
            status: self.status.as_u16(),
            bytes: self.bytes,
            outcome: self.outcome,
            subject: self.subject,
            from: self.from.as_deref(),
            content_type: None,
            user_agent: self.user_agent.as_ref().and_then(|v| v.to_str().ok()),
            referer: self.referer.as_ref().and_then(|v| v.to_str().ok()),
            aborted: !self.ended,
            fault: self.fault,
        });
    }
}

//! What is not ours, or not to be stored: forwarded as any proxy would (R4), method, fields, body and status untouched.

use std::time::Duration;

use bytes::Bytes;
use http::header::{EXPECT, HOST, MAX_FORWARDS, RANGE};
use http::{HeaderMap, Method, StatusCode};

use super::ask::{Question, SmallAnswer, patience};
use super::reply::{CACHE_STATUS, append_via, set_length};
use super::{Asked, Content, Journey, Reply};
use crate::classify::Classified;
use crate::fault::{Cause, Fault};
use crate::ledger::Outcome;
use crate::upstream::{Answer, OutBody, Patience, Request};

impl Journey {
    pub(super) async fn pass(&self, asked: Asked, body: Option<OutBody>) -> Result<Reply, Fault> {
        if let Some(reply) = answer_here(&asked) {
            return Ok(reply);
        }
        let mut fields = asked.fields;
        // It changes the method behind the back of every cache and filter on the way.
        fields.remove("x-http-method-override");
        fields.remove(EXPECT);
        fields.remove(HOST);
        self.0.hops.sign(&mut fields);
        let patience = Patience { stall: Duration::from_secs(60), ..patience(false) };
        let request = Request { method: asked.method, url: asked.url, fields, body, patience };
        Ok(self.passed_reply(self.0.upstreams.send(request).await?))
    }

    /// What is ours but cannot be shared, and HEAD of what is not stored: asked for this client alone.
    pub(super) async fn pass_own(&self, asked: &Asked, classified: &Classified) -> Result<Reply, Fault> {
        let mut fields = self.request_fields(&Question::about(asked, classified));
        let conditional = asked.fields.iter().filter(|(name, _)| name.as_str().starts_with("if-") || **name == RANGE);
        fields.extend(conditional.map(|(name, value)| (name.clone(), value.clone())));
        let mut last = Fault::internal("there is nobody to ask");
        for url in &self.in_order(&asked.sources) {
            let request = Request {
                method: asked.method.clone(),
                url: url.clone(),
                fields: fields.clone(),
                body: None,
                patience: patience(false),
            };
            match self.0.upstreams.fetch(request).await {
                Ok(answer) if answer.status.is_server_error() => {
                    let host = url.authority().into();
                    last = Fault::new(Cause::Status { host, status: answer.status.as_u16() });
                }
                Ok(answer) => return Ok(self.passed_reply(answer)),
                Err(fault) => last = fault,
            }
        }
        Err(last)
    }

    pub(super) fn passed_reply(&self, answer: Answer) -> Reply {
        let mut fields = answer.fields;
        append_via(&mut fields, &self.0.hops.via);
        fields.append(CACHE_STATUS, self.cache_status(Outcome::Pass));
        let from = Some(answer.via.to_string());
        Reply {
            status: answer.status,
            fields,
            content: Content::Passed(Box::new(answer.body)),
            outcome: Outcome::Pass,
            from,
        }
    }

    pub(super) fn small_reply(&self, asked: &Asked, answer: &SmallAnswer) -> Reply {
        let mut fields: HeaderMap = answer.fields.clone();
        append_via(&mut fields, &self.0.hops.via);
        fields.append(CACHE_STATUS, self.cache_status(Outcome::Miss));
        set_length(&mut fields, Some(answer.body.len() as u64));
        let body = if asked.method == Method::HEAD { Bytes::new() } else { answer.body.clone() };
        let from = Some(answer.via.clone());
        Reply { status: answer.status, fields, content: Content::Text(body), outcome: Outcome::Miss, from }
    }
}

/// Requests that end at this proxy (RFC 9110 7.6.2), and those that only caches understand.
fn answer_here(asked: &Asked) -> Option<Reply> {
    let last_hop = asked.fields.get(MAX_FORWARDS).is_some_and(|v| v.as_bytes() == b"0");
    match asked.method.as_str() {
        "OPTIONS" if last_hop => Some(Reply::text(StatusCode::OK, "", Outcome::Own)),
        "TRACE" | "PURGE" | "BAN" => {
            let text = format!("{} is not for clients of this proxy\n", asked.method);
            Some(Reply::text(StatusCode::METHOD_NOT_ALLOWED, text, Outcome::Denied))
        }
        _ => None,
    }
}

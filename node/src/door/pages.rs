//! The node's own pages under `/-/`, and the same with a few verbs more over the control socket.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderValue, Method, Response, StatusCode};

use super::events::Events;
use super::page::{self, View};
use crate::fault::Fault;
use crate::ledger::history::{Series, Span, Sums};
use crate::ledger::status::{Drain, Health, Import, Lookup, Prefetch, Purged, Status, Verify};
use crate::os::clock::Timestamp;
use crate::repos::metalink::Root;

/// What the pages ask of the node.
pub trait Operations: Send + Sync {
    fn status(&self) -> Status;
    fn health(&self) -> Health;
    fn metrics(&self) -> String;
    fn now(&self) -> Timestamp;
    /// Asks the other nodes how they are, for what follows; takes a fraction of a second at most.
    fn look(&self) -> BoxFuture<'_, ()>;
    /// Rates of the site's traffic up to now.
    fn series(&self, span: Span) -> BoxFuture<'_, Series>;
    /// The end of the last hour's rates.
    fn recent(&self) -> Series;
    /// The site's traffic by the hour, the latest first.
    fn hours(&self) -> Vec<(Timestamp, Sums)>;
    /// Who is told what happens.
    fn events(&self) -> &Events;
    /// The live nodes at the addresses at which they serve clients, the least loaded first; `None` is this one. Of nodes about
    /// equally loaded each `client`, any number that tells clients apart, gets others first.
    fn nodes(&self, client: u64) -> Vec<Option<SocketAddr>>;
    /// Which versions of its root of trust a configured repository's metalink permits now, if it has one.
    fn root<'a>(&'a self, repo: &'a str) -> BoxFuture<'a, Option<Arc<Root>>>;
    fn lookup(&self, url: String) -> BoxFuture<'_, Result<Lookup, Fault>>;
    /// What Squid is to store each of these URLs under, where that is something else.
    fn store_ids(&self, urls: Vec<String>) -> Vec<Option<String>>;
    /// Forgets a URL, or all that begin with it, at all live nodes; says what went.
    fn purge(&self, url: String, prefix: bool) -> BoxFuture<'_, Result<Purged, Fault>>;
    /// Begins to read everything that is stored, unless that is under way; says how far it has come.
    fn begin_verify(&self) -> Verify;
    /// How far that has come, if it ever began.
    fn verify(&self) -> Option<Verify>;
    /// The helper is to look for what is new now, and to fetch what is wanted; says at how many rounds that will have been done.
    fn call_helper(&self) -> u64;
    /// What the helper wants to have, what counts most first.
    fn prefetches(&self) -> Vec<Prefetch>;
    /// Begins to take packages from a folder of this machine, unless that is under way; says how far it has come.
    fn begin_import(&self, folder: String) -> Import;
    /// How far that has come, if it ever began.
    fn import(&self) -> Option<Import>;
    /// Begins to hand over what only this node has, unless that is under way; says how far it has come.
    fn begin_drain(&self) -> Drain;
    /// How far that has come; `None` when the node is not leaving.
    fn drain(&self) -> Option<Drain>;
    /// The node stays after all.
    fn end_drain(&self);
}

/// Who asks for a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reader<'a> {
    /// At the control socket: only there things can be changed.
    Operator,
    /// A client, who has reached this node as this `HOST:PORT`.
    Client(&'a str),
}

/// Answers a page.
pub async fn answer(operations: &dyn Operations, method: &Method, path: &str, reader: Reader<'_>) -> Response<Bytes> {
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    let reads = method == Method::GET || method == Method::HEAD;
    let trusted = reader == Reader::Operator;
    if reads && matches!(path, "/" | "/-" | "/-/" | "/-/api/status") {
        operations.look().await;
    }
    match path {
        "/" | "/-" | "/-/" if reads => html(with_view(operations, page::overview)),
        "/-/clients" if reads => {
            let status = operations.status();
            let address = match reader {
                Reader::Operator => &status.node.address,
                Reader::Client(address) => address,
            };
            html(page::clients(&status, address))
        }
        "/-/api/history" if reads => match query.strip_prefix("span=").and_then(Span::named) {
            Some(span) => json(&operations.series(span).await),
            None => text(StatusCode::BAD_REQUEST, "text/plain", "ask for span=hour, days or month\n"),
        },
        "/-/api/status" if reads => json(&operations.status()),
        "/-/api/health" if reads => json(&operations.health()),
        "/-/metrics" if reads => text(StatusCode::OK, "text/plain; version=0.0.4", operations.metrics()),
        "/-/health" if reads => health(&operations.health()),
        "/-/api/lookup" if reads && trusted => json_result(operations.lookup(decoded(query)).await),
        "/-/api/store-ids" if reads => json(&operations.store_ids(query.split('&').map(decoded).collect())),
        "/-/api/purge" if method == Method::POST && trusted => {
            let (url, prefix) = query.strip_prefix("prefix=").map_or((query, false), |rest| (rest, true));
            json_result(operations.purge(decoded(url), prefix).await)
        }
        "/-/api/verify" if method == Method::POST && trusted => json(&operations.begin_verify()),
        "/-/api/verify" if reads && trusted => match operations.verify() {
            Some(verify) => json(&verify),
            None => text(StatusCode::NOT_FOUND, "text/plain", "nothing is being verified\n"),
        },
        "/-/api/prefetch" if method == Method::POST && trusted => json(&operations.call_helper()),
        "/-/api/prefetch" if reads && trusted => json(&operations.prefetches()),
        "/-/api/import" if method == Method::POST && trusted => json(&operations.begin_import(decoded(query))),
        "/-/api/import" if reads && trusted => match operations.import() {
            Some(import) => json(&import),
            None => text(StatusCode::NOT_FOUND, "text/plain", "nothing is being imported\n"),
        },
        "/-/api/drain" if method == Method::POST && trusted => json(&operations.begin_drain()),
        "/-/api/drain" if method == Method::DELETE && trusted => json(&operations.end_drain()),
        "/-/api/drain" if reads && trusted => match operations.drain() {
            Some(drain) => json(&drain),
            None => text(StatusCode::NOT_FOUND, "text/plain", "the node is not leaving\n"),
        },
        "/" | "/-" | "/-/" | "/-/clients" | "/-/api/status" | "/-/api/store-ids" | "/-/api/history"
        | "/-/api/health" | "/-/metrics" | "/-/health" => {
            text(StatusCode::METHOD_NOT_ALLOWED, "text/plain", "these pages can only be read\n")
        }
        _ => text(StatusCode::NOT_FOUND, "text/plain", "there is no such page; see /-/\n"),
    }
}

/// The path at which a page listens.
pub(super) const EVENTS: &str = "/-/api/events";

/// The head and the body of what an open page is told; there is no body when it cannot listen.
pub(super) fn listen(
    operations: &dyn Operations,
    method: &Method,
) -> (Response<Bytes>, Option<BoxStream<'static, Bytes>>) {
    if method != Method::GET {
        return (text(StatusCode::METHOD_NOT_ALLOWED, "text/plain", "events can only be read\n"), None);
    }
    match operations.events().listen(|| snapshot(operations)) {
        Some(events) => (text(StatusCode::OK, "text/event-stream", ""), Some(events)),
        None => (text(StatusCode::SERVICE_UNAVAILABLE, "text/plain", "too many listen already\n"), None),
    }
}

/// What an open page is told of the node as it is now, as JSON.
pub fn snapshot(operations: &dyn Operations) -> String {
    with_view(operations, |view| page::event(view, &operations.recent()))
}

fn with_view(operations: &dyn Operations, show: impl FnOnce(&View<'_>) -> String) -> String {
    let (status, health, hours) = (operations.status(), operations.health(), operations.hours());
    show(&View { status: &status, health: &health, hours: &hours, now: operations.now() })
}

/// For the query of a control request.
pub fn encoded(text: &str) -> String {
    text.bytes().fold(String::with_capacity(text.len()), |mut out, byte| {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'/' | b':' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
        out
    })
}

fn decoded(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        let hex = |b: Option<u8>| b.and_then(|b| char::from(b).to_digit(16)).and_then(|d| u8::try_from(d).ok());
        out.push(match byte {
            b'%' => hex(bytes.next()).unwrap_or(0) << 4 | hex(bytes.next()).unwrap_or(0),
            other => other,
        });
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn html(body: String) -> Response<Bytes> {
    text(StatusCode::OK, "text/html; charset=utf-8", body)
}

fn health(health: &Health) -> Response<Bytes> {
    match health.degraded.as_slice() {
        [] => text(StatusCode::OK, "text/plain", "ok\n"),
        reasons => text(StatusCode::SERVICE_UNAVAILABLE, "text/plain", format!("degraded\n{}\n", reasons.join("\n"))),
    }
}

fn json_result<T: serde::Serialize>(result: Result<T, Fault>) -> Response<Bytes> {
    match result {
        Ok(value) => json(&value),
        Err(fault) => text(fault.http_status(), "text/plain", format!("{fault}\n")),
    }
}

fn json<T: serde::Serialize>(value: &T) -> Response<Bytes> {
    match serde_json::to_string(value) {
        Ok(body) => text(StatusCode::OK, "application/json", body),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, "text/plain", error.to_string()),
    }
}

/// A text of the node itself. As a page it may load and run only what this node has, and be part of no other page.
pub(super) fn text(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Response<Bytes> {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    let fields = response.headers_mut();
    fields.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    fields.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    fields.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    fields.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    let policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                  base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
    fields.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy));
    response
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::ledger::history::History;
    use std::sync::atomic::{AtomicU64, Ordering};

    #[test]
    fn a_query_comes_through_as_it_was() {
        for text in ["http://example.org/a?b=c&d#e", "é %41", ""] {
            let there = encoded(text);
            assert!(there.is_ascii() && !there.contains(['?', '&', '#', ' ']), "{there}");
            assert_eq!(decoded(&there), text);
        }
    }

    /// A node that counts what it is told to do.
    #[derive(Default)]
    pub(in crate::door) struct Fake {
        health: Health,
        changes: AtomicU64,
        history: History,
        events: Events,
    }

    impl Operations for Fake {
        fn status(&self) -> Status {
            Status::example()
        }
        fn health(&self) -> Health {
            self.health.clone()
        }
        fn metrics(&self) -> String {
            "imirror_flights 1\n".into()
        }
        fn now(&self) -> Timestamp {
            Timestamp(1_793_526_185_007)
        }
        fn look(&self) -> BoxFuture<'_, ()> {
            Box::pin(std::future::ready(()))
        }
        fn series(&self, span: Span) -> BoxFuture<'_, Series> {
            Box::pin(std::future::ready(self.history.series(span, self.now())))
        }
        fn recent(&self) -> Series {
            self.history.recent(Span::Hour, self.now())
        }
        fn hours(&self) -> Vec<(Timestamp, Sums)> {
            self.history.hours(self.now(), 24)
        }
        fn events(&self) -> &Events {
            &self.events
        }
        fn nodes(&self, _: u64) -> Vec<Option<SocketAddr>> {
            vec![None]
        }
        fn root<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Option<Arc<Root>>> {
            Box::pin(std::future::ready(None))
        }
        fn lookup(&self, url: String) -> BoxFuture<'_, Result<Lookup, Fault>> {
            Box::pin(async move { Err(Fault::bad_request(url)) })
        }
        fn store_ids(&self, urls: Vec<String>) -> Vec<Option<String>> {
            urls.into_iter().map(|url| url.strip_prefix('+').map(ToOwned::to_owned)).collect()
        }
        fn purge(&self, url: String, prefix: bool) -> BoxFuture<'_, Result<Purged, Fault>> {
            self.changes.fetch_add(1, Ordering::Relaxed);
            let forgotten = url.len() as u64 + u64::from(prefix);
            Box::pin(async move { Ok(Purged { forgotten, here: 1, nodes: 2, unanswered: vec!["lab3".into()] }) })
        }
        fn begin_verify(&self) -> Verify {
            self.changes.fetch_add(1, Ordering::Relaxed);
            Verify { objects: 3, ..Verify::default() }
        }
        fn verify(&self) -> Option<Verify> {
            (self.changes.load(Ordering::Relaxed) > 0).then(|| Verify { objects: 4, ..Verify::default() })
        }
        fn call_helper(&self) -> u64 {
            self.changes.fetch_add(1, Ordering::Relaxed) + 1
        }
        fn prefetches(&self) -> Vec<Prefetch> {
            Vec::new()
        }
        fn begin_import(&self, folder: String) -> Import {
            self.changes.fetch_add(1, Ordering::Relaxed);
            Import { error: Some(folder), ..Import::default() }
        }
        fn import(&self) -> Option<Import> {
            None
        }
        fn begin_drain(&self) -> Drain {
            self.changes.fetch_add(1, Ordering::Relaxed);
            Drain { handed: 5, ..Drain::default() }
        }
        fn drain(&self) -> Option<Drain> {
            None
        }
        fn end_drain(&self) {
            self.changes.fetch_add(1, Ordering::Relaxed);
        }
    }

    async fn asked(node: &Fake, method: &str, path: &str, trusted: bool) -> (u16, String) {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let reader = if trusted { Reader::Operator } else { Reader::Client("lab1.example.org:3142") };
        let answer = answer(node, &method, path, reader).await;
        assert!(answer.headers()[CONTENT_SECURITY_POLICY].to_str().unwrap().starts_with("default-src 'none'"));
        (answer.status().as_u16(), String::from_utf8(answer.into_body().to_vec()).unwrap())
    }

    #[tokio::test]
    async fn clients_can_read_and_not_change() {
        let node = Fake::default();
        for (path, start) in [
            ("/-/", "<!doctype html>"),
            ("/", "<!doctype html>"),
            ("/-/clients", "<!doctype html>"),
            ("/-/api/history?span=hour", "{\"start\":"),
            ("/-/api/status", "{\"node\":{\"name\":\"lab1\""),
            ("/-/api/health", "{\"degraded\":[]"),
            ("/-/metrics", "imirror_flights 1"),
            ("/-/health?x", "ok\n"),
        ] {
            let (status, body) = asked(&node, "GET", path, false).await;
            assert!(status == 200 && body.starts_with(start), "{path}: {status} {body}");
            assert_eq!(asked(&node, "POST", path, false).await.0, 405, "{path}");
        }
        for (method, path) in [
            ("POST", "/-/api/purge?x"),
            ("POST", "/-/api/verify"),
            ("GET", "/-/api/verify"),
            ("POST", "/-/api/prefetch"),
            ("GET", "/-/api/prefetch"),
            ("POST", "/-/api/import?%2Fsrv"),
            ("GET", "/-/api/import"),
            ("POST", "/-/api/drain"),
            ("DELETE", "/-/api/drain"),
            ("GET", "/-/api/drain"),
            ("GET", "/-/api/lookup?x"),
        ] {
            assert_eq!(asked(&node, method, path, false).await.0, 404, "{path}");
        }
        assert_eq!(node.changes.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn the_control_socket_can_change() {
        let node = Fake::default();
        assert_eq!(asked(&node, "GET", "/-/api/verify", true).await.0, 404, "nobody has begun it");
        let purged = r#"{"forgotten":3,"here":1,"nodes":2,"unanswered":["lab3"]}"#;
        assert_eq!(asked(&node, "POST", "/-/api/purge?a%3Fb", true).await, (200, purged.into()));
        assert_eq!(asked(&node, "POST", "/-/api/purge?prefix=ab", true).await, (200, purged.into()));
        assert!(asked(&node, "POST", "/-/api/verify", true).await.1.contains("\"objects\":3"));
        assert!(asked(&node, "GET", "/-/api/verify", true).await.1.contains("\"objects\":4"));
        assert_eq!(asked(&node, "GET", "/-/api/drain", true).await.0, 404, "it is not leaving");
        assert!(asked(&node, "POST", "/-/api/drain", true).await.1.contains("\"handed\":5"));
        assert_eq!(asked(&node, "DELETE", "/-/api/drain", true).await, (200, "null".into()));
        assert_eq!(asked(&node, "POST", "/-/api/prefetch", true).await, (200, "6".into()));
        assert!(asked(&node, "POST", "/-/api/import?%2Fa%20b", true).await.1.contains("/a b"));
        assert_eq!(node.changes.load(Ordering::Relaxed), 7);
        assert_eq!(asked(&node, "GET", "/-/api/purge?x", true).await.0, 404, "reading changes nothing");
        let ids = asked(&node, "GET", "/-/api/store-ids?%2Ba%26b&c&", false).await;
        assert_eq!(ids, (200, "[\"a&b\",null,null]".into()));
        let (status, body) = asked(&node, "GET", "/-/api/lookup?x%26y", true).await;
        assert_eq!((status, body.as_str()), (400, "bad request: x&y\n"));
    }

    #[tokio::test]
    async fn a_degraded_node_says_why() {
        let node =
            Fake { health: Health { degraded: vec!["disk full".into()], ..Health::default() }, ..Fake::default() };
        assert_eq!(asked(&node, "GET", "/-/health", false).await, (503, "degraded\ndisk full\n".into()));
    }
}

//! The node's own pages under `/-/`, and the same with a few verbs more over the control socket.

use futures_util::future::BoxFuture;
use http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderValue, Method, Response, StatusCode};

use crate::fault::Fault;
use crate::ledger::status::{Health, Lookup, Status, Verify};

/// What the pages ask of the node.
pub trait Operations: Send + Sync {
    fn status(&self) -> Status;
    fn health(&self) -> Health;
    fn metrics(&self) -> String;
    fn lookup(&self, url: String) -> BoxFuture<'_, Result<Lookup, Fault>>;
    /// Forgets a URL, or all that begin with it; says how many went.
    fn purge(&self, url: String, prefix: bool) -> BoxFuture<'_, Result<u64, Fault>>;
    fn verify(&self) -> BoxFuture<'_, Result<Verify, Fault>>;
}

/// Answers a page. `trusted` is the control socket: only there things can be changed.
pub async fn answer(operations: &dyn Operations, method: &Method, path: &str, trusted: bool) -> Response<String> {
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    let reads = method == Method::GET || method == Method::HEAD;
    match path {
        "/" | "/-" | "/-/" if reads => page(&operations.status()),
        "/-/api/status" if reads => json(&operations.status()),
        "/-/metrics" if reads => text(StatusCode::OK, "text/plain; version=0.0.4", operations.metrics()),
        "/-/health" if reads => health(&operations.health()),
        "/-/api/lookup" if reads && trusted => json_result(operations.lookup(decoded(query)).await),
        "/-/api/purge" if method == Method::POST && trusted => {
            let (url, prefix) = query.strip_prefix("prefix=").map_or((query, false), |rest| (rest, true));
            json_result(operations.purge(decoded(url), prefix).await)
        }
        "/-/api/verify" if method == Method::POST && trusted => json_result(operations.verify().await),
        "/" | "/-" | "/-/" | "/-/api/status" | "/-/metrics" | "/-/health" => {
            text(StatusCode::METHOD_NOT_ALLOWED, "text/plain", "these pages can only be read\n".into())
        }
        _ => text(StatusCode::NOT_FOUND, "text/plain", "there is no such page; see /-/\n".into()),
    }
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

fn health(health: &Health) -> Response<String> {
    match health.degraded.as_slice() {
        [] => text(StatusCode::OK, "text/plain", "ok\n".into()),
        reasons => text(StatusCode::SERVICE_UNAVAILABLE, "text/plain", format!("degraded\n{}\n", reasons.join("\n"))),
    }
}

fn json_result<T: serde::Serialize>(result: Result<T, Fault>) -> Response<String> {
    match result {
        Ok(value) => json(&value),
        Err(fault) => text(fault.http_status(), "text/plain", format!("{fault}\n")),
    }
}

fn json<T: serde::Serialize>(value: &T) -> Response<String> {
    match serde_json::to_string(value) {
        Ok(body) => text(StatusCode::OK, "application/json", body),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, "text/plain", error.to_string()),
    }
}

fn text(status: StatusCode, kind: &'static str, body: String) -> Response<String> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let fields = response.headers_mut();
    fields.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    fields.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    fields.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    let policy = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'";
    fields.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy));
    response
}

fn page(status: &Status) -> Response<String> {
    let t = &status.traffic;
    let row = |name: &str, value: String| format!("<tr><th scope=row>{name}<td>{}", escaped(&value));
    let rows = [
        row("requests", t.requests.to_string()),
        row("hits", t.hits.to_string()),
        row("misses", t.misses.to_string()),
        row("served while upstream was down", t.stale.to_string()),
        row("errors", t.errors.to_string()),
        row("bytes to clients", t.bytes_to_clients.to_string()),
        row("bytes from upstream", t.bytes_from_upstream.to_string()),
        row("objects", status.cache.objects.to_string()),
        row("bytes stored", format!("{} of {}", status.cache.bytes, status.cache.limit_bytes)),
        row("downloads in progress", status.flights.len().to_string()),
    ]
    .join("\n");
    let (name, address, version) =
        (escaped(&status.node.name), escaped(&status.node.address), escaped(&status.node.version));
    let body = format!(
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>\
         <title>imirror {name}</title><style>:root{{color-scheme:light dark}}body{{font:1rem system-ui;margin:2rem auto;\
         max-width:45rem;padding:0 1rem}}th{{text-align:left;padding-right:2rem;font-weight:normal}}\
         td{{font-variant-numeric:tabular-nums}}pre{{overflow:auto;padding:.5rem;border:1px solid}}</style>\
         <h1>imirror {name}</h1><p>Version {version}. <a href='/-/api/status'>status</a>, <a href='/-/metrics'>metrics</a>, \
         <a href='/-/health'>health</a>.</p><table>\n{rows}\n</table><h2>To use this node</h2>\
         <pre>apt      Acquire::http::Proxy \"http://{address}\";\ndnf      proxy=http://{address}\n\
         zypper   http_proxy=http://{address}\npacman   CacheServer = http://{address}/MIRROR-HOST/PATH\n\
         apk      http_proxy=http://{address}\nHTTPS    http://{address}/HTTPS///HOST/PATH</pre>\n"
    );
    text(StatusCode::OK, "text/html; charset=utf-8", body)
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;").replace('\'', "&#39;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_comes_through_as_it_was() {
        for text in ["http://example.org/a?b=c&d#e", "é %41", ""] {
            let there = encoded(text);
            assert!(there.is_ascii() && !there.contains(['?', '&', '#', ' ']), "{there}");
            assert_eq!(decoded(&there), text);
        }
        assert_eq!(escaped("<a href='x'>\"&"), "&lt;a href=&#39;x&#39;&gt;&quot;&amp;");
    }
}

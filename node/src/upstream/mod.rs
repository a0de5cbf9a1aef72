//! The way out: one HTTP/1.1 client for everything that leaves the site. It is told what to ask and where; it does not
//! choose when.

mod body;
mod connect;
pub mod destination;
mod health;
mod pool;
mod rate;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{
    AGE, AUTHORIZATION, CACHE_CONTROL, CONNECTION, CONTENT_LENGTH, COOKIE, DATE, EXPIRES, HOST, HeaderName, IF_MATCH,
    IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE, LOCATION, PROXY_AUTHORIZATION, RANGE, SET_COOKIE,
    TE, TRAILER, TRANSFER_ENCODING, UPGRADE, VARY,
};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;

pub use body::AnswerBody;
pub use connect::{Hop, Stream};
pub use destination::Own;
pub use health::HostHealth;

use crate::classify::Url;
use crate::config;
use crate::fault::{Cause, Fault};
use crate::os::clock::Clock;
use connect::Connector;
use health::Health;
use pool::{Connection, Pool};
use rate::Limiter;

/// A request's body on its way up.
pub type OutBody = UnsyncBoxBody<Bytes, Box<dyn std::error::Error + Send + Sync>>;

const REDIRECTS_MAX: usize = 10;

/// How long to wait for what.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    pub connect: Duration,
    /// From the request to the head of its answer.
    pub head: Duration,
    /// Between two pieces of the body.
    pub stall: Duration,
}

pub struct Request {
    pub method: Method,
    pub url: Url,
    /// End-to-end fields; `Host` is made from the URL.
    pub fields: HeaderMap,
    pub body: Option<OutBody>,
    pub patience: Patience,
}

pub struct Answer {
    pub status: StatusCode,
    pub fields: HeaderMap,
    pub body: AnswerBody,
    /// Where it came from in the end, after redirects.
    pub url: Url,
    pub via: Hop,
}

/// The client. Cheap to clone.
#[derive(Clone)]
pub struct Upstreams(Arc<Inner>);

struct Inner {
    connector: Connector,
    pool: Arc<Pool>,
    health: Health,
    limiter: Arc<Limiter>,
    clock: Clock,
}

impl Upstreams {
    pub fn new(config: &config::Upstream, own: Own, clock: Clock) -> Self {
        Self(Arc::new(Inner {
            connector: Connector::new(config.clone(), own),
            pool: Arc::default(),
            health: Health::default(),
            limiter: Arc::new(Limiter::new(config.rate_limit)),
            clock,
        }))
    }

    /// One exchange; redirects are answers like any other.
    pub async fn send(&self, request: Request) -> Result<Answer, Fault> {
        let host = host_of(&request.url);
        let sent = self.exchange(request).await;
        match &sent {
            Ok(_) => self.0.health.reached(&host),
            Err(fault) if counts_as_down(fault) => self.0.health.failed(host, fault, self.0.clock.now()),
            Err(_) => {}
        }
        sent
    }

    /// A GET or HEAD; redirects are followed.
    pub async fn fetch(&self, mut request: Request) -> Result<Answer, Fault> {
        request.body = None;
        let mut seen = vec![request.url.clone()];
        loop {
            let next = Request {
                method: request.method.clone(),
                url: request.url.clone(),
                fields: request.fields.clone(),
                body: None,
                patience: request.patience,
            };
            let answer = self.send(next).await?;
            let redirect = matches!(answer.status.as_u16(), 301 | 302 | 303 | 307 | 308);
            let Some(location) = answer.fields.get(LOCATION).filter(|_| redirect) else { return Ok(answer) };
            let host = request.url.host().to_owned();
            let malformed =
                |detail: &str| Fault::new(Cause::Malformed { host: host.as_str().into(), detail: detail.into() });
            let location = location.to_str().map_err(|_| malformed("a Location that is no URL"))?;
            let target = resolve(&request.url, location).ok_or_else(|| malformed("a Location that is no URL"))?;
            if seen.contains(&target) || seen.len() > REDIRECTS_MAX {
                return Err(Fault::new(Cause::RedirectLoop { host: host.into() }));
            }
            if request.url.is_https() && !target.is_https() {
                return Err(malformed("a redirect from https to http"));
            }
            if target.authority() != request.url.authority() {
                request.fields.remove(AUTHORIZATION);
                request.fields.remove(COOKIE);
            }
            seen.push(target.clone());
            request.url = target;
        }
    }

    /// A stream for CONNECT.
    pub async fn tunnel(&self, host: &str, port: u16, patience: Duration) -> Result<(Box<dyn Stream>, Hop), Fault> {
        self.0.connector.tunnel(host, port, patience).await
    }

    /// Why this URL's host is remembered as unreachable, if it is.
    pub fn down(&self, url: &Url) -> Option<Fault> {
        self.0.health.down(&host_of(url))
    }

    pub fn health(&self) -> Vec<HostHealth> {
        self.0.health.list()
    }

    /// Probes hosts that are down, for as long as it is polled.
    pub async fn probe(self) {
        let mut tick = tokio::time::interval(Duration::from_secs(1));
        loop {
            tick.tick().await;
            for host in self.0.health.due(self.0.clock.now()) {
                let upstreams = self.clone();
                crate::os::tasks::spawn("probe", async move {
                    let Ok(url) = Url::parse(&format!("http://{host}/")) else { return };
                    let probed = upstreams.0.connector.tunnel(url.host(), url.port(), Duration::from_secs(2)).await;
                    match probed {
                        Ok(_) => upstreams.0.health.reached(&host),
                        Err(fault) => tracing::debug!(host, %fault, "still unreachable"),
                    }
                });
            }
        }
    }

    async fn exchange(&self, request: Request) -> Result<Answer, Fault> {
        let Request { method, url, mut fields, body, patience } = request;
        strip_hop_by_hop(&mut fields);
        let parent = self.0.connector.parent(url.host()).filter(|_| !url.is_https());
        let route = match parent {
            Some(parent) => format!("parent {}:{}", parent.host, parent.port),
            None => format!("{}://{}", url.scheme(), url.authority()),
        };
        let target = if parent.is_some() { url.as_str() } else { url.path_and_query() };
        let uri: Uri = target.parse().map_err(|_| Fault::bad_request("the URL cannot be sent in a request"))?;
        if let Some(value) = parent.and_then(connect::authorization).and_then(|v| HeaderValue::try_from(v).ok()) {
            fields.insert(PROXY_AUTHORIZATION, value);
        }
        let host = HeaderValue::try_from(url.authority()).map_err(|_| Fault::bad_request("the host is malformed"))?;
        let asks = Asks::of(&fields);
        let replayable = body.is_none();
        let mut body = Some(body.unwrap_or_else(empty));
        let mut idle = self.0.pool.take(&route).filter(|_| replayable);
        loop {
            let pooled = idle.is_some();
            let mut connection = match idle.take() {
                Some(connection) => connection,
                None => self.connect(&url, patience).await?,
            };
            let mut outgoing = http::Request::new(body.take().unwrap_or_else(empty));
            *outgoing.method_mut() = method.clone();
            *outgoing.uri_mut() = uri.clone();
            outgoing.headers_mut().insert(HOST, host.clone());
            outgoing.headers_mut().extend(fields.iter().map(|(name, value)| (name.clone(), value.clone())));
            let sending = connection.sender.send_request(outgoing);
            let mut connection = Driven::new(connection);
            let answered = tokio::time::timeout(patience.head, connection.run(sending)).await;
            let host: Arc<str> = url.host().into();
            let response = match answered {
                Ok(Ok(response)) => response,
                // The server may have closed an idle connection in this very moment.
                Ok(Err(_)) if pooled => continue,
                Ok(Err(error)) => return Err(no_head(&host, &error)),
                Err(_) => {
                    let waited_ms = u64::try_from(patience.head.as_millis()).unwrap_or(u64::MAX);
                    return Err(Fault::new(Cause::NoAnswer { host, waited_ms }));
                }
            };
            let (parts, incoming) = response.into_parts();
            asks.check(&host, parts.status, &parts.headers)?;
            let (connection, mut answer_fields) = (connection.into_inner(), parts.headers);
            let via = connection.hop.clone();
            strip_hop_by_hop(&mut answer_fields);
            let limiter = self.0.limiter.clone();
            let body = AnswerBody::new(incoming, host, connection, self.0.pool.clone(), route, limiter, patience.stall);
            return Ok(Answer { status: parts.status, fields: answer_fields, body, url, via });
        }
    }

    async fn connect(&self, url: &Url, patience: Patience) -> Result<Connection, Fault> {
        let (stream, hop) = self.0.connector.connect(url, patience.connect).await?;
        let handshake = http1::Builder::new()
            .title_case_headers(true)
            .max_headers(100)
            .max_buf_size(512 * 1024)
            .handshake(TokioIo::new(stream))
            .await;
        let (sender, driver) = handshake.map_err(|e| no_head(&url.host().into(), &e))?;
        Ok(Connection::new(sender, driver, hop))
    }
}

/// A connection while its request is under way.
struct Driven(Connection);

impl Driven {
    fn new(connection: Connection) -> Self {
        Self(connection)
    }

    async fn run<T>(&mut self, future: impl Future<Output = T>) -> T {
        self.0.drive(future).await
    }

    fn into_inner(self) -> Connection {
        self.0
    }
}

/// What a request asked for, to judge whether the answer fits.
struct Asks {
    range: bool,
    condition: bool,
}

impl Asks {
    fn of(fields: &HeaderMap) -> Self {
        let has = |names: &[HeaderName]| names.iter().any(|name| fields.contains_key(name));
        Self {
            range: has(&[RANGE]),
            condition: has(&[IF_NONE_MATCH, IF_MODIFIED_SINCE, IF_MATCH, IF_UNMODIFIED_SINCE, IF_RANGE]),
        }
    }

    fn check(&self, host: &Arc<str>, status: StatusCode, fields: &HeaderMap) -> Result<(), Fault> {
        let wrong = match status.as_u16() {
            101 => Some("101 although no upgrade was asked for"),
            206 if !self.range => Some("206 although no range was asked for"),
            206 if !sound_content_range(fields) => Some("206 with an impossible Content-Range"),
            304 if !self.condition => Some("304 although there was no condition"),
            _ if fields.get_all(CONTENT_LENGTH).iter().count() > 1 => Some("more than one Content-Length"),
            _ => None,
        };
        let fault = |detail: &str| Fault::new(Cause::Malformed { host: host.clone(), detail: detail.into() });
        wrong.map_or(Ok(()), |detail| Err(fault(detail)))
    }
}

fn sound_content_range(fields: &HeaderMap) -> bool {
    let multipart = || {
        let kind = fields.get(http::header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
        kind.to_ascii_lowercase().starts_with("multipart/byteranges")
    };
    let Some(value) = fields.get(http::header::CONTENT_RANGE) else { return multipart() };
    let parsed = || {
        let (range, total) = value.to_str().ok()?.strip_prefix("bytes ")?.split_once('/')?;
        let (first, last) = range.split_once('-')?;
        let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
        let total = if total == "*" { None } else { Some(total.parse::<u64>().ok()?) };
        Some(first <= last && total.is_none_or(|total| last < total))
    };
    parsed().unwrap_or(false)
}

fn empty() -> OutBody {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

fn host_of(url: &Url) -> String {
    match url.host().contains(':') {
        true => format!("[{}]:{}", url.host(), url.port()),
        false => format!("{}:{}", url.host(), url.port()),
    }
}

fn counts_as_down(fault: &Fault) -> bool {
    use Cause::*;
    matches!(
        fault.cause,
        NameNotFound { .. } | Refused { .. } | NoConnection { .. } | Tls { .. } | NoAnswer { .. } | Parent { .. }
    )
}

fn no_head(host: &Arc<str>, error: &hyper::Error) -> Fault {
    let fault = body::broken(host, error);
    match fault.cause {
        Cause::Truncated { host, detail } => Fault::new(Cause::Malformed { host, detail }),
        cause => Fault::new(cause),
    }
}

/// Removes what belongs to one connection (RFC 9110 7.6.1), and what `Connection` names besides; end-to-end fields that a
/// client names there to harm the request are kept.
pub fn strip_hop_by_hop(fields: &mut HeaderMap) {
    const KEPT: [HeaderName; 10] = [
        HOST,
        CONTENT_LENGTH,
        CACHE_CONTROL,
        AUTHORIZATION,
        COOKIE,
        // Without these an answer would be reused more freely than its origin meant.
        AGE,
        DATE,
        EXPIRES,
        SET_COOKIE,
        VARY,
    ];
    let named: Vec<HeaderName> = fields
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .filter(|name| !KEPT.contains(name))
        .collect();
    for name in named {
        fields.remove(name);
    }
    for name in
        [CONNECTION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE, PROXY_AUTHORIZATION, http::header::PROXY_AUTHENTICATE]
    {
        fields.remove(name);
    }
    for name in ["keep-alive", "proxy-connection", "http2-settings"] {
        fields.remove(name);
    }
}

/// A `Location` relative to where it was said (RFC 3986 5.2, without removing dot segments: upstream knows what they mean).
pub fn resolve(base: &Url, location: &str) -> Option<Url> {
    if let Some(rest) = location.strip_prefix("//") {
        return Url::parse(&format!("{}://{rest}", base.scheme())).ok();
    }
    if location.starts_with('/') {
        return base.with_path_and_query(location).ok();
    }
    if location.split(['/', '?', '#']).next().is_some_and(|first| first.contains(':')) {
        return Url::parse(location).ok();
    }
    let folder = base.path().rsplit_once('/').map_or("", |(folder, _)| folder);
    base.with_path_and_query(&format!("{folder}/{location}")).ok()
}

#[cfg(test)]
mod tests;

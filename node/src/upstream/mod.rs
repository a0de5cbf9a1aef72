//! The way out: one HTTP/1.1 client for everything that leaves the site. It is told what to ask and where; it does not
//! choose when.
//!
//! [`Upstreams::send`] is one exchange: `connect` makes a stream to a permitted address, `exchange` sends the request and
//! waits for the head, `asks` judges whether it fits, `body` is what follows. [`Upstreams::fetch`] follows redirects. Who
//! cannot be reached is remembered in `health`.

mod asks;
mod body;
mod connect;
pub mod destination;
mod dial;
mod exchange;
mod fields;
mod health;
mod parent;
mod pool;
mod rate;
mod redirect;
mod resolve;
mod stream;
mod tls;
mod upload;

use std::sync::Arc;
use std::time::Duration;

use http::header::{HOST, HeaderValue, LOCATION, PROXY_AUTHORIZATION, RANGE};
use http::{HeaderMap, Method, StatusCode, Uri};

pub use body::AnswerBody;
pub use connect::Hop;
pub use destination::Own;
pub use fields::strip_hop_by_hop;
pub use health::HostHealth;
pub use redirect::resolve;
pub use stream::Stream;
pub use upload::OutBody;

use crate::classify::Url;
use crate::config;
use crate::fault::{Cause, Fault, Whose};
use crate::os::clock::Clock;
use crate::os::rate::Limiter;
use crate::os::{entropy, tasks};
use asks::Asks;
use body::Home;
use connect::Connector;
use health::{Distrusted, Health, Probe};
use pool::Pool;
use resolve::Resolver;
use tls::Tls;

/// Bytes read from upstream at once, if nothing limits them: large pieces cost the least.
const READ_MAX: usize = 512 * 1024;

/// Longest body of a redirect that is read to keep the connection.
const REDIRECT_BODY_MAX: u64 = 16 * 1024;

/// How long a probe waits: as a request that has something to fall back on.
const PROBE_PATIENCE: Patience =
    Patience { connect: Duration::from_secs(2), head: Duration::from_secs(5), stall: Duration::from_secs(5) };

/// How long to wait for what.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// For a connection with all that belongs to it: the name's address, TLS, a tunnel through the parent.
    pub connect: Duration,
    /// From the request (while it has a body: from its last movement) to the head of its answer.
    pub head: Duration,
    /// Between two pieces of the body.
    pub stall: Duration,
}

/// What is asked.
pub struct Request {
    pub method: Method,
    pub url: Url,
    /// End-to-end fields; `Host` is made from the URL.
    pub fields: HeaderMap,
    pub body: Option<OutBody>,
    pub patience: Patience,
}

/// What came back: the head, and the body as it comes.
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
    distrusted: Distrusted,
    limiter: Arc<Limiter>,
    /// See [`READ_MAX`]; less with a rate limit, so that bytes come evenly.
    read_max: usize,
    clock: Clock,
}

impl Upstreams {
    pub fn new(config: &config::Upstream, own: Own, clock: Clock) -> Self {
        let connector = Connector::new(config.clone(), own, Resolver::new(clock.clone()), Tls::default());
        Self::connecting(connector, config, clock)
    }

    /// The limit on what comes from upstream is shared among so many nodes, this one among them. Says whether it uses it now; never
    /// where there is no limit.
    pub fn share(&self, nodes: usize) -> bool {
        self.0.limiter.share(nodes);
        self.0.limiter.is_in_use(tokio::time::Instant::now())
    }

    fn connecting(connector: Connector, config: &config::Upstream, clock: Clock) -> Self {
        Self(Arc::new(Inner {
            connector,
            pool: Arc::default(),
            health: Health::default(),
            distrusted: Distrusted::default(),
            limiter: Arc::new(Limiter::new(config.rate_limit)),
            read_max: config.rate_limit.map_or(READ_MAX, |rate| usize::try_from(rate / 4).unwrap_or(READ_MAX)),
            clock,
        }))
    }

    /// Reads the CA certificates before they are needed.
    ///
    /// # Errors
    /// Says why there are none and what to do. Only https needs them.
    pub async fn load_roots(&self) -> Result<(), String> {
        self.0.connector.load_roots().await
    }

    /// One exchange; redirects are answers like any other. No stricter than HTTP with what passes through.
    ///
    /// # Errors
    /// Whatever keeps the head of an answer from coming; `Malformed` for an answer that does not fit the request.
    pub async fn send(&self, request: Request) -> Result<Answer, Fault> {
        let (url, fields) = (request.url.clone(), request.fields.clone());
        let sent = self.exchange(request).await;
        match &sent {
            Ok(answer) => self.remember_answer(&url, answer),
            Err(fault) => self.remember_failure(&url, fields, fault),
        }
        sent
    }

    /// A GET or HEAD; redirects are followed, each to a destination that is judged anew.
    ///
    /// # Errors
    /// As [`Self::send`]; `RedirectLoop`.
    pub async fn fetch(&self, mut request: Request) -> Result<Answer, Fault> {
        let mut seen = vec![request.url.clone()];
        loop {
            let next = Request {
                method: request.method.clone(),
                url: request.url.clone(),
                fields: request.fields.clone(),
                body: None,
                patience: request.patience,
            };
            let sent = self.send(next).await;
            // Where a redirect leads is not the client's fault.
            let blame = |fault: Fault| Fault { whose: Whose::Upstream, ..fault };
            let answer = sent.map_err(|fault| if seen.len() > 1 { blame(fault) } else { fault })?;
            let Some(location) = answer.fields.get(LOCATION).filter(|_| redirect::is_redirect(answer.status)) else {
                return Ok(answer);
            };
            let host: Arc<str> = request.url.host().into();
            let target = redirect::target(&request.url, location.as_bytes())
                .map_err(|why| Fault::new(Cause::Malformed { host: host.clone(), detail: why.into() }))?;
            if seen.contains(&target) || seen.len() > redirect::REDIRECTS_MAX {
                return Err(Fault::new(Cause::RedirectLoop { host }));
            }
            if !redirect::same_server(&request.url, &target) {
                fields::keep_only_safe(&mut request.fields);
            }
            read_to_the_end(answer.body).await;
            seen.push(target.clone());
            request.url = target;
        }
    }

    /// A stream for CONNECT: straight to the host, or through the parent, which is told whom the request has passed through.
    ///
    /// # Errors
    /// Whatever keeps the connection from being made within `patience`.
    pub async fn tunnel(
        &self,
        host: &str,
        port: u16,
        hops: &HeaderMap,
        patience: Duration,
    ) -> Result<(Stream, Hop), Fault> {
        self.0.connector.tunnel(host, port, hops, patience).await
    }

    /// Why this URL's host is remembered as unreachable or busy, if it is.
    pub fn down(&self, url: &Url) -> Option<Fault> {
        let now = self.0.clock.now();
        let health = &self.0.health;
        health.down(&host_of(url), now).or_else(|| health.down(&self.parent_of(url)?, now))
    }

    /// This URL's host has sent bytes that are not what the repository names.
    pub fn distrust(&self, url: &Url, fault: &Fault) {
        self.0.distrusted.blame(host_of(url), fault, self.0.clock.now());
    }

    /// Has this URL's host sent wrong bytes lately?
    pub fn is_distrusted(&self, url: &Url) -> bool {
        self.0.distrusted.is(&host_of(url), self.0.clock.now())
    }

    /// Everybody who is remembered as unreachable or busy, or has sent wrong bytes lately.
    pub fn health(&self) -> Vec<HostHealth> {
        let mut list = self.0.health.list();
        list.extend(self.0.distrusted.list(self.0.clock.now()));
        list
    }

    /// Probes hosts that are down and closes idle connections, for as long as it is polled.
    pub async fn probe(self) {
        let mut tick = tokio::time::interval(Duration::from_secs(1));
        loop {
            tick.tick().await;
            self.0.pool.sweep();
            for (host, probe) in self.0.health.due(self.0.clock.now()) {
                tasks::spawn("probe", self.clone().probe_host(host, probe));
            }
        }
    }

    /// Asks again for the head of what failed, since a host that takes connections may still not answer. In turn by
    /// HEAD and by GET of one byte: some servers are bad at one of them.
    async fn probe_host(self, host: health::Host, probe: Probe) {
        let Probe { url, mut fields, attempt } = probe;
        let method = if attempt % 2 == 0 { Method::HEAD } else { Method::GET };
        if method == Method::GET {
            fields.insert(RANGE, HeaderValue::from_static("bytes=0-0"));
        }
        let request = Request { method, url, fields, body: None, patience: PROBE_PATIENCE };
        if let Err(fault) = self.send(request).await {
            tracing::debug!(host, %fault, "still unreachable");
        }
        self.0.health.probed(&host, self.0.clock.now(), entropy::random_bytes()[0]);
    }

    async fn exchange(&self, request: Request) -> Result<Answer, Fault> {
        let Request { method, url, mut fields, body, patience } = request;
        if method == Method::CONNECT {
            return Err(Fault::bad_request("CONNECT is no request for an answer"));
        }
        fields::prepare(&mut fields, body.is_some());
        let asks = Asks::of(&fields);
        let host: Arc<str> = url.host().into();
        let parent = self.0.connector.parent(url.host()).filter(|_| !url.is_https());
        let route = match parent {
            Some(parent) => format!("parent {}", parent::authority(&parent.host, parent.port)),
            None => format!("{}://{}", url.scheme(), url.authority()),
        };
        let outgoing = outgoing(&method, &url, fields, parent, body.is_some())?;
        // Only what may be said twice is said on a connection that may have been closed in this very moment.
        let idle = self.0.pool.take(&route).filter(|_| body.is_none() && method.is_idempotent());
        let reused = match idle {
            Some(connection) => exchange::exchange(connection, outgoing.clone(), None, &host, patience.head).await,
            None => Err(exchange::NoHead::Silence),
        };
        let (response, connection) = match reused {
            Err(exchange::NoHead::Silence) => {
                let (stream, hop) = self.0.connector.connect(&url, outgoing.headers(), patience.connect).await?;
                let connection = exchange::open(stream, hop, &host, self.0.read_max.clamp(8192, READ_MAX)).await?;
                exchange::exchange(connection, outgoing, body, &host, patience.head).await
            }
            reused => reused,
        }
        .map_err(|none| none.into_fault(&host))?;
        let (parts, incoming) = response.into_parts();
        let (status, mut fields) = (parts.status, parts.headers);
        if let (Some(parent), StatusCode::PROXY_AUTHENTICATION_REQUIRED) = (parent, status) {
            return Err(parent::fault(parent, parent::WANTS_CREDENTIALS.into()));
        }
        asks.check(&host, status, &mut fields)?;
        strip_hop_by_hop(&mut fields);
        let via = connection.hop.clone();
        let home = Home { pool: self.0.pool.clone(), route };
        let body = AnswerBody::new(incoming, host, connection, home, self.0.limiter.clone(), patience.stall);
        Ok(Answer { status, fields, body, url, via })
    }

    fn remember_answer(&self, url: &Url, answer: &Answer) {
        let now = self.0.clock.now();
        let (host, health) = (host_of(url), &self.0.health);
        if let Some(parent) = self.parent_of(url) {
            health.reached(&parent);
        }
        let is_busy = matches!(answer.status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE);
        match health::retry_after(&answer.fields, now).filter(|_| is_busy) {
            Some(wait) => {
                let fault = Fault::new(Cause::Status { host: url.host().into(), status: answer.status.as_u16() });
                health.busy(host, fault, wait, now);
            }
            None => health.reached(&host),
        }
    }

    fn remember_failure(&self, url: &Url, mut fields: HeaderMap, fault: &Fault) {
        use Cause::*;
        let is_no_connection = matches!(fault.cause, NameNotFound { .. } | Refused { .. } | NoConnection { .. });
        // Through a parent the only connection is that to the parent: its failure is every host's.
        let host = self.parent_of(url).filter(|_| is_no_connection).unwrap_or_else(|| host_of(url));
        if is_no_connection || matches!(fault.cause, Tls { .. } | NoAnswer { .. } | Parent { .. }) {
            let introduction = || {
                fields::keep_only_introduction(&mut fields);
                fields
            };
            self.0.health.failed(host, fault, url, introduction, self.0.clock.now());
        }
    }

    /// What the parent is called in the book of health, if this URL goes through it.
    fn parent_of(&self, url: &Url) -> Option<health::Host> {
        let parent = self.0.connector.parent(url.host())?;
        Some(format!("parent {}", parent::authority(&parent.host, parent.port)))
    }
}

/// The head of a request as it goes out.
fn outgoing(
    method: &Method,
    url: &Url,
    mut fields: HeaderMap,
    parent: Option<&config::ParentProxy>,
    has_body: bool,
) -> Result<http::Request<()>, Fault> {
    let malformed = |what: &str| Fault::bad_request(format!("{what} cannot be sent in a request"));
    let target = if parent.is_some() { url.as_str() } else { url.path_and_query() };
    let uri: Uri = target.parse().map_err(|_| malformed("the URL"))?;
    if let Some(value) = parent.and_then(parent::authorization) {
        let value = HeaderValue::try_from(value).map_err(|_| malformed("the parent's password"))?;
        fields.insert(PROXY_AUTHORIZATION, value);
    }
    if has_body && !fields.contains_key(http::header::CONTENT_LENGTH) {
        // Said in words, since hyper takes a GET without a length to have no body.
        fields.insert(http::header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    let mut request = http::Request::new(());
    *request.method_mut() = method.clone();
    *request.uri_mut() = uri;
    // `Host` goes first (RFC 9110 section 7.2).
    let host = HeaderValue::try_from(url.authority()).map_err(|_| malformed("the host"))?;
    request.headers_mut().insert(HOST, host);
    request.headers_mut().extend(fields);
    Ok(request)
}

/// Reads what is short, so that its connection can be used again.
async fn read_to_the_end(mut body: AnswerBody) {
    if body.length().is_some_and(|length| length <= REDIRECT_BODY_MAX) {
        while let Ok(Some(_)) = body.chunk().await {}
    }
}

fn host_of(url: &Url) -> health::Host {
    parent::authority(url.host(), url.port())
}

#[cfg(test)]
mod tests;

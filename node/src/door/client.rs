//! The door for clients: connections, permissions and limits. What a request names is found by `journey::target`, what it
//! is answered is the journey's business; here it becomes bytes on a connection.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::{self, BoxFuture, Either};
use http::header::{CONNECTION, HOST, HeaderName, TRANSFER_ENCODING, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::coop;

use super::assets;
use super::body::ReplyBody;
use super::fast_path::{End, FastPath};
use super::lists::{self, Asker, List};
use super::meter::{Meter, What};
use super::pages::{self, Operations, Reader};
use super::patience::Patience;
use super::upload::Upload;
use crate::classify::{Url, classify};
use crate::config;
use crate::fault::{Cause, Fault};
use crate::journey::target::{Target, parse_target};
use crate::journey::{Asked, Caller, Content, Journey, LineRef, Reply};
use crate::ledger::{Ledger, Outcome, Subject};
use crate::os::clock::Clock;
use crate::os::sendfile::{Outbox, SendfileStream};
use crate::os::tasks;
use crate::repos::{Configured, Named};

/// Client connections at the same time; more wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 8192;

/// A request head must arrive within this time, and an idle connection is closed after it.
const HEAD_PATIENCE: Duration = Duration::from_secs(60);

/// When the node stops, who has connected and not asked yet has this long to do so.
const LAST_CHANCE: Duration = Duration::from_secs(2);

/// Bytes of a request head.
const HEAD_BYTES_MAX: usize = 64 * 1024;

const HEADERS_MAX: usize = 64;

/// Who is at the other end of a connection. Answers share this, not the door itself: a count that all connections keep
/// would go from core to core with each answer.
pub(super) struct Client {
    pub(super) door: Arc<Door>,
    pub(super) address: IpAddr,
    caller: Caller,
    /// Where it has reached this node.
    local: Option<SocketAddr>,
    permitted: bool,
    pub(super) outbox: Outbox,
    has_asked: AtomicBool,
}

type Answered = Result<Response<ReplyBody>, Infallible>;

/// An answer, or the work on one. The work is boxed: hyper moves what it is given.
type Answering = Either<future::Ready<Answered>, BoxFuture<'static, Answered>>;

/// All that answering needs.
pub struct Door {
    pub journey: Journey,
    pub repos: Arc<Configured>,
    pub clients: config::Clients,
    pub ledger: Arc<Ledger>,
    pub operations: Arc<dyn Operations>,
    pub name: String,
    pub clock: Clock,
}

impl Door {
    /// Serves connections until `stop` says so and those in progress have finished their answers.
    pub async fn serve(self: Arc<Self>, listener: TcpListener, mut stop: watch::Receiver<bool>) {
        let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        loop {
            let Ok(permit) = permits.clone().acquire_owned().await else { return };
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = stopped(&mut stop) => break,
            };
            match accepted {
                Ok((stream, peer)) => {
                    let (door, stop) = (self.clone(), stop.clone());
                    tasks::spawn("client", async move {
                        door.connection(stream, peer, stop).await;
                        drop(permit);
                    });
                }
                Err(error) => {
                    // Out of file descriptors or memory: those in use come free by and by; a loop would only burn.
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
        drop(listener);
        // Each connection holds one.
        let _ = permits.acquire_many(u32::try_from(CONNECTIONS_MAX).unwrap_or(u32::MAX)).await;
    }

    async fn connection(self: Arc<Self>, stream: TcpStream, peer: SocketAddr, mut stop: watch::Receiver<bool>) {
        let _ = stream.set_nodelay(true);
        let local = stream.local_addr().ok();
        let mut stream = SendfileStream::new(stream);
        let outbox = stream.outbox();
        let address = peer.ip().to_canonical();
        let client = Client::of(self, address, local, outbox);
        let news = stop.clone();
        let mut stopped = std::pin::pin!(coop::unconstrained(stopped(&mut stop)));
        let (mut listening, mut told) = (false, false);
        // The stop is asked once, which leaves this task's waker with it, and again when there is news of it: to ask at every
        // turn is a measurable part of an answer from memory.
        let mut is_to_stop = |cx: &mut Context<'_>| {
            if !told && (!listening || news.has_changed().unwrap_or(true)) {
                listening = true;
                told = stopped.as_mut().poll(cx).is_ready();
            }
            told
        };
        if client.permitted {
            let mut fast = FastPath::new(&client, &mut stream, HEAD_PATIENCE);
            let end = future::poll_fn(|cx| match fast.poll(cx) {
                Poll::Pending if is_to_stop(cx) && fast.is_between_answers() => Poll::Ready(fast.hand_over()),
                end => end,
            });
            if end.await == End::Closed {
                return;
            }
        }
        let asker = client.clone();
        let service = service_fn(move |request| client.answer(request));
        let connection = http1::Builder::new()
            .timer(Patience::new(HEAD_PATIENCE))
            .title_case_headers(true)
            .half_close(false)
            .header_read_timeout(HEAD_PATIENCE)
            .max_buf_size(HEAD_BYTES_MAX)
            .max_headers(HEADERS_MAX)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades();
        let mut connection = std::pin::pin!(connection);
        let (mut was_told, mut last_chance) = (false, None);
        let ended = future::poll_fn(|cx| {
            if !was_told && is_to_stop(cx) {
                was_told = true;
                last_chance = Some(Box::pin(tokio::time::sleep(LAST_CHANCE)));
            }
            let so_far = connection.as_mut().poll(cx);
            let Some(chance) = last_chance.as_mut().filter(|_| so_far.is_pending()) else { return so_far };
            if asker.has_asked.load(Ordering::Relaxed) || chance.as_mut().poll(cx).is_ready() {
                last_chance = None;
                connection.as_mut().graceful_shutdown();
                return connection.as_mut().poll(cx);
            }
            so_far
        })
        .await;
        if let Err(error) = ended {
            tracing::debug!(%peer, %error, "a client connection ended early");
        }
    }

    async fn route(&self, request: Request<Incoming>, client: &Client, meter: &mut Meter) -> Result<Reply, Fault> {
        let (method, fields) = (request.method(), request.headers());
        let is_repo = |name: &str| self.repos.is_repo(name);
        let is_own = |host: &str| host == "localhost" || host.eq_ignore_ascii_case(&self.name);
        check_framing(fields)?;
        if request.version() == Version::HTTP_11 && !fields.contains_key(HOST) {
            // RFC 9112 3.2.
            return Err(Fault::bad_request("an HTTP/1.1 request needs a Host field"));
        }
        match parse_target(method, request.uri(), fields, is_repo, is_own, client.local)? {
            Target::Resource(url) => {
                let named = self.repos.resolve(&url);
                Ok(self.ask(request, url, named, meter).await)
            }
            Target::Repo { name, rest } => {
                let named = self.repos.named(&name, &rest)?;
                Ok(self.ask(request, named.sources[0].clone(), named, meter).await)
            }
            Target::Tunnel { host, port } => {
                meter.names(What::Text(format!("{host}:{port}")), Subject::Other);
                self.tunnel(request, &host, port).await
            }
            Target::Own(path) => {
                meter.names(What::Text(path.clone()), Subject::Own);
                self.own_page(&path, method, fields, client).await
            }
            Target::Server => Ok(Reply::text(StatusCode::OK, "", Outcome::Own)),
        }
    }

    async fn own_page(&self, path: &str, method: &Method, fields: &HeaderMap, client: &Client) -> Result<Reply, Fault> {
        let host = fields.get(HOST).and_then(|host| host.to_str().ok());
        let asker = Asker { address: client.address, local: client.local, host };
        let reads = method == Method::GET || method == Method::HEAD;
        let (page, live) = if let Some(list) = List::named(path) {
            (lists::answer(list, method, &asker, &*self.operations, &self.repos).await?, None)
        } else if let Some(asset) = assets::answer(path, fields).filter(|_| reads) {
            (asset, None)
        } else if path == pages::EVENTS {
            pages::listen(&*self.operations, method)
        } else {
            let reader = Reader::Client(&asker.own_name());
            (pages::answer(&*self.operations, method, path, reader).await, None)
        };
        let (parts, body) = page.into_parts();
        let content = live.map_or(Content::Text(body), Content::Live);
        Ok(Reply { status: parts.status, fields: parts.headers, content, outcome: Outcome::Own, from: None })
    }

    async fn ask(&self, request: Request<Incoming>, url: Url, named: Named, meter: &mut Meter) -> Reply {
        let line = LineRef::of(request.method(), request.uri(), request.headers()).map(LineRef::to_line);
        let (parts, body) = request.into_parts();
        meter.names(What::Url(url.clone()), classify(&named.key).class.into());
        let has_body = !hyper::body::Body::is_end_stream(&body);
        let asked = Asked {
            method: parts.method,
            url,
            key: named.key,
            sources: named.sources,
            fields: parts.headers,
            line,
            client: Some(meter.client().caller),
        };
        self.journey.answer(asked, has_body.then(|| Upload::new(body).boxed_unsync())).await
    }

    /// CONNECT: to permitted ports, uncached (R19).
    async fn tunnel(&self, request: Request<Incoming>, host: &str, port: u16) -> Result<Reply, Fault> {
        if !self.clients.connect_ports.contains(&port) {
            let detail = format!("CONNECT to port {port} (the operator can permit it with `[clients] connect_ports`)");
            return Err(Fault::new(Cause::DestinationForbidden { detail: detail.into() }));
        }
        self.journey.check_hops(request.headers())?;
        let hops = self.journey.hops_of(request.headers());
        let (mut upstream, hop) = self.journey.upstreams().tunnel(host, port, &hops, Duration::from_secs(10)).await?;
        let ledger = self.ledger.clone();
        tasks::spawn("tunnel", async move {
            let Ok(upgraded) = hyper::upgrade::on(request).await else { return };
            let mut client = TokioIo::new(upgraded);
            if let Ok((up, down)) = tokio::io::copy_bidirectional(&mut client, &mut upstream).await {
                ledger.tunnelled(up + down);
            }
        });
        let mut reply = Reply::text(StatusCode::OK, "", Outcome::Tunnel);
        reply.fields.clear();
        reply.content = Content::Empty;
        reply.from = Some(hop.to_string());
        Ok(reply)
    }

    fn denied(&self, address: IpAddr) -> Reply {
        let text = format!(
            "Forbidden\n\nimirror {} does not serve {address}.\n\
             Its operator can permit it with `[clients] allow = [\"private\", \"{address}\"]`.\n",
            self.name
        );
        Reply::text(StatusCode::FORBIDDEN, text, Outcome::Denied)
    }
}

impl Client {
    pub(super) fn of(door: Arc<Door>, address: IpAddr, local: Option<SocketAddr>, outbox: Outbox) -> Arc<Self> {
        let permitted = door.clients.allow.iter().any(|net| net.contains(&address));
        let (caller, has_asked) = (Caller::connected(address), AtomicBool::new(false));
        Arc::new(Self { door, address, caller, local, permitted, outbox, has_asked })
    }

    /// It has asked for something: when the node stops, it is not waited for.
    pub(super) fn note_asked(&self) {
        self.has_asked.store(true, Ordering::Relaxed);
    }

    fn answer(self: &Arc<Self>, request: Request<Incoming>) -> Answering {
        self.note_asked();
        if let Some(response) = self.answer_at_once(&request) {
            return Either::Left(future::ready(Ok(response)));
        }
        let client = self.clone();
        Either::Right(Box::pin(async move { Ok(client.answer_in_time(request).await) }))
    }

    /// What is hot needs no future of its own.
    fn answer_at_once(self: &Arc<Self>, request: &Request<Incoming>) -> Option<Response<ReplyBody>> {
        let line = LineRef::of(request.method(), request.uri(), request.headers()).filter(|_| self.permitted)?;
        let now = self.door.clock.now();
        let found = self.door.journey.at_once(line, now)?;
        self.door.journey.takes(&found, now);
        let mut meter = Meter::start(self, now, request.method(), |name| request.headers().get(name).cloned());
        meter.short_cut(&found);
        Some(respond(found.reply(), meter, is_to_be_told(request.headers())))
    }

    async fn answer_in_time(self: Arc<Self>, request: Request<Incoming>) -> Response<ReplyBody> {
        let field = |name| request.headers().get(name).cloned();
        let mut meter = Meter::start(&self, self.door.clock.now(), request.method(), field);
        let head_only = request.method() == Method::HEAD;
        let is_to_be_told = is_to_be_told(request.headers());
        let is_connect = request.method() == Method::CONNECT;
        let door = &self.door;
        let mut reply = match self.permitted {
            true => door.route(request, &self, &mut meter).await.unwrap_or_else(|fault| {
                door.ledger.failed(door.clock.now(), meter.what(), &fault);
                Reply::fault(&fault, "this request", &door.name)
            }),
            false => door.denied(self.address),
        };
        if head_only {
            reply.content = Content::Empty;
        }
        if is_connect && !reply.status.is_success() {
            // What follows was meant for the tunnel and is not to be read as requests.
            reply.fields.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        respond(reply, meter, is_to_be_told)
    }
}

fn respond(reply: Reply, mut meter: Meter, keep_alive_is_told: bool) -> Response<ReplyBody> {
    meter.answered(&reply);
    let mut response = Response::new(ReplyBody::new(reply.content, meter));
    *response.status_mut() = reply.status;
    *response.headers_mut() = reply.fields;
    if keep_alive_is_told {
        response.headers_mut().entry(CONNECTION).or_insert(HeaderValue::from_static("keep-alive"));
    }
    response
}

fn is_to_be_told(fields: &HeaderMap) -> bool {
    wants_to_be_told(|name| fields.get(name).map(HeaderValue::as_bytes))
}

/// Is it apk, which closes a connection that no `Connection: keep-alive` says is kept (libfetch/http.c), though HTTP/1.1 keeps
/// it anyhow? For the others the field would only cost.
pub(super) fn wants_to_be_told<'a>(field: impl Fn(HeaderName) -> Option<&'a [u8]>) -> bool {
    let is_apk = |agent: &[u8]| [&b"libfetch/"[..], b"apk-tools/"].iter().any(|name| agent.starts_with(name));
    field(USER_AGENT).is_some_and(is_apk) && field(CONNECTION).is_none()
}

async fn stopped(stop: &mut watch::Receiver<bool>) {
    // An error means that the daemon itself is gone.
    let _ = stop.wait_for(|stop| *stop).await;
}

/// hyper has made sense of the framing; what only one reading makes sense of is refused (RFC 9112 6.1).
fn check_framing(fields: &HeaderMap) -> Result<(), Fault> {
    let codings: Vec<_> = fields.get_all(TRANSFER_ENCODING).iter().collect();
    match codings.as_slice() {
        [] => Ok(()),
        [one] if one.as_bytes().eq_ignore_ascii_case(b"chunked") => Ok(()),
        _ => Err(Fault::bad_request("the only transfer coding that is understood is a single `chunked`")),
    }
}

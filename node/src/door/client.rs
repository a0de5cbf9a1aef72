//! The door for clients: connections, permissions and limits. What a request names is found by `journey::target`, what it
//! is answered is the journey's business; here it becomes bytes on a connection.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use ipnet::IpNet;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};

use super::body::ReplyBody;
use super::meter::Meter;
use super::upload::Upload;
use crate::classify::Url;
use crate::config;
use crate::fault::Fault;
use crate::journey::target::{Target, parse_target};
use crate::journey::{Asked, Journey, Reply};
use crate::ledger::{Ledger, Outcome};
use crate::os::sendfile::{Outbox, SendfileStream};
use crate::os::tasks;
use crate::repos::Configured;

/// Client connections at the same time; more wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 8192;

/// A request head must arrive within this time, and an idle connection is closed after it.
const HEAD_PATIENCE: Duration = Duration::from_secs(60);

/// Bytes of a request head.
const HEAD_BYTES_MAX: usize = 64 * 1024;

const HEADERS_MAX: usize = 64;

/// All that answering needs.
pub struct Door {
    pub journey: Journey,
    pub repos: Arc<Configured>,
    pub clients: config::Clients,
    pub ledger: Arc<Ledger>,
    pub pages: Arc<dyn Pages>,
    pub name: String,
}

/// The node's own pages.
pub trait Pages: Send + Sync {
    fn answer(&self, request: Request<Bytes>) -> BoxFuture<'_, Response<Bytes>>;
}

impl Door {
    /// Serves connections until `stop` says so; then those in progress finish their answers.
    pub async fn serve(self: Arc<Self>, listener: TcpListener, mut stop: watch::Receiver<bool>) {
        let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        loop {
            let Ok(permit) = permits.clone().acquire_owned().await else { return };
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                _ = stop.wait_for(|stop| *stop) => return,
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
    }

    async fn connection(self: Arc<Self>, stream: TcpStream, peer: SocketAddr, mut stop: watch::Receiver<bool>) {
        let _ = stream.set_nodelay(true);
        let local = stream.local_addr().ok();
        let stream = SendfileStream::new(stream);
        let outbox = stream.outbox();
        let client = Client { address: peer.ip().to_canonical(), local };
        let service = service_fn(move |request| {
            let (door, outbox) = (self.clone(), outbox.clone());
            async move { Ok::<_, Infallible>(door.answer(request, client, outbox).await) }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .title_case_headers(true)
            .half_close(false)
            .header_read_timeout(HEAD_PATIENCE)
            .max_buf_size(HEAD_BYTES_MAX)
            .max_headers(HEADERS_MAX)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades();
        let mut connection = std::pin::pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            _ = stop.wait_for(|stop| *stop) => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%peer, %error, "a client connection ended early");
        }
    }

    async fn answer(self: Arc<Self>, request: Request<Incoming>, client: Client, outbox: Outbox) -> Response<ReplyBody> {
        let mut meter = Meter::start(&self.ledger, client.address, &request);
        let head_only = request.method() == Method::HEAD;
        let reply = match self.permitted(client.address) {
            true => self.route(request, client, &mut meter).await,
            false => self.denied(client.address),
        };
        self.respond(reply, head_only, outbox, meter)
    }

    fn permitted(&self, address: IpAddr) -> bool {
        self.clients.allow.iter().any(|net: &IpNet| net.contains(&address))
    }

    fn denied(&self, address: IpAddr) -> Reply {
        let text = format!(
            "Forbidden\n\nimirror {} does not serve {address}.\nIts operator can permit it with `[clients] allow = [\"private\", \"{address}\"]`.\n",
            self.name
        );
        Reply::text(StatusCode::FORBIDDEN, text, Outcome::Denied)
    }

    fn respond(&self, reply: Reply, head_only: bool, outbox: Outbox, mut meter: Meter) -> Response<ReplyBody> {
        meter.outcome(reply.outcome, reply.status, reply.from);
        let mut response = Response::new(());
        *response.status_mut() = reply.status;
        *response.headers_mut() = reply.fields;
        let content = if head_only { crate::journey::Content::Empty } else { reply.content };
        response.map(|()| ReplyBody::new(content, self.journey.clone(), outbox, meter))
    }
}

/// Who asks.
#[derive(Debug, Clone, Copy)]
struct Client {
    address: IpAddr,
    local: Option<SocketAddr>,
}

//! Connections with other nodes: how they come about, and what goes over them.
//!
//! Each side opens one stream for control, whose first byte is `CONTROL`; frames follow. A peer is connected when its control
//! stream has come: before that the handshake may still fail on its side. What may get lost goes as datagrams. For each request
//! a stream in both directions is opened, whose first byte says of what kind it is.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use imirror_protocol::message::{Lane, Message};
use imirror_protocol::{ConnectionId, NodeId, Why};
use quinn::{Connection, Endpoint, RecvStream, SendDatagramError, SendStream, VarInt};
use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::identity::{SERVER_NAME, node_of};

/// First byte of a control stream.
const CONTROL: u8 = 1;

/// First byte of a stream with a request for an object.
const REQUEST: u8 = 2;

/// First byte of a stream with a question about the peer itself.
const REPORT: u8 = 3;

/// From the first packet to the peer's control stream.
const HANDSHAKE: Duration = Duration::from_secs(5);

/// For the first byte of a stream to come, and for a stream to be free for a request.
const FIRST_BYTE: Duration = Duration::from_secs(2);

/// A connection that nobody uses ends after so long, and at most twice as long.
const LINGER: Duration = Duration::from_secs(5);

/// Frames for one peer that wait to be sent; a peer that lets so many wait is given up.
const FRAMES_WAITING: usize = 1024;

/// Control goes before the content of objects.
const CONTROL_PRIORITY: i32 = 10;

/// A connection with a peer, which has said who it is. When nobody holds it any more it ends some time after the last request on it:
/// of two with one peer the spare one goes, and what is under way on it, or was just begun by the peer, goes on.
#[derive(Debug, Clone)]
pub(super) struct Link {
    pub(super) id: ConnectionId,
    connection: Connection,
    frames: mpsc::Sender<Vec<u8>>,
    in_use: InUse,
}

/// Held by all who use a connection.
type InUse = Arc<()>;

/// A connection that has just come about.
pub(super) struct Newcomer {
    pub(super) peer: NodeId,
    connection: Connection,
    control: (SendStream, RecvStream),
}

/// What a peer wants on a stream of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Request {
    Object,
    /// Something that people are to see of this node.
    Report,
}

/// What a peer does on a connection.
pub(super) enum Event {
    Frame(Vec<u8>),
    /// Its control stream cannot be read on.
    Garbled,
    Request(PeerStream),
}

/// Connects to whoever answers at `address`.
///
/// # Errors
/// Nobody, or nobody of this site.
pub(super) async fn dial(endpoint: &Endpoint, address: SocketAddr) -> anyhow::Result<Newcomer> {
    let connecting = endpoint.connect(address, SERVER_NAME)?;
    timeout(HANDSHAKE, async { greet(connecting.await?).await }).await?
}

/// Lets somebody in who has connected.
///
/// # Errors
/// It is nobody of this site, or says nothing.
pub(super) async fn welcome(incoming: quinn::Incoming) -> anyhow::Result<Newcomer> {
    timeout(HANDSHAKE, async { greet(incoming.accept()?.await?).await }).await?
}

async fn greet(connection: Connection) -> anyhow::Result<Newcomer> {
    let certificates = connection.peer_identity().and_then(|any| any.downcast::<Vec<CertificateDer<'static>>>().ok());
    let peer = certificates.and_then(|chain| node_of(chain.first()?));
    let peer = peer.ok_or_else(|| anyhow::anyhow!("it has no certificate"))?;
    let mut send = connection.open_uni().await?;
    send.set_priority(CONTROL_PRIORITY)?;
    send.write_all(&[CONTROL]).await?;
    let mut receive = connection.accept_uni().await?;
    anyhow::ensure!(receive.read_u8().await? == CONTROL, "its first stream is not for control");
    Ok(Newcomer { peer, connection, control: (send, receive) })
}

impl Newcomer {
    /// The link, and what keeps it going: to be polled until it ends, which is when the connection has. `tell` hears what the peer
    /// does, in order.
    pub(super) fn link(self, id: ConnectionId, tell: impl Fn(Event) + Sync) -> (Link, impl Future<Output = ()>) {
        let (frames, waiting) = mpsc::channel(FRAMES_WAITING);
        let in_use = InUse::default();
        let users = in_use.clone();
        let connection = self.connection.clone();
        let (send, receive) = self.control;
        let work = async move {
            tokio::select! {
                () = write(send, waiting) => {}
                () = unused(&users) => {}
                () = read(receive, &tell) => {}
                _ = datagrams(&connection, &tell) => {}
                _ = requests(&connection, &users, &tell) => {}
                _ = connection.closed() => {}
            }
            // Whatever ended first: without all of it the connection is of no use.
            connection.close(VarInt::from_u32(0), b"");
        };
        (Link { id, connection: self.connection, frames, in_use }, work)
    }
}

impl Link {
    /// Sends a frame, or drops it when the connection has ended. A peer that does not take its frames is given up.
    pub(super) fn send(&self, frame: Vec<u8>, lane: Lane) {
        let frame = match lane {
            Lane::Datagram => match self.connection.send_datagram(Bytes::from(frame.clone())) {
                Err(
                    SendDatagramError::TooLarge | SendDatagramError::UnsupportedByPeer | SendDatagramError::Disabled,
                ) => frame,
                Ok(()) | Err(SendDatagramError::ConnectionLost(_)) => return,
            },
            Lane::Stream => frame,
        };
        if let Err(mpsc::error::TrySendError::Full(_)) = self.frames.try_send(frame) {
            tracing::warn!(address = %self.connection.remote_address(), "a node does not take what it is sent; disconnected");
            self.connection.close(VarInt::from_u32(1), b"it does not take what it is sent");
        }
    }

    /// Ends a connection that leads nowhere any more.
    pub(super) fn give_up(&self) {
        self.connection.close(VarInt::from_u32(0), b"");
    }

    /// Ends the connection.
    pub(super) fn close(&self, why: Why) {
        self.connection.close(VarInt::from_u32(2), why.to_string().as_bytes());
    }

    /// How long a packet takes to the peer and back.
    pub(super) fn round_trip(&self) -> Duration {
        self.connection.rtt()
    }

    /// The address of this node that it goes by, if that is known.
    pub(super) fn local_ip(&self) -> Option<IpAddr> {
        self.connection.local_ip().map(|ip| ip.to_canonical())
    }

    /// A stream for one request.
    ///
    /// # Errors
    /// The connection has ended, or too many requests are under way on it.
    pub(super) async fn open(&self, request: Request) -> io::Result<PeerStream> {
        let (mut send, receive) = timeout(FIRST_BYTE, self.connection.open_bi()).await??;
        let kind = match request {
            Request::Object => REQUEST,
            Request::Report => REPORT,
        };
        send.write_all(&[kind]).await?;
        Ok(PeerStream { send, receive, _in_use: self.in_use.clone() })
    }
}

async fn write(mut stream: SendStream, mut frames: mpsc::Receiver<Vec<u8>>) {
    while let Some(frame) = frames.recv().await {
        if stream.write_all(&frame).await.is_err() {
            return;
        }
    }
    // Nobody has anything to say any more, but requests may be under way. The stream stays open: its end would be the connection's.
    std::future::pending().await
}

async fn read(mut stream: RecvStream, tell: &impl Fn(Event)) {
    let mut bytes = Vec::with_capacity(4096);
    loop {
        // The head says how long the frame is, and has been held against the bound before memory is set aside.
        let header = match Message::header(&bytes) {
            Ok(header) => header,
            Err(_) => return tell(Event::Garbled),
        };
        let wanted = match header {
            Some(header) if bytes.len() >= header.head + header.body => {
                let rest = bytes.split_off(header.head + header.body);
                tell(Event::Frame(std::mem::replace(&mut bytes, rest)));
                continue;
            }
            Some(header) => header.head + header.body - bytes.len(),
            None => 1,
        };
        bytes.reserve(wanted.max(4096));
        match stream.read_buf(&mut bytes).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
    }
}

async fn datagrams(connection: &Connection, tell: &impl Fn(Event)) -> Option<()> {
    loop {
        tell(Event::Frame(connection.read_datagram().await.ok()?.to_vec()));
    }
}

/// Until nobody but the caller has used the connection for [`LINGER`].
async fn unused(in_use: &InUse) {
    let mut idle = false;
    while !idle || Arc::strong_count(in_use) > 1 {
        idle = Arc::strong_count(in_use) == 1;
        tokio::time::sleep(LINGER).await;
    }
}

/// Streams of the peer: requests are handed on, of others nothing is known in this version.
async fn requests(connection: &Connection, in_use: &InUse, tell: &impl Fn(Event)) -> Option<()> {
    loop {
        tokio::select! {
            opened = connection.accept_bi() => {
                let (send, receive) = opened.ok()?;
                tell(Event::Request(PeerStream { send, receive, _in_use: in_use.clone() }));
            }
            // Dropped, which tells the peer that nobody reads it.
            opened = connection.accept_uni() => drop(opened.ok()?),
        }
    }
}

/// The two directions of a stream for one request. What is dropped before its end is called off.
#[derive(Debug)]
pub struct PeerStream {
    send: SendStream,
    receive: RecvStream,
    _in_use: InUse,
}

impl PeerStream {
    /// Reads the first byte; nothing for a kind that this version does not know.
    pub(super) async fn request(&mut self) -> Option<Request> {
        match timeout(FIRST_BYTE, self.receive.read_u8()).await {
            Ok(Ok(REQUEST)) => Some(Request::Object),
            Ok(Ok(REPORT)) => Some(Request::Report),
            _ => None,
        }
    }

    /// Until the peer has all that was written, or wants no more of it: then the rest, which may be as much as the stream's window, is not
    /// sent. Nobody else sees to that once the stream has been dropped.
    pub async fn sent(mut self) {
        // It has been finished already, or is broken off here.
        let _ = self.send.finish();
        if let Ok(Some(why)) = self.send.stopped().await {
            let _ = self.send.reset(why);
        }
    }
}

impl AsyncRead for PeerStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        AsyncRead::poll_read(Pin::new(&mut self.receive), cx, buffer)
    }
}

impl AsyncWrite for PeerStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        AsyncWrite::poll_write(Pin::new(&mut self.send), cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        AsyncWrite::poll_flush(Pin::new(&mut self.send), cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        AsyncWrite::poll_shutdown(Pin::new(&mut self.send), cx)
    }
}

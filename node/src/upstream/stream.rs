//! One byte stream to a server: TCP or TLS over TCP (to the server itself or through the parent). Counts what it received, so
//! that a dead pooled connection can be told from a server that broke off in mid-answer. Knows nothing of HTTP.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

/// An answer's head and the first bytes of its body are read in pieces of at most this together: the client waits for them. What comes
/// after is read in pieces as large as the reader takes.
const FIRST: usize = 32 * 1024;

/// What has arrived so far. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Received(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    bytes: AtomicU64,
    /// Where the first bytes of this answer end.
    first_until: AtomicU64,
}

impl Received {
    pub(super) fn bytes(&self) -> u64 {
        self.0.bytes.load(Ordering::Relaxed)
    }

    /// What comes next is the head of an answer.
    pub(super) fn begin_answer(&self) {
        self.0.first_until.store(self.bytes() + FIRST as u64, Ordering::Relaxed);
    }

    /// How many of the next bytes belong to the first of an answer.
    fn first(&self) -> usize {
        let first = self.0.first_until.load(Ordering::Relaxed).saturating_sub(self.bytes());
        usize::try_from(first).unwrap_or(FIRST)
    }
}

/// See the module head.
#[derive(Debug)]
pub struct Stream {
    transport: Transport,
    received: Received,
}

#[derive(Debug)]
enum Transport {
    Plain(TcpStream),
    Tls(Box<TlsStream<Stream>>),
}

impl Stream {
    pub(super) fn plain(stream: TcpStream) -> Self {
        Self::new(Transport::Plain(stream))
    }

    pub(super) fn tls(stream: TlsStream<Self>) -> Self {
        Self::new(Transport::Tls(Box::new(stream)))
    }

    fn new(transport: Transport) -> Self {
        Self { transport, received: Received::default() }
    }

    pub(super) fn received(&self) -> Received {
        self.received.clone()
    }

    fn poll_transport(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut self.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Transport::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        match self.received.first() {
            first @ 1..=FIRST if first < buf.remaining() => {
                let mut space = [0; FIRST];
                let mut piece = ReadBuf::new(&mut space[..first]);
                ready!(self.poll_transport(cx, &mut piece))?;
                buf.put_slice(piece.filled());
            }
            _ => ready!(self.poll_transport(cx, buf))?,
        }
        let read = buf.filled().len() - before;
        self.received.0.bytes.fetch_add(read as u64, Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Transport::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Transport::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Transport::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Transport::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

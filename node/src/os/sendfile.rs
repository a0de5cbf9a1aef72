//! A TCP stream for hyper that sends mapped bytes by `sendfile(2)`.
//!
//! A response body hands hyper a slice of a [`Mapping`] as an ordinary frame and notes the mapping in the connection's
//! [`Outbox`]. hyper keeps the framing, keep-alive and pipelining; it passes the slice unflattened to
//! `poll_write_vectored`, where its address tells which part of which file it is. What lies before it goes out by
//! `sendmsg(MSG_MORE)`, the slice itself by `sendfile`, and the count is returned like that of any short write.
//!
//! Where anything else touches the slice (TLS, a flattening writer, a test) it reads the same bytes from memory: the
//! recognition is only ever a short cut.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use rustix::net::{SendAncillaryBuffer, SendFlags};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;

use super::mapping::Mapping;

/// Most bytes that one `sendfile` call may move, so that one fast reader does not hold a thread for long.
const PIECE_MAX: usize = 2 * 1024 * 1024;

/// From this many bytes on it pays to tell the kernel that more is coming, which takes two more calls.
const CORKED_MIN: usize = 256 * 1024;

/// Mappings noted but not yet seen on their way out. More than this are stale: hyper buffers few frames.
const NOTED_MAX: usize = 16;

/// What a body tells its connection with each frame: a slice of this mapping is coming. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Outbox(Arc<Noted>);

#[derive(Debug, Default)]
struct Noted {
    mappings: Mutex<VecDeque<Arc<Mapping>>>,
    /// More of the same answer is at hand: the kernel need not send what does not fill a segment yet.
    more: AtomicBool,
    /// Bytes that went out by `sendfile`: lets a test see that the short cut is taken.
    sent: AtomicU64,
}

impl Outbox {
    /// Notes that the next frame is a slice of this mapping.
    pub fn note(&self, mapping: &Arc<Mapping>) {
        let mut noted = self.lock();
        if noted.back().is_some_and(|last| Arc::ptr_eq(last, mapping)) {
            return;
        }
        if noted.len() == NOTED_MAX {
            noted.pop_front();
        }
        noted.push_back(mapping.clone());
    }

    /// Is more of the same answer at hand when the next frame has gone out?
    pub fn expect_more(&self, more: bool) {
        self.0.more.store(more, Ordering::Relaxed);
    }

    /// Forgets all mappings: nothing that was noted is still to be sent.
    pub fn clear(&self) {
        self.lock().clear();
    }

    /// The mapping that holds this address and the offset in its file. Mappings noted before it have been sent.
    fn find(&self, pointer: *const u8) -> Option<(Arc<Mapping>, u64)> {
        let mut noted = self.lock();
        let (index, offset) = noted.iter().enumerate().find_map(|(i, m)| Some((i, m.offset_of(pointer)?)))?;
        noted.drain(..index);
        Some((noted.front()?.clone(), offset))
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Arc<Mapping>>> {
        self.0.mappings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The stream; see the module head.
#[derive(Debug)]
pub struct SendfileStream {
    stream: TcpStream,
    outbox: Outbox,
    is_corked: bool,
    /// What has been read and given back.
    unread: Bytes,
}

impl SendfileStream {
    pub fn new(stream: TcpStream) -> Self {
        Self { stream, outbox: Outbox::default(), is_corked: false, unread: Bytes::new() }
    }

    pub fn outbox(&self) -> Outbox {
        self.outbox.clone()
    }

    /// Gives back what has been read: it is what the next reads find.
    pub fn give_back(&mut self, unread: impl Into<Bytes>) {
        self.unread = unread.into();
    }

    /// Has the kernel send full segments only, or all that it has. It does so by itself after 200 ms (tcp(7), `TCP_CORK`); where it can't
    /// be told, all is sent as it comes.
    fn cork(&mut self, is_corked: bool) {
        if self.is_corked != is_corked && rustix::net::sockopt::set_tcp_cork(&self.stream, is_corked).is_ok() {
            self.is_corked = is_corked;
        }
    }

    /// One attempt at the socket per readiness; `WouldBlock` clears it and waits again.
    fn poll_io(&self, cx: &mut Context<'_>, mut io: impl FnMut() -> io::Result<usize>) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.stream.poll_write_ready(cx))?;
            match self.stream.try_io(Interest::WRITABLE, &mut io) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                done => return Poll::Ready(done),
            }
        }
    }

    fn poll_send_more(&self, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        self.poll_io(cx, || {
            let sent = rustix::net::sendmsg(
                &self.stream,
                bufs,
                &mut SendAncillaryBuffer::default(),
                SendFlags::MORE | SendFlags::NOSIGNAL,
            );
            Ok(sent?)
        })
    }

    /// Writes what lies in memory and after it a part of a mapped file, as far as the socket takes it; a short write is like any other.
    ///
    /// # Errors
    /// Of the connection; `UnexpectedEof` when the file has been cut.
    pub fn poll_write_mapped(
        &self,
        cx: &mut Context<'_>,
        before: &[IoSlice<'_>],
        mapping: &Mapping,
        offset: u64,
        len: usize,
    ) -> Poll<io::Result<usize>> {
        let bytes_before: usize = before.iter().map(|buf| buf.len()).sum();
        if bytes_before > 0 {
            let sent = ready!(self.poll_send_more(cx, before))?;
            if sent < bytes_before {
                return Poll::Ready(Ok(sent));
            }
        }
        match self.poll_sendfile(cx, mapping, offset, len) {
            Poll::Ready(Ok(sent)) => Poll::Ready(Ok(bytes_before + sent)),
            // What lay before is out: report it, the error or the wait comes back with the next call.
            _ if bytes_before > 0 => Poll::Ready(Ok(bytes_before)),
            other => other,
        }
    }

    fn poll_sendfile(
        &self,
        cx: &mut Context<'_>,
        mapping: &Mapping,
        offset: u64,
        len: usize,
    ) -> Poll<io::Result<usize>> {
        self.poll_io(cx, || {
            let mut at = offset;
            match rustix::fs::sendfile(&self.stream, mapping.file(), Some(&mut at), len.min(PIECE_MAX))? {
                // Somebody shortened a file of the store: break off rather than touch the missing pages.
                0 => Err(io::ErrorKind::UnexpectedEof.into()),
                sent => {
                    self.outbox.0.sent.fetch_add(sent as u64, Ordering::Relaxed);
                    Ok(sent)
                }
            }
        })
    }
}

impl AsyncWrite for SendfileStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mapped = bufs.iter().enumerate().find_map(|(i, buf)| Some((i, self.outbox.find(buf.as_ptr())?)));
        let Some((index, (mapping, offset))) = mapped else {
            return Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        };
        if bufs[index].len() >= CORKED_MIN {
            self.cork(true);
        }
        self.poll_write_mapped(cx, &bufs[..index], &mapping, offset, bufs[index].len())
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// hyper flushes when all it had buffered is written: the mappings noted so far have served.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.outbox.clear();
        if !self.outbox.0.more.load(Ordering::Relaxed) {
            self.cork(false);
        }
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl AsyncRead for SendfileStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.unread.is_empty() {
            let len = self.unread.len().min(buf.remaining());
            buf.put_slice(&self.unread.split_to(len));
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    async fn pair() -> (SendfileStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (SendfileStream::new(listener.accept().await.unwrap().0), client)
    }

    fn mapping(len: usize) -> (Vec<u8>, Arc<Mapping>) {
        let content: Vec<u8> = (0..len).map(|i| (i * 7 + i / 251) as u8).collect();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&content).unwrap();
        (content, Mapping::new(file, len as u64).unwrap())
    }

    #[tokio::test]
    async fn head_slice_and_tail_arrive_in_order_and_the_slice_by_sendfile() {
        let (mut server, mut client) = pair().await;
        let (content, mapping) = mapping(3_000_000);
        let slice = mapping.bytes(5..2_999_000);
        server.outbox().note(&mapping);
        let outbox = server.outbox();
        let sender = crate::os::tasks::spawn("test", async move {
            let mut bufs = [IoSlice::new(b"head"), IoSlice::new(&slice), IoSlice::new(b"tail")];
            let mut bufs = &mut bufs[..];
            while !bufs.is_empty() {
                let sent =
                    std::future::poll_fn(|cx| Pin::new(&mut server).poll_write_vectored(cx, bufs)).await.unwrap();
                IoSlice::advance_slices(&mut bufs, sent);
            }
            server.shutdown().await.unwrap();
        });
        let mut got = Vec::new();
        client.read_to_end(&mut got).await.unwrap();
        sender.await.unwrap();
        assert!(got.starts_with(b"head") && got.ends_with(b"tail"));
        assert_eq!(&got[4..got.len() - 4], &content[5..2_999_000]);
        assert_eq!(outbox.0.sent.load(Ordering::Relaxed), 2_998_995);
    }

    #[tokio::test]
    async fn the_kernel_holds_back_only_while_more_is_at_hand() {
        let (mut server, mut client) = pair().await;
        let (content, mapping) = mapping(2 * CORKED_MIN);
        let outbox = server.outbox();
        let reader = crate::os::tasks::spawn("test", async move {
            let mut got = Vec::new();
            client.read_to_end(&mut got).await.unwrap();
            got
        });
        let is_corked = |server: &SendfileStream| rustix::net::sockopt::tcp_cork(&server.stream).unwrap();
        for (more, half) in [(true, 0..CORKED_MIN as u64), (false, CORKED_MIN as u64..2 * CORKED_MIN as u64)] {
            outbox.expect_more(more);
            outbox.note(&mapping);
            server.write_all(&mapping.bytes(half)).await.unwrap();
            assert!(is_corked(&server));
            server.flush().await.unwrap();
            assert_eq!(is_corked(&server), more);
        }
        outbox.note(&mapping);
        server.write_all(&mapping.bytes(0..1000)).await.unwrap();
        assert!(!is_corked(&server), "it would not pay");
        server.shutdown().await.unwrap();
        assert_eq!(reader.await.unwrap(), [&content[..], &content[..1000]].concat());
    }

    #[tokio::test]
    async fn unknown_and_stale_memory_is_sent_as_it_is() {
        let (mut server, mut client) = pair().await;
        let (content, noted) = mapping(1000);
        let (other, unnoted) = mapping(500);
        server.outbox().note(&noted);
        server.write_all(&unnoted.bytes(0..500)).await.unwrap();
        server.write_all(b"plain").await.unwrap();
        server.write_all(&noted.bytes(0..1000)).await.unwrap();
        server.shutdown().await.unwrap();
        let mut got = Vec::new();
        client.read_to_end(&mut got).await.unwrap();
        assert_eq!(got, [&other[..], b"plain", &content[..]].concat());
    }

    #[tokio::test]
    async fn a_file_cut_behind_our_back_ends_the_connection() {
        let (mut server, mut client) = pair().await;
        let (_, mapping) = mapping(100_000);
        let slice = mapping.bytes(0..100_000);
        server.outbox().note(&mapping);
        mapping.file().try_clone().unwrap().set_len(4096).unwrap_or_default();
        let mut sent = 0;
        let error = loop {
            let bufs = [IoSlice::new(&slice[sent..])];
            match std::future::poll_fn(|cx| Pin::new(&mut server).poll_write_vectored(cx, &bufs)).await {
                Ok(n) => sent += n,
                Err(e) => break e,
            }
        };
        assert_eq!((sent, error.kind()), (4096, io::ErrorKind::UnexpectedEof));
        drop(server);
        let mut got = Vec::new();
        client.read_to_end(&mut got).await.unwrap();
        assert_eq!(got.len(), 4096);
    }

    #[test]
    fn the_outbox_is_bounded_and_forgets_what_was_passed() {
        let outbox = Outbox::default();
        let mappings: Vec<_> = (0..NOTED_MAX + 3).map(|_| mapping(10).1).collect();
        mappings.iter().for_each(|m| outbox.note(m));
        assert_eq!(outbox.lock().len(), NOTED_MAX);
        let slice = mappings[10].bytes(4..5);
        let (found, offset) = outbox.find(slice.as_ptr()).unwrap();
        assert!(Arc::ptr_eq(&found, &mappings[10]) && offset == 4);
        assert!(outbox.find(mappings[9].bytes(0..1).as_ptr()).is_none());
        outbox.clear();
        assert!(outbox.find(slice.as_ptr()).is_none());
    }
}

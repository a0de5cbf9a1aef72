//! The fast path of a connection: plain requests for what is hot are answered before hyper has seen them.
//!
//! An answer here is a look at the request, at the short cut that its line has (`journey/shortcut.rs`), and two writes: a head
//! that has been written once, and the object by `sendfile`. Nothing is kept for a connection between two requests.
//! Whatever is not that simple ends the fast path: hyper gets the connection with all that has not been answered, byte for
//! byte, and keeps it. So nothing is understood here that hyper would have to understand the same way.

use std::future::Future;
use std::io::{self, IoSlice, Write};
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use http::header::{CONTENT_LENGTH, HeaderName};
use http::{HeaderMap, HeaderValue, Method};
use httparse::{Header, Status};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::coop;
use tokio::time::{Instant, Sleep};

use super::client::{Client, wants_to_be_told};
use super::meter::Meter;
use crate::journey::{AtOnce, LineRef};
use crate::os::clock::{HttpDate, Timestamp};
use crate::os::sendfile::SendfileStream;
use crate::store::{Blob, Ready};

/// Bytes read at once. Longer heads are hyper's.
const INPUT_MAX: usize = 4096;

/// Fields of a request; those of package managers have a handful.
const FIELDS_MAX: usize = 16;

/// Larger objects are hyper's: they are sent in pieces, between which others have their turn.
const OBJECT_MAX: u64 = 256 * 1024;

/// A connection on the fast path.
pub(super) struct FastPath<'a> {
    client: &'a Arc<Client>,
    stream: &'a mut SendfileStream,
    /// A request that has not come whole, or that comes after the answer which is being sent.
    unread: Vec<u8>,
    sending: Option<Sending>,
    date: HttpDate,
    patience: Patience,
}

/// How it ends.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum End {
    /// There is nobody to answer any more.
    Closed,
    /// What comes next is hyper's.
    HandedOver,
}

/// An answer that the socket does not take all of at once.
struct Sending {
    head: Bytes,
    body: Bytes,
    meter: Meter,
    /// What is held is not evicted.
    _blob: Arc<Blob>,
}

/// Who does not ask for so long is not waited for.
struct Patience {
    limit: Duration,
    idle_since: Timestamp,
    /// Armed once, and again when it fires too early: to arm it with each request is a measurable part of an answer.
    timer: Pin<Box<Sleep>>,
    is_armed: bool,
}

/// What became of a request.
enum Answered {
    Sent,
    Waits,
    IsHypers,
    Failed,
}

impl<'a> FastPath<'a> {
    pub(super) fn new(client: &'a Arc<Client>, stream: &'a mut SendfileStream, limit: Duration) -> Self {
        let timer = Box::pin(tokio::time::sleep(limit));
        let patience = Patience { limit, idle_since: client.door.clock.now(), timer, is_armed: false };
        Self { client, stream, unread: Vec::new(), sending: None, date: HttpDate::default(), patience }
    }

    /// Is no answer half sent?
    pub(super) fn is_between_answers(&self) -> bool {
        self.sending.is_none()
    }

    /// Gives the connection to hyper, with what has been read and not answered.
    pub(super) fn hand_over(&mut self) -> End {
        self.stream.give_back(std::mem::take(&mut self.unread));
        End::HandedOver
    }

    /// Answers what it can; ready when that is over.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        let end = self.serve(cx);
        if end.is_pending() && self.sending.is_none() {
            let clock = &self.client.door.clock;
            return self.patience.poll(cx, || clock.now()).map(|()| End::Closed);
        }
        end
    }

    fn serve(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        if let Some(sending) = &mut self.sending {
            let sent = ready!(sending.poll(cx, self.stream));
            self.patience.idle_since = self.client.door.clock.now();
            self.sending = None;
            if sent.is_err() {
                return Poll::Ready(End::Closed);
            }
        }
        let mut space = [MaybeUninit::uninit(); INPUT_MAX];
        let mut input = ReadBuf::uninit(&mut space);
        input.put_slice(&self.unread);
        self.unread.clear();
        let mut answered = 0;
        loop {
            let mut fields = [MaybeUninit::uninit(); FIELDS_MAX];
            match Plain::read(&input.filled()[answered..], &mut fields) {
                Some(Status::Complete((plain, len))) => match self.answer(cx, &plain) {
                    Answered::Sent => answered += len,
                    Answered::Waits => {
                        self.unread.extend_from_slice(&input.filled()[answered + len..]);
                        return Poll::Pending;
                    }
                    Answered::IsHypers => break,
                    Answered::Failed => return Poll::Ready(End::Closed),
                },
                Some(Status::Partial) => {
                    let len = input.filled().len();
                    input.initialized_mut().copy_within(answered..len, 0);
                    input.set_filled(len - std::mem::take(&mut answered));
                    if input.remaining() == 0 {
                        break;
                    }
                    let before = input.filled().len();
                    match Pin::new(&mut *self.stream).poll_read(cx, &mut input) {
                        Poll::Ready(Ok(())) if input.filled().len() > before => {}
                        Poll::Ready(_) => return Poll::Ready(End::Closed),
                        Poll::Pending => {
                            self.unread.extend_from_slice(input.filled());
                            return Poll::Pending;
                        }
                    }
                }
                None => break,
            }
        }
        self.unread.extend_from_slice(&input.filled()[answered..]);
        Poll::Ready(self.hand_over())
    }

    fn answer(&mut self, cx: &mut Context<'_>, plain: &Plain<'_, '_>) -> Answered {
        let door = &self.client.door;
        let now = door.clock.now();
        let Some(found) = door.journey.at_once(plain.line, now) else { return Answered::IsHypers };
        let (blob, len) = (&found.hot.blob, found.hot.entry.size);
        let Some(ready) = Some(0..len).filter(|_| len <= OBJECT_MAX).and_then(|all| blob.ready_in(&all, now)) else {
            return Answered::IsHypers;
        };
        door.journey.takes(&found, now);
        self.client.note_asked();
        self.patience.idle_since = now;
        let mut meter = Meter::start(self.client, now, &Method::GET, |name| plain.field(&name));
        meter.short_cut(&found);
        meter.sent(len);

        let always = found.shortcut.text(|fields| written(fields, len));
        let mut now_only = [0; 160];
        let now_only = self.written_now(&mut now_only, &found, plain, now);
        let head = [IoSlice::new(always), IoSlice::new(now_only)];
        let sent = match ready {
            Ready::File(mapping) => self.stream.poll_write_mapped(cx, &head, mapping, 0, len as usize),
            Ready::Memory(bytes) => {
                let [always, now_only] = head;
                Pin::new(&mut *self.stream).poll_write_vectored(cx, &[always, now_only, IoSlice::new(bytes)])
            }
        };
        let sent = match sent {
            Poll::Ready(Ok(sent)) => sent,
            Poll::Ready(Err(_)) => return Answered::Failed,
            Poll::Pending => 0,
        };
        let head_len = always.len() + now_only.len();
        if sent == head_len + len as usize {
            meter.complete();
            return Answered::Sent;
        }
        let mut head = Bytes::from([always, now_only].concat());
        let mut body = match ready {
            Ready::File(mapping) => {
                self.client.outbox.note(mapping);
                mapping.bytes(0..len)
            }
            Ready::Memory(bytes) => bytes.clone(),
        };
        head.advance(sent.min(head_len));
        body.advance(sent.saturating_sub(head_len));
        let mut sending = Sending { head, body, meter, _blob: blob.clone() };
        match sending.poll(cx, self.stream) {
            Poll::Ready(Ok(())) => Answered::Sent,
            Poll::Ready(Err(_)) => Answered::Failed,
            Poll::Pending => {
                self.sending = Some(sending);
                Answered::Waits
            }
        }
    }

    /// The part of the head that no two answers share.
    fn written_now<'b>(
        &mut self,
        into: &'b mut [u8],
        found: &AtOnce,
        plain: &Plain<'_, '_>,
        now: Timestamp,
    ) -> &'b [u8] {
        let len = into.len();
        let mut rest = &mut *into;
        let told = if plain.wants_to_be_told { "Connection: keep-alive\r\n" } else { "" };
        let written = write!(rest, "Age: {}\r\nDate: {}\r\n{told}\r\n", found.age, self.date.text(now));
        debug_assert!(written.is_ok(), "it is long enough for all of them");
        let len = len - rest.len();
        &into[..len]
    }
}

impl Sending {
    fn poll(&mut self, cx: &mut Context<'_>, stream: &mut SendfileStream) -> Poll<io::Result<()>> {
        while self.head.has_remaining() || self.body.has_remaining() {
            let rest = [IoSlice::new(&self.head), IoSlice::new(&self.body)];
            let sent = ready!(Pin::new(&mut *stream).poll_write_vectored(cx, &rest))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            let of_head = sent.min(self.head.len());
            self.head.advance(of_head);
            self.body.advance(sent - of_head);
        }
        self.meter.complete();
        Pin::new(stream).poll_flush(cx)
    }
}

impl Patience {
    fn poll(&mut self, cx: &mut Context<'_>, now: impl Fn() -> Timestamp) -> Poll<()> {
        while !self.is_armed || self.timer.is_elapsed() {
            let waited = now().since(self.idle_since);
            if waited >= self.limit {
                return Poll::Ready(());
            }
            self.timer.as_mut().reset(Instant::now() + (self.limit - waited));
            // It is to know whom to wake, however much this task has done in its turn.
            let mut timer = coop::unconstrained(self.timer.as_mut());
            self.is_armed = Pin::new(&mut timer).poll(cx).is_pending();
        }
        Poll::Pending
    }
}

/// A request that a short cut may be known for.
struct Plain<'h, 'b> {
    line: LineRef<'b>,
    fields: &'h [Header<'b>],
    wants_to_be_told: bool,
}

impl<'h, 'b> Plain<'h, 'b> {
    /// With its length. Nothing where it is not plain, or no request at all: that is for hyper to say.
    fn read(input: &'b [u8], space: &'h mut [MaybeUninit<Header<'b>>]) -> Option<Status<(Self, usize)>> {
        let mut request = httparse::Request::new(&mut []);
        let len = match request.parse_with_uninit_headers(input, space).ok()? {
            Status::Complete(len) => len,
            Status::Partial => return Some(Status::Partial),
        };
        let (method, target, fields) = (request.method?, request.path?, &*request.headers);
        let line = LineRef::read(method, target, fields.iter().map(|field| (field.name, field.value)))?;
        let wants_to_be_told = wants_to_be_told(|name| find(fields, name.as_str()));
        let plain = Self { line, fields, wants_to_be_told };
        (request.version == Some(1)).then_some(Status::Complete((plain, len)))
    }

    fn field(&self, name: &HeaderName) -> Option<HeaderValue> {
        HeaderValue::from_bytes(find(self.fields, name.as_str())?).ok()
    }
}

fn find<'b>(fields: &[Header<'b>], name: &str) -> Option<&'b [u8]> {
    fields.iter().find(|field| field.name.eq_ignore_ascii_case(name)).map(|field| field.value)
}

/// The part of a head that is always the same, as hyper would write it.
fn written(fields: &HeaderMap, length: u64) -> Box<[u8]> {
    let mut text = b"HTTP/1.1 200 OK\r\n".to_vec();
    for (name, value) in fields.iter().filter(|(name, _)| *name != CONTENT_LENGTH) {
        let mut starts = true;
        text.extend(name.as_str().bytes().map(|byte| {
            let byte = if starts { byte.to_ascii_uppercase() } else { byte };
            starts = byte == b'-';
            byte
        }));
        text.extend_from_slice(b": ");
        text.extend_from_slice(value.as_bytes());
        text.extend_from_slice(b"\r\n");
    }
    text.extend_from_slice(format!("Content-Length: {length}\r\n").as_bytes());
    text.into()
}

#[cfg(test)]
mod tests;

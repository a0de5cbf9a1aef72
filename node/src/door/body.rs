//! The body of an answer: pieces of a stored object, of a flight, of a passed-on answer, or a short text.
//!
//! Nothing is allocated per piece where the bytes are at hand; waiting costs one boxed future a piece.

use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use http_body::{Body, Frame, SizeHint};

use super::meter::Meter;
use crate::fault::{Cause, Fault};
use crate::flight::Reader;
use crate::journey::{Content, Journey, Segments, Stored};
use crate::upstream::AnswerBody;

/// Bytes asked of a store or flight at once: large enough for few calls, small enough to be fair.
const PIECE: u64 = 2 * 1024 * 1024;

/// A body for hyper. Dropping it in the middle is how a client that leaves is noticed.
pub(super) struct ReplyBody {
    source: Source,
    segments: Segments,
    meter: Meter,
}

enum Source {
    Done,
    Text(Bytes),
    Stored(Stored),
    Flying(Box<Reader>),
    Passed(Box<AnswerBody>),
    Live(BoxStream<'static, Bytes>),
    Waiting(BoxFuture<'static, (Source, Result<Option<Bytes>, Fault>)>),
}

impl ReplyBody {
    pub(super) fn new(content: Content, meter: Meter) -> Self {
        let (source, segments) = match content {
            Content::Empty => (Source::Done, Segments::none()),
            Content::Text(text) if text.is_empty() => (Source::Done, Segments::none()),
            Content::Text(text) => (Source::Text(text), Segments::none()),
            Content::Stored(stored, segments) => (Source::Stored(stored), segments),
            Content::Flying(reader, segments) => (Source::Flying(reader), segments),
            Content::Passed(body) => (Source::Passed(body), Segments::none()),
            Content::Live(texts) => (Source::Live(texts), Segments::none()),
        };
        let mut body = Self { source, segments, meter };
        if matches!(body.source, Source::Done) {
            body.meter.complete();
        }
        body
    }

    /// The next piece of a stored object or flight that lies in memory or in the page cache.
    fn ready_piece(&mut self, range: Range<u64>) -> Option<Bytes> {
        // Short answers read the clock once.
        let now = || match self.meter.bytes() {
            0 => self.meter.started(),
            _ => self.meter.client().door.clock.now(),
        };
        let bytes = match &self.source {
            Source::Stored(stored) => stored.blob.ready(range, now())?,
            Source::Flying(reader) => reader.ready(range)?,
            _ => return None,
        };
        self.note_mapping();
        Some(bytes)
    }

    /// Tells the connection that the next frame may be a slice of a mapped file.
    fn note_mapping(&self) {
        let mapping = match &self.source {
            Source::Stored(stored) => stored.blob.mapping(),
            Source::Flying(reader) => reader.mapping(),
            _ => None,
        };
        if let Some(mapping) = mapping {
            self.meter.client().outbox.note(mapping);
        }
    }

    /// Starts waiting for the next piece.
    fn wait_for(&mut self, range: Range<u64>) {
        self.source = match std::mem::replace(&mut self.source, Source::Done) {
            Source::Stored(stored) => {
                let journey = self.meter.client().door.journey.clone();
                Source::Waiting(Box::pin(async move {
                    match stored.blob.bytes(range.clone()).await {
                        Ok(bytes) => (Source::Stored(stored), Ok(Some(bytes))),
                        Err(fault) => rescue(journey, stored, range, fault).await,
                    }
                }))
            }
            Source::Flying(reader) => {
                Source::Waiting(Box::pin(follow(self.meter.client().door.journey.clone(), reader, range)))
            }
            other => other,
        };
    }

    fn finish<T>(&mut self) -> Poll<Option<T>> {
        self.source = Source::Done;
        self.meter.complete();
        Poll::Ready(None)
    }

    fn send(&mut self, bytes: Bytes) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        self.meter.sent(bytes.len() as u64);
        let more_at_hand =
            matches!(self.source, Source::Stored(_)) && self.segments.remaining().is_some_and(|rest| rest > 0);
        self.meter.client().outbox.expect_more(more_at_hand);
        // hyper does not ask again when it has got what Content-Length says.
        if self.segments.remaining() == Some(0) {
            self.meter.complete();
        }
        Poll::Ready(Some(Ok(Frame::data(bytes))))
    }

    fn fail(&mut self, fault: Fault) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        self.source = Source::Done;
        self.meter.failed(&fault);
        Poll::Ready(Some(Err(fault)))
    }
}

async fn follow(
    journey: Journey,
    mut reader: Box<Reader>,
    range: Range<u64>,
) -> (Source, Result<Option<Bytes>, Fault>) {
    let next = reader.next(range, journey.upstreams()).await;
    (Source::Flying(reader), next)
}

/// A stored object turned out to be damaged: the rest of the answer comes from upstream, if that still has this version.
async fn rescue(
    journey: Journey,
    stored: Stored,
    range: Range<u64>,
    fault: Fault,
) -> (Source, Result<Option<Bytes>, Fault>) {
    if !matches!(fault.cause, Cause::Corrupt { .. } | Cause::Disk { .. }) {
        return (Source::Done, Err(fault));
    }
    tracing::warn!(url = %stored.entry.url, %fault, "a stored object cannot be used; the rest is fetched again");
    match journey.rescue(&stored.entry).await {
        Ok(reader) => follow(journey, Box::new(reader), range).await,
        Err(fault) => (Source::Done, Err(fault)),
    }
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = Fault;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        let this = &mut *self;
        loop {
            match &mut this.source {
                Source::Done => return Poll::Ready(None),
                Source::Text(text) => {
                    let text = std::mem::take(text);
                    this.source = Source::Done;
                    let sent = this.send(text);
                    this.meter.complete();
                    return sent;
                }
                Source::Passed(body) => match ready!(Pin::new(body).poll_frame(cx)) {
                    Some(Ok(frame)) => {
                        this.meter.sent(frame.data_ref().map_or(0, |data| data.len() as u64));
                        if let Source::Passed(body) = &this.source
                            && body.length().is_some_and(|length| this.meter.bytes() >= length)
                        {
                            this.meter.complete();
                        }
                        return Poll::Ready(Some(Ok(frame)));
                    }
                    Some(Err(fault)) => return this.fail(fault),
                    None => return this.finish(),
                },
                Source::Live(texts) => match ready!(texts.poll_next_unpin(cx)) {
                    Some(text) => return this.send(text),
                    None => return this.finish(),
                },
                Source::Waiting(pending) => {
                    let (source, next) = ready!(pending.as_mut().poll(cx));
                    this.source = source;
                    match next {
                        Ok(Some(bytes)) => {
                            this.note_mapping();
                            this.segments.advance(bytes.len() as u64);
                            return this.send(bytes);
                        }
                        Ok(None) if this.segments.open_ended() => return this.finish(),
                        Ok(None) => return this.fail(Fault::internal("the content ended early")),
                        Err(fault) => return this.fail(fault),
                    }
                }
                Source::Stored(_) | Source::Flying(_) => {
                    if let Some(text) = this.segments.text() {
                        return this.send(text);
                    }
                    let Some(range) = this.segments.data(PIECE) else { return this.finish() };
                    match this.ready_piece(range.clone()) {
                        Some(bytes) => {
                            this.segments.advance(bytes.len() as u64);
                            return this.send(bytes);
                        }
                        None => this.wait_for(range),
                    }
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.source, Source::Done)
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Done => SizeHint::with_exact(0),
            Source::Text(text) => SizeHint::with_exact(text.len() as u64),
            Source::Passed(body) => body.size_hint(),
            Source::Live(_) => SizeHint::default(),
            _ => self.segments.remaining().map_or_else(SizeHint::default, SizeHint::with_exact),
        }
    }
}

//! The body of an answer. Whoever reads it drives the connection: no task of its own, no channel in between.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep};

use super::exchange::broken;
use super::pool::{Connection, Pool, Route};
use super::rate::Pace;
use crate::fault::{Cause, Fault};
use crate::os::rate::Limiter;

/// See the module head. Dropping it in the middle closes the connection.
pub struct AnswerBody {
    incoming: Incoming,
    length: Option<u64>,
    host: Arc<str>,
    /// Gone when it has gone back to the pool or has failed.
    connection: Option<Connection>,
    home: Home,
    limiter: Arc<Limiter>,
    stall: Duration,
    /// When patience ends, if bytes are being waited for.
    deadline: Pin<Box<Sleep>>,
    /// Since when bytes are being waited for.
    waiting: Option<Instant>,
    pace: Pace,
    /// What has gone wrong: a broken body never comes to a proper end.
    fault: Option<Fault>,
    /// Until when the rate limit holds us back.
    pause: Option<Pin<Box<Sleep>>>,
}

/// Where a connection belongs when its answer has been read.
pub(super) struct Home {
    pub(super) pool: Arc<Pool>,
    pub(super) route: Route,
}

impl AnswerBody {
    pub(super) fn new(
        incoming: Incoming,
        host: Arc<str>,
        connection: Connection,
        home: Home,
        limiter: Arc<Limiter>,
        stall: Duration,
    ) -> Self {
        let mut body = Self {
            length: incoming.size_hint().exact(),
            incoming,
            host,
            connection: Some(connection),
            home,
            limiter,
            stall,
            deadline: Box::pin(tokio::time::sleep(stall)),
            waiting: None,
            pace: Pace::default(),
            fault: None,
            pause: None,
        };
        body.release_at_end();
        body
    }

    /// Length of the whole body, if upstream told it.
    pub fn length(&self) -> Option<u64> {
        self.length
    }

    /// From now on no pause may be longer than this.
    pub fn set_patience(&mut self, stall: Duration) {
        self.stall = stall;
        self.deadline.as_mut().reset(Instant::now() + stall);
    }

    /// The next bytes; `None` at a proper end.
    ///
    /// # Errors
    /// `Stalled`, `TooSlow`, `Truncated` or `Malformed`; the connection is closed then.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, Fault> {
        loop {
            let Some(frame) = std::future::poll_fn(|cx| self.poll(cx)).await? else { return Ok(None) };
            if let Ok(data) = frame.into_data()
                && !data.is_empty()
            {
                return Ok(Some(data));
            }
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Frame<Bytes>>, Fault>> {
        if let Some(fault) = &self.fault {
            return Poll::Ready(Err(fault.clone()));
        }
        if let Some(pause) = &mut self.pause {
            ready!(pause.as_mut().poll(cx));
            self.pause = None;
        }
        match self.poll_incoming(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                let received = frame.data_ref().map_or(0, |data| data.len() as u64);
                let waited = self.waiting.take().map_or(Duration::ZERO, |since| since.elapsed());
                // Whoever has sent all of it was fast enough.
                if self.pace.is_too_slow(waited, received) && !self.incoming.is_end_stream() {
                    return Poll::Ready(Err(self.break_off(Cause::TooSlow { host: self.host.clone() })));
                }
                let wait = self.limiter.take(received, Instant::now());
                self.pause = (!wait.is_zero()).then(|| Box::pin(tokio::time::sleep(wait)));
                self.release_at_end();
                Poll::Ready(Ok(Some(frame)))
            }
            Poll::Ready(Some(Err(error))) => {
                let fault = broken(&self.host, &error);
                Poll::Ready(Err(self.break_off(fault.cause)))
            }
            Poll::Ready(None) => {
                self.release();
                Poll::Ready(Ok(None))
            }
            Poll::Pending => self.wait(cx),
        }
    }

    /// A connection hands over bytes only when they have been asked for: what it has already is got at the second turn.
    fn poll_incoming(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        for _ in 0..2 {
            if let Some(connection) = &mut self.connection {
                // When it has ended the body says how.
                let _ = connection.poll(cx);
            }
            let polled = Pin::new(&mut self.incoming).poll_frame(cx);
            if polled.is_ready() {
                return polled;
            }
        }
        Poll::Pending
    }

    /// Waits for bytes, but not longer than patience lasts.
    fn wait<T>(&mut self, cx: &mut Context<'_>) -> Poll<Result<T, Fault>> {
        if self.waiting.is_none() {
            let now = Instant::now();
            self.waiting = Some(now);
            self.deadline.as_mut().reset(now + self.stall);
        }
        ready!(self.deadline.as_mut().poll(cx));
        let waited_ms = u64::try_from(self.stall.as_millis()).unwrap_or(u64::MAX);
        Poll::Ready(Err(self.break_off(Cause::Stalled { host: self.host.clone(), waited_ms })))
    }

    fn break_off(&mut self, cause: Cause) -> Fault {
        self.connection = None;
        self.fault.insert(Fault::new(cause)).clone()
    }

    /// A reader who knows the length does not come back for the end: the connection goes home with the last byte.
    fn release_at_end(&mut self) {
        if self.incoming.is_end_stream() {
            self.release();
        }
    }

    fn release(&mut self) {
        if let Some(connection) = self.connection.take() {
            self.home.pool.put(&self.home.route, connection);
        }
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = Fault;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        self.poll(cx).map(Result::transpose)
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

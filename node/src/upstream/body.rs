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

use super::pool::{Connection, Pool, Route};
use super::rate::{Limiter, Pace};
use crate::fault::{Cause, Fault};

/// See the module head. Dropping it in the middle closes the connection.
pub struct AnswerBody {
    incoming: Incoming,
    length: Option<u64>,
    host: Arc<str>,
    /// Gone when it has gone back to the pool or has failed.
    connection: Option<Connection>,
    pool: Arc<Pool>,
    route: Route,
    limiter: Arc<Limiter>,
    stall: Duration,
    /// When patience ends.
    deadline: Pin<Box<Sleep>>,
    /// Until when the rate limit holds us back.
    pause: Option<Pin<Box<Sleep>>>,
    pace: Pace,
    /// Since when upstream is waited for.
    waiting: Option<Instant>,
    received: u64,
}

impl AnswerBody {
    #[allow(clippy::too_many_arguments)] // Made in one place; all of them are needed.
    pub(super) fn new(
        incoming: Incoming,
        host: Arc<str>,
        connection: Connection,
        pool: Arc<Pool>,
        route: Route,
        limiter: Arc<Limiter>,
        stall: Duration,
    ) -> Self {
        let length = incoming.size_hint().exact();
        let deadline = Box::pin(tokio::time::sleep(stall));
        let connection = Some(connection);
        let (pause, pace, waiting, received) = (None, Pace::default(), None, 0);
        Self {
            incoming,
            length,
            host,
            connection,
            pool,
            route,
            limiter,
            stall,
            deadline,
            pause,
            pace,
            waiting,
            received,
        }
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
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, Fault> {
        loop {
            match std::future::poll_fn(|cx| self.poll(cx)).await? {
                None => return Ok(None),
                Some(frame) => {
                    if let Ok(data) = frame.into_data()
                        && !data.is_empty()
                    {
                        return Ok(Some(data));
                    }
                }
            }
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Frame<Bytes>>, Fault>> {
        if let Some(pause) = &mut self.pause {
            ready!(pause.as_mut().poll(cx));
            self.pause = None;
            self.deadline.as_mut().reset(Instant::now() + self.stall);
        }
        if let Some(connection) = &mut self.connection
            && connection.poll(cx).is_ready()
        {
            self.connection = None;
        }
        match Pin::new(&mut self.incoming).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                let received = frame.data_ref().map_or(0, |data| data.len() as u64);
                self.received += received;
                let waited = self.waiting.take().map_or(Duration::ZERO, |since| since.elapsed());
                if self.pace.is_too_slow(waited, received) {
                    self.connection = None;
                    return Poll::Ready(Err(Fault::new(Cause::TooSlow { host: self.host.clone() })));
                }
                let wait = self.limiter.take(received, Instant::now());
                if wait.is_zero() {
                    self.deadline.as_mut().reset(Instant::now() + self.stall);
                } else {
                    self.pause = Some(Box::pin(tokio::time::sleep(wait)));
                }
                Poll::Ready(Ok(Some(frame)))
            }
            Poll::Ready(Some(Err(error))) => {
                self.connection = None;
                Poll::Ready(Err(broken(&self.host, &error)))
            }
            Poll::Ready(None) => {
                if let Some(connection) = self.connection.take() {
                    self.pool.put(&self.route, connection);
                }
                Poll::Ready(Ok(None))
            }
            Poll::Pending => {
                self.waiting.get_or_insert_with(Instant::now);
                ready!(self.deadline.as_mut().poll(cx));
                self.connection = None;
                let waited_ms = u64::try_from(self.stall.as_millis()).unwrap_or(u64::MAX);
                Poll::Ready(Err(Fault::new(Cause::Stalled { host: self.host.clone(), waited_ms })))
            }
        }
    }
}

/// What an error of hyper's in the middle of a body means.
pub(super) fn broken(host: &Arc<str>, error: &hyper::Error) -> Fault {
    let mut detail = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        detail = format!("{detail}: {inner}");
        source = inner.source();
    }
    let (host, detail) = (host.clone(), detail.into());
    Fault::new(match error.is_parse() {
        true => Cause::Malformed { host, detail },
        false => Cause::Truncated { host, detail },
    })
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = Fault;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        self.poll(cx).map(Result::transpose)
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

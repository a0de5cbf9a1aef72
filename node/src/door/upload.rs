//! A client's body on its way up, with a floor under its speed: who drips is cut off.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep};

/// In each such span at least `FLOOR` bytes must come.
const SPAN: Duration = Duration::from_secs(20);
const FLOOR: u64 = 1024;

pub(super) struct Upload {
    incoming: Incoming,
    span_ends: Pin<Box<Sleep>>,
    in_span: u64,
}

impl Upload {
    pub(super) fn new(incoming: Incoming) -> Self {
        Self { incoming, span_ends: Box::pin(tokio::time::sleep(SPAN)), in_span: 0 }
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if self.span_ends.as_mut().poll(cx).is_ready() {
            if self.in_span < FLOOR {
                return Poll::Ready(Some(Err("the client sends its body too slowly".into())));
            }
            self.in_span = 0;
            self.span_ends.as_mut().reset(Instant::now() + SPAN);
            let _ = self.span_ends.as_mut().poll(cx);
        }
        let frame = ready!(Pin::new(&mut self.incoming).poll_frame(cx));
        if let Some(Ok(frame)) = &frame {
            self.in_span += frame.data_ref().map_or(0, |data| data.len() as u64);
        }
        Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

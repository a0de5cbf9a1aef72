//! A download from peers that have all of the object: from one, and from more at once while that one is slow, silent or gone. Who is
//! asked for what is decided by [`Sources`]; here its questions are asked, and what comes is written down. All of it has been checked
//! against the object's name, whoever sent it.

use std::ops::Range;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, BoxStream};
use futures_util::{FutureExt, Stream, StreamExt, TryFutureExt};
use imirror_protocol::sources::{Action, RequestId, Sources};
use imirror_protocol::{self as protocol, NodeId};
use tokio::time::Instant;

use super::pump::Hasher;
use super::source::FIRST_BYTE;
use super::{Flight, Flights};
use crate::cluster::source::PeerSource;
use crate::cluster::transfer::{Trouble, What};
use crate::fault::Fault;
use crate::ledger::Hierarchy;

/// Where nobody is left who could help it is looked so often for others who have the object by now.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A download from several peers.
pub(super) struct Several<'a> {
    flights: &'a Flights,
    flight: &'a Flight,
    sources: Sources,
    /// Who has been asked already, until [`Sources`] wants it asked.
    first: Option<PeerSource>,
    requests: Vec<Request>,
    origin: Instant,
    looked: Instant,
    /// What the last one that failed has done.
    fault: Fault,
}

struct Request {
    id: RequestId,
    peer: NodeId,
    /// The offset of the next byte.
    at: u64,
    chunks: BoxStream<'static, Result<Bytes, Fault>>,
}

/// What a request has brought: bytes, or why there are no more of them.
type Event = (usize, Option<Result<Bytes, Fault>>);

impl<'a> Several<'a> {
    /// `first` sends what is missing already, from its beginning on.
    pub(super) fn new(flights: &'a Flights, flight: &'a Flight, first: PeerSource) -> Self {
        let now = Instant::now();
        Self {
            flights,
            flight,
            sources: Sources::new(flight.free_gaps(), flight.holders(flights, first.peer())),
            fault: no_use(first.peer()),
            first: Some(first),
            requests: Vec::new(),
            origin: now,
            looked: now,
        }
    }

    /// Until nothing is missing but what side requests are fetching.
    ///
    /// # Errors
    /// No peer is left that could be asked for the rest: what the last one did. The disk does not take it, or nobody wants it.
    pub(super) async fn run(mut self, hasher: &Hasher) -> Result<(), Fault> {
        let mut has_begun = false;
        loop {
            // What readers far ahead have asked for comes on the side.
            self.flight.side().under_way.iter().for_each(|range| self.sources.elsewhere(range));
            self.look_for_more();
            while let Some(action) = self.sources.poll(self.now()) {
                match action {
                    Action::Ask { request, peer, bytes } => self.ask(request, peer, bytes),
                    Action::CallOff(request) => self.requests.retain(|each| each.id != request),
                }
            }
            if self.sources.missing().is_empty() {
                return Ok(());
            }
            if self.sources.is_exhausted() {
                return Err(self.fault);
            }
            let deadline = self.sources.deadline(self.now());
            let deadline = deadline.map(|deadline| self.origin + Duration::from_micros(deadline.as_micros()));
            let mut next = tokio::select! {
                biased;
                event = next(&mut self.requests) => Some(event),
                () = sleep_until(deadline) => None,
            };
            // Each gets a turn before anybody is judged: it may be this thread that was held up.
            for _ in 0..self.requests.len() {
                let Some(event) = next.take().or_else(|| self::next(&mut self.requests).now_or_never()) else { break };
                self.happened(event, hasher)?;
            }
            if !std::mem::replace(&mut has_begun, true) {
                // Somebody waits for this piece, perhaps on this very thread (`launch`).
                tokio::task::yield_now().await;
            }
            if !self.flight.worth_finishing() {
                self.flight.wait_for_a_reader().await?;
            }
        }
    }

    fn now(&self) -> protocol::Instant {
        let micros = self.origin.elapsed().as_micros();
        protocol::Instant::from_micros(u64::try_from(micros).unwrap_or(u64::MAX))
    }

    fn look_for_more(&mut self) {
        if let Some(request) = self.requests.first()
            && self.sources.is_short_of_peers()
            && self.looked.elapsed() >= LOOK_EVERY
        {
            self.looked = Instant::now();
            let holders = self.flight.holders(self.flights, request.peer);
            holders.into_iter().for_each(|holder| self.sources.also(holder));
        }
    }

    fn ask(&mut self, id: RequestId, peer: NodeId, bytes: Range<u64>) {
        let site = &self.flights.0.site;
        if self.requests.is_empty() {
            self.flight.set_source(Hierarchy::Sibling(&site.name_of(peer)).to_string());
        }
        let at = bytes.start;
        let asked = self.first.take().filter(|first| first.peer() == peer && first.will_send(&bytes));
        let chunks = match asked {
            Some(source) => chunks(source).boxed(),
            None => {
                tracing::debug!(url = %self.flight.plan().url, %peer, ?bytes, "a peer is asked for a part");
                let (site, key, known) = (site.clone(), self.flight.key(), self.flight.use_peer(peer));
                let expected = self.flight.expected();
                let asked = async move {
                    let got = site.get(peer, &key, known, bytes, FIRST_BYTE).await;
                    // What is still growing there could not be checked as it comes.
                    let whole = got.filter(|(_, told)| told.object.is_some() && told.object == expected);
                    whole.map(|(source, _)| source).ok_or_else(|| no_use(peer))
                };
                asked.map_ok(chunks).try_flatten_stream().boxed()
            }
        };
        self.requests.push(Request { id, peer, at, chunks });
    }

    fn happened(&mut self, (index, brought): Event, hasher: &Hasher) -> Result<(), Fault> {
        let now = self.now();
        let request = &mut self.requests[index];
        match brought {
            Some(Ok(chunk)) => {
                let bytes = request.at..request.at + chunk.len() as u64;
                self.flights.0.ledger.received_from_peers(chunk.len() as u64);
                self.flight.write_missing(bytes.start, &chunk)?;
                hasher.wake();
                request.at = bytes.end;
                self.sources.arrived(now, request.id, bytes);
                // Those that come next get their turn.
                self.requests.rotate_left(index + 1);
            }
            ended => {
                let Request { id, peer, .. } = self.requests.remove(index);
                // When it has sent everything nothing is to be learned of it any more.
                if let Some(Err(fault)) = ended {
                    tracing::info!(url = %self.flight.plan().url, %fault, "a source failed");
                    self.flight.came_in_vain(peer);
                    self.fault = fault;
                }
                self.sources.failed(id);
            }
        }
        Ok(())
    }
}

/// What the next request brings that has something; for ever when there is none.
async fn next(requests: &mut [Request]) -> Event {
    std::future::poll_fn(|cx| {
        for (index, request) in requests.iter_mut().enumerate() {
            if let Poll::Ready(brought) = request.chunks.poll_next_unpin(cx) {
                return Poll::Ready((index, brought));
            }
        }
        Poll::Pending
    })
    .await
}

fn chunks(source: PeerSource) -> impl Stream<Item = Result<Bytes, Fault>> {
    stream::try_unfold(source, async |mut source| Ok(source.chunk().await?.map(|chunk| (chunk, source))))
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// A peer that has it no more, or does not answer.
fn no_use(peer: NodeId) -> Fault {
    Trouble { peer, what: What::Broken }.into()
}

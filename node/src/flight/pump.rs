//! Moves bytes from a source into the growing file, and when a source fails, from the next.
//!
//! A flight's main transfer runs on a thread of the blocking pool: it receives, writes and publishes the offset there,
//! so a slow disk never holds a serving thread. Hashing runs behind it on another one. Only the first piece is written where the head of
//! the answer has come in; what else that thread had to do another one does meanwhile.

use std::future::poll_fn;
use std::io::IoSlice;
use std::ops::Range;
use std::pin::pin;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::sync::{Arc, OnceLock};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method};
use tokio::sync::oneshot;

use super::resume::{self, Version};
use super::row::Row;
use super::several::Several;
use super::source::Source;
use super::{Begun, Departure, Flight, Flights, LONELY_MAX, Phase, SIDE_REQUESTS_MAX};
use crate::classify::Url;
use crate::fault::{Cause, Fault, Retry, Whose};
use crate::os::tasks;
use crate::store::{Entry, Growing};
use crate::upstream::{Patience, Request};

/// A source that answers but brings nothing new this many times in a row is given up.
const FRUITLESS_MAX: u32 = 3;

/// Peers that break off one after the other, without a byte in between.
const PEER_FAULTS_MAX: u32 = 16;

/// How long a flight goes on trying to reach a source at all.
const UNREACHABLE_MAX: Duration = Duration::from_secs(30);

/// Contents below this size are hashed when they are complete, others by a thread behind the writer.
const HASH_BEHIND: u64 = 1024 * 1024;

/// A request for what is missing of a content: as it was first asked for, with a range or conditions.
pub(super) fn request(flight: &Flight, url: &Url, more: &HeaderMap) -> Request {
    let mut fields = flight.fields.clone();
    fields.extend(more.clone());
    let patience =
        Patience { connect: Duration::from_secs(5), head: Duration::from_secs(10), stall: Duration::from_secs(5) };
    Request { method: Method::GET, url: url.clone(), fields, body: None, patience }
}

/// Work on a thread of its own until the node stops; what has all its bytes lands all the same.
async fn unless_stopping<T>(flights: &Flights, flight: &Flight, work: impl Future<Output = T>) -> Option<T> {
    let mut stopping = flights.0.stopping.subscribe();
    let called_off = async {
        let _ = stopping.wait_for(|stop| *stop).await;
        if flight.is_complete() {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        // First: where the runtime is going away no timer may be touched.
        biased;
        () = called_off => None,
        done = work => Some(done),
    }
}

/// Begins a flight, writes what has come with the head of the answer, and flies the rest on a thread of its own: whoever has asked
/// begins to answer without waiting for another thread. `begun` learns of the flight, or gets the answer back with the reason why
/// there is none.
pub(super) fn launch(flights: Flights, departure: Departure, begun: oneshot::Sender<Begun>) {
    let launched = Arc::new(OnceLock::new());
    let flown = {
        let (flights, launched) = (flights.clone(), launched.clone());
        tasks::from_here_on_own_thread("flight", async move {
            let (flight, source, from) = match flights.begin(departure) {
                Ok(begun) => begun,
                Err(refused) => {
                    let _ = begun.send(Err(refused));
                    return None;
                }
            };
            let _ = launched.set(flight.clone());
            // Whoever asked may have gone; the download goes on for those who come.
            let _ = begun.send(Ok(flight.clone()));
            let side = tasks::spawn("side requests", side_requests(flights.clone(), flight.clone()));
            let flown = unless_stopping(&flights, &flight, fly(&flights, &flight, source, from)).await;
            side.abort();
            Some(flown.unwrap_or_else(|| Err(Fault::internal("the node is stopping"))))
        })
    };
    tasks::spawn("flight", async move {
        let flown = flown.await;
        let Some(flight) = launched.get() else { return };
        let phase = match flown.unwrap_or_else(|panic| Some(Err(Fault::internal(panic.to_string())))) {
            Some(Ok(entry)) => Phase::Landed(entry),
            Some(Err(fault)) => {
                match flight.is_kept() {
                    true => tracing::warn!(url = %flight.plan().url, %fault, "a download ended early"),
                    false => tracing::debug!(url = %flight.plan().url, %fault, "what was to pass through ended early"),
                }
                Phase::Failed(fault)
            }
            None => return,
        };
        flights.end(flight, phase).await;
    });
}

async fn fly(flights: &Flights, flight: &Arc<Flight>, source: Source, from: u64) -> Result<Arc<Entry>, Fault> {
    let mut attempts = Attempts::default();
    let mut transfer = Transfer { source, at: from, compare_until: from };
    loop {
        let mut hasher = Hasher::start(flight);
        let total = receive(flights, flight, &mut hasher, transfer, &mut attempts).await?;
        let fault = match land(flight, hasher, total).await {
            Err(fault) if matches!(fault.cause, Cause::WrongDigest { .. }) => fault,
            landed => return landed,
        };
        let url = flight.sources.get(attempts.source);
        if let Some(url) = url.filter(|_| flight.peer().is_none()) {
            tracing::warn!(url = %flight.plan().url, source = %url, %fault, "a server sends wrong bytes; others are asked first");
            flights.0.upstreams.distrust(url, &fault);
        }
        // Who has begun to read would get the two mixed.
        attempts.source += 1;
        if attempts.source >= flight.sources.len() || !flight.begin_anew() {
            return Err(fault);
        }
        let gap = 0..flight.growing.total().unwrap_or(u64::MAX);
        transfer = ask_again(flights, flight, gap, attempts.source).await?;
    }
}

/// Until all bytes are there, from one source after the other; returns how many there are.
async fn receive(
    flights: &Flights,
    flight: &Flight,
    hasher: &mut Hasher,
    mut transfer: Transfer,
    attempts: &mut Attempts,
) -> Result<u64, Fault> {
    loop {
        let had = flight.growing.present_bytes();
        let ended = match transfer.source {
            // A known object: parts of it may come from others.
            Source::Peer(peer) if peer.list().is_some() => {
                Several::new(flights, flight, *peer).run(hasher).await.map(|()| None)
            }
            _ => transfer.run(flights, flight, hasher).await,
        };
        if flight.growing.present_bytes() > had {
            *attempts = Attempts { source: attempts.source, ..Attempts::default() };
        }
        match ended {
            Ok(Some(total)) => return Ok(total),
            Ok(None) if flight.growing.present_bytes() == had && !flight.is_complete() => {
                let fault = Cause::Truncated { host: flight.source().into(), detail: "nothing new came".into() };
                attempts.after(flight, Fault::new(fault)).await?;
            }
            Ok(None) => {}
            Err(fault) => attempts.after(flight, fault).await?,
        }
        match next_transfer(flights, flight, attempts).await? {
            Next::Transfer(next) => transfer = *next,
            Next::Complete(total) => return Ok(total),
        }
    }
}

/// What follows when a transfer has ended.
enum Next {
    Transfer(Box<Transfer>),
    Complete(u64),
}

async fn next_transfer(flights: &Flights, flight: &Flight, attempts: &mut Attempts) -> Result<Next, Fault> {
    loop {
        match flight.next_gap() {
            NextGap::Complete(total) => return Ok(Next::Complete(total)),
            NextGap::UnderWay => flight.wait_for_news().await,
            NextGap::From(gap) => match ask_again(flights, flight, gap, attempts.source).await {
                Ok(transfer) => return Ok(Next::Transfer(Box::new(transfer))),
                Err(fault) => attempts.after(flight, fault).await?,
            },
        }
    }
}

/// All bytes are there: hashes are compared, the file becomes an object, the index learns of it.
async fn land(flight: &Arc<Flight>, hasher: Hasher, total: u64) -> Result<Arc<Entry>, Fault> {
    hasher.finish().await?;
    let object = flight.growing.seal(total).map_err(|mut fault| {
        if let Cause::WrongDigest { host, .. } = &mut fault.cause {
            *host = flight.source().into();
        }
        fault
    })?;
    if flight.expected().is_some_and(|expected| expected != object) {
        return Err(Fault::new(Cause::Changed { host: flight.source().into() }));
    }
    flight.growing.publish()
}

/// A body being received.
struct Transfer {
    source: Source,
    /// The offset of the first byte of the body.
    at: u64,
    /// Until here the body repeats what is there already; a difference means another version.
    compare_until: u64,
}

impl Transfer {
    /// Receives and writes what is missing. Returns the total when the end of a body of unknown length is reached, nothing
    /// when the gap is filled or bytes of another transfer are met.
    async fn run(mut self, flights: &Flights, flight: &Flight, hasher: &Hasher) -> Result<Option<u64>, Fault> {
        flight.set_source(self.source.via());
        let mut received = Received { flight, hasher, row: Row::at(self.at) };
        let ended = self.receive(flights, &mut received).await;
        received.write_all()?;
        ended
    }

    async fn receive(&mut self, flights: &Flights, received: &mut Received<'_>) -> Result<Option<u64>, Fault> {
        let (flight, host) = (received.flight, self.source.host());
        let total = flight.growing.total();
        let mut has_begun = false;
        while let Some(mut chunk) = received.written_while_waiting(self.source.chunk()).await?? {
            self.source.count(&flights.0.ledger, chunk.len() as u64);
            flight.progressed();
            let row = &mut received.row;
            row.skip(self.compare(&flight.growing, row.end, &mut chunk, &host)?);
            if chunk.is_empty() {
                continue;
            }
            let fits = chunk.len().min(usize::try_from(flight.room_at(row.end)).unwrap_or(usize::MAX));
            row.push(chunk.split_to(fits));
            received.write_what_is_due()?;
            if !std::mem::replace(&mut has_begun, true) {
                // Somebody waits for this piece, perhaps on this very thread (`launch`).
                tokio::task::yield_now().await;
            }
            received.written_while_waiting(flight.keep_pace(flights, fits as u64)).await?;
            match total {
                _ if chunk.is_empty() => {}
                Some(total) if received.row.end >= total => {
                    let detail = "more bytes than announced".into();
                    return Err(Fault::new(Cause::Malformed { host: host.into(), detail }));
                }
                _ => return Ok(None),
            }
            if !flight.worth_finishing() {
                received.written_while_waiting(flight.wait_for_a_reader()).await??;
            }
        }
        Ok(if total.is_none() { Some(received.row.end) } else { None })
    }

    /// Takes off the front of `chunk`, which begins at `at`, what is there already, if it is the same; returns how much.
    fn compare(&self, growing: &Growing, at: u64, chunk: &mut Bytes, host: &str) -> Result<u64, Fault> {
        let known = usize::try_from(self.compare_until.saturating_sub(at)).unwrap_or(usize::MAX).min(chunk.len());
        let theirs = chunk.split_to(known);
        if known > 0 && growing.bytes(at..at + known as u64)? != theirs {
            return Err(Fault::new(Cause::Changed { host: host.into() }));
        }
        Ok(known as u64)
    }
}

/// What a transfer has received and not yet written. Nothing is held back while it waits for anything.
struct Received<'a> {
    flight: &'a Flight,
    hasher: &'a Hasher,
    row: Row,
}

impl Received<'_> {
    fn write_what_is_due(&mut self) -> Result<(), Fault> {
        while let Some(end) = self.row.due() {
            self.write_until(end)?;
        }
        Ok(())
    }

    fn write_all(&mut self) -> Result<(), Fault> {
        self.write_until(self.row.end)
    }

    fn write_until(&mut self, end: u64) -> Result<(), Fault> {
        let start = self.row.start;
        let parts = self.row.take_until(end);
        if parts.is_empty() {
            return Ok(());
        }
        let mut slices: Vec<_> = parts.iter().map(|part| IoSlice::new(part)).collect();
        self.flight.growing.write_parts_at(start, &mut slices)?;
        self.flight.news.notify_waiters();
        self.hasher.wake();
        Ok(())
    }

    /// Does something; what has been received is written before anything is waited for.
    async fn written_while_waiting<T>(&mut self, work: impl Future<Output = T>) -> Result<T, Fault> {
        let mut work = pin!(work);
        if let Poll::Ready(done) = poll_fn(|cx| Poll::Ready(work.as_mut().poll(cx))).await {
            return Ok(done);
        }
        self.write_all()?;
        Ok(work.await)
    }
}

/// Asks a source for a gap.
async fn ask_again(flights: &Flights, flight: &Flight, gap: Range<u64>, source: usize) -> Result<Transfer, Fault> {
    if let Some(peer) = flight.ask_peers(flights, &gap).await {
        tracing::info!(url = %flight.plan().url, from = gap.start, peer = %peer.peer(), "a download goes on");
        return Ok(Transfer { source: Source::Peer(Box::new(peer)), at: gap.start, compare_until: gap.start });
    }
    if flight.is_copy && !flight.is_read() {
        return Err(Fault::internal("no peer has the rest of what was to be copied"));
    }
    let plan = flight.plan();
    let Some(url) = flight.sources.get(source % flight.sources.len().max(1)) else {
        return Err(Fault::internal("a download without a source"));
    };
    let same_source = source.is_multiple_of(flight.sources.len().max(1));
    let total = flight.growing.total();
    let version = Version { fields: &plan.head.fields, total, digest_known: plan.digest.is_some() };
    let end = (Some(gap.end) != total && total.is_some()).then_some(gap.end);
    let question = resume::question(version, gap.start, end, same_source);
    let answer = flights.0.upstreams.fetch(request(flight, url, &question.fields)).await?;
    let at = resume::begins_at(version, &question, url.host(), answer.status, &answer.fields, same_source)?;
    tracing::info!(url = %plan.url, from = at, source = %url, "a download goes on");
    Ok(Transfer { source: Source::Upstream(Box::new(answer)), at, compare_until: gap.start })
}

/// When to try which source again.
#[derive(Debug, Default)]
struct Attempts {
    source: usize,
    fruitless: u32,
    unreachable: u32,
    peers: u32,
    waited: Duration,
}

impl Attempts {
    /// Chooses the source and waits; the fault when it is time to give up.
    async fn after(&mut self, flight: &Flight, fault: Fault) -> Result<(), Fault> {
        tracing::info!(url = %flight.plan().url, %fault, "a source failed");
        let delay = self.delay(&fault, flight.sources.len()).ok_or(fault)?;
        tokio::time::sleep(delay).await;
        self.waited += delay;
        Ok(())
    }

    fn delay(&mut self, fault: &Fault, sources: usize) -> Option<Duration> {
        // Each peer is tried once: what one does says nothing of the others, and nothing of upstream.
        if fault.whose == Whose::Peer {
            self.peers += 1;
            return (self.peers <= PEER_FAULTS_MAX).then_some(Duration::ZERO);
        }
        let final_fault = match &fault.cause {
            // Waiting longer for the only source would hold everybody up; who asks again gets another connection.
            Cause::Changed { .. } | Cause::WrongDigest { .. } | Cause::TooSlow { .. } => {
                sources < 2 || self.fruitless > 0
            }
            Cause::Status { status, .. } => *status < 500 && sources < 2,
            _ => fault.retry == Retry::Never || fault.whose == Whose::Disk,
        };
        if final_fault {
            return None;
        }
        let connected = matches!(
            fault.cause,
            Cause::Truncated { .. }
                | Cause::Malformed { .. }
                | Cause::Status { .. }
                | Cause::Changed { .. }
                | Cause::TooSlow { .. }
        );
        if connected {
            self.fruitless += 1;
        } else {
            self.unreachable += 1;
        }
        if fault.retry == Retry::OtherSource || self.fruitless + self.unreachable > 1 {
            self.source += 1;
        }
        let rounds = (self.fruitless + self.unreachable) / u32::try_from(sources.max(1)).unwrap_or(1);
        if self.fruitless >= FRUITLESS_MAX.max(u32::try_from(sources).unwrap_or(u32::MAX))
            || self.waited >= UNREACHABLE_MAX
        {
            return None;
        }
        Some(match rounds {
            0 => Duration::ZERO,
            n => Duration::from_millis(200 << n.min(4)),
        })
    }
}

/// What is still to be asked for.
enum NextGap {
    Complete(u64),
    /// Everything that is missing is being fetched by side requests.
    UnderWay,
    From(Range<u64>),
}

impl Flight {
    fn next_gap(&self) -> NextGap {
        let Some(total) = self.growing.total() else {
            let front = self.growing.present_until(0);
            return NextGap::From(front..u64::MAX);
        };
        let mut at = 0;
        let mut complete = true;
        while let Some(gap) = self.growing.missing(at..total) {
            complete = false;
            match self.free_part(gap.clone()) {
                Some(free) => return NextGap::From(free),
                None => at = gap.end,
            }
        }
        if complete { NextGap::Complete(total) } else { NextGap::UnderWay }
    }

    /// The first part of a gap that no side request is fetching.
    fn free_part(&self, gap: Range<u64>) -> Option<Range<u64>> {
        let side = self.side();
        let mut start = gap.start;
        while let Some(busy) = side.under_way.iter().find(|r| r.contains(&start)) {
            start = busy.end;
        }
        let end = side.under_way.iter().map(|r| r.start).filter(|s| *s > start).min().unwrap_or(gap.end).min(gap.end);
        (start < end).then_some(start..end)
    }

    /// All that is missing and that no side request is fetching, of a content of known length.
    pub(super) fn free_gaps(&self) -> Vec<Range<u64>> {
        let (mut gaps, mut at) = (Vec::new(), 0);
        let total = self.growing.total().unwrap_or(0);
        while let Some(gap) = self.growing.missing(at..total) {
            match self.free_part(gap.clone()) {
                Some(free) => {
                    at = free.end;
                    gaps.push(free);
                }
                None => at = gap.end,
            }
        }
        gaps
    }

    /// Writes what is not there already. For bytes that have been checked: whoever else writes there writes the same.
    pub(super) fn write_missing(&self, from: u64, bytes: &[u8]) -> Result<(), Fault> {
        let end = from + bytes.len() as u64;
        while let Some(gap) = self.growing.missing(from..end) {
            // Both are offsets into a buffer in memory.
            let part = |offset: u64| usize::try_from(offset - from).unwrap_or(bytes.len());
            self.growing.write_at(gap.start, &bytes[part(gap.start)..part(gap.end)])?;
        }
        self.news.notify_waiters();
        Ok(())
    }

    /// How many bytes may be written at this offset before those of another transfer begin.
    fn room_at(&self, at: u64) -> u64 {
        let Some(total) = self.growing.total() else { return u64::MAX };
        match self.growing.missing(at..total) {
            Some(gap) if gap.start == at => gap.end - at,
            _ => 0,
        }
    }

    async fn wait_for_news(&self) {
        // A missed wake-up costs at most this long.
        let _ = tokio::time::timeout(Duration::from_millis(100), self.news()).await;
    }

    /// Nobody reads and it is not worth going on: waits for a reader, for a while.
    pub(super) async fn wait_for_a_reader(&self) -> Result<(), Fault> {
        let somebody = async {
            while !self.worth_finishing() {
                let news = self.news();
                let mut news = std::pin::pin!(news);
                news.as_mut().enable();
                if !self.worth_finishing() {
                    news.await;
                }
            }
        };
        // A body without a known end may have none: it goes with its last reader.
        let endless = self.growing.total().is_none() && self.had_readers.load(Ordering::Relaxed);
        let patience = if endless { Duration::ZERO } else { LONELY_MAX };
        tokio::time::timeout(patience, somebody)
            .await
            .map_err(|_| Fault::internal("all clients left and it was not worth going on"))
    }

    /// Where the bytes come from now.
    pub fn source(&self) -> String {
        self.source.lock().unwrap_or_else(std::sync::PoisonError::into_inner).to_string()
    }

    pub(super) fn set_source(&self, source: String) {
        *self.source.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = source.into();
    }
}

/// Serves readers that wait far ahead of the main transfer, as long as the flight flies.
async fn side_requests(flights: Flights, flight: Arc<Flight>) {
    let permits = Arc::new(tokio::sync::Semaphore::new(SIDE_REQUESTS_MAX));
    let call = flight.side().call.clone();
    loop {
        let wanted = {
            let mut side = flight.side();
            match side.wanted.is_empty() {
                true => None,
                false => Some(side.wanted.remove(0)),
            }
        };
        let Some(wanted) = wanted else {
            call.notified().await;
            continue;
        };
        let Ok(permit) = permits.clone().acquire_owned().await else { return };
        let Some(gap) = flight.growing.missing(wanted).and_then(|gap| flight.free_part(gap)) else { continue };
        flight.side().under_way.push(gap.clone());
        let (flights, flight) = (flights.clone(), flight.clone());
        tasks::spawn("side request", async move {
            let fetched = {
                let (flights, flight, gap) = (flights.clone(), flight.clone(), gap.clone());
                tasks::on_own_thread("side request", async move {
                    unless_stopping(&flights, &flight, fetch_aside(&flights, &flight, gap)).await
                })
                .await
            };
            flight.side().under_way.retain(|r| *r != gap);
            if !matches!(fetched, Ok(Some(Ok(())))) {
                flight.side().impossible.store(true, Ordering::Relaxed);
            }
            flight.news.notify_waiters();
            drop(permit);
        });
    }
}

async fn fetch_aside(flights: &Flights, flight: &Flight, gap: Range<u64>) -> Result<(), Fault> {
    if let Ok(peer) = flight.aside_from_peer(flights, &gap).await {
        let peer = peer.ok_or_else(|| Fault::internal("the peer does not give a part of it"))?;
        return write_aside(flights, flight, Source::Peer(Box::new(peer)), gap).await;
    }
    let plan = flight.plan();
    let version =
        Version { fields: &plan.head.fields, total: flight.growing.total(), digest_known: plan.digest.is_some() };
    if resume::strong_validator(version.fields).is_none() && !version.digest_known {
        return Err(Fault::internal("the version cannot be named"));
    }
    let Some(url) = flight.sources.first() else { return Err(Fault::internal("a download without a source")) };
    let question = resume::question(version, gap.start, Some(gap.end), true);
    let answer = flights.0.upstreams.fetch(request(flight, url, &question.fields)).await?;
    let at = resume::begins_at(version, &question, url.host(), answer.status, &answer.fields, true)?;
    if at != gap.start {
        return Err(Fault::internal("the source does not serve ranges"));
    }
    write_aside(flights, flight, Source::Upstream(Box::new(answer)), gap).await
}

async fn write_aside(flights: &Flights, flight: &Flight, mut source: Source, gap: Range<u64>) -> Result<(), Fault> {
    let mut at = gap.start;
    while let Some(chunk) = source.chunk().await? {
        source.count(&flights.0.ledger, chunk.len() as u64);
        let fits = chunk.len().min(usize::try_from(gap.end - at).unwrap_or(usize::MAX));
        flight.growing.write_at(at, &chunk[..fits])?;
        at += fits as u64;
        flight.news.notify_waiters();
    }
    Ok(())
}

/// Hashes behind the writer. Small contents are hashed at the end, where a thread would cost more than the hash.
pub(super) struct Hasher {
    growing: Arc<Growing>,
    behind: Option<Behind>,
}

/// How to wake the hashing thread, and its end.
type Behind = (mpsc::SyncSender<()>, tokio::task::JoinHandle<Result<(), Fault>>);

impl Hasher {
    fn start(flight: &Flight) -> Self {
        let growing = flight.growing.clone();
        let behind = growing.total().is_none_or(|total| total > HASH_BEHIND).then(|| {
            let (wake, woken) = mpsc::sync_channel(1);
            let growing = growing.clone();
            let thread = tasks::blocking("hash", move || {
                while woken.recv().is_ok() {
                    growing.hash_available()?;
                }
                Ok(())
            });
            (wake, thread)
        });
        Self { growing, behind }
    }

    pub(super) fn wake(&self) {
        if let Some((wake, _)) = &self.behind {
            // Full: it has been woken already.
            let _ = wake.try_send(());
        }
    }

    async fn finish(self) -> Result<(), Fault> {
        if let Some((wake, thread)) = self.behind {
            drop(wake);
            thread.await.unwrap_or_else(|panic| Err(Fault::internal(panic.to_string())))?;
        }
        self.growing.hash_available().map(|_| ())
    }
}

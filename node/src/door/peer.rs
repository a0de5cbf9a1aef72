//! The door for the other nodes of the site: a request is answered from what lies or flies here, **never from upstream**, so that no
//! question goes round in a circle.
//!
//! Gets a stream and makes no connection. What is sent of a stored object has been checked against its name; should it turn out to be
//! damaged in the middle, the stream ends there, and the asker goes on elsewhere.

use std::collections::BTreeMap;
use std::io;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use imirror_protocol::NodeId;
use imirror_protocol::transfer::{
    Answer, Finished, GROUP, Get, Growing, OBJECT_MAX, PIECE_MAX, Span, Want, groups_of, piece_head,
};
use imirror_protocol::wire::{self, HEADER_MAX};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use crate::classify::KeyHash;
use crate::cluster::description::describe;
use crate::flight::{Flights, Here, Reader};
use crate::ledger::Ledger;
use crate::os::clock::Clock;
use crate::store::{Blob, Entry, ObjectId};

/// Bytes of a stored object that are handed to a stream at once.
const PIECE: u64 = 256 * 1024;

/// Somebody who follows a download learns so often that only the download is waiting, not this node.
const ALIVE_EVERY: Duration = Duration::from_millis(50);

/// How much is done for peers at the same time, and how long one of them is waited for.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Transfers in all.
    pub transfers: u32,
    /// Transfers to one peer.
    pub transfers_to_one: u32,
    /// From the beginning of a stream to the end of the request.
    pub request: Duration,
    /// For a peer to take the next `PIECE`.
    pub stall: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        let (request, stall) = (Duration::from_secs(2), Duration::from_secs(30));
        Self { transfers: 256, transfers_to_one: 32, request, stall }
    }
}

/// How a transfer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// All that was asked for has been handed to the stream.
    Sent,
    /// There was nothing to send.
    NotHere,
    /// There is too much to do already.
    Busy,
    /// No request that makes sense, or none in time.
    BadRequest,
    /// The peer left or did not take what it had asked for.
    Left,
    /// What is stored is damaged, or the download that was followed broke off.
    BrokenOff,
}

/// The door. Cheap to clone.
#[derive(Clone)]
pub struct PeerDoor(Arc<Inner>);

struct Inner {
    flights: Flights,
    ledger: Arc<Ledger>,
    clock: Clock,
    limits: Limits,
    under_way: Mutex<UnderWay>,
}

/// Transfers at this moment.
#[derive(Default)]
struct UnderWay {
    all: u32,
    to: BTreeMap<NodeId, u32>,
}

impl PeerDoor {
    pub fn new(flights: Flights, ledger: Arc<Ledger>, clock: Clock, limits: Limits) -> Self {
        Self(Arc::new(Inner { flights, ledger, clock, limits, under_way: Mutex::default() }))
    }

    /// Answers one request of `peer`, whose tag has been read. May be dropped at any time.
    pub async fn serve<S: AsyncRead + AsyncWrite + Unpin>(&self, peer: NodeId, stream: S) -> Ended {
        let mut talk = Talk { stream, door: self };
        let ended = self.hear_and_answer(peer, &mut talk).await.unwrap_or(Ended::Left);
        if matches!(ended, Ended::Sent | Ended::NotHere | Ended::Busy) && talk.finish().await.is_err() {
            return Ended::Left;
        }
        ended
    }

    async fn hear_and_answer<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        peer: NodeId,
        talk: &mut Talk<'_, S>,
    ) -> io::Result<Ended> {
        // Before anything is refused: a stream that is closed while the peer still writes to it looks broken to the peer, not busy.
        let get = match timeout(self.0.limits.request, talk.request()).await {
            Ok(Ok(Some(get))) => get,
            // A question of a later version.
            Ok(Ok(None)) => return talk.say_not_here().await,
            Ok(Err(_)) | Err(_) => return Ok(Ended::BadRequest),
        };
        match self.enter(peer) {
            Some(_place) => self.answer(talk, &get).await,
            None => talk.say(&Answer::Busy).await.map(|()| Ended::Busy),
        }
    }

    /// A place among the transfers, if there is one.
    fn enter(&self, peer: NodeId) -> Option<Place<'_>> {
        let limits = &self.0.limits;
        let mut under_way = self.under_way();
        let to_this_one = under_way.to.get(&peer).copied().unwrap_or(0);
        if under_way.all >= limits.transfers || to_this_one >= limits.transfers_to_one {
            return None;
        }
        under_way.all += 1;
        under_way.to.insert(peer, to_this_one + 1);
        Some(Place { door: self, peer })
    }

    fn under_way(&self) -> MutexGuard<'_, UnderWay> {
        self.0.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn answer<S: AsyncRead + AsyncWrite + Unpin>(&self, talk: &mut Talk<'_, S>, get: &Get) -> io::Result<Ended> {
        let key = KeyHash(get.key.0);
        let mut here = pin!(self.0.flights.here(&key, get.known.map(ObjectId)));
        let here = loop {
            match timeout(ALIVE_EVERY, here.as_mut()).await {
                Ok(here) => break here,
                Err(_) => talk.send(&piece_head(0)).await?,
            }
        };
        match here {
            Ok(Here::Stored(entry, blob)) => self.send(talk, get, &entry, &blob).await,
            Ok(Here::Flying(reader)) => self.follow(talk, get, reader).await,
            Ok(Here::Nothing) | Err(_) => talk.say_not_here().await,
        }
    }

    async fn send<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        talk: &mut Talk<'_, S>,
        get: &Get,
        entry: &Entry,
        blob: &Arc<Blob>,
    ) -> io::Result<Ended> {
        let now = self.0.clock.now();
        let answer = describe(&entry.url, &entry.head, entry.class, entry.digest.as_ref()).map(|description| {
            Answer::Finished(Finished {
                description,
                object: entry.object.0,
                size: entry.size,
                stored_age: millis(now.since(entry.stored_at)),
                confirmed_age: millis(now.since(entry.confirmed_at())),
            })
        });
        let frame = answer.filter(|_| entry.size <= OBJECT_MAX).and_then(|answer| answer.encode().ok());
        let Some(frame) = frame else { return talk.say_not_here().await };
        talk.send(&frame).await?;
        if get.want == Want::Head {
            return Ok(Ended::Sent);
        }
        if get.list {
            talk.send(blob.list()).await?;
        }
        for groups in groups_of(&get.spans, entry.size) {
            let (mut at, end) = (groups.start * GROUP, (groups.end * GROUP).min(entry.size));
            while at < end {
                let piece = match blob.bytes(at..end.min(at + PIECE)).await {
                    Ok(piece) => piece,
                    Err(fault) => {
                        self.0.ledger.failed(self.0.clock.now(), entry.url.as_str(), &fault);
                        self.0.flights.drop_damaged(entry, &fault);
                        return Ok(Ended::BrokenOff);
                    }
                };
                talk.send(&piece).await?;
                self.0.ledger.sent_to_peers(piece.len() as u64);
                at += piece.len() as u64;
            }
        }
        Ok(Ended::Sent)
    }

    async fn follow<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        talk: &mut Talk<'_, S>,
        get: &Get,
        mut reader: Box<Reader>,
    ) -> io::Result<Ended> {
        let plan = reader.flight().plan();
        let total = reader.flight().total();
        let answer = describe(&plan.url, &plan.head, plan.class, plan.digest.as_ref())
            .map(|description| Answer::Growing(Growing { description, total }));
        let can_be_told = total.is_none_or(|total| total <= OBJECT_MAX);
        let frame = answer.filter(|_| can_be_told).and_then(|answer| answer.encode().ok());
        let Some(frame) = frame else { return talk.say_not_here().await };
        talk.send(&frame).await?;
        if get.want == Want::Head {
            return Ok(Ended::Sent);
        }
        let Span { start: mut at, end } = get.spans.first().copied().unwrap_or(Span { start: 0, end: u64::MAX });
        while at < end {
            let range = at..end.min(at.saturating_add(PIECE_MAX as u64));
            let mut next = pin!(reader.arrived(range));
            let arrived = loop {
                match timeout(ALIVE_EVERY, next.as_mut()).await {
                    Ok(arrived) => break arrived,
                    // This is also how a peer that has left is noticed.
                    Err(_) => talk.send(&piece_head(0)).await?,
                }
            };
            match arrived {
                Ok(Some(piece)) => {
                    talk.send(&piece_head(piece.len())).await?;
                    talk.send(&piece).await?;
                    self.0.ledger.sent_to_peers(piece.len() as u64);
                    at += piece.len() as u64;
                }
                Ok(None) => break,
                Err(_) => {
                    talk.say(&Answer::BrokenOff).await?;
                    return Ok(Ended::BrokenOff);
                }
            }
        }
        let complete = reader.flight().entry().map(|entry| (entry.object.0, entry.size));
        talk.say(&Answer::Complete(complete)).await.map(|()| Ended::Sent)
    }
}

/// Counts a transfer as long as it lasts.
struct Place<'a> {
    door: &'a PeerDoor,
    peer: NodeId,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut under_way = self.door.under_way();
        under_way.all -= 1;
        if let Some(count) = under_way.to.get_mut(&self.peer) {
            *count -= 1;
            if *count == 0 {
                under_way.to.remove(&self.peer);
            }
        }
    }
}

/// A stream of a peer, and how long it is waited for.
struct Talk<'a, S> {
    stream: S,
    door: &'a PeerDoor,
}

impl<S: AsyncRead + Unpin> Talk<'_, S> {
    /// The request; `None` when it is of a kind unknown to this version.
    async fn request(&mut self) -> io::Result<Option<Get>> {
        let mut bytes = Vec::with_capacity(256);
        let mut stream = (&mut self.stream).take((HEADER_MAX + Get::BODY_MAX) as u64);
        loop {
            let header = wire::header(&bytes).map_err(io::Error::other)?;
            if let Some(header) = header.filter(|header| bytes.len() >= header.head + header.body) {
                return Get::decode(&bytes[..header.head + header.body]).map_err(io::Error::other);
            }
            // Also the end of what a request may take.
            if stream.read_buf(&mut bytes).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> Talk<'_, S> {
    async fn say(&mut self, answer: &Answer) -> io::Result<()> {
        let frame = answer.encode().map_err(io::Error::other)?;
        self.send(&frame).await
    }

    async fn say_not_here(&mut self) -> io::Result<Ended> {
        self.say(&Answer::NotHere).await.map(|()| Ended::NotHere)
    }

    async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        for piece in bytes.chunks(PIECE as usize) {
            timeout(self.door.0.limits.stall, self.stream.write_all(piece)).await??;
        }
        Ok(())
    }

    async fn finish(&mut self) -> io::Result<()> {
        timeout(self.door.0.limits.stall, self.stream.shutdown()).await?
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;

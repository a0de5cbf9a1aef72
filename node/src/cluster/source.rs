//! An object on its way from a peer: asked for, understood, and the site told how the peer did.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes};
use imirror_protocol::transfer::{Finished, Growing, Span, Want};
use imirror_protocol::{Key, NodeId, Outcome};
use tokio::time::{Instant, timeout};

use super::description::{Described, understand};
use super::links::PeerStream;
use super::site::Site;
use super::transfer::{self, Following, Incoming, Known, Patience, Question, Reply, Trouble, What};
use crate::classify::KeyHash;
use crate::fault::Fault;
use crate::os::rate::Limiter;
use crate::store::{GroupList, ObjectId};

/// A peer that says again and again that it waits itself is believed for so long.
const WAITING_MAX: Duration = Duration::from_secs(30);

/// A peer that sends nothing for so long is left. It takes a busy machine a tenth of that to come round.
const STALL: Duration = Duration::from_millis(500);

/// What a peer says of an object.
#[derive(Debug)]
pub struct Told {
    pub described: Described,
    pub total: Option<u64>,
    /// What it is, as far as that is known: of a growing object not before its end.
    pub object: Option<ObjectId>,
    /// How long ago upstream confirmed it.
    pub confirmed_age: Duration,
}

/// The bytes of an object, or of a part of it, as a peer sends them.
#[derive(Debug)]
pub struct PeerSource {
    call: Call,
    /// What people call the peer.
    name: String,
    sending: Sending,
    /// The offset of the next byte.
    at: u64,
    end: u64,
    /// What is nobody's hurry comes no faster than this.
    limiter: Option<Arc<Limiter>>,
}

#[derive(Debug)]
enum Sending {
    Finished(Incoming<PeerStream>),
    Growing(Following<PeerStream>),
}

/// A peer is asked; the site learns how that went, once.
#[derive(Debug)]
struct Call {
    site: Site,
    peer: NodeId,
    asked_at: Instant,
    outcome: Option<Outcome>,
}

impl Call {
    fn begin(site: &Site, peer: NodeId) -> Self {
        site.asked(peer);
        Self { site: site.clone(), peer, asked_at: Instant::now(), outcome: None }
    }

    fn served(&mut self) {
        self.outcome.get_or_insert(Outcome::Served(self.asked_at.elapsed()));
    }

    fn failed(&mut self, trouble: &Trouble) {
        self.outcome = Some(trouble.outcome());
    }

    /// What it said, unless that cannot be.
    fn sensible(&mut self, told: Option<Told>) -> Option<Told> {
        if told.is_none() {
            self.outcome = Some(Outcome::Wrong);
        }
        told
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        // Whoever has lost interest had no reason to complain so far.
        let outcome = self.outcome.unwrap_or_else(|| Outcome::Served(self.asked_at.elapsed()));
        self.site.answered(self.peer, outcome);
    }
}

impl Site {
    /// Asks a peer for `range` of what a key names; `first_byte` is the patience for its first words. `None` when it has not got it or
    /// does not answer, which the site then knows.
    pub async fn get(
        &self,
        peer: NodeId,
        key: &KeyHash,
        known: Known,
        range: Range<u64>,
        first_byte: Duration,
    ) -> Option<(PeerSource, Told)> {
        let spans = if range == (0..u64::MAX) { Vec::new() } else { vec![Span { start: range.start, end: range.end }] };
        let question = Question { key: Key(key.0), known, want: Want::Content, spans };
        let (mut call, reply) = self.put(peer, question, first_byte).await?;
        let (sending, told) = match reply {
            Reply::Finished(incoming) => {
                let told = told_of_finished(key, incoming.finished());
                (Sending::Finished(incoming), told)
            }
            Reply::Growing(following) => {
                let told = told_of_growing(key, following.growing());
                (Sending::Growing(following), told)
            }
            _ => {
                call.outcome = Some(Outcome::NotHere);
                return None;
            }
        };
        let told = call.sensible(told)?;
        let end = range.end.min(told.total.unwrap_or(u64::MAX));
        let name = self.name_of(peer);
        Some((PeerSource { call, name, sending, at: range.start, end, limiter: None }, told))
    }

    /// What a peer says of what a key names; no content is sent. `None` as for [`Self::get`].
    pub async fn head(&self, peer: NodeId, key: &KeyHash, first_byte: Duration) -> Option<Told> {
        let question = Question { key: Key(key.0), known: Known::Nothing, want: Want::Head, spans: Vec::new() };
        let (mut call, reply) = self.put(peer, question, first_byte).await?;
        let told = match reply {
            Reply::Head(finished) => told_of_finished(key, &finished),
            Reply::GrowingHead(growing) => told_of_growing(key, &growing),
            _ => {
                call.outcome = Some(Outcome::NotHere);
                return None;
            }
        };
        call.sensible(told)
    }

    /// Puts a question to a peer. `None` when it has no time or does not answer.
    async fn put(&self, peer: NodeId, question: Question, first_byte: Duration) -> Option<(Call, Reply<PeerStream>)> {
        let mut call = Call::begin(self, peer);
        let patience = Patience { first_byte, stall: STALL };
        let asked = async {
            let broken = |_| Trouble { peer, what: What::Broken };
            let stream = self.stream(peer).await.map_err(broken)?;
            transfer::ask(peer, stream, &question, patience).await
        };
        let stalled = |_| Err(Trouble { peer, what: What::Stalled(WAITING_MAX) });
        match timeout(WAITING_MAX, asked).await.unwrap_or_else(stalled) {
            Ok(Reply::Busy) => {
                call.outcome = Some(Outcome::Busy);
                None
            }
            Ok(reply) => Some((call, reply)),
            Err(trouble) => {
                tracing::debug!(%trouble, "asked in vain");
                call.failed(&trouble);
                None
            }
        }
    }
}

impl PeerSource {
    pub fn peer(&self) -> NodeId {
        self.call.peer
    }

    /// What people call it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Does it send all of these bytes, and them next?
    pub fn will_send(&self, bytes: &Range<u64>) -> bool {
        self.at == bytes.start && bytes.end <= self.end
    }

    /// From now on it keeps to a limit, together with all that keep to the same.
    pub fn limit(&mut self, limiter: Arc<Limiter>) {
        self.limiter = Some(limiter);
    }

    /// For the other parts of the same object, from this peer or another.
    pub fn list(&self) -> Option<&Arc<GroupList>> {
        match &self.sending {
            Sending::Finished(incoming) => Some(incoming.list()),
            Sending::Growing(_) => None,
        }
    }

    /// The next bytes; `None` after the last that were asked for. Those of a finished object have been checked.
    ///
    /// # Errors
    /// Of the peer: another source has to be found for the rest.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, Fault> {
        loop {
            if self.at >= self.end {
                self.call.served();
                return Ok(None);
            }
            let next = async {
                match &mut self.sending {
                    Sending::Finished(incoming) => incoming.next().await,
                    Sending::Growing(following) => following.next().await,
                }
            };
            let stalled = |_| Err(Trouble { peer: self.call.peer, what: What::Stalled(WAITING_MAX) });
            let next = timeout(WAITING_MAX, next).await.unwrap_or_else(stalled);
            match next {
                Ok(Some((offset, mut bytes))) => {
                    self.call.served();
                    // Groups come whole: what is not wanted of the first and the last goes.
                    let skip = self.at.saturating_sub(offset).min(bytes.len() as u64);
                    bytes.advance(usize::try_from(skip).unwrap_or(bytes.len()));
                    let wanted = usize::try_from(self.end - self.at).unwrap_or(usize::MAX);
                    bytes.truncate(wanted);
                    self.at += bytes.len() as u64;
                    if !bytes.is_empty() {
                        if let Some(limiter) = &self.limiter {
                            tokio::time::sleep(limiter.take(bytes.len() as u64, Instant::now())).await;
                        }
                        return Ok(Some(bytes));
                    }
                }
                Ok(None) => {
                    self.call.served();
                    return Ok(None);
                }
                Err(trouble) => {
                    self.call.failed(&trouble);
                    return Err(trouble.into());
                }
            }
        }
    }
}

fn told_of_finished(key: &KeyHash, finished: &Finished) -> Option<Told> {
    Some(Told {
        described: understand(key, &finished.description)?,
        total: Some(finished.size),
        object: Some(ObjectId(finished.object)),
        confirmed_age: Duration::from_millis(finished.confirmed_age),
    })
}

fn told_of_growing(key: &KeyHash, growing: &Growing) -> Option<Told> {
    let described = understand(key, &growing.description)?;
    Some(Told { described, total: growing.total, object: None, confirmed_age: Duration::ZERO })
}

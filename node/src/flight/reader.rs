//! A reader of a flight: follows the growing file at its own speed.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use http::StatusCode;

use super::resume::{self, Version};
use super::{Flight, Phase};
use crate::fault::{Cause, Fault, Whose};
use crate::os::mapping::Mapping;
use crate::upstream::{AnswerBody, Upstreams};

/// A cursor's view of the content. Dropping it says that nobody waits here any more.
pub struct Reader {
    flight: Arc<Flight>,
    /// When the disk fails in mid-download, this reader goes on straight from upstream (FAULTS.md 9).
    detour: Option<Detour>,
}

struct Detour {
    body: AnswerBody,
    /// What has come from `body` and was not asked for yet.
    left: Bytes,
    /// The offset of the first byte of `left`.
    at: u64,
}

/// What came of waiting.
enum Wait {
    Ready(u64),
    End,
}

impl Reader {
    pub(super) fn new(flight: Arc<Flight>) -> Self {
        flight.readers.fetch_add(1, Ordering::Relaxed);
        flight.had_readers.store(true, Ordering::Relaxed);
        // The download may be waiting for somebody to come.
        flight.news.notify_waiters();
        Self { flight, detour: None }
    }

    pub fn flight(&self) -> &Arc<Flight> {
        &self.flight
    }

    /// The mapping that bytes of this reader may be slices of.
    pub fn mapping(&self) -> Option<&Arc<Mapping>> {
        self.flight.growing.mapping()
    }

    /// What is there of the range, from its start on, without waiting; `None` when nothing is.
    pub fn ready(&self, range: Range<u64>) -> Option<Bytes> {
        if self.detour.is_some() {
            return None;
        }
        let end = self.flight.readable_until(range.start).min(range.end);
        if end <= range.start {
            return None;
        }
        // Without a mapping bytes are copied from the file: not on a serving thread.
        self.flight.growing.mapping()?;
        self.flight.growing.bytes(range.start..end).ok()
    }

    /// The next bytes of the range, at most `range.end - range.start`; `None` at the end of the content.
    pub async fn next(&mut self, range: Range<u64>, upstreams: &Upstreams) -> Result<Option<Bytes>, Fault> {
        if self.detour.is_none() {
            match self.arrived(range.clone()).await {
                Ok(bytes) => return Ok(bytes),
                Err(fault) if could_not_be_kept(&fault) => {
                    self.detour = Some(take_detour(&self.flight, range.start, fault, upstreams).await?);
                }
                Err(fault) => return Err(fault),
            }
        }
        self.follow_detour(range).await
    }

    /// As `next`, but of what the flight itself brings only.
    pub async fn arrived(&mut self, range: Range<u64>) -> Result<Option<Bytes>, Fault> {
        match wait(&self.flight, &range).await? {
            Wait::End => Ok(None),
            Wait::Ready(end) => read(&self.flight, range.start..end.min(range.end)).await.map(Some),
        }
    }

    async fn follow_detour(&mut self, range: Range<u64>) -> Result<Option<Bytes>, Fault> {
        let Some(detour) = &mut self.detour else { return Ok(None) };
        loop {
            let skip = range.start.saturating_sub(detour.at);
            if skip < detour.left.len() as u64 {
                break;
            }
            detour.at += detour.left.len() as u64;
            match detour.body.chunk().await? {
                Some(chunk) => detour.left = chunk,
                None if self.flight.growing.total().is_none_or(|total| detour.at >= total) => return Ok(None),
                None => return Err(Fault::internal("upstream ended early on the way round the full disk")),
            }
        }
        let skip = range.start.saturating_sub(detour.at);
        let take = (detour.left.len() as u64 - skip).min(range.end - range.start);
        // Both are at most the length of a buffer in memory.
        let (skip, take) = (usize::try_from(skip).unwrap_or(0), usize::try_from(take).unwrap_or(0));
        let mut out = detour.left.split_to(skip + take);
        detour.at += out.len() as u64;
        Ok(Some(out.split_off(skip)))
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.flight.readers.fetch_sub(1, Ordering::Relaxed);
        self.flight.news.notify_waiters();
    }
}

/// Upstream was fine, only the store could not go on.
fn could_not_be_kept(fault: &Fault) -> bool {
    fault.whose == Whose::Disk || matches!(fault.cause, Cause::TooLarge { .. })
}

async fn wait(flight: &Flight, range: &Range<u64>) -> Result<Wait, Fault> {
    loop {
        let news = flight.news();
        let mut news = std::pin::pin!(news);
        news.as_mut().enable();
        let phase = flight.phase().clone();
        let end = flight.readable_until(range.start);
        if end > range.start {
            return Ok(Wait::Ready(end));
        }
        match phase {
            Phase::Landed(_) => return Ok(Wait::End),
            Phase::Failed(fault) => return Err(fault),
            Phase::Flying => {}
        }
        flight.want(range.clone());
        news.await;
    }
}

async fn read(flight: &Flight, range: Range<u64>) -> Result<Bytes, Fault> {
    if flight.growing.mapping().is_some() {
        return flight.growing.bytes(range);
    }
    let growing = flight.growing.clone();
    let read = crate::os::tasks::blocking("read a growing file", move || growing.bytes(range));
    read.await.unwrap_or_else(|panic| Err(Fault::internal(panic.to_string())))
}

/// Asks upstream for the rest of this very version; `fault` when that is not possible.
async fn take_detour(flight: &Flight, from: u64, fault: Fault, upstreams: &Upstreams) -> Result<Detour, Fault> {
    let plan = flight.plan();
    let version = Version { fields: &plan.head.fields, total: flight.growing.total(), digest_known: false };
    let question = resume::question(version, from, None, true);
    let Some(url) = flight.sources.first() else { return Err(fault) };
    // Nothing could be compared here: only a validator that upstream confirms will do. No digest is checked, either, as
    // with everything else that is passed on; the client does that.
    if resume::strong_validator(&plan.head.fields).is_none() {
        return Err(fault);
    }
    let answer = upstreams.fetch(super::pump::request(flight, url, &question.fields)).await?;
    let at = resume::begins_at(version, &question, url.host(), answer.status, &answer.fields, true)?;
    if at != from && answer.status != StatusCode::OK {
        return Err(fault);
    }
    Ok(Detour { body: answer.body, left: Bytes::new(), at })
}

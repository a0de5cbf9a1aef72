//! One object from several peers: which bytes to ask of whom, and when.
//!
//! One peer is asked first. Another is asked for the second half of what is left while the first would take long; for the same bytes
//! when it falls silent or crawls to its end; and for the rest when it fails. Whoever has done its part takes half of another's. Bytes
//! are asked for twice only from a peer that seems to have stalled, and of two that send the same one is called off as soon as it is
//! clear which is alive. Nobody sends for long what has come from elsewhere: it is called off and asked for what follows.
//!
//! The driver calls [`Sources::poll`] until it says nothing more: after each event, and at [`Sources::deadline`].

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::ops::Range;
use core::time::Duration;

use crate::health::Source;
use crate::identity::NodeId;
use crate::time::Instant;
use crate::transfer::GROUP;

/// Requests for one object at the same time.
pub const REQUESTS_MAX: usize = 4;
/// A request that will take longer than this is slow: another peer helps.
const SLOW: Duration = Duration::from_secs(1);
/// A peer that would send more than this of what is not missing is asked anew: it costs a turn there and back, and what is under way.
const SKIPPED: u64 = 4 * GROUP;
/// How fast a peer sends is measured over so long.
const WINDOW: Duration = Duration::from_millis(250);

/// Names a request of one [`Sources`]; later ones are greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RequestId(u32);

/// What the driver is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Ask a peer for these bytes, and tell what comes of it under this name.
    Ask {
        /// The name.
        request: RequestId,
        /// Whom.
        peer: NodeId,
        /// Offsets of the bytes. But for the very first one and the last they are borders of groups.
        bytes: Range<u64>,
    },
    /// Read no further: the rest is not wanted, or comes from another.
    CallOff(RequestId),
}

/// See the module head.
#[derive(Clone, Debug)]
pub struct Sources {
    /// What has not arrived: ascending, apart from each other.
    missing: Vec<Range<u64>>,
    /// Peers that are not asked for anything now, best first.
    idle: VecDeque<Source>,
    requests: Vec<Request>,
    /// How many are to send at the same time.
    at_once: usize,
    called_off: Vec<RequestId>,
    next: u32,
}

#[derive(Clone, Debug)]
struct Request {
    id: RequestId,
    source: Source,
    /// The bytes still to come from it.
    left: Range<u64>,
    /// The end that was asked for; the last part may have been given to another.
    asked_end: u64,
    heard_at: Instant,
    measured_at: Instant,
    /// Bytes since `measured_at`.
    measured: u64,
    /// Bytes per second, once it has been measured.
    rate: Option<u64>,
}

impl Sources {
    /// `wanted`: offsets, ascending and apart from each other. `sources`: who has it, best first.
    pub fn new(wanted: impl IntoIterator<Item = Range<u64>>, sources: impl IntoIterator<Item = Source>) -> Self {
        Self {
            missing: wanted.into_iter().filter(|range| !range.is_empty()).collect(),
            idle: sources.into_iter().collect(),
            requests: Vec::new(),
            at_once: 1,
            called_off: Vec::new(),
            next: 0,
        }
    }

    /// What has not arrived: ascending, apart from each other.
    pub fn missing(&self) -> &[Range<u64>] {
        &self.missing
    }

    /// Bytes are missing and no peer is left to ask: the rest has to come from elsewhere.
    pub fn is_exhausted(&self) -> bool {
        !self.missing.is_empty() && self.requests.is_empty() && self.idle.is_empty()
    }

    /// One that sends is slow, and nobody is left who could help it.
    pub fn is_short_of_peers(&self) -> bool {
        self.idle.is_empty() && self.requests.len() < REQUESTS_MAX && self.requests.iter().any(Request::is_slow)
    }

    /// A peer has it, too: it is asked when all others are busy. One that is known already stays where it is.
    pub fn also(&mut self, source: Source) {
        let mut known = self.idle.iter().chain(self.requests.iter().map(|request| &request.source));
        if known.all(|known| known.peer != source.peer) {
            self.idle.push_back(source);
        }
    }

    /// Bytes have come, and are right.
    pub fn arrived(&mut self, now: Instant, request: RequestId, bytes: Range<u64>) {
        subtract(&mut self.missing, &bytes);
        let Some(index) = self.requests.iter().position(|each| each.id == request) else { return };
        let one = &mut self.requests[index];
        one.left.start = one.left.start.max(bytes.end);
        one.heard_at = now;
        one.measured += bytes.end - bytes.start;
        one.measure(now);
        // Of two that were asked for the same the later one is right to send it, and the earlier one when it is quick again.
        let (left, is_slow) = (one.left.clone(), one.is_slow());
        self.end(|each| each.id != request && overlap(&each.left, &left) && (each.id < request || !is_slow));
    }

    /// These bytes have come from elsewhere, or are about to: no peer is asked for them.
    pub fn elsewhere(&mut self, bytes: &Range<u64>) {
        subtract(&mut self.missing, bytes);
    }

    /// A peer is of no more use for this object: it broke off, sent wrong bytes or was silent for too long.
    pub fn failed(&mut self, request: RequestId) {
        self.requests.retain(|each| each.id != request);
    }

    /// The next thing to do now, if there is any.
    pub fn poll(&mut self, now: Instant) -> Option<Action> {
        self.requests.iter_mut().for_each(|request| request.measure(now));
        self.end_what_is_done();
        if let Some(request) = self.called_off.pop() {
            return Some(Action::CallOff(request));
        }
        if self.missing.is_empty() || self.idle.is_empty() || self.requests.len() >= REQUESTS_MAX {
            return None;
        }
        let sending = self.requests.iter().filter(|request| !request.has_stalled(now)).count();
        let nothing_unasked = self.unasked(now).is_none();
        if nothing_unasked || sending >= self.at_once {
            let slowest = self.slowest(now)?;
            self.at_once = self.at_once.max(sending + 1);
            if nothing_unasked {
                self.requests[slowest].give_up_half(now);
            }
        }
        let bytes = self.unasked(now)?;
        let source = self.idle.pop_front()?;
        let request = Request::new(RequestId(self.next), source, bytes.clone(), now);
        self.next += 1;
        let ask = Action::Ask { request: request.id, peer: source.peer, bytes };
        self.requests.push(request);
        Some(ask)
    }

    /// When to poll again at the latest, if nothing happens before.
    pub fn deadline(&self, now: Instant) -> Option<Instant> {
        if self.idle.is_empty() || self.requests.len() >= REQUESTS_MAX {
            return None;
        }
        let silent = |request: &Request| request.heard_at + request.source.hedge_after;
        let sending = self.requests.iter().filter(|request| !request.has_stalled(now));
        sending.map(|request| silent(request).min(request.measured_at + WINDOW)).min()
    }

    /// Those that have brought everything, or have nothing more to bring that is missing, or not soon.
    fn end_what_is_done(&mut self) {
        let missing = core::mem::take(&mut self.missing);
        let is_next = |range: &Range<u64>, left: &Range<u64>| {
            overlap(range, left) && range.start.saturating_sub(left.start) <= SKIPPED
        };
        self.end(|each| !missing.iter().any(|range| is_next(range, &each.left)));
        self.missing = missing;
    }

    fn end(&mut self, is_over: impl Fn(&Request) -> bool) {
        for index in (0..self.requests.len()).rev() {
            if !is_over(&self.requests[index]) {
                continue;
            }
            let over = self.requests.remove(index);
            if over.left.start < over.asked_end {
                self.called_off.push(over.id);
            }
            // Who has done its part is known to be good.
            if over.left.is_empty() { self.idle.push_front(over.source) } else { self.idle.push_back(over.source) }
        }
    }

    /// The first missing bytes that nobody is sending.
    fn unasked(&self, now: Instant) -> Option<Range<u64>> {
        let sending = || self.requests.iter().filter(|request| !request.has_stalled(now)).map(|request| &request.left);
        self.missing.iter().find_map(|gap| {
            let mut start = gap.start;
            while let Some(left) = sending().find(|left| left.contains(&start)) {
                start = left.end;
            }
            let end =
                sending().map(|left| left.start).filter(|next| *next > start).min().unwrap_or(gap.end).min(gap.end);
            (start < end).then_some(start..end)
        })
    }

    /// The one that will take longest, if that is too long and there is a part to take from it.
    fn slowest(&self, now: Instant) -> Option<usize> {
        let helped = |request: &&Request| request.is_slow() && request.can_be_split() && !request.has_stalled(now);
        let slowest = self.requests.iter().filter(helped).max_by_key(|request| request.remaining())?.id;
        self.requests.iter().position(|request| request.id == slowest)
    }
}

impl Request {
    const fn new(id: RequestId, source: Source, bytes: Range<u64>, now: Instant) -> Self {
        let asked_end = bytes.end;
        Self { id, source, left: bytes, asked_end, heard_at: now, measured_at: now, measured: 0, rate: None }
    }

    fn measure(&mut self, now: Instant) {
        let took = now.since(self.measured_at);
        if took >= WINDOW {
            let rate = u128::from(self.measured) * 1_000_000 / took.as_micros();
            self.rate = Some(u64::try_from(rate).unwrap_or(u64::MAX));
            (self.measured_at, self.measured) = (now, 0);
        }
    }

    fn give_up_half(&mut self, now: Instant) {
        self.left.end = (self.left.start + (self.left.end - self.left.start) / 2).next_multiple_of(GROUP);
        // Whether that was enough is seen when it has been measured again.
        (self.measured_at, self.measured, self.rate) = (now, 0, None);
    }

    /// Until the last byte, as far as that has been measured.
    fn remaining(&self) -> Option<Duration> {
        let left = u128::from(self.left.end.saturating_sub(self.left.start)) * 1000;
        let millis = left / u128::from(self.rate?.max(1));
        Some(Duration::from_millis(u64::try_from(millis).unwrap_or(u64::MAX)))
    }

    fn is_slow(&self) -> bool {
        self.remaining().is_some_and(|remaining| remaining > SLOW)
    }

    const fn can_be_split(&self) -> bool {
        self.left.end.saturating_sub(self.left.start) > 2 * GROUP
    }

    /// Is it time to ask another for the same?
    fn has_stalled(&self, now: Instant) -> bool {
        now.since(self.heard_at) >= self.source.hedge_after || (self.is_slow() && !self.can_be_split())
    }
}

const fn overlap(one: &Range<u64>, other: &Range<u64>) -> bool {
    one.start < other.end && other.start < one.end
}

fn subtract(from: &mut Vec<Range<u64>>, bytes: &Range<u64>) {
    let parts = |range: &Range<u64>| [range.start..range.end.min(bytes.start), range.start.max(bytes.end)..range.end];
    *from = from.iter().flat_map(parts).filter(|part| !part.is_empty()).collect();
}

#[cfg(test)]
mod tests;

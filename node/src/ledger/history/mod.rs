//! What went through this node over the last month, and ever: rings of sums in three widths, fed with the counters every
//! few seconds. Pure; `file` keeps it. The page's chart and what was saved come from here.

mod file;
mod ring;

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::status::Traffic;
use crate::os::clock::Timestamp;
pub use file::File;
use ring::Ring;

/// Sums of what has happened, since the start of the node or within some time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Sums {
    pub bytes_from_memory: u64,
    pub bytes_from_disk: u64,
    pub bytes_from_peers: u64,
    pub bytes_from_upstream: u64,
    pub bytes_to_clients: u64,
    pub bytes_to_peers: u64,
    pub requests: u64,
    /// Answered without upstream, or while it was down: from here or from a peer.
    pub hits: u64,
    pub misses: u64,
    pub errors: u64,
    /// Milliseconds in which upstream sent something.
    pub upstream_busy_ms: u64,
}

/// Numbers in [`Sums`].
const SUMS: usize = 11;

/// How far back a series goes, and how finely.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Span {
    /// An hour, every 10 s.
    Hour,
    /// Two days, every 5 minutes.
    Days,
    /// A month of 31 days, every hour.
    Month,
}

/// Rates of bytes by where they came from, oldest first; `None` where the node did not run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Series {
    /// Of the first interval, in seconds since 1970.
    pub start: u64,
    /// Seconds that an interval is long.
    pub step: u64,
    /// Bytes a second from memory, disk, peers and upstream.
    pub memory: Vec<Option<u64>>,
    pub disk: Vec<Option<u64>>,
    pub peers: Vec<Option<u64>>,
    pub upstream: Vec<Option<u64>>,
}

impl Series {
    /// Adds what another node has counted in the same intervals, by its own clock.
    pub fn add(&mut self, other: &Self) {
        if other.step != self.step || self.step == 0 {
            return;
        }
        let add = |to: &mut Vec<Option<u64>>, from: &[Option<u64>]| {
            for (i, rate) in from.iter().enumerate() {
                let place = (other.start / other.step + i as u64).checked_sub(self.start / self.step);
                let place = place.and_then(|place| to.get_mut(usize::try_from(place).ok()?));
                if let (Some(place), Some(rate)) = (place, rate) {
                    *place = Some(place.unwrap_or(0).saturating_add(*rate));
                }
            }
        };
        add(&mut self.memory, &other.memory);
        add(&mut self.disk, &other.disk);
        add(&mut self.peers, &other.peers);
        add(&mut self.upstream, &other.upstream);
    }
}

/// What was counted before this node's start, and since.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct History {
    rings: [Ring; 3],
    total: Sums,
    /// The counters when they were last looked at.
    last: Option<(Timestamp, Sums)>,
}

impl Span {
    const ALL: [Self; 3] = [Self::Hour, Self::Days, Self::Month];

    /// The span of this name in a URL.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|span| span.name() == name)
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Hour => "hour",
            Self::Days => "days",
            Self::Month => "month",
        }
    }

    /// Seconds of an interval, and how many there are.
    const fn dimensions(self) -> (u64, usize) {
        match self {
            Self::Hour => (10, 360),
            Self::Days => (300, 576),
            Self::Month => (3600, 744),
        }
    }
}

impl Default for History {
    fn default() -> Self {
        Self { rings: Span::ALL.map(|span| Ring::new(span.dimensions())), total: Sums::default(), last: None }
    }
}

impl History {
    /// Takes note of the counters as they are now; they begin with zero when the node starts. To be called at least every
    /// 10 s, for what happened in between is told to the interval of `now`.
    pub fn record(&mut self, now: Timestamp, counters: Sums) {
        let (before, known) = self.last.unwrap_or((now, Sums::default()));
        // Of two who look at the same time, the one with the older counters may come last.
        let counters = counters.with(&known, u64::max);
        let mut new = counters.since(&known);
        if new.bytes_from_upstream > 0 {
            new.upstream_busy_ms = u64::try_from(now.since(before).as_millis()).unwrap_or(u64::MAX);
        }
        self.last = Some((now, counters));
        self.total = self.total.plus(&new);
        for ring in &mut self.rings {
            ring.add(now.unix_seconds(), &new);
        }
    }

    /// Everything since this history began.
    pub fn total(&self) -> Sums {
        self.total
    }

    /// What happened from `since` on, at most two days before `now`, to a precision of 5 minutes.
    pub fn since(&self, since: Timestamp, now: Timestamp) -> Sums {
        let range = since.unix_seconds()..=now.unix_seconds();
        self.ring(Span::Days).within(range).fold(Sums::default(), |sum, (_, sums)| sum.plus(sums))
    }

    /// The last hour, two days or month, up to and with the interval of `now`.
    pub fn series(&self, span: Span, now: Timestamp) -> Series {
        let ring = self.ring(span);
        let (start, sums) = ring.last(now.unix_seconds());
        // The last interval is not over yet; what is counted looks back some two seconds.
        let begun = (now.unix_seconds() % ring.step).clamp(2, ring.step);
        let seconds = |i: usize| if i + 1 == sums.len() { begun } else { ring.step };
        let rate = |pick: fn(&Sums) -> u64, i: usize, sums: &Option<Sums>| sums.map(|sums| pick(&sums) / seconds(i));
        let rates = |pick| sums.iter().enumerate().map(|(i, sums)| rate(pick, i, sums)).collect();
        Series {
            start,
            step: ring.step,
            memory: rates(|sums| sums.bytes_from_memory),
            disk: rates(|sums| sums.bytes_from_disk),
            peers: rates(|sums| sums.bytes_from_peers),
            upstream: rates(|sums| sums.bytes_from_upstream),
        }
    }

    /// The end of [`History::series`]: the interval of `now` and the one before.
    pub fn recent(&self, span: Span, now: Timestamp) -> Series {
        let mut series = self.series(span, now);
        let left_out = series.memory.len().saturating_sub(2);
        series.start += series.step * left_out as u64;
        for rates in [&mut series.memory, &mut series.disk, &mut series.peers, &mut series.upstream] {
            rates.drain(..left_out);
        }
        series
    }

    /// Sums by the hour, the latest first, for so many hours; hours in which the node did not run are left out.
    pub fn hours(&self, now: Timestamp, hours: usize) -> Vec<(Timestamp, Sums)> {
        let first = now.before(Duration::from_secs(3600) * u32::try_from(hours.saturating_sub(1)).unwrap_or(u32::MAX));
        let from = first.unix_seconds() / 3600 * 3600;
        let ring = self.ring(Span::Month);
        let mut found: Vec<_> =
            ring.within(from..=now.unix_seconds()).map(|(at, s)| (Timestamp(at * 1000), *s)).collect();
        found.sort_by_key(|(at, _)| std::cmp::Reverse(*at));
        found
    }

    fn ring(&self, span: Span) -> &Ring {
        &self.rings[span as usize]
    }
}

impl Sums {
    /// Bytes that clients got and that did not cross the uplink. A node that fetches for others may have a deficit, which
    /// counts as none.
    pub fn bytes_saved(&self) -> u64 {
        self.bytes_to_clients.saturating_sub(self.bytes_from_upstream)
    }

    /// How long the uplink would have been busy with [`Sums::bytes_saved`], at the rate that it had while it was busy.
    pub fn time_saved(&self) -> Option<Duration> {
        let busy = self.upstream_busy_ms as f64 / 1e3;
        (self.bytes_from_upstream > 0 && busy > 0.0)
            .then(|| self.bytes_saved() as f64 / self.bytes_from_upstream as f64 * busy)
            .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
    }

    /// The part of the answers, between 0 and 1, for which upstream did not have to send the content; `None` of none.
    pub fn hit_ratio(&self) -> Option<f64> {
        let all = self.hits + self.misses;
        (all > 0).then(|| self.hits as f64 / all as f64)
    }

    /// The part of the bytes, between 0 and 1, that did not cross the uplink; `None` of none.
    pub fn byte_hit_ratio(&self) -> Option<f64> {
        (self.bytes_to_clients > 0).then(|| self.bytes_saved() as f64 / self.bytes_to_clients as f64)
    }

    /// Both together.
    pub fn plus(&self, other: &Self) -> Self {
        self.with(other, u64::saturating_add)
    }

    fn since(&self, earlier: &Self) -> Self {
        self.with(earlier, u64::saturating_sub)
    }

    fn with(&self, other: &Self, each: fn(u64, u64) -> u64) -> Self {
        let (a, b) = (self.numbers(), other.numbers());
        Self::from_numbers(std::array::from_fn(|i| each(a[i], b[i])))
    }

    /// In the order of the file, which is that of the fields.
    fn numbers(&self) -> [u64; SUMS] {
        let s = self;
        [
            s.bytes_from_memory,
            s.bytes_from_disk,
            s.bytes_from_peers,
            s.bytes_from_upstream,
            s.bytes_to_clients,
            s.bytes_to_peers,
            s.requests,
            s.hits,
            s.misses,
            s.errors,
            s.upstream_busy_ms,
        ]
    }

    fn from_numbers(n: [u64; SUMS]) -> Self {
        Self {
            bytes_from_memory: n[0],
            bytes_from_disk: n[1],
            bytes_from_peers: n[2],
            bytes_from_upstream: n[3],
            bytes_to_clients: n[4],
            bytes_to_peers: n[5],
            requests: n[6],
            hits: n[7],
            misses: n[8],
            errors: n[9],
            upstream_busy_ms: n[10],
        }
    }
}

impl From<&Traffic> for Sums {
    fn from(traffic: &Traffic) -> Self {
        Self {
            bytes_from_memory: traffic.bytes_from_memory,
            bytes_from_disk: traffic.bytes_from_disk,
            bytes_from_peers: traffic.bytes_from_peers,
            bytes_from_upstream: traffic.bytes_from_upstream,
            bytes_to_clients: traffic.bytes_to_clients,
            bytes_to_peers: traffic.bytes_to_peers,
            requests: traffic.requests,
            hits: traffic.hits + traffic.peer_hits + traffic.stale,
            misses: traffic.misses,
            errors: traffic.errors,
            upstream_busy_ms: 0,
        }
    }
}

#[cfg(test)]
mod tests;

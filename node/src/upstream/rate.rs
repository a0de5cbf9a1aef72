//! Bytes a second from upstream: the most that is taken (whoever has taken too much waits until the average is right
//! again), and the least that is put up with.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// A bucket that is filled at the rate and holds a quarter of a second's worth.
pub(super) struct Limiter {
    bytes_per_second: Option<u64>,
    /// When what has been taken so far will have been earned.
    paid_until: Mutex<Option<Instant>>,
}

impl Limiter {
    pub(super) fn new(bytes_per_second: Option<u64>) -> Self {
        Self { bytes_per_second, paid_until: Mutex::new(None) }
    }

    /// Takes bytes that have already come; returns how long to wait before taking more.
    pub(super) fn take(&self, bytes: u64, now: Instant) -> Duration {
        let Some(rate) = self.bytes_per_second.filter(|rate| *rate > 0) else { return Duration::ZERO };
        let mut paid_until = self.paid_until.lock().unwrap_or_else(PoisonError::into_inner);
        let begin = paid_until.map_or(now, |t| t.max(now));
        let end = begin + Duration::from_secs_f64(bytes as f64 / rate as f64);
        *paid_until = Some(end);
        end.saturating_duration_since(now).saturating_sub(Duration::from_millis(250))
    }
}

/// Less than this in each span of waiting is no transfer: 100 bytes a second.
const SPAN: Duration = Duration::from_secs(20);
const SPAN_BYTES_MIN: u64 = 2000;

/// Watches how fast one body comes. Only the time counts in which upstream is waited for: a slow reader is not its fault.
#[derive(Debug, Default)]
pub(super) struct Pace {
    waited: Duration,
    bytes: u64,
}

impl Pace {
    /// Counts bytes that came after such a wait; says whether it goes too slowly.
    pub(super) fn is_too_slow(&mut self, waited: Duration, bytes: u64) -> bool {
        self.waited += waited;
        self.bytes += bytes;
        if self.waited < SPAN {
            return false;
        }
        std::mem::take(self).bytes < SPAN_BYTES_MIN
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_average_is_kept() {
        let limiter = Limiter::new(Some(1000));
        let start = Instant::now();
        let mut now = start;
        for _ in 0..100 {
            now += limiter.take(100, now);
        }
        let seconds = (now - start).as_secs_f64();
        assert!((9.0..=10.0).contains(&seconds), "{seconds}");
        assert!(Limiter::new(None).take(1 << 40, now).is_zero());
    }

    #[test]
    fn a_trickle_is_too_slow() {
        let second = Duration::from_secs(1);
        let ends_after = |bytes: u64| {
            let mut pace = Pace::default();
            (1..=100).find(|_| pace.is_too_slow(second, bytes))
        };
        assert_eq!(ends_after(1), Some(20));
        assert_eq!(ends_after(99), Some(20));
        assert_eq!(ends_after(100), None);
        let mut pace = Pace::default();
        assert!(!(0..20).any(|_| pace.is_too_slow(Duration::ZERO, 1)), "nobody waited for upstream");
        assert!(!pace.is_too_slow(second * 30, 5000));
        assert!(pace.is_too_slow(second * 30, 1), "what came before the span does not count");
    }
}

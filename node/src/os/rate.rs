//! Bytes a second at most: whoever has taken too much waits until the average is right again.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// A bucket that is filled at the rate and holds a quarter of a second's worth.
#[derive(Debug)]
pub struct Limiter {
    bytes_per_second: Option<u64>,
    /// Among how many it is shared.
    sharers: AtomicUsize,
    /// When what has been taken so far will have been earned.
    paid_until: Mutex<Option<Instant>>,
}

impl Limiter {
    /// `None` is no limit.
    pub fn new(bytes_per_second: Option<u64>) -> Self {
        Self { bytes_per_second, sharers: AtomicUsize::new(1), paid_until: Mutex::new(None) }
    }

    /// From now on it is shared among so many, of whom each has one of these.
    pub fn share(&self, sharers: usize) {
        self.sharers.store(sharers.max(1), Ordering::Relaxed);
    }

    /// Has something been taken of what is limited, within the last second?
    pub fn is_in_use(&self, now: Instant) -> bool {
        let paid_until = self.paid_until.lock().unwrap_or_else(PoisonError::into_inner);
        paid_until.is_some_and(|until| until + Duration::from_secs(1) > now)
    }

    /// Takes bytes that have already come; returns how long to wait before taking more.
    pub fn take(&self, bytes: u64, now: Instant) -> Duration {
        let Some(rate) = self.bytes_per_second.filter(|rate| *rate > 0) else { return Duration::ZERO };
        let sharers = self.sharers.load(Ordering::Relaxed);
        let mut paid_until = self.paid_until.lock().unwrap_or_else(PoisonError::into_inner);
        let begin = paid_until.map_or(now, |t| t.max(now));
        let end = begin + Duration::from_secs_f64(bytes as f64 * sharers as f64 / rate as f64);
        *paid_until = Some(end);
        end.saturating_duration_since(now).saturating_sub(Duration::from_millis(250))
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

    #[tokio::test(start_paused = true)]
    async fn who_shares_it_has_a_part() {
        let limiter = Limiter::new(Some(1000));
        let start = Instant::now();
        assert!(!limiter.is_in_use(start));
        limiter.share(4);
        let mut now = start;
        for _ in 0..10 {
            now += limiter.take(100, now);
        }
        let seconds = (now - start).as_secs_f64();
        assert!((3.0..=4.0).contains(&seconds), "{seconds}");
        assert!(limiter.is_in_use(now) && !limiter.is_in_use(now + Duration::from_secs(2)));
        // Nobody is told of what is not limited.
        let free = Limiter::new(None);
        free.take(100, now);
        assert!(!free.is_in_use(now));
    }
}

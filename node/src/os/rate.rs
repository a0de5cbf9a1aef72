//! Bytes a second at most: whoever has taken too much waits until the average is right again.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// A bucket that is filled at the rate and holds a quarter of a second's worth.
#[derive(Debug)]
pub struct Limiter {
    bytes_per_second: Option<u64>,
    /// When what has been taken so far will have been earned.
    paid_until: Mutex<Option<Instant>>,
}

impl Limiter {
    /// `None` is no limit.
    pub fn new(bytes_per_second: Option<u64>) -> Self {
        Self { bytes_per_second, paid_until: Mutex::new(None) }
    }

    /// Takes bytes that have already come; returns how long to wait before taking more.
    pub fn take(&self, bytes: u64, now: Instant) -> Duration {
        let Some(rate) = self.bytes_per_second.filter(|rate| *rate > 0) else { return Duration::ZERO };
        let mut paid_until = self.paid_until.lock().unwrap_or_else(PoisonError::into_inner);
        let begin = paid_until.map_or(now, |t| t.max(now));
        let end = begin + Duration::from_secs_f64(bytes as f64 / rate as f64);
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
}

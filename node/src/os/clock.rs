//! Time. The wall clock is read once at start; after that time goes on monotonically, so that a clock that jumps
//! neither expires everything nor keeps anything for ever.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// Milliseconds since 1970-01-01 UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// How long ago `earlier` was; zero when it lies in the future.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    /// This much earlier.
    pub fn before(self, by: Duration) -> Self {
        Self(self.0.saturating_sub(u64::try_from(by.as_millis()).unwrap_or(u64::MAX)))
    }

    /// When this day began, where this machine is.
    pub fn midnight(self) -> Self {
        let zoned = jiff::Timestamp::from_millisecond(i64::try_from(self.0).unwrap_or(0)).unwrap_or_default();
        let start = zoned.to_zoned(jiff::tz::TimeZone::system()).start_of_day();
        start.map_or(self, |start| Self(u64::try_from(start.timestamp().as_millisecond()).unwrap_or(0)))
    }

    /// To the minute, as the clocks of this place show it: `2026-11-01 09:43`.
    pub fn local_minute(self) -> String {
        let zoned = jiff::Timestamp::from_millisecond(i64::try_from(self.0).unwrap_or(0)).unwrap_or_default();
        zoned.to_zoned(jiff::tz::TimeZone::system()).strftime("%Y-%m-%d %H:%M").to_string()
    }

    /// Whole seconds since 1970-01-01 UTC.
    pub fn unix_seconds(self) -> u64 {
        self.0 / 1000
    }

    /// For formatting.
    pub fn to_system_time(self) -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(self.0)
    }

    /// The time of a date in a header; dates before 1970 count as 1970.
    pub fn from_system_time(time: SystemTime) -> Self {
        Self(time.duration_since(UNIX_EPOCH).map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX)))
    }
}

impl std::ops::Add<Duration> for Timestamp {
    type Output = Self;
    fn add(self, by: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(by.as_millis()).unwrap_or(u64::MAX)))
    }
}

/// Where the time comes from. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Clock(Source);

#[derive(Debug, Clone)]
enum Source {
    System { wall_at_start: Timestamp, start: Instant },
    Manual(Arc<AtomicU64>),
}

impl Clock {
    /// The machine's clock.
    #[allow(clippy::disallowed_methods)] // This is the one place that reads it.
    pub fn system() -> Self {
        Self(Source::System { wall_at_start: Timestamp::from_system_time(SystemTime::now()), start: Instant::now() })
    }

    /// A clock that stands still until it is advanced, for tests.
    pub fn manual(at: Timestamp) -> Self {
        Self(Source::Manual(Arc::new(AtomicU64::new(at.0))))
    }

    /// Now.
    pub fn now(&self) -> Timestamp {
        match &self.0 {
            Source::System { wall_at_start, start } => *wall_at_start + start.elapsed(),
            Source::Manual(at) => Timestamp(at.load(Ordering::Relaxed)),
        }
    }

    /// Moves a manual clock on; does nothing to the system's.
    pub fn advance(&self, by: Duration) {
        if let Source::Manual(at) = &self.0 {
            at.fetch_add(u64::try_from(by.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
        }
    }
}

/// The date of an answer as headers have it (RFC 9110 5.6.7), by the machine's clock as it is set now. It is written once a second.
#[derive(Debug, Default)]
pub struct HttpDate {
    text: String,
    until: Timestamp,
}

impl HttpDate {
    #[allow(clippy::disallowed_methods)] // As above: others are to see the time that this machine believes it is.
    pub fn text(&mut self, now: Timestamp) -> &str {
        if now >= self.until {
            let time = SystemTime::now();
            self.text = httpdate::fmt_http_date(time);
            self.until = now + Duration::from_millis(1000 - Timestamp::from_system_time(time).0 % 1000);
        }
        &self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_date_is_written_once_a_second() {
        let mut date = HttpDate::default();
        let now = Timestamp(1_000_000);
        let is_now = |text: &str| {
            let said = httpdate::parse_http_date(text).unwrap();
            (Timestamp::from_system_time(said) + Duration::from_secs(10)).0 > Clock::system().now().0
        };
        assert!(is_now(date.text(now)), "by the machine's clock, not by the one that it is given");
        let until = date.until;
        assert!(until > now && until <= now + Duration::from_secs(1));
        date.text = "as it was".into();
        assert_eq!(date.text(Timestamp(until.0 - 1)), "as it was");
        assert!(is_now(date.text(until)));
    }
}

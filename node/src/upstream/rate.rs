//! Bytes a second from upstream: the least that is put up with.

use std::time::Duration;

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

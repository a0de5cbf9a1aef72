//! When the helper may work (R22). Pure.

use std::time::Duration;

const DAY: u64 = 24 * 3600;

/// How long until a window opens, which is given as minutes of the day; zero when it is open. An end before the start passes midnight.
pub(super) fn until_open(window: Option<(u16, u16)>, second_of_day: u64) -> Duration {
    let Some((start, end)) = window.map(|(start, end)| (u64::from(start) * 60, u64::from(end) * 60)) else {
        return Duration::ZERO;
    };
    let is_open = match start <= end {
        true => (start..end).contains(&second_of_day),
        false => second_of_day >= start || second_of_day < end,
    };
    // The same twice is the whole day.
    if is_open || start == end { Duration::ZERO } else { Duration::from_secs((start + DAY - second_of_day) % DAY) }
}

/// How long until it is time again to look for new metadata. All nodes look at the same times, so that the first asks for all; and each
/// a little later than the other (`stagger`, any number), so that there is a first.
pub(super) fn until_look(interval: Duration, now_millis: u64, stagger: u64) -> Duration {
    let interval = u64::try_from(interval.as_millis()).unwrap_or(u64::MAX).max(1);
    let stagger = stagger % (interval / 4).clamp(1, 60_000);
    let since = now_millis.wrapping_sub(stagger) % interval;
    Duration::from_millis(interval - since)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_open_and_close() {
        let hour = |hour: u64| hour * 3600;
        let until = |window, at| until_open(window, at).as_secs();
        assert_eq!(until(None, hour(3)), 0);
        let night = Some((60, 360));
        assert_eq!([0, 1, 5, 6, 23].map(|at| until(night, hour(at))), [hour(1), 0, 0, hour(19), hour(2)]);
        assert_eq!((until(night, hour(6) - 1), until(night, hour(1) - 1)), (0, 1));
        let late = Some((22 * 60, 6 * 60));
        assert_eq!([21, 22, 23, 0, 5, 6].map(|at| until(late, hour(at))), [hour(1), 0, 0, 0, 0, hour(16)]);
        assert_eq!(until(Some((5, 5)), hour(7)), 0);
    }

    #[test]
    fn all_look_at_about_the_same_times() {
        let hour = Duration::from_secs(3600);
        let at = |now: u64, stagger| now + u64::try_from(until_look(hour, now, stagger).as_millis()).unwrap();
        for now in [5 * 3_600_000, 5 * 3_600_000 + 1, 6 * 3_600_000 - 1] {
            assert_eq!(at(now, 0), 6 * 3_600_000);
            for stagger in [1, 59_999, 123_456_789] {
                let first = at(now, stagger);
                let slot = 6 * 3_600_000;
                let early = slot - 3_600_000;
                assert!((slot..slot + 60_000).contains(&first) || (early..early + 60_000).contains(&first), "{first}");
                assert!(first > now);
            }
        }
        assert!(until_look(Duration::from_millis(1), 7, 3) > Duration::ZERO);
    }
}

//! How old an answer is and how long it is fresh (RFC 9111 4.2).

use std::time::Duration;

use http::header::{AGE, DATE, EXPIRES, HeaderName, LAST_MODIFIED};
use http::{HeaderMap, StatusCode};

use crate::journey::cache_control::{DELTA_SECONDS_MAX, Directives, delta_seconds};
use crate::journey::conditional;
use crate::os::clock::Timestamp;

/// Longest lifetime that is guessed.
const GUESS_MAX: Duration = Duration::from_secs(24 * 3600);

/// When a request was sent and when the head of its answer came.
#[derive(Debug, Clone, Copy)]
pub struct Exchange {
    pub asked_at: Timestamp,
    pub answered_at: Timestamp,
}

/// The age that an answer has when it comes, in whole seconds rounded up (4.2.3: corrected_initial_age).
///
/// A date in the future is a clock that goes wrong, ours or theirs: it makes nothing younger than zero.
pub(super) fn initial_age(fields: &HeaderMap, exchange: Exchange) -> Duration {
    let apparent = date(fields, DATE).map_or(Duration::ZERO, |date| exchange.answered_at.since(date));
    let on_the_way = exchange.answered_at.since(exchange.asked_at);
    let corrected = age_field(fields).saturating_add(on_the_way);
    let age = apparent.max(corrected);
    Duration::from_secs(age.as_secs().saturating_add(u64::from(age.subsec_nanos() > 0)).min(DELTA_SECONDS_MAX))
}

/// The age of a stored answer (4.2.3). Its fields are those that `kept_fields` made, so that `Age` says how old it was when it
/// came; `confirmed_at` is when it came, or was last confirmed.
pub fn current_age(fields: &HeaderMap, confirmed_at: Timestamp, now: Timestamp) -> Duration {
    let age = age_field(fields).saturating_add(now.since(confirmed_at));
    age.min(Duration::from_secs(DELTA_SECONDS_MAX))
}

/// How long an answer is fresh for a shared cache (4.2.1): what it says, else a guess where guessing is permitted.
pub fn lifetime(status: StatusCode, fields: &HeaderMap) -> Duration {
    let control = Directives::of(fields);
    explicit_lifetime(&control, fields).unwrap_or_else(|| guessed_lifetime(status, &control, fields))
}

/// `s-maxage`, else `max-age`, else `Expires`. An `Expires` that is no date, as `0` and `-1`, lies in the past (5.3).
pub(super) fn explicit_lifetime(control: &Directives, fields: &HeaderMap) -> Option<Duration> {
    control.seconds("s-maxage").or_else(|| control.seconds("max-age")).or_else(|| {
        fields.contains_key(EXPIRES).then(|| match (date(fields, EXPIRES), date(fields, DATE)) {
            (Some(expires), Some(date)) => expires.since(date),
            _ => Duration::ZERO,
        })
    })
}

/// A tenth of the time for which the content had not changed, at most a day (4.2.2).
fn guessed_lifetime(status: StatusCode, control: &Directives, fields: &HeaderMap) -> Duration {
    if !is_heuristically_cacheable(status) && !control.has("public") {
        return Duration::ZERO;
    }
    match (date(fields, LAST_MODIFIED), date(fields, DATE)) {
        (Some(modified), Some(date)) => (date.since(modified) / 10).min(GUESS_MAX),
        _ => Duration::ZERO,
    }
}

/// RFC 9110 15.1, without 206: parts are never stored as a whole.
pub(super) fn is_heuristically_cacheable(status: StatusCode) -> bool {
    matches!(status.as_u16(), 200 | 203 | 204 | 300 | 301 | 308 | 404 | 405 | 410 | 414 | 501)
}

/// Of several values the first; what is no number is ignored (5.1), what is too large is very old (1.2.2).
fn age_field(fields: &HeaderMap) -> Duration {
    let first = fields.get(AGE).and_then(|v| v.to_str().ok()).and_then(|v| v.split(',').next());
    first.and_then(|text| delta_seconds(text.trim())).unwrap_or_default()
}

fn date(fields: &HeaderMap, name: HeaderName) -> Option<Timestamp> {
    conditional::date(fields, name).map(Timestamp::from_system_time)
}

#[cfg(test)]
mod tests {
    use super::super::fields;
    use super::*;

    const NOON: &str = "Mon, 02 Jan 2023 12:00:00 GMT";
    const NOON_AT: Timestamp = Timestamp(1_672_660_800_000);

    fn seconds(s: u64) -> Duration {
        Duration::from_secs(s)
    }

    #[test]
    fn initial_ages_rfc9111_4_2_3() {
        for (pairs, way_ms, late_s, age) in [
            (&[("date", NOON)][..], 0, 0, 0),
            // apparent_age: the date lies back
            (&[("date", NOON)], 0, 10, 10),
            // age_value and response_delay
            (&[("date", NOON), ("age", "7")], 0, 0, 7),
            (&[("date", NOON), ("age", "7")], 2000, 0, 9),
            (&[("date", NOON), ("age", "7")], 1, 0, 8),
            (&[("date", NOON), ("age", "7")], 0, 10, 10),
            (&[("date", NOON), ("age", "70")], 0, 10, 70),
            // no date, a broken date, a broken age
            (&[("age", "7")], 0, 0, 7),
            (&[("date", "today"), ("age", "7")], 0, 10, 7),
            (&[("date", NOON), ("age", "-7")], 0, 0, 0),
            (&[("date", NOON), ("age", "7.5")], 0, 0, 0),
            (&[("date", NOON), ("age", "")], 0, 0, 0),
            // 5.1: of a list the first
            (&[("date", NOON), ("age", "7, 100")], 0, 0, 7),
            (&[("date", NOON), ("age", "7"), ("age", "100")], 0, 0, 7),
            // 1.2.2
            (&[("date", NOON), ("age", "99999999999999999999")], 5000, 0, 1 << 31),
        ] {
            let answered_at = NOON_AT + seconds(late_s);
            let exchange = Exchange { asked_at: Timestamp(answered_at.0 - way_ms), answered_at };
            assert_eq!(initial_age(&fields(pairs), exchange), seconds(age), "{pairs:?} {way_ms} {late_s}");
        }
        // A date in the future.
        let early = Timestamp(NOON_AT.0 - 3_600_000);
        let exchange = Exchange { asked_at: early, answered_at: early };
        assert_eq!(initial_age(&fields(&[("date", NOON)]), exchange), seconds(0));
    }

    #[test]
    fn ages_grow_and_do_not_overflow() {
        let age = |text, by| current_age(&fields(&[("age", text)]), NOON_AT, NOON_AT + seconds(by)).as_secs();
        assert_eq!(age("5", 0), 5);
        assert_eq!(age("5", 60), 65);
        assert_eq!(age("2147483648", 60), 1 << 31);
        assert_eq!(age("0", u64::MAX), 1 << 31);
        // A clock that went back makes nothing younger than it came.
        assert_eq!(current_age(&fields(&[("age", "5")]), NOON_AT, Timestamp(0)), seconds(5));
    }

    #[test]
    fn lifetimes_rfc9111_4_2_1() {
        const ONE: &str = "Mon, 02 Jan 2023 13:00:00 GMT";
        const ELEVEN: &str = "Mon, 02 Jan 2023 11:00:00 GMT";
        const TEN_YEARS_AGO: &str = "Wed, 02 Jan 2013 12:00:00 GMT";
        let ok = StatusCode::OK;
        for (status, pairs, life) in [
            (ok, &[("cache-control", "max-age=60")][..], 60),
            (ok, &[("cache-control", "s-maxage=5, max-age=60")], 5),
            (ok, &[("cache-control", "max-age=60"), ("expires", ONE), ("date", NOON)], 60),
            (ok, &[("expires", ONE), ("date", NOON)], 3600),
            (ok, &[("expires", ELEVEN), ("date", NOON)], 0),
            (ok, &[("expires", "0"), ("date", NOON), ("last-modified", ELEVEN)], 0),
            (ok, &[("expires", ONE), ("expires", ELEVEN), ("date", NOON)], 0),
            (ok, &[("cache-control", "max-age=soon"), ("last-modified", ELEVEN), ("date", NOON)], 0),
            (ok, &[("cache-control", "max-age=99999999999")], 1 << 31),
            // 4.2.2
            (ok, &[("last-modified", ELEVEN), ("date", NOON)], 360),
            (ok, &[("last-modified", TEN_YEARS_AGO), ("date", NOON)], 86400),
            (ok, &[("last-modified", ONE), ("date", NOON)], 0),
            (ok, &[("date", NOON)], 0),
            (StatusCode::NOT_FOUND, &[("last-modified", ELEVEN), ("date", NOON)], 360),
            (StatusCode::FOUND, &[("last-modified", ELEVEN), ("date", NOON)], 0),
            (StatusCode::FOUND, &[("cache-control", "public"), ("last-modified", ELEVEN), ("date", NOON)], 360),
            (StatusCode::FOUND, &[("cache-control", "max-age=60")], 60),
        ] {
            assert_eq!(lifetime(status, &fields(pairs)), seconds(life), "{status} {pairs:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn nothing_is_older_than_can_be_said(age in "[0-9,-]{0,25}", asked in proptest::num::u64::ANY, answered in proptest::num::u64::ANY, now in proptest::num::u64::ANY) {
            let mut head = fields(&[("date", NOON)]);
            head.extend(http::HeaderValue::from_str(&age).ok().map(|v| (AGE, v)));
            let exchange = Exchange { asked_at: Timestamp(asked), answered_at: Timestamp(answered) };
            proptest::prop_assert!(initial_age(&head, exchange).as_secs() <= DELTA_SECONDS_MAX);
            let early = current_age(&head, Timestamp(answered), Timestamp(now));
            let late = current_age(&head, Timestamp(answered), Timestamp(now) + seconds(1));
            proptest::prop_assert!(early <= late && late.as_secs() <= DELTA_SECONDS_MAX);
        }
    }
}

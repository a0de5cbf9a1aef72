use super::super::fields;
use super::*;

const THEN: Timestamp = Timestamp(1_672_660_800_000);
const FRESH: &[(&str, &str)] = &[("cache-control", "max-age=60")];

/// What becomes of a request for what was stored `after` seconds ago.
fn ask(request: &[(&'static str, &'static str)], stored: &[(&'static str, &'static str)], after: u64) -> Reuse {
    let stored = fields(stored);
    let stored = Stored { status: StatusCode::OK, fields: &stored, confirmed_at: THEN };
    reuse(&fields(request), Some(stored), THEN + Duration::from_secs(after))
}

const fn served(age: u64) -> Reuse {
    Reuse::Serve { age: Duration::from_secs(age) }
}

const fn served_and_validated(age: u64) -> Reuse {
    Reuse::ServeAndValidate { age: Duration::from_secs(age) }
}

const STALE: Reuse = Reuse::Validate(Why::Stale);
const ASKED: Reuse = Reuse::Validate(Why::Asked);

#[test]
fn answers_rfc9111_4_and_5_2_2() {
    for (stored, after, expected) in [
        (FRESH, 0, served(0)),
        (FRESH, 59, served(59)),
        (FRESH, 60, STALE),
        (&[("cache-control", "max-age=60"), ("age", "50")], 9, served(59)),
        (&[("cache-control", "max-age=60"), ("age", "50")], 10, STALE),
        (&[("cache-control", "max-age=60"), ("age", "2147483648")], 0, STALE),
        (&[("cache-control", "max-age=60, s-maxage=5")], 5, STALE),
        (&[("cache-control", "max-age=60, no-cache")], 0, Reuse::Validate(Why::NoCache)),
        (&[("cache-control", "max-age=60, no-cache=\"set-cookie\"")], 0, served(0)),
        (&[("cache-control", "max-age=60, must-revalidate")], 59, served(59)),
        (&[("cache-control", "max-age=0")], 0, STALE),
        (&[("etag", "\"a\"")], 0, STALE),
        // RFC 5861 3
        (&[("cache-control", "max-age=60, stale-while-revalidate=60")], 59, served(59)),
        (&[("cache-control", "max-age=60, stale-while-revalidate=60")], 61, served_and_validated(61)),
        (&[("cache-control", "max-age=60, stale-while-revalidate=60")], 119, served_and_validated(119)),
        (&[("cache-control", "max-age=60, stale-while-revalidate=60")], 120, STALE),
        (&[("cache-control", "max-age=60, stale-while-revalidate=60, must-revalidate")], 61, STALE),
    ] {
        assert_eq!(ask(&[], stored, after), expected, "{stored:?} {after}");
    }
}

#[test]
fn requests_rfc9111_5_2_1() {
    for (request, stored, after, expected) in [
        // 5.2.1.4, 5.4
        (&[("cache-control", "no-cache")][..], FRESH, 0, ASKED),
        (&[("pragma", "no-cache")], FRESH, 0, ASKED),
        (&[("pragma", "no-cache"), ("cache-control", "max-age=30")], FRESH, 0, served(0)),
        // 5.2.1.1
        (&[("cache-control", "max-age=0")], FRESH, 0, ASKED),
        (&[("cache-control", "max-age=30")], FRESH, 30, served(30)),
        (&[("cache-control", "max-age=30")], FRESH, 31, ASKED),
        (&[("cache-control", "max-age=90")], FRESH, 60, STALE),
        (&[("cache-control", "max-age=soon")], FRESH, 0, ASKED),
        // 5.2.1.3
        (&[("cache-control", "min-fresh=10")], FRESH, 50, served(50)),
        (&[("cache-control", "min-fresh=10")], FRESH, 51, STALE),
        (&[("cache-control", "min-fresh=99999999999999999999")], FRESH, 0, STALE),
        // 5.2.1.2
        (&[("cache-control", "max-stale")], FRESH, 6000, served(6000)),
        (&[("cache-control", "max-stale=5")], FRESH, 65, served(65)),
        (&[("cache-control", "max-stale=5")], FRESH, 66, STALE),
        (&[("cache-control", "max-stale=5, max-age=60")], FRESH, 65, served(65)),
        (&[("cache-control", "max-stale=5, max-age=60")], FRESH, 66, ASKED),
        (&[("cache-control", "max-stale, min-fresh=5")], FRESH, 70, STALE),
        (&[("cache-control", "max-stale")], &[("cache-control", "max-age=60, must-revalidate")], 61, STALE),
        (&[("cache-control", "max-stale")], &[("cache-control", "max-age=60, proxy-revalidate")], 61, STALE),
        (&[("cache-control", "max-stale")], &[("cache-control", "s-maxage=60")], 61, STALE),
        (
            &[("cache-control", "max-stale")],
            &[("cache-control", "max-age=60, no-cache")],
            61,
            Reuse::Validate(Why::NoCache),
        ),
        // RFC 5861 3: who demands more waits.
        (
            &[("cache-control", "min-fresh=1")],
            &[("cache-control", "max-age=60, stale-while-revalidate=60")],
            61,
            Reuse::Validate(Why::Stale),
        ),
        // 5.2.1.7
        (&[("cache-control", "only-if-cached")], FRESH, 59, served(59)),
        (&[("cache-control", "only-if-cached")], FRESH, 60, Reuse::NotCached),
        (&[("cache-control", "only-if-cached, max-stale")], FRESH, 60, served(60)),
        (&[("cache-control", "only-if-cached, no-cache")], FRESH, 0, Reuse::NotCached),
        // RFC 8246
        (&[("cache-control", "max-age=0")], &[("cache-control", "max-age=60, immutable")], 59, served(59)),
        (&[("cache-control", "max-age=0")], &[("cache-control", "max-age=60, immutable")], 60, ASKED),
        (&[("cache-control", "no-cache")], &[("cache-control", "max-age=60, immutable")], 59, ASKED),
    ] {
        assert_eq!(ask(request, stored, after), expected, "{request:?} {stored:?} {after}");
    }
}

#[test]
fn nothing_stored() {
    assert_eq!(reuse(&fields(&[]), None, THEN), Reuse::Fetch);
    assert_eq!(reuse(&fields(&[("cache-control", "only-if-cached")]), None, THEN), Reuse::NotCached);
}

#[test]
fn failures_rfc9111_4_2_4_and_rfc5861() {
    const WEEK: u64 = 7 * 24 * 3600;
    let down = Failure::Unreachable;
    let status = |status| Failure::Status(StatusCode::from_u16(status).unwrap());
    for (request, stored, failure, after, served) in [
        (&[][..], "max-age=60", down, 61, true),
        (&[], "max-age=60", down, 60 + WEEK, true),
        (&[], "max-age=60", down, 61 + WEEK, false),
        (&[], "max-age=60, must-revalidate", down, 61, false),
        (&[], "max-age=60, proxy-revalidate", down, 61, false),
        (&[], "s-maxage=60", down, 61, false),
        (&[], "max-age=60, no-cache", down, 1, false),
        (&[("cache-control", "no-cache")], "max-age=60", down, 1, false),
        (&[], "max-age=60, stale-if-error=10", down, 70, true),
        (&[], "max-age=60, stale-if-error=10", down, 71, false),
        (&[], "max-age=60", status(503), 61, false),
        (&[], "max-age=60, stale-if-error=10", status(503), 70, true),
        (&[], "max-age=60, stale-if-error=10", status(503), 71, false),
        (&[("cache-control", "stale-if-error=10")], "max-age=60", status(500), 70, true),
        (&[], "max-age=60, stale-if-error=10, must-revalidate", status(503), 61, false),
        (&[], "max-age=60, stale-if-error=10", status(404), 61, false),
        (&[], "max-age=60, stale-if-error=10", status(501), 61, false),
    ] {
        let head = fields(&[("cache-control", stored)]);
        let entry = Stored { status: StatusCode::OK, fields: &head, confirmed_at: THEN };
        let now = THEN + Duration::from_secs(after);
        let expected = served.then(|| Duration::from_secs(after));
        assert_eq!(failed(&fields(request), entry, failure, now), expected, "{request:?} {stored} {failure:?} {after}");
    }
}

proptest::proptest! {
    /// Whatever a client asks, what forbids staleness is never sent stale.
    #[test]
    fn never_stale_against_its_will(
        wish in "(max-stale(=[0-9]{1,12})?|max-age=[0-9]{1,12}|min-fresh=[0-9]{1,12}|only-if-cached|stale-if-error=9|, ){0,6}",
        forbids in "must-revalidate|proxy-revalidate|s-maxage=60",
        after in 60u64..1_000_000,
    ) {
        let mut request = HeaderMap::new();
        request.extend(http::HeaderValue::from_str(&wish).ok().map(|v| (CACHE_CONTROL, v)));
        let mut head = HeaderMap::new();
        head.extend(http::HeaderValue::from_str(&format!("max-age=60, {forbids}")).ok().map(|v| (CACHE_CONTROL, v)));
        let stored = Stored { status: StatusCode::OK, fields: &head, confirmed_at: THEN };
        let now = THEN + Duration::from_secs(after);
        let served = matches!(reuse(&request, Some(stored), now), Reuse::Serve { .. });
        proptest::prop_assert!(!served);
        proptest::prop_assert_eq!(failed(&request, stored, Failure::Unreachable, now), None);
    }
}

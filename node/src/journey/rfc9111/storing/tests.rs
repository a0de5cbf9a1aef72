use super::super::fields;
use super::*;
use crate::os::clock::Timestamp;

const NOON: &str = "Mon, 02 Jan 2023 12:00:00 GMT";
const ELEVEN: &str = "Mon, 02 Jan 2023 11:00:00 GMT";
const NOON_AT: Timestamp = Timestamp(1_672_660_800_000);
const AT_ONCE: Exchange = Exchange { asked_at: NOON_AT, answered_at: NOON_AT };

fn answer(status: u16, pairs: &[(&'static str, &'static str)]) -> Result<(), NotStored> {
    storable(&Method::GET, &HeaderMap::new(), StatusCode::from_u16(status).unwrap(), &fields(pairs))
}

#[test]
fn answers_rfc9111_3() {
    const FRESH: (&str, &str) = ("cache-control", "max-age=60");
    for (status, pairs, stored) in [
        (200, &[FRESH][..], Ok(())),
        (200, &[("etag", "\"a\"")], Ok(())),
        (200, &[("last-modified", ELEVEN)], Ok(())),
        (200, &[], Err(NotStored::Useless)),
        (200, &[("cache-control", "max-age=0")], Err(NotStored::Useless)),
        (200, &[("cache-control", "max-age=0"), ("etag", "\"a\"")], Ok(())),
        (200, &[("expires", "0")], Err(NotStored::Useless)),
        (200, &[("cache-control", "no-cache"), ("etag", "\"a\"")], Ok(())),
        // 5.2.2.5, 5.2.2.7
        (200, &[("cache-control", "no-store, max-age=60")], Err(NotStored::NoStore)),
        (200, &[("cache-control", "PRIVATE, max-age=60")], Err(NotStored::Private)),
        (200, &[("cache-control", "private=\"x-user\", max-age=60")], Ok(())),
        // 5.2.2.3
        (200, &[("cache-control", "must-understand, no-store, max-age=60")], Ok(())),
        (299, &[("cache-control", "must-understand, no-store, max-age=60")], Err(NotStored::Status)),
        // Statuses (RFC 9110 15.1)
        (301, &[("etag", "\"a\"")], Ok(())),
        (404, &[FRESH], Ok(())),
        (404, &[("last-modified", ELEVEN)], Ok(())),
        (302, &[("etag", "\"a\"")], Err(NotStored::NotPermitted)),
        (302, &[FRESH], Ok(())),
        (302, &[("cache-control", "public"), ("etag", "\"a\"")], Ok(())),
        (500, &[("etag", "\"a\"")], Err(NotStored::NotPermitted)),
        (503, &[FRESH], Ok(())),
        (299, &[FRESH], Ok(())),
        (100, &[FRESH], Err(NotStored::Status)),
        (206, &[FRESH], Err(NotStored::Status)),
        (304, &[FRESH], Err(NotStored::Status)),
        (999, &[FRESH], Err(NotStored::Status)),
        // 4.1
        (200, &[FRESH, ("vary", "*")], Err(NotStored::Varies)),
        (200, &[FRESH, ("vary", "accept, *")], Err(NotStored::Varies)),
        (200, &[FRESH, ("vary", "accept")], Ok(())),
        // 7.3
        (200, &[FRESH, ("set-cookie", "a=b")], Err(NotStored::Cookie)),
        (200, &[("cache-control", "public, max-age=60"), ("set-cookie", "a=b")], Ok(())),
    ] {
        assert_eq!(answer(status, pairs), stored, "{status} {pairs:?}");
    }
}

#[test]
fn requests_rfc9111_3() {
    let fresh = "max-age=60";
    for (method, request, control, stored) in [
        (Method::HEAD, &[][..], fresh, Err(NotStored::Method)),
        (Method::POST, &[], fresh, Err(NotStored::Method)),
        (Method::GET, &[("cache-control", "no-store")], fresh, Err(NotStored::RequestNoStore)),
        (Method::GET, &[("cache-control", "no-cache")], fresh, Ok(())),
        // 3.5
        (Method::GET, &[("authorization", "Basic eA==")], fresh, Err(NotStored::Authorized)),
        (Method::GET, &[("authorization", "Basic eA==")], "max-age=60, public", Ok(())),
        (Method::GET, &[("authorization", "Basic eA==")], "s-maxage=60", Ok(())),
        (Method::GET, &[("authorization", "Basic eA==")], "max-age=60, must-revalidate", Ok(())),
        (Method::GET, &[("authorization", "Basic eA==")], "max-age=60, proxy-revalidate", Err(NotStored::Authorized)),
        (Method::GET, &[("cookie", "a=b")], fresh, Err(NotStored::Cookie)),
        (Method::GET, &[("cookie", "a=b")], "max-age=60, public", Ok(())),
    ] {
        let fields_of = fields(&[("cache-control", control)]);
        assert_eq!(
            storable(&method, &fields(request), StatusCode::OK, &fields_of),
            stored,
            "{method} {request:?} {control}"
        );
    }
}

#[test]
fn who_may_share_what_is_stored_rfc9111_3_5() {
    for (request, stored, shared) in [
        (&[][..], &[][..], true),
        (&[("authorization", "Basic eA==")], &[("cache-control", "max-age=60")], false),
        (&[("authorization", "Basic eA==")], &[("cache-control", "max-age=60, must-revalidate")], true),
        (&[("authorization", "Basic eA==")], &[("cache-control", "public")], true),
        (&[("cookie", "a=b")], &[("cache-control", "max-age=60")], true),
        (&[("cookie", "a=b")], &[("last-modified", ELEVEN)], false),
        (&[("cookie", "a=b")], &[("last-modified", ELEVEN), ("cache-control", "public")], true),
        (&[("cookie", "a=b"), ("authorization", "Basic eA==")], &[("cache-control", "max-age=60")], false),
    ] {
        assert_eq!(may_be_shared_with(&fields(request), &fields(stored)), shared, "{request:?} {stored:?}");
    }
}

#[test]
fn what_is_kept_rfc9111_3_1() {
    let kept = kept_fields(
        &fields(&[
            ("cache-control", "max-age=60, private=\"x-user\", no-cache=\"x-once\""),
            ("connection", "close, x-hop, cache-control, etag"),
            ("x-hop", "1"),
            ("x-user", "1"),
            ("x-once", "1"),
            ("x-all", "1"),
            ("x-all", "2"),
            ("content-length", "10"),
            ("content-type", "x/y"),
            ("transfer-encoding", "chunked"),
            ("set-cookie", "a=b"),
            ("proxy-authenticate", "Basic"),
            ("etag", "\"a\""),
            ("date", NOON),
            ("age", "5"),
        ]),
        AT_ONCE,
    );
    let expected = fields(&[
        ("cache-control", "max-age=60, private=\"x-user\", no-cache=\"x-once\""),
        ("x-all", "1"),
        ("x-all", "2"),
        ("content-type", "x/y"),
        ("etag", "\"a\""),
        ("date", NOON),
        ("age", "5"),
    ]);
    assert_eq!(kept, expected);
}

#[test]
fn what_has_no_date_is_dated_rfc9110_6_6_1() {
    let expected = fields(&[("date", NOON), ("age", "0")]);
    assert_eq!(kept_fields(&fields(&[]), AT_ONCE), expected);
    assert_eq!(kept_fields(&fields(&[("date", "today")]), AT_ONCE), expected);
}

#[test]
fn a_304_confirms_only_the_version_it_names_rfc9111_4_3_4() {
    for (stored, named, valid) in [
        (&[("etag", "\"a\"")][..], &[][..], true),
        (&[("etag", "\"a\"")], &[("etag", "\"a\"")], true),
        (&[("etag", "\"a\"")], &[("etag", "\"b\"")], false),
        (&[("etag", "\"a\"")], &[("etag", "W/\"a\"")], true),
        (&[("etag", "W/\"a\"")], &[("etag", "W/\"a\"")], true),
        (&[("etag", "W/\"a\"")], &[("etag", "\"a\"")], false),
        (&[("last-modified", NOON)], &[("etag", "\"a\"")], false),
        (&[("last-modified", NOON)], &[("last-modified", NOON)], true),
        (&[("last-modified", NOON)], &[("last-modified", ELEVEN)], false),
        (&[("etag", "\"a\""), ("last-modified", NOON)], &[("etag", "\"a\""), ("last-modified", ELEVEN)], true),
        (&[("etag", "\"a\"")], &[("last-modified", ELEVEN)], true),
        (&[], &[], true),
    ] {
        assert_eq!(validates(&fields(stored), &fields(named)), valid, "{stored:?} {named:?}");
    }
}

#[test]
fn a_304_updates_the_head_but_not_what_describes_the_bytes_rfc9111_3_2() {
    let stored = fields(&[
        ("etag", "\"a\""),
        ("content-encoding", "gzip"),
        ("expires", ELEVEN),
        ("date", ELEVEN),
        ("age", "9"),
        ("x", "1"),
        ("x", "2"),
    ]);
    let answer = fields(&[
        ("content-encoding", "br"),
        ("content-length", "0"),
        ("cache-control", "max-age=60"),
        ("set-cookie", "a=b"),
        ("date", NOON),
        ("x", "3"),
    ]);
    let expected = fields(&[
        ("etag", "\"a\""),
        ("content-encoding", "gzip"),
        ("cache-control", "max-age=60"),
        ("date", NOON),
        ("age", "0"),
        ("x", "3"),
    ]);
    assert_eq!(updated(&stored, &answer, AT_ONCE), expected);
}

proptest::proptest! {
    #[test]
    fn no_secret_is_kept(line in "[a-z=\", -]{0,40}", value in "[a-z0-9]{1,8}") {
        let mut head = fields(&[("set-cookie", "a=b"), ("proxy-authorization", "x"), ("connection", "x-hop"), ("x-hop", "1")]);
        head.extend(HeaderValue::from_str(&line).ok().map(|v| (http::header::CACHE_CONTROL, v)));
        head.extend(HeaderValue::from_str(&value).ok().map(|v| (AGE, v)));
        let kept = kept_fields(&head, AT_ONCE);
        for name in ["set-cookie", "proxy-authorization", "connection", "x-hop"] {
            proptest::prop_assert!(!kept.contains_key(name));
        }
        proptest::prop_assert!(kept.contains_key(DATE) && kept.contains_key(AGE));
    }

    #[test]
    fn nothing_is_stored_against_its_will(
        line in "(max-age=9|public|s-maxage=9|must-revalidate|x=\"y\")(, ?etag){0,2}, ?(no-store|private)(, ?public)?",
    ) {
        let mut head = fields(&[("etag", "\"a\"")]);
        head.extend(HeaderValue::from_str(&line).ok().map(|v| (http::header::CACHE_CONTROL, v)));
        proptest::prop_assert!(head.contains_key(http::header::CACHE_CONTROL));
        proptest::prop_assert!(storable(&Method::GET, &HeaderMap::new(), StatusCode::OK, &head).is_err());
    }
}

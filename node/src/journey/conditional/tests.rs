use super::*;

const MONDAY: &str = "Mon, 02 Jan 2023 03:04:05 GMT";
const SUNDAY: &str = "Sun, 01 Jan 2023 03:04:05 GMT";
const TUESDAY: &str = "Tue, 03 Jan 2023 03:04:05 GMT";

fn fields(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in pairs {
        map.append(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    map
}

fn get(request: &[(&'static str, &'static str)], stored: &HeaderMap) -> Condition {
    evaluate(&Method::GET, &fields(request), StatusCode::OK, stored)
}

#[test]
fn conditions_in_the_order_of_rfc9110_13_2_2() {
    use Condition::*;
    let stored = fields(&[("etag", "\"a\""), ("last-modified", MONDAY)]);
    for (request, condition) in [
        (&[][..], Full),
        // 13.1.1
        (&[("if-match", "\"a\"")], Full),
        (&[("if-match", "*")], Full),
        (&[("if-match", "\"b\", \"a\"")], Full),
        (&[("if-match", "W/\"a\"")], PreconditionFailed),
        (&[("if-match", "\"b\"")], PreconditionFailed),
        (&[("if-match", "\"b\""), ("if-none-match", "\"a\"")], PreconditionFailed),
        (&[("if-match", "\"a\""), ("if-none-match", "\"a\"")], NotModified),
        // 13.1.4, and that If-Match is preferred
        (&[("if-unmodified-since", MONDAY)], Full),
        (&[("if-unmodified-since", SUNDAY)], PreconditionFailed),
        (&[("if-unmodified-since", "yesterday")], Full),
        (&[("if-match", "\"a\""), ("if-unmodified-since", SUNDAY)], Full),
        // 13.1.2
        (&[("if-none-match", "\"a\"")], NotModified),
        (&[("if-none-match", "W/\"a\"")], NotModified),
        (&[("if-none-match", "*")], NotModified),
        (&[("if-none-match", "\"b\"")], Full),
        (&[("if-none-match", "\"b\"  , W/\"a\"")], NotModified),
        (&[("if-none-match", "\"b\""), ("if-none-match", "\"a\"")], NotModified),
        (&[("if-none-match", "a")], Full),
        (&[("if-none-match", "")], Full),
        // 13.1.3, and that If-None-Match is preferred
        (&[("if-modified-since", MONDAY)], NotModified),
        (&[("if-modified-since", TUESDAY)], NotModified),
        (&[("if-modified-since", SUNDAY)], Full),
        (&[("if-modified-since", "0")], Full),
        (&[("if-modified-since", MONDAY), ("if-modified-since", SUNDAY)], Full),
        (&[("if-modified-since", MONDAY), ("if-none-match", "\"b\"")], Full),
        // The old forms of dates (5.6.7)
        (&[("if-modified-since", "Monday, 02-Jan-23 03:04:05 GMT")], NotModified),
        (&[("if-modified-since", "Mon Jan  2 03:04:05 2023")], NotModified),
    ] {
        assert_eq!(get(request, &stored), condition, "{request:?}");
    }
}

#[test]
fn a_comma_within_a_tag_separates_nothing() {
    let stored = fields(&[("etag", "\"a,b\"")]);
    assert_eq!(get(&[("if-none-match", "\"x\", \"a,b\"")], &stored), Condition::NotModified);
    assert_eq!(get(&[("if-none-match", "\"a\", \"b\"")], &stored), Condition::Full);
}

#[test]
fn a_backslash_within_a_tag_escapes_nothing() {
    let stored = fields(&[("etag", "\"a\\\"")]);
    assert_eq!(get(&[("if-none-match", "\"a\\\"")], &stored), Condition::NotModified);
    assert_eq!(get(&[("if-none-match", "\"x\\\", \"a\\\"")], &stored), Condition::NotModified);
    assert_eq!(get(&[("if-none-match", "\"a\"")], &stored), Condition::Full);
}

#[test]
fn what_has_no_validators_has_no_conditions() {
    let stored = fields(&[]);
    assert_eq!(get(&[("if-none-match", "\"a\"")], &stored), Condition::Full);
    assert_eq!(get(&[("if-none-match", "*")], &stored), Condition::NotModified);
    assert_eq!(get(&[("if-modified-since", MONDAY)], &stored), Condition::Full);
    assert_eq!(get(&[("if-unmodified-since", SUNDAY)], &stored), Condition::Full);
    assert_eq!(get(&[("if-match", "\"a\"")], &stored), Condition::PreconditionFailed);
    assert_eq!(get(&[("if-match", "*")], &stored), Condition::Full);
}

#[test]
fn methods_and_statuses() {
    let stored = fields(&[("etag", "\"a\""), ("last-modified", MONDAY)]);
    let none_match = fields(&[("if-none-match", "\"a\"")]);
    let since = fields(&[("if-modified-since", MONDAY)]);
    for (method, request, status, condition) in [
        (Method::HEAD, &none_match, StatusCode::OK, Condition::NotModified),
        (Method::PUT, &none_match, StatusCode::OK, Condition::PreconditionFailed),
        (Method::PUT, &since, StatusCode::OK, Condition::Full),
        // 13.2.1: conditions of what is no success are ignored.
        (Method::GET, &none_match, StatusCode::NOT_FOUND, Condition::Full),
        (Method::GET, &since, StatusCode::MOVED_PERMANENTLY, Condition::Full),
    ] {
        assert_eq!(evaluate(&method, request, status, &stored), condition, "{method} {status}");
    }
}

#[test]
fn ranges_rfc9110_13_1_5() {
    let stored = fields(&[("etag", "\"a\""), ("last-modified", MONDAY)]);
    let weak = fields(&[("etag", "W/\"a\""), ("last-modified", MONDAY)]);
    let dated = fields(&[("last-modified", MONDAY)]);
    for (condition, head, counts) in [
        ("\"a\"", &stored, true),
        ("\"b\"", &stored, false),
        ("W/\"a\"", &stored, false),
        ("W/\"a\"", &weak, false),
        ("\"a\"", &weak, false),
        ("\"a\"", &dated, false),
        // A date is compared exactly: neither an earlier nor a later one will do.
        (MONDAY, &stored, true),
        (MONDAY, &dated, true),
        (SUNDAY, &dated, false),
        (TUESDAY, &dated, false),
        ("yesterday", &dated, false),
        ("", &dated, false),
    ] {
        assert_eq!(range_counts(&fields(&[("if-range", condition)]), head), counts, "{condition} {head:?}");
    }
    assert!(range_counts(&fields(&[]), &stored));
    assert!(!range_counts(&fields(&[("if-range", "\"a\""), ("if-range", "\"a\"")]), &stored));
    assert!(!range_counts(&fields(&[("if-range", MONDAY)]), &fields(&[])));
}

proptest::proptest! {
    #[test]
    fn no_condition_panics_and_a_foreign_tag_is_never_current(text in "[ -~]{0,40}") {
        let stored = fields(&[("etag", "\"a-tag-that-no-text-hits-by-chance-because-it-is-long\"")]);
        for name in [IF_MATCH, IF_NONE_MATCH, IF_MODIFIED_SINCE, IF_UNMODIFIED_SINCE, IF_RANGE] {
            let mut request = HeaderMap::new();
            if let Ok(value) = HeaderValue::from_str(&text) {
                request.insert(name.clone(), value);
            }
            let condition = evaluate(&Method::GET, &request, StatusCode::OK, &stored);
            proptest::prop_assert!(condition != Condition::NotModified || cache_control::tags(&text).any(|m| m == "*"));
            if name == IF_RANGE && request.contains_key(IF_RANGE) {
                proptest::prop_assert!(!range_counts(&request, &stored));
            }
        }
    }

    #[test]
    fn a_tag_fits_itself(tag in "[!#-~]{0,20}") {
        let tag = HeaderValue::from_str(&format!("\"{tag}\"")).unwrap();
        let stored = HeaderMap::from_iter([(ETAG, tag.clone())]);
        let request = HeaderMap::from_iter([(IF_NONE_MATCH, tag.clone())]);
        let range = HeaderMap::from_iter([(IF_RANGE, tag.clone())]);
        proptest::prop_assert_eq!(evaluate(&Method::GET, &request, StatusCode::OK, &stored), Condition::NotModified);
        proptest::prop_assert!(range_counts(&range, &stored));
    }
}

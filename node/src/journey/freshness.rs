//! The decision tree (R4–R7) as pure functions: `decide` before anybody is asked, `compare` and `storable` when upstream has
//! answered.

use std::time::{Duration, SystemTime};

use http::header::{
    AGE, AUTHORIZATION, CACHE_CONTROL, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE,
    COOKIE, DATE, ETAG, HeaderName, IF_MODIFIED_SINCE, IF_NONE_MATCH, LAST_MODIFIED, PRAGMA, SERVER, SET_COOKIE, TE,
    TRAILER, TRANSFER_ENCODING, UPGRADE, VARY,
};
use http::{HeaderMap, HeaderValue, StatusCode};

use super::conditional::weakly_equal;
use crate::classify::Class;
use crate::config::{Freshness, Window};
use crate::store::Head;

/// What a client demands of freshness.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Demand {
    /// `no-cache`, `max-age=0` or `Pragma: no-cache`: ask upstream.
    pub revalidate: bool,
    /// Nothing may be fetched (a Squid that has this node as a sibling asks so).
    pub only_if_cached: bool,
}

impl Demand {
    pub fn of(fields: &HeaderMap) -> Self {
        let mut demand = Self::default();
        for directive in directives(fields) {
            match directive.0.as_str() {
                "no-cache" => demand.revalidate = true,
                "max-age" if directive.1.as_deref() == Some("0") => demand.revalidate = true,
                "only-if-cached" => demand.only_if_cached = true,
                _ => {}
            }
        }
        if !fields.contains_key(CACHE_CONTROL) && fields.get(PRAGMA).is_some_and(|v| v.as_bytes() == b"no-cache") {
            demand.revalidate = true;
        }
        demand
    }
}

/// What is known of a stored version.
#[derive(Debug, Clone, Copy)]
pub struct Known {
    /// Since upstream last confirmed it.
    pub unconfirmed_for: Duration,
    /// A digest in its name, against which it was checked, says that it can be no other.
    pub immutable: bool,
    /// How long upstream said it is fresh, if it did.
    pub lifetime: Option<Duration>,
}

/// What to do first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// From the cache, nobody is asked.
    Serve,
    /// Ask upstream whether it is current; a new version comes with the answer.
    Revalidate,
    /// Nothing is stored: ask for it.
    Fetch,
    /// Nothing is stored and nothing may be fetched: 504 (RFC 9111 5.2.1.7).
    NotCached,
}

/// Before anybody is asked.
pub fn decide(class: Class, known: Option<Known>, demand: Demand, policy: &Freshness) -> Decision {
    let Some(known) = known else {
        return if demand.only_if_cached { Decision::NotCached } else { Decision::Fetch };
    };
    if known.immutable || demand.only_if_cached {
        return Decision::Serve;
    }
    let window = match class {
        Class::MutableMetadata => policy.metadata,
        Class::Package | Class::ImmutableMetadata | Class::Other => policy.package,
    };
    let fresh = match window {
        Window::Immutable => true,
        Window::For(window) => known.unconfirmed_for < window && !demand.revalidate,
        // A package whose upstream says how long it is good is believed; metadata is asked for each time.
        Window::Revalidate if class == Class::MutableMetadata || demand.revalidate => false,
        Window::Revalidate => known.lifetime.is_some_and(|lifetime| known.unconfirmed_for < lifetime),
    };
    if fresh { Decision::Serve } else { Decision::Revalidate }
}

/// Theirs beside ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    Same,
    Newer,
    Older,
}

/// Compares an answer with what is stored: by entity tag with length, else by date with length; an earlier date is an older
/// version (a lagging mirror must not take a repository back), anything else that differs is a newer one.
///
/// Different tags of one server are different versions. Each mirror has tags of its own, so that those of two (`one_server`
/// is false) say nothing by being different; mirrors do keep the dates.
pub fn compare(ours: &HeaderMap, our_size: u64, theirs: &HeaderMap, one_server: bool) -> Version {
    let length = theirs.get(CONTENT_LENGTH).and_then(|v| v.to_str().ok()).and_then(|v| v.parse::<u64>().ok());
    let same_length = length.is_none_or(|length| length == our_size);
    let tags = ours.get(ETAG).zip(theirs.get(ETAG));
    let same_tag = tags.map(|(a, b)| a == b || weakly_equal(a.as_bytes(), b.as_bytes()));
    let told_apart = one_server && same_tag == Some(false);
    let strong = tags.is_some_and(|(a, b)| a == b && !a.as_bytes().starts_with(b"W/"));
    match (date(ours, LAST_MODIFIED), date(theirs, LAST_MODIFIED)) {
        _ if strong && same_length => Version::Same,
        // A weak tag says that the meaning is the same, which for a file it is only with the same date.
        (a, b) if same_tag == Some(true) && same_length && (a == b || a.is_none() || b.is_none()) => Version::Same,
        (Some(a), Some(b)) if a == b && same_length && !told_apart => Version::Same,
        (Some(a), Some(b)) if b < a => Version::Older,
        _ => Version::Newer,
    }
}

fn date(fields: &HeaderMap, name: HeaderName) -> Option<SystemTime> {
    httpdate::parse_http_date(fields.get(name)?.to_str().ok()?).ok()
}

/// Has this head anything that upstream can compare?
pub fn has_validators(fields: &HeaderMap) -> bool {
    fields.contains_key(ETAG) || fields.contains_key(LAST_MODIFIED)
}

/// The conditions of a revalidation (RFC 9110 13.1).
pub fn conditions(fields: &HeaderMap) -> HeaderMap {
    let mut conditions = HeaderMap::new();
    if let Some(tag) = fields.get(ETAG) {
        conditions.insert(IF_NONE_MATCH, tag.clone());
    }
    if let Some(date) = fields.get(LAST_MODIFIED) {
        conditions.insert(IF_MODIFIED_SINCE, date.clone());
    }
    conditions
}

/// Why an answer is not stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotStored {
    Status,
    Private,
    NoStore,
    VaryingContent,
    Encoded,
    PageInsteadOfPackage,
}

impl NotStored {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::Private => "private",
            Self::NoStore => "no-store",
            Self::VaryingContent => "vary",
            Self::Encoded => "content-encoding",
            Self::PageInsteadOfPackage => "html-for-a-package",
        }
    }
}

/// May an answer for what is ours be stored (RFC 9111 section 3 for a shared cache)?
pub fn storable(class: Class, status: StatusCode, fields: &HeaderMap) -> Result<(), NotStored> {
    if status != StatusCode::OK && status != StatusCode::PARTIAL_CONTENT {
        return Err(NotStored::Status);
    }
    for (name, _) in directives(fields) {
        match name.as_str() {
            "private" => return Err(NotStored::Private),
            "no-store" => return Err(NotStored::NoStore),
            _ => {}
        }
    }
    // Our requests all have the same fields, so what varies by these does not vary for us.
    let harmless = ["accept-encoding", "accept", "user-agent", "origin", ""];
    let varies = fields.get_all(VARY).iter().any(|value| {
        value
            .to_str()
            .map_or(true, |v| v.split(',').any(|f| !harmless.contains(&f.trim().to_ascii_lowercase().as_str())))
    });
    if varies {
        return Err(NotStored::VaryingContent);
    }
    // `identity` was asked for: what comes encoded all the same is for nobody else.
    if fields.get(CONTENT_ENCODING).is_some_and(|v| !v.as_bytes().eq_ignore_ascii_case(b"identity")) {
        return Err(NotStored::Encoded);
    }
    if class.is_ours() && is_web_page(fields) {
        return Err(NotStored::PageInsteadOfPackage);
    }
    Ok(())
}

/// Is it HTML, of either form? No package manager's file is: it is a mirror's error page or a captive portal's.
pub fn is_web_page(fields: &HeaderMap) -> bool {
    let kind = fields.get(CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
    let kind = kind.split(|b| *b == b';').next().unwrap_or_default().trim_ascii();
    kind.eq_ignore_ascii_case(b"text/html") || kind.eq_ignore_ascii_case(b"application/xhtml+xml")
}

/// Not the fields that belong to one connection, one message, one client or one server.
fn is_kept(name: &HeaderName) -> bool {
    const DROPPED: [HeaderName; 11] = [
        CONNECTION,
        CONTENT_LENGTH,
        CONTENT_RANGE,
        SET_COOKIE,
        TE,
        TRAILER,
        TRANSFER_ENCODING,
        UPGRADE,
        COOKIE,
        AUTHORIZATION,
        SERVER,
    ];
    !DROPPED.contains(name) && !matches!(name.as_str(), "keep-alive" | "proxy-authenticate" | "proxy-connection")
}

/// What of an answer's head is stored. One without a date gets the time at which it came (RFC 9110 6.6.1).
pub fn stored_head(fields: &HeaderMap, received: SystemTime) -> Head {
    let kept = fields.iter().filter(|(name, _)| is_kept(name)).map(|(name, value)| (name.clone(), value.clone()));
    let mut map = HeaderMap::new();
    for (name, value) in kept {
        map.append(name, value);
    }
    if !map.contains_key(DATE)
        && let Ok(now) = HeaderValue::try_from(httpdate::fmt_http_date(received))
    {
        map.insert(DATE, now);
    }
    Head { status: StatusCode::OK, fields: map }
}

/// A stored head with the fields of a 304 (RFC 9111 3.2). What describes the stored bytes stays as it is, and so does the
/// date: it tells how old the modification was when they came.
pub fn updated(head: &Head, fields: &HeaderMap) -> Head {
    let mut updated = head.clone();
    updated.fields.remove(AGE);
    let of_the_bytes = [CONTENT_ENCODING, CONTENT_TYPE, DATE];
    for name in fields.keys().filter(|name| is_kept(name) && !of_the_bytes.contains(name)) {
        updated.fields.remove(name);
        for value in fields.get_all(name) {
            updated.fields.append(name.clone(), value.clone());
        }
    }
    updated
}

/// How long an answer says that it is fresh for a shared cache (RFC 9111 4.2.1), less the age it came with.
pub fn lifetime(fields: &HeaderMap) -> Option<Duration> {
    let mut max_age = None;
    let mut shared = None;
    for (name, value) in directives(fields) {
        let seconds = || value.as_deref().map(delta_seconds);
        match name.as_str() {
            "no-cache" => return None,
            "s-maxage" => shared = seconds(),
            "max-age" => max_age = seconds(),
            _ => {}
        }
    }
    let age = fields.get(AGE).and_then(|v| v.to_str().ok()).map_or(0, delta_seconds);
    shared.or(max_age).map(|seconds| Duration::from_secs(seconds.saturating_sub(age)))
}

/// RFC 9111 1.2.2: what overflows is 2^31, what is no number is zero.
fn delta_seconds(text: &str) -> u64 {
    match text.bytes().all(|b| b.is_ascii_digit()) && !text.is_empty() {
        true => text.parse().unwrap_or(1 << 31).min(1 << 31),
        false => 0,
    }
}

/// The directives of all `Cache-Control` fields: lower-case name, unquoted value.
pub fn directives(fields: &HeaderMap) -> impl Iterator<Item = (String, Option<String>)> + '_ {
    fields
        .get_all(CACHE_CONTROL)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|part| {
            let (name, value) = match part.split_once('=') {
                Some((name, value)) => (name, Some(value.trim().trim_matches('"').to_owned())),
                None => (part, None),
            };
            let name = name.trim().to_ascii_lowercase();
            (!name.is_empty()).then_some((name, value))
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Other;

    fn fields(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v))).collect()
    }

    fn policy(metadata: Window, package: Window) -> Freshness {
        Freshness { metadata, package, other: Other::Pass }
    }

    const ASK: Window = Window::Revalidate;

    fn known(seconds: u64) -> Option<Known> {
        Some(Known { unconfirmed_for: Duration::from_secs(seconds), immutable: false, lifetime: None })
    }

    #[test]
    fn the_rows_before_upstream_is_asked() {
        let none = Demand::default();
        let insist = Demand { revalidate: true, ..none };
        let only = Demand { only_if_cached: true, ..none };
        let minute = Window::For(Duration::from_secs(60));
        let immutable = known(1_000_000).map(|k| Known { immutable: true, ..k });
        let lives = known(100).map(|k| Known { lifetime: Some(Duration::from_secs(600)), ..k });
        for (class, known, demand, policy, decision) in [
            (Class::Package, None, none, policy(ASK, ASK), Decision::Fetch),
            (Class::Package, None, only, policy(ASK, ASK), Decision::NotCached),
            (Class::Package, known(1), none, policy(ASK, ASK), Decision::Revalidate),
            (Class::Package, known(1), only, policy(ASK, ASK), Decision::Serve),
            (Class::Package, lives, none, policy(ASK, ASK), Decision::Serve),
            (Class::Package, lives, insist, policy(ASK, ASK), Decision::Revalidate),
            (Class::MutableMetadata, lives, none, policy(ASK, ASK), Decision::Revalidate),
            (Class::Package, known(1), none, policy(ASK, Window::Immutable), Decision::Serve),
            (Class::Package, known(1), insist, policy(ASK, Window::Immutable), Decision::Serve),
            (Class::MutableMetadata, known(59), none, policy(minute, ASK), Decision::Serve),
            (Class::MutableMetadata, known(60), none, policy(minute, ASK), Decision::Revalidate),
            (Class::MutableMetadata, known(59), insist, policy(minute, ASK), Decision::Revalidate),
            (Class::ImmutableMetadata, immutable, insist, policy(ASK, ASK), Decision::Serve),
        ] {
            assert_eq!(decide(class, known, demand, &policy), decision, "{class:?} {known:?} {demand:?} {policy:?}");
        }
    }

    #[test]
    fn versions() {
        let a = ("etag", "\"a\"");
        let b = ("etag", "\"b\"");
        let monday = ("last-modified", "Mon, 02 Jan 2023 03:04:05 GMT");
        let tuesday = ("last-modified", "Tue, 03 Jan 2023 03:04:05 GMT");
        let (short, long) = (("content-length", "10"), ("content-length", "11"));
        let (weak, other_weak) = (("etag", "W/\"a\""), ("etag", "W/\"b\""));
        for (ours, theirs, version) in [
            (vec![weak], vec![weak], Version::Same),
            (vec![weak, monday], vec![weak, monday, short], Version::Same),
            (vec![weak, monday], vec![weak, short], Version::Same),
            (vec![weak, monday], vec![weak, tuesday, short], Version::Newer),
            (vec![("etag", "bare")], vec![("etag", "bare"), short], Version::Same),
            (vec![weak], vec![a, short], Version::Same),
            (vec![weak], vec![weak, long], Version::Newer),
            (vec![weak, monday], vec![other_weak, monday, short], Version::Newer),
            (vec![a], vec![a, short], Version::Same),
            (vec![a], vec![a, long], Version::Newer),
            (vec![a], vec![b], Version::Newer),
            (vec![a, monday], vec![b, monday, short], Version::Newer),
            (vec![monday], vec![monday, short], Version::Same),
            (vec![monday], vec![monday, long], Version::Newer),
            (vec![monday], vec![tuesday], Version::Newer),
            (vec![tuesday], vec![monday], Version::Older),
            (vec![a, tuesday], vec![b, monday], Version::Older),
            (vec![], vec![], Version::Newer),
            (vec![monday], vec![], Version::Newer),
        ] {
            assert_eq!(compare(&fields(&ours), 10, &fields(&theirs), true), version, "{ours:?} {theirs:?}");
        }
        for (ours, theirs, version) in [
            (vec![a, monday], vec![b, monday, short], Version::Same),
            (vec![a, monday], vec![b, monday, long], Version::Newer),
            (vec![a, monday], vec![b, tuesday, short], Version::Newer),
            (vec![a, tuesday], vec![b, monday, short], Version::Older),
            (vec![a], vec![b, short], Version::Newer),
        ] {
            assert_eq!(compare(&fields(&ours), 10, &fields(&theirs), false), version, "{ours:?} {theirs:?}");
        }
    }

    #[test]
    fn what_may_be_stored() {
        let ok = |pairs: &[_]| storable(Class::Package, StatusCode::OK, &fields(pairs));
        assert_eq!(ok(&[]), Ok(()));
        assert_eq!(ok(&[("vary", "Accept-Encoding, User-Agent")]), Ok(()));
        assert_eq!(ok(&[("vary", "*")]), Err(NotStored::VaryingContent));
        assert_eq!(ok(&[("vary", "Cookie")]), Err(NotStored::VaryingContent));
        assert_eq!(ok(&[("cache-control", "max-age=600, PRIVATE")]), Err(NotStored::Private));
        assert_eq!(ok(&[("cache-control", "No-Store")]), Err(NotStored::NoStore));
        assert_eq!(ok(&[("content-encoding", "gzip")]), Err(NotStored::Encoded));
        for page in [
            "text/html; charset=utf-8",
            "TEXT/HTML",
            "text/html ;x",
            "application/xhtml+xml",
            "Application/XHTML+xml;q",
        ] {
            assert_eq!(ok(&[("content-type", page)]), Err(NotStored::PageInsteadOfPackage), "{page}");
        }
        assert_eq!(ok(&[("content-type", "text/html5-package")]), Ok(()));
        assert_eq!(storable(Class::Package, StatusCode::NOT_FOUND, &fields(&[])), Err(NotStored::Status));
    }

    #[test]
    fn lifetimes() {
        let of = |value: &'static str| lifetime(&fields(&[("cache-control", value)])).map(|d| d.as_secs());
        assert_eq!(of("max-age=600"), Some(600));
        assert_eq!(of("max-age=600, s-maxage=5"), Some(5));
        assert_eq!(of("max-age=99999999999999999999"), Some(1 << 31));
        assert_eq!(of("max-age=-1"), Some(0));
        assert_eq!(of("max-age=600, no-cache"), None);
        assert_eq!(of("public"), None);
        for (age, left) in [("100", 500), ("99999999999999999999", 0)] {
            let fields = fields(&[("cache-control", "max-age=600"), ("age", age)]);
            assert_eq!(lifetime(&fields), Some(Duration::from_secs(left)));
        }
    }

    #[test]
    fn a_304_updates_what_it_names() {
        let came = ("date", "Mon, 02 Jan 2023 03:04:05 GMT");
        let answer = fields(&[("etag", "\"a\""), ("content-type", "x/y"), ("set-cookie", "a=b"), ("x", "1")]);
        let head = stored_head(&answer, httpdate::parse_http_date(came.1).unwrap());
        let later = ("date", "Tue, 03 Jan 2023 03:04:05 GMT");
        let new =
            updated(&head, &fields(&[("x", "2"), ("content-length", "0"), ("content-type", "text/plain"), later]));
        assert_eq!(new.fields, fields(&[("etag", "\"a\""), ("content-type", "x/y"), ("x", "2"), came]));
        assert_eq!(stored_head(&fields(&[later]), SystemTime::UNIX_EPOCH).fields, fields(&[later]));
    }
}

//! Whether a stored answer will do for a request (RFC 9111 4, 5.2), and what a failed validation means.

use std::time::Duration;

use http::header::{CACHE_CONTROL, PRAGMA};
use http::{HeaderMap, StatusCode};

use super::age::{current_age, lifetime};
use crate::journey::cache_control::Directives;
use crate::os::clock::Timestamp;

/// Longest that an answer outlives its freshness while upstream cannot be reached, where nobody says how long it may.
const STALE_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

/// What is stored, as `kept_fields` made it.
#[derive(Debug, Clone, Copy)]
pub struct Stored<'a> {
    pub status: StatusCode,
    pub fields: &'a HeaderMap,
    /// When it came or was last confirmed.
    pub confirmed_at: Timestamp,
}

/// What to do with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reuse {
    /// From the cache, with this `Age`.
    Serve { age: Duration },
    /// From the cache, with this `Age`, and ask upstream behind the client's back (RFC 5861 3).
    ServeAndValidate { age: Duration },
    /// Ask upstream with the stored validators.
    Validate(Why),
    /// Nothing is stored: forward it.
    Fetch,
    /// 504: only what is stored was wanted, and it will not do (5.2.1.7).
    NotCached,
}

/// Why a stored answer has to be validated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// The client says so.
    Asked,
    /// The answer says so.
    NoCache,
    /// It is no longer fresh, or not fresh enough for the client.
    Stale,
}

/// Will what is stored do (4)?
pub fn reuse(request: &HeaderMap, stored: Option<Stored<'_>>, now: Timestamp) -> Reuse {
    let wish = Directives::of(request);
    let Some(stored) = stored else {
        return if wish.has("only-if-cached") { Reuse::NotCached } else { Reuse::Fetch };
    };
    let age = current_age(stored.fields, stored.confirmed_at, now);
    match obstacle(request, &wish, &stored, age) {
        None => Reuse::Serve { age },
        Some(Why::Stale) if may_validate_later(&wish, &stored, age) => Reuse::ServeAndValidate { age },
        Some(_) if wish.has("only-if-cached") => Reuse::NotCached,
        Some(why) => Reuse::Validate(why),
    }
}

fn obstacle(request: &HeaderMap, wish: &Directives, stored: &Stored<'_>, age: Duration) -> Option<Why> {
    let control = Directives::of(stored.fields);
    let life = lifetime(stored.status, stored.fields);
    // 5.4: `Pragma` counts only where there is no `Cache-Control`.
    let pragma = !request.contains_key(CACHE_CONTROL)
        && request.get(PRAGMA).is_some_and(|v| v.as_bytes().eq_ignore_ascii_case(b"no-cache"));
    if wish.has("no-cache") || pragma {
        return Some(Why::Asked);
    }
    if control.has_bare("no-cache") {
        return Some(Why::NoCache);
    }
    let fresh = age < life;
    // RFC 8246: a reload need not ask for what cannot have changed.
    let unchanging = fresh && control.has("immutable");
    let max_stale = match may_be_stale(&control) {
        true => tolerance(wish),
        false => None,
    };
    if let Some(max_age) = wish.seconds("max-age")
        && age > max_age.saturating_add(max_stale.unwrap_or_default())
        && !unchanging
    {
        return Some(Why::Asked);
    }
    // A request for `max-age=0` is a request to ask, also of what came in this very second.
    if wish.seconds("max-age") == Some(Duration::ZERO) && max_stale.is_none() && !unchanging {
        return Some(Why::Asked);
    }
    let min_fresh = wish.seconds("min-fresh").unwrap_or_default();
    let fresh_enough = fresh && life.saturating_sub(age) >= min_fresh;
    let stale_by = age.saturating_sub(life);
    let tolerated = min_fresh.is_zero() && max_stale.is_some_and(|most| stale_by <= most);
    (!fresh_enough && !tolerated).then_some(Why::Stale)
}

/// RFC 5861 3: stale, but not by so much that anybody had to wait. A client that wants more than that waits.
fn may_validate_later(wish: &Directives, stored: &Stored<'_>, age: Duration) -> bool {
    let control = Directives::of(stored.fields);
    let stale_by = age.saturating_sub(lifetime(stored.status, stored.fields));
    let undemanding = !["min-fresh", "max-age", "max-stale", "only-if-cached"].iter().any(|name| wish.has(name));
    let most = control.seconds("stale-while-revalidate");
    may_be_stale(&control) && undemanding && most.is_some_and(|most| stale_by < most)
}

/// How stale an answer the client takes (5.2.1.2); without an argument any.
fn tolerance(wish: &Directives) -> Option<Duration> {
    match wish.has_bare("max-stale") {
        true => Some(Duration::MAX),
        false => wish.seconds("max-stale"),
    }
}

/// Directives that forbid a stale answer whatever happens (4.2.4); `s-maxage` implies one of them (5.2.2.10).
fn may_be_stale(control: &Directives) -> bool {
    let forbidding = ["must-revalidate", "proxy-revalidate", "s-maxage"].iter().any(|name| control.has(name));
    !forbidding && !control.has_bare("no-cache")
}

/// How a validation failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// No answer.
    Unreachable,
    /// An answer with this status.
    Status(StatusCode),
}

/// May the stored answer be sent after all? `None`: pass on the failure, which is a 504 when there was no answer (5.2.2.2).
///
/// Without a word on it an answer may be stale while its origin is out of reach (4.2.4), not because the origin says 5xx: that
/// needs `stale-if-error` of the answer or the request (RFC 5861 4), which then also says for how long.
pub fn failed(request: &HeaderMap, stored: Stored<'_>, failure: Failure, now: Timestamp) -> Option<Duration> {
    let control = Directives::of(stored.fields);
    let wish = Directives::of(request);
    if !may_be_stale(&control) || wish.has("no-cache") {
        return None;
    }
    let granted = control.seconds("stale-if-error").max(wish.seconds("stale-if-error"));
    let most = match failure {
        Failure::Unreachable => granted.unwrap_or(STALE_MAX),
        Failure::Status(status) if matches!(status.as_u16(), 500 | 502 | 503 | 504) => granted?,
        Failure::Status(_) => return None,
    };
    let age = current_age(stored.fields, stored.confirmed_at, now);
    let stale_by = age.saturating_sub(lifetime(stored.status, stored.fields));
    (stale_by <= most).then_some(age)
}

#[cfg(test)]
mod tests;

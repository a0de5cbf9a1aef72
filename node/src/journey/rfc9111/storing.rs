//! Whether an answer is stored (RFC 9111 3), what of its head is, and what a 304 changes in it.

use http::header::{
    AGE, AUTHORIZATION, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, COOKIE, DATE, ETAG, EXPIRES,
    HeaderName, LAST_MODIFIED, SET_COOKIE, TRANSFER_ENCODING, VARY,
};
use http::{HeaderMap, HeaderValue, Method, StatusCode};

use super::age::{Exchange, explicit_lifetime, initial_age, is_heuristically_cacheable};
use crate::journey::cache_control::Directives;
use crate::journey::conditional::{strongly_equal, weakly_equal};

/// Why an answer is not stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotStored {
    /// Only answers to GET are.
    Method,
    /// Interim, partial, or 304: no whole answer. Of a class that nobody knows. With `must-understand`: a status whose caching rules are not known here.
    Status,
    NoStore,
    /// The client forbade it.
    RequestNoStore,
    Private,
    /// To a request with credentials, without leave to share it (3.5).
    Authorized,
    /// With a cookie, or to one, without leave to share it.
    Cookie,
    /// Differs by what no request tells.
    Varies,
    /// Nothing says that it may be stored.
    NotPermitted,
    /// Never fresh, and nothing to validate it with.
    Useless,
}

impl NotStored {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Method => "method",
            Self::Status => "status",
            Self::NoStore => "no-store",
            Self::RequestNoStore => "request-no-store",
            Self::Private => "private",
            Self::Authorized => "authorization",
            Self::Cookie => "set-cookie",
            Self::Varies => "vary",
            Self::NotPermitted => "not-permitted",
            Self::Useless => "useless",
        }
    }
}

/// May an answer be stored (3)? That it came whole is for the caller to see to. Nothing is changed.
pub fn storable(method: &Method, request: &HeaderMap, status: StatusCode, fields: &HeaderMap) -> Result<(), NotStored> {
    let control = Directives::of(fields);
    let refuse = |refused: bool, why| if refused { Err(why) } else { Ok(()) };
    let shared = control.has("public") || control.has("s-maxage");
    refuse(method != Method::GET, NotStored::Method)?;
    refuse(!matches!(status.as_u16(), 200..600) || matches!(status.as_u16(), 206 | 304), NotStored::Status)?;
    refuse(Directives::of(request).has("no-store"), NotStored::RequestNoStore)?;
    match control.has("must-understand") {
        // `no-store` beside it is for caches that do not understand it (5.2.2.3).
        true => refuse(!is_heuristically_cacheable(status), NotStored::Status)?,
        false => refuse(control.has("no-store"), NotStored::NoStore)?,
    }
    refuse(control.has_bare("private"), NotStored::Private)?;
    let with_leave = shared || control.has("must-revalidate");
    refuse(request.contains_key(AUTHORIZATION) && !with_leave, NotStored::Authorized)?;
    // RFC 9111 7.3 leaves cookies to the server; servers forget, so an answer that sets one must be shared explicitly.
    let cookies = fields.contains_key(SET_COOKIE) || request.contains_key(COOKIE);
    refuse(cookies && !shared, NotStored::Cookie)?;
    refuse(super::names(fields).is_none(), NotStored::Varies)?;
    let explicit = explicit_lifetime(&control, fields);
    let permitted = control.has("public") || explicit.is_some() || is_heuristically_cacheable(status);
    refuse(!permitted, NotStored::NotPermitted)?;
    let fresh = explicit.is_some_and(|life| !life.is_zero());
    let validated = fields.contains_key(ETAG) || fields.contains_key(LAST_MODIFIED);
    refuse(!fresh && !validated, NotStored::Useless)
}

/// May a stored answer be given to a request with credentials? To `Authorization` with the leave that storing would need (3.5);
/// to a cookie when somebody has thought about caching, since a guess at its freshness knows nothing of cookies.
pub fn may_be_shared_with(request: &HeaderMap, fields: &HeaderMap) -> bool {
    let (login, cookie) = (request.contains_key(AUTHORIZATION), request.contains_key(COOKIE));
    if !login && !cookie {
        return true;
    }
    let control = Directives::of(fields);
    let shared = control.has("public") || control.has("s-maxage");
    (!login || shared || control.has("must-revalidate"))
        && (!cookie || shared || explicit_lifetime(&control, fields).is_some())
}

/// What of an answer's head is stored (3.1): without the fields of one connection or one client, with a `Date`, and with the
/// `Age` that it had when it came, so that its age can be told from the time of its coming alone.
pub fn kept_fields(fields: &HeaderMap, exchange: Exchange) -> HeaderMap {
    let control = Directives::of(fields);
    // Fields that must not be reused without asking (5.2.2.4) or shared (5.2.2.7) are not kept.
    let qualified: Vec<_> = control.field_names("no-cache").chain(control.field_names("private")).collect();
    let dropped: Vec<_> = connection_names(fields).chain(qualified).collect();
    let mut kept = HeaderMap::new();
    for (name, value) in fields.iter().filter(|(name, _)| is_end_to_end(name) && !dropped.contains(name)) {
        kept.append(name, value.clone());
    }
    let dated = crate::journey::conditional::date(&kept, DATE).is_some();
    let now = httpdate::fmt_http_date(exchange.answered_at.to_system_time());
    if !dated && let Ok(now) = HeaderValue::try_from(now) {
        kept.insert(DATE, now);
    }
    kept.insert(AGE, initial_age(fields, exchange).as_secs().into());
    kept
}

/// Is a 304 about the stored answer (4.3.4)? One that names another version confirms nothing: ask again without conditions.
pub fn validates(stored: &HeaderMap, fields: &HeaderMap) -> bool {
    match (fields.get(ETAG), fields.get(LAST_MODIFIED)) {
        (Some(theirs), _) if theirs.as_bytes().starts_with(b"W/") => {
            stored.get(ETAG).is_some_and(|ours| weakly_equal(ours.as_bytes(), theirs.as_bytes()))
        }
        (Some(theirs), _) => stored.get(ETAG).is_some_and(|ours| strongly_equal(ours.as_bytes(), theirs.as_bytes())),
        (None, Some(theirs)) => stored.get(LAST_MODIFIED).is_none_or(|ours| ours == theirs),
        (None, None) => true,
    }
}

/// A stored head with the fields of a 304 (3.2). What describes the stored bytes stays as it is.
pub fn updated(stored: &HeaderMap, fields: &HeaderMap, exchange: Exchange) -> HeaderMap {
    let new = kept_fields(fields, exchange);
    // `Vary` has chosen the key.
    let of_the_bytes = [CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, VARY];
    let mut updated = stored.clone();
    // An answer with other ideas of its freshness must not be read together with the old ones.
    if new.contains_key(http::header::CACHE_CONTROL) && !new.contains_key(EXPIRES) {
        updated.remove(EXPIRES);
    }
    for name in new.keys().filter(|name| !of_the_bytes.contains(name)) {
        updated.remove(name);
        for value in new.get_all(name) {
            updated.append(name, value.clone());
        }
    }
    updated
}

/// Fields that are about the message as it is stored, not about one connection, one proxy or one client.
fn is_end_to_end(name: &HeaderName) -> bool {
    const DROPPED: [HeaderName; 6] = [CONNECTION, CONTENT_LENGTH, CONTENT_RANGE, SET_COOKIE, TRANSFER_ENCODING, AGE];
    const DROPPED_TOO: [&str; 11] = [
        "keep-alive",
        "te",
        "trailer",
        "upgrade",
        "proxy-authenticate",
        "proxy-authentication-info",
        "proxy-authorization",
        "proxy-connection",
        "set-cookie2",
        "cache-status",
        "clear-site-data",
    ];
    !DROPPED.contains(name) && !DROPPED_TOO.contains(&name.as_str())
}

/// Fields that `Connection` names (RFC 9110 7.6.1), but for those that no connection may take away: without them a stored
/// answer would be reused more freely than its origin meant.
fn connection_names(fields: &HeaderMap) -> impl Iterator<Item = HeaderName> {
    const STAYS: [HeaderName; 6] = [http::header::CACHE_CONTROL, VARY, ETAG, LAST_MODIFIED, DATE, EXPIRES];
    let lines = fields.get_all(CONNECTION).iter().filter_map(|line| line.to_str().ok());
    let names = lines.flat_map(|line| line.split(',')).filter_map(|name| HeaderName::try_from(name.trim()).ok());
    names.filter(|name| !STAYS.contains(name))
}

#[cfg(test)]
mod tests;

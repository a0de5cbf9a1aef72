//! The short cut for what most requests are: a GET without conditions of something that is hot and fresh.
//!
//! What the long way found out about a request line (its URL, key and class, and the head of the answer) is remembered
//! under that very line. The decision tree is asked all the same; the short cut only saves working out again what cannot
//! have changed as long as the store holds the very same entry. Whatever is not plain goes the long way.

use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use bytes::Bytes;
use http::header::AGE;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};
use quick_cache::Equivalent;
use quick_cache::sync::Cache;

use super::freshness::{Decision, Demand, Known, decide};
use super::{Content, Journey, Reply, Segments, Stored, known};
use crate::classify::{Class, Classified, Digest, Url, called};
use crate::cluster::site::Tally;
use crate::ledger::Outcome;
use crate::os::clock::Timestamp;
use crate::store::Hot;

/// Request lines remembered; each takes about a kilobyte.
const LINES_MAX: usize = 8192;

/// Longer lines go the long way.
const LINE_LEN_MAX: usize = 1024;

/// A request line of a plain GET: the authority of the absolute form (empty in origin form) and the path with its query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    https: bool,
    /// Length of the authority in `text`.
    authority: usize,
    /// Both, one after the other: that is one place in memory to look at.
    text: Box<str>,
}

impl Hash for Line {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.borrowed().hash(state);
    }
}

impl Line {
    fn borrowed(&self) -> LineRef<'_> {
        let (authority, path) = self.text.split_at_checked(self.authority).unwrap_or_default();
        LineRef { https: self.https, authority, path }
    }
}

/// The same, borrowed from a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LineRef<'a> {
    https: bool,
    authority: &'a str,
    path: &'a str,
}

impl<'a> LineRef<'a> {
    /// Nothing when the request is not plain: another method, or a field that could change the answer.
    pub fn of(method: &Method, uri: &'a Uri, fields: &HeaderMap) -> Option<Self> {
        let (authority, path) = (uri.authority().map_or("", |a| a.as_str()), uri.path_and_query()?.as_str());
        let https = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            None if authority.is_empty() => false,
            _ => return None,
        };
        let plain = are_plain(fields.iter().map(|(name, value)| (name.as_str(), value.as_bytes())));
        let short = authority.len() + path.len() <= LINE_LEN_MAX;
        (plain && short && method == Method::GET).then_some(Self { https, authority, path })
    }

    /// The same of a request target as it came, before anybody has looked whether it is one: what is found by it was remembered
    /// of a request with this very target, which had been looked at.
    pub fn read(method: &str, target: &'a str, fields: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Option<Self> {
        let (https, rest) = match (target.strip_prefix("http://"), target.strip_prefix("https://")) {
            (Some(rest), _) => (false, rest),
            (_, Some(rest)) => (true, rest),
            _ if target.starts_with('/') => (false, target),
            _ => return None,
        };
        let (authority, path) = rest.split_at(rest.find(['/', '?'])?);
        let is_one_form = authority.is_empty() == target.starts_with('/') && !target.contains('#');
        let plain = is_one_form && are_plain(fields) && rest.len() <= LINE_LEN_MAX;
        (plain && method == "GET").then_some(Self { https, authority, path })
    }

    pub fn to_line(self) -> Line {
        let text = [self.authority, self.path].concat().into();
        Line { https: self.https, authority: self.authority.len(), text }
    }
}

/// Can none of these fields of a request change the answer?
fn are_plain<'a>(fields: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> bool {
    let mut hosts = 0;
    let plain = fields.into_iter().all(|(name, value)| {
        let is = |other: &&str| name.eq_ignore_ascii_case(other);
        if is(&"host") {
            hosts += 1;
            return value.iter().all(|b| b.is_ascii_alphanumeric() || b".-:[]".contains(b));
        }
        let harmless = ["user-agent", "accept", "accept-encoding", "accept-language", "referer"].iter().any(is);
        let persistent = || ["connection", "proxy-connection"].iter().any(is);
        harmless || persistent() && value.eq_ignore_ascii_case(b"keep-alive")
    });
    plain && hosts == 1
}

impl Equivalent<Line> for LineRef<'_> {
    fn equivalent(&self, line: &Line) -> bool {
        *self == line.borrowed()
    }
}

/// What is remembered of one line.
#[derive(Debug)]
pub struct Shortcut {
    /// What the access log calls it.
    pub url: Url,
    class: Class,
    hot: Weak<Hot>,
    /// Counts how often it is asked for.
    tally: Arc<Tally>,
    /// When what repositories say was looked at.
    epoch: u64,
    /// What is known of it, but for its age.
    known: Known,
    outcome: Outcome,
    /// The age in seconds at which the store last saw that it is in use.
    seen_at: AtomicU64,
    answered: Mutex<Answered>,
    text: OnceLock<Box<[u8]>>,
}

/// The fields of an answer, as of an age in seconds.
#[derive(Debug)]
struct Answered {
    age: u64,
    fields: HeaderMap,
}

/// What a plain request may be answered with here and now.
pub struct AtOnce {
    pub shortcut: Arc<Shortcut>,
    pub hot: Arc<Hot>,
    /// In seconds.
    pub age: u64,
}

impl Shortcut {
    pub fn class(&self) -> Class {
        self.class
    }

    pub fn outcome(&self) -> Outcome {
        self.outcome
    }
}

/// The lines that are remembered.
pub(super) struct Shortcuts(Cache<Line, Arc<Shortcut>>);

impl Default for Shortcuts {
    fn default() -> Self {
        Self(Cache::new(LINES_MAX))
    }
}

impl Journey {
    /// What a plain request may be answered with here and now.
    pub fn at_once(&self, line: LineRef<'_>, now: Timestamp) -> Option<AtOnce> {
        let shortcut = self.0.shortcuts.0.get(&line)?;
        let hot = shortcut.hot.upgrade()?;
        if shortcut.epoch != self.0.options.generations.epoch() {
            return None;
        }
        let unconfirmed_for = now.since(hot.entry.confirmed_at());
        let known = Known { unconfirmed_for, ..shortcut.known };
        if decide(shortcut.class, Some(known), Demand::default(), &self.0.options.freshness) != Decision::Serve {
            return None;
        }
        Some(AtOnce { shortcut, hot, age: unconfirmed_for.as_secs() })
    }

    /// It is what a client gets.
    pub fn takes(&self, at_once: &AtOnce, now: Timestamp) {
        let AtOnce { shortcut, hot, age } = at_once;
        if shortcut.seen_at.load(Ordering::Relaxed) != *age {
            // Once a second is often enough for the store to see what is in use.
            shortcut.seen_at.store(*age, Ordering::Relaxed);
            self.0.store.lookup_hot(&hot.entry.key);
        }
        self.0.store.touch(&hot.entry, now);
        self.0.site.requested(&shortcut.tally);
    }

    /// Remembers how a plain request was answered from the store.
    pub(super) fn remember(
        &self,
        line: &Line,
        url: &Url,
        classified: &Classified,
        hot: &Arc<Hot>,
        reply: &Reply,
        epoch: u64,
    ) {
        let Content::Stored(_, segments) = &reply.content else { return };
        let whole = *segments == Segments::whole(Some(hot.entry.size)) && reply.status == StatusCode::OK;
        // Which version of metadata a client gets may depend on what it got before.
        let is_for_all = matches!(classified.class, Class::Package | Class::ImmutableMetadata);
        if !whole || !is_for_all || !matches!(reply.outcome, Outcome::Hit | Outcome::MemoryHit) {
            return;
        }
        let age = reply.fields.get(AGE).and_then(|age| age.to_str().ok()?.parse().ok()).unwrap_or_default();
        // The content is counted, by whichever URL.
        let key = classified.digest.as_ref().and_then(Digest::content_key).unwrap_or(hot.entry.key);
        let shortcut = Shortcut {
            url: url.clone(),
            class: classified.class,
            hot: Arc::downgrade(hot),
            tally: Tally::new(&key, called(url).map(Into::into)),
            epoch,
            known: known(classified, &hot.entry, self.0.clock.now()),
            outcome: reply.outcome,
            seen_at: AtomicU64::new(age),
            answered: Mutex::new(Answered { age, fields: packed(&reply.fields) }),
            text: OnceLock::new(),
        };
        self.0.shortcuts.0.insert(line.clone(), Arc::new(shortcut));
    }
}

impl AtOnce {
    /// The answer.
    pub fn reply(&self) -> Reply {
        let Self { shortcut, hot, age } = self;
        let segments = Segments::whole(Some(hot.entry.size));
        let content = Content::Stored(Stored { entry: hot.entry.clone(), blob: hot.blob.clone() }, segments);
        Reply { status: StatusCode::OK, fields: shortcut.fields(*age), content, outcome: shortcut.outcome, from: None }
    }
}

impl Shortcut {
    fn fields(&self, age: u64) -> HeaderMap {
        let mut answered = self.answered.lock().unwrap_or_else(PoisonError::into_inner);
        if answered.age != age {
            answered.age = age;
            answered.fields.insert(AGE, age.into());
        }
        answered.fields.clone()
    }

    /// How the door writes the fields of the answer, but for its `Age`: once.
    pub fn text(&self, write: impl FnOnce(&HeaderMap) -> Box<[u8]>) -> &[u8] {
        self.text.get_or_init(|| {
            let mut fields = self.fields(0);
            fields.remove(AGE);
            write(&fields)
        })
    }
}

/// The same fields with all values side by side: each answer counts one owner of them up and down, on one line of the
/// processor's cache, and reads them from few. None is shared with other answers, whose count would go from core to core.
fn packed(fields: &HeaderMap) -> HeaderMap {
    let values: Bytes = fields.values().flat_map(|value| value.as_bytes()).copied().collect();
    let mut packed = HeaderMap::with_capacity(fields.len());
    let mut end = 0;
    for (name, value) in fields {
        let start = end;
        end += value.len();
        let value = HeaderValue::from_maybe_shared(values.slice(start..end)).unwrap_or_else(|_| value.clone());
        packed.append(name.clone(), value);
    }
    packed
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;
    use proptest::prelude::*;

    fn is_plain(method: &str, uri: &str, pairs: &[(&'static str, &'static str)]) -> bool {
        let mut fields = HeaderMap::new();
        for (name, value) in pairs {
            fields.append(*name, HeaderValue::from_static(value));
        }
        LineRef::of(&method.parse().unwrap(), &uri.parse().unwrap(), &fields).is_some()
    }

    #[test]
    fn only_what_cannot_change_the_answer_is_plain() {
        let (uri, host) = ("http://example.org/a.deb", ("host", "example.org"));
        assert!(is_plain("GET", uri, &[host]));
        assert!(is_plain(
            "GET",
            "/example.org/a.deb",
            &[("host", "lab1:3142"), ("user-agent", "x"), ("accept", "*/*")]
        ));
        assert!(is_plain("GET", uri, &[host, ("connection", "Keep-Alive"), ("proxy-connection", "keep-alive")]));
        for (method, uri, fields) in [
            ("HEAD", uri, vec![host]),
            ("GET", uri, vec![]),
            ("GET", uri, vec![host, host]),
            ("GET", "/example.org/a.deb", vec![("host", "a,b")]),
            ("GET", "ftp://example.org/a.deb", vec![host]),
            ("GET", uri, vec![host, ("connection", "close")]),
        ] {
            assert!(!is_plain(method, uri, &fields), "{method} {uri} {fields:?}");
        }
        for name in [
            "range",
            "if-range",
            "if-none-match",
            "if-modified-since",
            "cache-control",
            "pragma",
            "authorization",
            "cookie",
            "via",
            "expect",
            "te",
            "upgrade",
            "transfer-encoding",
            "content-length",
            "proxy-authorization",
            "x-unknown",
        ] {
            assert!(!is_plain("GET", uri, &[host, (name, "x")]), "{name}");
        }
    }

    #[test]
    fn a_borrowed_line_finds_its_owned_one() {
        let cache: Cache<Line, u8> = Cache::new(4);
        let line = LineRef { https: false, authority: "example.org", path: "/a" };
        cache.insert(line.to_line(), 1);
        assert_eq!(cache.get(&line), Some(1));
        assert_eq!(cache.get(&LineRef { https: true, ..line }), None);
        assert_eq!(cache.get(&LineRef { path: "/b", ..line }), None);
        assert_eq!(cache.get(&LineRef { authority: "", path: "example.org/a", ..line }), None);
    }
    proptest! {
        /// What a target is before it has been looked at is what hyper makes of it, or nothing.
        #[test]
        fn a_target_as_it_came_is_the_same_line(
            target in "(http://|https://|HTTP://|ftp://|//|)[a-z@:.?#\\[\\]]{0,6}(/|\\?|#|//|)[a-z/?#%:@ ]{0,8}",
            fields in prop::collection::vec(("(Host|HOST|user-agent|Accept|Range|Connection|Via)", "[a-z.:]{0,3}|keep-alive"), 0..4),
        ) {
            let pairs = || fields.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
            let map: HeaderMap = pairs()
                .map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_bytes(value).unwrap()))
                .fold(HeaderMap::new(), |mut map, (name, value): (http::HeaderName, _)| {
                    map.append(name, value);
                    map
                });
            let read = LineRef::read("GET", &target, pairs());
            let uri = target.parse::<Uri>();
            let of = uri.as_ref().ok().and_then(|uri| LineRef::of(&Method::GET, uri, &map));
            if let (Some(read), Some(of)) = (read, of) {
                prop_assert_eq!(read, of);
            }
            // What hyper does not take has never been remembered, and no two targets are one line.
            if let Some(LineRef { https, authority, path }) = read {
                let scheme = match (authority, https) {
                    ("", _) => "",
                    (_, true) => "https://",
                    (_, false) => "http://",
                };
                prop_assert_eq!(format!("{scheme}{authority}{path}"), target);
            }
        }
    }
}

//! The short cut for what most requests are: a GET without conditions of something that is hot and fresh.
//!
//! What the long way found out about a request line (its URL, key and class, and the head of the answer) is remembered
//! under that very line. The decision tree is asked all the same; the short cut only saves working out again what cannot
//! have changed as long as the store holds the very same entry. Whatever is not plain goes the long way.

use std::hash::{Hash, Hasher};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use bytes::Bytes;
use http::header::{ACCEPT, ACCEPT_ENCODING, ACCEPT_LANGUAGE, AGE, CONNECTION, HOST, REFERER, USER_AGENT};
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
        let mut hosts = 0;
        let plain = fields.iter().all(|(name, value)| {
            if name == HOST {
                hosts += 1;
                return value.as_bytes().iter().all(|b| b.is_ascii_alphanumeric() || b".-:[]".contains(b));
            }
            let harmless = [USER_AGENT, ACCEPT, ACCEPT_ENCODING, ACCEPT_LANGUAGE, REFERER].contains(name);
            let persistent = name == CONNECTION || name == "proxy-connection";
            harmless || persistent && value.as_bytes().eq_ignore_ascii_case(b"keep-alive")
        });
        let short = authority.len() + path.len() <= LINE_LEN_MAX;
        (plain && hosts == 1 && short && method == Method::GET).then_some(Self { https, authority, path })
    }

    pub fn to_line(self) -> Line {
        let text = [self.authority, self.path].concat().into();
        Line { https: self.https, authority: self.authority.len(), text }
    }
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
    answered: Mutex<Answered>,
}

/// The head of an answer, as of an age in seconds.
#[derive(Debug)]
struct Answered {
    age: u64,
    fields: HeaderMap,
    outcome: Outcome,
}

impl Shortcut {
    pub fn class(&self) -> Class {
        self.class
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
    /// The answer to a plain request that can be given here and now.
    pub fn at_once(&self, line: LineRef<'_>, now: Timestamp) -> Option<(Arc<Shortcut>, Reply)> {
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
        let (fields, outcome) = shortcut.head(unconfirmed_for.as_secs(), || {
            // Once a second is often enough for the store to see what is in use.
            self.0.store.lookup_hot(&hot.entry.key);
        });
        self.0.store.touch(&hot.entry, now);
        self.0.site.requested(&shortcut.tally);
        let segments = Segments::whole(Some(hot.entry.size));
        let content = Content::Stored(Stored { entry: hot.entry.clone(), blob: hot.blob.clone() }, segments);
        Some((shortcut, Reply { status: StatusCode::OK, fields, content, outcome, from: None }))
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
            answered: Mutex::new(Answered { age, fields: packed(&reply.fields), outcome: reply.outcome }),
        };
        self.0.shortcuts.0.insert(line.clone(), Arc::new(shortcut));
    }
}

impl Shortcut {
    fn head(&self, age: u64, on_new_age: impl FnOnce()) -> (HeaderMap, Outcome) {
        let mut answered = self.answered.lock().unwrap_or_else(PoisonError::into_inner);
        if answered.age != age {
            answered.age = age;
            answered.fields.insert(AGE, age.into());
            on_new_age();
        }
        (answered.fields.clone(), answered.outcome)
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
}

//! What is not ours, with `other = "rfc9111"`: kept and given out as any shared HTTP cache may. The rules are `rfc9111`'s;
//! here they are held against what is stored and what is in the air. To ask upstream is a `Fill`.

mod fill;

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use http::header::{CONTENT_LENGTH, ETAG, LAST_MODIFIED};
use http::{HeaderMap, Method, StatusCode};

pub(super) use fill::Fills;

use super::ask::own_fields;
use super::freshness::Demand;
use super::rfc9111::{self, Failure, Reuse, Variants};
use super::{Asked, Cached, Journey, Reply};
use crate::classify::{KeyHash, Url, cache_key, classify};
use crate::fault::Fault;
use crate::flight::Flight;
use crate::ledger::Outcome;
use crate::store::Entry;
use crate::upstream::{OutBody, resolve, strip_hop_by_hop};
use fill::{Fill, Filled};

/// So often is looked what has come of others' questions before a request asks for itself.
const LOOKS_MAX: usize = 3;

/// So long a request waits for the head of an answer of which nobody knows yet whether it can be shared.
const DOUBT_MAX: Duration = Duration::from_secs(2);

/// What a request wants, as the cache sees it.
struct Wish {
    url: Url,
    /// The fields that choose among variants, and that upstream is asked with.
    fields: HeaderMap,
    /// An answer to these fields may be for others, too.
    general: bool,
}

/// What there is for a request.
struct Found {
    key: KeyHash,
    cached: Cached,
    flight: Option<Arc<Flight>>,
}

impl Wish {
    fn of(asked: &Asked) -> Self {
        let mut fields = asked.fields.clone();
        strip_hop_by_hop(&mut fields);
        let shared = rfc9111::shared_fields(&fields);
        let general = shared.is_some();
        Self { url: asked.key.clone(), fields: shared.unwrap_or(fields), general }
    }
}

impl Journey {
    pub(super) async fn share(&self, asked: Asked, body: Option<OutBody>) -> Result<Reply, Fault> {
        if body.is_some() || asked.method != Method::GET && asked.method != Method::HEAD {
            return self.pass_and_invalidate(asked, body).await;
        }
        let wish = Wish::of(&asked);
        for _ in 0..LOOKS_MAX {
            let found = self.find(&wish).await;
            if let Some(reply) = self.reply_from_here(&asked, &wish, &found) {
                return Ok(reply);
            }
            if asked.method == Method::HEAD {
                return self.pass_head(asked, found.cached).await;
            }
            // What is in the air does not suit; a second download beside it would not be kept.
            if !may_fill(&asked, &wish, &found) || found.flight.is_some() {
                break;
            }
            // It has begun since.
            if self.0.flights.has(&found.key) {
                continue;
            }
            let known = found.cached.is_some();
            let (filled, joined) = match self.fill(self.fill_for(&asked, &wish, &found)) {
                Some(asking) if asking.joined && !known => match asking.ended_within(DOUBT_MAX).await {
                    Some(filled) => (filled, true),
                    None => {
                        self.0.fills.doubt(found.key);
                        break;
                    }
                },
                Some(asking) => (asking.ended().await, asking.joined),
                None => break,
            };
            match self.reply_filled(&asked, &wish, found, filled, joined).await {
                Some(reply) => return reply,
                None => continue,
            }
        }
        self.pass(asked, None).await
    }

    /// The entry that an ordinary request for a URL gets, and whether it would be asked for.
    pub(super) async fn explain_shared(&self, url: &Url) -> (Option<Arc<Entry>>, &'static str) {
        let wish = Wish { url: url.clone(), fields: HeaderMap::new(), general: true };
        let entry = self.find(&wish).await.cached.map(|(entry, _)| entry);
        let would = match rfc9111::reuse(&wish.fields, entry.as_deref().map(stored), self.0.clock.now()) {
            Reuse::Serve { .. } => "serve it from the store without asking upstream",
            Reuse::ServeAndValidate { .. } => "serve it from the store and then ask upstream whether it is current",
            Reuse::Validate(_) => "ask upstream whether it is current, then serve it from the store",
            Reuse::Fetch | Reuse::NotCached => "fetch it from upstream and store it if a shared cache may",
        };
        (entry, would)
    }

    /// Would an ordinary request for a URL be answered from the store?
    pub(super) async fn has_shared(&self, url: &Url) -> bool {
        let wish = Wish { url: url.clone(), fields: HeaderMap::new(), general: true };
        let entry = self.find(&wish).await.cached.map(|(entry, _)| entry);
        let reuse = rfc9111::reuse(&wish.fields, entry.as_deref().map(stored), self.0.clock.now());
        matches!(reuse, Reuse::Serve { .. } | Reuse::ServeAndValidate { .. })
    }

    /// For an entry that turned out to be damaged.
    pub(super) async fn fetch_again_for_all(&self, entry: &Entry) -> Result<Arc<Flight>, Fault> {
        let lost = || Fault::internal("the damaged object cannot be had again");
        if let Some(flight) = self.0.flights.join(&entry.key) {
            return Ok(flight);
        }
        // Of a variant nobody knows any more what was asked for.
        if entry.key != entry.url.key_hash() {
            return Err(lost());
        }
        let (url, url_key) = (entry.url.clone(), entry.url.clone());
        let fill = Fill { url, url_key, key: entry.key, fields: own_fields(), cached: None, insists: false };
        match self.fill(fill).ok_or_else(lost)?.ended().await {
            Filled::Flight(flight, _) => Ok(flight),
            Filled::Failed(fault) => Err(fault),
            _ => Err(lost()),
        }
    }

    async fn find(&self, wish: &Wish) -> Found {
        let mut key = wish.url.key_hash();
        let mut flight = self.0.flights.join_in_the_air(&key).await;
        let mut entry = self.entry(key).await;
        if let Some(variants) = entry.as_ref().and_then(|entry| Variants::read(entry.head.status, &entry.head.fields)) {
            key = variants.key(&wish.url, &wish.fields);
            flight = self.0.flights.join_in_the_air(&key).await;
            entry = self.entry(key).await;
        }
        let cached = match entry {
            Some(entry) => self.0.store.open_blob(&entry).await.ok().map(|blob| (entry, blob)),
            None => None,
        };
        Found { key, cached, flight }
    }

    async fn entry(&self, key: KeyHash) -> Option<Arc<Entry>> {
        self.0.store.lookup(key).await.unwrap_or_default()
    }

    /// The answer that can be given without waiting for upstream.
    fn reply_from_here(&self, asked: &Asked, wish: &Wish, found: &Found) -> Option<Reply> {
        let now = self.0.clock.now();
        let cached = found.cached.as_ref().filter(|(entry, _)| suits(asked, &entry.head.fields));
        let reuse = rfc9111::reuse(&asked.fields, cached.map(|(entry, _)| stored(entry)), now);
        if let (Reuse::Serve { .. }, Some((entry, blob))) = (reuse, cached) {
            return Some(self.stored_reply(asked, entry.clone(), blob.clone(), Outcome::Hit));
        }
        // What is just coming is newer than what is stored.
        if let Some(flight) = &found.flight {
            let head = &flight.plan().head;
            let flying = rfc9111::Stored { status: head.status, fields: &head.fields, confirmed_at: flight.started() };
            let fresh = matches!(rfc9111::reuse(&asked.fields, Some(flying), now), Reuse::Serve { .. });
            if fresh && suits(asked, &head.fields) {
                return Some(self.flying_reply(asked, flight, Outcome::Collapsed));
            }
        }
        if let (Reuse::ServeAndValidate { .. }, Some((entry, blob))) = (reuse, cached) {
            if wish.general && !self.0.flights.has(&found.key) {
                drop(self.fill(self.fill_for(asked, wish, found)));
            }
            return Some(self.stored_reply(asked, entry.clone(), blob.clone(), Outcome::Stale));
        }
        (reuse == Reuse::NotCached).then(|| self.not_cached(asked))
    }

    fn fill_for(&self, asked: &Asked, wish: &Wish, found: &Found) -> Fill {
        let cached = found.cached.as_ref().map(|(entry, _)| entry.clone());
        Fill {
            url: asked.url.clone(),
            url_key: wish.url.clone(),
            key: found.key,
            fields: wish.fields.clone(),
            cached,
            insists: Demand::of(&asked.fields).revalidate,
        }
    }

    /// What a client gets of an answer; nothing when it has to look again.
    async fn reply_filled(
        &self,
        asked: &Asked,
        wish: &Wish,
        found: Found,
        filled: Filled,
        joined: bool,
    ) -> Option<Result<Reply, Fault>> {
        let now = self.0.clock.now();
        let had = found.cached.is_some();
        let stale = |failure| {
            let (entry, blob) = found.cached?;
            let may = suits(asked, &entry.head.fields);
            rfc9111::failed(&asked.fields, stored(&entry), failure, now).filter(|_| may)?;
            Some(self.stored_reply(asked, entry, blob, Outcome::Stale))
        };
        match filled {
            Filled::Flight(flight, variants) => {
                let key = variants.map_or(wish.url.key_hash(), |variants| variants.key(&wish.url, &wish.fields));
                let fits = !joined || key == flight.key() && suits(asked, &flight.plan().head.fields);
                let outcome = match (joined, had) {
                    (true, _) => Outcome::Collapsed,
                    (false, true) => Outcome::RefreshModified,
                    (false, false) => Outcome::Miss,
                };
                fits.then(|| Ok(self.flying_reply(asked, &flight, outcome)))
            }
            Filled::Validated(entry) => {
                let blob = self.0.store.open_blob(&entry).await.ok()?;
                Some(Ok(self.stored_reply(asked, entry, blob, Outcome::RefreshUnmodified)))
            }
            Filled::Unshared(answer, status) => {
                let answer = answer.lock().unwrap_or_else(PoisonError::into_inner).take_if(|_| !joined);
                if let Some(reply) = stale(Failure::Status(status)) {
                    return Some(Ok(reply));
                }
                match answer {
                    Some(answer) => Some(Ok(self.passed_reply(*answer))),
                    None => Some(self.pass(asked.clone(), None).await),
                }
            }
            Filled::Failed(fault) if fault.is_unreachable() => Some(stale(Failure::Unreachable).ok_or(fault)),
            Filled::Failed(fault) => Some(Err(fault)),
            Filled::LookAgain => None,
        }
    }

    /// HEAD of what is not stored. An answer that contradicts what is stored makes that useless (RFC 9111 4.3.5).
    async fn pass_head(&self, asked: Asked, cached: Cached) -> Result<Reply, Fault> {
        let reply = self.pass(asked, None).await?;
        if let Some((entry, _)) = cached
            && reply.status == StatusCode::OK
            && contradicts(&entry, &reply.fields)
        {
            let _ = self.0.store.remove(entry.key).await;
        }
        Ok(reply)
    }

    /// Any method, passed on; one that changes something takes what it changes out of the store (RFC 9111 4.4).
    async fn pass_and_invalidate(&self, asked: Asked, body: Option<OutBody>) -> Result<Reply, Fault> {
        let (method, url, key) = (asked.method.clone(), asked.url.clone(), asked.key.clone());
        let reply = self.pass(asked, body).await?;
        let mut gone = rfc9111::invalidated(&method, &url, reply.status, &reply.fields, resolve);
        if !gone.is_empty() {
            gone.push(key);
        }
        // What is ours has its own rules.
        for url in gone.iter().map(cache_key).filter(|url| !classify(url).class.is_ours()) {
            self.forget(&url).await;
        }
        Ok(reply)
    }
}

/// A GET that may be asked for all.
fn may_fill(asked: &Asked, wish: &Wish, found: &Found) -> bool {
    let wanted = found.cached.is_some() || !rfc9111::wants_less(&asked.fields);
    wish.general && wanted && !super::cache_control::Directives::of(&asked.fields).has("no-store")
}

fn suits(asked: &Asked, fields: &HeaderMap) -> bool {
    rfc9111::may_be_shared_with(&asked.fields, fields)
}

fn stored(entry: &Entry) -> rfc9111::Stored<'_> {
    rfc9111::Stored { status: entry.head.status, fields: &entry.head.fields, confirmed_at: entry.confirmed_at() }
}

/// Is the head that came now that of another version?
fn contradicts(entry: &Entry, fields: &HeaderMap) -> bool {
    let differs = |name| match (entry.head.fields.get(&name), fields.get(&name)) {
        (Some(ours), Some(theirs)) => ours != theirs,
        _ => false,
    };
    let length = fields.get(CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
    differs(ETAG) || differs(LAST_MODIFIED) || length.is_some_and(|length| length != entry.size)
}

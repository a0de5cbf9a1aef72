//! Asking upstream for what may become everybody's. Who wants the same in the same moment waits for the one who asks, but
//! only until it is known whether the answer can be shared; if not, each asks for itself, and nobody waits the next time.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::header::{AUTHORIZATION, COOKIE, ETAG};
use http::{HeaderMap, Method, StatusCode};
use quick_cache::sync::Cache;
use tokio::sync::watch;

use crate::classify::{Class, KeyHash, Url};
use crate::fault::Fault;
use crate::flight::{self, Departure, Flight};
use crate::journey::ask::{patience, resume_fields};
use crate::journey::rfc9111::{self, Admitted, Exchange, Variants};
use crate::journey::{Journey, freshness};
use crate::os::{entropy, tasks};
use crate::store::{Entry, Growing, Head, Plan};
use crate::upstream::{Answer, Patience, Request};

/// URLs remembered as having answers that cannot be shared.
const UNSHARED_MAX: usize = 8192;

/// A pause in a body that is passed on may be this long, as where nothing is cached.
const PASSED_STALL: Duration = Duration::from_secs(60);

/// What is to be asked, with all that is known before.
pub(super) struct Fill {
    pub(super) url: Url,
    /// What it is called here.
    pub(super) url_key: Url,
    /// Under which it is stored, as far as is known before the answer.
    pub(super) key: KeyHash,
    pub(super) fields: HeaderMap,
    pub(super) cached: Option<Arc<Entry>>,
    /// What others may have heard before is not good enough.
    pub(super) insists: bool,
}

impl Fill {
    /// Whoever sends credentials asks alone, and nobody else waits for what they get.
    fn is_personal(&self) -> bool {
        self.fields.contains_key(AUTHORIZATION) || self.fields.contains_key(COOKIE)
    }
}

/// What came of it.
#[derive(Clone)]
pub(super) enum Filled {
    /// It is being downloaded and will be stored; where its URL has variants, among these.
    Flight(Arc<Flight>, Option<Variants>),
    /// What is stored is current.
    Validated(Arc<Entry>),
    /// An answer for the one who asked alone, with its status.
    Unshared(Arc<Mutex<Option<Box<Answer>>>>, StatusCode),
    Failed(Fault),
    /// What is stored has changed meanwhile.
    LookAgain,
}

/// Fills under way.
pub(crate) struct Fills {
    open: Mutex<BTreeMap<KeyHash, Open>>,
    /// Whose answers turned out not to be for all.
    unshared: Cache<KeyHash, ()>,
    /// Held while something is taken into the store or out of it.
    shelf: tokio::sync::Mutex<()>,
}

impl Default for Fills {
    fn default() -> Self {
        Self { open: Mutex::default(), unshared: Cache::new(UNSHARED_MAX), shelf: tokio::sync::Mutex::default() }
    }
}

struct Open {
    url_key: KeyHash,
    personal: bool,
    insists: bool,
    /// A method that changes something has come between: the answer is not to be stored.
    overtaken: Arc<AtomicBool>,
    filled: watch::Receiver<Option<Filled>>,
}

impl Fills {
    /// Nobody waits for an answer to this any more, until one could be shared.
    pub(super) fn doubt(&self, key: KeyHash) {
        self.unshared.insert(key, ());
    }

    fn open(&self) -> MutexGuard<'_, BTreeMap<KeyHash, Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Somebody waits for what comes of a fill.
pub(super) struct Asking {
    filled: watch::Receiver<Option<Filled>>,
    /// Another request had asked already.
    pub(super) joined: bool,
}

impl Asking {
    pub(super) async fn ended(&self) -> Filled {
        let mut filled = self.filled.clone();
        let ended = match filled.wait_for(Option::is_some).await {
            Ok(filled) => filled.clone(),
            Err(_) => None,
        };
        ended.unwrap_or_else(|| Filled::Failed(Fault::internal("asking upstream failed")))
    }

    pub(super) async fn ended_within(&self, patience: Duration) -> Option<Filled> {
        tokio::time::timeout(patience, self.ended()).await.ok()
    }
}

impl Journey {
    /// Asks upstream, or joins those who are asking; nothing when this request had better ask for itself.
    pub(super) fn fill(&self, fill: Fill) -> Option<Asking> {
        let mut open = self.0.fills.open();
        if let Some(other) = open.get(&fill.key) {
            let alone = fill.is_personal() || other.personal || fill.insists && !other.insists;
            let shared = self.0.fills.unshared.get(&fill.key).is_none();
            return (shared && !alone).then(|| Asking { filled: other.filled.clone(), joined: true });
        }
        let (tell, filled) = watch::channel(None);
        let overtaken = Arc::new(AtomicBool::new(false));
        let (personal, insists) = (fill.is_personal(), fill.insists);
        let url_key = fill.url_key.key_hash();
        open.insert(
            fill.key,
            Open { url_key, personal, insists, overtaken: overtaken.clone(), filled: filled.clone() },
        );
        drop(open);
        let journey = self.clone();
        tasks::spawn("fill", async move {
            let closing = Closing { journey: &journey, key: fill.key };
            let filled = journey.ask_for_all(&fill, &overtaken).await;
            match &filled {
                Filled::Unshared(..) if personal => {}
                Filled::Unshared(..) => journey.0.fills.doubt(fill.key),
                Filled::Flight(..) | Filled::Validated(_) => drop(journey.0.fills.unshared.remove(&fill.key)),
                _ => {}
            }
            // A flight is in the list of flights before its fill leaves the list of fills.
            drop(closing);
            tell.send_replace(Some(filled));
        });
        Some(Asking { filled, joined: false })
    }

    /// Takes out of the store what is under a URL, in all its variants, and keeps out what is just coming.
    pub(super) async fn forget(&self, url: &Url) {
        let key = url.key_hash();
        let _shelf = self.0.fills.shelf.lock().await;
        for open in self.0.fills.open().values().filter(|open| open.url_key == key) {
            open.overtaken.store(true, Ordering::Relaxed);
        }
        self.0.flights.disown(&key);
        // Without the list no variant is found.
        let _ = self.0.store.remove(key).await;
    }

    async fn ask_for_all(&self, fill: &Fill, overtaken: &AtomicBool) -> Filled {
        // It may have been answered since the caller looked. Flights first: one that is not in the list any more is stored.
        if self.0.flights.has(&fill.key) {
            return Filled::LookAgain;
        }
        let stored = self.0.store.lookup(fill.key).await.unwrap_or_default();
        let confirmed_at = |entry: &Option<Arc<Entry>>| entry.as_ref().map(|entry| entry.confirmed_at());
        if confirmed_at(&stored) > confirmed_at(&fill.cached) {
            return Filled::LookAgain;
        }
        if fill.cached.is_some() {
            self.0.ledger.revalidated();
            // With something to fall back on nobody waits for a host that is known to be down.
            if let Some(fault) = self.0.upstreams.down(&fill.url) {
                return Filled::Failed(fault);
            }
        }
        let mut cached = fill.cached.as_ref();
        let partial = if cached.is_none() { self.left_over(fill.key).await } else { None };
        loop {
            let asked_at = self.0.clock.now();
            let request = self.request_for_all(fill, cached, partial.as_ref());
            let answer = match self.0.upstreams.send(request).await {
                Ok(answer) => answer,
                Err(fault) => return Filled::Failed(fault),
            };
            let exchange = Exchange { asked_at, answered_at: self.0.clock.now() };
            match cached.filter(|_| answer.status == StatusCode::NOT_MODIFIED) {
                None => return self.receive_for_all(fill, answer, partial, exchange, overtaken).await,
                Some(entry) if rfc9111::validates(&entry.head.fields, &answer.fields) => {
                    return self.confirm(entry, &answer.fields, exchange, overtaken).await;
                }
                // It is about another version than ours: the whole is asked for.
                Some(_) => cached = None,
            }
        }
    }

    /// What an earlier download has left, if its very version can be asked for.
    async fn left_over(&self, key: KeyHash) -> Option<Arc<Growing>> {
        let store = self.0.store.clone();
        let growing = tasks::blocking("take up a download", move || store.take_up(key)).await.ok()??;
        let strong = |tag: &http::HeaderValue| tag.as_bytes().starts_with(b"\"");
        let nameable = growing.plan().head.fields.get(ETAG).is_some_and(strong);
        (growing.total().is_some() && nameable).then_some(growing)
    }

    fn request_for_all(&self, fill: &Fill, cached: Option<&Arc<Entry>>, partial: Option<&Arc<Growing>>) -> Request {
        let mut fields = fill.fields.clone();
        self.0.hops.sign(&mut fields);
        if let Some(entry) = cached {
            fields.extend(freshness::conditions(&entry.head.fields));
        }
        fields.extend(partial.and_then(|growing| resume_fields(growing, false)).unwrap_or_default());
        let patience = Patience { stall: PASSED_STALL, ..patience(cached.is_some()) };
        Request { method: Method::GET, url: fill.url.clone(), fields, body: None, patience }
    }

    /// What is stored is current; its head is brought up to date.
    async fn confirm(
        &self,
        entry: &Arc<Entry>,
        fields: &HeaderMap,
        exchange: Exchange,
        overtaken: &AtomicBool,
    ) -> Filled {
        let _shelf = self.0.fills.shelf.lock().await;
        let known = self.0.store.lookup(entry.key).await.unwrap_or_default();
        if overtaken.load(Ordering::Relaxed) || known.is_none_or(|known| known.object != entry.object) {
            return Filled::LookAgain;
        }
        let head = Head { status: entry.head.status, fields: rfc9111::updated(&entry.head.fields, fields, exchange) };
        self.0.store.confirm(entry, Some(head));
        match self.0.store.lookup(entry.key).await {
            Ok(Some(entry)) => Filled::Validated(entry),
            _ => Filled::LookAgain,
        }
    }

    /// A whole answer: a download begins, unless it must not be shared.
    async fn receive_for_all(
        &self,
        fill: &Fill,
        answer: Answer,
        partial: Option<Arc<Growing>>,
        exchange: Exchange,
        overtaken: &AtomicBool,
    ) -> Filled {
        let asked_for_rest = partial.is_some();
        let continued = partial.filter(|growing| flight::continues(growing, &answer));
        let status = if continued.is_some() { StatusCode::OK } else { answer.status };
        if asked_for_rest && matches!(status, StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE) {
            return self.without_left_over(fill.key).await;
        }
        let is_rest = continued.is_some();
        let unshared = |answer| match is_rest {
            // Nobody has asked for a part.
            true => Filled::LookAgain,
            false => Filled::Unshared(Arc::new(Mutex::new(Some(Box::new(answer)))), status),
        };
        // What is stored may still help when upstream is in trouble.
        if fill.cached.is_some() && status.is_server_error() {
            return unshared(answer);
        }
        if let Err(reason) = rfc9111::storable(&Method::GET, &fill.fields, status, &answer.fields) {
            tracing::debug!(url = %fill.url, reason = reason.as_str(), "not stored");
            let replaced = status.is_success() || matches!(status, StatusCode::NOT_FOUND | StatusCode::GONE);
            if fill.cached.is_some() && replaced && !fill.is_personal() {
                let _ = self.0.store.remove(fill.key).await;
            }
            return match continued {
                Some(_) => self.without_left_over(fill.key).await,
                None => unshared(answer),
            };
        }
        let _shelf = self.0.fills.shelf.lock().await;
        if overtaken.load(Ordering::Relaxed) {
            return unshared(answer);
        }
        let (key, variants) = match self.place(fill, &answer.fields).await {
            Ok(place) => place,
            Err(fault) => {
                tracing::info!(url = %fill.url, %fault, "passed on without storing");
                return unshared(answer);
            }
        };
        if let Some(growing) = &continued
            && key != growing.plan().key
        {
            return self.without_left_over(fill.key).await;
        }
        if self.0.flights.has(&key) {
            return unshared(answer);
        }
        let from = continued.as_ref().map_or(0, |growing| growing.present_until(0));
        let plan = Plan {
            url: fill.url_key.clone(),
            key,
            class: Class::Other,
            head: Head { status, fields: rfc9111::kept_fields(&answer.fields, exchange) },
            total: answer.body.length(),
            digest: None,
            confirmed_at: None,
        };
        let mut answer = answer;
        answer.body.set_patience(patience(false).stall);
        let mut fields = fill.fields.clone();
        self.0.hops.sign(&mut fields);
        let source = flight::Source::Upstream(Box::new(answer));
        let departure =
            Departure { taken_up: continued, from, ..Departure::new(plan, source, vec![fill.url.clone()], fields) };
        match self.0.flights.start(departure).await {
            Ok(flight) => Filled::Flight(flight, variants),
            Err((fault, None)) => Filled::Failed(fault),
            Err((fault, Some(mut answer))) => {
                tracing::info!(url = %fill.url, %fault, "passed on without storing");
                answer.body.set_patience(PASSED_STALL);
                unshared(*answer)
            }
        }
    }

    /// What an earlier download has left is of no use.
    async fn without_left_over(&self, key: KeyHash) -> Filled {
        let store = self.0.store.clone();
        let _ = tasks::blocking("drop a download", move || store.take_up(key).map(|growing| growing.discard())).await;
        Filled::LookAgain
    }

    /// The key for an answer: its URL's, or that of a variant of it.
    async fn place(&self, fill: &Fill, fields: &HeaderMap) -> Result<(KeyHash, Option<Variants>), Fault> {
        let url_key = fill.url_key.key_hash();
        let names = rfc9111::names(fields).unwrap_or_default();
        let list = self.0.store.lookup(url_key).await?;
        let known = list.as_ref().and_then(|list| Variants::read(list.head.status, &list.head.fields));
        if names.is_empty() && known.is_none() {
            return Ok((url_key, None));
        }
        let generation = format!("{:032x}", u128::from_be_bytes(entropy::random_bytes()));
        let had_list = known.is_some();
        let Admitted { variants, key, superfluous } =
            Variants::admit(known, &fill.url_key, &fill.fields, &names, generation);
        let (status, fields) = variants.head();
        let head = Head { status, fields };
        match list.filter(|_| had_list) {
            Some(list) => self.0.store.confirm(&list, Some(head)),
            None => self.write_list(fill.url_key.clone(), head).await?,
        }
        for key in superfluous {
            let _ = self.0.store.remove(key).await;
        }
        Ok((key, Some(variants)))
    }

    /// A list of variants is stored as an empty content: all that it says stands in its head.
    async fn write_list(&self, url: Url, head: Head) -> Result<(), Fault> {
        let key = url.key_hash();
        // An answer without variants that is just coming has the place of the list.
        self.0.flights.disown(&key);
        let plan = Plan { url, key, class: Class::Other, head, total: Some(0), digest: None, confirmed_at: None };
        let store = self.0.store.clone();
        let written = tasks::blocking("write a list of variants", move || {
            let list = store.begin(plan)?;
            list.seal(0)?;
            list.publish().map(|_| ())
        });
        written.await.unwrap_or_else(|panic| Err(Fault::internal(panic.to_string())))
    }
}

/// Takes a fill off the list, also when its task panics.
struct Closing<'a> {
    journey: &'a Journey,
    key: KeyHash,
}

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        self.journey.0.fills.open().remove(&self.key);
    }
}

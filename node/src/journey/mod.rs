//! The one place where the stages stand in order: a request is given a class, is looked up, a decision is made, a source
//! is chosen, and an answer goes back. The rules are pure functions in the files beside this one.
//!
//! Knows no connection and no socket: the door brings a request and takes a reply.

mod ahead;
mod ask;
pub mod cache_control;
pub mod conditional;
mod forget;
pub mod freshness;
mod handed;
mod head;
mod hops;
mod pass;
mod promises;
pub mod range;
mod reply;
pub mod rfc9111;
mod segments;
mod select;
mod shared;
mod shortcut;
mod signed;
mod site;
mod switch;
pub mod target;

use std::sync::{Arc, PoisonError};

use http::header::{AUTHORIZATION, COOKIE, RANGE};
use http::{HeaderMap, HeaderValue, Method, StatusCode};

pub use handed::Caller;
pub use reply::{Content, Reply, Stored};
pub use segments::{Segment, Segments};
pub use shortcut::{AtOnce, Line, LineRef, Shortcut};

use quick_cache::sync::Cache;
use tokio::sync::Semaphore;

use crate::classify::{Class, Classified, Url, called, classify};
use crate::cluster::site::{Site, Tally};
use crate::config;
use crate::fault::{Cause, Fault};
use crate::flight::{Flight, Flights, Reader};
use crate::ledger::{Ledger, Outcome};
use crate::os::clock::{Clock, Timestamp};
use crate::os::rate::Limiter;
use crate::repos::{Configured, Generations, Named};
use crate::store::{Blob, Entry, Store};
use crate::upstream::{OutBody, Upstreams};
use ask::{Question, Questions, Resolution};
use freshness::{Decision, Demand, Known};
use handed::Handed;
use hops::Hops;
use promises::Handing;
use shared::Fills;
use shortcut::Shortcuts;
use switch::Switches;

/// A request that has been given a name.
#[derive(Clone)]
pub struct Asked {
    pub method: Method,
    /// What upstream is asked for when it is not ours.
    pub url: Url,
    /// What it is called here.
    pub key: Url,
    /// All URLs of the same content, in order of preference.
    pub sources: Vec<Url>,
    /// The client's fields as they came.
    pub fields: HeaderMap,
    /// The request line, if it may be remembered.
    pub line: Option<Line>,
    /// Who asks, by which connection.
    pub client: Option<Caller>,
}

/// Roots that are known to be signed by whom they must be.
const TRUSTED_MAX: usize = 4096;

/// Programs that verify signatures at the same time.
const CHECKING_MAX: usize = 2;

/// What the journey is configured with.
#[derive(Debug, Clone)]
pub struct Options {
    /// In `Via` and `Cache-Status`.
    pub name: String,
    pub freshness: config::Freshness,
    /// Where else that can be had of which a stored object is damaged.
    pub repos: Arc<Configured>,
    /// What repositories say of their contents.
    pub generations: Arc<Generations>,
    /// Bytes a second of all copies that are made for the site; `None` is no limit.
    pub copy_rate: Option<u64>,
}

/// The journey of requests through this node. Cheap to clone.
#[derive(Clone)]
pub struct Journey(Arc<Parts>);

struct Parts {
    options: Options,
    hops: Hops,
    store: Store,
    flights: Flights,
    upstreams: Upstreams,
    site: Site,
    ledger: Arc<Ledger>,
    clock: Clock,
    questions: Questions,
    fills: Fills,
    shortcuts: Shortcuts,
    handed: Handed,
    switches: Switches,
    copies: Arc<Limiter>,
    /// Roots whose signatures have been verified since the start.
    trusted: Cache<[u8; 32], ()>,
    /// Verifications at the same time.
    checking: Semaphore,
}

type Cached = Option<(Arc<Entry>, Arc<Blob>)>;

impl Journey {
    pub fn new(
        options: Options,
        store: Store,
        flights: Flights,
        upstreams: Upstreams,
        site: Site,
        ledger: Arc<Ledger>,
        clock: Clock,
    ) -> Result<Self, Fault> {
        let hops = Hops::new(&options.name, &site.id().to_string())?;
        let (questions, fills, shortcuts) = (Questions::default(), Fills::default(), Shortcuts::default());
        let copies = Arc::new(Limiter::new(options.copy_rate));
        store.set_aside(options.generations.bytes());
        let (handed, switches) = (Handed::default(), Switches::default());
        Ok(Self(Arc::new(Parts {
            options,
            hops,
            store,
            flights,
            upstreams,
            site,
            ledger,
            clock,
            questions,
            fills,
            shortcuts,
            handed,
            switches,
            copies,
            trusted: Cache::new(TRUSTED_MAX),
            checking: Semaphore::new(CHECKING_MAX),
        })))
    }

    pub fn upstreams(&self) -> &Upstreams {
        &self.0.upstreams
    }

    pub fn store(&self) -> &Store {
        &self.0.store
    }

    pub fn flights(&self) -> &Flights {
        &self.0.flights
    }

    /// The answer to a request, with its body if it has one.
    pub async fn answer(&self, asked: Asked, body: Option<OutBody>) -> Reply {
        let what = asked.url.clone();
        if let Err(fault) = self.check_hops(&asked.fields) {
            return self.refuse(&fault, &what);
        }
        let classified = classify(&asked.key);
        // What carries credentials by-passes store and peers (FAULTS.md 5).
        let personal = asked.fields.contains_key(AUTHORIZATION) || asked.fields.contains_key(COOKIE);
        let reads = asked.method == Method::GET || asked.method == Method::HEAD;
        let answered = match classified.class.is_ours() {
            true if reads && !personal => self.serve(&asked, classified).await,
            false if self.0.options.freshness.other == config::Other::Rfc9111 => self.share(asked, body).await,
            _ => self.pass(asked, body).await,
        };
        answered.unwrap_or_else(|fault| self.refuse(&fault, &what))
    }

    /// What would happen to a request for this key, in words, with the entry that is stored.
    pub async fn explain(&self, key: &Url) -> (Classified, Option<Arc<Entry>>, &'static str) {
        let classified = classify(key);
        if !classified.class.is_ours() && self.0.options.freshness.other == config::Other::Rfc9111 {
            let (entry, would) = self.explain_shared(key).await;
            return (classified, entry, would);
        }
        let classified = self.promised(key, classified, None).await;
        let entry = self.stored(key, &classified).await;
        let would = match self.decide(&classified, entry.as_ref(), Demand::default()) {
            _ if !classified.class.is_ours() => "pass it on to upstream without storing it",
            Decision::Serve => "serve it from the store without asking upstream",
            Decision::Revalidate => "ask upstream whether it is current, then serve it from the store",
            Decision::Fetch | Decision::NotCached => "fetch it from upstream and store it",
        };
        (classified, entry, would)
    }

    fn refuse(&self, fault: &Fault, what: &Url) -> Reply {
        self.0.ledger.failed(self.0.clock.now(), what.as_str(), fault);
        Reply::fault(fault, what.as_str(), &self.0.options.name)
    }

    /// Refuses what goes in a circle.
    ///
    /// # Errors
    /// `ForwardingLoop`.
    pub fn check_hops(&self, fields: &HeaderMap) -> Result<(), Fault> {
        self.0.hops.check(fields, |name| self.0.site.has_other_named(name))
    }

    /// What a request for a tunnel says to the next proxy, if there is one: whom it has passed through.
    pub fn hops_of(&self, fields: &HeaderMap) -> HeaderMap {
        let mut hops = hops::of(fields);
        self.0.hops.sign(&mut hops);
        hops
    }

    /// A GET or HEAD of what is ours: the decision tree.
    async fn serve(&self, asked: &Asked, classified: Classified) -> Result<Reply, Fault> {
        let demand = Demand::of(&asked.fields);
        let epoch = self.0.options.generations.epoch();
        let classified = self.promised(&asked.key, classified, asked.client).await;
        let (key, url_key) = (classified.key(&asked.key), asked.key.key_hash());
        let name = (classified.class == Class::Package).then(|| called(&asked.key)).flatten().map(Arc::from);
        self.0.site.requested(&Tally::new(&key, name));
        if let Some(entry) = self.signature(asked).await
            && let Ok(blob) = self.0.store.open_blob(&entry).await
        {
            return Ok(self.stored_reply(asked, entry, blob, Outcome::Hit));
        }
        if let Some(hot) = self.0.store.lookup_hot(&url_key)
            && self.keyring(&asked.key).is_none()
            && is_right(&hot.entry, &classified)
            && self.decide(&classified, Some(&hot.entry), demand) == Decision::Serve
        {
            self.0.store.touch(&hot.entry, self.0.clock.now());
            let reply = self.stored_reply(asked, hot.entry.clone(), hot.blob.clone(), Outcome::Hit);
            // Where it depends on what the client has got before, each request is looked at.
            if let Some(line) = asked.line.as_ref().filter(|_| !self.0.options.generations.varies(&asked.key)) {
                self.remember(line, &asked.url, &classified, &hot, &reply, epoch);
            }
            return Ok(reply);
        }
        let looked_at = self.0.store.revealed();
        let flight = match self.0.flights.join_in_the_air(&key).await {
            None if key != url_key => {
                // Under this name another generation's content may be on its way.
                let flight = self.0.flights.join_in_the_air(&url_key).await;
                flight.filter(|flight| flight.plan().digest == classified.digest)
            }
            flight => flight,
        };
        let cached = self.cached(asked, &classified).await;
        match self.decide(&classified, cached.as_ref().map(|(entry, _)| entry), demand) {
            Decision::Serve => {
                let (entry, blob) = cached.ok_or_else(|| Fault::internal("nothing to serve"))?;
                Ok(self.stored_reply(asked, entry, blob, Outcome::Hit))
            }
            Decision::NotCached => self.only_from_site(asked, &classified, flight).await,
            Decision::Fetch | Decision::Revalidate => match flight {
                Some(flight) if asked.method == Method::GET => {
                    Ok(self.flying_reply(asked, &flight, Outcome::Collapsed))
                }
                _ if asked.method == Method::HEAD && cached.is_none() => self.head(asked, &classified, demand).await,
                _ => self.ask_and_reply(asked, classified, cached, looked_at, demand).await,
            },
        }
    }

    /// What is stored. A store that fails is a store that has nothing.
    async fn cached(&self, asked: &Asked, classified: &Classified) -> Cached {
        let entry = self.stored(&asked.key, classified).await?;
        if !self.is_trusted(&asked.key, &entry).await {
            return None;
        }
        let blob = self.0.store.open_blob(&entry).await.ok()?;
        Some((entry, blob))
    }

    fn decide(&self, classified: &Classified, entry: Option<&Arc<Entry>>, demand: Demand) -> Decision {
        let known = entry.map(|entry| known(classified, entry, self.0.clock.now()));
        freshness::decide(classified.class, known, demand, &self.0.options.freshness)
    }

    async fn ask_and_reply(
        &self,
        asked: &Asked,
        classified: Classified,
        cached: Cached,
        looked_at: u64,
        demand: Demand,
    ) -> Result<Reply, Fault> {
        let had = cached.is_some();
        if had {
            self.0.ledger.revalidated();
        }
        let mut question = Question {
            cached: cached.as_ref().map(|(entry, _)| entry.clone()),
            looked_at: Some(looked_at),
            insist: demand.revalidate,
            ..Question::about(asked, &classified)
        };
        if question.classified.digest.is_some() {
            question.sources = self.sources(&asked.key, question.sources);
        }
        let (resolution, joined) = self.ask(question).await;
        let stored = async |cached: Cached, outcome| {
            // A peer, or a new generation, may have brought it meanwhile.
            let cached = match cached {
                Some(cached) => Some(cached),
                None => self.cached(asked, &classified).await,
            };
            match cached {
                Some((entry, blob)) => Ok(self.stored_reply(asked, entry, blob, outcome)),
                None => Err(Fault::internal("what is stored went away in the meantime; ask again")),
            }
        };
        match resolution {
            Resolution::Flight(flight) => {
                let outcome = match (joined, had) {
                    (true, _) => Outcome::Collapsed,
                    (false, _) if flight.peer().is_some() => Outcome::PeerHit,
                    (false, true) => Outcome::RefreshModified,
                    (false, false) => Outcome::Miss,
                };
                Ok(self.flying_reply(asked, &flight, outcome))
            }
            Resolution::Confirmed | Resolution::Older => stored(cached, Outcome::RefreshUnmodified).await,
            Resolution::Replaced(_) => stored(None, Outcome::RefreshModified).await,
            Resolution::Landed => stored(None, Outcome::Collapsed).await,
            Resolution::Stale(fault) => {
                tracing::debug!(url = %asked.url, %fault, "served although upstream does not answer");
                stored(cached, Outcome::Stale).await
            }
            Resolution::Small(answer) => Ok(self.small_reply(asked, &answer)),
            Resolution::Unshared(answer) => {
                let mine = answer.lock().unwrap_or_else(PoisonError::into_inner).take();
                let reply = match mine {
                    Some(answer) if !asked.fields.contains_key(RANGE) => Ok(self.passed_reply(*answer)),
                    _ => self.pass_own(asked, &classified).await,
                };
                reply.inspect(|reply| self.note_handed(asked, reply.status, Handing::Passed))
            }
            Resolution::Failed(fault) => Err(fault),
        }
    }

    /// A stored object was found damaged while it was being sent: the same version from upstream.
    pub async fn rescue(&self, entry: &Arc<Entry>) -> Result<Reader, Fault> {
        self.0.store.drop_damaged(entry, &Fault::new(Cause::Corrupt { object: entry.object.to_string().into() }));
        let flight = match classify(&entry.url).class.is_ours() {
            true => self.fetch_again(entry).await?,
            false => self.fetch_again_for_all(entry).await?,
        };
        match same_version(entry, &flight) {
            true => Ok(flight.reader()),
            false => Err(Fault::new(Cause::Changed { host: entry.url.host().into() })),
        }
    }

    async fn fetch_again(&self, entry: &Entry) -> Result<Arc<Flight>, Fault> {
        let mut classified = classify(&entry.url);
        classified.digest = classified.digest.or_else(|| entry.digest.clone());
        let sources = self.sources(&entry.url, self.0.options.repos.resolve(&entry.url).sources);
        let question = Question {
            key: entry.key,
            damaged: Some(entry.object),
            ..Question::new(Named { key: entry.url.clone(), sources }, classified)
        };
        if let Some(flight) = self.0.flights.join(&entry.key) {
            return Ok(flight);
        }
        match self.ask(question).await.0 {
            Resolution::Flight(flight) => Ok(flight),
            Resolution::Failed(fault) => Err(fault),
            _ => Err(Fault::internal("the damaged object cannot be had again")),
        }
    }

    fn not_cached(&self, asked: &Asked) -> Reply {
        let text = format!("Gateway Timeout\n\n{} is not cached, and the request asked for nothing else.\n", asked.url);
        Reply::text(StatusCode::GATEWAY_TIMEOUT, text, Outcome::Miss)
    }

    /// One member for each node that took part (RFC 9211): the peer, if there was one, then this node.
    fn cache_status_with(&self, flight: &Flight, outcome: Outcome) -> HeaderValue {
        let own = self.cache_status(outcome);
        let Some(peer) = flight.peer().map(|peer| self.0.site.name_of(peer)) else { return own };
        let stored = outcome == Outcome::PeerHit && flight.is_kept();
        self.cache_status_after(&peer, flight.is_whole_at_peer(), outcome, stored)
    }

    fn cache_status_after(&self, peer: &str, has_all: bool, outcome: Outcome, stored: bool) -> HeaderValue {
        let own = self.cache_status(outcome);
        let own = own.to_str().unwrap_or_default();
        let theirs = if has_all { "hit" } else { "fwd=uri-miss; collapsed" };
        let stored = if stored { "; stored" } else { "" };
        HeaderValue::try_from(format!("{peer}; {theirs}, {own}{stored}"))
            .unwrap_or_else(|_| HeaderValue::from_static("imirror"))
    }

    fn cache_status(&self, outcome: Outcome) -> HeaderValue {
        HeaderValue::try_from(format!("{}; {}", self.0.options.name, outcome.cache_status()))
            .unwrap_or_else(|_| HeaderValue::from_static("imirror"))
    }
}

/// Is it what the name, or the repository's metadata, says that it has to be?
fn is_right(entry: &Entry, classified: &Classified) -> bool {
    classified.digest.is_none() || entry.digest == classified.digest
}

fn known(classified: &Classified, entry: &Entry, now: Timestamp) -> Known {
    Known {
        unconfirmed_for: now.since(entry.confirmed_at()),
        immutable: classified.digest.is_some() && entry.digest == classified.digest,
        lifetime: freshness::lifetime(&entry.head.fields),
    }
}

fn same_version(entry: &Entry, flight: &Flight) -> bool {
    let plan = flight.plan();
    let compared = freshness::compare(&entry.head.fields, entry.size, &plan.head.fields, true);
    let same = compared == freshness::Version::Same;
    let digest = plan.digest.is_some() && plan.digest == entry.digest;
    (same || digest) && flight.total() == Some(entry.size)
}

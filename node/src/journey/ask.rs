//! Asking upstream, once for all who want to know the same thing in the same moment.
//!
//! A question belongs to the node: its task goes on when the client that raised it leaves.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{ACCEPT, ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_LENGTH, ETAG, IF_RANGE, RANGE, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use tokio::sync::watch;

use super::freshness::{self, Version};
use super::hops;
use super::rfc9111::validates;
use super::site::Permission;
use super::switch::NextRoot;
use super::{Asked, Journey};
use crate::classify::{Class, Classified, KeyHash, Url};
use crate::cluster::site::Grant;
use crate::fault::{Cause, Fault, Whose};
use crate::flight::{self, Departure, Flight, Pace, strong_validator};
use crate::os::tasks;
use crate::repos::{Named, root};
use crate::store::{Entry, Growing, ObjectId, Plan};
use crate::upstream::{Answer, Patience, Request};

/// Longest body of an error answer that is shared among those who asked.
const SMALL_BODY_MAX: usize = 64 * 1024;

/// Sources that one question, or one download, tries; a metalink may name more.
const SOURCES_MAX: usize = 6;

/// What is asked, with all that is known before.
#[derive(Clone)]
pub(super) struct Question {
    /// The content's where that is known, else the URL's.
    pub(super) key: KeyHash,
    pub(super) url: Url,
    pub(super) sources: Vec<Url>,
    pub(super) classified: Classified,
    pub(super) cached: Option<Arc<Entry>>,
    /// What `Store::revealed` said before the store was looked into.
    pub(super) looked_at: Option<u64>,
    /// A client insists (`no-cache`): caches on the way are told so.
    pub(super) insist: bool,
    /// Stored here, but damaged: it is no answer.
    pub(super) damaged: Option<ObjectId>,
    /// Nobody waits for it.
    pub(super) ahead: Option<Ahead>,
    /// Which sites the request that raised it has passed through: upstream is told, for one of them may be behind it, too.
    pub(super) hops: HeaderMap,
}

/// How something is asked for that nobody waits for yet.
#[derive(Clone)]
pub(super) struct Ahead {
    /// An answer that the site has got within this time will do.
    pub(super) age: Duration,
    pub(super) pace: Arc<Pace>,
}

impl Question {
    /// The question of somebody who has nothing and insists on nothing.
    pub(super) fn new(Named { key: url, sources }: Named, classified: Classified) -> Self {
        Self {
            key: classified.key(&url),
            url,
            sources,
            classified,
            cached: None,
            looked_at: None,
            insist: false,
            damaged: None,
            ahead: None,
            hops: HeaderMap::new(),
        }
    }

    /// The same of a client.
    pub(super) fn about(asked: &Asked, classified: &Classified) -> Self {
        let named = Named { key: asked.key.clone(), sources: asked.sources.clone() };
        Self { hops: hops::sites_of(&asked.fields), ..Self::new(named, classified.clone()) }
    }

    /// What it may be found under: its key, and its URL's where that is another.
    pub(super) fn names(&self) -> impl Iterator<Item = KeyHash> + use<> {
        let by_url = self.url.key_hash();
        [Some(self.key), (by_url != self.key).then_some(by_url)].into_iter().flatten()
    }
}

/// What came of it.
#[derive(Clone)]
pub(super) enum Resolution {
    /// The content is being downloaded.
    Flight(Arc<Flight>),
    /// What is stored is current.
    Confirmed,
    /// A download has brought it since the question was raised.
    Landed,
    /// Upstream has an older version than what is stored, a lagging mirror; or a newer one that is not whole yet.
    Older,
    /// What is stored is a newer version now.
    Replaced(Arc<Entry>),
    /// Upstream cannot be reached; what is stored has to do.
    Stale(Fault),
    /// An answer to be passed on, with its whole (short) body.
    Small(Arc<SmallAnswer>),
    /// An answer that must not be stored or shared: whoever takes it first passes it on, others ask for themselves.
    Unshared(Arc<Mutex<Option<Box<Answer>>>>),
    Failed(Fault),
}

/// A short answer, in memory.
pub(super) struct SmallAnswer {
    pub(super) status: StatusCode,
    pub(super) fields: HeaderMap,
    pub(super) body: Bytes,
    pub(super) via: String,
}

impl SmallAnswer {
    fn not_found() -> Self {
        let body = Bytes::from_static(b"Not Found\n\nUpstream cannot be reached, and had none of it before.\n");
        Self { status: StatusCode::NOT_FOUND, fields: HeaderMap::new(), body, via: "none".into() }
    }
}

/// The questions being asked now.
#[derive(Default)]
pub(super) struct Questions(Mutex<BTreeMap<KeyHash, watch::Receiver<Option<Resolution>>>>);

impl Questions {
    fn open(&self) -> MutexGuard<'_, BTreeMap<KeyHash, watch::Receiver<Option<Resolution>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Journey {
    /// Asks, or joins those who are asking; says whether somebody else had asked already.
    pub(super) async fn ask(&self, question: Question) -> (Resolution, bool) {
        let (mut resolution, joined) = {
            let mut open = self.0.questions.open();
            match open.get(&question.key) {
                Some(asked) => (asked.clone(), true),
                None => {
                    // It may have been answered by a download since the caller looked: a flight is in its list before
                    // its question leaves this one.
                    if let Some(flight) = self.0.flights.join(&question.key) {
                        return (Resolution::Flight(flight), true);
                    }
                    let (answer, asked) = watch::channel(None);
                    open.insert(question.key, asked.clone());
                    let (journey, key) = (self.clone(), question.key);
                    tasks::spawn("question", async move {
                        let guard = Closing { journey: &journey, key };
                        let resolution = match journey.has_landed(&question).await {
                            true => Resolution::Landed,
                            false => journey.inquire(question).await,
                        };
                        // A flight is in the list of flights before its question leaves the list of questions.
                        drop(guard);
                        answer.send_replace(Some(resolution));
                    });
                    (asked, false)
                }
            }
        };
        let resolution = match resolution.wait_for(Option::is_some).await {
            Ok(resolution) => resolution.clone(),
            Err(_) => None,
        };
        (resolution.unwrap_or_else(|| Resolution::Failed(Fault::internal("asking upstream failed"))), joined)
    }

    /// Has a download begun, and ended, between the look into the store by whoever asks and this question's entry in the list? What it
    /// has brought is in the store before it leaves the list of flights.
    async fn has_landed(&self, question: &Question) -> bool {
        if question.cached.is_some() || question.looked_at == Some(self.0.store.revealed()) {
            return false;
        }
        match self.found(&question.url, &question.classified).await {
            Some(entry) => Some(entry.object) != question.damaged && self.is_trusted(&question.url, &entry).await,
            None => false,
        }
    }

    /// Asks the site, then upstream.
    pub(super) async fn inquire(&self, mut question: Question) -> Resolution {
        // What has to be signed comes from nobody who has not been asked for the signature.
        let asked = match self.keyring(&question.url) {
            Some(_) => Err(Permission::default()),
            None => self.ask_site(&mut question).await,
        };
        match asked {
            Ok(resolution) => resolution,
            Err(mut permission) => {
                let resolution = self.inquire_upstream(&question, &mut permission).await;
                permission.learned(&question, &resolution);
                resolution
            }
        }
    }

    async fn inquire_upstream(&self, question: &Question, permission: &mut Permission) -> Resolution {
        if let Some(entry) = &question.cached
            && question.classified.class == Class::Package
            && !freshness::has_validators(&entry.head.fields)
            && let Some(resolution) = self.compare_length(question, entry).await
        {
            return resolution;
        }
        let partial = self.take_up(question).await;
        let sources = self.in_order(&question.sources);
        let mut survey = Survey { asked: sources.len(), grant: permission.grant.take(), ..Survey::default() };
        for source in sources {
            match self.inquire_at(question, &source, partial.as_ref()).await {
                Ok(answer) => {
                    if let Some(resolution) = self.weigh(question, &source, answer, partial.as_ref(), &mut survey).await
                    {
                        return resolution;
                    }
                }
                Err(fault) => survey.failed(fault),
            }
        }
        self.sum_up(question, survey).await
    }

    /// An upstream without validators is asked for the length alone: a package of the same name and length is the same.
    async fn compare_length(&self, question: &Question, entry: &Arc<Entry>) -> Option<Resolution> {
        let request = Request {
            method: Method::HEAD,
            url: question.sources.first()?.clone(),
            fields: self.request_fields(question),
            body: None,
            patience: patience(true),
        };
        let answer = self.0.upstreams.fetch(request).await.ok()?;
        let length = answer.fields.get(CONTENT_LENGTH)?.to_str().ok()?.parse::<u64>().ok()?;
        if answer.status != StatusCode::OK || length != entry.size || freshness::is_web_page(&answer.fields) {
            return None;
        }
        self.0.store.confirm(entry, None);
        Some(Resolution::Confirmed)
    }

    /// What an earlier download has left, if it can be continued.
    async fn take_up(&self, question: &Question) -> Option<Arc<Growing>> {
        if question.cached.is_some() || !self.0.store.has_partial(&question.key) {
            return None;
        }
        let (store, key) = (self.0.store.clone(), question.key);
        let growing = tasks::blocking("take up a download", move || store.take_up(key)).await.ok()??;
        let nameable = resume_fields(&growing, question.classified.digest.is_some()).is_some();
        (growing.total().is_some() && nameable).then_some(growing)
    }

    /// Nobody had the content: what is stored, the best refusal, or the fault.
    async fn sum_up(&self, question: &Question, survey: Survey) -> Resolution {
        let gone = survey.gone == survey.asked && survey.gone > 0;
        if question.cached.is_some() && !gone {
            let lacking = || (survey.gone > 0).then(|| Fault::internal("a mirror lacks it"));
            if let Some(fault) = survey.excuse().or_else(lacking) {
                return Resolution::Stale(fault);
            }
        }
        // What the repository's metadata still names stays (R6c).
        if gone && question.cached.is_some() && !self.is_named(&question.url) {
            self.is_gone(question).await;
        }
        match (survey.refusal, survey.page, survey.unreachable.or(survey.other)) {
            (Some(answer), _, None) => Resolution::Small(Arc::new(answer)),
            (_, Some(page), _) => Resolution::Unshared(Arc::new(Mutex::new(Some(page)))),
            (_, None, Some(fault)) if self.has_done_without(&question.url).await => {
                tracing::debug!(url = %question.url, %fault, "clients have done without it");
                Resolution::Small(Arc::new(SmallAnswer::not_found()))
            }
            (_, None, Some(fault)) => Resolution::Failed(fault),
            (None, None, None) => Resolution::Failed(Fault::internal("there is nobody to ask")),
        }
    }
}

impl Journey {
    /// Is it a file that not every Debian repository has, of one whose `Release` is here? Clients that found it here have asked for the
    /// others before: they do so now as well, instead of giving up.
    async fn has_done_without(&self, url: &Url) -> bool {
        let Some((folder, "InRelease" | "Release.gpg")) = url.as_str().rsplit_once('/') else { return false };
        let release = Url::parse(&format!("{folder}/Release"));
        let found = async |url: Url| self.0.store.lookup(url.key_hash()).await.is_ok_and(|entry| entry.is_some());
        match release {
            Ok(release) => found(release).await,
            Err(_) => false,
        }
    }
}

/// What the sources have said so far.
#[derive(Default)]
struct Survey {
    /// How many are asked at most.
    asked: usize,
    /// How many said 404 or 410.
    gone: usize,
    /// The first refusal that is an answer (403, 404, …), to be passed on when nobody has anything better.
    refusal: Option<SmallAnswer>,
    /// The first web page that came instead of a package, to be passed on when nobody has anything better.
    page: Option<Box<Answer>>,
    /// Why a source could not be reached; the first counts most.
    unreachable: Option<Fault>,
    /// A fault that is no reachability matter.
    other: Option<Fault>,
    /// The site's permission, for the download that begins.
    grant: Option<Grant>,
}

impl Survey {
    fn failed(&mut self, fault: Fault) {
        let place = if fault.is_unreachable() { &mut self.unreachable } else { &mut self.other };
        place.get_or_insert(fault);
    }

    /// Why what is stored has to do: upstream is not there, or what answers in its place is not upstream.
    fn excuse(&self) -> Option<Fault> {
        let broken = self.other.as_ref().filter(|fault| fault.whose == Whose::Upstream);
        self.unreachable.as_ref().or(broken).cloned()
    }

    fn refused(&mut self, answer: SmallAnswer) {
        self.gone += usize::from(matches!(answer.status, StatusCode::NOT_FOUND | StatusCode::GONE));
        self.refusal.get_or_insert(answer);
    }
}

/// The rest of the inquiry: one source after the other, then the sum.
impl Journey {
    /// Sources in the order in which they are worth trying: those that have sent wrong bytes lately come after the others, and those
    /// that are remembered as down after them. No client waits for more than some.
    pub(super) fn in_order(&self, sources: &[Url]) -> Vec<Url> {
        let upstreams = &self.0.upstreams;
        let mut sources = sources.to_vec();
        sources.sort_by_cached_key(|source| (upstreams.down(source).is_some(), upstreams.is_distrusted(source)));
        sources.truncate(SOURCES_MAX);
        sources
    }

    /// Asks one source. A 304 that it returns confirms what is stored.
    async fn inquire_at(
        &self,
        question: &Question,
        source: &Url,
        partial: Option<&Arc<Growing>>,
    ) -> Result<Answer, Fault> {
        // With something to fall back on nobody waits for a host that is known to be down (R5a).
        if question.cached.is_some()
            && let Some(fault) = self.0.upstreams.down(source)
        {
            return Err(fault);
        }
        let conditions = match (&question.cached, partial) {
            (Some(entry), _) => freshness::conditions(&entry.head.fields),
            (None, Some(growing)) => resume_fields(growing, question.classified.digest.is_some()).unwrap_or_default(),
            (None, None) => HeaderMap::new(),
        };
        let conditional = question.cached.is_some() && !conditions.is_empty();
        let answer = self.exchange(question, source, conditions).await?;
        let confirms = |entry: &Arc<Entry>| conditional && validates(&entry.head.fields, &answer.fields);
        if answer.status != StatusCode::NOT_MODIFIED || question.cached.as_ref().is_some_and(confirms) {
            return Ok(answer);
        }
        // A 304 about another version than ours confirms nothing: asked again without conditions (RFC 9111 4.3.4).
        if conditional {
            let answer = self.exchange(question, source, HeaderMap::new()).await?;
            if answer.status != StatusCode::NOT_MODIFIED {
                return Ok(answer);
            }
        }
        Err(malformed(source, "304 to a request without conditions"))
    }

    async fn exchange(&self, question: &Question, source: &Url, conditions: HeaderMap) -> Result<Answer, Fault> {
        let mut fields = self.request_fields(question);
        fields.extend(conditions);
        let request = Request {
            method: Method::GET,
            url: source.clone(),
            fields,
            body: None,
            patience: patience(question.cached.is_some()),
        };
        self.0.upstreams.fetch(request).await
    }

    /// The fields of a request of ours: nothing of the client's for what is ours (FAULTS.md 5), but which sites it came by.
    pub(super) fn request_fields(&self, question: &Question) -> HeaderMap {
        let mut fields = own_fields();
        fields.extend(question.hops.clone());
        self.0.hops.sign(&mut fields);
        if question.insist {
            fields.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        } else if question.classified.class == Class::MutableMetadata {
            fields.insert(CACHE_CONTROL, HeaderValue::from_static("max-age=0"));
        }
        fields
    }

    /// What an answer means; `None` when the next source has to be asked.
    async fn weigh(
        &self,
        question: &Question,
        source: &Url,
        answer: Answer,
        partial: Option<&Arc<Growing>>,
        survey: &mut Survey,
    ) -> Option<Resolution> {
        match answer.status {
            StatusCode::NOT_MODIFIED => {
                let entry = question.cached.clone()?;
                self.0.store.confirm(&entry, Some(freshness::updated(&entry.head, &answer.fields)));
                Some(Resolution::Confirmed)
            }
            StatusCode::OK | StatusCode::PARTIAL_CONTENT
                if question.classified.class.is_ours() && freshness::is_web_page(&answer.fields) =>
            {
                match question.cached {
                    Some(_) => survey.failed(malformed(source, "a web page instead of the file")),
                    None => drop(survey.page.get_or_insert(Box::new(answer))),
                }
                None
            }
            StatusCode::OK if is_of_other_length(&answer, question.classified.size) => {
                let length = answer.body.length().unwrap_or(0);
                let detail = format!("{length} bytes of another version than the repository's metadata names");
                survey.failed(malformed(source, &detail));
                None
            }
            StatusCode::OK | StatusCode::PARTIAL_CONTENT => {
                Some(self.receive(question, source, answer, partial, survey.grant.take()).await)
            }
            status if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
                let host = source.authority().into();
                survey.failed(Fault::new(Cause::Status { host, status: status.as_u16() }));
                None
            }
            status if status.is_redirection() && question.cached.is_some() => {
                survey.failed(malformed(source, "a redirect that leads nowhere"));
                None
            }
            _ => match small(answer).await {
                Ok(answer) => {
                    survey.refused(answer);
                    None
                }
                Err(fault) => {
                    survey.failed(fault);
                    None
                }
            },
        }
    }

    /// An answer with content: a download begins, unless it is not to be stored or what is stored is as good.
    async fn receive(
        &self,
        question: &Question,
        source: &Url,
        answer: Answer,
        partial: Option<&Arc<Growing>>,
        grant: Option<Grant>,
    ) -> Resolution {
        if let Some(entry) = &question.cached {
            let one_server = question.sources.len() == 1 && answer.url == *source;
            match freshness::compare(&entry.head.fields, entry.size, &answer.fields, one_server) {
                Version::Same => {
                    // A tag, where we had none, is what the next question will be about.
                    let news = !entry.head.fields.contains_key(ETAG) && answer.fields.contains_key(ETAG);
                    self.0.store.confirm(entry, news.then(|| freshness::updated(&entry.head, &answer.fields)));
                    return Resolution::Confirmed;
                }
                Version::Older => return Resolution::Older,
                Version::Newer => {}
            }
        }
        if let Err(reason) = freshness::storable(question.classified.class, answer.status, &answer.fields) {
            tracing::debug!(url = %question.url, reason = reason.as_str(), "not stored");
            return Resolution::Unshared(Arc::new(Mutex::new(Some(Box::new(answer)))));
        }
        if answer.status == StatusCode::OK && self.has_to_wait(question).await {
            return self.switch(question, NextRoot::of_mirror(answer, source, self.0.clock.now())).await;
        }
        let continued = partial.filter(|growing| flight::continues(growing, &answer));
        if answer.status == StatusCode::PARTIAL_CONTENT && continued.is_none() {
            return Resolution::Failed(malformed(source, "206 with something else than was asked for"));
        }
        let from = continued.map_or(0, |growing| growing.present_until(0));
        let mut sources = question.sources.clone();
        sources.sort_by_key(|s| s != source);
        sources.truncate(SOURCES_MAX);
        let plan = Plan {
            url: question.url.clone(),
            key: question.key,
            class: question.classified.class,
            head: freshness::stored_head(&answer.fields, self.0.clock.now().to_system_time()),
            total: answer.body.length(),
            digest: question.classified.digest.clone(),
            confirmed_at: None,
        };
        let source = flight::Source::Upstream(Box::new(answer));
        let departure = Departure {
            taken_up: continued.cloned(),
            from,
            grant,
            // Who has read a root may ask in the same moment for what it names.
            hold_back: root::names_others(&question.url),
            landing: Some(self.landing()),
            pace: question.ahead.as_ref().map(|ahead| ahead.pace.clone()),
            ..Departure::new(plan, source, sources, self.request_fields(question))
        };
        match self.0.flights.start(departure).await {
            Ok(flight) => Resolution::Flight(flight),
            Err((fault, None)) => Resolution::Failed(fault),
            Err((fault, Some(answer))) => {
                // Where the disk is to blame the store has said so, once.
                tracing::info!(url = %question.url, %fault, "passed on without storing");
                Resolution::Unshared(Arc::new(Mutex::new(Some(answer))))
            }
        }
    }
}

/// Bytes of this length cannot be what is meant; they need not come to be compared.
fn is_of_other_length(answer: &Answer, size: Option<u64>) -> bool {
    answer.body.length().zip(size).is_some_and(|(theirs, ours)| theirs != ours)
}

fn malformed(source: &Url, detail: &str) -> Fault {
    Fault::new(Cause::Malformed { host: source.authority().into(), detail: detail.into() })
}

/// With something to fall back on nobody waits long (R5a); without, as long as clients do (CLIENTS.md 9).
pub(super) fn patience(cached: bool) -> Patience {
    let (connect, head) = if cached { (2, 5) } else { (5, 25) };
    Patience { connect: Duration::from_secs(connect), head: Duration::from_secs(head), stall: Duration::from_secs(5) }
}

/// The fields of a request that is nobody's but ours.
pub(super) fn own_fields() -> HeaderMap {
    let mut fields = HeaderMap::new();
    fields.insert(USER_AGENT, HeaderValue::from_static(concat!("imirror/", env!("CARGO_PKG_VERSION"))));
    fields.insert(ACCEPT, HeaderValue::from_static("*/*"));
    fields.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    fields
}

/// `Range` and `If-Range` for what is missing at the end of a partial download; `None` when its version cannot be named.
pub(super) fn resume_fields(growing: &Growing, digest_known: bool) -> Option<HeaderMap> {
    let validator = strong_validator(&growing.plan().head.fields);
    if validator.is_none() && !digest_known {
        return None;
    }
    let mut resume = HeaderMap::new();
    resume.insert(RANGE, HeaderValue::try_from(format!("bytes={}-", growing.present_until(0))).ok()?);
    if let Some(validator) = validator {
        resume.insert(IF_RANGE, validator);
    }
    Some(resume)
}

/// Reads a short answer whole.
pub(super) async fn small(mut answer: Answer) -> Result<SmallAnswer, Fault> {
    let mut body = BytesMut::new();
    while let Some(chunk) = answer.body.chunk().await? {
        body.extend_from_slice(&chunk);
        if body.len() > SMALL_BODY_MAX {
            body.truncate(SMALL_BODY_MAX);
            break;
        }
    }
    Ok(SmallAnswer { status: answer.status, fields: answer.fields, body: body.freeze(), via: answer.via.to_string() })
}

/// Takes a question off the list, also when its task panics.
struct Closing<'a> {
    journey: &'a Journey,
    key: KeyHash,
}

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        self.journey.0.questions.open().remove(&self.key);
    }
}

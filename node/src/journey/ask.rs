//! Asking upstream, once for all who want to know the same thing in the same moment.
//!
//! A question belongs to the node: its task goes on when the client that raised it leaves.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{ACCEPT, ACCEPT_ENCODING, CACHE_CONTROL, USER_AGENT, VIA};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use tokio::sync::watch;

use super::Journey;
use crate::classify::{Class, Classified, KeyHash, Url};
use crate::fault::{Cause, Fault};
use crate::flight::{Departure, Flight};
use crate::os::tasks;
use crate::store::{Entry, Growing, Head, Plan};
use crate::upstream::{Answer, Patience, Request};

/// Longest body of an error answer that is shared among those who asked.
const SMALL_BODY_MAX: usize = 64 * 1024;

/// What is asked, with all that is known before.
#[derive(Clone)]
pub(super) struct Question {
    pub(super) key: KeyHash,
    pub(super) url: Url,
    pub(super) sources: Vec<Url>,
    pub(super) classified: Classified,
    pub(super) cached: Option<Arc<Entry>>,
    /// A client insists (`no-cache`): caches on the way are told so.
    pub(super) insist: bool,
}

/// What came of it.
#[derive(Clone)]
pub(super) enum Resolution {
    /// The content is being downloaded.
    Flight(Arc<Flight>),
    /// What is stored is current.
    Confirmed(Arc<Entry>),
    /// Upstream has an older version than what is stored: a lagging mirror.
    Older(Arc<Entry>),
    /// Upstream cannot be reached; what is stored has to do.
    Stale(Arc<Entry>, Fault),
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
                    let (answer, asked) = watch::channel(None);
                    open.insert(question.key, asked.clone());
                    let journey = self.clone();
                    tasks::spawn("question", async move {
                        let guard = Closing { journey: &journey, key: question.key };
                        let resolution = journey.inquire(&question).await;
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

    async fn inquire(&self, question: &Question) -> Resolution {
        if let Some(entry) = &question.cached
            && question.classified.class == Class::Package
            && freshness::validators(&entry.head.fields).is_none()
            && let Some(resolution) = self.compare_length(question, entry).await
        {
            return resolution;
        }
        let partial = self.take_up(question).await;
        let mut survey = Survey::default();
        for source in self.in_order(&question.sources) {
            match self.inquire_at(question, &source, partial.as_ref()).await {
                Ok(answer) => match self.weigh(question, &source, answer, &partial, &mut survey).await {
                    Some(resolution) => return resolution,
                    None => continue,
                },
                Err(fault) => survey.failed(fault),
            }
        }
        self.conclude(question, survey).await
    }
}

/// What the sources have said so far.
#[derive(Default)]
struct Survey {
    /// How many said 404 or 410.
    gone: usize,
    /// The first refusal that is an answer (403, 404, …), to be passed on when nobody has anything better.
    refusal: Option<SmallAnswer>,
    /// Why a source could not be reached; the first counts most.
    unreachable: Option<Fault>,
    /// A fault that is no reachability matter.
    other: Option<Fault>,
}

impl Survey {
    fn failed(&mut self, fault: Fault) {
        let place = if fault.is_unreachable() { &mut self.unreachable } else { &mut self.other };
        place.get_or_insert(fault);
    }

    fn refused(&mut self, answer: SmallAnswer) {
        self.gone += usize::from(matches!(answer.status, StatusCode::NOT_FOUND | StatusCode::GONE));
        self.refusal.get_or_insert(answer);
    }
}

/// The rest of the inquiry: one source after the other, then the sum.
impl Journey {
    /// Sources in the order in which they are worth trying: those remembered as down last.
    fn in_order(&self, sources: &[Url]) -> Vec<Url> {
        let (down, up): (Vec<_>, Vec<_>) = sources.iter().cloned().partition(|s| self.0.upstreams.down(s).is_some());
        up.into_iter().chain(down).collect()
    }

    async fn inquire_at(&self, question: &Question, source: &Url, partial: Option<&Arc<Growing>>) -> Result<Answer, Fault> {
        // With something to fall back on nobody waits for a host that is known to be down (R5a).
        if question.cached.is_some()
            && let Some(fault) = self.0.upstreams.down(source)
        {
            return Err(fault);
        }
        let mut fields = self.request_fields(question);
        match (&question.cached, partial) {
            (Some(entry), _) => fields.extend(freshness::conditions(&entry.head.fields)),
            (None, Some(growing)) => fields.extend(resume_fields(growing)),
            (None, None) => {}
        }
        let request = Request {
            method: Method::GET,
            url: source.clone(),
            fields,
            body: None,
            patience: patience(question.cached.is_some()),
        };
        self.0.upstreams.fetch(request).await
    }

    /// The fields of a request of ours: nothing of the client's for what is ours (FAULTS.md 5).
    fn request_fields(&self, question: &Question) -> HeaderMap {
        let mut fields = HeaderMap::new();
        fields.insert(USER_AGENT, HeaderValue::from_static(concat!("imirror/", env!("CARGO_PKG_VERSION"))));
        fields.insert(ACCEPT, HeaderValue::from_static("*/*"));
        fields.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        fields.insert(VIA, self.0.via.clone());
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
                Some(Resolution::Confirmed(entry))
            }
            StatusCode::OK | StatusCode::PARTIAL_CONTENT => Some(self.receive(question, source, answer, partial).await),
            status if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
                let host = source.authority().into();
                survey.failed(Fault::new(Cause::Status { host, status: status.as_u16() }));
                survey.keep_error(small(answer).await);
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
    async fn receive(&self, question: &Question, source: &Url, answer: Answer, partial: Option<&Arc<Growing>>) -> Resolution {
        if let Some(entry) = &question.cached {
            match freshness::compare(&entry.head.fields, entry.size, &answer.fields) {
                Version::Same => {
                    self.0.store.confirm(entry, None);
                    return Resolution::Confirmed(entry.clone());
                }
                Version::Older => return Resolution::Older(entry.clone()),
                Version::Newer => {}
            }
        }
        if let Err(reason) = freshness::storable(question.classified.class, answer.status, &answer.fields) {
            tracing::debug!(url = %question.url, reason = reason.as_str(), "not stored");
            return Resolution::Unshared(Arc::new(Mutex::new(Some(Box::new(answer)))));
        }
        let mut sources = question.sources.clone();
        sources.sort_by_key(|s| s != source);
        let plan = self.plan(question, &answer);
        match self.0.flights.start(Departure { plan, answer, taken_up: partial, from, sources }).await {
            Ok(flight) => Resolution::Flight(flight),
            Err((fault, answer)) => {
                tracing::warn!(url = %question.url, %fault, "passed on without storing");
                Resolution::Unshared(Arc::new(Mutex::new(Some(answer))))
            }
        }
    }
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

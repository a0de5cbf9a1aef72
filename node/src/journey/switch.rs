//! From one generation of a repository to the next (R18). A newer root is handed out only when what clients have been using of the
//! old one is there in the new version, too; until then, and if a mirror has not all of it yet, the old generation stays whole.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use imirror_protocol::NodeId;

use super::ask::{Question, Resolution};
use super::{Journey, freshness};
use crate::classify::{KeyHash, Url, classify};
use crate::cluster::source::{PeerSource, Told};
use crate::fault::Fault;
use crate::flight::{self, Departure, Flight};
use crate::os::clock::Timestamp;
use crate::os::tasks;
use crate::repos::{Listed, root};
use crate::store::{Entry, Head, ObjectId, Plan};
use crate::upstream::Answer;

/// How long a client waits for the new generation; then it gets the old one, and the next who asks the new one.
const PATIENCE: Duration = Duration::from_secs(4);

/// The same where there is no old one.
const PATIENCE_WITHOUT: Duration = Duration::from_secs(25);

/// The roots that are being brought in.
#[derive(Default)]
pub(super) struct Switches(Mutex<BTreeSet<KeyHash>>);

impl Switches {
    fn open(&self) -> MutexGuard<'_, BTreeSet<KeyHash>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes a root off the list, also when its task panics.
struct Switching {
    journey: Journey,
    key: KeyHash,
}

impl Drop for Switching {
    fn drop(&mut self) {
        self.journey.0.switches.open().remove(&self.key);
    }
}

/// A root that may be the next one.
pub(super) struct NextRoot {
    content: flight::Source,
    head: Head,
    total: Option<u64>,
    /// What it is, where a peer has said so.
    object: Option<ObjectId>,
    confirmed_at: Option<Timestamp>,
    from: Holder,
}

/// Whoever has a root has what it names, and its signature.
#[derive(Clone)]
pub(super) enum Holder {
    Mirror(Url),
    Peer(NodeId),
}

impl NextRoot {
    pub(super) fn of_mirror(answer: Answer, mirror: &Url, now: Timestamp) -> Self {
        Self {
            head: freshness::stored_head(&answer.fields, now.to_system_time()),
            total: answer.body.length(),
            content: flight::Source::Upstream(Box::new(answer)),
            object: None,
            confirmed_at: None,
            from: Holder::Mirror(mirror.clone()),
        }
    }

    pub(super) fn of_peer(source: PeerSource, told: Told, now: Timestamp) -> Self {
        Self {
            head: told.described.head,
            total: told.total,
            object: told.object,
            confirmed_at: Some(now.before(told.confirmed_age)),
            from: Holder::Peer(source.peer()),
            content: flight::Source::Peer(Box::new(source)),
        }
    }
}

impl Journey {
    /// Has a root to wait for what it names, or for its signature?
    pub(super) async fn has_to_wait(&self, question: &Question) -> bool {
        let is_new = || question.cached.is_some() && self.0.options.generations.knows(&question.url);
        let names_others = root::names_others(&question.url);
        (names_others && is_new())
            || self.keyring(&question.url).is_some()
            || (is_new() && self.is_signature_used(&question.url).await)
    }

    /// Brings in the generation of which `next` is the root.
    pub(super) async fn switch(&self, question: &Question, next: NextRoot) -> Resolution {
        if !self.0.switches.open().insert(question.key) {
            return Resolution::Older;
        }
        let switching = Switching { journey: self.clone(), key: question.key };
        let NextRoot { content, head, total, object, confirmed_at, from } = next;
        let plan = Plan {
            url: question.url.clone(),
            // Under the root's own name the old one stays meanwhile.
            key: KeyHash::of(format!("next {}", question.url).as_bytes()),
            class: question.classified.class,
            head,
            total,
            digest: None,
            confirmed_at,
        };
        let sources = self.in_order(&question.sources);
        let fields = self.request_fields(question);
        let departure = Departure { object, ..Departure::new(plan, content, sources, fields) };
        let flight = match self.0.flights.start(departure).await {
            Ok(flight) => flight,
            Err((fault, _)) => return failed(question, fault),
        };
        let bringing = bring_in(switching, question.clone(), from, flight);
        let patience = if question.cached.is_some() { PATIENCE } else { PATIENCE_WITHOUT };
        match tokio::time::timeout(patience, tasks::spawn("switch", bringing)).await {
            Ok(Ok(resolution)) => resolution,
            Ok(Err(panic)) => failed(question, Fault::internal(panic.to_string())),
            Err(_) if question.cached.is_some() => Resolution::Older,
            Err(_) => Resolution::Failed(Fault::internal("it takes too long to check the root")),
        }
    }

    async fn bring_in(&self, question: &Question, from: &Holder, flight: &Arc<Flight>) -> Result<Resolution, Fault> {
        flight.landed().await;
        let entry = flight.entry().ok_or_else(|| Fault::internal("the new root did not come whole"))?;
        let switched = self.switch_to(question, from, &entry).await;
        let _ = self.0.store.remove(entry.key).await;
        switched
    }

    async fn switch_to(&self, question: &Question, from: &Holder, entry: &Arc<Entry>) -> Result<Resolution, Fault> {
        let (url, generations) = (&question.url, &self.0.options.generations);
        self.bring_signature(question, from, entry).await?;
        let place = root::place(url).ok_or_else(|| Fault::internal("not a root"))?;
        let blob = self.0.store.open_blob(entry).await?;
        let read = tasks::blocking("read a root", move || root::read(place.kind, &root::bytes_of(blob.reader())?));
        // What cannot be read is handed on as it came.
        if let (Ok(Ok(listing)), true) = (read.await, question.cached.is_some()) {
            if generations.is_older(url, &listing) {
                tracing::info!(%url, "a mirror has an older generation");
                return Ok(Resolution::Older);
            }
            for (old, new) in generations.parts(url, &listing) {
                if self.is_in_use(&old).await && !self.bring_in_part(&new, listing.by_hash, from).await {
                    tracing::info!(%url, part = %new.url, "the new generation is not whole yet; the old one stays");
                    return Ok(Resolution::Older);
                }
            }
        }
        let reading = generations.arrived(url, entry.object.0, None);
        // What it names has to be known before any client can be handed it.
        if let Some(reading) = reading {
            self.read(entry, reading).await;
        }
        let gone = || Fault::internal("the new root went away in the meantime");
        let linked = self.0.store.link(entry, url.key_hash(), url.clone()).await.ok_or_else(gone)?;
        Ok(Resolution::Replaced(linked))
    }

    /// Has a client asked for this file of the old generation, by its name or by its digest? Or was it brought in because clients
    /// had used the one before? Then it is here by its content only, until somebody comes for it, who may have the root already.
    async fn is_in_use(&self, listed: &Listed) -> bool {
        if let Some(key) = listed.promise.digest.content_key()
            && self.0.store.lookup(key).await.unwrap_or_default().is_some()
        {
            return true;
        }
        for url in [Some(&listed.url), by_hash(listed).as_ref()].into_iter().flatten() {
            let entry = self.0.store.lookup(url.key_hash()).await.unwrap_or_default();
            if entry.is_some_and(|entry| entry.digest.as_ref() == Some(&listed.promise.digest)) {
                return true;
            }
        }
        false
    }

    /// Is the file there, or can it be had?
    async fn bring_in_part(&self, listed: &Listed, is_by_hash: bool, from: &Holder) -> bool {
        let mut classified = classify(&listed.url);
        classified.digest = Some(listed.promise.digest.clone());
        classified.size = Some(listed.promise.size);
        // Whoever has the root has it, too, even if word of that has not come here yet.
        if let (Holder::Peer(peer), Some(key)) = (from, listed.promise.digest.content_key()) {
            self.copy(key, *peer).await;
        }
        if self.found(&listed.url, &classified).await.is_some() {
            return true;
        }
        let mut named = self.0.options.repos.resolve(&listed.url);
        if let Some(hashed) = by_hash(listed).filter(|_| is_by_hash) {
            // Where a mirror is just being changed the name may have the old content, the digest cannot.
            named.sources.splice(0..0, self.0.options.repos.resolve(&hashed).sources);
        }
        let question = Question::new(named, classified.clone());
        if let Resolution::Flight(flight) = self.ask(question).await.0 {
            flight.landed().await;
        }
        self.found(&listed.url, &classified).await.is_some()
    }
}

/// Boxed: what is asked for on the way may itself be a question that leads here.
fn bring_in(
    switching: Switching,
    question: Question,
    from: Holder,
    flight: Arc<Flight>,
) -> BoxFuture<'static, Resolution> {
    Box::pin(async move {
        let brought = switching.journey.bring_in(&question, &from, &flight).await;
        brought.unwrap_or_else(|fault| failed(&question, fault))
    })
}

/// The old generation has to do, if there is one.
fn failed(question: &Question, fault: Fault) -> Resolution {
    match question.cached {
        Some(_) => Resolution::Stale(fault),
        None => Resolution::Failed(fault),
    }
}

/// Where a Debian mirror has a file by its digest.
fn by_hash(listed: &Listed) -> Option<Url> {
    let name = match listed.promise.digest.algorithm().name() {
        "md5" => "MD5Sum".to_owned(),
        other => other.to_ascii_uppercase(),
    };
    let (folder, _) = listed.url.as_str().rsplit_once('/')?;
    Url::parse(&format!("{folder}/by-hash/{name}/{}", listed.promise.digest.hex())).ok()
}

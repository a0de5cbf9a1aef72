//! Downloads in progress. A flight belongs to the node (R8a): it writes to a growing file at its source's speed, and
//! any number of readers follow it at theirs. No reader slows or ends it for another.
//!
//! Knows nothing of the door: a reader is a cursor that yields bytes.

mod here;
mod pace;
mod pump;
mod reader;
mod resume;
mod row;
mod several;
mod source;

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::{HeaderMap, StatusCode};
use tokio::sync::futures::Notified;
use tokio::sync::{Notify, oneshot, watch};

use crate::classify::{Class, KeyHash, Url};
use crate::cluster::site::{Grant, Site};
use crate::fault::{Cause, Fault};
use crate::ledger::{Ledger, status};
use crate::os::clock::{Clock, Timestamp};
use crate::os::tasks;
use crate::store::{Entry, Growing, ObjectId, Plan, Store};
use crate::upstream::{Answer, Upstreams};
use source::Ties;

pub use here::{Expectation, Here};
pub use pace::Pace;
pub use reader::Reader;
pub use resume::strong_validator;
pub use source::Source;

/// With a digest known in advance, this many bytes at the end are held back until it matches (R8f).
pub const HELD_BACK: u64 = 64 * 1024;

/// A reader this far ahead of the download gets a request of its own for its range (R8h).
const FAR_AHEAD: u64 = 1024 * 1024;

/// Longest body of unknown length that is shared while it comes.
const ENDLESS: u64 = 8 * 1024 * 1024;

/// Side requests of one flight at the same time.
const SIDE_REQUESTS_MAX: usize = 4;

/// How long a flight that nobody reads and that is not worth finishing waits for a reader.
const LONELY_MAX: Duration = Duration::from_secs(30);

/// The download that begins.
pub struct Departure {
    pub plan: Plan,
    /// Brings the content, from `from` on.
    pub source: Source,
    /// What an earlier run has left of it; `source` continues it at `from`.
    pub taken_up: Option<Arc<Growing>>,
    /// The first byte that `source` has.
    pub from: u64,
    /// All URLs of the same content, in order of preference; the first is asked again first.
    pub sources: Vec<Url>,
    /// The fields that it was asked for with, but for ranges and conditions: what is missing is asked for with the same.
    pub fields: HeaderMap,
    /// The site's permission, where it was needed.
    pub grant: Option<Grant>,
    /// What the content has to be, where a peer has said so.
    pub object: Option<ObjectId>,
    /// Whether the store is to have it. What others have and few ask for here passes through.
    pub keep: bool,
    /// It is made for the site: nobody here has asked for it, and upstream is not asked unless somebody comes to read it.
    pub is_copy: bool,
    /// Readers get the end of it only when it has landed, as they do where a digest is to be compared.
    pub hold_back: bool,
    /// Called when it has landed, before its readers get what was held back.
    pub landing: Option<Landing>,
    /// How fast it comes as long as nobody reads it; as fast as it can, where that is not said.
    pub pace: Option<Arc<Pace>>,
}

impl Departure {
    /// The usual: all of it from here, to be stored.
    pub fn new(plan: Plan, source: Source, sources: Vec<Url>, fields: HeaderMap) -> Self {
        Self {
            plan,
            source,
            taken_up: None,
            from: 0,
            sources,
            fields,
            grant: None,
            object: None,
            keep: true,
            is_copy: false,
            hold_back: false,
            landing: None,
            pace: None,
        }
    }
}

/// What is to be done with an object that has just been stored. Does not block.
pub type Landing = Box<dyn FnOnce(&Arc<Entry>) + Send>;

/// The flight that has begun, or why there is none.
pub type Begun = Result<Arc<Flight>, NotBegun>;

/// Why there is no flight, with the answer if it is still there.
pub type NotBegun = (Fault, Option<Box<Answer>>);

/// All flights of the node. Cheap to clone.
#[derive(Clone)]
pub struct Flights(Arc<Shared>);

struct Shared {
    store: Store,
    upstreams: Upstreams,
    site: Site,
    ledger: Arc<Ledger>,
    clock: Clock,
    in_progress: Mutex<BTreeMap<KeyHash, Arc<Flight>>>,
    /// Downloads that are about to begin.
    expectations: Mutex<BTreeMap<KeyHash, watch::Receiver<()>>>,
    /// The node stops: whoever moves bytes lets go.
    stopping: watch::Sender<bool>,
}

/// One download in progress, or just ended.
pub struct Flight {
    growing: Arc<Growing>,
    sources: Vec<Url>,
    fields: HeaderMap,
    started: Timestamp,
    phase: Mutex<Phase>,
    ties: Mutex<Ties>,
    keep: bool,
    is_copy: bool,
    /// Readers get the end only when it has landed.
    holds_back: bool,
    landing: Mutex<Option<Landing>>,
    pace: Option<Arc<Pace>>,
    /// Bytes have arrived, or the phase has changed.
    news: Notify,
    readers: AtomicUsize,
    had_readers: AtomicBool,
    side: Mutex<SideRequests>,
    source: Mutex<Arc<str>>,
}

#[derive(Debug, Clone)]
enum Phase {
    Flying,
    Landed(Arc<Entry>),
    Failed(Fault),
}

/// Ranges that readers want far ahead of the download.
#[derive(Default)]
struct SideRequests {
    wanted: Vec<Range<u64>>,
    under_way: Vec<Range<u64>>,
    /// The source ignores `Range`, or its version cannot be named in `If-Range`.
    impossible: AtomicBool,
    call: Arc<Notify>,
}

/// Is it the rest of what an earlier flight has left, as it was asked for with `Range` and `If-Range`?
pub fn continues(growing: &Growing, answer: &Answer) -> bool {
    let plan = growing.plan();
    let (total, digest_known) = (growing.total(), plan.digest.is_some());
    let version = resume::Version { fields: &plan.head.fields, total, digest_known };
    let question = resume::Question { from: growing.present_until(0), fields: HeaderMap::new() };
    let begins = resume::begins_at(version, &question, answer.url.host(), answer.status, &answer.fields, true);
    answer.status == StatusCode::PARTIAL_CONTENT && begins.is_ok()
}

impl Flights {
    pub fn new(store: Store, upstreams: Upstreams, site: Site, ledger: Arc<Ledger>, clock: Clock) -> Self {
        Self(Arc::new(Shared {
            store,
            upstreams,
            site,
            ledger,
            clock,
            in_progress: Mutex::default(),
            expectations: Mutex::default(),
            stopping: watch::Sender::new(false),
        }))
    }

    /// The flight of this key, if one is in progress.
    pub fn join(&self, key: &KeyHash) -> Option<Arc<Flight>> {
        // A body of no announced length that is this long already may have no end: nobody else is tied to it.
        let endless = |flight: &Flight| flight.growing.total().is_none() && flight.growing.present_until(0) > ENDLESS;
        self.0.in_progress().get(key).filter(|flight| !endless(flight)).cloned()
    }

    /// As `join`; a flight that has all its bytes and is just landing is waited for, and then there is none any more.
    pub async fn join_in_the_air(&self, key: &KeyHash) -> Option<Arc<Flight>> {
        let flight = self.join(key)?;
        if !flight.is_complete() {
            return Some(flight);
        }
        flight.landed().await;
        None
    }

    /// Is anything of this key in the air, whether one may join it or not?
    pub fn has(&self, key: &KeyHash) -> bool {
        self.0.in_progress().contains_key(key)
    }

    /// What is in the air under this key is not to be stored, and nobody joins it any more; who reads it reads on.
    pub fn disown(&self, key: &KeyHash) {
        let flight = self.0.in_progress().remove(key);
        if let Some(flight) = flight {
            flight.growing.discard();
        }
    }

    /// Begins a flight. When the store cannot take it, the answer comes back with the reason, to be passed on as it is.
    pub async fn start(&self, departure: Departure) -> Begun {
        let (begun, beginning) = oneshot::channel();
        pump::launch(self.clone(), departure, begun);
        beginning.await.unwrap_or_else(|_| Err((Fault::internal("a download could not begin"), None)))
    }

    /// Makes the file and enters the flight in the list. Blocks.
    fn begin(&self, departure: Departure) -> Result<(Arc<Flight>, Source, u64), NotBegun> {
        let Departure {
            plan,
            source,
            taken_up,
            from,
            sources,
            fields,
            grant,
            object,
            keep,
            is_copy,
            hold_back,
            landing,
            pace,
        } = departure;
        // What a peer has passes through where it would take the place of what nobody else has (R13).
        let is_duplicate = matches!(source, Source::Peer(_)) && plan.class == Class::Package;
        let has_room = || self.0.store.has_room_for_duplicate(&plan.key, plan.total.unwrap_or(0));
        let keep = keep && (!is_duplicate || has_room());
        if is_copy && !keep {
            let detail = "a copy of what another node has would take the place of what no other has".into();
            return Err((Fault::new(Cause::DiskFull { detail }), None));
        }
        let growing = match taken_up.map_or_else(|| self.0.store.begin(plan), Ok) {
            Ok(growing) => growing,
            Err(fault) => {
                let answer = match source {
                    Source::Upstream(answer) => Some(answer),
                    Source::Peer(_) => None,
                };
                return Err((fault, answer));
            }
        };
        if !keep {
            // Who reads it can do so without its name.
            growing.discard();
        }
        let flight = Arc::new(Flight {
            sources,
            fields,
            started: self.0.clock.now(),
            phase: Mutex::new(Phase::Flying),
            news: Notify::new(),
            readers: AtomicUsize::new(0),
            had_readers: AtomicBool::new(false),
            side: Mutex::default(),
            source: Mutex::new(source.via().into()),
            ties: Mutex::new(Ties::begin(&source, grant, object)),
            keep,
            is_copy,
            holds_back: hold_back || growing.plan().digest.is_some(),
            landing: Mutex::new(landing),
            pace,
            growing,
        });
        self.0.in_progress().insert(flight.key(), flight.clone());
        Ok((flight, source, from))
    }

    /// Does anybody wait for bytes from upstream?
    fn clients_download(&self) -> bool {
        self.0.in_progress().values().any(|flight| flight.is_read() && flight.peer().is_none())
    }

    /// What is in progress now.
    pub fn status(&self) -> Vec<status::Flight> {
        let now = self.0.clock.now();
        self.0.in_progress().values().map(|flight| flight.status(now)).collect()
    }

    /// Until all that is in the air now has landed, or failed.
    pub async fn all_landed(&self) {
        let flights: Vec<_> = self.0.in_progress().values().cloned().collect();
        for flight in &flights {
            flight.landed().await;
        }
    }

    /// Ends all flights: what has arrived is kept and taken up again later (R8g).
    pub async fn suspend_all(&self) {
        self.0.stopping.send_replace(true);
        let flights: Vec<_> = self.0.in_progress().values().cloned().collect();
        for flight in &flights {
            flight.landed().await;
        }
    }

    /// The end of a flight: the file is suspended or dropped, the flight leaves the list, its readers learn why.
    async fn end(&self, flight: &Arc<Flight>, phase: Phase) {
        if let Phase::Failed(fault) = &phase {
            let worthless =
                matches!(fault.cause, Cause::Changed { .. } | Cause::WrongDigest { .. } | Cause::TooLarge { .. });
            // Where a body of unknown length broke off nobody can say what is missing.
            let worthless = worthless || flight.growing.total().is_none();
            let growing = flight.growing.clone();
            let _ = tasks::blocking("end a download", move || {
                if worthless || growing.suspend().is_err() {
                    growing.discard();
                }
            })
            .await;
        }
        let landing = flight.landing.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let (Phase::Landed(entry), Some(landing), true) = (&phase, landing, flight.keep) {
            landing(entry);
        }
        let mut in_progress = self.0.in_progress();
        // A newer flight may have the key by now.
        if in_progress.get(&flight.key()).is_some_and(|other| Arc::ptr_eq(other, flight)) {
            in_progress.remove(&flight.key());
        }
        drop(in_progress);
        flight.release(matches!(phase, Phase::Landed(_)) && flight.keep);
        flight.set_phase(phase);
    }
}

impl Shared {
    fn in_progress(&self) -> MutexGuard<'_, BTreeMap<KeyHash, Arc<Flight>>> {
        self.in_progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Flight {
    pub fn key(&self) -> KeyHash {
        self.growing.plan().key
    }

    pub fn plan(&self) -> &Plan {
        self.growing.plan()
    }

    /// Length of the whole content, once it is known.
    pub fn total(&self) -> Option<u64> {
        match &*self.phase() {
            Phase::Landed(entry) => Some(entry.size),
            _ => self.growing.total(),
        }
    }

    /// What the content was stored as, when it has been.
    pub fn entry(&self) -> Option<Arc<Entry>> {
        match &*self.phase() {
            Phase::Landed(entry) => Some(entry.clone()),
            Phase::Flying | Phase::Failed(_) => None,
        }
    }

    pub fn started(&self) -> Timestamp {
        self.started
    }

    /// A cursor over the content.
    pub fn reader(self: &Arc<Self>) -> Reader {
        Reader::new(self.clone())
    }

    fn status(&self, now: Timestamp) -> status::Flight {
        let (bytes, seconds) = (self.growing.present_bytes(), now.since(self.started).as_secs_f64().max(0.001));
        status::Flight {
            url: self.plan().url.to_string(),
            bytes,
            total: self.total(),
            readers: self.readers.load(Ordering::Relaxed) as u64,
            source: self.source(),
            rate: (bytes as f64 / seconds) as u64,
        }
    }

    /// How far a reader at `offset` may read now: the end of what is there, less what is held back.
    fn readable_until(&self, offset: u64) -> u64 {
        let present = self.growing.present_until(offset);
        let landed = matches!(&*self.phase(), Phase::Landed(_));
        if landed || !self.holds_back {
            return present;
        }
        let limit = self.growing.total().unwrap_or(present).saturating_sub(HELD_BACK);
        present.min(limit).max(offset)
    }

    /// A reader waits at `range.start`: if that is far ahead of what is arriving, it is asked for on the side.
    fn want(&self, range: Range<u64>) {
        let front = self.growing.present_until(0);
        let Some(total) = self.growing.total() else { return };
        if range.start < front.saturating_add(FAR_AHEAD) || range.start >= total {
            return;
        }
        let mut side = self.side();
        let covered = |known: &Vec<Range<u64>>| known.iter().any(|r| r.start <= range.start && range.start < r.end);
        if side.impossible.load(Ordering::Relaxed) || covered(&side.under_way) || covered(&side.wanted) {
            return;
        }
        // More are dropped: their readers wait until the download comes to them.
        if side.wanted.len() < 256 {
            side.wanted.push(range.start..range.end.min(total));
            side.call.notify_one();
        }
    }

    fn is_read(&self) -> bool {
        self.readers.load(Ordering::Relaxed) > 0
    }

    /// Is anybody served by going on? A package always is: it was asked for once and will be again.
    fn worth_finishing(&self) -> bool {
        let present = self.growing.present_bytes();
        match self.growing.total() {
            _ if self.is_read() => true,
            // Who comes now waits for the landing, which is to be no wait for anybody.
            _ if self.is_complete() => true,
            _ if !self.keep => false,
            None => false,
            Some(total) => self.plan().class != Class::Other || present >= total / 2,
        }
    }

    /// What has come is worthless: forgets it, if no reader has got any of it.
    fn begin_anew(&self) -> bool {
        let shown =
            self.growing.total().is_none_or(|total| total > HELD_BACK) && self.had_readers.load(Ordering::Relaxed);
        !shown && self.growing.forget_all()
    }

    /// All bytes are there.
    fn is_complete(&self) -> bool {
        self.growing.total().is_some_and(|total| self.growing.missing(0..total).is_none())
    }

    /// Waits until the flight has ended, well or not.
    pub async fn landed(&self) {
        loop {
            let news = self.news();
            let mut news = std::pin::pin!(news);
            news.as_mut().enable();
            if !matches!(&*self.phase(), Phase::Flying) {
                return;
            }
            news.await;
        }
    }

    fn news(&self) -> Notified<'_> {
        self.news.notified()
    }

    fn phase(&self) -> MutexGuard<'_, Phase> {
        self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_phase(&self, phase: Phase) {
        *self.phase() = phase;
        self.news.notify_waiters();
    }

    fn side(&self) -> MutexGuard<'_, SideRequests> {
        self.side.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;

//! Objects on disk: immutable contents under the name of their BLAKE3, and an index of the keys that name them.
//!
//! Knows nothing of HTTP, of peers or of the site. What it hands out has been checked against its name since the
//! start; what it cannot vouch for is as if it were not there.

mod blob;
mod durable;
mod eviction;
mod files;
mod groups;
mod growing;
mod index;
mod names;
mod object;
mod ranges;
mod room;
mod scrub;
mod spare;
#[cfg(test)]
mod tests;
mod writer;

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use serde::Serialize;

pub use blob::{Blob, Ready};
pub use eviction::Copies;
pub use groups::GroupList;
pub use growing::Growing;
pub use object::{Entry, Head, ObjectId, Plan};

use crate::classify::KeyHash;
use crate::config::CacheSize;
use crate::fault::{Cause, Fault};
use crate::os::clock::{Clock, Timestamp};
use crate::os::{disk, tasks};
use durable::Published;
use eviction::Tier;
use files::Files;
use index::{Change, Index, Superfluous};
use spare::Spare;

/// Changes written at once.
const CHANGES_MAX: usize = 4096;

/// Who has many changes waits while so many are to be written.
const PENDING_MAX: usize = 2 * CHANGES_MAX;

/// Files deleted under one lock.
const DELETED_AT_ONCE: usize = 32;

/// Entries read at once by who reads all.
const PAGE: usize = 256;

/// How often statistics of entries are written, and those of one at most.
const TOUCH_EVERY: Duration = Duration::from_secs(60);

/// Entries whose new statistics wait to be written; of more only the time of use in memory counts.
const TOUCHED_MAX: usize = 65_536;

/// Bodies of unknown length that are remembered as too long.
const MISFITS: usize = 1024;

/// What an open file counts at least against `memory_size` (its mapping, page tables and bookkeeping).
const OPEN_FILE_WEIGHT: u64 = 8 * 1024;

/// Broken-off downloads are kept this long.
const PARTIAL_AGE_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

#[derive(Debug, Clone)]
pub struct Options {
    pub dir: PathBuf,
    pub size: CacheSize,
    /// Bytes of small hot objects (and weight of open files) kept in memory.
    pub memory_size: u64,
    /// Most files that hot objects may hold open.
    pub open_files: u64,
    pub clock: Clock,
}

/// The store. Cheap to clone.
#[derive(Clone)]
pub struct Store(Arc<Inner>);

struct Inner {
    files: Files,
    index: Index,
    hot: quick_cache::sync::Cache<KeyHash, Arc<Hot>, Weigh>,
    touched: Mutex<HashMap<KeyHash, Arc<Entry>>>,
    /// Sending never blocks: who sends may hold a lock that the writer needs.
    changes: Mutex<Option<Sender<Change>>>,
    writer: Mutex<Option<std::thread::JoinHandle<bool>>>,
    /// Dropping the sender ends the thread.
    scrubber: Mutex<Option<(SyncSender<()>, std::thread::JoinHandle<()>)>>,
    /// Held while what look-ups see changes, so that a removal is not overtaken by what was read before it.
    order: Mutex<()>,
    /// Entries that look-ups have come to see since the start.
    revealed: AtomicU64,
    evicting: Mutex<()>,
    growing_bytes: AtomicU64,
    /// Bytes that others have under the store's folder.
    aside_bytes: AtomicU64,
    /// Downloads that left a journal.
    partials: Mutex<HashSet<KeyHash>>,
    spare: Spare,
    /// Bodies of unknown length that did not fit, and how much of them had come.
    misfits: quick_cache::sync::Cache<KeyHash, u64>,
    /// An object may be stored again while the last trace of it is being deleted.
    naming: Mutex<()>,
    /// Objects on their way to the disk. Dropping the sender ends the thread when all are there.
    published: Mutex<Option<(SyncSender<Published>, std::thread::JoinHandle<()>)>>,
    size: CacheSize,
    degraded: Mutex<Option<String>>,
    evictions: AtomicU64,
    scanning: AtomicBool,
    watcher: OnceLock<Arc<dyn Watcher>>,
    clock: Clock,
    /// Held as long as the store is open: one process a folder.
    _lock: File,
}

/// An entry with its object at hand. It lives as long as the store keeps it: a `Weak` to it tells when it is gone, replaced
/// or removed.
#[derive(Debug)]
pub struct Hot {
    pub entry: Arc<Entry>,
    pub blob: Arc<Blob>,
}

impl Hot {
    fn new(entry: Arc<Entry>, blob: Arc<Blob>) -> Arc<Self> {
        blob.names().fetch_add(1, Ordering::Relaxed);
        Arc::new(Self { entry, blob })
    }

    /// Does anybody read it? Other names of the same object are no readers.
    fn is_in_use(&self) -> bool {
        Arc::strong_count(&self.blob) > self.blob.names().load(Ordering::Relaxed)
    }
}

impl Drop for Hot {
    fn drop(&mut self) {
        self.blob.names().fetch_sub(1, Ordering::Relaxed);
    }
}

/// Weighs open files so that there are never more than may be open.
#[derive(Clone)]
struct Weigh {
    open_file: u64,
}

impl quick_cache::Weighter<KeyHash, Arc<Hot>> for Weigh {
    fn weight(&self, _: &KeyHash, hot: &Arc<Hot>) -> u64 {
        hot.blob.overhead() + if hot.blob.in_memory() { 1024 } else { self.open_file }
    }
}

/// Somebody who wants to know what the store holds, and knows what others hold. Called while locks are held: it answers at once and
/// asks nothing of the store.
pub trait Watcher: Send + Sync {
    /// Look-ups see this entry; perhaps they did before.
    fn stored(&self, entry: &Entry);
    /// They see it no more.
    fn removed(&self, key: &KeyHash);
    /// Nobody else has anything.
    fn is_alone(&self) -> bool;
    /// What others have goes before what they have not.
    fn copies(&self, key: &KeyHash) -> Copies;
    /// Has its repository a newer version in its place? Then it is the first to go.
    fn is_superseded(&self, entry: &Entry) -> bool;
}

/// For `status`.
#[derive(Debug, Clone, Serialize)]
pub struct Usage {
    pub objects: u64,
    pub bytes: u64,
    pub limit_bytes: u64,
    pub evictions: u64,
    /// Why nothing is being stored, if so.
    pub degraded: Option<String>,
}

/// What `verify` found.
#[derive(Debug, Clone, Default, Serialize)]
pub struct VerifyReport {
    pub checked: u64,
    pub bytes: u64,
    /// URLs whose objects were damaged or missing; they have been dropped.
    pub damaged: Vec<String>,
}

impl Store {
    /// Opens or makes the store. A damaged index is rebuilt behind the scenes from what lies beside the objects.
    pub fn open(options: Options) -> Result<Self, Fault> {
        let files = Files::create(&options.dir)?;
        let lock = lock(&files)?;
        let clean = std::fs::remove_file(files.path("clean")).is_ok();
        let path = files.path("index.redb");
        let had_index = path.exists();
        let mut rebuild = !had_index;
        let opened = Index::open(&path).or_else(|fault| {
            if matches!(fault.cause, Cause::DiskFull { .. }) {
                return Err(fault);
            }
            tracing::warn!(%fault, "the index cannot be read; it is rebuilt from the folder");
            rebuild = true;
            files.set_aside(&["index.redb"])?;
            Index::open(&path)
        })?;
        let (changes, queue) = channel();
        let partials = files.journals().collect();
        let open_file = (options.memory_size / options.open_files.max(1)).max(OPEN_FILE_WEIGHT);
        let store = Self(Arc::new(Inner {
            files,
            index: opened,
            hot: quick_cache::sync::Cache::with_weighter(4096, options.memory_size, Weigh { open_file }),
            touched: Mutex::default(),
            changes: Mutex::new(Some(changes)),
            writer: Mutex::default(),
            scrubber: Mutex::default(),
            order: Mutex::default(),
            revealed: AtomicU64::new(0),
            evicting: Mutex::default(),
            growing_bytes: AtomicU64::new(0),
            aside_bytes: AtomicU64::new(0),
            partials: Mutex::new(partials),
            spare: Spare::default(),
            misfits: quick_cache::sync::Cache::new(MISFITS),
            naming: Mutex::default(),
            published: Mutex::default(),
            size: options.size,
            degraded: Mutex::default(),
            evictions: AtomicU64::new(0),
            scanning: AtomicBool::new(!clean || rebuild),
            watcher: OnceLock::new(),
            clock: options.clock,
            _lock: lock,
        }));
        // Before anything is downloaded: a file of a download that has just begun looks like one of those.
        store.sweep_partials();
        store.provide_spare();
        let weak = Arc::downgrade(&store.0);
        let writer = std::thread::Builder::new()
            .name("index".into())
            .spawn(move || writer::run(&weak, &queue))
            .map_err(|e| Fault::disk("cannot start the index's thread", &e))?;
        *store.0.writer.lock().unwrap_or_else(PoisonError::into_inner) = Some(writer);
        let (published, queue) = sync_channel(durable::WAITING_MAX);
        let thread = std::thread::Builder::new()
            .name("sync".into())
            .spawn(move || durable::run(&queue))
            .map_err(|e| Fault::disk("cannot start the thread that syncs", &e))?;
        *store.published() = Some((published, thread));
        let weak = Arc::downgrade(&store.0);
        let (keep_on, stop) = sync_channel(0);
        let scrubber = std::thread::Builder::new()
            .name("scrub".into())
            .spawn(move || scrub::run(&weak, &stop))
            .map_err(|e| Fault::disk("cannot start the thread that reads everything again", &e))?;
        *store.0.scrubber.lock().unwrap_or_else(PoisonError::into_inner) = Some((keep_on, scrubber));
        Ok(store)
    }

    /// After an unclean stop or with a new index: takes in what lies in the folder, removes what nothing names. Blocks for
    /// as long as that takes; the store serves meanwhile. Does nothing after a clean stop.
    pub fn reconcile(&self) {
        if !self.0.scanning.load(Ordering::Relaxed) {
            return;
        }
        let is_needed =
            |object: &ObjectId| self.0.index.names(object) || self.0.index.pending_objects().contains(object);
        let files = &self.0.files;
        let begun = self.0.clock.now();
        let scanned = files
            .scan(|path| self.take_in(path))
            .and_then(|entries| files.remove_orphans(|| self.naming(), is_needed).map(|()| entries));
        match scanned {
            Ok(entries) => {
                let seconds = self.0.clock.now().since(begun).as_secs();
                tracing::info!("the store's folder has been read: {entries} entries in {seconds} s");
            }
            Err(error) => tracing::warn!(%error, "the store's folder cannot be read"),
        }
        self.0.scanning.store(false, Ordering::Relaxed);
    }

    /// Takes in what a scan has found, unless it is known, or has been removed while the scan went on.
    fn take_in(&self, path: &Path) {
        self.wait_for_writer();
        // It is neither just being published nor just being deleted.
        let _naming = self.naming();
        let Some(entry) = self.0.files.read_entry(path) else { return drop(std::fs::remove_file(path)) };
        let order = self.order();
        if self.0.index.is_unknown(&entry.key) {
            self.change(&order, Change::Put(Arc::new(entry)));
        }
    }

    /// From now on this one is told of all that comes and goes; of what is there already by [`Self::tell_all`].
    pub fn set_watcher(&self, watcher: Arc<dyn Watcher>) {
        let _ = self.0.watcher.set(watcher);
    }

    /// Each entry, in the order of their keys. Blocks for as long as it takes to read them.
    pub fn each(&self, each: impl FnMut(Arc<Entry>)) -> Result<(), Fault> {
        self.settle();
        self.for_all(each)
    }

    /// Tells the watcher of every entry. Blocks as [`Self::each`] does.
    pub fn tell_all(&self) -> Result<(), Fault> {
        let Some(watcher) = self.0.watcher.get() else { return Ok(()) };
        self.for_all(|entry| {
            // It may have been removed since it was read.
            let _order = self.order();
            if self.0.index.look_up(&entry.key).is_ok_and(|known| known.is_some()) {
                watcher.stored(&entry);
            }
        })
    }

    /// What look-ups see changes. For who holds the order.
    fn reveal(&self, change: &Change) {
        self.0.index.announce(change);
        if matches!(change, Change::Put(_)) {
            self.0.revealed.fetch_add(1, Ordering::Release);
        }
        let Some(watcher) = self.0.watcher.get() else { return };
        match change {
            Change::Put(entry) => watcher.stored(entry),
            Change::Remove(key) => watcher.removed(key),
            Change::Touch(_) => {}
        }
    }

    /// How many entries look-ups have come to see. As long as it stays the same, what was not there is not there, and nobody needs to go
    /// to the disk to know that.
    pub fn revealed(&self) -> u64 {
        self.0.revealed.load(Ordering::Acquire)
    }

    /// What is hot, without touching the disk.
    pub fn lookup_hot(&self, key: &KeyHash) -> Option<Arc<Hot>> {
        self.0.hot.get(key)
    }

    /// The entry of a key.
    pub async fn lookup(&self, key: KeyHash) -> Result<Option<Arc<Entry>>, Fault> {
        if let Some(hot) = self.0.hot.get(&key) {
            return Ok(Some(hot.entry.clone()));
        }
        let store = self.clone();
        let found = blocking("look up", move || store.0.index.look_up(&key)).await?;
        if let Some(entry) = &found {
            self.touch(entry, self.0.clock.now());
        }
        Ok(found)
    }

    /// Opens the object of an entry. `Corrupt` when it is missing or damaged: then the entry is gone, too.
    pub async fn open_blob(&self, entry: &Arc<Entry>) -> Result<Arc<Blob>, Fault> {
        if let Some(hot) = self.0.hot.get(&entry.key)
            && hot.entry.object == entry.object
        {
            return Ok(hot.blob.clone());
        }
        let (store, wanted) = (self.clone(), entry.clone());
        let opened = blocking("open an object", move || {
            let blob = Arc::new(Blob::open(&store.0.files, &wanted, &store.0.clock)?);
            store.keep_hot(&wanted, &blob);
            Ok(blob)
        });
        opened.await.inspect_err(|fault| self.drop_damaged(entry, fault))
    }

    /// An object turned out to be damaged: it is as if it had never been stored.
    pub fn drop_damaged(&self, entry: &Entry, fault: &Fault) {
        if matches!(fault.cause, Cause::Corrupt { .. } | Cause::Disk { .. }) {
            tracing::warn!(url = %entry.url, %fault, "dropped");
            self.remove_entry(entry);
        }
    }

    /// Upstream has confirmed an entry, as of then.
    pub fn confirm_as_of(&self, entry: &Arc<Entry>, then: Timestamp) {
        entry.confirmed_at.fetch_max(then.0, Ordering::Relaxed);
        self.note_touched(entry);
    }

    /// Upstream has confirmed an entry, perhaps with updated fields.
    pub fn confirm(&self, entry: &Arc<Entry>, head: Option<Head>) {
        let now = self.0.clock.now();
        entry.confirmed_at.store(now.0, Ordering::Relaxed);
        match head {
            Some(head) if head != entry.head => {
                let plan = Plan {
                    url: entry.url.clone(),
                    key: entry.key,
                    class: entry.class,
                    head,
                    total: Some(entry.size),
                    digest: entry.digest.clone(),
                    confirmed_at: None,
                };
                let mut updated = Entry::new(&plan, entry.object, entry.size, now);
                updated.stored_at = entry.stored_at;
                updated.uses = AtomicU64::new(entry.uses());
                let order = self.order();
                self.0.hot.remove(&entry.key);
                self.change(&order, Change::Put(Arc::new(updated)));
            }
            _ => self.note_touched(entry),
        }
    }

    /// Forgets a key, and what else names its object on account of the same URL; says whether it was there.
    pub async fn remove(&self, key: KeyHash) -> Result<bool, Fault> {
        let store = self.clone();
        blocking("remove", move || {
            let entry = store.0.index.look_up(&key)?;
            entry.iter().for_each(|entry| store.remove_entry(entry));
            Ok(entry.is_some())
        })
        .await
    }

    /// Forgets those of these keys whose entries are meant, as [`Self::remove`] does; says how many were there.
    pub async fn remove_where(
        &self,
        keys: Vec<KeyHash>,
        is_meant: impl Fn(&Entry) -> bool + Send + 'static,
    ) -> Result<u64, Fault> {
        let store = self.clone();
        blocking("remove", move || {
            let mut removed = 0;
            for key in keys {
                if let Some(entry) = store.0.index.look_up(&key)?.filter(|entry| is_meant(entry)) {
                    store.remove_entry(&entry);
                    removed += 1;
                }
            }
            Ok(removed)
        })
        .await
    }

    /// Blocks on the disk when the index is not in memory.
    fn remove_entry(&self, entry: &Entry) {
        for key in [Some(entry.key), self.twin(entry)].into_iter().flatten() {
            let order = self.order();
            self.0.hot.remove(&key);
            self.touched().remove(&key);
            self.change(&order, Change::Remove(key));
        }
    }

    /// Forgets all keys that begin with `prefix` and whose entries are meant; says how many.
    pub async fn remove_prefix(
        &self,
        prefix: String,
        is_meant: impl Fn(&Entry) -> bool + Send + 'static,
    ) -> Result<u64, Fault> {
        let store = self.clone();
        blocking("purge", move || {
            let mut removed = 0;
            let mut remove = |entry: Arc<Entry>| {
                if entry.url.as_str().starts_with(&prefix) && is_meant(&entry) {
                    store.remove_entry(&entry);
                    removed += 1;
                }
            };
            store.0.index.pending_entries().into_iter().for_each(&mut remove);
            store.for_all(remove)?;
            Ok(removed)
        })
        .await
    }

    /// Begins a download. Blocks. Makes room first; `TooLarge` or `DiskFull` when there is none.
    pub fn begin(&self, plan: Plan) -> Result<Arc<Growing>, Fault> {
        let _one_at_a_time = self.evicting();
        let least = plan.total.or_else(|| self.0.misfits.get(&plan.key)).unwrap_or(0);
        let began = self.make_room(least, Tier::LAST).and_then(|()| Growing::begin(self, plan));
        self.note(began.as_ref().err());
        began
    }

    /// Makes room for something of this key and length that a peer has, without dropping anything that only this node has; says whether
    /// there is room then. Blocks.
    pub fn has_room_for_duplicate(&self, key: &KeyHash, bytes: u64) -> bool {
        let is_duplicate = self.0.watcher.get().is_some_and(|watcher| watcher.copies(key) != Copies::Sole);
        let _one_at_a_time = self.evicting();
        !is_duplicate || self.make_room(bytes, Tier::Kept(Copies::Duplicate)).is_ok()
    }

    /// Is anything left of an earlier download of this key?
    pub fn has_partial(&self, key: &KeyHash) -> bool {
        self.partials().contains(key)
    }

    fn partials(&self) -> MutexGuard<'_, HashSet<KeyHash>> {
        self.0.partials.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is left of an earlier download of this key. Blocks.
    pub fn take_up(&self, key: KeyHash) -> Option<Arc<Growing>> {
        Growing::take_up(self, key)
    }

    /// Reads everything and drops what is damaged. `progress` gets the report so far after each object.
    pub async fn verify(&self, progress: impl Fn(&VerifyReport) + Send + 'static) -> Result<VerifyReport, Fault> {
        let store = self.clone();
        blocking("verify", move || {
            store.settle();
            let mut report = VerifyReport::default();
            store.for_all(|entry| {
                report.checked += 1;
                report.bytes += entry.size;
                let checked = Blob::open(&store.0.files, &entry, &store.0.clock).and_then(|blob| blob.check_all());
                if let Err(fault) = checked {
                    store.drop_damaged(&entry, &fault);
                    report.damaged.push(entry.url.to_string());
                }
                progress(&report);
            })?;
            Ok(report)
        })
        .await
    }

    /// Calls `each` with every entry that is on disk, but for those with a change that is not. The index is not kept from
    /// reusing the room of old pages: nothing of it is held meanwhile. Blocks.
    fn for_all(&self, mut each: impl FnMut(Arc<Entry>)) -> Result<(), Fault> {
        let mut next = Some(0u128);
        while let Some(from) = next {
            let page = self.0.index.page(KeyHash(from.to_be_bytes()), PAGE)?;
            next = page.last().and_then(|last| u128::from_be_bytes(last.key.0).checked_add(1));
            for entry in page {
                self.wait_for_writer();
                each(entry);
            }
        }
        Ok(())
    }

    pub fn usage(&self) -> Usage {
        Usage {
            objects: self.0.index.objects(),
            bytes: self.0.index.bytes() + self.0.index.pending_bytes() + self.unmovable_bytes(),
            limit_bytes: self.limit_bytes(),
            evictions: self.0.evictions.load(Ordering::Relaxed),
            degraded: self.degraded().clone(),
        }
    }

    /// Writes what is pending and marks the stop as clean. Blocks.
    pub fn close(&self) {
        if let Some((keep_on, scrubber)) = self.0.scrubber.lock().unwrap_or_else(PoisonError::into_inner).take() {
            drop(keep_on);
            let _ = scrubber.join();
        }
        if let Some((published, thread)) = self.published().take() {
            drop(published);
            let _ = thread.join();
        }
        self.spare().discard();
        drop(self.changes().take());
        let writer = self.0.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        let written = writer.is_none_or(|thread| thread.join().unwrap_or(false));
        if written && !self.0.scanning.load(Ordering::Relaxed) {
            let _ = self.0.files.write_whole(&self.0.files.path("clean"), b"");
        }
    }

    fn spare(&self) -> &Spare {
        &self.0.spare
    }

    /// The next download finds a file made. Blocks.
    fn provide_spare(&self) {
        self.0.spare.provide(&self.0.files);
    }

    fn files(&self) -> &Files {
        &self.0.files
    }

    fn clock(&self) -> &Clock {
        &self.0.clock
    }

    fn limit_bytes(&self) -> u64 {
        match self.0.size {
            CacheSize::Bytes(bytes) => bytes,
            CacheSize::Percent(percent) => {
                disk::space(self.0.files.root()).map_or(0, |space| space.total / 100 * u64::from(percent))
            }
        }
    }

    /// Held while an object gets its name, and while superfluous ones lose theirs.
    fn naming(&self) -> MutexGuard<'_, ()> {
        self.0.naming.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands over what look-ups see to be synced and entered in the index. Blocks when many wait.
    fn make_durable(&self, growing: Arc<Growing>, entry: Arc<Entry>) {
        let published = self.published().as_ref().map(|(published, _)| published.clone());
        match published {
            Some(published) => drop(published.send((growing, entry))),
            None => {
                // The store has been closed: the next start has to look for it.
                self.0.scanning.store(true, Ordering::Relaxed);
                let _ = std::fs::remove_file(self.0.files.path("clean"));
            }
        }
    }

    fn published(&self) -> MutexGuard<'_, Option<(SyncSender<Published>, std::thread::JoinHandle<()>)>> {
        self.0.published.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands an announced entry to the writer, unless it has been replaced or removed in the meantime.
    fn put_if_current(&self, entry: &Arc<Entry>) {
        let order = self.order();
        if self.0.index.is_announced(entry) {
            self.change(&order, Change::Put(entry.clone()));
        }
    }

    /// Waits until all that look-ups see is on disk. Blocks; gives up after two seconds.
    fn settle(&self) {
        for _ in 0..400 {
            if self.0.index.pending_entries().is_empty() {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Lets look-ups see an entry that is not yet in the index on disk, with its object if that is at hand.
    fn announce(&self, entry: &Arc<Entry>, blob: Option<Blob>) {
        let _order = self.order();
        self.reveal(&Change::Put(entry.clone()));
        match blob {
            Some(blob) => self.0.hot.insert(entry.key, Hot::new(entry.clone(), Arc::new(blob))),
            None => drop(self.0.hot.remove(&entry.key)),
        }
    }

    /// So many bytes that others have under the store's folder count as used.
    pub fn set_aside(&self, bytes: u64) {
        self.0.aside_bytes.store(bytes, Ordering::Relaxed);
    }

    /// What is used by other things than objects.
    fn unmovable_bytes(&self) -> u64 {
        self.0.growing_bytes.load(Ordering::Relaxed) + self.0.aside_bytes.load(Ordering::Relaxed)
    }

    fn grow(&self, by: u64) {
        self.0.growing_bytes.fetch_add(by, Ordering::Relaxed);
    }

    /// The content of this key, of unknown length, needs so much room at least.
    fn remember_misfit(&self, key: KeyHash, least: u64) {
        self.0.misfits.insert(key, least);
    }

    fn shrink(&self, by: u64) {
        self.0.growing_bytes.fetch_sub(by, Ordering::Relaxed);
    }

    /// Keeps an opened object at hand, unless its entry has been replaced or removed in the meantime. Blocks.
    fn keep_hot(&self, entry: &Arc<Entry>, blob: &Arc<Blob>) {
        let _order = self.order();
        let known = self.0.index.look_up(&entry.key);
        if matches!(known, Ok(Some(known)) if known.object == entry.object && known.head == entry.head) {
            self.0.hot.insert(entry.key, Hot::new(entry.clone(), blob.clone()));
        }
    }

    fn order(&self) -> MutexGuard<'_, ()> {
        self.0.order.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An entry has been asked for.
    pub fn touch(&self, entry: &Arc<Entry>, now: Timestamp) {
        let written = entry.used_at();
        entry.touch(now);
        if now.since(written) > TOUCH_EVERY {
            self.note_touched(entry);
        }
    }

    fn note_touched(&self, entry: &Arc<Entry>) {
        let mut touched = self.touched();
        if touched.len() < TOUCHED_MAX {
            touched.insert(entry.key, entry.clone());
        }
    }

    /// Makes a change visible and hands it to the writer.
    fn change(&self, _order: &MutexGuard<'_, ()>, change: Change) {
        self.reveal(&change);
        if let Some(changes) = &*self.changes() {
            let _ = changes.send(change);
        }
    }

    /// For who makes many changes: waits until the writer has caught up, or is gone. Blocks; with a lock held that the
    /// writer needs it would be for ever.
    fn wait_for_writer(&self) {
        while self.0.index.pending_len() >= PENDING_MAX && self.changes().is_some() {
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Changes that could not be written for long are forgotten: what they are about is found by a scan after the next start.
    fn give_up(&self, changes: &[Change]) {
        self.0.scanning.store(true, Ordering::Relaxed);
        self.0.index.forget_pending(changes);
    }

    fn changes(&self) -> MutexGuard<'_, Option<Sender<Change>>> {
        self.0.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sweep_partials(&self) {
        let Ok(folder) = std::fs::read_dir(self.0.files.path("partial")) else { return };
        for file in folder.flatten() {
            let path = file.path();
            let old = file
                .metadata()
                .and_then(|meta| meta.modified())
                .is_ok_and(|m| m.elapsed().is_ok_and(|age| age > PARTIAL_AGE_MAX));
            let alone = path.extension().is_none() && !path.with_extension("journal").exists();
            let torn = path.extension().is_some_and(|extension| extension == files::NEW);
            if old || alone || torn {
                let _ = std::fs::remove_file(&path);
            }
        }
    }

    fn touched(&self) -> MutexGuard<'_, HashMap<KeyHash, Arc<Entry>>> {
        self.0.touched.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Writes changes to the index and deletes what they make superfluous. Until that is done a removal stays announced: a
    /// scan that finds the files leaves them alone.
    fn commit(&self, batch: &[Change]) -> Result<(), Fault> {
        self.delete(&self.index.commit(batch)?);
        self.index.forget_pending(batch);
        Ok(())
    }

    /// What has come back meanwhile stays. The lock is held for a few files at a time: who publishes an object waits for it,
    /// and deleting may take a disk long.
    fn delete(&self, superfluous: &Superfluous) {
        for entries in superfluous.entries.chunks(DELETED_AT_ONCE) {
            let _naming = self.naming.lock().unwrap_or_else(PoisonError::into_inner);
            for (object, key) in entries {
                if self.index.look_up(key).is_ok_and(|known| known.is_none_or(|known| known.object != *object)) {
                    let _ = std::fs::remove_file(self.files.entry(object, key));
                }
            }
        }
        for objects in superfluous.objects.chunks(DELETED_AT_ONCE) {
            let _naming = self.naming.lock().unwrap_or_else(PoisonError::into_inner);
            let pending = self.index.pending_objects();
            for object in objects.iter().filter(|object| !pending.contains(*object) && !self.index.names(object)) {
                let _ = std::fs::remove_file(self.files.object(object));
                let _ = std::fs::remove_file(self.files.values(object));
            }
        }
    }
}

fn lock(files: &Files) -> Result<File, Fault> {
    let path = files.path("lock");
    let file = File::create(&path).map_err(|e| Fault::disk(path.display(), &e))?;
    rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).map_err(|_| {
        let folder = files.root().display();
        Fault::internal(format!(
            "another imirror uses the cache folder {folder}: stop it, or give this one another `cache_dir`"
        ))
    })?;
    Ok(file)
}

async fn blocking<T: Send + 'static>(
    name: &'static str,
    work: impl FnOnce() -> Result<T, Fault> + Send + 'static,
) -> Result<T, Fault> {
    tasks::blocking(name, work).await.unwrap_or_else(|panic| Err(Fault::internal(panic.to_string())))
}

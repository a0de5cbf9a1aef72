//! The index: key → entry, on disk, written by one thread in batches. It can be lost: beside each object lie copies of
//! its entries, from which it is rebuilt.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use redb::{Database, ReadTransaction, ReadableDatabase, ReadableTable, TableDefinition};

use super::ObjectId;
use super::object::{Entry, EntryOnDisk};
use crate::classify::KeyHash;
use crate::fault::{Cause, Fault};

const ENTRIES: TableDefinition<'_, &[u8; 16], &[u8]> = TableDefinition::new("entries.1");
/// Object → how many keys name it, and its length.
const OBJECTS: TableDefinition<'_, &[u8; 32], (u32, u64)> = TableDefinition::new("objects.1");
/// Number of objects, bytes of objects.
const TOTALS: TableDefinition<'_, &str, u64> = TableDefinition::new("totals.1");

/// redb's own page cache; its default of 1 GiB is not for us.
const CACHE_BYTES: usize = 16 * 1024 * 1024;

/// A change of the index.
#[derive(Debug, Clone)]
pub(super) enum Change {
    Put(Arc<Entry>),
    /// Only the times and the number of uses, if the key still names the same object.
    Touch(Arc<Entry>),
    Remove(KeyHash),
}

impl Change {
    fn key(&self) -> KeyHash {
        match self {
            Self::Put(entry) | Self::Touch(entry) => entry.key,
            Self::Remove(key) => *key,
        }
    }
}

/// What a batch of changes has made superfluous.
#[derive(Debug, Default)]
pub(super) struct Superfluous {
    /// Copies of entries: object and key.
    pub(super) entries: Vec<(ObjectId, KeyHash)>,
    /// Objects that no key names any more.
    pub(super) objects: Vec<ObjectId>,
}

#[derive(Debug)]
pub(super) struct Index {
    path: PathBuf,
    /// redb refuses everything after a failed write, until it is opened anew: `None` when that failed, too.
    db: RwLock<Option<Database>>,
    /// One batch at a time: the sums below belong to the last one.
    committing: Mutex<()>,
    /// Changes that are not on disk yet; look-ups see them.
    pending: Mutex<HashMap<KeyHash, Option<Arc<Entry>>>>,
    objects: AtomicU64,
    bytes: AtomicU64,
}

fn fault(error: impl Into<redb::Error>) -> Fault {
    match error.into() {
        redb::Error::Io(error) => Fault::disk("the index", &error),
        other => Fault::new(Cause::Disk { detail: format!("the index: {other}").into() }),
    }
}

impl Index {
    pub(super) fn open(path: &Path) -> Result<Self, Fault> {
        let db = open_database(path)?;
        let read = db.begin_read().map_err(fault)?;
        // An existing one is only read: it can be opened where the disk is full.
        let (objects, bytes) = match read.open_table(TOTALS) {
            Ok(totals) => {
                let total = |name| Ok::<_, Fault>(totals.get(name).map_err(fault)?.map_or(0, |v| v.value()));
                (total("objects")?, total("bytes")?)
            }
            Err(redb::TableError::TableDoesNotExist(_)) => {
                let write = db.begin_write().map_err(fault)?;
                write.open_table(ENTRIES).map_err(fault)?;
                write.open_table(OBJECTS).map_err(fault)?;
                write.open_table(TOTALS).map_err(fault)?;
                write.commit().map_err(fault)?;
                (0, 0)
            }
            Err(error) => return Err(fault(error)),
        };
        drop(read);
        Ok(Self {
            path: path.to_owned(),
            db: RwLock::new(Some(db)),
            committing: Mutex::default(),
            pending: Mutex::default(),
            objects: objects.into(),
            bytes: bytes.into(),
        })
    }

    fn with_db<T>(&self, work: impl FnOnce(&Database) -> Result<T, Fault>) -> Result<T, Fault> {
        let db = self.db.read().unwrap_or_else(PoisonError::into_inner);
        work(db.as_ref().ok_or_else(|| Fault::new(Cause::Disk { detail: "the index is not open".into() }))?)
    }

    /// After a failed write: closes the file and opens it again. When somebody is reading, the next failure does it: nobody
    /// waits for the lock to write, so a thread may hold it twice for reading.
    fn open_anew(&self) {
        let Ok(mut db) = self.db.try_write() else { return };
        // Its lock on the file has to go first.
        drop(db.take());
        match open_database(&self.path) {
            Ok(opened) => *db = Some(opened),
            Err(fault) => tracing::warn!(%fault, "the index cannot be opened again yet"),
        }
    }

    pub(super) fn objects(&self) -> u64 {
        self.objects.load(Ordering::Relaxed)
    }

    /// Bytes of all objects.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Makes a change visible to look-ups at once.
    pub(super) fn announce(&self, change: &Change) {
        let entry = match change {
            Change::Put(entry) => Some(entry.clone()),
            Change::Touch(_) => return,
            Change::Remove(_) => None,
        };
        self.pending().insert(change.key(), entry);
    }

    /// Is this still what look-ups see before it is written?
    pub(super) fn is_announced(&self, entry: &Arc<Entry>) -> bool {
        matches!(self.pending().get(&entry.key), Some(Some(known)) if Arc::ptr_eq(known, entry))
    }

    /// Nothing is known of the key, not even that it was removed a moment ago.
    pub(super) fn is_unknown(&self, key: &KeyHash) -> bool {
        !self.pending().contains_key(key) && matches!(self.look_up(key), Ok(None))
    }

    /// The entries that are not on disk yet.
    pub(super) fn pending_entries(&self) -> Vec<Arc<Entry>> {
        self.pending().values().flatten().cloned().collect()
    }

    /// The objects that entries not yet on disk name.
    pub(super) fn pending_objects(&self) -> HashSet<ObjectId> {
        self.pending().values().flatten().map(|entry| entry.object).collect()
    }

    /// Number of changes that are not on disk yet.
    pub(super) fn pending_len(&self) -> usize {
        self.pending().len()
    }

    /// Bytes of the objects that [`Self::bytes`] does not count yet, each once whatever its names. To be read after that: what is being
    /// written meanwhile is then in one of the two at most.
    pub(super) fn pending_bytes(&self) -> u64 {
        let pending = self.pending();
        let mut objects: HashMap<ObjectId, u64> = pending.values().flatten().map(|it| (it.object, it.size)).collect();
        drop(pending);
        if objects.is_empty() {
            return 0;
        }
        // A further name of what is on disk is no further object.
        let known = self.read(|read| {
            let on_disk = read.open_table(OBJECTS).map_err(fault)?;
            objects.retain(|object, _| !matches!(on_disk.get(&object.0), Ok(Some(_))));
            Ok(objects.values().sum())
        });
        known.unwrap_or_default()
    }

    /// The entry of a key. Blocks on the disk when it is not in redb's cache.
    pub(super) fn look_up(&self, key: &KeyHash) -> Result<Option<Arc<Entry>>, Fault> {
        if let Some(pending) = self.pending().get(key) {
            return Ok(pending.clone());
        }
        self.read(|read| {
            let entries = read.open_table(ENTRIES).map_err(fault)?;
            let bytes = entries.get(&key.0).map_err(fault)?;
            Ok(bytes.and_then(|bytes| decode(bytes.value())).map(Arc::new))
        })
    }

    /// Calls `each` for entries in the order of their hashes from `from` on, and from the beginning after the last one,
    /// until it says stop or all have been seen.
    pub(super) fn walk(&self, from: KeyHash, mut each: impl FnMut(Arc<Entry>) -> bool) -> Result<(), Fault> {
        self.read(|read| {
            let entries = read.open_table(ENTRIES).map_err(fault)?;
            let tail = entries.range::<&[u8; 16]>(&from.0..).map_err(fault)?;
            let head = entries.range::<&[u8; 16]>(..&from.0).map_err(fault)?;
            for item in tail.chain(head) {
                let (key, value) = item.map_err(fault)?;
                if self.pending().contains_key(&KeyHash(*key.value())) {
                    continue;
                }
                if let Some(entry) = decode(value.value())
                    && !each(Arc::new(entry))
                {
                    break;
                }
            }
            Ok(())
        })
    }

    /// The first entries in the order of their hashes from `from` on, at most so many.
    pub(super) fn page(&self, from: KeyHash, most: usize) -> Result<Vec<Arc<Entry>>, Fault> {
        let mut page = Vec::with_capacity(most);
        self.walk(from, |entry| {
            // Past the last one it would begin again.
            let is_ahead = entry.key.0 >= from.0;
            if is_ahead {
                page.push(entry);
            }
            is_ahead && page.len() < most
        })?;
        Ok(page)
    }

    fn read<T>(&self, work: impl FnOnce(&ReadTransaction) -> Result<T, Fault>) -> Result<T, Fault> {
        self.with_db(|db| work(&db.begin_read().map_err(fault)?))
    }

    /// Writes a batch, durably, and says what nobody needs any more.
    pub(super) fn commit(&self, batch: &[Change]) -> Result<Superfluous, Fault> {
        let _one_at_a_time = self.committing.lock().unwrap_or_else(PoisonError::into_inner);
        self.with_db(|db| self.commit_to(db, batch)).inspect_err(|_| self.open_anew())
    }

    fn commit_to(&self, db: &Database, batch: &[Change]) -> Result<Superfluous, Fault> {
        let mut superfluous = Superfluous::default();
        let mut write = db.begin_write().map_err(fault)?;
        write.set_quick_repair(true);
        let (mut count, mut bytes) = (self.objects(), self.bytes());
        {
            let mut entries = write.open_table(ENTRIES).map_err(fault)?;
            let mut objects = write.open_table(OBJECTS).map_err(fault)?;
            for change in batch {
                let key = change.key();
                let old = match change {
                    Change::Touch(entry) => {
                        let known = entries.get(&key.0).map_err(fault)?.and_then(|v| decode(v.value()));
                        if let Some(known) = known.filter(|known| known.object == entry.object) {
                            known.touched_as(entry);
                            entries.insert(&key.0, &encode(&known)?[..]).map_err(fault)?;
                        }
                        continue;
                    }
                    Change::Put(entry) => {
                        let value = encode(entry)?;
                        let old = entries.insert(&key.0, &value[..]).map_err(fault)?.and_then(|v| decode(v.value()));
                        let named = objects.get(&entry.object.0).map_err(fault)?.map(|v| v.value().0);
                        if named.is_none() {
                            (count, bytes) = (count + 1, bytes + entry.size);
                        }
                        objects.insert(&entry.object.0, (named.unwrap_or(0) + 1, entry.size)).map_err(fault)?;
                        old
                    }
                    Change::Remove(_) => entries.remove(&key.0).map_err(fault)?.and_then(|v| decode(v.value())),
                };
                let Some(old) = old else { continue };
                let same_object = matches!(change, Change::Put(entry) if entry.object == old.object);
                if !same_object {
                    superfluous.entries.push((old.object, key));
                }
                let named = objects.get(&old.object.0).map_err(fault)?.map_or(0, |v| v.value().0);
                if named <= 1 {
                    objects.remove(&old.object.0).map_err(fault)?;
                    (count, bytes) = (count.saturating_sub(1), bytes.saturating_sub(old.size));
                    superfluous.objects.push(old.object);
                } else {
                    objects.insert(&old.object.0, (named - 1, old.size)).map_err(fault)?;
                }
            }
            let mut totals = write.open_table(TOTALS).map_err(fault)?;
            totals.insert("objects", count).map_err(fault)?;
            totals.insert("bytes", bytes).map_err(fault)?;
        }
        write.commit().map_err(fault)?;
        self.objects.store(count, Ordering::Relaxed);
        self.bytes.store(bytes, Ordering::Relaxed);
        // What a later change of the same batch has brought back is needed.
        let again = |object: &ObjectId| batch.iter().any(|c| matches!(c, Change::Put(e) if e.object == *object));
        superfluous.objects.retain(|object| !again(object) || !self.names(object));
        Ok(superfluous)
    }

    /// Drops the batch's changes from the pending ones, unless newer ones have come meanwhile.
    pub(super) fn forget_pending(&self, batch: &[Change]) {
        let mut pending = self.pending();
        for change in batch {
            let done = match (change, pending.get(&change.key())) {
                (Change::Put(entry), Some(Some(newest))) => Arc::ptr_eq(entry, newest),
                (Change::Remove(_), Some(None)) => true,
                _ => false,
            };
            if done {
                pending.remove(&change.key());
            }
        }
    }

    /// Does any key on disk name it?
    pub(super) fn names(&self, object: &ObjectId) -> bool {
        let named = self.read(|read| {
            let objects = read.open_table(OBJECTS).map_err(fault)?;
            Ok(objects.get(&object.0).map_err(fault)?.map(|v| v.value().0))
        });
        matches!(named, Ok(Some(count)) if count > 0)
    }

    fn pending(&self) -> MutexGuard<'_, HashMap<KeyHash, Option<Arc<Entry>>>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn open_database(path: &Path) -> Result<Database, Fault> {
    Database::builder().set_cache_size(CACHE_BYTES).create(path).map_err(fault)
}

fn encode(entry: &Entry) -> Result<Vec<u8>, Fault> {
    postcard::to_allocvec(&EntryOnDisk::from(entry))
        .map_err(|e| Fault::internal(format!("an entry cannot be encoded: {e}")))
}

fn decode(bytes: &[u8]) -> Option<Entry> {
    postcard::from_bytes::<EntryOnDisk>(bytes).ok()?.into_entry()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::classify::{Class, Url};
    use crate::os::clock::Timestamp;
    use crate::store::object::{Head, Plan};

    fn entry(url: &str, object: u8, size: u64) -> Arc<Entry> {
        let url = Url::parse(url).unwrap();
        let head = Head { status: http::StatusCode::OK, fields: http::HeaderMap::new() };
        let key = url.key_hash();
        let plan = Plan { url, key, class: Class::Package, head, total: Some(size), digest: None, confirmed_at: None };
        Arc::new(Entry::new(&plan, ObjectId([object; 32]), size, Timestamp(1)))
    }

    #[test]
    fn objects_are_counted_once_and_go_with_their_last_key() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("index.redb");
        let index = Index::open(&path).unwrap();
        let (a, b) = (entry("http://example.org/a", 1, 10), entry("http://example.org/b", 1, 10));
        let batch = [Change::Put(a.clone()), Change::Put(b.clone())];
        assert!(index.commit(&batch).unwrap().objects.is_empty());
        assert_eq!((index.objects(), index.bytes()), (1, 10));
        // A new version under the first key: the object is still named by the second.
        let newer = entry("http://example.org/a", 2, 7);
        let left = index.commit(&[Change::Put(newer.clone())]).unwrap();
        assert_eq!((left.entries, left.objects.len()), (vec![(a.object, a.key)], 0));
        assert_eq!((index.objects(), index.bytes()), (2, 17));
        assert_eq!(index.commit(&[Change::Remove(b.key)]).unwrap().objects, vec![b.object]);
        // Confirmed again with the same object: nothing is superfluous.
        let left = index.commit(&[Change::Put(newer.clone())]).unwrap();
        assert_eq!((left.entries.len(), left.objects.len(), index.objects()), (0, 0, 1));
        drop(index);
        let index = Index::open(&path).unwrap();
        assert_eq!((index.objects(), index.bytes()), (1, 7));
        assert_eq!(index.look_up(&a.key).unwrap().unwrap().object, newer.object);
        assert!(index.look_up(&b.key).unwrap().is_none());
    }

    #[test]
    fn the_sums_hold_whoever_commits() {
        let dir = tempfile::tempdir().unwrap();
        let index = Index::open(&dir.path().join("index.redb")).unwrap();
        std::thread::scope(|scope| {
            for thread in 0..4u8 {
                let index = &index;
                scope.spawn(move || {
                    for round in 0..10u8 {
                        let url = format!("http://example.org/{thread}/{round}");
                        let entry = entry(&url, thread * 10 + round, 10);
                        index.commit(&[Change::Put(entry.clone())]).unwrap();
                        if round % 2 == 0 {
                            index.commit(&[Change::Remove(entry.key)]).unwrap();
                        }
                    }
                });
            }
        });
        assert_eq!((index.objects(), index.bytes()), (20, 200));
    }

    #[test]
    fn announced_changes_are_seen_before_they_are_written() {
        let dir = tempfile::tempdir().unwrap();
        let index = Index::open(&dir.path().join("index.redb")).unwrap();
        let a = entry("http://example.org/a", 1, 10);
        index.announce(&Change::Put(a.clone()));
        let mirror = entry("http://example.net/a", 1, 10);
        index.announce(&Change::Put(mirror.clone()));
        assert_eq!((index.bytes(), index.pending_bytes()), (0, 10), "one object with two names");
        index.commit(&[Change::Put(mirror.clone())]).unwrap();
        assert_eq!((index.bytes(), index.pending_bytes()), (10, 0), "the other name is no other object");
        index.commit(&[Change::Remove(mirror.key)]).unwrap();
        index.forget_pending(&[Change::Put(mirror)]);
        assert_eq!((index.bytes(), index.pending_bytes()), (0, 10));
        assert!(index.look_up(&a.key).unwrap().is_some());
        index.commit(&[Change::Put(a.clone())]).unwrap();
        index.announce(&Change::Remove(a.key));
        index.forget_pending(&[Change::Put(a.clone())]);
        assert!(index.look_up(&a.key).unwrap().is_none() && !index.is_unknown(&a.key));
        index.commit(&[Change::Remove(a.key)]).unwrap();
        assert!(!index.is_unknown(&a.key));
        index.forget_pending(&[Change::Remove(a.key)]);
        assert!(index.pending().is_empty() && index.is_unknown(&a.key));
        assert_eq!(index.objects(), 0);
    }
}

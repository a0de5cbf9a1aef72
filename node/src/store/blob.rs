//! An open stored object. Its bytes are handed out only after they have been checked against its name: once after each
//! start, again when they come from the disk a day or more after that, and never when the file is not the one that was checked.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use blake3::hazmat::ChainingValue;
use bytes::Bytes;
use rustix::io::Errno;

use super::files::{self, Files};
use super::groups::{self, GROUP};
use super::object::{Entry, ObjectId};
use super::ranges::Ranges;
use crate::fault::{Cause, Fault};
use crate::os::clock::{Clock, Timestamp};
use crate::os::mapping::Mapping;
use crate::os::tasks;

/// Objects up to this size are kept in memory while they are hot; for larger ones `sendfile` costs less than a copy.
const IN_MEMORY_MAX: u64 = 8 * 1024;

/// After this long the file is looked at again before its bytes go out (it may have been cut, or left the page cache).
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// What has been read from the disk and checked may be read from it again for so long without being checked anew. Nothing less
/// than the hash tells that a disk has returned other bytes than it got, and the hash costs three times what sending them does.
const TRUST: Duration = Duration::from_secs(24 * 60 * 60);

/// Of longer ranges every one is looked for in the page cache.
const SMALL: u64 = 64 * 1024;

/// Most bytes checked by one call.
const CHECK_MAX: u64 = 4 * 1024 * 1024;

/// See the module head.
#[derive(Debug)]
pub struct Blob {
    object: ObjectId,
    len: u64,
    /// Until then all of a small file is at hand and need not be looked for, in milliseconds since 1970.
    at_hand_until: AtomicU64,
    /// Of a file; here as well as in `content`, so that most answers need to look at nothing else.
    mapping: Option<Arc<Mapping>>,
    /// Hot entries that have it.
    names: AtomicUsize,
    content: Content,
    clock: Clock,
}

/// Where bytes lie that are at hand: the whole object.
#[derive(Debug, Clone, Copy)]
pub enum Ready<'a> {
    Memory(&'a Bytes),
    File(&'a Arc<Mapping>),
}

#[derive(Debug)]
enum Content {
    Memory(Bytes),
    File(Box<Mapped>),
}

#[derive(Debug)]
struct Mapped {
    mapping: Arc<Mapping>,
    stamp: Stamp,
    /// Groups' chaining values; empty for an object of one group.
    values: Vec<ChainingValue>,
    read: Mutex<Read>,
    /// All of it has been checked, as it was written or as it was read.
    all_checked: AtomicBool,
    looked_at: AtomicU64,
    damaged: AtomicBool,
}

/// What has been read from the file and checked.
#[derive(Debug, Default)]
struct Read {
    ranges: Ranges,
    /// When the first of it was.
    since: Timestamp,
}

/// What tells that a file is still the one that was checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    size: u64,
    modified: (i64, i64),
}

impl Stamp {
    fn of(file: &File) -> std::io::Result<Self> {
        let meta = file.metadata()?;
        Ok(Self { size: meta.size(), modified: (meta.mtime(), meta.mtime_nsec()) })
    }
}

impl Blob {
    /// How many hot entries have it.
    pub(super) fn names(&self) -> &AtomicUsize {
        &self.names
    }

    /// Opens the object of an entry. Blocks.
    pub(super) fn open(files: &Files, entry: &Entry, clock: &Clock) -> Result<Self, Fault> {
        let path = files.object(&entry.object);
        let corrupt = || Fault::new(Cause::Corrupt { object: entry.object.to_string().into() });
        let file = files::open_plain(&path).map_err(|e| match Errno::from_io_error(&e) {
            // The object is not to blame.
            Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM) => Fault::internal(format!("opening an object: {e}")),
            _ => corrupt(),
        })?;
        let stamp = Stamp::of(&file).map_err(|e| Fault::disk(path.display(), &e))?;
        if stamp.size != entry.size {
            return Err(corrupt());
        }
        let content = if entry.size <= IN_MEMORY_MAX {
            let mut bytes = vec![0; usize::try_from(entry.size).unwrap_or(0)];
            file.read_exact_at(&mut bytes, 0).map_err(|e| Fault::disk(path.display(), &e))?;
            if blake3::hash(&bytes).as_bytes() != &entry.object.0 {
                return Err(corrupt());
            }
            Content::Memory(bytes.into())
        } else {
            let values = load_values(files, entry, &file).ok_or_else(corrupt)?;
            let mapping = Mapping::new(file, entry.size).map_err(|e| Fault::disk(path.display(), &e))?;
            Content::File(Box::new(Mapped::new(mapping, stamp, values)))
        };
        Ok(Self::of(entry.object, entry.size, content, clock))
    }

    /// An object that has just been written and hashed.
    pub(super) fn fresh(
        object: ObjectId,
        mapping: &Arc<Mapping>,
        values: Vec<ChainingValue>,
        clock: &Clock,
    ) -> Option<Self> {
        let len = mapping.len();
        let content = if len <= IN_MEMORY_MAX {
            let mut bytes = vec![0; usize::try_from(len).ok()?];
            mapping.file().read_exact_at(&mut bytes, 0).ok()?;
            (blake3::hash(&bytes).as_bytes() == &object.0).then_some(Content::Memory(bytes.into()))?
        } else {
            let mapped = Mapped::new(mapping.clone(), Stamp::of(mapping.file()).ok()?, values);
            mapped.all_checked.store(true, Ordering::Release);
            mapped.looked_at.store(clock.now().0, Ordering::Relaxed);
            Content::File(Box::new(mapped))
        };
        Some(Self::of(object, len, content, clock))
    }

    fn of(object: ObjectId, len: u64, content: Content, clock: &Clock) -> Self {
        let mapping = match &content {
            Content::Memory(_) => None,
            Content::File(mapped) => Some(mapped.mapping.clone()),
        };
        let (at_hand_until, names) = (AtomicU64::new(0), AtomicUsize::new(0));
        Self { object, len, at_hand_until, mapping, names, content, clock: clock.clone() }
    }

    pub fn len(&self) -> u64 {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn in_memory(&self) -> bool {
        matches!(self.content, Content::Memory(_))
    }

    /// The list of its groups' chaining values, one after the other, as a [`super::GroupList`] takes it; empty for one group
    /// or less.
    pub fn list(&self) -> &[u8] {
        match &self.content {
            Content::File(mapped) if self.len > GROUP => mapped.values.as_flattened(),
            _ => &[],
        }
    }

    /// The mapping that bytes of this object may be slices of.
    pub fn mapping(&self) -> Option<&Arc<Mapping>> {
        self.mapping.as_ref()
    }

    /// Bytes of memory that it takes to keep this at hand, roughly.
    pub(super) fn overhead(&self) -> u64 {
        match &self.content {
            Content::Memory(bytes) => bytes.len() as u64,
            Content::File(mapped) => (mapped.values.len() * size_of::<ChainingValue>()) as u64,
        }
    }

    /// The bytes, if they have been checked and lie at hand. Never waits for a disk.
    pub fn ready(&self, range: Range<u64>, now: Timestamp) -> Option<Bytes> {
        match self.ready_in(&range, now)? {
            Ready::Memory(bytes) => Some(bytes.slice(to_usize(&range)?)),
            Ready::File(mapping) => Some(mapping.bytes(range)),
        }
    }

    /// Where the bytes lie, if they have been checked and lie at hand. Never waits for a disk.
    pub fn ready_in(&self, range: &Range<u64>, now: Timestamp) -> Option<Ready<'_>> {
        // Most answers come this far, and look at no more than this of the object.
        if let Some(mapping) = &self.mapping
            && now.0 < self.at_hand_until.load(Ordering::Relaxed)
        {
            return Some(Ready::File(mapping));
        }
        match &self.content {
            Content::Memory(bytes) => Some(Ready::Memory(bytes)),
            Content::File(mapped) => {
                let looked_at = mapped.is_ready(range, now)?;
                if *range == (0..self.len) && self.len <= SMALL {
                    self.at_hand_until.store((looked_at + LOOK_AGAIN).0, Ordering::Relaxed);
                }
                Some(Ready::File(&mapped.mapping))
            }
        }
    }

    /// The first bytes of the range (at most 4 MiB), checked. The fault `Corrupt` means that the object is of no use.
    pub async fn bytes(self: &Arc<Self>, range: Range<u64>) -> Result<Bytes, Fault> {
        if let Some(bytes) = self.ready(range.clone(), self.clock.now()) {
            return Ok(bytes);
        }
        let blob = self.clone();
        let checked = tasks::blocking("check an object", move || blob.check(range)).await;
        checked.unwrap_or_else(|panic| Err(Fault::internal(panic.to_string())))
    }

    /// Reads the range, and compares it unless that has been done not long ago. Blocks.
    pub(super) fn check(&self, range: Range<u64>) -> Result<Bytes, Fault> {
        let Content::File(mapped) = &self.content else {
            return self.ready(range, self.clock.now()).ok_or_else(|| Fault::internal("a range outside of its object"));
        };
        let range = range.start..range.end.min(range.start + CHECK_MAX).min(self.len);
        let now = self.clock.now();
        if mapped.is_ready(&range, now).is_some() || mapped.read_again(&range, now) {
            return Ok(mapped.mapping.bytes(range));
        }
        self.check_anew(mapped, range)
    }

    fn check_anew(&self, mapped: &Mapped, range: Range<u64>) -> Result<Bytes, Fault> {
        let corrupt = |_| {
            mapped.damaged.store(true, Ordering::Relaxed);
            self.at_hand_until.store(0, Ordering::Relaxed);
            Fault::new(Cause::Corrupt { object: self.object.to_string().into() })
        };
        if mapped.damaged.load(Ordering::Relaxed) {
            return Err(corrupt(()));
        }
        if Stamp::of(mapped.mapping.file()).map_err(|_| corrupt(()))? != mapped.stamp {
            return Err(corrupt(()));
        }
        let mut buffer = Vec::new();
        for index in range.start / GROUP..range.end.div_ceil(GROUP) {
            let group = index * GROUP..((index + 1) * GROUP).min(self.len);
            buffer.resize(usize::try_from(group.end - group.start).unwrap_or(0), 0);
            mapped.mapping.file().read_exact_at(&mut buffer, group.start).map_err(|_| corrupt(()))?;
            let value = usize::try_from(index).ok().and_then(|i| mapped.values.get(i));
            if value != Some(&groups::chaining_value(index, &buffer)) {
                return Err(corrupt(()));
            }
            mapped.mark(group, self.clock.now());
        }
        mapped.looked_at.store(self.clock.now().0, Ordering::Relaxed);
        Ok(mapped.mapping.bytes(range))
    }

    /// Reads it from the start, checked. Each read may block.
    pub fn reader(self: Arc<Self>) -> impl std::io::Read {
        BlobReader { blob: self, at: 0 }
    }

    /// Checks everything anew, whatever has been checked before. Blocks.
    pub(super) fn check_all(&self) -> Result<(), Fault> {
        let Content::File(mapped) = &self.content else { return Ok(()) };
        let mut at = 0;
        while at < self.len {
            let end = (at + CHECK_MAX).min(self.len);
            self.check_anew(mapped, at..end)?;
            at = end;
        }
        Ok(())
    }
}

impl Mapped {
    fn new(mapping: Arc<Mapping>, stamp: Stamp, values: Vec<ChainingValue>) -> Self {
        Self {
            mapping,
            stamp,
            values,
            read: Mutex::default(),
            all_checked: AtomicBool::new(false),
            looked_at: AtomicU64::new(0),
            damaged: AtomicBool::new(false),
        }
    }

    /// Checked, still the file that was checked, and in the page cache: since when that is known. Takes a microsecond; a disk is not
    /// touched.
    fn is_ready(&self, range: &Range<u64>, now: Timestamp) -> Option<Timestamp> {
        if self.damaged.load(Ordering::Relaxed) || !self.has_checked(range) {
            return None;
        }
        let looked_at = Timestamp(self.looked_at.load(Ordering::Relaxed));
        let recent = now.since(looked_at) < LOOK_AGAIN;
        if recent && self.len() <= SMALL {
            return Some(looked_at);
        }
        let same = recent || Stamp::of(self.mapping.file()).is_ok_and(|stamp| stamp == self.stamp);
        let ready = same && self.mapping.is_resident(range.clone());
        if ready {
            self.looked_at.store(now.0, Ordering::Relaxed);
        }
        ready.then_some(now)
    }

    fn len(&self) -> u64 {
        self.mapping.len()
    }

    fn has_checked(&self, range: &Range<u64>) -> bool {
        self.all_checked.load(Ordering::Acquire) || self.read().ranges.missing(range.clone()).is_none()
    }

    fn read(&self) -> MutexGuard<'_, Read> {
        self.read.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn mark(&self, group: Range<u64>, now: Timestamp) {
        let mut read = self.read();
        if read.ranges.bytes() == 0 {
            read.since = now;
        }
        read.ranges.insert(group);
        if read.ranges.missing(0..self.len()).is_none() {
            self.all_checked.store(true, Ordering::Release);
        }
    }

    /// Brings the range back into the page cache, if it has been checked as it came from the file lately. Blocks.
    fn read_again(&self, range: &Range<u64>, now: Timestamp) -> bool {
        if self.damaged.load(Ordering::Relaxed) || !self.was_checked_lately(range, now) {
            return false;
        }
        let same = Stamp::of(self.mapping.file()).is_ok_and(|stamp| stamp == self.stamp);
        same && self.mapping.read_in(range.clone()).is_ok()
    }

    fn was_checked_lately(&self, range: &Range<u64>, now: Timestamp) -> bool {
        let mut read = self.read();
        if now.since(read.since) >= TRUST && read.ranges.bytes() > 0 {
            read.ranges = Ranges::default();
            self.all_checked.store(false, Ordering::Release);
        }
        read.ranges.missing(range.clone()).is_none()
    }
}

struct BlobReader {
    blob: Arc<Blob>,
    at: u64,
}

impl std::io::Read for BlobReader {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let end = (self.at + buf.len() as u64).min(self.blob.len());
        if self.at == end {
            return Ok(0);
        }
        let bytes = self.blob.check(self.at..end).map_err(|fault| std::io::Error::other(fault.to_string()))?;
        buf[..bytes.len()].copy_from_slice(&bytes);
        self.at += bytes.len() as u64;
        Ok(bytes.len())
    }
}

/// The list beside the object, if its root is the object's name; made anew from the content when it is missing or torn.
fn load_values(files: &Files, entry: &Entry, file: &File) -> Option<Vec<ChainingValue>> {
    let count = usize::try_from(groups::count(entry.size)).ok()?;
    if count == 1 {
        // One group: its name is the plain hash, its chaining value has to be made from right content.
        let mut bytes = vec![0; usize::try_from(entry.size).ok()?];
        file.read_exact_at(&mut bytes, 0).ok()?;
        return (blake3::hash(&bytes).as_bytes() == &entry.object.0).then(|| vec![groups::chaining_value(0, &bytes)]);
    }
    let right = |values: &Vec<ChainingValue>| values.len() == count && groups::root(values) == Some(entry.object);
    read_values(&files.values(&entry.object)).filter(right).or_else(|| {
        let values = hash_file(file, entry.size)?;
        right(&values).then(|| {
            let _ = files.write_whole(&files.values(&entry.object), values.as_flattened());
            values
        })
    })
}

fn read_values(path: &Path) -> Option<Vec<ChainingValue>> {
    let bytes = std::fs::read(path).ok()?;
    let (values, rest) = bytes.as_chunks::<32>();
    rest.is_empty().then(|| values.to_vec())
}

fn hash_file(file: &File, len: u64) -> Option<Vec<ChainingValue>> {
    let mut buffer = vec![0; usize::try_from(GROUP).ok()?];
    (0..groups::count(len))
        .map(|index| {
            let part = usize::try_from((len - index * GROUP).min(GROUP)).ok()?;
            file.read_exact_at(&mut buffer[..part], index * GROUP).ok()?;
            Some(groups::chaining_value(index, &buffer[..part]))
        })
        .collect()
}

fn to_usize(range: &Range<u64>) -> Option<Range<usize>> {
    let (start, end) = (usize::try_from(range.start).ok()?, usize::try_from(range.end).ok()?);
    (start <= end).then_some(start..end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Store;
    use crate::store::tests::{flip, put, store_in};

    const URL: &str = "http://example.org/p";
    const G: usize = GROUP as usize;

    fn content(len: usize) -> Vec<u8> {
        (0..len).map(|i| (i * 37 % 241) as u8 ^ (i >> 16) as u8).collect()
    }

    /// A stored object, opened as after a start.
    async fn stored(store: &Store, content: &[u8]) -> (Arc<Entry>, Blob) {
        let entry = put(store, URL, content).await;
        let blob = Blob::open(store.files(), &entry, store.clock()).unwrap();
        (entry, blob)
    }

    #[tokio::test]
    async fn what_was_stored_comes_back_at_every_length() {
        for len in [0, 1, IN_MEMORY_MAX as usize, IN_MEMORY_MAX as usize + 1, G - 1, G, G + 1, 2 * G, 3 * G + 5] {
            let dir = tempfile::tempdir().unwrap();
            let (store, _) = store_in(&dir);
            let content = content(len);
            let (_, blob) = stored(&store, &content).await;
            assert_eq!((blob.len(), blob.in_memory()), (len as u64, len as u64 <= IN_MEMORY_MAX), "{len}");
            let blob = Arc::new(blob);
            assert_eq!(blob.bytes(0..len as u64).await.unwrap(), content, "{len}");
            blob.check_all().unwrap();
        }
    }

    #[tokio::test]
    async fn bytes_are_ready_only_after_they_were_checked() {
        let dir = tempfile::tempdir().unwrap();
        let (store, clock) = store_in(&dir);
        let content = content(4 * G);
        let (_, blob) = stored(&store, &content).await;
        assert!(blob.ready(0..10, blob.clock.now()).is_none());
        blob.check(GROUP + 1..GROUP + 2).unwrap();
        assert_eq!(blob.ready(GROUP..2 * GROUP, blob.clock.now()).unwrap(), content[G..2 * G], "its group was checked");
        assert!(
            blob.ready(GROUP - 1..GROUP, blob.clock.now()).is_none()
                && blob.ready(GROUP..2 * GROUP + 1, blob.clock.now()).is_none()
        );
        clock.advance(LOOK_AGAIN);
        assert!(
            blob.ready(GROUP..2 * GROUP, blob.clock.now()).is_some(),
            "the file is looked at again, and is the same"
        );
        assert!(blob.ready(0..GROUP, blob.clock.now()).is_none());
    }

    #[tokio::test]
    async fn damage_is_seen_in_each_group_and_only_there() {
        for damaged in 0..4u64 {
            let dir = tempfile::tempdir().unwrap();
            let (store, _) = store_in(&dir);
            let content = content(3 * G + 100);
            let entry = put(&store, URL, &content).await;
            flip(&store, URL, damaged * GROUP + 50);
            let open = || Blob::open(store.files(), &entry, store.clock()).unwrap();
            for group in 0..4 {
                let checked = open().check(group * GROUP..group * GROUP + 1);
                assert_eq!(checked.is_err(), group == damaged, "group {group}, damaged {damaged}");
            }
            let blob = open();
            assert!(matches!(blob.check_all().unwrap_err().cause, Cause::Corrupt { .. }));
            // Nothing more is handed out of an object that is known to be damaged.
            assert!(blob.ready(0..1, blob.clock.now()).is_none() && blob.check(0..1).is_err());
        }
    }

    /// Drops what has been synced from the page cache, the beginning at least. The kernel keeps a page for which it has some use at this
    /// moment, as for a commit of its journal: it is told until that is over.
    fn forget(store: &Store, entry: &Entry) {
        let mapping = Mapping::new(File::open(store.files().object(&entry.object)).unwrap(), entry.size).unwrap();
        mapping.file().sync_all().unwrap();
        while {
            rustix::fs::fadvise(mapping.file(), 0, None, rustix::fs::Advice::DontNeed).unwrap();
            mapping.is_resident(0..1)
        } {
            std::thread::yield_now();
        }
    }

    #[tokio::test]
    async fn what_comes_from_the_disk_again_is_checked_again_after_a_day() {
        let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let (store, clock) = store_in(&dir);
        let content = content(3 * G);
        let (entry, blob) = stored(&store, &content).await;
        let modified = File::open(store.files().object(&entry.object)).unwrap().metadata().unwrap().modified().unwrap();
        blob.check_all().unwrap();
        // A disk that returns other bytes than it got leaves the times of the file alone.
        flip(&store, URL, 5);
        let file = File::options().write(true).open(store.files().object(&entry.object)).unwrap();
        file.set_modified(modified).unwrap();
        forget(&store, &entry);
        assert!(blob.ready(0..10, blob.clock.now()).is_none(), "it is not at hand");
        blob.check(GROUP..2 * GROUP).unwrap();
        assert_eq!(blob.ready(GROUP..2 * GROUP, blob.clock.now()).unwrap(), content[G..2 * G]);

        clock.advance(TRUST);
        forget(&store, &entry);
        assert!(blob.check(0..10).is_err());
        assert!(blob.ready(GROUP..2 * GROUP, blob.clock.now()).is_none(), "it is known to be damaged");
    }

    #[tokio::test]
    async fn what_has_been_written_is_checked_when_it_first_comes_from_the_disk() {
        let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let (store, _) = store_in(&dir);
        let entry = put(&store, URL, &content(3 * G)).await;
        let path = store.files().object(&entry.object);
        let mapping = Mapping::new(File::open(&path).unwrap(), entry.size).unwrap();
        let values = read_values(&store.files().values(&entry.object)).unwrap();
        let modified = mapping.file().metadata().unwrap().modified().unwrap();
        let blob = Blob::fresh(entry.object, &mapping, values, store.clock()).unwrap();
        assert!(blob.ready(0..10, blob.clock.now()).is_some());
        flip(&store, URL, 5);
        File::options().write(true).open(&path).unwrap().set_modified(modified).unwrap();
        forget(&store, &entry);
        assert!(blob.check(0..10).is_err());
    }

    #[tokio::test]
    async fn a_file_that_changes_while_it_is_open_is_not_handed_out() {
        let dir = tempfile::tempdir().unwrap();
        let (store, clock) = store_in(&dir);
        let (entry, blob) = stored(&store, &content(3 * G)).await;
        blob.check_all().unwrap();
        let file = File::options().write(true).open(store.files().object(&entry.object)).unwrap();
        file.set_len(2 * GROUP).unwrap();
        clock.advance(LOOK_AGAIN);
        assert!(
            blob.ready(0..10, blob.clock.now()).is_none() && blob.check(0..10).is_err(),
            "also of what is still there"
        );
        assert!(Blob::open(store.files(), &entry, store.clock()).is_err());
    }

    #[tokio::test]
    async fn a_small_object_is_checked_when_it_is_opened() {
        for len in [1, IN_MEMORY_MAX as usize, G] {
            let dir = tempfile::tempdir().unwrap();
            let (store, _) = store_in(&dir);
            let (entry, _) = stored(&store, &content(len)).await;
            flip(&store, URL, len as u64 - 1);
            let opened = Blob::open(store.files(), &entry, store.clock());
            assert!(matches!(opened.unwrap_err().cause, Cause::Corrupt { .. }), "{len}");
        }
    }

    #[tokio::test]
    async fn a_lost_or_torn_list_is_made_anew_from_right_content_alone() {
        let dir = tempfile::tempdir().unwrap();
        let (store, _) = store_in(&dir);
        let (entry, _) = stored(&store, &content(3 * G)).await;
        let list = store.files().values(&entry.object);
        let right = std::fs::read(&list).unwrap();
        assert_eq!(right.len(), 3 * 32);
        let mut bent = right.clone();
        bent[40] ^= 1;
        for wrong in [&right[..0], &right[..64], &right[..95], &bent] {
            std::fs::write(&list, wrong).unwrap();
            Blob::open(store.files(), &entry, store.clock()).unwrap().check_all().unwrap();
            assert_eq!(std::fs::read(&list).unwrap(), right);
        }
        std::fs::remove_file(&list).unwrap();
        flip(&store, URL, 70_000);
        assert!(Blob::open(store.files(), &entry, store.clock()).is_err());
        assert!(!list.exists());
    }
}

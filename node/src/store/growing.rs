//! A file that grows: several writers write disjoint ranges, any number of readers follow, and in the end it becomes an
//! object. What has arrived survives a restart (R8g).

use std::fs::{self, File};
use std::io::IoSlice;
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use blake3::hazmat::ChainingValue;
use bytes::Bytes;
use rustix::fs::FallocateFlags;
use serde::{Deserialize, Serialize};
use sha2::digest::DynDigest;

use super::blob::Blob;
use super::files::{self, sealed, unsealed};
use super::groups::{self, GROUP};
use super::object::{Entry, Plan, head_from_disk, head_on_disk};
use super::ranges::Ranges;
use super::{ObjectId, Store};
use crate::classify::{Algorithm, Class, Digest, KeyHash, Url};
use crate::fault::{Cause, Fault};
use crate::os::clock::Timestamp;
use crate::os::mapping::Mapping;

/// Bytes between two records of what is there.
const JOURNAL_EVERY: u64 = 8 * 1024 * 1024;

/// Room for a download of unknown length is made in steps as long as what is there, up to this.
const CLAIM_STEP: u64 = 8 * 1024 * 1024;

/// See the module head.
pub struct Growing {
    store: Store,
    plan: Plan,
    file: File,
    /// Of the whole final length, if that is known: readers get slices without copying.
    mapping: Option<Arc<Mapping>>,
    present: Mutex<Ranges>,
    /// End of what is there from the start on.
    front: AtomicU64,
    journalled: AtomicU64,
    /// Bytes that count as used for it.
    claimed: AtomicU64,
    /// Its room has been reserved.
    allocated: AtomicBool,
    hashing: Mutex<Hashing>,
    sealed: Mutex<Option<(ObjectId, u64)>>,
    ended: AtomicBool,
    /// When upstream said that this is its version.
    confirmed_at: Timestamp,
}

/// Hashes of what is contiguous, from the start on.
#[derive(Default)]
struct Hashing {
    values: Vec<ChainingValue>,
    digest: Option<Box<dyn DynDigest + Send>>,
    buffer: Vec<u8>,
}

impl Hashing {
    fn of(plan: &Plan) -> Self {
        Self { digest: plan.digest.as_ref().map(|digest| hasher(digest.algorithm())), ..Self::default() }
    }
}

#[derive(Serialize, Deserialize)]
struct Journal {
    url: String,
    key: KeyHash,
    class: Class,
    status: u16,
    fields: Vec<(String, Vec<u8>)>,
    total: Option<u64>,
    digest: Option<Digest>,
    present: Ranges,
}

impl Growing {
    /// Makes the file. Blocks.
    pub(super) fn begin(store: &Store, plan: Plan) -> Result<Arc<Self>, Fault> {
        let path = store.files().partial(&plan.key);
        let error = |e: std::io::Error| Fault::disk(path.display(), &e);
        let file = Self::create(store, &plan.key).map_err(error)?;
        if let Some(total) = plan.total
            && let Err(e) = file.set_len(total)
        {
            let _ = fs::remove_file(&path);
            return Err(error(e));
        }
        Self::new(store, plan, file, Ranges::default()).map_err(error)
    }

    /// A new file under the key's name. One that somebody may still be reading is never shortened: it loses its name.
    fn create(store: &Store, key: &KeyHash) -> std::io::Result<File> {
        let (path, journal) = (store.files().partial(key), store.files().journal(key));
        let create = || store.spare().take(&path).map_or_else(|| files::create_new(&path), Ok);
        let mut partials = store.partials();
        if !partials.contains(key) {
            match create() {
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
                created => return created,
            }
        }
        // As long as it is open, to take its name away costs nothing; others wait for that.
        let _old = files::open_plain(&path);
        for old in [&path, &journal] {
            match fs::remove_file(old) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
        }
        partials.remove(key);
        create()
    }

    /// Takes up what an earlier run or flight has left. Blocks.
    pub(super) fn take_up(store: &Store, key: KeyHash) -> Option<Arc<Self>> {
        let bytes = fs::read(store.files().journal(&key)).ok()?;
        let journal: Journal = postcard::from_bytes(unsealed(&bytes)?).ok()?;
        let plan = Plan {
            url: Url::parse(&journal.url).ok()?,
            key: journal.key,
            class: journal.class,
            head: head_from_disk(journal.status, &journal.fields)?,
            total: journal.total,
            digest: journal.digest,
            confirmed_at: None,
        };
        let file = files::own_options().read(true).write(true).open(store.files().partial(&key)).ok()?;
        let len = file.metadata().ok()?.len();
        let sound = plan.key == key && journal.present.is_sound(len) && plan.total.is_none_or(|total| total == len);
        if !sound {
            return None;
        }
        Self::new(store, plan, file, journal.present).ok()
    }

    fn new(store: &Store, plan: Plan, file: File, present: Ranges) -> std::io::Result<Arc<Self>> {
        let mapping = plan.total.map(|total| Mapping::new(file.try_clone()?, total)).transpose()?;
        let claimed = plan.total.unwrap_or_else(|| present.bytes());
        store.grow(claimed);
        let hashing = Hashing::of(&plan);
        Ok(Arc::new(Self {
            store: store.clone(),
            front: AtomicU64::new(present.until(0)),
            journalled: AtomicU64::new(present.bytes()),
            claimed: AtomicU64::new(claimed),
            allocated: AtomicBool::new(false),
            present: Mutex::new(present),
            hashing: Mutex::new(hashing),
            sealed: Mutex::new(None),
            ended: AtomicBool::new(false),
            confirmed_at: plan.confirmed_at.unwrap_or_else(|| store.clock().now()),
            plan,
            file,
            mapping,
        }))
    }

    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    pub fn total(&self) -> Option<u64> {
        self.plan.total
    }

    pub fn mapping(&self) -> Option<&Arc<Mapping>> {
        self.mapping.as_ref()
    }

    /// Writes what has arrived and makes it visible to readers. Blocks.
    pub fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), Fault> {
        self.write_parts_at(offset, &mut [IoSlice::new(bytes)])
    }

    /// The same of bytes that lie in several places.
    pub fn write_parts_at(&self, offset: u64, parts: &mut [IoSlice<'_>]) -> Result<(), Fault> {
        let end = offset.saturating_add(parts.iter().map(|part| part.len() as u64).sum());
        match self.plan.total {
            Some(total) if end > total => return Err(Fault::new(Cause::TooLarge { limit: total })),
            Some(_) => {}
            None => self.claim(end)?,
        }
        self.allocate()
            .and_then(|()| write_all_at(&self.file, parts, offset))
            .map_err(|e| Fault::disk("writing a download", &e))
            .inspect_err(|fault| self.store.note(Some(fault)))?;
        let mut present = self.present();
        present.insert(offset..end);
        self.front.store(present.until(0), Ordering::Release);
        Ok(())
    }

    /// Reserves the room of all of it before the second piece is written, so that a full disk is known early. It takes a while for what
    /// is large, and the first piece is what somebody waits for. A file system without that keeps its sparse file.
    fn allocate(&self) -> std::io::Result<()> {
        let (Some(total), true) = (self.plan.total, self.front.load(Ordering::Acquire) > 0) else { return Ok(()) };
        if self.allocated.swap(true, Ordering::Relaxed) {
            return Ok(());
        }
        match rustix::fs::fallocate(&self.file, FallocateFlags::empty(), 0, total) {
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS | rustix::io::Errno::INVAL) => Ok(()),
            other => Ok(other?),
        }
    }

    /// Makes room up to `end`, in steps. For one writer.
    fn claim(&self, end: u64) -> Result<(), Fault> {
        let more = end.saturating_sub(self.claimed.load(Ordering::Relaxed));
        if more > 0 {
            let step = more.max(end.min(CLAIM_STEP));
            self.store.more_room(step).inspect_err(|_| self.store.remember_misfit(self.plan.key, end + step))?;
            self.claimed.fetch_add(step, Ordering::Relaxed);
        }
        Ok(())
    }

    /// End of what is there from `offset` on; `offset` itself when nothing is.
    pub fn present_until(&self, offset: u64) -> u64 {
        let front = self.front.load(Ordering::Acquire);
        if offset < front { front } else { self.present().until(offset) }
    }

    pub fn present_bytes(&self) -> u64 {
        self.present().bytes()
    }

    /// The first gap inside the range.
    pub fn missing(&self, within: Range<u64>) -> Option<Range<u64>> {
        self.present().missing(within)
    }

    /// Bytes that are there: a slice of the mapping, or a copy when the length is not known (which blocks).
    pub fn bytes(&self, range: Range<u64>) -> Result<Bytes, Fault> {
        if self.present_until(range.start) < range.end {
            return Err(Fault::internal("bytes asked for that have not arrived"));
        }
        if let Some(mapping) = &self.mapping {
            return Ok(mapping.bytes(range));
        }
        let mut bytes = vec![0; usize::try_from(range.end - range.start).unwrap_or(0)];
        self.file.read_exact_at(&mut bytes, range.start).map_err(|e| Fault::disk("reading a download", &e))?;
        Ok(bytes.into())
    }

    /// Hashes whole groups that have arrived since the last call, and now and then records what is there. Blocks.
    pub fn hash_available(&self) -> Result<(), Fault> {
        let front = self.front.load(Ordering::Acquire);
        let mut hashing = self.hashing();
        while (hashing.values.len() as u64 + 1) * GROUP <= front {
            self.hash_group(&mut hashing, GROUP)?;
        }
        drop(hashing);
        if self.present_bytes() >= self.journalled.load(Ordering::Relaxed) + JOURNAL_EVERY {
            let synced = self.sync()?;
            // Without a record the download cannot be taken up after a kill: no reason to end it.
            let _ = self.write_journal(synced);
        }
        Ok(())
    }

    /// All bytes are there: the object's name. Blocks. `WrongDigest` has no host: the caller knows it.
    pub fn seal(&self, total: u64) -> Result<ObjectId, Fault> {
        if self.missing(0..total).is_some() {
            return Err(Fault::internal("a download was sealed before its end"));
        }
        let mut hashing = self.hashing();
        while (hashing.values.len() as u64) < groups::count(total) {
            let rest = total - hashing.values.len() as u64 * GROUP;
            self.hash_group(&mut hashing, rest.min(GROUP))?;
        }
        let object = match groups::root(&hashing.values) {
            Some(object) => object,
            // The only group is still in the buffer.
            None => ObjectId(*blake3::hash(if total == 0 { &[] } else { &hashing.buffer }).as_bytes()),
        };
        if let (Some(expected), Some(digest)) = (&self.plan.digest, hashing.digest.take())
            && let got = digest.finalize()
            && *got != *expected.bytes()
        {
            let got = Digest::new(expected.algorithm(), &got).map_or_else(String::new, |d| d.to_string());
            let expected = expected.to_string().into();
            return Err(Fault::new(Cause::WrongDigest { host: "".into(), expected, got: got.into() }));
        }
        *self.sealed.lock().unwrap_or_else(PoisonError::into_inner) = Some((object, total));
        Ok(object)
    }

    fn hash_group(&self, hashing: &mut Hashing, len: u64) -> Result<(), Fault> {
        let index = hashing.values.len() as u64;
        hashing.buffer.resize(usize::try_from(len).unwrap_or(0), 0);
        self.file
            .read_exact_at(&mut hashing.buffer, index * GROUP)
            .map_err(|e| Fault::disk("reading a download", &e))?;
        let value = groups::chaining_value(index, &hashing.buffer);
        hashing.values.push(value);
        if let Some(digest) = &mut hashing.digest {
            digest.update(&hashing.buffer);
        }
        Ok(())
    }

    /// Forgets what has come, to begin again; says whether that can be done. For when nobody writes or hashes.
    pub fn forget_all(&self) -> bool {
        if self.ended.load(Ordering::Relaxed) || self.plan.total.is_none() {
            return false;
        }
        *self.present() = Ranges::default();
        self.front.store(0, Ordering::Release);
        self.journalled.store(0, Ordering::Relaxed);
        *self.hashing() = Hashing::of(&self.plan);
        true
    }

    /// Makes a sealed file an object. Look-ups see it at once; the index on disk names it only when the file and its folder
    /// have been synced, which goes on behind, so that a slow disk holds nobody. After a crash in between it is as if
    /// it had never been stored, or it is found by the scan and checked like all others.
    ///
    /// What has lost its name, to a newer download of the same key or because nobody is to find it, is whole all the same:
    /// it has an entry that no look-up sees.
    ///
    /// Blocks; for longer when the disk has not kept up with many.
    pub fn publish(self: &Arc<Self>) -> Result<Arc<Entry>, Fault> {
        let (entry, named) = self.publish_now().inspect_err(|fault| self.store.note(Some(fault)))?;
        if named {
            self.store.make_durable(self.clone(), entry.clone());
        }
        Ok(entry)
    }

    pub(super) fn store(&self) -> &Store {
        &self.store
    }

    /// Where the object lies.
    pub(super) fn folder(&self, entry: &Entry) -> PathBuf {
        self.store.files().object(&entry.object).parent().map_or_else(PathBuf::new, Path::to_owned)
    }

    pub(super) fn sync_data(&self) -> Result<(), Fault> {
        self.file.sync_data().map_err(|e| Fault::disk("syncing a download", &e))
    }

    /// The entry, and whether look-ups see it.
    fn publish_now(&self) -> Result<(Arc<Entry>, bool), Fault> {
        let sealed = *self.sealed.lock().unwrap_or_else(PoisonError::into_inner);
        let (object, total) = sealed.ok_or_else(|| Fault::internal("a download was published before it was sealed"))?;
        let files = self.store.files();
        let path = files.object(&object);
        let error = |e: std::io::Error| Fault::disk(path.display(), &e);
        let entry = Entry::new(&self.plan, object, total, self.store.clock().now());
        entry.confirmed_at.store(self.confirmed_at.0, Ordering::Relaxed);
        let entry = Arc::new(entry);
        if !self.has_its_name() {
            return Ok((entry, false));
        }
        let values = std::mem::take(&mut self.hashing().values);
        if values.len() > 1 {
            files.write_whole(&files.values(&object), values.as_flattened()).map_err(error)?;
        }
        // From here until look-ups see the entry nobody may delete an object of this name.
        let naming = self.store.naming();
        let copy = files.write_new_entry(&entry).map_err(error)?;
        let mut partials = self.store.partials();
        if !self.has_its_name() {
            copy.remove();
            return Ok((entry, false));
        }
        copy.replace(&files.entry(&object, &entry.key)).map_err(error)?;
        // Also over an identical object that may have rotted: these bytes have just been hashed.
        fs::rename(files.partial(&self.plan.key), &path).map_err(error)?;
        let _ = fs::remove_file(files.journal(&self.plan.key));
        partials.remove(&self.plan.key);
        drop(partials);
        self.ended.store(true, Ordering::Relaxed);
        let blob = self.mapping.as_ref().and_then(|m| Blob::fresh(object, m, values, self.store.clock()));
        // From now on it counts as an object. For a moment it does not count at all, rather than twice, which might evict something.
        self.store.shrink(self.claimed.swap(0, Ordering::Relaxed));
        self.store.announce(&entry, blob);
        drop(naming);
        Ok((entry, true))
    }

    /// Records what is there, to be taken up later. Blocks.
    pub fn suspend(&self) -> Result<(), Fault> {
        if self.present_bytes() == 0 || self.ended.load(Ordering::Relaxed) {
            self.discard();
            return Ok(());
        }
        if !self.has_its_name() {
            return Ok(());
        }
        self.write_journal(self.sync()?)
    }

    /// Another download of the same key may have taken the name since.
    fn has_its_name(&self) -> bool {
        let named = fs::metadata(self.store.files().partial(&self.plan.key));
        matches!((named, self.file.metadata()), (Ok(a), Ok(b)) if a.ino() == b.ino() && a.dev() == b.dev())
    }

    /// What is on disk for certain: what arrives during the sync is for the next time.
    fn sync(&self) -> Result<Ranges, Fault> {
        let present = self.present().clone();
        self.sync_data()?;
        Ok(present)
    }

    /// The thread that hashes and the end of the download may do so at the same time: the record of more stays.
    fn write_journal(&self, present: Ranges) -> Result<(), Fault> {
        let bytes_present = present.bytes();
        let (status, fields) = head_on_disk(&self.plan.head);
        let journal = Journal {
            url: self.plan.url.to_string(),
            key: self.plan.key,
            class: self.plan.class,
            status,
            fields,
            total: self.plan.total,
            digest: self.plan.digest.clone(),
            present,
        };
        let bytes = postcard::to_allocvec(&journal).map_err(|e| Fault::internal(e.to_string()))?;
        let error = |e: std::io::Error| Fault::disk("writing a journal", &e);
        let journal = self.store.files().write_new(&sealed(&bytes)).map_err(error)?;
        // Until it has its name nobody may begin another download under it.
        let mut partials = self.store.partials();
        if !self.has_its_name() || bytes_present < self.journalled.load(Ordering::Relaxed) {
            journal.remove();
            return Ok(());
        }
        journal.replace(&self.store.files().journal(&self.plan.key)).map_err(error)?;
        self.journalled.store(bytes_present, Ordering::Relaxed);
        partials.insert(self.plan.key);
        Ok(())
    }

    /// Forgets it. Readers that hold it can go on reading what is there.
    pub fn discard(&self) {
        let mut partials = self.store.partials();
        if !self.ended.swap(true, Ordering::Relaxed) && self.has_its_name() {
            let _ = fs::remove_file(self.store.files().partial(&self.plan.key));
            let _ = fs::remove_file(self.store.files().journal(&self.plan.key));
            partials.remove(&self.plan.key);
        }
    }

    fn present(&self) -> MutexGuard<'_, Ranges> {
        self.present.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hashing(&self) -> MutexGuard<'_, Hashing> {
        self.hashing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Growing {
    fn drop(&mut self) {
        self.store.shrink(self.claimed.load(Ordering::Relaxed));
    }
}

pub(super) fn hasher(algorithm: Algorithm) -> Box<dyn DynDigest + Send> {
    match algorithm {
        Algorithm::Md5 => Box::new(md5::Md5::default()),
        Algorithm::Sha1 => Box::new(sha1::Sha1::default()),
        Algorithm::Sha256 => Box::new(sha2::Sha256::default()),
        Algorithm::Sha512 => Box::new(sha2::Sha512::default()),
        Algorithm::Sha384 => Box::new(sha2::Sha384::default()),
    }
}

fn write_all_at(file: &File, mut parts: &mut [IoSlice<'_>], mut offset: u64) -> std::io::Result<()> {
    IoSlice::advance_slices(&mut parts, 0);
    while !parts.is_empty() {
        match rustix::io::retry_on_intr(|| rustix::io::pwritev(file, parts, offset))? {
            0 => return Err(std::io::ErrorKind::WriteZero.into()),
            written => {
                IoSlice::advance_slices(&mut parts, written);
                offset += written as u64;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::tests::{plan, store_in};
    use proptest::prelude::*;
    use sha2::Digest as _;

    const URL: &str = "http://example.org/p";
    const G: usize = GROUP as usize;

    fn content(len: usize) -> Vec<u8> {
        (0..len).map(|i| (i * 31 % 251) as u8 ^ (i >> 16) as u8).collect()
    }

    fn begin(dir: &tempfile::TempDir, total: Option<u64>, digest: Option<Digest>) -> Arc<Growing> {
        store_in(dir).0.begin(Plan { digest, ..plan(URL, total) }).unwrap()
    }

    fn sha256(bytes: &[u8]) -> Digest {
        Digest::new(Algorithm::Sha256, &sha2::Sha256::digest(bytes)).unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        /// Pieces in any order, hashed now and then, with or without a known length: the name is the plain hash.
        #[test]
        fn the_name_is_the_hash_however_it_comes(
            len in prop_oneof![Just(0), Just(1), Just(G - 1), Just(G), Just(G + 1), Just(2 * G), 1..5 * G],
            known: bool,
            order in any::<u64>(),
        ) {
            let dir = tempfile::tempdir().unwrap();
            let content = content(len);
            let growing = begin(&dir, known.then_some(len as u64), Some(sha256(&content)));
            let mut pieces: Vec<_> = content.chunks(30_011).enumerate().collect();
            pieces.sort_by_key(|(i, _)| blake3::hash(&(order ^ *i as u64).to_le_bytes()).as_bytes().to_vec());
            for (i, piece) in pieces {
                growing.write_at(i as u64 * 30_011, piece).unwrap();
                growing.hash_available().unwrap();
            }
            prop_assert_eq!(growing.missing(0..len as u64), None);
            let object = growing.seal(len as u64).unwrap();
            prop_assert_eq!(object.0, *blake3::hash(&content).as_bytes());
            prop_assert_eq!(&growing.bytes(0..len as u64).unwrap()[..], &content[..]);
        }
    }

    #[test]
    fn what_is_not_there_is_not_handed_out() {
        for known in [true, false] {
            let dir = tempfile::tempdir().unwrap();
            let growing = begin(&dir, known.then_some(1000), None);
            growing.write_at(100, &[1; 100]).unwrap();
            growing.write_at(300, &[2; 100]).unwrap();
            assert_eq!(
                (growing.present_until(0), growing.present_until(150), growing.present_until(200)),
                (0, 200, 200)
            );
            assert_eq!((growing.missing(0..1000), growing.missing(150..400)), (Some(0..100), Some(200..300)));
            assert!(growing.bytes(0..150).is_err() && growing.bytes(150..201).is_err());
            assert_eq!(growing.bytes(150..200).unwrap(), vec![1; 50]);
            assert!(growing.seal(1000).is_err(), "there are gaps");
            assert_eq!(growing.write_at(950, &[0; 51]).is_err(), known, "past the end");
        }
    }

    #[test]
    fn a_wrong_digest_is_seen_at_every_length() {
        for len in [0, 1, G, G + 1, 3 * G] {
            let dir = tempfile::tempdir().unwrap();
            let content = content(len);
            let growing = begin(&dir, Some(len as u64), Some(sha256(b"something else")));
            growing.write_at(0, &content).unwrap();
            growing.hash_available().unwrap();
            let fault = growing.seal(len as u64).unwrap_err();
            let Cause::WrongDigest { expected, got, .. } = fault.cause else { panic!("{fault}") };
            assert_eq!((&*expected, &*got), (&*sha256(b"something else").to_string(), &*sha256(&content).to_string()));
        }
    }

    #[test]
    fn parts_are_written_one_after_the_other() {
        use std::io::{Read, Seek};
        let mut file = tempfile::tempfile().unwrap();
        let content = content(70_000);
        // More parts than the kernel takes at once, and empty ones.
        let mut parts: Vec<_> = content.chunks(50).flat_map(|part| [IoSlice::new(part), IoSlice::new(&[])]).collect();
        write_all_at(&file, &mut parts, 3).unwrap();
        write_all_at(&file, &mut [], 3).unwrap();
        let mut written = Vec::new();
        file.rewind().unwrap();
        file.read_to_end(&mut written).unwrap();
        assert!(written[..3] == [0; 3] && written[3..] == content);
    }

    #[tokio::test]
    async fn what_was_not_sealed_is_not_published_and_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let (store, _) = store_in(&dir);
        let growing = store.begin(Plan { digest: Some(sha256(b"")), ..plan(URL, Some(10)) }).unwrap();
        growing.write_at(0, &[0; 10]).unwrap();
        assert!(growing.seal(10).is_err());
        assert!(growing.publish().is_err());
        assert!(store.lookup(growing.plan().key).await.unwrap().is_none());
        growing.discard();
        assert_eq!(fs::read_dir(dir.path().join("partial")).unwrap().count(), 0);
        // Who reads it still can.
        assert_eq!(growing.bytes(0..10).unwrap(), vec![0; 10]);
        drop(growing);
        assert_eq!(store.usage().bytes, 0);
    }

    #[test]
    fn a_reader_on_another_thread_sees_only_what_was_written() {
        let content = content(5 * G + 17);
        for known in [true, false] {
            let dir = tempfile::tempdir().unwrap();
            let growing = begin(&dir, known.then_some(content.len() as u64), None);
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    for (i, piece) in content.chunks(4099).enumerate() {
                        growing.write_at(i as u64 * 4099, piece).unwrap();
                    }
                });
                let mut at = 0;
                while at < content.len() {
                    let until = growing.present_until(at as u64) as usize;
                    assert!(growing.bytes(at as u64..until as u64).unwrap() == content[at..until]);
                    at = until;
                }
            });
        }
    }

    #[test]
    fn a_suspended_download_is_taken_up_where_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let (store, _) = store_in(&dir);
        let content = content(3 * G);
        let growing = store.begin(Plan { digest: Some(sha256(&content)), ..plan(URL, Some(3 * GROUP)) }).unwrap();
        growing.write_at(0, &content[..G + 5]).unwrap();
        growing.write_at(2 * GROUP, &content[2 * G..]).unwrap();
        growing.suspend().unwrap();
        let key = growing.plan().key;
        drop(growing);
        let growing = store.take_up(key).unwrap();
        assert_eq!(growing.missing(0..3 * GROUP), Some(GROUP + 5..2 * GROUP));
        growing.write_at(GROUP + 5, &content[G + 5..2 * G]).unwrap();
        assert_eq!(growing.seal(3 * GROUP).unwrap().0, *blake3::hash(&content).as_bytes());
        growing.suspend().unwrap();
        drop(growing);
        // A torn record, another length, or no record: as if nothing had come.
        let (journal, file) = (store.files().journal(&key), store.files().partial(&key));
        let record = fs::read(&journal).unwrap();
        for end in [0, 1, record.len() / 2, record.len() - 1] {
            fs::write(&journal, &record[..end]).unwrap();
            assert!(store.take_up(key).is_none(), "{end}");
        }
        fs::write(&journal, &record).unwrap();
        assert!(store.take_up(key).is_some());
        File::options().write(true).open(&file).unwrap().set_len(GROUP).unwrap();
        assert!(store.take_up(key).is_none());
        fs::remove_file(&journal).unwrap();
        assert!(store.take_up(key).is_none());
    }

    #[test]
    fn the_record_of_more_stays_whoever_writes_it() {
        let dir = tempfile::tempdir().unwrap();
        let (store, _) = store_in(&dir);
        let growing = store.begin(plan(URL, Some(4 * GROUP))).unwrap();
        growing.write_at(0, &content(G)).unwrap();
        let less = growing.sync().unwrap();
        growing.write_at(GROUP, &content(G)).unwrap();
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| (0..200).for_each(|_| growing.write_journal(less.clone()).unwrap()));
                scope.spawn(|| (0..20).for_each(|_| growing.suspend().unwrap()));
            }
        });
        growing.write_journal(less).unwrap();
        let taken_up = store.take_up(growing.plan().key).unwrap();
        assert_eq!(taken_up.missing(0..4 * GROUP), Some(2 * GROUP..4 * GROUP));
        assert_eq!(fs::read_dir(dir.path().join("partial")).unwrap().count(), 2, "nothing else is left behind");
    }

    #[test]
    fn a_record_never_describes_a_newer_download() {
        let dir = tempfile::tempdir().unwrap();
        let (store, _) = store_in(&dir);
        let older = store.begin(plan(URL, Some(GROUP))).unwrap();
        older.write_at(0, &content(G)).unwrap();
        let newer = store.begin(plan(URL, Some(GROUP))).unwrap();
        older.suspend().unwrap();
        assert!(store.take_up(newer.plan().key).is_none());
    }

    #[tokio::test]
    async fn a_newer_download_of_the_same_key_wins() {
        let dir = tempfile::tempdir().unwrap();
        let (store, _) = store_in(&dir);
        let older = store.begin(plan(URL, Some(10))).unwrap();
        older.write_at(0, &[1; 10]).unwrap();
        older.seal(10).unwrap();
        let newer = store.begin(plan(URL, Some(10))).unwrap();
        newer.write_at(0, &[2; 10]).unwrap();
        newer.seal(10).unwrap();
        // It is whole for who reads it, but nobody finds it, before the newer one is there or after.
        older.publish().unwrap();
        assert!(store.lookup(older.plan().key).await.unwrap().is_none());
        let entry = newer.publish().unwrap();
        assert_eq!(store.lookup(entry.key).await.unwrap().unwrap().object, entry.object);
        assert_eq!(store.open_blob(&entry).await.unwrap().bytes(0..10).await.unwrap(), vec![2; 10]);
        assert_eq!(older.bytes(0..10).unwrap(), vec![1; 10], "its readers are not disturbed");
    }
}

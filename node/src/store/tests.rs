//! Tests of the store as a whole, and what the tests of its parts are made of.

use tempfile::TempDir;

use super::*;
use crate::classify::{Class, Url};
use crate::os::clock::Timestamp;

pub(super) fn options(dir: &TempDir, clock: &Clock) -> Options {
    let size = CacheSize::Bytes(64 << 20);
    Options { dir: dir.path().to_owned(), size, memory_size: 1 << 20, open_files: 100, clock: clock.clone() }
}

/// A store at a time that stands still.
pub(super) fn store_in(dir: &TempDir) -> (Store, Clock) {
    let clock = Clock::manual(Timestamp(1_000_000_000_000));
    (Store::open(options(dir, &clock)).unwrap(), clock)
}

pub(super) fn plan(url: &str, total: Option<u64>) -> Plan {
    let url = Url::parse(url).unwrap();
    let head = Head { status: http::StatusCode::OK, fields: http::HeaderMap::new() };
    Plan { key: url.key_hash(), url, class: Class::Package, head, total, digest: None, confirmed_at: None }
}

/// Stores a content.
pub(super) async fn put(store: &Store, url: &str, content: &[u8]) -> Arc<Entry> {
    let growing = store.begin(plan(url, Some(content.len() as u64))).unwrap();
    growing.write_at(0, content).unwrap();
    growing.hash_available().unwrap();
    growing.seal(content.len() as u64).unwrap();
    growing.publish().unwrap()
}

pub(super) fn key(url: &str) -> KeyHash {
    Url::parse(url).unwrap().key_hash()
}

/// Changes a byte of a stored object, as a failing disk would.
pub(super) fn flip(store: &Store, url: &str, at: u64) {
    use std::os::unix::fs::FileExt;
    let entry = store.0.index.look_up(&key(url)).unwrap().unwrap();
    let file = File::options().read(true).write(true).open(store.0.files.object(&entry.object)).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[!byte[0]], at).unwrap();
}

const A: &str = "http://example.org/a";
const B: &str = "http://example.org/b";

/// Whoever has seen that something is not there knows that it is still not.
#[tokio::test]
async fn all_that_look_ups_come_to_see_is_counted() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = store_in(&dir);
    let mut before = store.revealed();
    let mut has_changed = || std::mem::replace(&mut before, store.revealed()) != store.revealed();
    assert!(store.lookup(key(A)).await.unwrap().is_none() && !has_changed());
    let growing = store.begin(plan(A, Some(10))).unwrap();
    growing.write_at(0, &[1; 10]).unwrap();
    growing.seal(10).unwrap();
    assert!(store.lookup(key(A)).await.unwrap().is_none() && !has_changed(), "it is not there yet");
    let entry = growing.publish().unwrap();
    assert!(has_changed());
    store.link(&entry, key(B), Url::parse(B).unwrap()).await.unwrap();
    assert!(has_changed());
    store.settle();
    // What has reached the disk may be counted again.
    has_changed();
    assert!(store.lookup(key(B)).await.unwrap().is_some() && !has_changed());
    drop(growing);
    drop(store);
    let (store, _) = store_in(&dir);
    assert!(store.lookup(key(A)).await.unwrap().is_some() && store.revealed() == 0, "what was there at the start was");
}

#[tokio::test]
async fn use_is_written_while_the_store_is_open() {
    let dir = tempfile::tempdir().unwrap();
    let (store, clock) = store_in(&dir);
    for url in [A, B] {
        put(&store, url, &[7; 1000]).await;
    }
    store.settle();
    let on_disk = |url: &str| store.0.index.look_up(&key(url)).unwrap().unwrap();
    for _ in 0..10 {
        clock.advance(Duration::from_secs(61));
        store.touch(&store.lookup_hot(&key(A)).unwrap().entry, clock.now());
    }
    let entry = store.lookup(key(B)).await.unwrap().unwrap();
    store.confirm(&entry, None);
    assert_eq!(on_disk(A).uses(), 1, "not yet");
    store.flush_touched();
    assert_eq!((on_disk(A).uses(), on_disk(A).used_at()), (11, clock.now()));
    assert_eq!(on_disk(B).confirmed_at(), clock.now());
    // What is used all the time is not noted anew, and written all the same.
    store.touch(&store.lookup_hot(&key(A)).unwrap().entry, clock.now());
    store.flush_touched();
    assert_eq!(on_disk(A).uses(), 12);
    // What has been idle is let go, and what is gone does not come back.
    clock.advance(Duration::from_secs(61));
    store.flush_touched();
    assert!(store.touched().is_empty());
    store.touch(&store.lookup_hot(&key(A)).unwrap().entry, clock.now());
    store.0.index.commit(&[Change::Remove(key(A))]).unwrap();
    store.flush_touched();
    assert!(store.0.index.look_up(&key(A)).unwrap().is_none());
    assert_eq!(store.usage().objects, 1);
}

#[tokio::test]
async fn room_is_claimed_before_it_is_used() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = store_in(&dir);
    let first = store.begin(plan(A, Some(40 << 20))).unwrap();
    let too_large = store.begin(plan(B, Some(40 << 20))).err().unwrap();
    assert_eq!(too_large.cause, Cause::TooLarge { limit: 24 << 20 });
    // Of unknown length: it begins, and ends where there is no more room.
    let second = store.begin(plan(B, None)).unwrap();
    let piece = vec![1; 1 << 20];
    let written = (0..40).find_map(|i| second.write_at(i << 20, &piece).err().map(|fault| (i, fault)));
    let (pieces, fault) = written.unwrap();
    assert!((16..=24).contains(&pieces) && matches!(fault.cause, Cause::TooLarge { .. }), "{pieces} {fault}");
    drop(second);
    assert!(store.begin(plan(B, None)).is_err(), "it is known now");
    drop(first);
    assert!(store.begin(plan(B, None)).is_ok());
    assert!(store.usage().degraded.is_none(), "nothing is wrong with the disk");
}

#[tokio::test]
async fn after_a_kill_what_nothing_names_is_removed() {
    let dir = tempfile::tempdir().unwrap();
    let (store, clock) = store_in(&dir);
    let kept = put(&store, A, &[1; 200_000]).await;
    put(&store, "http://example.org/same", &[1; 200_000]).await;
    let orphan = put(&store, B, &[2; 200_000]).await;
    store.settle();
    let files = store.0.files.clone();
    // As a kill leaves it: no mark of a clean stop, and of one object the entry is gone.
    drop(store);
    std::fs::remove_file(files.entry(&orphan.object, &orphan.key)).unwrap();
    std::fs::remove_file(files.path("index.redb")).unwrap();
    let store = loop {
        // The threads of the one before let go of the folder.
        match Store::open(options(&dir, &clock)) {
            Ok(store) => break store,
            Err(_) => std::thread::yield_now(),
        }
    };
    store.reconcile();
    assert!(!files.object(&orphan.object).exists() && !files.values(&orphan.object).exists());
    store.settle();
    assert_eq!(store.usage().objects, 1);
    let entry = store.lookup(key(A)).await.unwrap().unwrap();
    assert_eq!(entry.object, kept.object);
    assert_eq!(store.open_blob(&entry).await.unwrap().len(), 200_000);
}

#[tokio::test]
async fn what_comes_during_the_scan_is_not_taken_for_a_remnant() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = store_in(&dir);
    let entry = put(&store, A, &[1; 200_000]).await;
    let files = &store.0.files;
    let record_path = files.entry(&entry.object, &entry.key);
    // Its entry has been written, its object gets its name before the lock is free.
    let aside = dir.path().join("aside");
    let naming = store.naming();
    std::fs::rename(files.object(&entry.object), &aside).unwrap();
    std::thread::scope(|scope| {
        let scan = scope.spawn(|| files.scan(|path| store.take_in(path)).unwrap());
        std::fs::rename(&aside, files.object(&entry.object)).unwrap();
        drop(naming);
        scan.join().unwrap();
    });
    assert!(record_path.exists());
    // The other way round: what looked like an orphan has its entry by then, or somebody needs it.
    let record = std::fs::read(files.entry(&entry.object, &entry.key)).unwrap();
    std::fs::remove_file(files.entry(&entry.object, &entry.key)).unwrap();
    files.remove_orphans(|| (), |object| *object == entry.object).unwrap();
    let arrive = || std::fs::write(files.entry(&entry.object, &entry.key), &record).unwrap();
    files.remove_orphans(arrive, |_| false).unwrap();
    assert!(files.object(&entry.object).exists());
    std::fs::remove_file(files.object(&entry.object)).unwrap();
    files.scan(|path| store.take_in(path)).unwrap();
    assert!(!files.entry(&entry.object, &entry.key).exists());
}

#[tokio::test]
async fn what_is_removed_during_the_scan_does_not_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = store_in(&dir);
    let entry = put(&store, A, &[1; 1000]).await;
    let path = store.0.files.entry(&entry.object, &entry.key);
    let copy = std::fs::read(&path).unwrap();
    store.remove_entry(&entry);
    store.take_in(&path);
    assert!(store.lookup(entry.key).await.unwrap().is_none());
    // The same for who has opened it meanwhile, and who has synced it.
    store.keep_hot(&entry, &Arc::new(Blob::open(&store.0.files, &entry, store.clock()).unwrap()));
    store.put_if_current(&entry);
    assert!(store.lookup_hot(&entry.key).is_none() && store.lookup(entry.key).await.unwrap().is_none());
    // A copy that lies there when nothing is known of it is taken in.
    store.settle();
    let again = put(&store, B, &[1; 1000]).await;
    assert_eq!(again.object, entry.object);
    // The removal ends with the deletion of the copy.
    while !store.0.index.is_unknown(&entry.key) {
        std::thread::yield_now();
    }
    std::fs::write(&path, copy).unwrap();
    store.take_in(&path);
    assert!(store.lookup(entry.key).await.unwrap().is_some());
}

#[tokio::test]
async fn a_clean_stop_leaves_no_file_for_a_next_download() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = store_in(&dir);
    let partial = || std::fs::read_dir(dir.path().join("partial")).unwrap().count();
    assert_eq!(partial(), 1);
    put(&store, A, b"a").await;
    store.close();
    assert_eq!(partial(), 0);
}

#[test]
fn only_downloads_that_can_be_taken_up_survive_a_start() {
    let dir = tempfile::tempdir().unwrap();
    let (store, clock) = store_in(&dir);
    for (url, journalled) in [(A, true), (B, false)] {
        let growing = store.begin(plan(url, Some(1000))).unwrap();
        growing.write_at(0, &[1; 10]).unwrap();
        if journalled {
            growing.suspend().unwrap();
        }
    }
    store.close();
    drop(store);
    let store = Store::open(options(&dir, &clock)).unwrap();
    let began = store.begin(plan("http://example.org/new", Some(1000))).unwrap();
    store.reconcile();
    assert_eq!(
        std::fs::read_dir(dir.path().join("partial")).unwrap().count(),
        3,
        "a file, its record, and the new one"
    );
    assert!(store.take_up(key(A)).is_some() && store.take_up(key(B)).is_none());
    began.write_at(0, &[2; 1000]).unwrap();
    began.seal(1000).unwrap();
    assert!(began.publish().is_ok());
}

#[tokio::test]
async fn many_changes_neither_pile_up_nor_wait_for_each_other() {
    const MANY: usize = PENDING_MAX + CHANGES_MAX;
    let dir = tempfile::tempdir().unwrap();
    let (store, clock) = store_in(&dir);
    let put = |i: usize, object: u8| {
        let plan = plan(&format!("http://example.org/many/{i}"), Some(1000));
        let entry = Entry::new(&plan, ObjectId([object; 32]), 1000, clock.now());
        store.change(&store.order(), Change::Put(Arc::new(entry)));
    };
    put(0, 2);
    store.settle();
    // The first of them leaves an object that nobody needs. To delete it the writer waits for the lock that a scan holds when it
    // hands over what it has found; what comes meanwhile stays pending.
    let naming = store.naming();
    (0..MANY).for_each(|i| put(i, 1));
    assert_eq!(store.0.index.pending_len(), MANY);
    drop(naming);
    store.wait_for_writer();
    assert!(store.0.index.pending_len() < PENDING_MAX);
    // Some are on disk by now, the others are not: all go.
    assert_eq!(store.remove_prefix("http://example.org/many/".into(), |_| true).await.unwrap(), MANY as u64);
    assert!(store.0.index.pending_len() <= PENDING_MAX);
    while store.0.index.pending_len() > 0 {
        std::thread::yield_now();
    }
    assert_eq!(store.usage().objects, 0);
}

#[tokio::test]
async fn what_could_not_be_written_for_long_is_found_by_the_next_scan() {
    let dir = tempfile::tempdir().unwrap();
    let (store, clock) = store_in(&dir);
    let entry = put(&store, A, &[1; 1000]).await;
    store.settle();
    store.0.index.commit(&[Change::Remove(entry.key)]).unwrap();
    store.0.index.announce(&Change::Put(entry.clone()));
    store.give_up(&[Change::Put(entry.clone())]);
    assert!(store.lookup_hot(&entry.key).is_some() && store.0.index.is_unknown(&entry.key));
    store.close();
    drop(store);
    let store = Store::open(options(&dir, &clock)).unwrap();
    store.reconcile();
    assert_eq!(store.lookup(entry.key).await.unwrap().unwrap().object, entry.object);
}

/// Other nodes, as far as they have been told of.
#[derive(Default)]
struct Others(Mutex<HashMap<KeyHash, Copies>>);

impl Watcher for Others {
    fn stored(&self, _: &Entry) {}
    fn removed(&self, _: &KeyHash) {}
    fn is_alone(&self) -> bool {
        false
    }
    fn copies(&self, key: &KeyHash) -> Copies {
        self.0.lock().unwrap().get(key).copied().unwrap_or(Copies::Sole)
    }
    fn is_superseded(&self, _: &Entry) -> bool {
        false
    }
}

#[tokio::test]
async fn what_only_this_node_has_goes_last_however_old_it_is() {
    const PIECE: usize = 1 << 20;
    let dir = tempfile::tempdir().unwrap();
    let (store, clock) = store_in(&dir);
    let others = Arc::new(Others::default());
    store.set_watcher(others.clone());
    let url = |kind: &str, i: u64| format!("http://example.org/{kind}{i}");
    let kinds = ["sole", "duplicate", "spare"];
    let content = |kind: &str, i: u64| format!("{kind:>16}{i:>16}").repeat(PIECE / 32).into_bytes();
    // The longer ago the less others have it, and what they have is in use.
    for (kind, copies) in kinds.into_iter().zip([Copies::Sole, Copies::Duplicate, Copies::Spare]) {
        for i in 0..20 {
            others.0.lock().unwrap().insert(key(&url(kind, i)), copies);
            let entry = put(&store, &url(kind, i), &content(kind, i)).await;
            (0..u64::from(kind != "sole") * 9).for_each(|_| store.touch(&entry, clock.now()));
        }
        clock.advance(Duration::from_secs(86_400));
    }
    let gone = || kinds.map(|kind| (0..20).filter(|i| store.0.index.is_unknown(&key(&url(kind, *i)))).count());
    // There is room for 64 in all.
    for (more, expected) in [(4, [0, 0, 0]), (6, [0, 0, 6]), (14, [0, 0, 20]), (19, [0, 19, 20])] {
        for i in 0..more {
            put(&store, &url(&format!("{more}-"), i), &content(&more.to_string(), i)).await;
        }
        store.settle();
        assert_eq!(gone(), expected, "{more} more");
    }
    let (size, copy) = (PIECE as u64, key(&url("spare", 0)));
    assert!(store.has_room_for_duplicate(&copy, size), "in the place of another");
    assert!(!store.has_room_for_duplicate(&copy, 2 * size));
    assert!(store.has_room_for_duplicate(&key(A), 2 * size), "nobody else has it");
    store.settle();
    assert_eq!(gone(), [0, 20, 20]);
    put(&store, A, &content("a", 0)).await;
    put(&store, B, &content("b", 0)).await;
    store.settle();
    assert_eq!(store.usage().objects, 64, "at last they go as they are worth");
}

//! Generations of the repositories whose metadata passes through this node (R16–R18): what they promise of their contents.
//!
//! A *root* is the file that a client trusts first. Each version of it is a generation: it names files with their digests, among
//! them lists of packages. Each list is kept as a [`Catalogue`] under its own digest, so that all mirrors, suites and generations
//! with the same list share one.
//!
//! Only the newest generation promises anything, and of packages only where the list that it names has been read: a promise that
//! is out of date would refuse right bytes. Older ones still say what may not be thrown away.
//!
//! Requests look things up while metadata is read: no lock that they take is held while a file is.
//!
//! ```text
//! catalogue/roots               which roots there are, with their generations
//! catalogue/<blake3>.root       a root as it came
//! catalogue/<algorithm>-<digest>.list    a list as a catalogue
//! ```
//! All of it can be lost: it is learnt again from the metadata that clients ask for.

mod outlook;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::Instant;

use super::Promise;
use super::catalogue::Catalogue;
use super::list::{Form, Package};
use super::root::{self, Listing};
use crate::classify::{Digest, Url};
use crate::ledger::status;
use crate::os::clock::Timestamp;

/// Roots that are remembered; of more the one that has not changed for longest goes.
const ROOTS_MAX: usize = 1024;

/// Generations of one root that are remembered.
const GENERATIONS_MAX: usize = 3;

/// Other mirrors that are named for one content.
const MIRRORS_MAX: usize = 4;

/// How long a request waits for lists of packages that are just being read; after that it does without.
const PATIENCE: Duration = Duration::from_millis(1500);

/// The same for a root. It is short, and a client that has it wants the lists that it names, not those of the one before; but a disk may
/// be busy, and package managers give up after ten seconds without a byte.
const ROOT_PATIENCE: Duration = Duration::from_secs(6);

/// The BLAKE3 of a content.
pub type ContentId = [u8; 32];

pub use outlook::Outlook;

/// See the module head.
#[derive(Debug, Default)]
pub struct Generations {
    /// Where it is kept; nowhere in tests of others.
    folder: Option<PathBuf>,
    state: RwLock<State>,
    /// Held while a root is taken in and written down, so that nobody sweeps away what another has just written.
    writing: Mutex<()>,
    epoch: AtomicU64,
    /// Tells that something has been read.
    read: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct State {
    /// By the base of their packages, then by their own URLs.
    bases: BTreeMap<String, BTreeMap<Url, Root>>,
    /// All lists that have been read.
    catalogues: BTreeMap<String, Arc<Catalogue>>,
    /// Bases of which metadata is being read.
    reading: BTreeMap<String, Underway>,
}

#[derive(Debug)]
struct Root {
    folder: String,
    /// The newest first; never empty.
    generations: Vec<Generation>,
    /// When a client asked for it last, in milliseconds since 1970.
    asked_at: AtomicU64,
}

#[derive(Debug)]
struct Generation {
    object: ContentId,
    since: Timestamp,
    /// Length of the root.
    bytes: u64,
    listing: Listing,
    /// The names of the lists that it names, of which a distribution may have a thousand.
    lists: BTreeMap<String, Form>,
    /// Those that have been read: what a request looks into.
    read: BTreeMap<String, Arc<Catalogue>>,
}

/// How many files of a base are being read.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Underway {
    roots: usize,
    lists: usize,
}

/// What `roots` has of a root.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    url: String,
    asked_at: Timestamp,
    generations: Vec<(ContentId, Timestamp)>,
}

/// Metadata that has landed and is to be read; as long as this lives, requests for what it may name wait a little.
pub struct Reading {
    generations: Arc<Generations>,
    base: String,
    what: What,
}

#[derive(Debug, Clone)]
enum What {
    Root(Url, ContentId),
    List(String, Form),
}

/// A list that a root names, which may have arrived before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    pub url: Url,
    pub promise: Promise,
}

impl Generations {
    /// Takes up what an earlier run has learnt. Blocks.
    ///
    /// # Errors
    /// The folder cannot be made. What is damaged in it is left out.
    pub fn open(folder: &Path) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        let generations = Self { folder: Some(folder.to_owned()), ..Self::default() };
        let records =
            fs::read(folder.join("roots")).ok().and_then(|bytes| postcard::from_bytes::<Vec<Record>>(&bytes).ok());
        for record in records.unwrap_or_default() {
            let Ok(url) = Url::parse(&record.url) else { continue };
            for (object, since) in record.generations.into_iter().rev() {
                let bytes = fs::read(folder.join(root_name(&object))).ok();
                let right = bytes.filter(|bytes| blake3::hash(bytes).as_bytes() == &object);
                if let Some(bytes) = right {
                    let _ = generations.use_root(&url, object, &bytes, since);
                }
            }
            generations.note_asked(&url, record.asked_at);
        }
        generations.sweep();
        // What a crash has left of a list; nobody writes yet.
        for file in fs::read_dir(folder)?.flatten().filter(|file| file.path().extension().is_some_and(|it| it == "new"))
        {
            let _ = fs::remove_file(file.path());
        }
        Ok(generations)
    }

    /// Tells whenever metadata has been read.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.read.subscribe()
    }

    /// Changes whenever a promise may have.
    pub fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// What a generation says of a URL: the one that `handed` says that the client has, by the URL of its root, else the current one.
    /// Waits a little when it is not known yet and metadata of its repository is just being read.
    pub async fn promise(&self, url: &Url, handed: impl Fn(&Url) -> Option<ContentId>) -> Option<Promise> {
        let of_client =
            || self.find(url, |root_url, root, rest| root.generation(handed(root_url))?.promise(url, root, rest));
        if let Some(promise) = of_client() {
            return Some(promise);
        }
        let learnt = match self.patience(url) {
            Some(_) => {
                self.settled(url).await;
                of_client()
            }
            None => None,
        };
        learnt.or_else(|| self.current(url))
    }

    /// Do generations that are remembered name different contents under this URL? Then what is right depends on who asks.
    pub fn varies(&self, url: &Url) -> bool {
        let varies = self.find(url, |_, root, rest| {
            let promises = root.generations.iter().filter_map(|generation| generation.promise(url, root, rest));
            let digests: BTreeSet<Digest> = promises.map(|promise| promise.digest).collect();
            (digests.len() > 1).then_some(())
        });
        varies.is_some()
    }

    /// Bytes that all of this takes on disk.
    pub fn bytes(&self) -> u64 {
        let state = self.state();
        // Two roots may be the same file, as may two of mirrors.
        let roots: BTreeMap<ContentId, u64> = state.generations().map(|root| (root.object, root.bytes)).collect();
        roots.values().sum::<u64>() + state.catalogues.values().map(|catalogue| catalogue.bytes()).sum::<u64>()
    }

    /// What the current generation says of a URL.
    pub fn current(&self, url: &Url) -> Option<Promise> {
        self.find(url, |_, root, rest| root.generations.first()?.promise(url, root, rest))
    }

    /// Is anything known of this root?
    pub fn knows(&self, root: &Url) -> bool {
        self.state().root(root).is_some()
    }

    /// The files that generations of a root name, each with what takes its place in the next and differs from the current.
    pub fn parts(&self, url: &Url, next: &Listing) -> Vec<(Listed, Listed)> {
        let state = self.state();
        let Some((root, current)) = state.root(url).and_then(|root| Some((root, root.generations.first()?))) else {
            return Vec::new();
        };
        let listed = |path: &str, promise: &Promise| {
            Some(Listed { url: Url::parse(&format!("{}{path}", root.folder)).ok()?, promise: promise.clone() })
        };
        let changed =
            |path: &str| next.files.get(path).filter(|promised| current.listing.files.get(path) != Some(promised));
        let parts = root.generations.iter().flat_map(|old| {
            old.listing.files.iter().filter_map(|(path, promise)| {
                let other = next.counterpart(&old.listing, path)?;
                Some((listed(path, promise)?, listed(other, changed(other)?)?))
            })
        });
        parts.collect()
    }

    /// Does any generation that is remembered name it?
    pub fn is_named(&self, url: &Url) -> bool {
        let named = self.find(url, |_, root, rest| {
            root.generations.iter().find(|generation| generation.names(url, root, rest)).map(|_| ())
        });
        named.is_some()
    }

    /// URLs at which other mirrors have the package of this one: those whose current generation has the same list.
    pub fn mirrors(&self, url: &Url) -> Vec<Url> {
        let list = self.find(url, |_, root, rest| {
            let (list, _) = root.generations.first()?.package(rest)?;
            Some((list.to_owned(), rest.to_owned()))
        });
        let Some((list, rest)) = list else { return Vec::new() };
        let state = self.state();
        let has = |root: &Root| root.generations.first().is_some_and(|current| current.lists.contains_key(&list));
        let bases = state.bases.iter().filter(|(_, roots)| roots.values().any(has)).map(|(base, _)| base);
        let others = bases.filter(|base| !url.as_str().starts_with(base.as_str()));
        // The path as the client wrote it is as good for them.
        let path = |base: &str| {
            url.as_str().len().checked_sub(encoded_len(url, &rest)?).map(|at| format!("{base}{}", &url.as_str()[at..]))
        };
        others.filter_map(|base| Url::parse(&path(base)?).ok()).take(MIRRORS_MAX).collect()
    }

    /// Metadata has landed: is it to be read? From now until what is returned is dropped requests wait for that a little.
    pub fn arrived(self: &Arc<Self>, url: &Url, object: ContentId, digest: Option<&Digest>) -> Option<Reading> {
        let (base, what) = match root::place(url) {
            Some(place) => {
                let state = self.state();
                let known = state.bases.get(&place.base).and_then(|roots| roots.get(url)?.generations.first());
                let has_read = |known: &Generation| {
                    known.object == object && known.own().is_none_or(|own| known.read.contains_key(&own))
                };
                if known.is_some_and(has_read) {
                    return None;
                }
                (place.base, What::Root(url.clone(), object))
            }
            None => {
                let digest = digest?;
                let state = self.state();
                let named = state.bases_of(url).find_map(|(base, roots)| {
                    let form = roots.values().find_map(|root| root.generations.first()?.form_of(digest))?;
                    Some((base.to_owned(), form))
                });
                let (base, form) = named?;
                let name = list_name(digest);
                if state.catalogues.contains_key(&name) {
                    return None;
                }
                (base, What::List(name, form))
            }
        };
        *self.change().reading.entry(base.clone()).or_default().of(&what) += 1;
        Some(Reading { generations: self.clone(), base, what })
    }

    /// What is known of all repositories, with the URL that the packages of each lie below.
    pub fn status(&self) -> Vec<(Url, status::Root)> {
        let state = self.state();
        let roots = state.bases.iter().flat_map(|(base, roots)| roots.iter().map(move |(url, root)| (base, url, root)));
        let status = roots.filter_map(|(base, url, root)| {
            let current = root.generations.first()?;
            let root = status::Root {
                url: url.to_string(),
                made: current.listing.made,
                since: current.since,
                packages: current.read.values().map(|list| list.len() as u64).sum(),
                lists: current.read.len() as u64,
                earlier: root.generations.len() as u64 - 1,
            };
            Some((Url::parse(base).ok()?, root))
        });
        status.collect()
    }

    /// Of a mirror's root that is not the one that is served: is it an earlier generation than that?
    pub fn is_older(&self, url: &Url, candidate: &Listing) -> bool {
        let state = self.state();
        let served = state.root(url).and_then(|root| root.generations.first()?.listing.made);
        served.zip(candidate.made).is_some_and(|(served, candidate)| candidate < served)
    }

    /// Waits until nothing is being read of a URL's repository, or patience ends.
    async fn settled(&self, url: &Url) {
        let (mut read, since) = (self.read.subscribe(), Instant::now());
        while let Some(patience) = self.patience(url)
            && let Ok(Ok(())) = tokio::time::timeout_at(since + patience, read.changed()).await
        {}
    }

    /// How long what is asked about a URL may wait for what is being read of its repository.
    fn patience(&self, url: &Url) -> Option<Duration> {
        let state = self.state();
        if state.reading.is_empty() {
            return None;
        }
        let underway = prefixes(url).filter_map(|base| state.reading.get(base));
        underway.map(|it| if it.roots > 0 { ROOT_PATIENCE } else { PATIENCE }).max()
    }

    /// The first answer of a root whose repository the URL may belong to: the longest base first, of one base the newest root.
    fn find<T>(&self, url: &Url, look: impl Fn(&Url, &Root, &str) -> Option<T>) -> Option<T> {
        let state = self.state();
        if state.bases.is_empty() || url.as_str().contains('?') {
            return None;
        }
        state.bases_of(url).find_map(|(base, roots)| {
            let rest = decoded(&url.as_str()[base.len()..])?;
            let mut roots: Vec<_> = roots.iter().collect();
            roots.sort_by_key(|(_, root)| std::cmp::Reverse(root.generations.first().and_then(|g| g.listing.made)));
            roots.into_iter().find_map(|(url, root)| look(url, root, &rest))
        })
    }

    fn use_root(&self, url: &Url, object: ContentId, bytes: &[u8], since: Timestamp) -> io::Result<Vec<Listed>> {
        let place = root::place(url).ok_or(io::ErrorKind::InvalidInput)?;
        let listing = root::read(place.kind, bytes)?;
        let listed = listing.lists.iter().filter_map(|(path, _)| {
            let url = Url::parse(&format!("{}{path}", place.folder)).ok()?;
            Some(Listed { url, promise: listing.files.get(path)?.clone() })
        });
        let listed = listed.collect();
        let lists: BTreeMap<String, Form> = listing.digests().map(|(digest, form)| (list_name(digest), form)).collect();
        // What is known already, of another mirror or an earlier run, need not be read again.
        let unknown: Vec<&String> = {
            let state = self.state();
            lists.keys().filter(|name| !state.catalogues.contains_key(*name)).collect()
        };
        let open = |name: &String| Some((name.clone(), self.open_list(name).ok()?));
        let opened: Vec<_> = unknown.into_iter().filter_map(open).collect();
        let mut state = self.change();
        let known = |name: &String| Some((name.clone(), state.catalogues.get(name)?.clone()));
        let read = lists.keys().filter_map(known).collect();
        let roots = state.bases.entry(place.base).or_default();
        let root = roots.entry(url.clone()).or_insert_with(|| Root {
            folder: place.folder,
            generations: Vec::new(),
            asked_at: since.0.into(),
        });
        root.generations.retain(|generation| generation.object != object);
        root.generations.insert(0, Generation { object, since, bytes: bytes.len() as u64, listing, lists, read });
        root.generations.truncate(GENERATIONS_MAX);
        state.forget_surplus();
        for (name, catalogue) in opened {
            state.attach(&name, &catalogue);
        }
        drop(state);
        self.epoch.fetch_add(1, Ordering::Release);
        Ok(listed)
    }

    fn open_list(&self, name: &str) -> io::Result<Arc<Catalogue>> {
        let folder = self.folder.as_ref().ok_or(io::ErrorKind::NotFound)?;
        Catalogue::open(&folder.join(list_file(name))).map(Arc::new)
    }

    /// Reads a root that is itself the list. Before the root is used: what is malformed is none.
    fn read_own(&self, url: &Url, bytes: &[u8]) -> io::Result<()> {
        let place = root::place(url).ok_or(io::ErrorKind::InvalidInput)?;
        let own = root::read(place.kind, bytes)?.own;
        let Some(((digest, form), folder)) = own.zip(self.folder.as_ref()) else { return Ok(()) };
        Catalogue::write(form, bytes, &folder.join(list_file(&list_name(&digest)))).map(|_| ())
    }

    fn forget(&self, url: &Url) {
        if let Some(place) = root::place(url)
            && let Some(roots) = self.change().bases.get_mut(&place.base)
        {
            roots.remove(url);
        }
        self.epoch.fetch_add(1, Ordering::Release);
    }

    /// Writes down which roots there are. A failure costs that they have to be learnt again.
    fn record(&self) {
        let Some(folder) = &self.folder else { return };
        let records: Vec<Record> = {
            let state = self.state();
            let roots = state.bases.values().flatten();
            let record = |(url, root): (&Url, &Root)| Record {
                url: url.to_string(),
                asked_at: Timestamp(root.asked_at.load(Ordering::Relaxed)),
                generations: root.generations.iter().map(|generation| (generation.object, generation.since)).collect(),
            };
            roots.map(record).collect()
        };
        let written = postcard::to_allocvec(&records).map_err(io::Error::other);
        let written = written.and_then(|bytes| {
            fs::write(folder.join("roots.new"), bytes)?;
            fs::rename(folder.join("roots.new"), folder.join("roots"))
        });
        if let Err(error) = written {
            tracing::warn!(%error, "what is known of repositories cannot be written down");
        }
        self.sweep();
    }

    /// Deletes files that no generation names.
    fn sweep(&self) {
        let Some(folder) = &self.folder else { return };
        let needed: BTreeSet<String> = {
            let mut state = self.change();
            let lists: BTreeSet<String> = state.generations().flat_map(|it| it.lists.keys()).cloned().collect();
            state.catalogues.retain(|name, _| lists.contains(name));
            let roots = state.generations().map(|generation| root_name(&generation.object));
            roots.chain(lists.iter().map(|name| list_file(name))).collect()
        };
        for file in fs::read_dir(folder).into_iter().flatten().flatten() {
            let name = file.file_name().to_string_lossy().into_owned();
            if (name.ends_with(".root") || name.ends_with(".list")) && !needed.contains(&name) {
                let _ = fs::remove_file(file.path());
            }
        }
    }

    fn state(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reading {
    /// Reads what has landed; returns the lists that a root names, of which some may be here already. Blocks for as long as
    /// that takes: seconds for a list of tens of thousands of packages.
    ///
    /// # Errors
    /// It is malformed: then it is passed on as it came, and nothing is known of what it names.
    pub fn read(self, content: impl Read, now: Timestamp) -> io::Result<Vec<Listed>> {
        let generations = &self.generations;
        match &self.what {
            What::Root(url, object) => {
                let bytes = root::bytes_of(content)?;
                let _one_at_a_time = generations.writing.lock().unwrap_or_else(PoisonError::into_inner);
                // What cannot be read promises nothing, and neither does any more what it takes the place of.
                let own = generations.read_own(url, &bytes);
                let listed = own.and_then(|()| generations.use_root(url, *object, &bytes, now));
                let listed = listed.inspect_err(|_| generations.forget(url))?;
                if let Some(folder) = &generations.folder {
                    fs::write(folder.join(root_name(object)), &bytes)?;
                    generations.record();
                }
                Ok(listed)
            }
            What::List(name, form) => {
                let Some(folder) = &generations.folder else { return Ok(Vec::new()) };
                let path = folder.join(list_file(name));
                Catalogue::write(*form, content, &path)?;
                let catalogue = generations.open_list(name)?;
                generations.change().attach(name, &catalogue);
                generations.epoch.fetch_add(1, Ordering::Release);
                Ok(Vec::new())
            }
        }
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        let mut state = self.generations.change();
        if let Some(underway) = state.reading.get_mut(&self.base) {
            *underway.of(&self.what) -= 1;
            if *underway == Underway::default() {
                state.reading.remove(&self.base);
            }
        }
        drop(state);
        self.generations.read.send_replace(());
    }
}

impl Underway {
    fn of(&mut self, what: &What) -> &mut usize {
        match what {
            What::Root(..) => &mut self.roots,
            What::List(..) => &mut self.lists,
        }
    }
}

impl State {
    fn bases_of<'s>(&'s self, url: &'s Url) -> impl Iterator<Item = (&'s str, &'s BTreeMap<Url, Root>)> {
        prefixes(url).filter_map(|prefix| self.bases.get(prefix).map(|roots| (prefix, roots)))
    }

    fn root(&self, url: &Url) -> Option<&Root> {
        self.bases.get(&root::place(url)?.base)?.get(url)
    }

    fn generations(&self) -> impl Iterator<Item = &Generation> {
        self.bases.values().flat_map(BTreeMap::values).flat_map(|root| &root.generations)
    }

    /// A list has been read: all generations that name it know its packages.
    fn attach(&mut self, name: &str, catalogue: &Arc<Catalogue>) {
        let roots = self.bases.values_mut().flat_map(BTreeMap::values_mut);
        for generation in roots.flat_map(|root| &mut root.generations).filter(|it| it.lists.contains_key(name)) {
            generation.read.insert(name.to_owned(), catalogue.clone());
        }
        self.catalogues.insert(name.to_owned(), catalogue.clone());
    }

    fn forget_surplus(&mut self) {
        while self.bases.values().map(BTreeMap::len).sum::<usize>() > ROOTS_MAX {
            let since = |root: &Root| root.generations.first().map(|generation| generation.since);
            let all =
                self.bases.iter().flat_map(|(base, roots)| roots.iter().map(move |(url, root)| (base, url, root)));
            let Some((base, url)) = all.min_by_key(|(_, _, root)| since(root)).map(|(b, u, _)| (b.clone(), u.clone()))
            else {
                return;
            };
            if let Some(roots) = self.bases.get_mut(&base) {
                roots.remove(&url);
                if roots.is_empty() {
                    self.bases.remove(&base);
                }
            }
        }
    }
}

impl Root {
    /// The generation that has this root, if it is still remembered.
    fn generation(&self, object: Option<ContentId>) -> Option<&Generation> {
        let object = object?;
        self.generations.iter().find(|generation| generation.object == object)
    }
}

impl Generation {
    /// The list that the root is itself.
    fn own(&self) -> Option<String> {
        self.listing.own.as_ref().map(|(digest, _)| list_name(digest))
    }

    fn form_of(&self, digest: &Digest) -> Option<Form> {
        self.lists.get(&list_name(digest)).copied()
    }

    fn promise(&self, url: &Url, root: &Root, rest: &str) -> Option<Promise> {
        let file = url.as_str().strip_prefix(&root.folder).and_then(decoded);
        let file = file.and_then(|file| self.listing.files.get(&file).cloned());
        file.or_else(|| self.package(rest).and_then(|(_, package)| package.promise()))
    }

    /// Of a package without a digest it promises nothing.
    fn names(&self, url: &Url, root: &Root, rest: &str) -> bool {
        self.promise(url, root, rest).is_some() || self.package(rest).is_some()
    }

    /// The package at a path below the base, and the name of the list that says so.
    fn package(&self, rest: &str) -> Option<(&str, Package)> {
        self.read.iter().find_map(|(name, catalogue)| Some((name.as_str(), catalogue.by_path(rest)?)))
    }
}

/// All beginnings of a URL that end with a slash, the longest first, down to the root of its host.
fn prefixes(url: &Url) -> impl Iterator<Item = &str> {
    let text = url.as_str();
    let host_end = text.find("://").map_or(0, |at| at + 3);
    let mut end = text.len();
    std::iter::from_fn(move || {
        let at = text[..end].rfind('/').filter(|at| *at >= host_end)?;
        end = at;
        Some(&text[..=at])
    })
}

/// A path with its percent escapes resolved, as lists write it; `None` when it is not UTF-8 then.
fn decoded(path: &str) -> Option<String> {
    let bytes = path.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let escape = (bytes[at] == b'%').then(|| path.get(at + 1..at + 3)).flatten();
        match escape.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                out.push(byte);
                at += 3;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8(out).ok()
}

/// Bytes at the end of a URL that say this path.
fn encoded_len(url: &Url, rest: &str) -> Option<usize> {
    let is_it = |prefix: &&str| decoded(&url.as_str()[prefix.len()..]).as_deref() == Some(rest);
    prefixes(url).find(is_it).map(|prefix| url.as_str().len() - prefix.len())
}

fn list_name(digest: &Digest) -> String {
    format!("{}-{}", digest.algorithm().name(), digest.hex())
}

fn list_file(name: &str) -> String {
    format!("{name}.list")
}

fn root_name(object: &ContentId) -> String {
    format!("{}.root", blake3::Hash::from_bytes(*object).to_hex())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::classify::Algorithm;
    use crate::repos::tar::tests::archive;
    use sha2::Digest as _;

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    fn sha256(bytes: &[u8]) -> Digest {
        Digest::new(Algorithm::Sha256, &sha2::Sha256::digest(bytes)).unwrap()
    }

    fn packages(names: &[(&str, u64)]) -> String {
        let paragraph = |(name, number): &(&str, u64)| {
            format!(
                "Package: {name}\nVersion: 1\nFilename: pool/{name}_1.deb\nSize: {number}\nSHA256: {number:064x}\n\n"
            )
        };
        names.iter().map(paragraph).collect()
    }

    fn release(day: u8, packages: &str) -> String {
        let digest = sha256(packages.as_bytes()).hex();
        format!(
            "Suite: s\nDate: Sat, {day:02} Nov 2025 10:11:12 UTC\nSHA256:\n {digest} {} main/binary-amd64/Packages\n",
            packages.len()
        )
    }

    /// Both arrive and are read.
    fn arrive(generations: &Arc<Generations>, root: &str, release: &str, packages: &str) {
        let object = *blake3::hash(release.as_bytes()).as_bytes();
        let reading = generations.arrived(&url(root), object, None).unwrap();
        let listed = reading.read(release.as_bytes(), Timestamp(1)).unwrap();
        let list = listed[0].url.clone();
        if let Some(reading) = generations.arrived(&list, [0; 32], Some(&sha256(packages.as_bytes()))) {
            reading.read(packages.as_bytes(), Timestamp(1)).unwrap();
        }
    }

    fn promise(generations: &Generations, at: &str) -> Option<u64> {
        futures_util::FutureExt::now_or_never(generations.promise(&url(at), |_| None))
            .unwrap()
            .map(|promise| promise.size)
    }

    const ROOT: &str = "http://a.example.org/d/dists/s/InRelease";

    #[test]
    fn the_current_generation_promises_and_earlier_ones_are_remembered() {
        let dir = tempfile::tempdir().unwrap();
        let generations = Arc::new(Generations::open(dir.path()).unwrap());
        let (first, second) = (packages(&[("a+b", 1), ("old", 2)]), packages(&[("a+b", 3)]));
        let (old, at) = ("http://a.example.org/d/pool/old_1.deb", "http://a.example.org/d/pool/a%2Bb_1.deb");
        assert_eq!(promise(&generations, at), None);
        arrive(&generations, ROOT, &release(1, &first), &first);
        assert_eq!((promise(&generations, at), promise(&generations, old)), (Some(1), Some(2)));
        assert_eq!(promise(&generations, "http://a.example.org/d/pool/a+b_1.deb?x"), None);
        assert_eq!(promise(&generations, "http://a.example.org/pool/a+b_1.deb"), None);
        let list = "http://a.example.org/d/dists/s/main/binary-amd64/Packages";
        assert_eq!(promise(&generations, list), Some(first.len() as u64));

        // The new root has come, its list has not: of packages it says nothing yet.
        let (epoch, next) = (generations.epoch(), release(2, &second));
        let object = *blake3::hash(next.as_bytes()).as_bytes();
        let reading = generations.arrived(&url(ROOT), object, None).unwrap();
        assert!(
            generations.patience(&url(at)).is_some()
                && generations.patience(&url("http://b.example.org/d/x")).is_none()
        );
        reading.read(next.as_bytes(), Timestamp(2)).unwrap();
        assert!(generations.patience(&url(at)).is_none() && generations.epoch() > epoch);
        assert_eq!((promise(&generations, at), promise(&generations, list)), (None, Some(second.len() as u64)));
        assert!(generations.arrived(&url(ROOT), object, None).is_none(), "it is known");
        arrive(&generations, "http://a.example.org/d/dists/s/Release", &next, &second);
        assert_eq!((promise(&generations, at), promise(&generations, old)), (Some(3), None));
        let handed = *blake3::hash(release(1, &first).as_bytes()).as_bytes();
        let list_url = url(list);
        let of_client = generations.promise(&list_url, |root| (*root == url(ROOT)).then_some(handed));
        let of_client = futures_util::FutureExt::now_or_never(of_client).unwrap();
        assert_eq!(
            of_client.map(|promise| promise.size),
            Some(first.len() as u64),
            "who has the first still gets its list"
        );
        assert!(generations.is_named(&url(old)) && !generations.is_named(&url("http://a.example.org/d/pool/x.deb")));
        assert!(generations.varies(&url(at)) && !generations.varies(&url(old)));

        // After a restart all is as it was.
        let on_disk: u64 = fs::read_dir(dir.path()).unwrap().flatten().map(|file| file.metadata().unwrap().len()).sum();
        let index = fs::metadata(dir.path().join("roots")).unwrap().len();
        assert_eq!(generations.bytes() + index, on_disk);
        let status = generations.status();
        let again = Generations::open(dir.path()).unwrap();
        assert_eq!((promise(&again, at), again.is_named(&url(old))), (Some(3), true));
        assert_eq!(again.status(), status);
        assert_eq!((status.len(), status[0].1.packages, status[0].1.earlier), (2, 1, 1));
    }

    #[test]
    fn roots_that_are_lists_themselves() {
        let dir = tempfile::tempdir().unwrap();
        let generations = Arc::new(Generations::open(dir.path()).unwrap());
        let desc = |size: u32| {
            format!("%FILENAME%\na-1.pkg.tar.zst\n\n%NAME%\na\n\n%CSIZE%\n{size}\n\n%SHA256SUM%\n{size:064x}\n")
        };
        let index = "P:b\nV:1\nS:1\n".to_owned();
        let (database, at) =
            (url("http://a.example.org/core/os/core.db"), "http://a.example.org/core/os/a-1.pkg.tar.zst");
        let (apkindex, apk) =
            (url("http://a.example.org/v3/main/APKINDEX.tar.gz"), url("http://a.example.org/v3/main/b-1.apk"));
        let object = |archive: &[u8]| *blake3::hash(archive).as_bytes();
        for (root, name, text) in
            [(&database, "a-1/desc", desc(7)), (&apkindex, "APKINDEX", index), (&database, "a-1/desc", desc(8))]
        {
            let archive = archive(&[(name, &text)]);
            let reading = generations.arrived(root, object(&archive), None).unwrap();
            assert_eq!(reading.read(&archive[..], Timestamp(1)).unwrap(), []);
            assert!(generations.arrived(root, object(&archive), None).is_none(), "it is known");
        }
        let again = Generations::open(dir.path()).unwrap();
        for generations in [&*generations, &again] {
            assert_eq!((promise(generations, at), promise(generations, database.as_str())), (Some(8), None));
            assert_eq!((promise(generations, apk.as_str()), generations.is_named(&apk)), (None, true));
        }
        let reading = generations.arrived(&url("http://b.example.org/x.db"), [1; 32], None).unwrap();
        assert!(reading.read(&b"something else"[..], Timestamp(1)).is_err());
        assert_eq!(generations.status().len(), 2);
    }

    #[test]
    fn mirrors_with_the_same_list_have_the_same_packages() {
        let dir = tempfile::tempdir().unwrap();
        let generations = Arc::new(Generations::open(dir.path()).unwrap());
        let (same, other) = (packages(&[("p+p", 1)]), packages(&[("p+p", 2)]));
        arrive(&generations, ROOT, &release(1, &same), &same);
        arrive(&generations, "https://b.example.org/x/y/dists/t/InRelease", &release(2, &same), &same);
        arrive(&generations, "http://c.example.org/dists/s/InRelease", &release(3, &other), &other);
        let at = url("http://a.example.org/d/pool/p%2Bp_1.deb");
        assert_eq!(generations.mirrors(&at), [url("https://b.example.org/x/y/pool/p%2Bp_1.deb")]);
        assert_eq!(generations.mirrors(&url("http://a.example.org/d/pool/none.deb")), []);
        let lists =
            fs::read_dir(dir.path()).unwrap().flatten().filter(|f| f.path().extension().is_some_and(|e| e == "list"));
        assert_eq!(lists.count(), 2, "what two have in common is kept once");
    }

    #[test]
    fn what_is_malformed_promises_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let generations = Arc::new(Generations::open(dir.path()).unwrap());
        let reading = generations.arrived(&url(ROOT), [1; 32], None).unwrap();
        assert!(reading.read(&b"<html>"[..], Timestamp(1)).is_err());
        let list = packages(&[("a", 1)]);
        arrive(&generations, ROOT, &release(1, &list), &list);
        let next = release(2, "torn");
        let object = *blake3::hash(next.as_bytes()).as_bytes();
        let listed =
            generations.arrived(&url(ROOT), object, None).unwrap().read(next.as_bytes(), Timestamp(1)).unwrap();
        let reading = generations.arrived(&listed[0].url, [0; 32], Some(&sha256(b"torn"))).unwrap();
        assert!(reading.read(&b"torn"[..], Timestamp(1)).is_err());
        assert_eq!(promise(&generations, "http://a.example.org/d/pool/a_1.deb"), None);
        assert!(generations.patience(&url(ROOT)).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn requests_wait_a_little_for_what_is_being_read() {
        let dir = tempfile::tempdir().unwrap();
        let generations = Arc::new(Generations::open(dir.path()).unwrap());
        let list = packages(&[("a", 7)]);
        let first = packages(&[("b", 1)]);
        arrive(&generations, ROOT, &release(1, &first), &first);
        let text = release(2, &list);
        let root = generations.arrived(&url(ROOT), *blake3::hash(text.as_bytes()).as_bytes(), None).unwrap();
        let listed = root.read(text.as_bytes(), Timestamp(1)).unwrap();
        let reading = generations.arrived(&listed[0].url, [0; 32], Some(&sha256(list.as_bytes()))).unwrap();
        let at = url("http://a.example.org/d/pool/a_1.deb");
        assert_eq!(generations.promise(&at, |_| None).await, None, "it takes too long");
        let waiting = generations.promise(&at, |_| None);
        let read = async { reading.read(list.as_bytes(), Timestamp(1)).unwrap() };
        let (promise, _) = futures_util::future::join(waiting, read).await;
        assert_eq!(promise.unwrap().size, 7);
    }

    #[tokio::test(start_paused = true)]
    async fn requests_wait_longer_for_a_root() {
        let dir = tempfile::tempdir().unwrap();
        let generations = Arc::new(Generations::open(dir.path()).unwrap());
        let (first, second) = (packages(&[("a", 1)]), packages(&[("a", 2), ("b", 3)]));
        arrive(&generations, ROOT, &release(1, &first), &first);
        let text = release(2, &second);
        let object = *blake3::hash(text.as_bytes()).as_bytes();
        let reading = generations.arrived(&url(ROOT), object, None).unwrap();
        let list = url("http://a.example.org/d/dists/s/main/binary-amd64/Packages");
        let of_client = generations.promise(&list, |_| Some(object));
        let read = async {
            tokio::time::sleep(2 * PATIENCE).await;
            reading.read(text.as_bytes(), Timestamp(2)).unwrap()
        };
        let (promise, _) = futures_util::future::join(of_client, read).await;
        assert_eq!(promise.unwrap().size, second.len() as u64, "who has the second gets its list");
    }
}

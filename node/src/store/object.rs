//! What is stored and what is known of it.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use serde::{Deserialize, Serialize};

use crate::classify::{Class, Digest, KeyHash, Url};
use crate::os::clock::Timestamp;

/// The BLAKE3 of a content: its name in the store.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ObjectId(pub [u8; 32]);

impl ObjectId {
    /// From 64 hexadecimal digits.
    pub fn from_hex(hex: &str) -> Option<Self> {
        blake3::Hash::from_hex(hex).ok().map(|hash| Self(*hash.as_bytes()))
    }
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&blake3::Hash::from_bytes(self.0).to_hex())
    }
}

impl fmt::Debug for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What upstream said with the content and is worth keeping.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    pub status: StatusCode,
    pub fields: HeaderMap,
}

/// All that a download will be stored as.
#[derive(Debug, Clone)]
pub struct Plan {
    pub url: Url,
    pub key: KeyHash,
    pub class: Class,
    pub head: Head,
    /// Length, if upstream told it.
    pub total: Option<u64>,
    /// The digest that the content must have, if one is known.
    pub digest: Option<Digest>,
    /// When upstream said that this is its current version; `None`: just now.
    pub confirmed_at: Option<Timestamp>,
}

/// What the index knows of one key.
#[derive(Debug)]
pub struct Entry {
    pub url: Url,
    pub key: KeyHash,
    pub class: Class,
    pub object: ObjectId,
    pub size: u64,
    pub head: Head,
    /// A repository digest that the content was checked against.
    pub digest: Option<Digest>,
    pub stored_at: Timestamp,
    pub(super) confirmed_at: AtomicU64,
    pub(super) used_at: AtomicU64,
    pub(super) uses: AtomicU64,
}

impl Entry {
    pub(super) fn new(plan: &Plan, object: ObjectId, size: u64, now: Timestamp) -> Self {
        Self {
            url: plan.url.clone(),
            key: plan.key,
            class: plan.class,
            object,
            size,
            head: plan.head.clone(),
            digest: plan.digest.clone(),
            stored_at: now,
            confirmed_at: AtomicU64::new(now.0),
            used_at: AtomicU64::new(now.0),
            uses: AtomicU64::new(1),
        }
    }

    /// When upstream last confirmed that this is its current version.
    pub fn confirmed_at(&self) -> Timestamp {
        Timestamp(self.confirmed_at.load(Ordering::Relaxed))
    }

    pub fn used_at(&self) -> Timestamp {
        Timestamp(self.used_at.load(Ordering::Relaxed))
    }

    pub fn uses(&self) -> u64 {
        self.uses.load(Ordering::Relaxed)
    }

    pub(super) fn touch(&self, now: Timestamp) {
        self.used_at.store(now.0, Ordering::Relaxed);
        self.uses.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes over what another copy of the same entry has seen since.
    pub(super) fn touched_as(&self, other: &Self) {
        let newest =
            |mine: &AtomicU64, theirs: &AtomicU64| mine.fetch_max(theirs.load(Ordering::Relaxed), Ordering::Relaxed);
        newest(&self.confirmed_at, &other.confirmed_at);
        newest(&self.used_at, &other.used_at);
        newest(&self.uses, &other.uses);
    }
}

/// An entry as it is written to disk. Version 1: fields are only ever added in a new version.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct EntryOnDisk {
    url: String,
    key: KeyHash,
    class: Class,
    object: ObjectId,
    size: u64,
    status: u16,
    fields: Vec<(String, Vec<u8>)>,
    digest: Option<Digest>,
    stored_at: Timestamp,
    confirmed_at: Timestamp,
    used_at: Timestamp,
    uses: u64,
}

impl From<&Entry> for EntryOnDisk {
    fn from(entry: &Entry) -> Self {
        let (status, fields) = head_on_disk(&entry.head);
        Self {
            url: entry.url.to_string(),
            key: entry.key,
            class: entry.class,
            object: entry.object,
            size: entry.size,
            status,
            fields,
            digest: entry.digest.clone(),
            stored_at: entry.stored_at,
            confirmed_at: entry.confirmed_at(),
            used_at: entry.used_at(),
            uses: entry.uses(),
        }
    }
}

impl EntryOnDisk {
    /// `None` when it is not what this program wrote.
    pub(super) fn into_entry(self) -> Option<Entry> {
        Some(Entry {
            url: Url::parse(&self.url).ok()?,
            key: self.key,
            class: self.class,
            object: self.object,
            size: self.size,
            head: head_from_disk(self.status, &self.fields)?,
            digest: self.digest,
            stored_at: self.stored_at,
            confirmed_at: AtomicU64::new(self.confirmed_at.0),
            used_at: AtomicU64::new(self.used_at.0),
            uses: AtomicU64::new(self.uses),
        })
    }
}

pub(super) fn head_on_disk(head: &Head) -> (u16, Vec<(String, Vec<u8>)>) {
    let fields = head.fields.iter().map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec()));
    (head.status.as_u16(), fields.collect())
}

pub(super) fn head_from_disk(status: u16, fields: &[(String, Vec<u8>)]) -> Option<Head> {
    let mut map = HeaderMap::with_capacity(fields.len());
    for (name, value) in fields {
        map.append(HeaderName::try_from(name.as_str()).ok()?, HeaderValue::from_bytes(value).ok()?);
    }
    Some(Head { status: StatusCode::from_u16(status).ok()?, fields: map })
}

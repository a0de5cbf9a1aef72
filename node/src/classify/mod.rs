//! What a URL names: its key, its class, its format and the digest it may carry. Pure; one table-tested file per
//! family. Does no I/O and knows nothing of hosts: classes come from the form of a path alone (R15).

mod called;
pub mod digest;
pub mod family;
mod place;
pub mod url;

use serde::{Deserialize, Serialize};

pub use called::{called, called_by_path};
pub use digest::{Algorithm, Digest};
pub use family::{cache_key, classify};
pub use url::{BadUrl, KeyHash, Url};

use crate::ledger::Subject;

/// The family of package managers that a path belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Format {
    Rpm,
    Deb,
    Arch,
    Alpine,
}

/// How the content under a URL behaves over time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Class {
    /// A package (or its detached signature, delta or source archive): practically never changes under its name.
    Package,
    /// Metadata named by its own digest (`by-hash/SHA256/…`, `repodata/<sha256>-primary.xml.gz`): never changes.
    ImmutableMetadata,
    /// Metadata under a fixed name (`repomd.xml`, `InRelease`, `*.db`, `APKINDEX.tar.gz`, metalinks, mirror lists).
    MutableMetadata,
    /// Not ours (R4).
    Other,
}

/// What `classify` finds out about a URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Classified {
    pub class: Class,
    /// `None` for `Class::Other`.
    pub format: Option<Format>,
    /// The digest that the content must have, if the name itself promises one or the repository's metadata does.
    pub digest: Option<Digest>,
    /// Its length in bytes, if the repository's metadata says so.
    pub size: Option<u64>,
}

impl Classified {
    /// What it is looked for, fetched and shared under: the content itself where it is known, else its URL.
    pub fn key(&self, url: &Url) -> KeyHash {
        self.digest.as_ref().and_then(Digest::content_key).unwrap_or_else(|| url.key_hash())
    }
}

impl Class {
    /// Is it "ours" in the sense of the decision tree?
    pub fn is_ours(self) -> bool {
        self != Self::Other
    }
}

impl From<Class> for Subject {
    fn from(class: Class) -> Self {
        match class {
            Class::Package => Self::Package,
            Class::ImmutableMetadata => Self::ImmutableMetadata,
            Class::MutableMetadata => Self::MutableMetadata,
            Class::Other => Self::Other,
        }
    }
}

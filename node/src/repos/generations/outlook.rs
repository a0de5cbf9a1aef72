//! What is known of repositories as a whole, for those who look ahead: which lists there are, what is new in them, what they lack.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{ContentId, Generation, Generations, Listed, Root, list_name};
use crate::classify::{Url, called};
use crate::os::clock::Timestamp;
use crate::repos::Promise;
use crate::repos::catalogue::Catalogue;

/// A root and the lists of its current generation.
#[derive(Debug, Clone)]
pub struct Outlook {
    pub url: Url,
    /// What the packages lie below: a URL that ends with a slash.
    pub base: String,
    /// When a client asked for the root last.
    pub asked_at: Timestamp,
    /// The lists of the current generation that have been read.
    pub lists: Vec<Arc<Catalogue>>,
    /// Those of the oldest generation that is remembered; none if that is the current one.
    pub earlier: Vec<Arc<Catalogue>>,
    /// Lists of the current generation that have not been read, while those in whose place they came had been.
    pub lacking: Vec<Listed>,
}

/// What repositories say of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    /// The root of the generation that says it.
    pub root: Url,
    pub is_current: bool,
    pub promise: Option<Promise>,
}

impl Generations {
    /// What the newest generation that names a URL says of it.
    pub fn said(&self, url: &Url) -> Option<Said> {
        self.find(url, |root_url, root, rest| {
            let mut naming = root.generations.iter().enumerate().filter(|(_, it)| it.names(url, root, rest));
            let (age, generation) = naming.next()?;
            Some(Said { root: root_url.clone(), is_current: age == 0, promise: generation.promise(url, root, rest) })
        })
    }

    /// All roots that are known.
    pub fn outlooks(&self) -> Vec<Outlook> {
        let state = self.state();
        let roots = state.bases.iter().flat_map(|(base, roots)| roots.iter().map(move |(url, root)| (base, url, root)));
        let outlooks = roots.filter_map(|(base, url, root)| {
            let current = root.generations.first()?;
            let earlier = root.generations[1..].iter().rfind(|generation| !generation.read.is_empty());
            Some(Outlook {
                url: url.clone(),
                base: base.clone(),
                asked_at: Timestamp(root.asked_at.load(Ordering::Relaxed)),
                lists: current.read.values().cloned().collect(),
                earlier: earlier.map(|generation| generation.read.values().cloned().collect()).unwrap_or_default(),
                lacking: root.lacking(current),
            })
        });
        outlooks.collect()
    }

    /// The version of a root that is current.
    pub fn current_root(&self, root: &Url) -> Option<ContentId> {
        Some(self.state().root(root)?.generations.first()?.object)
    }

    /// A client has asked for this root.
    pub fn note_asked(&self, root: &Url, now: Timestamp) {
        if let Some(root) = self.state().root(root) {
            root.asked_at.store(now.0, Ordering::Relaxed);
        }
    }

    /// Has this package gone from its repository, which has others for the same architecture? So have old versions. It may still be
    /// named by a root below the same base for which nobody asks here; then nobody asks for it either.
    pub fn is_superseded(&self, url: &Url) -> bool {
        let Some(called) = called(url).filter(|_| !self.is_named(url)) else { return false };
        let arch = called.rsplit_once(':').map_or("", |(_, arch)| arch);
        let is_for = |root: &Root| {
            let current = root.generations.first()?;
            current.read.values().any(|list| list.arches().contains_key(arch)).then_some(())
        };
        self.find(url, |_, root, _| is_for(root)).is_some()
    }
}

impl Root {
    fn lacking(&self, current: &Generation) -> Vec<Listed> {
        let mut lacking: BTreeMap<&str, Listed> = BTreeMap::new();
        for earlier in &self.generations[1..] {
            for (path, promise) in &earlier.listing.files {
                if !earlier.read.contains_key(&list_name(&promise.digest)) {
                    continue;
                }
                let Some(next) = current.listing.counterpart(&earlier.listing, path) else { continue };
                let Some(promised) = current.listing.files.get(next) else { continue };
                let is_read = current.read.contains_key(&list_name(&promised.digest));
                if let (false, Ok(url)) = (is_read, Url::parse(&format!("{}{next}", self.folder))) {
                    lacking.insert(next, Listed { url, promise: promised.clone() });
                }
            }
        }
        lacking.into_values().collect()
    }
}

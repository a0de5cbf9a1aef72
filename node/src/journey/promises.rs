//! What repositories say of their contents (R16, R17): which digest a file has to have, where else it can be had, and how the
//! node learns that from the metadata that passes through it.

use std::sync::Arc;

use http::{Method, StatusCode};

use super::{Asked, Caller, Journey, is_right};
use crate::classify::{Classified, Digest, Url, classify};
use crate::fault::{Cause, Fault};
use crate::flight::{Flight, Landing};
use crate::os::tasks;
use crate::repos::{Listed, Reading, root};
use crate::store::Entry;

/// What a client is handed under a root's name.
pub(super) enum Handing<'a> {
    Stored(&'a Entry),
    Flying(&'a Arc<Flight>),
    /// Nobody here knows it.
    Passed,
}

impl Journey {
    /// Adds what the repository's metadata says of a URL: of the generation that the client has, if it is known.
    pub(super) async fn promised(&self, url: &Url, mut classified: Classified, client: Option<Caller>) -> Classified {
        let handed = |root: &Url| self.0.handed.get(client?, root);
        if classified.class.is_ours()
            && classified.digest.is_none()
            && let Some(promise) = self.0.options.generations.promise(url, handed).await
        {
            classified.digest = Some(promise.digest);
            classified.size = Some(promise.size);
        }
        classified
    }

    /// What is stored of a URL and is what it has to be: under the URL, else by its content. What was stored before its digest
    /// was known is compared with it once.
    pub(super) async fn stored(&self, url: &Url, classified: &Classified) -> Option<Arc<Entry>> {
        let entry = self.found(url, classified).await?;
        // Another client may still want what an earlier generation has under this name.
        let is_current =
            || self.0.options.generations.current(url).is_none_or(|it| Some(&it.digest) == entry.digest.as_ref());
        let is_found_by_content = entry.key != url.key_hash() && classified.digest.is_some();
        if is_found_by_content && is_current() {
            let linked = self.0.store.link(&entry, url.key_hash(), url.clone()).await?;
            return is_right(&linked, classified).then_some(linked);
        }
        Some(entry)
    }

    /// As [`Self::stored`], without giving it another name.
    pub(super) async fn found(&self, url: &Url, classified: &Classified) -> Option<Arc<Entry>> {
        let store = &self.0.store;
        let by_url = store.lookup(url.key_hash()).await.unwrap_or_default();
        let Some(digest) = &classified.digest else { return by_url };
        if let Some(entry) = by_url {
            let entry = store.with_digest(&entry, digest.algorithm()).await.ok();
            if let Some(entry) = entry.filter(|entry| is_right(entry, classified)) {
                return Some(entry);
            }
        }
        let entry = store.lookup(digest.content_key()?).await.unwrap_or_default()?;
        is_right(&entry, classified).then_some(entry)
    }

    /// A client that gets a root of a repository, or hears that the one that it has is current, will ask for what that one names.
    pub(super) fn note_handed(&self, asked: &Asked, status: StatusCode, root: Handing<'_>) {
        let is_got = asked.method == Method::GET && (status.is_success() || status == StatusCode::NOT_MODIFIED);
        let Some(client) = asked.client.filter(|_| is_got && root::place(&asked.key).is_some()) else { return };
        self.0.options.generations.note_asked(&asked.key, self.0.clock.now());
        let object = match root {
            Handing::Stored(entry) => Some(entry.object.0),
            Handing::Flying(_) | Handing::Passed => None,
        };
        self.0.handed.note(client, &asked.key, object);
        let Handing::Flying(flight) = root else { return };
        // Which one it is will be known before the client has all of it.
        let (journey, flight, root) = (self.clone(), flight.clone(), asked.key.clone());
        tasks::spawn("handed", async move {
            flight.landed().await;
            if let Some(entry) = flight.entry() {
                journey.0.handed.note(client, &root, Some(entry.object.0));
            }
        });
    }

    /// Does a generation of a repository that is still served name it?
    pub(super) fn is_named(&self, url: &Url) -> bool {
        self.0.options.generations.is_named(url)
    }

    /// Where a content can be had: the sources that are configured, then other mirrors of the same repository.
    pub(super) fn sources(&self, url: &Url, mut sources: Vec<Url>) -> Vec<Url> {
        for other in self.0.options.generations.mirrors(url) {
            if !sources.contains(&other) {
                sources.push(other);
            }
        }
        sources
    }

    /// What is done with all that lands: it gets its names, and what is metadata is read.
    pub(super) fn landing(&self) -> Landing {
        let journey = self.clone();
        Box::new(move |entry| {
            let reading = journey.0.options.generations.arrived(&entry.url, entry.object.0, entry.digest.as_ref());
            let is_found_by_content = entry.digest.as_ref().and_then(Digest::content_key).is_some();
            if reading.is_none() && !is_found_by_content {
                return;
            }
            let entry = entry.clone();
            tasks::spawn("landed", async move {
                journey.0.store.pair(&entry).await;
                if let Some(reading) = reading {
                    journey.read(&entry, reading).await;
                }
            });
        })
    }
}

impl Journey {
    /// Reads metadata that has landed, behind the requests; what a root names may be here already, and is read, too.
    pub(super) async fn read(&self, entry: &Arc<Entry>, reading: Reading) {
        let Some(listed) = self.read_one(entry, reading).await else { return };
        for list in listed {
            let mut classified = classify(&list.url);
            classified.digest = Some(list.promise.digest);
            let Some(entry) = self.found(&list.url, &classified).await else { continue };
            let reading = self.0.options.generations.arrived(&list.url, entry.object.0, entry.digest.as_ref());
            if let Some(reading) = reading {
                self.read_one(&entry, reading).await;
            }
        }
    }

    async fn read_one(&self, entry: &Arc<Entry>, reading: Reading) -> Option<Vec<Listed>> {
        let blob = self.0.store.open_blob(entry).await.ok()?;
        let now = self.0.clock.now();
        let read = tasks::blocking("read metadata", move || reading.read(blob.reader(), now)).await;
        match read.unwrap_or_else(|panic| Err(std::io::Error::other(panic.to_string()))) {
            Ok(listed) => {
                self.0.store.set_aside(self.0.options.generations.bytes());
                Some(listed)
            }
            Err(error) => {
                tracing::warn!(url = %entry.url, %error, "metadata cannot be read; it is passed on as it came");
                let detail = format!("metadata that cannot be read; it is passed on as it came: {error}").into();
                let fault = Fault::new(Cause::Malformed { host: entry.url.authority().into(), detail });
                self.0.ledger.failed(now, entry.url.as_str(), &fault);
                None
            }
        }
    }
}

//! Names of one object: the URL under which it was fetched, the URLs of other mirrors, and, where a strong digest of it is
//! known, the content itself (R16).

use std::sync::Arc;
use std::sync::atomic::Ordering;

use http::header::ETAG;

use super::blob::Blob;
use super::growing::hasher;
use super::index::Change;
use super::{Entry, Hot, Plan, Store, blocking};
use crate::classify::{Algorithm, Digest, KeyHash, Url};
use crate::fault::Fault;

/// Bytes hashed at once.
const PIECE: u64 = 1024 * 1024;

impl Store {
    /// Lets an object be found under another key, too: what upstream said of it holds there as well. `None` when the object
    /// has gone in the meantime.
    pub async fn link(&self, entry: &Arc<Entry>, key: KeyHash, url: Url) -> Option<Arc<Entry>> {
        let (store, entry) = (self.clone(), entry.clone());
        blocking("name an object", move || store.link_now(&entry, key, url)).await.unwrap_or_default()
    }

    fn link_now(&self, entry: &Arc<Entry>, key: KeyHash, url: Url) -> Result<Option<Arc<Entry>>, Fault> {
        self.wait_for_writer();
        let now = self.0.clock.now();
        let mut plan = entry.plan();
        if url.authority() != entry.url.authority() {
            // Entity tags are each server's own, dates are kept by mirrors.
            plan.head.fields.remove(ETAG);
        }
        (plan.key, plan.url) = (key, url);
        let linked = Arc::new(Entry::new(&plan, entry.object, entry.size, now));
        linked.confirmed_at.store(entry.confirmed_at().0, Ordering::Relaxed);
        let files = &self.0.files;
        let path = files.entry(&entry.object, &key);
        let error = |e: std::io::Error| Fault::disk(path.display(), &e);
        // From here until look-ups see the entry nobody may delete the object.
        let _naming = self.naming();
        if self.0.index.look_up(&entry.key)?.is_none_or(|known| known.object != entry.object) {
            return Ok(None);
        }
        files.write_new_entry(&linked).and_then(|copy| copy.replace(&path)).map_err(error)?;
        let order = self.order();
        self.change(&order, Change::Put(linked.clone()));
        match self.0.hot.peek(&entry.key).filter(|hot| hot.entry.object == entry.object) {
            Some(hot) => {
                self.0.hot.insert(key, Hot::new(linked.clone(), hot.blob.clone()));
            }
            None => drop(self.0.hot.remove(&key)),
        }
        Ok(Some(linked))
    }

    /// Lets what is stored under its URL be found by its content, and the other way round.
    pub async fn pair(&self, entry: &Arc<Entry>) {
        let Some(other) = entry.other_name() else { return };
        let known = self.lookup(other).await.unwrap_or_default();
        if known.is_none_or(|known| known.object != entry.object) {
            self.link(entry, other, entry.url.clone()).await;
        }
    }

    /// The entry with its content's digest by this algorithm, which is worked out unless it is known. Reads all of it.
    pub async fn with_digest(&self, entry: &Arc<Entry>, algorithm: Algorithm) -> Result<Arc<Entry>, Fault> {
        if entry.digest.as_ref().is_some_and(|digest| digest.algorithm() == algorithm) {
            return Ok(entry.clone());
        }
        let blob = self.open_blob(entry).await?;
        let (store, old) = (self.clone(), entry.clone());
        let hashed = blocking("hash an object", move || store.set_digest(&old, digest_of(&blob, algorithm)?)).await;
        let known = hashed.inspect_err(|fault| self.drop_damaged(entry, fault))?;
        self.pair(&known).await;
        Ok(known)
    }

    fn set_digest(&self, entry: &Arc<Entry>, digest: Digest) -> Result<Arc<Entry>, Fault> {
        let known =
            Entry::new(&Plan { digest: Some(digest), ..entry.plan() }, entry.object, entry.size, entry.stored_at);
        known.confirmed_at.store(entry.confirmed_at().0, Ordering::Relaxed);
        known.touched_as(entry);
        let known = Arc::new(known);
        let order = self.order();
        if self.0.index.look_up(&entry.key)?.is_some_and(|current| current.object == entry.object) {
            self.0.hot.remove(&entry.key);
            self.change(&order, Change::Put(known.clone()));
        }
        Ok(known)
    }

    /// The other name that an object has on account of the same URL, if it has.
    pub(super) fn twin(&self, entry: &Entry) -> Option<KeyHash> {
        let other = entry.other_name()?;
        let known = self.0.index.look_up(&other).ok()??;
        (known.object == entry.object && known.url == entry.url).then_some(other)
    }
}

impl Entry {
    fn plan(&self) -> Plan {
        Plan {
            url: self.url.clone(),
            key: self.key,
            class: self.class,
            head: self.head.clone(),
            total: Some(self.size),
            digest: self.digest.clone(),
            confirmed_at: None,
        }
    }

    /// Is it found by its content?
    pub(super) fn is_by_content(&self) -> bool {
        self.digest.as_ref().and_then(Digest::content_key) == Some(self.key)
    }

    fn other_name(&self) -> Option<KeyHash> {
        let content = self.digest.as_ref()?.content_key()?;
        Some(if self.key == content { self.url.key_hash() } else { content })
    }
}

fn digest_of(blob: &Blob, algorithm: Algorithm) -> Result<Digest, Fault> {
    let mut hasher = hasher(algorithm);
    let mut at = 0;
    while at < blob.len() {
        let piece = blob.check(at..(at + PIECE).min(blob.len()))?;
        hasher.update(&piece);
        at += piece.len() as u64;
    }
    Digest::new(algorithm, &hasher.finalize()).ok_or_else(|| Fault::internal("a digest of the wrong length"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::tests::{put, store_in};

    const URL: &str = "http://a.example.org/p";

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    #[tokio::test]
    async fn an_object_is_found_by_its_content_and_by_other_urls() {
        let dir = tempfile::tempdir().unwrap();
        let (store, _) = store_in(&dir);
        let entry = put(&store, URL, b"content").await;
        assert_eq!(entry.digest, None);
        let known = store.with_digest(&entry, Algorithm::Sha256).await.unwrap();
        let digest = known.digest.clone().unwrap();
        assert_eq!(digest.hex(), "ed7002b439e9ac845f22357d822bac1444730fbdb6016d3ec9432297b9ec9f73");
        assert_eq!(store.lookup(entry.key).await.unwrap().unwrap().digest, Some(digest.clone()));
        let content = store.lookup(digest.content_key().unwrap()).await.unwrap().unwrap();
        assert_eq!((content.object, content.is_by_content(), known.is_by_content()), (entry.object, true, false));

        let other = url("http://b.example.org/q/p");
        let linked = store.link(&content, other.key_hash(), other.clone()).await.unwrap();
        assert_eq!((linked.object, &linked.url), (entry.object, &other));
        assert_eq!(store.open_blob(&linked).await.unwrap().bytes(0..7).await.unwrap(), &b"content"[..]);
        store.settle();
        assert_eq!((store.usage().objects, store.usage().bytes), (1, 7), "it is one object");
    }

    #[tokio::test]
    async fn both_names_go_together() {
        let dir = tempfile::tempdir().unwrap();
        let (store, _) = store_in(&dir);
        let entry = put(&store, URL, b"content").await;
        let known = store.with_digest(&entry, Algorithm::Sha256).await.unwrap();
        let content = known.other_name().unwrap();
        assert_eq!(store.twin(&known), Some(content));
        assert!(store.remove(entry.key).await.unwrap());
        assert!(store.lookup(content).await.unwrap().is_none());
        store.settle();
        assert_eq!(store.usage().objects, 0);
        assert!(
            store.link(&known, url("http://c.example.org/").key_hash(), url("http://c.example.org/")).await.is_none()
        );
    }

    #[tokio::test]
    async fn what_is_only_md5_is_not_found_by_its_content() {
        let dir = tempfile::tempdir().unwrap();
        let (store, _) = store_in(&dir);
        let entry = put(&store, URL, b"content").await;
        let known = store.with_digest(&entry, Algorithm::Md5).await.unwrap();
        assert!(known.digest.is_some() && known.other_name().is_none());
        let known = store.with_digest(&known, Algorithm::Sha256).await.unwrap();
        assert!(known.other_name().is_some(), "a stronger one takes its place");
    }
}

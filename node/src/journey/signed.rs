//! Signatures of roots (R18): each generation has its own, and where a keyring is configured nothing is served that is not signed by it.
//!
//! A signature is kept under the name of the very root that it belongs to. A client gets that of the root that it has.

use std::io::Cursor;
use std::path::Path;
use std::sync::Arc;

use http::{Method, StatusCode};
use imirror_protocol::NodeId;

use super::ask::{Question, patience, small};
use super::switch::Holder;
use super::{Asked, Caller, Journey, freshness};
use crate::classify::{Class, KeyHash, Url};
use crate::fault::{Cause, Fault};
use crate::os::tasks;
use crate::repos::root;
use crate::repos::signature::{Signature, verify};
use crate::store::{Entry, Plan};
use crate::upstream::Request;

impl Journey {
    /// The keys by one of which a root has to be signed, if it is one of a repository that has such.
    pub(super) fn keyring(&self, root: &Url) -> Option<&Path> {
        self.0.options.repos.keyring(root).filter(|_| root::place(root).is_some())
    }

    /// A new root and its signature, from the same mirror, before anybody gets either: is it signed as it must be?
    ///
    /// # Errors
    /// It is not, or nobody can tell.
    pub(super) async fn bring_signature(
        &self,
        question: &Question,
        from: &Holder,
        root: &Arc<Entry>,
    ) -> Result<(), Fault> {
        let (url, keyring) = (&question.url, self.keyring(&question.url));
        let mut signature = None;
        if let Some(Signature::Beside(beside)) = Signature::of(url) {
            let used = self.0.store.lookup(beside.key_hash()).await.unwrap_or_default();
            if keyring.is_none() && used.is_none() {
                return Ok(());
            }
            // What clients have got so far is of the root that they have got.
            if let (Some(used), Some(old)) = (used, self.0.options.generations.current_root(url)) {
                let key = signature_key(&old);
                if self.0.store.lookup(key).await.unwrap_or_default().is_none() {
                    self.0.store.link(&used, key, beside.clone()).await;
                }
            }
            signature = match from {
                Holder::Mirror(mirror) => self.fetch_signature(question, mirror, &beside, root).await?,
                Holder::Peer(peer) => {
                    self.copy_signature(*peer, &beside, root).await;
                    None
                }
            };
        }
        // What has to be signed comes from no peer.
        let (Some(keyring), Holder::Mirror(source)) = (keyring, from) else { return Ok(()) };
        let checked = self.check(keyring, root, signature).await;
        let checked = checked.map_err(|why| {
            let detail = format!("the signature of {url} is not good: {why}").into();
            Fault::new(Cause::Malformed { host: source.authority().into(), detail })
        });
        checked.inspect_err(|fault| {
            tracing::warn!(%url, %source, %fault, "a root is refused");
            self.0.upstreams.distrust(source, fault);
        })
    }

    /// Do clients ask for a root's signature?
    pub(super) async fn is_signature_used(&self, root: &Url) -> bool {
        let Some(Signature::Beside(beside)) = Signature::of(root) else { return false };
        self.0.store.lookup(beside.key_hash()).await.unwrap_or_default().is_some()
    }

    /// The signature that a mirror has now; nothing if it has none.
    async fn fetch_signature(
        &self,
        question: &Question,
        source: &Url,
        beside: &Url,
        root: &Arc<Entry>,
    ) -> Result<Option<Vec<u8>>, Fault> {
        let Some(Signature::Beside(url)) = Signature::of(source) else { return Ok(None) };
        let fields = self.request_fields(question);
        let request = Request { method: Method::GET, url, fields, body: None, patience: patience(true) };
        let answer = small(self.0.upstreams.fetch(request).await?).await?;
        if answer.status != StatusCode::OK {
            return Ok(None);
        }
        let plan = Plan {
            key: kept_under(root),
            url: beside.clone(),
            class: Class::MutableMetadata,
            head: freshness::stored_head(&answer.fields, self.0.clock.now().to_system_time()),
            total: Some(answer.body.len() as u64),
            digest: None,
            confirmed_at: None,
        };
        let entry = self.store_as(plan, Cursor::new(answer.body.clone())).await?;
        self.0.store.link(&entry, beside.key_hash(), beside.clone()).await;
        Ok(Some(answer.body.to_vec()))
    }

    /// The signature that a peer keeps of a root.
    async fn copy_signature(&self, peer: NodeId, beside: &Url, root: &Arc<Entry>) {
        let key = kept_under(root);
        if self.copy(key, peer).await
            && let Ok(Some(entry)) = self.0.store.lookup(key).await
        {
            self.0.store.link(&entry, beside.key_hash(), beside.clone()).await;
        }
    }

    /// Is what is stored of a root signed as it must be? What was stored before the keyring was configured may not be.
    pub(super) async fn is_trusted(&self, url: &Url, root: &Arc<Entry>) -> bool {
        let Some(keyring) = self.keyring(url) else { return true };
        let Some(kind) = Signature::of(url) else { return false };
        if self.0.trusted.get(&root.object.0).is_some() {
            return true;
        }
        let signature = match kind {
            Signature::Beside(_) => match self.0.store.lookup(kept_under(root)).await {
                Ok(Some(signature)) => self.content(&signature).await.ok(),
                _ => return false,
            },
            Signature::Within => None,
        };
        self.check(keyring, root, signature).await.is_ok()
    }

    async fn check(&self, keyring: &Path, root: &Arc<Entry>, signature: Option<Vec<u8>>) -> Result<(), String> {
        match Signature::of(&root.url) {
            Some(Signature::Beside(_)) if signature.is_none() => return Err("there is none".into()),
            // Alpine's are of another kind. Without a keyring they are left to the clients.
            None => return Err("signatures of this family cannot be checked here; remove `keyring`".into()),
            _ => {}
        }
        let bytes = self.content(root).await.map_err(|fault| fault.to_string())?;
        let (keyring, _one_of_few) = (keyring.to_owned(), self.0.checking.acquire().await);
        let checked = tasks::blocking("verify", move || verify(&keyring, &bytes, signature.as_deref())).await;
        checked.map_err(|panic| panic.to_string())??;
        self.0.trusted.insert(root.object.0, ());
        Ok(())
    }

    async fn content(&self, entry: &Arc<Entry>) -> Result<Vec<u8>, Fault> {
        let blob = self.0.store.open_blob(entry).await?;
        let read = tasks::blocking("read a root", move || root::bytes_of(blob.reader())).await;
        let read = read.map_err(|panic| Fault::internal(panic.to_string()))?;
        read.map_err(|error| Fault::disk("a root of a repository", &error))
    }

    /// The signature of the root that a client has, if it asks for one and that is known.
    pub(super) async fn signature(&self, asked: &Asked) -> Option<Arc<Entry>> {
        let root = Signature::root_of(&asked.key)?;
        let object = self.root_of_client(asked.client, &root)?;
        self.0.store.lookup(signature_key(&object)).await.unwrap_or_default()
    }

    /// The version of a root that a client has, else the current one.
    fn root_of_client(&self, client: Option<Caller>, root: &Url) -> Option<[u8; 32]> {
        let handed = client.and_then(|client| self.0.handed.get(client, root));
        handed.or_else(|| self.0.options.generations.current_root(root))
    }
}

fn kept_under(root: &Arc<Entry>) -> KeyHash {
    signature_key(&root.object.0)
}

fn signature_key(object: &[u8; 32]) -> KeyHash {
    KeyHash::of(&[b"signature of ", &object[..]].concat())
}

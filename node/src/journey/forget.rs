//! Forgetting on purpose, at all nodes of the site: what an operator purges, and what upstream has no more (R6c).
//!
//! An order says what goes and how long ago it was given. What upstream has confirmed since then stays, and so does what is gone at
//! upstream but still named by a repository that is served here. Nodes that are away are told when they are back; until then nobody
//! takes from them what they still have of it.

use std::collections::BTreeSet;
use std::time::Duration;

use imirror_protocol::Key;
use imirror_protocol::message::{BELOW_MAX, Cause, What};
use imirror_protocol::wire::{Few, FewBytes};

use super::Journey;
use super::ask::Question;
use crate::classify::{Digest, KeyHash, Url, classify};
use crate::cluster::site::Order;
use crate::fault::Fault;
use crate::ledger::status::Purged;
use crate::store::Entry;

impl Journey {
    /// Forgets a URL, or all that begin with it, at all live nodes.
    ///
    /// # Errors
    /// It is no URL, or too long; the store fails.
    pub async fn purge(&self, url: &str, below: bool) -> Result<Purged, Fault> {
        let what = if below { self.all_below(url)? } else { self.names_of(url).await? };
        let here = self.forget_here(&what, Duration::ZERO, Cause::Purged).await?;
        let others = self.0.site.forget(what, Cause::Purged).await;
        let unanswered = others.silent.iter().map(|node| self.0.site.name_of(*node)).collect();
        let nodes = u64::from(here > 0) + u64::from(others.nodes);
        Ok(Purged { forgotten: here + others.objects, here, nodes, unanswered })
    }

    /// Follows another node's order; says how many went.
    pub async fn obey(&self, order: &Order) -> u64 {
        let forgotten = self.forget_here(&order.what, order.age, order.cause).await;
        forgotten.unwrap_or_else(|fault| {
            tracing::error!(%fault, "what another node wants forgotten could not be");
            0
        })
    }

    /// All its upstreams have it no more (R6c). The same content under the URL of another mirror is another matter.
    pub(super) async fn is_gone(&self, question: &Question) {
        let what = What::Keys(Few::of(question.names().map(|name| Key(name.0))));
        let _ = self.forget_here(&what, Duration::ZERO, Cause::Gone).await;
        self.0.site.tell_gone(what);
    }

    /// Was this, as a peer has it by that URL and name, to be forgotten since upstream confirmed it?
    pub(super) fn is_forgotten(&self, url: &Url, name: KeyHash, theirs: &Url, age: Duration) -> bool {
        match self.0.site.is_forgotten(&[name, url.key_hash()], theirs.as_str(), age) {
            Some(Cause::Purged) => true,
            Some(Cause::Gone) => !self.is_named(url),
            None => false,
        }
    }

    /// By whichever mirror a repository is named, its content has the repository's keys.
    fn all_below(&self, url: &str) -> Result<What, Fault> {
        let bad = |why: &str| Fault::bad_request(format!("{url}: {why}"));
        let folder = Url::parse(&format!("{}/", url.trim_end_matches('/'))).map_err(|e| bad(&e.to_string()))?;
        let named = self.0.options.repos.resolve(&folder);
        let is_configured = named.sources[0] != named.key;
        // Of a host alone nobody means those whose names begin alike.
        let prefix = if is_configured || folder.path() == "/" { named.key.to_string() } else { url.to_owned() };
        let what = What::Below(FewBytes::of(prefix.as_bytes()));
        if prefix.len() > BELOW_MAX || !what.is_sensible() {
            return Err(bad("name a host and a folder, as in http://example.org/fedora, in at most 2048 bytes"));
        }
        Ok(what)
    }

    /// The URL's key and its content's, by what is stored here or the repository says.
    async fn names_of(&self, url: &str) -> Result<What, Fault> {
        let url = Url::parse(url).map_err(|e| Fault::bad_request(e.to_string()))?;
        let url = self.0.options.repos.resolve(&url).key;
        let promised = self.promised(&url, classify(&url), None).await;
        let mut keys = BTreeSet::from([url.key_hash(), promised.key(&url)]);
        if let Some(entry) = self.0.store.lookup(url.key_hash()).await? {
            keys.extend(entry.digest.as_ref().and_then(Digest::content_key));
        }
        Ok(What::Keys(Few::of(keys.into_iter().map(|key| Key(key.0)))))
    }

    /// Forgets what was confirmed last so long ago, or longer.
    async fn forget_here(&self, what: &What, age: Duration, cause: Cause) -> Result<u64, Fault> {
        let until = self.0.clock.now().before(age);
        let journey = self.clone();
        let goes = move |entry: &Entry| {
            entry.confirmed_at() <= until && (cause == Cause::Purged || !journey.is_named(&entry.url))
        };
        match what {
            What::Keys(keys) => {
                let keys: Vec<_> = keys.iter().map(|key| KeyHash(key.0)).collect();
                // Not even what a peer is just sending of it; who reads that reads on.
                if cause == Cause::Purged {
                    keys.iter().for_each(|key| self.0.flights.disown(key));
                }
                // However many names an object has, it is one.
                self.0.store.remove_where(keys, goes).await.map(|removed| removed.min(1))
            }
            What::Below(prefix) => {
                let Ok(prefix) = std::str::from_utf8(prefix) else { return Ok(0) };
                self.0.store.remove_prefix(prefix.to_owned(), goes).await
            }
        }
    }
}

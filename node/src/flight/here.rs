//! What this node can give to others of a key: what lies in the store, or is on its way here. Nobody is asked for it.

use std::collections::BTreeMap;
use std::sync::{Arc, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::{Flights, Reader};
use crate::classify::KeyHash;
use crate::fault::Fault;
use crate::store::{Blob, Entry, ObjectId};

/// See the module head.
pub enum Here {
    Nothing,
    Stored(Arc<Entry>, Arc<Blob>),
    Flying(Box<Reader>),
}

impl Flights {
    /// What is here of a key; `known`: only this very content will do. What is in the air is newer than what is stored.
    ///
    /// # Errors
    /// What is stored cannot be read.
    pub async fn here(&self, key: &KeyHash, known: Option<ObjectId>) -> Result<Here, Fault> {
        self.expected(key).await;
        if let Some(flight) = self.join_in_the_air(key).await
            && (known.is_none() || known == flight.expected())
        {
            return Ok(Here::Flying(Box::new(flight.reader())));
        }
        let Some(entry) = self.0.store.lookup(*key).await? else { return Ok(Here::Nothing) };
        if known.is_some_and(|known| known != entry.object) {
            return Ok(Here::Nothing);
        }
        let blob = self.0.store.open_blob(&entry).await?;
        Ok(Here::Stored(entry, blob))
    }

    /// Until it is dropped peers that ask for this key wait: this node is about to begin the download, or to follow another's.
    pub fn announce(&self, key: KeyHash) -> Expectation {
        let (ended, end) = watch::channel(());
        self.expectations().insert(key, end);
        Expectation { flights: self.clone(), key, ended }
    }

    /// Waits while a download of this key is about to begin.
    async fn expected(&self, key: &KeyHash) {
        let expectation = self.expectations().get(key).cloned();
        if let Some(mut end) = expectation {
            // The sender is dropped, and never sends.
            let _ = end.changed().await;
        }
    }

    fn expectations(&self) -> MutexGuard<'_, BTreeMap<KeyHash, watch::Receiver<()>>> {
        self.0.expectations.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is stored turned out to be damaged while it was read.
    pub fn drop_damaged(&self, entry: &Entry, fault: &Fault) {
        self.0.store.drop_damaged(entry, fault);
    }
}

/// See [`Flights::announce`].
pub struct Expectation {
    flights: Flights,
    key: KeyHash,
    ended: watch::Sender<()>,
}

impl Drop for Expectation {
    fn drop(&mut self) {
        let mut expectations = self.flights.expectations();
        // Somebody may have announced it anew.
        if expectations.get(&self.key).is_some_and(|end| end.same_channel(&self.ended.subscribe())) {
            expectations.remove(&self.key);
        }
    }
}

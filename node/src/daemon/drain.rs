//! Leaving without a loss (R14): what only this node has goes to others, then it may be stopped.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use crate::classify::KeyHash;
use crate::cluster::site::Site;
use crate::ledger::status::Drain;
use crate::os::tasks;
use crate::store::Store;

/// Objects that are offered to others at the same time.
const OFFERED_MAX: usize = 32;

/// The node is leaving, or not.
#[derive(Clone, Default)]
pub(super) struct Leaving(Arc<Mutex<Option<UnderWay>>>);

struct UnderWay {
    so_far: Drain,
    work: AbortHandle,
}

impl Leaving {
    /// Begins, unless that has been done; says how far it has come.
    pub(super) fn begin(&self, store: &Store, site: &Site) -> Drain {
        let mut state = self.state();
        if let Some(under_way) = &*state {
            return under_way.so_far;
        }
        site.drain(true);
        let so_far = Drain { objects_total: store.usage().objects, ..Drain::default() };
        let work = tasks::spawn("drain", self.clone().hand_over(store.clone(), site.clone())).abort_handle();
        *state = Some(UnderWay { so_far, work });
        so_far
    }

    /// How far it has come.
    pub(super) fn so_far(&self) -> Option<Drain> {
        self.state().as_ref().map(|under_way| under_way.so_far)
    }

    /// The node stays.
    pub(super) fn end(&self, site: &Site) {
        if let Some(under_way) = self.state().take() {
            under_way.work.abort();
            site.drain(false);
        }
    }

    async fn hand_over(self, store: Store, site: Site) {
        let (found, mut keys) = mpsc::channel::<KeyHash>(OFFERED_MAX);
        tasks::blocking("what is stored", move || {
            let told = store.each(|entry| {
                if entry.class.is_ours() {
                    // Fails when nobody hands over any more; then the rest is read in vain, which is short.
                    let _ = found.blocking_send(entry.key);
                }
            });
            if let Err(fault) = told {
                tracing::error!(%fault, "not all that is stored could be offered to others");
            }
        });
        let mut offers = FuturesUnordered::new();
        let mut are_more = true;
        while are_more || !offers.is_empty() {
            tokio::select! {
                key = keys.recv(), if are_more && offers.len() < OFFERED_MAX => match key {
                    Some(key) => offers.push(offer(&site, key)),
                    None => are_more = false,
                },
                Some(offered) = offers.next() => self.count(offered),
            }
        }
        if let Some(under_way) = &mut *self.state() {
            under_way.so_far.finished = true;
            tracing::info!(
                handed = under_way.so_far.handed,
                left = under_way.so_far.left,
                "this node can be stopped now"
            );
        }
    }

    fn count(&self, offered: Offered) {
        if let Some(under_way) = &mut *self.state() {
            let so_far = &mut under_way.so_far;
            so_far.objects += 1;
            so_far.handed += u64::from(offered == Offered::Handed);
            so_far.left += u64::from(offered == Offered::Left);
        }
    }

    fn state(&self) -> MutexGuard<'_, Option<UnderWay>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Offered {
    /// Others have it anyway.
    Needless,
    Handed,
    Left,
}

async fn offer(site: &Site, key: KeyHash) -> Offered {
    if site.copies_elsewhere(&key) > 0 {
        return Offered::Needless;
    }
    match site.offer(&key).await {
        Some(_) => Offered::Handed,
        // It may have been copied for another reason meanwhile.
        None if site.copies_elsewhere(&key) > 0 => Offered::Needless,
        None => Offered::Left,
    }
}

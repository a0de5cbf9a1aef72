//! Leaving without a loss (R14): what only this node has goes to others, then it may be stopped.

use std::collections::BTreeSet;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use crate::classify::KeyHash;
use crate::cluster::site::Site;
use crate::flight::Flights;
use crate::ledger::status::Drain;
use crate::os::tasks;
use crate::store::Store;

/// Objects that are offered to others at the same time.
const OFFERED_MAX: usize = 32;

/// Objects that land while the node leaves and are handed over, too; further ones are not.
const ARRIVED_MAX: usize = 256 * 1024;

/// The node is leaving, or not.
#[derive(Clone, Default)]
pub(super) struct Leaving(Arc<Mutex<Option<UnderWay>>>);

struct UnderWay {
    so_far: Drain,
    work: AbortHandle,
    /// What has landed since it began: what reads all that is stored leaves it out, so that nothing is counted twice.
    arrived: BTreeSet<KeyHash>,
    arrivals: mpsc::UnboundedSender<KeyHash>,
}

impl Leaving {
    /// Begins, unless that has been done; says how far it has come.
    pub(super) fn begin(&self, store: &Store, flights: &Flights, site: &Site) -> Drain {
        let mut state = self.state();
        if let Some(under_way) = &*state {
            return under_way.so_far;
        }
        site.drain(true);
        let so_far = Drain { objects_total: store.usage().objects, ..Drain::default() };
        let (arrivals, arriving) = mpsc::unbounded_channel();
        let work = self.clone().hand_over(store.clone(), flights.clone(), site.clone(), arriving);
        let work = tasks::spawn("drain", work).abort_handle();
        *state = Some(UnderWay { so_far, work, arrived: BTreeSet::new(), arrivals });
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

    /// The store has something that it had not.
    pub(super) fn arrived(&self, key: KeyHash) {
        if let Some(under_way) = &mut *self.state()
            && under_way.arrived.len() < ARRIVED_MAX
            && under_way.arrived.insert(key)
        {
            under_way.so_far.objects_total += 1;
            // Fails when the work has been ended.
            let _ = under_way.arrivals.send(key);
        }
    }

    fn has_arrived(&self, key: &KeyHash) -> bool {
        self.state().as_ref().is_some_and(|under_way| under_way.arrived.contains(key))
    }

    /// First what is stored, then what is in the air then; from then on the node can be stopped. What lands later goes to others, too.
    async fn hand_over(
        self,
        store: Store,
        flights: Flights,
        site: Site,
        mut arriving: mpsc::UnboundedReceiver<KeyHash>,
    ) {
        let mut stored = self.read_all(store);
        let (mut has_read_all, mut has_landed) = (false, false);
        let mut landing = pin!(async { flights.all_landed().await });
        let mut offers = FuturesUnordered::new();
        loop {
            if has_landed && offers.is_empty() && arriving.is_empty() {
                self.finish();
            }
            let is_free = offers.len() < OFFERED_MAX;
            tokio::select! {
                key = stored.recv(), if is_free && !has_read_all => match key {
                    Some(key) => offers.push(offer(&site, key)),
                    None => has_read_all = true,
                },
                key = arriving.recv(), if is_free => match key {
                    Some(key) => offers.push(offer(&site, key)),
                    None => return,
                },
                () = &mut landing, if has_read_all && !has_landed => has_landed = true,
                Some(offered) = offers.next() => self.count(offered),
            }
        }
    }

    /// The keys of all that is stored, as they are asked for.
    fn read_all(&self, store: Store) -> mpsc::Receiver<KeyHash> {
        let (found, keys) = mpsc::channel(OFFERED_MAX);
        let leaving = self.clone();
        tasks::blocking("what is stored", move || {
            let told = store.each(|entry| {
                if entry.class.is_ours() && !leaving.has_arrived(&entry.key) {
                    // Fails when nobody hands over any more; then the rest is read in vain, which is short.
                    let _ = found.blocking_send(entry.key);
                }
            });
            if let Err(fault) = told {
                tracing::error!(%fault, "not all that is stored could be offered to others");
            }
        });
        keys
    }

    fn finish(&self) {
        if let Some(under_way) = self.state().as_mut().filter(|under_way| !under_way.so_far.finished) {
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

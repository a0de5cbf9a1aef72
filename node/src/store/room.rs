//! Room for what comes: the limit and the reserve are kept, the least worthy go, and trouble with the disk is said once.

use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, PoisonError};

use super::eviction::{self, Candidate, Copies, Room, Tier};
use super::index::Change;
use super::{Entry, Store};
use crate::classify::KeyHash;
use crate::fault::{Cause, Fault, Whose};
use crate::os::{disk, entropy};

/// Entries looked at to find those that go.
const SAMPLE: usize = 64;

/// Samples that are drawn to find something that is not the only copy in the site.
const SAMPLES_MAX: usize = 4;

/// Most that are evicted by one write of the index, which waits for the disk.
const EVICTED_MAX: usize = 1024;

impl Store {
    /// Room for so many bytes more of a download whose length was not known. Blocks.
    pub(super) fn more_room(&self, bytes: u64) -> Result<(), Fault> {
        let _one_at_a_time = self.evicting();
        let made = self.make_room(bytes, Tier::LAST);
        self.note(made.as_ref().err());
        made.map(|()| self.grow(bytes))
    }

    /// Something was written, or could not be: says so once when that begins or ends.
    pub(super) fn note(&self, fault: Option<&Fault>) {
        if fault.is_some_and(|fault| fault.whose != Whose::Disk) {
            return;
        }
        let reason = fault.map(ToString::to_string);
        let before = std::mem::replace(&mut *self.degraded(), reason.clone());
        match (before, reason) {
            (None, Some(reason)) => tracing::error!(
                "nothing new is stored, requests are passed on: {reason}; make room or mend {}",
                self.0.files.root().display()
            ),
            (Some(_), None) => tracing::info!("what is new is stored again"),
            _ => {}
        }
    }

    /// Was the trouble with the disk mended meanwhile?
    pub(super) fn try_again(&self) {
        if self.degraded().is_none() {
            return;
        }
        let root = self.0.files.root();
        let written = self.0.files.check_writable().map_err(|e| Fault::disk(root.display(), &e));
        let _one_at_a_time = self.evicting();
        self.note(written.and_then(|()| self.make_room(0, Tier::LAST)).err().as_ref());
    }

    /// Evicts until `incoming` more bytes fit into the limit and the reserve of the file system stays free; nothing of a later tier than
    /// `last` goes. Nothing goes for what would not fit anyway.
    pub(super) fn make_room(&self, incoming: u64, last: Tier) -> Result<(), Fault> {
        for _ in 0..10_000 {
            let room = Room {
                stored: self.0.index.bytes() + self.0.index.pending_bytes(),
                unmovable: self.unmovable_bytes(),
                limit: self.limit_bytes(),
                space: disk::space(self.0.files.root()).map_err(|e| Fault::disk("the file system", &e))?,
            };
            let needed = room.surplus(incoming);
            if needed == 0 {
                return Ok(());
            }
            if needed > room.stored {
                return Err(Fault::new(match room.most() {
                    0 => {
                        let (free, reserve) = (room.space.free, room.space.reserve());
                        let detail = format!("{free} bytes are free, and {reserve} are always left to others");
                        Cause::DiskFull { detail: detail.into() }
                    }
                    limit => Cause::TooLarge { limit },
                }));
            }
            let freed = self.evict(needed, last)?;
            if freed > 0 {
                tracing::debug!(freed, incoming, ?room, "made room");
                continue;
            }
            // What is not on disk yet cannot be chosen.
            self.settle();
            if self.evict(needed, last)? == 0 {
                let detail = format!("{needed} bytes are missing and nothing more can be evicted");
                return Err(Fault::new(Cause::DiskFull { detail: detail.into() }));
            }
        }
        Ok(())
    }

    /// Evicts the least worthy of random samples until `needed` bytes have gone or there are as many as are written at once;
    /// returns how many bytes went.
    fn evict(&self, needed: u64, last: Tier) -> Result<u64, Fault> {
        let mut batch = Vec::new();
        let (mut freed, mut evicted) = (0, 0);
        while freed < needed && batch.len() < EVICTED_MAX {
            let going = match self.least_worthy(needed - freed, last) {
                Ok(going) => going,
                Err(fault) if batch.is_empty() => return Err(fault),
                Err(_) => break,
            };
            if going.is_empty() {
                break;
            }
            freed += going.iter().map(|entry| entry.size.max(1)).sum::<u64>();
            evicted += going.len() as u64;
            let keys: Vec<_> = going.iter().flat_map(|entry| [Some(entry.key), self.twin(entry)]).flatten().collect();
            let _order = self.order();
            for key in keys {
                // Look-ups do not see it any more, and neither does the next sample.
                let removal = Change::Remove(key);
                self.reveal(&removal);
                self.0.hot.remove(&key);
                batch.push(removal);
            }
        }
        if batch.is_empty() {
            return Ok(0);
        }
        // What could not be removed is there again.
        self.0.commit(&batch).inspect_err(|_| self.0.index.forget_pending(&batch))?;
        self.0.evictions.fetch_add(evicted, Ordering::Relaxed);
        Ok(freed)
    }

    /// The first that should go, as far as random samples show: as many as it takes for `needed` bytes, all of one tier and none of a
    /// later one than `last`, and of a sample only the worse half of that tier.
    fn least_worthy(&self, needed: u64, last: Tier) -> Result<Vec<Arc<Entry>>, Fault> {
        let watcher = self.0.watcher.get();
        let samples = if watcher.is_none_or(|watcher| watcher.is_alone()) { 1 } else { SAMPLES_MAX };
        let mut found = Vec::new();
        for _ in 0..samples {
            let (tier, least) = self.least_of_sample(last)?;
            if found.is_empty() || tier < Tier::LAST {
                found = least;
            }
            if tier < Tier::LAST {
                break;
            }
        }
        let mut bytes = 0;
        found.retain(|entry| {
            let is_wanted = bytes < needed;
            bytes += entry.size.max(1);
            is_wanted
        });
        Ok(found)
    }

    /// The first tier of a random sample, and the worse half of it.
    fn least_of_sample(&self, last: Tier) -> Result<(Tier, Vec<Arc<Entry>>), Fault> {
        let (now, watcher) = (self.0.clock.now(), self.0.watcher.get());
        let mut sample = Vec::with_capacity(SAMPLE);
        self.0.index.walk(KeyHash(entropy::random_bytes()), |entry| {
            let in_use = self.0.hot.peek(&entry.key).is_some_and(|hot| hot.is_in_use());
            // What is found by its content goes with what is found by its URL.
            let is_second = entry.is_by_content() && self.twin(&entry).is_some();
            if !in_use && !is_second {
                sample.push(entry);
            }
            sample.len() < SAMPLE
        })?;
        let candidate = |entry: Arc<Entry>| {
            let candidate = Candidate {
                class: entry.class,
                size: entry.size,
                uses: entry.uses(),
                stored_at: entry.stored_at,
                used_at: entry.used_at(),
                copies: watcher.map_or(Copies::Sole, |watcher| watcher.copies(&entry.key)),
                is_superseded: watcher.is_some_and(|watcher| watcher.is_superseded(&entry)),
            };
            (candidate.tier(), eviction::Worth(eviction::worth(&candidate, now)), entry)
        };
        let mut sample: Vec<_> = sample.into_iter().map(candidate).filter(|(tier, ..)| *tier <= last).collect();
        let first = sample.iter().map(|(tier, ..)| *tier).min().unwrap_or(Tier::LAST);
        sample.retain(|(tier, ..)| *tier == first);
        sample.sort_by_key(|(_, worth, _)| *worth);
        sample.truncate(sample.len().div_ceil(2));
        Ok((first, sample.into_iter().map(|(.., entry)| entry).collect()))
    }

    pub(super) fn evicting(&self) -> MutexGuard<'_, ()> {
        self.0.evicting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn degraded(&self) -> MutexGuard<'_, Option<String>> {
        self.0.degraded.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

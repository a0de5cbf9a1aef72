//! Writes what changes to the index: a thread that gathers changes into batches, tries again what could not be written,
//! and now and then writes the statistics of what was used.

use std::sync::Weak;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use super::index::Change;
use super::{CHANGES_MAX, Inner, Store, TOUCH_EVERY};

/// How long the writer waits for more changes to write in the same batch.
const BATCH_WAIT: Duration = Duration::from_millis(50);

/// How soon a batch that could not be written is tried again.
const RETRY_WAIT: Duration = Duration::from_secs(2);

/// The writer's thread: batches, and now and then statistics, until the store is closed or gone. Says whether all that
/// look-ups see is on disk.
pub(super) fn run(store: &Weak<Inner>, queue: &Receiver<Change>) -> bool {
    let mut batch = Vec::new();
    let mut failing = false;
    let mut flushed_at = None;
    loop {
        let ended = match queue.recv_timeout(if failing { RETRY_WAIT } else { TOUCH_EVERY }) {
            Ok(change) => {
                batch.push(change);
                std::thread::sleep(BATCH_WAIT);
                batch.extend(queue.try_iter().take(CHANGES_MAX));
                false
            }
            Err(RecvTimeoutError::Timeout) => false,
            Err(RecvTimeoutError::Disconnected) => true,
        };
        let Some(store) = store.upgrade().map(Store) else { return false };
        let written = batch.is_empty() || store.write(&batch);
        if written {
            batch.clear();
        } else {
            let surplus = batch.len().saturating_sub(CHANGES_MAX);
            store.give_up(&batch[..surplus]);
            batch.drain(..surplus);
        }
        if failing == written {
            failing = !written;
            match failing {
                true => tracing::error!("the index cannot be written; trying again until it can"),
                false => tracing::info!("the index is written again"),
            }
        }
        let now = store.0.clock.now();
        if ended || now.since(*flushed_at.get_or_insert(now)) >= TOUCH_EVERY {
            flushed_at = Some(now);
            if written {
                store.flush_touched();
            }
            store.try_again();
        }
        if ended {
            return written;
        }
    }
}

impl Store {
    /// Writes a batch; false when it has to be tried again.
    fn write(&self, batch: &[Change]) -> bool {
        match self.0.commit(batch) {
            Ok(()) => true,
            Err(fault) => {
                tracing::debug!(%fault, "a batch of changes was not written");
                false
            }
        }
    }

    /// Writes the statistics of what was used or confirmed since, so that a kill forgets at most the last minute.
    pub(super) fn flush_touched(&self) {
        let now = self.0.clock.now();
        let touched: Vec<_> = {
            let mut touched = self.touched();
            let all = touched.values().cloned().map(Change::Touch).collect();
            // `touch` will not note again what is in steady use.
            touched.retain(|_, entry| now.since(entry.used_at()) <= TOUCH_EVERY);
            all
        };
        for batch in touched.chunks(CHANGES_MAX) {
            self.write(batch);
        }
    }
}

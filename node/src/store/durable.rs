//! Makes published objects durable: one thread syncs what has been published meanwhile. A slow disk holds up nobody but
//! downloads that are faster than it for long.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::Receiver;

use super::{Entry, Growing, files};
use crate::fault::Fault;

/// Objects that wait for the disk; each holds a file open.
pub(super) const WAITING_MAX: usize = 1024;

/// Objects synced together: their folders are synced once.
const BATCH_MAX: usize = 256;

/// An object that look-ups see already.
pub(super) type Published = (Arc<Growing>, Arc<Entry>);

/// Until the sender is gone.
pub(super) fn run(queue: &Receiver<Published>) {
    while let Ok(first) = queue.recv() {
        first.0.store().provide_spare();
        let mut folders: BTreeMap<PathBuf, Vec<Published>> = BTreeMap::new();
        for (growing, entry) in std::iter::once(first).chain(queue.try_iter().take(BATCH_MAX - 1)) {
            match growing.sync_data() {
                Ok(()) => folders.entry(growing.folder(&entry)).or_default().push((growing, entry)),
                Err(fault) => growing.store().drop_damaged(&entry, &fault),
            }
        }
        for (folder, published) in folders {
            let synced = files::sync_folder(&folder).map_err(|e| Fault::disk(folder.display(), &e));
            for (growing, entry) in published {
                match &synced {
                    Ok(()) => growing.store().put_if_current(&entry),
                    // What could not be synced is lost, whatever a later sync says.
                    Err(fault) => growing.store().drop_damaged(&entry, fault),
                }
            }
        }
    }
}

//! What this node has counted of what packages are asked for, over a restart: a file of names with their demand. It is written with the
//! history, and losing it costs no more than that popularity is learnt again.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use super::Parts;
use crate::os::tasks;

/// Longest file that is read, in bytes.
const BYTES_MAX: u64 = 1024 * 1024;

impl Parts {
    fn names_file(&self) -> PathBuf {
        self.config.state_dir.join("names")
    }

    /// Takes up what an earlier run has counted.
    pub(super) async fn recall_names(&self) {
        let file = self.names_file();
        let read = tasks::blocking("recall names", move || {
            let bytes =
                fs::metadata(&file).is_ok_and(|file| file.len() <= BYTES_MAX).then(|| fs::read(&file).ok())??;
            postcard::from_bytes::<Vec<(String, u32)>>(&bytes).ok()
        });
        if let Ok(Some(names)) = read.await {
            self.site.recall_names(names);
        }
    }

    pub(super) async fn write_names(self: &Arc<Self>) {
        let (file, names) = (self.names_file(), self.site.own_names());
        let write = move || {
            let bytes = postcard::to_allocvec(&names).map_err(std::io::Error::other)?;
            let new = file.with_extension("new");
            fs::write(&new, bytes)?;
            fs::rename(new, file)
        };
        if let Ok(Err(error)) = tasks::blocking("write names", write).await {
            tracing::warn!(%error, "what packages are asked for could not be written down");
        }
    }
}

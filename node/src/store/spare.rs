//! An empty file for the next download: making one takes a file system longer than giving it another name, and the first bytes of a
//! download are waited for.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::files::{self, Files};

/// See the module head.
#[derive(Default)]
pub(super) struct Spare(Mutex<Option<(File, PathBuf)>>);

impl Spare {
    /// Makes one, where there is none. Blocks. Where it cannot be made the next download makes its own, or says why not.
    pub(super) fn provide(&self, files: &Files) {
        let mut spare = self.lock();
        if spare.is_none() {
            // What a kill leaves of it is swept away at the next start.
            let path = files.unnamed();
            *spare = files::create_new(&path).ok().map(|file| (file, path));
        }
    }

    /// It becomes a file of this name, which nobody else gives to a file meanwhile. `None` where there is none, or none that can be used,
    /// or where the name is somebody's already.
    pub(super) fn take(&self, path: &Path) -> Option<File> {
        let mut spare = self.lock();
        let is_free = fs::symlink_metadata(path).is_err_and(|error| error.kind() == ErrorKind::NotFound);
        let (file, unnamed) = spare.take_if(|_| is_free)?;
        match fs::rename(&unnamed, path) {
            Ok(()) => Some(file),
            // Somebody has taken it away, or nothing can be written here any more.
            Err(_) => {
                let _ = fs::remove_file(&unnamed);
                None
            }
        }
    }

    /// Takes it away: there is to be no next download.
    pub(super) fn discard(&self) {
        if let Some((_, unnamed)) = self.lock().take() {
            let _ = fs::remove_file(unnamed);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<(File, PathBuf)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    #[test]
    fn it_gets_the_name_of_nobody_else_and_is_there_once() {
        let dir = tempfile::tempdir().unwrap();
        let files = Files::create(dir.path()).unwrap();
        let (taken, free) = (dir.path().join("taken"), dir.path().join("free"));
        fs::write(&taken, b"x").unwrap();
        let spare = Spare::default();
        assert!(spare.take(&free).is_none());
        spare.provide(&files);
        spare.provide(&files);
        assert!(spare.take(&taken).is_none());
        assert_eq!(fs::read(&taken).unwrap(), b"x");
        let file = spare.take(&free).unwrap().metadata().unwrap();
        assert_eq!((file.ino(), file.len(), file.mode() & 0o777), (fs::metadata(&free).unwrap().ino(), 0, 0o600));
        assert!(spare.take(&taken).is_none());
        assert_eq!(fs::read_dir(files.path("partial")).unwrap().count(), 0);
    }

    #[test]
    fn one_that_somebody_has_taken_away_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let files = Files::create(dir.path()).unwrap();
        let spare = Spare::default();
        spare.provide(&files);
        let made = fs::read_dir(files.path("partial")).unwrap().next().unwrap().unwrap();
        assert_eq!(made.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        fs::remove_file(made.path()).unwrap();
        assert!(spare.take(&dir.path().join("a")).is_none());
        spare.provide(&files);
        spare.discard();
        assert_eq!(fs::read_dir(files.path("partial")).unwrap().count(), 0);
    }
}

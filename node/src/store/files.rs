//! Where things lie under `cache_dir`, and the file operations that a crash cannot tear.
//!
//! ```text
//! objects/ab/<blake3>              a content, never changed
//! objects/ab/<blake3>.groups       the chaining values of its 64 KiB groups (contents of more than one)
//! objects/ab/<blake3>.<key>.entry  what the index knows of a key that names it
//! partial/<key>                    a download in progress, or broken off
//! partial/<key>.journal            what is there of it
//! partial/<number>.new             a small file just being written, to replace another; or an empty one, for the next download
//! index.redb  lock  clean  format  scrub
//! ```

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::OFlags;

use super::ObjectId;
use super::object::{Entry, EntryOnDisk};
use crate::classify::KeyHash;
use crate::fault::Fault;

/// Bumped when the layout changes in a way that older or newer programs cannot read.
const FORMAT: &str = "imirror cache 1\n";

/// Files that wait to replace others end so.
pub(super) const NEW: &str = "new";

#[derive(Debug, Clone)]
pub(super) struct Files {
    root: PathBuf,
}

impl Files {
    /// Makes the folders; sets a cache of another format aside.
    pub(super) fn create(root: &Path) -> Result<Self, Fault> {
        let files = Self { root: root.to_owned() };
        make_dir(root)?;
        let format = fs::read_to_string(files.path("format")).ok();
        let is_current = format.as_deref() == Some(FORMAT);
        if !is_current && format.is_some() {
            files.set_aside(&["objects", "partial", "index.redb"])?;
        }
        for dir in ["objects", "partial"] {
            make_dir(&files.path(dir))?;
        }
        for first in 0..=255u8 {
            make_dir(&files.path("objects").join(format!("{first:02x}")))?;
        }
        if !is_current {
            let format = files.path("format");
            files.write_whole(&format, FORMAT.as_bytes()).map_err(|e| cannot("write to", root, &e))?;
        }
        files.check_writable().map_err(|e| cannot("write to", root, &e))?;
        Ok(files)
    }

    /// Can files be made here? That there is no room for what is in them is no reason not to serve.
    pub(super) fn check_writable(&self) -> io::Result<()> {
        let probe = self.path("partial").join("probe");
        options().write(true).create(true).open(&probe).and_then(|_| fs::remove_file(&probe)).or_else(|e| {
            match e.kind() {
                ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Ok(()),
                _ => Err(e),
            }
        })
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn object(&self, object: &ObjectId) -> PathBuf {
        let hex = object.to_string();
        self.root.join("objects").join(&hex[..2]).join(hex)
    }

    pub(super) fn values(&self, object: &ObjectId) -> PathBuf {
        self.object(object).with_extension("groups")
    }

    pub(super) fn entry(&self, object: &ObjectId, key: &KeyHash) -> PathBuf {
        self.object(object).with_extension(format!("{key:?}.entry"))
    }

    pub(super) fn partial(&self, key: &KeyHash) -> PathBuf {
        self.root.join("partial").join(format!("{key:?}"))
    }

    pub(super) fn journal(&self, key: &KeyHash) -> PathBuf {
        self.partial(key).with_extension("journal")
    }

    /// The keys of all downloads that left a journal.
    pub(super) fn journals(&self) -> impl Iterator<Item = KeyHash> {
        let folder = fs::read_dir(self.path("partial")).into_iter().flatten().flatten();
        folder.filter_map(|file| KeyHash::from_hex(file.file_name().to_str()?.strip_suffix(".journal")?))
    }

    /// A path that nobody else uses, for a file that is to get another name.
    pub(super) fn unnamed(&self) -> PathBuf {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        self.path("partial").join(format!("{number}.{NEW}"))
    }

    /// Writes what is to replace a file. What a crash leaves of it is swept away at the next start.
    pub(super) fn write_new(&self, bytes: &[u8]) -> io::Result<NewFile> {
        let file = NewFile { new: self.unnamed() };
        let mut opened = options().write(true).create(true).truncate(true).open(&file.new)?;
        opened.write_all(bytes).inspect_err(|_| file.remove())?;
        Ok(file)
    }

    /// Replaces a file as a whole, whoever else does it in the same moment.
    pub(super) fn write_whole(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        self.write_new(bytes)?.replace(path)
    }

    /// A copy of an entry, to lie beside its object, so that a lost index can be rebuilt.
    pub(super) fn write_new_entry(&self, entry: &Entry) -> io::Result<NewFile> {
        let bytes = postcard::to_allocvec(&EntryOnDisk::from(entry)).map_err(io::Error::other)?;
        self.write_new(&sealed(&bytes))
    }

    /// Calls `each` with the path of every copy of an entry; says how many there are.
    pub(super) fn scan(&self, each: impl Fn(&Path)) -> io::Result<u64> {
        let mut entries = 0;
        for first in fs::read_dir(self.path("objects"))? {
            for file in fs::read_dir(first?.path())? {
                let path = file?.path();
                if path.extension().is_some_and(|extension| extension == "entry") {
                    each(&path);
                    entries += 1;
                }
            }
        }
        Ok(entries)
    }

    /// Removes objects that no entry lies beside and that nothing needs: a kill came between the removal of both. `lock` is
    /// held only for folders where there seem to be some.
    pub(super) fn remove_orphans<G>(
        &self,
        lock: impl Fn() -> G,
        is_needed: impl Fn(&ObjectId) -> bool,
    ) -> io::Result<()> {
        for folder in fs::read_dir(self.path("objects"))? {
            let folder = folder?.path();
            if orphans(&folder)?.is_empty() {
                continue;
            }
            // An entry may have come while the folder was read: only what is seen now counts.
            let _locked = lock();
            let object = |path: &Path| ObjectId::from_hex(path.file_stem()?.to_str()?);
            for orphan in orphans(&folder)?.iter().filter(|path| !object(path).is_some_and(|object| is_needed(&object)))
            {
                fs::remove_file(orphan)?;
            }
        }
        Ok(())
    }

    /// The entry of which this is the copy, if it is whole and lies beside an object that has the right length.
    pub(super) fn read_entry(&self, path: &Path) -> Option<Entry> {
        let bytes = fs::read(path).ok()?;
        let entry = postcard::from_bytes::<EntryOnDisk>(unsealed(&bytes)?).ok()?.into_entry()?;
        let len = fs::metadata(self.object(&entry.object)).ok()?.len();
        (len == entry.size && self.entry(&entry.object, &entry.key) == path).then_some(entry)
    }

    /// Renames what cannot be used, once; an older one set aside before is removed.
    pub(super) fn set_aside(&self, names: &[&str]) -> Result<(), Fault> {
        for name in names {
            let (from, to) = (self.path(name), self.path(&format!("{name}.unusable")));
            if !from.exists() {
                continue;
            }
            let _ = fs::remove_dir_all(&to).or_else(|_| fs::remove_file(&to));
            fs::rename(&from, &to).map_err(|e| cannot("rename", &from, &e))?;
            tracing::warn!(from = %from.display(), to = %to.display(), "set aside: it cannot be read by this version");
        }
        Ok(())
    }
}

/// Objects and their lists in a folder that no entry names.
fn orphans(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let paths = fs::read_dir(folder)?.map(|file| Ok(file?.path())).collect::<io::Result<Vec<_>>>()?;
    let (entries, others): (Vec<_>, Vec<_>) =
        paths.into_iter().partition(|path| path.extension().is_some_and(|extension| extension == "entry"));
    // `<blake3>.<key>.entry`
    let named: HashSet<_> = entries.iter().filter_map(|path| Path::new(path.file_stem()?).file_stem()).collect();
    let is_ours = |path: &PathBuf| path.extension().is_none_or(|extension| extension == "groups");
    Ok(others
        .into_iter()
        .filter(|path| is_ours(path) && path.file_stem().is_some_and(|object| !named.contains(object)))
        .collect())
}

/// Appends a check sum.
pub(super) fn sealed(bytes: &[u8]) -> Vec<u8> {
    [bytes, &blake3::hash(bytes).as_bytes()[..16]].concat()
}

/// What `sealed` was given, if it is whole.
pub(super) fn unsealed(bytes: &[u8]) -> Option<&[u8]> {
    let (content, sum) = bytes.split_at_checked(bytes.len().checked_sub(16)?)?;
    (&blake3::hash(content).as_bytes()[..16] == sum).then_some(content)
}

/// A whole file that waits to take the place of another.
pub(super) struct NewFile {
    new: PathBuf,
}

impl NewFile {
    /// Readers see the old file or this one.
    pub(super) fn replace(self, path: &Path) -> io::Result<()> {
        fs::rename(&self.new, path).inspect_err(|_| self.remove())
    }

    pub(super) fn remove(&self) {
        let _ = fs::remove_file(&self.new);
    }
}

/// Opens a plain file for reading, never through a symbolic link that somebody has planted.
pub(super) fn open_plain(path: &Path) -> io::Result<File> {
    // Access times are the index's business. Only the owner of a file may do without the file system's.
    let file = (own_options().read(true).open(path)).or_else(|_| options().read(true).open(path))?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(ErrorKind::InvalidInput.into()),
    }
}

/// Makes renames into this folder durable.
pub(super) fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// A file that was not there before, for reading and writing.
pub(super) fn create_new(path: &Path) -> io::Result<File> {
    own_options().read(true).write(true).create_new(true).open(path)
}

/// For files of this user: who reads them leaves no time of access, which would be a part of every answer.
pub(super) fn own_options() -> OpenOptions {
    options_with(OFlags::NOATIME)
}

/// For this user alone, and never through a symbolic link.
pub(super) fn options() -> OpenOptions {
    options_with(OFlags::empty())
}

fn options_with(flags: OFlags) -> OpenOptions {
    let mut options = OpenOptions::new();
    options.mode(0o600).custom_flags(i32::try_from((OFlags::NOFOLLOW | flags).bits()).unwrap_or(0));
    options
}

fn make_dir(path: &Path) -> Result<(), Fault> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|e| cannot("make the folder", path, &e))
}

fn cannot(what: &str, path: &Path, error: &io::Error) -> Fault {
    let advice = match error.kind() {
        ErrorKind::ReadOnlyFilesystem => {
            "it is read-only: mount it for writing, or name it in ReadWritePaths= of the service's unit"
        }
        ErrorKind::AlreadyExists | ErrorKind::NotADirectory => "there is something that is not a folder: move it away",
        ErrorKind::PermissionDenied => "give it to the user that runs imirror",
        _ => "mend it",
    };
    Fault::disk(format!("cannot {what} {}: {advice}, or set `cache_dir` to another folder", path.display()), error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_torn_seal_is_noticed_at_every_byte() {
        let whole = sealed(b"some entry");
        assert_eq!(unsealed(&whole), Some(&b"some entry"[..]));
        for end in 0..whole.len() {
            assert_eq!(unsealed(&whole[..end]), None);
        }
        for i in 0..whole.len() {
            let mut bent = whole.clone();
            bent[i] ^= 1;
            assert_eq!(unsealed(&bent), None);
        }
    }

    #[test]
    fn links_are_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (target, link) = (dir.path().join("a"), dir.path().join("b"));
        fs::write(&target, b"x").unwrap();
        std::os::unix::fs::symlink(&target, &link).unwrap();
        assert!(open_plain(&target).is_ok());
        assert!(open_plain(&link).is_err());
        assert!(open_plain(dir.path()).is_err());
    }
}

//! A list of packages in a form that answers at once: one immutable file, mapped, with nothing of it held in memory.
//!
//! ```text
//! magic                          16 bytes
//! records                        one a package: length (u32), then postcard
//! index                          (hash of the path, offset of the record), 8 bytes each, ascending
//! number of records, offset of the index, BLAKE3 of all before it     8 + 8 + 32 bytes
//! ```
//! Numbers are little-endian. What is torn or of another version is as if it were not there: it can be made again from the list.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::Path;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::Promise;
use super::list::{self, Form, Package};
use crate::os::mapping::Mapping;

/// Bumped when the form changes.
const MAGIC: &[u8; 16] = b"imirror-list 1\n\0";

const HASH: usize = 8;
const ENTRY: usize = HASH + 8;
const TRAILER: usize = 8 + 8 + 32;

/// An open catalogue.
#[derive(Debug)]
pub struct Catalogue {
    bytes: Bytes,
    index: usize,
    count: usize,
}

#[derive(Serialize, Deserialize)]
struct Record<'r> {
    path: &'r str,
    name: &'r str,
    version: &'r str,
    arch: &'r str,
    #[serde(borrow)]
    promise: RawPromise<'r>,
}

#[derive(Serialize, Deserialize)]
struct RawPromise<'r> {
    algorithm: crate::classify::Algorithm,
    digest: &'r [u8],
    size: u64,
}

impl Catalogue {
    /// Makes a catalogue of a list; says how many packages it has. Memory: 16 bytes a package.
    ///
    /// # Errors
    /// The list is malformed, or the file cannot be written; then there is none.
    pub fn write(form: Form, list: impl Read, path: &Path) -> io::Result<u64> {
        let new = path.with_extension("new");
        let written = write_to(form, list, &new).and_then(|count| std::fs::rename(&new, path).map(|()| count));
        written.inspect_err(|_| drop(std::fs::remove_file(&new)))
    }

    /// Opens a catalogue. Reads all of it, to see that it is whole.
    ///
    /// # Errors
    /// There is none, or it is torn or of another version.
    pub fn open(path: &Path) -> io::Result<Self> {
        let torn = || io::Error::new(io::ErrorKind::InvalidData, "the catalogue is torn or of another version");
        let file = File::open(path)?;
        let len = file.metadata()?.len();
        let bytes = Mapping::new(file, len)?.bytes(0..len);
        let trailer = bytes.len().checked_sub(TRAILER).filter(|_| bytes.starts_with(MAGIC)).ok_or_else(torn)?;
        let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap_or_default());
        let hash = blake3::hash(&bytes[..trailer]);
        let (count, index) = (usize::try_from(number(trailer)), usize::try_from(number(trailer + 8)));
        match (count, index) {
            (Ok(count), Ok(index)) if hash.as_bytes() == &bytes[trailer + 16..] && index + count * ENTRY == trailer => {
                Ok(Self { bytes, index, count })
            }
            _ => Err(torn()),
        }
    }

    /// Number of files that it names.
    pub fn len(&self) -> usize {
        self.count
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Bytes on disk.
    pub fn bytes(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// What the list says of the file that lies at this path below the repository's base.
    pub fn by_path(&self, path: &str) -> Option<Package> {
        let wanted = hash(path);
        let mut at = partition(self.count, |i| self.entry(i).0 < wanted);
        while at < self.count {
            let (hash, offset) = self.entry(at);
            if hash != wanted {
                return None;
            }
            if let Some(package) = self.record(offset).filter(|package| package.path == path) {
                return Some(package);
            }
            at += 1;
        }
        None
    }

    /// All of them, in the order of the list.
    pub fn packages(&self) -> impl Iterator<Item = Package> {
        let mut at = MAGIC.len();
        std::iter::from_fn(move || {
            if at >= self.index {
                return None;
            }
            let package = self.record(at)?;
            at += 4 + self.length(at)?;
            Some(package)
        })
    }

    fn entry(&self, index: usize) -> ([u8; HASH], usize) {
        let at = self.index + index * ENTRY;
        let offset = u64::from_le_bytes(self.bytes[at + HASH..at + ENTRY].try_into().unwrap_or_default());
        (self.bytes[at..at + HASH].try_into().unwrap_or_default(), usize::try_from(offset).unwrap_or(usize::MAX))
    }

    fn length(&self, offset: usize) -> Option<usize> {
        let bytes = self.bytes.get(offset..offset.checked_add(4)?)?;
        usize::try_from(u32::from_le_bytes(bytes.try_into().ok()?)).ok()
    }

    fn record(&self, offset: usize) -> Option<Package> {
        let from = offset.checked_add(4)?;
        let record: Record<'_> =
            postcard::from_bytes(self.bytes.get(from..from.checked_add(self.length(offset)?)?)?).ok()?;
        Some(Package {
            path: record.path.to_owned(),
            name: record.name.to_owned(),
            version: record.version.to_owned(),
            arch: record.arch.to_owned(),
            promise: Promise {
                digest: crate::classify::Digest::new(record.promise.algorithm, record.promise.digest)?,
                size: record.promise.size,
            },
        })
    }
}

/// The first index for which `before` does not hold.
fn partition(count: usize, before: impl Fn(usize) -> bool) -> usize {
    let (mut low, mut high) = (0, count);
    while low < high {
        let middle = low + (high - low) / 2;
        if before(middle) { low = middle + 1 } else { high = middle }
    }
    low
}

fn hash(path: &str) -> [u8; HASH] {
    let mut first = [0; HASH];
    first.copy_from_slice(&blake3::hash(path.as_bytes()).as_bytes()[..HASH]);
    first
}

fn write_to(form: Form, list: impl Read, path: &Path) -> io::Result<u64> {
    let mut file = File::options().read(true).write(true).create(true).truncate(true).open(path)?;
    let mut out = BufWriter::with_capacity(256 * 1024, &mut file);
    out.write_all(MAGIC)?;
    let mut at = MAGIC.len() as u64;
    let mut index = Vec::new();
    list::read(form, list, |package| {
        let record = Record {
            path: &package.path,
            name: &package.name,
            version: &package.version,
            arch: &package.arch,
            promise: RawPromise {
                algorithm: package.promise.digest.algorithm(),
                digest: package.promise.digest.bytes(),
                size: package.promise.size,
            },
        };
        let record = postcard::to_allocvec(&record).map_err(io::Error::other)?;
        let length = u32::try_from(record.len()).map_err(io::Error::other)?;
        out.write_all(&length.to_le_bytes())?;
        out.write_all(&record)?;
        index.push((hash(&package.path), at));
        at += 4 + u64::from(length);
        Ok(())
    })?;
    // Of two for one path the last one counts, as a client would have it replace the first.
    index.sort_unstable_by_key(|(hash, offset)| (*hash, u64::MAX - *offset));
    for (hash, offset) in &index {
        out.write_all(hash)?;
        out.write_all(&offset.to_le_bytes())?;
    }
    out.write_all(&(index.len() as u64).to_le_bytes())?;
    out.write_all(&at.to_le_bytes())?;
    out.flush()?;
    drop(out);
    // What was written is read back: 16 bytes of it are not part of what is hashed.
    let hashed = file.seek(SeekFrom::End(0))? - 16;
    file.seek(SeekFrom::Start(0))?;
    let mut hasher = blake3::Hasher::new();
    io::copy(&mut BufReader::with_capacity(256 * 1024, &mut file).take(hashed), &mut hasher)?;
    file.seek(SeekFrom::End(0))?;
    file.write_all(hasher.finalize().as_bytes())?;
    file.sync_data()?;
    Ok(index.len() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packages(count: usize) -> String {
        (0..count)
            .map(|i| {
                format!(
                    "Package: p{i}\nVersion: {i}-1\nArchitecture: amd64\nFilename: pool/p/p{i}_{i}-1_amd64.deb\nSize: {i}\nSHA256: {i:064x}\n\n"
                )
            })
            .collect()
    }

    #[test]
    fn every_package_is_found_by_its_path() {
        let dir = tempfile::tempdir().unwrap();
        for count in [0, 1, 2, 1000] {
            let path = dir.path().join("list");
            assert_eq!(Catalogue::write(Form::Packages, packages(count).as_bytes(), &path).unwrap(), count as u64);
            let catalogue = Catalogue::open(&path).unwrap();
            assert_eq!((catalogue.len(), catalogue.packages().count()), (count, count));
            for i in 0..count {
                let found = catalogue.by_path(&format!("pool/p/p{i}_{i}-1_amd64.deb")).unwrap();
                assert_eq!((found.name, found.promise.size), (format!("p{i}"), i as u64));
            }
            assert_eq!(catalogue.by_path("pool/p/other"), None);
        }
        assert!(std::fs::read_dir(dir.path()).unwrap().count() == 1, "nothing is left behind");
    }

    #[test]
    fn what_is_torn_is_not_opened() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("list");
        Catalogue::write(Form::Packages, packages(20).as_bytes(), &path).unwrap();
        let right = std::fs::read(&path).unwrap();
        for end in [0, 1, 15, 16, right.len() / 2, right.len() - 33, right.len() - 1] {
            std::fs::write(&path, &right[..end]).unwrap();
            assert!(Catalogue::open(&path).is_err(), "{end}");
        }
        for at in [0, 20, right.len() - TRAILER, right.len() - 40, right.len() - 1] {
            let mut bent = right.clone();
            bent[at] ^= 1;
            std::fs::write(&path, &bent).unwrap();
            assert!(Catalogue::open(&path).is_err(), "{at}");
        }
        assert!(Catalogue::write(Form::Packages, &b"no list"[..], &path).is_err());
        assert!(!path.with_extension("new").exists());
    }
}

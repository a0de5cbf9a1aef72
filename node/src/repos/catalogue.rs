//! A list of packages in a form that answers at once: one immutable file, mapped, with nothing of it held in memory.
//!
//! ```text
//! magic, letter of the family    15 + 1 bytes
//! records                        one a package: length (u32), then postcard
//! index                          (hash of the path, offset of the record), 8 bytes each, ascending
//! architectures                  postcard: each with the number of its packages
//! number of records, offset of the index, BLAKE3 of all before it     8 + 8 + 32 bytes
//! ```
//! Numbers are little-endian. What is torn or of another version is as if it were not there: it can be made again from the list.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::list::{self, Form, Package, Relations};
use super::relation;
use super::resolve;
use crate::classify::{Algorithm, Digest, Format};
use crate::os::mapping::Mapping;

/// Bumped when the form changes.
const MAGIC: &[u8; 15] = b"imirror-list 3\n";

/// Where the first record begins.
const HEAD: usize = MAGIC.len() + 1;

/// Architectures that are counted; the largest distributions have two dozen.
const ARCHES_MAX: usize = 256;

const HASH: usize = 8;
const ENTRY: usize = HASH + 8;
const TRAILER: usize = 8 + 8 + 32;

/// An open catalogue.
#[derive(Debug)]
pub struct Catalogue {
    format: Format,
    bytes: Bytes,
    index: usize,
    count: usize,
    arches: BTreeMap<String, u32>,
}

#[derive(Serialize, Deserialize)]
struct Record<'r> {
    path: &'r str,
    name: &'r str,
    version: &'r str,
    arch: &'r str,
    size: u64,
    #[serde(borrow)]
    digest: Option<(Algorithm, &'r [u8])>,
    provides: &'r str,
    needs: &'r str,
    recommends: &'r str,
}

/// What little has to be known of many packages.
#[derive(Debug, Clone, Copy)]
pub struct Brief<'c> {
    pub path: &'c str,
    pub version: &'c str,
    pub arch: &'c str,
}

impl Catalogue {
    /// Makes a catalogue of a list; says how many packages it has. Memory: 16 bytes a package.
    ///
    /// # Errors
    /// The list is malformed, or the file cannot be written; then there is none.
    pub fn write(form: Form, list: impl Read, path: &Path) -> io::Result<u64> {
        // Of two mirrors the same list may come at the same time.
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let new = path.with_extension(format!("{}.new", NUMBER.fetch_add(1, Ordering::Relaxed)));
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
        let format = letter_format(bytes[MAGIC.len()]).ok_or_else(torn)?;
        let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap_or_default());
        let hash = blake3::hash(&bytes[..trailer]);
        let (count, index) = (usize::try_from(number(trailer)), usize::try_from(number(trailer + 8)));
        let (Ok(count), Ok(index), true) = (count, index, hash.as_bytes() == &bytes[trailer + 16..]) else {
            return Err(torn());
        };
        let arches = count.checked_mul(ENTRY).and_then(|len| bytes.get(index.checked_add(len)?..trailer));
        let arches = postcard::from_bytes(arches.ok_or_else(torn)?).map_err(|_| torn())?;
        Ok(Self { format, bytes, index, count, arches })
    }

    /// Whose words its packages are in.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Number of files that it names.
    pub fn len(&self) -> usize {
        self.count
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// How many packages there are for each architecture.
    pub fn arches(&self) -> &BTreeMap<String, u32> {
        &self.arches
    }

    /// Path, version and architecture of one of them; see [`Self::package`].
    pub fn brief(&self, index: usize) -> Option<Brief<'_>> {
        let record = self.raw((index < self.count).then(|| self.entry(index).1)?)?;
        Some(Brief { path: record.path, version: record.version, arch: record.arch })
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

    /// One of them; in what order they stand is the catalogue's own.
    pub fn package(&self, index: usize) -> Option<Package> {
        self.record((index < self.count).then(|| self.entry(index).1)?)
    }

    /// The same, as far as it says who needs whom.
    pub fn needs(&self, index: usize) -> Option<resolve::Package<'_>> {
        let record = self.raw((index < self.count).then(|| self.entry(index).1)?)?;
        let recommended = relation::needs(self.format, record.recommends).into_iter();
        let recommended = recommended.map(|need| relation::Need { is_optional: true, ..need });
        Some(resolve::Package {
            name: record.name,
            version: record.version,
            arch: record.arch,
            provides: relation::provided(self.format, record.provides),
            needs: relation::needs(self.format, record.needs).into_iter().chain(recommended).collect(),
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

    fn raw(&self, offset: usize) -> Option<Record<'_>> {
        let from = offset.checked_add(4)?;
        postcard::from_bytes(self.bytes.get(from..from.checked_add(self.length(offset)?)?)?).ok()
    }

    fn record(&self, offset: usize) -> Option<Package> {
        let record = self.raw(offset)?;
        Some(Package {
            path: record.path.to_owned(),
            name: record.name.to_owned(),
            version: record.version.to_owned(),
            arch: record.arch.to_owned(),
            size: record.size,
            digest: record.digest.and_then(|(algorithm, bytes)| Digest::new(algorithm, bytes)),
            relations: Relations {
                provides: record.provides.to_owned(),
                needs: record.needs.to_owned(),
                recommends: record.recommends.to_owned(),
            },
        })
    }
}

/// The packages of several catalogues of one family, those of the preferred one first.
pub struct Stock<'c>(pub Vec<&'c Catalogue>);

impl<'c> Stock<'c> {
    /// The catalogue of a package that `resolve` has found, and its index there.
    pub fn find(&self, mut index: usize) -> Option<(&'c Catalogue, usize)> {
        for catalogue in &self.0 {
            if index < catalogue.len() {
                return Some((catalogue, index));
            }
            index -= catalogue.len();
        }
        None
    }
}

impl resolve::Packages for Stock<'_> {
    fn count(&self) -> usize {
        self.0.iter().map(|catalogue| catalogue.len()).sum()
    }

    fn package(&self, index: usize) -> Option<resolve::Package<'_>> {
        let (catalogue, index) = self.find(index)?;
        catalogue.needs(index)
    }
}

const LETTERS: [(u8, Format); 4] =
    [(b'r', Format::Rpm), (b'd', Format::Deb), (b'a', Format::Arch), (b'p', Format::Alpine)];

fn letter_format(letter: u8) -> Option<Format> {
    LETTERS.iter().find(|(each, _)| *each == letter).map(|(_, format)| *format)
}

fn format_letter(format: Format) -> u8 {
    LETTERS.iter().find(|(_, each)| *each == format).map_or(0, |(letter, _)| *letter)
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
    out.write_all(&[format_letter(form.format())])?;
    let mut at = HEAD as u64;
    let mut index = Vec::new();
    let mut arches: BTreeMap<String, u32> = BTreeMap::new();
    list::read(form, list, |package| {
        let record = Record {
            path: &package.path,
            name: &package.name,
            version: &package.version,
            arch: &package.arch,
            size: package.size,
            digest: package.digest.as_ref().map(|digest| (digest.algorithm(), digest.bytes())),
            provides: &package.relations.provides,
            needs: &package.relations.needs,
            recommends: &package.relations.recommends,
        };
        let record = postcard::to_allocvec(&record).map_err(io::Error::other)?;
        let length = u32::try_from(record.len()).map_err(io::Error::other)?;
        out.write_all(&length.to_le_bytes())?;
        out.write_all(&record)?;
        index.push((hash(&package.path), at));
        if arches.len() < ARCHES_MAX || arches.contains_key(&package.arch) {
            *arches.entry(package.arch).or_default() += 1;
        }
        at += 4 + u64::from(length);
        Ok(())
    })?;
    // Of two for one path the last one counts, as a client would have it replace the first.
    index.sort_unstable_by_key(|(hash, offset)| (*hash, u64::MAX - *offset));
    for (hash, offset) in &index {
        out.write_all(hash)?;
        out.write_all(&offset.to_le_bytes())?;
    }
    out.write_all(&postcard::to_allocvec(&arches).map_err(io::Error::other)?)?;
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
            assert_eq!((catalogue.len(), (0..count + 9).filter_map(|i| catalogue.package(i)).count()), (count, count));
            for i in 0..count {
                let found = catalogue.by_path(&format!("pool/p/p{i}_{i}-1_amd64.deb")).unwrap();
                assert_eq!((found.name, found.size), (format!("p{i}"), i as u64));
            }
            let arches = (count > 0).then(|| ("amd64".to_owned(), count as u32));
            assert_eq!(catalogue.arches(), &arches.into_iter().collect::<BTreeMap<_, _>>());
            assert_eq!(catalogue.by_path("pool/p/other"), None);
        }
        assert!(std::fs::read_dir(dir.path()).unwrap().count() == 1, "nothing is left behind");
    }

    #[test]
    fn what_packages_need_is_found_in_several() {
        let dir = tempfile::tempdir().unwrap();
        let list = |name: &str, text: &str| {
            let path = dir.path().join(name);
            let paragraph = |line: &str| {
                let (package, relations) = line.split_once(';').unwrap();
                let sha = "0".repeat(64);
                format!(
                    "Package: {package}\nVersion: 1\nArchitecture: all\nFilename: {package}.deb\nSize: 1\nSHA256: {sha}\n{relations}\n\n"
                )
            };
            let text: String = text.lines().map(paragraph).collect();
            Catalogue::write(Form::Packages, text.as_bytes(), &path).unwrap();
            Catalogue::open(&path).unwrap()
        };
        let one = list("one", "vlc;Depends: vlc-bin, libc (>= 2)\nother;\n");
        let two =
            list("two", "vlc-bin;Recommends: codecs, gone\nglibc;Provides: libc (= 2.1)\ncodecs;Pre-Depends: dpkg\n");
        let stock = Stock(vec![&one, &two]);
        let resolution = resolve::resolve(&stock, Format::Deb, None, &["vlc"]);
        let package =
            |index: &usize| stock.find(*index).and_then(|(catalogue, index)| catalogue.package(index)).unwrap();
        let paths: Vec<String> = resolution.packages.iter().map(|index| package(index).path).collect();
        assert_eq!(paths, ["vlc.deb", "vlc-bin.deb", "glibc.deb", "codecs.deb"]);
        let missing: Vec<&str> = resolution.missing.iter().map(|missing| &*missing.what).collect();
        assert_eq!(missing, ["dpkg"]);
        assert_eq!((one.format(), stock.find(5).is_none()), (Format::Deb, true));
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
        let left = std::fs::read_dir(dir.path()).unwrap().flatten().filter(|file| file.path() != path);
        assert_eq!(left.count(), 0);
    }
}

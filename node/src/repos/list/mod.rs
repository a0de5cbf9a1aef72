//! Lists of packages, read as streams: `primary.xml` of RPM, `Packages` and `Sources` of deb, Arch's `NAME.db`, Alpine's `APKINDEX`.
//!
//! What they say is not trusted: lengths are bounded before anything is kept, and a list that is malformed anywhere is no list.

mod alpine;
mod arch;
mod deb;
mod rpm;
#[cfg(test)]
mod tests;

use std::io::{self, Read};

pub(super) use deb::paragraphs;
pub(super) use rpm::algorithm;

use super::Promise;
use super::expand::expand;
use crate::classify::{Digest, Format};

/// Longest expanded list in bytes; Debian's largest has some 60 MB, Fedora's `primary` 300 MB.
const EXPANDED_MAX: u64 = 2 * 1024 * 1024 * 1024;

/// Packages of one list.
const PACKAGES_MAX: u64 = 4_000_000;

/// Longest name, version, path or other single value in bytes.
const VALUE_MAX: usize = 4096;

/// The form of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// RPM's `primary.xml`.
    Primary,
    /// Debian's `Packages`.
    Packages,
    /// Debian's `Sources`.
    Sources,
    /// Arch's `NAME.db`.
    Database,
    /// Alpine's `APKINDEX.tar.gz`.
    Apkindex,
}

impl Form {
    /// Whose words its packages are in.
    pub const fn format(self) -> Format {
        match self {
            Self::Primary => Format::Rpm,
            Self::Packages | Self::Sources => Format::Deb,
            Self::Database => Format::Arch,
            Self::Apkindex => Format::Alpine,
        }
    }
}

/// One file of a list. A source package is several of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Package {
    /// Where it lies, below the repository's base, as the list writes it.
    pub path: String,
    pub name: String,
    /// With epoch and release, as the family writes it.
    pub version: String,
    pub arch: String,
    /// Bytes.
    pub size: u64,
    /// Alpine's have none.
    pub digest: Option<Digest>,
    pub relations: Relations,
}

impl Package {
    /// What the file must be, if the list says enough of it.
    pub fn promise(&self) -> Option<Promise> {
        self.digest.clone().map(|digest| Promise { digest, size: self.size })
    }
}

/// What a package provides and needs, as its family writes it (`repos/relation.rs`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Relations {
    pub provides: String,
    pub needs: String,
    /// What package managers fetch with it unless they are told not to.
    pub recommends: String,
}

/// Reads a list, compressed or not, and calls `each` for its packages in order. What has no digest is passed over, but for Alpine's and
/// Arch's.
///
/// # Errors
/// It is malformed or damaged, or `each` fails.
pub fn read(form: Form, input: impl Read, mut each: impl FnMut(Package) -> io::Result<()>) -> io::Result<()> {
    let input = io::BufReader::with_capacity(128 * 1024, expand(input, EXPANDED_MAX)?);
    let mut left = PACKAGES_MAX;
    let mut each = |package: Package| {
        left = left.checked_sub(1).ok_or_else(|| bad("more packages than any repository has"))?;
        each(package)
    };
    match form {
        Form::Primary => rpm::read(input, &mut each),
        Form::Packages => deb::read_packages(input, &mut each),
        Form::Sources => deb::read_sources(input, &mut each),
        Form::Database => arch::read(input, &mut each),
        Form::Apkindex => alpine::read(input, &mut each),
    }
}

fn bad(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}

/// A path that stays below its base: relative, without `..`.
fn checked_path(path: &str) -> io::Result<String> {
    let path = path.strip_prefix("./").unwrap_or(path);
    let strange = |part: &str| part.is_empty() || part == "." || part == "..";
    if path.is_empty() || path.split('/').any(strange) || path.bytes().any(|b| b < b' ' || b == 0x7f) {
        return Err(bad(format!("the path {path:?} leads out of the repository")));
    }
    Ok(path.to_owned())
}

fn checked(value: &str) -> io::Result<&str> {
    match value.len() <= VALUE_MAX {
        true => Ok(value),
        false => Err(bad("a value is longer than any that makes sense")),
    }
}

//! Lists of packages, read as streams: `primary.xml` of RPM, `Packages` and `Sources` of deb.
//!
//! What they say is not trusted: lengths are bounded before anything is kept, and a list that is malformed anywhere is no list.

mod deb;
mod rpm;

use std::io::{self, Read};

pub(super) use deb::paragraphs;
pub(super) use rpm::algorithm;

use super::Promise;
use super::expand::expand;

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
    /// Its digest and length.
    pub promise: Promise,
}

/// Reads a list, compressed or not, and calls `each` for its packages in order. What has no digest is passed over.
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

//! Alpine's `APKINDEX.tar.gz`: an archive with a signature, then one with the list. A package is lines `K:value`, up to an empty line
//! (apk-v2(5)).
//!
//! `C` is the digest of a part of the package and no promise of the whole: nothing here has a digest.

use std::io::{self, BufRead, Read};

use super::{Package, Relations, VALUE_MAX, bad, checked, checked_path};
use crate::repos::tar;

/// Longest line in bytes; some packages provide thousands of commands.
const LINE_MAX: usize = 1024 * 1024;

pub(super) fn read(input: impl BufRead, each: &mut dyn FnMut(Package) -> io::Result<()>) -> io::Result<()> {
    let mut is_index = false;
    tar::files(input, |path, content| {
        if path != "APKINDEX" {
            return Ok(());
        }
        is_index = true;
        index(content, each)
    })?;
    if is_index { Ok(()) } else { Err(bad("it is no APKINDEX")) }
}

/// A package as far as it has been read.
#[derive(Default)]
struct Partial {
    name: String,
    version: String,
    arch: String,
    size: Option<u64>,
    relations: Relations,
}

fn index(content: &mut dyn BufRead, each: &mut dyn FnMut(Package) -> io::Result<()>) -> io::Result<()> {
    let (mut line, mut number) = (Vec::new(), 0u64);
    let mut package = Partial::default();
    loop {
        line.clear();
        let read = (&mut *content).take(LINE_MAX as u64).read_until(b'\n', &mut line)?;
        number += 1;
        if read == LINE_MAX {
            return Err(bad(format!("line {number} has no end")));
        }
        let text =
            std::str::from_utf8(line.trim_ascii_end()).map_err(|_| bad(format!("line {number} is not UTF-8")))?;
        match (text, text.split_once(':')) {
            ("", _) => {
                if let Some(package) =
                    std::mem::take(&mut package).finish().map_err(|e| bad(format!("line {number}: {e}")))?
                {
                    each(package)?;
                }
            }
            (_, Some((key, value))) => package.take(key, value).map_err(|e| bad(format!("line {number}: {e}")))?,
            _ => return Err(bad(format!("line {number} is no field"))),
        }
        if read == 0 {
            return Ok(());
        }
    }
}

impl Partial {
    fn take(&mut self, key: &str, value: &str) -> io::Result<()> {
        let set = |place: &mut String| checked(value).map(|value| value.clone_into(place));
        match key {
            "P" => set(&mut self.name)?,
            "V" => set(&mut self.version)?,
            "A" => set(&mut self.arch)?,
            "S" => self.size = value.parse().ok(),
            "D" => value.clone_into(&mut self.relations.needs),
            "p" => value.clone_into(&mut self.relations.provides),
            _ => {}
        }
        Ok(())
    }

    /// Nothing between two empty lines.
    fn finish(self) -> io::Result<Option<Package>> {
        if self.name.is_empty() && self.version.is_empty() {
            return Ok(None);
        }
        let size = self.size.ok_or_else(|| bad("a package without its size"))?;
        let path = checked_path(&format!("{}-{}.apk", self.name, self.version))?;
        if path.contains('/') || path.len() > VALUE_MAX {
            return Err(bad(format!("the path {path:.100?} leads out of the repository")));
        }
        let Self { name, version, arch, relations, .. } = self;
        Ok(Some(Package { path, name, version, arch, size, digest: None, relations }))
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Form, read};
    use super::*;
    use crate::repos::tar::tests::{archive, entry};

    fn listed(index: &str) -> io::Result<Vec<Package>> {
        // The signature is an archive without an end.
        let signature = entry(".SIGN.RSA.example.rsa.pub", b'0', b"signature");
        let bytes = [signature, archive(&[("DESCRIPTION", "v3.20"), ("APKINDEX", index)])].concat();
        let mut packages = Vec::new();
        read(Form::Apkindex, &bytes[..], |package| {
            packages.push(package);
            Ok(())
        })?;
        Ok(packages)
    }

    #[test]
    fn packages() {
        let text = "C:Q1pGb0JUgqBf6pnUZYBVT0+3JCnho=\nP:busybox\nV:1.36.1-r29\nA:x86_64\nS:509600\nI:962560\nT:Size: small\nU:https://example.org/\n\
                    L:GPL-2.0-only\no:busybox\nm:X <x@example.org>\nt:1718042369\nc:abc\nk:100\nD:so:libc.musl-x86_64.so.1\n\
                    p:/bin/sh cmd:busybox=1.36.1-r29\ni:a b\n\n\r\nP:a\r\nV:1_rc1\r\nS:0\r\nF:usr\r\n\r\n";
        let packages = listed(text).unwrap();
        assert_eq!(packages.len(), 2);
        let first = &packages[0];
        assert_eq!((&*first.path, &*first.arch, first.size), ("busybox-1.36.1-r29.apk", "x86_64", 509_600));
        assert_eq!((&first.digest, &*first.relations.needs), (&None, "so:libc.musl-x86_64.so.1"));
        assert_eq!(first.relations.provides, "/bin/sh cmd:busybox=1.36.1-r29");
        assert_eq!(packages[1].path, "a-1_rc1.apk");
        assert_eq!(listed("P:a\nV:1\nS:1").unwrap().len(), 1, "the last line may have no end");
        assert_eq!(listed("").unwrap(), []);
    }

    #[test]
    fn what_is_malformed_is_no_list() {
        for wrong in [
            "P:a\nV:1\n",
            "P:a\nV:1\nS:x\n",
            "P:../a\nV:1\nS:1\n",
            "P:a/b\nV:1\nS:1\n",
            "nothing\n",
            "P:\u{0}\nV:1\nS:1\n",
        ] {
            assert!(listed(wrong).is_err(), "{wrong:?}");
        }
        assert!(listed(&format!("P:a\nV:1\nS:1\nD:{}", "x".repeat(LINE_MAX))).is_err());
        assert!(read(Form::Apkindex, &archive(&[("other", "")])[..], |_| Ok(())).is_err());
    }
}

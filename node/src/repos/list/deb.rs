//! Debian's `Packages` and `Sources`: paragraphs of fields (deb822(5)), one a package.

use std::io::{self, BufRead, Read};

use super::{Package, Relations, VALUE_MAX, bad, checked, checked_path};
use crate::classify::{Algorithm, Digest};

/// Longest field with all its lines, in bytes.
const FIELD_MAX: usize = 4 * 1024 * 1024;

/// Digests of a paragraph by the names of their fields, the one that counts first.
const DIGESTS: [(&str, Algorithm); 4] = [
    ("sha256", Algorithm::Sha256),
    ("sha512", Algorithm::Sha512),
    ("sha1", Algorithm::Sha1),
    ("md5sum", Algorithm::Md5),
];

/// Files of a source package by the names of the fields that list them, the one that counts first.
const FILES: [(&str, Algorithm); 4] = [
    ("checksums-sha256", Algorithm::Sha256),
    ("checksums-sha512", Algorithm::Sha512),
    ("checksums-sha1", Algorithm::Sha1),
    ("files", Algorithm::Md5),
];

pub(super) fn read_packages(input: impl BufRead, each: &mut dyn FnMut(Package) -> io::Result<()>) -> io::Result<()> {
    let wanted = [
        "package",
        "version",
        "architecture",
        "filename",
        "size",
        "sha256",
        "sha512",
        "sha1",
        "md5sum",
        "provides",
        "depends",
        "pre-depends",
        "recommends",
    ];
    paragraphs(input, &wanted, |fields| {
        let digest = DIGESTS.iter().find_map(|(name, algorithm)| Digest::from_hex(*algorithm, fields.get(name)?));
        // Without a digest there is nothing to be known of it.
        let (Some(digest), Some(path)) = (digest, fields.get("filename")) else { return Ok(()) };
        let size =
            fields.get("size").and_then(|size| size.parse().ok()).ok_or_else(|| bad("a package without Size"))?;
        let value = |name| fields.get(name).unwrap_or_default();
        let needs = ["pre-depends", "depends"].map(value);
        each(Package {
            path: checked_path(checked(path)?)?,
            name: checked(value("package"))?.to_owned(),
            version: checked(value("version"))?.to_owned(),
            arch: checked(value("architecture"))?.to_owned(),
            size,
            digest: Some(digest),
            relations: Relations {
                provides: value("provides").to_owned(),
                needs: needs.join(", ").trim_matches([',', ' ']).to_owned(),
                recommends: value("recommends").to_owned(),
            },
        })
    })
}

pub(super) fn read_sources(input: impl BufRead, each: &mut dyn FnMut(Package) -> io::Result<()>) -> io::Result<()> {
    let wanted = ["package", "version", "directory", "checksums-sha256", "checksums-sha512", "checksums-sha1", "files"];
    paragraphs(input, &wanted, |fields| {
        let listed = FILES.iter().find_map(|(name, algorithm)| Some((fields.get(name)?, algorithm)));
        let (Some((files, algorithm)), Some(folder)) = (listed, fields.get("directory")) else { return Ok(()) };
        for line in files.lines().filter(|line| !line.trim().is_empty()) {
            let mut words = line.split_ascii_whitespace();
            let promise = words
                .next()
                .zip(words.next())
                .and_then(|(digest, size)| Some((Digest::from_hex(*algorithm, digest)?, size.parse().ok()?)));
            let (Some((digest, size)), Some(name)) = (promise, words.next()) else {
                return Err(bad(format!("the line {line:?} is no file")));
            };
            let path = if folder == "." { name.to_owned() } else { format!("{folder}/{name}") };
            each(Package {
                path: checked_path(checked(&path)?)?,
                name: checked(fields.get("package").unwrap_or_default())?.to_owned(),
                version: checked(fields.get("version").unwrap_or_default())?.to_owned(),
                arch: "source".to_owned(),
                size,
                digest: Some(digest),
                relations: Relations::default(),
            })?;
        }
        Ok(())
    })
}

/// The fields of a paragraph that are wanted, by their names in lower case.
pub(crate) struct Fields<'w> {
    names: &'w [&'static str],
    values: Vec<Option<String>>,
}

impl Fields<'_> {
    /// The value: what follows the colon, and, each after a line feed, the lines that continue it.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.names.iter().position(|each| *each == name).and_then(|index| self.values[index].as_deref())
    }
}

/// Calls `each` with every paragraph. Fields that are not `wanted` are not kept.
///
/// # Errors
/// A line is neither a field nor the continuation of one, or not UTF-8; a field has no end.
pub(crate) fn paragraphs(
    mut input: impl BufRead,
    wanted: &[&'static str],
    mut each: impl FnMut(&Fields<'_>) -> io::Result<()>,
) -> io::Result<()> {
    let mut fields = Fields { names: wanted, values: vec![None; wanted.len()] };
    let (mut line, mut number) = (Vec::new(), 0u64);
    let mut current: Option<usize> = None;
    let mut is_inside = false;
    loop {
        line.clear();
        let read = input.by_ref().take(FIELD_MAX as u64).read_until(b'\n', &mut line)?;
        number += 1;
        if read == FIELD_MAX {
            return Err(bad(format!("line {number} has no end")));
        }
        let text = line.trim_ascii_end();
        if text.is_empty() && is_inside {
            each(&fields)?;
            fields.values.fill(None);
            (current, is_inside) = (None, false);
        }
        if read == 0 {
            return Ok(());
        }
        match text {
            [] | [b'#', ..] => {}
            [b' ' | b'\t', rest @ ..] => {
                let Some(value) = current.and_then(|index| fields.values[index].as_mut()) else {
                    if is_inside {
                        continue;
                    }
                    return Err(bad(format!("line {number} continues nothing")));
                };
                if value.len() + rest.len() >= FIELD_MAX {
                    return Err(bad(format!("the field of line {number} has no end")));
                }
                value.push('\n');
                value.push_str(std::str::from_utf8(rest).map_err(|_| bad(format!("line {number} is not UTF-8")))?);
            }
            _ => {
                let colon = text.iter().position(|b| *b == b':').filter(|colon| (1..VALUE_MAX).contains(colon));
                let colon = colon.ok_or_else(|| bad(format!("line {number} is no field")))?;
                let (name, value) = (&text[..colon], text[colon + 1..].trim_ascii());
                is_inside = true;
                current = wanted.iter().position(|wanted| name.eq_ignore_ascii_case(wanted.as_bytes()));
                if let Some(index) = current {
                    let value = std::str::from_utf8(value).map_err(|_| bad(format!("line {number} is not UTF-8")))?;
                    fields.values[index] = Some(value.to_owned());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Form, read};
    use super::*;

    fn listed(form: Form, text: &str) -> io::Result<Vec<Package>> {
        let mut packages = Vec::new();
        read(form, text.as_bytes(), |package| {
            packages.push(package);
            Ok(())
        })?;
        Ok(packages)
    }

    const SHA: &str = "ed7002b439e9ac845f22357d822bac1444730fbdb6016d3ec9432297b9ec9f73";

    #[test]
    fn packages() {
        let text = format!(
            "Package: g++\r\nVersion: 4:12.2.0-3\nArchitecture: amd64\nDescription: a\n long\n .\n text\nDepends: x,\n y\nPre-Depends: dpkg (>= 1.15)\nProvides: c++-compiler\nRecommends: z\n\
             Filename: pool/main/g/gcc/g++_12.2.0-3_amd64.deb\nSize: 1356\nMD5sum: {}\nSHA256: {SHA}\n\n\n\
             Package: no-digest\nFilename: pool/x.deb\nSize: 1\n\n\
             Package: flat\nVersion: 1\nFilename: ./flat_1.deb\nSize: 2\nSHA1: {}",
            "0".repeat(32),
            "a".repeat(40)
        );
        let packages = listed(Form::Packages, &text).unwrap();
        assert_eq!(packages.len(), 2);
        let first = &packages[0];
        assert_eq!((&*first.name, &*first.version, &*first.arch), ("g++", "4:12.2.0-3", "amd64"));
        assert_eq!(first.path, "pool/main/g/gcc/g++_12.2.0-3_amd64.deb");
        assert_eq!((first.size, first.digest.as_ref().unwrap().hex()), (1356, SHA.to_owned()));
        assert_eq!(
            (&*packages[1].path, packages[1].digest.as_ref().unwrap().algorithm()),
            ("flat_1.deb", Algorithm::Sha1)
        );
        let Relations { provides, needs, recommends } = &first.relations;
        assert_eq!((&**provides, &**needs, &**recommends), ("c++-compiler", "dpkg (>= 1.15), x,\ny", "z"));
    }

    #[test]
    fn sources() {
        let text = format!(
            "Package: hello\nBinary: hello\nVersion: 2.10-3\nDirectory: pool/main/h/hello\nFiles:\n {md5} 10 hello_2.10-3.dsc\n\
             Checksums-Sha256:\n {SHA} 10 hello_2.10-3.dsc\n {SHA} 725 hello_2.10.orig.tar.gz\n",
            md5 = "0".repeat(32)
        );
        let files = listed(Form::Sources, &text).unwrap();
        let paths: Vec<_> = files.iter().map(|file| (&*file.path, file.size)).collect();
        assert_eq!(
            paths,
            [("pool/main/h/hello/hello_2.10-3.dsc", 10), ("pool/main/h/hello/hello_2.10.orig.tar.gz", 725)]
        );
        assert_eq!(files[0].digest.as_ref().unwrap().algorithm(), Algorithm::Sha256);
    }

    #[test]
    fn what_is_malformed_is_no_list() {
        for text in [
            "no field\n".to_owned(),
            " continues nothing\n".to_owned(),
            ": no name\n".to_owned(),
            format!("Package: a\nFilename: ../../etc/passwd\nSize: 1\nSHA256: {SHA}\n"),
            format!("Package: a\nFilename: a//b\nSize: 1\nSHA256: {SHA}\n"),
            format!("Package: a\nFilename: a.deb\nSHA256: {SHA}\n"),
            format!("Package: a\nFilename: a.deb\nSize: -1\nSHA256: {SHA}\n"),
            format!("Package: {}\nFilename: {}\nSize: 1\nSHA256: {SHA}\n", "a", "b".repeat(5000)),
        ] {
            assert!(listed(Form::Packages, &text).is_err(), "{text:.60}");
        }
        assert!(listed(Form::Sources, "Directory: a\nChecksums-Sha256:\n x y z\n").is_err());
        assert_eq!(listed(Form::Packages, "").unwrap(), []);
    }
}

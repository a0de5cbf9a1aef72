//! Arch's databases, `NAME.db`: an archive with a folder for each package, in it `desc` (repo-add(8)).
//!
//! A field is a line `%NAME%`, then its values, a line each, up to an empty line.

use std::io::{self, BufRead, Read};

use super::{Package, Relations, bad, checked, checked_path};
use crate::classify::{Algorithm, Digest};
use crate::repos::tar;

/// Longest description of one package, in bytes.
const DESC_MAX: u64 = 1024 * 1024;

pub(super) fn read(input: impl BufRead, each: &mut dyn FnMut(Package) -> io::Result<()>) -> io::Result<()> {
    let mut bytes = Vec::new();
    tar::files(input, |path, content| {
        if !path.ends_with("/desc") {
            return Ok(());
        }
        bytes.clear();
        content.take(DESC_MAX + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > DESC_MAX {
            return Err(bad(format!("{path:?} is longer than any description")));
        }
        // Packagers' names may be in any encoding.
        match package(&String::from_utf8_lossy(&bytes)).map_err(|e| bad(format!("{path:?}: {e}")))? {
            Some(package) => each(package),
            None => Ok(()),
        }
    })
}

/// Nothing where there is no file.
fn package(desc: &str) -> io::Result<Option<Package>> {
    let field = |name: &str| {
        let mut lines = desc.lines().map(str::trim_end);
        lines.find(|line| *line == name).map(|_| lines.take_while(|line| !line.is_empty()))
    };
    let value = |name| checked(field(name).and_then(|mut values| values.next()).unwrap_or_default());
    let values = |name| field(name).map(|values| values.collect::<Vec<_>>().join("\n")).unwrap_or_default();
    let path = value("%FILENAME%")?;
    if path.is_empty() {
        return Ok(None);
    }
    let size = value("%CSIZE%")?.parse().map_err(|_| bad("there is no %CSIZE%"))?;
    let digest = Digest::from_hex(Algorithm::Sha256, value("%SHA256SUM%")?);
    Ok(Some(Package {
        path: checked_path(path)?,
        name: value("%NAME%")?.to_owned(),
        version: value("%VERSION%")?.to_owned(),
        arch: value("%ARCH%")?.to_owned(),
        size,
        digest: digest.or(Digest::from_hex(Algorithm::Md5, value("%MD5SUM%")?)),
        relations: Relations { provides: values("%PROVIDES%"), needs: values("%DEPENDS%"), recommends: String::new() },
    }))
}

#[cfg(test)]
mod tests {
    use super::super::{Form, read};
    use super::*;
    use crate::repos::tar::tests::archive;

    const SHA: &str = "ed7002b439e9ac845f22357d822bac1444730fbdb6016d3ec9432297b9ec9f73";

    fn listed(files: &[(&str, &str)]) -> io::Result<Vec<Package>> {
        let mut packages = Vec::new();
        read(Form::Database, &archive(files)[..], |package| {
            packages.push(package);
            Ok(())
        })?;
        Ok(packages)
    }

    fn desc(more: &str) -> String {
        format!(
            "%FILENAME%\na-1:1.0-1-x86_64.pkg.tar.zst\n\n%NAME%\na\n\n%BASE%\na\n\n%VERSION%\n1:1.0-1\n\n%CSIZE%\n7\n\n%ARCH%\nx86_64\n\n{more}"
        )
    }

    #[test]
    fn packages() {
        let first = desc(&format!(
            "%DESC%\nDoes %NAME% things\n\n%MD5SUM%\n{}\n\n%SHA256SUM%\n{SHA}\n\n%PGPSIG%\nabc\n\n%PACKAGER%\nX\n\n%DEPENDS%\nglibc>=2.38\nsh\n\n\
             %PROVIDES%\nliba.so=1-64\n\n%OPTDEPENDS%\nb: for c",
            "0".repeat(32)
        ));
        let second = desc(&format!("%MD5SUM%\n{}", "0".repeat(32))).replace('\n', "\r\n");
        let files = [
            ("a-1:1.0-1/desc", &*first),
            ("a-1:1.0-1/files", "%FILES%\nusr/"),
            ("b-1/desc", &second),
            ("c-1/desc", &desc("")),
            ("d-1/desc", "%NAME%\nd\n"),
        ];
        let packages = listed(&files).unwrap();
        assert_eq!(packages.len(), 3);
        let first = &packages[0];
        assert_eq!((&*first.name, &*first.version, &*first.arch, first.size), ("a", "1:1.0-1", "x86_64", 7));
        assert_eq!(first.path, "a-1:1.0-1-x86_64.pkg.tar.zst");
        assert_eq!(first.digest.as_ref().unwrap().hex(), SHA);
        let relations = &first.relations;
        assert_eq!((&*relations.needs, &*relations.provides), ("glibc>=2.38\nsh", "liba.so=1-64"));
        assert_eq!(packages[1].digest.as_ref().unwrap().algorithm(), Algorithm::Md5);
        assert_eq!(packages[2].digest, None);
        assert_eq!(listed(&[]).unwrap(), [], "a repository without packages");
    }

    #[test]
    fn what_is_malformed_is_no_list() {
        let right = desc("");
        for wrong in [
            right.replace("%CSIZE%\n7\n", ""),
            right.replace("\n7\n", "\n-7\n"),
            right.replace("a-1:1.0-1-x86_64", "../a"),
            right.replace("%NAME%\na", &format!("%NAME%\n{}", "a".repeat(5000))),
            format!("{right}{}", " ".repeat(1024 * 1024)),
        ] {
            assert!(listed(&[("a-1/desc", &wrong)]).is_err(), "{wrong:.80}");
        }
        assert!(read(Form::Database, &b"<html></html>"[..], |_| Ok(())).is_err());
    }
}

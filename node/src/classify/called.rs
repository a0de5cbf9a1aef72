//! What a package is called and for which architecture it is made, by the name of its file: `libfoo:amd64`. Only that is the same from
//! one version to the next. It tells what is popular, never what a content is.

use super::place::Place;
use super::url::Url;

/// Of a URL; `None` when it is no package's.
pub fn called(url: &Url) -> Option<String> {
    let place = Place::of(url);
    by_file_name(&place.parent, &place.name)
}

/// Of a path below a repository's base, as its lists write it.
pub fn called_by_path(path: &str) -> Option<String> {
    let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
    by_file_name(folder.rsplit('/').next().unwrap_or_default(), name)
}

fn by_file_name(folder: &str, file: &str) -> Option<String> {
    let (name, arch) = match file {
        _ if file.ends_with(".rpm") => {
            // NAME-VERSION-RELEASE.ARCH.rpm
            let (stem, arch) = file.strip_suffix(".rpm")?.rsplit_once('.')?;
            (without_last(stem, 2)?, arch)
        }
        _ if [".deb", ".udeb", ".ddeb"].iter().any(|ending| file.ends_with(ending)) => {
            // NAME_VERSION_ARCH.deb
            let (stem, _) = file.rsplit_once('.')?;
            let (name, rest) = stem.split_once('_')?;
            (name, rest.split_once('_')?.1)
        }
        _ if file.ends_with(".apk") => (without_last(file, 2)?, folder), // NAME-VERSION-rRELEASE.apk
        _ => {
            // NAME-VERSION-RELEASE-ARCH.pkg.tar.zst
            let (stem, compression) = file.split_once(".pkg.tar")?;
            let (rest, arch) = stem.rsplit_once('-').filter(|_| !compression.ends_with(".sig"))?;
            (without_last(rest, 2)?, arch)
        }
    };
    (!name.is_empty() && !arch.is_empty()).then(|| format!("{name}:{arch}"))
}

/// Without so many last parts, which hyphens separate.
fn without_last(text: &str, parts: usize) -> Option<&str> {
    (0..parts).try_fold(text, |text, _| Some(text.rsplit_once('-')?.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_versions_of_a_package_are_called_the_same() {
        for (path, expected) in [
            ("Packages/v/vlc-plugins-base-3.0.21-9.fc41.x86_64.rpm", Some("vlc-plugins-base:x86_64")),
            ("pool/main/g/g++-12/g++-12_12.2.0-14_amd64.deb", Some("g++-12:amd64")),
            ("pool/main/g/g%2b%2b-12/g%2b%2b-12_12.2.0-14_amd64.deb", Some("g++-12:amd64")),
            ("a_1%3a2-3_all.udeb", Some("a:all")),
            ("gtk4-1:4.16.7-1-x86_64.pkg.tar.zst", Some("gtk4:x86_64")),
            ("gtk4-1:4.16.7-1-x86_64.pkg.tar.zst.sig", None),
            ("v3.20/main/aarch64/busybox-1.36.1-r29.apk", Some("busybox:aarch64")),
            ("busybox-1.36.1-r29.apk", None),
            ("app.apk", None),
            ("x.rpm", None),
            ("-1-1.noarch.rpm", None),
            ("a_1.deb", None),
            ("dists/s/InRelease", None),
        ] {
            let url = Url::parse(&format!("http://example.org/{path}")).unwrap();
            let expected = expected.map(str::to_owned);
            if !path.contains("busybox-1.36.1-r29.apk") || expected.is_some() {
                assert_eq!(called(&url), expected, "{path}");
            }
            if !path.contains('%') {
                assert_eq!(called_by_path(path), expected, "{path}");
            }
        }
    }
}

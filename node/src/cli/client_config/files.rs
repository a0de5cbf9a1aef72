//! Files that are changed together: each as a whole or not at all, and what was there before is kept beside it.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};
use similar::TextDiff;

/// Added to the name of a copy. apt, dnf and zypper pass over such files in silence.
const COPY: &str = ".imirror.orig";

/// Larger than any configuration.
const FILE_MAX: u64 = 4 << 20;

/// What is to become of a file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) path: PathBuf,
    /// `None`: there is none, or there is to be none.
    pub(super) before: Option<String>,
    pub(super) after: Option<String>,
    /// Of a file that is new.
    pub(super) mode: u32,
    /// What becomes of the copy of what was there before.
    pub(super) backup: Backup,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Backup {
    /// It is made of `before`.
    Make,
    /// It stays as it is, if there is one.
    Keep,
    /// It has served its purpose.
    Remove,
}

impl Change {
    pub(super) fn is_none(&self) -> bool {
        self.before == self.after
    }

    /// As `diff -u` shows it.
    pub(super) fn shown(&self) -> String {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        let (before, after) = (text(&self.before), text(&self.after));
        let name = |side: &Option<String>| {
            side.as_ref().map_or_else(|| "/dev/null".into(), |_| self.path.display().to_string())
        };
        TextDiff::from_lines(&before, &after)
            .unified_diff()
            .context_radius(2)
            .header(&name(&self.before), &name(&self.after))
            .to_string()
    }
}

/// The text of a file that may be changed; `None` when there is none.
pub(super) fn read(path: &Path) -> anyhow::Result<Option<String>> {
    let shown = path.display();
    let kind = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        kind => kind.with_context(|| format!("cannot read {shown}"))?,
    };
    if kind.is_symlink() {
        bail!("{shown} is a symbolic link: change what it leads to by hand");
    }
    if !kind.is_file() || kind.len() > FILE_MAX {
        bail!("{shown} is no file of a few lines");
    }
    let bytes = fs::read(path).with_context(|| format!("cannot read {shown}"))?;
    Ok(Some(String::from_utf8(bytes).map_err(|_| anyhow!("{shown} is no UTF-8 text: change it by hand"))?))
}

/// Where the copy of a file is.
pub(super) fn copy_of(path: &Path) -> PathBuf {
    let mut name = path.file_name().map_or_else(OsString::new, OsString::from);
    name.push(COPY);
    path.with_file_name(name)
}

/// Does all of them. What can fail comes first: new contents and copies are written beside the files, and only when all
/// are there do they take their places.
pub(super) fn change(changes: &[Change]) -> anyhow::Result<()> {
    let mut staged = Vec::new();
    for change in changes {
        let done = stage(change).with_context(|| format!("cannot change {}", change.path.display()));
        match done {
            Ok(new) => staged.extend(new),
            Err(error) => {
                for (new, _) in &staged {
                    let _ = fs::remove_file(new);
                }
                return Err(match error.root_cause().downcast_ref::<io::Error>().map(io::Error::kind) {
                    Some(io::ErrorKind::PermissionDenied) => error.context("nothing was changed; run this as root"),
                    _ => error.context("nothing was changed"),
                });
            }
        }
    }
    for (new, path) in &staged {
        fs::rename(new, path).with_context(|| format!("cannot replace {}", path.display()))?;
    }
    for change in changes {
        if change.after.is_none() {
            fs::remove_file(&change.path).with_context(|| format!("cannot remove {}", change.path.display()))?;
        }
        if change.backup == Backup::Remove {
            // It may never have been there.
            let _ = fs::remove_file(copy_of(&change.path));
        }
        let folder = change.path.parent().unwrap_or(Path::new("."));
        File::open(folder)
            .and_then(|folder| folder.sync_all())
            .with_context(|| format!("cannot sync {}", folder.display()))?;
    }
    Ok(())
}

/// New files with the places that they are to take.
fn stage(change: &Change) -> io::Result<Vec<(PathBuf, PathBuf)>> {
    let like = fs::metadata(&change.path).ok();
    let mut staged = Vec::new();
    if let (Backup::Make, Some(before)) = (change.backup, &change.before) {
        let copy = copy_of(&change.path);
        staged.push((write_new(&copy, before, change.mode, like.as_ref())?, copy));
    }
    if let Some(after) = &change.after {
        let new = write_new(&change.path, after, change.mode, like.as_ref());
        let new = new.inspect_err(|_| staged.iter().for_each(|(new, _)| drop(fs::remove_file(new))))?;
        staged.push((new, change.path.clone()));
    }
    Ok(staged)
}

/// Writes a file beside the one whose place it will take, with the owner and permissions of `like`. Its name begins with a
/// dot: clients do not read it.
fn write_new(path: &Path, text: &str, mode: u32, like: Option<&fs::Metadata>) -> io::Result<PathBuf> {
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".imirror.new");
    let new = path.with_file_name(name);
    // Of a run that was cut off.
    let _ = fs::remove_file(&new);
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
        file.write_all(text.as_bytes())?;
        if let Some(like) = like {
            std::os::unix::fs::fchown(&file, Some(like.uid()), Some(like.gid()))?;
        }
        // Whatever the umask is.
        file.set_permissions(fs::Permissions::from_mode(like.map_or(mode, |like| like.mode() & 0o7777)))?;
        file.sync_all()
    })();
    written.inspect_err(|_| drop(fs::remove_file(&new)))?;
    Ok(new)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change_of(path: &Path, after: Option<&str>, backup: Backup) -> Change {
        let after = after.map(ToOwned::to_owned);
        Change { path: path.to_owned(), before: read(path).unwrap(), after, mode: 0o755, backup }
    }

    #[test]
    fn files_change_together_and_keep_what_they_are() {
        let folder = tempfile::tempdir().unwrap();
        let (old, new) = (folder.path().join("a.repo"), folder.path().join("b"));
        fs::write(&old, "one\n").unwrap();
        fs::set_permissions(&old, fs::Permissions::from_mode(0o640)).unwrap();
        change(&[change_of(&old, Some("two\n"), Backup::Make), change_of(&new, Some("new\n"), Backup::Make)]).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        assert_eq!((mode(&old), mode(&copy_of(&old)), mode(&new)), (0o640, 0o640, 0o755));
        assert_eq!(fs::read_to_string(copy_of(&old)).unwrap(), "one\n");
        assert!(!copy_of(&new).exists());
        change(&[change_of(&old, Some("one\n"), Backup::Remove), change_of(&new, None, Backup::Remove)]).unwrap();
        let left: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["a.repo"]);
    }

    #[test]
    fn when_one_cannot_be_changed_none_is() {
        let folder = tempfile::tempdir().unwrap();
        let old = folder.path().join("a");
        fs::write(&old, "one\n").unwrap();
        let nowhere = folder.path().join("nothing/b");
        let all = [change_of(&old, Some("two\n"), Backup::Make), change_of(&nowhere, Some("x"), Backup::Make)];
        let error = format!("{:#}", change(&all).unwrap_err());
        assert!(error.starts_with("nothing was changed: cannot change ") && error.contains("nothing/b"), "{error}");
        assert_eq!(fs::read_to_string(&old).unwrap(), "one\n");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "no copies and no new files are left behind");
    }

    #[test]
    fn what_is_no_plain_text_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::write(path("bytes"), [0xff]).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", path("link")).unwrap();
        for (name, why) in [("bytes", "no UTF-8 text"), ("link", "a symbolic link"), ("", "no file")] {
            let error = read(&path(name)).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
        assert_eq!(read(&path("nothing")).unwrap(), None);
    }

    #[test]
    fn a_change_is_shown_as_diff_does() {
        let change = Change {
            path: "/etc/a.repo".into(),
            before: Some("[a]\nbaseurl=x\nenabled=1\n".into()),
            after: Some("[a]\nbaseurl=y\nenabled=1\n".into()),
            mode: 0o644,
            backup: Backup::Make,
        };
        insta::assert_snapshot!(change.shown(), @r"
        --- /etc/a.repo
        +++ /etc/a.repo
        @@ -1,3 +1,3 @@
         [a]
        -baseurl=x
        +baseurl=y
         enabled=1
        ");
        let new = Change { before: None, ..change };
        assert!(new.shown().starts_with("--- /dev/null\n+++ /etc/a.repo\n"), "{}", new.shown());
    }
}

//! Mounts that only some processes see and that vanish with the test, however it ends.

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// A mount namespace, held by a process that ends when its standard input does.
pub struct Namespace {
    holder: Child,
}

impl Namespace {
    #[allow(clippy::new_without_default)]
    pub fn new() -> Self {
        let mut unshare = Command::new("unshare");
        unshare.args(["--mount", "--propagation", "private"]);
        if !rustix::process::getuid().is_root() {
            unshare.arg("--map-root-user");
        }
        let mut holder = unshare.arg("cat").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        // When the byte comes back, `cat` runs, in the new namespace.
        holder.stdin.as_mut().unwrap().write_all(b".").unwrap();
        holder.stdout.as_mut().unwrap().read_exact(&mut [0]).expect("a mount namespace can be made");
        Self { holder }
    }

    /// A command that runs inside.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--mount", "--target", &self.holder.id().to_string()]);
        if !rustix::process::getuid().is_root() {
            command.args(["--user", "--preserve-credentials"]);
        }
        command.arg("--").arg(program);
        command
    }

    /// Runs a line of shell inside; `$1` is `path`.
    pub fn shell(&self, line: &str, path: &Path) {
        let ran = self.command("sh").args(["-ec", line, "sh"]).arg(path).output().unwrap();
        assert!(ran.status.success(), "{line}: {ran:?}");
    }

    /// Mounts an empty file system in memory on a folder, which is made.
    pub fn mount_memory(&self, folder: &Path, options: &str) {
        std::fs::create_dir_all(folder).unwrap();
        self.shell(&format!("mount -t tmpfs -o {options} tmpfs \"$1\""), folder);
    }

    /// A path inside as this process can open it.
    pub fn path(&self, path: &Path) -> PathBuf {
        let root = PathBuf::from(format!("/proc/{}/root", self.holder.id()));
        root.join(path.strip_prefix("/").unwrap())
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

//! A machine in a box: all that this one has, seen through an overlay that is thrown away, with a systemd of its own and the network of
//! a host of a [`crate::netns::Lan`]. What is installed, started and configured there is seen by nobody else. Needs root.
//!
//! It is held by a process that ends when its standard input does, and takes everything with it: nothing is left behind, not even by a
//! test that was killed.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::netns::Host;

/// `$1` is a folder of the test's, `$2` the network, `$3` the name of the machine. What might be in the way of a package on this
/// machine is taken away: what a node has left that was run here, that services may not be started, that manual pages are left out or made an index of, timers that would fetch
/// something. The kernel is everybody's: `/proc/sys` cannot be written, but for two files that stand in for what packages want to set.
const HOLDER: &str = r#"
box=$1/box root=$1/box/root
mkdir "$box"
mount -t tmpfs -o mode=755 tmpfs "$box"
mkdir "$box/upper" "$box/work" "$root" "$box/groups"
mount -t overlay -o "lowerdir=/,upperdir=$box/upper,workdir=$box/work" overlay "$root"
mount -t tmpfs tmpfs "$root/run"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
mkdir "$root/dev/pts" "$root/dev/shm"
for device in null zero full random urandom tty; do
  touch "$root/dev/$device"
  mount --bind "/dev/$device" "$root/dev/$device"
done
mount -t devpts -o newinstance,ptmxmode=666 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
mount --bind "$1/shared" "$root/mnt"
rm -f "$root/usr/sbin/policy-rc.d" "$root/var/lib/man-db/auto-update"
rm -rf "$root/var/lib/imirror" "$root/var/cache/imirror"
grep -ls path-exclude "$root"/etc/dpkg/dpkg.cfg.d/* | xargs -r rm
echo "$3" > "$root/etc/hostname"
echo > "$root/etc/fstab"
mkdir -p "$root/etc/systemd/system"
ln -sf /dev/null "$root/etc/systemd/system/timers.target"
printf '[Unit]\nRequires=basic.target\nAfter=basic.target\nAllowIsolate=yes\n' > "$root/etc/systemd/system/box.target"
echo 1 > "$root/tmp/rmem_max"
echo 1 > "$root/tmp/wmem_max"
mount -t cgroup2 cgroup2 "$box/groups"
group=$box/groups/imirror-test-$$
mkdir "$group"
(
  echo 0 > "$group/cgroup.procs"
  exec nsenter --net="$2" unshare --pid --fork --kill-child --cgroup --ipc --uts --mount sh -ec "$INIT" sh "$root"
) &
cat > /dev/null
kill -KILL $! || true
for _ in $(seq 100); do
  find "$group" -depth -type d -exec rmdir {} \; 2> /dev/null || true
  [ -d "$group" ] || break
  sleep 0.05
done"#;

/// The first process of the machine; says its number outside.
const INIT: &str = r#"
read -r number _ < /proc/self/stat
mount -t proc proc "$1/proc"
mount --bind "$1/proc/sys" "$1/proc/sys"
mount -o remount,bind,ro "$1/proc/sys"
for file in rmem_max wmem_max; do mount --bind "$1/tmp/$file" "$1/proc/sys/net/core/$file"; done
mount -t sysfs sysfs "$1/sys"
mount -t cgroup2 cgroup2 "$1/sys/fs/cgroup"
mkdir "$1/.outside"
cd "$1"
pivot_root . .outside
umount -l .outside
rmdir .outside
echo "$number"
exec env -i container=imirror-test PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --unit=box.target --show-status=no > /dev/null 2>&1"#;

/// A running machine; ended and forgotten when dropped.
pub struct Machine {
    holder: Child,
    /// Its first process, as it is numbered here.
    init: String,
    dir: TempDir,
    host: Host,
}

impl Machine {
    /// Starts it and waits until services can be started there.
    pub fn start(host: &Host, name: &str) -> Self {
        assert!(rustix::process::getuid().is_root(), "a machine in a box needs root");
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("shared")).unwrap();
        let mut holder = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "sh", "-ec", HOLDER, "sh"])
            .args([dir.path(), host.namespace()])
            .arg(name)
            .env("INIT", INIT)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare is installed");
        let mut init = String::new();
        BufReader::new(holder.stdout.take().unwrap()).read_line(&mut init).unwrap();
        let machine = Self { holder, init: init.trim().to_owned(), dir, host: host.clone() };
        assert!(!machine.init.is_empty(), "a machine can be started");
        machine.wait_for("it is up", || machine.succeeds("systemctl --quiet is-active box.target"));
        machine
    }

    pub fn host(&self) -> &Host {
        &self.host
    }

    /// A folder that is `/mnt` there.
    pub fn shared(&self) -> PathBuf {
        self.dir.path().join("shared")
    }

    /// A path there, as this process can open it.
    pub fn path(&self, path: &str) -> PathBuf {
        Path::new("/proc").join(&self.init).join("root").join(path.trim_start_matches('/'))
    }

    /// A shell there, of root, in `/mnt`, which says yes to whatever it is asked.
    pub fn command(&self, line: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--mount", "--pid", "--ipc", "--uts", "--net", "--target", &self.init, "--"]);
        command.args([
            "env",
            "-i",
            "PATH=/usr/sbin:/usr/bin:/sbin:/bin",
            "LC_ALL=C.UTF-8",
            "DEBIAN_FRONTEND=noninteractive",
        ]);
        command.args(["sh", "-ec", "cd /mnt; yes 2> /dev/null | sh -ec \"$1\"", "sh", line]);
        command
    }

    pub fn succeeds(&self, line: &str) -> bool {
        self.command(line).output().unwrap().status.success()
    }

    /// What a line of shell says; it must not fail.
    pub fn shell(&self, line: &str) -> String {
        let ran = self.command(line).output().unwrap();
        let said = String::from_utf8_lossy(&ran.stdout).into_owned();
        assert!(ran.status.success(), "{line}\n{said}{}", String::from_utf8_lossy(&ran.stderr));
        said
    }

    /// Waits until something is so.
    pub fn wait_for(&self, what: &str, done: impl Fn() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !done() {
            assert!(Instant::now() < deadline, "waited in vain until {what}");
            std::thread::yield_now();
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let said = self.command("journalctl --no-pager --lines 100 2>&1").output().map(|said| said.stdout);
            eprintln!("--- the journal ---\n{}", String::from_utf8_lossy(&said.unwrap_or_default()));
        }
        drop(self.holder.stdin.take());
        let _ = self.holder.wait();
    }
}

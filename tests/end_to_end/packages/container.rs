//! The container as `deploy/README.md` says: built, run, made a second node, replaced and forgotten, by a podman on a machine of its own,
//! whose storage goes with that.
//!
//! Nothing is fetched. The images that the container file starts from are made of packages of this machine, and what stands in for the
//! compiler hands out the program that is tested once it has seen that all is there of which that was made: to compile a release takes
//! ten minutes and the network.

use std::path::{Path, PathBuf};
use std::process::Command;

use imirror_tests::content;
use imirror_tests::http::Connection;
use imirror_tests::machine::Machine;
use imirror_tests::node::program;
use imirror_tests::origin::{Page, Trouble};

use super::{Trial, debian, recipe, run, source};

/// Makes the images `$DEBIAN` and `$RUST`. The first has what is essential here, apt, and a repository with what else certificates need;
/// the second the tools of `/mnt/rust`, too. That a container gets groups of its own and its build a network is not what is tested, and
/// not permitted everywhere.
const BASES: &str = r#"
mkdir -p /var/lib/containers /etc/containers /tmp/bases
mount -t tmpfs -o mode=755 tmpfs /var/lib/containers
cat > /etc/containers/containers.conf <<'END'
[containers]
cgroups = "disabled"
log_driver = "journald"
[engine]
env = ["BUILDAH_ISOLATION=chroot"]
END
cd /tmp/bases

# Packages of this machine with all that they depend on.
closure() {
  apt-cache depends --recurse --installed --no-recommends --no-suggests --no-conflicts --no-breaks --no-replaces --no-enhances "$@" |
    sed -n 's/^\([a-z0-9][^ :]*\).*/\1/p' | sort -u > named
  xargs dpkg-query -W -f '${db:Status-Abbrev}${Package}\n' < named 2> /dev/null | sed -n 's/^ii //p'
}

# Puts what the packages after the first argument consist of into that folder, all of it below /usr.
unpack() {
  folder=$1
  shift
  mkdir -p "$folder"
  dpkg-query -L "$@" | grep -vE '^/usr/share/(doc|man|locale|info|lintian)/' |
    sed -nE 's,^/(bin|sbin|lib|lib32|lib64)(/|$),/usr/\1\2,;s,^/([^.]),\1,p' | sort -u |
    tar -C / -c --no-recursion --ignore-failed-read -T - | tar -C "$folder" -x
}

awk=$(realpath /usr/bin/awk)
closure $(dpkg-query -W -f '${Essential} ${Package}\n' | sed -n 's/^yes //p') apt "$(dpkg-query -S "$awk" | cut -d : -f 1)" > base
unpack debian $(cat base)
ln -s usr/bin usr/sbin usr/lib usr/lib64 debian
ln -s "$awk" debian/usr/bin/awk
mkdir -p debian/usr/local
cp debian/usr/share/base-passwd/passwd.master debian/etc/passwd
cp debian/usr/share/base-passwd/group.master debian/etc/group
echo '_apt:x:42:65534::/nonexistent:/usr/sbin/nologin' >> debian/etc/passwd
rm -rf debian/var/lib/dpkg debian/etc/apt/sources.list.d
mkdir -p debian/var/lib/dpkg/info debian/var/lib/dpkg/updates
dpkg-query -s $(cat base) > debian/var/lib/dpkg/status
for package in $(cat base); do
  find /var/lib/dpkg/info -name "$package.*" -o -name "$package:*" | xargs cp -t debian/var/lib/dpkg/info
done

mkdir -p debian/srv/repository
for package in $(closure ca-certificates | grep -vxF -f base); do
  unpack package "$package"
  mkdir package/DEBIAN
  dpkg-query -s "$package" | sed '/^Status:/d;/^Conffiles:/,/^[^ ]/{/^Conffiles:/d;/^ /d}' > package/DEBIAN/control
  for part in preinst postinst config templates triggers; do
    [ ! -e "/var/lib/dpkg/info/$package.$part" ] || cp "/var/lib/dpkg/info/$package.$part" "package/DEBIAN/$part"
  done
  dpkg-deb --root-owner-group -Znone -b package "debian/srv/repository/$package.deb"
  rm -r package
done
(cd debian/srv/repository; apt-ftparchive packages . > Packages)
echo 'deb [trusted=yes] file:/srv/repository ./' > debian/etc/apt/sources.list
tar -C debian -c . | podman import --quiet - "$DEBIAN"

unpack rust $(closure binutils | grep -vxF -f base)
mkdir -p rust/usr/local
cp -r /mnt/rust rust/usr/local/bin
printf 'FROM %s\nCOPY rust /\n' "$DEBIAN" | podman build --quiet --tag "$RUST" --file - .
rm -r /tmp/bases
"#;

/// Stands in for the compiler.
const CARGO: &str = r#"#!/bin/sh -e
[ "$PWD: cargo $*" = "/source: cargo build --release --locked -p imirror" ]
cargo-itself metadata --locked --offline --no-deps > /dev/null
xargs ls < /usr/local/bin/made-of > /dev/null
mkdir -p target/release
cp /usr/local/bin/program target/release/imirror
"#;

/// The images that the container file starts from.
fn bases() -> [String; 2] {
    let text = std::fs::read_to_string(source("deploy/container/Containerfile")).unwrap();
    let found: Vec<String> = text.lines().filter_map(|line| line.strip_prefix("FROM ")).map(str::to_owned).collect();
    let [rust, debian] = found.try_into().expect("one builds, one runs");
    [rust.strip_suffix(" AS build").expect("the first one builds").to_owned(), debian]
}

/// The files of the source that the compiler has read to make the program, as cargo notes them beside it.
fn made_of() -> Vec<PathBuf> {
    let noted = std::fs::read_to_string(program().with_extension("d")).expect("it was made by cargo");
    let files: Vec<PathBuf> = noted
        .split_whitespace()
        .filter_map(|file| Path::new(file).strip_prefix(source("")).ok())
        .map(Path::to_owned)
        .filter(|file| !file.starts_with("target"))
        .collect();
    assert!(files.iter().any(|file| file.ends_with("node/src/main.rs")), "{noted}");
    files
}

/// The source, and what images are made of.
fn prepare(machine: &Machine) {
    let rust = machine.shared().join("rust");
    std::fs::create_dir(&rust).unwrap();
    let files: String = made_of().iter().map(|file| format!("{}\n", file.display())).collect();
    std::fs::write(rust.join("made-of"), files).unwrap();
    std::fs::write(rust.join("cargo"), CARGO).unwrap();
    run(Command::new("chmod").arg("755").arg(rust.join("cargo")));
    std::fs::copy(env!("CARGO"), rust.join("cargo-itself")).unwrap();
    std::fs::copy(program(), rust.join("program")).unwrap();
    let copy = "mkdir \"$1\"; tar -c --exclude=./target --exclude=./.git . | tar -x -C \"$1\"";
    run(Command::new("sh").args(["-ec", copy, "sh"]).arg(machine.shared().join("source")).current_dir(source("")));
    let [rust, debian] = bases();
    machine.shell(&format!("DEBIAN={debian} RUST={rust}\n{BASES}"));
}

fn inspect(machine: &Machine, kind: &str) -> serde_json::Value {
    let said = machine.shell(&format!("podman {kind} inspect imirror"));
    serde_json::from_str::<serde_json::Value>(&said).unwrap()[0].take()
}

/// A client begins a download, of which it has read a part.
fn begin(trial: &Trial, path: &str, part: usize) -> Connection {
    let stream = trial.machine.host().connect(trial.node_address().parse().unwrap()).unwrap();
    let mut connection = Connection::over(stream);
    let (url, host) = (trial.origin.url(path), trial.origin.address());
    connection.send(&format!("GET {url} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
    assert_eq!(connection.head().expect("an answer").0, 200);
    assert_eq!(connection.read(part).len(), part);
    connection
}

/// It is stopped while one client waits for upstream and another one takes nothing any more.
fn a_stop_lets_clients_finish(trial: &Trial, stop: &str) {
    let (machine, origin) = (&trial.machine, &trial.origin);
    let waits = content(3, 3_000_000);
    origin.put("/waits-1-1.noarch.rpm", Page::new(waits.clone()).with(Trouble::StallAt(1_000_000)));
    origin.put("/deaf-1-1.noarch.rpm", Page::new(content(4, 30_000_000)));
    let _deaf = begin(trial, "/deaf-1-1.noarch.rpm", 1);
    let mut waiting = begin(trial, "/waits-1-1.noarch.rpm", 500_000);
    let stops = || machine.shell("podman logs imirror 2>&1").matches("stopping").count();
    let before = stops();
    std::thread::scope(|scope| {
        let stopped = scope.spawn(|| machine.shell(stop));
        machine.wait_for("it is told to stop", || stops() > before);
        origin.release();
        assert!(waiting.read(2_500_000) == waits[500_000..]);
        stopped.join().unwrap();
    });
    assert_eq!(inspect(machine, "container")["State"]["ExitCode"], 0, "it is not killed");
}

#[test]
fn the_container_is_built_and_lives() {
    let [build, start, status, join, stop, remove, purge] = recipe("Container");
    let mut trial = Trial::new(debian());
    trial.program = "podman exec imirror imirror";
    let machine = &trial.machine;
    prepare(machine);
    machine.shell(&format!("cd source; {build}"));
    let image = inspect(machine, "image");
    let config = &image["Config"];
    assert_eq!((&config["User"], &config["StopSignal"]), (&"imirror".into(), &"SIGTERM".into()));
    assert_eq!(image["Healthcheck"]["Test"], serde_json::json!(["CMD", "imirror", "status"]));
    assert_eq!(config["ExposedPorts"], serde_json::json!({ "3142/tcp": {}, "3142/udp": {} }));

    let up = || {
        machine.shell(&start);
        machine.wait_for("it is up", || machine.succeeds(&status));
    };
    up();
    let container = inspect(machine, "container");
    let process = format!("cd /proc/{}; stat -c %u .; grep CapEff: status", container["State"]["Pid"]);
    assert_eq!(machine.shell(&process), "3142\nCapEff:\t0000000000000000\n");
    let made = "podman exec imirror stat -c '%U:%G %a' /var/lib/imirror/token /var/lib/imirror/node.key /run/imirror/control.sock";
    assert_eq!(machine.shell(made), "imirror:imirror 600\nimirror:imirror 600\nimirror:imirror 600\n");
    machine.shell("podman exec imirror test -s /etc/ssl/certs/ca-certificates.crt -a -x /usr/bin/gpgv");
    trial.fetch();

    let (site, before) = (trial.site(), trial.status());
    assert_ne!(before["site"]["id"], site["id"]);
    machine.shell(&join.replace("im1…", site["token"].as_str().unwrap()));
    machine.wait_for("it is up again", || machine.succeeds(&status));
    assert_eq!(trial.status()["site"]["id"], site["id"]);
    trial.is_member();
    let got = trial.first.get(&trial.origin.url("/pool/imirror-hello_1.0_all.deb"));
    assert_eq!((got.status, got.body.len()), (200, trial.package));
    // Podman asks for it by a timer.
    machine.wait_for("it is healthy", || inspect(machine, "container")["State"]["Health"]["Status"] == "healthy");

    a_stop_lets_clients_finish(&trial, &stop);
    machine.shell(&remove);
    up();
    let after = trial.status();
    assert_eq!((&after["node"]["id"], &after["site"]["id"]), (&before["node"]["id"], &site["id"]), "it is who it was");
    trial.is_member();
    trial.fetch();
    machine.shell(&format!("{stop}\n{remove}\n{purge}"));
    assert_eq!(machine.shell("podman ps --all --quiet; podman volume ls --quiet"), "", "nothing is left");
}

#[test]
fn it_is_built_by_the_rust_that_the_source_asks_for() {
    let manifest = std::fs::read_to_string(source("Cargo.toml")).unwrap();
    let rust = manifest.lines().find_map(|line| line.strip_prefix("rust-version = ")).unwrap().trim_matches('"');
    // And runs on the release that it was linked on.
    assert_eq!(bases(), [format!("rust:{rust}-slim-bookworm"), "debian:bookworm-slim".to_owned()]);
}

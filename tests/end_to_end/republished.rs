//! Repositories that are published anew all the time, on two mirrors of which one lags, in an order that no mirror should have; and
//! real clients that install from them through two nodes of a site (R18). None of them may ever fail.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use imirror_tests::origin::{Origin, Page};
use imirror_tests::{content, sha256};
use tempfile::TempDir;

use super::clients::{apt_command, dnf_command, run};
use super::site::site_at;

/// The clients go on at least so long, and until each has got so many generations.
const LONG: Duration = Duration::from_secs(60);
const GENERATIONS: usize = 5;

/// Between two generations.
const EVERY: Duration = Duration::from_millis(1500);

/// A generation's packages go from a mirror when it has been replaced so many times, and all clients have got a later one.
const KEPT: u64 = 6;

const NAMES: [&str; 3] = ["im-a", "im-b", "im-c"];

/// A package's content in a generation.
fn body(name: &str, generation: u64) -> Vec<u8> {
    content(generation * 7 + name.bytes().map(u64::from).sum::<u64>(), 30_000)
}

fn file(name: &str, generation: u64, form: &str) -> String {
    match form {
        "deb" => format!("{name}_{generation}_amd64.deb"),
        _ => format!("{name}-{generation}-1.noarch.rpm"),
    }
}

/// A repository as files: what is to be there first, the lists, and the root.
struct Generation {
    packages: Vec<(String, Vec<u8>)>,
    lists: Vec<(String, Vec<u8>)>,
    roots: Vec<(String, Vec<u8>)>,
}

fn packages(generation: u64, form: &str, folder: &str) -> Vec<(String, Vec<u8>)> {
    let one = |name: &&str| (format!("{folder}/{}", file(name, generation, form)), body(name, generation));
    NAMES.iter().map(one).collect()
}

fn deb(number: u64, key: &Key) -> Generation {
    let packages = packages(number, "deb", "/d/pool");
    let paragraph = |((path, body), name): (&(String, Vec<u8>), &&str)| {
        let (path, size, sha) = (&path[3..], body.len(), sha256(body));
        format!(
            "Package: {name}\nVersion: {number}\nArchitecture: amd64\nMaintainer: A <a@example.org>\nFilename: {path}\nSize: {size}\nSHA256: {sha}\nDescription: test\n\n"
        )
    };
    let list: String = packages.iter().zip(&NAMES).map(paragraph).collect();
    let name = "main/binary-amd64/Packages";
    let date = run(Command::new("date").args(["-u", "-R", "-d", &format!("2025-11-01 +{number} minutes")]));
    let release = format!(
        "Origin: test\nSuite: stable\nCodename: stable\nComponents: main\nArchitectures: amd64\nDate: {}UTC\nSHA256:\n {} {} {name}\n",
        date.trim().trim_end_matches("+0000"),
        sha256(list.as_bytes()),
        list.len()
    );
    Generation {
        packages,
        lists: vec![(format!("/d/dists/stable/{name}"), list.into_bytes())],
        roots: vec![("/d/dists/stable/InRelease".into(), key.clear_sign(&release))],
    }
}

fn rpm(number: u64, _: &Key) -> Generation {
    let packages = packages(number, "rpm", "/r/Packages");
    let package = |((path, body), name): (&(String, Vec<u8>), &&str)| {
        let (path, size, sha) = (&path[3..], body.len(), sha256(body));
        format!(
            r#"<package type="rpm"><name>{name}</name><arch>noarch</arch><version epoch="0" ver="{number}" rel="1"/><checksum type="sha256" pkgid="YES">{sha}</checksum><summary>t</summary><description>t</description><packager/><url/><time file="1" build="1"/><size package="{size}" installed="1" archive="1"/><location href="{path}"/><format><rpm:license>MIT</rpm:license><rpm:vendor/><rpm:group/><rpm:buildhost/><rpm:sourcerpm/><rpm:header-range start="1" end="2"/><rpm:provides><rpm:entry name="{name}" flags="EQ" epoch="0" ver="{number}" rel="1"/></rpm:provides></format></package>"#
        )
    };
    let all: String = packages.iter().zip(&NAMES).map(package).collect();
    let list = format!(
        r#"<?xml version="1.0"?><metadata xmlns="http://linux.duke.edu/metadata/common" xmlns:rpm="http://linux.duke.edu/metadata/rpm" packages="{}">{all}</metadata>"#,
        NAMES.len()
    );
    let sha = sha256(list.as_bytes());
    // Under one name in all generations, which is the hardest.
    let path = "repodata/primary.xml";
    let repomd = format!(
        r#"<?xml version="1.0"?><repomd xmlns="http://linux.duke.edu/metadata/repo"><revision>{number}</revision><data type="primary"><checksum type="sha256">{sha}</checksum><open-checksum type="sha256">{sha}</open-checksum><location href="{path}"/><timestamp>{number}</timestamp><size>{0}</size><open-size>{0}</open-size></data></repomd>"#,
        list.len()
    );
    Generation {
        packages,
        lists: vec![(format!("/r/{path}"), list.into_bytes())],
        roots: vec![("/r/repodata/repomd.xml".into(), repomd.into_bytes())],
    }
}

/// What a repository is signed with.
pub(super) struct Key(TempDir);

impl Key {
    pub(super) fn new() -> Self {
        let home = TempDir::new().unwrap();
        let key = Self(home);
        run(key.gpg().args([
            "--passphrase",
            "",
            "--quick-generate-key",
            "Test <test@example.org>",
            "ed25519",
            "sign",
            "never",
        ]));
        let public = key.gpg().args(["--export"]).output().unwrap().stdout;
        std::fs::write(key.public(), public).unwrap();
        key
    }

    fn gpg(&self) -> Command {
        let mut gpg = Command::new("gpg");
        gpg.arg("--homedir").arg(self.0.path()).args(["--batch", "--quiet", "--yes", "--pinentry-mode", "loopback"]);
        gpg
    }

    pub(super) fn public(&self) -> PathBuf {
        self.0.path().join("public.gpg")
    }

    /// The same as text.
    pub(super) fn public_armoured(&self) -> PathBuf {
        let path = self.0.path().join("public.asc");
        std::fs::write(&path, self.gpg().args(["--armor", "--export"]).output().unwrap().stdout).unwrap();
        path
    }

    /// A signature in a file of its own.
    pub(super) fn detached(&self, text: &str) -> Vec<u8> {
        let (plain, signature) = (self.0.path().join("text"), self.0.path().join("text.sig"));
        std::fs::write(&plain, text).unwrap();
        run(self.gpg().args(["--armor", "--output"]).arg(&signature).arg("--detach-sign").arg(&plain));
        std::fs::read(signature).unwrap()
    }

    pub(super) fn clear_sign(&self, text: &str) -> Vec<u8> {
        let (plain, signed) = (self.0.path().join("text"), self.0.path().join("text.asc"));
        std::fs::write(&plain, text).unwrap();
        run(self.gpg().arg("--output").arg(&signed).arg("--clear-sign").arg(&plain));
        std::fs::read(signed).unwrap()
    }
}

impl Drop for Key {
    fn drop(&mut self) {
        // Its agent ends with it.
        let _ = Command::new("gpgconf").arg("--homedir").arg(self.0.path()).args(["--kill", "all"]).status();
    }
}

fn put(origin: &Origin, files: &[(String, Vec<u8>)], number: u64) {
    let date = format!("Sat, 01 Nov 2025 {:02}:{:02}:00 GMT", number / 60, number % 60);
    for (path, body) in files {
        origin.put(path, Page::new(body.clone()).modified(&date));
    }
}

/// What a client has got so far.
#[derive(Default)]
struct Progress {
    /// How many different generations.
    different: AtomicUsize,
    latest: AtomicU64,
}

/// Publishes on two mirrors, of which the second is up to a generation behind, until it is over.
fn publish(
    origins: &[Origin; 2],
    make: fn(u64, &Key) -> Generation,
    key: &Key,
    form: &str,
    is_over: &AtomicBool,
    clients: &[Progress],
) {
    let folder = if form == "deb" { "/d/pool" } else { "/r/Packages" };
    let mut lagging: Option<(Generation, u64)> = None;
    let mut oldest = 1;
    for number in 2.. {
        if is_over.load(Ordering::SeqCst) {
            return;
        }
        let generation = make(number, key);
        let pause = || std::thread::sleep(EVERY / 4);
        put(&origins[0], &generation.packages, number);
        // What a client has seen of the one does not fit the other for a while, now this way, now that.
        let (first, second) = match number % 2 {
            0 => (&generation.roots, &generation.lists),
            _ => (&generation.lists, &generation.roots),
        };
        put(&origins[0], first, number);
        pause();
        put(&origins[0], second, number);
        pause();
        if let Some((old, number)) = lagging.take() {
            put(&origins[1], &old.packages, number);
            put(&origins[1], &old.lists, number);
            pause();
            put(&origins[1], &old.roots, number);
            pause();
        }
        // Of what nobody has fetched and no mirror has any more nobody can be helped.
        let needed = clients.iter().map(|client| client.latest.load(Ordering::SeqCst)).min().unwrap();
        while oldest < needed && oldest + KEPT <= number {
            for origin in origins {
                NAMES.iter().for_each(|name| origin.remove(&format!("{folder}/{}", file(name, oldest, form))));
            }
            oldest += 1;
        }
        lagging = Some((generation, number));
    }
}

/// Runs a client over and over; returns the generations that it has got, in order.
fn client(is_over: &AtomicBool, progress: &Progress, once: impl Fn() -> Vec<(String, Vec<u8>)>) -> Vec<u64> {
    let mut got = Vec::new();
    while !is_over.load(Ordering::SeqCst) {
        let files = once();
        assert_eq!(files.len(), NAMES.len());
        let mut generations = BTreeSet::new();
        for (name, bytes) in files {
            let stem = name.replace("-1.noarch.rpm", "").replace("_amd64.deb", "");
            let (package, number) = stem.rsplit_once(['_', '-']).unwrap();
            let number: u64 = number.parse().unwrap();
            assert_eq!(sha256(&bytes), sha256(&body(package, number)), "{name}");
            generations.insert(number);
        }
        assert_eq!(generations.len(), 1, "packages of one generation: {generations:?}");
        progress.latest.fetch_max(*generations.last().unwrap(), Ordering::SeqCst);
        got.extend(generations);
        progress.different.store(got.iter().collect::<BTreeSet<_>>().len(), Ordering::SeqCst);
    }
    got
}

fn taken(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let files: Vec<PathBuf> =
        super::clients::find(folder, ".deb").into_iter().chain(super::clients::find(folder, ".rpm")).collect();
    let read = |path: &PathBuf| {
        let bytes = std::fs::read(path).unwrap();
        std::fs::remove_file(path).unwrap();
        (path.file_name().unwrap().to_str().unwrap().to_owned(), bytes)
    };
    files.iter().map(read).collect()
}

fn hammer(
    form: &str,
    make: fn(u64, &Key) -> Generation,
    once: impl Fn(&str, &Origin, &Path, &Key) -> Vec<(String, Vec<u8>)> + Sync,
) {
    let key = Key::new();
    let origins = [Origin::start(), Origin::start()];
    for origin in &origins {
        let Generation { packages, lists, roots } = make(1, &key);
        [packages, lists, roots].iter().for_each(|files| put(origin, files, 1));
    }
    let site = site_at(2, &[origins[0].address(), origins[1].address()]);
    // Each node has seen each mirror when it was whole: who comes for the first time to one that is not cannot be helped.
    for (node, origin) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
        once(&site[node].address(), &origins[origin], TempDir::new().unwrap().path(), &key);
    }
    let (is_over, progress) = (AtomicBool::new(false), [(); 4].map(|()| Progress::default()));
    let seen: Vec<Vec<u64>> = std::thread::scope(|scope| {
        let (key, origins, is_over, progress) = (&key, &origins, &is_over, &progress);
        let publisher = scope.spawn(move || publish(origins, make, key, form, is_over, progress));
        let places = [(0, 0), (1, 0), (0, 1), (1, 1)].into_iter().zip(progress);
        let clients: Vec<_> = places
            .map(|((node, mirror), progress)| {
                let (node, once) = (site[node].address(), &once);
                scope.spawn(move || {
                    let folder = TempDir::new().unwrap();
                    client(is_over, progress, || once(&node, &origins[mirror], folder.path(), key))
                })
            })
            .collect();
        let end = Instant::now() + LONG;
        let got_on = || progress.iter().all(|client| client.different.load(Ordering::SeqCst) >= GENERATIONS);
        // A client that fails ends it, too.
        while (Instant::now() < end || !got_on()) && clients.iter().all(|client| !client.is_finished()) {
            std::thread::sleep(Duration::from_millis(100));
        }
        is_over.store(true, Ordering::SeqCst);
        publisher.join().unwrap();
        clients.into_iter().map(|client| client.join().unwrap()).collect()
    });
    for generations in &seen {
        assert!(generations.is_sorted(), "nobody goes back: {seen:?}");
    }
}

#[test]
fn r18_apt_never_fails_while_a_repository_is_republished() {
    hammer("deb", deb, |node, origin, folder, key| {
        let sources =
            format!("deb [arch=amd64 signed-by={}] {} stable main\n", key.public().display(), origin.url("/d"));
        let proxy = format!("http://{node}");
        run(apt_command(&sources, &proxy, folder).arg("update").args(["-o", "APT::Update::Error-Mode=any"]));
        run(apt_command(&sources, &proxy, folder).arg("download").args(NAMES));
        taken(folder)
    });
}

#[test]
fn r18_dnf_never_fails_while_a_repository_is_republished() {
    hammer("rpm", rpm, |node, origin, folder, _| {
        let lines = format!("baseurl={}\nproxy=http://{node}\n", origin.url("/r"));
        run(dnf_command(&lines, folder).args(["--refresh", "install", "--downloadonly"]).args(NAMES));
        taken(&folder.join("cache"))
    });
}

//! The helper (R20-R22): what people use is there in its new version before they ask, and what a list names, with all that it needs.

use std::process::Command;
use std::time::Duration;

use imirror_tests::node::{Node, free_port};
use imirror_tests::origin::{Origin, Page};
use imirror_tests::{content, sha256};
use tempfile::TempDir;

use super::clients::{apt_install, apt_update, dnf_has, dnf_install, run};
use super::site::site_with;

const LIST: &str = "/d/dists/stable/main/binary-amd64/Packages";
const RELEASE: &str = "/d/dists/stable/InRelease";
const HELPER: &str = "[helper]\nenabled = true\ninterval = \"1s\"\nrate_limit = \"0\"\n";

/// A package of the test's repository.
struct Package {
    name: &'static str,
    version: u8,
    depends: &'static str,
    body: Vec<u8>,
}

fn package(name: &'static str, version: u8, depends: &'static str, bytes: usize) -> Package {
    let seed = name.bytes().map(u64::from).sum::<u64>() * 256 + u64::from(version);
    Package { name, version, depends, body: content(seed, bytes) }
}

fn pool(name: &str, version: u8) -> String {
    format!("/d/pool/{name}_{version}_amd64.deb")
}

/// Puts a repository of these packages on an origin, as of a day of November 2025.
fn publish(origin: &Origin, day: u8, packages: &[Package]) {
    let paragraph = |Package { name, version, depends, body }: &Package| {
        let (path, size, sha) = (&pool(name, *version)[3..], body.len(), sha256(body));
        format!(
            "Package: {name}\nVersion: {version}\nArchitecture: amd64\nDepends: {depends}\nFilename: {path}\nSize: {size}\nSHA256: {sha}\n\n"
        )
    };
    let list: String = packages.iter().map(paragraph).collect();
    let date = format!("{}, {day:02} Nov 2025 10:11:12", ["Sat", "Sun", "Mon", "Tue", "Wed"][usize::from(day - 1)]);
    let (sha, len) = (sha256(list.as_bytes()), list.len());
    let release = format!("Suite: stable\nDate: {date} UTC\nSHA256:\n {sha} {len} main/binary-amd64/Packages\n");
    let page = |body: Vec<u8>| Page::new(body).modified(&format!("{date} GMT"));
    for Package { name, version, body, .. } in packages {
        origin.put(&pool(name, *version), page(body.clone()));
    }
    origin.put(LIST, page(list.into_bytes()));
    origin.put(RELEASE, page(release.into_bytes()));
}

/// As `apt-get update` would.
fn update(node: &Node, origin: &Origin) {
    for path in [RELEASE, LIST] {
        let answer = node.get_with(&origin.url(path), &["Cache-Control: max-age=0"]);
        assert_eq!(answer.status, 200, "{path}");
    }
}

fn get(node: &Node, origin: &Origin, name: &str, version: u8) -> Vec<u8> {
    let answer = node.get(&origin.url(&pool(name, version)));
    assert_eq!(answer.status, 200, "{name}");
    answer.body
}

/// Until the helper has all of so many packages.
fn wait_for_helper(node: &Node, packages: u64) {
    node.wait_for(|| {
        let helper = &node.status()["helper"];
        helper["wanted"] == packages && helper["present"] == packages
    });
}

fn prefetch(node: &Node, arguments: &[&str]) -> (i32, String) {
    let output = node.command(&[&["prefetch"], arguments].concat()).output().unwrap();
    (
        output.status.code().unwrap(),
        String::from_utf8(output.stdout).unwrap() + &String::from_utf8_lossy(&output.stderr),
    )
}

#[test]
fn r20_an_update_of_what_is_popular_is_there_before_it_is_asked_for() {
    let origin = Origin::start();
    publish(&origin, 1, &[package("vlc", 1, "", 300_000), package("rare", 1, "", 10_000)]);
    let node = Node::start(&[origin.address()], HELPER);
    update(&node, &origin);
    for _ in 0..3 {
        get(&node, &origin, "vlc", 1);
    }
    get(&node, &origin, "rare", 1);
    let new = [package("vlc", 2, "", 300_000), package("rare", 2, "", 10_000), package("other", 1, "", 10)];
    publish(&origin, 2, &new);
    wait_for_helper(&node, 1);
    origin.set_down(true);
    update(&node, &origin);
    assert_eq!(get(&node, &origin, "vlc", 2), new[0].body);
    assert_eq!((origin.sent("vlc_2_amd64.deb"), origin.sent("rare_2_amd64.deb")), (300_000, 0));
    let popular = &node.status()["popular"][0];
    assert_eq!((popular["name"].as_str(), popular["copies"].as_u64()), (Some("vlc:amd64"), Some(1)));
    let (code, list) = prefetch(&node, &["list"]);
    assert!(code == 0 && list.starts_with("present   popular  vlc:amd64  2"), "{list}");
}

#[test]
fn r20_what_is_popular_is_known_after_a_restart() {
    let origin = Origin::start();
    publish(&origin, 1, &[package("vlc", 1, "", 1000)]);
    let mut node = Node::start(&[origin.address()], HELPER);
    update(&node, &origin);
    for _ in 0..3 {
        get(&node, &origin, "vlc", 1);
    }
    node.stop();
    publish(&origin, 2, &[package("vlc", 2, "", 2000)]);
    node.run();
    wait_for_helper(&node, 1);
    assert_eq!(origin.sent("vlc_2_amd64.deb"), 2000);
}

#[test]
fn r20_three_nodes_fetch_it_once() {
    let origin = Origin::start();
    let names = ["a", "b", "c", "d", "e", "f"];
    let all = |version| names.map(|name| package(name, version, "", 50_000));
    publish(&origin, 1, &all(1));
    let site = site_with(3, &origin, HELPER);
    for node in &site {
        update(node, &origin);
        for name in names {
            get(node, &origin, name, 1);
            get(node, &origin, name, 1);
        }
    }
    publish(&origin, 2, &all(2));
    site.iter().for_each(|node| wait_for_helper(node, 6));
    for (node, name) in site.iter().zip(names) {
        update(node, &origin);
        assert_eq!(get(node, &origin, name, 2), package(name, 2, "", 50_000).body);
    }
    for name in names {
        assert_eq!(origin.sent(&format!("{name}_2_amd64.deb")), 50_000, "{name}");
    }
}

#[test]
fn r21_what_is_listed_installs_with_what_it_needs_while_upstream_is_down() {
    let tree = TempDir::new().unwrap();
    let root = tree.path().join("repo");
    std::fs::create_dir_all(root.join("pool")).unwrap();
    for (name, fields) in [
        ("im-vlc", "Depends: im-vlc-bin (>= 1.0), im-codec\nRecommends: im-skins"),
        ("im-vlc-bin", "Depends: im-missing | im-libc"),
        ("im-libc", ""),
        ("im-ffmpeg", "Provides: im-codec"),
        ("im-skins", ""),
        ("im-unrelated", ""),
    ] {
        let build = tree.path().join(name);
        std::fs::create_dir_all(build.join("DEBIAN")).unwrap();
        let fields = if fields.is_empty() { String::new() } else { format!("{fields}\n") };
        let control = format!(
            "Package: {name}\nVersion: 1.0\nArchitecture: amd64\nMaintainer: A <a@example.org>\n{fields}Description: test\n"
        );
        std::fs::write(build.join("DEBIAN/control"), control).unwrap();
        let package = root.join(format!("pool/{name}_1.0_amd64.deb"));
        run(Command::new("dpkg-deb").args(["--root-owner-group", "-Znone", "-b"]).arg(&build).arg(&package));
    }
    let lists = "mkdir -p dists/stable/main/binary-amd64 && \
        apt-ftparchive packages pool > dists/stable/main/binary-amd64/Packages && \
        gzip -k dists/stable/main/binary-amd64/Packages && \
        apt-ftparchive -o APT::FTPArchive::Release::Suite=stable -o APT::FTPArchive::Release::Components=main \
            -o APT::FTPArchive::Release::Architectures=amd64 release dists/stable > Release && \
        mv Release dists/stable/Release";
    run(Command::new("sh").args(["-c", lists]).current_dir(&root));
    let origin = Origin::start();
    origin.put_tree(&root);
    let node = Node::start(&[origin.address()], &format!("{HELPER}prepopulate = [\"im-vlc\", \"nothing\"]\n"));
    let (base, proxy) = (format!("http://{}", origin.address()), format!("http://{}", node.address()));
    apt_update(&base, &proxy, &tree.path().join("first client"));
    wait_for_helper(&node, 5);
    assert_eq!(node.status()["helper"]["missing"].as_array().unwrap().len(), 1);
    assert_eq!(origin.sent("im-unrelated_1.0_amd64.deb"), 0);

    origin.set_down(true);
    let client = tree.path().join("second client");
    apt_update(&base, &proxy, &client);
    let installed = apt_install(&proxy, &client, "im-vlc");
    for name in ["im-vlc", "im-vlc-bin", "im-libc", "im-ffmpeg"] {
        assert!(installed.iter().any(|file| file.starts_with(&format!("{name}_1.0"))), "{name} of {installed:?}");
    }
}

#[test]
fn r22_it_waits_for_its_window_and_yields_to_clients() {
    let origin = Origin::start();
    let size = 3_000_000;
    publish(&origin, 1, &[package("vlc", 1, "", size)]);
    // A window that begins in two hours, in the local time of the node.
    let begin = run(Command::new("date").args(["-d", "+2 hours", "+%H:%M"]));
    let end = run(Command::new("date").args(["-d", "+3 hours", "+%H:%M"]));
    let window = format!("{}-{}", begin.trim(), end.trim());
    let settings = HELPER.replace("rate_limit = \"0\"", "rate_limit = \"1KiB/s\"");
    let node = Node::start(&[origin.address()], &format!("{settings}window = \"{window}\"\nprepopulate = [\"vlc\"]\n"));
    update(&node, &origin);
    // It waits for the window whether there is anything to do or not: what there is to do it has to have read.
    let has_read = || node.status()["repos"].to_string().contains("\"lists\":1");
    node.wait_for(|| has_read() && prefetch(&node, &["status"]).1.starts_with("waiting "));
    let helper = node.status()["helper"].clone();
    assert_eq!((helper["present"].as_u64(), origin.sent("vlc_1_amd64.deb")), (Some(0), 0));

    // Somebody is in a hurry; at this rate it takes most of an hour.
    let mut run = node.command(&["prefetch", "run"]).spawn().unwrap();
    node.wait_for(|| node.status()["helper"]["current"]["bytes"].as_u64().is_some_and(|bytes| bytes > 0));
    assert!(node.status()["helper"]["current"]["bytes"].as_u64().unwrap() < size as u64);
    // A client comes: now it is a download like any other.
    assert_eq!(get(&node, &origin, "vlc", 1).len(), size);
    assert!(run.wait().unwrap().success());
    assert_eq!(origin.sent("vlc_1_amd64.deb"), size);
    wait_for_helper(&node, 1);
}

#[test]
fn r22_it_goes_on_after_a_restart_where_it_was() {
    let origin = Origin::start();
    let size = 4_000_000;
    publish(&origin, 1, &[package("vlc", 1, "", size)]);
    let slow = HELPER.replace("rate_limit = \"0\"", "rate_limit = \"1KiB/s\"") + "prepopulate = [\"vlc\"]\n";
    let mut node = Node::start(&[origin.address()], &slow);
    update(&node, &origin);
    node.wait_for(|| node.status()["helper"]["current"]["bytes"].as_u64().is_some_and(|bytes| bytes > 0));
    node.stop();
    let mut again = node.with_variable("IMIRROR_HELPER_RATE_LIMIT", "0");
    again.run();
    wait_for_helper(&again, 1);
    let seen = origin.seen(&pool("vlc", 1));
    assert!(seen.len() == 2 && seen[1].fields.contains_key("range"), "nothing comes twice");
    assert_eq!(get(&again, &origin, "vlc", 1), package("vlc", 1, "", size).body);
}

#[test]
fn r22_switched_off_it_fetches_nothing_but_when_it_is_called() {
    let origin = Origin::start();
    publish(&origin, 1, &[package("vlc", 1, "", 1000)]);
    let off = HELPER.replace("enabled = true", "enabled = false");
    let node = Node::start(&[origin.address()], &format!("{off}prepopulate = [\"mc\"]\n"));
    update(&node, &origin);
    for _ in 0..3 {
        get(&node, &origin, "vlc", 1);
    }
    publish(&origin, 2, &[package("vlc", 2, "", 2000), package("mc", 1, "", 3000)]);
    let before = [RELEASE, LIST].map(|path| origin.seen(path).len());
    // Several intervals of idleness: there is nothing to be waited for.
    std::thread::sleep(Duration::from_secs(5));
    assert_eq!([RELEASE, LIST].map(|path| origin.seen(path).len()), before);
    assert_eq!((origin.sent("vlc_2_amd64.deb"), origin.sent("mc_1_amd64.deb")), (0, 0));
    assert_eq!(prefetch(&node, &["status"]).1, "off: 0 of 0 packages here, 0 B of 0 B\n");

    let (code, text) = prefetch(&node, &["run"]);
    assert!(code == 0 && text.contains("off: 2 of 2 packages here, 4.9 KiB of 4.9 KiB\n"), "{text}");
    assert_eq!((origin.sent("vlc_2_amd64.deb"), origin.sent("mc_1_amd64.deb")), (2000, 3000));
    let (code, list) = prefetch(&node, &["list", "--json"]);
    let list: serde_json::Value = serde_json::from_str(&list).unwrap();
    assert_eq!((code, &list[0]["why"], &list[1]["why"]), (0, &"popular".into(), &"listed".into()));
}

#[test]
fn what_a_client_has_kept_is_imported_once_it_is_checked() {
    let origin = Origin::start();
    let packages = [package("vlc", 1, "", 200_000), package("mc", 1, "", 1000), package("bad", 1, "", 500)];
    publish(&origin, 1, &packages);
    let node = Node::start(&[origin.address()], "");
    let folder = TempDir::new().unwrap();
    let put = |path: &str, bytes: &[u8]| std::fs::write(folder.path().join(path), bytes).unwrap();
    std::fs::create_dir(folder.path().join("partial")).unwrap();
    put("vlc_1_amd64.deb", &packages[0].body);
    put("partial/mc_1_amd64.deb", &packages[1].body);
    put("bad_1_amd64.deb", &content(99, 500));
    put("foreign_1_amd64.deb", b"what is this?");
    put("lock", b"");
    let dir = folder.path().to_str().unwrap();
    let (code, text) = prefetch(&node, &["import", dir]);
    assert!(code == 0 && text.contains("5 files: 0 imported (0 B), 0 here already, 5 that no"), "{text}");

    update(&node, &origin);
    get(&node, &origin, "mc", 1);
    let (code, text) = prefetch(&node, &["import", dir]);
    assert!(
        text.contains("5 files: 1 imported (195.3 KiB), 1 here already, 2 that no repository in use names, 1 refused"),
        "{text}"
    );
    assert!(code == 4 && text.contains("bad_1_amd64.deb: it is not what"), "{text}");
    assert_eq!(get(&node, &origin, "vlc", 1), packages[0].body);
    assert_eq!(origin.sent("vlc_1_amd64.deb"), 0);
    assert_eq!(get(&node, &origin, "bad", 1), packages[2].body);
    let (code, text) = prefetch(&node, &["import", "/nonexistent/folder"]);
    assert!(code == 1 && text.contains("cannot find /nonexistent/folder"), "{text}");
}

#[test]
fn r13_what_is_superseded_goes_first() {
    let origin = Origin::start();
    let size = 4_000_000;
    let first = [package("hot", 1, "", size), package("cold", 1, "", size)];
    publish(&origin, 1, &first);
    let node = Node::new(free_port(), &[origin.address()], "");
    let mut node = node.with_variable("IMIRROR_CACHE_SIZE", "11MiB");
    node.run();
    update(&node, &origin);
    for _ in 0..20 {
        get(&node, &origin, "hot", 1);
    }
    get(&node, &origin, "cold", 1);
    // What was most in use has a new version. Older generations are remembered until there are three newer ones.
    for day in 2..=5 {
        publish(&origin, day, &[package("hot", day, "", size), package("cold", 1, "", size)]);
        update(&node, &origin);
    }
    let said = |name: &str, version| {
        let output = node.command(&["lookup", "--json", &origin.url(&pool(name, version))]).output().unwrap();
        serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap()
    };
    let (old, current) = (said("hot", 1), said("cold", 1));
    assert_eq!((&old["said"]["generation"], &old["stored"].is_null()), (&"superseded".into(), &false));
    assert_eq!((&current["said"]["generation"], &current["said"]["verified"]), (&"current".into(), &true.into()));
    assert!(old["popularity"].as_f64().unwrap() > 19.0 && current["popularity"].as_f64().unwrap() < 1.1);

    get(&node, &origin, "hot", 5);
    node.wait_for(|| said("hot", 1)["stored"].is_null());
    assert!(!said("cold", 1)["stored"].is_null(), "it is still current, though nobody asks for it");
    let metrics = node.ask("GET", "/-/metrics", &node.address(), &[]).body;
    let metrics = String::from_utf8(metrics).unwrap();
    assert!(metrics.contains(&format!("imirror_repo_packages{{root=\"{}\"}} 2\n", origin.url(RELEASE))), "{metrics}");
}

#[test]
fn r21_dnf_installs_what_is_listed_while_upstream_is_down() {
    let tree = TempDir::new().unwrap();
    std::fs::create_dir_all(tree.path().join("repo/Packages")).unwrap();
    std::fs::create_dir_all(tree.path().join("SPECS")).unwrap();
    let packages = [
        ("imirror-hello", "Requires: im-library >= 1, (im-plugin if imirror-hello)"),
        ("im-lib", "Provides: im-library = 2"),
        ("im-plugin", ""),
        ("im-other", ""),
    ];
    for (name, more) in packages {
        let spec = tree.path().join(format!("SPECS/{name}.spec"));
        let text = format!(
            "Name: {name}\nVersion: 1.0\nRelease: 1\nSummary: t\nLicense: MIT\nBuildArch: noarch\n{more}\n%description\nt\n%files\n"
        );
        std::fs::write(&spec, text).unwrap();
        let top = format!("_topdir {}", tree.path().display());
        run(Command::new("rpmbuild").args(["-bb", "--quiet", "--define", &top]).arg(&spec));
    }
    let collect = "find RPMS -name '*.rpm' -exec mv {} repo/Packages/ \\; && createrepo_c --quiet repo";
    run(Command::new("sh").args(["-c", collect]).current_dir(tree.path()));
    let origin = Origin::start();
    origin.put_tree(&tree.path().join("repo"));
    let node = Node::start(&[origin.address()], &format!("{HELPER}prepopulate = [\"imirror-hello\"]\n"));
    let lines = format!("baseurl=http://{}/\nproxy=http://{}\n", origin.address(), node.address());
    // The first client only looks for what there is.
    let mut look = dnf_install(&lines, &tree.path().join("first"));
    look.arg("--assumeno").output().unwrap();
    wait_for_helper(&node, 3);
    assert_eq!(origin.sent("im-other-1.0-1.noarch.rpm"), 0);
    origin.set_down(true);
    let client = tree.path().join("second");
    run(&mut dnf_install(&lines, &client));
    dnf_has(&client);
}

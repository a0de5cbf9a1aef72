//! What repositories say of their packages: one package by any mirror is one object, wrong bytes are never kept, and names that the
//! metadata has are had from whichever mirror has them.

use std::path::Path;

use imirror_tests::http::Answer;
use imirror_tests::node::Node;
use imirror_tests::origin::{Origin, Page, Trouble};
use imirror_tests::{content, sha256};
use tempfile::TempDir;

use super::clients::{apt_get, deb_repository, dnf_has, dnf_install, rpm_repository, run};

const LIST: &str = "/d/dists/stable/main/binary-amd64/Packages";
const RELEASE: &str = "/d/dists/stable/InRelease";

fn pool(name: &str) -> String {
    format!("/d/pool/{name}_1_amd64.deb")
}

/// Puts a repository of these packages on an origin.
fn publish(origin: &Origin, day: u8, packages: &[(&str, &[u8])]) {
    let paragraph = |(name, body): &(&str, &[u8])| {
        let (path, size, sha) = (&pool(name)[3..], body.len(), sha256(body));
        format!("Package: {name}\nVersion: 1\nArchitecture: amd64\nFilename: {path}\nSize: {size}\nSHA256: {sha}\n\n")
    };
    let list: String = packages.iter().map(paragraph).collect();
    let release = format!(
        "Suite: stable\nDate: Sat, {day:02} Nov 2025 10:11:12 UTC\nSHA256:\n {} {} main/binary-amd64/Packages\n",
        sha256(list.as_bytes()),
        list.len()
    );
    origin.put(LIST, Page::new(list.into_bytes()));
    origin.put(RELEASE, Page::new(release.into_bytes()));
    for (name, body) in packages {
        origin.put(&pool(name), Page::new(body.to_vec()));
    }
}

/// As `apt-get update` would.
fn update(node: &Node, origin: &Origin) {
    for path in [RELEASE, LIST] {
        let answer = node.get_with(&origin.url(path), &["Cache-Control: max-age=0"]);
        assert_eq!(answer.status, 200, "{path}");
    }
}

fn get(node: &Node, origin: &Origin, name: &str) -> Answer {
    node.get(&origin.url(&pool(name)))
}

#[test]
fn r16_one_package_by_two_mirrors_is_fetched_once() {
    let (one, two) = (Origin::start(), Origin::start());
    let (body, other) = (content(1, 300_000), content(2, 1000));
    for origin in [&one, &two] {
        publish(origin, 1, &[("hello", &body), ("other", &other)]);
    }
    let mut node = Node::start(&[one.address(), two.address()], "");
    update(&node, &one);
    assert!(get(&node, &one, "hello").body == body);
    update(&node, &two);
    let by_two = get(&node, &two, "hello");
    assert!(by_two.body == body);
    assert!(
        by_two.field("cache-status").is_some_and(|status| status.ends_with("; hit")),
        "{:?}",
        by_two.field("cache-status")
    );
    assert_eq!((one.sent(".deb"), two.sent(".deb")), (body.len(), 0));
    // What the metadata names needs no word of upstream's.
    assert_eq!(one.seen(&pool("hello")).len(), 1);
    assert!(get(&node, &one, "hello").body == body);
    assert_eq!(one.seen(&pool("hello")).len(), 1);

    // Nothing of that has to be learnt again after a start.
    node.stop();
    node.run();
    assert!(get(&node, &two, "other").body == other);
    assert!(get(&node, &one, "other").body == other && get(&node, &one, "hello").body == body);
    assert_eq!((one.sent("other_1_amd64.deb"), two.sent("other_1_amd64.deb")), (0, other.len()));
    let repos = node.status()["repos"].clone();
    let packages = |i: usize| repos[i]["roots"][0]["packages"].clone();
    assert_eq!((packages(0), packages(1)), (2.into(), 2.into()), "{repos}");
}

#[test]
fn r16_what_was_fetched_before_its_metadata_is_found_too() {
    let (one, two) = (Origin::start(), Origin::start());
    let body = content(1, 100_000);
    for origin in [&one, &two] {
        publish(origin, 1, &[("hello", &body)]);
    }
    let node = Node::start(&[one.address(), two.address()], "");
    assert!(get(&node, &one, "hello").body == body);
    update(&node, &one);
    assert!(get(&node, &one, "hello").body == body, "it has been compared");
    assert_eq!(one.seen(&pool("hello")).len(), 1, "without asking upstream");
    update(&node, &two);
    assert!(get(&node, &two, "hello").body == body);
    assert_eq!(two.sent(".deb"), 0);
}

#[test]
fn r16_two_contents_under_one_name_are_two_objects() {
    let (one, two) = (Origin::start(), Origin::start());
    let (here, there) = (content(1, 50_000), content(2, 50_000));
    publish(&one, 1, &[("hello", &here)]);
    publish(&two, 2, &[("hello", &there)]);
    let node = Node::start(&[one.address(), two.address()], "");
    for (origin, body) in [(&one, &here), (&two, &there)] {
        update(&node, origin);
        assert!(get(&node, origin, "hello").body == *body);
    }
    assert!(get(&node, &one, "hello").body == here && get(&node, &two, "hello").body == there);
}

#[test]
fn r17_a_stored_package_that_is_not_what_the_metadata_names_is_fetched_anew() {
    let origin = Origin::start();
    let (wrong, right) = (content(1, 50_000), content(2, 50_000));
    publish(&origin, 1, &[("hello", &right)]);
    origin.put(&pool("hello"), Page::new(wrong.clone()));
    let node = Node::start(&[origin.address()], "");
    assert!(get(&node, &origin, "hello").body == wrong, "nothing is known of it yet");
    update(&node, &origin);
    origin.put(&pool("hello"), Page::new(right.clone()));
    assert!(get(&node, &origin, "hello").body == right);
    // The new version of a repository, under the same name.
    let newest = content(3, 60_000);
    publish(&origin, 2, &[("hello", &newest)]);
    update(&node, &origin);
    assert!(get(&node, &origin, "hello").body == newest);
}

#[test]
fn r8f_a_corrupt_mirror_is_found_out_and_avoided() {
    let (bad, good) = (Origin::start(), Origin::start());
    let (small, large, next) = (content(1, 40_000), content(2, 3_000_000), content(3, 2_000_000));
    for origin in [&bad, &good] {
        publish(origin, 1, &[("small", &small), ("large", &large), ("next", &next)]);
    }
    let more = format!("[repos.lab]\nupstreams = [\"{}\", \"{}\"]\n", bad.url("/d"), good.url("/d"));
    let node = Node::start(&[bad.address(), good.address()], &more);
    update(&node, &bad);
    let mut bent = small.clone();
    bent[20_000] ^= 1;
    bad.put(&pool("small"), Page::new(bent));
    let mut bent = large.clone();
    bent[1_000_000] ^= 1;
    bad.put(&pool("large"), Page::new(bent));

    // Of the large one much has gone out before the last byte can be compared: the client sees that it breaks off, and asks again.
    let first = get(&node, &bad, "large");
    assert!(first.body.len() < large.len(), "{} bytes", first.body.len());
    assert!(get(&node, &bad, "large").body == large);
    assert!(node.status().to_string().len() > 1);
    assert!(node.log().contains("a server sends wrong bytes"), "{}", node.log());
    // From now on the other one is asked first.
    assert!(get(&node, &bad, "next").body == next);
    assert_eq!((bad.sent("next_1_amd64.deb"), good.sent("next_1_amd64.deb")), (0, next.len()));
}

#[test]
fn r8f_of_a_small_package_no_client_sees_the_wrong_bytes() {
    let (bad, good) = (Origin::start(), Origin::start());
    let small = content(1, 40_000);
    for origin in [&bad, &good] {
        publish(origin, 1, &[("small", &small)]);
    }
    let node = Node::start(&[bad.address(), good.address()], "");
    update(&node, &bad);
    // It is not configured as a mirror of the first, but has the same list.
    update(&node, &good);
    let mut bent = small.clone();
    bent[20_000] ^= 1;
    bad.put(&pool("small"), Page::new(bent));
    let answer = get(&node, &bad, "small");
    assert_eq!((answer.status, answer.body == small), (200, true));
    let health = node.ask("GET", "/-/api/health", &node.address(), &[]);
    assert!(String::from_utf8_lossy(&health.body).contains(bad.address()), "it is reported");
}

#[test]
fn names_that_the_metadata_has_are_had_from_the_mirror_that_has_them() {
    let (lagging, other) = (Origin::start(), Origin::start());
    let body = content(1, 100_000);
    for origin in [&lagging, &other] {
        publish(origin, 1, &[("hello", &body)]);
    }
    lagging.remove(&pool("hello"));
    let node = Node::start(&[lagging.address(), other.address()], "");
    update(&node, &lagging);
    assert_eq!(get(&node, &lagging, "hello").status, 404, "nobody else is known to have it");
    update(&node, &other);
    let answer = get(&node, &lagging, "hello");
    assert_eq!((answer.status, answer.body == body), (200, true));
    // One that has another version of another length is passed over before a byte of it goes out.
    let (one, two) = (content(2, 70_000), content(3, 70_001));
    publish(&lagging, 2, &[("hello", &one)]);
    publish(&other, 2, &[("hello", &one)]);
    lagging.put(&pool("hello"), Page::new(two));
    update(&node, &lagging);
    update(&node, &other);
    assert!(get(&node, &lagging, "hello").body == one);
}

#[test]
fn malformed_metadata_is_passed_on_as_it_came() {
    let origin = Origin::start();
    let body = content(1, 50_000);
    publish(&origin, 1, &[("hello", &body)]);
    let (release, list) = (b"<html>no release</html>".to_vec(), b"no: list\nat all".to_vec());
    origin.put(RELEASE, Page::new(release.clone()));
    origin.put(LIST, Page::new(list.clone()));
    let node = Node::start(&[origin.address()], "");
    assert!(node.get(&origin.url(RELEASE)).body == release && node.get(&origin.url(LIST)).body == list);
    assert!(get(&node, &origin, "hello").body == body);
    node.wait_for_words("metadata cannot be read");
    // A list that stalls in the middle of what it says holds nobody up who does not ask for it.
    origin.put(RELEASE, Page::new(content(1, 100_000)).with(Trouble::None));
    assert_eq!(node.get_with(&origin.url(RELEASE), &["Cache-Control: max-age=0"]).body, content(1, 100_000));
}

/// Two mirrors of one tree, and a client of each.
fn by_two_mirrors(tree: &Path, package: &Path, suffix: &str, client: impl Fn(&Node, &Origin, &Path) -> Vec<u8>) {
    let (one, two) = (Origin::start(), Origin::start());
    one.put_tree(tree);
    two.put_tree(tree);
    let node = Node::start(&[one.address(), two.address()], "");
    let wanted = std::fs::read(package).unwrap();
    for origin in [&one, &two] {
        let folder = tempfile::tempdir().unwrap();
        assert!(client(&node, origin, folder.path()) == wanted);
    }
    assert_eq!((one.sent(suffix), two.sent(suffix)), (wanted.len(), 0), "two clients, one download");
}

#[test]
fn apt_by_two_mirrors() {
    let tree = TempDir::new().unwrap();
    let package = deb_repository(tree.path());
    by_two_mirrors(&tree.path().join("repo"), &package, ".deb", |node, origin, folder| {
        apt_get(&format!("http://{}", origin.address()), &format!("http://{}", node.address()), folder)
    });
}

#[test]
fn dnf_by_two_mirrors() {
    let tree = TempDir::new().unwrap();
    let package = rpm_repository(tree.path());
    by_two_mirrors(&tree.path().join("repo"), &package, ".rpm", |node, origin, folder| {
        let lines = format!("baseurl=http://{}\nproxy=http://{}\n", origin.address(), node.address());
        run(&mut dnf_install(&lines, folder));
        dnf_has(folder)
    });
}

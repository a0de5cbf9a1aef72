//! A disk that is full, read-only or not permitted: downloads go on, and the operator is told what to do.

use std::process::Command;

use imirror_tests::content;
use imirror_tests::http::request;
use imirror_tests::namespace::Namespace;
use imirror_tests::node::{Node, free_port};
use imirror_tests::origin::{Origin, Page, Trouble};

/// A node whose cache folder is a small file system of its own. Little is kept in memory: hits come from the disk.
fn small_disk(options: &str) -> (Origin, Node) {
    let origin = Origin::start();
    let node = Node::new(free_port(), &[origin.address()], "").with_variable("IMIRROR_MEMORY_SIZE", "1KiB");
    let namespace = Namespace::new();
    namespace.mount_memory(&node.dir().join("cache"), options);
    let mut node = node.inside(namespace);
    node.run();
    (origin, node)
}

fn health(node: &Node) -> (u16, String) {
    let answer = request(&node.address(), "GET", "/-/health", &node.address(), &[]);
    (answer.status, String::from_utf8(answer.body).unwrap())
}

/// Gets a package through the node; puts it there first.
fn fetch(origin: &Origin, node: &Node, name: &str, body: &[u8]) {
    origin.put(name, Page::new(body.to_vec()));
    get(origin, node, name, body);
}

fn get(origin: &Origin, node: &Node, name: &str, body: &[u8]) {
    let answer = node.get(&origin.url(name));
    assert!(answer.complete && answer.body == body, "{name}: {} of {} bytes", answer.body.len(), body.len());
}

fn said(node: &Node, words: &str) -> usize {
    node.log().matches(words).count()
}

#[test]
fn what_does_not_fit_comes_through_whole() {
    let (origin, node) = small_disk("size=32m");
    let (small, big) = (content(1, 1_000_000), content(2, 40_000_000));
    fetch(&origin, &node, "/small_1.deb", &small);
    fetch(&origin, &node, "/big_1.deb", &big);
    // Its length is not announced: that it does not fit shows when much of it has come.
    let long = Page::new(big.clone()).with(Trouble::NoLength);
    origin.put("/long_1.deb", long.clone());
    get(&origin, &node, "/long_1.deb", &big);
    let first = origin.sent("/long_1.deb");
    assert!(first > big.len() && first < 2 * big.len(), "the rest was asked for, and only that: {first}");
    // The next time it is known.
    get(&origin, &node, "/long_1.deb", &big);
    assert_eq!(origin.sent("/long_1.deb"), first + big.len());
    // Without a validator nobody can say whether the rest belongs to what was sent: cut, and the next time whole.
    origin.put("/nameless_1.deb", long.without_validators());
    let answer = node.get(&origin.url("/nameless_1.deb"));
    assert!(!answer.complete && big.starts_with(&answer.body), "{}", answer.body.len());
    get(&origin, &node, "/nameless_1.deb", &big);
    // Nothing had to go for what would not have fitted anyway, and nothing is wrong with the disk.
    fetch(&origin, &node, "/small_1.deb", &small);
    assert_eq!(origin.sent("/small_1.deb"), small.len());
    assert_eq!(health(&node), (200, "ok\n".into()));
}

#[test]
fn the_limit_and_the_reserve_are_kept() {
    for (name, size, most) in [("the file system", "1GiB", 32u64 << 20), ("cache_size", "8MiB", 8 << 20)] {
        let origin = Origin::start();
        let node = Node::new(free_port(), &[origin.address()], "").with_variable("IMIRROR_CACHE_SIZE", size);
        let namespace = Namespace::new();
        let cache = node.dir().join("cache");
        namespace.mount_memory(&cache, "size=32m");
        let mut node = node.inside(namespace);
        node.run();
        let cache = node.namespace().path(&cache);
        for i in 0..50 {
            let trouble = if i % 3 == 0 { Trouble::NoLength } else { Trouble::None };
            let path = format!("/p{i}_1.deb");
            origin.put(&path, Page::new(content(i, 1_500_000)).with(trouble));
            get(&origin, &node, &path, &content(i, 1_500_000));
            let space = rustix::fs::statvfs(&cache).unwrap();
            let (total, free) = (space.f_blocks * space.f_frsize, space.f_bavail * space.f_frsize);
            assert!(free >= total / 20 - 65_536, "{name}: {free} of {total} free after {i}");
        }
        let bytes = node.status()["cache"]["bytes"].as_u64().unwrap();
        assert!(bytes <= most && bytes > most / 2, "{name}: {bytes}");
    }
}

#[test]
fn a_full_disk_is_said_once_and_recovered_from() {
    let (origin, mut node) = small_disk("size=32m");
    let cache = node.dir().join("cache");
    let bodies: Vec<Vec<u8>> = (0..6).map(|i| content(i, 300_000)).collect();
    let name = |i: usize| format!("/p{i}_1.deb");
    (0..3).for_each(|i| fetch(&origin, &node, &name(i), &bodies[i]));
    node.wait_for_objects(3);

    node.namespace().shell("dd if=/dev/zero bs=1M of=\"$1\"/filler 2>/dev/null || :", &cache);
    (3..6).for_each(|i| fetch(&origin, &node, &name(i), &bodies[i]));
    assert_eq!(said(&node, "nothing new is stored, requests are passed on"), 1, "{}", node.log());
    let (status, reason) = health(&node);
    assert!(status == 503 && reason.contains("no room in the cache folder"), "{reason}");
    // What is stored is served, also by a node that is started then.
    for kill in [false, true] {
        if kill {
            node.kill();
        } else {
            node.stop();
        }
        node.run();
        (1..3).for_each(|i| fetch(&origin, &node, &name(i), &bodies[i]));
        assert_eq!(origin.sent("_1.deb"), 6 * 300_000, "killed: {kill}");
    }
    fetch(&origin, &node, &name(3), &bodies[3]);
    assert_eq!(said(&node, "nothing new is stored, requests are passed on"), 2, "once each run: {}", node.log());
    // And when the index could not be written in the meantime.
    let purged = node.command(&["purge", &origin.url(&name(0))]).output().unwrap();
    assert!(purged.status.success(), "{purged:?}");
    for _ in 0..3 {
        (1..3).for_each(|i| fetch(&origin, &node, &name(i), &bodies[i]));
    }
    assert_eq!(origin.sent("_1.deb"), 7 * 300_000, "two were hits");
    node.namespace().shell("rm \"$1\"/filler", &cache);
    (3..6).for_each(|i| fetch(&origin, &node, &name(i), &bodies[i]));
    (3..6).for_each(|i| fetch(&origin, &node, &name(i), &bodies[i]));
    assert_eq!(origin.sent("_1.deb"), 10 * 300_000, "they have been stored now");
    assert_eq!((health(&node).0, said(&node, "what is new is stored again")), (200, 1), "{}", node.log());
    node.wait_for_objects(5);
}

#[test]
fn a_disk_that_becomes_read_only_is_passed_by() {
    let (origin, node) = small_disk("size=32m");
    let cache = node.dir().join("cache");
    let bodies: Vec<Vec<u8>> = (0..3).map(|i| content(i, 300_000)).collect();
    fetch(&origin, &node, "/a_1.deb", &bodies[0]);
    node.wait_for_objects(1);
    node.namespace().shell("mount --bind \"$1\" \"$1\"; mount -o remount,bind,ro \"$1\"", &cache);
    for _ in 0..2 {
        fetch(&origin, &node, "/a_1.deb", &bodies[0]);
        fetch(&origin, &node, "/b_1.deb", &bodies[1]);
    }
    assert_eq!((origin.sent("/a_1.deb"), origin.sent("/b_1.deb")), (300_000, 600_000));
    assert_eq!(said(&node, "nothing new is stored, requests are passed on"), 1, "{}", node.log());
    assert!(health(&node).1.contains("Read-only file system"), "{:?}", health(&node));
    node.namespace().shell("umount -l \"$1\"", &cache);
    for _ in 0..2 {
        fetch(&origin, &node, "/b_1.deb", &bodies[1]);
    }
    assert_eq!((origin.sent("/b_1.deb"), health(&node).0), (900_000, 200));
}

#[test]
fn an_index_that_could_not_be_written_recovers() {
    let origin = Origin::start();
    let node = Node::new(free_port(), &[origin.address()], "").with_variable("IMIRROR_MEMORY_SIZE", "1KiB");
    // Writes beyond the limit fail, instead of ending the process.
    let mut node = node.under(&["env", "--ignore-signal=XFSZ"]);
    node.run();
    let limit = |bytes: &str| {
        let pid = node.pid().to_string();
        let set = Command::new("prlimit").args(["--pid", &pid, &format!("--fsize={bytes}:")]).status().unwrap();
        assert!(set.success());
    };
    let bodies: Vec<Vec<u8>> = (0..3).map(|i| content(i, 300_000)).collect();
    let name = |i: usize| format!("/p{i}_1.deb");
    (0..2).for_each(|i| fetch(&origin, &node, &name(i), &bodies[i]));
    node.wait_for_objects(2);

    limit("4096");
    assert!(node.command(&["purge", &origin.url(&name(0))]).status().unwrap().success());
    node.wait_for_words("the index cannot be written");
    (0..3).for_each(|i| fetch(&origin, &node, &name(i), &bodies[i]));
    (0..3).for_each(|i| fetch(&origin, &node, &name(i), &bodies[i]));
    let sent: Vec<usize> = (0..3).map(|i| origin.sent(&name(i)) / 300_000).collect();
    assert_eq!(sent, [3, 1, 2], "one was a hit, the others were passed on: {}", node.log());

    limit("unlimited");
    (0..3).for_each(|i| fetch(&origin, &node, &name(i), &bodies[i]));
    node.wait_for_objects(3);
    node.kill();
    node.run();
    (0..3).for_each(|i| fetch(&origin, &node, &name(i), &bodies[i]));
    let sent: Vec<usize> = (0..3).map(|i| origin.sent(&name(i)) / 300_000).collect();
    assert_eq!(sent, [4, 1, 3], "{}", node.log());
}

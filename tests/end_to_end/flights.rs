//! Downloads in progress (R8), with sources that stall, cut, lie and change.

use imirror_tests::content;
use imirror_tests::http::Connection;
use imirror_tests::node::Node;
use imirror_tests::origin::{Origin, Page, Trouble};

const RPM: &str = "/Packages/a-1-1.x86_64.rpm";

fn pair() -> (Origin, Node) {
    let origin = Origin::start();
    let node = Node::start(&[origin.address()], "");
    (origin, node)
}

fn open(node: &Node, url: &str, fields: &str) -> Connection {
    let mut connection = Connection::open(&node.address());
    let host = url.split('/').nth(2).unwrap();
    connection.send(&format!("GET {url} HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n"));
    connection
}

#[test]
fn r8a_neither_a_slow_nor_a_vanishing_client_matters_to_others() {
    let (origin, node) = pair();
    let body = content(1, 20_000_000);
    origin.put(RPM, Page::new(body.clone()));
    let url = origin.url(RPM);
    // One reads nothing behind the head, one leaves in the middle.
    let mut slow = open(&node, &url, "");
    assert_eq!(slow.head().unwrap().0, 200);
    let mut leaving = open(&node, &url, "");
    leaving.head().unwrap();
    leaving.read(1000);
    drop(leaving);
    assert!(node.get(&url).body == body);
    assert!(slow.read(body.len()) == body);
    assert_eq!(origin.sent(RPM), body.len());
}

#[test]
fn r8b_a_late_joiner_gets_what_has_arrived_at_once() {
    let (origin, node) = pair();
    let body = content(1, 4_000_000);
    origin.put(RPM, Page::new(body.clone()).with(Trouble::StallAt(2_000_000)));
    let url = origin.url(RPM);
    let mut first = open(&node, &url, "");
    first.head().unwrap();
    assert_eq!(first.read(2_000_000), body[..2_000_000]);
    // Upstream is silent now, and stays so until the second client has its share.
    let mut second = open(&node, &url, "");
    second.head().unwrap();
    assert_eq!(second.read(2_000_000), body[..2_000_000]);
    origin.release();
    assert!(first.read(2_000_000) == body[2_000_000..] && second.read(2_000_000) == body[2_000_000..]);
    assert_eq!(origin.sent(RPM), body.len());
}

#[test]
fn r8d_a_cut_is_mended_by_a_range_of_the_same_version() {
    let (origin, node) = pair();
    let body = content(1, 5_000_000);
    origin.put(RPM, Page::new(body.clone()).with(Trouble::CutAt(3_000_000, 1)));
    let answer = node.get(&origin.url(RPM));
    assert!(answer.complete && answer.body == body);
    let seen = origin.seen(RPM);
    assert_eq!(seen.len(), 2);
    assert!(seen[1].fields["range"].starts_with("bytes=") && seen[1].fields.contains_key("if-range"), "{seen:?}");
    assert_eq!(origin.sent(RPM), body.len());
}

#[test]
fn r8d_a_source_that_ignores_ranges_is_compared_byte_by_byte() {
    let (origin, node) = pair();
    let body = content(1, 3_000_000);
    origin.put(RPM, Page::new(body.clone()).without_validators().with(Trouble::CutAt(1_000_000, 1)));
    let answer = node.get(&origin.url(RPM));
    assert!(answer.complete && answer.body == body);
}

#[test]
fn r8d_two_versions_are_never_spliced() {
    let (origin, node) = pair();
    let (old, new) = (content(1, 3_000_000), content(2, 3_000_000));
    origin.put(RPM, Page::new(old.clone()).with(Trouble::CutAt(1_000_000, 1)));
    let url = origin.url(RPM);
    let mut client = open(&node, &url, "");
    client.head().unwrap();
    let mut got = client.read(500_000);
    origin.put(RPM, Page::new(new.clone()).modified("Tue, 03 Jan 2023 03:04:05 GMT"));
    got.extend(client.read(3_000_000));
    assert!(got == old[..got.len()] || got == old, "bytes of two versions");
    let next = node.get(&url);
    assert!(next.complete && (next.body == new || next.body == old));
    assert!(node.get(&url).body == new);
}

#[test]
fn r8d_another_mirror_of_the_repository_takes_over() {
    let (first, second) = (Origin::start(), Origin::start());
    let more =
        format!("[repos.lab]\nupstreams = [\"http://{}/one\", \"http://{}/two\"]\n", first.address(), second.address());
    let node = Node::start(&[first.address(), second.address()], &more);
    let body = content(1, 4_000_000);
    first.put("/one/a.rpm", Page::new(body.clone()).with(Trouble::CutAt(1_500_000, 100)));
    second.put("/two/a.rpm", Page::new(body.clone()));
    let answer = imirror_tests::http::request(&node.address(), "GET", "/lab/a.rpm", &node.address(), &[]);
    assert!(answer.complete && answer.body == body, "{} bytes", answer.body.len());
    assert!(second.sent("a.rpm") < 3_000_000);
    // The same package by the other mirror's URL is the same object.
    assert!(node.get(&second.url("/two/a.rpm")).body == body);
    second.put("/two/b.rpm", Page::new(body.clone()));
    let lacking = imirror_tests::http::request(&node.address(), "GET", "/lab/b.rpm", &node.address(), &[]);
    assert_eq!(lacking.status, 200, "a mirror that lacks a package is not the last word");
}

#[test]
fn r8f_wrong_bytes_under_a_known_digest_never_become_a_whole_answer() {
    let (origin, node) = pair();
    let right = content(1, 300_000);
    let path = format!("/repodata/{}-primary.xml.gz", imirror_tests::sha256(&right));
    let mut wrong = right.clone();
    wrong[150_000] ^= 1;
    origin.put(&path, Page::new(wrong));
    let answer = node.get(&origin.url(&path));
    assert!(!answer.complete, "status {}, {} bytes", answer.status, answer.body.len());
    assert!(node.objects().is_empty());
    origin.put(&path, Page::new(right.clone()));
    assert!(node.get(&origin.url(&path)).body == right);
}

#[test]
fn r8h_a_range_far_ahead_does_not_wait() {
    let (origin, node) = pair();
    let body = content(1, 8_000_000);
    let page = Page::new(body.clone()).with(Trouble::StallAt(1_000_000));
    origin.put(RPM, page.clone());
    let url = origin.url(RPM);
    let mut whole = open(&node, &url, "");
    whole.head().unwrap();
    assert_eq!(whole.read(1_000_000), body[..1_000_000]);
    // From now on further requests are answered, the first one stays silent.
    origin.put(RPM, Page::new(body.clone()));
    let part = node.get_with(&url, &["Range: bytes=6000000-6999999"]);
    assert_eq!(part.status, 206);
    assert!(part.complete && part.body == body[6_000_000..7_000_000]);
    origin.release();
    assert!(whole.read(7_000_000) == body[1_000_000..]);
}

#[test]
fn a_stop_with_downloads_in_the_air_is_clean() {
    let (origin, mut node) = pair();
    let mut clients = Vec::new();
    for i in 0..20 {
        let path = format!("/Packages/p{i}-1-1.x86_64.rpm");
        origin.put(&path, Page::new(content(i, 2_000_000)).with(Trouble::StallAt(1_000_000)));
        let mut client = open(&node, &origin.url(&path), "");
        client.head().unwrap();
        assert_eq!(client.read(1_000_000).len(), 1_000_000);
        clients.push(client);
    }
    drop(clients);
    node.stop();
    assert!(!node.log().contains("panicked"), "{}", node.log());
    origin.release();
}

#[test]
fn r8g_a_partial_download_survives_a_kill_and_is_resumed() {
    let (origin, mut node) = pair();
    let body = content(1, 40_000_000);
    origin.put(RPM, Page::new(body.clone()).with(Trouble::StallAt(30_000_000)));
    let url = origin.url(RPM);
    let mut client = open(&node, &url, "");
    client.head().unwrap();
    assert!(client.read(30_000_000) == body[..30_000_000]);
    drop(client);
    node.stop();
    origin.put(RPM, Page::new(body.clone()));
    node.run();
    let before = origin.seen(RPM).len();
    assert!(node.get(&url).body == body);
    let resumed = &origin.seen(RPM)[before..];
    assert!(resumed[0].fields.contains_key("range"), "{resumed:?}");
    origin.release();
}

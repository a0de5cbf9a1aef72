//! Several nodes as one mirror (R7, R8c, R9, R10): real processes on loopback that know each other by seeds.

use std::net::SocketAddr;
use std::process::Command;

use crate::liar::Liar;

use imirror_tests::content;
use imirror_tests::http::Connection;
use imirror_tests::node::{Node, free_port};
use imirror_tests::origin::{Origin, Page, Trouble};

const RPM: &str = "/Packages/a-1-1.x86_64.rpm";
const REPOMD: &str = "/repodata/repomd.xml";
const TOKEN: &str = "im1or3wk3tupeqhgzldojsxiidcpf2gk4zb33e5pn72";
const NAMES: [&str; 4] = ["lab1", "lab2", "lab3", "lab4"];

/// So many nodes of one site, each of which knows all the others.
pub(crate) fn site(nodes: usize, origin: &Origin) -> Vec<Node> {
    site_with(nodes, origin, "")
}

/// The same, with more in their configuration.
pub(crate) fn site_with(nodes: usize, origin: &Origin, more: &str) -> Vec<Node> {
    joined(not_joined(nodes, &[origin.address()], more))
}

/// The same, that may fetch from all of these addresses.
pub(crate) fn site_at(nodes: usize, origins: &[&str]) -> Vec<Node> {
    joined(not_joined(nodes, origins, ""))
}

fn joined(site: Vec<Node>) -> Vec<Node> {
    let nodes = site.len();
    site.iter().for_each(|node| node.wait_for(|| alive(node) == nodes));
    site
}

/// The same at addresses of their own, with more in the configuration of each.
pub(crate) fn site_on(addresses: &[SocketAddr], origins: &[&str], more: impl Fn(usize) -> String) -> Vec<Node> {
    joined(started(addresses, origins, more))
}

fn not_joined(nodes: usize, origins: &[&str], more: &str) -> Vec<Node> {
    let addresses: Vec<_> = (0..nodes).map(|_| free_port()).collect();
    started(&addresses, origins, |_| more.to_owned())
}

fn started(addresses: &[SocketAddr], origins: &[&str], more: impl Fn(usize) -> String) -> Vec<Node> {
    let seeds: Vec<_> = addresses.iter().map(ToString::to_string).collect();
    let start = |(place, address): (usize, &SocketAddr)| {
        let mut node = Node::new(*address, origins, &more(place))
            .with_variable("IMIRROR_NAME", NAMES[place])
            .with_variable("IMIRROR_SITE_TOKEN", TOKEN)
            .with_variable("IMIRROR_SITE_SEEDS", seeds.join(","));
        node.run();
        node
    };
    addresses.iter().enumerate().map(start).collect()
}

/// How many nodes of its site a node knows to be alive, itself among them.
fn alive(node: &Node) -> usize {
    let status = node.status();
    let nodes = status["site"]["nodes"].as_array().unwrap();
    nodes.iter().filter(|node| node["state"] == "alive").count()
}

/// Waits until all others know that a node holds so many objects.
fn wait_until_known(site: &[Node], holder: usize, objects: u64) {
    for node in site {
        node.wait_for(|| {
            let status = node.status();
            let nodes = status["site"]["nodes"].as_array().unwrap();
            nodes.iter().any(|node| node["name"] == NAMES[holder] && node["objects"] == objects)
        });
    }
}

fn traffic(node: &Node, name: &str) -> u64 {
    node.status()["traffic"][name].as_u64().unwrap()
}

/// Asks for a URL, and reads nothing yet.
pub(crate) fn open(node: &Node, url: &str) -> Connection {
    let mut connection = Connection::open(&node.address());
    let host = url.split('/').nth(2).unwrap();
    connection.send(&format!("GET {url} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
    connection
}

#[test]
fn r9_nodes_with_one_token_find_each_other_and_again_after_a_kill() {
    let origin = Origin::start();
    let mut site = site(3, &origin);
    let id = |node: &Node| node.status()["node"]["id"].as_str().unwrap().to_owned();
    let before = id(&site[2]);
    site[2].kill();
    site[0].wait_for(|| alive(&site[0]) == 2);
    site[2].run();
    site.iter().for_each(|node| node.wait_for(|| alive(node) == 3));
    assert_eq!(id(&site[2]), before, "a node keeps its identity");
    let shown = site[0].command(&["nodes"]).output().unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(NAMES[..3].iter().all(|name| shown.contains(name)), "{shown}");
    // Who goes says so: the others need not find out.
    site[1].stop();
    site[0].wait_for(|| alive(&site[0]) == 2);
}

#[test]
fn r9_a_foreign_token_is_kept_out() {
    let origin = Origin::start();
    let site = site(2, &origin);
    let mut stranger = Node::new(free_port(), &[], "")
        .with_variable("IMIRROR_NAME", "stranger")
        .with_variable("IMIRROR_SITE_SEEDS", site[0].address());
    stranger.run();
    site[0].wait_for_words("was not let in");
    assert_eq!((alive(&site[0]), alive(&stranger)), (2, 1));
    // It tries again and again, and is complained of once.
    let refused = || {
        let metrics = imirror_tests::http::request(&site[0].address(), "GET", "/-/metrics", "lab1", &[]);
        let metrics = String::from_utf8(metrics.body).unwrap();
        let line = metrics.lines().find_map(|line| line.strip_prefix("imirror_handshakes_refused_total "));
        line.unwrap().parse::<u64>().unwrap()
    };
    site[0].wait_for(|| refused() >= 3);
    assert_eq!(site[0].log().matches("was not let in").count(), 1);
}

#[test]
fn r9_a_machine_joins_by_one_line() {
    let origin = Origin::start();
    let mut first = Node::new(free_port(), &[], "").with_variable("IMIRROR_NAME", "lab1");
    first.run();
    let shown = first.command(&["site", "show", "--json"]).output().unwrap();
    let shown: serde_json::Value = serde_json::from_slice(&shown.stdout).unwrap();
    let token = shown["token"].as_str().unwrap();
    assert!(!first.log().contains(token), "a secret is never logged");
    let mut second = Node::new(free_port(), &[origin.address()], "")
        .with_variable("IMIRROR_NAME", "lab2")
        .with_variable("IMIRROR_SITE_SEEDS", first.address());
    let wrong = second.command(&["join", &token.replace(&token[9..10], if &token[9..10] == "a" { "b" } else { "a" })]);
    assert_eq!(status_of(wrong), 2, "a mistyped token is refused");
    assert_eq!(status_of(second.command(&["join", token])), 0);
    second.run();
    second.wait_for(|| alive(&second) == 2);
    assert_eq!(second.status()["site"]["id"], shown["id"]);
}

fn status_of(mut command: Command) -> i32 {
    command.output().unwrap().status.code().unwrap()
}

#[test]
fn r7_a_package_of_one_node_costs_no_upstream_byte_at_another() {
    let origin = Origin::start();
    let site = site(3, &origin);
    // More than one group, and of no whole number of them.
    let body = content(1, 3_000_001);
    origin.put(RPM, Page::new(body.clone()));
    let url = origin.url(RPM);
    assert!(site[0].get(&url).body == body);
    wait_until_known(&site, 0, 1);
    let answer = site[1].get(&url);
    assert!(answer.complete && answer.body == body);
    let status = answer.field("cache-status").unwrap();
    assert!(status.starts_with("lab1; hit, lab2; fwd=uri-miss"), "{status}");
    let range = site[2].get_with(&url, &["Range: bytes=2000000-2000999"]);
    assert!(range.status == 206 && range.body == body[2_000_000..2_001_000]);
    assert_eq!(origin.seen(RPM).len(), 1, "upstream was asked once");
    assert_eq!((traffic(&site[1], "peer_hits"), traffic(&site[1], "bytes_from_peers")), (1, body.len() as u64));
    assert_eq!(traffic(&site[1], "bytes_from_upstream"), 0);
    site[0].wait_for(|| traffic(&site[0], "bytes_to_peers") >= body.len() as u64);
    // Upstream is gone, and so is the first node: the site still has it.
    origin.set_down(true);
    assert!(site[2].get(&url).body == body);
}

#[test]
fn r8c_who_asks_in_the_same_moment_anywhere_shares_one_fetch() {
    let origin = Origin::start();
    let site = site(4, &origin);
    let body = content(1, 5_000_000);
    origin.put(RPM, Page::new(body.clone()).with(Trouble::StallAt(1_000_000)));
    let url = origin.url(RPM);
    let mut clients: Vec<_> = site.iter().flat_map(|node| (0..5).map(|_| open(node, &url))).collect();
    for client in &mut clients {
        assert_eq!(client.head().unwrap().0, 200);
        assert!(client.read(1_000_000) == body[..1_000_000], "what has come goes on to all at once (R8b)");
    }
    origin.release();
    assert!(clients.iter_mut().all(|client| client.read(4_000_000) == body[1_000_000..]));
    assert_eq!((origin.seen(RPM).len(), origin.sent(RPM)), (1, body.len()));
}

#[test]
fn r8d_the_node_that_fetches_dies_and_another_goes_on() {
    let origin = Origin::start();
    let mut site = site(3, &origin);
    let body = content(1, 5_000_000);
    origin.put(RPM, Page::new(body.clone()).with(Trouble::StallAt(2_000_000)));
    let url = origin.url(RPM);
    let mut first = open(&site[0], &url);
    assert!(first.head().is_some() && first.read(2_000_000) == body[..2_000_000]);
    let mut others: Vec<_> = site[1..].iter().map(|node| open(node, &url)).collect();
    for client in &mut others {
        assert!(client.head().is_some() && client.read(2_000_000) == body[..2_000_000]);
    }
    site[0].kill();
    origin.put(RPM, Page::new(body.clone()));
    for client in &mut others {
        assert!(client.read(3_000_000) == body[2_000_000..]);
    }
    let seen = origin.seen(RPM);
    assert_eq!(seen.len(), 2, "one of the two went on, for both: {seen:?}");
    assert!(seen[1].fields.contains_key("range") && seen[1].fields.contains_key("if-range"), "{seen:?}");
}

#[test]
fn r10_a_node_that_dies_or_freezes_while_it_sends_is_replaced() {
    let origin = Origin::start();
    let mut site = site(3, &origin);
    let page = Page::new(content(1, 1_000_000)).times(300);
    let body = content(1, 1_000_000).repeat(300);
    origin.put(RPM, page);
    let url = origin.url(RPM);
    assert!(site[0].get(&url).body == body);
    wait_until_known(&site, 0, 1);
    let mut clients: Vec<_> = site[1..].iter().map(|node| open(node, &url)).collect();
    for client in &mut clients {
        assert!(client.head().is_some() && client.read(1_000_000) == body[..1_000_000]);
    }
    site[0].signal("-STOP");
    let whole = |client: &mut Connection| client.read(body.len() - 1_000_000) == body[1_000_000..];
    assert!(whole(&mut clients[0]) && whole(&mut clients[1]));
    let sent = origin.sent(RPM);
    assert!(sent < body.len() * 205 / 100, "of what had come at most a twentieth was fetched again: {sent}");
    site[0].kill();
}

#[test]
fn metadata_of_a_peer_is_confirmed_before_it_is_served() {
    let origin = Origin::start();
    let site = site(2, &origin);
    origin.put(REPOMD, Page::new(b"<repomd>1</repomd>".to_vec()));
    let url = origin.url(REPOMD);
    assert_eq!(site[0].get(&url).body, b"<repomd>1</repomd>");
    wait_until_known(&site, 0, 1);
    assert_eq!(site[1].get(&url).body, b"<repomd>1</repomd>");
    let seen = origin.seen(REPOMD);
    assert!(seen.len() == 2 && seen[1].fields.contains_key("if-none-match"), "{seen:?}");
    origin.put(REPOMD, Page::new(b"<repomd>2</repomd>".to_vec()).modified("Tue, 03 Jan 2023 03:04:05 GMT"));
    assert_eq!(site[1].get(&url).body, b"<repomd>2</repomd>");
    assert_eq!(site[0].get(&url).body, b"<repomd>2</repomd>");
    // Without upstream the site answers with what it has.
    origin.set_down(true);
    assert_eq!(site[0].get(&url).body, b"<repomd>2</repomd>");
}

#[test]
fn what_nobody_has_is_refused_as_by_one_node() {
    let origin = Origin::start();
    let site = site(2, &origin);
    let url = origin.url("/Packages/none-1-1.x86_64.rpm");
    assert_eq!((site[0].get(&url).status, site[1].get(&url).status), (404, 404));
    origin.set_down(true);
    let answer = site[0].get(&origin.url(RPM));
    assert!(answer.status >= 502 && String::from_utf8_lossy(&answer.body).contains("No route to host"));
}

#[test]
fn r11_what_is_popular_gets_a_second_copy_and_upstream_is_not_asked_for_it() {
    let origin = Origin::start();
    let site = site(3, &origin);
    let body = content(1, 500_000);
    origin.put(RPM, Page::new(body.clone()));
    let url = origin.url(RPM);
    for _ in 0..30 {
        assert!(site[0].get(&url).body == body);
    }
    let copies = || site.iter().filter(|node| !node.objects().is_empty()).count();
    site[0].wait_for(|| copies() >= 2);
    assert_eq!(origin.sent(RPM), body.len(), "a copy is read from a peer");
}

#[test]
fn r10_a_wrong_byte_of_a_peer_reaches_no_client() {
    let body = content(1, 3_000_000);
    // In the head, in the list of hashes, in the first group and in a later one.
    for at in [3, 600, 40_000, 2_000_000] {
        let origin = Origin::start();
        origin.put(RPM, Page::new(body.clone()));
        let url = origin.url(RPM);
        let site = site(2, &origin);
        let _liar = Liar::start(TOKEN, free_port(), &site[0].address(), &url, &body, at);
        for node in &site {
            node.wait_for(|| {
                node.status()["site"]["nodes"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .any(|n| n["name"] == "liar" && n["objects"] == 1)
            });
        }
        let answer = site[0].get(&url);
        assert!(answer.complete && answer.body == body, "{at}");
        assert_eq!(origin.seen(RPM).len(), 1, "{at}: the rest came from upstream, in the same answer");
        site[0].wait_for_words("a node misbehaves: it sent wrong bytes of an object");
        // The other learns by itself, or from the first; its client gets right bytes all the same.
        assert!(site[1].get(&url).body == body, "{at}");
    }
}

#[test]
fn r13_together_two_nodes_hold_more_than_one() {
    const SIZE: usize = 2_000_000;
    let origin = Origin::start();
    let path = |name: &str| format!("/Packages/{name}-1-1.x86_64.rpm");
    let body = |name: &str| content(name.bytes().fold(7, |sum, byte| sum * 31 + u64::from(byte)), SIZE);
    let (both, first, second, new) = (["b1", "b2", "b3"], ["f1", "f2"], ["s1", "s2"], ["n1", "n2", "n3"]);
    let all = [&both[..], &first, &second, &new].concat();
    all.iter().for_each(|name| origin.put(&path(name), Page::new(body(name))));
    let seed = free_port();
    let start = |address: SocketAddr, name: &str| {
        // What is asked for so often would else be copied again, also to where there is hardly room.
        let mut node = Node::new(address, &[origin.address()], "[replication]\nenabled = false\n")
            .with_variable("IMIRROR_NAME", name)
            .with_variable("IMIRROR_SITE_TOKEN", TOKEN)
            .with_variable("IMIRROR_SITE_SEEDS", seed.to_string())
            .with_variable("IMIRROR_CACHE_SIZE", "11MiB");
        node.run();
        node
    };
    let site = joined(vec![start(seed, NAMES[0]), start(free_port(), NAMES[1])]);
    let get =
        |place: usize, name: &str| assert!(site[place].get(&origin.url(&path(name))).body == body(name), "{name}");
    let has = |place: usize, name: &str| {
        let said = site[place].command(&["lookup", "--json", &origin.url(&path(name))]).output().unwrap();
        !serde_json::from_slice::<serde_json::Value>(&said.stdout).unwrap()["stored"].is_null()
    };
    // What both have is asked for much more than what only one has, which by itself would make it worthier.
    for name in both {
        get(0, name);
        wait_until_known(&site, 0, 1 + both.iter().position(|it| *it == name).unwrap() as u64);
        (0..8).for_each(|_| get(1, name));
        (0..8).for_each(|_| get(0, name));
    }
    first.iter().for_each(|name| get(0, name));
    second.iter().for_each(|name| get(1, name));
    (0..2).for_each(|place| wait_until_known(&site, place, 5));
    // There is room for five at each.
    for name in new {
        get(0, name);
        site[0].wait_for(|| has(0, name));
    }
    let held: Vec<&str> = all.iter().copied().filter(|name| has(0, name)).collect();
    assert_eq!(held, [&first[..], &new].concat(), "what only this one has stays");
    // The second has the last copies now: ten in all, where one node has room for five.
    origin.set_down(true);
    first.iter().chain(&new).for_each(|name| get(0, name));
    both.iter().chain(&second).for_each(|name| get(1, name));
    assert!(all.iter().all(|name| origin.sent(&path(name)) == SIZE));
    // What it would have to drop something for that nobody else has is not kept, though it is the only copy but one.
    get(1, "f1");
    assert!(!has(1, "f1"));
}

#[test]
fn the_head_of_what_a_peer_has_moves_no_content() {
    let origin = Origin::start();
    let site = site(2, &origin);
    let body = content(1, 3_000_000);
    origin.put(RPM, Page::new(body.clone()));
    origin.put(REPOMD, Page::new(b"<repomd>1</repomd>".to_vec()));
    for path in [RPM, REPOMD] {
        assert_eq!(site[0].get(&origin.url(path)).status, 200);
    }
    wait_until_known(&site, 0, 2);
    let head = |path: &str, fields: &[&str]| site[1].ask("HEAD", &origin.url(path), origin.address(), fields);
    let answer = head(RPM, &[]);
    assert_eq!((answer.status, answer.field("content-length")), (200, Some("3000000")), "{answer:?}");
    let tag = answer.field("etag").unwrap().to_owned();
    assert!(answer.field("cache-status").unwrap().starts_with("lab1; hit, lab2; fwd=uri-miss"), "{answer:?}");
    let known = head(RPM, &[&format!("If-None-Match: {tag}")]);
    assert_eq!(known.status, 304, "{known:?}");
    assert_eq!((origin.seen(RPM).len(), traffic(&site[1], "bytes_from_peers")), (1, 0));
    // Whether metadata is still so, upstream has to say. When it can't, what was so has to do.
    assert_eq!(head(REPOMD, &[]).status, 200);
    assert_eq!(origin.seen(REPOMD).last().unwrap().method, "HEAD");
    origin.set_down(true);
    let answer = head(REPOMD, &[]);
    assert_eq!((answer.status, answer.field("content-length")), (200, Some("18")), "{answer:?}");
    assert_eq!(head(RPM, &[]).status, 200);
    assert_eq!(traffic(&site[1], "bytes_from_peers"), 0);
    assert!(site[1].objects().is_empty(), "nothing has been stored for it");
}

fn purge(node: &Node, arguments: &[&str]) -> serde_json::Value {
    let words: Vec<_> = ["purge", "--json"].iter().chain(arguments).copied().collect();
    let purged = node.command(&words).output().unwrap();
    assert!(purged.status.success(), "{purged:?}");
    serde_json::from_slice(&purged.stdout).unwrap()
}

#[test]
fn what_is_purged_is_forgotten_at_all_nodes_and_by_one_that_was_away() {
    let origin = Origin::start();
    let mut site = site(3, &origin);
    let other = "/Packages/b-1-1.x86_64.rpm";
    origin.put(RPM, Page::new(content(1, 300_000)));
    origin.put(other, Page::new(content(2, 300_000)));
    let (url, another) = (origin.url(RPM), origin.url(other));
    for node in &site {
        // So often that each keeps a copy of its own.
        node.wait_for(|| {
            assert!(node.get(&url).body == content(1, 300_000) && node.get(&another).body == content(2, 300_000));
            node.status()["cache"]["objects"] == 2
        });
    }
    site[2].kill();
    site[0].wait_for(|| alive(&site[0]) == 2);
    assert_eq!(
        purge(&site[0], &[&url]),
        serde_json::json!({ "forgotten": 2, "here": 1, "nodes": 2, "unanswered": [] })
    );
    site[..2].iter().for_each(|node| node.wait_for_objects(1));
    let said = site[0].command(&["purge", &url]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&said.stdout), "0 forgotten at 0 nodes\n");
    // One that was away comes back with its copy, and is told before anybody takes it for the truth.
    origin.put(RPM, Page::new(content(3, 300_000)));
    site[2].run();
    site[1].wait_for(|| alive(&site[1]) == 3);
    assert!(site[1].get(&url).body == content(3, 300_000));
    site[2].wait_for(|| alive(&site[2]) == 3);
    assert!(site[2].get(&url).body == content(3, 300_000));
    assert_eq!(origin.sent(RPM), 600_000, "fetched anew, once");
    // All below a folder, wherever it is.
    let folder = origin.url("/Packages");
    let nodes = purge(&site[1], &["--repo", &folder]);
    assert_eq!((&nodes["nodes"], &nodes["unanswered"]), (&3.into(), &serde_json::json!([])));
    site.iter().for_each(|node| node.wait_for_objects(0));
    let wrong = site[0].command(&["purge", "--repo", "http://"]).output().unwrap();
    assert!(!wrong.status.success(), "{wrong:?}");
}

#[test]
fn r6c_what_is_gone_upstream_is_removed_at_every_node() {
    let origin = Origin::start();
    let mut site = site(3, &origin);
    origin.put(REPOMD, Page::new(b"<repomd>1</repomd>".to_vec()));
    let url = origin.url(REPOMD);
    for node in &site {
        assert_eq!(node.get(&url).body, b"<repomd>1</repomd>");
    }
    site.iter().for_each(|node| node.wait_for_objects(1));
    site[2].kill();
    site[0].wait_for(|| alive(&site[0]) == 2);
    // A server that fails says nothing about what there is.
    origin.put(REPOMD, Page::new(Vec::new()).with_status(503));
    assert_eq!(site[0].get(&url).body, b"<repomd>1</repomd>");
    assert!(site[..2].iter().all(|node| node.status()["cache"]["objects"] == 1));
    origin.remove(REPOMD);
    assert_eq!(site[0].get(&url).status, 404);
    site[..2].iter().for_each(|node| node.wait_for_objects(0));
    site[2].run();
    site[2].wait_for_objects(0);
    // Nobody has it to fall back on.
    origin.set_down(true);
    assert!(site.iter().all(|node| node.get(&url).status >= 500));
}

#[test]
fn r14_what_lands_while_a_node_drains_is_handed_over_too() {
    let origin = Origin::start();
    let mut site = site(3, &origin);
    let body = |n| content(n, 400_000 + n as usize);
    let path = |n| format!("/Packages/p{n}-1-1.x86_64.rpm");
    for n in 0..4 {
        origin.put(&path(n), Page::new(body(n)));
    }
    for n in 0..2 {
        assert!(site[0].get(&origin.url(&path(n))).body == body(n));
    }
    site[0].wait_for_objects(2);
    // A client is in the middle of a download when the node begins to leave.
    origin.put(&path(2), Page::new(body(2)).with(Trouble::StallAt(100_000)));
    let mut client = open(&site[0], &origin.url(&path(2)));
    assert!(client.head().is_some() && client.read(100_000) == body(2)[..100_000]);
    let drain = site[0].command(&["drain"]).stdout(std::process::Stdio::piped()).spawn().unwrap();
    let handed = |objects: u64| {
        site[1..].iter().map(|node| node.status()["cache"]["objects"].as_u64().unwrap()).sum::<u64>() == objects
    };
    site[1].wait_for(|| handed(2));
    origin.release();
    assert!(client.read(300_002) == body(2)[100_000..], "a client that reads notices nothing");
    let drained = drain.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&drained.stdout).into_owned();
    assert!(drained.status.success() && said.contains("3 handed over"), "each counts once: {said}");
    // What is asked of it even now goes to others before it stops.
    assert!(site[0].get(&origin.url(&path(3))).body == body(3));
    site[1].wait_for(|| handed(4));
    site[0].stop();
    origin.set_down(true);
    for n in 0..4 {
        assert!(site[1].get(&origin.url(&path(n))).body == body(n), "{n}");
    }
}

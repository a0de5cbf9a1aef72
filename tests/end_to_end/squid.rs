//! Beside a real Squid (R23), as `deploy/squid/` says: nodes as its parents and siblings, its helper programs, its configuration kept up
//! to date. In each arrangement a node ends, and clients go on.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use imirror::squid::icp;
use imirror_tests::content;
use imirror_tests::http::{Answer, request};
use imirror_tests::node::Node;
use imirror_tests::origin::{Origin, Page};
use imirror_tests::squid::Squid;

use crate::repositories::{pool, publish, update};
use crate::site::site_on;

/// What a Squid needs that stores packages in memory.
const STORES: &str = "cache_mem 64 MB\nmaximum_object_size_in_memory 8 MB\n";

/// Lines of `deploy/squid/`, with other words in place of some.
pub(crate) fn deployed(name: &str, instead: &[(&str, &str)]) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("deploy/squid");
    let text = std::fs::read_to_string(folder.join(name)).unwrap();
    instead.iter().fold(text, |text, (word, other)| {
        assert!(text.contains(word), "{name} has no {word}");
        text.replace(word, other)
    })
}

/// Addresses on loopback that are not that of clients: 127.0.0.2 and so on, each with a free port.
pub(crate) fn addresses(count: u8) -> Vec<SocketAddr> {
    let free = |last: u8| TcpListener::bind(SocketAddr::from(([127, 0, 0, last], 0))).unwrap().local_addr().unwrap();
    (2..2 + count).map(free).collect()
}

fn site(count: u8, origin: &Origin) -> Vec<Node> {
    site_on(&addresses(count), &[origin.address()], |_| String::new())
}

/// The lines that a node has for Squid.
pub(crate) fn snippet(node: &Node, arguments: &[&str]) -> String {
    let printed = node.command(&[&["squid-config"], arguments].concat()).output().unwrap();
    assert!(printed.status.success(), "{printed:?}");
    String::from_utf8(printed.stdout).unwrap()
}

fn package(number: u32) -> String {
    format!("/pool/p{number}_1_amd64.deb")
}

fn put(origin: &Origin, number: u32) -> Vec<u8> {
    let body = content(number.into(), 50_000);
    origin.put(&package(number), Page::new(body.clone()));
    body
}

fn right(answer: &Answer, body: &[u8]) {
    assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
    assert!(answer.complete && answer.body == body);
}

/// Fetches a package once; says whom Squid asked (`CARP/127.0.0.2`).
fn fetched(squid: &Squid, origin: &Origin, number: u32) -> String {
    let body = put(origin, number);
    let url = origin.url(&package(number));
    right(&squid.get(&url), &body);
    squid.logged(&url, 1)[8].clone()
}

/// Fetches one package after the other until Squid asks somebody for whom this holds.
fn until_fetched(squid: &Squid, origin: &Origin, from: u32, wanted: impl Fn(&str) -> bool) {
    let next = Cell::new(from);
    squid.wait_for("another way", || {
        next.set(next.get() + 1);
        wanted(&fetched(squid, origin, next.get()))
    });
}

#[test]
fn r23_packages_go_through_the_nodes_and_direct_when_all_are_gone() {
    let origin = Origin::start();
    let mut site = site(2, &origin);
    let squid = Squid::with(&snippet(&site[0], &[]));
    let asked: BTreeSet<String> = (0..16).map(|i| fetched(&squid, &origin, i)).collect();
    assert_eq!(asked, BTreeSet::from(["CARP/127.0.0.2", "CARP/127.0.0.3"].map(String::from)), "each has its share");
    for i in 0..16 {
        let url = origin.url(&package(i));
        right(&squid.get(&url), &content(i.into(), 50_000));
        assert!(squid.logged(&url, 2)[3].starts_with("TCP_MISS/"), "Squid itself keeps nothing");
    }
    assert_eq!(origin.sent(".deb"), 16 * 50_000, "once over the uplink");
    // What is no package manager's is none of the nodes' business.
    origin.put("/index.html", Page::new(b"hello".to_vec()));
    right(&squid.get(&origin.url("/index.html")), b"hello");
    assert_eq!(squid.logged(&origin.url("/index.html"), 1)[8], "HIER_DIRECT/127.0.0.1");
    assert!(!origin.seen("/index.html")[0].fields["via"].contains("imirror"));

    site[1].stop();
    for i in 0..32 {
        let body = put(&origin, i);
        right(&squid.get(&origin.url(&package(i))), &body);
    }
    assert!(fetched(&squid, &origin, 40).starts_with("CARP/127.0.0.2"));
    site[0].kill();
    for i in 0..64 {
        let body = put(&origin, i);
        right(&squid.get(&origin.url(&package(i))), &body);
    }
    assert_eq!(fetched(&squid, &origin, 80), "HIER_DIRECT/127.0.0.1");
    site[0].run();
    until_fetched(&squid, &origin, 100, |asked| asked == "CARP/127.0.0.2");
}

#[test]
fn r23_packages_may_be_told_by_their_hosts() {
    let (one, two) = (Origin::start(), Origin::start());
    let nodes = site_on(&addresses(1), &[one.address(), two.address()], |_| String::new());
    let refused = nodes[0].command(&["squid-config", "--match", "hosts"]).output().unwrap();
    assert!(
        !refused.status.success() && String::from_utf8_lossy(&refused.stderr).contains("--match forms"),
        "{refused:?}"
    );
    publish(&one, 1, &[("hello", b"hello")]);
    update(&nodes[0], &one);
    nodes[0].wait_for(|| nodes[0].status()["repos"].as_array().is_some_and(|repos| !repos.is_empty()));
    let told = nodes[0].command(&["squid-config", "--match", "both", "--json"]).output().unwrap();
    let told: serde_json::Value = serde_json::from_slice(&told.stdout).unwrap();
    assert_eq!(told["hosts"], serde_json::json!(["127.0.0.1"]));
    assert_eq!(told["nodes"][0]["address"], nodes[0].address());
    let squid = Squid::with(told["text"].as_str().unwrap());
    assert_eq!(fetched(&squid, &one, 1), "CARP/127.0.0.2");
    one.put("/index.html", Page::new(b"hello".to_vec()));
    right(&squid.get(&one.url("/index.html")), b"hello");
    assert_eq!(squid.logged(&one.url("/index.html"), 1)[8], "HIER_DIRECT/127.0.0.1");
}

/// A port for ICP that is free at so many of these addresses.
fn icp_port(addresses: &[SocketAddr]) -> u16 {
    let first = UdpSocket::bind((addresses[0].ip(), 0)).unwrap();
    let port = first.local_addr().unwrap().port();
    let others = addresses[1..].iter().all(|address| UdpSocket::bind((address.ip(), port)).is_ok());
    if others { port } else { icp_port(addresses) }
}

fn site_with_icp(count: u8, origin: &Origin) -> (Vec<Node>, Vec<SocketAddr>) {
    let addresses = addresses(count);
    let port = icp_port(&addresses);
    let doors: Vec<_> = addresses.iter().map(|address| SocketAddr::new(address.ip(), port)).collect();
    let more = |place: usize| format!("[icp]\nlisten = \"{}\"\n", doors[place]);
    (site_on(&addresses, &[origin.address()], more), doors)
}

/// The opcode of the answer; `None` when there is none within a while, which is a long one.
fn icp_answer(door: SocketAddr, datagram: &[u8], patience: Duration) -> Option<u8> {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(patience)).unwrap();
    socket.send_to(datagram, door).unwrap();
    let mut answer = [0; icp::LEN_MAX];
    let (len, from) = socket.recv_from(&mut answer).ok()?;
    assert_eq!((from, usize::from(answer[2]) << 8 | usize::from(answer[3])), (door, len));
    assert_eq!(answer[4..8], datagram[4..8]);
    Some(answer[0])
}

fn icp_says(door: SocketAddr, url: &str) -> u8 {
    let question = icp::question(&icp::Query { number: 0x1234_5678, url });
    icp_answer(door, &question, Duration::from_secs(30)).expect("an answer")
}

const HIT: u8 = 2;
const MISS: u8 = 3;
const ERR: u8 = 4;
const MISS_NOFETCH: u8 = 21;
const DENIED: u8 = 22;

#[test]
fn icp_is_answered_for_the_whole_site() {
    let origin = Origin::start();
    let (mut site, doors) = site_with_icp(2, &origin);
    let body = put(&origin, 1);
    let url = origin.url(&package(1));
    assert_eq!((icp_says(doors[0], &url), icp_says(doors[1], &url)), (MISS, MISS));
    right(&site[0].get(&url), &body);
    site[0].wait_for(|| icp_says(doors[0], &url) == HIT);
    site[1].wait_for(|| icp_says(doors[1], &url) == HIT);
    assert_eq!(icp_says(doors[1], &origin.url("/index.html")), MISS_NOFETCH, "it would only be passed on");
    for no_url in ["", "example.org/a.deb", "ftp://example.org/a.deb", "http://a b/"] {
        assert_eq!(icp_says(doors[1], no_url), ERR, "{no_url}");
    }
    assert_eq!(origin.seen(&package(1)).len(), 1, "nobody was asked");
    // It is as it was said to be: from the peer, without upstream.
    let only = ["Cache-Control: only-if-cached"];
    let answer = site[1].get_with(&url, &only);
    right(&answer, &body);
    assert!(answer.field("cache-status").unwrap().starts_with("lab1; hit, lab2; "), "{answer:?}");
    put(&origin, 2);
    assert_eq!(site[1].get_with(&origin.url(&package(2)), &only).status, 504);
    assert!(origin.seen(&package(2)).is_empty() && origin.seen(&package(1)).len() == 1);

    let third = put(&origin, 3);
    right(&site[0].get(&origin.url(&package(3))), &third);
    site[1].wait_for(|| icp_says(doors[1], &origin.url(&package(3))) == HIT);
    site[0].kill();
    site[1].wait_for(|| icp_says(doors[1], &origin.url(&package(3))) == MISS);
}

#[test]
fn what_is_no_question_of_icp_is_counted_and_not_answered() {
    let origin = Origin::start();
    let (site, doors) = site_with_icp(1, &origin);
    let question = icp::question(&icp::Query { number: 1, url: &origin.url("/a.deb") });
    let changed = |at: usize, byte: u8| {
        let mut bytes = question.clone();
        bytes[at] = byte;
        bytes
    };
    let wrong = [vec![], question[..10].to_vec(), changed(0, 2), changed(1, 3), changed(3, 0), vec![1; 20_000]];
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    wrong.iter().for_each(|datagram| assert_eq!(socket.send_to(datagram, doors[0]).unwrap(), datagram.len()));
    // What is answered next is this.
    assert_eq!(icp_answer(doors[0], &question, Duration::from_secs(30)), Some(MISS));
    let metrics = String::from_utf8(site[0].ask("GET", "/-/metrics", &site[0].address(), &[]).body).unwrap();
    for (reason, count) in [("malformed", 3), ("opcode", 1), ("version", 1), ("too-long", 1)] {
        let line = format!("imirror_icp_refused_total{{reason=\"{reason}\"}} {count}");
        assert!(metrics.contains(&line), "{line}\n{metrics}");
    }
    assert!(metrics.contains("imirror_icp_answers_total{answer=\"miss\"} 1"), "{metrics}");
    socket.set_nonblocking(true).unwrap();
    assert!(socket.recv_from(&mut [0; 100]).is_err(), "no answer to any of them");

    let address = addresses(1)[0];
    let door = SocketAddr::new(address.ip(), icp_port(&[address]));
    let stranger =
        Node::start_at(address, &[], &format!("[icp]\nlisten = \"{door}\"\n[clients]\nallow = [\"192.0.2.0/24\"]\n"));
    assert_eq!(icp_says(door, &origin.url("/a.deb")), DENIED);
    drop(stranger);
    let taken = Node::new(addresses(1)[0], &[], &format!("[icp]\nlisten = \"{}\"\n", doors[0]));
    let ended = taken.command(&["run"]).output().unwrap();
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(!ended.status.success() && said.contains(&format!("cannot answer ICP at {}", doors[0])), "{said}");
    assert!(said.contains("icp_port") && said.contains("[icp] listen"), "{said}");
}

#[test]
fn r23_squid_asks_the_nodes_by_icp() {
    let origin = Origin::start();
    let (mut site, doors) = site_with_icp(2, &origin);
    let body = put(&origin, 1);
    let url = origin.url(&package(1));
    right(&site[1].get(&url), &body);
    doors.iter().for_each(|door| site[0].wait_for(|| icp_says(*door, &url) == HIT));
    let ports = [doors[0].port(), icp_port(&["127.0.0.1:1".parse().unwrap()])].map(|port| port.to_string());
    let ports = ["--icp-port", &ports[0], "--squid-icp-port", &ports[1]];
    // Otherwise it waits for answers a few milliseconds longer than they usually take, however busy this machine is.
    let patient = "\nminimum_icp_query_timeout 2000\n";
    let lines = |kind: &str| snippet(&site[0], &[&["--kind", kind], &ports[..]].concat()) + patient;

    let squid = Squid::with(&lines("sibling"));
    right(&squid.get(&url), &body);
    assert!(squid.logged(&url, 1)[8].starts_with("SIBLING_HIT/127.0.0."), "{:?}", squid.logged(&url, 1));
    assert_eq!(origin.seen(&package(1)).len(), 1, "a sibling fetches nothing");
    assert_eq!(fetched(&squid, &origin, 2), "HIER_DIRECT/127.0.0.1");

    let parent = Squid::with(&lines("parent"));
    right(&parent.get(&url), &body);
    assert!(parent.logged(&url, 1)[8].starts_with("PARENT_HIT/127.0.0."), "{:?}", parent.logged(&url, 1));
    let asked = fetched(&parent, &origin, 3);
    assert!(asked.contains("PARENT") && asked.contains("/127.0.0."), "{asked}");

    site.iter_mut().for_each(Node::kill);
    for (number, squid) in [(4, &squid), (5, &parent)] {
        right(&squid.get(&url), &body);
        assert!(fetched(squid, &origin, number).contains("HIER_DIRECT/127.0.0.1"));
    }
}

/// A helper program with its pipes.
struct Helper(Child);

impl Helper {
    fn start(node: &Node, arguments: &[&str]) -> Self {
        let mut command = Command::new(imirror_tests::node::program());
        command.args(arguments).args(["--node", &node.address()]);
        Self(command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap())
    }

    /// What it answers to all of these lines together, and how long that takes.
    fn answers(&mut self, lines: Vec<u8>) -> (String, Duration) {
        let count = lines.iter().filter(|byte| **byte == b'\n').count();
        let (mut input, output) = (self.0.stdin.take().unwrap(), self.0.stdout.as_mut().unwrap());
        let began = Instant::now();
        let writer = std::thread::spawn(move || {
            input.write_all(&lines).unwrap();
            input
        });
        let (mut answered, mut buffer) = (Vec::new(), vec![0; 1 << 16]);
        let mut left = count;
        while left > 0 {
            let read = output.read(&mut buffer).unwrap();
            assert!(read > 0, "it ended with {left} lines unanswered");
            left -= buffer[..read].iter().filter(|byte| **byte == b'\n').count();
            answered.extend(&buffer[..read]);
        }
        let took = began.elapsed();
        self.0.stdin = Some(writer.join().unwrap());
        (String::from_utf8(answered).unwrap(), took)
    }

    fn answer(&mut self, line: &str) -> String {
        self.answers(format!("{line}\n").into_bytes()).0
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        if self.0.wait().is_ok_and(|status| !status.success()) && !std::thread::panicking() {
            panic!("a helper failed");
        }
    }
}

#[test]
fn helpers_answer_every_line_at_once_and_nothing_changes_without_a_node() {
    let origin = Origin::start();
    let mut node = site(1, &origin).pop().unwrap();
    publish(&origin, 1, &[("hello", b"hello")]);
    update(&node, &origin);
    let url = origin.url(&pool("hello"));
    let (mut rewrite, mut store_id) =
        (Helper::start(&node, &["squid-rewrite"]), Helper::start(&node, &["squid-store-id"]));
    let id = "OK store-id=\"http://store-id.imirror.invalid/sha256/";
    node.wait_for(|| Helper::start(&node, &["squid-store-id"]).answer(&url).starts_with(id));
    let extras = "192.0.2.7/- - GET myip=192.0.2.1 myport=3128";
    let rewritten = format!("OK rewrite-url=\"http://{}/{}{}\"\n", node.address(), origin.address(), pool("hello"));
    assert_eq!(rewrite.answer(&format!("{url} {extras}")), rewritten);
    assert_eq!(rewrite.answer(&format!("17 {url} {extras}")), format!("17 {rewritten}"));
    assert!(store_id.answer(&format!("4 {url} {extras}")).starts_with(&format!("4 {id}")));
    let long = "x".repeat(100_000);
    for helper in [&mut rewrite, &mut store_id] {
        let lines =
            format!("1 http://example.org/ {extras}\n\n2 \n3 http://{long}\n4 example.org:443 192.0.2.7/- - CONNECT\n");
        let mut lines = lines.into_bytes();
        lines.extend(b"5 http://example.org/\xff.rpm\n");
        assert_eq!(helper.answers(lines).0, "1 ERR\nERR\n2 ERR\n3 ERR\n4 ERR\n5 ERR\n");
    }
    let many = |count: u32| -> Vec<u8> {
        let line = |i: u32| {
            format!("{i} {} {extras}\n", if i.is_multiple_of(2) { url.clone() } else { origin.url(&package(i)) })
        };
        (0..count).map(line).collect::<String>().into_bytes()
    };
    for (name, helper) in [("squid-rewrite", &mut rewrite), ("squid-store-id", &mut store_id)] {
        let (answers, took) = helper.answers(many(100_000));
        for (i, line) in answers.lines().enumerate() {
            assert!(line.starts_with(&format!("{i} ")), "in their order: {line}");
            assert!(i % 2 == 1 || line.contains(" OK "), "{line}");
        }
        eprintln!("{name}: {:.0} lines a second", 1e5 / took.as_secs_f64());
    }

    node.kill();
    for (name, helper) in [("squid-rewrite", &mut rewrite), ("squid-store-id", &mut store_id)] {
        helper.0.stdin.as_ref().unwrap();
        node_is_forgotten(helper, &url);
        let (answers, took) = helper.answers(many(100_000));
        assert!(answers.lines().enumerate().all(|(i, line)| line == format!("{i} ERR")));
        eprintln!("{name} without a node: {:.0} lines a second", 1e5 / took.as_secs_f64());
    }
    node.run();
    for helper in [&mut rewrite, &mut store_id] {
        while helper.answer(&url) == "ERR\n" {}
    }
}

/// A helper learns at once that its node has ended; the first line may be quicker.
fn node_is_forgotten(helper: &mut Helper, url: &str) {
    while helper.answer(url) != "ERR\n" {}
}

#[test]
fn r23_packages_are_rewritten_to_the_node_as_long_as_it_lives() {
    let origin = Origin::start();
    let mut node = site(1, &origin).pop().unwrap();
    let mut squid = Squid::new();
    let port = node.address().rsplit_once(':').unwrap().1.to_owned();
    let configured = |squid: &Squid, more: &str| {
        let program = format!("{} squid-rewrite --node {}{more}", squid.imirror(), node.address());
        let instead = [("/usr/bin/imirror squid-rewrite", &*program), ("port 3142", &format!("port {port}"))];
        format!("{}http_access allow localhost\n", deployed("rewrite.conf", &instead))
    };
    let (rewriting, redirecting) = (configured(&squid, ""), configured(&squid, " --redirect"));
    squid.configure(&rewriting);
    squid.run();
    let body = content(1, 100_000);
    // An unquoted answer would lose its escapes.
    let escaped = "/pool/libstdc%2b%2b_1_amd64.deb";
    origin.put(escaped, Page::new(body.clone()));
    for times in 1..3 {
        right(&squid.get(&origin.url(escaped)), &body);
        assert_eq!(squid.logged(&origin.url(escaped), times)[8], "HIER_DIRECT/127.0.0.2");
    }
    assert_eq!(origin.sent("_1_amd64.deb"), body.len());
    assert!(origin.seen(escaped)[0].fields["via"].contains("lab1 (imirror)"));
    origin.put("/index.html", Page::new(b"hello".to_vec()));
    right(&squid.get(&origin.url("/index.html")), b"hello");
    assert_eq!(squid.logged(&origin.url("/index.html"), 1)[8], "HIER_DIRECT/127.0.0.1");

    node.stop();
    assert_eq!(fetched(&squid, &origin, 2), "HIER_DIRECT/127.0.0.1");
    node.run();
    until_fetched(&squid, &origin, 10, |asked| asked == "HIER_DIRECT/127.0.0.2");
    node.kill();
    until_fetched(&squid, &origin, 1000, |asked| asked == "HIER_DIRECT/127.0.0.1");

    node.run();
    squid.stop();
    squid.configure(&redirecting);
    squid.run();
    let answer = squid.get(&origin.url(escaped));
    let to = answer.field("location").expect("a redirect").to_owned();
    assert_eq!((answer.status, &*to), (302, &*format!("http://{}/{}{escaped}", node.address(), origin.address())));
    let path = to.strip_prefix(&format!("http://{}", node.address())).unwrap();
    right(&request(&node.address(), "GET", path, &node.address(), &[]), &body);
    node.stop();
    right(&squid.get(&origin.url(escaped)), &body);
}

#[test]
fn r23_squid_stores_a_package_once_for_all_mirrors() {
    let (one, two, three) = (Origin::start(), Origin::start(), Origin::start());
    let (hello, other) = (content(1, 300_000), content(2, 1000));
    for origin in [&one, &two] {
        publish(origin, 1, &[("hello", &hello), ("other", &other)]);
    }
    // Another repository with another content of that name.
    let foreign = content(3, 300_000);
    publish(&three, 1, &[("hello", &foreign)]);
    let origins = [&one, &two, &three];
    let allow = origins.map(Origin::address);
    let mut node = site_on(&addresses(1), &allow, |_| String::new()).pop().unwrap();
    origins.iter().for_each(|origin| update(&node, origin));
    let mut asking = Helper::start(&node, &["squid-store-id"]);
    for origin in origins {
        node.wait_for(|| node.status()["repos"].as_array().is_some_and(|repos| repos.len() == 3));
        while asking.answer(&origin.url(&pool("hello"))) == "ERR\n" {}
    }
    let mut squid = Squid::new();
    let program = format!("{} squid-store-id --node {}", squid.imirror(), node.address());
    let lines = deployed("store-id.conf", &[("/usr/bin/imirror squid-store-id", &program)]);
    squid.configure(&format!("{STORES}{lines}http_access allow localhost\n"));
    squid.run();
    right(&squid.get(&one.url(&pool("hello"))), &hello);
    right(&squid.get(&two.url(&pool("hello"))), &hello);
    assert_eq!((one.sent(".deb"), two.sent(".deb")), (hello.len(), 0), "one copy for both");
    assert!(squid.logged(&two.url(&pool("hello")), 1)[3].contains("HIT"));
    right(&squid.get(&three.url(&pool("hello"))), &foreign);

    node.kill();
    right(&squid.get(&one.url(&pool("other"))), &other);
    right(&squid.get(&two.url(&pool("other"))), &other);
    right(&squid.get(&three.url(&pool("hello"))), &foreign);
    assert_eq!(two.sent("other_1_amd64.deb"), other.len(), "each under its own URL");
}

/// Ends with the test.
struct Watching(Child);

impl Drop for Watching {
    fn drop(&mut self) {
        let _ = self.0.kill();
        self.0.wait().unwrap();
    }
}

#[test]
fn r23_the_file_is_kept_up_to_date_and_squid_reads_it() {
    let origin = Origin::start();
    let mut site = site(2, &origin);
    let mut squid = Squid::new();
    let file = squid.dir().join("imirror.conf");
    let include = file.display().to_string();
    squid.configure(&format!("include {include}\nhttp_access allow localhost\n"));
    let told = squid.command(&["-k", "reconfigure"]);
    let words = [told.get_program()].into_iter().chain(told.get_args()).map(|word| word.to_str().unwrap());
    let reconfigure = words.collect::<Vec<_>>().join(" ");
    let mut watch =
        site[0].command(&["squid-config", "--watch", &include, "--every", "1s", "--reconfigure", &reconfigure]);
    let log = squid.dir().join("watch.log");
    let mut watching = Watching(watch.stderr(std::fs::File::create(&log).unwrap()).spawn().unwrap());
    let peers = || std::fs::read_to_string(&file).unwrap_or_default().matches("\ncache_peer 127.0.0.").count();
    squid.wait_for("two nodes", || peers() == 2);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), snippet(&site[0], &[]), "as it is printed");
    // The Squid that was to be told did not run yet.
    squid.wait_for("a complaint", || std::fs::read_to_string(&log).unwrap().contains("failed"));
    squid.run();
    let asked: BTreeSet<String> = (0..16).map(|i| fetched(&squid, &origin, i)).collect();
    assert_eq!(asked.len(), 2);
    squid.wait_for("Squid is told again", || squid.file("cache.log").contains("Reconfiguring Squid Cache"));

    site[1].stop();
    squid.wait_for("one node", || peers() == 1);
    squid.wait_for("Squid has read it", || squid.file("cache.log").matches("Reconfiguring Squid Cache").count() >= 2);
    let asked: BTreeSet<String> = (20..36).map(|i| fetched(&squid, &origin, i)).collect();
    assert_eq!(asked, BTreeSet::from(["CARP/127.0.0.2".to_owned()]));

    // The node that is asked ends: what it said last stays, and Squid finds its way.
    let before = std::fs::read_to_string(&file).unwrap();
    site[0].kill();
    squid.wait_for("a complaint", || std::fs::read_to_string(&log).unwrap().contains("stays as it is"));
    assert!(watching.0.try_wait().unwrap().is_none());
    assert_eq!(std::fs::read_to_string(&file).unwrap(), before);
    assert_eq!(fetched(&squid, &origin, 40), "HIER_DIRECT/127.0.0.1");
    site[0].run();
    site[1].run();
    squid.wait_for("both again", || peers() == 2);
}

/// What is no part of a test of its own is at least understood by Squid.
#[test]
fn squid_understands_all_that_is_deployed() {
    for name in
        ["nodes-as-parents.conf", "nodes-as-siblings.conf", "squid-as-parent.conf", "rewrite.conf", "store-id.conf"]
    {
        let squid = Squid::new();
        let lines = match name {
            "rewrite.conf" => deployed(name, &[("/usr/bin/imirror", "/bin/true")]),
            "store-id.conf" => deployed(name, &[("/usr/bin/imirror", "/bin/true")]),
            _ => deployed(name, &[]),
        };
        squid.configure(&lines);
        let parsed = squid.command(&["-k", "parse"]).stderr(Stdio::piped()).output().unwrap();
        let said = String::from_utf8_lossy(&parsed.stderr);
        let troubles: Vec<&str> = said
            .lines()
            .filter(|line| line.contains("ERROR") || line.contains("WARNING") || line.contains("FATAL"))
            .collect();
        assert!(parsed.status.success() && troubles.is_empty(), "{name}: {troubles:?}\n{said}");
    }
}

//! What other nodes cost: memory while nothing happens, and one client that asks for one thing after the other: how much later a hit at a
//! peer begins than one here, and how much later a miss than at a node that is alone. Real nodes on loopback, of which there may be many.
//!
//!     cargo run -p imirror-tests --example peer_figures -- [OBJECTS [NODES]]
//!
//! `IMIRROR_BIN` names another program than the one beside this, such as an optimised one. A tool, no test: it looks at the clock and
//! judges nothing. What a transfer costs in processor time is measured by `cargo bench -p imirror --bench peer_path`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods)]

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use imirror_tests::content;
use imirror_tests::http::Connection;
use imirror_tests::node::{Node, free_port};
use imirror_tests::origin::{Origin, Page};

const TOKEN: &str = "im1or3wk3tupeqhgzldojsxiidcpf2gk4zb33e5pn72";
const SIZE: usize = 100_000;
/// For inventories to arrive, and for what has landed to be on the disk.
const SETTLING: Duration = Duration::from_secs(2);

/// For all nodes to know each other.
const PATIENCE: Duration = Duration::from_secs(180);

fn main() {
    let mut wishes = std::env::args().skip(1).map(|word| word.parse::<usize>().expect("a number"));
    let objects = wishes.next().unwrap_or(500).max(10);
    let nodes = wishes.next().unwrap_or(3).clamp(2, 200);
    let origin = Origin::start();
    let body = content(1, SIZE);
    let paths = |kind: &str| -> Vec<String> {
        let path = |n| format!("/Packages/{kind}{n}-1-1.x86_64.rpm");
        let paths: Vec<String> = (0..objects).map(path).collect();
        paths.iter().for_each(|path| origin.put(path, Page::new(body.clone())));
        paths
    };
    let addresses: Vec<SocketAddr> = (0..nodes).map(|_| free_port()).collect();
    let seeds = addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    let site: Vec<Node> = addresses.iter().map(|address| start(&origin, *address, &seeds)).collect();
    let lone = start(&origin, free_port(), "");
    let deadline = Instant::now() + PATIENCE;
    for node in &site {
        while node.status()["site"]["nodes"].as_array().unwrap().len() < nodes {
            assert!(Instant::now() < deadline, "they do not find each other");
            std::thread::sleep(Duration::from_millis(100));
        }
    }
    std::thread::sleep(SETTLING);
    println!("{nodes} nodes, {objects} objects of {SIZE} bytes, one client");
    let most = site.iter().map(|node| node.memory("VmRSS")).max().unwrap_or(0);
    let alone = lone.memory("VmRSS");
    println!("resident memory: {most} MiB, the greatest of all, {alone} MiB of one that is alone");

    let stored = paths("stored");
    let mut holder = Client::of(&site[0], &origin);
    for path in &stored {
        holder.first_byte(path);
    }
    site[1].wait_for(|| {
        let status = site[1].status();
        status["site"]["nodes"].as_array().unwrap().iter().any(|node| node["objects"] == objects as u64)
    });
    std::thread::sleep(SETTLING);
    let mut client = Client::of(&site[1], &origin);
    let mut peer: Vec<Duration> = stored.iter().map(|path| client.first_byte(path)).collect();
    std::thread::sleep(SETTLING);
    let mut own: Vec<Duration> = stored.iter().map(|path| client.first_byte(path)).collect();
    let by_peers = site[1].status()["traffic"]["peer_hits"].as_u64().unwrap();
    say("hit here, first byte", &mut own);
    say(&format!("hit at a peer, first byte ({by_peers} were that)"), &mut peer);

    let (mut lone, mut member) = (Client::of(&lone, &origin), Client::of(&site[1], &origin));
    let (mut alone, mut among) = (Vec::new(), Vec::new());
    for (one, other) in paths("alone").iter().zip(paths("among")) {
        alone.push(lone.first_byte(one));
        among.push(member.first_byte(&other));
    }
    say("miss at a node that is alone, first byte", &mut alone);
    say("miss that no peer can answer, first byte", &mut among);
}

fn start(origin: &Origin, address: SocketAddr, seeds: &str) -> Node {
    let more = "[freshness]\npackage = \"immutable\"\n";
    let mut node = Node::new(address, &[origin.address()], more).with_variable("IMIRROR_SITE_TOKEN", TOKEN);
    if !seeds.is_empty() {
        node = node.with_variable("IMIRROR_SITE_SEEDS", seeds);
    }
    node.run();
    node
}

/// One connection.
struct Client<'a> {
    connection: Connection,
    origin: &'a Origin,
}

impl<'a> Client<'a> {
    fn of(node: &Node, origin: &'a Origin) -> Self {
        Self { connection: Connection::open(&node.address()), origin }
    }

    /// How long until the first byte of the body is here; then the rest is read.
    fn first_byte(&mut self, path: &str) -> Duration {
        let (url, host) = (self.origin.url(path), self.origin.address());
        let began = Instant::now();
        self.connection.send(&format!("GET {url} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        let (status, _) = self.connection.head().unwrap();
        assert!(status == 200 && self.connection.read(1).len() == 1);
        let took = began.elapsed();
        assert_eq!(self.connection.read(SIZE - 1).len(), SIZE - 1);
        took
    }
}

fn say(what: &str, times: &mut [Duration]) {
    times.sort_unstable();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100].as_secs_f64() * 1000.0;
    println!("{what:<55} {:>7.3} ms (p10) {:>7.3} (p50) {:>7.3} (p90) {:>7.3} (p99)", at(10), at(50), at(90), at(99));
}

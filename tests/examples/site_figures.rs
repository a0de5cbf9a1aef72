//! Figures of a site of real nodes, each on a host of its own at one bridge: how soon they know each other, what they say while nothing
//! happens (on the wire, with all heads and acknowledgements), what one costs, who fetches, and what the death of one costs.
//!
//!     cargo run -p imirror-tests --example site_figures -- [NODES [IDLE_SECONDS [SETTLING_SECONDS]]]
//!
//! Needs root, and for more than 32 nodes greater tables of neighbours: the kernel counts those of all namespaces together
//! (`net.ipv4.neigh.default.gc_thresh3`). `IMIRROR_BIN` names another program than the one beside this, such as one of another commit. A tool, no test: it looks at
//! the clock and judges nothing.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods)]

use std::time::{Duration, Instant};

use imirror_tests::content;
use imirror_tests::http::Connection;
use imirror_tests::netns::Lan;
use imirror_tests::node::Node;
use imirror_tests::origin::{Origin, Page};
use serde_json::Value;

const TOKEN: &str = "im1or3wk3tupeqhgzldojsxiidcpf2gk4zb33e5pn72";
/// Clients of each node that want the same.
const CLIENTS: usize = 4;
const MB: usize = 1_000_000;

fn main() {
    let mut wishes = std::env::args().skip(1).map(|word| word.parse::<u64>().expect("a number"));
    let nodes = wishes.next().unwrap_or(10).clamp(2, 200) as usize;
    let idle = Duration::from_secs(wishes.next().unwrap_or(30).max(1));
    // What is new is told again for a minute.
    let settling = Duration::from_secs(wishes.next().unwrap_or(75));
    let lan = Lan::new(nodes);
    let origin = Origin::start_on(lan.uplink().listen());
    let alone = memory_alone(&lan);
    println!("{nodes} nodes");

    let began = Instant::now();
    let mut site: Vec<Node> = (0..nodes).map(|place| start(&lan, place)).collect();
    say("all have started", seconds(began), "s");
    wait(&site, |status| alive(status) == nodes);
    say("membership complete, after the first start", seconds(began), "s");

    spread_of_news(&origin, &site);
    one_for_all(&origin, &site);
    std::thread::sleep(settling);
    idling(&lan, &site, idle, alone);
    death_of_a_source(&lan, &origin, &mut site);
}

fn start(lan: &Lan, place: usize) -> Node {
    // One address is enough to find all; multicast is not counted among what nodes say to each other.
    let more = format!("[site]\nmdns = false\nseeds = [\"{}:3142\"]\n", lan.host(0).address());
    let mut node = Node::on(lan.host(place), &format!("n{place}"), &more).with_variable("IMIRROR_SITE_TOKEN", TOKEN);
    node.run();
    node
}

fn memory_alone(lan: &Lan) -> u64 {
    let node = start(lan, 0);
    std::thread::sleep(Duration::from_secs(2));
    resident(&node)
}

/// An object is stored at one: how long until the last of the others knows?
fn spread_of_news(origin: &Origin, site: &[Node]) {
    let path = "/Packages/known-1-1.x86_64.rpm";
    origin.put(path, Page::new(content(1, 20_000)));
    site[0].get(&origin.url(path));
    let began = Instant::now();
    wait(&site[1..], |status| nodes_of(status).any(|node| node["name"] == "n0" && node["objects"] == 1));
    say("a stored object known to all", seconds(began), "s (as far as one process can ask them all)");
}

/// All want the same new thing at once.
fn one_for_all(origin: &Origin, site: &[Node]) {
    let (path, body) = ("/Packages/new-1-1.x86_64.rpm", content(2, 5 * MB));
    origin.put(path, Page::new(body.clone()));
    let url = origin.url(path);
    let some = &site[..site.len().min(5)];
    std::thread::scope(|scope| {
        for node in some.iter().flat_map(|node| std::iter::repeat_n(node, CLIENTS)) {
            scope.spawn(|| assert!(node.get(&url).body == body));
        }
    });
    let what = format!("upstream requests for {} nodes x {CLIENTS} clients", some.len());
    say(
        &what,
        origin.seen(path).len() as f64,
        &format!("({:.3} copies)", origin.sent(path) as f64 / body.len() as f64),
    );
}

fn idling(lan: &Lan, site: &[Node], idle: Duration, alone: u64) {
    let sums = || {
        let wire = (0..site.len()).map(|place| lan.counted(place)).fold((0, 0), |(a, b), (c, d)| (a + c, b + d));
        (wire, site.iter().map(ticks).sum::<u64>())
    };
    let ((bytes, packets), busy) = sums();
    let began = Instant::now();
    std::thread::sleep(idle);
    let ((bytes_then, packets_then), busy_then) = sums();
    let each = |count: u64| count as f64 / site.len() as f64 / seconds(began);
    say("idle, bytes sent by each node, with all heads", each(bytes_then - bytes), "B/s");
    say("idle, packets sent by each node", each(packets_then - packets), "/s");
    // A tick of the kernel's is ten milliseconds.
    say("idle, time of one core for each node", each(busy_then - busy) * 10.0, "ms/s");
    let most = site.iter().map(resident).max().unwrap_or(0);
    say(
        "resident memory, the greatest of all",
        most as f64 / 1024.0,
        &format!("MiB (alone {:.1})", alone as f64 / 1024.0),
    );
}

/// The holder dies while another node's client reads what it has.
fn death_of_a_source(lan: &Lan, origin: &Origin, site: &mut [Node]) {
    let (path, body) = ("/Packages/long-1-1.x86_64.rpm", content(3, MB));
    origin.put(path, Page::new(body).times(100));
    let url = origin.url(path);
    site[0].get(&url);
    wait(&site[1..2], |status| nodes_of(status).any(|node| node["name"] == "n0" && node["objects"] == 3));
    lan.limit(0, "200mbit");
    let address = site[1].address().parse().unwrap();
    let mut client = Connection::over(lan.host(1).connect(address).unwrap());
    client.send(&format!("GET {url} HTTP/1.1\r\nHost: {}\r\n\r\n", origin.address()));
    client.head().unwrap();
    client.read(10 * MB);
    site[0].kill();
    let died = Instant::now();
    let rest = std::thread::scope(|scope| {
        let reader = scope.spawn(move || {
            let (mut longest, mut got, mut last) = (Duration::ZERO, 10 * MB, Instant::now());
            while got < 100 * MB {
                let read = client.read((100 * MB - got).min(64 * 1024)).len();
                assert!(read > 0, "the client got no more than {got} bytes");
                longest = longest.max(last.elapsed());
                (got, last) = (got + read, Instant::now());
            }
            longest
        });
        wait(&site[1..], |status| nodes_of(status).all(|node| node["name"] != "n0" || node["state"] == "suspect"));
        say("a killed node connected with nobody any more, or gone", seconds(died), "s");
        wait(&site[1..], |status| nodes_of(status).all(|node| node["name"] != "n0"));
        say("a killed node out of all lists", seconds(died), "s");
        reader.join().unwrap()
    });
    say("longest pause of a client whose source was killed", rest.as_secs_f64(), "s");
}

/// Waits until something is so at all of them.
fn wait(site: &[Node], so: impl Fn(&Value) -> bool) {
    let deadline = Instant::now() + Duration::from_secs(120);
    for node in site {
        while !so(&status(node)) {
            assert!(Instant::now() < deadline, "waited for in vain: {}", node.log());
        }
    }
}

fn status(node: &Node) -> Value {
    let answer = node.ask("GET", "/-/api/status", &node.address(), &[]);
    serde_json::from_slice(&answer.body).unwrap()
}

fn nodes_of(status: &Value) -> impl Iterator<Item = &Value> {
    status["site"]["nodes"].as_array().unwrap().iter()
}

fn alive(status: &Value) -> usize {
    nodes_of(status).filter(|node| node["state"] == "alive").count()
}

/// In KiB.
fn resident(node: &Node) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", node.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Time that it has worked, in ticks of the kernel's.
fn ticks(node: &Node) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", node.pid())).unwrap();
    let words: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    words[11].parse::<u64>().unwrap() + words[12].parse::<u64>().unwrap()
}

fn seconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64()
}

fn say(what: &str, figure: f64, unit: &str) {
    println!("{what:<55} {figure:>10.3} {unit}");
}

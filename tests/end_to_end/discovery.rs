//! How nodes hear of each other, without nodes: the part that looks, on hosts of a LAN.

use std::net::SocketAddr;
use std::time::Duration;

use imirror::cluster::discovery::{Announcement, Candidate, Discovery, How, Wanted};
use imirror_protocol::NodeId;
use imirror_protocol::token::Token;
use imirror_tests::netns::{Host, Lan};
use imirror_tests::node::Node;
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc::Receiver;

/// One that looks, with threads of its own on its host.
struct Search {
    runtime: Runtime,
    discovery: Option<Discovery>,
    found: Receiver<Candidate>,
    seen: Vec<Candidate>,
    dir: TempDir,
}

impl Search {
    fn start(host: &Host, node: u8, site: u8) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), host, node, site, true)
    }

    fn start_in(dir: TempDir, host: &Host, node: u8, site: u8, mdns: bool) -> Self {
        let announcement = Announcement {
            node: id(node),
            site: Token::from_entropy([site; 20]).site_id(),
            listen: "[::]:3142".parse().unwrap(),
            client_port: Some(3142),
        };
        let wanted = Wanted { mdns, seeds: vec![], remembered_file: dir.path().join("peers") };
        host.within(|| {
            let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
            let (discovery, found) = runtime.block_on(async { Discovery::start(announcement, wanted) });
            Self { runtime, discovery: Some(discovery), found, seen: Vec::new(), dir }
        })
    }

    /// Waits until this has been heard; what else is heard meanwhile is kept.
    fn hears(&mut self, what: &str, wanted: impl Fn(&Candidate) -> bool) {
        let seen = &mut self.seen;
        while !seen.iter().any(&wanted) {
            let next =
                self.runtime.block_on(async { tokio::time::timeout(Duration::from_secs(30), self.found.recv()).await });
            seen.push(next.unwrap_or_else(|_| panic!("{what} is not heard, only {seen:?}")).unwrap());
        }
    }

    fn hears_of(&mut self, node: u8, address: &str) {
        let address: SocketAddr = address.parse().unwrap();
        let expected = Candidate { address, peer: Some(id(node)), how: How::Mdns };
        self.hears(&format!("{expected:?}"), |candidate| *candidate == expected);
    }

    fn leave(mut self) -> TempDir {
        let discovery = self.discovery.take().unwrap();
        self.runtime.block_on(discovery.leave());
        self.dir
    }
}

fn id(node: u8) -> NodeId {
    NodeId([node; 16])
}

fn shell(host: &Host, line: &str) {
    assert!(host.command("sh").args(["-ec", line]).status().unwrap().success(), "{line}");
}

#[test]
fn nodes_of_a_site_hear_of_each_other_and_not_of_another_site() {
    let lan = Lan::new(4);
    let mut other = Search::start(lan.host(3), 4, 9);
    let mut first = Search::start(lan.host(0), 1, 7);
    let mut second = Search::start(lan.host(1), 2, 7);
    for address in ["10.77.0.2:3142", "[fd77::2]:3142", "[fe80::2%2]:3142"] {
        first.hears_of(2, address);
    }
    second.hears_of(1, "10.77.0.1:3142");
    // One that comes later hears of those that are there.
    let mut third = Search::start(lan.host(2), 3, 7);
    third.hears_of(1, "10.77.0.1:3142");
    third.hears_of(2, "10.77.0.2:3142");
    first.hears_of(3, "10.77.0.3:3142");
    // So does another of the other site.
    let mut another = Search::start(lan.host(0), 5, 9);
    other.hears_of(5, "10.77.0.1:3142");
    another.hears_of(4, "10.77.0.4:3142");
    for (search, own, site) in
        [(first, 1, [1, 2, 3]), (second, 2, [1, 2, 3]), (third, 3, [1, 2, 3]), (other, 4, [4, 4, 5])]
    {
        for candidate in &search.seen {
            let peer = candidate.peer.unwrap();
            assert!(peer != id(own) && site.map(id).contains(&peer), "node {own} hears of {candidate:?}");
            assert!(!candidate.address.ip().is_loopback(), "{candidate:?}");
        }
    }
}

#[test]
fn a_new_address_is_heard_of() {
    let lan = Lan::new(2);
    let mut first = Search::start(lan.host(0), 1, 7);
    let second = Search::start(lan.host(1), 2, 7);
    first.hears_of(2, "10.77.0.2:3142");
    let mut own = second.discovery.as_ref().unwrap().addresses();
    let told = |addresses: &Vec<SocketAddr>| addresses.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(told(&own.borrow_and_update()), ["10.77.0.2:3142", "[fd77::2]:3142"]);
    shell(lan.host(1), "ip addr del 10.77.0.2/24 dev eth0; ip addr add 10.77.0.99/24 dev eth0");
    first.hears_of(2, "10.77.0.99:3142");
    second.runtime.block_on(own.wait_for(|own| told(own) == ["10.77.0.99:3142", "[fd77::2]:3142"])).unwrap();
}

#[test]
fn apt_finds_a_node_that_announces_itself() {
    let lan = Lan::new(2);
    let mut node = Node::on(lan.host(0), "lab1", "[site]\nmdns = false\n");
    node.run();
    let laptop = Node::on(lan.host(1), "laptop", "");
    let detected = || {
        let ran = laptop.command(&["apt-proxy-detect"]).output().unwrap();
        assert!(ran.status.success(), "{ran:?}");
        String::from_utf8(ran.stdout).unwrap()
    };
    // Under whichever of its addresses is heard first.
    let node_found = || ["http://10.77.0.1:3142/\n", "http://[fd77::1]:3142/\n"].contains(&detected().as_str());
    assert_eq!(detected(), "DIRECT\n");
    let announced = Search::start(lan.host(0), 1, 7);
    let mut other = Search::start(lan.host(1), 2, 7);
    other.hears_of(1, "10.77.0.1:3142");
    assert!(node_found());
    // One that does not answer is not taken, whoever announces it.
    node.kill();
    assert_eq!(detected(), "DIRECT\n");
    node.run();
    assert!(node_found());
    // One that leaves takes back what it has announced.
    announced.leave();
    assert_eq!(detected(), "DIRECT\n");
    node.stop();
}

#[test]
fn neither_ipv4_nor_a_router_is_needed() {
    let lan = Lan::ipv6_only(2);
    for i in [0, 1] {
        shell(
            lan.host(i),
            "ip -6 route del default; ip addr del fd77::$(($0 + 1))/64 dev eth0".replace("$0", &i.to_string()).as_str(),
        );
    }
    let mut first = Search::start(lan.host(0), 1, 7);
    let _second = Search::start(lan.host(1), 2, 7);
    first.hears_of(2, "[fe80::2%2]:3142");
    assert!(first.discovery.as_ref().unwrap().addresses().borrow().is_empty(), "others have no use for these");
}

#[test]
fn containers_and_tunnels_are_left_alone() {
    let lan = Lan::new(2);
    // Two more links, of which one is named as those of containers are.
    for i in [0, 1] {
        let line = format!(
            "ip link add lan7 type veth peer name veth9; ip link set lan7 up; ip link set veth9 up
            ip addr add 10.99.{i}.1/24 dev lan7; ip addr add 10.88.{i}.1/24 dev veth9"
        );
        shell(lan.host(i), &line);
    }
    let mut first = Search::start(lan.host(0), 1, 7);
    let second = Search::start(lan.host(1), 2, 7);
    first.hears_of(2, "10.77.0.2:3142");
    let own = second.discovery.as_ref().unwrap().addresses().borrow().clone();
    let own: Vec<String> = own.iter().map(ToString::to_string).collect();
    assert_eq!(own, ["10.77.0.2:3142", "10.99.1.1:3142", "[fd77::2]:3142"]);
    second.leave();
    let heard: Vec<String> = first.seen.iter().map(|candidate| candidate.address.to_string()).collect();
    assert!(!heard.iter().any(|address| address.starts_with("10.88.") || address.starts_with("10.99.")), "{heard:?}");
}

#[test]
fn a_link_may_come_up_later() {
    let lan = Lan::new(2);
    let mut first = Search::start(lan.host(0), 1, 7);
    shell(lan.host(1), "ip link set eth0 down");
    let mut second = Search::start(lan.host(1), 2, 7);
    shell(lan.host(1), "ip link set eth0 up");
    // Whichever of its addresses survives the accident.
    first.hears("the second", |candidate| candidate.peer == Some(id(2)));
    second.hears("the first", |candidate| candidate.peer == Some(id(1)));
}

#[test]
fn what_was_good_is_remembered() {
    let lan = Lan::new(1);
    let good: SocketAddr = "10.77.0.9:3142".parse().unwrap();
    let first = Search::start_in(tempfile::tempdir().unwrap(), lan.host(0), 1, 7, false);
    first.discovery.as_ref().unwrap().remember(&[good]);
    let file = first.dir.path().join("peers");
    while std::fs::read_to_string(&file).unwrap_or_default() != "10.77.0.9:3142\n" {
        std::thread::yield_now();
    }
    let dir = first.leave();
    let mut again = Search::start_in(dir, lan.host(0), 1, 7, false);
    again.hears("what was good", |c| *c == Candidate { address: good, peer: None, how: How::Remembered });
}

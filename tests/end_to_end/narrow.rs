//! Ways between nodes that are slow, or take small packets only: hosts of a LAN whose cables are made so.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};

use imirror_tests::content;
use imirror_tests::http::Connection;
use imirror_tests::netns::Lan;
use imirror_tests::node::Node;
use imirror_tests::origin::{Origin, Page};

use crate::lan_site::{NAMES, RPM, alive, knows, origin, site};

const PIECE: usize = 100_000;

/// A client on a host that has asked the node there.
fn client(lan: &Lan, place: usize, url: &str) -> Connection {
    let node = SocketAddr::new(lan.host(place).address(), 3142);
    let mut client = Connection::over(lan.host(place).connect(node).unwrap());
    let authority = url.split('/').nth(2).unwrap();
    client.send(&format!("GET {url} HTTP/1.1\r\nHost: {authority}\r\n\r\n"));
    client
}

/// Has a node fetch something, and the others know of it.
fn stored(site: &[Node], origin: &Origin, path: &str, size: usize, objects: u64) -> (String, Vec<u8>) {
    let body = content(objects, size);
    origin.put(path, Page::new(body.clone()));
    let url = origin.url(path);
    assert!(site[0].get(&url).body == body);
    site[1..].iter().for_each(|node| node.wait_for(|| knows(node, NAMES[0], objects)));
    (url, body)
}

#[test]
fn r10_what_nodes_say_gets_through_while_content_fills_the_cable() {
    const READERS: usize = 4;
    const SIZE: usize = 6_000_000;
    let lan = Lan::new(3);
    let origin = origin(&lan);
    let site = site(&lan, 3);
    let path = |n: usize| format!("/Packages/big{n}-1-1.x86_64.rpm");
    let big: Vec<_> = (0..READERS).map(|n| stored(&site, &origin, &path(n), SIZE, n as u64 + 1)).collect();
    // All of it over one connection, which takes about ten seconds. What waits does so at the node: a cable that holds much back
    // makes everything late, whatever is sent first.
    let slow = "tc qdisc replace dev p1 root tbf rate 20mbit burst 32kb latency 20ms
        tc -n h1 qdisc replace dev eth0 root tbf rate 20mbit burst 32kb latency 20ms";
    lan.shell(slow, &[]);
    let got = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for (url, body) in &big {
            let (lan, got) = (&lan, &got);
            scope.spawn(move || {
                let mut client = client(lan, 1, url);
                assert!(client.head().is_some());
                for piece in body.chunks(PIECE) {
                    assert!(client.read(piece.len()) == piece);
                    got.fetch_add(piece.len(), Ordering::Relaxed);
                }
            });
        }
        site[1].wait_for(|| got.load(Ordering::Relaxed) > READERS * 500_000);
        // News of what the busy one stores, a question to it, and the small thing itself: all of it overtakes the content. A home that is
        // not heard in time, and it is not waited for long, is passed over, so one or another is fetched from upstream.
        let tries = AtomicUsize::new(0);
        site[1].wait_for(|| {
            let number = tries.fetch_add(1, Ordering::Relaxed);
            let path = format!("/Packages/small{number}-1-1.x86_64.rpm");
            let (url, body) = stored(&site, &origin, &path, 20_000, (READERS + number + 1) as u64);
            assert!(site[1].get(&url).body == body);
            origin.seen(&path).len() == 1
        });
        assert!(got.load(Ordering::Relaxed) < READERS * SIZE, "the content was still on its way");
    });
    assert!(
        site.iter().all(|node| alive(node) == 3 && !node.log().contains("a node has gone")),
        "nobody was taken for dead"
    );
    assert!((0..READERS).all(|n| origin.seen(&path(n)).len() == 1));
}

/// From now on packets of more than so many bytes are lost on the way to a host, and nobody is told.
fn narrow(lan: &Lan, place: usize, mtu: &str) {
    lan.shell("ip link set \"p$1\" mtu \"$2\"", &[&(place + 1).to_string(), mtu]);
}

#[test]
fn r10_a_path_that_takes_small_packets_only_is_no_trouble() {
    let lan = Lan::new(3);
    let origin = origin(&lan);
    narrow(&lan, 1, "1300");
    let site = site(&lan, 3);
    let (url, body) = stored(&site, &origin, RPM, 5_000_000, 1);
    assert!(site[1].get(&url).body == body && site[2].get(&url).body == body);
    assert_eq!(origin.sent(RPM), body.len());
    assert!(site.iter().all(|node| alive(node) == 3 && !node.log().contains("a node has gone")));
}

#[test]
fn r10_a_path_that_takes_small_packets_only_from_now_on_is_found_out() {
    let lan = Lan::new(2);
    let origin = origin(&lan);
    let site = site(&lan, 2);
    let (url, body) = stored(&site, &origin, RPM, 20_000_000, 1);
    // Slow enough that the greatest packets have been found, and that it is not through before.
    lan.limit(0, "60mbit");
    let mut client = client(&lan, 1, &url);
    assert!(client.head().is_some() && client.read(2_000_000) == body[..2_000_000]);
    narrow(&lan, 1, "1300");
    assert!(client.read(18_000_000) == body[2_000_000..]);
    // Where the site stalls upstream stands in, and it is a site all the same.
    site.iter().for_each(|node| node.wait_for(|| alive(node) == 2));
    let (url, body) = stored(&site, &origin, "/Packages/b-1-1.x86_64.rpm", 1_000_000, 2);
    assert!(site[1].get(&url).body == body);
    assert_eq!(origin.sent("/Packages/b-1-1.x86_64.rpm"), body.len());
}

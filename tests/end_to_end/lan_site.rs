//! Several nodes on hosts of a LAN: how they find each other there, and what they do when it fails them. The origin stands at the
//! bridge; its own count is the judge.

use std::io::Write;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use imirror_tests::content;
use imirror_tests::http::{Answer, Connection};
use imirror_tests::netns::Lan;
use imirror_tests::node::Node;
use imirror_tests::origin::{Origin, Page};

use crate::liar::Liar;

pub(crate) const TOKEN: &str = "im1or3wk3tupeqhgzldojsxiidcpf2gk4zb33e5pn72";
pub(crate) const RPM: &str = "/Packages/a-1-1.x86_64.rpm";
pub(crate) const NAMES: [&str; 5] = ["lab1", "lab2", "lab3", "lab4", "lab5"];

pub(crate) fn start(lan: &Lan, place: usize, token: &str, more: &str) -> Node {
    let mut node = Node::on(lan.host(place), NAMES[place], more).with_variable("IMIRROR_SITE_TOKEN", token);
    node.run();
    node
}

/// So many nodes that have nothing but the token, and know each other.
pub(crate) fn site(lan: &Lan, nodes: usize) -> Vec<Node> {
    let site: Vec<Node> = (0..nodes).map(|place| start(lan, place, TOKEN, "")).collect();
    site.iter().for_each(|node| node.wait_for(|| alive(node) == nodes));
    site
}

pub(crate) fn alive(node: &Node) -> usize {
    let status = node.status();
    let nodes = status["site"]["nodes"].as_array().unwrap();
    nodes.iter().filter(|node| node["state"] == "alive").count()
}

pub(crate) fn knows(node: &Node, holder: &str, objects: u64) -> bool {
    let status = node.status();
    let nodes = status["site"]["nodes"].as_array().unwrap();
    nodes.iter().any(|node| node["name"] == holder && node["objects"] == objects)
}

pub(crate) fn origin(lan: &Lan) -> Origin {
    Origin::start_on(lan.uplink().listen())
}

fn one_serves_what_another_has(site: &[Node], origin: &Origin) {
    let body = content(1, 2_000_000);
    origin.put(RPM, Page::new(body.clone()));
    let url = origin.url(RPM);
    assert!(site[0].get(&url).body == body);
    for node in &site[1..] {
        node.wait_for(|| knows(node, NAMES[0], 1));
        assert!(node.get(&url).body == body);
    }
    assert_eq!((origin.seen(RPM).len(), origin.sent(RPM)), (1, body.len()));
}

#[test]
fn r1_nodes_that_have_only_the_token_share_what_they_hold() {
    let lan = Lan::new(3);
    let origin = origin(&lan);
    one_serves_what_another_has(&site(&lan, 3), &origin);
}

#[test]
fn r9_link_local_addresses_of_ipv6_are_enough() {
    let lan = Lan::ipv6_only(2);
    // Between hosts nothing passes but from such addresses; each reaches itself and the origin.
    let rules = "nft add table bridge local && nft add chain bridge local f '{ type filter hook forward priority 0; }' && \
                 nft add rule bridge local f ip6 saddr fd77::/16 drop";
    lan.shell(rules, &[]);
    let origin = origin(&lan);
    one_serves_what_another_has(&site(&lan, 2), &origin);
}

#[test]
fn r9_seeds_do_where_multicast_does_not_reach() {
    let lan = Lan::new(3);
    let origin = origin(&lan);
    let seeds = format!("[site]\nmdns = false\nseeds = [\"{}:3142\"]\n", lan.host(0).address());
    let site: Vec<Node> = (0..3).map(|place| start(&lan, place, TOKEN, &seeds)).collect();
    site.iter().for_each(|node| node.wait_for(|| alive(node) == 3));
    one_serves_what_another_has(&site, &origin);
}

#[test]
fn r9_two_sites_on_one_lan_do_not_mix() {
    let lan = Lan::new(4);
    let other = imirror_protocol::token::Token::from_entropy([7; 20]).spelled();
    let nodes: Vec<Node> = (0..4).map(|place| start(&lan, place, if place < 2 { TOKEN } else { &other }, "")).collect();
    nodes.iter().for_each(|node| node.wait_for(|| alive(node) == 2));
    let id = |node: &Node| node.status()["site"]["id"].as_str().unwrap().to_owned();
    assert!(id(&nodes[0]) == id(&nodes[1]) && id(&nodes[2]) == id(&nodes[3]) && id(&nodes[0]) != id(&nodes[2]));
    // Another site's announcement is not even followed.
    assert!(nodes.iter().all(|node| !node.log().contains("was not let in")));
}

/// What a node counts under a name.
fn counted(node: &Node, name: &str) -> u64 {
    let metrics = String::from_utf8(node.ask("GET", "/-/metrics", &node.address(), &[]).body).unwrap();
    metrics.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok()).unwrap()
}

#[test]
fn r9_a_foreign_token_is_kept_out_of_a_lan() {
    let lan = Lan::new(3);
    let origin = origin(&lan);
    let site = site(&lan, 2);
    let other = imirror_protocol::token::Token::from_entropy([7; 20]).spelled();
    // It does not follow announcements of another site, but goes where it is told to.
    let seeds = format!("[site]\nseeds = [\"{}:3142\"]\n", lan.host(0).address());
    let stranger = start(&lan, 2, &other, &seeds);
    site[0].wait_for(|| counted(&site[0], "imirror_handshakes_refused_total ") >= 3);
    assert_eq!(site[0].log().matches("was not let in").count(), 1, "said once");
    // It reads nothing, and nothing is read of it.
    one_serves_what_another_has(&site, &origin);
    let body = content(1, 2_000_000);
    assert!(stranger.get(&origin.url(RPM)).body == body);
    assert_eq!(origin.sent(RPM), 2 * body.len());
    let (theirs, body) = ("/Packages/b-1-1.x86_64.rpm", content(2, 100_000));
    origin.put(theirs, Page::new(body.clone()));
    for node in [&stranger, &site[0], &site[1]] {
        assert!(node.get(&origin.url(theirs)).body == body);
    }
    assert_eq!(origin.sent(theirs), 2 * body.len());
    assert_eq!([alive(&site[0]), alive(&site[1]), alive(&stranger)], [2, 2, 1]);
}

#[test]
fn r10_who_sends_wrong_bytes_on_a_lan_is_found_out_before_a_client_sees_one() {
    let lan = Lan::new(3);
    let origin = origin(&lan);
    let site = site(&lan, 2);
    let body = content(1, 3_000_000);
    origin.put(RPM, Page::new(body.clone()));
    let url = origin.url(RPM);
    let seed = format!("{}:3142", lan.host(0).address());
    let listen = (lan.host(2).address(), 3142).into();
    let _liar = lan.host(2).within(|| Liar::start(TOKEN, listen, &seed, &url, &body, 2_000_000));
    site.iter().for_each(|node| node.wait_for(|| knows(node, "liar", 1)));
    // The client is on another host than the node that it asks.
    let answer = fetch(&lan, (lan.host(0).address(), 3142).into(), &url).unwrap();
    assert!(answer.complete && answer.body == body);
    assert_eq!(origin.seen(RPM).len(), 1, "the rest came from upstream, in the same answer");
    site[0].wait_for_words("a node misbehaves: it sent wrong bytes of an object");
    assert_eq!(counted(&site[0], "imirror_misbehaved_total "), 1);
    assert!(site[1].get(&url).body == body);
    let said = |node: &Node| node.log().matches("a node misbehaves").count();
    assert!(said(&site[0]) == 1 && said(&site[1]) <= 1);
}

#[test]
fn r10_a_source_that_is_cut_off_in_mid_stream_is_replaced_and_comes_back() {
    let lan = Lan::new(3);
    let origin = origin(&lan);
    let site = site(&lan, 3);
    let body = content(1, 1_000_000).repeat(30);
    origin.put(RPM, Page::new(content(1, 1_000_000)).times(30));
    let url = origin.url(RPM);
    assert!(site[0].get(&url).body == body);
    site[1].wait_for(|| knows(&site[1], NAMES[0], 1));
    // Slow enough that it cannot be through before the cut.
    lan.limit(0, "40mbit");
    let mut client = Connection::over(lan.host(1).connect((lan.host(1).address(), 3142).into()).unwrap());
    let host = url.split('/').nth(2).unwrap();
    client.send(&format!("GET {url} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
    assert!(client.head().is_some() && client.read(1_000_000) == body[..1_000_000]);
    lan.cut(0);
    assert!(client.read(29_000_000) == body[1_000_000..]);
    let fetched = origin.sent(RPM);
    assert!(fetched > body.len() && fetched < 2 * body.len(), "the rest came from upstream: {fetched}");
    site[1].wait_for(|| alive(&site[1]) == 2);
    lan.heal(0);
    site.iter().for_each(|node| node.wait_for(|| alive(node) == 3));
}

#[test]
fn r8c_five_nodes_share_one_fetch_over_a_slow_uplink() {
    let lan = Lan::new(5);
    let origin = origin(&lan);
    let site = site(&lan, 5);
    let body = content(1, 4_000_000);
    origin.put(RPM, Page::new(body.clone()));
    let url = origin.url(RPM);
    // Whoever fetches does so at 16 Mbit/s.
    (0..5).for_each(|place| lan.limit(place, "16mbit"));
    std::thread::scope(|scope| {
        for client in 0..10 {
            let (node, url, body) = (&site[client % 5], &url, &body);
            scope.spawn(move || assert!(node.get(url).body == *body, "client {client}"));
        }
    });
    let (requests, sent) = (origin.seen(RPM).len(), origin.sent(RPM));
    assert!(requests == 1 && sent == body.len(), "{requests} requests, {sent} bytes");
}

#[test]
fn r11_what_is_popular_survives_the_loss_of_its_first_holder() {
    let lan = Lan::new(3);
    let origin = origin(&lan);
    let mut site = site(&lan, 3);
    let body = content(1, 300_000);
    origin.put(RPM, Page::new(body.clone()));
    let url = origin.url(RPM);
    for _ in 0..20 {
        assert!(site[0].get(&url).body == body);
    }
    site[2].wait_for(|| knows(&site[2], NAMES[1], 1) || knows(&site[2], NAMES[2], 1));
    site[0].kill();
    origin.set_down(true);
    assert!(site[1].get(&url).body == body && site[2].get(&url).body == body);
}

#[test]
fn r14_a_drained_node_leaves_nothing_behind() {
    let lan = Lan::new(3);
    let origin = origin(&lan);
    let mut site = site(&lan, 3);
    let body = |n| content(n, 200_000 + n as usize);
    let path = |n| format!("/Packages/p{n}-1-1.x86_64.rpm");
    for n in 0..20 {
        origin.put(&path(n), Page::new(body(n)));
        assert!(site[0].get(&origin.url(&path(n))).body == body(n));
    }
    site[0].wait_for_objects(20);
    let drained = site[0].command(&["drain"]).output().unwrap();
    let said = String::from_utf8_lossy(&drained.stdout).into_owned();
    assert!(drained.status.success() && said.contains("20 handed over"), "{said}");
    // It still serves, and is in no list for clients any more.
    assert!(site[0].get(&origin.url(&path(0))).body == body(0));
    let listed = || site[1].ask("GET", "/-/mirrorlist/x", &site[1].address(), &[]);
    let own = site[0].address();
    site[1].wait_for(|| !String::from_utf8_lossy(&listed().body).contains(&own));
    site[0].stop();
    origin.set_down(true);
    for n in 0..20 {
        assert!(site[1].get(&origin.url(&path(n))).body == body(n), "{n}");
    }
}

#[test]
fn r12_a_rolling_restart_under_load_costs_no_client_an_error() {
    let lan = Lan::new(3);
    let origin = origin(&lan);
    let mut site = site(&lan, 3);
    let paths: Vec<String> = (0..40).map(|n| format!("/Packages/p{n}-1-1.x86_64.rpm")).collect();
    let body = |n: usize| content(n as u64, 100_000 + n);
    paths.iter().enumerate().for_each(|(n, path)| origin.put(path, Page::new(body(n))));
    let addresses: Vec<_> = (0..3).map(|place| SocketAddr::new(lan.host(place).address(), 3142)).collect();
    let (over, done) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for client in 0..4 {
            let (lan, origin, paths, addresses, over, done) = (&lan, &origin, &paths, &addresses, &over, &done);
            scope.spawn(move || {
                let mut n = client * 10;
                while !over.load(Ordering::Relaxed) {
                    n = (n + 1) % paths.len();
                    // As with a mirror list: the first that answers, from another place each time.
                    let answer = (0..3).find_map(|next| {
                        let url = origin.url(&paths[n]);
                        fetch(lan, addresses[(n + client + next) % 3], &url)
                    });
                    let answer = answer.unwrap_or_else(|| panic!("no node answers for {}", paths[n]));
                    assert!(
                        answer.status == 200 && answer.complete && answer.body == body(n),
                        "{n}: {}",
                        answer.status
                    );
                    done.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        for place in 0..3 {
            let before = done.load(Ordering::Relaxed);
            site[place].wait_for(|| done.load(Ordering::Relaxed) > before + 20);
            site[place].stop();
            site[place].run();
            site.iter().for_each(|node| node.wait_for(|| alive(node) == 3));
        }
        over.store(true, Ordering::Relaxed);
    });
    // What only the stopped node had was fetched again meanwhile; whoever minds drains it first.
    assert!(done.load(Ordering::Relaxed) > 60);
}

/// `None` where nobody accepts, or the connection ends before there is an answer: a client then takes the next of its list.
fn fetch(lan: &Lan, node: SocketAddr, url: &str) -> Option<Answer> {
    let mut stream = lan.uplink().connect(node).ok()?;
    let host = url.split('/').nth(2).unwrap();
    stream.write_all(format!("GET {url} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").as_bytes()).ok()?;
    Connection::over(stream).answer(false)
}

/// `h2`, the second host, gets another address, while all runs.
fn renumber(lan: &Lan, node: &mut Node) {
    let line = "ip -n h2 addr del 10.77.0.2/24 dev eth0; ip -n h2 addr add 10.77.0.99/24 dev eth0
        ip -n h2 route replace default via 10.77.0.254";
    lan.shell(line, &[]);
    node.moved_to([10, 77, 0, 99].into());
}

fn renumbered(more: &[&str; 3]) {
    let lan = Lan::new(3);
    // There is no other way between them than by the address that changes.
    lan.shell(
        "for h in h1 h2 h3; do ip netns exec $h sh -c 'echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6'; done",
        &[],
    );
    let origin = origin(&lan);
    let mut site: Vec<Node> = (0..3).map(|place| start(&lan, place, TOKEN, more[place])).collect();
    site.iter().for_each(|node| node.wait_for(|| alive(node) == 3));
    renumber(&lan, &mut site[1]);
    let is_there = |node: &Node| {
        let status = node.status();
        let nodes = status["site"]["nodes"].as_array().unwrap();
        nodes.iter().any(|node| node["address"] == "10.77.0.99:3142" && node["state"] == "alive")
    };
    for node in [&site[0], &site[2]] {
        node.wait_for(|| is_there(node) && alive(node) == 3);
    }
    // It was away, and took the others for dead: until all have heard that it is not so, one or the other asks upstream.
    let tries = AtomicUsize::new(0);
    for (holder, reader) in [(1, 0), (1, 2), (0, 1)] {
        site[reader].wait_for(|| {
            let path = format!("/Packages/m{}-1-1.x86_64.rpm", tries.fetch_add(1, Ordering::Relaxed));
            let (url, body) = (origin.url(&path), content(1, 200_000));
            origin.put(&path, Page::new(body.clone()));
            assert!(site[holder].get(&url).body == body && site[reader].get(&url).body == body);
            (origin.seen(&path).len(), origin.sent(&path)) == (1, body.len())
        });
    }
}

#[test]
fn r9_a_node_that_gets_another_address_while_it_runs_stays_in_the_site() {
    renumbered(&["", "", ""]);
}

#[test]
fn r9_without_multicast_too_and_be_it_the_one_that_all_know() {
    let seeds = "[site]\nmdns = false\nseeds = [\"10.77.0.2:3142\"]\n";
    renumbered(&[seeds; 3]);
}

#[test]
fn where_udp_does_not_pass_each_node_serves_alone_and_without_delay() {
    let lan = Lan::new(2);
    let rules = "nft add table bridge noudp && nft add chain bridge noudp f '{ type filter hook forward priority 0; }' && \
                 nft add rule bridge noudp f meta l4proto udp drop";
    lan.shell(rules, &[]);
    let origin = origin(&lan);
    let seeds = format!("[site]\nmdns = false\nseeds = [\"{}:3142\"]\n", lan.host(0).address());
    let site: Vec<Node> = (0..2).map(|place| start(&lan, place, TOKEN, &seeds)).collect();
    site[1].wait_for_words("answers by TCP but not by UDP");
    let url = origin.url(RPM);
    origin.put(RPM, Page::new(content(1, 500_000)));
    for node in &site {
        let answer = node.get(&url);
        assert!(answer.body == content(1, 500_000) && answer.field("cache-status").unwrap().contains("fwd=uri-miss"));
        assert_eq!(alive(node), 1);
    }
    assert_eq!(origin.seen(RPM).len(), 2, "each by itself");
    assert_eq!(site[1].log().matches("answers by TCP but not by UDP").count(), 1, "said once");
    let examined = site[1].command(&["doctor"]).output().unwrap();
    let said = String::from_utf8_lossy(&examined.stdout).into_owned();
    assert!(said.contains(&format!("{}:3142 answers by TCP but not by UDP", lan.host(0).address())), "{said}");
}

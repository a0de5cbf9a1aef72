//! Proxies that lead in a circle (R23): refused whichever way they are built, after a round at most, and with a Squid among them the
//! client is served all the same.

use std::process::Output;

use imirror_tests::content;
use imirror_tests::http::{Answer, request};
use imirror_tests::node::{Node, free_port};
use imirror_tests::origin::{Origin, Page};
use imirror_tests::squid::Squid;

use crate::site::{site, site_on};
use crate::squid::{addresses, deployed, snippet};

const DEB: &str = "/pool/a_1.0_amd64.deb";

fn text(answer: &Answer) -> String {
    String::from_utf8_lossy(&answer.body).into_owned()
}

/// Requests for something that a node has had, which has been stopped.
fn asked(node: &Node, what: &str) -> usize {
    let log = std::fs::read_to_string(node.dir().join("state/access.log")).unwrap_or_default();
    log.lines().filter(|line| line.contains(what)).count()
}

#[test]
fn what_has_been_at_the_site_before_is_refused() {
    let origin = Origin::start();
    let nodes = site(2, &origin);
    origin.put(DEB, Page::new(content(1, 1000)));
    origin.put("/index.html", Page::new(b"hello".to_vec()));
    let id = nodes[0].status()["site"]["id"].as_str().unwrap().to_owned();
    let site_id = format!("CDN-Loop: a.example.org, imirror-{id}; n=1");
    let circles =
        ["Via: 1.1 squid (squid/5.7), 1.1 lab1 (imirror)", "Via: 1.1 lab2 (imirror), 1.1 squid (squid/5.7)", &site_id];
    for field in circles {
        for path in [DEB, "/index.html"] {
            let answer = nodes[0].get_with(&origin.url(path), &[field]);
            assert_eq!(answer.status, 508, "{field} {path}: {}", text(&answer));
            assert!(text(&answer).contains("in a circle"), "{}", text(&answer));
            assert!(origin.seen(path).is_empty());
        }
        let tunnel = nodes[0].ask("CONNECT", "example.org:443", "example.org:443", &[field]);
        assert_eq!(tunnel.status, 508, "{field}: {}", text(&tunnel));
    }
    // Nodes of other sites, and others of that name, are proxies like any other.
    for field in ["Via: 1.1 lab7 (imirror), 1.1 lab1 (squid)", "CDN-Loop: imirror-0000000000000000"] {
        assert_eq!(nodes[0].get_with(&origin.url(DEB), &[field]).status, 200, "{field}");
        assert_eq!(nodes[0].get_with(&origin.url("/index.html"), &[field]).status, 200, "{field}");
    }
    let [package, page] = [DEB, "/index.html"].map(|path| origin.seen(path)[0].fields.clone());
    assert_eq!((&*package["via"], &package["cdn-loop"]), ("1.1 lab1 (imirror)", &format!("imirror-{id}")));
    assert!(page["via"].starts_with("1.1 lab7 (imirror), ") && page["cdn-loop"].ends_with(&id), "{page:?}");
}

/// What a node says that does not start.
fn refused(node: &Node) -> String {
    let Output { status, stderr, .. } = node.command(&["run"]).output().unwrap();
    assert!(!status.success());
    String::from_utf8(stderr).unwrap()
}

#[test]
fn a_node_is_no_proxy_and_no_mirror_of_its_own() {
    let address = free_port();
    let said = refused(&Node::new(address, &[], &format!("proxy = \"http://{address}\"\n")));
    assert!(said.contains(&format!("`[upstream] proxy` = {address} is this node itself")), "{said}");

    // By a name that is found out to be its own.
    let node = Node::start_at(address, &[], &format!("proxy = \"http://localhost:{}\"\n", address.port()));
    for answer in [
        node.get("http://repo.example.org/a_1_all.deb"),
        node.get("http://repo.example.org/"),
        node.ask("CONNECT", "repo.example.org:443", "repo.example.org:443", &[]),
        node.ask("GET", "/HTTPS///repo.example.org/a_1_all.deb", &address.to_string(), &[]),
    ] {
        assert_eq!(answer.status, 502, "{}", text(&answer));
        assert!(text(&answer).contains("it is this node itself"), "{}", text(&answer));
    }
    drop(node);

    let itself = format!("[repos.lab]\nupstreams = [\"http://{address}/lab\"]\n");
    let mut node = Node::start_at(address, &[&address.to_string()], &itself);
    let answer = node.ask("GET", "/lab/a_1_all.deb", &address.to_string(), &[]);
    assert_eq!(answer.status, 403, "{}", text(&answer));
    assert!(text(&answer).contains("it is this node itself"), "{}", text(&answer));
    node.stop();
    assert_eq!(asked(&node, "a_1_all.deb"), 1);
}

#[test]
fn two_nodes_that_are_each_others_proxies() {
    // Of one site, then of two.
    for is_one in [true, false] {
        let addresses = addresses(2);
        let proxy = |place: usize| format!("proxy = \"http://{}\"\n", addresses[1 - place]);
        let mut nodes = match is_one {
            true => site_on(&addresses, &[], proxy),
            false => {
                let node = |place: usize| {
                    let name = ["lab1", "lab2"][place];
                    let mut node = Node::new(addresses[place], &[], &proxy(place)).with_variable("IMIRROR_NAME", name);
                    node.run();
                    node
                };
                vec![node(0), node(1)]
            }
        };
        for (target, is_tunnel) in [
            ("http://repo.example.org/a_1_all.deb", false),
            ("http://repo.example.org/index.html", false),
            ("/HTTPS///repo.example.org/b_1_all.deb", false),
            ("repo.example.org:443", true),
        ] {
            let method = if is_tunnel { "CONNECT" } else { "GET" };
            let answer = nodes[0].ask(method, target, "repo.example.org", &[]);
            // What is not ours is passed on as it came.
            assert!(matches!(answer.status, 502 | 508), "{target}: {} {}", answer.status, text(&answer));
            let said = text(&answer);
            assert!(
                said.contains("circle") || said.contains("answered 502") || said.contains("with 502"),
                "{target}: {said}"
            );
        }
        nodes.iter_mut().for_each(Node::stop);
        let all: usize = nodes.iter().map(|node| asked(node, "repo.example.org")).sum();
        assert!((8..=12).contains(&all), "{all} requests of four: once round each");
    }
}

#[test]
fn a_node_and_a_squid_that_are_each_others_parents() {
    for is_told in [true, false] {
        let origin = Origin::start();
        let mut squid = Squid::new();
        let proxy = format!("proxy = \"http://{}\"\n", squid.address());
        let mut nodes = site_on(&addresses(2), &[origin.address()], |_| proxy.clone());
        let lines = snippet(&nodes[0], &[]);
        // Without the lines that keep Squid from it the nodes see it.
        let lines: String = lines
            .lines()
            .filter(|line| is_told || !line.contains(" deny imirror_"))
            .map(|line| format!("{line}\n"))
            .collect();
        squid.configure(&format!("{lines}http_access allow localhost\n"));
        squid.run();
        for number in 0..8 {
            let path = format!("/pool/p{number}_1_amd64.deb");
            let body = content(number, 10_000);
            origin.put(&path, Page::new(body.clone()));
            let answer = squid.get(&origin.url(&path));
            assert_eq!((answer.status, answer.body == body), (200, true), "{is_told}: {}", text(&answer));
            assert_eq!(origin.seen(&path).len(), 1);
            let through_node = origin.seen(&path)[0].fields["via"].contains("(imirror)");
            assert_eq!(through_node, is_told, "told, Squid goes direct for the node, else for the client");
        }
        nodes.iter_mut().for_each(Node::stop);
        for number in 0..8 {
            let all: usize = nodes.iter().map(|node| asked(node, &format!("/p{number}_1_amd64.deb"))).sum();
            // Else Squid tries both, each of which asks Squid, which asks the one of them whose package it is.
            assert!(all == 1 || !is_told && all <= 4, "{is_told}: {all} requests");
        }
    }
}

#[test]
fn a_squid_that_rewrites_to_a_node_whose_parent_it_is() {
    let origin = Origin::start();
    let mut squid = Squid::new();
    let proxy = format!("proxy = \"http://{}\"\n", squid.address());
    let mut nodes = site_on(&addresses(1), &[origin.address()], |_| proxy.clone());
    let program = format!("{} squid-rewrite --node {}", squid.imirror(), nodes[0].address());
    let lines = deployed("rewrite.conf", &[("/usr/bin/imirror squid-rewrite", &program)]);
    squid.configure(&format!("{lines}http_access allow localhost\n"));
    squid.run();
    let body = content(1, 10_000);
    origin.put(DEB, Page::new(body.clone()));
    let answer = squid.get(&origin.url(DEB));
    assert_eq!((answer.status, answer.body == body), (200, true), "{}", text(&answer));
    assert_eq!(origin.seen(DEB).len(), 1);
    assert!(origin.seen(DEB)[0].fields["via"].contains("lab1 (imirror), 1.1 squid.example.org"));
    let direct =
        request(squid.address(), "GET", &origin.url("/b_1_all.deb"), origin.address(), &["Via: 1.1 lab9 (imirror)"]);
    assert_eq!(direct.status, 404);
    nodes[0].stop();
    assert_eq!(asked(&nodes[0], DEB), 1);
    assert_eq!(asked(&nodes[0], "b_1_all.deb"), 0, "what comes from a node goes to none");
}

/// A Squid that hides whom requests have passed through, and is told nothing: the other field shows the circle.
#[test]
fn a_squid_that_hides_via_between_nodes() {
    let origin = Origin::start();
    let mut squid = Squid::new();
    let proxy = format!("proxy = \"http://{}\"\n", squid.address());
    let mut nodes = site_on(&addresses(2), &[origin.address()], |_| proxy.clone());
    let lines = snippet(&nodes[0], &[]);
    let lines: String =
        lines.lines().filter(|line| !line.contains(" deny imirror_")).map(|line| format!("{line}\n")).collect();
    squid.configure(&format!("{lines}via off\nrequest_header_access Via deny all\nhttp_access allow localhost\n"));
    squid.run();
    let body = content(1, 10_000);
    origin.put(DEB, Page::new(body.clone()));
    let answer = squid.get(&origin.url(DEB));
    assert_eq!((answer.status, answer.body == body), (200, true), "{}", text(&answer));
    assert_eq!(origin.seen(DEB).len(), 1);
    nodes.iter_mut().for_each(Node::stop);
    let all: usize = nodes.iter().map(|node| asked(node, DEB)).sum();
    // Squid tries both, each of which asks Squid, which asks the one of them whose package it is.
    assert!((2..=4).contains(&all), "{all} requests");
}

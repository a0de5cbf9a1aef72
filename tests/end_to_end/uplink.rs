//! The way out: https upstreams, redirects, and a real Squid as the parent proxy.

use imirror_tests::content;
use imirror_tests::http::{Answer, Connection, request};
use imirror_tests::node::{Node, free_port};
use imirror_tests::origin::{Origin, Page, Trouble};
use imirror_tests::squid::Squid;
use imirror_tests::tls::Authority;

const DEB: &str = "/pool/a_1.0_amd64.deb";
const ADDRESS: &str = "127.0.0.1";
const YEARS: (i32, i32) = (2000, 2100);

/// A file with the certificates that a node is to trust.
fn bundle(authorities: &[&Authority]) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), authorities.iter().map(|authority| authority.pem()).collect::<String>()).unwrap();
    file
}

/// A node that trusts what is in a file, and nobody else.
fn trusting(file: &std::path::Path, allow: &[&str], more: &str) -> Node {
    let mut node = Node::new(free_port(), allow, more).with_variable("SSL_CERT_FILE", file.to_str().unwrap());
    node.run();
    node
}

/// The body of an answer that says that something cannot be had.
fn failure(answer: Answer, status: u16) -> String {
    let text = String::from_utf8(answer.body).unwrap();
    assert_eq!(answer.status, status, "{text}");
    assert!(answer.complete);
    text
}

#[test]
fn an_https_upstream_is_asked_for_in_every_way_that_clients_know() {
    let authority = Authority::default();
    let origin = Origin::start_tls(authority.server(ADDRESS, YEARS));
    let file = bundle(&[&Authority::default(), &authority]);
    let node = trusting(file.path(), &[origin.address()], "");
    let body = content(1, 3_000_000);
    origin.put(DEB, Page::new(body.clone()));
    let place = format!("{}{DEB}", origin.address());
    for (target, host) in [
        (format!("/HTTPS///{place}"), node.address()),
        (format!("http://HTTPS///{place}"), "HTTPS".into()),
        (format!("https://{place}"), origin.address().into()),
    ] {
        let answer = request(&node.address(), "GET", &target, &host, &[]);
        assert_eq!(answer.status, 200, "{target}: {}", String::from_utf8_lossy(&answer.body));
        assert!(answer.body == body, "{target}");
    }
    assert_eq!(origin.sent(DEB), body.len(), "three ways, one download");
    let plain = node.get(&format!("http://{place}"));
    assert_ne!(plain.status, 200, "what was asked for over https is not handed out as plain http");
}

#[test]
fn a_certificate_with_anything_wrong_is_refused_with_advice_and_nothing_is_stored() {
    let trusted = Authority::default();
    let file = bundle(&[&trusted]);
    let troubles = [
        (trusted.server(ADDRESS, (2000, 2001)), "certificate expired", "has to renew the certificate"),
        (trusted.server("other.example.org", YEARS), "other.example.org", "ask for it by a name that"),
        (Authority::default().server(ADDRESS, YEARS), "UnknownIssuer", "SSL_CERT_FILE"),
    ];
    for (identity, what, advice) in troubles {
        let origin = Origin::start_tls(identity);
        origin.put(DEB, Page::new(content(1, 10_000)));
        let node = trusting(file.path(), &[origin.address()], "");
        let path = format!("/HTTPS///{}{DEB}", origin.address());
        // The second time it is remembered, and not said less clearly.
        for _ in 0..2 {
            let text = failure(request(&node.address(), "GET", &path, &node.address(), &[]), 502);
            assert!(text.contains(origin.address()) && text.contains(what) && text.contains(advice), "{text}");
        }
        assert!(origin.seen(DEB).is_empty() && node.objects().is_empty());
    }
}

#[test]
fn an_authority_that_is_added_later_is_trusted_without_a_restart() {
    let authority = Authority::default();
    let file = bundle(&[&Authority::default()]);
    let origin = Origin::start_tls(authority.server(ADDRESS, YEARS));
    let node = trusting(file.path(), &[origin.address()], "");
    origin.put(DEB, Page::new(content(1, 10_000)));
    let url = origin.url(DEB);
    failure(node.get(&url), 502);
    std::fs::write(file.path(), authority.pem()).unwrap();
    assert_eq!(node.get(&url).body, content(1, 10_000));
}

#[test]
fn without_certificates_the_node_says_so_and_serves_plain_http() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("bundle.pem");
    let authority = Authority::default();
    let (plain, secure) = (Origin::start(), Origin::start_tls(authority.server(ADDRESS, YEARS)));
    let node = trusting(&missing, &[plain.address(), secure.address()], "");
    let body = content(1, 10_000);
    plain.put(DEB, Page::new(body.clone()));
    secure.put(DEB, Page::new(body.clone()));
    assert_eq!(node.get(&plain.url(DEB)).body, body);
    // Clients are served while certificates are still being looked for.
    node.wait_for_words("no trusted CA certificates");
    let said = [node.log(), failure(node.get(&secure.url(DEB)), 502)];
    for text in &said {
        assert!(text.contains("no trusted CA certificates") && text.contains("SSL_CERT_FILE"), "{text}");
    }
    let doctor = node.command(&["doctor"]).output().unwrap();
    let text = String::from_utf8(doctor.stdout).unwrap();
    assert!(!doctor.status.success(), "{text}");
    let finding = text.split_once("FAIL  CA certificates").expect(&text).1;
    assert!(finding.contains("install the package ca-certificates"), "{text}");
    std::fs::write(&missing, authority.pem()).unwrap();
    assert_eq!(node.get(&secure.url(DEB)).body, body, "mended without a restart");
}

#[test]
fn what_a_redirect_leads_to_is_stored_under_what_was_asked_for() {
    let authority = Authority::default();
    let (first, second) = (Origin::start(), Origin::start_tls(authority.server(ADDRESS, YEARS)));
    let file = bundle(&[&authority]);
    let node = trusting(file.path(), &[first.address(), second.address()], "");
    let body = content(1, 100_000);
    second.put("/there/a_1.0_amd64.deb", Page::new(body.clone()));
    let target = second.url("/there/a_1.0_amd64.deb");
    first.put(DEB, Page::new(Vec::new()).with(Trouble::MovedTo(target.clone())));
    for _ in 0..2 {
        let answer = node.get(&first.url(DEB));
        assert!(answer.status == 200 && answer.field("location").is_none() && answer.body == body);
    }
    let asked = second.seen("/there/a_1.0_amd64.deb");
    assert_eq!(asked.len(), 2);
    assert!(asked[1].fields.contains_key("if-none-match") && asked[1].sent == 0, "{:?}", asked[1]);
    let stored = |url: &str| {
        let looked_up = node.command(&["lookup", "--json", url]).output().unwrap();
        let found: serde_json::Value = serde_json::from_slice(&looked_up.stdout).unwrap();
        !found["stored"].is_null()
    };
    assert!(stored(&first.url(DEB)) && !stored(&target));
    assert_eq!(node.get(&target).body, body);
}

#[test]
fn a_redirect_to_where_the_node_must_not_go_is_not_followed() {
    let (open, inner) = (Origin::start(), Origin::start());
    let node = Node::start(&[open.address()], "");
    inner.put(DEB, Page::new(content(1, 1000)));
    open.put(DEB, Page::new(Vec::new()).with(Trouble::MovedTo(inner.url(DEB))));
    let answer = node.get(&open.url(DEB));
    assert!(answer.status >= 400, "{}", answer.status);
    assert!(inner.seen(DEB).is_empty() && node.objects().is_empty());
}

#[test]
fn squid_as_the_parent_with_a_password() {
    let authority = Authority::default();
    let (plain, secure) = (Origin::start(), Origin::start_tls(authority.server(ADDRESS, YEARS)));
    let file = bundle(&[&authority]);
    let mut squid = Squid::start("lab", "s@cret");
    let allow = [plain.address(), secure.address()];
    let mut node = trusting(file.path(), &allow, &format!("proxy = \"http://lab:s%40cret@{}\"\n", squid.address()));
    let body = content(1, 3_000_000);
    for origin in [&plain, &secure] {
        origin.put(DEB, Page::new(body.clone()));
        for _ in 0..2 {
            assert!(node.get(&origin.url(DEB)).body == body, "{}", origin.url(DEB));
        }
        assert_eq!(origin.sent(DEB), body.len());
    }
    assert!(plain.seen(DEB)[0].fields["via"].contains("squid"), "{:?}", plain.seen(DEB)[0]);
    assert!(!plain.seen(DEB)[0].fields.contains_key("proxy-authorization"));
    assert!(!secure.seen(DEB)[0].fields["via"].contains("squid"), "nobody but the two ends reads https");
    squid.wait_for_log(&format!("GET {} lab", plain.url(DEB)));
    // The tunnel ends with the node.
    node.stop();
    squid.wait_for_log(&format!("CONNECT {} lab", secure.address()));
    node.run();
    assert!(!node.log().contains("s@cret") && !node.log().contains("s%40cret"));

    squid.stop();
    // What is stored is served, what is not is refused, and it is said who is to be looked after.
    assert!(node.get(&plain.url(DEB)).body == body);
    for url in [plain.url("/b_1_all.deb"), secure.url("/b_1_all.deb")] {
        let text = failure(node.get(&url), 502);
        assert!(text.contains(&format!("the parent proxy {}", squid.address())), "{text}");
        assert!(text.contains("refused") && text.contains("[upstream] proxy"), "{text}");
    }
    assert!(plain.seen("/b_1_all.deb").is_empty(), "never round the parent");
}

#[test]
fn squid_refuses_a_wrong_password_and_so_does_the_node() {
    let authority = Authority::default();
    let (plain, secure) = (Origin::start(), Origin::start_tls(authority.server(ADDRESS, YEARS)));
    let file = bundle(&[&authority]);
    let squid = Squid::start("lab", "secret");
    let allow = [plain.address(), secure.address()];
    for (who, wants) in [("lab:wrong@", "other"), ("", "credentials")] {
        let node = trusting(file.path(), &allow, &format!("proxy = \"http://{who}{}\"\n", squid.address()));
        for origin in [&plain, &secure] {
            let text = failure(node.get(&origin.url(DEB)), 502);
            assert!(text.contains(&format!("the parent proxy {}", squid.address())), "{text}");
            assert!(text.contains(wants) && text.contains("407") && text.contains("USER:PASSWORD"), "{text}");
        }
        assert!(node.objects().is_empty() && !node.log().contains("wrong"));
    }
    assert!(plain.seen(DEB).is_empty() && secure.seen(DEB).is_empty());
}

#[test]
fn a_parent_that_nobody_listens_for_is_named() {
    let node = Node::start(&[], &format!("proxy = \"http://{}\"\n", free_port()));
    let text = failure(node.get("http://repo.example.org/a_1_all.deb"), 502);
    assert!(text.contains("the parent proxy") && text.contains("refused"), "{text}");
}

#[test]
fn a_squid_that_dies_in_the_middle_costs_a_pause() {
    let origin = Origin::start();
    let mut squid = Squid::start("lab", "secret");
    let node = Node::start(&[origin.address()], &format!("proxy = \"http://lab:secret@{}\"\n", squid.address()));
    let body = content(1, 3_000_000);
    origin.put(DEB, Page::new(body.clone()).with(Trouble::StallAt(1_000_000)));
    let mut client = Connection::open(&node.address());
    client.send(&format!("GET {} HTTP/1.1\r\nHost: {}\r\n\r\n", origin.url(DEB), origin.address()));
    let (status, _) = client.head().unwrap();
    let mut got = client.read(900_000);
    assert_eq!((status, got.len()), (200, 900_000));
    squid.stop();
    origin.release();
    squid.run();
    got.extend(client.read(body.len() - got.len()));
    assert!(got == body, "{} bytes", got.len());
    let asked = origin.seen(DEB);
    let range = &asked.last().unwrap().fields["range"];
    let from: usize = range.trim_start_matches("bytes=").trim_end_matches('-').parse().unwrap();
    assert!(asked.len() == 2 && from >= 900_000, "taken up where it was: {range}");
}

#[test]
fn clients_tunnels_go_through_squid_with_the_nodes_password() {
    let authority = Authority::default();
    let secure = Origin::start_tls(authority.server(ADDRESS, YEARS));
    let squid = Squid::start("lab", "secret");
    let port = secure.address().rsplit_once(':').unwrap().1;
    let more = format!("proxy = \"http://lab:secret@{}\"\n[clients]\nconnect_ports = [{port}]\n", squid.address());
    let node = Node::start(&[secure.address()], &more);
    secure.put(DEB, Page::new(content(1, 100_000)));
    let mut client = Connection::open(&node.address());
    client.send(&format!("CONNECT {0} HTTP/1.1\r\nHost: {0}\r\n\r\n", secure.address()));
    assert_eq!(client.head().unwrap().0, 200);
    drop(client);
    squid.wait_for_log(&format!("CONNECT {} lab", secure.address()));
}

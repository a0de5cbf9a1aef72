//! The ways in: mirror paths, pipelining, tunnels, pages, permissions, the parent proxy.

use std::io::{Read, Write};
use std::net::TcpListener;

use imirror_tests::content;
use imirror_tests::http::{Connection, request};
use imirror_tests::node::{Node, free_port};
use imirror_tests::origin::{Origin, Page};

const DEB: &str = "/pool/a_1.0_amd64.deb";

#[test]
fn proxy_and_mirror_path_are_one_object() {
    let origin = Origin::start();
    let node = Node::start(&[origin.address()], "");
    let body = content(1, 100_000);
    origin.put(DEB, Page::new(body.clone()));
    let path = format!("/{}{DEB}", origin.address());
    assert_eq!(request(&node.address(), "GET", &path, &node.address(), &[]).body, body);
    assert_eq!(node.get(&origin.url(DEB)).body, body);
    assert_eq!(origin.sent(DEB), body.len());
}

#[test]
fn ten_pipelined_requests_are_answered_in_order_with_title_case_names() {
    let origin = Origin::start();
    let node = Node::start(&[origin.address()], "");
    let mut requests = String::new();
    for i in 0..10 {
        let path = format!("/p{i}_1.deb");
        origin.put(&path, Page::new(content(i, 50_000 + 1000 * i as usize)));
        requests.push_str(&format!("GET {} HTTP/1.1\r\nHost: {}\r\n\r\n", origin.url(&path), origin.address()));
    }
    let mut connection = Connection::open(&node.address());
    connection.send(&requests);
    for i in 0..10 {
        let answer = connection.answer(false).unwrap();
        assert_eq!((answer.status, answer.body), (200, content(i, 50_000 + 1000 * i as usize)));
        assert!(answer.fields.iter().any(|(name, value)| name == "via" && value.contains("lab1 (imirror)")));
    }
    let mut raw = std::net::TcpStream::connect(node.address()).unwrap();
    let get = format!("GET {} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", origin.url("/p0_1.deb"));
    raw.write_all(get.as_bytes()).unwrap();
    let mut bytes = Vec::new();
    raw.read_to_end(&mut bytes).unwrap();
    assert!(String::from_utf8_lossy(&bytes).contains("\r\nContent-Length: 50000\r\n"));
}

/// What is hot is answered before the request has been looked at in full: nobody can tell.
#[test]
fn a_hot_answer_is_the_same_however_it_is_asked_for() {
    let origin = Origin::start();
    let node = Node::start(&[origin.address()], "[log]\naccess = \"squid\"\n[freshness]\npackage = \"immutable\"\n");
    for (seed, length) in [(1, 1000), (2, 20_000), (3, 200_000)] {
        let path = format!("/p{length}_1.deb");
        let body = content(seed, length);
        origin.put(&path, Page::new(body.clone()).saying("X-Seen-By: nobody"));
        let target = format!("/{}{path}", origin.address());
        let ask = |connection: &mut Connection, fields: &str| {
            connection.send(&format!("GET {target} HTTP/1.1\r\nHost: {}\r\n{fields}\r\n", node.address()));
            let mut answer = connection.answer(false).expect("an answer");
            assert!(answer.status == 200 && answer.complete && answer.body == body);
            // These may change from one to the next.
            answer.fields.retain(|(name, _)| name != "date" && name != "age");
            answer.fields.sort();
            answer.fields
        };
        let mut first = Connection::open(&node.address());
        ask(&mut first, "");
        let wanted = ask(&mut first, "");
        assert!(wanted.iter().any(|(name, value)| name == "x-seen-by" && value == "nobody"), "{wanted:?}");
        let mut second = Connection::open(&node.address());
        let apk = "User-Agent: libfetch/2.0\r\n";
        let mut told = wanted.clone();
        told.push(("connection".into(), "keep-alive".into()));
        told.sort();
        for _ in 0..2 {
            assert_eq!(ask(&mut second, ""), wanted);
            assert_eq!(ask(&mut second, apk), told);
            assert_eq!(ask(&mut second, &format!("Connection: keep-alive\r\n{apk}")), wanted);
        }
        // From here on it is hyper's.
        assert_eq!(ask(&mut second, "X-Else: 1\r\n"), wanted);
        assert_eq!(ask(&mut second, apk), told);
        let mut raw = std::net::TcpStream::connect(node.address()).unwrap();
        let get = format!("GET {target} HTTP/1.1\r\nHost: {}\r\n\r\n", node.address());
        raw.write_all(get.as_bytes()).unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            raw.read_exact(&mut byte).unwrap();
            head.extend(byte);
        }
        raw.read_exact(&mut vec![0; length]).unwrap();
        let head = String::from_utf8_lossy(&head).into_owned();
        for name in ["Content-Length: ", "X-Seen-By: ", "Cache-Status: ", "Via: ", "Age: ", "Date: "] {
            assert!(head.contains(&format!("\r\n{name}")), "{name}: {head}");
        }
        let lines = || {
            let log = std::fs::read_to_string(node.dir().join("state/access.log")).unwrap_or_default();
            log.lines().filter(|line| line.contains(&path)).map(ToOwned::to_owned).collect::<Vec<_>>()
        };
        node.wait_for(|| lines().len() == 11);
        let hits = lines().iter().filter(|line| line.contains("_HIT/200 ") && line.contains(" HIER_NONE/-")).count();
        assert_eq!(hits, 10, "{:?}", lines());
    }
}

#[test]
fn connect_reaches_permitted_ports_only() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = listener.local_addr().unwrap();
    let echo = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut bytes = [0; 5];
        stream.read_exact(&mut bytes).unwrap();
        stream.write_all(&bytes).unwrap();
    });
    let more = format!("[clients]\nconnect_ports = [{}]\n", target.port());
    let node = Node::start(&[&target.to_string()], &more);
    let mut connection = Connection::open(&node.address());
    connection.send(&format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n"));
    assert_eq!(connection.head().unwrap().0, 200);
    connection.send("hello");
    assert_eq!(connection.read(5), b"hello");
    echo.join().unwrap();
    assert_eq!(request(&node.address(), "CONNECT", "127.0.0.1:22", "127.0.0.1:22", &[]).status, 403);
}

#[test]
fn pages_health_metrics_and_foreign_names() {
    let node = Node::start(&[], "");
    let address = node.address();
    let page = |path: &str, host: &str| request(&address, "GET", path, host, &[]);
    assert_eq!(page("/-/health", &address).body, b"ok\n");
    let status: serde_json::Value = serde_json::from_slice(&page("/-/api/status", &address).body).unwrap();
    assert_eq!(status["node"]["name"], "lab1");
    assert!(String::from_utf8(page("/-/metrics", &address).body).unwrap().contains("imirror_"));
    assert!(String::from_utf8(page("/-/", &address).body).unwrap().contains("href=/-/clients"));
    assert!(String::from_utf8(page("/-/clients", &address).body).unwrap().contains(&address));
    assert_eq!(page("/-/api/status", "evil.example.org").status, 400);
    assert_eq!(request(&address, "POST", "/-/api/purge?http://x/", &address, &[]).status, 404);
    // Without Host there is no telling whether the name is foreign; who speaks 1.0 has none to give.
    for (version, status) in [("1.1", 400), ("1.0", 200)] {
        let mut connection = Connection::open(&address);
        connection.send(&format!("GET /-/health HTTP/{version}\r\n\r\n"));
        assert_eq!(connection.head().unwrap().0, status);
    }
}

#[test]
fn clients_that_are_not_permitted_are_told() {
    let node = Node::start(&[], "[clients]\nallow = [\"192.0.2.0/24\"]\n");
    let answer = node.get("http://example.org/a.deb");
    let text = String::from_utf8(answer.body).unwrap();
    assert_eq!(answer.status, 403);
    assert!(text.contains("127.0.0.1") && text.contains("[clients] allow"), "{text}");
}

#[test]
fn loops_are_refused() {
    let origin = Origin::start();
    let node = Node::start(&[origin.address()], "");
    assert_eq!(node.get_with(&origin.url(DEB), &["Via: 1.1 squid, 1.1 lab1 (imirror)"]).status, 508);
    assert_eq!(node.get(&format!("http://{}/a.deb", node.address())).status, 403);
}

#[test]
fn a_parent_proxy_is_the_only_way_out() {
    let parent = Origin::start();
    let more = format!("proxy = \"http://user:secret@{}\"\n", parent.address());
    let node = Node::start(&[], &more);
    let body = content(1, 10_000);
    let path = "http://repo.example.org/a_1.deb";
    parent.put(path, Page::new(body.clone()));
    assert_eq!(node.get(path).body, body);
    assert_eq!(parent.seen(path)[0].fields["proxy-authorization"], "Basic dXNlcjpzZWNyZXQ=");
    assert!(!node.log().contains("secret"));
}

#[test]
fn redirects_are_followed_inside() {
    let origin = Origin::start();
    let elsewhere = Origin::start();
    let node = Node::start(&[origin.address(), elsewhere.address()], "");
    let body = content(1, 10_000);
    elsewhere.put("/real_1.deb", Page::new(body.clone()));
    // A redirect is a short answer with a Location.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let location = elsewhere.url("/real_1.deb");
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.read(&mut [0; 4096]);
            let answer =
                format!("HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    let node2 = Node::start(&[&address, elsewhere.address()], "");
    assert_eq!(node2.get(&format!("http://{address}/a_1.deb")).body, body);
    assert_eq!(node2.get(&format!("http://{address}/a_1.deb")).body, body);
    assert_eq!(elsewhere.sent("real_1.deb"), body.len());
    let refused = free_port();
    assert_eq!(node.get(&format!("http://{refused}/a_1.deb")).status, 403, "loopback is refused unless permitted");
}

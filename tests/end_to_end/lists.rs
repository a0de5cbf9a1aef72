//! Lists of live nodes for clients (R12), and real clients that use them.

use std::net::SocketAddr;

use imirror_tests::http::request;
use imirror_tests::netns::Lan;
use imirror_tests::node::{Node, free_port};
use imirror_tests::origin::{Origin, Page};
use imirror_tests::sha256;
use tempfile::TempDir;

use crate::clients::{apt_download, apt_get, apt_update, deb_repository, dnf_has, dnf_install, rpm_repository, run};

const TOKEN: &str = "im1or3wk3tupeqhgzldojsxiidcpf2gk4zb33e5pn72";

fn list(node: &Node, path: &str) -> String {
    let answer = node.ask("GET", path, &node.address(), &[]);
    let text = String::from_utf8(answer.body).unwrap();
    assert_eq!(answer.status, 200, "{path}: {text}");
    text
}

/// A metalink of a repository at an origin, with what its `repomd.xml` is said to be.
fn metalink(origin: &Origin, digest: &str) -> Page {
    let text = format!(
        "<?xml version=\"1.0\"?>\n<metalink version=\"3.0\" xmlns=\"http://www.metalinker.org/\"><files>\
         <file name=\"repomd.xml\"><verification><hash type=\"sha256\">{digest}</hash></verification><resources>\
         <url protocol=\"http\" type=\"http\" preference=\"100\">{}</url></resources></file></files></metalink>",
        origin.url("/repodata/repomd.xml")
    );
    Page::new(text.into_bytes())
}

#[test]
fn lists_for_each_kind_of_client() {
    let origin = Origin::start();
    let (base, upstream) = (origin.url("/pub/lab"), origin.address());
    let node = Node::start(&[upstream], &format!("[repos.lab]\nupstreams = [\"{base}\"]\n"));
    let own = node.address();
    assert_eq!(list(&node, "/-/mirrorlist/lab/41"), format!("http://{own}/lab/41\n"));
    assert_eq!(
        list(&node, "/-/mirrorlist/HTTPS///example.org/x?countme=1"),
        format!("http://{own}/HTTPS///example.org/x\n")
    );
    let expected = format!("http://{own}/lab\tpriority:1\n{base}\tpriority:2\n");
    assert_eq!(list(&node, "/-/mirrors/lab.txt"), expected);
    assert!(list(&node, "/-/proxy.pac").contains(&format!("return \"PROXY {own}; DIRECT\";")));
    let text = list(&node, "/-/metalink/lab/41");
    let urls: Vec<&str> =
        text.lines().filter_map(|line| line.trim().strip_prefix("<url ")?.split(['>', '<']).nth(1)).collect();
    assert_eq!(urls, [format!("http://{own}/lab/41/repodata/repomd.xml"), format!("{base}/41/repodata/repomd.xml")]);

    let ask = |method: &str, path: &str, host: &str| request(&own, method, path, host, &[]);
    let pac = ask("HEAD", "/-/proxy.pac", &own);
    assert_eq!((pac.status, pac.field("content-type")), (200, Some("application/x-ns-proxy-autoconfig")));
    for (method, path, host, status) in [
        ("POST", "/-/mirrorlist/lab", own.as_str(), 405),
        ("GET", "/-/mirrorlist/", &own, 400),
        ("GET", "/-/mirrorlist/nothing", &own, 400),
        ("GET", "/-/mirrorlist/-/status", &own, 400),
        ("GET", "/-/mirrors/lab", &own, 404),
        ("GET", "/-/mirrorlist/lab", "evil.example.org", 400),
    ] {
        assert_eq!(ask(method, path, host).status, status, "{method} {path} for {host}");
    }
    // By the name by which the client knows it.
    let port = own.rsplit(':').next().unwrap();
    let named = ask("GET", "/-/mirrorlist/lab", &format!("localhost:{port}"));
    assert_eq!(String::from_utf8(named.body).unwrap(), format!("http://localhost:{port}/lab\n"));
}

#[test]
fn dnf_by_mirrorlist_and_metalink() {
    let tree = TempDir::new().unwrap();
    let package = std::fs::read(rpm_repository(tree.path())).unwrap();
    let origin = Origin::start();
    origin.put_tree(&tree.path().join("repo"));
    let root = sha256(&std::fs::read(tree.path().join("repo/repodata/repomd.xml")).unwrap());
    origin.put("/right", metalink(&origin, &root));
    origin.put("/wrong", metalink(&origin, &sha256(b"another")));
    let more =
        ["right", "wrong"].map(|name| format!("[repos.{name}]\nmetalink = \"{}\"\n", origin.url(&format!("/{name}"))));
    let node = Node::start(&[origin.address()], &more.concat());
    let lists = format!("http://{}/-", node.address());
    for line in [format!("mirrorlist={lists}/mirrorlist/right"), format!("metalink={lists}/metalink/right")] {
        let folder = TempDir::new().unwrap();
        run(&mut dnf_install(&line, folder.path()));
        assert!(dnf_has(folder.path()) == package, "{line}");
    }
    assert_eq!(origin.sent(".rpm"), package.len(), "from the node, not from upstream");
    // What upstream says of the root is kept: the client finds out by itself what is not it.
    let folder = TempDir::new().unwrap();
    let refused = dnf_install(&format!("metalink={lists}/metalink/wrong"), folder.path()).output().unwrap();
    assert!(!refused.status.success(), "{refused:?}");
    // Without the node, upstream is the next on its list.
    let text = list(&node, "/-/metalink/right");
    let saved = tree.path().join("saved.xml");
    std::fs::write(&saved, text).unwrap();
    drop(node);
    let folder = TempDir::new().unwrap();
    run(&mut dnf_install(&format!("metalink=file://{}", saved.display()), folder.path()));
    assert!(dnf_has(folder.path()) == package);
    assert_eq!(origin.sent(".rpm"), 2 * package.len());
}

#[test]
fn digests_are_as_fresh_as_what_they_are_for() {
    let origin = Origin::start();
    let digest = |of: &str| sha256(of.as_bytes());
    origin.put("/list", metalink(&origin, &digest("old")));
    let node = Node::start(&[origin.address()], &format!("[repos.lab]\nmetalink = \"{}\"\n", origin.url("/list")));
    assert!(list(&node, "/-/metalink/lab").contains(&digest("old")));
    // Only of the repository that it is the metalink of.
    assert!(!list(&node, "/-/metalink/lab/below").contains("<hash"));
    origin.put("/list", metalink(&origin, &digest("new")));
    node.signal("-HUP");
    node.wait_for(|| list(&node, "/-/metalink/lab").contains(&digest("new")));
}

#[test]
fn apt_by_a_list_of_mirrors() {
    let tree = TempDir::new().unwrap();
    let package = std::fs::read(deb_repository(tree.path())).unwrap();
    let origin = Origin::start();
    origin.put_tree(&tree.path().join("repo"));
    // When apt fails to connect to an address it takes no port there for any good.
    let address = SocketAddr::from(([127, 0, 0, 2], free_port().port()));
    let node = Node::start_at(address, &[origin.address()], "");
    let base = format!("mirror+http://{}/-/mirrors/{}.txt", node.address(), origin.address());
    for _ in 0..2 {
        let folder = TempDir::new().unwrap();
        assert!(apt_get(&base, "DIRECT", folder.path()) == package);
    }
    assert_eq!(origin.sent(".deb"), package.len(), "from the node, not from upstream");
    // Without the node, upstream is the next on its list.
    let saved = tree.path().join("saved.txt");
    std::fs::write(&saved, list(&node, &format!("/-/mirrors/{}.txt", origin.address()))).unwrap();
    let folder = TempDir::new().unwrap();
    apt_update(&format!("mirror+file:{}", saved.display()), "DIRECT", folder.path());
    drop(node);
    assert!(apt_download("DIRECT", folder.path()) == package);
    assert_eq!(origin.sent(".deb"), 2 * package.len());
}

#[test]
fn nodes_come_and_go_from_the_lists() {
    let lan = Lan::new(3);
    let mut nodes: Vec<Node> = ["lab1", "lab2"]
        .iter()
        .enumerate()
        .map(|(i, name)| Node::on(lan.host(i), name, "").with_variable("IMIRROR_SITE_TOKEN", TOKEN))
        .collect();
    nodes.iter_mut().for_each(Node::run);
    let address = |i: usize| SocketAddr::new(lan.host(i).address(), 3142);
    let listed = |i: usize| {
        let mut lines: Vec<String> = list(&nodes[i], "/-/mirrorlist/example.org").lines().map(String::from).collect();
        lines.sort();
        lines
    };
    let line = |i: usize| format!("http://{}/example.org", address(i));
    for i in [0, 1] {
        nodes[i].wait_for(|| listed(i) == [line(0), line(1)]);
    }
    // One that comes by IPv6 is told how it has come, and the others' other addresses.
    let url = "http://[fd77::1]:3142/-/mirrorlist/example.org";
    let by_ipv6 = lan.run_in(2, "curl").args(["-sSf", url]).output().unwrap();
    let by_ipv6 = String::from_utf8(by_ipv6.stdout).unwrap();
    assert!(by_ipv6.contains("http://[fd77::1]:3142/example.org\n") && by_ipv6.lines().count() == 2, "{by_ipv6}");

    let kill = |node: &Node| node.signal("-KILL");
    kill(&nodes[1]);
    nodes[0].wait_for(|| listed(0) == [line(0)]);
}

//! The store under kills and damage: nothing corrupt ever reaches a client (R26).

use imirror_tests::content;
use imirror_tests::http::Connection;
use imirror_tests::node::{Node, flip_byte};
use imirror_tests::origin::{Origin, Page};

fn pair() -> (Origin, Node) {
    let origin = Origin::start();
    let node = Node::start(&[origin.address()], "");
    (origin, node)
}

#[test]
fn damage_under_a_stopped_or_running_node_is_healed() {
    let (origin, mut node) = pair();
    let (small, large) = (content(1, 20_000), content(2, 2_000_000));
    let paths = ["/a_1.deb", "/b_1.deb"];
    origin.put(paths[0], Page::new(small.clone()));
    origin.put(paths[1], Page::new(large.clone()));
    let check = |node: &Node| {
        for (path, body) in paths.iter().zip([&small, &large]) {
            let answer = node.get(&origin.url(path));
            assert!(answer.complete && answer.body == *body, "{path}: {} bytes", answer.body.len());
        }
    };
    type Damage = fn(&std::path::Path);
    let damages: [Damage; 3] = [
        |path| flip_byte(path, 10_000),
        |path| std::fs::OpenOptions::new().write(true).open(path).unwrap().set_len(5000).unwrap(),
        |path| std::fs::remove_file(path).unwrap(),
    ];
    check(&node);
    for damage in damages {
        node.stop();
        assert_eq!(node.objects().len(), 2, "both are stored again");
        node.objects().iter().for_each(|path| damage(path));
        node.run();
        check(&node);
    }
    // From the store, no download is about to replace a file.
    node.stop();
    node.run();
    check(&node);
    node.objects().iter().for_each(|path| flip_byte(path, 10_000));
    let verified = node.command(&["verify", "--json"]).output().unwrap();
    let report: serde_json::Value = serde_json::from_slice(&verified.stdout).unwrap();
    assert_eq!((report["dropped"].as_u64(), verified.status.code()), (Some(2), Some(4)), "{report}");
    check(&node);
}

#[test]
fn a_lost_index_is_rebuilt_from_the_folder() {
    let (origin, mut node) = pair();
    for i in 0..20 {
        origin.put(&format!("/p{i}_1.deb"), Page::new(content(i, 10_000)));
        assert_eq!(node.get(&origin.url(&format!("/p{i}_1.deb"))).status, 200);
    }
    node.stop();
    std::fs::write(node.dir().join("cache/index.redb"), content(9, 100_000)).unwrap();
    node.run();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    loop {
        let status = node.command(&["status", "--json"]).output().unwrap();
        let status: serde_json::Value = serde_json::from_slice(&status.stdout).unwrap();
        if status["cache"]["objects"] == 20 {
            break;
        }
        assert!(std::time::Instant::now() < deadline, "{status}");
    }
    for i in 0..20 {
        assert_eq!(node.get(&origin.url(&format!("/p{i}_1.deb"))).body, content(i, 10_000));
    }
    assert_eq!(origin.sent(".deb"), 20 * 10_000);
}

#[test]
fn fifty_kills_at_random_points_leave_nothing_corrupt() {
    let (origin, mut node) = pair();
    let bodies: Vec<Vec<u8>> = (0..10).map(|i| content(100 + i, 200_000 + 300_000 * i as usize)).collect();
    for (i, body) in bodies.iter().enumerate() {
        origin.put(&format!("/p{i}_1.deb"), Page::new(body.clone()));
    }
    let mut random = content(7, 1000).into_iter();
    let mut next = move |below: usize| {
        let bytes = [random.next().unwrap(), random.next().unwrap()];
        usize::from(u16::from_le_bytes(bytes)) % below
    };
    for _ in 0..50 {
        let mut connections = Vec::new();
        for _ in 0..3 {
            let i = next(10);
            let url = origin.url(&format!("/p{i}_1.deb"));
            let mut connection = Connection::open(&node.address());
            connection.send(&format!("GET {url} HTTP/1.1\r\nHost: {}\r\n\r\n", origin.address()));
            connections.push((i, connection));
        }
        // The kill comes when some client has read so much of its answer.
        let (i, connection) = &mut connections[0];
        let (status, _) = connection.head().unwrap();
        let part = connection.read(next(bodies[*i].len()));
        assert!(status == 200 && part == bodies[*i][..part.len()]);
        node.kill();
        node.run();
    }
    for (i, body) in bodies.iter().enumerate() {
        let answer = node.get(&origin.url(&format!("/p{i}_1.deb")));
        assert!(answer.complete && answer.body == *body, "object {i}");
    }
    let verified = node.command(&["verify", "--json"]).output().unwrap();
    let report: serde_json::Value = serde_json::from_slice(&verified.stdout).unwrap();
    assert_eq!(report["dropped"], 0, "{report}");
}

#[test]
fn the_limit_is_kept() {
    let origin = Origin::start();
    let node = Node::start(&[origin.address()], "");
    let config = node.dir().join("imirror.toml");
    let text = std::fs::read_to_string(&config).unwrap().replace("1GiB", "5MB");
    std::fs::write(&config, text).unwrap();
    let mut node = node;
    node.stop();
    node.run();
    for i in 0..20 {
        let body = content(i, 1_000_000);
        origin.put(&format!("/p{i}_1.deb"), Page::new(body.clone()));
        assert_eq!(node.get(&origin.url(&format!("/p{i}_1.deb"))).body, body);
    }
    node.stop();
    let stored: u64 = node.objects().iter().map(|path| path.metadata().unwrap().len()).sum();
    assert!((2_000_000..=5_000_000).contains(&stored), "{stored}");
}

#[test]
fn two_nodes_never_share_a_folder_and_wrong_settings_are_named() {
    let (_origin, node) = pair();
    let second = node.command(&["run"]).env("IMIRROR_LISTEN", "127.0.0.1:0").output().unwrap();
    let text = String::from_utf8(second.stderr).unwrap();
    assert!(!second.status.success() && text.contains("another imirror uses the cache folder"), "{text}");
    let taken = node.command(&["run"]).output().unwrap();
    let text = String::from_utf8(taken.stderr).unwrap();
    assert!(!taken.status.success() && text.contains("cannot listen on"), "{text}");
    let config = node.dir().join("wrong.toml");
    std::fs::write(&config, "name = \"a\"\nlisten_on = 1\n").unwrap();
    let wrong = std::process::Command::new(imirror_tests::node::program())
        .args(["config", "check", "--config"])
        .arg(&config)
        .output()
        .unwrap();
    let text = String::from_utf8(wrong.stderr).unwrap();
    assert_eq!(wrong.status.code(), Some(2), "{text}");
    assert!(text.contains("wrong.toml:2: unknown key `listen_on`"), "{text}");
}

//! Starting, stopping and being watched: what an operator and a service manager see.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::time::Duration;

use imirror_tests::content;
use imirror_tests::http::Connection;
use imirror_tests::namespace::Namespace;
use imirror_tests::node::{Node, free_port};
use imirror_tests::origin::{Origin, Page, Trouble};

/// A download in progress: some of it has come.
fn begin(node: &Node, origin: &Origin, path: &str, at_first: usize) -> (Connection, Vec<u8>, usize) {
    let mut connection = Connection::open(&node.address());
    connection.send(&format!("GET {} HTTP/1.1\r\nHost: {}\r\n\r\n", origin.url(path), origin.address()));
    let (status, fields) = connection.head().unwrap();
    let length = fields.iter().find(|(name, _)| name == "content-length").unwrap().1.parse().unwrap();
    let part = connection.read(at_first);
    assert_eq!((status, part.len()), (200, at_first));
    (connection, part, length)
}

#[test]
fn a_stop_lets_clients_finish() {
    let origin = Origin::start();
    let mut node = Node::start(&[origin.address()], "");
    let (hit, miss) = (content(1, 30_000_000), content(2, 3_000_000));
    origin.put("/hit_1.deb", Page::new(hit.clone()));
    assert_eq!(node.get(&origin.url("/hit_1.deb")).body, hit);
    origin.put("/miss_1.deb", Page::new(miss.clone()).with(Trouble::StallAt(1_000_000)));
    // One reads slowly what is stored, one waits for upstream.
    let mut downloads = [(begin(&node, &origin, "/hit_1.deb", 1000), &hit)];
    let mut others = [(begin(&node, &origin, "/miss_1.deb", 500_000), &miss)];
    node.signal("-TERM");
    node.wait_for_words("stopping");
    origin.release();
    for ((connection, part, length), body) in downloads.iter_mut().chain(&mut others) {
        part.extend(connection.read(*length - part.len()));
        assert!(part == *body, "{} of {length}", part.len());
    }
    assert_eq!(node.ended(), Some(0), "{}", node.log());
    node.run();
    assert_eq!(node.get(&origin.url("/miss_1.deb")).body, miss);
    assert_eq!(origin.sent("_1.deb"), hit.len() + miss.len(), "both were stored");
}

/// The answer that is on its way is finished, and the connection is closed before the next, not in the middle of one.
#[test]
fn a_stop_ends_a_row_of_answers_between_two() {
    const ROW: usize = 100;
    let origin = Origin::start();
    let mut node = Node::start(&[origin.address()], "[freshness]\npackage = \"immutable\"\n");
    let body = content(1, 200_000);
    origin.put("/p_1.deb", Page::new(body.clone()));
    let get = format!("GET {} HTTP/1.1\r\nHost: {}\r\n\r\n", origin.url("/p_1.deb"), origin.address());
    let mut warm = Connection::open(&node.address());
    for _ in 0..2 {
        warm.send(&get);
        assert_eq!(warm.answer(false).expect("an answer").body, body);
    }
    let mut idle = Connection::open(&node.address());
    idle.send(&get);
    assert_eq!(idle.answer(false).expect("an answer").body, body);
    let mut row = Connection::open(&node.address());
    row.send(&get.repeat(ROW));
    assert_eq!(row.head().expect("an answer").0, 200);
    node.signal("-TERM");
    node.wait_for_words("stopping");
    assert!(idle.answer(false).is_none(), "it is closed, and nothing more is said");
    assert!(row.read(body.len()) == body);
    let mut answers = 1;
    while let Some(answer) = row.answer(false) {
        assert!(answer.complete && answer.body == body);
        answers += 1;
    }
    assert!(answers <= ROW);
    assert_eq!(node.ended(), Some(0), "{}", node.log());
}

#[test]
fn a_stop_answers_who_has_just_connected() {
    let mut node = Node::start(&[], "");
    let mut early = Connection::open(&node.address());
    // Whom it answers has come after that one.
    assert_eq!(node.ask("GET", "/-/health", &node.address(), &[]).status, 200);
    node.signal("-TERM");
    node.wait_for_words("stopping");
    early.send("GET /-/health HTTP/1.1\r\nHost: lab1\r\n\r\n");
    assert_eq!(early.answer(false).expect("an answer").status, 200);
    assert_eq!(node.ended(), Some(0), "{}", node.log());
}

#[test]
fn a_second_signal_stops_at_once_and_nothing_is_lost() {
    let origin = Origin::start();
    let mut node = Node::start(&[origin.address()], "");
    let body = content(3, 3_000_000);
    origin.put("/p_1.deb", Page::new(body.clone()).with(Trouble::StallAt(2_000_000)));
    let (mut connection, part, length) = begin(&node, &origin, "/p_1.deb", 1_500_000);
    node.signal("-TERM");
    node.wait_for_words("stopping");
    node.signal("-TERM");
    let rest = connection.read(length - part.len());
    assert!(part.len() + rest.len() < length, "cut, and seen to be");
    assert_eq!(node.ended(), Some(0), "{}", node.log());
    origin.put("/p_1.deb", Page::new(body.clone()));
    node.run();
    assert_eq!(node.get(&origin.url("/p_1.deb")).body, body);
    let ranges: Vec<_> = origin.seen("/p_1.deb").iter().map(|seen| seen.fields.get("range").cloned()).collect();
    assert_eq!(ranges, [None, Some("bytes=2000000-".into())], "{}", node.log());
}

#[test]
fn the_service_manager_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let next = || {
        let mut message = [0; 4096];
        let len = socket.recv(&mut message).expect("a message in time");
        String::from_utf8(message[..len].to_vec()).unwrap()
    };
    let mut node = Node::new(free_port(), &[], "")
        .with_variable("NOTIFY_SOCKET", path.to_str().unwrap())
        .with_variable("WATCHDOG_USEC", "50000");
    node.run();
    assert_eq!(next().trim(), "READY=1");
    let mut alive = 0;
    let mut line = None;
    while alive < 5 || line.is_none() {
        match next().trim() {
            "WATCHDOG=1" => alive += 1,
            other => line = other.strip_prefix("STATUS=").map(ToOwned::to_owned).or_else(|| panic!("{other}")),
        }
    }
    assert_eq!(line.unwrap(), "0 objects, 0.0 of 1.0 GiB; 0 downloads");
    node.signal("-TERM");
    let stopping = std::iter::repeat_with(next).find(|message| !message.starts_with("WATCHDOG=1")).unwrap();
    assert!(stopping.lines().any(|line| line == "STOPPING=1"), "{stopping}");
    assert_eq!(node.ended(), Some(0));
}

#[test]
fn the_control_socket_is_for_its_user_alone() {
    for umask in ["000", "022", "277"] {
        let mut node = Node::new(free_port(), &[], "").under(&["sh", "-c", "umask $0; exec \"$@\"", umask]);
        node.run();
        let mode = std::fs::metadata(node.dir().join("state/control.sock")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "umask {umask}");
        assert_eq!(node.status()["node"]["name"], "lab1");
    }
}

/// What a node that cannot start says, and its exit code.
fn refused(node: &Node) -> (String, Option<i32>) {
    let ran = node.command(&["run"]).output().unwrap();
    (String::from_utf8(ran.stderr).unwrap(), ran.status.code())
}

#[test]
fn a_node_that_cannot_start_says_why_and_what_to_do() {
    let fresh = || Node::new(free_port(), &[], "");
    let expect = |node: &Node, words: &[&str], code| {
        let (text, ended) = refused(node);
        assert!(ended == Some(code) && words.iter().all(|word| text.contains(word)), "{words:?} {ended:?}: {text}");
    };

    let node = fresh();
    std::fs::write(node.dir().join("cache"), "").unwrap();
    expect(&node, &["/cache", "not a folder", "`cache_dir`"], 1);

    let node = fresh();
    std::fs::write(node.dir().join("state"), "").unwrap();
    expect(&node, &["imirror.toml:3", "/state/token", "Not a directory"], 2);

    // Root without its privileges is an ordinary user.
    let node = fresh().under(&["setpriv", "--bounding-set=-all", "--inh-caps=-all"]);
    let cache = node.dir().join("cache");
    std::fs::create_dir(&cache).unwrap();
    std::fs::set_permissions(&cache, std::fs::Permissions::from_mode(0o500)).unwrap();
    expect(&node, &["/cache", "Permission denied", "give it to the user that runs imirror", "`cache_dir`"], 1);

    let node = fresh();
    let cache = node.dir().join("cache");
    let namespace = Namespace::new();
    namespace.mount_memory(&cache, "ro");
    expect(&node.inside(namespace), &["/cache", "read-only", "`cache_dir`"], 1);

    let node = fresh();
    let taken = std::net::TcpListener::bind(node.address()).unwrap();
    expect(&node, &[&node.address(), "another imirror or apt-cacher-ng", "`listen` or IMIRROR_LISTEN"], 1);
    drop(taken);

    let node = fresh().with_variable("IMIRROR_SOCKET", "/proc/nowhere/control.sock");
    expect(&node, &["/proc/nowhere", "--socket or IMIRROR_SOCKET"], 1);

    let node = fresh();
    let config = node.dir().join("imirror.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    for (wrong, words) in [
        ("cache_size = \"lots\"", "imirror.toml:5: `cache_size`"),
        ("cache_sise = \"1GiB\"", "imirror.toml:5: unknown key `cache_sise`"),
    ] {
        std::fs::write(&config, text.replace("cache_size = \"1GiB\"", wrong)).unwrap();
        expect(&node, &[words], 2);
    }
    let without =
        Command::new(imirror_tests::node::program()).args(["run", "--config", "/nowhere.toml"]).output().unwrap();
    assert_eq!(without.status.code(), Some(2), "{without:?}");
}

//! The node's memory does not grow with what goes through it.

use imirror_tests::content;
use imirror_tests::http::Connection;
use imirror_tests::node::Node;
use imirror_tests::origin::{Origin, Page};

/// Most anonymous memory of a node that one client uses, whatever it fetches.
const MEMORY_MAX_MIB: u64 = 48;

/// No multiple of anything that the node reckons in.
const PIECE: usize = 1_000_003;

#[test]
fn memory_is_flat_whatever_the_length_of_an_object() {
    const PIECES: usize = 500;
    let origin = Origin::start();
    let mut node = Node::start(&[origin.address()], "");
    let piece = content(1, PIECE);
    origin.put("/image_1.deb", Page::new(piece.clone()).times(PIECES));

    // Upstream is faster than the client: all of it comes before the first byte is read.
    let mut client = ask(&node, &origin.url("/image_1.deb"));
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while origin.sent("/image_1.deb") < PIECES * PIECE {
        assert_flat(&node);
        assert!(std::time::Instant::now() < deadline, "the download waits for the client");
        std::thread::yield_now();
    }
    let read = |node: &Node, client: &mut Connection| {
        for i in 0..PIECES {
            assert!(client.read(PIECE) == piece, "piece {i}");
            assert_flat(node);
        }
        assert!(client.read(1).is_empty(), "the end");
    };
    read(&node, &mut client);
    // A hit of what has just come, and one of what has to be checked first.
    read(&node, &mut ask(&node, &origin.url("/image_1.deb")));
    node.stop();
    node.run();
    read(&node, &mut ask(&node, &origin.url("/image_1.deb")));
    assert_eq!(origin.sent("/image_1.deb"), PIECES * PIECE);
}

fn ask(node: &Node, url: &str) -> Connection {
    let host = url.split('/').nth(2).unwrap();
    let mut client = Connection::open(&node.address());
    client.send(&format!("GET {url} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"));
    assert_eq!(client.head().unwrap().0, 200);
    client
}

fn assert_flat(node: &Node) {
    let anonymous = node.memory("RssAnon");
    assert!(anonymous < MEMORY_MAX_MIB, "{anonymous} MiB");
}

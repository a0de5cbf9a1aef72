//! `imirror top` as a person has it: in a terminal, beside a node that comes and goes.

use imirror_tests::content;
use imirror_tests::node::{Node, free_port};
use imirror_tests::origin::{Origin, Page};
use imirror_tests::terminal::Terminal;

#[test]
fn it_is_live_and_leaves_the_terminal_as_it_was() {
    let origin = Origin::start();
    let mut node = Node::start(&[origin.address()], "");
    let mut top = Terminal::start(&node.command(&["top"]), 80, 24);
    top.wait_for("live");
    assert!(top.is_raw());
    for words in ["lab1", "Saved today", "Traffic by source, the last hour", "[Nodes 1]", "alive", "q quit"] {
        top.wait_for(words);
    }
    // What happens at the node is seen without a key.
    origin.put("/pool/vlc_3.0.21_amd64.deb", Page::new(content(1, 3_000_000)));
    for _ in 0..4 {
        assert_eq!(node.get(&origin.url("/pool/vlc_3.0.21_amd64.deb")).body.len(), 3_000_000);
    }
    top.wait_for("75 % of 4 requests");
    top.wait_for("Popular 1");
    top.press("\t\t");
    top.wait_for("[Popular 1]");
    top.wait_for("vlc");
    top.press("t");
    top.wait_for("the last two days");
    top.resize(132, 50);
    top.wait_for("[Popular 1]");
    top.resize(30, 8);
    top.wait_for("too small");
    top.resize(80, 24);
    top.wait_for("[Popular 1]");
    // It stays when the node goes, and goes on when it comes.
    node.stop();
    top.wait_for("NO ANSWER");
    top.wait_for("no node is running here");
    // What was known stays.
    top.wait_for("vlc");
    node.run();
    top.wait_for("live");
    // Into the background and back.
    top.press("\u{1a}");
    node.wait_for(|| !top.is_raw());
    top.signal("-CONT");
    node.wait_for(|| top.is_raw());
    top.press("1");
    top.wait_for("[Nodes 1]");
    top.press("q");
    assert_eq!(top.ended(), Some(0));
    assert!(top.sent().contains("38;5;"), "it has colours");
}

#[test]
fn a_signal_ends_it_and_leaves_the_terminal_as_it_was() {
    let node = Node::start(&[], "");
    for (signal, code) in [("-TERM", 143), ("-HUP", 129), ("-INT", 130)] {
        let mut top = Terminal::start(&node.command(&["top"]), 80, 24);
        top.wait_for("live");
        top.signal(signal);
        assert_eq!(top.ended(), Some(code), "{signal}");
    }
}

#[test]
fn it_waits_for_a_node_and_has_no_colours_where_none_are_wanted() {
    let mut node = Node::new(free_port(), &[], "").with_variable("NO_COLOR", "1").with_variable("LC_ALL", "C");
    let mut top = Terminal::start(&node.command(&["top"]), 80, 24);
    top.wait_for("NO ANSWER");
    node.run();
    top.wait_for("[Nodes 1]");
    // Ctrl-C is a key here.
    top.press("\u{3}");
    assert_eq!(top.ended(), Some(0));
    assert!(!top.sent().contains("38;5;") && !top.sent().contains("48;5;"), "{:?}", top.sent());
}

#[test]
fn it_says_why_it_draws_into_no_file() {
    let node = Node::new(free_port(), &[], "");
    let ran = node.command(&["top"]).output().unwrap();
    let text = String::from_utf8(ran.stderr).unwrap();
    assert!(ran.status.code() == Some(2) && ran.stdout.is_empty(), "{text}");
    assert!(text.contains("standard output is none") && text.contains("imirror status"), "{text}");
}

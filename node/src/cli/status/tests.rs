use super::*;
use crate::ledger::status::Helper;

const NOW: Timestamp = Timestamp(1_793_526_185_007 + 93_784_000);

/// The lines fit an ordinary terminal.
fn shown(status: &Status, health: &Health) -> String {
    let text = screen(status, health, NOW, 80);
    for line in text.lines() {
        assert!(line.chars().count() <= 80, "{line}");
    }
    text
}

#[test]
fn a_node_alone() {
    let mut status = Status::example();
    status.history.today.hits = 90;
    status.history.today.misses = 10;
    insta::assert_snapshot!(shown(&status, &Health::default()));
}

#[test]
fn a_new_node() {
    let mut status = Status::example();
    status.traffic = Default::default();
    status.cache = Default::default();
    status.history = Default::default();
    status.flights.clear();
    status.popular.clear();
    status.repos.clear();
    insta::assert_snapshot!(shown(&status, &Health::default()));
}

/// Everything at once, and more of it than there is room for.
fn busy() -> (Status, Health) {
    let mut status = Status::example();
    for i in 2..=9 {
        let mut node = status.site.nodes[0].clone();
        node.name = format!("machine-in-room-{i}");
        node.address = format!("[2001:db8::{i}]:3142");
        node.state = if i == 3 { "suspect".into() } else { "alive".into() };
        status.site.nodes.push(node);
    }
    status.flights[0].source = "SIBLING_HIT/lab2".into();
    status.flights = vec![status.flights[0].clone(); 12];
    status.flights[1].total = None;
    status.flights[1].readers = 1;
    status.popular = vec![status.popular[0].clone(); 12];
    status.repos.push(Repo {
        metalink: Some("https://mirrors.example.org/metalink?repo=epel-9".into()),
        ..status.repos[0].clone()
    });
    status.repos.push(Repo {
        name: "http://example.org/debian/".into(),
        upstreams: vec![],
        metalink: None,
        roots: vec![],
    });
    status.repos = [&status.repos[..], &status.repos[..]].concat();
    let at = Timestamp(NOW.0 - 300_000);
    let what = "http://example.org/pool/a_1_all.deb".into();
    status.errors =
        vec![Failure { at, what, why: "example.org: no route to host, and a long story about it".into(), times: 3 }; 5];
    status.helper = Helper {
        enabled: true,
        doing: "fetching".into(),
        wanted: 12,
        present: 7,
        seconds_left: Some(25),
        ..Helper::default()
    };
    let health = Health {
        degraded: vec!["the cache folder is read-only".into()],
        unreachable: vec!["example.net: example.net refused the connection".into(); 3],
    };
    (status, health)
}

#[test]
fn a_busy_site_in_trouble() {
    let (status, health) = busy();
    let text = shown(&status, &health);
    assert!(text.lines().count() <= 40, "{}", text.lines().count());
    insta::assert_snapshot!(text);
}

#[test]
fn what_is_no_terminal_gets_whole_lines() {
    let (status, health) = busy();
    let text = screen(&status, &health, NOW, usize::MAX);
    assert!(text.contains("and a long story about it\n") && !text.contains("..\n"), "{text}");
}

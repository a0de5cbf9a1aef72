use super::markup::ROWS_MAX;
use super::*;
use crate::ledger::history::{History, Span};
use crate::ledger::status::{Failure, Popular, Repo};

const NOW: Timestamp = Timestamp(1_793_526_185_007 + 7_200_000);

fn shown(status: &Status, health: &Health) -> Markup {
    let hours = [(NOW, Sums { bytes_from_disk: 5 << 20, requests: 1234, ..Sums::default() })];
    overview(&View { status, health, hours: &hours, now: NOW })
}

#[test]
fn the_page_shows_what_there_is() {
    let health = Health { degraded: vec!["disk <full>".into()], unreachable: vec!["example.net: refused".into()] };
    let mut status = Status::example();
    status.errors.push(Failure { at: NOW, what: "http://example.org/a.rpm".into(), why: "no route".into(), times: 3 });
    status.popular.push(Popular { name: "vlc".into(), demand: 4.5, copies: 2 });
    status.repos[0].roots[0].made = Some(NOW.unix_seconds() - 5 * 3600);
    let page = shown(&status, &health);
    for text in [
        "<h1>lab1</h1>",
        "up <span id=up>2 h</span>",
        "<dt>Saved today</dt><dd>2.0 GiB</dd><dd class=note>about 20 min of the uplink</dd>",
        "<dt>Saved in total</dt><dd>60.0 GiB</dd><dd class=note>that did not cross the uplink</dd>",
        "4,711 objects of 50.0 GiB",
        "kernel-core-7.0.rpm<small>http://example.org/fedora/</small>",
        "20.0 MiB of 80.0 MiB</td>",
        "lab1 <small>this node</small>",
        "5 h</td>",
        "60,000</td>",
        "fedora<small>http://192.0.2.1:3142/fedora/</small>",
        "disk &lt;full&gt;",
        "example.net</th>",
        "a.rpm<small>http://example.org/</small>",
        "vlc</th>",
        "1,234</td>",
    ] {
        assert!(page.contains(text), "{text} is not in\n{page}");
    }
    assert!(page.contains("<section id=helper aria-labelledby=helper-heading hidden>"), "there is nothing to show");
    assert!(!page.contains("Stored in the site"), "it is alone");
}

#[test]
fn the_sums_of_the_site_are_shown_on_every_node() {
    let mut status = Status::example();
    let mut other = status.site.nodes[0].clone();
    (other.id, other.name, other.objects, other.bytes) = ("x".into(), "lab2".into(), 289, 4 << 30);
    status.site.nodes.push(other);
    let page = shown(&status, &Health::default());
    assert!(page.contains("<dt>Stored in the site</dt><dd>16.0 GiB</dd><dd class=note>5,000 objects on 2 nodes</dd>"));
    assert!(page.contains("<a href=\"http://192.0.2.1:3142/-/\">lab2</a>"), "{page}");
}

#[test]
fn nothing_that_came_from_outside_is_markup_and_nothing_is_loaded_from_elsewhere() {
    let evil = "\"><script>alert('&')</script>";
    let mut status = Status::example();
    let pages = {
        status.node.name = evil.into();
        status.node.version = evil.into();
        status.node.address = evil.into();
        status.flights[0].url = format!("http://example.org/{evil}");
        status.flights[0].source = evil.into();
        status.flights = vec![status.flights[0].clone(); ROWS_MAX + 7];
        let mut other = status.site.nodes[0].clone();
        (other.id, other.name, other.address, other.state) = ("x".into(), evil.into(), evil.into(), evil.into());
        status.site.nodes.push(other);
        status.popular.push(Popular { name: evil.into(), demand: 1.0, copies: 1 });
        (status.repos[0].name, status.repos[0].metalink) = (evil.into(), Some(evil.into()));
        status.repos.push(Repo {
            name: format!("http://example.org/{evil}"),
            upstreams: vec![evil.into()],
            ..status.repos[0].clone()
        });
        status.repos[1].metalink = None;
        status.errors.push(Failure { at: NOW, what: evil.into(), why: evil.into(), times: 1 });
        let health = Health { degraded: vec![evil.into()], unreachable: vec![evil.into(), format!("x: {evil}")] };
        [shown(&status, &health), clients(&status, evil)]
    };
    for page in pages {
        assert!(!page.contains("<script>") && !page.contains("'&'"), "{page}");
        for source in page.split(" src=").skip(1).chain(page.split("<link ").skip(1)) {
            let source = source.split('>').next().unwrap();
            assert!(source.starts_with("/-/assets/") || source.contains(" href=/-/assets/"), "{source}");
        }
        for inline in ["<style", " style=", " onclick", " onload", "javascript:"] {
            assert!(!page.contains(inline), "{inline}");
        }
    }
}

#[test]
fn an_event_is_bounded_and_has_every_section_of_the_page() {
    let long = "é&".repeat(10_000);
    let mut status = Status::example();
    status.flights[0].url = format!("http://example.org/{long}/{long}");
    status.flights[0].source.clone_from(&long);
    status.flights = vec![status.flights[0].clone(); 10_000];
    status.site.nodes = vec![status.site.nodes[0].clone(); 1000];
    status.errors = vec![Failure { at: NOW, what: long.clone(), why: long, times: 1 }; 20];
    let health = Health::default();
    let view = View { status: &status, health: &health, hours: &[], now: NOW };
    let mut history = History::default();
    history.record(NOW, Sums::default());
    let json = event(&view, &history.recent(Span::Hour, NOW));
    assert!(json.len() < 512 * 1024, "{}", json.len());
    assert!(!json.contains('\n'), "an event is one line");
    let parsed: serde_json::Value = serde_json::from_str(&json).unwrap();
    let page = overview(&view);
    for (id, body) in parsed["sections"].as_object().unwrap() {
        assert!(page.contains(&format!("id={id}")) && page.contains(body.as_str().unwrap()), "{id}");
    }
    assert_eq!(parsed["recent"]["upstream"].as_array().unwrap().len(), 2);
}

#[test]
fn the_recipes_are_for_the_node_as_the_reader_reached_it() {
    let page = clients(&Status::example(), "lab1.example.org:3142");
    for text in [
        "Acquire::http::Proxy \"http://lab1.example.org:3142\";",
        "proxy=http://lab1.example.org:3142",
        "http://lab1.example.org:3142/fedora/",
        "http://lab1.example.org:3142/-/proxy.pac",
    ] {
        assert!(page.contains(text), "{text} is not in\n{page}");
    }
    for family in Family::ALL {
        assert!(page.contains(&text(family.title())));
    }
}

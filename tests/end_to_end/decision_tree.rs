//! Every row of the decision tree (REQUIREMENTS.md R4–R7), against the running node.

use imirror_tests::content;
use imirror_tests::http::request;
use imirror_tests::node::{Node, free_port};
use imirror_tests::origin::{Origin, Page, Trouble};

const DEB: &str = "/pool/main/a/a_1.0_amd64.deb";
const RELEASE: &str = "/dists/stable/InRelease";

fn pair() -> (Origin, Node) {
    let origin = Origin::start();
    let node = Node::start(&[origin.address()], "");
    (origin, node)
}

#[test]
fn r4_what_is_not_ours_passes_untouched_and_is_not_stored() {
    let (origin, node) = pair();
    origin.put("/form", Page::new(b"x".to_vec()));
    let mut page = Page::new(b"page".to_vec());
    page.fields = vec!["X-Anything: 1".into(), "Set-Cookie: a=b".into()];
    origin.put("/page.html", page);
    let url = origin.url("/form");
    let fields = ["Content-Length: 3\r\nX-Mine: yes\r\nAuthorization: Basic eDp5\r\nCookie: c=d\r\n\r\nabc"];
    let posted = request(&node.address(), "POST", &url, origin.address(), &fields);
    assert_eq!((posted.status, posted.complete), (201, true));
    assert!(String::from_utf8(posted.body).unwrap().starts_with("POST ba7816bf"));
    let seen = &origin.seen("/form")[0];
    for (name, value) in [("x-mine", "yes"), ("authorization", "Basic eDp5"), ("cookie", "c=d")] {
        assert_eq!(seen.fields.get(name).map(String::as_str), Some(value));
    }
    for _ in 0..2 {
        let page = node.get(&origin.url("/page.html"));
        assert_eq!((page.status, page.body.as_slice(), page.field("set-cookie")), (200, &b"page"[..], Some("a=b")));
    }
    assert_eq!(origin.seen("/page.html").len(), 2);
    assert!(node.objects().is_empty());
}

#[test]
fn r5a_unreachable_but_cached_is_served_with_its_age() {
    let (origin, node) = pair();
    let body = content(1, 100_000);
    origin.put(DEB, Page::new(body.clone()));
    assert_eq!(node.get(&origin.url(DEB)).body, body);
    origin.set_down(true);
    for _ in 0..3 {
        let answer = node.get(&origin.url(DEB));
        assert_eq!((answer.status, &answer.body), (200, &body));
        assert!(answer.field("age").is_some());
        assert!(answer.field("cache-status").unwrap().starts_with("lab1; hit"), "{answer:?}");
    }
    origin.set_down(false);
    origin.put(DEB, Page::new(body.clone()).with(Trouble::Status(503)));
    assert_eq!(node.get(&origin.url(DEB)).status, 200);
}

#[test]
fn r5b_unreachable_and_not_cached_is_said_plainly() {
    let nobody = free_port().to_string();
    let node = Node::start(&[&nobody], "");
    let answer = node.get(&format!("http://{nobody}{DEB}"));
    let text = String::from_utf8(answer.body).unwrap();
    assert_eq!(answer.status, 502, "{text}");
    assert!(text.contains("No route to host") && text.contains(&nobody) && text.contains("refused"), "{text}");
    let unknown = node.get(&format!("http://nowhere.invalid{DEB}"));
    let text = String::from_utf8(unknown.body).unwrap();
    assert_eq!(unknown.status, 504, "{text}");
    assert!(text.contains("No route to host") && text.contains("nowhere.invalid"), "{text}");
    assert!(node.objects().is_empty());
}

#[test]
fn r6a_a_newer_version_replaces_the_old_one_only_when_it_is_whole() {
    let (origin, node) = pair();
    let (old, new) = (content(1, 300_000), content(2, 400_000));
    origin.put(RELEASE, Page::new(old.clone()));
    assert_eq!(node.get(&origin.url(RELEASE)).body, old);
    let newer = Page::new(new.clone()).modified("Tue, 03 Jan 2023 03:04:05 GMT");
    origin.put(RELEASE, newer.clone().with(Trouble::TooShort));
    let broken = node.get(&origin.url(RELEASE));
    assert!(!broken.complete, "{} of {:?}", broken.body.len(), broken.field("content-length"));
    origin.put(RELEASE, Page::new(old.clone()).with(Trouble::Status(503)));
    let kept = node.get(&origin.url(RELEASE));
    assert_eq!((kept.status, &kept.body), (200, &old));
    origin.put(RELEASE, newer);
    let replaced = node.get(&origin.url(RELEASE));
    assert_eq!((&replaced.body, replaced.complete), (&new, true));
}

#[test]
fn r6b_the_same_or_a_newer_version_here_costs_no_content() {
    let (origin, node) = pair();
    let body = content(1, 200_000);
    origin.put(DEB, Page::new(body.clone()));
    for _ in 0..3 {
        assert_eq!(node.get(&origin.url(DEB)).body, body);
    }
    assert_eq!((origin.sent(DEB), origin.seen(DEB).len()), (body.len(), 3));
    // A lagging mirror has an older version: ours is kept.
    origin.put(DEB, Page::new(content(2, 200_000)).modified("Sun, 01 Jan 2023 03:04:05 GMT"));
    assert_eq!(node.get(&origin.url(DEB)).body, body);
    // What its name proves is served without asking.
    let list = content(3, 50_000);
    let path = format!("/dists/stable/main/binary-amd64/by-hash/SHA256/{}", imirror_tests::sha256(&list));
    origin.put(&path, Page::new(list.clone()));
    for _ in 0..3 {
        assert_eq!(node.get_with(&origin.url(&path), &["Cache-Control: no-cache"]).body, list);
    }
    assert_eq!(origin.seen(&path).len(), 1);
}

#[test]
fn r6b_an_upstream_without_validators_is_asked_for_the_length() {
    let (origin, node) = pair();
    let body = content(1, 200_000);
    origin.put(DEB, Page::new(body.clone()).without_validators());
    for _ in 0..3 {
        assert_eq!(node.get(&origin.url(DEB)).body, body);
    }
    assert_eq!(origin.sent(DEB), body.len());
    let changed = content(2, 200_001);
    origin.put(DEB, Page::new(changed.clone()).without_validators());
    assert_eq!(node.get(&origin.url(DEB)).body, changed);
}

#[test]
fn r6c_what_is_gone_upstream_goes_here() {
    let (origin, node) = pair();
    origin.put(DEB, Page::new(content(1, 1000)));
    assert_eq!(node.get(&origin.url(DEB)).status, 200);
    origin.remove(DEB);
    assert_eq!(node.get(&origin.url(DEB)).status, 404);
    let lookup = node.command(&["lookup", "--json", &origin.url(DEB)]).output().unwrap();
    let found: serde_json::Value = serde_json::from_slice(&lookup.stdout).unwrap();
    assert!(found["stored"].is_null(), "{found}");
}

#[test]
fn r6b_clients_that_ask_in_the_same_moment_share_one_question() {
    let (origin, node) = pair();
    let body = content(1, 3_000_000);
    origin.put(DEB, Page::new(body.clone()).with(Trouble::StallAt(1_000_000)));
    let url = origin.url(DEB);
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..32).map(|_| scope.spawn(|| node.get(&url))).collect();
        // All have joined when the node counts 32 readers.
        loop {
            let status = node.command(&["status", "--json"]).output().unwrap();
            let status: serde_json::Value = serde_json::from_slice(&status.stdout).unwrap();
            if status["flights"][0]["readers"] == 32 {
                break;
            }
        }
        origin.release();
        for client in clients {
            let answer = client.join().unwrap();
            assert!(answer.complete && answer.body == body);
        }
    });
    assert_eq!(origin.sent(DEB), body.len());
}

#[test]
fn head_conditions_and_ranges_follow_the_same_tree() {
    let (origin, node) = pair();
    let body = content(1, 500_000);
    origin.put(DEB, Page::new(body.clone()));
    let url = origin.url(DEB);
    let head = request(&node.address(), "HEAD", &url, origin.address(), &[]);
    assert_eq!((head.status, head.field("content-length")), (200, Some("500000")));
    assert!(node.objects().is_empty());
    let first = node.get(&url);
    let tag = first.field("etag").unwrap().to_owned();
    assert_eq!(node.get_with(&url, &[&format!("If-None-Match: {tag}")]).status, 304);
    assert_eq!(node.get_with(&url, &["If-Modified-Since: Mon, 02 Jan 2023 03:04:05 GMT"]).status, 304);
    let part = node.get_with(&url, &["Range: bytes=100-199"]);
    assert_eq!((part.status, &part.body[..]), (206, &body[100..200]));
    assert_eq!(part.field("content-range"), Some("bytes 100-199/500000"));
    let rest = node.get_with(&url, &["Range: bytes=499000-", "If-Range: Mon, 02 Jan 2023 03:04:05 GMT"]);
    assert_eq!((rest.status, &rest.body[..]), (206, &body[499_000..]));
    assert_eq!(node.get_with(&url, &["Range: bytes=0-1", "If-Range: \"other\""]).status, 200);
    assert_eq!(node.get_with(&url, &["Range: bytes=500000-"]).status, 416);
    let ranges: Vec<String> = (0..256).map(|i| format!("{}-{}", i * 1000, i * 1000 + 9)).collect();
    let many = node.get_with(&url, &[&format!("Range: bytes={}", ranges.join(","))]);
    let text = String::from_utf8_lossy(&many.body);
    assert_eq!((many.status, many.complete, text.matches("Content-Range: bytes ").count()), (206, true, 256));
    let most = node.get_with(&url, &["Range: bytes=0-249999,250001-499999"]);
    assert_eq!((most.status, most.body == body), (200, true), "parts would be longer than all of it");
    assert_eq!(origin.sent(DEB), body.len());
}

#[test]
fn only_if_cached_and_credentials() {
    let (origin, node) = pair();
    origin.put(DEB, Page::new(content(1, 1000)));
    let url = origin.url(DEB);
    assert_eq!(node.get_with(&url, &["Cache-Control: only-if-cached"]).status, 504);
    assert_eq!(origin.seen(DEB).len(), 0);
    assert_eq!(node.get_with(&url, &["Authorization: Basic eDp5"]).status, 200);
    assert!(node.objects().is_empty(), "what carries credentials is not stored");
    assert_eq!(node.get(&url).status, 200);
    assert_eq!(node.get_with(&url, &["Cache-Control: only-if-cached"]).status, 200);
}

/// A captive portal answers in upstream's place.
#[test]
fn a_web_page_takes_the_place_of_nothing_that_is_cached() {
    let (origin, node) = pair();
    let body = content(1, 100_000);
    for path in [DEB, RELEASE] {
        let url = origin.url(path);
        origin.put(path, Page::new(body.clone()));
        assert_eq!(node.get(&url).body, body);
        let mut portal = Page::new(b"<html>Log in</html>".to_vec()).modified("Tue, 03 Jan 2023 03:04:05 GMT");
        portal.fields = vec!["Content-Type: application/xhtml+xml; charset=utf-8".into()];
        origin.put("/login", portal.clone());
        let redirect = |to: &str| Page::new(Vec::new()).with(Trouble::MovedTo(to.into()));
        for trouble in [portal.clone(), redirect(&origin.url("/login")), redirect(&url)] {
            origin.put(path, trouble);
            let answer = node.get(&url);
            assert_eq!((answer.status, &answer.body), (200, &body), "{path}");
            assert!(answer.field("cache-status").unwrap().starts_with("lab1; hit"), "{answer:?}");
        }
        // With nothing cached a client gets what there is, and it is not kept.
        let other = path.replace("stable", "testing").replace("a_1.0", "b_1.0");
        origin.put(&other, portal.clone());
        for _ in 0..2 {
            assert_eq!(node.get(&origin.url(&other)).body, b"<html>Log in</html>");
        }
        assert_eq!(origin.seen(&other).len(), 2);
    }
}

#[test]
fn a_304_confirms_only_the_version_that_it_names() {
    let (origin, node) = pair();
    let (old, new) = (content(1, 100_000), content(2, 120_000));
    let newer = Page::new(new.clone()).modified("Tue, 03 Jan 2023 03:04:05 GMT");
    origin.put(RELEASE, Page::new(old.clone()));
    assert_eq!(node.get(&origin.url(RELEASE)).body, old);
    // It names no version that is known here, not even when asked without conditions.
    origin.put(RELEASE, newer.clone().with(Trouble::AlwaysNotModified));
    let stale = node.get(&origin.url(RELEASE));
    assert_eq!((stale.status, &stale.body), (200, &old));
    assert_eq!(origin.seen(RELEASE).len(), 3);
    assert!(!origin.seen(RELEASE)[2].fields.contains_key("if-none-match"));
    // Asked without conditions it has another version.
    origin.put(RELEASE, newer.with(Trouble::NotModified));
    assert_eq!(node.get(&origin.url(RELEASE)).body, new);
    // To a request without conditions it is no answer.
    origin.put(DEB, Page::new(old).with(Trouble::AlwaysNotModified));
    let refused = node.get(&origin.url(DEB));
    assert_eq!(refused.status, 502, "{}", String::from_utf8_lossy(&refused.body));
}

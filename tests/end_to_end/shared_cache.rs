//! What is not ours with `other = "rfc9111"`: stored and given out as a shared HTTP cache may. The origin counts.

use imirror_tests::content;
use imirror_tests::http::{Answer, Connection, request};
use imirror_tests::node::{Node, flip_byte};
use imirror_tests::origin::{Origin, Page, Trouble};

const PAGE: &str = "/site/page.html";
const FRESH: &str = "Cache-Control: max-age=600";
/// It was fresh for a minute and is older than that.
const STALE: &str = "Cache-Control: max-age=60\r\nAge: 100";
const RFC9111: &str = "[freshness]\nother = \"rfc9111\"\n";

fn pair() -> (Origin, Node) {
    let origin = Origin::start();
    let node = Node::start(&[origin.address()], RFC9111);
    (origin, node)
}

fn page(text: &str, line: &str) -> Page {
    Page::new(text.as_bytes().to_vec()).saying(line)
}

fn send(node: &Node, method: &str, url: &str, fields: &[&str]) -> Answer {
    request(&node.address(), method, url, url.split('/').nth(2).unwrap(), fields)
}

fn open(node: &Node, url: &str) -> Connection {
    let mut connection = Connection::open(&node.address());
    connection.send(&format!("GET {url} HTTP/1.1\r\nHost: {}\r\n\r\n", url.split('/').nth(2).unwrap()));
    connection
}

fn text(answer: &Answer) -> &str {
    std::str::from_utf8(&answer.body).unwrap()
}

fn age(answer: &Answer) -> u64 {
    answer.field("age").unwrap_or_else(|| panic!("{answer:?}")).parse().unwrap()
}

/// A test that waits in vain is ended by its runner.
fn wait_until(done: impl Fn() -> bool) {
    while !done() {
        std::thread::yield_now();
    }
}

/// Asks for a path so often; how often the origin was asked.
fn times_asked(origin: &Origin, node: &Node, path: &str, times: usize) -> usize {
    let before = origin.seen(path).len();
    for _ in 0..times {
        node.get(&origin.url(path));
    }
    origin.seen(path).len() - before
}

#[test]
fn what_is_fresh_is_not_asked_for_again() {
    let (origin, mut node) = pair();
    origin.put(PAGE, page("page", FRESH).saying("X-Any: 1").saying("Age: 7"));
    let url = origin.url(PAGE);
    let first = node.get(&url);
    assert_eq!((first.status, text(&first), first.field("x-any")), (200, "page", Some("1")));
    assert!(first.field("cache-status").unwrap().contains("fwd=uri-miss; stored"), "{first:?}");
    for _ in 0..3 {
        let again = node.get(&url);
        assert_eq!((again.status, text(&again), again.field("x-any")), (200, "page", Some("1")));
        assert!(again.field("cache-status").unwrap().starts_with("lab1; hit"), "{again:?}");
        assert!(age(&again) >= 7 && again.field("date").is_some(), "{again:?}");
    }
    // Also after a restart.
    node.stop();
    node.run();
    assert_eq!(text(&node.get(&url)), "page");
    assert_eq!(origin.seen(PAGE).len(), 1);
    let lookup = node.command(&["lookup", &url]).output().unwrap();
    let words = String::from_utf8(lookup.stdout).unwrap();
    assert!(words.contains("serve it from the store without asking upstream"), "{words}");
}

#[test]
fn what_may_not_be_stored_is_not() {
    let (origin, node) = pair();
    let lines = [
        "Cache-Control: no-store, max-age=600",
        "Cache-Control: private, max-age=600",
        "Cache-Control: max-age=600\r\nSet-Cookie: a=b",
        "Cache-Control: max-age=600\r\nVary: *",
    ];
    for (i, line) in lines.iter().enumerate() {
        let path = format!("/{i}.html");
        origin.put(&path, page("mine", line));
        assert_eq!(times_asked(&origin, &node, &path, 3), 3, "{line}");
    }
    // Neither fresh nor to be validated.
    origin.put("/useless.html", page("x", "Cache-Control: no-cache").without_validators());
    assert_eq!(times_asked(&origin, &node, "/useless.html", 3), 3);
    // A client that forbids it.
    origin.put(PAGE, page("page", FRESH));
    for _ in 0..2 {
        node.get_with(&origin.url(PAGE), &["Cache-Control: no-store"]);
    }
    assert_eq!(origin.seen(PAGE).len(), 2);
    assert!(node.objects().is_empty());
    // What is set for all is stored, without the cookie.
    origin.put("/public.html", page("x", "Cache-Control: public, max-age=600\r\nSet-Cookie: a=b"));
    assert_eq!(times_asked(&origin, &node, "/public.html", 3), 1);
    assert_eq!(node.get(&origin.url("/public.html")).field("set-cookie"), None);
}

#[test]
fn statuses_are_stored_with_their_fields() {
    let (origin, node) = pair();
    origin.put("/moved", page("", FRESH).with_status(301).saying("Location: /elsewhere"));
    origin.put("/gone", page("gone", FRESH).with_status(404));
    origin.put("/found", Page::new(vec![]).with_status(302).saying("Location: /elsewhere"));
    node.get(&origin.url("/gone"));
    for _ in 0..3 {
        let moved = node.get(&origin.url("/moved"));
        assert_eq!((moved.status, moved.field("location")), (301, Some("/elsewhere")));
        // Neither ranges nor conditions are of what is no content.
        let since = "If-Modified-Since: Tue, 03 Jan 2023 03:04:05 GMT";
        let gone = node.get_with(&origin.url("/gone"), &["Range: bytes=0-1", since]);
        assert_eq!((gone.status, text(&gone)), (404, "gone"));
        assert_eq!(node.get(&origin.url("/found")).status, 302);
    }
    let asked = |path| origin.seen(path).len();
    assert_eq!((asked("/moved"), asked("/gone"), asked("/found")), (1, 1, 3));
}

#[test]
fn the_stale_is_validated_and_a_304_brings_its_head_up_to_date() {
    let (origin, node) = pair();
    origin.put(PAGE, page("page", STALE).saying("X-Any: 1"));
    let url = origin.url(PAGE);
    node.get(&url);
    origin.put(PAGE, page("page", FRESH).saying("X-Any: 2").saying("Content-Type: text/plain"));
    let validated = node.get(&url);
    assert_eq!((validated.status, text(&validated), validated.field("x-any")), (200, "page", Some("2")));
    let seen = origin.seen(PAGE);
    assert!(seen[1].fields.contains_key("if-none-match") && seen[1].fields.contains_key("if-modified-since"));
    assert_eq!((origin.sent(PAGE), seen.len()), (4, 2));
    // It is fresh from now on, with the new head.
    let hit = node.get(&url);
    assert_eq!((hit.field("x-any"), origin.seen(PAGE).len()), (Some("2"), 2));
    assert!(age(&hit) < 100, "{hit:?}");
    // Another version takes its place.
    assert_eq!(node.get_with(&url, &["Cache-Control: no-cache"]).status, 200);
    origin.put(PAGE, page("another", FRESH));
    assert_eq!(text(&node.get_with(&url, &["Pragma: no-cache"])), "another");
    assert_eq!(text(&node.get(&url)), "another");
    assert_eq!(origin.seen(PAGE).len(), 4);
}

#[test]
fn variants_are_told_apart_and_bounded() {
    let (origin, node) = pair();
    let url = origin.url(PAGE);
    let get = |coding: &str, language: &str| {
        let fields = [format!("Accept-Encoding: {coding}"), format!("Accept-Language: {language}")];
        let fields: Vec<_> = fields.iter().map(String::as_str).collect();
        node.get_with(&url, &fields)
    };
    let put = |text: &str, vary: &str| origin.put(PAGE, page(text, FRESH).saying(vary));
    put("gzipped", "Vary: Accept-Encoding");
    assert_eq!(text(&get("gzip, br", "de")), "gzipped");
    put("plain", "Vary: Accept-Encoding");
    assert_eq!(text(&get("identity", "de")), "plain");
    for language in ["de", "en"] {
        assert_eq!(text(&get("BR,gzip", language)), "gzipped");
        assert_eq!(text(&get("identity", language)), "plain");
    }
    assert_eq!(origin.seen(PAGE).len(), 2);
    // One that varies by more: all are asked for anew.
    put("gallisch", "Vary: Accept-Encoding, Accept-Language");
    assert_eq!(text(&get("zstd", "fr")), "gallisch");
    put("Germanic", "Vary: Accept-Encoding, Accept-Language");
    assert_eq!(text(&get("gzip, br", "de")), "Germanic");
    assert_eq!((text(&get("zstd", "fr")), text(&get("gzip, br", "de"))), ("gallisch", "Germanic"));
    assert_eq!(origin.seen(PAGE).len(), 4);
    // More variants than are kept: the oldest are asked for again, the newest are not.
    put("many", "Vary: Accept-Encoding");
    for i in 0..20 {
        get(&format!("coding-{i}"), "de");
    }
    let before = origin.seen(PAGE).len();
    get("coding-19", "de");
    assert_eq!(origin.seen(PAGE).len(), before);
    get("coding-0", "de");
    assert_eq!(origin.seen(PAGE).len(), before + 1);
    // A coding that is not said to vary is not given to who cannot read it.
    origin.put("/coded", page("\x1f", FRESH).saying("Content-Encoding: gzip"));
    node.get_with(&origin.url("/coded"), &["Accept-Encoding: gzip"]);
    node.get_with(&origin.url("/coded"), &["Accept-Encoding: gzip"]);
    assert_eq!(origin.seen("/coded").len(), 1);
    node.get(&origin.url("/coded"));
    assert_eq!(origin.seen("/coded").len(), 2);
}

#[test]
fn conditions_and_ranges_are_answered_from_the_store() {
    let (origin, node) = pair();
    let body = content(1, 300_000);
    origin.put(PAGE, Page::new(body.clone()).saying(FRESH));
    let url = origin.url(PAGE);
    let first = node.get(&url);
    let tag = first.field("etag").unwrap().to_owned();
    let status = |fields: &[&str]| node.get_with(&url, fields).status;
    assert_eq!(status(&[&format!("If-None-Match: {tag}")]), 304);
    assert_eq!(status(&["If-None-Match: \"x\"", &format!("If-None-Match: \"y\", {tag}")]), 304);
    assert_eq!(status(&["If-None-Match: \"x\""]), 200);
    assert_eq!(status(&["If-Modified-Since: Mon, 02 Jan 2023 03:04:05 GMT"]), 304);
    assert_eq!(status(&["If-Match: \"x\""]), 412);
    assert_eq!(status(&["Range: bytes=300000-"]), 416);
    let part = node.get_with(&url, &["Range: bytes=100-199", &format!("If-Range: {tag}")]);
    assert_eq!((part.status, &part.body[..]), (206, &body[100..200]));
    assert_eq!(part.field("content-range"), Some("bytes 100-199/300000"));
    assert!(node.get_with(&url, &["Range: bytes=100-199", "If-Range: \"x\""]).body == body);
    let head = send(&node, "HEAD", &url, &["Range: bytes=0-1"]);
    assert_eq!((head.status, head.field("content-length"), head.field("etag")), (200, Some("300000"), Some(&*tag)));
    assert_eq!(origin.seen(PAGE).len(), 1);
    // Of what is not stored a part is no reason to fetch the whole, but a range that is the whole is.
    origin.put("/big", Page::new(body.clone()).saying(FRESH));
    let url = origin.url("/big");
    assert_eq!(node.get_with(&url, &["Range: bytes=5-9"]).body, body[5..10]);
    assert_eq!((origin.sent("/big"), node.objects().len()), (5, 1));
    assert_eq!(send(&node, "HEAD", &url, &[]).field("content-length"), Some("300000"));
    let whole = node.get_with(&url, &["Range: bytes=0-"]);
    assert_eq!((whole.status, whole.body == body), (206, true));
    assert!(node.get_with(&url, &["Range: bytes=5-9"]).body == body[5..10]);
    assert_eq!(origin.seen("/big").len(), 3);
}

#[test]
fn a_head_that_contradicts_what_is_stored_makes_it_useless() {
    let (origin, node) = pair();
    origin.put(PAGE, page("page", "Cache-Control: max-age=60, stale-if-error=600\r\nAge: 100"));
    let url = origin.url(PAGE);
    node.get(&url);
    origin.put(PAGE, page("another", FRESH));
    assert_eq!(send(&node, "HEAD", &url, &[]).field("content-length"), Some("7"));
    origin.set_down(true);
    assert_eq!(node.get(&url).status, 502);
}

#[test]
fn what_changes_something_takes_it_out_of_the_store() {
    let (origin, node) = pair();
    let paths = ["/form", "/list", "/list-of-all", "/kept"];
    for path in paths {
        origin.put(path, page("old", FRESH).saying("Vary: Accept-Language"));
        assert_eq!(times_asked(&origin, &node, path, 2), 1);
        for language in ["de", "en"] {
            node.get_with(&origin.url(path), &[&format!("Accept-Language: {language}")]);
        }
    }
    let locations = format!("Location: /list\r\nContent-Location: {}", origin.url("/list-of-all"));
    origin.put("/form", page("new", FRESH).saying(&locations));
    let posted = send(&node, "POST", &origin.url("/form"), &["Content-Length: 3\r\n\r\nabc"]);
    assert_eq!(posted.status, 201);
    for (path, asked) in paths.into_iter().zip([1, 1, 1, 0]) {
        let before = origin.seen(path).len();
        node.get_with(&origin.url(path), &["Accept-Language: de"]);
        assert_eq!(origin.seen(path).len() - before, asked, "{path}");
    }
    // What fails changes nothing, and neither does what only reads.
    origin.put("/kept", page("x", FRESH).with(Trouble::Status(409)));
    assert_eq!(send(&node, "PUT", &origin.url("/kept"), &["Content-Length: 3\r\n\r\nabc"]).status, 409);
    assert_eq!(send(&node, "OPTIONS", &origin.url("/kept"), &[]).status, 409);
    assert_eq!(text(&node.get_with(&origin.url("/kept"), &["Accept-Language: de"])), "old");
}

#[test]
fn what_is_overtaken_by_a_change_is_not_stored() {
    let (old, new) = (content(1, 200_000), content(2, 200_000));
    for trouble in [Trouble::StallAt(100_000), Trouble::Mute] {
        let (origin, node) = pair();
        let url = origin.url(PAGE);
        origin.put(PAGE, Page::new(old.clone()).saying(FRESH).with(trouble.clone()));
        let mut first = open(&node, &url);
        wait_until(|| !origin.seen(PAGE).is_empty());
        if trouble != Trouble::Mute {
            assert_eq!(first.head().unwrap().0, 200);
        }
        origin.put(PAGE, Page::new(new.clone()).saying(FRESH));
        assert_eq!(send(&node, "POST", &url, &["Content-Length: 3\r\n\r\nabc"]).status, 201);
        origin.release();
        let got = if trouble == Trouble::Mute { first.answer(false).unwrap().body } else { first.read(old.len()) };
        assert!(got == old, "who had asked before gets the old version whole: {} bytes", got.len());
        for _ in 0..2 {
            assert!(node.get(&url).body == new);
        }
        assert_eq!(origin.seen(PAGE).iter().filter(|seen| seen.method == "GET").count(), 2);
    }
}

#[test]
fn trouble_upstream_and_what_may_be_stale() {
    let (origin, node) = pair();
    let path = |name: &str| format!("/{name}.html");
    let pages = [
        ("silent", "max-age=60"),
        ("granted", "max-age=60, stale-if-error=600"),
        ("spent", "max-age=10, stale-if-error=20"),
        ("strict", "max-age=60, must-revalidate"),
        ("shared", "s-maxage=60"),
    ];
    let ask = |name: &str| node.get(&origin.url(&path(name)));
    for (name, control) in pages {
        origin.put(&path(name), page(name, &format!("Cache-Control: {control}\r\nAge: 100")));
        ask(name);
        origin.put(&path(name), page(name, "").with(Trouble::Status(503)));
    }
    for (name, status) in [("silent", 503), ("granted", 200), ("spent", 503), ("strict", 503), ("shared", 503)] {
        let answer = ask(name);
        assert_eq!(answer.status, status, "{name}");
        assert!(status != 200 || age(&answer) >= 100 && text(&answer) == name, "{answer:?}");
    }
    origin.set_down(true);
    for (name, status) in [("silent", 200), ("granted", 200), ("spent", 502), ("strict", 502), ("shared", 502)] {
        assert_eq!(ask(name).status, status, "{name}");
    }
}

#[test]
fn validated_behind_the_clients_back() {
    let (origin, node) = pair();
    for len in [3, 3_000_000] {
        let (old, new) = (content(1, len), content(2, len));
        let path = format!("/{len}");
        let url = origin.url(&path);
        let line = "Cache-Control: max-age=60, stale-while-revalidate=600\r\nAge: 100";
        origin.put(&path, Page::new(old.clone()).saying(line));
        assert!(node.get(&url).body == old);
        origin.put(&path, Page::new(new.clone()).saying(FRESH));
        let stale = node.get(&url);
        assert!(stale.body == old && age(&stale) >= 100);
        // The new version comes; nobody has waited for its head.
        wait_until(|| node.get(&url).body == new);
        assert!(node.get(&url).body == new);
        assert_eq!(origin.seen(&path).len(), 2);
    }
}

#[test]
fn only_if_cached() {
    let (origin, node) = pair();
    origin.put(PAGE, page("page", FRESH));
    let url = origin.url(PAGE);
    let only = ["Cache-Control: only-if-cached"];
    assert_eq!((node.get_with(&url, &only).status, origin.seen(PAGE).len()), (504, 0));
    node.get(&url);
    assert_eq!(node.get_with(&url, &only).status, 200);
    assert_eq!(node.get_with(&url, &["Cache-Control: only-if-cached, no-cache"]).status, 504);
    assert_eq!(origin.seen(PAGE).len(), 1);
}

#[test]
fn fields_of_one_connection_go_no_further() {
    let (origin, node) = pair();
    origin.put(
        PAGE,
        page("page", FRESH).saying(
            "Connection: keep-alive, X-Hop, Vary\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\nVary: Accept-Language",
        ),
    );
    let url = origin.url(PAGE);
    for _ in 0..2 {
        let answer = node.get_with(&url, &["Connection: X-Mine", "X-Mine: 1", "Accept-Language: de"]);
        assert_eq!((answer.field("x-hop"), answer.field("keep-alive")), (None, None));
        assert_eq!(answer.field("vary"), Some("Accept-Language"), "what makes it less reusable stays");
    }
    assert_eq!(origin.seen(PAGE).len(), 1);
    assert!(!origin.seen(PAGE)[0].fields.contains_key("x-mine"));
}

#[test]
fn credentials_are_not_shared() {
    let (origin, node) = pair();
    let (login, cookie) = (["Authorization: Basic eDp5"], ["Cookie: a=b"]);
    let count = |path: &str, fields: &[&str]| {
        let before = origin.seen(path).len();
        for _ in 0..2 {
            assert_eq!(node.get_with(&origin.url(path), fields).status, 200);
        }
        origin.seen(path).len() - before
    };
    origin.put("/a", page("a", FRESH));
    assert_eq!((count("/a", &login), count("/a", &cookie)), (2, 2));
    assert!(node.objects().is_empty());
    // What came to a request without credentials may be for all, but not for who shows others.
    assert_eq!((count("/a", &[]), count("/a", &cookie)), (1, 0));
    let before = origin.sent("/a");
    assert_eq!((count("/a", &login), origin.sent("/a")), (2, before), "it is asked whether it is theirs, too");
    origin.put("/public", page("p", "Cache-Control: public, max-age=600"));
    assert_eq!((count("/public", &login), count("/public", &cookie), count("/public", &[])), (1, 0, 0));
    assert_eq!(origin.seen("/public")[0].fields["authorization"], "Basic eDp5");
}

#[test]
fn fields_that_no_key_tells_poison_nothing() {
    let (origin, node) = pair();
    origin.put(PAGE, page("made for evil.example.org", FRESH));
    let url = origin.url(PAGE);
    node.get_with(&url, &["X-Forwarded-Host: evil.example.org"]);
    assert_eq!(origin.seen(PAGE)[0].fields["x-forwarded-host"], "evil.example.org", "it is passed on");
    origin.put(PAGE, page("right", FRESH));
    assert_eq!(text(&node.get(&url)), "right");
    assert_eq!(text(&node.get_with(&url, &["X-Forwarded-Host: evil.example.org"])), "right");
    assert_eq!(origin.seen(PAGE).len(), 2);
}

#[test]
fn many_who_ask_in_the_same_moment_are_one_to_the_origin() {
    let (origin, node) = pair();
    let body = content(1, 3_000_000);
    origin.put("/a.iso", Page::new(body.clone()).saying(FRESH).with(Trouble::StallAt(1_000_000)));
    let url = origin.url("/a.iso");
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..24).map(|_| scope.spawn(|| node.get(&url))).collect();
        wait_until(|| node.status()["flights"][0]["readers"] == 24);
        origin.release();
        for client in clients {
            let answer = client.join().unwrap();
            assert!(answer.complete && answer.body == body);
        }
    });
    assert_eq!((origin.sent("/a.iso"), origin.seen("/a.iso").len()), (body.len(), 1));
}

#[test]
fn the_head_of_a_miss_and_a_validation_are_waited_for_together() {
    for (before, outcome) in [(None, "collapsed"), (Some(STALE), "fwd-status=304")] {
        let (origin, node) = pair();
        let url = origin.url(PAGE);
        if let Some(line) = before {
            origin.put(PAGE, page("page", line));
            node.get(&url);
        }
        let asked = origin.seen(PAGE).len();
        origin.put(PAGE, page("page", FRESH).with(Trouble::Mute));
        std::thread::scope(|scope| {
            let clients: Vec<_> = (0..8).map(|_| scope.spawn(|| node.get(&url))).collect();
            wait_until(|| origin.seen(PAGE).len() > asked);
            origin.release();
            let answers: Vec<_> = clients.into_iter().map(|client| client.join().unwrap()).collect();
            assert!(answers.iter().all(|answer| text(answer) == "page"));
            let first = answers.iter().filter(|a| a.field("cache-status").unwrap().contains(outcome)).count();
            assert!(before.is_none() || first > 0, "{answers:?}");
        });
        assert_eq!(origin.seen(PAGE).len(), asked + 1);
    }
}

#[test]
fn nobody_waits_for_what_cannot_be_shared() {
    let (origin, node) = pair();
    let private = "Cache-Control: private";
    for trouble in [Trouble::StallAt(2), Trouble::Mute] {
        let path = format!("/{trouble:?}");
        let url = origin.url(&path);
        origin.put(&path, page("first", private).with(trouble));
        let first = open(&node, &url);
        wait_until(|| !origin.seen(&path).is_empty());
        origin.put(&path, page("second", private));
        // The first is still without its answer, and will be until these have theirs.
        for _ in 0..3 {
            assert_eq!(text(&node.get(&url)), "second");
        }
        assert_eq!(origin.seen(&path).len(), 4);
        drop(first);
    }
}

#[test]
fn what_broke_off_is_continued_as_it_was_asked_for() {
    let (origin, mut node) = pair();
    let body = content(1, 30_000_000);
    let page = Page::new(body.clone()).saying(FRESH).saying("Vary: Accept-Language");
    // Cut in the middle: the rest is asked for with the same fields.
    origin.put("/cut.iso", page.clone().with(Trouble::CutAt(3_000_000, 1)));
    let german = ["Accept-Language: de"];
    let answer = node.get_with(&origin.url("/cut.iso"), &german);
    assert!(answer.complete && answer.body == body);
    let seen = origin.seen("/cut.iso");
    assert_eq!((seen.len(), origin.sent("/cut.iso")), (2, body.len()));
    assert!(seen[1].fields.contains_key("if-range") && seen[1].fields["accept-language"] == "de", "{seen:?}");
    // A stop of the node in the middle: the next request goes on where it ended, if it is the same version.
    for (path, same) in [("/stopped.iso", true), ("/changed.iso", false)] {
        origin.put(path, page.clone().with(Trouble::StallAt(20_000_000)));
        let mut client = Connection::open(&node.address());
        let (url, host) = (origin.url(path), origin.address());
        client.send(&format!("GET {url} HTTP/1.1\r\nHost: {host}\r\nAccept-Language: de\r\n\r\n"));
        client.head().unwrap();
        assert!(client.read(20_000_000) == body[..20_000_000]);
        drop(client);
        node.stop();
        let now = if same { body.clone() } else { content(2, 30_000_000) };
        origin.put(path, Page::new(now.clone()).saying(FRESH).saying("Vary: Accept-Language"));
        node.run();
        let before = origin.sent(path);
        assert!(node.get_with(&url, &german).body == now);
        assert!(origin.seen(path).last().unwrap().fields.contains_key("range"));
        assert_eq!(origin.sent(path) - before < 15_000_000, same);
        assert!(node.get_with(&url, &german).body == now);
        assert_eq!(origin.seen(path).len(), 2);
    }
    origin.release();
}

#[test]
fn what_rots_on_the_disk_is_never_sent() {
    let (origin, mut node) = pair();
    let body = content(1, 2_000_000);
    origin.put("/a.iso", Page::new(body.clone()).saying(FRESH));
    assert!(node.get(&origin.url("/a.iso")).body == body);
    node.stop();
    flip_byte(&node.objects()[0], 1_500_000);
    node.run();
    let healed = node.get(&origin.url("/a.iso"));
    assert!(healed.complete && healed.body == body);
    assert_eq!(origin.seen("/a.iso").len(), 2);
}

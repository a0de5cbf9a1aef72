//! The page for people, in a real browser and byte by byte.

use imirror_tests::browser::Browser;
use imirror_tests::content;
use imirror_tests::http::Connection;
use imirror_tests::node::{Node, free_port};
use imirror_tests::origin::{Origin, Page, Trouble};

use super::site::{open, site};

/// Every text on the page with too little contrast to its background (WCAG 2.2, 1.4.3: 4.5 to 1).
const FAINT: &str = "(() => {
  const parse = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const light = (colour) => {
    const [r, g, b] = parse(colour).map((c) => c / 255).map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    const colour = getComputedStyle(element).backgroundColor;
    return (parse(colour)[3] ?? 1) > 0 ? colour : behind(element.parentElement);
  };
  const own = (element) => [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
  return [...document.body.querySelectorAll('*')].filter(own).filter((element) => {
    const [a, b] = [light(getComputedStyle(element).color), light(behind(element))].sort((x, y) => y - x);
    return (a + 0.05) / (b + 0.05) < 4.5;
  }).map((element) => element.outerHTML);
})()";

/// What a screen reader and a keyboard need and do not find.
const MISSING: &str = "(() => {
  const lacks = [];
  const need = (right, what) => right || lacks.push(what);
  need(document.documentElement.lang === 'en', 'language');
  need(document.querySelectorAll('h1').length === 1, 'one h1');
  for (const landmark of ['header', 'nav[aria-label]', 'main', 'footer']) need(document.querySelector(landmark), landmark);
  for (const table of document.querySelectorAll('.body table')) {
    need(table.caption?.textContent, 'caption');
    need([...table.tHead.rows[0].cells].every((cell) => cell.scope === 'col'), 'scope of columns');
    need([...table.tBodies[0].rows].every((row) => row.cells[0].scope === 'row'), 'scope of rows');
  }
  for (const section of document.querySelectorAll('section')) {
    need(document.getElementById(section.getAttribute('aria-labelledby'))?.textContent, 'name of ' + section.id);
  }
  for (const bar of document.querySelectorAll('meter, progress')) need(bar.getAttribute('aria-label'), 'name of a bar');
  return lacks;
})()";

/// A node with something in it, a download that waits, and an error.
fn busy() -> (Origin, Node, Connection) {
    let origin = Origin::start();
    let node =
        Node::start(&[origin.address()], &format!("[repos.fedora]\nupstreams = [\"{}\"]\n", origin.url("/pub/fedora")));
    origin.put("/pool/vlc_3.0.21_amd64.deb", Page::new(content(1, 3_000_000)));
    for _ in 0..4 {
        assert_eq!(node.get(&origin.url("/pool/vlc_3.0.21_amd64.deb")).body.len(), 3_000_000);
    }
    assert_eq!(node.get("http://127.0.0.1:9/pool/lost_1_amd64.deb").status, 403);
    let waiting = Page::new(content(2, 6_000_000)).with(Trouble::StallAt(2_000_000));
    origin.put("/pool/linux-image-6.12_amd64.deb", waiting);
    let mut download = Connection::open(&node.address());
    let url = origin.url("/pool/linux-image-6.12_amd64.deb");
    download.send(&format!("GET {url} HTTP/1.1\r\nHost: {}\r\n\r\n", origin.address()));
    assert_eq!(download.head().unwrap().0, 200);
    assert_eq!(download.read(1_500_000).len(), 1_500_000);
    (origin, node, download)
}

#[test]
fn any_node_shows_what_the_others_do() {
    let origin = Origin::start();
    let site = site(2, &origin);
    origin.put("/pool/vlc_3.0.21_amd64.deb", Page::new(content(1, 3_000_000)));
    for _ in 0..4 {
        assert_eq!(site[1].get(&origin.url("/pool/vlc_3.0.21_amd64.deb")).body.len(), 3_000_000);
    }
    assert_eq!(site[1].get("http://127.0.0.1:9/pool/lost_1_amd64.deb").status, 403);
    origin.put("/pool/linux-image-6.12_amd64.deb", Page::new(content(2, 6_000_000)).with(Trouble::StallAt(2_000_000)));
    let mut download = open(&site[1], &origin.url("/pool/linux-image-6.12_amd64.deb"));
    assert_eq!(download.head().unwrap().0, 200);
    assert_eq!(download.read(1_500_000).len(), 1_500_000);

    // Without a script, at the node that did nothing of it.
    let own = |path| site[0].ask("GET", path, &site[0].address(), &[]).body;
    let page = || String::from_utf8(own("/-/")).unwrap();
    site[0].wait_for(|| page().contains("linux-image-6.12_amd64.deb"));
    let shown = page();
    for part in [">To</th>", "lab2</td>", "lost_1_amd64.deb", "<small>at lab2</small>", "of 4 requests today"] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    let status = site[0].status();
    assert_eq!(status["flights"], serde_json::json!([]));
    let told = status["site"]["nodes"].as_array().unwrap().iter().find(|node| node["name"] == "lab2").unwrap();
    assert_eq!(told["report"]["flights"][0]["readers"], 1, "{told}");
    assert!(told["report"]["history"]["today"]["bytes_to_clients"].as_u64().unwrap() >= 4 * 3_000_000);
    let history: serde_json::Value = serde_json::from_slice(&own("/-/api/history?span=month")).unwrap();
    let upstream = |rates: &serde_json::Value| rates.as_array().unwrap().iter().any(|rate| rate.as_u64() > Some(0));
    assert!(upstream(&history["upstream"]), "{history}");

    // While it is open it goes on.
    let mut browser = Browser::start();
    browser.open(&format!("http://{}/-/", site[0].address()));
    browser.wait_for("document.querySelector('#live').textContent === 'Live'");
    assert!(browser.text("#downloads").contains("linux-image-6.12_amd64.deb"));
    browser.size(1200, 900);
    browser.screenshot("site-light-wide");
    origin.release();
    assert_eq!(download.read(4_500_000).len(), 4_500_000);
    browser.wait_for("document.querySelector('#downloads').hidden");
    assert_eq!(browser.complaints(), Vec::<String>::new());
}

#[test]
fn in_a_browser_the_page_is_live_and_asks_only_its_node() {
    let (origin, mut node, mut download) = busy();
    let mut browser = Browser::start();
    let url = format!("http://{}/-/", node.address());
    browser.open(&url);
    browser.wait_for("document.querySelector('#live').textContent === 'Live'");
    assert!(browser.text("#downloads").contains("linux-image-6.12_amd64.deb"));
    assert!(browser.text("#errors").contains("lost_1_amd64.deb"));
    assert!(browser.text("#nodes").contains("this node"));
    assert!(browser.text("#repositories").contains("fedora"));
    browser.wait_for("document.querySelector('#plot canvas')");
    browser.wait_for("document.querySelector('#figures').innerText.includes('75 %')");
    for scheme in ["light", "dark"] {
        for (width, height, form) in [(1200, 900, "wide"), (390, 844, "phone")] {
            browser.prefer(scheme);
            browser.size(width, height);
            browser.wait_for(&format!("document.querySelector('.uplot').clientWidth <= {width}"));
            assert_eq!(browser.eval("innerWidth"), width, "nothing is wider than the {form} screen");
            assert_eq!(browser.eval("document.documentElement.scrollWidth"), width);
            assert_eq!(browser.eval(FAINT), serde_json::json!([]), "{scheme} {form}");
            assert_eq!(browser.eval(MISSING), serde_json::json!([]));
            browser.screenshot(&format!("overview-{scheme}-{form}"));
        }
    }
    let dark = browser.eval("getComputedStyle(document.body).backgroundColor");
    browser.prefer("light");
    assert_ne!(browser.eval("getComputedStyle(document.body).backgroundColor"), dark);
    // What ends goes from the page, and what comes is there, with nobody touching it.
    origin.release();
    assert_eq!(download.read(4_500_000).len(), 4_500_000);
    browser.wait_for("document.querySelector('#downloads').hidden");
    browser.wait_for("document.querySelector('#figures').innerText.includes('2 objects')");
    for span in ["days", "month", "hour"] {
        let drawn = "document.querySelector('#plot canvas')";
        browser.eval(&format!("window.before = {drawn}; document.querySelector('[data-span={span}]').click()"));
        browser.wait_for(&format!("{drawn} && {drawn} !== window.before"));
        assert_eq!(browser.eval(&format!("document.querySelector('[data-span={span}]').ariaPressed")), "true");
    }
    // With the keyboard: the first stop leads past the navigation.
    browser.eval("document.activeElement.blur()");
    browser.press("Tab");
    assert_eq!(browser.eval("document.activeElement.className"), "skip");
    browser.press("Enter");
    assert_eq!(browser.eval("document.activeElement.id"), "main");
    assert_eq!(browser.complaints(), Vec::<String>::new());
    let own = format!("http://{}/", node.address());
    let elsewhere: Vec<String> = browser.requests().into_iter().filter(|url| !url.starts_with(&own)).collect();
    assert_eq!(elsewhere, Vec::<String>::new());
    assert!(browser.requests().len() >= 6);
    // It says so when there is nobody any more, and goes on when there is.
    node.stop();
    browser.wait_for("document.querySelector('#live').textContent.startsWith('Not connected')");
    node.run();
    browser.wait_for("document.querySelector('#live').textContent === 'Live'");
    // What was counted before is there.
    browser.wait_for("document.querySelector('#figures').innerText.includes('60 %')");
}

#[test]
fn without_scripts_the_tables_are_there() {
    let (_origin, node, _download) = busy();
    let mut browser = Browser::start();
    browser.scripts(false);
    browser.open(&format!("http://{}/-/", node.address()));
    for (part, text) in [
        ("#downloads", "linux-image-6.12_amd64.deb"),
        ("#nodes", "alive"),
        ("#errors", "lost_1_amd64.deb"),
        ("#figures", "Saved today"),
        ("noscript", "Reload"),
    ] {
        assert!(browser.text(part).contains(text), "{part}: {}", browser.text(part));
    }
    assert_eq!(browser.eval("document.querySelector('#chart').hidden"), true);
    browser.screenshot("overview-without-scripts");
    assert_eq!(browser.complaints(), Vec::<String>::new());
}

#[test]
fn any_node_shows_the_whole_site() {
    let origin = Origin::start();
    let nodes = site(3, &origin);
    for (i, node) in nodes.iter().enumerate() {
        for package in 0..=i {
            let path = format!("/pool/package-{i}{package}_1_amd64.deb");
            origin.put(&path, Page::new(content(i as u64, 1_000_000)));
            assert_eq!(node.get(&origin.url(&path)).status, 200);
            assert_eq!(nodes[0].get(&origin.url(&path)).status, 200);
        }
    }
    let mut browser = Browser::start();
    for node in &nodes {
        browser.open(&format!("http://{}/-/", node.address()));
        browser.wait_for("document.querySelectorAll('#nodes tbody .alive').length === 3");
        browser.wait_for("/Stored in the site\\n.*\\n[1-9]\\d* objects on 3 nodes/.test(document.querySelector('#figures').innerText)");
        let others = browser.eval("[...document.querySelectorAll('#nodes a')].map((link) => link.href).sort()");
        let mut expected: Vec<String> = nodes.iter().map(|node| format!("http://{}/-/", node.address())).collect();
        expected.retain(|url| !url.contains(&node.address()));
        expected.sort();
        assert_eq!(others, serde_json::json!(expected));
    }
    browser.open(&format!("http://{}/-/", nodes[0].address()));
    browser
        .wait_for("document.querySelector('#live').textContent === 'Live' && document.querySelector('#plot canvas')");
    browser.screenshot("site");
    assert_eq!(browser.complaints(), Vec::<String>::new());
}

#[test]
fn the_set_up_page_is_for_the_address_that_the_reader_used() {
    let (_origin, node, _download) = busy();
    let mut browser = Browser::start();
    let address = node.address().replace("127.0.0.1", "localhost");
    browser.open(&format!("http://{address}/-/clients"));
    for scheme in ["light", "dark"] {
        for (width, form) in [(1200, "wide"), (390, "phone")] {
            browser.prefer(scheme);
            browser.size(width, 900);
            assert_eq!(browser.eval("document.documentElement.scrollWidth"), width);
            assert_eq!(browser.eval(FAINT), serde_json::json!([]), "{scheme} {form}");
            assert_eq!(browser.eval(MISSING), serde_json::json!([]));
            browser.screenshot(&format!("clients-{scheme}-{form}"));
        }
    }
    let recipe = browser.text("section[aria-labelledby=apt] pre");
    assert!(recipe.contains(&format!("Acquire::http::Proxy \"http://{address}\";")), "{recipe}");
    // Copied, and pasted into a field of the test's own.
    browser.eval(
        "document.addEventListener('copy', () => { window.copied = getSelection().toString(); });
         document.querySelector('section[aria-labelledby=apt] button').click()",
    );
    assert_eq!(browser.eval("window.copied").as_str().unwrap().trim(), recipe.trim());
    assert_eq!(browser.complaints(), Vec::<String>::new());
    assert!(browser.requests().iter().all(|url| url.starts_with(&format!("http://{address}/"))));
}

#[test]
fn the_pages_are_strict() {
    let node = Node::start(&[], "");
    let own = node.address();
    for path in ["/-/", "/-/clients", "/-/api/status", "/-/api/history?span=days", "/-/assets/page.js", "/-/metrics"] {
        let answer = node.ask("GET", path, &own, &[]);
        assert_eq!(answer.status, 200, "{path}");
        let policy = answer.field("content-security-policy").unwrap();
        assert!(policy.starts_with("default-src 'none'; script-src 'self'; style-src 'self';"), "{policy}");
        assert!(!policy.contains("unsafe") && policy.contains("frame-ancestors 'none'"));
        assert_eq!(answer.field("x-content-type-options"), Some("nosniff"));
        assert_eq!(node.ask("HEAD", path, &own, &[]).status, 200);
        for method in ["POST", "PUT", "DELETE"] {
            assert!([404, 405].contains(&node.ask(method, path, &own, &[]).status), "{method} {path}");
        }
        // A foreign name that leads here is somebody else's script at work.
        assert_eq!(node.ask("GET", path, "evil.example.org", &[]).status, 400, "{path}");
    }
    assert_eq!(node.ask("GET", "/-/api/events", "evil.example.org", &[]).status, 400);
    assert_eq!(node.ask("POST", "/-/api/events", &own, &[]).status, 405);
    assert_eq!(node.ask("GET", "/-/api/history?span=year", &own, &[]).status, 400);
    let script = node.ask("GET", "/-/assets/page.js", &own, &[]);
    let tag = format!("If-None-Match: {}", script.field("etag").unwrap());
    let again = node.ask("GET", "/-/assets/page.js", &own, &[&tag]);
    assert_eq!((again.status, again.body.len()), (304, 0));
    assert!(node.ask("GET", "/-/assets/uplot.LICENSE", &own, &[]).body.starts_with(b"The MIT License"));
}

#[test]
fn events_come_at_once_to_a_bounded_number_and_end_with_the_node() {
    let mut node = Node::new(free_port(), &[], "");
    node.run();
    let listen = || {
        let mut connection = Connection::open(&node.address());
        connection.send(&format!("GET /-/api/events HTTP/1.1\r\nHost: {}\r\n\r\n", node.address()));
        let (status, fields) = connection.head().unwrap();
        let kind = fields.into_iter().find(|(name, _)| name == "content-type").unwrap().1;
        (connection, status, kind)
    };
    let mut listeners = Vec::new();
    loop {
        let (connection, status, kind) = listen();
        if status != 200 {
            assert_eq!(status, 503, "come later");
            break;
        }
        assert_eq!(kind, "text/event-stream");
        listeners.push(connection);
        assert!(listeners.len() < 1000);
    }
    let first = String::from_utf8(listeners[0].read(200)).unwrap();
    assert!(first.contains("data: {\"sections\":{"), "{first}");
    // One goes, and there is room for another.
    listeners.pop();
    node.wait_for(|| listen().1 == 200);
    node.stop();
    for mut listener in listeners {
        let rest = listener.read(1 << 22);
        assert!(rest.ends_with(b"\n\n\r\n0\r\n\r\n"), "the stream is ended, not cut");
    }
}

#[test]
fn what_was_saved_outlives_the_node() {
    let (_origin, mut node, download) = busy();
    drop(download);
    node.wait_for(|| node.status()["history"]["total"]["misses"].as_u64() >= Some(1));
    node.stop();
    node.run();
    let history = &node.status()["history"];
    for since in ["today", "total"] {
        assert!(history[since]["bytes_to_clients"].as_u64() >= Some(12_000_000), "{history}");
        assert!(history[since]["bytes_from_upstream"].as_u64() < Some(9_000_000), "{history}");
    }
    assert_eq!(history["total"]["hits"], 3);
    let answer = node.ask("GET", "/-/api/history?span=month", &node.address(), &[]);
    let series: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
    let rates = series["upstream"].as_array().unwrap();
    assert!(rates.len() == 744 && rates.iter().any(|rate| rate.as_u64() > Some(0)), "{series}");
}

//! What a Squid is relieved of, measured: processor time, bytes and requests for the same downloads in each arrangement. Figures are
//! printed and not asserted, but for what cannot differ: how much passes through Squid and over the uplink.

use imirror_tests::content;
use imirror_tests::http::{Answer, Connection};
use imirror_tests::node::Node;
use imirror_tests::origin::{Origin, Page};
use imirror_tests::squid::Squid;

use crate::site::site_on;
use crate::squid::{addresses, deployed, snippet};

const PACKAGES: u64 = 20;
const BYTES: usize = 2_000_000;
/// Each fetches all packages, one after the other.
const CLIENTS: usize = 8;

struct Figures {
    cpu_seconds: f64,
    /// Bytes that it sent to clients, heads and all.
    sent: u64,
    requests: usize,
    uplink: usize,
    stored: u64,
}

fn path(number: u64) -> String {
    format!("/pool/p{number}_1_amd64.deb")
}

/// Through Squid; a redirect is followed as clients do, past it.
fn download(squid: &mut Connection, origin: &Origin, number: u64) {
    let (url, host) = (origin.url(&path(number)), origin.address());
    squid.send(&format!("GET {url} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
    let mut answer = squid.answer(false).expect("an answer");
    if let Some(to) = answer.field("location").map(ToOwned::to_owned) {
        let node = to.split('/').nth(2).unwrap().to_owned();
        let path = to.strip_prefix(&format!("http://{node}")).unwrap();
        answer = imirror_tests::http::request(&node, "GET", path, &node, &[]);
    }
    let Answer { status, body, .. } = answer;
    assert_eq!((status, body == content(number, BYTES)), (200, true), "{url}");
}

fn measure(lines: &str, origin: &Origin, squid: &mut Squid) -> Figures {
    let before = origin.sent(".deb");
    squid.configure(&format!("{lines}http_access allow localhost\n"));
    let made = squid.command(&["-N", "-z"]).status().unwrap();
    assert!(made.success());
    squid.run();
    let idle = squid.cpu_seconds();
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                let mut connection = Connection::open(squid.address());
                (0..PACKAGES).for_each(|number| download(&mut connection, origin, number));
            });
        }
    });
    let wanted = CLIENTS * usize::try_from(PACKAGES).unwrap();
    // Whoever looked whether it runs has a line, too.
    let log = || -> Vec<String> {
        squid.file("access.log").lines().filter(|line| line.contains(" GET ")).map(ToOwned::to_owned).collect()
    };
    squid.wait_for("the log", || log().len() >= wanted);
    let log = log();
    let figures = Figures {
        cpu_seconds: squid.cpu_seconds() - idle,
        sent: log.iter().map(|line| line.split_whitespace().nth(4).unwrap().parse::<u64>().unwrap()).sum(),
        requests: log.len(),
        uplink: origin.sent(".deb") - before,
        stored: stored(&squid.dir().join("cache")),
    };
    squid.stop();
    figures
}

/// Bytes of all files in a folder.
fn stored(folder: &std::path::Path) -> u64 {
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
    files
        .map(|file| match file.path() {
            path if path.is_dir() => stored(&path),
            path => path.metadata().map_or(0, |file| if path.ends_with("swap.state") { 0 } else { file.len() }),
        })
        .sum()
}

fn nodes(origin: &Origin) -> Vec<Node> {
    site_on(&addresses(2), &[origin.address()], |_| String::new())
}

#[test]
fn what_squid_is_relieved_of() {
    let origin = Origin::start();
    (0..PACKAGES).for_each(|number| origin.put(&path(number), Page::new(content(number, BYTES))));
    let all = BYTES * usize::try_from(PACKAGES).unwrap();
    let tell = |name: &str, it: &Figures| {
        eprintln!(
            "{name:28} {:6.2} CPU-s, {:6.1} MB in {} answers by Squid, {:5.1} MB stored by it, {:6.1} MB over the uplink",
            it.cpu_seconds,
            it.sent as f64 / 1e6,
            it.requests,
            it.stored as f64 / 1e6,
            it.uplink as f64 / 1e6
        );
    };
    let mut squid = Squid::new();
    let stores = format!(
        "cache_dir ufs {}/cache 1000 16 16\nmaximum_object_size 100 MB\ncache_mem 8 MB\n",
        squid.dir().display()
    );
    let alone = measure(&stores, &origin, &mut squid);
    tell("Squid alone", &alone);

    let site = nodes(&origin);
    let mut squid = Squid::new();
    let parents = measure(&snippet(&site[0], &[]), &origin, &mut squid);
    tell("nodes as parents", &parents);
    assert_eq!((parents.uplink, parents.stored), (all, 0));
    assert!(parents.sent > (all * CLIENTS) as u64);
    drop(site);

    let site = nodes(&origin);
    let mut squid = Squid::new();
    let program = format!("{} squid-rewrite --node {} --all --redirect", squid.imirror(), site[0].address());
    let lines = deployed("rewrite.conf", &[("/usr/bin/imirror squid-rewrite", &program)]);
    let redirected = measure(&lines, &origin, &mut squid);
    tell("redirected to the nodes", &redirected);
    assert_eq!(redirected.stored, 0);
    // A node that does not answer the helper program in time, on a busy machine, is passed by: that goes through Squid and not twice.
    let fetched: u64 = site.iter().map(|node| node.status()["traffic"]["bytes_from_upstream"].as_u64().unwrap()).sum();
    assert!(fetched <= all as u64 && fetched > 0, "{fetched} by the nodes");
    assert!(
        redirected.uplink as u64 <= fetched + redirected.sent,
        "{} in all, {fetched} by the nodes",
        redirected.uplink
    );
}

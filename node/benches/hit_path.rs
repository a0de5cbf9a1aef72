//! What one hit costs, stage by stage, without a connection: `cargo bench -p imirror --bench hit_path`.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use divan::{Bencher, black_box};
use http::header::{HOST, RANGE};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};
use imirror::classify::{KeyHash, Url, cache_key, classify};
use imirror::cluster::site::Site;
use imirror::config::{self, CacheSize, Freshness, Other, Window};
use imirror::flight::Flights;
use imirror::journey::{Asked, Content, Journey, LineRef, Options, Reply, range};
use imirror::ledger::{AccessLog, Ledger, Outcome, Record, Subject};
use imirror::os::clock::Clock;
use imirror::repos::Configured;
use imirror::store::{self, Head, Plan, Store};
use imirror::upstream::{Own, Upstreams};
use tokio::runtime::{Builder, Runtime};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    divan::main();
}

/// Sizes of objects: kept in memory, of one group, and mapped.
const SIZES: [u64; 3] = [4 * 1024, 20 * 1024, 1024 * 1024];

/// A node without a door, with an object of each size.
struct Node {
    runtime: Runtime,
    journey: Journey,
    clock: Clock,
    folder: tempfile::TempDir,
}

static NODE: LazyLock<Node> = LazyLock::new(|| {
    let runtime = Builder::new_multi_thread().worker_threads(1).build().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let clock = Clock::system();
    let dir = folder.path().to_owned();
    let size = CacheSize::Bytes(1 << 30);
    let options = store::Options { dir, size, memory_size: 64 << 20, open_files: 1000, clock: clock.clone() };
    let store = Store::open(options).unwrap();
    let upstream = config::Upstream { proxy: None, no_proxy: Vec::new(), allow: Vec::new(), rate_limit: None };
    let upstreams = Upstreams::new(&upstream, Own { port: 3142, addresses: Vec::new() }, clock.clone());
    let ledger = Ledger::new(None);
    let site = Site::alone();
    let flights = Flights::new(store.clone(), upstreams.clone(), site.clone(), ledger.clone(), clock.clone());
    let freshness = Freshness { metadata: Window::Revalidate, package: Window::Immutable, other: Other::Pass };
    let repos = Arc::new(Configured::new(&BTreeMap::new()).unwrap());
    let generations = Arc::default();
    let options = Options { name: "lab1".into(), freshness, repos, generations, copy_rate: None };
    let journey = Journey::new(options, store, flights, upstreams, site, ledger, clock.clone()).unwrap();
    let node = Node { runtime, journey, clock, folder };
    for size in SIZES {
        node.put(size);
        // Twice: the second is remembered from the first.
        node.answer(size);
        assert!(node.at_once(size).is_some());
    }
    node
});

impl Node {
    fn put(&self, size: u64) {
        let url = url(size);
        let mut fields = HeaderMap::new();
        for (name, value) in [
            ("content-type", "application/vnd.debian.binary-package"),
            ("last-modified", "Mon, 02 Jan 2023 03:04:05 GMT"),
            ("etag", "\"5f1418ec91b80\""),
        ] {
            fields.insert(name, HeaderValue::from_static(value));
        }
        let head = Head { status: StatusCode::OK, fields };
        let class = classify(&url).class;
        let plan = Plan { key: url.key_hash(), url, class, head, total: Some(size), digest: None, confirmed_at: None };
        self.runtime.block_on(async {
            let growing = self.journey.store().begin(plan).unwrap();
            growing.write_at(0, &vec![7; size as usize]).unwrap();
            growing.seal(size).unwrap();
            growing.publish().unwrap();
        });
    }

    /// The long way.
    fn answer(&self, size: u64) -> Reply {
        let url = url(size);
        let (method, uri, fields) = request(size);
        let line = LineRef::of(&method, &uri, &fields).map(LineRef::to_line);
        let asked = Asked { method, key: cache_key(&url), sources: vec![url.clone()], url, fields, line, client: None };
        self.runtime.block_on(self.journey.answer(asked, None))
    }

    /// The short cut.
    fn at_once(&self, size: u64) -> Option<Reply> {
        let (method, uri, fields) = request(size);
        let line = LineRef::of(&method, &uri, &fields)?;
        self.journey.at_once(line, self.clock.now()).map(|found| found.reply())
    }

    fn key(&self, size: u64) -> KeyHash {
        cache_key(&url(size)).key_hash()
    }
}

fn text(size: u64) -> String {
    format!("http://example.org/debian/pool/main/p/package/package_{size}-1_amd64.deb")
}

fn url(size: u64) -> Url {
    Url::parse(&text(size)).unwrap()
}

fn request(size: u64) -> (Method, Uri, HeaderMap) {
    let mut fields = HeaderMap::new();
    fields.insert(HOST, HeaderValue::from_static("example.org"));
    fields.insert("user-agent", HeaderValue::from_static("Debian APT-HTTP/1.3 (2.6.1)"));
    (Method::GET, text(size).parse().unwrap(), fields)
}

#[divan::bench(args = SIZES)]
fn plain_hit_at_once(bencher: Bencher<'_, '_>, size: u64) {
    let node = &*NODE;
    let (method, uri, fields) = request(size);
    bencher.bench(|| {
        let line = LineRef::of(black_box(&method), &uri, &fields).unwrap();
        let now = node.clock.now();
        let found = node.journey.at_once(line, now).unwrap();
        node.journey.takes(&found, now);
        let reply = found.reply();
        assert!(matches!(reply.content, Content::Stored(..)));
        reply
    });
}

/// All of the fast path but for the connection.
#[divan::bench(args = SIZES)]
fn plain_hit_on_the_fast_path(bencher: Bencher<'_, '_>, size: u64) {
    let node = &*NODE;
    let agent = "Debian APT-HTTP/1.3 (2.6.1)";
    let text = format!("GET {} HTTP/1.1\r\nHost: example.org\r\nUser-Agent: {agent}\r\n\r\n", text(size));
    bencher.bench(|| {
        let mut fields = [httparse::EMPTY_HEADER; 16];
        let mut request = httparse::Request::new(&mut fields);
        assert!(request.parse(black_box(text.as_bytes())).unwrap().is_complete());
        let fields = request.headers.iter().map(|field| (field.name, field.value));
        let line = LineRef::read(request.method.unwrap(), request.path.unwrap(), fields).unwrap();
        let now = node.clock.now();
        let found = node.journey.at_once(line, now).unwrap();
        assert!(found.hot.blob.ready_in(&(0..size), now).is_some());
        node.journey.takes(&found, now);
        found
    });
}

#[divan::bench(args = SIZES)]
fn hit_the_long_way(bencher: Bencher<'_, '_>, size: u64) {
    let node = &*NODE;
    bencher.bench(|| {
        let reply = node.answer(black_box(size));
        assert!(matches!(reply.outcome, Outcome::Hit | Outcome::MemoryHit));
        reply
    });
}

#[divan::bench]
fn range_the_long_way(bencher: Bencher<'_, '_>) {
    let node = &*NODE;
    let size = SIZES[2];
    bencher.bench(|| {
        let (method, _, mut fields) = request(size);
        fields.insert(RANGE, HeaderValue::from_static("bytes=1000-1999"));
        let url = url(size);
        let asked =
            Asked { method, key: cache_key(&url), sources: vec![url.clone()], url, fields, line: None, client: None };
        let reply = node.runtime.block_on(node.journey.answer(asked, None));
        assert_eq!(reply.status, StatusCode::PARTIAL_CONTENT);
        reply
    });
}

#[divan::bench]
fn parse_classify_and_key() -> (Url, KeyHash) {
    let url = Url::parse(black_box("http://example.org/debian/pool/main/p/package/package_1.0-1_amd64.deb")).unwrap();
    black_box(classify(&url));
    let key = cache_key(&url);
    let hash = key.key_hash();
    (key, hash)
}

#[divan::bench]
fn look_up_hot(bencher: Bencher<'_, '_>) {
    let (store, key) = (NODE.journey.store(), NODE.key(SIZES[1]));
    bencher.bench(|| store.lookup_hot(black_box(&key)).unwrap());
}

/// In the index's page cache, not among what is hot: with the way to the thread that may block, and back.
#[divan::bench]
fn look_up_in_the_index(bencher: Bencher<'_, '_>) {
    let node = &*NODE;
    let absent = KeyHash([0x55; 16]);
    bencher.bench(|| node.runtime.block_on(node.journey.store().lookup(black_box(absent))).unwrap());
}

#[divan::bench(args = SIZES)]
fn bytes_ready(bencher: Bencher<'_, '_>, size: u64) {
    let hot = NODE.journey.store().lookup_hot(&NODE.key(size)).unwrap();
    bencher.bench(|| hot.blob.ready(black_box(0..size), NODE.clock.now()).unwrap());
}

#[divan::bench(args = [1, 16, 256])]
fn select_ranges(bencher: Bencher<'_, '_>, count: u64) {
    let specs: Vec<_> = (0..count).map(|i| format!("{}-{}", i * 4000, i * 4000 + 999)).collect();
    let field = format!("bytes={}", specs.join(","));
    bencher.bench(|| match range::parse(black_box(&field), SIZES[2]) {
        range::Wanted::Several(ranges) => {
            range::multipart(&ranges, SIZES[2], Some("application/zip"), b"seed").unwrap().length
        }
        range::Wanted::One(range) => range.end - range.start,
        other => panic!("{other:?}"),
    });
}

#[divan::bench(args = [false, true])]
fn ledger_entry(bencher: Bencher<'_, '_>, with_access_log: bool) {
    let path = NODE.folder.path().join("access.log");
    let log = with_access_log.then(|| AccessLog::open(config::AccessLog::Squid, &path).unwrap().unwrap());
    let ledger = Ledger::new(log);
    let record = Record {
        finished: NODE.clock.now(),
        elapsed: Duration::from_micros(150),
        client: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7)),
        method: "GET",
        url: "http://example.org/debian/pool/main/p/package/package_1.0-1_amd64.deb",
        status: 200,
        bytes: SIZES[1],
        outcome: Outcome::Hit,
        subject: Subject::Package,
        from: None,
        content_type: Some("application/vnd.debian.binary-package"),
        user_agent: Some("Debian APT-HTTP/1.3 (2.6.1)"),
        referer: None,
        aborted: false,
        fault: None,
    };
    bencher.bench(|| {
        let record = black_box(&record);
        ledger.ended(record.outcome, record.subject, record.aborted, record.fault);
        if let Some(log) = ledger.access_log() {
            log.write(record);
        }
    });
}

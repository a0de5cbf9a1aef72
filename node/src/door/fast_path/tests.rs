//! The fast path by itself, and a whole door over loopback, with a store as a node has it.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use http::Uri;
use proptest::prelude::*;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::*;
use crate::classify::{Url, cache_key, classify};
use crate::cluster::site::Site;
use crate::config::{self, CacheSize, Freshness, Other, Window};
use crate::door::client::Door;
use crate::door::pages::tests::Fake;
use crate::flight::Flights;
use crate::journey::{Asked, Journey, Options};
use crate::ledger::Ledger;
use crate::ledger::metrics::{self, SiteCounts};
use crate::ledger::status::{self, Health};
use crate::os::clock::Clock;
use crate::os::tasks;
use crate::repos::Configured;
use crate::store::{self, Head, Plan, Store};
use crate::upstream::{Own, Upstreams};

const LIMIT: Duration = Duration::from_secs(60);

/// Of objects: in memory, mapped and never looked for twice, mapped, the last of the fast path, and the first that is not.
const SIZES: [u64; 5] = [5000, 20_000, 100_000, OBJECT_MAX, OBJECT_MAX + 1];

struct Node {
    door: Arc<Door>,
    store: Store,
    clock: Clock,
    _dir: TempDir,
}

fn content(size: u64) -> Vec<u8> {
    (0..size).map(|i| (i * 37 % 241) as u8 ^ (i >> 12) as u8 ^ size as u8).collect()
}

fn url(size: u64) -> String {
    format!("http://example.org/pool/p{size}_1.0_amd64.deb")
}

/// A plain request as apt makes it.
fn plain(size: u64) -> String {
    format!("GET {} HTTP/1.1\r\nHost: example.org\r\nUser-Agent: Debian APT-HTTP/1.3 (2.6.1)\r\n\r\n", url(size))
}

impl Node {
    /// Has an object of each size, and a short cut to it.
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let clock = Clock::manual(Timestamp(1_000_000_000_000));
        let size = CacheSize::Bytes(64 << 20);
        let options = store::Options {
            dir: dir.path().to_owned(),
            size,
            memory_size: 1 << 20,
            open_files: 100,
            clock: clock.clone(),
        };
        let store = Store::open(options).unwrap();
        let upstream = config::Upstream { proxy: None, no_proxy: Vec::new(), allow: Vec::new(), rate_limit: None };
        let upstreams = Upstreams::new(&upstream, Own { port: 1, addresses: Vec::new() }, clock.clone());
        let (ledger, site) = (Ledger::new(None), Site::alone());
        let flights = Flights::new(store.clone(), upstreams.clone(), site.clone(), ledger.clone(), clock.clone());
        let package = Window::For(Duration::from_secs(1000));
        let freshness = Freshness { metadata: Window::Revalidate, package, other: Other::Pass };
        let repos = Arc::new(Configured::new(&BTreeMap::new()).unwrap());
        let generations = Arc::default();
        let options = Options { name: "lab1".into(), freshness, repos: repos.clone(), generations, copy_rate: None };
        let journey =
            Journey::new(options, store.clone(), flights, upstreams, site, ledger.clone(), clock.clone()).unwrap();
        let clients = config::Clients { allow: vec!["127.0.0.0/8".parse().unwrap()], connect_ports: Vec::new() };
        let operations = Arc::new(Fake::default());
        let door =
            Arc::new(Door { journey, repos, clients, ledger, operations, name: "lab1".into(), clock: clock.clone() });
        let node = Self { door, store, clock, _dir: dir };
        for size in SIZES {
            node.put(size);
            node.remember(size).await;
        }
        node
    }

    fn put(&self, size: u64) {
        let url = Url::parse(&url(size)).unwrap();
        let mut fields = HeaderMap::new();
        fields.insert("content-type", HeaderValue::from_static("application/vnd.debian.binary-package"));
        fields.insert("x-seen-by", HeaderValue::from_static("nobody"));
        let head = Head { status: http::StatusCode::OK, fields };
        let class = classify(&url).class;
        let plan = Plan { key: url.key_hash(), url, class, head, total: Some(size), digest: None, confirmed_at: None };
        let growing = self.store.begin(plan).unwrap();
        growing.write_at(0, &content(size)).unwrap();
        growing.seal(size).unwrap();
        growing.publish().unwrap();
    }

    /// The first answer from the store is what is remembered.
    async fn remember(&self, size: u64) {
        let (url, uri) = (Url::parse(&url(size)).unwrap(), url(size).parse::<Uri>().unwrap());
        let mut fields = HeaderMap::new();
        fields.insert("host", HeaderValue::from_static("example.org"));
        let line = LineRef::of(&Method::GET, &uri, &fields).map(LineRef::to_line);
        assert!(line.is_some());
        let (key, sources) = (cache_key(&url), vec![url.clone()]);
        let asked = Asked { method: Method::GET, key, sources, url, fields, line, client: None };
        assert_eq!(self.door.journey.answer(asked, None).await.status, 200);
    }

    /// Both ends of a connection.
    async fn connection(&self) -> (Arc<Client>, SendfileStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let theirs = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let stream = SendfileStream::new(listener.accept().await.unwrap().0);
        let client = Client::of(self.door.clone(), IpAddr::V4(Ipv4Addr::LOCALHOST), None, stream.outbox());
        (client, stream, theirs)
    }

    fn answered(&self) -> u64 {
        self.door.ledger.traffic().hits
    }
}

/// An answer and its body.
async fn answer(stream: &mut (impl AsyncReadExt + Unpin), with_body: bool) -> (String, Vec<u8>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    let head = String::from_utf8(head).unwrap();
    let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: ")).unwrap();
    let mut body = vec![0; if with_body { length.parse().unwrap() } else { 0 }];
    stream.read_exact(&mut body).await.unwrap();
    (head, body)
}

#[tokio::test]
async fn plain_requests_are_answered_and_the_rest_is_handed_over_byte_for_byte() {
    let node = Node::new().await;
    let before = node.answered();
    let (client, mut stream, mut theirs) = node.connection().await;
    let rest =
        format!("GET {} HTTP/1.1\r\nHost: example.org\r\nRange: bytes=0-9\r\n\r\n{}half a", url(5000), plain(5000));
    let reader = tasks::spawn("test", async move {
        for size in &SIZES[..4] {
            theirs.write_all(plain(*size).as_bytes()).await.unwrap();
        }
        theirs.write_all(rest.as_bytes()).await.unwrap();
        for size in &SIZES[..4] {
            let (head, body) = answer(&mut theirs, true).await;
            assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
            for line in ["Content-Type: application/vnd.debian.binary-package", "X-Seen-By: nobody", "Age: 0"] {
                assert_eq!(head.lines().filter(|l| *l == line).count(), 1, "{line}: {head}");
            }
            assert!(body == content(*size), "{size}");
        }
        theirs.shutdown().await.unwrap();
        rest
    });
    let mut fast = FastPath::new(&client, &mut stream, LIMIT);
    assert_eq!(std::future::poll_fn(|cx| fast.poll(cx)).await, End::HandedOver);
    let mut left = Vec::new();
    stream.read_to_end(&mut left).await.unwrap();
    assert_eq!(String::from_utf8(left).unwrap(), reader.await.unwrap());
    assert_eq!(node.answered() - before, 4);
}

#[tokio::test]
async fn what_is_not_simple_is_handed_over() {
    let node = Node::new().await;
    let hot = url(5000);
    let get = |line: &str, fields: &str| format!("{line}\r\nHost: example.org\r\n{fields}\r\n");
    let many: String = (0..FIELDS_MAX).map(|_| "Accept: */*\r\n").collect();
    let long = format!("Referer: {}\r\n", "r".repeat(INPUT_MAX));
    for request in [
        plain(SIZES[4]),
        get("GET http://example.org/pool/unknown_1.0_amd64.deb HTTP/1.1", ""),
        get(&format!("HEAD {hot} HTTP/1.1"), ""),
        get(&format!("GET {hot} HTTP/1.0"), "Connection: keep-alive\r\n"),
        get(&format!("GET {hot} HTTP/1.1"), "Connection: close\r\n"),
        get(&format!("GET {hot} HTTP/1.1"), "Content-Length: 0\r\n"),
        get(&format!("GET {hot} HTTP/1.1"), "Transfer-Encoding: chunked\r\n"),
        get(&format!("GET {hot} HTTP/1.1"), "Host: example.org\r\n"),
        get(&format!("GET {hot} HTTP/1.1"), " folded\r\n"),
        get(&format!("GET  {hot} HTTP/1.1"), ""),
        get(&format!("GET {hot} HTTP/1.1"), &many),
        get(&format!("GET {hot} HTTP/1.1"), &long),
        get(&format!("GET {}#a HTTP/1.1", url(5000)), ""),
        get(&format!("GET {} HTTP/1.1", hot.replace("http", "HTTP")), ""),
        format!("GET {hot} HTTP/1.1\r\n\r\n"),
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".into(),
        "\u{16}\u{3}\u{1}\0\u{5}hello".into(),
    ] {
        let before = node.answered();
        let (client, mut stream, mut theirs) = node.connection().await;
        theirs.write_all(request.as_bytes()).await.unwrap();
        theirs.shutdown().await.unwrap();
        let mut fast = FastPath::new(&client, &mut stream, LIMIT);
        assert_eq!(std::future::poll_fn(|cx| fast.poll(cx)).await, End::HandedOver, "{request}");
        let mut left = Vec::new();
        stream.read_to_end(&mut left).await.unwrap();
        assert_eq!(String::from_utf8(left).unwrap(), request);
        assert_eq!(node.answered(), before, "{request}");
    }
}

#[tokio::test]
async fn what_needs_a_question_or_a_disk_is_handed_over() {
    let node = Node::new().await;
    let end = async || {
        let (client, mut stream, mut theirs) = node.connection().await;
        theirs.write_all(plain(20_000).as_bytes()).await.unwrap();
        theirs.shutdown().await.unwrap();
        let mut fast = FastPath::new(&client, &mut stream, LIMIT);
        std::future::poll_fn(|cx| fast.poll(cx)).await
    };
    assert_eq!(end().await, End::Closed, "the client goes after its answer");
    // Its file is another now.
    let object = node.store.lookup_hot(&Url::parse(&url(20_000)).unwrap().key_hash()).unwrap().entry.object;
    let name = object.to_string();
    let path = node._dir.path().join("objects").join(&name[..2]).join(&name);
    let file = std::fs::File::options().write(true).open(path).unwrap();
    let modified = file.metadata().unwrap().modified().unwrap();
    file.set_modified(modified + Duration::from_secs(5)).unwrap();
    node.clock.advance(Duration::from_secs(1));
    assert_eq!(end().await, End::HandedOver);
    file.set_modified(modified).unwrap();
    assert_eq!(end().await, End::Closed, "it is what it was");
    node.clock.advance(Duration::from_secs(1000));
    assert_eq!(end().await, End::HandedOver, "upstream is to be asked whether it is current");
}

#[tokio::test]
async fn a_client_that_does_not_read_holds_what_it_is_sent_and_gets_all_of_it() {
    let node = Node::new().await;
    let (client, mut stream, mut theirs) = node.connection().await;
    let size = OBJECT_MAX;
    let count = 100;
    theirs.write_all(plain(size).repeat(count).as_bytes()).await.unwrap();
    let mut fast = FastPath::new(&client, &mut stream, LIMIT);
    // Nobody reads: at some time the kernel takes no more.
    let mut turns = 0;
    while fast.is_between_answers() {
        let end = std::future::poll_fn(|cx| Poll::Ready(fast.poll(cx))).await;
        assert!(end.is_pending());
        turns += 1;
        assert!(turns < 1000);
        tokio::task::yield_now().await;
    }
    let hot = node.store.lookup_hot(&Url::parse(&url(size)).unwrap().key_hash()).unwrap();
    assert!(Arc::strong_count(&hot.blob) > 1, "it is in use");
    drop(hot);
    let reader = tasks::spawn("test", async move {
        let wanted = content(size);
        for _ in 0..count {
            assert!(answer(&mut theirs, true).await.1 == wanted);
        }
    });
    assert_eq!(std::future::poll_fn(|cx| fast.poll(cx)).await, End::Closed);
    reader.await.unwrap();
}

#[tokio::test]
async fn a_client_that_goes_in_the_middle_is_counted_so() {
    let node = Node::new().await;
    let (client, mut stream, mut theirs) = node.connection().await;
    theirs.write_all(plain(OBJECT_MAX).repeat(100).as_bytes()).await.unwrap();
    let mut fast = FastPath::new(&client, &mut stream, LIMIT);
    while fast.is_between_answers() {
        assert!(std::future::poll_fn(|cx| Poll::Ready(fast.poll(cx))).await.is_pending());
        tokio::task::yield_now().await;
    }
    drop(theirs);
    assert_eq!(std::future::poll_fn(|cx| fast.poll(cx)).await, End::Closed);
    let metrics =
        metrics::render(&node.door.ledger, &status::Status::example(), &Health::default(), SiteCounts::default());
    assert!(metrics.contains("imirror_client_aborts_total 1\n"));
}

#[tokio::test(start_paused = true)]
async fn who_does_not_ask_is_not_waited_for() {
    let clock = Clock::manual(Timestamp(0));
    let mut patience =
        Patience { limit: LIMIT, idle_since: clock.now(), timer: Box::pin(tokio::time::sleep(LIMIT)), is_armed: false };
    let start = Instant::now();
    let mut asked = [30, 50, 100].map(Duration::from_secs).into_iter();
    let mut next = asked.next();
    std::future::poll_fn(|cx| {
        clock.advance(start.elapsed().saturating_sub(clock.now().since(Timestamp(0))));
        while let Some(at) = next.filter(|at| start.elapsed() >= *at) {
            patience.idle_since = Timestamp(0) + at;
            next = asked.next();
        }
        let over = patience.poll(cx, || clock.now());
        if over.is_pending() && next.is_some() {
            // A request comes.
            let waker = cx.waker().clone();
            let at = next;
            tasks::spawn("test", async move {
                tokio::time::sleep_until(start + at.unwrap_or_default()).await;
                waker.wake();
            });
        }
        over
    })
    .await;
    assert_eq!(start.elapsed().as_secs(), 160);
}

/// Requests in rows, plain ones and others, cut anywhere: each has its own answer, in order.
#[test]
fn rows_of_requests_by_both_paths() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let node = runtime.block_on(Node::new());
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
    let address = listener.local_addr().unwrap();
    let (_stop, stopping) = watch::channel(false);
    let door = runtime.spawn(node.door.clone().serve(listener, stopping));
    let requests = prop::collection::vec((0..SIZES.len(), 0..6u8), 1..14);
    proptest!(ProptestConfig::with_cases(150), |(row in requests, cut in any::<prop::sample::Index>())| {
        let mut text = String::new();
        for (which, kind) in &row {
            let request = plain(SIZES[*which]);
            text += &match kind {
                0 => request.replace("Host:", "Range: bytes=100-4099\r\nHost:"),
                1 => request.replace("GET", "HEAD"),
                _ => request,
            };
        }
        let (first, second) = text.split_at(cut.index(text.len()));
        runtime.block_on(async {
            let stream = TcpStream::connect(address).await.unwrap();
            stream.set_nodelay(true).unwrap();
            let (reading, mut writing) = stream.into_split();
            let (first, second) = (first.to_owned(), second.to_owned());
            let writer = tasks::spawn("test", async move {
                writing.write_all(first.as_bytes()).await.unwrap();
                tokio::task::yield_now().await;
                writing.write_all(second.as_bytes()).await.unwrap();
                writing
            });
            let mut reading = tokio::io::BufReader::new(reading);
            for (which, kind) in row {
                let whole = content(SIZES[which]);
                let (status, wanted) = match kind {
                    0 => (206, &whole[100..4100]),
                    1 => (200, &[][..]),
                    _ => (200, &whole[..]),
                };
                let (head, body) = answer(&mut reading, kind != 1).await;
                assert!(head.starts_with(&format!("HTTP/1.1 {status} ")) && body == wanted, "{kind} {head}");
            }
            drop(writer.await.unwrap());
            assert_eq!(reading.read(&mut [0]).await.unwrap(), 0, "nothing more comes");
        });
    });
    door.abort();
}

proptest! {
    #[test]
    fn a_head_is_partial_until_it_is_whole(sizes in prop::collection::vec(0..SIZES.len(), 1..4)) {
        let text: String = sizes.iter().map(|which| plain(SIZES[*which])).collect();
        let first = plain(SIZES[sizes[0]]).len();
        for end in 0..text.len() {
            let mut fields = [MaybeUninit::uninit(); FIELDS_MAX];
            match Plain::read(&text.as_bytes()[..end], &mut fields) {
                Some(Status::Partial) => prop_assert!(end < first),
                Some(Status::Complete((_, len))) => prop_assert!(end >= first && len == first),
                None => prop_assert!(false, "it is plain"),
            }
        }
    }
}

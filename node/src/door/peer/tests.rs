//! The door against the client of the other nodes, over a stream in memory, with a store and downloads as a node has them.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use futures_util::FutureExt;
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use imirror_protocol::Key;
use proptest::prelude::*;
use tempfile::TempDir;
use tokio::io::{DuplexStream, duplex};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::classify::{Algorithm, Class, Digest, Url};
use crate::cluster::description::understand;
use crate::cluster::site::Site;
use crate::cluster::transfer::{self, Following, Incoming, Known, Patience, Question, Reply, Trouble, What};
use crate::config::{self, AllowedDestination, CacheSize};
use crate::flight::{Departure, Flight, HELD_BACK, Source};
use crate::os::clock::Timestamp;
use crate::store::{Head, Options, Plan, Store};
use crate::upstream::{self, Own, Upstreams};

const PEER: NodeId = NodeId([1; 16]);
const OTHER: NodeId = NodeId([2; 16]);
const A: &str = "http://example.org/a.rpm";
const G: usize = GROUP as usize;

/// No test waits for it: what takes so long has failed.
const LONG: Duration = Duration::from_secs(600);

fn content(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 37 % 241) as u8 ^ (i >> 16) as u8).collect()
}

/// A node without a network.
struct Node {
    store: Store,
    flights: Flights,
    upstreams: Upstreams,
    ledger: Arc<Ledger>,
    clock: Clock,
    door: PeerDoor,
}

impl Node {
    fn new(dir: &TempDir) -> Self {
        Self::with(dir, Limits { request: LONG, stall: LONG, ..Limits::default() })
    }

    fn with(dir: &TempDir, limits: Limits) -> Self {
        let clock = Clock::manual(Timestamp(1_000_000_000_000));
        let size = CacheSize::Bytes(64 << 20);
        let dir = dir.path().to_owned();
        let options = Options { dir, size, memory_size: 1 << 20, open_files: 100, clock: clock.clone() };
        let store = Store::open(options).unwrap();
        let allow = vec![AllowedDestination { net: "127.0.0.1/32".parse().unwrap(), port: None }];
        let config = config::Upstream { proxy: None, no_proxy: Vec::new(), allow, rate_limit: None };
        let upstreams = Upstreams::new(&config, Own { port: 1, addresses: Vec::new() }, clock.clone());
        let ledger = Ledger::new(None);
        let flights = Flights::new(store.clone(), upstreams.clone(), Site::alone(), ledger.clone(), clock.clone());
        let door = PeerDoor::new(flights.clone(), ledger.clone(), clock.clone(), limits);
        Self { store, flights, upstreams, ledger, clock, door }
    }

    fn put(&self, content: &[u8]) -> Arc<Entry> {
        let growing = self.store.begin(plan(A, Some(content.len()))).unwrap();
        growing.write_at(0, content).unwrap();
        growing.hash_available().unwrap();
        growing.seal(content.len() as u64).unwrap();
        growing.publish().unwrap()
    }

    /// Begins a download; the test is the server at the other end of the stream.
    async fn fly(&self, origin: &Origin, total: Option<usize>, digest: Option<Digest>) -> (Arc<Flight>, TcpStream) {
        self.depart(origin, total, digest, true).await
    }

    async fn depart(
        &self,
        origin: &Origin,
        total: Option<usize>,
        digest: Option<Digest>,
        keep: bool,
    ) -> (Arc<Flight>, TcpStream) {
        let url = origin.url();
        let patience = upstream::Patience { connect: LONG, head: LONG, stall: LONG };
        let request =
            upstream::Request { method: Method::GET, url: url.clone(), fields: HeaderMap::new(), body: None, patience };
        let (answer, server) = tokio::join!(self.upstreams.fetch(request), origin.answer(total));
        let plan = Plan { digest, ..plan(url.as_str(), total) };
        let source = Source::Upstream(Box::new(answer.unwrap()));
        let departure = Departure { keep, ..Departure::new(plan, source, vec![url], HeaderMap::new()) };
        let Ok(flight) = self.flights.start(departure).await else { panic!("not begun") };
        (flight, server)
    }

    /// Asks, with the stream's other end at the door; what `hear` makes of the reply, and how it ended at the door.
    async fn ask<T>(
        &self,
        question: Question,
        hear: impl AsyncFnOnce(Result<Reply<DuplexStream>, Trouble>) -> T,
    ) -> (T, Ended) {
        let (mine, theirs) = duplex(16 * 1024);
        let asked = async { hear(transfer::ask(OTHER, mine, &question, patient()).await).await };
        tokio::join!(asked, self.door.serve(PEER, theirs))
    }

    /// Asks for what is stored, whole or in part: the pieces, and how it ended at both ends.
    async fn receive(&self, question: Question) -> (Vec<(u64, Vec<u8>)>, Result<(), Trouble>, Ended) {
        let ((pieces, end), ended) = self.ask(question, async |reply| drain(finished(reply)).await).await;
        (pieces, end, ended)
    }
}

/// The world outside: it says nothing that a test does not make it say.
struct Origin(TcpListener);

impl Origin {
    async fn start() -> Self {
        Self(TcpListener::bind("127.0.0.1:0").await.unwrap())
    }

    fn url(&self) -> Url {
        Url::parse(&format!("http://{}/a.rpm", self.0.local_addr().unwrap())).unwrap()
    }

    async fn answer(&self, total: Option<usize>) -> TcpStream {
        let (mut stream, _) = self.0.accept().await.unwrap();
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            request.push(stream.read_u8().await.unwrap());
        }
        let length = total.map_or_else(String::new, |total| format!("content-length: {total}\r\n"));
        let head = format!("HTTP/1.1 200 OK\r\netag: \"1\"\r\nconnection: close\r\n{length}\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        stream
    }

    /// Has anybody come whom the test has not let in?
    fn was_asked(&self) -> bool {
        self.0.accept().now_or_never().is_some()
    }
}

fn plan(url: &str, total: Option<usize>) -> Plan {
    let url = Url::parse(url).unwrap();
    let fields = HeaderMap::from_iter([(http::header::ETAG, HeaderValue::from_static("\"1\""))]);
    let head = Head { status: StatusCode::OK, fields };
    let total = total.map(|total| total as u64);
    Plan { key: url.key_hash(), url, class: Class::Package, head, total, digest: None, confirmed_at: None }
}

fn patient() -> Patience {
    Patience { first_byte: LONG, stall: LONG }
}

fn question(url: &str) -> Question {
    let key = Url::parse(url).unwrap().key_hash();
    Question { key: Key(key.0), known: Known::Nothing, want: Want::Content, spans: Vec::new() }
}

fn spans(ranges: &[Range<usize>]) -> Vec<Span> {
    ranges.iter().map(|range| Span { start: range.start as u64, end: range.end as u64 }).collect()
}

fn finished<S>(reply: Result<Reply<S>, Trouble>) -> Incoming<S> {
    match reply {
        Ok(Reply::Finished(incoming)) => incoming,
        Ok(_) => panic!("not finished"),
        Err(trouble) => panic!("{trouble}"),
    }
}

fn growing<S>(reply: Result<Reply<S>, Trouble>) -> Following<S> {
    match reply {
        Ok(Reply::Growing(following)) => following,
        Ok(_) => panic!("not growing"),
        Err(trouble) => panic!("{trouble}"),
    }
}

async fn drain(mut incoming: Incoming<DuplexStream>) -> (Vec<(u64, Vec<u8>)>, Result<(), Trouble>) {
    let mut pieces = Vec::new();
    loop {
        match incoming.next().await {
            Ok(Some((offset, bytes))) => pieces.push((offset, bytes.to_vec())),
            Ok(None) => return (pieces, Ok(())),
            Err(trouble) => return (pieces, Err(trouble)),
        }
    }
}

/// Reads a growing object until so many bytes of it have come.
async fn follow_until(following: &mut Following<DuplexStream>, got: &mut Vec<u8>, length: usize) {
    while got.len() < length {
        let (offset, bytes) = following.next().await.unwrap().unwrap();
        assert_eq!(offset, got.len() as u64);
        got.extend_from_slice(&bytes);
    }
    assert_eq!(got.len(), length);
}

fn joined(pieces: &[(u64, Vec<u8>)]) -> Vec<u8> {
    pieces.iter().flat_map(|(_, bytes)| bytes.clone()).collect()
}

#[tokio::test]
async fn what_is_stored_comes_whole_and_is_described() {
    for len in [0, 1, G - 1, G, G + 1, 3 * G + 5, 9 * G] {
        let dir = tempfile::tempdir().unwrap();
        let (node, content) = (Node::new(&dir), content(len));
        let entry = node.put(&content);
        node.clock.advance(Duration::from_secs(7));
        let hear = async |reply| {
            let incoming = finished(reply);
            let told = incoming.finished().clone();
            (told, drain(incoming).await)
        };
        let ((told, (pieces, end)), ended) = node.ask(question(A), hear).await;
        assert_eq!((joined(&pieces) == content, end, ended), (true, Ok(()), Ended::Sent), "{len}");
        assert_eq!((told.object, told.size), (entry.object.0, len as u64));
        assert_eq!((told.stored_age, told.confirmed_age), (7000, 7000));
        let described = understand(&entry.key, &told.description).unwrap();
        assert_eq!((described.url.as_str(), described.head, described.class), (A, entry.head.clone(), Class::Package));
        assert_eq!(node.ledger.traffic().bytes_to_peers, len as u64);
    }
}

#[tokio::test]
async fn spans_come_in_whole_groups_with_and_without_the_list() {
    let dir = tempfile::tempdir().unwrap();
    let (node, content) = (Node::new(&dir), content(5 * G + 5));
    let entry = node.put(&content);
    let (list, _) = node.ask(question(A), async |reply| finished(reply).list().clone()).await;
    let cases: [(&[Range<usize>], &[usize]); 5] = [
        (std::slice::from_ref(&(0..1)), &[0]),
        (&[G - 1..G + 1, 5 * G..usize::MAX], &[0, 1, 5]),
        (&[4 * G..4 * G + 1, 2 * G..3 * G], &[2, 4]),
        (std::slice::from_ref(&(3 * G..3 * G)), &[]),
        (std::slice::from_ref(&(6 * G..7 * G)), &[]),
    ];
    for (ranges, groups) in cases {
        for known in [Known::Nothing, Known::Object(entry.object), Known::List(list.clone())] {
            let question = Question { known, spans: spans(ranges), ..question(A) };
            let (pieces, end, ended) = node.receive(question).await;
            let group =
                |index: &usize| ((index * G) as u64, content[index * G..((index + 1) * G).min(content.len())].to_vec());
            let wanted: Vec<_> = groups.iter().map(group).collect();
            assert_eq!((pieces == wanted, end, ended), (true, Ok(()), Ended::Sent), "{ranges:?}");
        }
    }
}

#[tokio::test]
async fn of_the_head_alone_nothing_follows() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::new(&dir);
    let entry = node.put(&content(3 * G));
    let head = Question { want: Want::Head, ..question(A) };
    let (reply, ended) = node.ask(head, async |reply| reply).await;
    let Ok(Reply::Head(told)) = reply else { panic!("{reply:?}") };
    assert_eq!((told.object, told.size, ended), (entry.object.0, entry.size, Ended::Sent));
    assert_eq!(node.ledger.traffic().bytes_to_peers, 0);

    let origin = Origin::start().await;
    let (_flight, _server) = node.fly(&origin, Some(5), None).await;
    let head = Question { want: Want::Head, ..question(origin.url().as_str()) };
    let (reply, ended) = node.ask(head, async |reply| reply).await;
    assert!(matches!(reply, Ok(Reply::GrowingHead(Growing { total: Some(5), .. }))), "{reply:?}");
    assert_eq!(ended, Ended::Sent);
    node.flights.suspend_all().await;
}

#[tokio::test]
async fn what_is_not_here_is_not_fetched() {
    let dir = tempfile::tempdir().unwrap();
    let (node, origin) = (Node::new(&dir), Origin::start().await);
    node.put(&content(5));
    let another = Question { known: Known::Object(ObjectId([9; 32])), ..question(A) };
    for question in [question(origin.url().as_str()), another] {
        let (reply, ended) = node.ask(question, async |reply| reply).await;
        assert!(matches!(reply, Ok(Reply::NotHere)), "{reply:?}");
        assert_eq!(ended, Ended::NotHere);
    }
    assert!(!origin.was_asked());
}

#[tokio::test]
async fn a_download_is_followed_while_it_comes() {
    for (total, part) in [(Some(2 * G), None), (None, None), (Some(2 * G), Some(G + 7))] {
        let dir = tempfile::tempdir().unwrap();
        let (node, origin, content) = (Node::new(&dir), Origin::start().await, content(2 * G));
        let (flight, mut server) = node.fly(&origin, total, None).await;
        let spans = part.map_or_else(Vec::new, |end| spans(std::slice::from_ref(&(0..end))));
        let question = Question { spans, ..question(origin.url().as_str()) };
        let wanted = part.unwrap_or(2 * G);
        let hear = async |reply| {
            let (mut following, mut got) = (growing(reply), Vec::new());
            let told = following.growing().clone();
            assert_eq!(told.total, total.map(|total| total as u64));
            assert_eq!(understand(&flight.key(), &told.description).unwrap().head, flight.plan().head);
            // Each step is asked for only after the one before has come: it is not told at the end only.
            for (from, to) in [(0, 5), (5, G), (G, G + 7), (G + 7, 2 * G)] {
                server.write_all(&content[from..to]).await.unwrap();
                follow_until(&mut following, &mut got, to.min(wanted)).await;
            }
            drop(server);
            assert_eq!(following.next().await, Ok(None));
            assert!(got == content[..wanted]);
            following.completed()
        };
        let (completed, ended) = node.ask(question, hear).await;
        assert_eq!(ended, Ended::Sent);
        flight.landed().await;
        let entry = flight.entry().unwrap();
        // Who wants a part is not kept until the rest has come.
        assert_eq!(completed, part.is_none().then_some((entry.object, entry.size)), "{total:?}");
        assert!(!origin.was_asked(), "the download itself is the only request");
        assert_eq!(node.ledger.traffic().bytes_to_peers, wanted as u64);
    }
}

#[tokio::test]
async fn nothing_of_a_wrong_end_is_passed_on() {
    let dir = tempfile::tempdir().unwrap();
    let (node, origin, content) = (Node::new(&dir), Origin::start().await, content(3 * G));
    let digest = Digest::new(Algorithm::Sha256, &[7; 32]);
    let (flight, mut server) = node.fly(&origin, Some(content.len()), digest).await;
    let hear = async |reply| {
        let (mut following, mut got) = (growing(reply), Vec::new());
        server.write_all(&content).await.unwrap();
        follow_until(&mut following, &mut got, content.len() - HELD_BACK as usize).await;
        (following.next().await, got)
    };
    let ((end, got), ended) = node.ask(question(origin.url().as_str()), hear).await;
    assert_eq!(end, Err(Trouble { peer: OTHER, what: What::Broken }));
    assert_eq!((got == content[..got.len()], ended), (true, Ended::BrokenOff));
    flight.landed().await;
    assert!(flight.entry().is_none());
}

#[tokio::test]
async fn a_download_that_breaks_off_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let (node, origin) = (Node::new(&dir), Origin::start().await);
    let (_flight, mut server) = node.fly(&origin, Some(100), None).await;
    let hear = async |reply| {
        let mut following = growing(reply);
        server.write_all(b"abc").await.unwrap();
        follow_until(&mut following, &mut Vec::new(), 3).await;
        node.flights.suspend_all().await;
        following.next().await
    };
    let (end, ended) = node.ask(question(origin.url().as_str()), hear).await;
    assert_eq!((end, ended), (Err(Trouble { peer: OTHER, what: What::Broken }), Ended::BrokenOff));
}

#[tokio::test(start_paused = true)]
async fn a_download_that_is_about_to_begin_is_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::new(&dir);
    let expectation = node.flights.announce(Url::parse(A).unwrap().key_hash());
    let (mine, theirs) = duplex(1024);
    // The peer is told again and again that the node is alive: it does not give up.
    let patience = Patience { first_byte: ALIVE_EVERY * 3, stall: LONG };
    let wanted = question(A);
    let disappointed = async {
        tokio::time::sleep(ALIVE_EVERY * 100).await;
        drop(expectation);
    };
    let (reply, ended, ()) =
        tokio::join!(transfer::ask(OTHER, mine, &wanted, patience), node.door.serve(PEER, theirs), disappointed);
    assert!(matches!(reply, Ok(Reply::NotHere)), "{reply:?}");
    assert_eq!(ended, Ended::NotHere);
}

#[tokio::test]
async fn there_is_an_end_to_what_is_done_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let all = Limits { transfers: 1, request: LONG, stall: LONG, ..Limits::default() };
    let to_one = Limits { transfers: 2, transfers_to_one: 1, ..all };
    for (limits, busy_for_others) in [(all, true), (to_one, false)] {
        let node = Node::with(&dir, limits);
        node.put(&content(9 * G));
        // This one stays: nobody reads what it sends.
        let (mut mine, theirs) = duplex(16 * 1024);
        let first = node.door.serve(PEER, theirs);
        let mut first = Box::pin(first);
        assert!(first.as_mut().now_or_never().is_none(), "no question has come");
        let get = Get { key: question(A).key, known: None, want: Want::Content, list: true, spans: wire::Few::of([]) };
        mine.write_all(&get.encode()).await.unwrap();
        let sends = async {
            let mut bytes = [0; 1];
            mine.read_exact(&mut bytes).await.unwrap();
        };
        tokio::select! {
            ended = first.as_mut() => panic!("{ended:?}"),
            () = sends => {}
        }
        for (peer, busy) in [(PEER, true), (OTHER, busy_for_others)] {
            let (mine, theirs) = duplex(16 * 1024);
            let wanted = Question { want: Want::Head, ..question(A) };
            let (reply, ended) =
                tokio::join!(transfer::ask(OTHER, mine, &wanted, patient()), node.door.serve(peer, theirs));
            assert_eq!(matches!(reply, Ok(Reply::Busy)), busy, "{reply:?}");
            assert_eq!(ended, if busy { Ended::Busy } else { Ended::Sent });
        }
        // Whoever leaves makes room, however it leaves.
        drop(first);
        let (_, end, ended) = node.receive(question(A)).await;
        assert_eq!((end, ended), (Ok(()), Ended::Sent));
        node.store.close();
    }
}

#[tokio::test(start_paused = true)]
async fn nobody_is_waited_for_without_end() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::with(&dir, Limits::default());
    node.put(&content(9 * G));
    let get = Get { key: question(A).key, known: None, want: Want::Content, list: true, spans: wire::Few::of([]) };
    let request = get.encode();
    let (silent, theirs) = duplex(1024);
    assert_eq!(node.door.serve(PEER, theirs).await, Ended::BadRequest);
    drop(silent);
    let (mut half, theirs) = duplex(1024);
    half.write_all(&request[..request.len() - 1]).await.unwrap();
    assert_eq!(node.door.serve(PEER, theirs).await, Ended::BadRequest);
    let (mut does_not_read, theirs) = duplex(1024);
    does_not_read.write_all(&request).await.unwrap();
    assert_eq!(node.door.serve(PEER, theirs).await, Ended::Left);
    let (mut leaves, theirs) = duplex(1024);
    leaves.write_all(&request).await.unwrap();
    drop(leaves);
    assert_eq!(node.door.serve(PEER, theirs).await, Ended::Left);
}

#[tokio::test]
async fn what_is_no_question_is_not_answered() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::new(&dir);
    // It says that it is longer than a question may be, and what is longer than it says.
    let too_long = [&[1, 0xff, 0xff, 0x03][..], &[0; 8 * 1024]].concat();
    let nonsense = [1, 3, 0, 0, 0];
    let endless_length = [1, 0xff, 0xff, 0xff, 0xff, 0xff];
    for garbage in [&too_long[..], &nonsense, &endless_length] {
        let (mut mine, theirs) = duplex(16 * 1024);
        mine.write_all(garbage).await.unwrap();
        // The stream stays open: it is not its end that ends it.
        assert_eq!(node.door.serve(PEER, theirs).await, Ended::BadRequest, "{:?}", &garbage[..3]);
        let mut answer = Vec::new();
        mine.read_to_end(&mut answer).await.unwrap();
        assert!(answer.is_empty());
    }
    let (mut mine, theirs) = duplex(1024);
    mine.write_all(&[99, 1, 0]).await.unwrap();
    assert_eq!(node.door.serve(PEER, theirs).await, Ended::NotHere, "a question of a later version");
}

/// Changes a byte of the only stored object of this length, as a failing disk would.
fn flip(folder: &Path, length: u64, at: u64) -> u32 {
    let mut flipped = 0;
    for entry in folder.read_dir().unwrap() {
        let path = entry.unwrap().path();
        let meta = path.symlink_metadata().unwrap();
        if meta.is_dir() {
            flipped += flip(&path, length, at);
        } else if meta.len() == length {
            let file = File::options().read(true).write(true).open(path).unwrap();
            let mut byte = [0];
            file.read_exact_at(&mut byte, at).unwrap();
            file.write_all_at(&[!byte[0]], at).unwrap();
            flipped += 1;
        }
    }
    flipped
}

#[tokio::test]
async fn damage_ends_the_stream_before_a_wrong_byte() {
    let dir = tempfile::tempdir().unwrap();
    let (content, damaged) = (content(12 * G + 5), 9);
    {
        let node = Node::new(&dir);
        node.put(&content);
        node.store.close();
    }
    assert_eq!(flip(dir.path(), content.len() as u64, (damaged * G) as u64), 1);
    let node = Node::new(&dir);
    let (mut mine, theirs) = duplex(16 * 1024);
    let get = Get { key: question(A).key, known: None, want: Want::Content, list: false, spans: wire::Few::of([]) };
    let read = async {
        mine.write_all(&get.encode()).await.unwrap();
        let mut bytes = Vec::new();
        mine.read_to_end(&mut bytes).await.unwrap();
        bytes
    };
    let (bytes, ended) = tokio::join!(read, node.door.serve(PEER, theirs));
    assert_eq!(ended, Ended::BrokenOff);
    let header = wire::header(&bytes).unwrap().unwrap();
    let sent = &bytes[header.head + header.body..];
    assert!(sent.len() >= G && sent.len() <= damaged * G, "{}", sent.len());
    assert!(content.starts_with(sent));
    let (reply, _) = node.ask(question(A), async |reply| reply).await;
    assert!(matches!(reply, Ok(Reply::NotHere)), "what is damaged is gone: {reply:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]

    #[test]
    fn no_bytes_of_a_peer_panic(all in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..64), any::<bool>()), 32)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let dir = tempfile::tempdir().unwrap();
        runtime.block_on(async {
            let node = Node::new(&dir);
            for (bytes, is_get) in all {
                let (mut mine, theirs) = duplex(64 * 1024);
                let sent = if is_get { [&[1, bytes.len() as u8], &bytes[..]].concat() } else { bytes };
                mine.write_all(&sent).await.unwrap();
                mine.shutdown().await.unwrap();
                let ended = node.door.serve(PEER, theirs).await;
                assert!(matches!(ended, Ended::BadRequest | Ended::NotHere), "{ended:?}");
            }
        });
    }
}

/// Who comes when all bytes are there waits for the landing; the download must not wait for somebody to come.
#[tokio::test]
async fn what_only_passes_through_lands_though_nobody_reads_it() {
    let dir = tempfile::tempdir().unwrap();
    let (node, origin) = (Node::new(&dir), Origin::start().await);
    let bytes = content(1_000);
    let (flight, mut server) = node.depart(&origin, Some(bytes.len()), None, false).await;
    server.write_all(&bytes).await.unwrap();
    // Less than a lonely download waits for a reader.
    timeout(Duration::from_secs(20), flight.landed()).await.expect("it lands");
    assert!(flight.entry().is_some(), "it is whole");
    assert!(node.store.lookup(flight.key()).await.unwrap().is_none(), "and nobody finds it");
}

//! What a transfer between two nodes costs, against a bare stream of the same connection.
//!
//! `cargo bench -p imirror --bench peer_path -- [MIB] [ROUNDS]` runs a second process that has an object of MIB (1024) and gives it
//! away over loopback. Processor time is that of each process as a whole. Then a small object is asked for again and again: how long
//! until it is there, against a bare question and its answer, and against the same object in this node's own store.
#![allow(clippy::unwrap_used, clippy::expect_used)]
#![allow(clippy::disallowed_methods)] // This is about the real clock.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use http::{HeaderMap, StatusCode};
use imirror::classify::{Class, Url};
use imirror::cluster::endpoint;
use imirror::cluster::identity::{Identity, SERVER_NAME};
use imirror::cluster::site::Site;
use imirror::cluster::transfer::{Known, Patience, Question, Reply, ask};
use imirror::config::{self, CacheSize};
use imirror::door::peer::{Ended, Limits, PeerDoor};
use imirror::flight::Flights;
use imirror::ledger::Ledger;
use imirror::os::clock::Clock;
use imirror::store::{Head, Options, Plan, Store};
use imirror::upstream::{Own, Upstreams};
use imirror_protocol::token::Token;
use imirror_protocol::transfer::Want;
use imirror_protocol::{Key, NodeId};
use quinn::{Connection, Endpoint, RecvStream, SendStream};
use rustix::time::{ClockId, clock_gettime};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Join, join};
use tokio::runtime::Runtime;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

type Stream = Join<RecvStream, SendStream>;

/// First byte of a stream: what is to come back on it.
const BARE: u8 = 0;
const TRANSFER: u8 = 1;
const PROCESSOR_TIME: u8 = 2;

/// Bytes of the small object.
const SMALL: u64 = 4096;

/// Times that the small object is asked for.
const QUESTIONS: usize = 2000;

/// Bytes that a bare stream is given and asked for at once.
const PIECE: usize = 256 * 1024;

const SERVE: &str = "serve";

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let folder = tempfile::tempdir().unwrap();
    if arguments.first().is_some_and(|first| first == SERVE) {
        return serve(folder.path(), arguments[1].parse().unwrap());
    }
    let number = |index: usize, default: u64| arguments.get(index).map_or(default, |text| text.parse().unwrap());
    let (size, rounds) = (number(0, 1024) << 20, number(1, 5));
    let program = std::env::current_exe().unwrap();
    let mut command = Command::new(program);
    command.args([SERVE, &size.to_string()]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut address = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut address).unwrap();
    runtime().block_on(measure(folder.path(), address.trim().parse().unwrap(), size, rounds));
    // The end of its input is its end.
    drop(child.stdin.take());
    child.wait().unwrap();
}

async fn measure(folder: &Path, server: SocketAddr, size: u64, rounds: u64) {
    let connection = open(folder).connect(server, SERVER_NAME).unwrap().await.unwrap();
    println!("{} MiB over loopback, with mutual TLS; round 0 is not counted", size >> 20);
    for round in 0..=rounds {
        for kind in [BARE, TRANSFER] {
            let (own, theirs, begun) = (processor_time(), processor_time_of(&connection).await, Instant::now());
            match kind {
                BARE => receive_bare(&connection, size).await,
                _ => receive_object(&connection, size).await,
            }
            let took = begun.elapsed().as_secs_f64();
            let (own, theirs) = (processor_time() - own, processor_time_of(&connection).await - theirs);
            let gb = size as f64 / 1e9;
            println!(
                "{round} {:8} {:.2} GB/s; processor seconds per GB: {:.2} to send, {:.2} to receive",
                if kind == BARE { "bare" } else { "transfer" },
                gb / took,
                theirs.as_secs_f64() / gb,
                own.as_secs_f64() / gb
            );
        }
    }
    first_bytes(folder, &connection).await;
    connection.close(0u32.into(), b"");
}

async fn first_bytes(folder: &Path, connection: &Connection) {
    let (store, _) = store(folder, SMALL);
    let (mut bare, mut peer, mut own) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..QUESTIONS {
        let begun = Instant::now();
        processor_time_of(connection).await;
        bare.push(begun.elapsed());
        let begun = Instant::now();
        receive_object(connection, SMALL).await;
        peer.push(begun.elapsed());
        let begun = Instant::now();
        let entry = store.lookup(url(SMALL).key_hash()).await.unwrap().unwrap();
        let bytes = store.open_blob(&entry).await.unwrap().bytes(0..SMALL).await.unwrap();
        own.push(begun.elapsed());
        assert_eq!(bytes.len() as u64, SMALL);
    }
    for (name, mut times) in [("bare question", bare), ("object at a peer", peer), ("object here", own)] {
        times.sort_unstable();
        println!("{name:16} {:?} (p50), {:?} (p99)", times[QUESTIONS / 2], times[QUESTIONS * 99 / 100]);
    }
}

async fn stream(connection: &Connection, kind: u8) -> Stream {
    let (mut send, receive) = connection.open_bi().await.unwrap();
    send.write_all(&[kind]).await.unwrap();
    join(receive, send)
}

async fn receive_bare(connection: &Connection, size: u64) {
    let mut stream = stream(connection, BARE).await;
    let (mut buffer, mut got) = (BytesMut::with_capacity(PIECE), 0);
    while stream.read_buf(&mut buffer).await.unwrap() > 0 {
        got += buffer.len() as u64;
        buffer.clear();
    }
    assert_eq!(got, size);
}

async fn receive_object(connection: &Connection, size: u64) {
    let question =
        Question { key: Key(url(size).key_hash().0), known: Known::Nothing, want: Want::Content, spans: Vec::new() };
    let patience = Patience { first_byte: Duration::from_secs(60), stall: Duration::from_secs(60) };
    let reply = ask(NodeId([1; 16]), stream(connection, TRANSFER).await, &question, patience).await.unwrap();
    let Reply::Finished(mut incoming) = reply else { panic!("{reply:?}") };
    let mut got = 0;
    while let Some((_, bytes)) = incoming.next().await.unwrap() {
        got += bytes.len() as u64;
    }
    assert_eq!(got, size);
}

async fn processor_time_of(connection: &Connection) -> Duration {
    Duration::from_nanos(stream(connection, PROCESSOR_TIME).await.read_u64().await.unwrap())
}

/// The node that gives.
fn serve(folder: &Path, size: u64) {
    let door = door(folder, size);
    runtime().block_on(async {
        let endpoint = open(folder);
        println!("{}", endpoint.local_addr().unwrap());
        let served = async {
            let connection = endpoint.accept().await.unwrap().accept().unwrap().await.unwrap();
            while let Ok((send, mut receive)) = connection.accept_bi().await {
                let door = door.clone();
                tokio::spawn(async move {
                    let kind = receive.read_u8().await.unwrap();
                    answer(kind, join(receive, send), door, size).await;
                });
            }
        };
        let abandoned = tokio::task::spawn_blocking(|| std::io::stdin().lines().count());
        tokio::select! { () = served => {}, _ = abandoned => {} }
    });
}

async fn answer(kind: u8, mut stream: Stream, door: PeerDoor, size: u64) {
    match kind {
        BARE => {
            let (piece, mut left) = (vec![7; PIECE], size);
            while left > 0 {
                let length = left.min(PIECE as u64);
                stream.write_all(&piece[..length as usize]).await.unwrap();
                left -= length;
            }
            stream.shutdown().await.unwrap();
        }
        TRANSFER => assert_eq!(door.serve(NodeId([1; 16]), stream).await, Ended::Sent),
        _ => stream.write_u64(processor_time().as_nanos() as u64).await.unwrap(),
    }
}

fn door(folder: &Path, size: u64) -> PeerDoor {
    let (store, clock) = store(folder, size);
    put(&store, SMALL);
    let upstream = config::Upstream { proxy: None, no_proxy: Vec::new(), allow: Vec::new(), rate_limit: None };
    let upstreams = Upstreams::new(&upstream, Own { port: 1, addresses: Vec::new() }, clock.clone());
    let ledger = Ledger::new(None);
    let flights = Flights::new(store, upstreams, Site::alone(), ledger.clone(), clock.clone());
    PeerDoor::new(flights, ledger, clock, Limits::default())
}

/// With one object.
fn store(folder: &Path, size: u64) -> (Store, Clock) {
    let clock = Clock::system();
    let (dir, room) = (folder.join("cache"), CacheSize::Bytes(4 * size + (1 << 30)));
    let options = Options { dir, size: room, memory_size: 16 << 20, open_files: 16, clock: clock.clone() };
    let store = Store::open(options).unwrap();
    put(&store, size);
    (store, clock)
}

fn put(store: &Store, size: u64) {
    let head = Head { status: StatusCode::OK, fields: HeaderMap::new() };
    let (url, total) = (url(size), Some(size));
    let key = url.key_hash();
    let plan = Plan { url, key, class: Class::Package, head, total, digest: None, confirmed_at: None };
    let growing = store.begin(plan).unwrap();
    let piece: Vec<u8> = (0..1u32 << 20).map(|i| (i.wrapping_mul(0x9E37_79B9) >> 24) as u8).collect();
    for at in (0..size).step_by(piece.len()) {
        growing.write_at(at, &piece[..piece.len().min((size - at) as usize)]).unwrap();
    }
    growing.hash_available().unwrap();
    growing.seal(size).unwrap();
    growing.publish().unwrap();
}

/// Of the object with so many bytes.
fn url(size: u64) -> Url {
    Url::parse(&format!("http://example.org/{size}.iso")).unwrap()
}

fn open(folder: &Path) -> Endpoint {
    let identity = Identity::load(folder, &Token::from_entropy([7; 20])).unwrap();
    endpoint::open(&identity, SocketAddr::from(([127, 0, 0, 1], 0)), &std::sync::Arc::default()).unwrap()
}

/// As the node's own.
fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap()
}

fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

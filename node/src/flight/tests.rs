use std::sync::mpsc;

use http::Method;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::config::{self, AllowedDestination, CacheSize};
use crate::store::{Head, Options};
use crate::upstream::{Own, Patience, Request};

/// No test waits for it: what takes so long has failed.
const LONG: Duration = Duration::from_secs(600);

fn flights_in(dir: &TempDir) -> Flights {
    let clock = Clock::manual(Timestamp(1_000_000_000_000));
    let (dir, size) = (dir.path().to_owned(), CacheSize::Bytes(64 << 20));
    let store =
        Store::open(Options { dir, size, memory_size: 1 << 20, open_files: 100, clock: clock.clone() }).unwrap();
    let allow = vec![AllowedDestination { net: "127.0.0.1/32".parse().unwrap(), port: None }];
    let config = config::Upstream { proxy: None, no_proxy: Vec::new(), allow, rate_limit: None };
    let upstreams = Upstreams::new(&config, Own { port: 1, addresses: Vec::new() }, clock.clone());
    Flights::new(store, upstreams, Site::alone(), Ledger::new(None), clock)
}

/// The answer of a server that writes its head and all of its body at once.
async fn answer(upstreams: &Upstreams, content: &[u8]) -> Answer {
    let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = Url::parse(&format!("http://{}/a.rpm", server.local_addr().unwrap())).unwrap();
    let patience = Patience { connect: LONG, head: LONG, stall: LONG };
    let request = Request { method: Method::GET, url, fields: HeaderMap::new(), body: None, patience };
    let mut message = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", content.len()).into_bytes();
    message.extend_from_slice(content);
    tasks::spawn("server", async move {
        let (mut stream, _) = server.accept().await.unwrap();
        let _ = stream.read(&mut [0; 4096]).await;
        stream.write_all(&message).await.unwrap();
    });
    upstreams.fetch(request).await.unwrap()
}

#[test]
fn what_comes_with_the_head_is_there_when_the_download_begins() {
    let runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = { runtime }.worker_threads(1).max_blocking_threads(1).enable_all().build().unwrap();
    let download = async {
        let dir = tempfile::tempdir().unwrap();
        let (flights, content) = (flights_in(&dir), vec![7; 300_000]);
        let answer = answer(&flights.0.upstreams, &content).await;
        // The only thread for what blocks is taken: a download's own does not come.
        let (release, held) = mpsc::channel::<()>();
        let holding = tasks::blocking("hold", move || held.recv());
        let (url, total) = (answer.url.clone(), answer.body.length());
        let head = Head { status: StatusCode::OK, fields: HeaderMap::new() };
        let class = Class::Package;
        let plan = Plan { key: url.key_hash(), url: url.clone(), class, head, total, digest: None, confirmed_at: None };
        let departure = Departure::new(plan, Source::Upstream(Box::new(answer)), vec![url], HeaderMap::new());
        let Ok(flight) = flights.start(departure).await else { panic!("not begun") };
        let first = flight.reader().ready(0..u64::MAX).expect("a piece is there");
        assert!(
            first == content[..first.len()] && first.len() < content.len(),
            "{}: the rest is for later",
            first.len()
        );
        drop(release);
        assert!(holding.await.unwrap().is_err());
        flight.landed().await;
        assert_eq!(flight.entry().unwrap().size, 300_000);
        assert_eq!(flight.reader().ready(0..300_000).unwrap(), content);
    };
    runtime.block_on(async { tasks::spawn("test", download).await }).unwrap();
}

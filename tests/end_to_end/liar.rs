//! A member of the site that sends wrong bytes: the node's own parts, and a byte changed on the way.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use http::{HeaderMap, StatusCode};
use imirror::classify::{Class, KeyHash, Url};
use imirror::cluster::discovery::Wanted;
use imirror::cluster::identity::Identity;
use imirror::cluster::links::PeerStream;
use imirror::cluster::site::{Host, Load, Order, Profile, Site};
use imirror::config::{self, CacheSize};
use imirror::door::peer::{Limits, PeerDoor};
use imirror::flight::Flights;
use imirror::ledger::Ledger;
use imirror::os::clock::Clock;
use imirror::store::{Head, Options, Plan, Store};
use imirror::upstream::{Own, Upstreams};
use imirror_protocol::NodeId;
use imirror_protocol::token::Token;
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::runtime::{Builder, Runtime};

/// It is a member as long as it is held.
pub(super) struct Liar {
    _runtime: Runtime,
    _dir: TempDir,
}

impl Liar {
    /// Holds `content` under `url`, and sends it with one byte wrong, `at` bytes into its answer.
    pub(super) fn start(token: &str, listen: SocketAddr, seed: &str, url: &str, content: &[u8], at: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.block_on(async {
            let identity = Identity::load(dir.path(), &Token::parse(token).unwrap()).unwrap();
            let clock = Clock::system();
            let profile = Profile { name: "liar".into(), listen, copies_max: 1 };
            let site = Site::open(&identity, profile, &clock);
            let cache = dir.path().join("cache");
            let size = CacheSize::Bytes(1 << 30);
            let options = Options { dir: cache, size, memory_size: 1 << 20, open_files: 100, clock: clock.clone() };
            let store = Store::open(options).unwrap();
            let url = Url::parse(url).unwrap();
            let key = url.key_hash();
            put(&store, url, content);
            let upstream = config::Upstream { proxy: None, no_proxy: Vec::new(), allow: Vec::new(), rate_limit: None };
            let upstreams = Upstreams::new(&upstream, Own { port: 1, addresses: Vec::new() }, clock.clone());
            let ledger = Ledger::new(None);
            let flights = Flights::new(store, upstreams, site.clone(), ledger.clone(), clock.clone());
            let door = PeerDoor::new(flights, ledger, clock, Limits::default());
            let wanted =
                Wanted { seeds: vec![seed.to_owned()], remembered_file: dir.path().join("peers"), mdns: false };
            site.start(Arc::new(Lies { door, at }), wanted);
            site.holds(&key, true);
        });
        Self { _runtime: runtime, _dir: dir }
    }
}

fn put(store: &Store, url: Url, content: &[u8]) {
    let head = Head { status: StatusCode::OK, fields: HeaderMap::new() };
    let (key, total) = (url.key_hash(), Some(content.len() as u64));
    let plan = Plan { url, key, class: Class::Package, head, total, digest: None, confirmed_at: None };
    let growing = store.begin(plan).unwrap();
    growing.write_at(0, content).unwrap();
    growing.seal(content.len() as u64).unwrap();
    growing.publish().unwrap();
}

struct Lies {
    door: PeerDoor,
    at: usize,
}

impl Host for Lies {
    fn serve(&self, peer: NodeId, stream: PeerStream) -> BoxFuture<'static, ()> {
        let (door, left) = (self.door.clone(), Some(self.at));
        Box::pin(async move {
            let mut lying = Lying { stream, left };
            door.serve(peer, &mut lying).await;
            lying.stream.sent().await;
        })
    }

    fn copy(&self, _: KeyHash, _: NodeId) -> BoxFuture<'static, bool> {
        Box::pin(async { false })
    }

    fn forget(&self, _: Order) -> BoxFuture<'static, u64> {
        Box::pin(async { 0 })
    }

    fn load(&self) -> Load {
        Load::default()
    }

    fn share_uplink(&self, _: usize) -> bool {
        false
    }

    fn report(&self, _: &str) -> Option<String> {
        None
    }
}

struct Lying {
    stream: PeerStream,
    /// Bytes until the wrong one.
    left: Option<usize>,
}

impl AsyncRead for Lying {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Lying {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut bytes = bytes.to_vec();
        if let Some(wrong) = self.left.and_then(|left| bytes.get_mut(left)) {
            *wrong ^= 1;
        }
        let written = Pin::new(&mut self.stream).poll_write(cx, &bytes);
        if let Poll::Ready(Ok(written)) = &written {
            // Nothing more is wrong once it has gone out.
            self.left = self.left.and_then(|left| left.checked_sub(*written));
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

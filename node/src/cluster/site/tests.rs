//! Nodes on loopback that really talk to each other, and peers made by hand that do not talk as they should.
//!
//! What is written here as a number is on the wire for ever: the first byte of a stream, and kinds of frames.

use std::net::UdpSocket;
use std::path::Path;
use std::sync::atomic::AtomicUsize;

use bytes::Bytes;
use futures_util::FutureExt;
use imirror_protocol::message::{Head, Hello, Message, VERSION};
use imirror_protocol::wire::{Few, GrownFew, Later};
use quinn::{Connection, ConnectionError, ReadToEndError, RecvStream, SendStream};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime;

use super::*;
use crate::cluster::identity::SERVER_NAME;

/// What comes at all comes within this.
const PATIENCE: Duration = Duration::from_secs(20);

const CONTROL: u8 = 1;
const REQUEST: u8 = 2;

/// A host that answers each request with [`ANSWER`], and downloads all the time; it holds among how many it shares the uplink.
#[derive(Default)]
struct Answering(Arc<AtomicUsize>);

const ANSWER: &[u8] = b"here";

impl Host for Answering {
    fn serve(&self, _: NodeId, mut stream: PeerStream) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            let _ = stream.write_all(ANSWER).await;
            let _ = stream.shutdown().await;
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

    fn share_uplink(&self, nodes: usize) -> bool {
        self.0.store(nodes, Ordering::Relaxed);
        true
    }

    fn report(&self, question: &str) -> Option<String> {
        (question == "how are you").then(|| "well".into())
    }
}

struct Node {
    site: Site,
    address: SocketAddr,
    sharers: Arc<AtomicUsize>,
    _folder: TempDir,
}

impl Node {
    /// A node that looks for others at `seeds` only.
    fn start(token: &Token, seeds: &[SocketAddr]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let address = free_address();
        let profile = Profile { name: "lab".into(), listen: address, copies_max: 0 };
        let site = Site::open(&identity(folder.path(), token), profile, &Clock::system());
        assert!(site.0.endpoint.is_some());
        let seeds = seeds.iter().map(SocketAddr::to_string).collect();
        let remembered_file = folder.path().join("peers");
        let host = Answering::default();
        let sharers = host.0.clone();
        site.start(Arc::new(host), Wanted { mdns: false, seeds, remembered_file });
        Self { site, address, sharers, _folder: folder }
    }

    /// What has been said in the log, and when.
    fn complaints(&self) -> BTreeMap<Complaint, tokio::time::Instant> {
        self.site.0.complaints.lock().unwrap().clone()
    }

    fn knows(&self, other: &Self) -> bool {
        let members = self.site.status().members;
        members.iter().any(|member| member.node == other.site.own() && member.connected)
    }

    /// The connection with another node goes both ways.
    async fn is_answered_by(&self, other: &Self) -> bool {
        let Ok(mut stream) = self.site.stream(other.site.own()).await else { return false };
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.is_ok() && answer == ANSWER
    }
}

/// Someone with the key of a node who is none.
struct ByHand {
    node: NodeId,
    connection: Connection,
    control: SendStream,
    /// What the node says is not read, and neither refused.
    _theirs: RecvStream,
    _endpoint: Endpoint,
    _folder: TempDir,
}

impl ByHand {
    /// Connects, and is let in.
    async fn connect(token: &Token, node: &Node) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let identity = identity(folder.path(), token);
        let endpoint = endpoint::open(&identity, free_address(), &Arc::default()).unwrap();
        let connection = endpoint.connect(node.address, SERVER_NAME).unwrap().await.unwrap();
        let mut control = connection.open_uni().await.unwrap();
        control.write_all(&[CONTROL]).await.unwrap();
        let mut theirs = connection.accept_uni().await.unwrap();
        assert_eq!(theirs.read_u8().await.unwrap(), CONTROL);
        Self { node: identity.node, connection, control, _theirs: theirs, _endpoint: endpoint, _folder: folder }
    }

    /// Says something on the control stream.
    async fn say(&mut self, bytes: &[u8]) {
        self.control.write_all(bytes).await.unwrap();
    }

    /// Why the node has ended the connection, in its words.
    async fn thrown_out(&self) -> String {
        match within(self.connection.closed()).await {
            ConnectionError::ApplicationClosed(close) => String::from_utf8_lossy(&close.reason).into_owned(),
            other => panic!("{other}"),
        }
    }

    /// A request is answered as ever.
    async fn is_served(&self) -> bool {
        let (mut send, mut receive) = within(self.connection.open_bi()).await.unwrap();
        send.write_all(&[REQUEST]).await.unwrap();
        send.finish().unwrap();
        within(receive.read_to_end(100)).await.unwrap() == ANSWER
    }
}

fn token(number: u8) -> Token {
    Token::from_entropy([number; 20])
}

fn identity(folder: &Path, token: &Token) -> Identity {
    Identity::load(folder, token).unwrap()
}

/// An address that no other test has, nor will.
fn free_address() -> SocketAddr {
    let [a, b, c, ..] = entropy::random_bytes();
    UdpSocket::bind((IpAddr::from([127, a, b, c.clamp(1, 254)]), 0)).unwrap().local_addr().unwrap()
}

async fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, work).await.expect("it takes for ever")
}

async fn until(mut is_so: impl FnMut() -> bool) {
    within(async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
}

/// Until all know all.
async fn meet(nodes: &[&Node]) {
    until(|| nodes.iter().all(|one| nodes.iter().all(|other| one.address == other.address || one.knows(other)))).await;
}

#[tokio::test]
async fn nodes_of_one_token_meet_and_part() {
    let a = Node::start(&token(1), &[]);
    assert!(a.site.is_alone());
    let mut changes = a.site.changes();
    let b = Node::start(&token(1), &[a.address]);
    within(changes.changed()).await.unwrap();
    // It knows of the first by the second only.
    let c = Node::start(&token(1), &[b.address]);
    meet(&[&a, &b, &c]).await;
    assert!(!a.site.is_alone());
    for (from, to) in [(&a, &b), (&b, &a), (&a, &c), (&c, &a)] {
        assert!(within(from.is_answered_by(to)).await);
    }
    within(c.site.leave()).await;
    until(|| a.site.status().members.len() == 1 && b.site.status().members.len() == 1).await;
    assert!(!within(a.is_answered_by(&c)).await);
    assert!(within(a.is_answered_by(&b)).await);
    assert_eq!(a.site.counts().misbehaved + b.site.counts().misbehaved, 0);
}

#[tokio::test]
async fn who_has_another_token_stays_out() {
    let a = Node::start(&token(1), &[]);
    let b = Node::start(&token(1), &[a.address]);
    meet(&[&a, &b]).await;
    let stranger = Node::start(&token(2), &[a.address]);
    until(|| a.site.counts().handshakes_refused >= 1 && !a.complaints().is_empty()).await;
    let first = a.complaints();
    assert!(first.keys().eq(&[Complaint::Stranger(stranger.address.ip())]));
    // It comes again, and the log is as before.
    until(|| a.site.counts().handshakes_refused >= 2).await;
    assert_eq!(a.complaints(), first);
    assert!(stranger.site.is_alone());
    assert!(a.knows(&b) && b.knows(&a) && within(a.is_answered_by(&b)).await);
    assert_eq!(a.site.status().members.len(), 1);
    assert_eq!(b.site.counts().handshakes_refused, 0);
}

#[tokio::test]
async fn who_downloads_shares_the_uplink_with_all_who_do() {
    let a = Node::start(&token(1), &[]);
    let sharers = |node: &Node| node.sharers.load(Ordering::Relaxed);
    until(|| sharers(&a) == 1).await;
    let b = Node::start(&token(1), &[a.address]);
    let c = Node::start(&token(1), &[a.address]);
    until(|| [&a, &b, &c].iter().all(|node| sharers(node) == 3)).await;
    within(c.site.leave()).await;
    until(|| sharers(&a) == 2 && sharers(&b) == 2).await;
}

#[tokio::test]
async fn a_node_tells_another_how_it_is() {
    let a = Node::start(&token(1), &[]);
    let b = Node::start(&token(1), &[a.address]);
    meet(&[&a, &b]).await;
    let ask = |question: &'static str| a.site.ask_report(b.site.own(), question, PATIENCE);
    assert_eq!(ask("how are you").await.as_deref(), Some(&b"well"[..]));
    let too_long = "how are you".repeat(6);
    let too_long = a.site.ask_report(b.site.own(), &too_long, PATIENCE);
    assert_eq!((ask("who are you").await, ask("").await, too_long.await), (None, None, None));
    let nobody = a.site.ask_report(a.site.own(), "how are you", PATIENCE);
    assert_eq!(nobody.await, None);
    assert_eq!(ask("how are you").await.as_deref(), Some(&b"well"[..]));
}

#[tokio::test]
async fn who_shows_a_certificate_that_does_not_hold_is_refused_counted_and_logged_once() {
    let a = Node::start(&token(1), &[]);
    let b = Node::start(&token(1), &[a.address]);
    meet(&[&a, &b]).await;
    let mut refused = 0;
    for (issuer, expired) in [(1, true), (2, false)] {
        // It takes the node for what it is, and the node does not take it.
        let shown = Identity::that_shows(&token(1), &token(issuer), expired);
        let address = free_address();
        let endpoint = endpoint::open(&shown, address, &Arc::default()).unwrap();
        let mut complaints = BTreeMap::new();
        for time in 0..3 {
            if let Ok(connection) = within(endpoint.connect(a.address, SERVER_NAME).unwrap()).await {
                assert!(within(connection.accept_uni()).await.is_err(), "it is told nothing");
            }
            refused += 1;
            let is_complained_of = || a.complaints().contains_key(&Complaint::Stranger(address.ip()));
            until(|| a.site.counts().handshakes_refused >= refused && is_complained_of()).await;
            if time > 0 {
                assert_eq!(a.complaints(), complaints, "the log is as before");
            }
            complaints = a.complaints();
        }
    }
    assert_eq!(a.site.counts().handshakes_refused, refused);
    assert_eq!((a.complaints().len(), a.site.status().members.len()), (2, 1));
    assert!(a.knows(&b) && within(a.is_answered_by(&b)).await && within(b.is_answered_by(&a)).await);
}

#[tokio::test]
async fn noise_does_no_harm() {
    let a = Node::start(&token(1), &[]);
    let b = Node::start(&token(1), &[a.address]);
    meet(&[&a, &b]).await;
    let noise = UdpSocket::bind(free_address()).unwrap();
    assert_eq!(a.site.counts().noise, 0);
    let mut packet = [0; 1400];
    for i in 0..2000 {
        blake3::Hasher::new().update(&[i as u8, (i >> 8) as u8]).finalize_xof().fill(&mut packet);
        if i % 2 == 0 {
            // As the first packet of QUIC version 1.
            packet[..6].copy_from_slice(&[0xc0, 0, 0, 0, 1, 8]);
        }
        noise.send_to(&packet[..i * 7 % 1400], a.address).unwrap();
    }
    assert!(a.knows(&b) && within(a.is_answered_by(&b)).await && within(b.is_answered_by(&a)).await);
    let c = Node::start(&token(1), &[a.address]);
    meet(&[&a, &b, &c]).await;
    // What is made up like a first packet is seen to be none by its key only. The kernel may have dropped some.
    until(|| (500..=1100).contains(&a.site.counts().noise)).await;
    assert_eq!((b.site.counts().noise, c.site.counts().noise), (0, 0));
}

#[tokio::test]
async fn who_says_what_is_no_message_is_put_aside() {
    let a = Node::start(&token(1), &[]);
    // First words that are none.
    let mut peer = ByHand::connect(&token(1), &a).await;
    for _ in 0..10 {
        let _ = peer.control.write_all(&[1, 1, 0xff]).await;
    }
    assert_eq!(peer.thrown_out().await, Why::PutAside.to_string());
    assert_eq!(a.site.counts().misbehaved, 4);
    assert_eq!(a.complaints().len(), 1, "one line in the log");
    let sound = Node::start(&token(1), &[a.address]);
    meet(&[&a, &sound]).await;
}

#[tokio::test]
async fn a_frame_that_is_too_long_ends_the_connection() {
    let a = Node::start(&token(1), &[]);
    let b = Node::start(&token(1), &[a.address]);
    meet(&[&a, &b]).await;
    // Of a later kind, with a length that is none, and one of which 64 bytes are known to be enough: not even waited for.
    for header in [[200, 0xff, 0xff, 0xff], [200, 0xff, 0xff, 0x7f], [5, 0xff, 0xff, 3]] {
        let mut peer = ByHand::connect(&token(1), &a).await;
        peer.say(&header).await;
        peer.thrown_out().await;
    }
    assert_eq!((a.site.counts().misbehaved, a.complaints().len()), (3, 3), "each is another node");
    assert!(a.knows(&b) && within(a.is_answered_by(&b)).await);
}

#[tokio::test]
async fn kinds_and_streams_of_later_versions_are_passed_over() {
    let a = Node::start(&token(1), &[]);
    let mut peer = ByHand::connect(&token(1), &a).await;
    peer.control.write_all(&[200, 3, 1, 2, 3]).await.unwrap();
    peer.connection.send_datagram(Bytes::from_static(&[200, 1, 7])).unwrap();
    // Streams in one direction, also a second one for control, and such as are no requests: nobody reads on.
    for first in [CONTROL, 77] {
        let mut stream = peer.connection.open_uni().await.unwrap();
        stream.write_all(&[first]).await.unwrap();
        assert!(within(stream.stopped()).await.unwrap().is_some());
    }
    let (mut send, mut receive) = peer.connection.open_bi().await.unwrap();
    send.write_all(&[77]).await.unwrap();
    assert!(within(send.stopped()).await.unwrap().is_some());
    let nothing = within(receive.read_to_end(100)).await;
    assert!(matches!(&nothing, Ok(bytes) if bytes.is_empty()) || matches!(nothing, Err(ReadToEndError::Read(_))));
    assert!(peer.is_served().await);
    assert_eq!(a.site.counts().misbehaved, 0);
}

#[tokio::test]
async fn who_floods_a_node_is_put_aside() {
    let a = Node::start(&token(1), &[]);
    let peer = ByHand::connect(&token(1), &a).await;
    // Empty frames of an unknown kind, as many as fit.
    let datagram = Bytes::from([200, 0].repeat(500));
    let flood = async { while peer.connection.send_datagram_wait(datagram.clone()).await.is_ok() {} };
    within(flood).await;
    assert_eq!(peer.thrown_out().await, Why::PutAside.to_string());
    let sound = Node::start(&token(1), &[a.address]);
    meet(&[&a, &sound]).await;
}

#[tokio::test]
async fn what_a_peer_says_again_and_again_is_taken_once() {
    let a = Node::start(&token(1), &[]);
    let b = Node::start(&token(1), &[a.address]);
    meet(&[&a, &b]).await;
    let mut peer = ByHand::connect(&token(1), &a).await;
    let node = peer.node;
    let incarnation = Incarnation(7);
    let head = |beat| Head {
        node,
        epoch: incarnation,
        beat,
        sequence: 0,
        count: 0,
        load: 0,
        room: 255,
        draining: false,
        bytes: 0,
    };
    let heads = |beat| Message::Heads(GrownFew::of([head(beat)])).encode();
    let hello = Message::Hello(Hello {
        version: VERSION,
        oldest: VERSION,
        incarnation,
        addresses: Few::of([]),
        yours: Incarnation(0),
        members: 0,
        name: Later::default(),
        client_port: Later::default(),
    });
    let hello = hello.encode();
    peer.say(&hello).await;
    peer.say(&heads(3)).await;
    let known = || a.site.status().members.iter().find(|member| member.node == node).map(|member| member.head);
    until(|| known() == Some(Some(head(3)))).await;
    // As it was before, many times over, on the stream and in datagrams.
    for old in [hello, heads(1), heads(2), heads(3)] {
        for _ in 0..100 {
            peer.say(&old).await;
            peer.connection.send_datagram_wait(old.clone().into()).await.unwrap();
        }
    }
    // What is said last has come when all has.
    peer.say(&heads(4)).await;
    until(|| known() == Some(Some(head(4)))).await;
    assert_eq!((a.site.counts().misbehaved, a.complaints().len()), (0, 0));
    assert!(peer.is_served().await && a.knows(&b) && within(a.is_answered_by(&b)).await);
}

#[tokio::test]
async fn packets_that_come_again_are_no_news() {
    let a = Node::start(&token(1), &[]);
    // Whatever the second says to the first goes through here, and is kept.
    let relay = tokio::net::UdpSocket::bind(free_address()).await.unwrap();
    let address = relay.local_addr().unwrap();
    let b = Node::start(&token(1), &[address]);
    let kept = Mutex::new(Vec::new());
    let forward = async {
        let mut packet = vec![0; 1 << 16];
        loop {
            let (length, from) = relay.recv_from(&mut packet).await.unwrap();
            let packet = &packet[..length];
            if from == a.address {
                relay.send_to(packet, b.address).await.unwrap();
            } else {
                kept.lock().unwrap().push(packet.to_vec());
                relay.send_to(packet, a.address).await.unwrap();
            }
        }
    };
    let story = async {
        meet(&[&a, &b]).await;
        assert!(within(b.is_answered_by(&a)).await);
        // By the same way, and from elsewhere.
        let elsewhere = tokio::net::UdpSocket::bind(free_address()).await.unwrap();
        let packets = kept.lock().unwrap().clone();
        for packet in packets.iter().cycle().take(packets.len() * 3) {
            relay.send_to(packet, a.address).await.unwrap();
            elsewhere.send_to(packet, a.address).await.unwrap();
        }
        // What is said now comes after all that.
        assert!(within(b.is_answered_by(&a)).await && within(a.is_answered_by(&b)).await);
        let SiteCounts { handshakes_refused, misbehaved, .. } = a.site.counts();
        assert_eq!((handshakes_refused, misbehaved, a.complaints().len()), (0, 0, 0));
        assert!(a.knows(&b) && b.knows(&a) && a.site.status().members.len() == 1);
        // When the connection is forgotten they look like somebody who comes, and who never gets on with it.
        within(b.site.leave()).await;
        within(async {
            while a.site.counts().handshakes_refused == 0 {
                elsewhere.send_to(&packets[0], a.address).await.unwrap();
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
        until(|| a.complaints().keys().eq(&[Complaint::Stranger(elsewhere.local_addr().unwrap().ip())])).await;
        assert!(a.site.is_alone());
    };
    tokio::select! { () = story => {}, () = forward => {} }
}

#[tokio::test]
async fn streams_without_a_word_are_freed() {
    let a = Node::start(&token(1), &[]);
    let peer = ByHand::connect(&token(1), &a).await;
    let mut silent = Vec::new();
    while let Some(stream) = peer.connection.open_bi().now_or_never() {
        silent.push(stream.unwrap());
    }
    assert_eq!(silent.len(), 32);
    // The node hears of all of them by the last.
    let (send, receive) = silent.last_mut().unwrap();
    send.write_all(&[REQUEST]).await.unwrap();
    assert_eq!(within(receive.read_to_end(100)).await.unwrap(), ANSWER);
    for (send, _receive) in silent {
        assert!(within(send.stopped()).await.unwrap().is_some());
    }
    for _ in 0..32 {
        assert!(peer.is_served().await);
    }
}

/// A node on a runtime of its own, which stands still but for what [`Self::run`] waits for.
struct Still {
    runtime: runtime::Runtime,
    node: Node,
}

impl Still {
    fn start(token: &Token, seeds: &[SocketAddr]) -> Self {
        let runtime = runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let node = runtime.block_on(async { Node::start(token, seeds) });
        Self { runtime, node }
    }

    fn run<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(work)
    }
}

#[test]
fn a_claim_is_answered_though_its_home_says_nothing() {
    let runtime = runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let a = runtime.block_on(async { Node::start(&token(1), &[]) });
    let b = Still::start(&token(1), &[a.address]);
    let held = KeyHash([1; 16]);
    // Both run: who comes second is sent to the first.
    let _grant = b.run(async {
        meet(&[&a, &b.node]).await;
        let grant = within(b.node.site.claim(&held, None)).await;
        assert!(matches!(grant, Claimed::Granted(_)), "{grant:?}");
        let site = a.site.clone();
        let second = runtime.spawn(async move { site.claim(&held, None).await });
        let second = within(second).await.unwrap();
        assert!(matches!(second, Claimed::Follow(peer) if peer == b.node.site.own()), "{second:?}");
        grant
    });
    // Now the one stands still, and its connection is as it was: half of the keys are at home there.
    runtime.block_on(async {
        for number in 2..34 {
            let claimed = within(a.site.claim(&KeyHash([number; 16]), None)).await;
            assert!(matches!(claimed, Claimed::Granted(_)), "{claimed:?}");
        }
        let claimed = within(a.site.claim(&held, Some(b.node.site.own()))).await;
        assert!(matches!(claimed, Claimed::Granted(_)), "{claimed:?}");
        assert!(a.site.0.state().claims.is_empty());
    });
}

//! The site as the rest of the node sees it, and what drives `imirror_protocol::Cluster`: what happens is told to it, what it
//! wants done is done here. What is decided is decided there.

mod forgetting;
mod reports;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use imirror_protocol::token::{SiteId, Token};
use imirror_protocol::{
    Cluster, Config, ConnectionId, Incarnation, Input, Instant, Key, NodeId, Outcome, Output, Plan, REQUEST, Status,
    Version, Why,
};
use quinn::Endpoint;
use tokio::sync::{Notify, Semaphore, mpsc, oneshot, watch};
use tokio::time::MissedTickBehavior;

use super::discovery::{Announcement, Candidate, Discovery, Wanted, own_addresses};
use super::endpoint::{self, canonical};
use super::identity::Identity;
use super::links::{self, Event, Link, Newcomer, PeerStream, Request};
use super::noise::Noise;
use crate::classify::KeyHash;
use crate::ledger::metrics::SiteCounts;
use crate::os::clock::Clock;
use crate::os::{entropy, tasks};

pub use forgetting::{Forgotten, Order};

/// Handshakes under way at the same time; who comes meanwhile is turned away and tries again.
const HANDSHAKES_MAX: usize = 64;

/// With so many under way, who comes has to show first that its address is its own.
const HANDSHAKES_TRUSTED: usize = 16;

/// A claim is answered within 100 ms (see [`Input::Claim`]). Should it not be, a download does not wait.
const CLAIM_PATIENCE: Duration = Duration::from_millis(200);

/// The same for a node that has just started.
const CLAIM_PATIENCE_YOUNG: Duration = Duration::from_millis(1_300);

/// As [`CLAIM_PATIENCE`], for [`Input::Confirm`], within which somebody else asks upstream.
const CONFIRM_PATIENCE: Duration = Duration::from_millis(5_300);

/// For a TCP connection to where nobody answers by UDP.
const TCP_PATIENCE: Duration = Duration::from_secs(2);

/// How often the node looks how it does.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Requests of clients that wait to be counted; further ones are not.
const REQUESTS_MAX: usize = 16 * 1024;

/// Who was complained of in the log, and when.
const COMPLAINTS_MAX: usize = 256;

/// Names of packages whose demand is remembered over a restart.
const NAMES_KEPT_MAX: usize = 4096;

/// The same is complained of again after this.
const COMPLAIN_EVERY: Duration = Duration::from_secs(3600);

/// What the site wants of this node.
pub trait Host: Send + Sync + 'static {
    /// Answers a peer's request.
    fn serve(&self, peer: NodeId, stream: PeerStream) -> BoxFuture<'static, ()>;
    /// Reads an object from a peer into the store; says whether it is there now.
    fn copy(&self, key: KeyHash, from: NodeId) -> BoxFuture<'static, bool>;
    /// Forgets something as another node wants it; says how many objects went.
    fn forget(&self, order: Order) -> BoxFuture<'static, u64>;
    /// How this node does.
    fn load(&self) -> Load;
    /// So many nodes, this one always among them, download from upstream: it takes that part of the limit. Says whether it does
    /// download; not where there is no limit.
    fn share_uplink(&self, nodes: usize) -> bool;
    /// What people are to see of this node at another, see [`Site::ask_report`]; nothing if the question makes no sense. Does not block.
    fn report(&self, question: &str) -> Option<String>;
}

/// See [`Input::Load`].
#[derive(Debug, Clone, Copy, Default)]
pub struct Load {
    pub load: u8,
    pub room: u8,
    pub bytes: u64,
}

/// What a node says of itself.
#[derive(Debug, Clone)]
pub struct Profile {
    pub name: String,
    /// Where it listens: TCP for clients, UDP of the same port for peers.
    pub listen: SocketAddr,
    /// See [`Config::copies_max`].
    pub copies_max: usize,
}

/// A package by its name, with its architecture.
#[derive(Debug, Clone, PartialEq)]
pub struct Popular {
    pub name: String,
    /// Requests in the whole site, of which those of a month ago count half.
    pub demand: f64,
    /// Nodes that have what was asked for last under that name at this one.
    pub copies: usize,
}

/// How often something has been asked for since that was last reported.
#[derive(Debug)]
pub struct Tally {
    key: Key,
    /// What it is called, if it is a package.
    name: Option<Arc<str>>,
    times: AtomicU32,
}

impl Tally {
    pub fn new(key: &KeyHash, name: Option<Arc<str>>) -> Arc<Self> {
        Arc::new(Self { key: of(key), name, times: AtomicU32::new(0) })
    }
}

/// Who fetches something from upstream.
#[derive(Debug)]
pub enum Claimed {
    /// This node.
    Granted(Grant),
    /// Another one, which has it or is getting it.
    Follow(NodeId),
}

/// Who asks upstream whether something is current.
#[derive(Debug)]
pub enum Confirmation {
    /// This node.
    Ask(Asking),
    /// Somebody did, so long ago at most, and upstream had this version.
    Known { version: Version, age: Duration, by: NodeId },
}

/// What was counted since the start.
#[derive(Debug, Default)]
struct Counters {
    handshakes_refused: AtomicU64,
    frames_received: AtomicU64,
    frames_sent: AtomicU64,
    misbehaved: AtomicU64,
}

/// See the module head. Cheap to clone.
#[derive(Clone)]
pub struct Site(Arc<Inner>);

struct Inner {
    own: NodeId,
    announcement: Announcement,
    discovery: Mutex<Option<Discovery>>,
    /// `None`: no UDP, and so no peers.
    endpoint: Option<Endpoint>,
    origin: tokio::time::Instant,
    state: Mutex<State>,
    /// There is something to be done earlier than was planned.
    sooner: Notify,
    /// What `requested` has gathered: the state machine is not woken for each hit.
    requests: Mutex<Vec<Arc<Tally>>>,
    /// What was asked for last of a name. Its lock is taken before that of `state`.
    latest: Mutex<BTreeMap<Arc<str>, Key>>,
    errands: mpsc::UnboundedSender<Errand>,
    /// Taken by `start`.
    waiting_errands: Mutex<Option<mpsc::UnboundedReceiver<Errand>>>,
    connections: AtomicU64,
    handshakes: Arc<Semaphore>,
    complaints: Mutex<BTreeMap<Complaint, tokio::time::Instant>>,
    counters: Counters,
    noise: Arc<Noise>,
    alone: AtomicBool,
    changes: watch::Sender<u64>,
    host: OnceLock<Arc<dyn Host>>,
}

struct State {
    cluster: Cluster,
    links: BTreeMap<NodeId, Vec<Link>>,
    claims: BTreeMap<Key, Vec<oneshot::Sender<Option<NodeId>>>>,
    confirmations: BTreeMap<Key, Vec<oneshot::Sender<Option<Known>>>>,
    offers: BTreeMap<Key, oneshot::Sender<Option<NodeId>>>,
    orders: BTreeMap<u64, oneshot::Sender<Forgotten>>,
    planned: Option<Instant>,
}

/// What upstream has, how long ago it said so at most, and to whom.
type Known = (Version, Duration, NodeId);

/// What takes its time. As many as the state machine has under way at once, which it bounds.
enum Errand {
    Dial(SocketAddr),
    Copy { key: Key, from: NodeId },
    Forget { id: u64, order: Order },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Complaint {
    Stranger(IpAddr),
    Peer(NodeId, Why),
    NoUdp(SocketAddr),
    Duplicate,
}

impl Site {
    /// A node that listens for the others and knows nobody yet; [`Self::start`] begins the talk. To be called in a runtime.
    pub fn open(identity: &Identity, profile: Profile, clock: &Clock) -> Self {
        let noise = Arc::default();
        let endpoint = endpoint::open(identity, profile.listen, &noise)
            .inspect_err(|error| tracing::error!("{error:#}; this node serves clients, and is alone"))
            .ok();
        let config = Config {
            name: profile.name.clone(),
            client_port: profile.listen.port(),
            addresses: own_addresses(profile.listen),
            copies_max: profile.copies_max,
            ..Config::default()
        };
        let [seed, _] = halves(entropy::random_bytes());
        let incarnation = Incarnation(clock.now().0);
        let cluster = Cluster::new(config, identity.node, incarnation, seed, Instant::default());
        Self::new((identity.node, identity.site), profile.listen, endpoint, noise, cluster)
    }

    /// A node of no site, for tests and benchmarks: it never meets anybody.
    pub fn alone() -> Self {
        let node = NodeId(entropy::random_bytes());
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        let cluster = Cluster::new(Config::default(), node, Incarnation(1), 0, Instant::default());
        Self::new((node, Token::from_entropy([0; 20]).site_id()), listen, None, Arc::default(), cluster)
    }

    fn new(
        (node, site): (NodeId, SiteId),
        listen: SocketAddr,
        endpoint: Option<Endpoint>,
        noise: Arc<Noise>,
        cluster: Cluster,
    ) -> Self {
        let (errands, waiting_errands) = mpsc::unbounded_channel();
        let state = State {
            planned: cluster.poll_deadline(),
            cluster,
            links: BTreeMap::new(),
            claims: BTreeMap::new(),
            confirmations: BTreeMap::new(),
            offers: BTreeMap::new(),
            orders: BTreeMap::new(),
        };
        Self(Arc::new(Inner {
            own: node,
            announcement: Announcement { node, site, listen, client_port: Some(listen.port()) },
            discovery: Mutex::default(),
            endpoint,
            origin: tokio::time::Instant::now(),
            state: Mutex::new(state),
            sooner: Notify::new(),
            requests: Mutex::default(),
            latest: Mutex::default(),
            errands,
            waiting_errands: Mutex::new(Some(waiting_errands)),
            connections: AtomicU64::new(0),
            handshakes: Arc::new(Semaphore::new(HANDSHAKES_MAX)),
            complaints: Mutex::default(),
            counters: Counters::default(),
            noise,
            alone: AtomicBool::new(true),
            changes: watch::Sender::new(0),
            host: OnceLock::new(),
        }))
    }

    /// Begins to talk with others, and lets them in.
    pub fn start(&self, host: Arc<dyn Host>, wanted: Wanted) {
        let errands = self.0.waiting_errands.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(errands) = errands else { return };
        let _ = self.0.host.set(host.clone());
        tasks::spawn("site", self.clone().drive(errands, host.clone()));
        if let Some(endpoint) = self.0.endpoint.clone() {
            let (discovery, candidates) = Discovery::start(self.0.announcement, wanted);
            tasks::spawn("look around", self.clone().look_around(host, discovery.addresses(), candidates));
            *self.0.discovery() = Some(discovery);
            tasks::spawn("peers", self.clone().accept(endpoint));
        }
    }

    /// Who this node is.
    pub fn own(&self) -> NodeId {
        self.0.own
    }

    /// Of which site this node is.
    pub fn id(&self) -> SiteId {
        self.0.announcement.site
    }

    /// Is another node of the site called so?
    pub fn has_other_named(&self, name: &str) -> bool {
        self.status().members.iter().any(|member| member.name == name)
    }

    pub fn counts(&self) -> SiteCounts {
        let Counters { handshakes_refused, frames_received, frames_sent, misbehaved } = &self.0.counters;
        let [handshakes_refused, frames_received, frames_sent, misbehaved] =
            [handshakes_refused, frames_received, frames_sent, misbehaved].map(|count| count.load(Ordering::Relaxed));
        let noise = self.0.noise.packets();
        SiteCounts { handshakes_refused, frames_received, frames_sent, misbehaved, noise }
    }

    /// The site as this node sees it.
    pub fn status(&self) -> Status {
        self.0.state().cluster.status()
    }

    /// Changes whenever a node comes or goes.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.0.changes.subscribe()
    }

    /// How long a packet takes to a peer and back, if there is a connection.
    pub fn round_trip(&self, peer: NodeId) -> Option<Duration> {
        self.0.state().links.get(&peer).and_then(|links| links.last()).map(Link::round_trip)
    }

    /// What people call a node; its id when it has said nothing.
    pub fn name_of(&self, node: NodeId) -> String {
        self.0.state().cluster.name_of(node).map_or_else(|| node.to_string(), plain)
    }

    /// For lists handed to clients: see [`Cluster::nodes_by_load`].
    pub fn nodes_by_load(&self, client: u64) -> Vec<(NodeId, Option<SocketAddr>)> {
        self.0.state().cluster.nodes_by_load(client)
    }

    /// Is there nobody else? Then nothing of the site needs asking.
    pub fn is_alone(&self) -> bool {
        self.0.alone.load(Ordering::Relaxed)
    }

    /// Whom to ask for a key, best first.
    pub fn plan(&self, key: &KeyHash) -> Plan {
        match self.is_alone() {
            true => Plan::default(),
            false => self.0.state().cluster.plan(of(key)),
        }
    }

    /// Who fetches this from upstream? `broken` is whom it was read from in vain. Answered in a fraction of a second.
    pub async fn claim(&self, key: &KeyHash, broken: Option<NodeId>) -> Claimed {
        let key = of(key);
        let (answer, answered) = oneshot::channel();
        self.0.state().claims.entry(key).or_default().push(answer);
        self.0.tell(Input::Claim { key, broken });
        let is_young = self.0.origin.elapsed() < Duration::from_secs(1);
        let patience = if is_young { CLAIM_PATIENCE_YOUNG } else { CLAIM_PATIENCE };
        match tokio::time::timeout(patience, answered).await {
            Ok(Ok(Some(peer))) => Claimed::Follow(peer),
            _ => Claimed::Granted(Grant { site: self.clone(), key, stored: false, told: self.0.now() }),
        }
    }

    /// Has upstream been asked about this within `age`, by anybody in the site, or is somebody asking?
    pub async fn confirm(&self, key: &KeyHash, age: Duration) -> Confirmation {
        let key = of(key);
        let ask = || Confirmation::Ask(Asking { site: self.clone(), key, version: None, since: self.0.now() });
        if self.is_alone() {
            return ask();
        }
        let (answer, answered) = oneshot::channel();
        self.0.state().confirmations.entry(key).or_default().push(answer);
        self.0.tell(Input::Confirm { key, age });
        match tokio::time::timeout(CONFIRM_PATIENCE, answered).await {
            Ok(Ok(Some((version, age, by)))) => Confirmation::Known { version, age, by },
            _ => ask(),
        }
    }

    /// A stream for a request to a peer.
    ///
    /// # Errors
    /// There is no connection with it, or it has ended.
    pub async fn stream(&self, peer: NodeId) -> std::io::Result<PeerStream> {
        self.open_stream(peer, Request::Object).await
    }

    async fn open_stream(&self, peer: NodeId, request: Request) -> std::io::Result<PeerStream> {
        let link = self.0.state().links.get(&peer).and_then(|links| links.last().cloned());
        link.ok_or(std::io::ErrorKind::NotConnected)?.open(request).await
    }

    /// A peer is being asked for an object; to be followed by [`Self::answered`].
    pub fn asked(&self, peer: NodeId) {
        self.0.tell(Input::Asked(peer));
    }

    pub fn answered(&self, peer: NodeId, outcome: Outcome) {
        self.0.tell(Input::Answered { peer, outcome });
    }

    /// A client has asked for this. Costs next to nothing, least of all when it has been asked for a moment ago.
    pub fn requested(&self, tally: &Arc<Tally>) {
        if tally.times.fetch_add(1, Ordering::Relaxed) > 0 {
            return;
        }
        let mut requests = self.0.requests.lock().unwrap_or_else(PoisonError::into_inner);
        if requests.len() < REQUESTS_MAX {
            requests.push(tally.clone());
        } else {
            tally.times.store(0, Ordering::Relaxed);
        }
    }

    /// The packages most asked for in the site by their names, most first.
    pub fn popular(&self, count: usize) -> Vec<Popular> {
        let latest = self.0.latest();
        let state = self.0.state();
        let copies = |key: &Key| usize::from(state.cluster.holds(*key)) + state.cluster.copies_elsewhere(*key);
        let popular = state.cluster.popular_names(count).into_iter().map(|(name, amount)| Popular {
            demand: amount as f64 / f64::from(REQUEST),
            copies: latest.get(name.as_str()).map_or(0, copies),
            name,
        });
        popular.collect()
    }

    /// The demand for packages of a name, as of [`Self::popular`]; `None`: nobody asks for it.
    pub fn demand(&self, name: &str) -> Option<f64> {
        let found = self.popular(NAMES_KEPT_MAX).into_iter().find(|popular| popular.name == name);
        found.map(|popular| popular.demand)
    }

    /// What this node will want to know of names after its next start, see [`Self::recall_names`].
    pub fn own_names(&self) -> Vec<(String, u32)> {
        self.count_requests();
        self.0.state().cluster.own_names(NAMES_KEPT_MAX)
    }

    /// What an earlier run has counted.
    pub fn recall_names(&self, names: Vec<(String, u32)>) {
        for (name, amount) in names.into_iter().take(NAMES_KEPT_MAX) {
            self.0.tell(Input::RequestedName { name, amount });
        }
    }

    /// Of all live nodes the one whose business a key is first.
    pub fn is_home_of(&self, key: &KeyHash) -> bool {
        self.0.state().cluster.home_of(of(key)) == self.0.own
    }

    /// The store has this now, or has it no more.
    pub fn holds(&self, key: &KeyHash, stored: bool) {
        self.0.tell(if stored { Input::Stored(of(key)) } else { Input::Removed(of(key)) });
    }

    /// Has the store had this for as long as the site knows?
    pub fn has(&self, key: &KeyHash) -> bool {
        self.0.state().cluster.holds(of(key))
    }

    /// How many other nodes probably have this.
    pub fn copies_elsewhere(&self, key: &KeyHash) -> usize {
        if self.is_alone() { 0 } else { self.0.state().cluster.copies_elsewhere(of(key)) }
    }

    /// See [`Cluster::is_spare`].
    pub fn is_spare(&self, key: &KeyHash) -> bool {
        !self.is_alone() && self.0.state().cluster.is_spare(of(key))
    }

    /// From now on this node gets no more work, or again. It still serves.
    pub fn drain(&self, draining: bool) {
        self.0.tell(Input::Drain(draining));
    }

    /// While draining: who takes this? `None`: nobody can, or others have it anyway. At most 64 at once.
    pub async fn offer(&self, key: &KeyHash) -> Option<NodeId> {
        let (answer, answered) = oneshot::channel();
        self.0.state().offers.insert(of(key), answer);
        self.0.tell(Input::Offer(of(key)));
        answered.await.ok().flatten()
    }

    /// Says good-bye to all, and ends all connections.
    pub async fn leave(&self) {
        let discovery = self.0.discovery().take();
        self.0.tell(Input::Leave);
        if let Some(discovery) = discovery {
            discovery.leave().await;
        }
        if let Some(endpoint) = &self.0.endpoint {
            // The good-byes are sent before the connections end.
            tokio::time::sleep(Duration::from_millis(50)).await;
            endpoint.close(0u32.into(), b"this node stops");
            let _ = tokio::time::timeout(Duration::from_millis(500), endpoint.wait_idle()).await;
        }
    }

    async fn drive(self, mut errands: mpsc::UnboundedReceiver<Errand>, host: Arc<dyn Host>) {
        loop {
            let deadline = {
                let mut state = self.0.state();
                state.planned = state.cluster.poll_deadline();
                state.planned
            };
            let Some(deadline) = deadline else { return };
            tokio::select! {
                errand = errands.recv() => if let Some(errand) = errand {
                    self.run(errand, host.as_ref());
                },
                () = tokio::time::sleep_until(self.0.origin + Duration::from_micros(deadline.as_micros())) => {
                    self.count_requests();
                    self.0.tell(Input::Tick);
                }
                () = self.0.sooner.notified() => {}
            }
        }
    }

    fn count_requests(&self) {
        let requests = std::mem::take(&mut *self.0.requests.lock().unwrap_or_else(PoisonError::into_inner));
        let mut sums: BTreeMap<Key, (u32, Option<Arc<str>>)> = BTreeMap::new();
        for tally in requests {
            let (times, name) = sums.entry(tally.key).or_default();
            *times = times.saturating_add(tally.times.swap(0, Ordering::Relaxed));
            *name = name.take().or_else(|| tally.name.clone());
        }
        for (key, (times, name)) in sums {
            self.0.tell(Input::RequestedOften { key, times });
            if let Some(name) = name {
                let amount = times.saturating_mul(REQUEST);
                self.0.tell(Input::RequestedName { name: name.to_string(), amount });
                self.0.note_latest(&name, key);
            }
        }
    }

    fn run(&self, errand: Errand, host: &dyn Host) {
        let site = self.clone();
        match errand {
            Errand::Dial(address) => drop(tasks::spawn("dial", async move { site.dial(address).await })),
            Errand::Copy { key, from } => {
                let copied = host.copy(KeyHash(key.0), from);
                tasks::spawn("copy", async move {
                    let done = copied.await;
                    site.0.tell(Input::Copied { key, done });
                });
            }
            Errand::Forget { id, order } => {
                let forgotten = host.forget(order);
                tasks::spawn("forget", async move {
                    let objects = forgotten.await;
                    site.0.tell(Input::Forgot { id, objects });
                });
            }
        }
    }

    async fn dial(&self, address: SocketAddr) {
        let Some(endpoint) = &self.0.endpoint else { return self.0.tell(Input::DialFailed(address)) };
        match links::dial(endpoint, address).await {
            Ok(newcomer) => self.talk(newcomer, address, true).await,
            Err(error) => {
                tracing::debug!(%address, "no node there: {error:#}");
                self.0.tell(Input::DialFailed(address));
                if error.is::<tokio::time::error::Elapsed>() && self.is_alone() {
                    self.look_for_a_firewall(address).await;
                }
            }
        }
    }

    /// Where a node, or something like it, answers clients and lets no packet of nodes through, people should know.
    async fn look_for_a_firewall(&self, address: SocketAddr) {
        let connecting = tokio::time::timeout(TCP_PATIENCE, tokio::net::TcpStream::connect(address));
        if matches!(connecting.await, Ok(Ok(_))) {
            self.0.complain(Complaint::NoUdp(address), || {
                tracing::warn!("{address} answers by TCP but not by UDP, by which nodes talk to each other: this node serves alone. Does a firewall drop UDP on port {}?", address.port());
            });
        }
    }

    async fn accept(self, endpoint: Endpoint) {
        while let Some(incoming) = endpoint.accept().await {
            let Ok(place) = self.0.handshakes.clone().try_acquire_owned() else {
                incoming.refuse();
                continue;
            };
            let is_busy = HANDSHAKES_MAX - self.0.handshakes.available_permits() > HANDSHAKES_TRUSTED;
            if is_busy && !incoming.remote_address_validated() {
                let _ = incoming.retry();
                continue;
            }
            let site = self.clone();
            tasks::spawn("peer", async move {
                let address = canonical(incoming.remote_address());
                match links::welcome(incoming).await {
                    Ok(newcomer) => {
                        drop(place);
                        site.talk(newcomer, address, false).await;
                    }
                    Err(error) => {
                        drop(place);
                        site.0.counters.handshakes_refused.fetch_add(1, Ordering::Relaxed);
                        site.0.complain(Complaint::Stranger(address.ip()), || {
                            tracing::warn!("{address} was not let in: {error:#}. Has it the token of this site? `imirror site show` says it, `imirror join` takes it");
                        });
                    }
                }
            });
        }
    }

    /// For as long as the connection lasts.
    async fn talk(&self, newcomer: Newcomer, address: SocketAddr, dialled: bool) {
        let peer = newcomer.peer;
        self.0.noise.met(canonical(address));
        let id = ConnectionId(self.0.connections.fetch_add(1, Ordering::Relaxed));
        let site = self.clone();
        let (link, work) = newcomer.link(id, move |event| site.heard(peer, event));
        self.0.state().links.entry(peer).or_default().push(link);
        self.0.tell(Input::Connected { peer, connection: id, address: Some(address), dialled });
        work.await;
        // It is gone already where the state machine wanted it to end.
        if self.0.state().unlink(peer, id).is_some() {
            self.0.tell(Input::Disconnected { peer, connection: id });
        }
    }

    fn heard(&self, peer: NodeId, event: Event) {
        match event {
            Event::Frame(bytes) => {
                self.0.counters.frames_received.fetch_add(1, Ordering::Relaxed);
                self.0.tell(Input::Received { from: peer, bytes });
            }
            Event::Garbled => self.0.tell(Input::Garbled(peer)),
            Event::Request(mut stream) => {
                let Some(host) = self.0.host.get().cloned() else { return };
                tasks::spawn("peer request", async move {
                    match stream.request().await {
                        Some(Request::Object) => host.serve(peer, stream).await,
                        Some(Request::Report) => reports::answer(stream, host.as_ref()).await,
                        None => {}
                    }
                });
            }
        }
    }

    /// Tells the state machine how this node does, where it is, and where others may be; as long as the node runs.
    async fn look_around(
        self,
        host: Arc<dyn Host>,
        mut addresses: watch::Receiver<Vec<SocketAddr>>,
        mut candidates: mpsc::Receiver<Candidate>,
    ) {
        let mut ticks = tokio::time::interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut known = addresses.borrow_and_update().clone();
        loop {
            tokio::select! {
                _ = ticks.tick() => {
                    let Load { load, room, bytes } = host.load();
                    self.0.tell(Input::Load { load, room, bytes });
                    let users = self.0.state().cluster.uplink_users();
                    self.0.tell(Input::UsesUplink(host.share_uplink(users)));
                    self.remember();
                }
                Ok(()) = addresses.changed() => {
                    let addresses = addresses.borrow_and_update().clone();
                    tracing::info!(?addresses, "others reach this node elsewhere now");
                    self.give_up_links(known.iter().filter(|address| !addresses.contains(address)));
                    known.clone_from(&addresses);
                    self.0.tell(Input::Addresses(addresses));
                }
                Some(Candidate { address, peer, .. }) = candidates.recv() => {
                    self.0.tell(Input::Discovered { address, peer });
                }
                else => return,
            }
        }
    }

    /// What went by an address that this node has no more leads nowhere: it would take a while to find that out.
    fn give_up_links<'a>(&self, gone: impl Iterator<Item = &'a SocketAddr>) {
        let gone: Vec<IpAddr> = gone.map(SocketAddr::ip).collect();
        let is_gone = |link: &Link| link.local_ip().is_some_and(|ip| gone.contains(&ip));
        let links: Vec<Link> = self.0.state().links.values().flatten().filter(|link| is_gone(link)).cloned().collect();
        links.iter().for_each(Link::give_up);
    }

    /// Where the others answer now is where they are looked for after the next start.
    fn remember(&self) {
        let members = self.0.state().cluster.status().members;
        let good: Vec<_> =
            members.iter().filter(|member| member.connected).filter_map(|member| member.address).collect();
        if let Some(discovery) = self.0.discovery().as_ref().filter(|_| !good.is_empty()) {
            discovery.remember(&good);
        }
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn discovery(&self) -> MutexGuard<'_, Option<Discovery>> {
        self.discovery.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn latest(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, Key>> {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note_latest(&self, name: &Arc<str>, key: Key) {
        let mut latest = self.latest();
        if latest.insert(name.clone(), key).is_none() && latest.len() > NAMES_KEPT_MAX * 2 {
            let names = self.state().cluster.popular_names(NAMES_KEPT_MAX);
            let popular: BTreeSet<&str> = names.iter().map(|(name, _)| name.as_str()).collect();
            latest.retain(|name, _| popular.contains(&**name));
        }
    }

    fn now(&self) -> Instant {
        Instant::from_micros(u64::try_from(self.origin.elapsed().as_micros()).unwrap_or(u64::MAX))
    }

    /// Tells the state machine something, and does what it wants done.
    fn tell(&self, input: Input) {
        let mut state = self.state();
        state.cluster.handle(self.now(), input);
        while let Some(output) = state.cluster.poll_output() {
            self.obey(&mut state, output);
        }
        let deadline = state.cluster.poll_deadline();
        // `None` is never, and a reason to look, too.
        if deadline.is_none() || deadline < state.planned {
            state.planned = deadline;
            self.sooner.notify_one();
        }
    }

    fn obey(&self, state: &mut State, output: Output) {
        match output {
            Output::Send { to, frame, lane } => {
                if let Some(link) = state.links.get(&to).and_then(|links| links.last()) {
                    self.counters.frames_sent.fetch_add(1, Ordering::Relaxed);
                    link.send(frame, lane);
                }
            }
            Output::Dial(address) => drop(self.errands.send(Errand::Dial(address))),
            Output::Copy { key, from } => drop(self.errands.send(Errand::Copy { key, from })),
            Output::Forget { id, what, cause, age } => {
                drop(self.errands.send(Errand::Forget { id, order: Order { what, cause, age } }));
            }
            Output::Forgotten { id, objects, nodes, silent } => {
                if let Some(order) = state.orders.remove(&id) {
                    let _ = order.send(Forgotten { objects, nodes, silent });
                }
            }
            Output::Disconnect { peer, connection, why } => {
                let link = state.unlink(peer, connection);
                if let Some(link) = link.filter(|_| why != Why::Spare) {
                    link.close(why);
                }
            }
            Output::Granted { key, shared } => {
                tracing::debug!(?key, shared, "may be fetched from upstream");
                state.answer_claims(key, None);
            }
            Output::Follow { key, peer } => {
                tracing::debug!(?key, %peer, "is to be read from a peer");
                state.answer_claims(key, Some(peer));
            }
            Output::AskUpstream(key) => state.answer_confirmations(key, None),
            Output::Fresh { key, version, age, by } => state.answer_confirmations(key, Some((version, age, by))),
            Output::Handed { key, to } => {
                if let Some(offer) = state.offers.remove(&key) {
                    let _ = offer.send(to);
                }
            }
            Output::MemberUp { peer, address } => {
                tracing::info!(node = %peer, address = address.map(tracing::field::display), "a node has joined");
                self.members_changed(state);
            }
            Output::MemberDown(peer) => {
                tracing::info!(node = %peer, "a node has gone");
                self.members_changed(state);
            }
            Output::Rejoined(_) => tracing::info!("this node was believed dead and is back"),
            Output::DuplicateIdentity => self.complain(Complaint::Duplicate, || {
                tracing::error!("another node has the identity of this one: on one of the two stop imirror, remove node.key from its state folder, and start it again");
            }),
            Output::Misbehaved { peer, why } => {
                self.counters.misbehaved.fetch_add(1, Ordering::Relaxed);
                self.complain(Complaint::Peer(peer, why), || tracing::warn!(node = %peer, "a node misbehaves: {why}"));
            }
            other => tracing::debug!(?other, "nothing is known of what the protocol wants"),
        }
    }

    fn members_changed(&self, state: &State) {
        self.alone.store(state.cluster.members().len() == 0, Ordering::Relaxed);
        self.changes.send_modify(|changes| *changes += 1);
    }

    /// Logs something about somebody, unless that was done a short while ago.
    fn complain(&self, complaint: Complaint, log: impl FnOnce()) {
        let now = tokio::time::Instant::now();
        let mut complaints = self.complaints.lock().unwrap_or_else(PoisonError::into_inner);
        if complaints.len() >= COMPLAINTS_MAX {
            complaints.retain(|_, at| now.duration_since(*at) < COMPLAIN_EVERY);
        }
        let is_new = complaints.get(&complaint).is_none_or(|at| now.duration_since(*at) >= COMPLAIN_EVERY);
        if is_new && complaints.len() < COMPLAINTS_MAX {
            complaints.insert(complaint, now);
            log();
        }
    }
}

impl State {
    fn unlink(&mut self, peer: NodeId, id: ConnectionId) -> Option<Link> {
        let links = self.links.get_mut(&peer)?;
        let place = links.iter().position(|link| link.id == id)?;
        let link = links.remove(place);
        if links.is_empty() {
            self.links.remove(&peer);
        }
        Some(link)
    }

    fn answer_claims(&mut self, key: Key, follow: Option<NodeId>) {
        for claim in self.claims.remove(&key).unwrap_or_default() {
            let _ = claim.send(follow);
        }
    }

    fn answer_confirmations(&mut self, key: Key, known: Option<Known>) {
        for asked in self.confirmations.remove(&key).unwrap_or_default() {
            let _ = asked.send(known);
        }
    }
}

/// The permission to fetch something from upstream for the whole site. Dropping it says that the download is over.
#[derive(Debug)]
pub struct Grant {
    site: Site,
    key: Key,
    stored: bool,
    told: Instant,
}

impl Grant {
    /// Others who wait for the download learn so now and then that it goes on.
    const PROGRESS_EVERY: Duration = Duration::from_secs(5);

    /// The download has got on.
    pub fn progressed(&mut self) {
        let now = self.site.0.now();
        if now.since(self.told) >= Self::PROGRESS_EVERY {
            self.told = now;
            self.site.0.tell(Input::Progress(self.key));
        }
    }

    /// The store has it now.
    pub fn stored(mut self) {
        self.stored = true;
    }
}

impl Drop for Grant {
    fn drop(&mut self) {
        self.site.0.tell(Input::Ended { key: self.key, stored: self.stored });
    }
}

/// The duty to ask upstream for the whole site. Dropping it tells the others what came of it.
#[derive(Debug)]
pub struct Asking {
    site: Site,
    key: Key,
    version: Option<Version>,
    since: Instant,
}

impl Asking {
    /// Upstream has this version.
    pub fn learned(mut self, version: Version) {
        self.version = Some(version);
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        let ago = self.site.0.now().since(self.since);
        self.site.0.tell(Input::Confirmed { key: self.key, version: self.version, ago });
    }
}

impl std::fmt::Debug for Site {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Site({})", self.0.own)
    }
}

/// A name that can stand in a header field and in a log, whatever a node calls itself.
fn plain(name: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    name.chars().map(|c| if is_plain(c) { c } else { '_' }).collect()
}

fn of(key: &KeyHash) -> Key {
    Key(key.0)
}

fn halves(bytes: [u8; 16]) -> [u64; 2] {
    let whole = u128::from_le_bytes(bytes);
    [whole as u64, (whole >> 64) as u64]
}

#[cfg(test)]
mod tests;

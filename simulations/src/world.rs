//! A site in virtual time: nodes, the net between them, and the events that come about.
//!
//! The net delivers streams in order and datagrams when it pleases, delays everything by latency and by the bytes ahead in the sender's
//! line, loses some, and can be cut in two. A dead node is silent: others find out by time-outs, as over QUIC.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use imirror_protocol::{Cluster, Config, ConnectionId, Incarnation, Input, Instant, Key, Lane, NodeId, Output, Why};

use crate::data::Data;
use crate::rng::Rng;

/// Microseconds since the world began.
pub type Micros = u64;

/// One second.
pub const SECOND: Micros = 1_000_000;
/// One millisecond.
pub const MILLI: Micros = 1_000;

/// A connection without a sign of life ends after this.
const IDLE: Micros = 10 * SECOND;
/// A dial that nobody answers fails after this.
const DIAL_FAILS: Micros = SECOND;
/// IP, UDP and QUIC around each message.
const HEADERS: u64 = 48;
/// No sound driver is given more to do by one event than this.
const OUTPUTS_MAX: usize = 20_000;

/// The laws of this world.
#[derive(Clone, Debug)]
pub struct Laws {
    /// One way, least and most.
    pub latency: (Micros, Micros),
    /// Packets lost, in a million.
    pub loss: u32,
    /// Each node's line, bytes a second, each way.
    pub line: u64,
    /// The site's line to the world, bytes a second.
    pub uplink: u64,
    /// To upstream and back.
    pub upstream_latency: Micros,
}

impl Default for Laws {
    fn default() -> Self {
        Self { latency: (100, 500), loss: 0, line: 125_000_000, uplink: 12_500_000, upstream_latency: 30 * MILLI }
    }
}

/// One machine.
pub struct Node {
    /// Its name.
    pub id: NodeId,
    /// What runs there; nothing while it is down.
    pub cluster: Option<Cluster>,
    /// What its own clock shows when the world's shows zero.
    clock: Micros,
    /// Grows with every start.
    lives: u64,
    started: Micros,
    /// Whom it can reach: nodes of the same island.
    pub island: u8,
    frozen_until: Micros,
    wake: Option<Micros>,
    connections: BTreeMap<NodeId, Vec<u64>>,
    line_free: Micros,
    config: Config,
    /// Where it has met others: they are in a file, and it tries them when it starts again.
    remembered: BTreeSet<usize>,
    /// Bytes of messages and their headers that it has sent.
    pub sent: u64,
    /// Whom it has complained of, and why.
    pub complaints: Vec<(NodeId, Why)>,
    /// How often it was told that somebody has its key.
    pub duplicates: u64,
    /// It lies: see [`crate::data`].
    pub liar: bool,
    /// Its disk does nothing in every other second.
    pub slow_disk: bool,
}

struct Connection {
    ends: [usize; 2],
    open: [bool; 2],
    /// When the last message of the stream to each end arrives.
    last: [Micros; 2],
    /// Since when no packet has come through.
    cut: Option<Micros>,
    /// What the stream holds back while nothing comes through.
    held: Vec<(usize, Vec<u8>)>,
}

enum Event {
    Wake(usize),
    Dialled { from: usize, to: usize },
    Connected { at: usize, peer: usize, connection: u64, dialled: bool },
    DialFailed { at: usize, address: SocketAddr, life: u64 },
    Deliver { at: usize, connection: u64, bytes: Vec<u8> },
    Closed { at: usize, connection: u64 },
    TimedOut { connection: u64, cut: Micros },
    UpstreamSays { at: usize, key: Key, life: u64 },
    Pump,
}

/// Everything there is.
pub struct World {
    /// What all goes by.
    pub laws: Laws,
    /// The time.
    pub now: Micros,
    /// All machines.
    pub nodes: Vec<Node>,
    /// What is moved, stored and wanted.
    pub data: Data,
    pub(crate) rng: Rng,
    queue: BinaryHeap<Reverse<(Micros, u64)>>,
    events: BTreeMap<u64, Event>,
    next_event: u64,
    connections: BTreeMap<u64, Connection>,
    next_connection: u64,
    indices: BTreeMap<NodeId, usize>,
    pumping: bool,
    /// Messages delivered.
    pub delivered: u64,
    /// Bytes of messages and their headers that all have sent, by kind: see [`imirror_protocol::message::Message::kind`].
    pub sent_by_kind: BTreeMap<u8, u64>,
    /// What has gone wrong.
    pub wrongs: Vec<String>,
    /// Everything that was delivered and when, in one number: two runs of one seed must agree.
    pub trace: u64,
}

impl World {
    /// A world of `count` machines, all of them down.
    pub fn new(laws: Laws, count: usize, seed: u64) -> Self {
        let mut rng = Rng::seeded(seed);
        let node = |number: usize| Node {
            id: NodeId::of_public_key(&[seed.to_le_bytes(), (number as u64).to_le_bytes()].concat()),
            cluster: None,
            clock: rng.below(1 << 40),
            lives: (1 << 40) + rng.below(1000),
            started: 0,
            island: 0,
            frozen_until: 0,
            wake: None,
            connections: BTreeMap::new(),
            line_free: 0,
            config: Config { addresses: vec![address(number)], ..Config::default() },
            remembered: BTreeSet::new(),
            sent: 0,
            complaints: Vec::new(),
            duplicates: 0,
            liar: false,
            slow_disk: false,
        };
        let nodes: Vec<Node> = (0..count).map(node).collect();
        let indices = nodes.iter().enumerate().map(|(number, node)| (node.id, number)).collect();
        Self {
            laws,
            now: 0,
            nodes,
            data: Data::default(),
            rng,
            queue: BinaryHeap::new(),
            events: BTreeMap::new(),
            next_event: 0,
            connections: BTreeMap::new(),
            next_connection: 0,
            indices,
            pumping: false,
            delivered: 0,
            sent_by_kind: BTreeMap::new(),
            wrongs: Vec::new(),
            trace: 0,
        }
    }

    /// Changes how a node is configured when it next starts.
    pub fn configure(&mut self, node: usize, change: impl FnOnce(&mut Config)) {
        change(&mut self.nodes[node].config);
    }

    /// Gives two machines the same key.
    pub fn clone_identity(&mut self, from: usize, to: usize) {
        self.nodes[to].id = self.nodes[from].id;
    }

    /// Starts a node that is down. It has what its store has, and knows the addresses in its configuration and those where it has met
    /// others in earlier lives.
    pub fn start(&mut self, number: usize) {
        let node = &mut self.nodes[number];
        assert!(node.cluster.is_none(), "it runs already");
        node.lives += 10_000;
        node.started = self.now;
        let now = Instant::from_micros(self.now + node.clock);
        let cluster = Cluster::new(node.config.clone(), node.id, Incarnation(node.lives), self.rng.next(), now);
        node.cluster = Some(cluster);
        node.wake = None;
        let stored: Vec<Key> = self.data.stored_at(number).collect();
        for key in stored {
            self.feed(number, Input::Stored(key));
        }
        self.feed(number, Input::Tick);
        for other in self.nodes[number].remembered.clone() {
            self.feed(number, Input::Discovered { address: address(other), peer: None });
        }
    }

    /// Starts a node whose wall clock has gone back since its last life.
    pub fn start_in_the_past(&mut self, number: usize) {
        self.jump_wall_clock(number, -50_000);
        self.start(number);
    }

    /// A node's wall clock jumps by so many milliseconds, which it notices when it next starts.
    pub fn jump_wall_clock(&mut self, number: usize, millis: i64) {
        let node = &mut self.nodes[number];
        node.lives = node.lives.saturating_add_signed(millis);
    }

    /// Every node is told of all the others' addresses, as by mDNS.
    pub fn announce_all(&mut self) {
        for number in 0..self.nodes.len() {
            self.announce(number);
        }
    }

    /// A node is told of all the others' addresses, and they of its.
    pub fn announce(&mut self, number: usize) {
        for other in (0..self.nodes.len()).filter(|other| *other != number) {
            self.feed(other, Input::Discovered { address: address(number), peer: Some(self.nodes[number].id) });
            self.feed(number, Input::Discovered { address: address(other), peer: Some(self.nodes[other].id) });
        }
    }

    /// kill -9: the others are left to find out.
    pub fn crash(&mut self, number: usize) {
        self.nodes[number].cluster = None;
        self.nodes[number].connections.clear();
        self.data.crashed(number);
        self.check_connections();
    }

    /// A node says goodbye and is gone.
    pub fn leave(&mut self, number: usize) {
        self.feed(number, Input::Leave);
        let open: Vec<u64> = self.nodes[number].connections.values().flatten().copied().collect();
        for connection in open {
            self.close(number, connection);
        }
        self.crash(number);
    }

    /// A node does nothing for so long, then finds everything that came meanwhile.
    pub fn freeze(&mut self, number: usize, micros: Micros) {
        let node = &mut self.nodes[number];
        node.frozen_until = node.frozen_until.max(self.now + micros);
    }

    /// A node's clock jumps forward.
    pub fn jump_clock(&mut self, number: usize, micros: Micros) {
        self.nodes[number].clock += micros;
        self.feed(number, Input::Tick);
    }

    /// Puts a node on an island.
    pub fn set_island(&mut self, number: usize, island: u8) {
        self.nodes[number].island = island;
        self.check_connections();
    }

    /// Whether packets get from one to the other.
    pub fn reaches(&self, from: usize, to: usize) -> bool {
        let (from, to) = (&self.nodes[from], &self.nodes[to]);
        from.island == to.island && from.cluster.is_some() && to.cluster.is_some()
    }

    /// Whether a node runs and is not frozen.
    pub fn responds(&self, number: usize) -> bool {
        self.nodes[number].cluster.is_some() && self.nodes[number].frozen_until <= self.now
    }

    /// Whether a node's disk reads and writes now.
    pub fn disk_works(&self, number: usize) -> bool {
        !self.nodes[number].slow_disk || (self.now / SECOND).is_multiple_of(2)
    }

    /// Whether a node has run, and been awake, for so long.
    pub fn awake_for(&self, number: usize, micros: Micros) -> bool {
        let node = &self.nodes[number];
        node.cluster.is_some() && node.frozen_until.max(node.started) + micros <= self.now
    }

    /// All that run.
    pub fn running(&self) -> Vec<usize> {
        (0..self.nodes.len()).filter(|number| self.nodes[*number].cluster.is_some()).collect()
    }

    /// Which machine has this name.
    pub fn index(&self, id: NodeId) -> usize {
        self.indices[&id]
    }

    /// Lets time pass.
    pub fn run(&mut self, duration: Duration) {
        let end = self.now + duration.as_micros() as Micros;
        while let Some(Reverse((at, number))) = self.queue.peek().copied().filter(|Reverse((at, _))| *at <= end) {
            self.queue.pop();
            self.now = at;
            if let Some(event) = self.events.remove(&number) {
                self.happen(event);
            }
        }
        self.now = end;
    }

    /// Lets time pass until something is so, looking every 10 ms at first and later less often; `None` when it is not by the limit.
    pub fn run_until(&mut self, limit: Duration, mut so: impl FnMut(&Self) -> bool) -> Option<Duration> {
        let begin = self.now;
        while !so(self) {
            if self.now - begin >= limit.as_micros() as Micros {
                return None;
            }
            let waited = self.now - begin;
            self.run(Duration::from_micros((waited / 50).max(10 * MILLI)));
        }
        Some(Duration::from_micros(self.now - begin))
    }

    /// Tells a node something, and does what it then wants done.
    pub fn feed(&mut self, number: usize, input: Input) {
        let node = &mut self.nodes[number];
        let now = Instant::from_micros(self.now + node.clock);
        let Some(cluster) = &mut node.cluster else { return };
        cluster.handle(now, input);
        let outputs: Vec<Output> = std::iter::from_fn(|| cluster.poll_output()).collect();
        let deadline = cluster.poll_deadline().map(|at| (at.as_micros() - node.clock).max(self.now));
        if outputs.len() > OUTPUTS_MAX {
            self.wrongs.push(format!("{} outputs at once", outputs.len()));
        }
        if let Some(at) = deadline.filter(|at| node.wake.is_none_or(|wake| *at < wake)) {
            node.wake = Some(at);
            self.schedule(at, Event::Wake(number));
        }
        for output in outputs {
            self.carry_out(number, output);
        }
    }

    /// Sends any bytes on the connection between two nodes, as if the first's protocol had wanted that.
    pub fn inject(&mut self, from: usize, to: usize, bytes: Vec<u8>) {
        let to = self.nodes[to].id;
        self.send(from, to, bytes, Lane::Stream);
    }

    /// Upstream will answer a question of this node's.
    fn ask_upstream(&mut self, number: usize, key: Key) {
        self.data.questions += 1;
        let life = self.nodes[number].lives;
        self.schedule(self.now + self.laws.upstream_latency, Event::UpstreamSays { at: number, key, life });
    }

    fn carry_out(&mut self, number: usize, output: Output) {
        match output {
            Output::Send { to, frame, lane } => self.send(number, to, frame, lane),
            Output::Dial(address) => self.dial(number, address),
            Output::Disconnect { connection, .. } => self.close(number, connection.0),
            Output::Misbehaved { peer, why } => self.nodes[number].complaints.push((peer, why)),
            Output::DuplicateIdentity => self.nodes[number].duplicates += 1,
            Output::AskUpstream(key) => self.ask_upstream(number, key),
            other => self.moved(number, other),
        }
    }

    fn dial(&mut self, from: usize, address: SocketAddr) {
        let to = number_of(address);
        let latency = self.latency();
        match to.filter(|to| self.reaches(from, *to) && !self.rng.happens(self.laws.loss)) {
            Some(to) => self.schedule(self.now + latency, Event::Dialled { from, to }),
            None => self.dial_fails(from, address),
        }
    }

    fn dial_fails(&mut self, at: usize, address: SocketAddr) {
        let life = self.nodes[at].lives;
        self.schedule(self.now + DIAL_FAILS, Event::DialFailed { at, address, life });
    }

    fn send(&mut self, from: usize, to: NodeId, bytes: Vec<u8>, lane: Lane) {
        let node = &mut self.nodes[from];
        let Some(number) = node.connections.get(&to).and_then(|all| all.last()).copied() else { return };
        let size = bytes.len() as u64 + HEADERS;
        node.sent += size;
        *self.sent_by_kind.entry(bytes.first().copied().unwrap_or_default()).or_default() += size;
        node.line_free = node.line_free.max(self.now) + size * SECOND / self.laws.line;
        let ready = node.line_free;
        let lost = self.rng.happens(self.laws.loss);
        let latency = self.latency();
        let Some(connection) = self.connections.get_mut(&number) else { return };
        let end = usize::from(connection.ends[0] == from);
        let at = connection.ends[end];
        if lane == Lane::Datagram {
            if connection.cut.is_none() && !lost {
                self.schedule(ready + latency, Event::Deliver { at, connection: number, bytes });
            }
        } else if connection.cut.is_some() {
            connection.held.push((end, bytes));
        } else {
            // What is lost is sent again after a while.
            let arrival = ready + latency + if lost { 50 * MILLI } else { 0 };
            connection.last[end] = connection.last[end].max(arrival);
            let arrival = connection.last[end];
            self.schedule(arrival, Event::Deliver { at, connection: number, bytes });
        }
    }

    /// One end closes a connection; the other learns of it if it can.
    fn close(&mut self, number: usize, id: u64) {
        let latency = self.latency();
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let end = usize::from(connection.ends[1] == number && connection.open[1]);
        connection.open[end] = false;
        let other = connection.ends[1 - end];
        let reached = connection.cut.is_none();
        self.forget_connection(number, id);
        if reached {
            self.schedule(self.now + latency, Event::Closed { at: other, connection: id });
        }
    }

    fn forget_connection(&mut self, number: usize, id: u64) {
        let node = &mut self.nodes[number];
        node.connections.values_mut().for_each(|all| all.retain(|known| *known != id));
        node.connections.retain(|_, all| !all.is_empty());
        if self.connections.get(&id).is_some_and(|connection| connection.open == [false; 2]) {
            self.connections.remove(&id);
        }
    }

    /// Nodes have died or moved to islands: connections are cut or whole again.
    fn check_connections(&mut self) {
        let ids: Vec<u64> = self.connections.keys().copied().collect();
        for id in ids {
            let Some(connection) = self.connections.get(&id) else { continue };
            let [a, b] = connection.ends;
            let whole = self.reaches(a, b) && self.knows(a, id) && self.knows(b, id);
            let Some(connection) = self.connections.get_mut(&id) else { continue };
            if whole && connection.cut.is_some() {
                connection.cut = None;
                for (end, bytes) in std::mem::take(&mut connection.held) {
                    let at = self.connections[&id].ends[end];
                    self.schedule(self.now + 50 * MILLI, Event::Deliver { at, connection: id, bytes });
                }
            } else if !whole && connection.cut.is_none() {
                connection.cut = Some(self.now);
                let cut = self.now;
                self.schedule(self.now + IDLE, Event::TimedOut { connection: id, cut });
            }
        }
    }

    fn knows(&self, number: usize, id: u64) -> bool {
        let Some(connection) = self.connections.get(&id) else { return false };
        let other = connection.ends[usize::from(connection.ends[0] == number)];
        self.nodes[number].connections.get(&self.nodes[other].id).is_some_and(|known| known.contains(&id))
    }

    fn happen(&mut self, event: Event) {
        let at = match &event {
            Event::Wake(at)
            | Event::Connected { at, .. }
            | Event::DialFailed { at, .. }
            | Event::Deliver { at, .. }
            | Event::Closed { at, .. }
            | Event::UpstreamSays { at, .. } => Some(*at),
            Event::Dialled { to, .. } => Some(*to),
            Event::TimedOut { .. } | Event::Pump => None,
        };
        if let Some(until) = at.map(|at| self.nodes[at].frozen_until).filter(|until| *until > self.now) {
            return self.schedule(until, event);
        }
        match event {
            Event::Wake(at) => {
                if self.nodes[at].wake.is_some_and(|wake| wake <= self.now) {
                    self.nodes[at].wake = None;
                    self.feed(at, Input::Tick);
                }
            }
            Event::Dialled { from, to } => self.accept(from, to),
            Event::Connected { at, peer, connection, dialled } => self.connect(at, peer, connection, dialled),
            Event::DialFailed { at, address, life } => {
                if self.nodes[at].lives == life {
                    self.feed(at, Input::DialFailed(address));
                }
            }
            Event::Deliver { at, connection, bytes } => self.deliver(at, connection, bytes),
            Event::Closed { at, connection } => self.closed(at, connection),
            Event::TimedOut { connection, cut } => {
                if let Some(known) = self.connections.get(&connection).filter(|known| known.cut == Some(cut)) {
                    let ends = known.ends;
                    ends.into_iter().for_each(|end| self.closed(end, connection));
                    self.connections.remove(&connection);
                }
            }
            Event::UpstreamSays { at, key, life } => {
                if self.nodes[at].lives == life {
                    let version = Some(self.data.version_of(key));
                    let ago = Duration::from_micros(self.laws.upstream_latency);
                    self.feed(at, Input::Confirmed { key, version, ago });
                }
            }
            Event::Pump => {
                self.pumping = false;
                self.pump();
            }
        }
    }

    fn accept(&mut self, from: usize, to: usize) {
        if !self.reaches(from, to) {
            return self.dial_fails(from, address(to));
        }
        let id = self.next_connection;
        self.next_connection += 1;
        let (there, back) = (self.now + self.latency(), self.latency());
        let last = [there, there + back];
        let connection = Connection { ends: [from, to], open: [true; 2], last, cut: None, held: Vec::new() };
        self.connections.insert(id, connection);
        self.schedule(there, Event::Connected { at: from, peer: to, connection: id, dialled: true });
        self.schedule(there + back, Event::Connected { at: to, peer: from, connection: id, dialled: false });
    }

    fn connect(&mut self, at: usize, peer: usize, connection: u64, dialled: bool) {
        if self.nodes[at].cluster.is_none() || !self.connections.contains_key(&connection) {
            return;
        }
        let peer_id = self.nodes[peer].id;
        self.nodes[at].connections.entry(peer_id).or_default().push(connection);
        self.nodes[at].remembered.insert(peer);
        let id = ConnectionId(connection);
        self.feed(at, Input::Connected { peer: peer_id, connection: id, address: Some(address(peer)), dialled });
        if !self.reaches(at, peer) {
            self.check_connections();
        }
    }

    fn deliver(&mut self, at: usize, connection: u64, bytes: Vec<u8>) {
        if !self.knows(at, connection) {
            return;
        }
        let Some(known) = self.connections.get(&connection) else { return };
        let from = known.ends[usize::from(known.ends[0] == at)];
        let from = self.nodes[from].id;
        self.delivered += 1;
        let sum = bytes.iter().fold(self.now ^ (at as u64) << 48, |sum, byte| sum.rotate_left(5) ^ u64::from(*byte));
        self.trace = Rng::seeded(self.trace ^ sum).next();
        self.feed(at, Input::Received { from, bytes });
    }

    fn closed(&mut self, at: usize, connection: u64) {
        let Some(known) = self.connections.get_mut(&connection) else { return };
        let end = usize::from(known.ends[1] == at);
        known.open[end] = false;
        let peer = self.nodes[known.ends[1 - end]].id;
        if self.knows(at, connection) {
            self.forget_connection(at, connection);
            self.feed(at, Input::Disconnected { peer, connection: ConnectionId(connection) });
        }
    }

    /// Sees to it that the data plane gets its turn.
    pub(crate) fn want_pump(&mut self, after: Micros) {
        if !self.pumping {
            self.pumping = true;
            self.schedule(self.now + after, Event::Pump);
        }
    }

    fn latency(&mut self) -> Micros {
        let (least, most) = self.laws.latency;
        least + self.rng.below(most - least + 1)
    }

    fn schedule(&mut self, at: Micros, event: Event) {
        self.next_event += 1;
        self.queue.push(Reverse((at, self.next_event)));
        self.events.insert(self.next_event, event);
    }
}

/// Where a machine can be reached.
pub fn address(number: usize) -> SocketAddr {
    let [_, _, high, low] = (number as u32).to_be_bytes();
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, high, low)), 3142)
}

fn number_of(address: SocketAddr) -> Option<usize> {
    match address.ip() {
        IpAddr::V4(ip) if ip.octets()[0] == 10 => {
            let [_, _, high, low] = ip.octets();
            Some(usize::from(u16::from_be_bytes([high, low])))
        }
        _ => None,
    }
}

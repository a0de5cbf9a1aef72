//! What is moved, stored and wanted: a model of stores, downloads and clients, coarse but with every line of limited width.
//!
//! All who read from one node share its line, all downloads from upstream share the site's. A follower never has more than whom it
//! follows. A liar claims to have what it has not, serves wrong bytes, and takes on downloads that it never makes; readers notice wrong
//! bytes at once, as group by group verification does, and silence by a time-out.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use imirror_protocol::message::{Cause, What};
use imirror_protocol::wire::Few;
use imirror_protocol::{Input, Key, NodeId, Outcome, Output, Version};

use crate::world::{MILLI, Micros, SECOND, World};

/// Silence of a peer that has the whole, before the next is asked; and of one that is getting it itself.
const STALLED: Micros = 250 * MILLI;
const STALLED_GROWING: Micros = 2 * SECOND;
/// A client whose node is silent asks another.
const CLIENT_PATIENCE: Micros = SECOND;
/// Cluster and home answer a claim within this, whatever happens.
const CLAIM_ANSWERED: Micros = 200 * MILLI;
const YOUTH: Micros = SECOND;
const STORE: u64 = 100 << 30;

/// The data plane of all nodes.
#[derive(Default)]
pub struct Data {
    sizes: BTreeMap<Key, u64>,
    stored: BTreeMap<usize, BTreeSet<Key>>,
    flights: BTreeMap<(usize, Key), Flight>,
    readers: Vec<Reader>,
    /// Bytes that crossed the site's line, by key.
    pub upstream_bytes: BTreeMap<Key, u64>,
    /// Downloads from upstream that were begun, by key.
    pub upstream_fetches: BTreeMap<Key, u64>,
    /// Downloads begun without the site's knowledge.
    pub alone: u64,
    /// Downloads begun while another node that could be reached had it all, or was fetching it.
    pub needless: u64,
    /// Downloads begun of what had been fetched before, though nobody who could be reached had it, by why that was so.
    pub repeated: BTreeMap<&'static str, u64>,
    /// Questions about freshness that upstream was asked.
    pub questions: u64,
    /// Answers about freshness, of other nodes' asking.
    pub fresh: u64,
    /// Bytes that each node has sent to clients and peers.
    pub served: BTreeMap<usize, u64>,
    /// How long each client took, in the order of their ends.
    pub waits: Vec<Micros>,
    /// Clients that had to turn to another node.
    pub retries: u64,
    /// Offers answered: what, by whom, to whom.
    pub handed: Vec<(usize, Key, Option<NodeId>)>,
    /// What came of purges: objects that others had, how many they were, and how many have not answered.
    pub forgotten: Vec<(u64, u32, usize)>,
    /// Wrong bytes noticed.
    pub lies: u64,
    /// What has been evicted anywhere.
    evicted: BTreeSet<Key>,
    load_at: Micros,
}

#[derive(Debug)]
struct Flight {
    source: Source,
    present: u64,
    size: u64,
    /// Whom to ask next.
    sources: VecDeque<NodeId>,
    leased: bool,
    keep: bool,
    copy: bool,
    ready_at: Micros,
    progress_at: Micros,
    told_at: Micros,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Asking,
    Upstream,
    /// A granted liar's.
    Nothing,
    Peer(usize),
}

#[derive(Debug)]
struct Reader {
    node: usize,
    key: Key,
    got: u64,
    began: Micros,
    progress_at: Micros,
}

impl Data {
    /// What a node's store has.
    pub fn stored_at(&self, node: usize) -> impl Iterator<Item = Key> {
        self.stored.get(&node).into_iter().flatten().copied()
    }

    /// How much upstream sends for a key.
    pub fn size_of(&self, key: Key) -> u64 {
        self.sizes.get(&key).copied().unwrap_or(0)
    }

    /// The nodes that have a key.
    pub fn holders(&self, key: Key) -> Vec<usize> {
        self.stored.iter().filter(|(_, keys)| keys.contains(&key)).map(|(node, _)| *node).collect()
    }

    /// Those of `nodes` that have a key.
    pub fn holders_among(&self, key: Key, nodes: &[usize]) -> Vec<usize> {
        nodes.iter().copied().filter(|node| self.holds(*node, key)).collect()
    }

    /// Whether no client waits at a node and it fetches nothing.
    pub fn is_quiet_at(&self, node: usize) -> bool {
        let fetches = self.flights.keys().any(|(at, _)| *at == node);
        !fetches && !self.readers.iter().any(|reader| reader.node == node)
    }

    /// Whether nobody waits and nothing moves.
    pub fn is_quiet(&self) -> bool {
        self.flights.is_empty() && self.readers.is_empty()
    }

    pub(crate) fn version_of(&self, key: Key) -> Version {
        Version(key.0)
    }

    /// What was being fetched is lost, what is stored is not.
    pub(crate) fn crashed(&mut self, node: usize) {
        self.flights.retain(|(at, _), _| *at != node);
    }

    fn holds(&self, node: usize, key: Key) -> bool {
        self.stored.get(&node).is_some_and(|keys| keys.contains(&key))
    }

    /// What of a key can be read at a node now.
    fn readable(&self, node: usize, key: Key) -> Option<u64> {
        if self.holds(node, key) {
            return self.sizes.get(&key).copied();
        }
        self.flights.get(&(node, key)).map(|flight| flight.present)
    }
}

impl World {
    /// Upstream has something of this size.
    pub fn publish(&mut self, key: Key, size: u64) {
        self.data.sizes.insert(key, size);
    }

    /// Puts an object into a node's store, as if fetched long ago.
    pub fn put(&mut self, node: usize, key: Key) {
        self.data.stored.entry(node).or_default().insert(key);
        self.feed(node, Input::Stored(key));
    }

    /// A node's operator wants all to forget an object.
    pub fn purge(&mut self, node: usize, key: Key) {
        self.evict(node, key);
        let (id, what) = (self.rng.next(), What::Keys(Few::of([key])));
        self.feed(node, Input::Forget { id, what, cause: Cause::Purged, answer: true });
    }

    /// A node evicts an object.
    pub fn evict(&mut self, node: usize, key: Key) {
        if self.data.stored.get_mut(&node).is_some_and(|keys| keys.remove(&key)) {
            self.data.evicted.insert(key);
            self.feed(node, Input::Removed(key));
        }
    }

    /// A client asks a node for an object.
    pub fn request(&mut self, node: usize, key: Key) {
        self.data.readers.push(Reader { node, key, got: 0, began: self.now, progress_at: self.now });
        self.ask_node(node, key);
        self.want_pump(MILLI);
    }

    /// A client's request makes a node ask whether what it has is current.
    pub fn confirm(&mut self, node: usize, key: Key, age: Duration) {
        self.feed(node, Input::Confirm { key, age });
    }

    fn ask_node(&mut self, node: usize, key: Key) {
        // Who sleeps finds the client when it wakes, and sees to it as to one that was let go.
        if !self.responds(node) {
            return;
        }
        self.feed(node, Input::Requested(key));
        if !self.data.holds(node, key) && !self.data.flights.contains_key(&(node, key)) {
            self.begin_flight(node, key, None);
        }
    }

    fn begin_flight(&mut self, node: usize, key: Key, copy_from: Option<NodeId>) {
        let Some(cluster) = &self.nodes[node].cluster else { return };
        let plan = cluster.plan(key);
        let copy = copy_from.is_some();
        let mut sources: VecDeque<NodeId> = copy_from.into_iter().collect();
        sources.extend(plan.sources.iter().map(|source| source.peer).filter(|peer| Some(*peer) != copy_from));
        let size = self.data.sizes.get(&key).copied().unwrap_or(1);
        let flight = Flight {
            source: Source::Asking,
            present: 0,
            size,
            sources,
            leased: false,
            keep: plan.keep || copy,
            copy,
            ready_at: self.now,
            progress_at: self.now,
            told_at: self.now,
        };
        self.data.flights.insert((node, key), flight);
        self.next_source(node, key, None);
        self.want_pump(MILLI);
    }

    /// Turns to the next source: another peer, or whom the home names.
    fn next_source(&mut self, node: usize, key: Key, broken: Option<NodeId>) {
        let own = self.nodes[node].id;
        let now = self.now;
        let Some(flight) = self.data.flights.get_mut(&(node, key)) else { return };
        flight.progress_at = now;
        if let Some(peer) = flight.sources.pop_front().filter(|peer| *peer != own) {
            return self.follow(node, key, peer);
        }
        if flight.copy {
            self.data.flights.remove(&(node, key));
            return self.feed(node, Input::Copied { key, done: false });
        }
        flight.source = Source::Asking;
        flight.keep = true;
        self.feed(node, Input::Claim { key, broken });
    }

    fn follow(&mut self, node: usize, key: Key, peer: NodeId) {
        let (now, source) = (self.now, self.index(peer));
        let reply = 2 * self.laws.latency.1;
        if let Some(flight) = self.data.flights.get_mut(&(node, key)) {
            flight.source = Source::Peer(source);
            flight.ready_at = now + reply;
            flight.progress_at = now + reply;
            self.feed(node, Input::Asked(peer));
        }
    }

    /// What the cluster wants done that concerns data.
    pub(crate) fn moved(&mut self, node: usize, output: Output) {
        match output {
            Output::Granted { key, shared } => self.granted(node, key, shared),
            Output::Follow { key, peer } if self.asks(node, key) => self.follow(node, key, peer),
            Output::Copy { key, from } => {
                if self.data.holds(node, key) || self.data.flights.contains_key(&(node, key)) {
                    let done = self.data.holds(node, key);
                    self.feed(node, Input::Copied { key, done });
                } else {
                    self.begin_flight(node, key, Some(from));
                }
            }
            Output::Handed { key, to } => self.data.handed.push((node, key, to)),
            Output::Fresh { .. } => self.data.fresh += 1,
            Output::Forget { id, what: What::Keys(keys), .. } => {
                let had = keys.iter().filter(|key| self.data.holds(node, **key)).count();
                keys.iter().for_each(|key| self.evict(node, *key));
                self.feed(node, Input::Forgot { id, objects: had as u64 });
            }
            Output::Forgotten { objects, nodes, silent, .. } => {
                self.data.forgotten.push((objects, nodes, silent.len()));
            }
            _ => {}
        }
    }

    fn asks(&self, node: usize, key: Key) -> bool {
        self.data.flights.get(&(node, key)).is_some_and(|flight| flight.source == Source::Asking)
    }

    fn granted(&mut self, node: usize, key: Key, shared: bool) {
        let needless = self.is_needless(node, key);
        let lost = self.why_lost(key);
        let (ready_at, liar) = (self.now + self.laws.upstream_latency, self.nodes[node].liar);
        let Some(flight) = self.data.flights.get_mut(&(node, key)).filter(|flight| flight.source == Source::Asking)
        else {
            return self.feed(node, Input::Ended { key, stored: false });
        };
        flight.leased = true;
        flight.ready_at = ready_at;
        flight.progress_at = ready_at;
        flight.source = if liar { Source::Nothing } else { Source::Upstream };
        if !liar {
            *self.data.upstream_fetches.entry(key).or_default() += 1;
            self.data.alone += u64::from(!shared);
            self.data.needless += u64::from(needless);
            if self.data.upstream_fetches[&key] > 1 && !needless {
                *self.data.repeated.entry(lost).or_default() += 1;
            }
        }
    }

    /// What became of what was fetched before, as a figure's name.
    fn why_lost(&self, key: Key) -> &'static str {
        if !self.data.holders(key).is_empty() {
            "refetched per object: holders away"
        } else if self.data.evicted.contains(&key) {
            "refetched per object: last copy evicted"
        } else {
            "refetched per object: fetcher died"
        }
    }

    fn is_needless(&self, node: usize, key: Key) -> bool {
        let fetches =
            |other: usize| self.data.flights.get(&(other, key)).is_some_and(|flight| flight.source == Source::Upstream);
        let sound = |other: usize| self.reaches(node, other) && self.responds(other) && !self.nodes[other].liar;
        (0..self.nodes.len())
            .any(|other| other != node && sound(other) && (self.data.holds(other, key) || fetches(other)))
    }

    /// Moves bytes for a moment.
    pub(crate) fn pump(&mut self) {
        if self.data.is_quiet() {
            return self.tell_loads(true);
        }
        let step = match self.data.flights.len() + self.data.readers.len() {
            0..=64 => 5 * MILLI,
            65..=4000 => 20 * MILLI,
            // Thousands of clients: what is lost in precision is little beside the minutes that they wait.
            _ => 100 * MILLI,
        };
        self.move_bytes(step);
        self.settle_flights();
        self.settle_readers();
        self.tell_loads(false);
        self.want_pump(step);
    }

    fn move_bytes(&mut self, step: Micros) {
        let now = self.now;
        let able = |world: &Self, node: usize, source: Source, key: Key, present: u64| match source {
            Source::Upstream => true,
            Source::Peer(peer) => {
                world.reaches(node, peer)
                    && world.responds(peer)
                    && world.disk_works(peer)
                    && !world.nodes[peer].liar
                    && world.data.readable(peer, key).is_some_and(|there| there > present)
            }
            Source::Asking | Source::Nothing => false,
        };
        let moving: Vec<(usize, Key, Source)> = self
            .data
            .flights
            .iter()
            .filter(|(_, flight)| flight.ready_at <= now && flight.present < flight.size)
            .filter(|((node, key), flight)| {
                self.responds(*node) && self.disk_works(*node) && able(self, *node, flight.source, *key, flight.present)
            })
            .map(|((node, key), flight)| (*node, *key, flight.source))
            .collect();
        let reading: Vec<usize> = (0..self.data.readers.len())
            .filter(|place| {
                let reader = &self.data.readers[*place];
                self.responds(reader.node)
                    && self.disk_works(reader.node)
                    && self.data.readable(reader.node, reader.key).is_some_and(|there| there > reader.got)
            })
            .collect();
        let mut users: BTreeMap<usize, u64> = BTreeMap::new();
        for (_, _, source) in &moving {
            if let Source::Peer(peer) = source {
                *users.entry(*peer).or_default() += 1;
            }
        }
        reading.iter().for_each(|place| *users.entry(self.data.readers[*place].node).or_default() += 1);
        let upstream = moving.iter().filter(|(_, _, source)| *source == Source::Upstream).count() as u64;
        let line = self.laws.line * step / SECOND;
        for (node, key, source) in moving {
            let (share, there) = match source {
                Source::Peer(peer) => (line / users[&peer].max(1), self.data.readable(peer, key).unwrap_or(0)),
                _ => (self.laws.uplink * step / SECOND / upstream.max(1), u64::MAX),
            };
            let Some(flight) = self.data.flights.get_mut(&(node, key)) else { continue };
            let bytes = share.max(1).min(flight.size.min(there).saturating_sub(flight.present));
            flight.present += bytes;
            flight.progress_at = now;
            match source {
                Source::Peer(peer) => *self.data.served.entry(peer).or_default() += bytes,
                _ => *self.data.upstream_bytes.entry(key).or_default() += bytes,
            }
        }
        for place in reading {
            let (node, key) = (self.data.readers[place].node, self.data.readers[place].key);
            let there = self.data.readable(node, key).unwrap_or(0);
            let reader = &mut self.data.readers[place];
            let bytes = (line / users[&node].max(1)).max(1).min(there.saturating_sub(reader.got));
            reader.got += bytes;
            reader.progress_at = now;
            *self.data.served.entry(node).or_default() += bytes;
        }
    }

    fn settle_flights(&mut self) {
        let keys: Vec<(usize, Key)> = self.data.flights.keys().copied().collect();
        for (node, key) in keys {
            if self.responds(node) {
                self.settle_flight(node, key);
            }
        }
    }

    fn settle_flight(&mut self, node: usize, key: Key) {
        let now = self.now;
        let Some(flight) = self.data.flights.get_mut(&(node, key)) else { return };
        if flight.leased && now >= flight.told_at + SECOND && flight.present < flight.size {
            flight.told_at = now;
            self.feed(node, Input::Progress(key));
        }
        let Some(flight) = self.data.flights.get(&(node, key)) else { return };
        if flight.present >= flight.size {
            return self.landed(node, key);
        }
        let (source, silent) = (flight.source, now.saturating_sub(flight.progress_at));
        match source {
            Source::Asking if silent > CLAIM_ANSWERED && self.awake_for(node, CLAIM_ANSWERED + YOUTH) => {
                self.wrongs.push(format!("a claim of node {node} was not answered for {silent} µs at {now}"));
                self.next_source(node, key, None);
            }
            Source::Peer(peer) if flight.ready_at <= now => self.judge_peer(node, key, peer, silent),
            _ => {}
        }
    }

    fn judge_peer(&mut self, node: usize, key: Key, peer: usize, silent: Micros) {
        let there = self.data.readable(peer, key);
        let alive = self.reaches(node, peer) && self.responds(peer);
        let outcome = match there {
            _ if alive && self.nodes[peer].liar && self.data.holds(peer, key) => {
                self.data.lies += 1;
                Some(Outcome::Wrong)
            }
            None if alive => Some(Outcome::NotHere),
            _ if !alive && silent > STALLED => Some(Outcome::Broken),
            _ if self.data.holds(peer, key) && silent > STALLED => Some(Outcome::Stalled),
            _ if silent > STALLED_GROWING => Some(Outcome::Stalled),
            _ => None,
        };
        if let Some(outcome) = outcome {
            let id = self.nodes[peer].id;
            self.feed(node, Input::Answered { peer: id, outcome });
            self.next_source(node, key, Some(id));
        }
    }

    fn landed(&mut self, node: usize, key: Key) {
        let Some(flight) = self.data.flights.remove(&(node, key)) else { return };
        if let Source::Peer(peer) = flight.source {
            let outcome = Outcome::Served(Duration::from_millis(1));
            self.feed(node, Input::Answered { peer: self.nodes[peer].id, outcome });
        }
        if flight.keep {
            self.put(node, key);
        } else {
            // Passed through to who reads here, without being kept.
            for reader in self.data.readers.iter_mut().filter(|reader| reader.node == node && reader.key == key) {
                reader.got = flight.size;
            }
        }
        if flight.leased {
            self.feed(node, Input::Ended { key, stored: true });
        }
        if flight.copy {
            self.feed(node, Input::Copied { key, done: true });
        }
    }

    fn settle_readers(&mut self) {
        let now = self.now;
        let sizes = &self.data.sizes;
        let mut waits = Vec::new();
        self.data.readers.retain(|reader| {
            let done = reader.got >= sizes.get(&reader.key).copied().unwrap_or(1);
            if done {
                waits.push(now - reader.began);
            }
            !done
        });
        self.data.waits.extend(waits);
        let lost: Vec<usize> = (0..self.data.readers.len())
            .filter(|place| {
                let reader = &self.data.readers[*place];
                !self.responds(reader.node) && now - reader.progress_at > CLIENT_PATIENCE
            })
            .collect();
        let running: Vec<usize> = self.running().into_iter().filter(|node| self.responds(*node)).collect();
        for place in lost {
            let Some(node) = self.rng.choose(&running).copied() else { return };
            let reader = &mut self.data.readers[place];
            reader.node = node;
            reader.got = 0;
            reader.progress_at = now;
            let key = reader.key;
            self.data.retries += 1;
            self.ask_node(node, key);
        }
        // A client whose node has let go of what it was promised asks again.
        let orphans: Vec<(usize, Key)> = self
            .data
            .readers
            .iter()
            .filter(|reader| self.responds(reader.node) && self.data.readable(reader.node, reader.key).is_none())
            .map(|reader| (reader.node, reader.key))
            .collect();
        for (node, key) in orphans {
            if !self.data.flights.contains_key(&(node, key)) {
                self.begin_flight(node, key, None);
            }
        }
    }

    fn tell_loads(&mut self, idle: bool) {
        if self.now < self.data.load_at && !idle {
            return;
        }
        self.data.load_at = self.now + SECOND;
        let mut users: BTreeMap<usize, usize> = BTreeMap::new();
        for flight in self.data.flights.values() {
            if let Source::Peer(peer) = flight.source {
                *users.entry(peer).or_default() += 1;
            }
        }
        self.data.readers.iter().for_each(|reader| *users.entry(reader.node).or_default() += 1);
        let awake: Vec<usize> = self.running().into_iter().filter(|node| self.responds(*node)).collect();
        for node in awake {
            let users = users.get(&node).copied().unwrap_or(0);
            let bytes: u64 =
                self.data.stored_at(node).filter_map(|key| self.data.sizes.get(&key)).sum::<u64>().min(STORE);
            let load = if idle { 0 } else { (users * 8).min(255) as u8 };
            self.feed(node, Input::Load { load, room: 255 - (bytes * 255 / STORE) as u8, bytes });
        }
    }
}

//! Stories with trouble in them. Each ends with the trouble over and everything in order by a limit, or says what is wrong.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::Duration;

use imirror_protocol::{Input, Key, NodeId};
use serde::{Deserialize, Serialize};

use crate::checks::{holders_known, inventories_agree, members_agree, unsafe_things};
use crate::rng::Rng;
use crate::world::{MILLI, Micros, SECOND, World, address};
use crate::{Laws, report::Series};

mod copies;
pub use copies::{drain, loss_and_repair};

/// What came of a scenario.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Outcome {
    /// Which.
    pub scenario: String,
    /// Of how many nodes.
    pub nodes: usize,
    /// With it, the run can be repeated.
    pub seed: u64,
    /// What was measured, by name; the unit is part of the name.
    pub figures: BTreeMap<String, f64>,
    /// Of what the gossip of an idle site consists: bytes a second for each node, by kind of message.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub idle_by_kind: BTreeMap<u8, f64>,
    /// How things went, to be drawn.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub series: Vec<Series>,
    /// What should not have happened. Empty: all is well.
    pub wrongs: Vec<String>,
}

/// A scenario.
pub type Scenario = fn(usize, u64) -> Outcome;

/// All of them, by name.
pub const ALL: &[(&str, Scenario)] = &[
    ("cold start", cold_start),
    ("cold start by one address", cold_start_by_one_address),
    ("churn", churn),
    ("split and heal", split_and_heal),
    ("release day", release_day),
    ("rolling upgrade", rolling_upgrade),
    ("lies", lies),
    ("clock jumps", clock_jumps),
    ("slow disk", slow_disk),
    ("drain", drain),
    ("loss and repair", loss_and_repair),
];

const MB: u64 = 1 << 20;
/// When the trouble is over all must be well by then.
const LIMIT: Duration = Duration::from_secs(90);

struct Story {
    outcome: Outcome,
    world: World,
    rng: Rng,
}

impl Story {
    fn new(scenario: &'static str, nodes: usize, seed: u64, laws: Laws) -> Self {
        let outcome = Outcome {
            scenario: scenario.into(),
            nodes,
            seed,
            figures: BTreeMap::new(),
            idle_by_kind: BTreeMap::new(),
            series: Vec::new(),
            wrongs: Vec::new(),
        };
        Self { outcome, world: World::new(laws, nodes, seed), rng: Rng::seeded(!seed) }
    }

    /// All started within a tenth of a second, and members of each other.
    fn started(scenario: &'static str, nodes: usize, seed: u64, laws: Laws) -> Self {
        let mut story = Self::new(scenario, nodes, seed, laws);
        story.start_all();
        story.expect("membership", Duration::from_secs(30), members_agree);
        story
    }

    fn start_all(&mut self) {
        let nodes = self.outcome.nodes;
        for node in 0..nodes {
            self.world.start(node);
            self.world.run(Duration::from_micros(100 * MILLI / nodes as Micros));
        }
        self.world.announce_all();
    }

    fn fetches_per_object(&mut self) {
        let data = &self.world.data;
        let (fetches, needless) = (data.upstream_fetches.values().sum::<u64>() as f64, data.needless as f64);
        let objects = data.upstream_fetches.len().max(1) as f64;
        let repeated = data.repeated.clone();
        let (moved, sizes) = data.upstream_fetches.keys().fold((0, 0), |(moved, sizes), key| {
            let bytes = data.upstream_bytes.get(key).copied().unwrap_or(0);
            (moved + bytes, sizes + data.size_of(*key))
        });
        self.figure("upstream bytes / size of the objects", moved as f64 / sizes.max(1) as f64);
        repeated.into_iter().for_each(|(why, count)| self.figure(why, count as f64 / objects));
        self.figure("upstream fetches per object", fetches / objects);
        self.figure("needless upstream fetches per object", needless / objects);
    }

    fn figure(&mut self, name: &'static str, value: f64) {
        self.outcome.figures.insert(name.into(), value);
    }

    /// Waits until something is so, which it has to be by the limit.
    fn expect(&mut self, what: &'static str, limit: Duration, so: impl FnMut(&World) -> bool) -> Duration {
        let took = self.world.run_until(limit, so);
        if took.is_none() {
            self.outcome.wrongs.push(format!("no {what} within {} s", limit.as_secs()));
        }
        took.unwrap_or(limit)
    }

    fn any_running(&mut self) -> Option<usize> {
        let running = self.world.running();
        self.rng.choose(&running).copied()
    }

    /// The trouble is over: everything has to come into order, and then everybody wants the same new thing at once.
    fn end(mut self) -> Outcome {
        self.expect("agreement about members", LIMIT, members_agree);
        self.expect("end of downloads", LIMIT, |world| world.data.is_quiet());
        self.expect("agreement about inventories", LIMIT, inventories_agree);
        // Whoever was silent during the trouble is passed over for another second.
        self.world.run(Duration::from_secs(3));
        self.everybody_at_once();
        self.outcome.wrongs.extend(unsafe_things(&self.world));
        self.outcome
    }

    fn everybody_at_once(&mut self) {
        let key = key(u64::MAX);
        self.world.publish(key, 2 * MB);
        let sound: Vec<usize> = self.world.running().into_iter().filter(|node| !self.world.nodes[*node].liar).collect();
        for node in sound {
            self.world.request(node, key);
        }
        self.expect("end of the last download", LIMIT, |world| world.data.is_quiet());
        let fetches = self.world.data.upstream_fetches.get(&key).copied().unwrap_or(0);
        let lossy = self.world.laws.loss > 0 || self.world.nodes.iter().any(|node| node.liar);
        if fetches != 1 && !lossy {
            self.outcome.wrongs.push(format!("everybody wanted one thing and upstream sent it {fetches} times"));
        }
        self.expect("agreement about holders", LIMIT, |world| holders_known(world, key));
        self.figure("upstream fetches of the last object", fetches as f64);
    }

    /// Gossip of an idle site, in bytes a second for each node.
    fn idle_gossip(&mut self, seconds: u64) -> f64 {
        let sent = |world: &World| world.nodes.iter().map(|node| node.sent).sum::<u64>();
        let (before, kinds_before) = (sent(&self.world), self.world.sent_by_kind.clone());
        self.world.run(Duration::from_secs(seconds));
        let rate = |bytes: u64| bytes as f64 / seconds as f64 / self.outcome.nodes as f64;
        self.outcome.idle_by_kind.clear();
        for (kind, bytes) in &self.world.sent_by_kind {
            let new = rate(bytes - kinds_before.get(kind).copied().unwrap_or(0));
            if new > 0.0 {
                self.outcome.idle_by_kind.insert(*kind, new);
            }
        }
        rate(sent(&self.world) - before)
    }
}

/// All nodes start at once; then each has something that all the others hear of; then nothing happens.
pub fn cold_start(nodes: usize, seed: u64) -> Outcome {
    let mut story = Story::new("cold start", nodes, seed, Laws::default());
    story.start_all();
    let mut points = Vec::new();
    let began = story.world.now;
    let took = story.expect("membership", Duration::from_secs(30), |world| {
        let known: usize = world.running().iter().map(|node| members_of(world, *node)).sum();
        points.push(((world.now - began) as f64 / 1e6, known as f64 / (nodes * (nodes - 1).max(1)) as f64));
        members_agree(world)
    });
    story.figure("membership s", took.as_secs_f64());
    story.outcome.series.push(Series { name: format!("{nodes} nodes"), points });
    story.figure(
        "bytes sent by each node at the start",
        story.world.nodes.iter().map(|node| node.sent).sum::<u64>() as f64 / nodes as f64,
    );
    story.world.run(Duration::from_secs(3));
    let stored = key(1);
    story.world.put(0, stored);
    let took =
        story.expect("knowledge of a stored object", Duration::from_secs(10), |world| holders_known(world, stored));
    story.figure("stored object known to all s", took.as_secs_f64());
    story.world.run(Duration::from_secs(5));
    let gossip = story.idle_gossip(20);
    story.figure("gossip after the start B/s/node", gossip);
    // What is new is told again for a minute.
    story.world.run(Duration::from_secs(40));
    let gossip = story.idle_gossip(20);
    story.figure("idle gossip B/s/node", gossip);
    story.end()
}

/// All nodes start at once and know nothing but one of them.
pub fn cold_start_by_one_address(nodes: usize, seed: u64) -> Outcome {
    let mut story = Story::new("cold start by one address", nodes, seed, Laws::default());
    for node in 0..nodes {
        story.world.configure(node, |config| config.seeds = vec![address(0)]);
        story.world.start(node);
    }
    let took = story.expect("membership", Duration::from_secs(30), members_agree);
    story.figure("membership s", took.as_secs_f64());
    story.end()
}

/// Nodes crash, freeze and come back while clients want things.
pub fn churn(nodes: usize, seed: u64) -> Outcome {
    let mut chance = Rng::seeded(seed ^ 0xc4);
    let laws = Laws {
        latency: (100, 200 + chance.below(4 * MILLI)),
        loss: (chance.below(3) * 10_000) as u32,
        ..Laws::default()
    };
    let mut story = Story::started("churn", nodes, seed, laws);
    let seeds = vec![address(0), address(nodes - 1)];
    (0..nodes).for_each(|node| story.world.configure(node, |config| config.seeds = seeds.clone()));
    let keys: Vec<Key> = (0..30).map(key).collect();
    for key in &keys {
        let size = 100_000 + story.rng.below(10 * MB);
        story.world.publish(*key, size);
    }
    for _ in 0..120 {
        // The first few are wanted most.
        let wanted = story.rng.below(30) * story.rng.below(30) / 30;
        if let Some(node) = story.any_running() {
            story.world.request(node, keys[wanted as usize]);
        }
        let node = story.rng.below(nodes as u64) as usize;
        let up = story.world.nodes[node].cluster.is_some();
        match story.rng.below(12) {
            0 if up && story.world.running().len() > 1 => story.world.crash(node),
            1 if up && story.world.running().len() > 1 => story.world.leave(node),
            2 if up => {
                let micros = story.rng.below(6 * SECOND);
                story.world.freeze(node, micros);
            }
            3..=7 if !up => story.world.start(node),
            8 if up && story.world.responds(node) => {
                // As a node does: first what others have too, and of that what another is to keep.
                let mut stored: Vec<Key> = story.world.data.stored_at(node).collect();
                let cluster = story.world.nodes[node].cluster.as_ref();
                let is_had = |key| cluster.map(|cluster| (cluster.copies_elsewhere(key) > 0, cluster.is_spare(key)));
                stored.sort_by_key(|key| Reverse(is_had(*key)));
                stored.into_iter().take(3).for_each(|key| story.world.evict(node, key));
            }
            _ => {}
        }
        let pause = story.rng.below(SECOND);
        story.world.run(Duration::from_micros(pause));
    }
    (0..nodes)
        .filter(|node| story.world.nodes[*node].cluster.is_none())
        .collect::<Vec<_>>()
        .into_iter()
        .for_each(|node| story.world.start(node));
    story.fetches_per_object();
    story.end()
}

/// The site falls into two, both halves go on, and it becomes one again.
pub fn split_and_heal(nodes: usize, seed: u64) -> Outcome {
    let mut story = Story::started("split and heal", nodes, seed, Laws::default());
    let keys: Vec<Key> = (0..10).map(key).collect();
    keys.iter().for_each(|key| story.world.publish(*key, MB));
    for round in 0..2 {
        (0..nodes).filter(|node| node % 2 == 1).for_each(|node| story.world.set_island(node, 1));
        for key in &keys {
            let node = story.rng.below(nodes as u64) as usize;
            story.world.request(node, *key);
            story.world.run(Duration::from_millis(300));
        }
        let took = story.expect("agreement within the halves", LIMIT, members_agree);
        story.figure("split noticed s", took.as_secs_f64() + 3.0);
        // Shorter and longer than connections live.
        let pause = 1 + story.rng.below(20);
        story.world.run(Duration::from_secs(pause));
        (0..nodes).for_each(|node| story.world.set_island(node, 0));
        let took = story.expect("one site again", LIMIT, members_agree);
        story.figure(if round == 0 { "first healing s" } else { "second healing s" }, took.as_secs_f64());
    }
    story.end()
}

/// Clients want the same 500 MB at once, twenty for each node: nobody has it.
pub fn release_day(nodes: usize, seed: u64) -> Outcome {
    release(nodes, 20 * nodes, 500 * MB, seed)
}

/// The same of another size.
pub fn release(nodes: usize, clients: usize, size: u64, seed: u64) -> Outcome {
    let mut story = Story::started("release day", nodes, seed, Laws::default());
    let wanted = key(1);
    story.world.publish(wanted, size);
    for client in 0..clients {
        // Half of them have a list from some node, the others know one node.
        let first = story.rng.below(nodes as u64) as usize;
        let named = if client % 2 == 0 { story.world.nodes[first].cluster.as_ref() } else { None };
        let node = named.and_then(|cluster| cluster.nodes_by_load(client as u64).first().copied());
        let node = node.map_or(first, |(id, _)| story.world.index(id));
        story.world.request(node, wanted);
        if client % nodes == 0 {
            story.world.run(Duration::from_millis(10));
        }
    }
    story.expect("end of the release", Duration::from_secs(3600), |world| world.data.is_quiet());
    let data = &story.world.data;
    let bytes = data.upstream_bytes.get(&wanted).copied().unwrap_or(0);
    let served: Vec<u64> = (0..nodes).map(|node| data.served.get(&node).copied().unwrap_or(0)).collect();
    let mean = served.iter().sum::<u64>() as f64 / nodes as f64;
    let most = served.iter().copied().max().unwrap_or(0) as f64;
    let mut waits = data.waits.clone();
    waits.sort_unstable();
    let slowest = waits.last().copied().unwrap_or(0) as f64 / 1e6;
    let mut sorted: Vec<u64> = served.clone();
    sorted.sort_unstable();
    let points =
        sorted.iter().enumerate().map(|(place, served)| (place as f64 / nodes as f64, *served as f64 / mean)).collect();
    story.outcome.series.push(Series { name: format!("{nodes} nodes"), points });
    story.figure("upstream copies", bytes as f64 / size as f64);
    story.figure("busiest node / mean", most / mean);
    story.figure("slowest client s", slowest);
    story.figure("slowest client / the uplink alone", slowest / (size as f64 / story.world.laws.uplink as f64));
    if bytes > size * 105 / 100 {
        story.outcome.wrongs.push(format!("upstream sent {:.2} times what it had", bytes as f64 / size as f64));
    }
    story.end()
}

/// Each node in turn leaves and comes back with a newer version, under load.
pub fn rolling_upgrade(nodes: usize, seed: u64) -> Outcome {
    let mut story = Story::started("rolling upgrade", nodes, seed, Laws::default());
    let keys: Vec<Key> = (0..10).map(key).collect();
    keys.iter().for_each(|key| story.world.publish(*key, MB));
    let seeds = vec![address(0), address(nodes - 1)];
    for node in 0..nodes {
        story.world.configure(node, |config| {
            config.speaks = 1..=2;
            config.seeds = seeds.clone();
        });
        offer_all(&mut story.world, node);
        story.world.run(Duration::from_secs(1));
        story.world.leave(node);
        for _ in 0..3 {
            let wanted = keys[story.rng.below(10) as usize];
            if let Some(at) = story.any_running() {
                story.world.request(at, wanted);
            }
            story.world.run(Duration::from_millis(400));
        }
        story.world.start(node);
        // Its clients come back at once.
        let wanted = keys[story.rng.below(10) as usize];
        story.world.request(node, wanted);
        story.world.run(Duration::from_secs(2));
    }
    let fetches: u64 = story.world.data.upstream_fetches.values().sum();
    let objects = story.world.data.upstream_fetches.len();
    story.fetches_per_object();
    if fetches as usize > objects {
        story.outcome.wrongs.push(format!("{objects} objects were fetched {fetches} times"));
    }
    story.end()
}

/// One in five lies: about what it has, with the bytes it sends, by not doing what it was granted, and in what it says.
pub fn lies(nodes: usize, seed: u64) -> Outcome {
    let mut story = Story::started("lies", nodes, seed, Laws::default());
    let keys: Vec<Key> = (0..20).map(key).collect();
    keys.iter().for_each(|key| story.world.publish(*key, MB));
    let liars = (nodes / 5).max(1);
    (0..liars).for_each(|node| {
        story.world.nodes[node].liar = true;
        keys.iter().for_each(|key| story.world.put(node, *key));
    });
    story.world.run(Duration::from_secs(3));
    for wanted in &keys {
        for _ in 0..3 {
            let node = liars + story.rng.below((nodes - liars) as u64) as usize;
            story.world.request(node, *wanted);
        }
        let (liar, victim) = (story.rng.below(liars as u64) as usize, story.rng.below(nodes as u64) as usize);
        let noise: Vec<u8> = (0..story.rng.below(40)).map(|_| story.rng.next() as u8).collect();
        story.world.inject(liar, victim, noise);
        story.world.run(Duration::from_millis(500));
    }
    story.expect("end of downloads", LIMIT, |world| world.data.is_quiet());
    story.figure("wrong bytes noticed", story.world.data.lies as f64);
    story.fetches_per_object();
    story.end()
}

/// Clocks jump forward, nodes restart with clocks that went back.
pub fn clock_jumps(nodes: usize, seed: u64) -> Outcome {
    let mut story = Story::started("clock jumps", nodes, seed, Laws::default());
    let keys: Vec<Key> = (0..10).map(key).collect();
    keys.iter().for_each(|key| story.world.publish(*key, MB));
    for wanted in &keys {
        let node = story.rng.below(nodes as u64) as usize;
        let jump = 1 << story.rng.below(42);
        match story.rng.below(3) {
            0 => {
                story.world.crash(node);
                story.world.run(Duration::from_millis(500));
                story.world.start_in_the_past(node);
                story.world.announce(node);
            }
            _ => story.world.jump_clock(node, jump),
        }
        if let Some(at) = story.any_running() {
            story.world.request(at, *wanted);
            story.world.confirm(at, *wanted, Duration::from_secs(1));
        }
        story.world.run(Duration::from_secs(1));
    }
    story.end()
}

/// One node in five has a disk that does nothing in every other second. Others have what it has, too.
pub fn slow_disk(nodes: usize, seed: u64) -> Outcome {
    let mut story = Story::started("slow disk", nodes, seed, Laws::default());
    let keys: Vec<Key> = (0..20).map(key).collect();
    let slow = (nodes / 5).max(1);
    let any_sound = |rng: &mut Rng| slow + rng.below((nodes - slow) as u64) as usize;
    (0..slow).for_each(|node| story.world.nodes[node].slow_disk = true);
    for (number, wanted) in keys.iter().enumerate() {
        story.world.publish(*wanted, MB);
        story.world.put(number % slow, *wanted);
        let other = any_sound(&mut story.rng);
        story.world.put(other, *wanted);
    }
    story.world.run(Duration::from_secs(3));
    for wanted in &keys {
        for _ in 0..3 {
            let node = any_sound(&mut story.rng);
            story.world.request(node, *wanted);
        }
        story.world.run(Duration::from_millis(300));
    }
    story.expect("end of downloads", LIMIT, |world| world.data.is_quiet());
    let slowest = story.world.data.waits.iter().max().copied().unwrap_or(0) as f64 / 1e6;
    story.figure("slowest client s", slowest);
    story.fetches_per_object();
    if !story.world.data.upstream_fetches.is_empty() {
        story.outcome.wrongs.push("what a sound node had was fetched from upstream".into());
    }
    (0..slow).for_each(|node| story.world.nodes[node].slow_disk = false);
    story.end()
}

fn members_of(world: &World, node: usize) -> usize {
    world.nodes[node].cluster.as_ref().map_or(0, |cluster| cluster.members().len())
}

/// A key that looks random.
pub fn key(number: u64) -> Key {
    Key(NodeId::of_public_key(&number.to_le_bytes()).0)
}

/// A node drains, and offers others all that it has.
fn offer_all(world: &mut World, node: usize) {
    let stored: Vec<Key> = world.data.stored_at(node).collect();
    world.feed(node, Input::Drain(true));
    stored.into_iter().for_each(|key| world.feed(node, Input::Offer(key)));
}

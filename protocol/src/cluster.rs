//! The state machine of a node: joins the parts, and is all that a driver sees.
//!
//! A driver calls [`Cluster::handle`] with whatever happens, then [`Cluster::poll_output`] until there is nothing more to do, then
//! sleeps until [`Cluster::poll_deadline`] or the next event. No call fails: what a peer does wrong is an output. The work and the
//! memory of each call are bounded, and the same seed and inputs bring about the same outputs.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use core::net::SocketAddr;
use core::ops::RangeInclusive;
use core::time::Duration;

use crate::claims::{Claims, Scene};
use crate::dialling::Dialling;
use crate::forgetting::Forgetting;
use crate::freshness::Confirmations;
use crate::heads::Heads;
use crate::health::Health;
use crate::identity::{Incarnation, Key, NodeId};
use crate::inventory::Inventory;
use crate::membership::{Contact, Membership};
use crate::message::{ADDRESSES_MAX, Head, Message, Tops, VERSION, VERSION_OLDEST};
use crate::mirrors::Mirrors;
use crate::outbox::Outbox;
use crate::output::Output;
use crate::popularity::{Counter, NAME_HALF_LIFE, Popularity};
use crate::random::Random;
use crate::replication::Replication;
use crate::time::Instant;
use crate::uplink::Uplink;

mod copies;
mod dispatch;
mod input;
mod members;
mod news;
mod peers;
mod profile;
mod query;
mod reflection;

pub use input::{ConnectionId, Input};
pub use query::{MemberStatus, Status};

use peers::Peers;
use profile::Profile;
use reflection::Reflections;

/// Housekeeping.
const TICK: Duration = Duration::from_secs(1);
/// Dials and questions that could not be made are thought over no more often.
const RETHINK: Duration = Duration::from_millis(50);
/// News of whom to dial or to ask is gathered for so long: each look at all peers costs, and at a cold start there is news all the time.
const GATHER: Duration = Duration::from_millis(5);
/// A node that has just started gives those it knows of so long to answer before it goes upstream: they may have it.
const YOUTH: Duration = Duration::from_secs(1);
/// Housekeeping so late means that the node was asleep. The others may have taken it for dead and gone on without it, which it hears
/// from them at once; until then it claims nothing.
const OVERSLEPT: Duration = Duration::from_millis(700);
const COMPOSURE: Duration = Duration::from_millis(50);
/// Claims held meanwhile.
const HELD_MAX: usize = 1024;
/// Package names whose demand is counted.
const NAMES_MAX: usize = 8192;

/// What a node is told once.
#[derive(Clone, Debug)]
pub struct Config {
    /// What people call this node; the first 64 bytes are told.
    pub name: String,
    /// The TCP port at which it serves clients. Zero: the port of its addresses.
    pub client_port: u16,
    /// Where this node can be reached, best first; the first four are told.
    pub addresses: Vec<SocketAddr>,
    /// Dialled until connected, for ever; the first 256 count.
    pub seeds: Vec<SocketAddr>,
    /// How many copies of an object the site makes by itself, at most. One: none but the first.
    pub copies_max: usize,
    /// What the tables of all peers' inventories may take, in bytes; some two bytes and a half for each key of each peer.
    pub mirrors_bytes_max: usize,
    /// The versions of the protocol that this node speaks. Others than the default only for tests.
    pub speaks: RangeInclusive<u16>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            name: String::new(),
            client_port: 0,
            addresses: Vec::new(),
            seeds: Vec::new(),
            copies_max: 3,
            mirrors_bytes_max: 64 << 20,
            speaks: VERSION_OLDEST..=VERSION,
        }
    }
}

/// One node's part in the site.
pub struct Cluster {
    own: NodeId,
    config: Config,
    now: Instant,
    random: Random,
    out: Outbox,
    /// Where parts complain of peers, to be counted before they are passed on.
    suspicions: Outbox,

    peers: Peers,
    dialling: Dialling,
    dial_at: Instant,
    /// When it was last thought over whom to dial.
    dialled_at: Instant,
    membership: Membership,
    /// Live members, connected and not leaving, and this node unless it leaves: who may be the home of a key. In order.
    homes: Vec<NodeId>,
    /// Nodes that were members, with since when they are not: what they held is remembered for a while.
    departed: BTreeMap<NodeId, Instant>,
    /// What people call the others, and where they serve clients.
    profiles: BTreeMap<NodeId, Profile>,
    /// Connections with who has this node's key.
    reflections: Reflections,
    /// How often others have heard of a greater life of this node than it has lived.
    usurped: Counter,
    /// Bytes of member lists that may still be sent.
    lists: usize,

    inventory: Inventory,
    /// This node's own head as last told.
    head: Head,
    /// When to tell the next, if there is news.
    head_at: Option<Instant>,
    /// When the last was told.
    head_told: Instant,
    heads: Heads,
    mirrors: Mirrors,
    ask_at: Instant,
    /// When it was last thought over whom to ask.
    asked_at: Instant,
    health: Health,

    claims: Claims,
    /// Claims of the first moments, and until when they are held back at most.
    held: Vec<(Key, Option<NodeId>)>,
    young_until: Instant,
    /// Whether somebody has told this node who the members are.
    introduced: bool,
    confirmations: Confirmations,
    forgetting: Forgetting,
    uplink: Uplink,
    replication: Replication,
    /// Copies that this node takes, with who asked for them.
    copying: BTreeMap<Key, NodeId>,
    /// What this node, leaving, offers to others.
    offers: BTreeMap<Key, copies::Offer>,
    names: Popularity<Vec<u8>>,
    /// What others are asked for most, with when they said so.
    tops: BTreeMap<NodeId, (Tops, Instant)>,

    tick_at: Instant,
    ticks: u64,
    left: bool,
}

impl Cluster {
    /// A node that knows nobody yet. `incarnation` is greater than that of its life before: the milliseconds of the wall clock, say;
    /// `seed` is for choosing among peers and for jitter.
    pub fn new(mut config: Config, own: NodeId, incarnation: Incarnation, seed: u64, now: Instant) -> Self {
        config.addresses.truncate(ADDRESSES_MAX);
        config.seeds.truncate(256);
        let incarnation = incarnation.min(Incarnation::MAX);
        let mut random = Random::seeded(seed);
        let contact = Contact { node: own, incarnation, address: config.addresses.first().copied() };
        let membership = Membership::new(contact, Random::seeded(random.next()));
        let mut dialling = Dialling::default();
        config.seeds.iter().for_each(|seed| dialling.seed(now, *seed));
        let head = Head {
            node: own,
            epoch: incarnation,
            beat: 0,
            sequence: 0,
            count: 0,
            load: 0,
            room: 255,
            draining: false,
            bytes: 0,
        };
        // Whoever is met is told it, so that only a later one is news.
        let mut heads = Heads::default();
        heads.learn(now, head, 0);
        let tick_at = now + random.jitter(TICK / 2);
        Self {
            own,
            now,
            out: Outbox::default(),
            suspicions: Outbox::default(),
            peers: Peers::default(),
            dialling,
            dial_at: now,
            dialled_at: Instant::default(),
            membership,
            homes: alloc::vec![own],
            departed: BTreeMap::new(),
            profiles: BTreeMap::new(),
            reflections: Reflections::default(),
            usurped: Counter::new(now),
            lists: members::LISTS_MAX,
            inventory: Inventory::new(incarnation),
            head,
            head_at: None,
            head_told: now,
            heads,
            mirrors: Mirrors::new(config.mirrors_bytes_max),
            ask_at: now,
            asked_at: Instant::default(),
            health: Health::new(own),
            claims: Claims::default(),
            held: Vec::new(),
            young_until: now + YOUTH,
            introduced: false,
            confirmations: Confirmations::default(),
            forgetting: Forgetting::default(),
            uplink: Uplink::default(),
            replication: Replication::new(config.copies_max),
            copying: BTreeMap::new(),
            offers: BTreeMap::new(),
            names: Popularity::new(NAMES_MAX, NAME_HALF_LIFE),
            tops: BTreeMap::new(),
            tick_at,
            ticks: 0,
            left: false,
            config,
            random,
        }
    }

    /// Takes in what has happened, and does what is due. `now` never goes back; where it does all the same it stands still.
    pub fn handle(&mut self, now: Instant, input: Input) {
        self.now = now.max(self.now);
        if self.left {
            return;
        }
        if self.now.since(self.tick_at) > OVERSLEPT {
            self.young_until = self.now + COMPOSURE;
            self.introduced = false;
        }
        self.take(input);
        self.advance();
    }

    /// The next thing for the driver to do; to be called until `None` after each [`Self::handle`].
    pub fn poll_output(&mut self) -> Option<Output> {
        self.out.pop()
    }

    /// When to call [`Self::handle`] with [`Input::Tick`] at the latest. `None`: never again.
    pub fn poll_deadline(&self) -> Option<Instant> {
        let deadlines = [
            Some(self.tick_at),
            Some(self.dial_at),
            Some(self.ask_at),
            self.head_at,
            (!self.held.is_empty()).then_some(self.young_until),
            self.membership.deadline(),
            self.heads.deadline(),
            self.claims.deadline(),
            self.confirmations.deadline(),
            self.forgetting.deadline(),
            self.replication.deadline(),
        ];
        deadlines.into_iter().flatten().min().filter(|_| !self.left)
    }

    fn take(&mut self, input: Input) {
        let now = self.now;
        let scene = Scene { now, own: self.own, homes: &self.homes };
        match input {
            Input::Tick => {}
            Input::Discovered { address, peer } => {
                // Who announces this node's id elsewhere may have a copy of its key.
                if !self.config.addresses.contains(&address) {
                    self.dialling.discovered(now, self.own, address, peer);
                }
                self.dial_soon();
            }
            Input::Addresses(addresses) => self.moved(addresses),
            Input::Connected { peer, connection, address, dialled } => {
                self.connected(peer, connection, address, dialled);
            }
            Input::DialFailed(address) => self.dial_failed(address),
            Input::Disconnected { peer, connection } => {
                if peer == self.own {
                    self.lost_reflection(connection);
                } else if self.peers.disconnected(peer, connection) {
                    self.parted(peer);
                }
            }
            Input::Received { from, bytes } => self.receive(from, &bytes),
            Input::Garbled(peer) => self.offended(peer, crate::output::Why::Malformed),
            Input::Stored(key) => self.holding(key, true),
            Input::Removed(key) => self.holding(key, false),
            Input::Load { load, room, bytes } => self.loaded(load, room, bytes),
            Input::UsesUplink(is_used) => self.uplink.used(is_used, self.peers.greeted(), &mut self.out),
            Input::Requested(key) => self.replication.requested(now, key, 1),
            Input::RequestedOften { key, times } => self.replication.requested(now, key, times),
            Input::RequestedName { name, amount } => self.requested_name(&name, amount),
            Input::Claim { key, broken } => self.held.push((key, broken)),
            Input::Progress(key) => self.claims.progressed(now, key),
            Input::Ended { key, stored } => self.claims.ended(&scene, key, stored, &mut self.out),
            Input::Confirm { key, age } => self.confirmations.confirm(&scene, key, age, &mut self.out),
            Input::Confirmed { key, version, ago } => {
                self.confirmations.confirmed(&scene, key, version, ago, &mut self.out);
            }
            Input::Forget { id, what, cause, answer } => {
                let peers: Vec<NodeId> = self.peers.greeted().collect();
                let members = peers.iter().copied().filter(|peer| self.is_live(*peer)).collect();
                self.forgetting.order(now, (id, what, cause), answer, (peers, members), &mut self.out);
            }
            Input::Forgot { id, objects } => self.forgetting.followed(id, objects, &mut self.out),
            Input::Asked(peer) => self.health.asked(now, peer),
            Input::Answered { peer, outcome } => self.answered(peer, outcome),
            Input::Copied { key, done } => self.copied(key, done),
            Input::Drain(draining) => self.drain(draining),
            Input::Offer(key) => self.offer(key),
            Input::Leave => self.leave(),
        }
    }

    /// Does what is due.
    fn advance(&mut self) {
        let now = self.now;
        let events = self.membership.advance(now);
        self.digest(events);
        self.claim();
        let scene = Scene { now, own: self.own, homes: &self.homes };
        self.claims.advance(&scene, &mut self.out);
        self.confirmations.advance(now, &mut self.out);
        self.forgetting.advance(now, &mut self.out);
        let homes = &self.homes;
        let home = |key| crate::rendezvous::home(key, homes.iter().copied());
        self.replication.report(now, self.own, home, &mut self.out);
        self.tell_news();
        if now >= self.tick_at {
            self.tick();
        }
        if now >= self.dial_at {
            self.dial();
        }
        if now >= self.ask_at {
            self.ask();
        }
    }

    /// Asks the homes, unless this node is so young that it can't know them yet.
    fn claim(&mut self) {
        if self.held.is_empty() || (self.is_young() && self.held.len() < HELD_MAX) {
            return;
        }
        for (key, broken) in core::mem::take(&mut self.held) {
            // Somebody may have turned out to have it since the node looked.
            let known = broken.is_none().then(|| self.holder_for(self.own, key)).flatten();
            let scene = Scene { now: self.now, own: self.own, homes: &self.homes };
            match known {
                Some(peer) => self.out.push(Output::Follow { key, peer }),
                None => self.claims.claim(&scene, key, broken, &mut self.out),
            }
        }
    }

    /// Whether there are others, by all that this node has heard, of whom it does not know yet what they have.
    fn is_young(&self) -> bool {
        if self.now >= self.young_until || !self.dialling.is_hopeful() {
            return false;
        }
        let unknown = |member: &NodeId| !self.peers.has_told(*member) || !self.mirrors.is_current(*member);
        !self.introduced || self.membership.live().keys().any(unknown)
    }

    /// Once a second.
    fn tick(&mut self) {
        let now = self.now;
        self.tick_at = now + TICK;
        self.ticks += 1;
        self.dial_at = now;
        self.claims.tidy(now);
        self.confirmations.tidy(now);
        self.forgetting.tidy(now);
        self.peers.tidy(now);
        self.tidy_members();
        self.tidy_reflections();
        self.tell_in_turn();
        self.place_copies();
        self.retry_offers();
    }

    fn send(&mut self, to: NodeId, message: Message) {
        self.out.send(to, message);
    }

    fn draining(&self) -> bool {
        self.head.draining
    }
}

#[cfg(test)]
mod tests;

//! What the driver may ask at any time, without side effects.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use core::net::SocketAddr;
use core::time::Duration;

use super::Cluster;
use crate::health::Plan;
use crate::identity::{Incarnation, Key, NodeId, affinity};
use crate::membership::Contact;
use crate::message::{Cause, Head};
use crate::popularity::REQUEST;
use crate::rendezvous::home;

/// What a peer sends is kept when so much was asked for it here lately, in units of [`REQUEST`].
const WORTH_KEEPING: u32 = 4 * REQUEST;
/// Loads that differ by less are about equal: in finer steps all clients would go to the same node.
const LOAD_STEP: u8 = 32;
/// What others said about demand is believed for so long.
const TOPS_BELIEVED: Duration = Duration::from_secs(180);

/// The site as this node sees it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Status {
    /// This node's present life.
    pub incarnation: Incarnation,
    /// What this node last told of itself.
    pub head: Head,
    /// Live members other than this node, in the order of their ids.
    pub members: Vec<MemberStatus>,
    /// Memory of what the peers hold, in bytes.
    pub mirrors_bytes: usize,
}

/// One member as this node sees it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct MemberStatus {
    /// Who.
    pub node: NodeId,
    /// What people call it; empty when it has not said.
    pub name: String,
    /// Where it says it can be reached.
    pub address: Option<SocketAddr>,
    /// Where it serves clients.
    pub client_address: Option<SocketAddr>,
    /// Whether there is a connection on which it has said hello.
    pub connected: bool,
    /// What it last told of itself.
    pub head: Option<Head>,
    /// Whether what this node knows of its inventory is as its head says.
    pub current: bool,
    /// How often it did what no sound node does.
    pub offences: u64,
}

impl Cluster {
    /// Who this node is.
    pub const fn own(&self) -> NodeId {
        self.own
    }

    /// What this node last told of itself.
    pub const fn head(&self) -> &Head {
        &self.head
    }

    /// Whom to ask for `key`, best first, as far as is known; this node itself is not asked whether it has it.
    ///
    /// A hint: any of them may say that it does not have it, in 2 of 10,000 cases without having ever had it. No peer that is known
    /// to be dead, unconnected or a liar is named. When all fail: [`super::Input::Claim`] with the last as `broken`.
    pub fn plan(&self, key: Key) -> Plan {
        let holders = self.mirrors.holders(key.short()).filter(|peer| self.is_usable(*peer));
        let sources = self.health.sources(self.now, key, holders.map(|peer| (peer, self.load_of(peer))));
        let wanted = self.replication.local().amount(self.now, &key) >= WORTH_KEEPING;
        // The only other copy may go at any time, and one that leaves takes its copy with it.
        let keep = wanted || sources.len() < 2;
        Plan { sources, keep }
    }

    /// Has this node's store `key`?
    pub fn holds(&self, key: Key) -> bool {
        self.inventory.holds(key.short())
    }

    /// How many other live nodes probably hold `key`: for eviction, which drops duplicates first. Those that leave don't count.
    pub fn copies_elsewhere(&self, key: Key) -> usize {
        self.staying_holders(key).count()
    }

    /// Is `key`, which this node holds, for another node to keep, should only one of them? All agree on which that is, so that two that
    /// want room in the same moment do not both drop what each believes the other to have.
    pub fn is_spare(&self, key: Key) -> bool {
        let own = (affinity(self.own, key), self.own);
        self.staying_holders(key).any(|peer| (affinity(peer, key), peer) > own)
    }

    fn staying_holders(&self, key: Key) -> impl Iterator<Item = NodeId> {
        let stays = |peer: &NodeId| self.heads.of(*peer).is_some_and(|head| !head.draining);
        self.mirrors.holders(key.short()).filter(|peer| self.is_live(*peer)).filter(stays)
    }

    /// Was an object with these names and this URL, which upstream has confirmed `age` ago, to be forgotten since? Why, if it was: a peer
    /// that still has it has not heard of that yet.
    pub fn is_forgotten(&self, names: &[Key], url: &str, age: Duration) -> Option<Cause> {
        self.forgetting.is_forgotten(self.now, names, url, age)
    }

    /// How many nodes download from upstream, as far as they are held to a limit and have said so; this one is always counted. Each takes
    /// that part of the limit.
    pub fn uplink_users(&self) -> usize {
        self.uplink.users()
    }

    /// The node that decides about `key`; this one when it is alone or leaves.
    pub fn home_of(&self, key: Key) -> NodeId {
        home(key, self.homes.iter().copied()).unwrap_or(self.own)
    }

    /// Live members other than this node, connected or not, in the order of their ids.
    pub fn members(&self) -> impl ExactSizeIterator<Item = NodeId> {
        self.membership.live().keys().copied()
    }

    /// Live members that are connected, in the order of their ids.
    pub fn reachable(&self) -> impl Iterator<Item = NodeId> {
        self.membership.live().keys().copied().filter(|peer| self.peers.is_greeted(*peer))
    }

    /// What people call a node, if it has said so.
    pub fn name_of(&self, node: NodeId) -> Option<&str> {
        self.profiles.get(&node).map(|profile| profile.name.as_str()).filter(|name| !name.is_empty())
    }

    /// For lists handed to clients: live nodes that don't leave, this one too, the least loaded first; with the address at which
    /// each serves clients. Of nodes about equally loaded each `client`, any number that tells clients apart, gets others first.
    pub fn nodes_by_load(&self, client: u64) -> Vec<(NodeId, Option<SocketAddr>)> {
        let stays = |node: NodeId| self.heads.of(node).is_none_or(|head| !head.draining);
        let others =
            self.membership.live().values().filter(|contact| self.is_usable(contact.node) && stays(contact.node));
        let own_address = self.config.addresses.first().map(|address| self.own_profile().client_address(*address));
        let own = (self.head.load, self.own, own_address);
        let mut ranked: Vec<_> = others
            .map(|contact| (self.load_of(contact.node), contact.node, self.client_address(contact)))
            .chain((!self.draining()).then_some(own))
            .collect();
        let order = |node: NodeId| affinity(node, Key(u128::from(client).to_le_bytes()));
        ranked.sort_unstable_by_key(|(load, node, _)| (*load / LOAD_STEP, order(*node), *node));
        ranked.into_iter().map(|(_, node, address)| (node, address)).collect()
    }

    /// The package names most asked for in the whole site, most first, in units of [`REQUEST`].
    pub fn popular_names(&self, count: usize) -> Vec<(String, u64)> {
        let mut sums: BTreeMap<Vec<u8>, u64> = BTreeMap::new();
        for (name, amount) in self.names.tops(self.now, count.max(64)) {
            *sums.entry(name).or_default() += u64::from(amount);
        }
        for (tops, _) in self.tops.values().filter(|(_, at)| self.now.since(*at) < TOPS_BELIEVED) {
            for demand in tops.names.iter() {
                *sums.entry(demand.name.to_vec()).or_default() += u64::from(demand.amount);
            }
        }
        most(sums, count).into_iter().map(|(name, sum)| (String::from_utf8_lossy(&name).into_owned(), sum)).collect()
    }

    /// The package names most asked for at this node, most first, in units of [`REQUEST`].
    pub fn own_names(&self, count: usize) -> Vec<(String, u32)> {
        let names = self.names.tops(self.now, count).into_iter();
        names.map(|(name, amount)| (String::from_utf8_lossy(&name).into_owned(), amount)).collect()
    }

    /// The keys most asked for in the whole site, most first, in units of [`REQUEST`].
    pub fn popular_keys(&self, count: usize) -> Vec<(Key, u64)> {
        let mut sums: BTreeMap<Key, u64> = BTreeMap::new();
        for (key, amount) in self.replication.local().tops(self.now, count.max(64)) {
            *sums.entry(key).or_default() += u64::from(amount);
        }
        for (tops, _) in self.tops.values().filter(|(_, at)| self.now.since(*at) < TOPS_BELIEVED) {
            for demand in tops.objects.iter() {
                *sums.entry(demand.key).or_default() += u64::from(demand.amount);
            }
        }
        most(sums, count)
    }

    /// The site as this node sees it.
    pub fn status(&self) -> Status {
        let member = |contact: &Contact| MemberStatus {
            node: contact.node,
            name: self.profiles.get(&contact.node).map_or_else(String::new, |profile| profile.name.clone()),
            address: contact.address,
            client_address: self.client_address(contact),
            connected: self.peers.is_greeted(contact.node),
            head: self.heads.of(contact.node).copied(),
            current: self.mirrors.is_current(contact.node),
            offences: self.peers.offences(contact.node),
        };
        Status {
            incarnation: self.membership.own().incarnation,
            head: self.head,
            members: self.membership.live().values().map(member).collect(),
            mirrors_bytes: self.mirrors.bytes(),
        }
    }

    /// Another node that probably has `key`, for one who asks for it in vain. None when the asker seems to have it itself: then it
    /// wants another version.
    pub(super) fn holder_for(&self, asker: NodeId, key: Key) -> Option<NodeId> {
        let own = self.inventory.holds(key.short());
        if self.mirrors.holds(asker, key.short()) || (own && asker == self.own) {
            return None;
        }
        if own {
            return Some(self.own);
        }
        self.plan(key).sources.first().map(|source| source.peer).filter(|peer| *peer != asker)
    }

    fn is_usable(&self, peer: NodeId) -> bool {
        self.is_live(peer) && self.peers.is_greeted(peer)
    }

    fn client_address(&self, contact: &Contact) -> Option<SocketAddr> {
        let address = contact.address?;
        Some(self.profiles.get(&contact.node).map_or(address, |profile| profile.client_address(address)))
    }

    fn load_of(&self, peer: NodeId) -> u8 {
        self.heads.of(peer).map_or(0, |head| head.load)
    }
}

fn most<K: Ord>(sums: BTreeMap<K, u64>, count: usize) -> Vec<(K, u64)> {
    let mut sums: Vec<(K, u64)> = sums.into_iter().collect();
    sums.sort_by(|(a, more), (b, less)| less.cmp(more).then_with(|| a.cmp(b)));
    sums.truncate(count);
    sums
}

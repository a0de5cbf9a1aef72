//! What must hold: of safety always, of liveness when the trouble has stopped.

use std::collections::{BTreeMap, BTreeSet};

use imirror_protocol::{Key, NodeId, Why};

use crate::world::World;

/// Every running node knows exactly the others of its island, and is connected with all of them.
pub fn members_agree(world: &World) -> bool {
    let mut islands: BTreeMap<u8, BTreeSet<NodeId>> = BTreeMap::new();
    for number in world.running() {
        islands.entry(world.nodes[number].island).or_default().insert(world.nodes[number].id);
    }
    world.running().iter().all(|number| {
        let node = &world.nodes[*number];
        let Some(cluster) = &node.cluster else { return false };
        let expected = islands[&node.island].iter().filter(|id| **id != node.id);
        cluster.members().eq(expected.copied()) && cluster.reachable().count() == cluster.members().len()
    })
}

/// Every node knows the newest inventory of every other.
pub fn inventories_agree(world: &World) -> bool {
    let running = || world.nodes.iter().filter_map(|node| node.cluster.as_ref());
    let sequences: BTreeMap<NodeId, u64> = running().map(|cluster| (cluster.own(), cluster.head().sequence)).collect();
    // One who does not know all yet is mostly found soon: to look at all takes long.
    running().all(|cluster| {
        cluster.status().members.iter().all(|member| {
            member.current && member.head.is_some_and(|head| sequences.get(&member.node) == Some(&head.sequence))
        })
    })
}

/// Every sound node names only holders of `key` as its sources, and all of them where there are few. Liars are left out.
pub fn holders_known(world: &World, key: Key) -> bool {
    let holders = world.data.holders(key);
    let running: Vec<usize> = world.running().into_iter().filter(|number| !world.nodes[*number].liar).collect();
    let liars: BTreeSet<NodeId> = world.nodes.iter().filter(|node| node.liar).map(|node| node.id).collect();
    let live: BTreeSet<NodeId> =
        holders.iter().filter(|number| running.contains(number)).map(|number| world.nodes[*number].id).collect();
    running.iter().all(|number| {
        let node = &world.nodes[*number];
        let Some(cluster) = &node.cluster else { return false };
        let named: BTreeSet<NodeId> =
            cluster.plan(key).sources.iter().map(|source| source.peer).filter(|peer| !liars.contains(peer)).collect();
        let expected: BTreeSet<NodeId> = live.iter().copied().filter(|id| *id != node.id).collect();
        if expected.len() > 8 { named.is_subset(&expected) } else { named == expected }
    })
}

/// All that has gone wrong that never may, in words.
pub fn unsafe_things(world: &World) -> Vec<String> {
    let mut wrongs = world.wrongs.clone();
    for node in &world.nodes {
        for (peer, why) in &node.complaints {
            let culprit = &world.nodes[world.index(*peer)];
            // A liar's own complaints are worth nothing.
            if !culprit.liar && !node.liar && *why != Why::Version {
                wrongs.push(format!("{:?} complained of a sound node: {why}", node.id));
            }
        }
    }
    wrongs
}

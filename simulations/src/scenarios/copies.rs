//! Stories of copies: nodes that hand over what they have before they go, and one that is lost without having done so.

use std::time::Duration;

use imirror_protocol::{Input, Key};

use super::{LIMIT, MB, Outcome, Story, key};
use crate::{Laws, World};

/// As many objects as a daemon that drains offers at the same time.
const OFFERED_MAX: usize = 32;
/// How often a node that drains looks for what has come since.
const PASSES: usize = 5;

/// Half of all nodes, ten at most, drain in turn and go for good, while clients ask for what they have and for new things.
pub fn drain(nodes: usize, seed: u64) -> Outcome {
    let mut story = Story::started("drain", nodes, seed, Laws::default());
    let leavers = nodes.div_ceil(2).min(10);
    let keys: Vec<Key> = (0..8 * leavers as u64).map(key).collect();
    for (number, wanted) in keys.iter().enumerate() {
        story.world.publish(*wanted, MB);
        story.world.put(number % leavers, *wanted);
        // Of every fourth the only other copy is with one who leaves too.
        if number % 4 == 0 {
            story.world.put((number + 1) % leavers, *wanted);
        }
    }
    story.world.run(Duration::from_secs(3));
    for node in 0..leavers {
        // Clients that are with it when it begins to drain.
        (0..3).for_each(|_| {
            let wanted = story.any_of(&keys);
            story.world.request(node, wanted);
        });
        story.world.feed(node, Input::Drain(true));
        // While it is on its way to the others each of two homes may grant the same key.
        story.world.run(Duration::from_millis(1));
        story.hand_over(node, &keys);
        story.expect("end of the leaver's own downloads", LIMIT, |world| world.data.is_quiet_at(node));
        story.world.leave(node);
    }
    story.expect("end of downloads", LIMIT, |world| world.data.is_quiet());
    let lost =
        keys.iter().filter(|key| story.world.data.holders_among(**key, &story.world.running()).is_empty()).count();
    let fetched = keys.iter().filter(|key| story.world.data.upstream_fetches.contains_key(key)).count();
    let twice = story.world.data.upstream_fetches.values().filter(|count| **count > 1).count();
    let retries = story.world.data.retries;
    for (count, what) in [
        (lost, "objects were lost"),
        (fetched, "objects that somebody had were fetched from upstream"),
        (twice, "new objects were fetched more than once"),
        (retries as usize, "clients had to turn to another node"),
    ] {
        if count > 0 {
            story.outcome.wrongs.push(format!("{count} {what}"));
        }
    }
    story.fetches_per_object();
    story.end()
}

/// A node with popular objects, and others that only it has, is lost for good while it serves.
pub fn loss_and_repair(nodes: usize, seed: u64) -> Outcome {
    const LOST: usize = 0;
    let mut story = Story::started("loss and repair", nodes, seed, Laws::default());
    let keys: Vec<Key> = (0..15).map(key).collect();
    let (popular, sole) = keys.split_at(5);
    for wanted in &keys {
        story.world.publish(*wanted, MB);
        story.world.put(LOST, *wanted);
    }
    story.world.run(Duration::from_secs(3));
    for round in 0..25 {
        popular.iter().for_each(|wanted| story.client_asks(*wanted));
        // Not all at once: what is asked for in one second would not decay.
        story.world.run(Duration::from_millis(if round % 5 == 4 { 4000 } else { 500 }));
    }
    let copies = |world: &World, wanted: &Key| world.data.holders_among(*wanted, &world.running()).len();
    story.expect("second copies", LIMIT, |world| popular.iter().all(|wanted| copies(world, wanted) >= 2));

    keys.iter().for_each(|wanted| story.world.request(LOST, *wanted));
    story.client_asks(sole[0]);
    story.world.run(Duration::from_millis(3));
    story.world.crash(LOST);
    // Some find out themselves that it is gone, some hear of it before they ask.
    let (soon, late) = sole.split_at(sole.len() / 2);
    (0..3).for_each(|_| soon.iter().chain(popular).for_each(|wanted| story.client_asks(*wanted)));
    let took = story.expect("repair", LIMIT, |world| popular.iter().all(|wanted| copies(world, wanted) >= 2));
    (0..3).for_each(|_| late.iter().chain(popular).for_each(|wanted| story.client_asks(*wanted)));
    story.figure("copies made again s", took.as_secs_f64());
    story.expect("end of downloads", LIMIT, |world| world.data.is_quiet());
    let fetches = |key: &Key| story.world.data.upstream_fetches.get(key).copied().unwrap_or(0);
    let (again, anew): (u64, u64) = (popular.iter().map(fetches).sum(), sole.iter().map(fetches).sum());
    let twice = sole.iter().filter(|key| fetches(key) > 1).count();
    story.figure("upstream fetches per popular object", again as f64 / popular.len() as f64);
    story.figure("upstream fetches per sole object", anew as f64 / sole.len() as f64);
    if again > 0 {
        story.outcome.wrongs.push(format!("upstream sent {again} objects of which there were copies"));
    }
    if twice > 0 {
        story.outcome.wrongs.push(format!("{twice} lost objects were fetched more than once"));
    }
    story.end()
}

impl Story {
    /// Offers to others what a node has, until others have it all; clients go on asking.
    fn hand_over(&mut self, node: usize, keys: &[Key]) {
        for pass in 0..PASSES {
            let left: Vec<Key> = self.world.data.stored_at(node).filter(|key| !self.is_elsewhere(node, *key)).collect();
            if left.is_empty() {
                return;
            }
            for (number, some) in left.chunks(OFFERED_MAX).enumerate() {
                let answered = self.world.data.handed.len() + some.len();
                for offered in some {
                    let wanted = self.any_of(keys);
                    self.client_asks(wanted);
                    self.world.feed(node, Input::Offer(*offered));
                }
                let new = key(1_000_000 + (node * 1000 + pass * 100 + number) as u64);
                self.world.publish(new, MB);
                (0..3).for_each(|_| self.client_asks(new));
                self.expect("answers to offers", LIMIT, |world| world.data.handed.len() >= answered);
            }
            // What has just been taken is known to all.
            self.world.run(Duration::from_secs(1));
        }
    }

    /// Whether this node believes that another that stays has the object.
    fn is_elsewhere(&self, node: usize, key: Key) -> bool {
        self.world.nodes[node].cluster.as_ref().is_some_and(|cluster| cluster.copies_elsewhere(key) > 0)
    }

    /// A client asks one of the nodes that some node names to it.
    fn client_asks(&mut self, wanted: Key) {
        let seed = self.rng.next();
        let Some(first) = self.any_running() else { return };
        let list = self.world.nodes[first].cluster.as_ref().map(|cluster| cluster.nodes_by_load(seed));
        let Some((named, _)) = list.and_then(|list| list.first().copied()) else { return };
        let node = self.world.index(named);
        self.world.request(node, wanted);
    }

    fn any_of(&mut self, keys: &[Key]) -> Key {
        keys[self.rng.below(keys.len() as u64) as usize]
    }
}

//! Two or three nodes: every rule of the state machine on its own.

use std::time::Duration;

use imirror_protocol::Key;
use imirror_simulations::checks::{holders_known, inventories_agree, members_agree, unsafe_things};
use imirror_simulations::{Laws, World};

const KEY: Key = Key([7; 16]);
const MB: u64 = 1 << 20;

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

fn site(count: usize, seed: u64) -> World {
    let mut world = World::new(Laws::default(), count, seed);
    (0..count).for_each(|node| world.start(node));
    world.announce_all();
    world.run_until(seconds(5), members_agree).expect("all are members");
    world
}

#[track_caller]
fn assert_safe(world: &World) {
    assert_eq!(unsafe_things(world), Vec::<String>::new());
}

#[test]
fn two_nodes_join_and_learn_what_each_has() {
    let mut world = World::new(Laws::default(), 2, 1);
    world.data = Default::default();
    world.start(0);
    (0..3000u64).for_each(|number| {
        let mut key = [0; 16];
        key[..8].copy_from_slice(&number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
        world.put(0, Key(key));
    });
    world.put(0, KEY);
    world.run(seconds(2));
    world.start(1);
    world.announce(1);
    world.run_until(seconds(2), members_agree).expect("members");
    world.run_until(seconds(2), |world| inventories_agree(world) && holders_known(world, KEY)).expect("caught up");
    world.evict(0, KEY);
    world.run_until(seconds(2), |world| holders_known(world, KEY)).expect("evicted");
    assert_safe(&world);
}

#[test]
fn one_fetches_and_the_others_follow() {
    let mut world = site(3, 2);
    world.publish(KEY, 20 * MB);
    (0..3).for_each(|node| world.request(node, KEY));
    world.run_until(seconds(30), |world| world.data.is_quiet()).expect("served");
    assert_eq!(world.data.upstream_fetches[&KEY], 1);
    assert_eq!(world.data.upstream_bytes[&KEY], 20 * MB);
    assert_eq!(world.data.alone, 0);
    assert_safe(&world);
}

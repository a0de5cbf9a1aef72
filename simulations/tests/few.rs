//! Two or three nodes: every rule of the state machine on its own.

use std::time::Duration;

use imirror_protocol::{Input, Key, NodeId, REQUEST, Why};
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
    assert!(world.run_until(seconds(5), members_agree).is_some(), "not all are members");
    world
}

fn key(number: u64) -> Key {
    Key(NodeId::of_public_key(&number.to_le_bytes()).0)
}

/// A key whose home is a given node.
fn key_at_home(world: &World, home: usize) -> Option<Key> {
    let cluster = world.nodes[home].cluster.as_ref()?;
    (0..1000).map(key).find(|key| cluster.home_of(*key) == cluster.own())
}

#[track_caller]
fn assert_safe(world: &World) {
    assert_eq!(unsafe_things(world), Vec::<String>::new());
}

#[test]
fn two_nodes_join_and_learn_what_each_has() {
    let mut world = World::new(Laws::default(), 2, 1);
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

#[test]
fn when_the_fetcher_dies_another_goes_on() {
    for home in 0..3 {
        let mut world = site(3, 3);
        let key = key_at_home(&world, home).unwrap();
        world.publish(key, 50 * MB);
        world.request(1, key);
        world.run(seconds(1));
        world.request(2, key);
        world.request(0, key);
        world.run(seconds(1));
        world.crash(1);
        world.run_until(seconds(30), |world| world.data.is_quiet()).expect("served");
        assert_eq!(world.data.upstream_fetches[&key], 2, "the home is {home}");
        // What the second had got from the first is not fetched again.
        assert!(world.data.upstream_bytes[&key] < 55 * MB, "{} bytes", world.data.upstream_bytes[&key]);
        assert_safe(&world);
    }
}

#[test]
fn when_the_home_dies_nobody_waits() {
    let mut world = site(3, 4);
    let key = key_at_home(&world, 0).unwrap();
    world.publish(key, MB);
    world.crash(0);
    // Before anybody has noticed.
    world.request(1, key);
    world.request(2, key);
    world.run_until(seconds(5), |world| world.data.is_quiet()).expect("served");
    assert_eq!(world.data.upstream_fetches[&key], 1);
    assert_safe(&world);
}

#[test]
fn upstream_is_asked_once_whether_a_thing_is_fresh() {
    let mut world = site(3, 5);
    (0..3).for_each(|node| world.confirm(node, KEY, seconds(10)));
    world.run(seconds(1));
    (0..3).for_each(|node| world.confirm(node, KEY, seconds(10)));
    world.run(seconds(1));
    assert_eq!((world.data.questions, world.data.fresh), (1, 5));
    world.run(seconds(10));
    world.confirm(1, KEY, seconds(10));
    world.run(seconds(1));
    assert_eq!(world.data.questions, 2);
    assert_safe(&world);
}

#[test]
fn what_is_popular_is_copied_and_a_lost_copy_made_again() {
    let mut world = site(4, 6);
    world.publish(KEY, MB);
    world.put(0, KEY);
    world.run(seconds(2));
    for _ in 0..20 {
        world.request(0, KEY);
        world.run(seconds(3));
    }
    assert_eq!(world.data.holders(KEY).len(), 2, "a second copy within the minute");
    assert_eq!(world.data.upstream_fetches.get(&KEY), None);
    world.crash(0);
    world.run_until(seconds(30), |world| world.data.holders(KEY).len() >= 3).expect("made again");
    assert_safe(&world);
}

#[test]
fn a_node_that_drains_hands_over_its_sole_copies() {
    let mut world = site(3, 7);
    let keys: Vec<Key> = (0..20).map(key).collect();
    for key in &keys {
        world.publish(*key, MB);
        world.put(0, *key);
    }
    world.publish(KEY, MB);
    world.put(0, KEY);
    world.put(1, KEY);
    world.run(seconds(2));
    world.feed(0, Input::Drain(true));
    world.feed(0, Input::Offer(KEY));
    keys.iter().for_each(|key| world.feed(0, Input::Offer(*key)));
    world.run_until(seconds(10), |world| world.data.handed.len() == 21).expect("all answered");
    assert!(world.data.handed.iter().all(|(_, key, to)| to.is_none() == (*key == KEY)), "{:?}", world.data.handed);
    world.leave(0);
    world.run(seconds(1));
    assert!(members_agree(&world), "a goodbye is heard at once");
    for key in keys {
        world.request(1, key);
    }
    world.run_until(seconds(10), |world| world.data.is_quiet()).expect("served");
    assert!(world.data.upstream_fetches.is_empty());
    assert_safe(&world);
}

#[test]
fn the_two_halves_of_a_split_site_work_and_become_one_again() {
    let mut world = site(3, 8);
    world.publish(KEY, MB);
    world.set_island(2, 1);
    world.run_until(seconds(10), members_agree).expect("both halves know");
    world.request(2, KEY);
    world.request(0, KEY);
    world.run_until(seconds(5), |world| world.data.is_quiet()).expect("served");
    assert_eq!(world.data.upstream_fetches[&KEY], 2, "once in each half");
    world.run(seconds(60));
    world.set_island(2, 0);
    world.run_until(seconds(60), |world| members_agree(world) && holders_known(world, KEY)).expect("one again");
    assert_safe(&world);
}

#[test]
fn a_node_of_another_version_is_refused_and_no_trouble() {
    let mut world = World::new(Laws::default(), 3, 9);
    world.configure(2, |config| config.speaks = 5..=6);
    (0..3).for_each(|node| world.start(node));
    world.announce_all();
    world.run(seconds(60));
    let members = |node: usize| world.nodes[node].cluster.as_ref().unwrap().status().members.len();
    assert_eq!([members(0), members(1), members(2)], [1, 1, 0]);
    assert!(world.nodes[0].sent < 60_000, "refusals are rare: {} bytes", world.nodes[0].sent);
    assert_safe(&world);
    // Upgraded, it is welcome.
    world.crash(2);
    world.configure(2, |config| config.speaks = 1..=6);
    world.start(2);
    world.announce(2);
    world.run_until(seconds(60), members_agree).expect("joined");
}

#[test]
fn an_offender_is_put_aside_and_nobody_else_notices() {
    let mut world = site(3, 10);
    world.nodes[2].liar = true;
    for _ in 0..10 {
        world.inject(2, 0, vec![3, 5, 255, 255, 255, 255, 255]);
        world.run(Duration::from_millis(50));
    }
    let malformed = world.nodes[0].complaints.iter().filter(|(_, why)| *why == Why::Malformed).count();
    assert_eq!(malformed, 4, "put aside after four");
    assert!(world.nodes[0].cluster.as_ref().unwrap().reachable().eq([world.nodes[1].id]));
    world.publish(KEY, MB);
    world.request(0, KEY);
    world.request(1, KEY);
    world.run_until(seconds(5), |world| world.data.is_quiet()).expect("served");
    assert_eq!(world.data.upstream_fetches[&KEY], 1);
    world.run_until(seconds(120), members_agree).expect("it gets another chance");
    assert_safe(&world);
}

#[test]
fn a_flood_is_answered_in_part_only() {
    let mut world = site(2, 11);
    world.nodes[1].liar = true;
    // A thousand questions for the whole inventory in each message, for a while.
    let ask = [7, 4, 0, 128, 1, 0].repeat(50);
    for _ in 0..2000 {
        world.inject(1, 0, ask.clone());
        world.run(Duration::from_millis(1));
    }
    assert!(world.nodes[0].complaints.iter().any(|(_, why)| *why == Why::Flood));
    assert!(world.nodes[0].sent < 1_000_000, "{} bytes", world.nodes[0].sent);
    assert_safe(&world);
}

#[test]
fn two_nodes_with_one_key_are_told_so() {
    let mut world = World::new(Laws::default(), 3, 12);
    world.clone_identity(1, 2);
    (0..3).for_each(|node| world.start(node));
    world.announce(0);
    world.run(seconds(30));
    assert!(world.nodes[1].duplicates + world.nodes[2].duplicates > 0);
    assert_eq!(world.nodes[0].duplicates, 0);
}

#[test]
fn two_nodes_with_one_key_notice_it_without_a_third() {
    for (seed, by_seed) in [(21, true), (22, false)] {
        let mut world = World::new(Laws::default(), 2, seed);
        world.clone_identity(0, 1);
        if by_seed {
            world.configure(1, |config| config.seeds = vec![imirror_simulations::world::address(0)]);
        }
        (0..2).for_each(|node| world.start(node));
        if !by_seed {
            world.announce(0);
        }
        world.run(seconds(30));
        assert_eq!(
            (world.nodes[0].duplicates, world.nodes[1].duplicates),
            (1, 1),
            "each is told, and not at every turn"
        );
        assert!(world.nodes[0].sent < 20_000, "{} bytes", world.nodes[0].sent);
        world.run(seconds(90));
        assert!(world.nodes[0].duplicates > 1, "while it lasts it is said again");
    }
}

#[test]
fn a_node_that_meets_itself_is_no_double() {
    let mut world = World::new(Laws::default(), 1, 23);
    let own = imirror_simulations::world::address(0);
    // Its own address, as others see it, is not among those that it knows.
    world.configure(0, |config| {
        config.addresses = vec![];
        config.seeds = vec![own];
    });
    world.start(0);
    world.run(seconds(60));
    assert!(world.nodes[0].sent > 0, "it has met itself");
    assert_eq!(world.nodes[0].duplicates, 0);
    let sent = world.nodes[0].sent;
    world.run(seconds(600));
    assert_eq!(world.nodes[0].sent, sent, "and leaves it at that");
}

#[test]
fn a_node_whose_wall_clock_went_back_is_a_member_all_the_same() {
    let mut world = site(3, 13);
    world.publish(KEY, MB);
    world.put(1, KEY);
    world.run(seconds(2));
    world.crash(1);
    world.run(seconds(1));
    world.start_in_the_past(1);
    world.announce(1);
    let agree = |world: &World| members_agree(world) && inventories_agree(world) && holders_known(world, KEY);
    world.run_until(seconds(10), agree).expect("joined");
    assert_safe(&world);
}

#[test]
fn clocks_a_day_off_are_no_trouble() {
    const DAY: i64 = 86_400_000;
    let mut world = site(3, 24);
    world.publish(KEY, MB);
    world.put(1, KEY);
    let agree = |world: &World| members_agree(world) && inventories_agree(world) && holders_known(world, KEY);
    world.run_until(seconds(10), agree).expect("known");
    // A day back, right again, a day ahead, right again.
    for jump in [-DAY, DAY, DAY, -DAY] {
        world.crash(1);
        world.run(seconds(1));
        world.jump_wall_clock(1, jump);
        world.start(1);
        world.announce(1);
        world.run_until(seconds(10), agree).expect("joined");
        assert!(world.nodes.iter().all(|node| node.duplicates == 0), "{jump}");
    }
    // What a suspended machine sees when it wakes up.
    world.jump_clock(2, DAY as u64 * 1000);
    world.run_until(seconds(10), agree).expect("it jumped");
    world.request(0, KEY);
    world.request(2, KEY);
    world.run_until(seconds(10), |world| world.data.is_quiet()).expect("served");
    assert!(world.data.upstream_fetches.is_empty());
    assert_safe(&world);
}

#[test]
fn a_short_sleep_is_no_death_and_a_long_one_is_forgiven() {
    let mut world = site(3, 14);
    world.freeze(1, 900_000);
    world.run(seconds(4));
    assert!(members_agree(&world));
    world.freeze(1, 8_000_000);
    world.run(seconds(7));
    assert!(!members_agree(&world), "it is believed dead");
    world.run_until(seconds(10), |world| members_agree(world) && inventories_agree(world)).expect("it came back");
    world.jump_clock(2, 3_600_000_000);
    world.run_until(seconds(10), |world| members_agree(world) && inventories_agree(world)).expect("it jumped");
    assert_safe(&world);
}

#[test]
fn who_slept_hears_what_happened_before_it_goes_upstream() {
    for seed in 0..10 {
        let mut world = site(3, seed);
        world.publish(KEY, MB);
        world.freeze(0, 4_000_000);
        // Long enough to be taken for dead.
        world.run(Duration::from_millis(3000));
        world.request(1, KEY);
        world.run(Duration::from_millis(900));
        world.request(0, KEY);
        world.run_until(seconds(2), |world| world.data.is_quiet()).expect("served");
        assert_eq!(world.data.upstream_fetches[&KEY], 1, "seed {seed}");
        assert_safe(&world);
    }
}

#[test]
fn a_node_that_moves_is_found_again() {
    let mut world = site(3, 15);
    world.feed(1, Input::Addresses(vec!["10.9.9.9:3142".parse().unwrap()]));
    world.run(seconds(2));
    assert!(members_agree(&world));
    let status = world.nodes[0].cluster.as_ref().unwrap().status();
    assert!(status.members.iter().any(|member| member.address == Some("10.9.9.9:3142".parse().unwrap())));
    assert_safe(&world);
}

#[test]
fn seeds_are_enough() {
    let mut world = World::new(Laws::default(), 3, 16);
    (1..3).for_each(|node| {
        world.configure(node, |config| config.seeds = vec![imirror_simulations::world::address(0)]);
    });
    [2, 1, 0].into_iter().for_each(|node| {
        world.start(node);
        world.run(seconds(3));
    });
    world.run_until(seconds(10), members_agree).expect("joined");
    assert_safe(&world);
}

#[test]
fn one_seed_is_one_run() {
    let trace = |seed| {
        let mut world = site(3, seed);
        world.publish(KEY, MB);
        world.request(1, KEY);
        world.run(seconds(5));
        (world.trace, world.delivered)
    };
    assert_eq!(trace(17), trace(17));
    assert_ne!(trace(17), trace(18));
}

#[test]
fn names_are_counted_for_the_whole_site() {
    let mut world = site(3, 18);
    for node in 0..3 {
        (0..4).for_each(|_| world.feed(node, Input::RequestedName { name: "vlc.x86_64".into(), amount: REQUEST }));
    }
    world.feed(0, Input::RequestedName { name: "mc.x86_64".into(), amount: REQUEST });
    world.run(seconds(61));
    for node in 0..3 {
        let names = world.nodes[node].cluster.as_ref().unwrap().popular_names(5);
        assert_eq!(names[0].0, "vlc.x86_64");
        assert!(names[0].1 >= 4 * 256, "{names:?}");
    }
}

#[test]
fn what_is_purged_is_forgotten_by_all_and_by_who_was_away() {
    for seed in 0..20 {
        let mut world = site(4, 100 + seed);
        world.publish(KEY, MB);
        (0..4).for_each(|node| world.put(node, KEY));
        world.run_until(seconds(5), |world| holders_known(world, KEY)).expect("known");
        // One is away, one hangs, and of the others all are to forget it.
        world.crash(3);
        world.freeze(2, 3_000_000);
        world.purge(0, KEY);
        world.run_until(seconds(10), |world| world.data.holders(KEY) == [3]).expect("forgotten by all that are here");
        let [(objects, nodes, _)] = world.data.forgotten[..] else { panic!("{:?}", world.data.forgotten) };
        assert!((1..=2).contains(&objects) && u64::from(nodes) == objects, "seed {seed}: {:?}", world.data.forgotten);
        // Nobody who gave the order is there any more when the last one comes back.
        world.run(seconds(60));
        world.crash(0);
        world.run(seconds(5));
        world.start(3);
        world.announce(3);
        world.run_until(seconds(5), |world| world.data.holders(KEY).is_empty()).expect("told of it when it was back");
        // What is fetched afterwards is another matter.
        world.run(seconds(5));
        world.request(1, KEY);
        world.run_until(seconds(30), |world| world.data.is_quiet()).expect("served");
        world.start(0);
        world.announce(0);
        world.run(seconds(20));
        assert_eq!((world.data.upstream_fetches[&KEY], world.data.holders(KEY)), (1, vec![1]), "seed {seed}");
        assert_safe(&world);
    }
}

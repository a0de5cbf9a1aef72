//! A few hundred runs of all scenarios. A failure names what repeats it:
//! `cargo run -p imirror-simulations -- --scenario NAME --nodes COUNT --seeds FROM..TO`.

use imirror_simulations::scenarios::{
    Outcome, Scenario, churn, clock_jumps, cold_start, cold_start_by_one_address, drain, lies, loss_and_repair,
    release, rolling_upgrade, slow_disk, split_and_heal,
};

/// Sites of three to eight nodes.
#[track_caller]
fn all_well(scenario: Scenario, seeds: std::ops::Range<u64>) -> Vec<Outcome> {
    let outcomes: Vec<Outcome> = seeds.map(|seed| scenario(3 + seed as usize % 6, seed)).collect();
    check(&outcomes);
    outcomes
}

#[track_caller]
fn check(outcomes: &[Outcome]) {
    let wrong: Vec<String> = outcomes
        .iter()
        .filter(|outcome| !outcome.wrongs.is_empty())
        .map(|outcome| {
            let Outcome { scenario, nodes, seed, wrongs, .. } = outcome;
            format!("{scenario}, {nodes} nodes, seed {seed}: {}", wrongs.join("; "))
        })
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[track_caller]
fn at_most(outcome: &Outcome, figure: &str, bound: f64) {
    let value = outcome.figures[figure];
    assert!(value <= bound, "{}, {} nodes: {figure} is {value}", outcome.scenario, outcome.nodes);
}

#[test]
fn churn_first_half() {
    all_well(churn, 0..60);
}

#[test]
fn churn_second_half() {
    all_well(churn, 60..120);
}

#[test]
fn splits() {
    for outcome in all_well(split_and_heal, 0..50) {
        at_most(&outcome, "split noticed s", 5.0);
        // A dial may have failed just before the healing.
        at_most(&outcome, "first healing s", 15.0);
        at_most(&outcome, "second healing s", 15.0);
    }
}

#[test]
fn upgrades() {
    for outcome in all_well(rolling_upgrade, 0..50) {
        at_most(&outcome, "needless upstream fetches per object", 0.0);
    }
}

#[test]
fn liars() {
    all_well(lies, 0..50);
}

#[test]
fn slow_disks() {
    for outcome in all_well(slow_disk, 0..50) {
        // As long as the disk does nothing, or until another is asked, and the transfer.
        at_most(&outcome, "slowest client s", 0.5);
    }
}

#[test]
fn drains() {
    all_well(drain, 0..50);
}

#[test]
fn losses() {
    for outcome in all_well(loss_and_repair, 0..50) {
        at_most(&outcome, "copies made again s", 10.0);
    }
}

#[test]
fn clocks() {
    all_well(clock_jumps, 0..50);
}

#[test]
fn releases() {
    let outcomes: Vec<Outcome> = (0..12).map(|seed| release(3 + seed as usize % 6, 60, 20 << 20, seed)).collect();
    check(&outcomes);
    for outcome in outcomes {
        at_most(&outcome, "upstream copies", 1.0);
    }
}

#[test]
fn ten_nodes_know_each_other_soon_and_gossip_little() {
    let outcomes: Vec<Outcome> = (0..8).map(|seed| cold_start(10, seed)).collect();
    check(&outcomes);
    for outcome in outcomes {
        at_most(&outcome, "membership s", 5.0);
        at_most(&outcome, "stored object known to all s", 2.0);
        at_most(&outcome, "idle gossip B/s/node", 850.0);
    }
    for outcome in all_well(cold_start_by_one_address, 0..20) {
        at_most(&outcome, "membership s", 5.0);
    }
}

#[test]
fn a_hundred_nodes_know_each_other_soon() {
    let outcomes = [cold_start(100, 1), cold_start_by_one_address(100, 2)];
    check(&outcomes);
    outcomes.iter().for_each(|outcome| at_most(outcome, "membership s", 15.0));
    at_most(&outcomes[0], "stored object known to all s", 2.0);
    at_most(&outcomes[0], "idle gossip B/s/node", 900.0);
}

#[test]
fn a_run_can_be_repeated() {
    let run = || {
        let outcome = churn(5, 77);
        (outcome.figures, outcome.wrongs)
    };
    assert_eq!(run(), run());
}

//! In virtual time, against peers that are slow, silent or break off.

use std::vec;

use proptest::prelude::*;

use super::*;

const HEDGE: Duration = Duration::from_millis(200);
const MIB: u64 = 1 << 20;
/// A peer that is silent for so long is given up by the driver.
const GIVEN_UP: Duration = Duration::from_secs(3);

fn peer(number: u8) -> NodeId {
    NodeId([number; 16])
}

fn sources(count: u8) -> Vec<Source> {
    (0..count).map(|number| Source { peer: peer(number), hedge_after: HEDGE }).collect()
}

fn at(millis: u64) -> Instant {
    Instant::from_micros(millis * 1000)
}

fn all(machine: &mut Sources, now: Instant) -> Vec<Action> {
    let mut actions = Vec::new();
    while let Some(action) = machine.poll(now) {
        actions.push(action);
        assert!(actions.len() < 100, "no end: {actions:?}");
    }
    actions
}

fn ask(request: u32, number: u8, bytes: Range<u64>) -> Action {
    Action::Ask { request: RequestId(request), peer: peer(number), bytes }
}

#[test]
fn one_peer_that_is_quick_is_enough() {
    let mut machine = Sources::new(Some(0..MIB), sources(3));
    assert_eq!(all(&mut machine, at(0)), [ask(0, 0, 0..MIB)]);
    for group in 0..MIB / GROUP {
        let now = at(group * 10);
        machine.arrived(now, RequestId(0), group * GROUP..(group + 1) * GROUP);
        assert_eq!(all(&mut machine, now), []);
    }
    assert!(machine.missing().is_empty() && !machine.is_exhausted());
    assert_eq!(machine.deadline(at(160)), None);
}

#[test]
fn of_a_slow_one_another_takes_the_second_half() {
    let mut machine = Sources::new(Some(5..100 * MIB), sources(3));
    assert_eq!(all(&mut machine, at(0)), [ask(0, 0, 5..100 * MIB)]);
    machine.arrived(at(100), RequestId(0), 5..GROUP);
    assert_eq!(all(&mut machine, at(100)), [], "not measured yet");
    machine.arrived(at(250), RequestId(0), GROUP..20 * GROUP);
    let middle = (20 * GROUP + 100 * MIB) / 2;
    assert_eq!(all(&mut machine, at(250)), [ask(1, 1, middle.next_multiple_of(GROUP)..100 * MIB)]);
    // The first one is through with its half, and called off before it goes on into the other.
    machine.arrived(at(300), RequestId(0), 20 * GROUP..middle.next_multiple_of(GROUP));
    assert_eq!(all(&mut machine, at(300)), [Action::CallOff(RequestId(0))]);
}

#[test]
fn of_a_silent_one_the_next_sends_the_same_and_who_speaks_first_goes_on() {
    for first_speaks in [true, false] {
        let mut machine = Sources::new(Some(0..MIB), sources(2));
        all(&mut machine, at(0));
        machine.arrived(at(10), RequestId(0), 0..GROUP);
        assert_eq!(all(&mut machine, at(209)), []);
        assert_eq!(machine.deadline(at(209)), Some(at(210)));
        assert_eq!(all(&mut machine, at(210)), [ask(1, 1, GROUP..MIB)]);
        assert_eq!(all(&mut machine, at(211)), []);
        let (speaks, other) = if first_speaks { (0, 1) } else { (1, 0) };
        machine.arrived(at(220), RequestId(speaks), GROUP..2 * GROUP);
        assert_eq!(all(&mut machine, at(220)), [Action::CallOff(RequestId(other))]);
    }
}

#[test]
fn the_last_group_does_not_wait_for_one_that_crawls() {
    let mut machine = Sources::new(Some(0..GROUP), sources(2));
    all(&mut machine, at(0));
    for step in 1..3u64 {
        machine.arrived(at(step * 100), RequestId(0), step - 1..step);
        assert_eq!(all(&mut machine, at(step * 100)), []);
    }
    machine.arrived(at(300), RequestId(0), 2..3);
    assert_eq!(all(&mut machine, at(300)), [ask(1, 1, 3..GROUP)]);
    machine.arrived(at(310), RequestId(0), 3..4);
    assert_eq!(all(&mut machine, at(310)), [], "it crawls on, which is no reason to call off the other");
    machine.arrived(at(320), RequestId(1), 3..GROUP);
    assert_eq!(all(&mut machine, at(320)), [Action::CallOff(RequestId(0))]);
    assert!(machine.missing().is_empty());
}

#[test]
fn when_one_fails_the_next_goes_on_where_it_was_until_none_is_left() {
    let mut machine = Sources::new(Some(0..MIB), sources(2));
    all(&mut machine, at(0));
    machine.arrived(at(10), RequestId(0), 0..3 * GROUP);
    machine.failed(RequestId(0));
    assert_eq!(all(&mut machine, at(10)), [ask(1, 1, 3 * GROUP..MIB)]);
    assert!(!machine.is_exhausted());
    machine.failed(RequestId(1));
    assert_eq!(all(&mut machine, at(20)), []);
    assert!(machine.is_exhausted());
    assert_eq!(machine.missing(), core::slice::from_ref(&(3 * GROUP..MIB)));
}

#[test]
fn parts_are_asked_for_one_after_the_other() {
    let parts = [0..GROUP, 4 * GROUP..5 * GROUP];
    let mut machine = Sources::new(parts.clone(), sources(2));
    assert_eq!(all(&mut machine, at(0)), [ask(0, 0, parts[0].clone())]);
    machine.arrived(at(1), RequestId(0), parts[0].clone());
    assert_eq!(all(&mut machine, at(1)), [ask(1, 0, parts[1].clone())], "of the one that is known to be good");
    assert!(Sources::new([], sources(1)).missing().is_empty());
}

#[test]
fn what_comes_from_elsewhere_is_left_out() {
    let mut machine = Sources::new(Some(0..100 * GROUP), sources(1));
    assert_eq!(all(&mut machine, at(0)), [ask(0, 0, 0..100 * GROUP)]);
    machine.elsewhere(&(10 * GROUP..50 * GROUP));
    machine.elsewhere(&(51 * GROUP..53 * GROUP));
    assert_eq!(all(&mut machine, at(1)), [], "that is far ahead");
    machine.arrived(at(2), RequestId(0), 0..10 * GROUP);
    let anew = [Action::CallOff(RequestId(0)), ask(1, 0, 50 * GROUP..51 * GROUP)];
    assert_eq!(all(&mut machine, at(2)), anew);
    machine.arrived(at(3), RequestId(1), 50 * GROUP..51 * GROUP);
    assert_eq!(all(&mut machine, at(3)), [ask(2, 0, 53 * GROUP..100 * GROUP)]);
    machine.elsewhere(&(0..100 * GROUP));
    assert_eq!(all(&mut machine, at(4)), [Action::CallOff(RequestId(2))]);
    assert!(machine.missing().is_empty() && !machine.is_exhausted());
}

#[test]
fn one_that_has_it_later_helps() {
    let mut machine = Sources::new(Some(0..100 * MIB), sources(1));
    all(&mut machine, at(0));
    machine.arrived(at(100), RequestId(0), 0..GROUP);
    assert!(!machine.is_short_of_peers(), "not measured yet");
    machine.arrived(at(250), RequestId(0), GROUP..2 * GROUP);
    assert!(machine.is_short_of_peers());
    sources(2).into_iter().for_each(|source| machine.also(source));
    assert!(!machine.is_short_of_peers());
    let actions = all(&mut machine, at(250));
    assert!(matches!(&actions[..], [Action::Ask { peer: whom, .. }] if *whom == peer(1)), "{actions:?}");
}

/// How a peer behaves whenever it is asked.
#[derive(Clone, Debug)]
struct Conduct {
    first_byte: u64,
    /// Per millisecond.
    bytes: u64,
    /// It is silent from this time on, and until this.
    silence: Range<u64>,
    /// It breaks off after so many bytes in all.
    fails_after: u64,
}

struct Sending {
    id: RequestId,
    peer: usize,
    left: Range<u64>,
    begins: u64,
    last: u64,
}

struct Ran {
    missing: u64,
    took: u64,
    /// Bytes that came, those that came twice included.
    received: u64,
}

fn run(conducts: &[Conduct], size: u64) -> Ran {
    let mut machine = Sources::new(Some(0..size), sources(u8::try_from(conducts.len()).unwrap()));
    let mut sending: Vec<Sending> = Vec::new();
    let mut sent = vec![0; conducts.len()];
    let mut received = 0;
    for now in 0..10_000_000u64 {
        for action in all(&mut machine, at(now)) {
            match action {
                Action::CallOff(id) => {
                    assert!(sending.iter().any(|each| each.id == id), "{id:?} is called off twice, or was over");
                    sending.retain(|each| each.id != id);
                }
                Action::Ask { request, peer, bytes } => {
                    let peer = usize::from(peer.0[0]);
                    assert!(sending.iter().all(|each| each.peer != peer), "one request a peer");
                    assert!(!bytes.is_empty() && bytes.end <= size);
                    let begins = now + conducts[peer].first_byte;
                    sending.push(Sending { id: request, peer, left: bytes, begins, last: now });
                }
            }
        }
        assert!(sending.len() <= REQUESTS_MAX);
        let missing: u64 = machine.missing().iter().map(|range| range.end - range.start).sum();
        if missing == 0 || machine.is_exhausted() {
            return Ran { missing, took: now, received };
        }
        assert!(!sending.is_empty(), "somebody could be asked, and nobody is");
        let mut gone = Vec::new();
        for each in &mut sending {
            let conduct = &conducts[each.peer];
            if sent[each.peer] >= conduct.fails_after || at(now).since(at(each.last)) >= GIVEN_UP {
                gone.push(each.id);
                continue;
            }
            if now < each.begins || conduct.silence.contains(&now) {
                continue;
            }
            let end = (each.left.start + conduct.bytes).min(each.left.end);
            machine.arrived(at(now), each.id, each.left.start..end);
            sent[each.peer] += end - each.left.start;
            received += end - each.left.start;
            (each.left.start, each.last) = (end, now);
        }
        for id in gone {
            machine.failed(id);
            sending.retain(|each| each.id != id);
        }
        sending.retain(|each| !each.left.is_empty());
    }
    panic!("it takes for ever");
}

fn steady(bytes: u64) -> Conduct {
    Conduct { first_byte: 1, bytes, silence: 0..0, fails_after: u64::MAX }
}

#[test]
fn several_slow_ones_are_nearly_as_quick_as_their_sum() {
    let alone = run(&[steady(10_000)], 100 * MIB);
    let four = run(&[steady(10_000), steady(10_000), steady(10_000), steady(10_000)], 100 * MIB);
    assert!(four.took < alone.took * 3 / 10, "{} ms, alone {} ms", four.took, alone.took);
    // Where a part was taken away, what comes together with its last bytes comes twice.
    assert!(four.received < 100 * MIB + GROUP, "{}", four.received);
    let uneven = run(&[steady(1000), steady(30_000)], 100 * MIB);
    assert!(uneven.took < 100 * MIB / 31_000 * 5 / 4 + 1000, "{} ms", uneven.took);
}

#[test]
fn a_silent_one_costs_no_more_than_the_time_to_notice() {
    let silent = Conduct { silence: 50..u64::MAX, ..steady(100_000) };
    let ran = run(&[silent, steady(100_000)], 20 * MIB);
    assert!(ran.took <= 20 * MIB / 100_000 + 200 + 5, "{} ms", ran.took);
    assert_eq!(ran.received, 20 * MIB);
}

fn conduct() -> impl Strategy<Value = Conduct> {
    let fails_after = prop_oneof![Just(u64::MAX), 0..20 * MIB];
    let silence = prop_oneof![Just((0, 0)), (0..2000u64, 0..6000u64)];
    (0..400u64, 1..100_000u64, silence, fails_after).prop_map(|(first_byte, bytes, (from, length), fails_after)| {
        Conduct { first_byte, bytes, silence: from..from + length, fails_after }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn everything_arrives_while_anybody_sends(conducts in prop::collection::vec(conduct(), 1..7), size in 1..8 * MIB, sound: bool) {
        let mut conducts = conducts;
        if sound {
            conducts.push(steady(1000));
        }
        let ran = run(&conducts, size);
        if sound {
            prop_assert_eq!(ran.missing, 0);
        }
        prop_assert!(ran.received >= size - ran.missing);
    }
}

//! What one node alone makes of what it is told. How several get on with each other is told in `simulations`.

use alloc::vec;

use proptest::prelude::*;

use super::*;
use crate::message::{Hello, Member, State};
use crate::output::Why;
use crate::wire::{Few, FewBytes, GrownFew, Later};

const PEER: NodeId = NodeId([9; 16]);
const KEY: Key = Key([3; 16]);

fn at(millis: u64) -> Instant {
    Instant::from_micros(millis * 1000)
}

fn alone() -> Cluster {
    Cluster::new(Config::default(), NodeId([1; 16]), Incarnation(5), 1, at(0))
}

fn outputs(cluster: &mut Cluster) -> Vec<Output> {
    core::iter::from_fn(|| cluster.poll_output()).collect()
}

/// A node with one connection on which both have said hello.
fn met() -> Cluster {
    let mut cluster = alone();
    meet(&mut cluster, PEER);
    outputs(&mut cluster);
    cluster
}

/// A connection comes about, and the peer says hello.
fn meet(cluster: &mut Cluster, peer: NodeId) {
    let connection = ConnectionId(1);
    cluster.handle(at(1), Input::Connected { peer, connection, address: None, dialled: false });
    let hello = Hello {
        version: VERSION,
        oldest: VERSION_OLDEST,
        incarnation: Incarnation(7),
        addresses: Few::of(["192.0.2.9:3142".parse().unwrap()]),
        yours: Incarnation(0),
        members: 0,
        name: Later(FewBytes::of(b"lab9")),
        client_port: Later(8080),
    };
    cluster.handle(at(2), Input::Received { from: peer, bytes: Message::Hello(hello).encode() });
}

/// What a node says of itself that has nothing yet.
fn head(node: NodeId) -> Head {
    let epoch = Incarnation(7);
    Head { node, epoch, beat: 0, sequence: 0, count: 0, load: 0, room: 9, draining: false, bytes: 0 }
}

#[test]
fn a_lone_node_waits_for_nobody() {
    let mut cluster = alone();
    cluster.handle(at(0), Input::Claim { key: KEY, broken: None });
    cluster.handle(at(0), Input::Confirm { key: KEY, age: Duration::ZERO });
    let outputs = outputs(&mut cluster);
    assert!(outputs.contains(&Output::Granted { key: KEY, shared: true }));
    assert!(outputs.contains(&Output::AskUpstream(KEY)));
    assert!(cluster.plan(KEY).sources.is_empty());
}

#[test]
fn a_young_node_takes_nobodys_word_for_what_another_has() {
    let mut cluster = met();
    let other = NodeId([8; 16]);
    let listed = |node| Member {
        node,
        incarnation: Incarnation(7),
        refutations: 0,
        state: State::Alive,
        addresses: Few::of([]),
        head: Some(head(node)),
        name: FewBytes::of(b""),
        client_port: 0,
    };
    let list = Message::Members(GrownFew::of([listed(PEER), listed(other)])).encode();
    cluster.handle(at(3), Input::Received { from: PEER, bytes: list });
    meet(&mut cluster, other);
    cluster.handle(at(4), Input::Claim { key: KEY, broken: None });
    let claims = |cluster: &mut Cluster| {
        let is_claim = |output: &Output| match output {
            Output::Send { frame, .. } => matches!(Message::decode(frame), Ok((Some(Message::Claim(..)), _))),
            output => matches!(output, Output::Granted { .. }),
        };
        outputs(cluster).iter().filter(|output| is_claim(output)).count()
    };
    assert_eq!(claims(&mut cluster), 0, "the other may have stored it since");
    cluster.handle(at(5), Input::Received { from: other, bytes: Message::Heads(GrownFew::of([head(other)])).encode() });
    assert_eq!(claims(&mut cluster), 1);
}

#[test]
fn what_people_want_to_know_of_a_node_is_known() {
    let mut cluster = met();
    let head = Head { beat: 1, sequence: 3, count: 3, bytes: 7 << 30, ..head(PEER) };
    cluster.handle(at(3), Input::Received { from: PEER, bytes: Message::Heads(GrownFew::of([head])).encode() });
    let clients = Some("192.0.2.9:8080".parse().unwrap());
    let status = cluster.status();
    let member = &status.members[0];
    assert_eq!((member.name.as_str(), member.client_address), ("lab9", clients));
    assert_eq!(member.address, Some("192.0.2.9:3142".parse().unwrap()));
    assert_eq!(member.head.map(|head| head.bytes), Some(7 << 30));
    assert!(cluster.nodes_by_load(1).contains(&(PEER, clients)));
}

#[test]
fn a_node_that_drains_tells_so_at_once() {
    let mut cluster = met();
    cluster.handle(at(10), Input::Drain(true));
    let told = |cluster: &mut Cluster| {
        let heads = |output| match output {
            Output::Send { to: PEER, frame, lane: crate::Lane::Stream } => {
                Message::decode(&frame).ok().map(|(message, _)| message)
            }
            _ => None,
        };
        let draining = |message| match message {
            Some(Message::Heads(heads)) => Some(heads[0].draining),
            _ => None,
        };
        outputs(cluster).into_iter().filter_map(heads).find_map(draining)
    };
    assert_eq!(told(&mut cluster), Some(true));
    cluster.handle(at(11), Input::Drain(true));
    assert_eq!(told(&mut cluster), None, "it has said so");
    cluster.handle(at(12), Input::Drain(false));
    assert_eq!(told(&mut cluster), Some(false));
}

#[test]
fn a_node_that_has_left_does_nothing_more() {
    let mut cluster = met();
    cluster.handle(at(10), Input::Leave);
    assert!(outputs(&mut cluster).iter().any(|output| matches!(output, Output::Send { to: PEER, .. })));
    cluster.handle(at(20), Input::Claim { key: KEY, broken: None });
    assert_eq!((outputs(&mut cluster), cluster.poll_deadline()), (vec![], None));
}

#[test]
fn one_that_does_not_say_hello_is_let_go() {
    let mut cluster = alone();
    let connection = ConnectionId(1);
    cluster.handle(at(1), Input::Connected { peer: PEER, connection, address: None, dialled: false });
    while let Some(deadline) = cluster.poll_deadline().filter(|deadline| *deadline < at(8000)) {
        cluster.handle(deadline, Input::Tick);
    }
    assert!(outputs(&mut cluster).contains(&Output::Disconnect { peer: PEER, connection, why: Why::Silent }));
}

#[test]
fn an_address_where_it_meets_itself_is_not_dialled_again() {
    let mut cluster = alone();
    let address = "192.0.2.1:3142".parse().unwrap();
    cluster.handle(at(0), Input::Discovered { address, peer: None });
    assert_eq!(outputs(&mut cluster), [Output::Dial(address)]);
    let (peer, connection) = (cluster.own(), ConnectionId(1));
    cluster.handle(at(1), Input::Connected { peer, connection, address: Some(address), dialled: true });
    let [Output::Send { frame, .. }] = &outputs(&mut cluster)[..] else { panic!("it says hello") };
    cluster.handle(at(1), Input::Received { from: peer, bytes: frame.clone() });
    assert_eq!(outputs(&mut cluster), [Output::Disconnect { peer, connection, why: Why::Myself }]);
    cluster.handle(at(2), Input::Discovered { address, peer: None });
    cluster.handle(at(60_000), Input::Tick);
    assert!(!outputs(&mut cluster).contains(&Output::Dial(address)));
}

#[test]
fn time_that_goes_back_stands_still() {
    let mut cluster = met();
    cluster.handle(at(5000), Input::Tick);
    cluster.handle(at(10), Input::Claim { key: KEY, broken: None });
    assert!(cluster.poll_deadline() >= Some(at(5000)));
}

/// The messages among some outputs that go to a peer.
fn said_to(peer: NodeId, outputs: Vec<Output>) -> Vec<Message> {
    let frame = |output| match output {
        Output::Send { to, frame, .. } if to == peer => Some(frame),
        _ => None,
    };
    outputs.into_iter().filter_map(frame).filter_map(|frame| Message::decode(&frame).ok()?.0).collect()
}

/// A key that is at home at one of the two nodes of [`met`].
fn at_home_at(node: NodeId) -> Key {
    (0..=u8::MAX)
        .map(|n| Key([n; 16]))
        .find(|key| crate::rendezvous::home(*key, [NodeId([1; 16]), PEER]) == Some(node))
        .unwrap()
}

#[test]
fn who_takes_a_copy_tells_the_home_which_sends_others_there_before_gossip_does() {
    let other = NodeId([8; 16]);
    let mut cluster = met();
    let key = at_home_at(PEER);
    cluster.handle(at(10), Input::Received { from: PEER, bytes: Message::Copy(key, other).encode() });
    assert!(outputs(&mut cluster).contains(&Output::Copy { key, from: other }));
    cluster.handle(at(11), Input::Stored(key));
    outputs(&mut cluster);
    cluster.handle(at(11), Input::Copied { key, done: true });
    let said = said_to(PEER, outputs(&mut cluster));
    assert_eq!(said, [Message::Ended(key, true), Message::Copied(key, true)]);
    // Who has it already says so as well: the one who asks has not heard of it.
    cluster.handle(at(12), Input::Received { from: PEER, bytes: Message::Copy(key, other).encode() });
    assert_eq!(said_to(PEER, outputs(&mut cluster)), [Message::Ended(key, true), Message::Copied(key, true)]);

    let mut home = met();
    meet(&mut home, other);
    outputs(&mut home);
    let key = at_home_at(home.own());
    home.handle(at(10), Input::Received { from: other, bytes: Message::Ended(key, true).encode() });
    home.handle(at(11), Input::Received { from: PEER, bytes: Message::Claim(key, None).encode() });
    let verdict = Message::Verdict(key, crate::message::Verdict::Follow(other));
    assert_eq!(said_to(PEER, outputs(&mut home)), [verdict]);
}

/// Two nodes, and all that the second has said to the first.
struct Pair {
    first: Cluster,
    second: Cluster,
    said: Vec<Vec<u8>>,
    now: u64,
}

impl Pair {
    fn new() -> Self {
        let new = |number| Cluster::new(Config::default(), NodeId([number; 16]), Incarnation(5), 1, at(0));
        let mut pair = Self { first: new(1), second: new(9), said: Vec::new(), now: 0 };
        let connection = ConnectionId(1);
        let (first, second) = (pair.first.own(), pair.second.own());
        pair.first.handle(at(0), Input::Connected { peer: second, connection, address: None, dialled: false });
        pair.second.handle(at(0), Input::Connected { peer: first, connection, address: None, dialled: true });
        pair.run(1000);
        pair
    }

    fn run(&mut self, millis: u64) {
        let end = self.now + millis;
        while self.now < end {
            let (first, second) = (self.first.own(), self.second.own());
            self.first.handle(at(self.now), Input::Tick);
            self.second.handle(at(self.now), Input::Tick);
            for output in outputs(&mut self.first) {
                if let Output::Send { frame, .. } = output {
                    self.second.handle(at(self.now), Input::Received { from: first, bytes: frame });
                }
            }
            for output in outputs(&mut self.second) {
                if let Output::Send { frame, .. } = output {
                    self.said.push(frame.clone());
                    self.first.handle(at(self.now), Input::Received { from: second, bytes: frame });
                }
            }
            self.now += 1;
        }
    }
}

#[test]
fn of_two_that_have_something_one_is_to_keep_it() {
    let mut pair = Pair::new();
    let spare = |pair: &Pair| [pair.first.is_spare(KEY), pair.second.is_spare(KEY)];
    pair.first.handle(at(pair.now), Input::Stored(KEY));
    pair.run(1000);
    assert_eq!(spare(&pair), [false, true], "were the second to have it, too");
    pair.second.handle(at(pair.now), Input::Stored(KEY));
    pair.run(1000);
    assert_eq!(spare(&pair), [false, true]);
    pair.first.handle(at(pair.now), Input::Drain(true));
    pair.run(1000);
    assert_eq!(spare(&pair), [false, false], "what one that leaves has goes with it");
    pair.first.handle(at(pair.now), Input::Drain(false));
    pair.first.handle(at(pair.now), Input::Removed(KEY));
    pair.run(1000);
    assert_eq!(spare(&pair), [false, false], "it is the only one");
}

#[test]
fn what_was_said_before_is_no_news() {
    let mut pair = Pair::new();
    let (peer, third) = (pair.second.own(), NodeId([8; 16]));
    let sources = |pair: &Pair| pair.first.plan(KEY).sources.len();
    pair.second.handle(at(pair.now), Input::Stored(KEY));
    pair.run(1000);
    assert_eq!(sources(&pair), 1);
    pair.second.handle(at(pair.now), Input::Removed(KEY));
    pair.run(1000);
    assert_eq!(sources(&pair), 0);

    meet(&mut pair.first, third);
    outputs(&mut pair.first);
    let known =
        |pair: &Pair| pair.first.status().members.iter().map(|member| (member.node, member.head)).collect::<Vec<_>>();
    let before = known(&pair);
    let said = core::mem::take(&mut pair.said);
    let kinds: Vec<u8> = said.iter().map(|frame| frame[0]).collect();
    // First words, probes, lists, heads, and inventories.
    assert!([1, 2, 4, 6, 8].iter().all(|kind| kinds.contains(kind)), "{kinds:?}");
    for (from, bytes) in [peer, third].into_iter().flat_map(|from| said.iter().map(move |bytes| (from, bytes))) {
        pair.first.handle(at(pair.now), Input::Received { from, bytes: bytes.clone() });
        let wrong = |output: &Output| matches!(output, Output::Misbehaved { .. } | Output::Disconnect { .. });
        assert!(!outputs(&mut pair.first).iter().any(wrong), "{from:?} {bytes:?}");
        assert_eq!(sources(&pair), 0);
    }
    assert_eq!(known(&pair), before);
    pair.run(3000);
    assert_eq!(sources(&pair), 0);
    assert!(pair.first.members().any(|member| member == peer));
}

proptest! {
    /// Of four packets the fourth at the latest is one too many: then there is silence.
    #[test]
    fn no_bytes_panic_and_who_sends_such_is_put_aside(packets in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..60), 1..40)) {
        let mut cluster = met();
        for (number, bytes) in packets.into_iter().enumerate() {
            cluster.handle(at(10 + number as u64), Input::Received { from: PEER, bytes });
        }
        let outputs = outputs(&mut cluster);
        let offences = outputs.iter().filter(|output| matches!(output, Output::Misbehaved { .. })).count();
        let aside = outputs.iter().any(|output| matches!(output, Output::Disconnect { why: Why::PutAside, .. }));
        prop_assert!(offences <= 4);
        prop_assert_eq!(aside, offences == 4);
    }

    /// Sound messages with any contents, in any order, from one who is a member.
    #[test]
    fn no_messages_panic(kinds in prop::collection::vec((1u8..26, prop::collection::vec(any::<u8>(), 0..80)), 1..60)) {
        let mut cluster = met();
        for (number, (kind, body)) in kinds.into_iter().enumerate() {
            let bytes = crate::wire::frame(kind, &body);
            cluster.handle(at(10 + number as u64 * 3000), Input::Received { from: PEER, bytes });
            let connection = ConnectionId(number as u64 + 2);
            cluster.handle(at(11 + number as u64 * 3000), Input::Connected { peer: PEER, connection, address: None, dialled: true });
            prop_assert!(outputs(&mut cluster).len() < 1000);
        }
    }
}

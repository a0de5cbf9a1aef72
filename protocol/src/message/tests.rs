//! The bytes of every kind, for ever; and what happens to bytes that are no message.

use alloc::format;
use alloc::string::String;
use alloc::vec;

use proptest::prelude::*;

use super::*;
use crate::wire::{BODY_MAX, DATAGRAM_MAX};

const NODE: NodeId = NodeId(*b"node of examples");
const OTHER: NodeId = NodeId(*b"another example!");
const KEY: Key = Key(*b"key for examples");
const HEAD: Head = Head {
    node: NODE,
    epoch: Incarnation(300),
    beat: 2,
    sequence: 5,
    count: 4,
    load: 6,
    room: 7,
    draining: true,
    bytes: 500,
};

fn addresses() -> Few<SocketAddr, ADDRESSES_MAX> {
    Few::of(["192.0.2.1:3142", "[2001:db8::1]:3142"].map(|address| address.parse().unwrap()))
}

/// One message of each kind, in the order of their numbers.
fn examples() -> Vec<Message> {
    let member = Member {
        node: NODE,
        incarnation: Incarnation(9),
        refutations: 1,
        state: State::Suspect,
        addresses: addresses(),
        head: Some(HEAD),
        name: FewBytes::of(b"lab1"),
        client_port: 3142,
    };
    let page = PageAnswer {
        epoch: Incarnation(300),
        sequence: 5,
        shape: Shape { page_bits: 1, buckets: 2 },
        index: 1,
        counts: FewBytes::of(&[1, 0]),
        remainders: FewBytes::of(&[8, 9]),
        sum: 3,
    };
    vec![
        Message::Hello(Hello {
            version: 1,
            oldest: 1,
            incarnation: Incarnation(9),
            addresses: addresses(),
            yours: Incarnation(8),
            members: 77,
            name: Later(FewBytes::of(b"lab1")),
            client_port: Later(3142),
        }),
        Message::Swim(FewBytes::of(b"swim")),
        Message::Members(GrownFew::of([member])),
        Message::Heads(GrownFew::of([HEAD])),
        Message::Pull(Incarnation(300), 5),
        Message::Delta(Delta {
            epoch: Incarnation(300),
            after: 4,
            changes: Few::of([Change::new(258, true)]),
            last: 5,
        }),
        Message::PageAsk(Shape { page_bits: 1, buckets: 2 }, 1),
        Message::Page(page),
        Message::AuditAsk(1),
        Message::Audit(Audit { epoch: Incarnation(300), sequence: 5, sums: Few::of([1, 128]) }),
        Message::Claim(KEY, Some(NODE)),
        Message::Verdict(KEY, Verdict::Follow(OTHER)),
        Message::Renew(Few::of([KEY])),
        Message::Ended(KEY, true),
        Message::Confirm(KEY, 1000),
        Message::Freshness(KEY, Freshness::Known { version: Version([3; 16]), age: 20, by: NODE }),
        Message::Confirmed(KEY, Some(Version([3; 16])), 30),
        Message::Demands(Few::of([Demand { key: KEY, amount: 256 }])),
        Message::Copy(KEY, NODE),
        Message::Copied(KEY, false),
        Message::Tops(Tops {
            objects: Few::of([Demand { key: KEY, amount: 512 }]),
            names: Few::of([NameDemand { name: FewBytes::of(b"vlc"), amount: 256 }]),
        }),
        Message::Bye(Incarnation(9)),
        Message::Forget(Forget {
            id: 300,
            age: 5,
            cause: Cause::Purged,
            answer: true,
            what: What::Keys(Few::of([KEY])),
        }),
        Message::Forgot(300, 2),
        Message::UsesUplink(true),
    ]
}

/// Hexadecimal, with letters where the bytes of the examples' names stand.
fn spelled(bytes: &[u8]) -> String {
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    [(NODE.0, "<node>"), (OTHER.0, "<other>"), (KEY.0, "<key>"), ([3; 16], "<version>")].iter().fold(
        hex,
        |text, (name, letters)| {
            let name: String = name.iter().map(|byte| format!("{byte:02x}")).collect();
            text.replace(&name, letters)
        },
    )
}

#[test]
fn the_bytes_of_every_kind_are_for_ever() {
    let golden = include_str!("golden.txt");
    let now: String = examples().iter().map(|message| format!("{}\n", spelled(&message.encode()))).collect();
    assert_eq!(now, golden, "nodes of other versions would not understand this");
}

/// What nodes of before send, to whom nothing was appended yet.
#[test]
fn the_bytes_of_before_are_still_understood() {
    let bare = Head { bytes: 0, ..HEAD };
    let expected: Vec<Message> =
        examples()
            .into_iter()
            .filter_map(|message| match message {
                Message::Hello(hello) => {
                    Some(Message::Hello(Hello { name: Later::default(), client_port: Later(0), ..hello }))
                }
                Message::Members(members) => Some(Message::Members(GrownFew::of(members.iter().map(|member| {
                    Member { head: Some(bare), name: FewBytes::default(), client_port: 0, ..member.clone() }
                })))),
                Message::Heads(_) => Some(Message::Heads(GrownFew::of([bare]))),
                _ => None,
            })
            .collect();
    let unspelled = |line: &str| {
        let node: String = NODE.0.iter().map(|byte| format!("{byte:02x}")).collect();
        let hex = line.replace("<node>", &node);
        (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect::<Vec<u8>>()
    };
    let golden: Vec<Vec<u8>> = include_str!("golden_before.txt").lines().map(unspelled).collect();
    assert_eq!(golden.len(), expected.len());
    for (bytes, message) in golden.iter().zip(expected) {
        assert_eq!(Message::decode(bytes), Ok((Some(message.clone()), &[][..])));
        // And who sent them understands what is sent now: the fields of before come first.
        let (now, before) = (message.encode(), split(bytes).unwrap().1);
        assert_eq!(&split(&now).unwrap().1[..before.len()], before);
    }
}

#[test]
fn every_kind_is_read_back_and_has_an_example() {
    let examples = examples();
    let kinds: Vec<u8> = KINDS.iter().map(|(kind, _)| *kind).collect();
    assert_eq!(examples.iter().map(Message::kind).collect::<Vec<_>>(), kinds);
    for message in examples {
        let bytes = message.encode();
        assert_eq!(Message::decode(&bytes), Ok((Some(message), &[][..])));
    }
}

#[test]
fn unknown_kinds_and_appended_fields_are_skipped() {
    let mut bytes = frame(200, b"from the future");
    assert_eq!(split(&bytes).unwrap().1.len(), 15);
    let pull = Message::Pull(Incarnation(1), 2).encode();
    let mut longer = split(&pull).unwrap().1.to_vec();
    longer.extend_from_slice(b"appended");
    bytes.extend(frame(5, &longer));
    let (nothing, rest) = Message::decode(&bytes).unwrap();
    assert_eq!(nothing, None);
    assert_eq!(Message::decode(rest), Ok((Some(Message::Pull(Incarnation(1), 2)), &[][..])));
}

#[test]
fn the_longest_of_each_kind_fits_its_bound() {
    let v6: SocketAddr = "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535".parse().unwrap();
    let head = Head {
        node: NODE,
        epoch: Incarnation::MAX,
        beat: u32::MAX,
        sequence: u64::MAX,
        count: u64::MAX,
        load: 255,
        room: 255,
        draining: true,
        bytes: u64::MAX,
    };
    let member = Member {
        node: NODE,
        incarnation: Incarnation::MAX,
        refutations: u16::MAX,
        state: State::Down,
        addresses: Few::of([v6; 4]),
        head: Some(head),
        name: FewBytes::of(&[b'n'; NODE_NAME_MAX]),
        client_port: u16::MAX,
    };
    let page = PageAnswer {
        epoch: Incarnation::MAX,
        sequence: u64::MAX,
        shape: Shape { page_bits: 8, buckets: 4096 },
        index: 255,
        counts: FewBytes::of(&[255; 4096]),
        remainders: FewBytes::of(&[255; REMAINDERS_MAX]),
        sum: u64::MAX,
    };
    let demand = Demand { key: KEY, amount: u32::MAX };
    let longest = vec![
        Message::Hello(Hello {
            version: 1,
            oldest: 1,
            incarnation: Incarnation::MAX,
            addresses: Few::of([v6; 4]),
            yours: Incarnation::MAX,
            members: u64::MAX,
            name: Later(FewBytes::of(&[b'n'; NODE_NAME_MAX])),
            client_port: Later(u16::MAX),
        }),
        Message::Swim(FewBytes::of(&[255; SWIM_MAX])),
        Message::Members(GrownFew::of(vec![member; MEMBERS_SENT])),
        // Epochs are milliseconds of the wall clock; datagrams are made for such, not for the greatest there can be.
        Message::Heads(GrownFew::of(vec![
            Head {
                epoch: Incarnation(1 << 42),
                count: 1 << 24,
                sequence: 1 << 40,
                bytes: 1 << 48,
                ..head
            };
            HEADS_MAX
        ])),
        Message::Delta(Delta {
            epoch: Incarnation::MAX,
            after: u64::MAX,
            changes: Few::of(vec![Change::new(1, true); CHANGES_MAX]),
            last: u64::MAX,
        }),
        Message::Page(page),
        Message::Audit(Audit { epoch: Incarnation::MAX, sequence: u64::MAX, sums: Few::of([u64::MAX; 256]) }),
        Message::Renew(Few::of([KEY; KEYS_MAX])),
        Message::Demands(Few::of([demand; DEMANDS_MAX])),
        Message::Tops(Tops {
            objects: Few::of([demand; TOPS_MAX]),
            names: Few::of(vec![NameDemand { name: FewBytes::of(&[b'n'; NAME_MAX]), amount: u32::MAX }; TOPS_MAX]),
        }),
        Message::Forget(Forget {
            id: u64::MAX,
            age: u64::MAX,
            cause: Cause::Purged,
            answer: true,
            what: What::Below(FewBytes::of(&[b'u'; BELOW_MAX])),
        }),
        Message::Forgot(u64::MAX, u64::MAX),
        Message::UsesUplink(true),
    ];
    for message in longest {
        let bytes = message.encode();
        assert!(
            bytes.len() <= DATAGRAM_MAX || message.lane() == Lane::Stream,
            "kind {}: {}",
            message.kind(),
            bytes.len()
        );
        assert_eq!(Message::decode(&bytes).map(|(message, _)| message.is_some()), Ok(true), "kind {}", message.kind());
    }
    assert!(KINDS.iter().all(|(_, bound)| *bound <= BODY_MAX));
}

#[test]
fn a_head_that_claims_more_than_its_kind_may_have_is_refused_by_itself() {
    for (kind, bound) in KINDS {
        let header = |body| Message::header(&wire::frame_head(*kind, body));
        assert!(header(*bound).unwrap().is_some_and(|header| header.body == *bound));
        if *bound < BODY_MAX {
            assert_eq!(header(bound + 1), Err(WireError::TooLong));
        }
    }
    // Of a later version's kind nobody knows.
    assert!(Message::header(&wire::frame_head(200, BODY_MAX)).unwrap().is_some());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_body_panics_any_kind(kind in 0u8..30, body in prop::collection::vec(any::<u8>(), 0..200)) {
        let bytes = frame(kind, &body);
        if let Ok((Some(message), _)) = Message::decode(&bytes) {
            // What was understood can be said again and is then understood alike.
            let again = message.encode();
            prop_assert_eq!(Message::decode(&again), Ok((Some(message), &[][..])));
        }
    }

    #[test]
    fn damaged_messages_do_no_harm(which in 0usize..25, at: prop::sample::Index, to: u8, cut: prop::sample::Index) {
        let mut bytes = examples()[which].encode();
        let place = at.index(bytes.len());
        bytes[place] = to;
        let _ = Message::decode(&bytes);
        let _ = Message::decode(&bytes[..cut.index(bytes.len())]);
    }

    #[test]
    fn claims_of_length_are_refused_before_memory_is_set_aside(kind in 1u8..23, claim in 1u64<<20..u64::MAX) {
        let mut body = postcard::to_allocvec(&claim).unwrap();
        body.extend_from_slice(&[0; 32]);
        if [2, 3, 4, 13, 18, 21].contains(&kind) {
            let bytes = frame(kind, &body);
            prop_assert_eq!(Message::decode(&bytes), Err(WireError::BadBody));
        }
    }
}

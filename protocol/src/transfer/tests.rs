//! The bytes of every kind, for ever; what happens to others; and which groups cover what.

use alloc::format;
use alloc::string::String;
use alloc::vec;

use proptest::prelude::*;

use super::*;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn get() -> Get {
    Get {
        key: Key(*b"key for examples"),
        known: Some([7; 32]),
        want: Want::Content,
        list: true,
        spans: Few::of([Span { start: 1, end: 300 }]),
    }
}

fn description() -> Description {
    Description {
        status: 200,
        fields: Few::of(Field::new(b"etag", b"\"1\"")),
        class: 1,
        digest: Some(Digest { algorithm: 2, bytes: FewBytes::of(&[9; 3]) }),
        name: FewBytes::of(b"a:b"),
    }
}

fn answers() -> Vec<Answer> {
    let finished =
        Finished { description: description(), object: [8; 32], size: 70_000, stored_age: 5, confirmed_age: 4 };
    vec![
        Answer::Finished(finished),
        Answer::Growing(Growing { description: description(), total: Some(70_000) }),
        Answer::NotHere,
        Answer::Busy,
        Answer::Piece(vec![1, 2, 3]),
        Answer::Complete(Some(([8; 32], 300))),
        Answer::BrokenOff,
    ]
}

#[test]
fn the_bytes_are_for_ever() {
    let (sevens, eights) = ("07".repeat(32), "08".repeat(32));
    let key = hex(b"key for examples");
    let described = "c801010465746167032231220101020309090903613a62";
    assert_eq!(hex(&get().encode()), format!("0137{key}01{sevens}01010101ac02"));
    let golden = [
        format!("023c{described}{eights}f0a2040504"),
        format!("031b{described}01f0a204"),
        "0400".into(),
        "0500".into(),
        "0603010203".into(),
        format!("072301{eights}ac02"),
        "0800".into(),
    ];
    for (answer, golden) in answers().iter().zip(golden) {
        assert_eq!(hex(&answer.encode().unwrap()), golden, "{answer:?}");
    }
}

#[test]
fn what_is_said_is_understood_also_with_fields_of_later_versions() {
    assert_eq!(Get::decode(&get().encode()), Ok(Some(get())));
    for answer in answers() {
        let bytes = answer.encode().unwrap();
        assert_eq!(Answer::decode(&bytes), Ok(Some(answer.clone())));
        if !matches!(answer, Answer::Piece(_)) {
            let (kind, body, _) = split(&bytes).unwrap();
            let later = [body, &[1, 2, 3]].concat();
            assert_eq!(Answer::decode(&frame(kind, &later)), Ok(Some(answer)));
        }
    }
    assert_eq!(Answer::decode(&frame(99, b"later")), Ok(None));
    assert_eq!(Get::decode(&frame(99, b"later")), Ok(None));
}

#[test]
fn a_piece_can_be_sent_without_a_copy() {
    for length in [0, 1, 127, 128, 16_383, 16_384, PIECE_MAX] {
        let (piece, head) = (vec![7; length], piece_head(length));
        assert_eq!(Answer::Piece(piece.clone()).encode(), Ok([&head, &piece[..]].concat()), "{length}");
        assert!(is_piece(head[0]));
    }
    assert!(!is_piece(kind::COMPLETE));
}

#[test]
fn what_is_beyond_its_bound_is_refused() {
    assert_eq!(Get::decode(&frame(GET, &[0; GET_MAX + 1])), Err(WireError::TooLong));
    assert_eq!(Answer::decode(&frame(kind::FINISHED, &[0; HEAD_MAX + 1])), Err(WireError::TooLong));
    assert_eq!(Answer::Piece(vec![0; PIECE_MAX + 1]).encode(), Err(WireError::TooLong));
    assert_eq!(Field::new(&[b'a'; FIELD_NAME_MAX + 1], b""), None);
    assert_eq!(Field::new(b"a", &[b'a'; FIELD_VALUE_MAX + 1]), None);
    let long = Field::new(b"a", &[b'a'; FIELD_VALUE_MAX]).unwrap();
    let description = Description { fields: Few::of(vec![long; 6]), ..description() };
    assert_eq!(Answer::Growing(Growing { description, total: None }).encode(), Err(WireError::TooLong));
    for total in [OBJECT_MAX + 1, u64::MAX] {
        let growing = Growing { description: self::description(), total: Some(total) };
        assert_eq!(Answer::decode(&Answer::Growing(growing).encode().unwrap()), Err(WireError::TooLong));
    }
}

#[test]
fn the_longest_request_is_within_its_bound() {
    let spans = Few::of([Span { start: u64::MAX, end: u64::MAX }; SPANS_MAX]);
    let get = Get { spans, ..get() };
    assert_eq!(Get::decode(&get.encode()), Ok(Some(get)));
}

fn near_a_group() -> impl Strategy<Value = u64> {
    (0u64..5, 0u64..5).prop_map(|(groups, more)| (groups * GROUP + more).saturating_sub(2))
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes: Vec<u8>, kind in 0u8..12, body: Vec<u8>) {
        let _ = (Get::decode(&bytes), Answer::decode(&bytes));
        let framed = frame(kind, &body);
        let _ = (Get::decode(&framed), Answer::decode(&framed));
    }

    #[test]
    fn a_group_is_sent_if_and_only_if_a_byte_of_it_is_wanted(
        spans in prop::collection::vec((near_a_group(), near_a_group()), 1..SPANS_MAX), size in near_a_group(),
    ) {
        let spans: Vec<_> = spans.into_iter().map(|(start, end)| Span { start, end }).collect();
        let groups = groups_of(&spans, size);
        prop_assert!(groups.windows(2).all(|pair| pair[0].end < pair[1].start));
        for index in 0..6 {
            let bytes = index * GROUP..((index + 1) * GROUP).min(size);
            let wanted = spans.iter().any(|span| span.start.max(bytes.start) < span.end.min(bytes.end));
            prop_assert_eq!(groups.iter().any(|groups| groups.contains(&index)), wanted, "group {}", index);
        }
    }
}

#[test]
fn no_spans_mean_all() {
    let one = |groups: Range<u64>| -> Vec<_> { core::iter::once(groups).collect() };
    assert_eq!(groups_of(&[], 0), []);
    assert_eq!(groups_of(&[], 1), one(0..1));
    assert_eq!(groups_of(&[], 2 * GROUP + 1), one(0..3));
    assert_eq!(groups_of(&[Span { start: 0, end: u64::MAX }], GROUP), one(0..1));
}

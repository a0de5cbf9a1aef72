//! Against peers that say what they should, and against all others.

use futures_util::FutureExt;
use imirror_protocol::transfer::Description;
use imirror_protocol::wire::FewBytes;
use proptest::prelude::*;
use tokio::io::{DuplexStream, duplex};

use super::*;

const PEER: NodeId = NodeId([1; 16]);
const G: usize = GROUP as usize;

fn content(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 37 % 241) as u8 ^ (i >> 16) as u8).collect()
}

fn description() -> Description {
    Description { status: 200, fields: Few::of([]), class: 0, digest: None, name: FewBytes::default() }
}

fn finished(content: &[u8]) -> Finished {
    let object = *blake3::hash(content).as_bytes();
    Finished { description: description(), object, size: content.len() as u64, stored_age: 1, confirmed_age: 0 }
}

/// The list as a right peer sends it.
fn list_of(content: &[u8]) -> Vec<u8> {
    use blake3::hazmat::HasherExt;
    let value = |(index, group): (usize, &[u8])| {
        let mut hasher = blake3::Hasher::new();
        hasher.set_input_offset((index * G) as u64);
        hasher.update(group).finalize_non_root()
    };
    if content.len() <= G { Vec::new() } else { content.chunks(G).enumerate().flat_map(value).collect() }
}

fn frame(answer: &Answer) -> Vec<u8> {
    answer.encode().unwrap()
}

/// Everything a right peer sends.
fn right(content: &[u8]) -> Vec<u8> {
    [frame(&Answer::Finished(finished(content))), list_of(content), content.to_vec()].concat()
}

fn question(known: Known, spans: &[Range<u64>]) -> Question {
    let spans = spans.iter().map(|span| Span { start: span.start, end: span.end }).collect();
    Question { key: Key([2; 16]), known, want: Want::Content, spans }
}

/// A stream whose other end has sent `bytes`, and that end.
async fn peer_that_sent(bytes: &[u8]) -> (DuplexStream, DuplexStream) {
    let (mine, mut theirs) = duplex(bytes.len() + 4096);
    theirs.write_all(bytes).await.unwrap();
    (mine, theirs)
}

/// All that is passed on, as offsets and bytes, and how it ended.
async fn receive(bytes: &[u8], question: &Question) -> (Vec<(u64, Bytes)>, Result<(), Trouble>) {
    let (mine, mut theirs) = peer_that_sent(bytes).await;
    theirs.shutdown().await.unwrap();
    let mut passed_on = Vec::new();
    let mut reply = match ask(PEER, mine, question, Patience::default()).await {
        Ok(reply) => reply,
        Err(trouble) => return (passed_on, Err(trouble)),
    };
    loop {
        let next = match &mut reply {
            Reply::Finished(incoming) => incoming.next().await,
            Reply::Growing(following) => following.next().await,
            other => panic!("{other:?}"),
        };
        match next {
            Ok(Some(piece)) => passed_on.push(piece),
            Ok(None) => return (passed_on, Ok(())),
            Err(trouble) => return (passed_on, Err(trouble)),
        }
    }
}

fn is_wrong(end: &Result<(), Trouble>) -> bool {
    end.as_ref().is_err_and(|trouble| trouble.peer == PEER && trouble.outcome() == Outcome::Wrong)
}

fn joined(pieces: &[(u64, Bytes)]) -> Vec<u8> {
    pieces.iter().flat_map(|(_, bytes)| bytes.to_vec()).collect()
}

#[tokio::test]
async fn what_is_right_is_passed_on_and_nothing_after_it_is_read() {
    for len in [0, 1, G - 1, G, G + 1, 2 * G, 3 * G + 5] {
        let content = content(len);
        let endless = [right(&content), vec![0; 3 * G]].concat();
        let (pieces, end) = receive(&endless, &question(Known::Nothing, &[])).await;
        assert_eq!((joined(&pieces) == content, end), (true, Ok(())), "{len}");
    }
}

#[tokio::test]
async fn wrong_bytes_are_found_before_their_group_is_passed_on() {
    for len in [1, G, 2 * G, 3 * G + 5] {
        let content = content(len);
        let right = right(&content);
        let begin = right.len() - len;
        for group in 0..len.div_ceil(G) {
            for at in [group * G, ((group + 1) * G).min(len) - 1] {
                let mut wrong = right.clone();
                wrong[begin + at] ^= 1;
                let (pieces, end) = receive(&wrong, &question(Known::Nothing, &[])).await;
                assert!(is_wrong(&end), "{len}, byte {at}: {end:?}");
                assert_eq!(joined(&pieces), content[..group * G], "{len}, byte {at}");
            }
        }
    }
}

#[tokio::test]
async fn a_wrong_list_is_found_before_any_byte() {
    let content = content(3 * G + 5);
    let right = right(&content);
    let begin = right.len() - content.len();
    for at in (begin - 4 * 32..begin).step_by(31) {
        let mut wrong = right.clone();
        wrong[at] ^= 1;
        let (pieces, end) = receive(&wrong, &question(Known::Nothing, &[])).await;
        assert!(is_wrong(&end) && pieces.is_empty(), "byte {at}: {end:?}");
    }
}

#[tokio::test]
async fn a_wrong_size_passes_no_wrong_group() {
    let content = content(3 * G + 5);
    for (size, groups) in [(3 * G + 4, 3), (3 * G + 6, 3), (3 * G, 0), (4 * G + 1, 0), (0, 0), (1, 0), (G, 0)] {
        let lie = Finished { size: size as u64, ..finished(&content) };
        let sent = [frame(&Answer::Finished(lie)), list_of(&content), content.clone(), vec![0; G]].concat();
        let (pieces, end) = receive(&sent, &question(Known::Nothing, &[])).await;
        assert!(is_wrong(&end), "{size}: {end:?}");
        assert_eq!(joined(&pieces), content[..groups * G], "{size}");
    }
}

#[tokio::test]
async fn a_stream_that_is_cut_anywhere_passes_whole_groups_only() {
    let content = content(2 * G + 5);
    let right = right(&content);
    let begin = right.len() - content.len();
    for cut in [0, 1, 2, begin - 97, begin - 1, begin, begin + 1, begin + G, begin + G + 1, right.len() - 1] {
        let (pieces, end) = receive(&right[..cut], &question(Known::Nothing, &[])).await;
        assert_eq!(end.unwrap_err().what, What::Broken, "{cut}");
        assert_eq!(joined(&pieces), content[..cut.saturating_sub(begin) / G * G], "{cut}");
    }
}

#[tokio::test]
async fn another_object_than_asked_for_is_refused() {
    let content = content(G + 1);
    let (pieces, end) = receive(&right(&content), &question(Known::Object(ObjectId([9; 32])), &[])).await;
    assert!(is_wrong(&end) && pieces.is_empty());
}

#[tokio::test]
async fn another_peer_goes_on_at_any_group_with_the_same_list() {
    let content = content(3 * G + 5);
    let (mine, _theirs) = peer_that_sent(&right(&content)).await;
    let reply = ask(PEER, mine, &question(Known::Nothing, &[]), Patience::default()).await.unwrap();
    let Reply::Finished(first) = reply else { panic!("{reply:?}") };
    for group in 0..4 {
        let rest = [&frame(&Answer::Finished(finished(&content))), &content[group * G..]].concat();
        let from = (group * G) as u64 + 1;
        let asked = question(Known::List(first.list().clone()), std::slice::from_ref(&(from..u64::MAX)));
        let (pieces, end) = receive(&rest, &asked).await;
        assert_eq!((joined(&pieces) == content[group * G..], end), (true, Ok(())), "{group}");
    }
}

#[tokio::test]
async fn refusals_are_told_apart_and_later_kinds_are_skipped() {
    let later = [99, 2, 0, 0];
    for (answer, busy) in [(Answer::NotHere, false), (Answer::Busy, true)] {
        let (mine, _theirs) = peer_that_sent(&[&later[..], &frame(&answer)].concat()).await;
        let reply = ask(PEER, mine, &question(Known::Nothing, &[]), Patience::default()).await.unwrap();
        assert_eq!((matches!(reply, Reply::Busy), matches!(reply, Reply::NotHere)), (busy, !busy));
    }
    let (_, end) = receive(&frame(&Answer::BrokenOff), &question(Known::Nothing, &[])).await;
    assert!(is_wrong(&end), "{end:?}");
}

#[tokio::test(start_paused = true)]
async fn silence_is_noticed_wherever_it_begins() {
    let content = content(2 * G);
    let right = right(&content);
    for silent_after in [0, 1, right.len() - content.len() - 1, right.len() - G - 1, right.len() - 1] {
        let (mine, _theirs) = peer_that_sent(&right[..silent_after]).await;
        let patience = Patience { first_byte: Duration::from_secs(5), stall: Duration::from_secs(3) };
        let trouble = async {
            let Reply::Finished(mut incoming) = ask(PEER, mine, &question(Known::Nothing, &[]), patience).await? else {
                panic!("not finished")
            };
            while incoming.next().await?.is_some() {}
            Ok::<_, Trouble>(())
        };
        let waited = if silent_after < 2 { patience.first_byte } else { patience.stall };
        assert_eq!(trouble.await.unwrap_err().what, What::Stalled(waited), "{silent_after}");
    }
}

#[tokio::test]
async fn a_call_that_was_dropped_in_the_middle_loses_nothing() {
    let content = content(2 * G);
    let right = right(&content);
    let (mine, mut theirs) = duplex(right.len());
    theirs.write_all(&right[..right.len() - G - 7]).await.unwrap();
    let reply = ask(PEER, mine, &question(Known::Nothing, &[]), Patience::default()).await.unwrap();
    let Reply::Finished(mut incoming) = reply else { panic!("{reply:?}") };
    assert!(incoming.next().now_or_never().is_none(), "seven bytes are missing");
    theirs.write_all(&right[right.len() - G - 7..]).await.unwrap();
    assert_eq!(incoming.next().await.unwrap().unwrap(), (0, content[..G].to_vec().into()));
    assert_eq!(incoming.next().await.unwrap().unwrap(), (GROUP, content[G..].to_vec().into()));
    assert_eq!(incoming.next().await, Ok(None));
}

fn growing(total: Option<u64>) -> Vec<u8> {
    frame(&Answer::Growing(Growing { description: description(), total }))
}

#[tokio::test]
async fn a_growing_object_is_followed_to_its_end() {
    for (total, end) in [(Some(5), Some(([3; 32], 5))), (None, Some(([3; 32], 5))), (Some(5), None)] {
        let pieces = [&b"ab"[..], b"", b"cde"].map(|piece| frame(&Answer::Piece(piece.to_vec()))).concat();
        let sent = [growing(total), pieces, frame(&Answer::Complete(end))].concat();
        let (pieces, ended) = receive(&sent, &question(Known::Nothing, &[])).await;
        assert_eq!(pieces, [(0, Bytes::from("ab")), (2, Bytes::from("cde"))]);
        assert_eq!(ended, Ok(()), "{total:?} {end:?}");
    }
}

#[tokio::test]
async fn a_growing_object_that_breaks_off_keeps_what_has_come() {
    let piece = frame(&Answer::Piece(b"ab".to_vec()));
    for last in [frame(&Answer::BrokenOff), Vec::new(), vec![6]] {
        let sent = [growing(Some(5)), piece.clone(), last].concat();
        let (pieces, end) = receive(&sent, &question(Known::Nothing, &[])).await;
        assert_eq!((joined(&pieces), end.unwrap_err().what), (b"ab".to_vec(), What::Broken));
    }
}

#[tokio::test]
async fn a_growing_object_that_contradicts_itself_is_refused() {
    let piece = frame(&Answer::Piece(b"abcd".to_vec()));
    let complete = |size| frame(&Answer::Complete(Some(([3; 32], size))));
    let lies = [
        (Some(3), piece.clone()),
        (Some(5), complete(4)),
        (Some(5), complete(5)),
        (None, complete(3)),
        (None, complete(5)),
        (None, frame(&Answer::Complete(None))),
        (None, frame(&Answer::Busy)),
    ];
    for (total, lie) in lies {
        let sent = [growing(total), piece.clone(), lie.clone()].concat();
        let (_, end) = receive(&sent, &question(Known::Nothing, &[])).await;
        assert!(is_wrong(&end), "{total:?} {lie:?}: {end:?}");
    }
}

#[test]
fn a_fault_names_the_peer() {
    let fault = Fault::from(Trouble { peer: PEER, what: What::Wrong("bytes that are not the object's") });
    assert_eq!((fault.whose, fault.retry), (Whose::Peer, Retry::OtherSource));
    assert!(fault.to_string().contains(&format!("{PEER:?}")), "{fault}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn spans_bring_the_groups_that_cover_them(
        groups in 0..4usize, more in 0..3usize,
        spans in prop::collection::vec((0u64..5 * GROUP, 0u64..2 * GROUP), 1..4),
    ) {
        let content = content((groups * G + more).saturating_sub(1));
        let spans: Vec<_> = spans.into_iter().map(|(start, length)| start..start + length).collect();
        let wire: Vec<_> = spans.iter().map(|span| Span { start: span.start, end: span.end }).collect();
        let wanted: Vec<_> = groups_of(&wire, content.len() as u64).into_iter().flatten().collect();
        let group = |index: &u64| {
            let start = usize::try_from(index * GROUP).unwrap();
            content[start..(start + G).min(content.len())].to_vec()
        };
        let bytes: Vec<u8> = wanted.iter().flat_map(group).collect();
        let sent = [frame(&Answer::Finished(finished(&content))), list_of(&content), bytes].concat();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let (pieces, end) = runtime.block_on(receive(&sent, &question(Known::Nothing, &spans)));
        prop_assert_eq!(end, Ok(()));
        let expected: Vec<_> = wanted.iter().map(|index| (index * GROUP, Bytes::from(group(index)))).collect();
        prop_assert_eq!(pieces, expected);
    }

    #[test]
    fn no_bytes_of_a_peer_panic(bytes: Vec<u8>) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let growing = [growing(None), bytes.clone()].concat();
        for sent in [bytes, growing] {
            let asked = question(Known::Nothing, &[]);
            let (mine, mut theirs) = duplex(4096);
            runtime.block_on(async {
                theirs.write_all(&sent).await.unwrap();
                theirs.shutdown().await.unwrap();
                if let Ok(Reply::Growing(mut following)) = ask(PEER, mine, &asked, Patience::default()).await {
                    while matches!(following.next().await, Ok(Some(_))) {}
                }
            });
        }
    }
}

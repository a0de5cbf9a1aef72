use super::*;
use proptest::prelude::*;

const DAY: u64 = 86_400_000;

/// Noon of some day, in milliseconds.
const NOON: u64 = 1_793_534_400_000;

fn upstream(bytes: u64) -> Sums {
    Sums { bytes_from_upstream: bytes, bytes_to_clients: 4 * bytes, ..Sums::default() }
}

#[test]
fn a_month_of_counting_comes_out_in_all_widths() {
    let mut history = History::default();
    let (mut at, mut counted) = (NOON, 0);
    // 1,000 bytes a second, looked at every ten seconds, for forty days.
    while at <= NOON + 40 * DAY {
        history.record(Timestamp(at), upstream(counted));
        at += 10_000;
        counted += 10_000;
    }
    let now = Timestamp(at - 10_000);
    for (span, seconds) in [(Span::Hour, 3600), (Span::Days, 2 * 86_400), (Span::Month, 31 * 86_400)] {
        let series = history.series(span, now);
        assert_eq!(series.upstream.len() as u64 * series.step, seconds);
        assert_eq!(series.start + seconds, now.unix_seconds() / series.step * series.step + series.step);
        let (_, whole) = series.upstream.split_last().unwrap();
        assert!(whole.iter().all(|rate| *rate == Some(1000)), "{series:?}");
        assert!(series.memory.iter().all(|rate| *rate == Some(0)));
    }
    assert_eq!(history.total().bytes_from_upstream, 40 * 86_400_000);
    let six = history.since(now.before(Duration::from_secs(6 * 3600)), now);
    assert_eq!(six.bytes_from_upstream, 6 * 3_600_000 + 10_000);
    let hours = history.hours(now, 3);
    assert_eq!(hours.iter().map(|(at, _)| now.since(*at).as_secs() / 3600).collect::<Vec<_>>(), [0, 1, 2]);
    assert_eq!(hours[1].1.bytes_from_upstream, 3_600_000);
}

#[test]
fn a_gap_is_no_zero_and_an_old_round_is_no_news() {
    let mut history = History::default();
    history.record(Timestamp(NOON), upstream(0));
    history.record(Timestamp(NOON + 1000), upstream(50));
    history.record(Timestamp(NOON + 30_000), upstream(80));
    let series = history.series(Span::Hour, Timestamp(NOON + 30_000));
    assert_eq!(series.upstream[356..], [Some(5), None, None, Some(15)], "30 bytes in the two seconds before");
    let recent = history.recent(Span::Hour, Timestamp(NOON + 30_000));
    assert_eq!((recent.start, recent.upstream), (NOON / 1000 + 20, vec![None, Some(15)]));
    assert_eq!(series.upstream[355], None, "before the start");
    // An hour later the same places are asked for.
    let later = history.series(Span::Hour, Timestamp(NOON + 30_000 + 3_600_000));
    assert!(later.upstream.iter().all(Option::is_none));
}

#[test]
fn saved_is_what_did_not_cross_the_uplink() {
    let mut history = History::default();
    history.record(Timestamp(NOON), Sums::default());
    // Two seconds of download, then two of hits.
    history.record(Timestamp(NOON + 2000), Sums { hits: 0, misses: 1, ..upstream(1000) });
    let end = Sums { bytes_to_clients: 9000, hits: 3, misses: 1, ..upstream(1000) };
    history.record(Timestamp(NOON + 4000), end);
    let total = history.total();
    assert_eq!((total.bytes_saved(), total.upstream_busy_ms), (8000, 2000));
    assert_eq!(total.time_saved(), Some(Duration::from_secs(16)), "at 500 bytes a second");
    assert_eq!(total.hit_ratio(), Some(0.75));
    assert_eq!(total.byte_hit_ratio(), Some(8.0 / 9.0));
    let nothing = Sums::default();
    assert_eq!((nothing.hit_ratio(), nothing.byte_hit_ratio(), nothing.time_saved()), (None, None, None));
    assert_eq!(Sums { bytes_from_upstream: 9, ..nothing }.bytes_saved(), 0, "fetched for others");
}

#[test]
fn who_looks_late_counts_nothing_twice() {
    let mut history = History::default();
    for counted in [10, 30, 20, 40] {
        history.record(Timestamp(NOON), upstream(counted));
    }
    assert_eq!(history.total().bytes_from_upstream, 40);
}

#[test]
fn spans_have_names() {
    for span in Span::ALL {
        assert_eq!(Span::named(span.name()), Some(span));
    }
    assert_eq!(Span::named("year"), None);
}

proptest! {
    /// Whatever the times, nothing is counted twice and nothing is lost from the total.
    #[test]
    fn sums_are_those_of_the_counters(steps in prop::collection::vec((0u64..100_000, 0u64..1000), 1..100)) {
        let mut history = History::default();
        let (mut at, mut counted) = (NOON, 0);
        for (time, bytes) in steps {
            at += time;
            counted += bytes;
            history.record(Timestamp(at), upstream(counted));
        }
        prop_assert_eq!(history.total().bytes_from_upstream, counted);
        // A hundred steps are less than two days.
        prop_assert_eq!(history.since(Timestamp(NOON - 300_000), Timestamp(at)).bytes_from_upstream, counted);
    }
}

#[test]
fn what_nodes_have_counted_adds_up_by_the_clock() {
    let series = |start: u64, rates: [Option<u64>; 3]| Series {
        start,
        step: 10,
        memory: vec![None; 3],
        disk: rates.to_vec(),
        peers: vec![Some(0); 3],
        upstream: Vec::new(),
    };
    let own = series(1000, [Some(1), None, Some(u64::MAX)]);
    let sum = |other: Series| {
        let mut all = own.clone();
        all.add(&other);
        (all.start, all.disk)
    };
    assert_eq!(sum(series(1000, [Some(5), Some(6), Some(7)])), (1000, vec![Some(6), Some(6), Some(u64::MAX)]));
    assert_eq!(sum(series(1010, [Some(5), None, Some(7)])), (1000, vec![Some(1), Some(5), Some(u64::MAX)]));
    assert_eq!(sum(series(980, [Some(5), Some(6), Some(7)])), (1000, vec![Some(8), None, Some(u64::MAX)]));
    // Another's clock, or what no node of ours says.
    for other in [series(0, [Some(5); 3]), series(u64::MAX, [Some(5); 3]), Series { step: 0, ..own.clone() }] {
        assert_eq!(sum(other), (1000, own.disk.clone()));
    }
}

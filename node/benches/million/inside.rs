//! What cannot be seen from outside: look-ups without what is hot, and room being made.

use std::path::Path;
use std::time::Instant;

use super::fill::{content, open, plan, runtime};
use super::{percentile, shuffled};

/// Look-ups measured.
const LOOKUPS: usize = 20_000;

pub(super) fn measure(folder: &Path, objects: u64) {
    let begun = Instant::now();
    let store = open(folder, 1 << 40);
    println!("store opened: {:?}", begun.elapsed());
    let runtime = runtime();
    let begun = Instant::now();
    for _ in 0..1000 {
        std::hint::black_box(store.usage());
    }
    println!("usage(): {:?}", begun.elapsed() / 1000);
    let mut took: Vec<_> = (shuffled(objects).map(|number| plan(number).key).take(LOOKUPS))
        .map(|key| {
            let begun = Instant::now();
            runtime.block_on(store.lookup(key)).unwrap();
            begun.elapsed()
        })
        .collect();
    let [p50, p99] = [50, 99].map(|part| percentile(&mut took, part));
    println!("look-up of {LOOKUPS} entries at random: half within {p50:?}, 99 of 100 within {p99:?}");
    let bytes = store.usage().bytes;
    store.close();
    drop(store);

    // As full as it may be: what comes pushes others out.
    let store = open(folder, bytes);
    for (what, incoming) in [("one object of 2000 bytes", 2000), ("1 MiB", 1 << 20), ("10 MiB", 10 << 20)] {
        let mut plan = plan(objects);
        plan.total = Some(incoming);
        let before = store.usage().evictions;
        let begun = Instant::now();
        let growing = store.begin(plan).unwrap();
        let (took, gone) = (begun.elapsed(), store.usage().evictions - before);
        println!("room for {what}: {took:?}, {gone} objects went");
        growing.discard();
    }
    println!("memory of this process: {} MiB", super::program::memory(std::process::id(), "VmRSS") >> 10);
    store.close();
    std::hint::black_box(content(0));
}

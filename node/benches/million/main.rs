//! A node that holds a million objects: how soon it serves, what memory it takes, and what its rarer work costs.
//!
//! `cargo bench -p imirror --bench million -- FOLDER [OBJECTS]` fills FOLDER, which stays for the next time (a million
//! objects are two million small files, 8 GiB), and measures the program in it. What takes minutes comes last: the index
//! is lost and has to be made anew.
#![allow(clippy::unwrap_used, clippy::expect_used)]
#![allow(clippy::disallowed_methods)] // This is about the real clock.

mod fill;
mod inside;
mod program;

use std::path::PathBuf;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const MILLION: u64 = 1_000_000;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let Some(folder) = arguments.first().map(PathBuf::from) else {
        println!("usage: cargo bench -p imirror --bench million -- FOLDER [OBJECTS]");
        return;
    };
    let objects = arguments.get(1).map_or(MILLION, |count| count.parse().expect("a number of objects"));
    fill::fill(&folder.join("cache"), objects);
    program::measure(&folder, objects);
    inside::measure(&folder.join("cache"), objects);
    program::measure_lost_index(&folder, objects);
}

/// The URL of the object with this number.
fn url(number: u64) -> String {
    format!("http://example.org/debian/pool/main/p/package-{number}/package-{number}_1.0-1_amd64.deb")
}

/// Numbers below `end` in no order, the same each time.
fn shuffled(end: u64) -> impl Iterator<Item = u64> {
    (1u64..).map(move |i| (i.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 20) % end)
}

/// The value below which so many hundredths lie.
fn percentile<T: Ord + Copy>(values: &mut [T], hundredths: usize) -> T {
    values.sort_unstable();
    values[(values.len() * hundredths / 100).min(values.len() - 1)]
}

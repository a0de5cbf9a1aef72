//! Addresses at which members of the site answered once: a file, for a start where multicast does not reach and no seed is up.

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use tokio::sync::{mpsc, watch};

use super::{Candidate, How};
use crate::os::tasks;

/// Addresses in the file.
const MAX: usize = 64;
/// Bytes that are read of a file; one of 64 addresses is much shorter.
const FILE_MAX: u64 = 64 * 1024;

/// Tells what an earlier run has left, then keeps what is found to be good, until nobody listens.
pub(super) async fn run(file: PathBuf, mut good: watch::Receiver<Vec<SocketAddr>>, found: mpsc::Sender<Candidate>) {
    let from = file.clone();
    let mut known = tasks::blocking("load peers", move || load(&from)).await.unwrap_or_default();
    for address in &known {
        if found.send(Candidate { address: *address, peer: None, how: How::Remembered }).await.is_err() {
            return;
        }
    }
    while good.changed().await.is_ok() {
        let merged = merge(&good.borrow_and_update(), &known);
        if merged == known {
            continue;
        }
        known = merged;
        let (into, addresses) = (file.clone(), known.clone());
        if let Ok(Err(error)) = tasks::blocking("save peers", move || save(&into, &addresses)).await {
            tracing::warn!(%error, file = %file.display(), "the addresses of peers could not be kept for the next start");
        }
    }
}

/// Those that are good now, then those that were; what is at the end is forgotten. An order that says nothing new stays.
fn merge(good: &[SocketAddr], known: &[SocketAddr]) -> Vec<SocketAddr> {
    let good = &good[..good.len().min(MAX)];
    if good.iter().all(|address| known.contains(address)) {
        return known.to_vec();
    }
    let mut merged: Vec<SocketAddr> = Vec::new();
    for address in good.iter().chain(known) {
        if merged.len() < MAX && !merged.contains(address) {
            merged.push(*address);
        }
    }
    merged
}

/// A file that is not there or not ours has no addresses.
fn load(file: &Path) -> Vec<SocketAddr> {
    let mut text = Vec::new();
    if let Ok(file) = std::fs::File::open(file) {
        let _ = file.take(FILE_MAX).read_to_end(&mut text);
    }
    String::from_utf8_lossy(&text).lines().filter_map(|line| line.parse().ok()).take(MAX).collect()
}

/// Whole or not at all.
fn save(file: &Path, addresses: &[SocketAddr]) -> io::Result<()> {
    let text: String = addresses.iter().map(|address| format!("{address}\n")).collect();
    let new = file.with_extension("new");
    let mut writing = std::fs::File::create(&new)?;
    writing.write_all(text.as_bytes())?;
    writing.sync_data()?;
    std::fs::rename(new, file)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(range: std::ops::Range<u16>) -> Vec<SocketAddr> {
        range.map(|port| SocketAddr::from(([192, 0, 2, 1], port))).collect()
    }

    #[test]
    fn the_latest_come_first_and_the_oldest_are_forgotten() {
        assert_eq!(merge(&addresses(3..5), &addresses(1..4)), [&addresses(3..5)[..], &addresses(1..3)].concat());
        assert_eq!(merge(&addresses(2..4), &addresses(1..9)), addresses(1..9), "nothing new");
        let full = merge(&addresses(100..101), &addresses(1..65));
        assert_eq!((full.len(), full[0].port(), full[63].port()), (MAX, 100, 63));
        assert_eq!(merge(&addresses(1..500), &[]).len(), MAX);
    }

    #[tokio::test]
    async fn what_was_good_is_told_at_the_next_start() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("peers");
        let scoped: SocketAddr = "[fe80::1%3]:3142".parse().unwrap();
        let good = [&addresses(1..3)[..], &[scoped]].concat();
        let (tell, told) = watch::channel(Vec::new());
        let (found, _heard) = mpsc::channel(1);
        tell.send_replace(good.clone());
        let kept = tasks::spawn("remembered", run(file.clone(), told, found));
        // What was told last is kept before the end.
        drop(tell);
        kept.await.unwrap();
        let (_tell, told) = watch::channel(Vec::new());
        let (found, mut heard) = mpsc::channel(8);
        let _running = tasks::spawn("remembered", run(file.clone(), told, found));
        for address in good {
            assert_eq!(heard.recv().await, Some(Candidate { address, peer: None, how: How::Remembered }));
        }
    }

    #[test]
    fn a_file_with_anything_in_it_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("peers");
        assert_eq!(load(&file), []);
        std::fs::write(&file, b"192.0.2.1:1\n\xff\nexample.org:2\n[2001:db8::1]:2\n192.0.2.1\n\n").unwrap();
        assert_eq!(load(&file), ["192.0.2.1:1".parse().unwrap(), "[2001:db8::1]:2".parse().unwrap()]);
    }
}

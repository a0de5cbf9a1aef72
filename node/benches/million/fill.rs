//! Fills a store through its own door: each object is written, hashed, synced and indexed like a download.

use std::path::Path;
use std::time::Instant;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode};
use imirror::classify::{Url, classify};
use imirror::config::CacheSize;
use imirror::os::clock::Clock;
use imirror::os::tasks;
use imirror::store::{Head, Options, Plan, Store};

use super::url;

const WORKERS: u64 = 32;

pub(super) fn fill(folder: &Path, objects: u64) {
    std::fs::create_dir_all(folder).unwrap();
    let store = open(folder, 1 << 40);
    store.reconcile();
    let there = store.usage().objects;
    println!("filling: {there} of {objects} objects are there");
    let begun = Instant::now();
    let runtime = runtime();
    runtime.block_on(async {
        let workers: Vec<_> = (0..WORKERS)
            .map(|worker| {
                let store = store.clone();
                // What an unfinished run has left undone is among the last ones.
                let numbers = (there.saturating_sub(100_000)..objects).skip(worker as usize).step_by(WORKERS as usize);
                tasks::on_own_thread("fill", async move {
                    for number in numbers.filter(|_| there < objects) {
                        put(&store, number).await;
                        if number % 50_000 == 0 {
                            println!("filling: at {number} after {:.0} s", begun.elapsed().as_secs_f64());
                        }
                    }
                })
            })
            .collect();
        for worker in workers {
            worker.await.unwrap();
        }
    });
    store.close();
    println!("filled: {} objects, {} bytes", store.usage().objects, store.usage().bytes);
}

pub(super) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap()
}

pub(super) fn open(folder: &Path, limit: u64) -> Store {
    let size = CacheSize::Bytes(limit);
    let clock = Clock::system();
    Store::open(Options { dir: folder.to_owned(), size, memory_size: 64 << 20, open_files: 1000, clock }).unwrap()
}

async fn put(store: &Store, number: u64) {
    let plan = plan(number);
    if store.lookup(plan.key).await.unwrap().is_some() {
        return;
    }
    let content = content(number);
    let growing = store.begin(plan).unwrap();
    growing.write_at(0, &content).unwrap();
    growing.seal(content.len() as u64).unwrap();
    growing.publish().unwrap();
}

/// What a mirror says of a package.
pub(super) fn plan(number: u64) -> Plan {
    let url = Url::parse(&url(number)).unwrap();
    let mut fields = HeaderMap::new();
    for (name, value) in [
        ("content-type", "application/vnd.debian.binary-package".to_owned()),
        ("last-modified", "Mon, 02 Jan 2023 03:04:05 GMT".to_owned()),
        ("etag", format!("\"{number:x}-5f1418ec91b80\"")),
    ] {
        fields.insert(name, HeaderValue::try_from(value).unwrap());
    }
    let classified = classify(&url);
    let total = Some(content(number).len() as u64);
    let head = Head { status: StatusCode::OK, fields };
    Plan {
        key: url.key_hash(),
        url,
        class: classified.class,
        head,
        total,
        digest: classified.digest,
        confirmed_at: None,
    }
}

/// From 100 to 2000 bytes, different for each number.
pub(super) fn content(number: u64) -> Bytes {
    let len = 100 + (number.wrapping_mul(7919) % 1900) as usize;
    format!("{number:>20}").repeat(len.div_ceil(20)).into_bytes()[..len].to_vec().into()
}

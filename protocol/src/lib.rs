//! What the nodes of a site say to each other and how they decide.
//!
//! No I/O, no clock, no randomness of its own: time and a seed are given in, and the same inputs bring about the same bytes. Nothing
//! here knows of HTTP, of packages or of files; a thing is a [`Key`], a node is a [`NodeId`].
#![no_std]
#![warn(missing_docs)]

extern crate alloc;
#[cfg(test)]
extern crate std;

mod claims;
mod cluster;
mod dialling;
pub mod fingerprints;
mod forgetting;
mod freshness;
mod heads;
mod health;
mod identity;
mod inventory;
mod membership;
pub mod message;
mod mirrors;
mod outbox;
mod output;
mod popularity;
mod random;
pub mod rendezvous;
mod replication;
mod schedule;
pub mod sources;
mod time;
pub mod token;
pub mod transfer;
mod uplink;
pub mod wire;

pub use cluster::{Cluster, Config, ConnectionId, Input, MemberStatus, Status};
pub use health::{Outcome, Plan, Source};
pub use identity::{Incarnation, Key, NodeId, Version};
pub use message::Lane;
pub use output::{Output, Why};
pub use popularity::REQUEST;
pub use time::Instant;

#[cfg(test)]
mod tests {
    use std::format;
    use std::path::Path;
    use std::string::String;

    /// The attribute keeps the compiler's own library out; this keeps out what would make two runs differ or a dependency let in.
    #[test]
    fn nothing_reaches_for_the_outside() {
        let words = ["std::", "Hash", "thread", "println"]
            .map(|word| format!("{word}{}", if word == "Hash" { "Map" } else { "" }));
        let mut files = 0;
        let mut folders = std::vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
        while let Some(folder) = folders.pop() {
            for entry in folder.read_dir().unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                    continue;
                }
                if path.extension().is_none_or(|extension| extension != "rs") || path.ends_with("tests.rs") {
                    continue;
                }
                files += 1;
                let text = std::fs::read_to_string(&path).unwrap();
                let code: String = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default().into();
                for word in &words {
                    assert!(!code.contains(word.as_str()), "{} names {word}", path.display());
                }
            }
        }
        assert!(files > 15, "the sources have moved");
    }
}

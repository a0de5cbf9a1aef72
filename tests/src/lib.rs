//! What the end-to-end tests are made of: the real node as a process, an origin that counts and misbehaves as told, and a
//! client that sends just the bytes it is told to. Failures here are panics: everything in this crate is a test.
#![allow(clippy::unwrap_used, clippy::expect_used)]
#![allow(clippy::disallowed_methods)] // Other processes are waited for on the real clock.

pub mod browser;
pub mod http;
pub mod machine;
pub mod namespace;
pub mod netns;
pub mod node;
pub mod origin;
pub mod squid;
pub mod terminal;
pub mod tls;

use sha2::Digest;

/// Bytes that look random and are the same each time.
pub fn content(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        })
        .collect()
}

pub fn sha256(bytes: &[u8]) -> String {
    sha2::Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

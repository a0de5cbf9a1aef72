//! Randomness that decides nothing secret: where a sample begins.

use std::hash::{BuildHasher, RandomState};

/// Unpredictable enough to draw samples; not for secrets.
pub fn random_bytes() -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&RandomState::new().hash_one(0).to_le_bytes());
    bytes[8..].copy_from_slice(&RandomState::new().hash_one(1).to_le_bytes());
    bytes
}

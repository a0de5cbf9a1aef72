//! How much room a file system has.

use std::io;
use std::path::Path;

/// Bytes of a file system.
#[derive(Debug, Clone, Copy)]
pub struct Space {
    pub total: u64,
    /// Free for ordinary users.
    pub free: u64,
}

impl Space {
    /// What is always left free for others: a twentieth, at most 1 GiB.
    pub fn reserve(&self) -> u64 {
        (self.total / 20).min(1 << 30)
    }
}

/// Of the file system that holds `path`.
pub fn space(path: &Path) -> io::Result<Space> {
    let stat = rustix::fs::statvfs(path)?;
    Ok(Space { total: stat.f_blocks * stat.f_frsize, free: stat.f_bavail * stat.f_frsize })
}

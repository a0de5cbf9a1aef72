//! A file mapped into memory, read-only: zero-copy bytes that `sendfile` can recognise by their address.
//!
//! The only file with `unsafe` code. A mapping stays sound as long as nobody shortens the file (SIGBUS): files of
//! the store are written only within their final length, replaced by rename and never truncated. Bytes that
//! another writer is still adding are read only after the writer has published their range.

#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::{Buf, Bytes};
use rustix::mm::{MapFlags, ProtFlags};

/// `cachestat(2)`, since Linux 6.5; the number is the same on all architectures that Rust's standard library runs on.
const CACHESTAT: libc::c_long = 451;

/// One read-only mapping of a whole file, with the file itself.
#[derive(Debug)]
pub struct Mapping {
    base: *mut std::ffi::c_void,
    len: usize,
    file: File,
}

// SAFETY: the memory is read-only and lives as long as the value; `File` may be shared between threads.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps the first `len` bytes of the file, which must be that long. An empty mapping has no address.
    pub fn new(file: File, len: u64) -> io::Result<Arc<Self>> {
        let len = usize::try_from(len).map_err(|_| io::ErrorKind::FileTooLarge)?;
        if file.metadata()?.len() < len as u64 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let base = match len {
            0 => std::ptr::null_mut(),
            // SAFETY: a fresh mapping at an address of the kernel's choice aliases nothing.
            _ => unsafe { rustix::mm::mmap(std::ptr::null_mut(), len, ProtFlags::READ, MapFlags::SHARED, &file, 0)? },
        };
        Ok(Arc::new(Self { base, len, file }))
    }

    pub fn len(&self) -> u64 {
        self.len as u64
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn file(&self) -> &File {
        &self.file
    }

    /// A slice that keeps the mapping alive; empty when the range is not inside.
    pub fn bytes(self: &Arc<Self>, range: Range<u64>) -> Bytes {
        match (usize::try_from(range.start), usize::try_from(range.end)) {
            (Ok(start), Ok(end)) if start < end && end <= self.len => {
                let mut bytes = Bytes::from_owner(Slice(self.clone()));
                bytes.truncate(end);
                bytes.advance(start);
                bytes
            }
            _ => Bytes::new(),
        }
    }

    /// Where in the file the memory at `pointer` comes from, if it is of this mapping.
    pub fn offset_of(&self, pointer: *const u8) -> Option<u64> {
        let offset = (pointer as usize).checked_sub(self.base as usize)?;
        (offset < self.len).then_some(offset as u64)
    }

    /// Does the range lie in the page cache, so that sending it waits for no disk? A kernel before Linux 6.5 is asked for some
    /// pages only, one every 256 KiB and the last: what was read together mostly goes together. One that does not tell is
    /// taken to say yes.
    pub fn is_resident(&self, range: Range<u64>) -> bool {
        let range = range.start..range.end.min(self.len());
        if range.is_empty() {
            return true;
        }
        let page = rustix::param::page_size() as u64;
        match self.cached_pages(&range) {
            Some(cached) => cached >= range.end.div_ceil(page) - range.start / page,
            None => samples(range).all(|at| usize::try_from(at).is_ok_and(|at| self.is_page_resident(at))),
        }
    }

    /// How many pages of the range are in the page cache: one call for all of them, and a step for each folio. Nothing where
    /// the kernel does not tell.
    fn cached_pages(&self, range: &Range<u64>) -> Option<u64> {
        static IS_KNOWN: AtomicBool = AtomicBool::new(true);
        if !IS_KNOWN.load(Ordering::Relaxed) {
            return None;
        }
        // `struct cachestat_range` and `struct cachestat` of linux/mman.h; the first word of the latter is `nr_cache`.
        let asked = [range.start, range.end - range.start];
        let mut told = [0_u64; 5];
        let file = self.file.as_raw_fd();
        // SAFETY: both are of the size that the kernel reads and writes, and live during the call.
        let done = unsafe { libc::syscall(CACHESTAT, file, asked.as_ptr(), told.as_mut_ptr(), 0) };
        if done != 0 {
            IS_KNOWN.store(false, Ordering::Relaxed);
            return None;
        }
        Some(told[0])
    }

    /// Brings the range into the page cache without copying it, as `sendfile` to a client would: the kernel's read-ahead takes large
    /// folios, which are cheaper to send than the single pages that a hint (`fadvise`) brings. Waits for the disk. An error is one
    /// of the disk, or of a file that has been cut.
    pub fn read_in(&self, range: Range<u64>) -> io::Result<()> {
        let nowhere = File::options().write(true).open("/dev/null")?;
        let mut at = range.start;
        while at < range.end {
            let left = usize::try_from(range.end - at).unwrap_or(usize::MAX);
            if rustix::fs::sendfile(&nowhere, &self.file, Some(&mut at), left)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(())
    }

    fn is_page_resident(&self, at: usize) -> bool {
        let page = rustix::param::page_size();
        let from = at / page * page;
        let mut state = [0];
        // SAFETY: the page lies inside the live mapping; `state` has a byte for it.
        let told = unsafe { libc::mincore(self.base.byte_add(from), page.min(self.len - from), state.as_mut_ptr()) };
        told != 0 || state[0] & 1 == 1
    }

    fn as_slice(&self) -> &[u8] {
        if self.len == 0 {
            return &[];
        }
        // SAFETY: `base` is a live read-only mapping of `len` bytes (see the module head for why it cannot shrink).
        unsafe { std::slice::from_raw_parts(self.base.cast::<u8>(), self.len) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        if self.len > 0 {
            // SAFETY: nobody can hold a slice any more: each holds a reference to `self`.
            let _ = unsafe { rustix::mm::munmap(self.base, self.len) };
        }
    }
}

/// Where to look at a range to know about all of it.
fn samples(range: Range<u64>) -> impl Iterator<Item = u64> {
    let last = range.end.checked_sub(1).filter(|last| *last >= range.start);
    range.step_by(256 * 1024).chain(last)
}

struct Slice(Arc<Mapping>);

impl AsRef<[u8]> for Slice {
    fn as_ref(&self) -> &[u8] {
        self.0.as_slice()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn slices_outlive_their_mapping_handle_and_know_their_offset() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"0123456789").unwrap();
        let mapping = Mapping::new(file, 10).unwrap();
        let slice = mapping.bytes(3..6);
        assert_eq!(mapping.offset_of(slice.as_ptr()), Some(3));
        assert_eq!(mapping.bytes(6..11), Bytes::new());
        drop(mapping);
        assert_eq!(slice, "345");
    }

    #[test]
    fn what_has_just_been_written_is_resident() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&vec![1; 10_000_000]).unwrap();
        let mapping = Mapping::new(file, 10_000_000).unwrap();
        assert!(mapping.is_resident(0..10_000_000));
        assert!(mapping.is_resident(9_999_999..20_000_000));
        let cached = mapping.cached_pages(&(5000..9000));
        assert!(cached.is_none_or(|pages| pages == 2), "{cached:?}");
        assert!(Mapping::new(tempfile::tempfile().unwrap(), 0).unwrap().is_resident(0..0));
    }

    #[test]
    fn a_hole_is_not_resident() {
        let file = tempfile::NamedTempFile::new_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        file.as_file().set_len(1_000_000).unwrap();
        let mapping = Mapping::new(file.reopen().unwrap(), 1_000_000).unwrap();
        assert!(!mapping.is_resident(0..10));
    }

    #[test]
    fn what_is_read_in_is_resident() {
        let file = tempfile::NamedTempFile::new_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        file.as_file().write_all(&vec![1; 3_000_000]).unwrap();
        file.as_file().sync_all().unwrap();
        rustix::fs::fadvise(file.as_file(), 0, None, rustix::fs::Advice::DontNeed).unwrap();
        let mapping = Mapping::new(file.reopen().unwrap(), 3_000_000).unwrap();
        mapping.read_in(1_000_000..2_900_000).unwrap();
        assert!(mapping.is_resident(1_000_000..2_900_000));
        file.as_file().set_len(1_500_000).unwrap();
        assert!(mapping.read_in(1_000_000..2_900_000).is_err(), "the file has been cut");
    }

    #[test]
    fn a_file_that_is_too_short_is_refused() {
        let file = tempfile::tempfile().unwrap();
        assert_eq!(Mapping::new(file, 1).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        assert!(Mapping::new(tempfile::tempfile().unwrap(), 0).unwrap().is_empty());
    }
}

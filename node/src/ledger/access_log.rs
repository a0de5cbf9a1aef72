//! The access log's file: lines are handed over in memory and written by a thread of their own, so that a slow or full
//! disk never delays a request. When the thread cannot keep up, lines are dropped and counted.
//!
//! The file is reopened on request (SIGHUP, for logrotate). Without logrotate it is bounded all the same: past a limit
//! it becomes `access.log.1`, replacing the one before.

use std::cell::RefCell;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::{Record, format};
use crate::config;
use crate::fault::Fault;

/// Lines waiting to be written, in bytes; more are dropped.
const PENDING_MAX: usize = 1024 * 1024;

/// The file is renamed when it has grown past this.
const FILE_MAX: u64 = 256 * 1024 * 1024;

/// How long the writer gathers lines before it writes them: few large writes, and few wake-ups for requests to pay for.
const GATHER: Duration = Duration::from_millis(100);

/// A handle to the log; dropping it writes what is pending.
#[derive(Debug)]
pub struct AccessLog {
    form: config::AccessLog,
    shared: Arc<Shared>,
    writer: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    queue: Mutex<Queue>,
    /// To the writer: there is something to do.
    work: Condvar,
    /// From the writer: everything handed over before has been written or given up.
    done: Condvar,
    dropped: AtomicU64,
}

#[derive(Debug, Default)]
struct Queue {
    pending: Vec<u8>,
    reopen: bool,
    closing: bool,
    /// Somebody waits for `done`.
    flush: bool,
    /// The writer has taken lines and not yet written them.
    writing: bool,
}

impl AccessLog {
    /// Opens the file (0640, appending) and starts the writer. `None` when the log is off.
    pub fn open(form: config::AccessLog, path: &Path) -> Result<Option<Self>, Fault> {
        if form == config::AccessLog::Off {
            return Ok(None);
        }
        let what = || format!("open the access log {}", path.display());
        let file = Output::open(path.to_owned()).map_err(|e| Fault::disk(what(), &e))?;
        let shared = Arc::new(Shared::default());
        let theirs = shared.clone();
        let writer = std::thread::Builder::new()
            .name("access-log".into())
            .spawn(move || write_until_closed(&theirs, file))
            .map_err(|e| Fault::internal(format!("start the access log's thread: {e}")))?;
        Ok(Some(Self { form, shared, writer: Some(writer) }))
    }

    /// Hands over the line of a record. Never blocks on the disk.
    pub fn write(&self, record: &Record<'_>) {
        thread_local! {
            static LINE: RefCell<String> = const { RefCell::new(String::new()) };
        }
        LINE.with_borrow_mut(|line| {
            line.clear();
            format::line(self.form, record, line);
            self.hand_over(line.as_bytes());
        });
    }

    fn hand_over(&self, line: &[u8]) {
        let mut queue = self.shared.queue();
        if queue.pending.len() + line.len() > PENDING_MAX {
            drop(queue);
            self.shared.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let was_empty = queue.pending.is_empty();
        queue.pending.extend_from_slice(line);
        drop(queue);
        if was_empty {
            self.shared.work.notify_one();
        }
    }

    /// Lines that were never written: the disk was too slow or failed.
    pub fn dropped(&self) -> u64 {
        self.shared.dropped.load(Ordering::Relaxed)
    }

    /// From the next line on the file is a new one of the same name (after logrotate has moved the old one).
    pub fn reopen(&self) {
        self.shared.queue().reopen = true;
        self.shared.work.notify_one();
    }

    /// Waits until everything handed over before is written. Blocks.
    pub fn flush(&self) {
        let mut queue = self.shared.queue();
        while queue.writing || queue.reopen || !queue.pending.is_empty() {
            queue.flush = true;
            self.shared.work.notify_one();
            queue = (self.shared.done.wait(queue)).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Drop for AccessLog {
    fn drop(&mut self) {
        self.shared.queue().closing = true;
        self.shared.work.notify_one();
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
    }
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for work, then until enough has gathered or somebody is in a hurry.
    fn gather(&self) -> MutexGuard<'_, Queue> {
        let idle = |q: &mut Queue| q.pending.is_empty() && !q.reopen && !q.closing && !q.flush;
        let gathering = |q: &mut Queue| q.pending.len() < PENDING_MAX / 4 && !q.closing && !q.flush;
        let queue = (self.work.wait_while(self.queue(), idle)).unwrap_or_else(PoisonError::into_inner);
        (self.work.wait_timeout_while(queue, GATHER, gathering)).unwrap_or_else(PoisonError::into_inner).0
    }
}

/// The writer's thread.
fn write_until_closed(shared: &Shared, mut output: Output) {
    let mut lines = Vec::new();
    let mut failing = false;
    loop {
        let mut queue = shared.gather();
        let (reopen, closing) = (queue.reopen, queue.closing);
        std::mem::swap(&mut queue.pending, &mut lines);
        queue.writing = true;
        drop(queue);

        let written = match reopen {
            true => output.reopen().and_then(|()| output.write(&lines)),
            false => output.write(&lines),
        };
        if let Err(error) = &written {
            let lost = lines.iter().filter(|b| **b == b'\n').count() as u64;
            shared.dropped.fetch_add(lost, Ordering::Relaxed);
            if !failing {
                tracing::warn!(path = %output.path.display(), %error, "the access log cannot be written; lines are lost until it can");
            }
        }
        failing = written.is_err();
        lines.clear();

        let mut queue = shared.queue();
        queue.writing = false;
        queue.flush = false;
        queue.reopen &= !reopen;
        let finished = closing && queue.pending.is_empty();
        drop(queue);
        shared.done.notify_all();
        if finished {
            return;
        }
    }
}

/// The file and how long it has become.
struct Output {
    path: PathBuf,
    file: File,
    len: u64,
}

impl Output {
    fn open(path: PathBuf) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        let file = options.append(true).create(true).mode(0o640).open(&path)?;
        let len = file.metadata()?.len();
        Ok(Self { path, file, len })
    }

    fn reopen(&mut self) -> io::Result<()> {
        *self = Self::open(self.path.clone())?;
        Ok(())
    }

    fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        if self.len > FILE_MAX {
            let mut older = self.path.clone().into_os_string();
            older.push(".1");
            std::fs::rename(&self.path, older)?;
            self.reopen()?;
        }
        self.file.write_all(lines)?;
        self.len += lines.len() as u64;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::{Outcome, Subject};
    use crate::os::clock::Timestamp;

    fn record(url: &str) -> Record<'_> {
        Record {
            finished: Timestamp(0),
            elapsed: Duration::ZERO,
            client: std::net::Ipv4Addr::LOCALHOST.into(),
            method: "GET",
            url,
            status: 200,
            bytes: 0,
            outcome: Outcome::Hit,
            subject: Subject::Other,
            from: None,
            content_type: None,
            user_agent: None,
            referer: None,
            aborted: false,
            fault: None,
        }
    }

    fn lines(path: &Path) -> Vec<String> {
        let text = std::fs::read_to_string(path).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn lines_of_many_threads_arrive_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("access.log");
        let log = AccessLog::open(config::AccessLog::Squid, &path).unwrap().unwrap();
        std::thread::scope(|scope| {
            for t in 0..4 {
                let log = &log;
                scope.spawn(move || (0..500).for_each(|i| log.write(&record(&format!("http://example.org/{t}/{i}")))));
            }
        });
        log.flush();
        assert_eq!(lines(&path).len(), 2000);
        assert!(lines(&path).iter().all(|l| l.split_whitespace().count() == 10));
        assert_eq!(log.dropped(), 0);
    }

    #[test]
    fn a_moved_file_is_let_go_on_reopen_and_the_end_is_written_on_drop() {
        let dir = tempfile::tempdir().unwrap();
        let (path, moved) = (dir.path().join("access.log"), dir.path().join("moved"));
        let log = AccessLog::open(config::AccessLog::Json, &path).unwrap().unwrap();
        log.write(&record("http://example.org/1"));
        log.flush();
        std::fs::rename(&path, &moved).unwrap();
        log.reopen();
        log.flush();
        log.write(&record("http://example.org/2"));
        drop(log);
        assert_eq!(lines(&moved).len(), 1);
        assert!(lines(&path)[0].contains("example.org/2"));
    }

    #[test]
    fn a_full_queue_drops_lines_and_says_so() {
        let log = AccessLog { form: config::AccessLog::Squid, shared: Arc::default(), writer: None };
        let url = format!("http://example.org/{}", "x".repeat(3000));
        (0..500).for_each(|_| log.write(&record(&url)));
        assert!(log.shared.queue().pending.len() <= PENDING_MAX);
        assert!(log.dropped() > 100);
    }

    #[test]
    fn what_the_disk_refuses_is_counted() {
        let log = AccessLog::open(config::AccessLog::Squid, Path::new("/dev/full")).unwrap().unwrap();
        (0..3).for_each(|_| log.write(&record("http://example.org/")));
        log.flush();
        assert_eq!(log.dropped(), 3);
    }

    #[test]
    fn a_large_file_makes_room() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("access.log");
        let mut output = Output::open(path.clone()).unwrap();
        output.write(b"old\n").unwrap();
        output.len = FILE_MAX + 1;
        output.write(b"new\n").unwrap();
        assert_eq!(lines(&path), ["new"]);
        assert_eq!(lines(&dir.path().join("access.log.1")), ["old"]);
    }

    #[test]
    fn off_opens_nothing() {
        let nowhere = Path::new("/nonexistent/access.log");
        assert!(AccessLog::open(config::AccessLog::Off, nowhere).unwrap().is_none());
        let fault = AccessLog::open(config::AccessLog::Squid, nowhere).unwrap_err();
        assert!(fault.to_string().contains("/nonexistent/access.log"));
    }
}

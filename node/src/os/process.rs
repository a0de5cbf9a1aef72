//! What this process uses of the machine, as monitoring wants to know it; and other programs.

use std::io;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use rustix::process::{Resource, getrlimit};
use rustix::time::{ClockId, clock_gettime};

/// Of the moment.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Usage {
    /// Processor time since the start, of all threads.
    pub cpu_seconds: f64,
    /// In memory now, mapped files included.
    pub resident_bytes: u64,
    pub open_files: u64,
    pub open_files_max: u64,
}

/// Zero for what the system does not tell.
pub fn usage() -> Usage {
    let cpu = clock_gettime(ClockId::ProcessCPUTime);
    let pages = std::fs::read_to_string("/proc/self/statm").ok();
    let resident = pages.and_then(|pages| pages.split(' ').nth(1)?.parse::<u64>().ok()).unwrap_or(0);
    let open_files = std::fs::read_dir("/proc/self/fd").map_or(0, |files| files.count() as u64);
    Usage {
        cpu_seconds: cpu.tv_sec as f64 + cpu.tv_nsec as f64 / 1e9,
        resident_bytes: resident * rustix::param::page_size() as u64,
        open_files,
        open_files_max: getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX),
    }
}

/// Runs another program to its end, without input. Blocks.
///
/// # Errors
/// It cannot be started, or takes longer than that: then it is ended.
pub fn run(command: &mut Command, patience: Duration) -> io::Result<Output> {
    const LOOK_EVERY: Duration = Duration::from_millis(5);
    // What it says is little, and fits what a pipe holds.
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
    let mut waited = Duration::ZERO;
    while child.try_wait()?.is_none() {
        if waited >= patience {
            child.kill()?;
            child.wait()?;
            return Err(io::ErrorKind::TimedOut.into());
        }
        std::thread::sleep(LOOK_EVERY);
        waited += LOOK_EVERY;
    }
    child.wait_with_output()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_program_ends_or_is_ended() {
        let ended = run(Command::new("sh").args(["-c", "echo no >&2; exit 3"]), Duration::from_secs(60)).unwrap();
        assert_eq!((ended.status.code(), &ended.stderr[..]), (Some(3), &b"no\n"[..]));
        let late = run(Command::new("sleep").arg("600"), Duration::from_millis(10)).unwrap_err();
        assert_eq!(late.kind(), io::ErrorKind::TimedOut);
        assert_eq!(run(&mut Command::new("/nonexistent"), Duration::ZERO).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_process_uses_something() {
        let usage = usage();
        assert!(usage.cpu_seconds > 0.0 && usage.resident_bytes > 1 << 20, "{usage:?}");
        assert!(usage.open_files > 0 && usage.open_files < usage.open_files_max, "{usage:?}");
    }
}

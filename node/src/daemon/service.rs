//! What the service manager is told (sd_notify(3)): that the node is ready or stopping, that it lives, and in a line what
//! it does. Without one nothing happens.

use std::time::Duration;

use sd_notify::NotifyState;

use crate::store::Usage;

/// The line is sent when it has changed, at most this often.
const LINE_EVERY: Duration = Duration::from_secs(5);

pub(super) fn ready() {
    tell(&[NotifyState::Ready]);
}

pub(super) fn stopping() {
    tell(&[NotifyState::Stopping, NotifyState::Status("stopping")]);
}

/// Keeps the service manager told, for ever. A runtime that hangs tells nothing, and is started anew if the unit has a
/// watchdog.
pub(super) async fn keep_told(line: impl Fn() -> String) {
    keep_telling(sd_notify::watchdog_enabled(), line, tell).await;
}

fn tell(states: &[NotifyState<'_>]) {
    // There may be nobody who listens.
    let _ = sd_notify::notify(states);
}

async fn keep_telling(patience: Option<Duration>, line: impl Fn() -> String, tell: impl Fn(&[NotifyState<'_>])) {
    let every = patience.map_or(LINE_EVERY, |patience| patience / 2).clamp(Duration::from_millis(1), LINE_EVERY);
    let mut tick = tokio::time::interval(every);
    let mut told = String::new();
    let mut since_told = LINE_EVERY;
    loop {
        tick.tick().await;
        if patience.is_some() {
            tell(&[NotifyState::Watchdog]);
        }
        since_told += every;
        if since_told < LINE_EVERY {
            continue;
        }
        let now = line();
        if now != told {
            tell(&[NotifyState::Status(&now)]);
            (told, since_told) = (now, Duration::ZERO);
        }
    }
}

/// What `systemctl status` shows.
pub(super) fn line(usage: &Usage, downloads: usize) -> String {
    let gib = |bytes: u64| bytes as f64 / (1u64 << 30) as f64;
    let stored = format!(
        "{} objects, {:.1} of {:.1} GiB; {downloads} downloads",
        usage.objects,
        gib(usage.bytes),
        gib(usage.limit_bytes)
    );
    match &usage.degraded {
        Some(reason) => format!("DEGRADED, nothing new is stored: {reason}; {stored}"),
        None => stored,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::{Cell, RefCell};

    fn usage(degraded: Option<&str>) -> Usage {
        Usage {
            objects: 7,
            bytes: 3 << 29,
            limit_bytes: 50 << 30,
            evictions: 0,
            degraded: degraded.map(ToOwned::to_owned),
        }
    }

    #[test]
    fn the_line_says_what_matters_first() {
        assert_eq!(line(&usage(None), 2), "7 objects, 1.5 of 50.0 GiB; 2 downloads");
        let degraded = line(&usage(Some("disk full")), 0);
        assert_eq!(degraded, "DEGRADED, nothing new is stored: disk full; 7 objects, 1.5 of 50.0 GiB; 0 downloads");
    }

    /// What is told within `time` when the line changes each second.
    async fn told(patience: Option<Duration>, time: Duration) -> (usize, Vec<String>) {
        let (alive, lines) = (Cell::new(0), RefCell::new(Vec::new()));
        let started = tokio::time::Instant::now();
        let line = || format!("{} s", started.elapsed().as_secs() / 8);
        let tell = |states: &[NotifyState<'_>]| {
            for state in states {
                match state {
                    NotifyState::Status(line) => lines.borrow_mut().push((*line).to_owned()),
                    state => {
                        assert_eq!(state.to_string(), "WATCHDOG=1");
                        alive.set(alive.get() + 1);
                    }
                }
            }
        };
        let _ = tokio::time::timeout(time, keep_telling(patience, line, tell)).await;
        (alive.get(), lines.into_inner())
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_told_in_time_and_not_too_often() {
        let time = Duration::from_millis(20_500);
        let lines = vec!["0 s".to_owned(), "1 s".into(), "2 s".into()];
        assert_eq!(told(None, time).await, (0, lines.clone()));
        // Twice in the time that the watchdog has patience for.
        assert_eq!(told(Some(Duration::from_secs(2)), time).await, (21, lines.clone()));
        assert_eq!(told(Some(Duration::from_secs(60)), time).await, (5, lines));
        // A nonsensical patience is no reason to fail.
        assert!(told(Some(Duration::ZERO), Duration::from_millis(10)).await.0 >= 5);
    }
}

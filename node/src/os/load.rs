//! How busy this process keeps the machine.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// The part of the machine's processors that this process uses, smoothed.
#[derive(Debug, Default)]
pub struct Busyness(Mutex<Option<Measured>>);

#[derive(Debug, Clone, Copy)]
struct Measured {
    processor: Duration,
    at: Duration,
    part: f64,
}

impl Busyness {
    /// Between 0 and 1, over the last seconds; to be asked about once a second.
    pub fn now(&self) -> f64 {
        let (processor, at) = (time(ClockId::ProcessCPUTime), time(ClockId::Monotonic));
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let part = match *last {
            Some(last) if at > last.at => {
                let processors = std::thread::available_parallelism().map_or(1, usize::from) as f64;
                let used = processor.saturating_sub(last.processor).as_secs_f64();
                smoothed(last.part, used / ((at - last.at).as_secs_f64() * processors))
            }
            Some(last) => last.part,
            None => 0.0,
        };
        *last = Some(Measured { processor, at, part });
        part
    }
}

/// Half of what was, half of what is.
fn smoothed(before: f64, now: f64) -> f64 {
    (before + now.clamp(0.0, 1.0)) / 2.0
}

fn time(clock: ClockId) -> Duration {
    let time = clock_gettime(clock);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_rises_and_falls_by_halves_and_stays_between_none_and_all() {
        assert_eq!(smoothed(0.0, 1.0), 0.5);
        assert_eq!(smoothed(0.5, 7.0), 0.75);
        assert_eq!(smoothed(0.5, 0.0), 0.25);
        let busyness = Busyness::default();
        assert_eq!(busyness.now(), 0.0, "nothing is known yet");
        assert!((0.0..=1.0).contains(&busyness.now()));
    }
}

//! How fast a download comes that nobody waits for yet (R22). As soon as somebody reads it, it is like any other.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::{Flight, Flights};
use crate::os::rate::Limiter;

/// While clients download from upstream, what nobody waits for stands still; but a piece of it comes now and then, or the server would
/// think that nobody is there.
const YIELD_MAX: Duration = Duration::from_secs(20);
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// The pace of all that is fetched ahead.
#[derive(Debug)]
pub struct Pace {
    limiter: Limiter,
    is_open: watch::Sender<bool>,
}

impl Pace {
    /// Bytes a second of all that keep to it; `None` is no limit.
    pub fn new(bytes_per_second: Option<u64>) -> Self {
        Self { limiter: Limiter::new(bytes_per_second), is_open: watch::Sender::new(true) }
    }

    /// Whether anything may come now.
    pub fn open(&self, is_open: bool) {
        self.is_open.send_if_modified(|was| std::mem::replace(was, is_open) != is_open);
    }

    /// Bytes have come: waits until the next may.
    async fn keep(&self, bytes: u64, clients_wait: impl Fn() -> bool) {
        tokio::time::sleep(self.limiter.take(bytes, Instant::now())).await;
        let yielded = async {
            while clients_wait() {
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        let _ = tokio::time::timeout(YIELD_MAX, yielded).await;
        // Nobody closes it for ever.
        let _ = self.is_open.subscribe().wait_for(|is_open| *is_open).await;
    }
}

impl Flight {
    /// Waits with a download that nobody reads as long as its pace demands.
    pub(super) async fn keep_pace(&self, flights: &Flights, bytes: u64) {
        let Some(pace) = &self.pace else { return };
        let pause = pace.keep(bytes, || flights.clients_download());
        let mut pause = std::pin::pin!(pause);
        while !self.is_read() {
            let news = self.news();
            let mut news = std::pin::pin!(news);
            news.as_mut().enable();
            if self.is_read() {
                return;
            }
            tokio::select! {
                () = &mut pause => return,
                () = news => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[tokio::test(start_paused = true)]
    async fn the_limit_the_window_and_clients_are_respected() {
        let pace = Pace::new(Some(1000));
        let start = Instant::now();
        for _ in 0..10 {
            pace.keep(1000, || false).await;
        }
        let taken = start.elapsed().as_millis();
        assert!((9_500..=10_000).contains(&taken), "{taken} ms for 10,000 bytes at 1,000 a second");

        let pace = Pace::new(None);
        let (start, busy) = (Instant::now(), Cell::new(10));
        pace.keep(1, || {
            busy.set(busy.get() - 1);
            busy.get() > 0
        })
        .await;
        assert_eq!(start.elapsed(), 9 * LOOK_EVERY, "until the clients have got theirs");
        let start = Instant::now();
        pace.keep(1, || true).await;
        assert_eq!(start.elapsed(), YIELD_MAX);

        pace.open(false);
        let closed = tokio::time::timeout(Duration::from_secs(3600), pace.keep(1, || false)).await;
        assert!(closed.is_err(), "nothing comes outside of the window");
        let (opened, kept) = (async { pace.open(true) }, pace.keep(1, || false));
        futures_util::future::join(kept, opened).await;
    }
}

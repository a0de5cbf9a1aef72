//! What the page is told while it is open, as server-sent events. A snapshot is made once for all who listen; who reads
//! slowly gets the latest one next, and nothing piles up.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

/// Listeners at the same time; more are told to come later.
const LISTENERS_MAX: usize = 64;

/// A sign of life when there is no news for so long: proxies and browsers take silence for the end.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// The listeners of a node.
#[derive(Debug)]
pub struct Events {
    seats: Arc<Semaphore>,
    latest: watch::Sender<News>,
}

#[derive(Debug, Clone)]
enum News {
    None,
    Event(Bytes),
    Over,
}

/// A listener between two events.
struct Listener {
    first: Option<Bytes>,
    news: watch::Receiver<News>,
    _seat: OwnedSemaphorePermit,
}

impl Default for Events {
    fn default() -> Self {
        Self { seats: Arc::new(Semaphore::new(LISTENERS_MAX)), latest: watch::Sender::new(News::None) }
    }
}

impl Events {
    /// Tells all listeners; nothing is made when there are none.
    pub fn tell(&self, json: impl FnOnce() -> String) {
        if self.listeners() > 0 {
            self.latest.send_replace(News::Event(event(&json())));
        }
    }

    /// All listening ends, for good.
    pub fn close(&self) {
        self.latest.send_replace(News::Over);
    }

    /// How many listen.
    pub fn listeners(&self) -> usize {
        self.latest.receiver_count()
    }

    /// The events from now on, the first of them at once; `None` when too many listen already, or when it is over.
    pub(super) fn listen(&self, json: impl FnOnce() -> String) -> Option<BoxStream<'static, Bytes>> {
        let seat = self.seats.clone().try_acquire_owned().ok()?;
        let news = self.latest.subscribe();
        if matches!(*news.borrow(), News::Over) {
            return None;
        }
        let listener = Listener { first: Some(event(&json())), news, _seat: seat };
        Some(stream::unfold(listener, next).boxed())
    }
}

async fn next(mut listener: Listener) -> Option<(Bytes, Listener)> {
    if let Some(first) = listener.first.take() {
        return Some((first, listener));
    }
    let text = match tokio::time::timeout(HEARTBEAT, listener.news.changed()).await {
        Err(_) => Bytes::from_static(b":\n\n"),
        Ok(Err(_)) => return None,
        Ok(Ok(())) => match &*listener.news.borrow_and_update() {
            News::Event(event) => event.clone(),
            News::None | News::Over => return None,
        },
    };
    Some((text, listener))
}

/// JSON has no bare line ends, so one line of data carries it.
fn event(json: &str) -> Bytes {
    format!("data: {json}\n\n").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_listener_gets_the_state_then_the_latest_news_then_signs_of_life_and_the_end() {
        let events = Events::default();
        events.tell(|| unreachable!("nobody listens"));
        let mut listener = events.listen(|| "1".into()).unwrap();
        assert_eq!(listener.next().await.unwrap(), "data: 1\n\n");
        events.tell(|| "2".into());
        events.tell(|| "3".into());
        assert_eq!(listener.next().await.unwrap(), "data: 3\n\n", "the second is old news");
        let asked = tokio::time::Instant::now();
        assert_eq!(listener.next().await.unwrap(), ":\n\n");
        assert_eq!(asked.elapsed(), HEARTBEAT);
        events.close();
        assert_eq!(listener.next().await, None);
        assert!(events.listen(|| "4".into()).is_none());
    }

    #[tokio::test]
    async fn listeners_are_bounded_and_a_seat_comes_free() {
        let events = Events::default();
        let mut listeners: Vec<_> = (0..LISTENERS_MAX).map(|_| events.listen(|| "1".into()).unwrap()).collect();
        assert!(events.listen(|| "1".into()).is_none());
        listeners.pop();
        assert_eq!(events.listeners(), LISTENERS_MAX - 1);
        assert!(events.listen(|| "1".into()).is_some());
    }
}

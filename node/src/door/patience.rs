//! How long a client may take over the head of a request. hyper starts its timer anew with each request; arming the
//! runtime's timer as often is a measurable part of an answer from memory. Here each connection arms one timer, and the
//! deadline is looked at again when that fires.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use hyper::rt::{self, Timer};
use tokio::time::Sleep;

/// The timer of one connection. It serves one wait at a time.
#[derive(Clone)]
pub(super) struct Patience(Arc<Mutex<Pin<Box<Sleep>>>>);

impl Patience {
    /// `usual` is how long a wait will be.
    pub(super) fn new(usual: Duration) -> Self {
        Self(Arc::new(Mutex::new(Box::pin(tokio::time::sleep(usual)))))
    }
}

impl Timer for Patience {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn rt::Sleep>> {
        self.sleep_until(self.now() + duration)
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn rt::Sleep>> {
        Box::pin(Wait { deadline, sleep: self.0.clone() })
    }

    fn now(&self) -> Instant {
        tokio::time::Instant::now().into_std()
    }
}

struct Wait {
    deadline: Instant,
    sleep: Arc<Mutex<Pin<Box<Sleep>>>>,
}

impl rt::Sleep for Wait {}

impl Future for Wait {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let deadline = tokio::time::Instant::from_std(self.deadline);
        let mut sleep = self.sleep.lock().unwrap_or_else(PoisonError::into_inner);
        if sleep.deadline() > deadline {
            sleep.as_mut().reset(deadline);
        }
        loop {
            ready!(sleep.as_mut().poll(cx));
            if sleep.deadline() >= deadline {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(deadline);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn each_wait_ends_at_its_own_deadline() {
        let start = tokio::time::Instant::now();
        let timer = Patience::new(Duration::from_secs(60));
        for (after, wait) in [(60, 60), (90, 30), (190, 100), (191, 1)] {
            timer.sleep(Duration::from_secs(wait)).await;
            assert_eq!(start.elapsed().as_secs(), after);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_that_was_given_up_does_not_disturb_the_next() {
        let start = tokio::time::Instant::now();
        let timer = Patience::new(Duration::from_secs(60));
        let first = timer.sleep(Duration::from_secs(60));
        assert!(tokio::time::timeout(Duration::from_secs(50), first).await.is_err());
        timer.sleep(Duration::from_secs(60)).await;
        assert_eq!(start.elapsed().as_secs(), 110);
    }
}

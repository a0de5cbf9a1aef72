//! Connections kept open for the next request. A connection is driven by whoever uses it; an idle one is not driven at all
//! and is looked at when it is taken again.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use hyper::client::conn::http1::SendRequest;
use tokio::time::Instant;

use super::OutBody;
use super::connect::Hop;
use super::stream::Received;

const IDLE_MAX: Duration = Duration::from_secs(15);
const IDLE_PER_ROUTE_MAX: usize = 16;
const IDLE_IN_ALL_MAX: usize = 128;

/// Which requests may share a connection: the same scheme, host and port, or the same parent.
pub(super) type Route = String;

/// One HTTP/1.1 connection.
pub(super) struct Connection {
    pub(super) sender: SendRequest<OutBody>,
    /// hyper's end of it; gone when the connection has ended.
    driver: Option<Pin<Box<dyn Future<Output = hyper::Result<()>> + Send>>>,
    /// What has arrived on it so far.
    pub(super) received: Received,
    pub(super) hop: Hop,
}

impl Connection {
    pub(super) fn new(
        sender: SendRequest<OutBody>,
        driver: impl Future<Output = hyper::Result<()>> + Send + 'static,
        received: Received,
        hop: Hop,
    ) -> Self {
        Self { sender, driver: Some(Box::pin(driver)), received, hop }
    }

    /// Moves bytes; ready when the connection has ended.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(driver) = &mut self.driver else { return Poll::Ready(()) };
        // Errors reach whoever waits for the answer or reads its body.
        let ended = driver.as_mut().poll(cx).map(drop);
        if ended.is_ready() {
            self.driver = None;
        }
        ended
    }

    /// Runs a future that needs the connection to be driven.
    pub(super) async fn drive<F: Future>(&mut self, mut future: Pin<&mut F>) -> F::Output {
        std::future::poll_fn(|cx| {
            let _ = self.poll(cx);
            future.as_mut().poll(cx)
        })
        .await
    }

    /// Is it open and between two messages, as far as can be seen?
    fn is_idle(&mut self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        self.poll(&mut cx).is_pending() && self.sender.is_ready()
    }
}

/// See the module head.
#[derive(Default)]
pub(super) struct Pool(Mutex<HashMap<Route, Vec<Idle>>>);

struct Idle {
    connection: Connection,
    since: Instant,
}

impl Pool {
    /// A connection that is still open, the one used last first.
    pub(super) fn take(&self, route: &Route) -> Option<Connection> {
        let mut pool = self.lock();
        let idle = pool.get_mut(route)?;
        while let Some(Idle { mut connection, since }) = idle.pop() {
            if since.elapsed() < IDLE_MAX && connection.is_idle() {
                return Some(connection);
            }
        }
        pool.remove(route);
        None
    }

    /// Keeps a connection whose answer has been read to its end, if there is room and it can be used again.
    pub(super) fn put(&self, route: &Route, mut connection: Connection) {
        if !connection.is_idle() {
            return;
        }
        let mut pool = self.lock();
        if pool.values().map(Vec::len).sum::<usize>() >= IDLE_IN_ALL_MAX {
            sweep(&mut pool);
            if pool.values().map(Vec::len).sum::<usize>() >= IDLE_IN_ALL_MAX {
                return;
            }
        }
        let idle = pool.entry(route.clone()).or_default();
        if idle.len() < IDLE_PER_ROUTE_MAX {
            idle.push(Idle { connection, since: Instant::now() });
        }
    }

    /// Closes what has been idle for long.
    pub(super) fn sweep(&self) {
        sweep(&mut self.lock());
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Route, Vec<Idle>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn sweep(pool: &mut HashMap<Route, Vec<Idle>>) {
    pool.retain(|_, idle| {
        idle.retain(|idle| idle.since.elapsed() < IDLE_MAX);
        !idle.is_empty()
    });
}

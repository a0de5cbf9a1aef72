//! Connections kept open for the next request. A connection is driven by whoever uses it; an idle one is not driven at all
//! and is looked at when it is taken again.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use hyper::client::conn::http1::SendRequest;
use tokio::time::Instant;

use super::OutBody;
use super::connect::Hop;

const IDLE_MAX: Duration = Duration::from_secs(15);
const IDLE_PER_ROUTE_MAX: usize = 16;
const ROUTES_MAX: usize = 64;

/// Which requests may share a connection: the same scheme, host and port, or the same parent.
pub(super) type Route = String;

/// One HTTP/1.1 connection.
pub(super) struct Connection {
    pub(super) sender: SendRequest<OutBody>,
    driver: Pin<Box<dyn Future<Output = hyper::Result<()>> + Send>>,
    pub(super) hop: Hop,
    since: Instant,
}

impl Connection {
    pub(super) fn new(
        sender: SendRequest<OutBody>,
        driver: impl Future<Output = hyper::Result<()>> + Send + 'static,
        hop: Hop,
    ) -> Self {
        Self { sender, driver: Box::pin(driver), hop, since: Instant::now() }
    }

    /// Moves bytes; ready when the connection has ended.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.driver.as_mut().poll(cx).map(|_| ())
    }

    /// Runs a future that needs the connection to be driven.
    pub(super) async fn drive<T>(&mut self, future: impl Future<Output = T>) -> T {
        let mut future = std::pin::pin!(future);
        let mut ended = false;
        std::future::poll_fn(|cx| {
            if !ended {
                ended = self.driver.as_mut().poll(cx).is_ready();
            }
            future.as_mut().poll(cx)
        })
        .await
    }
}

/// See the module head.
#[derive(Default)]
pub(super) struct Pool(Mutex<HashMap<Route, Vec<Connection>>>);

impl Pool {
    /// A connection that is still open as far as can be seen.
    pub(super) fn take(&self, route: &Route) -> Option<Connection> {
        let mut pool = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let idle = pool.get_mut(route)?;
        while let Some(mut connection) = idle.pop() {
            let mut cx = Context::from_waker(Waker::noop());
            let open = connection.since.elapsed() < IDLE_MAX && connection.poll(&mut cx).is_pending();
            if open && connection.sender.is_ready() {
                return Some(connection);
            }
        }
        None
    }

    pub(super) fn put(&self, route: &Route, mut connection: Connection) {
        let mut cx = Context::from_waker(Waker::noop());
        if connection.poll(&mut cx).is_ready() || connection.sender.is_closed() {
            return;
        }
        connection.since = Instant::now();
        let mut pool = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if pool.len() >= ROUTES_MAX && !pool.contains_key(route) {
            pool.retain(|_, idle| {
                idle.retain(|c| c.since.elapsed() < IDLE_MAX);
                !idle.is_empty()
            });
            if pool.len() >= ROUTES_MAX {
                return;
            }
        }
        let idle = pool.entry(route.clone()).or_default();
        if idle.len() < IDLE_PER_ROUTE_MAX {
            idle.push(connection);
        }
    }
}

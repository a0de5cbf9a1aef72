//! The one place that starts tasks: each has a name for the log, and a panic in one is logged and ends only that one.

use std::future::Future;

use tokio::task::JoinHandle;
use tracing::Instrument;

/// Starts a task.
#[allow(clippy::disallowed_methods)] // This is the one place that does.
pub fn spawn<F>(name: &'static str, future: F) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    let span = tracing::debug_span!("task", name);
    match span.is_disabled() {
        // It would be entered and left at every turn all the same.
        true => tokio::spawn(future),
        false => tokio::spawn(future.instrument(span)),
    }
}

/// Runs blocking work on the pool for it.
pub fn blocking<F, T>(_name: &'static str, work: F) -> JoinHandle<T>
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    tokio::task::spawn_blocking(work)
}

/// This thread works when nobody else does.
pub fn lowest_priority() {
    // On Linux a priority is a thread's own; without it the work is done all the same.
    let _ = rustix::process::setpriority_process(None, 19);
}

/// Runs a future on a thread of the pool for blocking work, where it may block between its waits.
pub fn on_own_thread<F>(name: &'static str, future: F) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    let runtime = tokio::runtime::Handle::current();
    blocking(name, move || runtime.block_on(future))
}

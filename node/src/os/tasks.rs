//! The one place that starts tasks: each has a name for the log, and a panic in one is logged and ends only that one.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use futures_util::FutureExt;
use tokio::runtime::{Handle, RuntimeFlavor};
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
    let runtime = Handle::current();
    blocking(name, move || runtime.block_on(future))
}

/// As [`on_own_thread`]; but its first steps, until it waits for the first time, are done when this returns. They may block: other tasks
/// go on elsewhere meanwhile.
pub fn from_here_on_own_thread<F>(name: &'static str, future: F) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    let mut future = Box::pin(future);
    match catch_unwind(AssertUnwindSafe(|| in_place(|| future.as_mut().now_or_never()))) {
        Ok(None) => on_own_thread(name, async {
            // Who waits for what has been done goes first, if it was given the same processor.
            std::thread::yield_now();
            future.await
        }),
        Ok(Some(done)) => spawn(name, async move { done }),
        Err(panic) => spawn(name, async move { resume_unwind(panic) }),
    }
}

/// Blocking work on this very thread, whose other tasks another one takes over where there is one.
fn in_place<T>(work: impl FnOnce() -> T) -> T {
    match Handle::current().runtime_flavor() {
        RuntimeFlavor::MultiThread => tokio::task::block_in_place(work),
        _ => work(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    async fn first_steps_are_made_here() {
        let here = thread::current().id();
        let (first, made) = std::sync::mpsc::channel();
        let rest = from_here_on_own_thread("test", async move {
            first.send(thread::current().id()).unwrap();
            tokio::task::yield_now().await;
            thread::current().id()
        });
        assert_eq!(made.try_recv(), Ok(here));
        assert_ne!(rest.await.unwrap(), here);
        assert_eq!(from_here_on_own_thread("test", async { 1 }).await.unwrap(), 1, "done before it waits");
        assert!(from_here_on_own_thread("test", async { panic!("on purpose") }).await.unwrap_err().is_panic());
    }

    #[tokio::test]
    async fn first_steps_are_made_here_on_one_thread() {
        first_steps_are_made_here().await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn first_steps_are_made_here_on_several_threads() {
        spawn("test", first_steps_are_made_here()).await.unwrap();
    }
}

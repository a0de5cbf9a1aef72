//! Asks the running node over its control socket. One short HTTP/1.1 exchange, blocking.

use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use serde_json::Value;

/// Nobody answers at the socket.
#[derive(Debug, thiserror::Error)]
#[error(
    "no node is running here ({socket}: {error}); start one with `imirror run`, or say which with --config FILE or IMIRROR_SOCKET"
)]
pub(super) struct NotRunning {
    socket: String,
    error: io::Error,
}

/// Sends a request without a body; the answer's body is JSON. Waits as long as it takes.
pub(super) fn ask(socket: &Path, method: &str, path: &str) -> anyhow::Result<Value> {
    ask_within(socket, method, path, None)
}

/// The same; a node from which nothing comes for so long is given up.
pub(super) fn ask_within(socket: &Path, method: &str, path: &str, patience: Option<Duration>) -> anyhow::Result<Value> {
    let not_running = |error| NotRunning { socket: socket.display().to_string(), error };
    let mut stream = UnixStream::connect(socket).map_err(not_running)?;
    stream.set_read_timeout(patience).context("cannot wait for the node")?;
    stream.set_write_timeout(patience).context("cannot wait for the node")?;
    let request = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).map_err(no_answer)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).map_err(no_answer)?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").context("the node gave no proper answer")?;
    let status = head.split(' ').nth(1).unwrap_or_default();
    if status != "200" {
        bail!("the node says: {}", body.trim());
    }
    serde_json::from_str(body).context("the node gave no proper answer")
}

fn no_answer(error: io::Error) -> anyhow::Error {
    match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => anyhow!("the node runs and does not answer"),
        _ => anyhow!("the node hung up: {error}"),
    }
}

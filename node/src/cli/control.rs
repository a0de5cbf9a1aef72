//! Asks the running node over its control socket. One short HTTP/1.1 exchange, blocking.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use anyhow::{Context, bail};
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

/// Sends a request without a body; the answer's body is JSON.
pub(super) fn ask(socket: &Path, method: &str, path: &str) -> anyhow::Result<Value> {
    let not_running = |error| NotRunning { socket: socket.display().to_string(), error };
    let mut stream = UnixStream::connect(socket).map_err(not_running)?;
    let request = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).context("the node hung up")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).context("the node hung up")?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").context("the node gave no proper answer")?;
    let status = head.split(' ').nth(1).unwrap_or_default();
    if status != "200" {
        bail!("the node says: {}", body.trim());
    }
    serde_json::from_str(body).context("the node gave no proper answer")
}

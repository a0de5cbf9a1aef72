//! One request and the head of its answer on one connection.

use std::error::Error;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http::Response;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;

use super::connect::Hop;
use super::pool::Connection;
use super::stream::Stream;
use super::upload::{OutBody, Progress, empty};
use crate::fault::{Cause, Fault};

/// Longest head of an answer.
const HEAD_MAX: usize = 64 * 1024;

/// Speaks HTTP/1.1 on a stream. Bytes are read in pieces of at most `read_max`.
pub(super) async fn open(stream: Stream, hop: Hop, host: &Arc<str>, read_max: usize) -> Result<Connection, Fault> {
    let received = stream.received();
    let opened = http1::Builder::new()
        .title_case_headers(true)
        .max_header_size(HEAD_MAX)
        .max_buf_size(read_max)
        .handshake(TokioIo::new(stream))
        .await;
    let (sender, driver) = opened.map_err(|error| broken(host, &error))?;
    Ok(Connection::new(sender, driver, received, hop))
}

/// Why there is no head of an answer.
pub(super) enum NoHead {
    /// The connection ended without a byte of an answer. An idle one had perhaps been closed before the request came.
    Silence,
    Failed(Fault),
}

impl NoHead {
    pub(super) fn into_fault(self, host: &Arc<str>) -> Fault {
        match self {
            Self::Silence => Fault::new(Cause::Truncated {
                host: host.clone(),
                detail: "it closed the connection without an answer".into(),
            }),
            Self::Failed(fault) => fault,
        }
    }
}

/// Sends a request and waits for the head of the answer: for `patience`, or for so long after an upload last moved.
pub(super) async fn exchange(
    mut connection: Connection,
    request: http::Request<()>,
    body: Option<OutBody>,
    host: &Arc<str>,
    patience: Duration,
) -> Result<(Response<Incoming>, Connection), NoHead> {
    let received_before = connection.received.bytes();
    connection.received.begin_answer();
    let progress = Progress::default();
    let body = body.map_or_else(empty, |body| progress.watch(body));
    let mut answer = pin!(connection.sender.send_request(request.map(|()| body)));
    loop {
        let frames_before = progress.frames();
        let fault = match tokio::time::timeout(patience, connection.drive(answer.as_mut())).await {
            Ok(Ok(response)) => return Ok((response, connection)),
            Ok(Err(error)) => broken(host, &error),
            Err(_) if progress.frames() > frames_before => continue,
            Err(_) => {
                let waited_ms = u64::try_from(patience.as_millis()).unwrap_or(u64::MAX);
                Fault::new(Cause::NoAnswer { host: host.clone(), waited_ms })
            }
        };
        let is_silence =
            matches!(fault.cause, Cause::Truncated { .. }) && connection.received.bytes() == received_before;
        return Err(if is_silence { NoHead::Silence } else { NoHead::Failed(fault) });
    }
}

/// What an error of hyper's means.
pub(super) fn broken(host: &Arc<str>, error: &hyper::Error) -> Fault {
    let mut detail = error.to_string();
    let mut kind = None;
    let mut source = Error::source(error);
    while let Some(inner) = source {
        kind = kind.or_else(|| inner.downcast_ref::<io::Error>().map(io::Error::kind));
        detail = format!("{detail}: {inner}");
        source = inner.source();
    }
    if error.is_user() {
        return Fault::bad_request(format!("the upload broke off: {detail}"));
    }
    // hyper reports bad chunks as errors of the stream.
    let is_malformed =
        error.is_parse() || matches!(kind, Some(io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput));
    let (host, detail) = (host.clone(), detail.into());
    Fault::new(match is_malformed {
        true => Cause::Malformed { host, detail },
        false => Cause::Truncated { host, detail },
    })
}

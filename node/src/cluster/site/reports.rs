//! What nodes ask each other for people to see: a few words that name it, answered by a text to the end of the stream. What the words
//! mean is the host's business.

use std::io;
use std::time::Duration;

use imirror_protocol::NodeId;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::{Host, Site};
use crate::cluster::links::{PeerStream, Request};

/// Bytes of a question.
const QUESTION_MAX: u64 = 64;

/// Bytes of an answer; one that is longer counts as none.
const ANSWER_MAX: u64 = 1024 * 1024;

/// For a peer to take an answer, or to end its question.
const STALL: Duration = Duration::from_secs(2);

impl Site {
    /// What a peer says to a question; nothing if it does not within this time, or is of an earlier version.
    pub async fn ask_report(&self, peer: NodeId, question: &str, patience: Duration) -> Option<Vec<u8>> {
        let asked = async {
            let mut stream = self.open_stream(peer, Request::Report).await?;
            stream.write_all(question.as_bytes()).await?;
            stream.shutdown().await?;
            let mut answer = Vec::new();
            stream.take(ANSWER_MAX + 1).read_to_end(&mut answer).await?;
            io::Result::Ok(answer)
        };
        let answer = timeout(patience, asked).await.ok()?.ok()?;
        (!answer.is_empty() && answer.len() as u64 <= ANSWER_MAX).then_some(answer)
    }
}

/// Answers one question of a peer; one that the host knows nothing of by nothing.
pub(super) async fn answer(mut stream: PeerStream, host: &dyn Host) {
    let mut question = Vec::new();
    let mut asked = (&mut stream).take(QUESTION_MAX);
    if !matches!(timeout(STALL, asked.read_to_end(&mut question)).await, Ok(Ok(_))) {
        return;
    }
    let text = std::str::from_utf8(&question).ok().and_then(|question| host.report(question));
    let told = async {
        stream.write_all(text.unwrap_or_default().as_bytes()).await?;
        stream.shutdown().await
    };
    if matches!(timeout(STALL, told).await, Ok(Ok(()))) {
        stream.sent().await;
    }
}

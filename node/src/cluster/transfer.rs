//! Asks a peer for an object, over a stream that somebody else has opened.
//!
//! Of a finished object no byte is passed on that has not been checked against the object's name; a growing one comes as it grows,
//! and whoever reads it checks it at the end. Knows no connection and no store. Everything may be dropped at any time, and nothing
//! is left running; `next` may also be dropped and called again.

use std::collections::VecDeque;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use imirror_protocol::transfer::{Answer, Finished, GROUP, Get, Growing, SPANS_MAX, Span, Want, groups_of, is_piece};
use imirror_protocol::wire::{self, Few};
use imirror_protocol::{Key, NodeId, Outcome};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::fault::{Cause, Fault, Retry, Whose};
use crate::store::{GroupList, ObjectId};

/// Bytes of the list that are read at once: a peer that claims a great object costs no more memory than it sends.
const LIST_STEP: usize = 64 * 1024;

/// What is asked for.
#[derive(Debug, Clone)]
pub struct Question {
    pub key: Key,
    pub known: Known,
    pub want: Want,
    /// At most `SPANS_MAX`; none mean all. Of a growing object only the first counts.
    pub spans: Vec<Span>,
}

/// What is known of the content already.
#[derive(Debug, Clone)]
pub enum Known {
    /// Nothing: any version will do.
    Nothing,
    /// Only this will do.
    Object(ObjectId),
    /// Only this will do, and its list need not come again.
    List(Arc<GroupList>),
}

/// How long to wait for a peer.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// For its first words.
    pub first_byte: Duration,
    /// For the next bytes.
    pub stall: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { first_byte: Duration::from_millis(200), stall: Duration::from_millis(200) }
    }
}

/// What the peer said.
#[derive(Debug)]
pub enum Reply<S> {
    NotHere,
    Busy,
    /// Only the head was asked for, and all is there.
    Head(Finished),
    /// Only the head was asked for, and the content is still coming.
    GrowingHead(Growing),
    Finished(Incoming<S>),
    Growing(Following<S>),
}

/// Why a transfer ended early, and who is to blame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    pub peer: NodeId,
    pub what: What,
}

/// What the peer did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// It sent nothing for so long.
    Stalled(Duration),
    /// The stream ended early or could not be used, or it said that the rest will not come.
    Broken,
    /// It sent what cannot be right.
    Wrong(&'static str),
}

/// A finished object on its way.
#[derive(Debug)]
pub struct Incoming<S> {
    source: Source<S>,
    finished: Finished,
    list: Arc<GroupList>,
    groups: VecDeque<Range<u64>>,
}

/// A growing object on its way.
#[derive(Debug)]
pub struct Following<S> {
    source: Source<S>,
    growing: Growing,
    /// Where the span begins.
    first: u64,
    /// What is still to come; the end is the greatest there may be.
    left: Range<u64>,
    end: Option<Option<(ObjectId, u64)>>,
}

/// Asks. `stream` is a fresh one of `peer`, its tag already sent.
pub async fn ask<S>(peer: NodeId, stream: S, question: &Question, patience: Patience) -> Result<Reply<S>, Trouble>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (known, list) = match &question.known {
        Known::Nothing => (None, None),
        Known::Object(object) => (Some(*object), None),
        Known::List(list) => (Some(list.object()), Some(list.clone())),
    };
    let get = Get {
        key: question.key,
        known: known.map(|object| object.0),
        want: question.want,
        list: list.is_none(),
        spans: Few::of(question.spans.iter().copied()),
    };
    debug_assert!(question.spans.len() <= SPANS_MAX, "more spans than fit a request");
    let mut source = Source { peer, stream, buffer: BytesMut::new(), patience: patience.first_byte };
    source.send(&get.encode()).await?;
    let answer = source.answer().await?;
    source.patience = patience.stall;
    match answer {
        Answer::NotHere => Ok(Reply::NotHere),
        Answer::Busy => Ok(Reply::Busy),
        Answer::Finished(finished) => {
            if known.is_some_and(|object| object.0 != finished.object) {
                return Err(source.wrong("another object than was asked for"));
            }
            if question.want == Want::Head {
                return Ok(Reply::Head(finished));
            }
            let list = match list {
                Some(list) if list.size() == finished.size => list,
                Some(_) => return Err(source.wrong("another size than the object has")),
                None => Arc::new(source.list(&finished).await?),
            };
            let groups = groups_of(&question.spans, finished.size).into();
            Ok(Reply::Finished(Incoming { source, finished, list, groups }))
        }
        Answer::Growing(growing) if question.want == Want::Head => Ok(Reply::GrowingHead(growing)),
        Answer::Growing(growing) => {
            let span = question.spans.first().copied().unwrap_or(Span { start: 0, end: u64::MAX });
            let left = span.start..span.end.min(growing.total.unwrap_or(u64::MAX));
            Ok(Reply::Growing(Following { source, growing, first: span.start, left, end: None }))
        }
        _ => Err(source.wrong("an answer out of its turn")),
    }
}

impl<S: AsyncRead + Unpin> Incoming<S> {
    /// What the peer says of the object; its name and, but for the length of the last group, its size are proven.
    pub fn finished(&self) -> &Finished {
        &self.finished
    }

    /// For the same object from other peers.
    pub fn list(&self) -> &Arc<GroupList> {
        &self.list
    }

    /// The next group, checked, and its offset; `None` after the last that was asked for. After trouble there is no use in
    /// another call: ask another peer for what is missing.
    pub async fn next(&mut self) -> Result<Option<(u64, Bytes)>, Trouble> {
        let Some(index) = self.groups.front().map(|groups| groups.start) else { return Ok(None) };
        let start = index * GROUP;
        let length = usize::try_from((self.finished.size - start).min(GROUP)).unwrap_or(0);
        self.source.fill(length).await?;
        if !self.list.is_right(index, &self.source.buffer[..length]) {
            return Err(self.source.wrong("bytes that are not the object's"));
        }
        let group = self.source.buffer.split_to(length).freeze();
        if let Some(groups) = self.groups.front_mut() {
            groups.start += 1;
        }
        self.groups.pop_front_if(|groups| groups.is_empty());
        Ok(Some((start, group)))
    }
}

impl<S: AsyncRead + Unpin> Following<S> {
    /// What the peer says of the object.
    pub fn growing(&self) -> &Growing {
        &self.growing
    }

    /// The next bytes and their offset, not checked; `None` when the span is through.
    pub async fn next(&mut self) -> Result<Option<(u64, Bytes)>, Trouble> {
        while self.end.is_none() {
            match self.source.hear().await? {
                // The peer waits itself, and says so.
                Heard::Piece(bytes) if bytes.is_empty() => {}
                Heard::Piece(bytes) => {
                    let start = self.left.start;
                    if bytes.len() as u64 > self.left.end.saturating_sub(start) {
                        return Err(self.source.wrong("more than was asked for"));
                    }
                    self.left.start += bytes.len() as u64;
                    return Ok(Some((start, bytes)));
                }
                Heard::Said(Answer::Complete(object)) => {
                    let size = object.map(|(_, size)| size).or(self.growing.total);
                    let contradicts = self.growing.total.is_some_and(|total| size != Some(total));
                    let short = size.is_none_or(|size| self.left.start < self.left.end.min(size));
                    // Who has asked beyond the end has got nothing, and nobody is to blame.
                    let long = size.is_some_and(|size| self.left.start > size.max(self.first));
                    // Without a size it may only be through when the span is.
                    if contradicts || long || (short && !self.left.is_empty()) {
                        return Err(self.source.wrong("an end before the end, or after it"));
                    }
                    self.end = Some(object.map(|(object, size)| (ObjectId(object), size)));
                }
                Heard::Said(Answer::BrokenOff) => return Err(self.source.trouble(What::Broken)),
                Heard::Said(_) => return Err(self.source.wrong("an answer out of its turn")),
            }
        }
        Ok(None)
    }

    /// After the last bytes: what the peer says the whole object is, if it was completed.
    pub fn completed(&self) -> Option<(ObjectId, u64)> {
        self.end.flatten()
    }
}

/// A frame of a peer.
enum Heard {
    Piece(Bytes),
    Said(Answer),
}

/// A stream of a peer, what has been read of it, and how long to wait for more.
#[derive(Debug)]
struct Source<S> {
    peer: NodeId,
    stream: S,
    /// Kept between calls, so that a call may be dropped in the middle.
    buffer: BytesMut,
    patience: Duration,
}

impl<S: AsyncWrite + Unpin> Source<S> {
    async fn send(&mut self, bytes: &[u8]) -> Result<(), Trouble> {
        let stream = &mut self.stream;
        let sending = async {
            stream.write_all(bytes).await?;
            stream.shutdown().await
        };
        match tokio::time::timeout(self.patience, sending).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(self.trouble(What::Broken)),
            Err(_) => Err(self.trouble(What::Stalled(self.patience))),
        }
    }
}

impl<S: AsyncRead + Unpin> Source<S> {
    /// Reads until so many bytes are in the buffer.
    async fn fill(&mut self, length: usize) -> Result<(), Trouble> {
        self.buffer.reserve(length.saturating_sub(self.buffer.len()));
        while self.buffer.len() < length {
            let missing = (length - self.buffer.len()) as u64;
            let mut stream = (&mut self.stream).take(missing);
            match tokio::time::timeout(self.patience, stream.read_buf(&mut self.buffer)).await {
                Ok(Ok(1..)) => {}
                Ok(_) => return Err(self.trouble(What::Broken)),
                Err(_) => return Err(self.trouble(What::Stalled(self.patience))),
            }
        }
        Ok(())
    }

    /// The answer to the question. A peer that has to wait itself says so by empty pieces.
    async fn answer(&mut self) -> Result<Answer, Trouble> {
        loop {
            match self.hear().await? {
                Heard::Said(answer) => return Ok(answer),
                Heard::Piece(bytes) if bytes.is_empty() => {}
                Heard::Piece(_) => return Err(self.wrong("an answer out of its turn")),
            }
        }
    }

    /// The next frame; kinds of later versions are skipped.
    async fn hear(&mut self) -> Result<Heard, Trouble> {
        loop {
            let mut head = 2;
            let header = loop {
                self.fill(head).await?;
                match wire::header(&self.buffer[..head]) {
                    Ok(Some(header)) => break header,
                    Ok(None) => head += 1,
                    Err(_) => return Err(self.wrong("a frame with a wrong length")),
                }
            };
            let length = header.head + header.body;
            self.fill(length).await?;
            let mut frame = self.buffer.split_to(length).freeze();
            if is_piece(header.kind) {
                return Ok(Heard::Piece(frame.split_off(header.head)));
            }
            match Answer::decode(&frame) {
                Ok(Some(answer)) => return Ok(Heard::Said(answer)),
                Ok(None) => {}
                Err(_) => return Err(self.wrong("an answer that makes no sense")),
            }
        }
    }

    /// The list of chaining values, checked against the object's name.
    async fn list(&mut self, finished: &Finished) -> Result<GroupList, Trouble> {
        let object = ObjectId(finished.object);
        // Bounded by the greatest size that a message may tell.
        let mut left = usize::try_from(GroupList::len_of(finished.size) * 32).unwrap_or(usize::MAX);
        let mut values = Vec::new();
        while left > 0 {
            let step = left.min(LIST_STEP);
            self.fill(step).await?;
            values.extend_from_slice(self.buffer.split_to(step).as_chunks::<32>().0);
            left -= step;
        }
        GroupList::new(object, finished.size, values).ok_or_else(|| self.wrong("a list that is not the object's"))
    }
}

impl<S> Source<S> {
    fn trouble(&self, what: What) -> Trouble {
        Trouble { peer: self.peer, what }
    }

    fn wrong(&self, what: &'static str) -> Trouble {
        self.trouble(What::Wrong(what))
    }
}

impl Trouble {
    /// What to tell the cluster, which chooses whom to ask next.
    pub fn outcome(&self) -> Outcome {
        match self.what {
            What::Stalled(_) => Outcome::Stalled,
            What::Broken => Outcome::Broken,
            What::Wrong(_) => Outcome::Wrong,
        }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.what {
            What::Stalled(waited) => write!(f, "the peer {:?} sent nothing for {waited:?}", self.peer),
            What::Broken => write!(f, "the peer {:?} broke off", self.peer),
            What::Wrong(what) => write!(f, "the peer {:?} sent {what}", self.peer),
        }
    }
}

impl std::error::Error for Trouble {}

impl From<Trouble> for Fault {
    fn from(trouble: Trouble) -> Self {
        let host = format!("the peer {:?}", trouble.peer).into();
        let cause = match trouble.what {
            What::Stalled(waited) => {
                Cause::Stalled { host, waited_ms: u64::try_from(waited.as_millis()).unwrap_or(u64::MAX) }
            }
            What::Broken => Cause::Truncated { host, detail: "the stream ended early".into() },
            What::Wrong(what) => Cause::Malformed { host, detail: what.into() },
        };
        Self { whose: Whose::Peer, retry: Retry::OtherSource, cause }
    }
}

#[cfg(test)]
mod tests;

//! How one node asks another for an object: the words on a stream of its own, before and between the bytes of the content.
//!
//! The asker sends one [`Get`]; the peer answers with one [`Answer`]. After [`Answer::Finished`] come, without frames, the list of
//! chaining values (if it was asked for) and the whole groups that cover the spans, in ascending order ([`groups_of`]); a stream that
//! ends before is broken off. After [`Answer::Growing`] come [`Answer::Piece`]s of the first span as the bytes arrive (an empty one
//! says that the peer itself is waiting), and [`Answer::Complete`] or [`Answer::BrokenOff`]. When only the head was asked for nothing
//! follows it. Ages are told and no times: the clocks of two nodes are never compared.
//!
//! As in [`crate::message`], a kind's number and its fields in their order are for ever; a later version may append fields and kinds.

use alloc::vec::Vec;
use core::ops::Range;

use serde::{Deserialize, Serialize};

use crate::identity::Key;
use crate::wire::{BODY_MAX, Few, FewBytes, WireError, frame, frame_head, split};

/// Bytes of a group, the least that can be checked by itself: 64 chunks of BLAKE3.
pub const GROUP: u64 = 64 * 1024;
/// The greatest object that is transferred, in bytes: its list takes 32 MiB.
pub const OBJECT_MAX: u64 = 64 << 30;
/// Spans in one request.
pub const SPANS_MAX: usize = 16;
/// Fields in a head.
pub const FIELDS_MAX: usize = 64;
/// Bytes of a field's name.
pub const FIELD_NAME_MAX: usize = 128;
/// Bytes of a field's value.
pub const FIELD_VALUE_MAX: usize = 8 * 1024;
/// Bytes of the URL that an object is known by.
pub const NAME_MAX: usize = 16 * 1024;
/// Bytes of a repository's digest (SHA-512).
pub const DIGEST_MAX: usize = 64;
/// Bytes in a [`Answer::Piece`].
pub const PIECE_MAX: usize = BODY_MAX;

/// The kind of [`Get`].
const GET: u8 = 1;
const GET_MAX: usize = 1024;
const HEAD_MAX: usize = 48 * 1024;
const WORD_MAX: usize = 128;

/// Asks for an object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Get {
    /// What.
    pub key: Key,
    /// Only this very content will do (BLAKE3): what is missing of it is asked for.
    pub known: Option<[u8; 32]>,
    /// How much of the answer.
    pub want: Want,
    /// Whether the list of chaining values is to come before the content. Whoever has it already can do without.
    pub list: bool,
    /// Which bytes. None: all.
    pub spans: Few<Span, SPANS_MAX>,
}

/// How much of an answer is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Want {
    /// Only what is known of the object.
    Head,
    /// That and the content.
    Content,
}

/// Bytes from `start` to before `end`; an end after the object's means its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    /// The first byte.
    pub start: u64,
    /// The byte after the last.
    pub end: u64,
}

/// What upstream said of an object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description {
    /// The status of upstream's answer.
    pub status: u16,
    /// Its fields that are worth keeping.
    pub fields: Few<Field, FIELDS_MAX>,
    /// Which class the asked node counts it to, by the number that both sides give it.
    pub class: u8,
    /// A digest that the content was or will be checked against.
    pub digest: Option<Digest>,
    /// The URL of which the key is the hash: whoever copies it for others has not been asked for it by that.
    pub name: FewBytes<NAME_MAX>,
}

/// A field of a head.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Field {
    /// Its name.
    pub name: FewBytes<FIELD_NAME_MAX>,
    /// Its value.
    pub value: FewBytes<FIELD_VALUE_MAX>,
}

/// A digest that a repository names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Digest {
    /// By the number that both sides give it.
    pub algorithm: u8,
    /// The digest.
    pub bytes: FewBytes<DIGEST_MAX>,
}

/// An object that is all there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finished {
    /// What upstream said.
    pub description: Description,
    /// The BLAKE3 of the content.
    pub object: [u8; 32],
    /// Its length in bytes, at most [`OBJECT_MAX`].
    pub size: u64,
    /// How long ago it was stored, in milliseconds.
    pub stored_age: u64,
    /// How long ago upstream confirmed that it was current, in milliseconds.
    pub confirmed_age: u64,
}

/// An object that is still coming.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Growing {
    /// What upstream said.
    pub description: Description,
    /// Its length in bytes, if upstream told it.
    pub total: Option<u64>,
}

/// Everything that is said to a [`Get`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Answer {
    /// It is all there.
    Finished(Finished),
    /// It is still coming.
    Growing(Growing),
    /// It is not here, or not in the version asked for.
    NotHere,
    /// It may be here, but the asked node has enough to do.
    Busy,
    /// The next bytes of a growing object, at most [`PIECE_MAX`].
    Piece(Vec<u8>),
    /// The span of a growing object is through. With its BLAKE3 and its length when it has been completed.
    Complete(Option<([u8; 32], u64)>),
    /// The rest of a growing object will not come from here.
    BrokenOff,
}

/// The kinds of answers.
mod kind {
    pub(super) const FINISHED: u8 = 2;
    pub(super) const GROWING: u8 = 3;
    pub(super) const NOT_HERE: u8 = 4;
    pub(super) const BUSY: u8 = 5;
    pub(super) const PIECE: u8 = 6;
    pub(super) const COMPLETE: u8 = 7;
    pub(super) const BROKEN_OFF: u8 = 8;
}

impl Get {
    /// The frame of this request.
    pub fn encode(&self) -> Vec<u8> {
        // Fails only for what has no bound: the spans have one.
        frame(GET, &postcard::to_allocvec(self).unwrap_or_default())
    }

    /// The request in a frame. `None` for a kind unknown to this version.
    ///
    /// # Errors
    /// Bytes that are no frame, or a frame that is not what its kind promises.
    pub fn decode(bytes: &[u8]) -> Result<Option<Self>, WireError> {
        let (kind, body, _) = split(bytes)?;
        if kind == GET { bounded(body, GET_MAX).map(Some) } else { Ok(None) }
    }

    /// The greatest body of a request, in bytes: a reader takes no more.
    pub const BODY_MAX: usize = GET_MAX;
}

impl Answer {
    /// The frame of this answer.
    ///
    /// # Errors
    /// `TooLong`: upstream's head does not fit.
    pub fn encode(&self) -> Result<Vec<u8>, WireError> {
        let (kind, body, bound) = match self {
            Self::Finished(finished) => (kind::FINISHED, postcard::to_allocvec(finished), HEAD_MAX),
            Self::Growing(growing) => (kind::GROWING, postcard::to_allocvec(growing), HEAD_MAX),
            Self::NotHere => (kind::NOT_HERE, Ok(Vec::new()), WORD_MAX),
            Self::Busy => (kind::BUSY, Ok(Vec::new()), WORD_MAX),
            Self::Piece(bytes) if bytes.len() <= PIECE_MAX => return Ok(frame(kind::PIECE, bytes)),
            Self::Piece(_) => return Err(WireError::TooLong),
            Self::Complete(object) => (kind::COMPLETE, postcard::to_allocvec(object), WORD_MAX),
            Self::BrokenOff => (kind::BROKEN_OFF, Ok(Vec::new()), WORD_MAX),
        };
        let body = body.map_err(|_| WireError::BadBody)?;
        if body.len() <= bound { Ok(frame(kind, &body)) } else { Err(WireError::TooLong) }
    }

    /// The answer in a frame. `None` for a kind unknown to this version.
    ///
    /// # Errors
    /// Bytes that are no frame, or a frame that is not what its kind promises.
    pub fn decode(bytes: &[u8]) -> Result<Option<Self>, WireError> {
        let (kind, body, _) = split(bytes)?;
        Ok(Some(match kind {
            kind::FINISHED => {
                let finished: Finished = bounded(body, HEAD_MAX)?;
                if finished.size > OBJECT_MAX {
                    return Err(WireError::TooLong);
                }
                Self::Finished(finished)
            }
            kind::GROWING => {
                let growing: Growing = bounded(body, HEAD_MAX)?;
                if growing.total.is_some_and(|total| total > OBJECT_MAX) {
                    return Err(WireError::TooLong);
                }
                Self::Growing(growing)
            }
            kind::NOT_HERE => Self::NotHere,
            kind::BUSY => Self::Busy,
            kind::PIECE => Self::Piece(body.to_vec()),
            kind::COMPLETE => Self::Complete(bounded(body, WORD_MAX)?),
            kind::BROKEN_OFF => Self::BrokenOff,
            _ => return Ok(None),
        }))
    }
}

/// The head of a frame with a piece of so many bytes (at most [`PIECE_MAX`]), for a sender that has the bytes elsewhere.
pub fn piece_head(length: usize) -> Vec<u8> {
    frame_head(kind::PIECE, length)
}

/// Is it the kind of a piece? Then the body of the frame is the bytes themselves.
pub fn is_piece(kind: u8) -> bool {
    kind == kind::PIECE
}

impl Field {
    /// `None` when it is too long to be told.
    pub fn new(name: &[u8], value: &[u8]) -> Option<Self> {
        let fits = name.len() <= FIELD_NAME_MAX && value.len() <= FIELD_VALUE_MAX;
        fits.then(|| Self { name: FewBytes::of(name), value: FewBytes::of(value) })
    }
}

/// How many groups an object of `size` bytes has.
pub const fn group_count(size: u64) -> u64 {
    size.div_ceil(GROUP)
}

/// The indices of the groups that cover the spans of an object of `size` bytes: ascending, apart from each other, each once.
/// No spans mean all.
pub fn groups_of(spans: &[Span], size: u64) -> Vec<Range<u64>> {
    if spans.is_empty() {
        return (size > 0).then(|| 0..group_count(size)).into_iter().collect();
    }
    let mut wanted: Vec<_> = spans
        .iter()
        .map(|span| span.start..span.end.min(size))
        .filter(|bytes| !bytes.is_empty())
        .map(|bytes| bytes.start / GROUP..group_count(bytes.end))
        .collect();
    wanted.sort_unstable_by_key(|groups| groups.start);
    let mut apart: Vec<Range<u64>> = Vec::with_capacity(wanted.len());
    for groups in wanted {
        match apart.last_mut() {
            Some(last) if groups.start <= last.end => last.end = last.end.max(groups.end),
            _ => apart.push(groups),
        }
    }
    apart
}

fn bounded<'a, T: Deserialize<'a>>(body: &'a [u8], bound: usize) -> Result<T, WireError> {
    if body.len() > bound {
        return Err(WireError::TooLong);
    }
    // What is left over is from a later version.
    postcard::take_from_bytes(body).map(|(fields, _)| fields).map_err(|_| WireError::BadBody)
}

#[cfg(test)]
mod tests;

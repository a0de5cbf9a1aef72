//! Frames: how messages are told apart on a stream or in a datagram, and what is checked before a byte is believed.
//!
//! A frame is a kind (one byte), a length (one to three bytes, seven bits each, low bits first) and a body. A kind that this
//! version does not know is skipped by its length; bytes after the fields that this version knows are ignored. So versions can add
//! both. The length is held against a bound before a reader sets memory aside.

use alloc::vec::Vec;
use core::fmt;
use core::marker::PhantomData;
use core::ops::Deref;

use serde::de::{Deserialize, Deserializer, Error, SeqAccess, Visitor};
use serde::ser::{Serialize, SerializeSeq, Serializer};

/// The greatest body of any frame, in bytes, of known kinds or not.
pub const BODY_MAX: usize = 64 * 1024;

/// The greatest frame that is sent as a datagram: fits QUIC's datagrams before path MTU discovery has raised them.
pub const DATAGRAM_MAX: usize = 1100;

/// The greatest header of a frame: kind and length.
pub const HEADER_MAX: usize = 4;

/// What is wrong with some bytes that a peer sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WireError {
    /// The body is longer than its kind may be.
    TooLong,
    /// The length is spelled in more bytes than it may be, or there are bytes missing.
    BadLength,
    /// The body is not what its kind promises.
    BadBody,
}

/// The head of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Which message follows.
    pub kind: u8,
    /// Bytes of the head itself.
    pub head: usize,
    /// Bytes of the body after it, at most [`BODY_MAX`].
    pub body: usize,
}

/// Reads the head of a frame from the beginning of `bytes`, for a driver that reads a stream: `None` means that more bytes are
/// needed, never more than [`HEADER_MAX`].
///
/// # Errors
/// A length that is too great or badly spelled: nothing after it can be read, so the stream must be given up.
pub fn header(bytes: &[u8]) -> Result<Option<Header>, WireError> {
    let Some((kind, rest)) = bytes.split_first() else {
        return Ok(None);
    };
    let mut body = 0;
    for (place, byte) in rest.iter().take(HEADER_MAX - 1).enumerate() {
        body |= usize::from(byte & 0x7f) << (7 * place);
        if byte & 0x80 == 0 {
            return if body <= BODY_MAX {
                Ok(Some(Header { kind: *kind, head: place + 2, body }))
            } else {
                Err(WireError::TooLong)
            };
        }
    }
    if rest.len() < HEADER_MAX - 1 { Ok(None) } else { Err(WireError::BadLength) }
}

/// The first frame in `bytes`, taken apart: kind, body, and what comes after it.
pub(crate) fn split(bytes: &[u8]) -> Result<(u8, &[u8], &[u8]), WireError> {
    let header = header(bytes)?.ok_or(WireError::BadLength)?;
    let rest = &bytes[header.head..];
    if rest.len() < header.body {
        return Err(WireError::BadLength);
    }
    let (body, rest) = rest.split_at(header.body);
    Ok((header.kind, body, rest))
}

/// One frame. `body` must be within [`BODY_MAX`]: what we send is our own responsibility.
pub(crate) fn frame(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER_MAX + body.len());
    bytes.extend_from_slice(&frame_head(kind, body.len()));
    bytes.extend_from_slice(body);
    bytes
}

/// The head of a frame with a body of so many bytes.
pub(crate) fn frame_head(kind: u8, mut length: usize) -> Vec<u8> {
    debug_assert!(length <= BODY_MAX, "a message of kind {kind} outgrew its frame");
    let mut bytes = Vec::with_capacity(HEADER_MAX);
    bytes.push(kind);
    while length > 0x7f {
        bytes.push(length as u8 | 0x80);
        length >>= 7;
    }
    bytes.push(length as u8);
    bytes
}

/// A list of at most `MAX` items, on the wire as in memory: a longer one is refused before memory is set aside for it.
#[derive(Clone, PartialEq, Eq)]
pub struct Few<T, const MAX: usize>(Vec<T>);

impl<T, const MAX: usize> Few<T, MAX> {
    /// The first `MAX` of the items.
    pub fn of(items: impl IntoIterator<Item = T>) -> Self {
        Self(items.into_iter().take(MAX).collect())
    }
}

impl<T, const MAX: usize> Default for Few<T, MAX> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T, const MAX: usize> Deref for Few<T, MAX> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.0
    }
}

impl<T, const MAX: usize> IntoIterator for Few<T, MAX> {
    type Item = T;
    type IntoIter = alloc::vec::IntoIter<T>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<T: fmt::Debug, const MAX: usize> fmt::Debug for Few<T, MAX> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<T: Serialize, const MAX: usize> Serialize for Few<T, MAX> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut seq = serializer.serialize_seq(Some(self.0.len()))?;
        self.0.iter().try_for_each(|item| seq.serialize_element(item))?;
        seq.end()
    }
}

impl<'de, T: Deserialize<'de>, const MAX: usize> Deserialize<'de> for Few<T, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(FewVisitor::<T, MAX>(PhantomData))
    }
}

struct FewVisitor<T, const MAX: usize>(PhantomData<T>);

impl<'de, T: Deserialize<'de>, const MAX: usize> Visitor<'de> for FewVisitor<T, MAX> {
    type Value = Few<T, MAX>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at most {MAX} items")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        // Without this a list of empty items could be as long as its four-byte length can say.
        const { assert!(size_of::<T>() > 0) };
        let claimed = seq.size_hint().unwrap_or(0);
        if claimed > MAX {
            return Err(A::Error::invalid_length(claimed, &self));
        }
        // The claim costs the peer nothing, so it is believed only so far.
        let mut items = Vec::with_capacity(claimed.min(32));
        while let Some(item) = seq.next_element()? {
            if items.len() == MAX {
                return Err(A::Error::invalid_length(MAX + 1, &self));
            }
            items.push(item);
        }
        Ok(Few(items))
    }
}

/// A field that was appended to a message after its first version: its default where an older sender says nothing of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Later<T>(pub T);

impl<T: Serialize> Serialize for Later<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de, T: Deserialize<'de> + Default> Deserialize<'de> for Later<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // The end of the message looks like any other fault here, so all are taken for it.
        Ok(Self(T::deserialize(deserializer).unwrap_or_default()))
    }
}

/// An item of a list to which fields were appended after the first version; they are not among those that serde knows of.
pub trait Grown {
    /// What was appended.
    type More: Default + Serialize;

    /// The appended fields.
    fn more(&self) -> Self::More;

    /// Puts the appended fields in.
    fn grow(&mut self, more: Self::More);
}

/// A list of at most `MAX` items that have [`Grown`]: first all of them as they once were, then what was appended to each. An older
/// reader ignores the second list; where an older sender leaves it out, the fields keep their defaults.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrownFew<T, const MAX: usize>(Few<T, MAX>);

impl<T, const MAX: usize> GrownFew<T, MAX> {
    /// The first `MAX` of the items.
    pub fn of(items: impl IntoIterator<Item = T>) -> Self {
        Self(Few::of(items))
    }
}

impl<T, const MAX: usize> Deref for GrownFew<T, MAX> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.0
    }
}

impl<T: Grown + Serialize, const MAX: usize> Serialize for GrownFew<T, MAX> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (&self.0, Few::<T::More, MAX>::of(self.iter().map(T::more))).serialize(serializer)
    }
}

impl<'de, T: Grown<More: Deserialize<'de>> + Deserialize<'de>, const MAX: usize> Deserialize<'de> for GrownFew<T, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (mut items, Later(more)) = <(Few<T, MAX>, Later<Few<T::More, MAX>>)>::deserialize(deserializer)?;
        items.0.iter_mut().zip(more).for_each(|(item, more)| item.grow(more));
        Ok(Self(items))
    }
}

/// Bytes, at most `MAX`, copied as a whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FewBytes<const MAX: usize>(Vec<u8>);

impl<const MAX: usize> FewBytes<MAX> {
    /// The first `MAX` of the bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(bytes[..bytes.len().min(MAX)].to_vec())
    }
}

impl<const MAX: usize> Deref for FewBytes<MAX> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl<const MAX: usize> Serialize for FewBytes<MAX> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de, const MAX: usize> Deserialize<'de> for FewBytes<MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = <&[u8]>::deserialize(deserializer)?;
        if bytes.len() > MAX {
            return Err(D::Error::invalid_length(bytes.len(), &"fewer bytes"));
        }
        Ok(Self(bytes.to_vec()))
    }
}

impl fmt::Display for WireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooLong => "a message longer than its kind may be",
            Self::BadLength => "a message whose length is wrong",
            Self::BadBody => "a message whose contents make no sense",
        })
    }
}

impl core::error::Error for WireError {}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn heads_are_read_from_as_few_bytes_as_they_have() {
        assert_eq!(header(&[]), Ok(None));
        assert_eq!(header(&[7]), Ok(None));
        assert_eq!(header(&[7, 5]), Ok(Some(Header { kind: 7, head: 2, body: 5 })));
        assert_eq!(header(&[7, 0x85, 1]), Ok(Some(Header { kind: 7, head: 3, body: 133 })));
        assert_eq!(header(&[7, 0x80, 0x80]), Ok(None));
        assert_eq!(header(&[7, 0x80, 0x80, 4]), Ok(Some(Header { kind: 7, head: 4, body: BODY_MAX })));
        assert_eq!(header(&[7, 0x81, 0x80, 4]), Err(WireError::TooLong));
        assert_eq!(header(&[7, 0x80, 0x80, 0x80]), Err(WireError::BadLength));
    }

    #[test]
    fn lists_are_refused_before_they_are_read() {
        let claim = postcard::to_allocvec(&u64::MAX).unwrap();
        assert!(postcard::from_bytes::<Few<u8, 9>>(&claim).is_err());
        let ten = postcard::to_allocvec(&alloc::vec![0u8; 10]).unwrap();
        assert!(postcard::from_bytes::<Few<u8, 9>>(&ten).is_err());
        assert!(postcard::from_bytes::<FewBytes<9>>(&ten).is_err());
        assert_eq!(postcard::from_bytes::<FewBytes<10>>(&ten).unwrap().len(), 10);
    }

    proptest! {
        #[test]
        fn frames_are_read_back(kind: u8, body in prop::collection::vec(any::<u8>(), 0..300), after: Vec<u8>) {
            let mut bytes = frame(kind, &body);
            bytes.extend_from_slice(&after);
            prop_assert_eq!(split(&bytes), Ok((kind, &body[..], &after[..])));
        }

        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            let _ = split(&bytes);
        }
    }
}

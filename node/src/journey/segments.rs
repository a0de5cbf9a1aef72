//! Which bytes of a content an answer has, in order: texts of a multipart answer and ranges of the content.

use std::collections::VecDeque;
use std::ops::Range;

use bytes::Bytes;

/// One step of an answer's body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Segment {
    Text(Bytes),
    Data(Range<u64>),
}

/// The steps still to be taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segments {
    /// The range being sent; an end of `u64::MAX` is wherever the content ends.
    current: Range<u64>,
    rest: VecDeque<Segment>,
}

impl Segments {
    pub fn none() -> Self {
        Self { current: 0..0, rest: VecDeque::new() }
    }

    pub fn range(range: Range<u64>) -> Self {
        Self { current: range, rest: VecDeque::new() }
    }

    /// All of a content, whose length may not be known yet.
    pub fn whole(length: Option<u64>) -> Self {
        Self::range(0..length.unwrap_or(u64::MAX))
    }

    pub fn multipart(segments: impl IntoIterator<Item = Segment>) -> Self {
        Self { current: 0..0, rest: segments.into_iter().collect() }
    }

    /// Takes the text that comes next, if a text does.
    pub fn text(&mut self) -> Option<Bytes> {
        if !self.current.is_empty() {
            return None;
        }
        match self.rest.pop_front()? {
            Segment::Text(text) => Some(text),
            data => {
                self.rest.push_front(data);
                None
            }
        }
    }

    /// The range that comes next, at most `most` bytes of it; `None` at the end.
    pub fn data(&mut self, most: u64) -> Option<Range<u64>> {
        while self.current.is_empty() {
            match self.rest.pop_front()? {
                Segment::Data(range) => self.current = range,
                text => {
                    self.rest.push_front(text);
                    return None;
                }
            }
        }
        Some(self.current.start..self.current.end.min(self.current.start.saturating_add(most)))
    }

    /// `sent` bytes of the range that comes next have been sent.
    pub fn advance(&mut self, sent: u64) {
        self.current.start = self.current.start.saturating_add(sent).min(self.current.end);
    }

    /// Does it end wherever the content ends?
    pub fn open_ended(&self) -> bool {
        self.current.end == u64::MAX
    }

    /// Bytes still to be sent, if that is known.
    pub fn remaining(&self) -> Option<u64> {
        let rest = self.rest.iter().map(|segment| match segment {
            Segment::Text(text) => text.len() as u64,
            Segment::Data(range) => range.end - range.start,
        });
        (!self.open_ended()).then(|| self.current.end - self.current.start + rest.sum::<u64>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_and_ranges_come_in_order() {
        let text = |t: &'static str| Segment::Text(Bytes::from_static(t.as_bytes()));
        let mut s =
            Segments::multipart([text("a"), Segment::Data(5..12), text("bc"), Segment::Data(20..21), text("d")]);
        assert_eq!(s.remaining(), Some(12));
        assert_eq!(s.data(4), None);
        assert_eq!(s.text().unwrap(), "a");
        assert_eq!(s.text(), None);
        assert_eq!(s.data(4), Some(5..9));
        s.advance(3);
        assert_eq!(s.data(4), Some(8..12));
        s.advance(4);
        assert_eq!(s.data(4), None);
        assert_eq!(s.text().unwrap(), "bc");
        assert_eq!(s.data(4), Some(20..21));
        s.advance(1);
        assert_eq!(s.remaining(), Some(1));
        assert_eq!((s.text().unwrap(), s.text(), s.data(1)), (Bytes::from_static(b"d"), None, None));
    }

    #[test]
    fn an_unknown_length_is_open_ended() {
        let mut s = Segments::whole(None);
        assert_eq!((s.data(10), s.remaining(), s.open_ended()), (Some(0..10), None, true));
        s.advance(10);
        assert_eq!(s.data(10), Some(10..20));
        assert_eq!(Segments::whole(Some(0)).data(1), None);
        assert_eq!(Segments::none().remaining(), Some(0));
    }
}

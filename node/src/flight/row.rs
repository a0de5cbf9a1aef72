//! What has been received in a row and is not yet written: how much of it to write at once.

use std::collections::VecDeque;

use bytes::Bytes;

/// Bytes that are passed on at once at the beginning of a download.
const FIRST: u64 = 64 * 1024;

/// What comes fast is written in whole blocks of this size, at multiples of it: the kernel keeps them in large folios, which are cheaper to
/// make and to send.
const BLOCK: u64 = 512 * 1024;

/// Parts of a block that are written with one call.
const PARTS_MAX: usize = 64;

/// Bytes of a content from `start` to `end`, in parts as they came. There are never many: what is due is taken at once.
pub(super) struct Row {
    /// Of what is not written yet.
    pub(super) start: u64,
    /// Of what has been received.
    pub(super) end: u64,
    parts: VecDeque<Bytes>,
}

impl Row {
    pub(super) fn at(start: u64) -> Self {
        Self { start, end: start, parts: VecDeque::new() }
    }

    pub(super) fn push(&mut self, part: Bytes) {
        if !part.is_empty() {
            self.end += part.len() as u64;
            self.parts.push_back(part);
        }
    }

    /// The next bytes are there already. For an empty row.
    pub(super) fn skip(&mut self, len: u64) {
        debug_assert!(self.parts.is_empty() || len == 0, "what is held comes before");
        if self.parts.is_empty() {
            self.start += len;
            self.end += len;
        }
    }

    /// Until where it is to be written now.
    pub(super) fn due(&self) -> Option<u64> {
        let end = match self.start {
            0 => FIRST.min(self.end),
            _ if self.parts.len() >= PARTS_MAX => self.end,
            _ => self.end / BLOCK * BLOCK,
        };
        (end > self.start).then_some(end)
    }

    pub(super) fn take_until(&mut self, end: u64) -> Vec<Bytes> {
        let mut taken = Vec::with_capacity(self.parts.len());
        while self.start < end
            && let Some(part) = self.parts.front_mut()
        {
            let fits = usize::try_from(end - self.start).unwrap_or(usize::MAX).min(part.len());
            taken.push(part.split_to(fits));
            self.start += fits as u64;
            if part.is_empty() {
                self.parts.pop_front();
            }
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn what_comes_in_any_parts_is_written_in_order_and_in_blocks(
            start in prop_oneof![Just(0), 0..3 * BLOCK],
            sizes in prop::collection::vec(prop_oneof![0..200_usize, 0..200_usize, 1000..700_000_usize], 1..100),
        ) {
            // Of a length that fits into no other, so that no two places look alike.
            let pattern: Vec<u8> = (0..65_537_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
            let mut content = Bytes::from(pattern.repeat(1100));
            let mut row = Row::at(start / 2);
            row.skip(start - start / 2);
            let mut written = Vec::new();
            let mut write = |row: &mut Row, end| {
                let at = row.start;
                let parts = row.take_until(end);
                assert!(row.start == end && at == start + written.len() as u64 && parts.len() <= PARTS_MAX);
                written.extend(parts.concat());
            };
            let sent = content.clone();
            for size in sizes {
                row.push(content.split_to(size));
                while let Some(end) = row.due() {
                    prop_assert!(end % BLOCK == 0 || row.start == 0 || row.parts.len() == PARTS_MAX);
                    write(&mut row, end);
                }
                prop_assert!(row.end - row.start < BLOCK && row.parts.len() < PARTS_MAX);
            }
            let end = row.end;
            write(&mut row, end);
            prop_assert!(written == sent[..written.len()] && sent.len() - written.len() == content.len());
            prop_assert!(row.parts.is_empty());
        }
    }
}

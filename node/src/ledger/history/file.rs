//! The file that keeps a history: records of one size, each with a check sum, in fixed places. They are written in place,
//! so that a minute costs few bytes; a record that a crash has torn fails its check and is as if it had never been.

use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use super::ring::Slot;
use super::{History, SUMS, Sums};

/// The totals have two places, which take turns: one of them is always whole.
const TOTALS: usize = 2;

/// Start, sums, check.
const RECORD: usize = 8 + SUMS * 8 + 8;

/// Tells this layout from others in every check sum.
const LAYOUT: &str = "imirror history 1";

/// Some 180 KB on the disk.
#[derive(Debug)]
pub struct File {
    file: std::fs::File,
    /// Total records written so far; says whose turn it is and which is newer.
    turn: u64,
}

impl File {
    /// Opens the file, or makes it (0640), and reads what is sound of it.
    ///
    /// # Errors
    /// When it cannot be opened or read; the history is empty then.
    pub fn open(path: &Path) -> io::Result<(Self, History)> {
        let file = OpenOptions::new().create(true).read(true).write(true).truncate(false).mode(0o640).open(path)?;
        let mut bytes = Vec::new();
        (&file).take(size(&History::default()) as u64).read_to_end(&mut bytes)?;
        let (turn, history) = decode(&bytes);
        Ok((Self { file, turn }, history))
    }

    /// Writes what has changed since the last time. Blocks; nothing is synced, for a lost minute is no loss.
    pub fn write(&mut self, changes: Changes) -> io::Result<()> {
        self.turn += 1;
        let place = (self.turn % TOTALS as u64) as usize;
        self.file.write_all_at(&encode(self.turn, &changes.total), (place * RECORD) as u64)?;
        for (place, slot) in changes.slots {
            self.file.write_all_at(&encode(slot.start, &slot.sums), (place * RECORD) as u64)?;
        }
        Ok(())
    }
}

/// What is to be written.
#[derive(Debug)]
pub struct Changes {
    total: Sums,
    slots: Vec<(usize, Slot)>,
}

impl History {
    /// What has changed since this was last asked.
    pub fn take_changes(&mut self) -> Changes {
        let mut first = TOTALS;
        let mut slots = Vec::new();
        for ring in &mut self.rings {
            let len = ring.len();
            slots.extend(ring.take_unwritten().map(|(place, slot)| (first + place, slot)));
            first += len;
        }
        Changes { total: self.total, slots }
    }
}

fn size(history: &History) -> usize {
    (TOTALS + history.rings.iter().map(super::Ring::len).sum::<usize>()) * RECORD
}

/// What is sound in the file, and the turn of its newer total.
fn decode(bytes: &[u8]) -> (u64, History) {
    let mut history = History::default();
    let mut records = bytes.chunks(RECORD).map(record);
    let totals = records.by_ref().take(TOTALS).flatten();
    let (turn, total) = totals.max_by_key(|(turn, _)| *turn).unwrap_or_default();
    history.total = total;
    for ring in &mut history.rings {
        for place in 0..ring.len() {
            if let Some(Some((start, sums))) = records.next() {
                ring.restore(place, start, sums);
            }
        }
    }
    (turn, history)
}

fn encode(start: u64, sums: &Sums) -> [u8; RECORD] {
    let mut record = [0; RECORD];
    let numbers = std::iter::once(start).chain(sums.numbers());
    for (field, number) in record.chunks_mut(8).zip(numbers) {
        field.copy_from_slice(&number.to_le_bytes());
    }
    let check = check(&record[..RECORD - 8]);
    record[RECORD - 8..].copy_from_slice(&check);
    record
}

fn record(bytes: &[u8]) -> Option<(u64, Sums)> {
    let (fields, sum) = bytes.split_at_checked(RECORD - 8)?;
    if sum != check(fields) {
        return None;
    }
    let mut numbers = fields.chunks_exact(8).map(|field| field.try_into().map_or(0, u64::from_le_bytes));
    let start = numbers.next()?;
    Some((start, Sums::from_numbers(std::array::from_fn(|_| numbers.next().unwrap_or(0)))))
}

fn check(fields: &[u8]) -> [u8; 8] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(LAYOUT.as_bytes()).update(fields);
    let mut sum = [0; 8];
    hasher.finalize_xof().fill(&mut sum);
    sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::history::Span;
    use crate::os::clock::Timestamp;

    fn sums(n: u64) -> Sums {
        Sums { bytes_from_disk: n, bytes_to_clients: 3 * n, ..Sums::default() }
    }

    fn kept(folder: &Path) -> (File, History) {
        File::open(&folder.join("history")).unwrap()
    }

    #[test]
    fn what_was_written_is_there_after_a_restart_and_counting_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let at = Timestamp(1_793_526_185_007);
        let (mut file, mut history) = kept(folder.path());
        for round in 1..=3 {
            history.record(Timestamp(at.0 + round * 2000), sums(round * 10));
            file.write(history.take_changes()).unwrap();
        }
        assert!(history.take_changes().slots.is_empty());
        let (mut file, mut again) = kept(folder.path());
        assert_eq!((again.total(), again.series(Span::Hour, at)), (sums(30), history.series(Span::Hour, at)));
        // The counters begin anew.
        again.record(Timestamp(at.0 + 10_000), sums(1));
        file.write(again.take_changes()).unwrap();
        assert_eq!(kept(folder.path()).1.total(), sums(31));
        let len = std::fs::metadata(folder.path().join("history")).unwrap().len();
        assert!(len <= size(&history) as u64 && size(&history) < 200_000, "{len}");
    }

    #[test]
    fn a_torn_record_is_skipped_and_the_rest_is_there() {
        let mut history = History::default();
        let day = Timestamp(1_793_491_200_000);
        for hour in 0..5 {
            history.record(Timestamp(day.0 + hour * 3_600_000), sums(hour * 7));
        }
        let (whole, now) = (bytes_of(&mut history), Timestamp(day.0 + 5 * 3_600_000));
        assert_eq!(decode(&whole).1.hours(now, 9).len(), 5);
        let (mut seen_without, mut seen_older) = (0, 0);
        for torn in 0..whole.len() / RECORD {
            let mut bytes = whole.clone();
            bytes[torn * RECORD + 9] ^= 1;
            let (_, read) = decode(&bytes);
            seen_without += usize::from(read.hours(now, 9).len() == 4);
            seen_older += usize::from(read.total() != history.total());
            assert!(read.hours(now, 9).len() >= 4);
        }
        assert_eq!((seen_without, seen_older), (5, 1), "each record once, and the newer of the totals");
        // Cut anywhere it is still read.
        for len in [0, 1, RECORD - 1, RECORD, RECORD + 50, whole.len() - 1] {
            decode(&whole[..len]);
        }
    }

    /// As a file that was written once.
    fn bytes_of(history: &mut History) -> Vec<u8> {
        let mut bytes = vec![0; size(history)];
        let changes = history.take_changes();
        bytes[RECORD..2 * RECORD].copy_from_slice(&encode(1, &changes.total));
        for (place, slot) in changes.slots {
            bytes[place * RECORD..][..RECORD].copy_from_slice(&encode(slot.start, &slot.sums));
        }
        bytes
    }
}

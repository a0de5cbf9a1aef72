//! What failed of late, for people: a short list in which the same trouble stands once. Counting is done elsewhere.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use super::status::Failure;
use crate::fault::{Cause, Fault};
use crate::os::clock::Timestamp;

/// Entries; the oldest make room.
const FAILURES_MAX: usize = 20;

/// Letters of a text in an entry.
const TEXT_MAX: usize = 300;

/// The latest failures.
#[derive(Debug, Default)]
pub(super) struct Troubles(Mutex<VecDeque<Failure>>);

impl Troubles {
    /// Takes note of a fault. A malformed request is the client's trouble and not kept, nor is what follows the first `?`
    /// of a URL, which may be a secret.
    pub(super) fn note(&self, at: Timestamp, what: &str, fault: &Fault) {
        if matches!(fault.cause, Cause::BadRequest { .. }) {
            return;
        }
        let what = cut(what.split('?').next().unwrap_or_default());
        let why = cut(&fault.to_string());
        let mut failures = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let same = failures.iter().position(|known| known.what == what && known.why == why);
        let before = same.and_then(|place| failures.remove(place)).map_or(0, |known| known.times);
        failures.push_front(Failure { at, what, why, times: before + 1 });
        failures.truncate(FAILURES_MAX);
    }

    /// The latest first.
    pub(super) fn latest(&self) -> Vec<Failure> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(TEXT_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_trouble_stands_once_and_the_list_is_bounded() {
        let troubles = Troubles::default();
        let note = |at: u64, what: &str, why: &str| troubles.note(Timestamp(at), what, &Fault::internal(why));
        note(1, "http://example.org/a?key=secret", "x");
        note(2, "http://example.org/b", "x");
        note(3, "http://example.org/a", "x");
        troubles.note(Timestamp(4), "/", &Fault::bad_request("no path"));
        let seen: Vec<_> = troubles.latest().into_iter().map(|f| (f.at.0, f.what, f.times)).collect();
        assert_eq!(seen, [(3, "http://example.org/a".into(), 2), (2, "http://example.org/b".into(), 1)]);
        for i in 0..100 {
            note(i, &"é".repeat(1000), &i.to_string());
        }
        let latest = troubles.latest();
        assert!(latest.len() == FAILURES_MAX && latest[0].what.chars().count() == TEXT_MAX + 1);
    }
}

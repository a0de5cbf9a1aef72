//! When the file of a Squid is written anew: a Squid that reads its configuration again pauses for all its users. Pure.

use std::time::Duration;

use crate::os::clock::Timestamp;

/// What is to be done now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Act {
    Nothing,
    /// This into the file; then Squid has to read it.
    Write(String),
    /// Squid has not read what is in the file.
    Reconfigure,
}

/// See the module head.
#[derive(Debug)]
pub struct Watch {
    /// At most once in this time.
    every: Duration,
    /// A change has to last so long: who restarts a node takes none out.
    settle: Duration,
    written: Option<String>,
    /// What is in the file has not been read.
    unread: bool,
    tried_at: Option<Timestamp>,
    wanted: Option<(String, Timestamp)>,
}

impl Watch {
    /// `written` is what the file has now, if there is one.
    pub fn new(every: Duration, settle: Duration, written: Option<String>) -> Self {
        Self { every, settle: settle.min(every), written, unread: false, tried_at: None, wanted: None }
    }

    /// The node has been asked what the file should have; `None`: it does not answer, and the last file stays.
    pub fn looked(&mut self, now: Timestamp, wanted: Option<String>) -> Act {
        let Some(wanted) = wanted else {
            self.wanted = None;
            return self.again(now);
        };
        if self.written.as_ref() == Some(&wanted) {
            self.wanted = None;
            return self.again(now);
        }
        let since = match &self.wanted {
            Some((text, since)) if *text == wanted => *since,
            _ => now,
        };
        self.wanted = Some((wanted.clone(), since));
        // Without a file Squid does not even start.
        let is_due = self.written.is_none() || now.since(since) >= self.settle && self.may_try(now);
        if is_due { Act::Write(wanted) } else { self.again(now) }
    }

    /// It was written.
    pub fn wrote(&mut self, text: String) {
        (self.written, self.unread, self.wanted) = (Some(text), true, None);
    }

    /// Squid was told; `read` says whether it took that.
    pub fn told(&mut self, now: Timestamp, read: bool) {
        (self.unread, self.tried_at) = (!read, Some(now));
    }

    fn again(&self, now: Timestamp) -> Act {
        if self.unread && self.may_try(now) { Act::Reconfigure } else { Act::Nothing }
    }

    fn may_try(&self, now: Timestamp) -> bool {
        self.tried_at.is_none_or(|then| now.since(then) >= self.every)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Looks once a second; returns the seconds at which something was done, with what.
    fn run(watch: &mut Watch, from: u64, looks: &[Option<&str>], squid_reads: bool) -> Vec<(u64, String)> {
        let mut done = Vec::new();
        for (second, wanted) in (from..).zip(looks) {
            let now = Timestamp(second * 1000);
            match watch.looked(now, wanted.map(ToOwned::to_owned)) {
                Act::Nothing => continue,
                Act::Write(text) => {
                    done.push((second, text.clone()));
                    watch.wrote(text);
                }
                Act::Reconfigure => done.push((second, "again".into())),
            }
            watch.told(now, squid_reads);
        }
        done
    }

    fn watch(written: Option<&str>) -> Watch {
        Watch::new(Duration::from_secs(60), Duration::from_secs(5), written.map(ToOwned::to_owned))
    }

    #[test]
    fn the_first_file_comes_at_once_and_the_same_is_not_written_again() {
        let mut new = watch(None);
        assert_eq!(run(&mut new, 0, &[None, Some("a"), Some("a"), None], true), [(1, "a".into())]);
        assert_eq!(run(&mut watch(Some("a")), 0, &[Some("a"); 100], true), []);
    }

    #[test]
    fn a_change_that_does_not_last_is_none() {
        let flapping: Vec<_> = (0..200).map(|i| Some(if i % 5 == 0 { "b" } else { "a" })).collect();
        assert_eq!(run(&mut watch(Some("a")), 0, &flapping, true), []);
        let restarted = [Some("b"), Some("b"), Some("b"), Some("b"), None, None, Some("b"), Some("b"), Some("a")];
        assert_eq!(run(&mut watch(Some("a")), 0, &restarted, true), []);
        assert_eq!(run(&mut watch(Some("a")), 0, &[Some("b"); 9], true), [(5, "b".into())]);
    }

    #[test]
    fn squid_is_told_once_in_a_while_however_much_changes() {
        let texts: Vec<String> = (0..600).map(|i| format!("{}", i / 20)).collect();
        let looks: Vec<_> = texts.iter().map(|text| Some(&**text)).collect();
        let done = run(&mut watch(Some("")), 0, &looks, true);
        assert!(done.len() >= 9 && done.windows(2).all(|two| two[1].0 - two[0].0 >= 60), "{done:?}");
    }

    #[test]
    fn a_squid_that_does_not_read_is_told_again_also_while_the_node_is_down() {
        let mut watch = watch(None);
        assert_eq!(run(&mut watch, 0, &[Some("a"); 3], false), [(0, "a".into())]);
        assert_eq!(run(&mut watch, 3, &[None; 60], false), [(60, "again".into())]);
        assert_eq!(run(&mut watch, 63, &[Some("a"); 100], true), [(120, "again".into())]);
    }
}

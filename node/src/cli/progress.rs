//! Shows how far long work has come: on a terminal one line that changes, elsewhere a line for each tenth.

use std::io::{self, IsTerminal, Write};

/// On standard error, so that the result alone is on standard output.
pub(super) struct Progress {
    terminal: bool,
    tenths: u64,
}

impl Progress {
    pub(super) fn new() -> Self {
        Self { terminal: io::stderr().is_terminal(), tenths: 0 }
    }

    /// `text` says how far it has come, which is `done` of `total`.
    pub(super) fn show(&mut self, done: u64, total: u64, text: &str) {
        if let Some(shown) = self.shown(done, total, text) {
            // Nobody has to see it.
            let _ = io::stderr().write_all(shown.as_bytes());
        }
    }

    /// The end: a line that changes is taken away.
    pub(super) fn end(self) {
        if self.terminal {
            let _ = io::stderr().write_all(CLEAR.as_bytes());
        }
    }

    fn shown(&mut self, done: u64, total: u64, text: &str) -> Option<String> {
        if self.terminal {
            return Some(format!("{CLEAR}{text}"));
        }
        let tenths = done.saturating_mul(10) / total.max(1);
        let more = tenths > self.tenths;
        self.tenths = self.tenths.max(tenths);
        more.then(|| format!("{text}\n"))
    }
}

/// To the start of the line, and clear it.
const CLEAR: &str = "\r\x1b[K";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_sees_each_step_and_a_file_each_tenth() {
        let mut terminal = Progress { terminal: true, tenths: 0 };
        assert_eq!(terminal.shown(1, 1000, "1 of 1000").unwrap(), "\r\x1b[K1 of 1000");
        let mut file = Progress { terminal: false, tenths: 0 };
        let lines: Vec<_> = (0..=1000).filter_map(|done| file.shown(done, 1000, &format!("{done}"))).collect();
        let expected: Vec<_> = (1..=10).map(|tenth| format!("{}\n", tenth * 100)).collect();
        assert_eq!(lines, expected);
        assert_eq!(file.shown(0, 0, "nothing"), None);
    }
}

//! Edits of text files that can be taken back to the byte, also when somebody has changed other lines since: what is added
//! stands between two marks, and what is replaced stays where it is, as a comment with a mark of its own. Pure.

use std::collections::{BTreeMap, BTreeSet};

const BEGIN: &str = "# imirror begin";
const END: &str = "# imirror end";

/// In front of a line that is switched off. A comment in all of the files that are edited.
const OFF: &str = "#imirror# ";

/// The marks are not as they were made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("line {line} has `{mark}` without the other mark")]
pub(super) struct Broken {
    line: usize,
    mark: &'static str,
}

/// A text that is being edited.
#[derive(Debug)]
pub(super) struct Editor<'a> {
    /// With their line ends.
    lines: Vec<&'a str>,
    added: BTreeMap<usize, Vec<String>>,
    off: BTreeSet<usize>,
}

impl<'a> Editor<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { lines: text.split_inclusive('\n').collect(), added: BTreeMap::new(), off: BTreeSet::new() }
    }

    /// Without their line ends.
    pub(super) fn lines(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        self.lines.clone().into_iter().map(|line| line.trim_end_matches(['\n', '\r']))
    }

    /// Adds lines in front of the line of this number, counted from 0.
    pub(super) fn add(&mut self, before: usize, lines: Vec<String>) {
        self.added.entry(before).or_default().extend(lines);
    }

    /// Makes a comment of a line.
    pub(super) fn switch_off(&mut self, line: usize) {
        self.off.insert(line);
    }

    pub(super) fn finish(self) -> String {
        let mut text = String::new();
        for (i, line) in self.lines.iter().enumerate() {
            if let Some(added) = self.added.get(&i) {
                text += &block(added);
            }
            if self.off.contains(&i) {
                text += OFF;
            }
            text += line;
        }
        if let Some(added) = self.added.get(&self.lines.len()) {
            let block = block(added);
            // A last line without an end stays one: `undo` sees it by the end of the block.
            match text.is_empty() || text.ends_with('\n') {
                true => text += &block,
                false => text = format!("{text}\n{}", block.trim_end_matches('\n')),
            }
        }
        text
    }
}

fn block(lines: &[String]) -> String {
    let lines: String = lines.iter().map(|line| format!("{line}\n")).collect();
    format!("{BEGIN}: `imirror client-config --undo` takes this out\n{lines}{END}\n")
}

/// Is anything in the text an edit of ours?
pub(super) fn is_marked(text: &str) -> bool {
    text.lines().any(|line| line.starts_with(BEGIN) || line.starts_with(END) || line.starts_with(OFF))
}

/// The text as it would be if it had never been edited here.
pub(super) fn undo(text: &str) -> Result<String, Broken> {
    let mut out = String::new();
    let mut begun = None;
    let mut lines = text.split_inclusive('\n').enumerate().peekable();
    while let Some((i, line)) = lines.next() {
        match begun {
            Some(_) if line.starts_with(END) => {
                begun = None;
                if lines.peek().is_none() && !line.ends_with('\n') && out.ends_with('\n') {
                    out.pop();
                }
            }
            Some(first) if line.starts_with(BEGIN) => return Err(Broken { line: first, mark: BEGIN }),
            Some(_) => {}
            None if line.starts_with(BEGIN) => begun = Some(i + 1),
            None if line.starts_with(END) => return Err(Broken { line: i + 1, mark: END }),
            None => out += line.strip_prefix(OFF).unwrap_or(line),
        }
    }
    match begun {
        Some(line) => Err(Broken { line, mark: BEGIN }),
        None => Ok(out),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn edited(text: &str, added: &[(usize, &str)], off: &[usize]) -> String {
        let mut editor = Editor::new(text);
        added.iter().for_each(|(line, added)| editor.add(*line, vec![(*added).to_owned()]));
        off.iter().for_each(|line| editor.switch_off(*line));
        editor.finish()
    }

    #[test]
    fn what_is_added_stands_between_marks() {
        let text = edited("a\nb\n", &[(1, "x")], &[1]);
        assert_eq!(
            text,
            "a\n# imirror begin: `imirror client-config --undo` takes this out\nx\n# imirror end\n#imirror# b\n"
        );
        assert!(is_marked(&text) && !is_marked("a\nb\n"));
        // Other lines may have changed since.
        assert_eq!(undo(&format!("z\n{}c", text.replace("a\n", "A\n"))).unwrap(), "z\nA\nb\nc");
    }

    #[test]
    fn marks_that_are_not_as_they_were_are_left_alone() {
        for (text, line) in [
            ("a\n# imirror begin\nx\n", 2),
            ("# imirror end\n", 1),
            ("# imirror begin\n# imirror begin\n# imirror end\n", 1),
        ] {
            assert_eq!(undo(text).unwrap_err().line, line, "{text}");
        }
    }

    proptest! {
        #[test]
        fn every_edit_is_taken_back_to_the_byte(
            text in "([a-z#=\\[\\] \\r\u{e9}]{0,6}\n){0,8}[a-z \r]{0,3}",
            added in prop::collection::vec((0..9usize, "[a-z]{0,3}"), 0..4),
            off in prop::collection::vec(0..9usize, 0..4),
        ) {
            let lines = text.split_inclusive('\n').count();
            let added: Vec<_> = added.iter().map(|(at, line)| (*at % (lines + 1), line.as_str())).collect();
            let after = edited(&text, &added, &off);
            prop_assert_eq!(undo(&after).unwrap(), text.clone());
            prop_assert_eq!(undo(&text).unwrap(), text);
        }
    }
}

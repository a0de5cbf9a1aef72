//! `/etc/apk/repositories`: in front of each repository the same at the nodes. Pure.

use super::ini::Edited;
use super::marks::Editor;
use super::urls::{at_node, is_at};

/// The text has no marks.
pub(super) fn apply(text: &str, nodes: &[String]) -> Edited {
    let mut editor = Editor::new(text);
    let mut edited = Edited { text: String::new(), set_up: Vec::new(), left: Vec::new() };
    for (i, line) in editor.lines().enumerate() {
        let words: Vec<&str> = line.split_whitespace().collect();
        // A tag in front, and with apk 3 components behind.
        let Some(place) = words.iter().position(|word| !word.starts_with('@')) else { continue };
        let url = words[place];
        if url.starts_with('#') {
            continue;
        }
        if is_at(nodes, url) {
            edited.left.push((url.to_owned(), "it is at a node already".into()));
            continue;
        }
        let at_nodes: Vec<String> = nodes.iter().filter_map(|node| at_node(node, url)).collect();
        if at_nodes.is_empty() {
            edited.left.push((url.to_owned(), "it is not asked for over http or https without a password".into()));
            continue;
        }
        let same = |at_node: &String| {
            let mut words: Vec<&str> = words.clone();
            words[place] = at_node;
            words.join(" ")
        };
        editor.add(i, at_nodes.iter().map(same).collect());
        edited.set_up.push(url.to_owned());
    }
    edited.text = editor.finish();
    edited
}

#[cfg(test)]
mod tests {
    use super::super::marks::undo;
    use super::*;
    use proptest::prelude::*;

    fn set_up(text: &str) -> Edited {
        let edited = apply(text, &["lab1:3142".into()]);
        assert_eq!(undo(&edited.text).unwrap(), text);
        edited
    }

    #[test]
    fn the_nodes_come_first() {
        let text =
            "/media/cdrom/apks\nhttps://dl.example.org/alpine/v3.20/main\n#http://x\n@edge http://dl.example.org/e";
        let edited = set_up(text);
        insta::assert_snapshot!(edited.text, @r"
        /media/cdrom/apks
        # imirror begin: `imirror client-config --undo` takes this out
        http://lab1:3142/HTTPS///dl.example.org/alpine/v3.20/main
        # imirror end
        https://dl.example.org/alpine/v3.20/main
        #http://x
        # imirror begin: `imirror client-config --undo` takes this out
        @edge http://lab1:3142/dl.example.org/e
        # imirror end
        @edge http://dl.example.org/e
        ");
        assert_eq!(edited.left.len(), 1);
        assert_eq!(set_up("http://lab1:3142/dl.example.org/main\n").set_up, Vec::<String>::new());
    }

    proptest! {
        #[test]
        fn any_file_comes_back(text in "((@[a-z]{1,3} )?(https?://[a-z]{1,3}/[a-z]?)?[#a-z \r]{0,3}\n){0,6}[a-z:/]{0,12}") {
            set_up(&text);
        }
    }
}

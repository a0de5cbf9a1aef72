//! `pacman.conf`: in front of each repository's servers, the same at the nodes. pacman takes the next server when one
//! fails. Pure.

use super::ini::Edited;
use super::marks::Editor;
use super::urls::{at_node, is_at};

/// The text has no marks; `included` reads a file that it includes. From pacman 6.1 on packages are looked for at a
/// `CacheServer`, whose failures count nothing; databases never are.
pub(super) fn apply(
    text: &str,
    nodes: &[String],
    has_cache_servers: bool,
    included: impl Fn(&str) -> Option<String>,
) -> Edited {
    let mut editor = Editor::new(text);
    let mut edited = Edited { text: String::new(), set_up: Vec::new(), left: Vec::new() };
    for (id, place) in repositories(&editor, included) {
        let Some((line, server)) = place else {
            edited.left.push((id, "it has no Server, nor a file with one".into()));
            continue;
        };
        if is_at(nodes, &server) {
            edited.left.push((id, "it names a node already".into()));
            continue;
        }
        let at_nodes: Vec<String> = nodes.iter().filter_map(|node| at_node(node, &server)).collect();
        if at_nodes.is_empty() {
            edited.left.push((id, format!("{server} is not asked for over http or https without a password")));
            continue;
        }
        let caches = at_nodes.iter().filter(|_| has_cache_servers).map(|url| format!("CacheServer = {url}"));
        editor.add(line, caches.chain(at_nodes.iter().map(|url| format!("Server = {url}"))).collect());
        edited.set_up.push(id);
    }
    edited.text = editor.finish();
    edited
}

/// Each repository with the line in front of which its servers begin, and the first of them.
fn repositories(
    editor: &Editor<'_>,
    included: impl Fn(&str) -> Option<String>,
) -> Vec<(String, Option<(usize, String)>)> {
    let mut found: Vec<(String, Option<(usize, String)>)> = Vec::new();
    // The first line of a repository that may name servers, whether or not it does.
    let mut first = None;
    for (i, line) in editor.lines().enumerate() {
        let line = line.trim();
        if let Some(id) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            found.push((id.to_owned(), None));
            first = None;
            continue;
        }
        let Some((_, place @ None)) = found.last_mut() else { continue };
        let Some((key, value)) = line.split_once('=') else { continue };
        let server = match key.trim() {
            "Server" => Some(value.trim().to_owned()),
            "CacheServer" => None,
            "Include" => included(value.trim()).and_then(|text| first_server(&text)),
            _ => continue,
        };
        let first = *first.get_or_insert(i);
        *place = server.map(|server| (first, server));
    }
    found.retain(|(id, _)| id != "options");
    found
}

fn first_server(text: &str) -> Option<String> {
    let servers = text.lines().filter_map(|line| line.trim().split_once('='));
    servers.filter(|(key, _)| key.trim() == "Server").map(|(_, value)| value.trim().to_owned()).next()
}

#[cfg(test)]
mod tests {
    use super::super::marks::undo;
    use super::*;
    use proptest::prelude::*;

    fn set_up(text: &str, has_cache_servers: bool) -> Edited {
        let list = |path: &str| {
            (path == "/etc/pacman.d/mirrorlist")
                .then(|| "#Server = http://no.example.org/\nServer = https://geo.example.org/$repo/os/$arch\n".into())
        };
        let edited = apply(text, &["lab1:3142".into(), "lab2:3142".into()], has_cache_servers, list);
        assert_eq!(undo(&edited.text).unwrap(), text);
        edited
    }

    #[test]
    fn the_nodes_stand_in_front_of_each_repositorys_servers() {
        let text = "\
[options]
Architecture = auto
#Server = http://example.org
[core]
SigLevel = Required
Include = /etc/pacman.d/mirrorlist

[lab]
Server = http://lab.example.org/$repo
[empty]
Include = /etc/nothing
[local]
Server = file:///srv/repo";
        let edited = set_up(text, false);
        assert_eq!(edited.set_up, ["core", "lab"]);
        assert_eq!(edited.left.iter().map(|(id, _)| id.as_str()).collect::<Vec<_>>(), ["empty", "local"]);
        insta::assert_snapshot!(edited.text, @r"
        [options]
        Architecture = auto
        #Server = http://example.org
        [core]
        SigLevel = Required
        # imirror begin: `imirror client-config --undo` takes this out
        Server = http://lab1:3142/HTTPS///geo.example.org/$repo/os/$arch
        Server = http://lab2:3142/HTTPS///geo.example.org/$repo/os/$arch
        # imirror end
        Include = /etc/pacman.d/mirrorlist

        [lab]
        # imirror begin: `imirror client-config --undo` takes this out
        Server = http://lab1:3142/lab.example.org/$repo
        Server = http://lab2:3142/lab.example.org/$repo
        # imirror end
        Server = http://lab.example.org/$repo
        [empty]
        Include = /etc/nothing
        [local]
        Server = file:///srv/repo
        ");
        let newer = set_up("[lab]\nCacheServer = http://c.example.org\nServer = http://lab.example.org/\n", true).text;
        let lines: Vec<&str> = newer.lines().skip(2).take(6).collect();
        assert_eq!(
            lines,
            [
                "CacheServer = http://lab1:3142/lab.example.org/",
                "CacheServer = http://lab2:3142/lab.example.org/",
                "Server = http://lab1:3142/lab.example.org/",
                "Server = http://lab2:3142/lab.example.org/",
                "# imirror end",
                "CacheServer = http://c.example.org",
            ]
        );
        assert!(set_up("[lab]\nServer = http://lab2:3142/example.org/\n", true).set_up.is_empty());
    }

    proptest! {
        #[test]
        fn any_file_comes_back(lines in prop::collection::vec(prop_oneof![
            Just("[options]"), Just("[core]"), Just("Server = http://example.org/$repo"), Just("# x"), Just(""),
            Just("Include = /etc/pacman.d/mirrorlist"), Just("Include=/x\r"), Just("CacheServer = x"), Just("\u{e9}"),
        ], 0..12), has_end in any::<bool>(), has_cache_servers in any::<bool>()) {
            let text = lines.join("\n") + if has_end { "\n" } else { "" };
            set_up(&text, has_cache_servers);
        }
    }
}

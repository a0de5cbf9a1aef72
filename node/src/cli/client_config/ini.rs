//! `.repo` files of dnf and zypper: each repository gets a list of base URLs, the nodes first and its own last. Both clients
//! take the next of the list when one fails. Pure.

use super::marks::Editor;
use super::urls::{at_node, is_at, is_placeholder};

/// Files that dnf takes from one server at a time (librepo's `LRO_MAXDOWNLOADSPERMIRROR`, which dnf leaves as it is).
pub(super) const DOWNLOADS_PER_SERVER: usize = 3;

/// What is to be written.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted<'a> {
    /// As `HOST:PORT`, in order.
    pub(super) nodes: &'a [String],
    /// Base URLs that the user names, by repository.
    pub(super) bases: &'a [(String, String)],
}

/// A file as it is to be, and what became of each of its repositories.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Edited {
    pub(super) text: String,
    /// Repositories that will be asked for at the nodes.
    pub(super) set_up: Vec<String>,
    /// Those that stay as they are, with the reason.
    pub(super) left: Vec<(String, String)>,
}

/// One repository of a file.
#[derive(Debug, Default)]
struct Section {
    id: String,
    /// Values with the lines on which they stand: of the name, and what follows it.
    baseurl: Option<(Vec<String>, Vec<usize>)>,
    /// `mirrorlist` and `metalink`.
    lists: Vec<usize>,
    /// A `baseurl` that has been made a comment, and its line.
    commented: Option<String>,
    /// Of everything else, what decides.
    keys: Vec<(String, String)>,
}

/// The text has no marks.
pub(super) fn apply(text: &str, wanted: Wanted<'_>) -> Edited {
    let mut editor = Editor::new(text);
    let mut edited = Edited { text: String::new(), set_up: Vec::new(), left: Vec::new() };
    for section in sections(&editor) {
        match urls(&section, wanted) {
            Ok(urls) => {
                let own = section.baseurl.map(|(_, lines)| lines).unwrap_or_default();
                let lines: Vec<usize> = own.into_iter().chain(section.lists).collect();
                let Some(first) = lines.iter().copied().min() else {
                    edited.left.push((section.id, "it is switched off: it names no place".into()));
                    continue;
                };
                lines.into_iter().for_each(|line| editor.switch_off(line));
                editor.add(first, list(&urls));
                edited.set_up.push(section.id);
            }
            Err(why) => edited.left.push((section.id, why)),
        }
    }
    edited.text = editor.finish();
    edited
}

fn list(urls: &[String]) -> Vec<String> {
    let line = |(i, url): (usize, &String)| if i == 0 { format!("baseurl={url}") } else { format!("        {url}") };
    urls.iter().enumerate().map(line).collect()
}

/// The list for a repository, or why it has none.
fn urls(section: &Section, wanted: Wanted<'_>) -> Result<Vec<String>, String> {
    let key = |name: &str| section.keys.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
    if key("sslclientcert").is_some_and(|value| !value.is_empty()) {
        return Err("its server wants a certificate of this machine, which a node has not".into());
    }
    if key("username").is_some_and(|value| !value.is_empty()) {
        return Err("its server wants a name and a password, which are not for the nodes".into());
    }
    if let Some(service) = key("service").filter(|value| !value.is_empty()) {
        return Err(format!("zypper writes it anew from the service {service}"));
    }
    if key("proxy").is_some_and(|value| !matches!(value, "" | "_none_")) {
        return Err("it has a proxy of its own, which the nodes would be asked through".into());
    }
    let named: Vec<String> =
        wanted.bases.iter().filter(|(id, _)| *id == section.id).map(|(_, url)| url.clone()).collect();
    let own = section.baseurl.as_ref().map(|(urls, _)| urls.clone()).unwrap_or_default();
    let commented = section.commented.iter().filter(|url| !is_placeholder(url)).cloned().collect();
    let upstreams: Vec<String> =
        [named, own, commented].into_iter().find(|urls| !urls.is_empty()).ok_or_else(|| {
            format!("it names only a list of mirrors: choose one of them, --base '{}=https://HOST/PATH'", section.id)
        })?;
    if upstreams.iter().any(|url| is_at(wanted.nodes, url)) {
        return Err("it names a node already".into());
    }
    let base = upstreams
        .iter()
        .find(|url| at_node("", url).is_some())
        .ok_or_else(|| format!("{} is not asked for over http or https without a password", upstreams[0]))?;
    let at_nodes = wanted.nodes.iter().filter_map(|node| at_node(node, base)).collect();
    Ok([at_nodes, upstreams].concat())
}

/// How many files `dnf.conf` has dnf take at a time.
pub(super) fn parallel_downloads(settings: &str) -> Option<usize> {
    let mut latest = settings.lines().rev().filter_map(assigned);
    latest.find(|(key, _)| *key == "max_parallel_downloads").and_then(|(_, value)| value.parse().ok())
}

fn sections(editor: &Editor<'_>) -> Vec<Section> {
    let mut sections: Vec<Section> = Vec::new();
    let mut key = String::new();
    for (i, line) in editor.lines().enumerate() {
        let trimmed = line.trim();
        if let Some(id) = trimmed.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            sections.push(Section { id: id.trim().to_owned(), ..Section::default() });
            key.clear();
            continue;
        }
        let Some(section) = sections.last_mut() else { continue };
        if let Some(comment) = trimmed.strip_prefix(['#', ';']) {
            if let Some(url) = assigned(comment).filter(|(key, _)| *key == "baseurl").map(|(_, value)| value) {
                section.commented = values(url).into_iter().next();
            }
            continue;
        }
        let goes_on = line.starts_with([' ', '\t']) && !trimmed.is_empty() && !key.is_empty();
        let value = match assigned(trimmed).filter(|_| !goes_on) {
            Some((name, value)) => {
                key = name.to_owned();
                value
            }
            None if goes_on => trimmed,
            None => continue,
        };
        match key.as_str() {
            "baseurl" => {
                let (urls, lines) = section.baseurl.get_or_insert_default();
                urls.extend(values(value));
                lines.push(i);
            }
            "mirrorlist" | "metalink" => section.lists.push(i),
            _ => section.keys.push((key.clone(), value.to_owned())),
        }
    }
    sections.retain(|section| section.id != "main");
    sections
}

fn assigned(line: &str) -> Option<(&str, &str)> {
    let (key, value) = line.split_once('=')?;
    Some((key.trim(), value.trim()))
}

/// Several in one line are told apart by blanks or commas.
fn values(value: &str) -> Vec<String> {
    value.split([' ', '\t', ',']).filter(|url| !url.is_empty()).map(ToOwned::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::super::marks::undo;
    use super::*;
    use proptest::prelude::*;

    fn set_up(text: &str) -> Edited {
        let nodes = ["lab1:3142".to_owned(), "lab2:3142".to_owned()];
        let bases = [("fedora".to_owned(), "https://mirror.example.org/f/$releasever/".to_owned())];
        let edited = apply(text, Wanted { nodes: &nodes, bases: &bases });
        assert_eq!(undo(&edited.text).unwrap(), text);
        edited
    }

    #[test]
    fn the_nodes_come_first_and_upstream_last() {
        let text = "\
[a]
name=a
baseurl = http://one.example.org/$basearch,http://two.example.org/a
  https://three.example.org/a
enabled=1

[epel]
# Better the metalink:
#baseurl=https://dl.example.org/epel/9/
metalink=https://mirrors.example.org/metalink?repo=epel
gpgcheck=1
[fedora]
#baseurl=http://download.example/pub
metalink=https://mirrors.example.org/metalink?repo=fedora";
        let edited = set_up(text);
        assert_eq!(edited.set_up, ["a", "epel", "fedora"]);
        insta::assert_snapshot!(edited.text, @r"
        [a]
        name=a
        # imirror begin: `imirror client-config --undo` takes this out
        baseurl=http://lab1:3142/one.example.org/$basearch
                http://lab2:3142/one.example.org/$basearch
                http://one.example.org/$basearch
                http://two.example.org/a
                https://three.example.org/a
        # imirror end
        #imirror# baseurl = http://one.example.org/$basearch,http://two.example.org/a
        #imirror#   https://three.example.org/a
        enabled=1

        [epel]
        # Better the metalink:
        #baseurl=https://dl.example.org/epel/9/
        # imirror begin: `imirror client-config --undo` takes this out
        baseurl=http://lab1:3142/HTTPS///dl.example.org/epel/9/
                http://lab2:3142/HTTPS///dl.example.org/epel/9/
                https://dl.example.org/epel/9/
        # imirror end
        #imirror# metalink=https://mirrors.example.org/metalink?repo=epel
        gpgcheck=1
        [fedora]
        #baseurl=http://download.example/pub
        # imirror begin: `imirror client-config --undo` takes this out
        baseurl=http://lab1:3142/HTTPS///mirror.example.org/f/$releasever/
                http://lab2:3142/HTTPS///mirror.example.org/f/$releasever/
                https://mirror.example.org/f/$releasever/
        # imirror end
        #imirror# metalink=https://mirrors.example.org/metalink?repo=fedora
        ");
    }

    #[test]
    fn what_cannot_be_changed_safely_stays_as_it_is() {
        for (lines, why) in [
            ("metalink=https://mirrors.example.org/m", "--base 'x=https://HOST/PATH'"),
            ("#baseurl=http://download.example/pub\nmirrorlist=https://example.org/m", "--base"),
            ("baseurl=file:///srv/repo", "file:///srv/repo"),
            ("baseurl=https://u:p@example.org/", "without a password"),
            ("baseurl=http://lab2:3142/example.org/x", "a node already"),
            ("baseurl=https://example.org/\nsslclientcert = /etc/x.pem", "certificate"),
            ("baseurl=https://example.org/\nusername=u", "password"),
            ("baseurl=https://example.org/\nproxy=http://squid:3128", "proxy of its own"),
            ("baseurl=https://example.org/\nservice=openSUSE", "service openSUSE"),
        ] {
            let text = format!("[x]\n{lines}\n");
            let edited = set_up(&text);
            assert!(edited.text == text && edited.set_up.is_empty(), "{lines}");
            assert!(edited.left.len() == 1 && edited.left[0].1.contains(why), "{lines}: {:?}", edited.left);
        }
        assert_eq!(set_up("[main]\nbaseurl=http://example.org/\n").set_up, Vec::<String>::new());
        assert_eq!(set_up("baseurl=http://example.org/\n").set_up, Vec::<String>::new(), "of no repository");
    }

    proptest! {
        #[test]
        fn any_file_comes_back(lines in prop::collection::vec(prop_oneof![
            Just("[a]"), Just("[b]"), Just("baseurl=http://example.org/a"), Just("  https://example.org/b"),
            Just("metalink=https://example.org/m"), Just("#baseurl=https://example.org/c"), Just(""), Just("; x"),
            Just("enabled=1\r"), Just("proxy=x"), Just("\u{e9}=["),
        ], 0..12), has_end in any::<bool>()) {
            let text = lines.join("\n") + if has_end { "\n" } else { "" };
            set_up(&text);
        }
    }
}

//! What the compiler does not check about the source: layers, names in the documents, words that do not belong here.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use imirror_tests::node::program;

/// What was found wrong, a line each.
#[derive(Default)]
struct Findings(Vec<String>);

impl Findings {
    fn add(&mut self, right: bool, wrong: impl FnOnce() -> String) {
        if !right {
            self.0.push(wrong());
        }
    }

    fn none(self) {
        assert!(self.0.is_empty(), "\n{}", self.0.join("\n"));
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

fn read(name: &str) -> String {
    std::fs::read_to_string(root().join(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// Files below a folder of the repository with their texts, under their paths from its root.
fn files(folder: &str, is_wanted: impl Fn(&Path) -> bool) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for file in std::fs::read_dir(folder).unwrap() {
            let path = file.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            if name == "target" || name == ".git" {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
            } else if is_wanted(&path) {
                // What is no text has no names in it.
                let text = std::fs::read_to_string(&path).unwrap_or_default();
                found.insert(path.strip_prefix(root()).unwrap().to_owned(), text);
            }
        }
    }
    assert!(!found.is_empty(), "nothing in {folder}");
    found
}

fn rust(folder: &str) -> BTreeMap<PathBuf, String> {
    files(folder, |path| path.extension().is_some_and(|extension| extension == "rs"))
}

/// The lines of a file that are no comments and no tests, with their numbers.
fn code<'a>(path: &Path, text: &'a str) -> impl Iterator<Item = (usize, &'a str)> {
    let only_tests = path.file_name().unwrap() == "tests.rs";
    // Tests are the last of a file; others may use what they make up.
    let are_tests = |rest: &str| rest.lines().next().is_some_and(|line| line.ends_with("mod tests {"));
    let mark = "#[cfg(test)]\n";
    let end =
        text.match_indices(mark).find(|(at, _)| are_tests(&text[at + mark.len()..])).map_or(text.len(), |(at, _)| at);
    let code = if only_tests { "" } else { &text[..end] };
    let numbered = code.lines().enumerate().map(|(i, line)| (i + 1, line));
    numbered.filter(|(_, line)| !line.trim_start().starts_with("//"))
}

/// What stands between back ticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

fn is_name(word: &str) -> bool {
    !word.is_empty() && word.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
}

/// Is `word` in the text, and no part of another?
fn has_word(text: &str, word: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(word)
        .any(|(at, _)| !text[..at].ends_with(is_part) && !text[at + word.len()..].starts_with(is_part))
}

#[test]
fn a_module_imports_only_modules_to_its_left() {
    let architecture = read("ARCHITECTURE.md");
    let line = architecture.lines().find(|line| line.trim().starts_with("os < ")).expect("the list of layers");
    let layers: Vec<&str> = line.trim().split(" < ").collect();
    let library = read("node/src/lib.rs");
    let modules: Vec<&str> =
        library.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';')).chain(["main"]).collect();
    assert_eq!(layers, modules, "ARCHITECTURE.md and lib.rs name the same modules in the same order");
    let place = |name: &str| layers.iter().position(|layer| *layer == name);
    let mut findings = Findings::default();
    for (path, text) in rust("node/src") {
        let layer = path.iter().nth(2).unwrap().to_str().unwrap().trim_end_matches(".rs");
        let Some(own) = place(layer) else { continue };
        // Tests are held to it, too.
        for (i, line) in text.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//")) {
            for rest in line.split("crate::").skip(1) {
                let imported = rest.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap();
                let right = place(imported).is_some_and(|imported| imported <= own);
                findings.add(right, || format!("{}:{}: {layer} imports `{imported}`", path.display(), i + 1));
            }
        }
    }
    findings.none();
}

#[test]
fn every_file_is_part_of_the_program() {
    let mut findings = Findings::default();
    for (folder, roots) in [
        ("node/src", &["lib.rs", "main.rs"][..]),
        ("protocol/src", &["lib.rs"]),
        ("simulations/src", &["lib.rs", "main.rs"]),
        ("tests/src", &["lib.rs"]),
        ("tests/end_to_end", &["main.rs"]),
    ] {
        let files = rust(folder);
        for path in files.keys() {
            let inside = path.strip_prefix(folder).unwrap();
            if roots.iter().any(|root| inside == Path::new(root)) {
                continue;
            }
            // `a/b.rs` and `a/b/mod.rs` are declared by `a.rs`, `a/mod.rs`, or at the top by a root.
            let module = if inside.ends_with("mod.rs") { inside.parent().unwrap() } else { inside };
            let (above, name) = (module.parent().unwrap(), module.file_stem().unwrap().to_str().unwrap());
            let declared_by: Vec<PathBuf> = match above.as_os_str().is_empty() {
                true => roots.iter().map(|root| Path::new(folder).join(root)).collect(),
                false => vec![
                    Path::new(folder).join(above.with_extension("rs")),
                    Path::new(folder).join(above).join("mod.rs"),
                ],
            };
            let declares = |text: &String| text.lines().any(|line| line.trim().ends_with(&format!("mod {name};")));
            let declared = declared_by.iter().filter_map(|path| files.get(path)).any(declares);
            findings.add(declared, || format!("{}: no module declares it", path.display()));
        }
    }
    findings.none();
}

#[test]
fn what_the_architecture_names_is_there() {
    let text = read("ARCHITECTURE.md");
    let mut files = rust("node/src");
    files.extend(rust("protocol/src"));
    let source = Path::new("node/src");
    let mut findings = Findings::default();
    for name in quoted(&text) {
        let name = name.trim();
        if name.ends_with(".rs") {
            // With its folder, or without.
            let there = files.keys().any(|path| path.ends_with(name));
            findings.add(there, || format!("there is no file `{name}`"));
        } else if name.ends_with('/') && is_name(name.trim_end_matches('/')) {
            let there = root().join(source).join(name).is_dir() || root().join(name).is_dir();
            findings.add(there, || format!("there is no folder `{name}`"));
        } else if name.contains("::") {
            // Modules, then what is in the last of them.
            let segments: Vec<&str> = name.split("::").collect();
            let modules: PathBuf =
                segments.iter().take_while(|segment| is_name(segment)).take(segments.len() - 1).collect();
            let candidates = [modules.with_extension("rs"), modules.join("mod.rs")].map(|path| source.join(path));
            let module = candidates.iter().find_map(|path| files.get(path));
            let item = segments.get(modules.iter().count()).copied().unwrap_or_default();
            // What is in a module may be in the files of its folder and be named by it.
            let there = module.is_some_and(|text| item.is_empty() || has_word(text, item));
            findings.add(there, || format!("there is no `{name}`"));
        }
    }
    let tests = text.split("## Tests").nth(1).expect("a section on tests");
    let main = read("tests/end_to_end/main.rs");
    for name in quoted(tests).filter(|name| is_name(name)) {
        findings.add(has_word(&main, name), || format!("tests/end_to_end has no module `{name}`"));
    }
    findings.none();
}

#[test]
fn the_text_names_no_registry_and_no_machine() {
    // In two parts, so that this file does not name them itself.
    let registries = [
        ("crates", ".io"),
        ("pypi", ".org"),
        ("npmjs", ".com"),
        ("docker", ".io"),
        ("ghcr", ".io"),
        ("deb.debian", ".org"),
        ("archive.ubuntu", ".com"),
        ("fedoraproject", ".org"),
        ("archlinux", ".org"),
        ("alpinelinux", ".org"),
    ];
    let folders = [("/ro", "ot/"), ("/wo", "rk/"), ("/ho", "me/")];
    let words: Vec<String> = registries.iter().chain(&folders).map(|(a, b)| [*a, *b].concat()).collect();
    let mut findings = Findings::default();
    for (path, text) in files(".", |path| path.file_name().unwrap() != "Cargo.lock") {
        for (i, line) in text.lines().enumerate() {
            for word in words.iter().filter(|word| line.contains(*word)) {
                findings.add(false, || format!("{}:{}: {word}", path.display(), i + 1));
            }
        }
    }
    findings.none();
}

#[test]
fn nothing_panics_on_purpose() {
    let mut findings = Findings::default();
    for (path, text) in rust("node/src") {
        for (i, line) in code(&path, &text) {
            for word in [
                ".unwrap()",
                ".expect(",
                "panic!(",
                "unreachable!(",
                "todo!(",
                "unimplemented!(",
                "clippy::unwrap_used",
            ] {
                findings.add(!line.contains(word), || format!("{}:{i}: {word}", path.display()));
            }
        }
    }
    findings.none();
}

/// The documents for people who run it, under their paths from the root.
fn documents() -> BTreeMap<PathBuf, String> {
    let mut documents = files("docs", |path| path.extension().is_some_and(|extension| extension == "md"));
    documents.extend(files("deploy", |path| path.file_name().is_some_and(|name| name == "README.md")));
    documents.insert("README.md".into(), read("README.md"));
    documents
}

/// The blocks of a document between ``` of a kind.
fn blocks<'a>(text: &'a str, kind: &str) -> Vec<&'a str> {
    text.split(&format!("```{kind}\n")).skip(1).map(|rest| rest.split("```").next().unwrap()).collect()
}

#[test]
fn the_documents_tell_the_truth() {
    let mut findings = Findings::default();
    let (mut commands, mut examples) = (0, 0);
    let folder = tempfile::tempdir().unwrap();
    for (path, text) in documents() {
        let path = path.display();
        let lines = text.lines().filter_map(|line| line.strip_prefix("    "));
        let lines = lines.chain(blocks(&text, "sh").into_iter().flat_map(str::lines));
        for command in lines.chain(quoted(&text)).filter_map(|text| text.trim().strip_prefix("imirror ")) {
            commands += 1;
            let verb = command.split_whitespace().next().unwrap();
            let help = Command::new(program()).args([verb, "--help"]).output().unwrap();
            findings.add(help.status.success(), || format!("{path}: there is no `imirror {verb}`"));
            let mut help = String::from_utf8(help.stdout).unwrap();
            // Flags may be those of a verb below the verb.
            if let Some(below) = command.split_whitespace().nth(1).filter(|word| is_name(word)) {
                let more = Command::new(program()).args([verb, below, "--help"]).output().unwrap();
                help.push_str(&String::from_utf8(more.stdout).unwrap());
            }
            let words = command.split(|c: char| c.is_whitespace() || "():|".contains(c));
            for flag in words.filter(|word| word.starts_with("--")) {
                findings.add(has_word(&help, flag), || format!("{path}: `imirror {verb}` has no {flag}"));
            }
        }
        for example in blocks(&text, "toml") {
            examples += 1;
            let file = folder.path().join("imirror.toml");
            std::fs::write(&file, example).unwrap();
            let check = Command::new(program()).args(["config", "check", "--config"]).arg(&file).output().unwrap();
            findings.add(check.status.success(), || {
                format!("{path}: its configuration is wrong: {}", String::from_utf8_lossy(&check.stderr))
            });
        }
        let beside = root().join(path.to_string()).parent().unwrap().to_owned();
        for link in text.split("](").skip(1).map(|rest| rest.split(')').next().unwrap()) {
            let (file, section) = link.split_once('#').unwrap_or((link, ""));
            findings.add(link.contains("://") || beside.join(file).exists(), || format!("{path}: it links to {link}"));
            if !section.is_empty() {
                let target =
                    if file.is_empty() { text.clone() } else { std::fs::read_to_string(beside.join(file)).unwrap() };
                let anchor = |line: &str| line.trim_start_matches('#').trim().to_lowercase().replace(' ', "-");
                let there = target.lines().any(|line| line.starts_with('#') && anchor(line) == section);
                findings.add(there, || format!("{path}: no section for {link}"));
            }
        }
    }
    // What the README has for each family is what the program says.
    let readme = read("README.md");
    let rows = readme.lines().skip_while(|line| !line.starts_with("| family")).skip(2);
    let rows: Vec<&str> = rows.take_while(|line| line.starts_with('|')).collect();
    for row in &rows {
        let family = row.split('|').nth(1).unwrap().trim();
        let said = Command::new(program()).args(["client-config", family, "--node", "NODE:3142"]).output().unwrap();
        let said = String::from_utf8(said.stdout).unwrap();
        for line in quoted(row) {
            findings.add(said.contains(line), || format!("README.md: `client-config {family}` does not say {line}"));
        }
    }
    assert_eq!(rows.len(), 5, "families");
    assert!(commands >= 20 && examples >= 2, "{commands} commands and {examples} examples");
    findings.none();
}

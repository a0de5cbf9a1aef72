//! The configuration as it is written: TOML files, `IMIRROR_*` variables and flags become settings that know where they
//! came from; later ones win key by key. Knows which keys there are and what form they have, not what they mean.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use toml::de::{DeTable, DeValue};

use super::keys::{self, Key, Kind};

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    Default,
    /// The default, as this machine makes it: why.
    Derived(String),
    File(Arc<Path>, usize),
    /// A variable of the environment.
    Variable(String),
    Flag(String),
}

/// A value in the form in which it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    Text(String),
    Number(i64),
    Flag(bool),
    Texts(Vec<String>),
    Numbers(Vec<i64>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    pub value: Value,
    pub origin: Origin,
}

/// Something that is wrong: where, with which key, and what would be right. `Display` is one line, without secrets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub origin: Origin,
    pub what: String,
}

/// All settings by their full keys, and what was wrong on the way.
#[derive(Debug, Default)]
pub struct Written {
    pub settings: BTreeMap<String, Setting>,
    pub problems: Vec<Problem>,
    /// What may be a mistake and is harmless if it is none.
    pub warnings: Vec<String>,
}

impl Written {
    /// The defaults that are the same everywhere.
    pub fn defaults() -> Self {
        let mut written = Self::default();
        for key in keys::KEYS.iter().filter(|key| !key.default.is_empty()) {
            match read_value(key.kind, key.default) {
                Some(value) => written.set(key.name, value, Origin::Default),
                None => debug_assert!(false, "the default of {} is malformed", key.name),
            }
        }
        written
    }

    pub fn set(&mut self, key: &str, value: Value, origin: Origin) {
        self.settings.insert(key.to_owned(), Setting { value, origin });
    }

    /// Adds the settings of a file.
    pub fn read_toml(&mut self, path: &Path, text: &str) {
        let path: Arc<Path> = path.into();
        let mut file = File { path, text, written: self };
        match DeTable::parse(text) {
            Ok(table) => file.table("", table.get_ref()),
            Err(error) => {
                let at = error.span().map_or(text.len(), |span| span.start);
                file.problem(at, format!("not TOML: {}", error.message().lines().collect::<Vec<_>>().join(", ")));
            }
        }
    }

    /// Adds the settings of the environment. Unknown variables are only warned of: they may be another program's
    /// (Kubernetes makes `IMIRROR_PORT` of a service's name).
    pub fn read_variables(&mut self, variables: &BTreeMap<String, String>) {
        const OTHERS: [&str; 4] = ["IMIRROR_BIN", "IMIRROR_CONFIG", "IMIRROR_LOG", "IMIRROR_SOCKET"];
        let known: BTreeMap<String, &Key> = keys::KEYS.iter().map(|key| (keys::variable(key.name), key)).collect();
        for (variable, text) in variables.iter().filter(|(name, _)| name.starts_with("IMIRROR_")) {
            match known.get(variable) {
                Some(key) => self.read_text(key.name, text, Origin::Variable(variable.clone())),
                None if OTHERS.contains(&variable.as_str()) => {}
                None => self.read_repo_variable(variable, text),
            }
        }
    }

    /// `IMIRROR_REPOS_FEDORA_UPSTREAMS`.
    fn read_repo_variable(&mut self, variable: &str, text: &str) {
        let name = variable.strip_prefix("IMIRROR_REPOS_").and_then(|rest| rest.rsplit_once('_'));
        match name.map(|(repo, key)| format!("repos.{}.{}", repo.to_lowercase(), key.to_lowercase())) {
            Some(key) if keys::find(&key).is_some() => self.read_text(&key, text, Origin::Variable(variable.into())),
            _ => self.warnings.push(format!("{variable} is no variable of imirror's; it has no effect")),
        }
    }

    /// Adds one setting from a variable or a flag: the plain text, or TOML; lists may stand with commas between.
    pub fn read_text(&mut self, name: &str, text: &str, origin: Origin) {
        let Some(key) = keys::find(name) else {
            let what = unknown(name);
            return self.problems.push(Problem { origin, what });
        };
        match read_value(key.kind, text) {
            Some(value) => self.set(name, value, origin),
            None => {
                let what = format!("`{name}`: expected {}", expected(key.kind));
                self.problems.push(Problem { origin, what });
            }
        }
    }
}

/// A file that is being read.
struct File<'a> {
    path: Arc<Path>,
    text: &'a str,
    written: &'a mut Written,
}

impl File<'_> {
    /// The settings of a table whose full name is `section`.
    fn table(&mut self, section: &str, table: &DeTable<'_>) {
        for (name, value) in table {
            let at = name.span().start;
            let full = match section {
                "" => name.get_ref().to_string(),
                section => format!("{section}.{}", name.get_ref()),
            };
            match value.get_ref() {
                _ if section == "repos" && name.get_ref().contains('.') => {
                    self.problem(at, format!("`{full}`: a repository's name has no dot"));
                }
                DeValue::Table(inner) if full == "repos" || section == "repos" || keys::is_section(&full) => {
                    self.table(&full, inner);
                }
                other => self.setting(&full, other, at),
            }
        }
    }

    fn setting(&mut self, name: &str, value: &DeValue<'_>, at: usize) {
        let Some(key) = keys::find(name) else {
            let is_repo = name.strip_prefix("repos.").is_some_and(|repo| !repo.contains('.'));
            let is_section = name == "repos" || is_repo || keys::is_section(name);
            let what = if is_section { format!("`{name}` is a section: [{name}]") } else { unknown(name) };
            return self.problem(at, what);
        };
        match of_kind(key.kind, value) {
            Some(value) => {
                let origin = self.origin(at);
                self.written.set(name, value, origin);
            }
            None => {
                let found = value.type_str();
                self.problem(at, format!("`{name}`: expected {}, found {found}", expected(key.kind)));
            }
        }
    }

    fn problem(&mut self, at: usize, what: String) {
        let origin = self.origin(at);
        self.written.problems.push(Problem { origin, what });
    }

    fn origin(&self, at: usize) -> Origin {
        let before = self.text.as_bytes().get(..at).unwrap_or(self.text.as_bytes());
        Origin::File(self.path.clone(), before.iter().filter(|b| **b == b'\n').count() + 1)
    }
}

fn unknown(name: &str) -> String {
    match keys::nearest(name) {
        Some(nearest) => format!("unknown key `{name}`; did you mean `{nearest}`?"),
        None => format!("unknown key `{name}`; `imirror config` lists all keys"),
    }
}

fn expected(kind: Kind) -> &'static str {
    match kind {
        Kind::Text => "a text in quotes",
        Kind::Number => "a number",
        Kind::Flag => "true or false",
        Kind::Texts => "a list of texts, [\"…\", \"…\"]",
        Kind::Numbers => "a list of numbers, [1, 2]",
    }
}

/// A value of TOML in the form that its key has.
fn of_kind(kind: Kind, value: &DeValue<'_>) -> Option<Value> {
    let number = |value: &DeValue<'_>| {
        let number = value.as_integer()?;
        i64::from_str_radix(&number.as_str().replace('_', ""), number.radix()).ok()
    };
    match kind {
        Kind::Text => value.as_str().map(|text| Value::Text(text.to_owned())),
        Kind::Number => number(value).map(Value::Number),
        Kind::Flag => value.as_bool().map(Value::Flag),
        Kind::Texts => {
            let items = value.as_array()?.iter();
            items.map(|item| item.get_ref().as_str().map(str::to_owned)).collect::<Option<_>>().map(Value::Texts)
        }
        Kind::Numbers => {
            let items = value.as_array()?.iter();
            items.map(|item| number(item.get_ref())).collect::<Option<_>>().map(Value::Numbers)
        }
    }
}

/// A value outside a file: as in TOML, or bare.
fn read_value(kind: Kind, text: &str) -> Option<Value> {
    let text = text.trim();
    let in_toml = DeValue::parse(text).ok().and_then(|value| of_kind(kind, value.get_ref()));
    let items = || text.split(',').map(str::trim).filter(|item| !item.is_empty());
    in_toml.or_else(|| match kind {
        Kind::Text => Some(Value::Text(text.to_owned())),
        Kind::Number => None,
        Kind::Flag => match text {
            "1" | "yes" | "on" => Some(Value::Flag(true)),
            "0" | "no" | "off" | "" => Some(Value::Flag(false)),
            _ => None,
        },
        Kind::Texts if text.starts_with('[') => None,
        Kind::Texts => Some(Value::Texts(items().map(str::to_owned).collect())),
        Kind::Numbers => items().map(|item| item.parse().ok()).collect::<Option<_>>().map(Value::Numbers),
    })
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::Derived(why) => write!(f, "default: {why}"),
            Self::File(path, line) => write!(f, "{}:{line}", path.display()),
            Self::Variable(name) => write!(f, "environment {name}"),
            Self::Flag(name) => write!(f, "flag {name}"),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.origin, self.what)
    }
}

/// As it would stand in a file.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let toml = match self {
            Self::Text(text) => toml::Value::from(text.as_str()),
            Self::Number(number) => toml::Value::from(*number),
            Self::Flag(flag) => toml::Value::from(*flag),
            Self::Texts(texts) => toml::Value::from(texts.clone()),
            Self::Numbers(numbers) => toml::Value::from(numbers.clone()),
        };
        write!(f, "{toml}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn problems(text: &str) -> Vec<String> {
        let mut written = Written::defaults();
        written.read_toml(Path::new("imirror.toml"), text);
        written.problems.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn errors_name_file_line_and_key() {
        for (text, problem) in [
            ("nmae = \"x\"", "imirror.toml:1: unknown key `nmae`; did you mean `name`?"),
            ("\n[clients]\nalow = []", "imirror.toml:3: unknown key `clients.alow`; did you mean `clients.allow`?"),
            (
                "# é\nconnect_ports = [1]",
                "imirror.toml:2: unknown key `connect_ports`; did you mean `clients.connect_ports`?",
            ),
            ("name = 1", "imirror.toml:1: `name`: expected a text in quotes, found integer"),
            (
                "[clients]\nallow = [\"a\", 1]",
                "imirror.toml:2: `clients.allow`: expected a list of texts, [\"…\", \"…\"], found array",
            ),
            ("clients = 5", "imirror.toml:1: `clients` is a section: [clients]"),
            ("[name]\nx = 1", "imirror.toml:1: `name`: expected a text in quotes, found table"),
            ("[quux]\nx = 1", "imirror.toml:1: unknown key `quux`; `imirror config` lists all keys"),
            ("[repos]\nfedora = 1", "imirror.toml:2: `repos.fedora` is a section: [repos.fedora]"),
            ("[repos.\"a.b\"]\nupstreams = []", "imirror.toml:1: `repos.a.b`: a repository's name has no dot"),
            (
                "[repos.a]\nupstream = []",
                "imirror.toml:2: unknown key `repos.a.upstream`; did you mean `repos.a.upstreams`?",
            ),
        ] {
            assert_eq!(problems(text), [problem], "{text:?}");
        }
        assert!(
            problems("\nname = \"x")[0].starts_with("imirror.toml:2: not TOML: "),
            "{:?}",
            problems("\nname = \"x")
        );
        assert_eq!(problems("a = 1\nb = 2\n").len(), 2, "all are reported at once");
    }

    #[test]
    fn later_ones_win_key_by_key() {
        let mut written = Written::defaults();
        written.read_toml(Path::new("a"), "name = \"a\"\n[clients]\nconnect_ports = [1]\nallow = []");
        written.read_toml(Path::new("b"), "[clients]\nconnect_ports = [0x10, 1_000]");
        let variables =
            [("IMIRROR_NAME", "c"), ("IMIRROR_REPOS_SUSE_UPSTREAMS", "http://a, http://b"), ("IMIRROR_X", "")];
        written.read_variables(&variables.map(|(n, v)| (n.to_owned(), v.to_owned())).into());
        written.read_text("site.mdns", "no", Origin::Flag("--set".into()));
        let shown = |key: &str| {
            let setting = &written.settings[key];
            format!("{} ({})", setting.value, setting.origin)
        };
        assert_eq!(shown("name"), "\"c\" (environment IMIRROR_NAME)");
        assert_eq!(shown("clients.connect_ports"), "[16, 1000] (b:2)");
        assert_eq!(shown("clients.allow"), "[] (a:4)");
        assert_eq!(
            shown("repos.suse.upstreams"),
            "[\"http://a\", \"http://b\"] (environment IMIRROR_REPOS_SUSE_UPSTREAMS)"
        );
        assert_eq!(shown("site.mdns"), "false (flag --set)");
        assert_eq!(shown("listen"), "\"[::]:3142\" (default)");
        assert_eq!(written.warnings, ["IMIRROR_X is no variable of imirror's; it has no effect"]);
        assert_eq!(written.problems, []);
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC{0,60}", toml in "[\\[\\]a-z.=\"' \n0-9{},#é]{0,60}") {
            for text in [&text, &toml] {
                problems(text);
                for kind in [Kind::Text, Kind::Number, Kind::Flag, Kind::Texts, Kind::Numbers] {
                    let _ = read_value(kind, text);
                }
            }
        }

        #[test]
        fn what_is_shown_can_be_written(texts in proptest::collection::vec(".*", 0..4)) {
            let value = Value::Texts(texts);
            prop_assert_eq!(read_value(Kind::Texts, &value.to_string()), Some(value));
        }
    }
}

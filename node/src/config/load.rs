//! Finds what there is to read on this machine - files, variables, flags - and makes the configuration of it.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use imirror_protocol::token::{BadToken, Token};

use super::meant::{self, Found};
use super::written::{Origin, Problem, Setting, Value, Written};
use super::{Config, keys, units};
use crate::os::disk;

/// The default of `cache_size` is at most this part of the file system.
const DEFAULT_PERCENT_MAX: u64 = 80;

/// A token is far shorter; more is some other file.
const TOKEN_FILE_MAX: u64 = 4096;

/// The configuration and how it came about.
#[derive(Debug)]
pub struct Loaded {
    pub config: Config,
    /// All keys with their values, in a fixed order; those that are unset have none.
    pub shown: Vec<Shown>,
    /// The files that were read.
    pub files: Vec<PathBuf>,
    pub warnings: Vec<String>,
    /// The site's token is configured and cannot be read; a node must not run without it.
    pub token_problem: Option<Problem>,
}

/// A line of `imirror config`; secrets are not in it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Shown {
    pub key: String,
    /// In TOML.
    pub value: Option<String>,
    pub origin: String,
}

/// Why a configuration cannot be used: everything that was found wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct ConfigError(pub Vec<Problem>);

/// What the command line says.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    /// Read this file only.
    pub file: Option<PathBuf>,
    pub socket: Option<PathBuf>,
    /// Flag, key and value.
    pub settings: Vec<(String, String, String)>,
}

/// The machine and user that the configuration is for.
#[derive(Debug, Clone)]
pub struct Surroundings {
    pub variables: BTreeMap<String, String>,
    pub is_root: bool,
    pub host: String,
    /// Where the folders `etc`, `run` and `var` are: `/`.
    pub root: PathBuf,
}

/// Folders that hold when nothing else is said.
struct Folders {
    state: PathBuf,
    cache: PathBuf,
    run: PathBuf,
}

impl Surroundings {
    /// Of this process. Variables that are not UTF-8 are left out.
    pub fn here() -> Self {
        let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        Self {
            variables: std::env::vars_os().filter_map(text).collect(),
            is_root: rustix::process::geteuid().is_root(),
            host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            root: "/".into(),
        }
    }

    fn variable(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str).filter(|text| !text.is_empty())
    }

    /// An XDG folder; must be absolute to count.
    fn xdg(&self, name: &str, fallback: &str) -> PathBuf {
        let set = self.variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let home = || PathBuf::from(self.variable("HOME").unwrap_or("/tmp"));
        set.unwrap_or_else(|| home().join(fallback)).join("imirror")
    }

    /// The files that are read without being named: the main one and the fragments, later ones win. A user's own
    /// replace the machine's.
    fn files(&self) -> Vec<PathBuf> {
        let machine = self.root.join("etc/imirror");
        let own = (!self.is_root).then(|| self.xdg("XDG_CONFIG_HOME", ".config"));
        let found = own.into_iter().chain([machine]).map(|folder| files_in(&folder)).find(|files| !files.is_empty());
        found.unwrap_or_default()
    }

    /// The machine's folders for root, and for the user that they belong to; XDG's for others; what systemd has made
    /// for the service goes first.
    fn folders(&self) -> Folders {
        let systemd = |name: &str| {
            let first = self.variable(name)?.split(':').next()?;
            Some(PathBuf::from(first))
        };
        let machine = |path: &str, own: &dyn Fn() -> PathBuf| {
            let path = self.root.join(path);
            if self.is_root || is_writable(&path) { path } else { own() }
        };
        let state = || self.xdg("XDG_STATE_HOME", ".local/state");
        let run = || if self.variable("XDG_RUNTIME_DIR").is_some() { self.xdg("XDG_RUNTIME_DIR", "") } else { state() };
        Folders {
            state: systemd("STATE_DIRECTORY").unwrap_or_else(|| machine("var/lib/imirror", &state)),
            cache: systemd("CACHE_DIRECTORY")
                .unwrap_or_else(|| machine("var/cache/imirror", &|| self.xdg("XDG_CACHE_HOME", ".cache"))),
            run: systemd("RUNTIME_DIRECTORY").unwrap_or_else(|| machine("run/imirror", &run)),
        }
    }
}

/// Reads everything. The only I/O is reading files and asking for the size of a file system.
pub fn load(overrides: &Overrides, here: &Surroundings) -> Result<Loaded, ConfigError> {
    let mut written = Written::defaults();
    let folders = here.folders();
    computed_defaults(&mut written, here, &folders);
    let files = match &overrides.file {
        Some(path) => vec![path.clone()],
        None => here.files(),
    };
    for path in &files {
        match std::fs::read_to_string(path) {
            Ok(text) => written.read_toml(path, &text),
            Err(error) => written.problems.push(Problem {
                origin: Origin::File(path.as_path().into(), 1),
                what: format!("cannot be read: {error}"),
            }),
        }
    }
    written.read_variables(&here.variables);
    for (flag, key, value) in &overrides.settings {
        written.read_text(key, value, Origin::Flag(flag.clone()));
    }
    default_cache_size(&mut written);
    let no_proxy = proxy_of_the_environment(&mut written, here);
    let (token, token_problem) = match read_token(&mut written) {
        Ok(token) => (token, None),
        Err(problem) => (None, Some(problem)),
    };
    let socket = socket(overrides, here, &written, &folders);
    let config = meant::config(&mut written, Found { socket, token, no_proxy });
    let config = config.ok_or_else(|| ConfigError(std::mem::take(&mut written.problems)))?;
    Ok(Loaded { shown: shown(&written, &config), config, files, warnings: written.warnings, token_problem })
}

/// `imirror.toml` and `conf.d/*.toml` of a folder, those that there are.
fn files_in(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder.join("conf.d"));
    let mut fragments: Vec<PathBuf> = entries.map(|all| all.flatten().map(|e| e.path()).collect()).unwrap_or_default();
    fragments.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
    fragments.sort();
    std::iter::once(folder.join("imirror.toml")).chain(fragments).filter(|path| path.exists()).collect()
}

fn is_writable(path: &Path) -> bool {
    rustix::fs::access(path, rustix::fs::Access::WRITE_OK).is_ok()
}

fn computed_defaults(written: &mut Written, here: &Surroundings, folders: &Folders) {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    let first: String =
        here.host.split('.').next().unwrap_or_default().chars().filter(|c| legal(*c)).take(63).collect();
    let name = if first.trim_start_matches('-').is_empty() { "imirror" } else { first.trim_start_matches('-') };
    written.set("name", Value::Text(name.into()), Origin::Derived("the host's name".into()));
    for (key, folder) in [("state_dir", &folders.state), ("cache_dir", &folders.cache)] {
        written.set(key, Value::Text(folder.display().to_string()), Origin::Default);
    }
}

/// A small disk must not be promised away.
fn default_cache_size(written: &mut Written) {
    let is_default = written.settings.get("cache_size").is_some_and(|s| s.origin == Origin::Default);
    let text = |key: &str| written.settings.get(key).map(|s| s.value.clone());
    let (Some(Value::Text(dir)), Some(Value::Text(default))) = (text("cache_dir"), text("cache_size")) else { return };
    // The folder may not be there yet.
    let Some(space) = Path::new(&dir).ancestors().find_map(|folder| disk::space(folder).ok()) else { return };
    let most = space.total / 100 * DEFAULT_PERCENT_MAX;
    if is_default && units::size(&default).is_some_and(|bytes| bytes > most) {
        let origin = Origin::Derived(format!("{default}, here {DEFAULT_PERCENT_MAX} % of the file system"));
        written.set("cache_size", Value::Text(units::show_size(most >> 20 << 20)), origin);
    }
}

/// Without a proxy of its own the node uses what the environment names, with the exceptions that it names.
fn proxy_of_the_environment(written: &mut Written, here: &Surroundings) -> Vec<String> {
    if written.settings.contains_key("upstream.proxy") {
        return Vec::new();
    }
    let found = ["http_proxy", "https_proxy"].iter().find_map(|name| Some((*name, here.variable(name)?)));
    let Some((name, text)) = found else { return Vec::new() };
    let with_scheme = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
    if is_this_node(&with_scheme, written) {
        written.warnings.push(format!("{name} names this node itself: it is for its clients, the node goes direct"));
        return Vec::new();
    }
    written.set("upstream.proxy", Value::Text(with_scheme), Origin::Variable(name.into()));
    let exceptions = here.variable("no_proxy").unwrap_or_default().split(',').map(str::trim);
    exceptions.filter(|entry| !entry.is_empty()).map(str::to_owned).collect()
}

/// A shell that is set up as a client of the node is also where the node may be started.
fn is_this_node(proxy: &str, written: &Written) -> bool {
    let Some(proxy) = units::parent_proxy(proxy) else { return false };
    let listen = match written.settings.get("listen").map(|s| &s.value) {
        Some(Value::Text(text)) => text.parse::<std::net::SocketAddr>().ok(),
        _ => None,
    };
    let is_loopback =
        proxy.host == "localhost" || proxy.host.parse::<std::net::IpAddr>().is_ok_and(|a| a.is_loopback());
    is_loopback && listen.is_some_and(|listen| listen.port() == proxy.port)
}

/// The site's token: written, in a file that is named, or in the state folder.
fn read_token(written: &mut Written) -> Result<Option<Token>, Problem> {
    let text = |key: &str| match written.settings.get(key) {
        Some(Setting { value: Value::Text(text), origin }) => Some((text.clone(), origin.clone())),
        _ => None,
    };
    if let Some((token, origin)) = text("site.token") {
        let bad = |bad: BadToken| Problem { origin, what: bad.to_string() };
        return Token::parse(&token).map(Some).map_err(bad);
    }
    let named = text("site.token_file");
    let (path, origin) = match (&named, text("state_dir")) {
        (Some((path, origin)), _) => (PathBuf::from(path), origin.clone()),
        (None, Some((state, origin))) => (Path::new(&state).join("token"), origin),
        (None, None) => return Ok(None),
    };
    let problem = |why: String| Problem { origin, what: format!("the site's token {}: {why}", path.display()) };
    match read_secret(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && named.is_none() => Ok(None),
        Err(error) => Err(problem(format!("cannot be read: {error}"))),
        Ok((token, _)) if token.is_empty() => Err(problem("the file is empty".into())),
        Ok((token, is_private)) => {
            if !is_private {
                written.warnings.push(format!("other users can read the token: chmod 600 {}", path.display()));
            }
            Token::parse(&token).map(Some).map_err(|bad| problem(bad.to_string()))
        }
    }
}

/// The trimmed text of a small file, and whether only its owner can read it.
fn read_secret(path: &Path) -> io::Result<(String, bool)> {
    let metadata = std::fs::metadata(path)?;
    if !metadata.is_file() || metadata.len() > TOKEN_FILE_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is no small file"));
    }
    let text = std::fs::read_to_string(path)?;
    Ok((text.trim().to_owned(), metadata.permissions().mode() & 0o077 == 0))
}

/// Beside the state when that lies in a place of its own: several nodes may run on one machine.
fn socket(overrides: &Overrides, here: &Surroundings, written: &Written, folders: &Folders) -> PathBuf {
    let named = overrides.socket.clone().or_else(|| here.variable("IMIRROR_SOCKET").map(PathBuf::from));
    let state = match written.settings.get("state_dir").map(|s| &s.value) {
        Some(Value::Text(state)) => PathBuf::from(state),
        _ => folders.state.clone(),
    };
    let folder = if state == folders.state { &folders.run } else { &state };
    named.unwrap_or_else(|| folder.join("control.sock"))
}

/// All keys in the order of their definition, then the repositories.
fn shown(written: &Written, config: &Config) -> Vec<Shown> {
    let known = keys::KEYS.iter().map(|key| key.name.to_owned());
    let repos = written.settings.keys().filter(|key| key.starts_with("repos.")).cloned();
    let show = |key: String| {
        let setting = written.settings.get(&key);
        let value = setting.map(|setting| match (key.as_str(), &config.upstream.proxy) {
            ("site.token", _) => "\"(secret)\"".into(),
            ("upstream.proxy", Some(proxy)) => {
                let user = if proxy.credentials.is_some() { "(secret)@" } else { "" };
                let host = if proxy.host.contains(':') { format!("[{}]", proxy.host) } else { proxy.host.clone() };
                format!("\"http://{user}{host}:{}\"", proxy.port)
            }
            _ => setting.value.to_string(),
        });
        let origin = setting.map_or_else(|| "default: unset".into(), |setting| setting.origin.to_string());
        Shown { key, value, origin }
    };
    known.chain(repos).map(show).collect()
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the configuration is wrong")?;
        self.0.iter().try_for_each(|problem| write!(f, "\n  {problem}"))
    }
}

#[cfg(test)]
mod tests;

//! The configuration as it is written: TOML files, `IMIRROR_*` variables, flags; later ones win. Unknown keys are errors
//! that name the file, the line and the key (R2).

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;
use serde::Deserialize;

use super::{
    AccessLog, AllowedDestination, CacheSize, Clients, Config, Freshness, Helper, Other, ParentProxy, Replication,
    Repo, Secret, Site, Upstream, Window,
};

/// Why a configuration cannot be used: what, where, and what would be right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(pub String);

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct File {
    name: Option<String>,
    listen: Option<String>,
    state_dir: Option<PathBuf>,
    cache_dir: Option<PathBuf>,
    cache_size: Option<String>,
    memory_size: Option<String>,
    site: SiteSection,
    clients: ClientsSection,
    upstream: UpstreamSection,
    repos: BTreeMap<String, RepoSection>,
    freshness: FreshnessSection,
    replication: ReplicationSection,
    helper: HelperSection,
    icp: IcpSection,
    log: LogSection,
}

macro_rules! section {
    ($name:ident { $($field:ident: $kind:ty),* $(,)? }) => {
        #[derive(Debug, Default, Deserialize)]
        #[serde(deny_unknown_fields, default)]
        struct $name { $($field: Option<$kind>),* }
    };
}

section!(SiteSection { token: String, token_file: PathBuf, mdns: bool, seeds: Vec<String> });
section!(ClientsSection { allow: Vec<String>, connect_ports: Vec<u16> });
section!(UpstreamSection { proxy: String, allow: Vec<String>, rate_limit: String });
section!(RepoSection { upstreams: Vec<String>, metalink: String });
section!(FreshnessSection { metadata: String, package: String, other: String });
section!(ReplicationSection { enabled: bool, max_copies: u8, rate_limit: String });
section!(HelperSection {
    enabled: bool,
    popular: bool,
    prepopulate: Vec<String>,
    interval: String,
    window: String,
    rate_limit: String,
});
section!(IcpSection { listen: String });
section!(LogSection { access: String });

/// The folders of this user, when nothing else is said.
#[derive(Debug, Clone)]
pub struct Folders {
    pub state: PathBuf,
    pub cache: PathBuf,
    pub socket: PathBuf,
}

/// Where a value comes from when the files say nothing; a closure over the environment, so that tests need none.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

impl Folders {
    /// Root's, or an ordinary user's XDG folders.
    pub fn of_user(is_root: bool, environment: Environment<'_>) -> Self {
        if is_root {
            return Self {
                state: "/var/lib/imirror".into(),
                cache: "/var/cache/imirror".into(),
                socket: "/run/imirror/control.sock".into(),
            };
        }
        let home = PathBuf::from(environment("HOME").unwrap_or_else(|| "/tmp".into()));
        let xdg = |name: &str, fallback: &str| environment(name).map_or_else(|| home.join(fallback), PathBuf::from);
        let state = xdg("XDG_STATE_HOME", ".local/state").join("imirror");
        let socket =
            environment("XDG_RUNTIME_DIR").map_or_else(|| state.clone(), |dir| PathBuf::from(dir).join("imirror"));
        Self { cache: xdg("XDG_CACHE_HOME", ".cache").join("imirror"), socket: socket.join("control.sock"), state }
    }
}

/// The files that are read without being named: the main one and the fragments, in the order in which later ones win.
pub fn default_files(is_root: bool, environment: Environment<'_>) -> Vec<PathBuf> {
    let folder = match is_root {
        true => PathBuf::from("/etc/imirror"),
        false => environment("XDG_CONFIG_HOME")
            .map(PathBuf::from)
            .or_else(|| environment("HOME").map(|home| PathBuf::from(home).join(".config")))
            .unwrap_or_default()
            .join("imirror"),
    };
    let mut fragments: Vec<PathBuf> = std::fs::read_dir(folder.join("conf.d"))
        .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
        .unwrap_or_default();
    fragments.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
    fragments.sort();
    std::iter::once(folder.join("imirror.toml")).chain(fragments).filter(|path| path.exists()).collect()
}

/// Reads files and the environment into a configuration.
pub fn load(
    files: &[PathBuf],
    folders: &Folders,
    host: &str,
    environment: Environment<'_>,
) -> Result<Config, ConfigError> {
    let mut merged = toml::Table::new();
    for path in files {
        let text = std::fs::read_to_string(path)
            .map_err(|e| ConfigError(format!("{}: cannot be read: {e}", path.display())))?;
        // Each file is checked alone first, so that an error names its line.
        toml::from_str::<File>(&text).map_err(|e| in_file(path, &text, &e))?;
        let table: toml::Table = text.parse().map_err(|e| in_file(path, &text, &e))?;
        merge(&mut merged, table);
    }
    let text = toml::to_string(&merged).map_err(|e| ConfigError(e.to_string()))?;
    let mut file: File = toml::from_str(&text).map_err(|e| ConfigError(e.to_string()))?;
    override_from(&mut file, environment)?;
    meant(file, folders, host, environment)
}

fn in_file(path: &Path, text: &str, error: &toml::de::Error) -> ConfigError {
    let line = error.span().map(|span| text[..span.start.min(text.len())].matches('\n').count() + 1);
    let place = line.map_or_else(|| path.display().to_string(), |line| format!("{}:{line}", path.display()));
    let key = error
        .span()
        .and_then(|span| text.get(span))
        .map(|key| key.lines().next().unwrap_or_default().trim().to_owned())
        .filter(|key| !key.is_empty() && !error.message().contains(key.as_str()))
        .map(|key| format!(" (`{key}`)"))
        .unwrap_or_default();
    ConfigError(format!("{place}: {}{key}", error.message()))
}

fn merge(into: &mut toml::Table, from: toml::Table) {
    for (key, value) in from {
        match (into.get_mut(&key), value) {
            (Some(toml::Value::Table(known)), toml::Value::Table(more)) => merge(known, more),
            (_, value) => drop(into.insert(key, value)),
        }
    }
}

fn override_from(file: &mut File, environment: Environment<'_>) -> Result<(), ConfigError> {
    let set = |place: &mut Option<String>, name: &str| {
        if let Some(value) = environment(name) {
            *place = Some(value);
        }
    };
    set(&mut file.name, "IMIRROR_NAME");
    set(&mut file.listen, "IMIRROR_LISTEN");
    set(&mut file.cache_size, "IMIRROR_CACHE_SIZE");
    set(&mut file.memory_size, "IMIRROR_MEMORY_SIZE");
    set(&mut file.upstream.proxy, "IMIRROR_UPSTREAM_PROXY");
    set(&mut file.site.token, "IMIRROR_SITE_TOKEN");
    set(&mut file.freshness.metadata, "IMIRROR_FRESHNESS_METADATA");
    set(&mut file.freshness.package, "IMIRROR_FRESHNESS_PACKAGE");
    set(&mut file.log.access, "IMIRROR_LOG_ACCESS");
    for (place, name) in [(&mut file.state_dir, "IMIRROR_STATE_DIR"), (&mut file.cache_dir, "IMIRROR_CACHE_DIR")] {
        if let Some(value) = environment(name) {
            *place = Some(value.into());
        }
    }
    Ok(())
}

/// From what is written to what is meant.
fn meant(file: File, folders: &Folders, host: &str, environment: Environment<'_>) -> Result<Config, ConfigError> {
    let no_limit = |rate: Option<String>, key: &str| rate.map_or(Ok(None), |text| rate_of(&text, key));
    let proxy = match file.upstream.proxy {
        Some(text) => proxy_of(&text)?,
        None => environment("http_proxy").map_or(Ok(None), |text| proxy_of(&text))?,
    };
    let no_proxy = environment("no_proxy").unwrap_or_default();
    let token = match (file.site.token, file.site.token_file) {
        (Some(token), _) => Some(Secret(token)),
        (None, Some(path)) => {
            let text = std::fs::read_to_string(&path)
                .map_err(|e| ConfigError(format!("site.token_file {}: cannot be read: {e}", path.display())))?;
            Some(Secret(text.trim().to_owned()))
        }
        (None, None) => None,
    };
    let mut repos = BTreeMap::new();
    for (name, repo) in file.repos {
        if name.contains(['/', '.', ':']) || name == "HTTPS" || name == "-" {
            return Err(ConfigError(format!("[repos.{name}]: a name may not contain `/`, `.` or `:`")));
        }
        if let Some(metalink) = repo.metalink {
            return Err(ConfigError(format!(
                "[repos.{name}] metalink = {metalink:?}: metalinks are not read yet; list the mirrors under `upstreams`"
            )));
        }
        let upstreams = repo.upstreams.unwrap_or_default();
        if upstreams.is_empty() {
            return Err(ConfigError(format!("[repos.{name}]: `upstreams` must name at least one mirror")));
        }
        repos.insert(name, Repo { upstreams, metalink: None });
    }
    let allow = file.clients.allow.unwrap_or_else(|| vec!["private".into()]);
    let upstream_allow = file.upstream.allow.unwrap_or_default();
    Ok(Config {
        name: file.name.unwrap_or_else(|| host.to_owned()),
        listen: address_of(&file.listen.unwrap_or_else(|| "[::]:3142".into()), "listen")?,
        state_dir: file.state_dir.unwrap_or_else(|| folders.state.clone()),
        cache_dir: file.cache_dir.unwrap_or_else(|| folders.cache.clone()),
        socket: environment("IMIRROR_SOCKET").map_or_else(|| folders.socket.clone(), PathBuf::from),
        cache_size: cache_size_of(&file.cache_size.unwrap_or_else(|| "50GiB".into()))?,
        memory_size: bytes_of(&file.memory_size.unwrap_or_else(|| "256MiB".into()), "memory_size")?,
        site: Site { token, mdns: file.site.mdns.unwrap_or(true), seeds: file.site.seeds.unwrap_or_default() },
        clients: Clients {
            allow: allow.iter().map(|text| networks_of(text)).collect::<Result<Vec<_>, _>>()?.concat(),
            connect_ports: file.clients.connect_ports.unwrap_or_else(|| vec![443]),
        },
        upstream: Upstream {
            proxy,
            no_proxy: no_proxy.split(',').map(|part| part.trim().to_owned()).filter(|part| !part.is_empty()).collect(),
            allow: upstream_allow.iter().map(|text| destination_of(text)).collect::<Result<_, _>>()?,
            rate_limit: no_limit(file.upstream.rate_limit, "upstream.rate_limit")?,
        },
        repos,
        freshness: Freshness {
            metadata: window_of(file.freshness.metadata.as_deref(), "freshness.metadata", false)?,
            package: window_of(file.freshness.package.as_deref(), "freshness.package", true)?,
            other: match file.freshness.other.as_deref() {
                None | Some("pass") => Other::Pass,
                Some(other) => {
                    return Err(ConfigError(format!("freshness.other = {other:?}: only \"pass\" is implemented yet")));
                }
            },
        },
        replication: Replication {
            enabled: file.replication.enabled.unwrap_or(true),
            max_copies: file.replication.max_copies.unwrap_or(3),
            rate_limit: no_limit(file.replication.rate_limit.or(Some("50MiB/s".into())), "replication.rate_limit")?,
        },
        helper: Helper {
            enabled: file.helper.enabled.unwrap_or(false),
            popular: file.helper.popular.unwrap_or(true),
            prepopulate: file.helper.prepopulate.unwrap_or_default(),
            interval: duration_of(&file.helper.interval.unwrap_or_else(|| "1h".into()), "helper.interval")?,
            window: file.helper.window.map(|text| day_window_of(&text)).transpose()?,
            rate_limit: no_limit(file.helper.rate_limit.or(Some("2MiB/s".into())), "helper.rate_limit")?,
        },
        icp_listen: file.icp.listen.map(|text| address_of(&text, "icp.listen")).transpose()?,
        access_log: match file.log.access.as_deref() {
            None | Some("squid") => AccessLog::Squid,
            Some("combined") => AccessLog::Combined,
            Some("json") => AccessLog::Json,
            Some("off") => AccessLog::Off,
            Some(other) => return Err(wrong("log.access", other, "squid, combined, json or off")),
        },
    })
}

fn wrong(key: &str, value: &str, right: &str) -> ConfigError {
    ConfigError(format!("{key} = {value:?}: expected {right}"))
}

fn address_of(text: &str, key: &str) -> Result<SocketAddr, ConfigError> {
    text.parse().map_err(|_| wrong(key, text, "an address and port such as \"[::]:3142\" or \"192.0.2.1:3142\""))
}

/// `50GiB`, `1000000`, `2MB`.
fn bytes_of(text: &str, key: &str) -> Result<u64, ConfigError> {
    let wrong = || wrong(key, text, "a size such as \"50GiB\", \"200MB\" or a number of bytes");
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let factor: f64 = match unit.trim() {
        "" | "B" => 1.0,
        "KiB" | "K" => 1024.0,
        "MiB" | "M" => 1024.0 * 1024.0,
        "GiB" | "G" => 1024.0 * 1024.0 * 1024.0,
        "TiB" | "T" => 1024.0 * 1024.0 * 1024.0 * 1024.0,
        "kB" | "KB" => 1e3,
        "MB" => 1e6,
        "GB" => 1e9,
        "TB" => 1e12,
        _ => return Err(wrong()),
    };
    let number: f64 = number.parse().map_err(|_| wrong())?;
    let bytes = number * factor;
    // Within the exact range of a double.
    if (0.0..9e15).contains(&bytes) { Ok(bytes as u64) } else { Err(wrong()) }
}

fn cache_size_of(text: &str) -> Result<CacheSize, ConfigError> {
    match text.strip_suffix('%') {
        Some(percent) => match percent.trim().parse() {
            Ok(percent @ 1..=100) => Ok(CacheSize::Percent(percent)),
            _ => Err(wrong("cache_size", text, "a size such as \"50GiB\" or \"80%\" of the file system")),
        },
        None => bytes_of(text, "cache_size").map(CacheSize::Bytes),
    }
}

/// `2MiB/s`; `0` is no limit.
fn rate_of(text: &str, key: &str) -> Result<Option<u64>, ConfigError> {
    let bytes = bytes_of(text.trim().strip_suffix("/s").unwrap_or(text), key)?;
    Ok((bytes > 0).then_some(bytes))
}

fn duration_of(text: &str, key: &str) -> Result<Duration, ConfigError> {
    let wrong = || wrong(key, text, "a duration such as \"60s\", \"10m\", \"1h\" or \"2d\"");
    let end = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
    let (number, unit) = text.split_at(end);
    let seconds = match unit {
        "s" => 1,
        "m" | "min" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return Err(wrong()),
    };
    let number: u64 = number.parse().map_err(|_| wrong())?;
    number.checked_mul(seconds).map(Duration::from_secs).ok_or_else(wrong)
}

fn window_of(text: Option<&str>, key: &str, may_be_immutable: bool) -> Result<Window, ConfigError> {
    match text {
        None | Some("revalidate") => Ok(Window::Revalidate),
        Some("immutable") if may_be_immutable => Ok(Window::Immutable),
        Some(text) => duration_of(text, key).map(Window::For).map_err(|_| {
            let immutable = if may_be_immutable { ", \"immutable\"" } else { "" };
            wrong(key, text, &format!("\"revalidate\"{immutable} or a duration such as \"60s\""))
        }),
    }
}

/// `01:00-06:00` in minutes of the day.
fn day_window_of(text: &str) -> Result<(u16, u16), ConfigError> {
    let minutes = |text: &str| {
        let (hours, minutes) = text.trim().split_once(':')?;
        let (hours, minutes): (u16, u16) = (hours.parse().ok()?, minutes.parse().ok()?);
        (hours < 24 && minutes < 60).then_some(60 * hours + minutes)
    };
    let parsed = text.split_once('-').and_then(|(from, to)| Some((minutes(from)?, minutes(to)?)));
    parsed.ok_or_else(|| wrong("helper.window", text, "two times of the day such as \"01:00-06:00\""))
}

fn networks_of(text: &str) -> Result<Vec<IpNet>, ConfigError> {
    const PRIVATE: [&str; 8] = [
        "127.0.0.0/8",
        "10.0.0.0/8",
        "172.16.0.0/12",
        "192.168.0.0/16",
        "169.254.0.0/16",
        "::1/128",
        "fc00::/7",
        "fe80::/10",
    ];
    let net = |text: &str| text.parse::<IpNet>().or_else(|_| text.parse::<std::net::IpAddr>().map(IpNet::from));
    let nets =
        if text == "private" { PRIVATE.iter().map(|t| net(t)).collect() } else { net(text).map(|net| vec![net]) };
    nets.map_err(|_| wrong("clients.allow", text, "\"private\", an address or a network such as \"192.0.2.0/24\""))
}

/// `ADDRESS` or CIDR, each with an optional `:PORT`; IPv6 with a port in brackets.
fn destination_of(text: &str) -> Result<AllowedDestination, ConfigError> {
    let net =
        |text: &str| text.parse::<IpNet>().ok().or_else(|| text.parse::<std::net::IpAddr>().ok().map(IpNet::from));
    let plain = || net(text).map(|net| AllowedDestination { net, port: None });
    let with_port = || {
        let (host, port) = text.rsplit_once(':')?;
        let host = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
        Some(AllowedDestination { net: net(host)?, port: Some(port.parse().ok()?) })
    };
    plain().or_else(with_port).ok_or_else(|| {
        wrong(
            "upstream.allow",
            text,
            "an address or network, with an optional port: \"127.0.0.1:8000\", \"10.0.0.0/8\"",
        )
    })
}

/// `http://[USER:PASSWORD@]HOST:PORT`; an empty text is no proxy. The value is never shown: it may have a password.
fn proxy_of(text: &str) -> Result<Option<ParentProxy>, ConfigError> {
    if text.is_empty() {
        return Ok(None);
    }
    let wrong =
        || ConfigError("upstream.proxy: expected \"http://HOST:PORT\" or \"http://USER:PASSWORD@HOST:PORT\"".into());
    let rest = text.strip_prefix("http://").ok_or_else(wrong)?.trim_end_matches('/');
    let (credentials, authority) = match rest.rsplit_once('@') {
        Some((credentials, authority)) => (Some(Secret(credentials.to_owned())), authority),
        None => (None, rest),
    };
    let url = crate::config::authority(authority).ok_or_else(wrong)?;
    Ok(Some(ParentProxy { host: url.0, port: url.1, credentials }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folders() -> Folders {
        Folders { state: "/s".into(), cache: "/c".into(), socket: "/r/control.sock".into() }
    }

    fn read(text: &str) -> Result<Config, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("imirror.toml");
        std::fs::write(&path, text).unwrap();
        let loaded = load(std::slice::from_ref(&path), &folders(), "host", &|_| None);
        loaded.map_err(|e| e.0.replace(path.to_str().unwrap(), "FILE"))
    }

    #[test]
    fn nothing_written_is_a_useful_node() {
        let config = load(&[], &folders(), "lab1", &|_| None).unwrap();
        assert_eq!((config.name.as_str(), config.listen), ("lab1", "[::]:3142".parse().unwrap()));
        assert_eq!((config.cache_size, config.memory_size), (CacheSize::Bytes(50 << 30), 256 << 20));
        assert_eq!((config.freshness.metadata, config.freshness.package), (Window::Revalidate, Window::Revalidate));
        assert!(
            config.clients.allow.iter().any(|net| net.contains(&"192.168.3.4".parse::<std::net::IpAddr>().unwrap()))
        );
        assert!(
            !config.clients.allow.iter().any(|net| net.contains(&"192.0.2.1".parse::<std::net::IpAddr>().unwrap()))
        );
        assert_eq!(config.clients.connect_ports, [443]);
        assert!(!config.helper.enabled && config.upstream.proxy.is_none());
    }

    #[test]
    fn every_key_of_the_contract() {
        let config = read(
            r#"
name = "lab1"
listen = "127.0.0.1:3143"
state_dir = "/x/state"
cache_dir = "/x/cache"
cache_size = "80%"
memory_size = "64MiB"
[site]
token = "im1secret"
mdns = false
seeds = ["10.0.0.12:3142"]
[clients]
allow = ["private", "192.0.2.0/24", "198.51.100.7"]
connect_ports = [443, 8443]
[upstream]
proxy = "http://user:secret@squid:3128"
allow = ["127.0.0.1:8000", "10.0.0.0/8", "[::1]:81", "192.0.2.0/24:99"]
rate_limit = "2MiB/s"
[repos.fedora]
upstreams = ["https://mirror1.example.org/pub/fedora", "http://mirror2.example.org/fedora"]
[freshness]
metadata = "60s"
package = "immutable"
other = "pass"
[replication]
enabled = true
max_copies = 3
rate_limit = "50MiB/s"
[helper]
enabled = false
popular = true
prepopulate = ["vlc", "gstreamer*"]
interval = "1h"
window = "01:00-06:00"
rate_limit = "2MiB/s"
[icp]
listen = "0.0.0.0:3130"
[log]
access = "json"
"#,
        )
        .unwrap();
        assert_eq!(config.cache_size, CacheSize::Percent(80));
        assert_eq!(config.upstream.rate_limit, Some(2 << 20));
        let proxy = config.upstream.proxy.clone().unwrap();
        assert_eq!(
            (proxy.host.as_str(), proxy.port, proxy.credentials.unwrap().0.as_str()),
            ("squid", 3128, "user:secret")
        );
        assert_eq!(
            config.upstream.allow.iter().map(|a| a.port).collect::<Vec<_>>(),
            [Some(8000), None, Some(81), Some(99)]
        );
        assert_eq!(config.freshness.metadata, Window::For(Duration::from_secs(60)));
        assert_eq!(config.helper.window, Some((60, 360)));
        assert!(!format!("{config:?}").contains("secret\""), "secrets are not shown");
    }

    #[test]
    fn errors_name_file_line_and_key() {
        for (text, error) in [
            ("nmae = \"x\"", "FILE:1: unknown field `nmae`"),
            ("\n[clients]\nalow = []", "FILE:3: unknown field `alow`"),
            ("name = 1", "FILE:1: invalid type: integer `1`, expected a string"),
            ("name = \"x", "FILE:1: invalid basic string"),
            ("cache_size = \"many\"", "cache_size = \"many\": expected a size"),
            ("listen = \"3142\"", "listen = \"3142\": expected an address"),
            ("[freshness]\nmetadata = \"immutable\"", "freshness.metadata = \"immutable\": expected \"revalidate\""),
            ("[upstream]\nproxy = \"https://u:geheim@x\"", "upstream.proxy: expected"),
            ("[clients]\nallow = [\"everybody\"]", "clients.allow = \"everybody\": expected"),
            ("[log]\naccess = \"loud\"", "log.access = \"loud\": expected squid"),
            ("[repos.\"a.b\"]\nupstreams = [\"http://x\"]", "[repos.a.b]: a name may not"),
        ] {
            let got = read(text).unwrap_err();
            assert!(got.starts_with(error), "{text:?} gives {got:?}");
            assert!(!got.contains("geheim"));
        }
    }

    #[test]
    fn later_files_and_the_environment_win() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let files = [
            write("a.toml", "name = \"a\"\n[clients]\nconnect_ports = [1]\nallow = []"),
            write("b.toml", "name = \"b\"\n[clients]\nconnect_ports = [2]"),
        ];
        let config = load(&files, &folders(), "h", &|_| None).unwrap();
        assert_eq!(
            (config.name.as_str(), &config.clients.connect_ports[..], config.clients.allow.len()),
            ("b", &[2][..], 0)
        );
        let environment = |name: &str| match name {
            "IMIRROR_NAME" => Some("c".to_owned()),
            "http_proxy" => Some("http://proxy.example.org:3128/".to_owned()),
            _ => None,
        };
        let config = load(&files, &folders(), "h", &environment).unwrap();
        assert_eq!((config.name.as_str(), config.upstream.proxy.unwrap().port), ("c", 3128));
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics(text in "\\PC{0,40}") {
            let _ = bytes_of(&text, "x");
            let _ = duration_of(&text, "x");
            let _ = proxy_of(&text);
            let _ = destination_of(&text);
            let _ = day_window_of(&text);
            let _ = toml::from_str::<File>(&text);
        }
    }
}

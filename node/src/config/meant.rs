//! From what is written to what is meant: each value is read once, and what is wrong names its place. Does no I/O.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use imirror_protocol::token::Token;

use super::units;
use super::written::{Problem, Value, Written};
use super::{
    AccessLog, Clients, Config, Freshness, Helper, Other, ParentProxy, Replication, Repo, Site, Upstream, Window,
};

/// What a machine adds that no setting says.
pub(super) struct Found {
    pub(super) socket: PathBuf,
    pub(super) token: Option<Token>,
    pub(super) no_proxy: Vec<String>,
}

/// A problem was noted; the value cannot be used.
pub(super) struct Wrong;

/// The configuration; `None` when there are problems, which stand in `written` then.
pub(super) fn config(written: &mut Written, found: Found) -> Option<Config> {
    let mut reader = Reader(written);
    // All sections are read before the first failure counts, so that one run shows most of what is wrong.
    let (name, listen) = (reader.name(), reader.address("listen"));
    let (cache_size, memory_size) = (reader.cache_size(), reader.size("memory_size"));
    let (site, clients) = (reader.site(found.token), reader.clients());
    let (upstream, repos) = (reader.upstream(found.no_proxy), reader.repos());
    let (freshness, replication) = (reader.freshness(), reader.replication());
    let (helper, icp_listen, access_log) = (reader.helper(), reader.icp(), reader.access_log());
    let config = (|| {
        Ok::<_, Wrong>(Config {
            name: name?,
            listen: listen?,
            state_dir: reader.text("state_dir").unwrap_or_default().into(),
            cache_dir: reader.text("cache_dir").unwrap_or_default().into(),
            socket: found.socket,
            cache_size: cache_size?,
            memory_size: memory_size?,
            site: site?,
            clients: clients?,
            upstream: upstream?,
            repos: repos?,
            freshness: freshness?,
            replication: replication?,
            helper: helper?,
            icp_listen: icp_listen?,
            access_log: access_log?,
        })
    })();
    config.ok().filter(|_| written.problems.is_empty())
}

struct Reader<'a>(&'a mut Written);

impl Reader<'_> {
    fn name(&mut self) -> Result<String, Wrong> {
        let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        let parse = |text: &str| {
            ((1..=63).contains(&text.len()) && text.bytes().all(legal) && !text.starts_with(['-', '.']))
                .then(|| text.to_owned())
        };
        self.read("name", parse, "letters, digits, `-`, `_` and `.`, at most 63")
    }

    fn site(&mut self, token: Option<Token>) -> Result<Site, Wrong> {
        let right = "another node's host and port such as \"lab2.example.org:3142\" or \"[2001:db8::2]:3142\"";
        let seeds = self.read_each("site.seeds", |text| units::seed(text).map(|_| text.to_owned()), right)?;
        Ok(Site { token, mdns: self.flag("site.mdns"), seeds })
    }

    fn clients(&mut self) -> Result<Clients, Wrong> {
        let right = "\"private\", an address or a network such as \"192.0.2.0/24\"";
        let allow = self.read_each("clients.allow", units::networks, right)?.concat();
        let mut connect_ports = Vec::new();
        for number in self.numbers("clients.connect_ports") {
            match u16::try_from(number) {
                Ok(port) if port > 0 => connect_ports.push(port),
                _ => return Err(self.wrong("clients.connect_ports", &number.to_string(), "ports from 1 to 65535")),
            }
        }
        Ok(Clients { allow, connect_ports })
    }

    fn upstream(&mut self, no_proxy: Vec<String>) -> Result<Upstream, Wrong> {
        let right = "an address or network, with an optional port: \"127.0.0.1:8000\", \"10.0.0.0/8\"";
        Ok(Upstream {
            proxy: self.proxy()?,
            no_proxy,
            allow: self.read_each("upstream.allow", units::destination, right)?,
            rate_limit: self.rate("upstream.rate_limit")?,
        })
    }

    /// The value is never shown: it may have a password.
    fn proxy(&mut self) -> Result<Option<ParentProxy>, Wrong> {
        let text = self.text("upstream.proxy").unwrap_or_default();
        match units::parent_proxy(&text) {
            None if text.is_empty() => Ok(None),
            None => {
                let right = "`upstream.proxy`: expected \"http://HOST:PORT\" or \"http://USER:PASSWORD@HOST:PORT\"";
                Err(self.problem("upstream.proxy", right.into()))
            }
            proxy => Ok(proxy),
        }
    }

    fn repos(&mut self) -> Result<BTreeMap<String, Repo>, Wrong> {
        let names: BTreeSet<String> = (self.0.settings.keys())
            .filter_map(|key| Some(key.strip_prefix("repos.")?.rsplit_once('.')?.0.to_owned()))
            .collect();
        names.into_iter().map(|name| Ok((name.clone(), self.repo(&name)?))).collect()
    }

    fn repo(&mut self, name: &str) -> Result<Repo, Wrong> {
        let (upstreams, metalink) = (format!("repos.{name}.upstreams"), format!("repos.{name}.metalink"));
        let shown = if self.0.settings.contains_key(&upstreams) { &upstreams } else { &metalink };
        // A dot or colon would look like a host, the others have a meaning of their own.
        let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'+');
        if name.is_empty() || !name.bytes().all(legal) || name == "-" || name.eq_ignore_ascii_case("https") {
            let what = format!("[repos.{name}]: a name has letters, digits, `-`, `_` and `+` only, and is not `HTTPS`");
            return Err(self.problem(shown, what));
        }
        let keyring_key = format!("repos.{name}.keyring");
        let keyring = match self.text(&keyring_key) {
            Some(path) if Path::new(&path).is_absolute() => Some(PathBuf::from(path)),
            Some(path) => return Err(self.wrong(&keyring_key, &path, "an absolute path of a file")),
            None => None,
        };
        if let Some(url) = self.text(&metalink) {
            if self.0.settings.contains_key(&upstreams) {
                let what = format!("[repos.{name}]: `metalink` names the mirrors; `upstreams` cannot stand beside it");
                return Err(self.problem(&metalink, what));
            }
            let right = "a URL such as \"https://example.org/metalink?repo=fedora-41&arch=x86_64\", without user";
            let url = units::http_url(&url).ok_or_else(|| self.wrong(&metalink, &url, right))?;
            return Ok(Repo { upstreams: Vec::new(), metalink: Some(url), keyring });
        }
        let right = "base URLs such as \"https://example.org/fedora\", without user or query";
        let bases = self.read_each(&upstreams, units::base_url, right)?;
        if bases.is_empty() {
            let what =
                format!("[repos.{name}]: `upstreams` must name at least one mirror, or `metalink` a list of them");
            return Err(self.problem(&upstreams, what));
        }
        Ok(Repo { upstreams: bases, metalink: None, keyring })
    }

    fn freshness(&mut self) -> Result<Freshness, Wrong> {
        let mutable = |text: &str| units::window(text).filter(|window| *window != Window::Immutable);
        let metadata = self.read("freshness.metadata", mutable, "\"revalidate\" or a duration such as \"60s\"")?;
        let right = "\"revalidate\", \"immutable\" or a duration such as \"60s\"";
        let package = self.read("freshness.package", units::window, right)?;
        let other = |text: &str| match text {
            "pass" => Some(Other::Pass),
            "rfc9111" => Some(Other::Rfc9111),
            _ => None,
        };
        let other = self.read("freshness.other", other, "\"pass\" or \"rfc9111\"")?;
        Ok(Freshness { metadata, package, other })
    }

    fn replication(&mut self) -> Result<Replication, Wrong> {
        let max_copies = match self.0.settings.get("replication.max_copies").map(|s| &s.value) {
            Some(Value::Number(number)) => u8::try_from(*number).ok().filter(|copies| *copies > 0),
            _ => None,
        };
        let Some(max_copies) = max_copies else {
            let what = "`replication.max_copies`: expected a number from 1 to 255";
            return Err(self.problem("replication.max_copies", what.into()));
        };
        let rate_limit = self.rate("replication.rate_limit")?;
        Ok(Replication { enabled: self.flag("replication.enabled"), max_copies, rate_limit })
    }

    fn helper(&mut self) -> Result<Helper, Wrong> {
        let right = "a duration such as \"60s\", \"10m\", \"1h\" or \"2d\"";
        let interval = self.read("helper.interval", units::duration, right)?;
        let window = match self.text("helper.window") {
            None => None,
            Some(_) => {
                Some(self.read("helper.window", units::day_window, "two times of the day such as \"01:00-06:00\"")?)
            }
        };
        Ok(Helper {
            enabled: self.flag("helper.enabled"),
            popular: self.flag("helper.popular"),
            prepopulate: self.texts("helper.prepopulate"),
            interval,
            window,
            rate_limit: self.rate("helper.rate_limit")?,
        })
    }

    fn icp(&mut self) -> Result<Option<std::net::SocketAddr>, Wrong> {
        match self.text("icp.listen") {
            None => Ok(None),
            Some(_) => self.address("icp.listen").map(Some),
        }
    }

    fn access_log(&mut self) -> Result<AccessLog, Wrong> {
        let parse = |text: &str| match text {
            "squid" => Some(AccessLog::Squid),
            "combined" => Some(AccessLog::Combined),
            "json" => Some(AccessLog::Json),
            "off" => Some(AccessLog::Off),
            _ => None,
        };
        self.read("log.access", parse, "\"squid\", \"combined\", \"json\" or \"off\"")
    }

    fn cache_size(&mut self) -> Result<super::CacheSize, Wrong> {
        self.read("cache_size", units::cache_size, "a size such as \"50GiB\", or \"80%\" of the file system")
    }

    fn size(&mut self, key: &str) -> Result<u64, Wrong> {
        self.read(key, units::size, "a size such as \"50GiB\", \"200MB\" or a number of bytes")
    }

    fn rate(&mut self, key: &str) -> Result<Option<u64>, Wrong> {
        self.read(key, units::rate, "a rate such as \"50MiB/s\", or \"0\" for no limit")
    }

    fn address(&mut self, key: &str) -> Result<std::net::SocketAddr, Wrong> {
        let parse = |text: &str| text.parse().ok();
        self.read(key, parse, "an address and port such as \"[::]:3142\" or \"192.0.2.1:3142\"")
    }

    /// Reads the text of a key.
    fn read<T>(&mut self, key: &str, parse: impl Fn(&str) -> Option<T>, right: &str) -> Result<T, Wrong> {
        let text = self.text(key).unwrap_or_default();
        parse(&text).ok_or_else(|| self.wrong(key, &text, right))
    }

    /// Reads each text of a list.
    fn read_each<T>(&mut self, key: &str, parse: impl Fn(&str) -> Option<T>, right: &str) -> Result<Vec<T>, Wrong> {
        let read = |text: String| parse(&text).ok_or(text);
        let all: Result<Vec<T>, String> = self.texts(key).into_iter().map(read).collect();
        all.map_err(|text| self.wrong(key, &text, right))
    }

    fn text(&self, key: &str) -> Option<String> {
        match &self.0.settings.get(key)?.value {
            Value::Text(text) => Some(text.clone()),
            _ => None,
        }
    }

    fn texts(&self, key: &str) -> Vec<String> {
        match self.0.settings.get(key).map(|s| &s.value) {
            Some(Value::Texts(texts)) => texts.clone(),
            _ => Vec::new(),
        }
    }

    fn numbers(&self, key: &str) -> Vec<i64> {
        match self.0.settings.get(key).map(|s| &s.value) {
            Some(Value::Numbers(numbers)) => numbers.clone(),
            _ => Vec::new(),
        }
    }

    fn flag(&self, key: &str) -> bool {
        self.0.settings.get(key).is_some_and(|s| s.value == Value::Flag(true))
    }

    fn wrong(&mut self, key: &str, value: &str, right: &str) -> Wrong {
        self.problem(key, format!("`{key}` = {value:?}: expected {right}"))
    }

    fn problem(&mut self, key: &str, what: String) -> Wrong {
        let origin = self.0.settings.get(key).map_or(super::written::Origin::Default, |s| s.origin.clone());
        self.0.problems.push(Problem { origin, what });
        Wrong
    }
}

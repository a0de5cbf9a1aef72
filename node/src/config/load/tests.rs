use super::*;
use crate::config::{AccessLog, CacheSize, Other, Window};
use std::net::IpAddr;
use std::time::Duration;

/// A machine in a folder.
struct Machine(tempfile::TempDir);

impl Machine {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn write(&self, path: &str, text: &str) -> PathBuf {
        let path = self.0.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path
    }

    fn here(&self, is_root: bool, variables: &[(&str, &str)]) -> Surroundings {
        let home = self.0.path().join("home").display().to_string();
        let mut all: BTreeMap<String, String> = [("HOME".to_owned(), home)].into();
        all.extend(variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        Surroundings { variables: all, is_root, host: "lab1.example.org".into(), root: self.0.path().into() }
    }

    fn load(&self, variables: &[(&str, &str)]) -> Result<Loaded, String> {
        load(&Overrides::default(), &self.here(true, variables)).map_err(|e| self.relative(&e.to_string()))
    }

    fn relative(&self, text: &str) -> String {
        text.replace(&format!("{}/", self.0.path().display()), "")
    }
}

fn of_text(text: &str) -> Result<Loaded, String> {
    let machine = Machine::new();
    machine.write("etc/imirror/imirror.toml", text);
    machine.load(&[])
}

fn origin(loaded: &Loaded, key: &str) -> String {
    loaded.shown.iter().find(|shown| shown.key == key).unwrap().origin.clone()
}

#[test]
fn nothing_written_is_a_useful_node() {
    let machine = Machine::new();
    let loaded = machine.load(&[]).unwrap();
    let config = &loaded.config;
    assert_eq!((config.name.as_str(), config.listen), ("lab1", "[::]:3142".parse().unwrap()));
    assert_eq!(config.memory_size, 256 << 20);
    assert!(matches!(config.cache_size, CacheSize::Bytes(bytes) if bytes > 0 && bytes <= 50 << 30));
    assert_eq!((config.freshness.metadata, config.freshness.package), (Window::Revalidate, Window::Revalidate));
    let permits = |address: &str| {
        let address: IpAddr = address.parse().unwrap();
        config.clients.allow.iter().any(|net| net.contains(&address))
    };
    for address in ["127.0.0.1", "10.1.2.3", "192.168.3.4", "172.31.0.1", "::1", "fd00::1", "fe80::1"] {
        assert!(permits(address), "{address}");
    }
    for address in ["192.0.2.1", "172.32.0.1", "2001:db8::1"] {
        assert!(!permits(address), "{address}");
    }
    assert_eq!(config.clients.connect_ports, [443]);
    assert_eq!((config.replication.max_copies, config.replication.rate_limit), (3, Some(50 << 20)));
    assert!(!config.helper.enabled && config.upstream.proxy.is_none() && config.upstream.rate_limit.is_none());
    assert_eq!(machine.relative(&config.state_dir.display().to_string()), "var/lib/imirror");
    assert_eq!(machine.relative(&config.cache_dir.display().to_string()), "var/cache/imirror");
    assert_eq!(machine.relative(&config.socket.display().to_string()), "run/imirror/control.sock");
    assert!(loaded.warnings.is_empty() && loaded.files.is_empty() && loaded.token_problem.is_none());
}

/// DESIGN.md section 1; what is not implemented yet is tested to be refused below.
#[test]
fn every_key_of_the_contract_is_accepted() {
    let loaded = of_text(
        r#"
name = "lab2"
listen = "[::]:3142"
state_dir = "/var/lib/imirror"
cache_dir = "/var/cache/imirror"
cache_size = "80%"
memory_size = "256MiB"
[site]
token = "im1or3wk3tupeqhgzldojsxiidcpf2gk4zb33e5pn72"
token_file = "/nowhere"
mdns = true
seeds = ["10.0.0.12:3142"]
[clients]
allow = ["private", "192.0.2.0/24", "2001:db8::1"]
connect_ports = [443, 8443]
[upstream]
proxy = "http://user:or3wk3tupeqhgzldojsxiidcpf2gk4zb33e5pn72@squid:3128"
allow = ["127.0.0.1:8000", "10.0.0.0/8", "[::1]:81", "192.0.2.0/24:99"]
rate_limit = "2MiB/s"
[repos.fedora]
upstreams = ["https://mirror1.example.org/pub/fedora/", "http://mirror2.example.org/fedora"]
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
prepopulate = ["vlc", "mplayer", "gstreamer*"]
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
    let config = &loaded.config;
    assert_eq!(config.cache_size, CacheSize::Percent(80));
    assert_eq!(config.upstream.rate_limit, Some(2 << 20));
    assert_eq!(
        config.upstream.proxy.as_ref().unwrap().credentials.as_ref().unwrap().0,
        "user:or3wk3tupeqhgzldojsxiidcpf2gk4zb33e5pn72"
    );
    assert_eq!(config.upstream.allow.len(), 4);
    assert_eq!(
        config.repos["fedora"].upstreams,
        ["https://mirror1.example.org/pub/fedora", "http://mirror2.example.org/fedora"]
    );
    assert_eq!(config.freshness.metadata, Window::For(Duration::from_secs(60)));
    assert_eq!((config.freshness.package, config.freshness.other), (Window::Immutable, Other::Pass));
    assert_eq!((config.helper.window, config.icp_listen.unwrap().port()), (Some((60, 360)), 3130));
    assert_eq!(config.access_log, AccessLog::Json);
    assert_eq!(config.site.token.as_ref().unwrap().spelled(), "im1or3wk3tupeqhgzldojsxiidcpf2gk4zb33e5pn72");
    assert!(!format!("{loaded:?}").contains("or3wk3tupeqhgzldojsxiidcpf2gk4zb33e5pn72"), "secrets are not shown");
    for key in keys::KEYS {
        assert!(origin(&loaded, key.name).contains("imirror.toml:"), "{} is not in this test", key.name);
    }
}

#[test]
fn values_that_mean_nothing_are_named_with_their_place() {
    for (text, problem) in [
        (
            "cache_size = \"many\"",
            "1: `cache_size` = \"many\": expected a size such as \"50GiB\", or \"80%\" of the file system",
        ),
        (
            "listen = \"3142\"",
            "1: `listen` = \"3142\": expected an address and port such as \"[::]:3142\" or \"192.0.2.1:3142\"",
        ),
        ("\nname = \"a b\"", "2: `name` = \"a b\": expected letters, digits, `-`, `_` and `.`, at most 63"),
        (
            "[freshness]\nmetadata = \"immutable\"",
            "2: `freshness.metadata` = \"immutable\": expected \"revalidate\" or a duration such as \"60s\"",
        ),
        ("[freshness]\nother = \"rfc\"", "2: `freshness.other` = \"rfc\": expected \"pass\" or \"rfc9111\""),
        (
            "[upstream]\nproxy = \"https://u:or3wk3tupeqhgzldojsxiidcpf2gk4zb33e5pn72@x\"",
            "2: `upstream.proxy`: expected \"http://HOST:PORT\" or \"http://USER:PASSWORD@HOST:PORT\"",
        ),
        (
            "[clients]\nallow = [\"everybody\"]",
            "2: `clients.allow` = \"everybody\": expected \"private\", an address or a network such as \"192.0.2.0/24\"",
        ),
        ("[clients]\nconnect_ports = [0]", "2: `clients.connect_ports` = \"0\": expected ports from 1 to 65535"),
        (
            "[log]\naccess = \"loud\"",
            "2: `log.access` = \"loud\": expected \"squid\", \"combined\", \"json\" or \"off\"",
        ),
        ("[replication]\nmax_copies = 0", "2: `replication.max_copies`: expected a number from 1 to 255"),
        (
            "[repos.HTTPS]\nupstreams = []",
            "2: [repos.HTTPS]: a name has letters, digits, `-`, `_` and `+` only, and is not `HTTPS`",
        ),
        (
            "[repos.x]\nmetalink = \"https://example.org/metalink\"\nupstreams = [\"https://example.org/x\"]",
            "2: [repos.x]: `metalink` names the mirrors; `upstreams` cannot stand beside it",
        ),
        (
            "[repos.x]\nmetalink = \"example.org/metalink\"",
            "2: `repos.x.metalink` = \"example.org/metalink\": expected a URL such as \
             \"https://example.org/metalink?repo=fedora-41&arch=x86_64\", without user",
        ),
        (
            "[repos.x]\nupstreams = []",
            "2: [repos.x]: `upstreams` must name at least one mirror, or `metalink` a list of them",
        ),
    ] {
        let error = of_text(text).unwrap_err();
        assert_eq!(error, format!("the configuration is wrong\n  etc/imirror/imirror.toml:{problem}"));
    }
    let several = of_text("listen = \"x\"\n[log]\naccess = \"loud\"").unwrap_err();
    assert_eq!(several.lines().count(), 3, "{several}");
}

#[test]
fn files_then_variables_then_flags() {
    let machine = Machine::new();
    machine.write("etc/imirror/imirror.toml", "name = \"a\"\nlisten = \"[::]:1\"\n[log]\naccess = \"json\"");
    machine.write("etc/imirror/conf.d/20-b.toml", "name = \"c\"");
    machine.write("etc/imirror/conf.d/10-a.toml", "name = \"b\"\nlisten = \"[::]:2\"");
    machine.write("etc/imirror/conf.d/30.toml.bak", "name = 5");
    let variables =
        [("IMIRROR_LISTEN", "127.0.0.1:3"), ("IMIRROR_CLIENTS_CONNECT_PORTS", "443,80"), ("IMIRROR_PORT", "tcp://x")];
    let flags = vec![("--listen".to_owned(), "listen".to_owned(), "127.0.0.1:4".to_owned())];
    let loaded = load(&Overrides { settings: flags, ..Overrides::default() }, &machine.here(true, &variables)).unwrap();
    let config = &loaded.config;
    assert_eq!((config.name.as_str(), config.listen.port(), config.access_log), ("c", 4, AccessLog::Json));
    assert_eq!(config.clients.connect_ports, [443, 80]);
    assert_eq!(machine.relative(&origin(&loaded, "name")), "etc/imirror/conf.d/20-b.toml:1");
    assert_eq!(origin(&loaded, "listen"), "flag --listen");
    assert_eq!(origin(&loaded, "clients.connect_ports"), "environment IMIRROR_CLIENTS_CONNECT_PORTS");
    assert_eq!(machine.relative(&origin(&loaded, "log.access")), "etc/imirror/imirror.toml:4");
    assert_eq!(loaded.warnings, ["IMIRROR_PORT is no variable of imirror's; it has no effect"]);
    let named = Overrides { file: Some(machine.0.path().join("missing.toml")), ..Overrides::default() };
    let error = load(&named, &machine.here(true, &[])).unwrap_err().to_string();
    assert!(machine.relative(&error).contains("missing.toml:1: cannot be read: No such file"), "{error}");
}

#[test]
fn an_ordinary_user_has_folders_of_their_own() {
    let machine = Machine::new();
    machine.write("etc/imirror/imirror.toml", "name = \"machine\"");
    let of_user =
        |variables: &[(&str, &str)]| load(&Overrides::default(), &machine.here(false, variables)).unwrap().config;
    let config = of_user(&[]);
    let shown = |path: &Path| machine.relative(&path.display().to_string());
    assert_eq!(config.name, "machine");
    assert_eq!(shown(&config.state_dir), "home/.local/state/imirror");
    assert_eq!(shown(&config.cache_dir), "home/.cache/imirror");
    assert_eq!(shown(&config.socket), "home/.local/state/imirror/control.sock");
    let config =
        of_user(&[("XDG_RUNTIME_DIR", "/run/user/7"), ("XDG_CACHE_HOME", "/big"), ("XDG_STATE_HOME", "relative")]);
    assert_eq!(config.socket, Path::new("/run/user/7/imirror/control.sock"));
    assert_eq!(config.cache_dir, Path::new("/big/imirror"));
    assert_eq!(shown(&config.state_dir), "home/.local/state/imirror");
    machine.write("home/.config/imirror/imirror.toml", "name = \"own\"");
    assert_eq!(of_user(&[]).name, "own");
    let config = of_user(&[("STATE_DIRECTORY", "/var/lib/a:/var/lib/b"), ("RUNTIME_DIRECTORY", "/run/a")]);
    assert_eq!((config.state_dir, config.socket), ("/var/lib/a".into(), "/run/a/control.sock".into()));
}

#[test]
fn the_socket_goes_with_a_state_folder_of_its_own() {
    let machine = Machine::new();
    let socket = |variables: &[(&str, &str)]| machine.load(variables).unwrap().config.socket;
    assert_eq!(socket(&[("IMIRROR_STATE_DIR", "/srv/x")]), Path::new("/srv/x/control.sock"));
    assert_eq!(socket(&[("IMIRROR_STATE_DIR", "/srv/x"), ("IMIRROR_SOCKET", "/s")]), Path::new("/s"));
}

#[test]
fn the_environments_proxy_is_the_default_only() {
    let machine = Machine::new();
    let env = [("http_proxy", "proxy.example.org:3128"), ("no_proxy", "localhost, .example.net")];
    let loaded = machine.load(&env).unwrap();
    let proxy = loaded.config.upstream.proxy.as_ref().unwrap();
    assert_eq!((proxy.host.as_str(), proxy.port), ("proxy.example.org", 3128));
    assert_eq!(loaded.config.upstream.no_proxy, ["localhost", ".example.net"]);
    assert_eq!(origin(&loaded, "upstream.proxy"), "environment http_proxy");

    let set =
        [env[0], env[1], ("IMIRROR_UPSTREAM_PROXY", "http://u:or3wk3tupeqhgzldojsxiidcpf2gk4zb33e5pn72@squid:3128")];
    let loaded = machine.load(&set).unwrap();
    assert_eq!(loaded.config.upstream.proxy.as_ref().unwrap().host, "squid");
    assert!(loaded.config.upstream.no_proxy.is_empty(), "a configured proxy is never gone round");
    let shown = loaded.shown.iter().find(|shown| shown.key == "upstream.proxy").unwrap();
    assert_eq!(shown.value.as_deref(), Some("\"http://(secret)@squid:3128\""));

    let loaded = machine.load(&[env[0], ("IMIRROR_UPSTREAM_PROXY", "")]).unwrap();
    assert!(loaded.config.upstream.proxy.is_none(), "an empty one is none");
    let loaded = machine.load(&[("http_proxy", "http://localhost:3142/")]).unwrap();
    assert!(loaded.config.upstream.proxy.is_none());
    assert!(loaded.warnings[0].contains("this node itself"), "{:?}", loaded.warnings);
    let error =
        machine.load(&[("https_proxy", "socks5://u:or3wk3tupeqhgzldojsxiidcpf2gk4zb33e5pn72@x:1080")]).unwrap_err();
    assert!(
        error.contains("environment https_proxy: `upstream.proxy`")
            && !error.contains("or3wk3tupeqhgzldojsxiidcpf2gk4zb33e5pn72"),
        "{error}"
    );
}

#[test]
fn tokens() {
    let machine = Machine::new();
    let path = machine.write("var/lib/imirror/token", "im1or3wk3tupeqhgzldojsxiidcpf2gk4zb33e5pn72\n");
    let set_mode = |mode: u32| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    set_mode(0o644);
    let loaded = machine.load(&[]).unwrap();
    assert_eq!(loaded.config.site.token.as_ref().unwrap().spelled(), "im1or3wk3tupeqhgzldojsxiidcpf2gk4zb33e5pn72");
    assert!(loaded.warnings[0].contains("chmod 600"), "{:?}", loaded.warnings);
    set_mode(0o600);
    assert!(machine.load(&[]).unwrap().warnings.is_empty());
    let missing = machine.load(&[("IMIRROR_SITE_TOKEN_FILE", "/nonexistent/token")]).unwrap();
    let problem = missing.token_problem.unwrap().to_string();
    assert!(
        problem.contains("IMIRROR_SITE_TOKEN_FILE: the site's token /nonexistent/token: cannot be read"),
        "{problem}"
    );
    let token = "im1or3wk3tupeqhgzldojsxiidcpf2gk4zb33e5pn72";
    let loaded = machine.load(&[("IMIRROR_SITE_TOKEN", token)]).unwrap();
    assert_eq!(loaded.config.site.token.unwrap().spelled(), token);
    let problem = machine.load(&[("IMIRROR_SITE_TOKEN", "im1x")]).unwrap().token_problem.unwrap().to_string();
    assert!(problem.contains("IMIRROR_SITE_TOKEN: a site token has 43 characters"), "{problem}");
}

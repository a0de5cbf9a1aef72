//! The configuration as it is meant; nothing else of the program sees an invalid value. `written` holds it as it is
//! written, `meant` turns the one into the other, `load` finds what there is to read on this machine.

pub mod keys;
mod load;
mod meant;
pub mod units;
pub mod written;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use imirror_protocol::token::Token;
use ipnet::IpNet;

pub use load::{ConfigError, Loaded, Overrides, Shown, Surroundings, load};

/// Everything that can be set. Every value has a default.
#[derive(Debug, Clone)]
pub struct Config {
    /// This node's name in `Via`, `Cache-Status`, logs and lists; default the host name.
    pub name: String,
    /// TCP for clients, UDP of the same number for peers.
    pub listen: SocketAddr,
    pub state_dir: PathBuf,
    pub cache_dir: PathBuf,
    /// Where the control socket is.
    pub socket: PathBuf,
    /// Of everything under `cache_dir`.
    pub cache_size: CacheSize,
    /// Bytes of small hot objects kept in memory.
    pub memory_size: u64,
    pub site: Site,
    pub clients: Clients,
    pub upstream: Upstream,
    pub repos: BTreeMap<String, Repo>,
    pub freshness: Freshness,
    pub replication: Replication,
    pub helper: Helper,
    /// ICP is off unless set.
    pub icp_listen: Option<SocketAddr>,
    pub access_log: AccessLog,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum CacheSize {
    Bytes(u64),
    /// Of the file system that holds `cache_dir`; 0 to 100.
    Percent(u8),
}

#[derive(Debug, Clone)]
pub struct Site {
    /// `None`: in no site yet.
    pub token: Option<Token>,
    pub mdns: bool,
    pub seeds: Vec<String>,
}

/// A text that `Debug` and `Display` never show.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub String);

#[derive(Debug, Clone)]
pub struct Clients {
    /// Networks whose addresses are served.
    pub allow: Vec<IpNet>,
    /// Ports that CONNECT may reach.
    pub connect_ports: Vec<u16>,
}

#[derive(Debug, Clone)]
pub struct Upstream {
    /// The parent proxy: the only way out, never round it.
    pub proxy: Option<ParentProxy>,
    /// Hosts that are reached without the parent: names, `.suffixes`, addresses, CIDRs, `*` (from `no_proxy`).
    pub no_proxy: Vec<String>,
    /// Addresses permitted besides the default.
    pub allow: Vec<AllowedDestination>,
    /// Bytes a second for the whole site; `None` is no limit.
    pub rate_limit: Option<u64>,
}

/// `http://[USER:PASSWORD@]HOST:PORT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParentProxy {
    pub host: String,
    pub port: u16,
    pub credentials: Option<Secret>,
}

/// `ADDRESS` or CIDR, each with an optional `:PORT`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AllowedDestination {
    pub net: IpNet,
    pub port: Option<u16>,
}

impl AllowedDestination {
    pub fn permits(&self, address: IpAddr, port: u16) -> bool {
        self.net.contains(&address) && self.port.is_none_or(|p| p == port)
    }
}

#[derive(Debug, Clone)]
pub struct Repo {
    /// Base URLs of the mirrors without a trailing slash; empty when a metalink names them.
    pub upstreams: Vec<String>,
    pub metalink: Option<String>,
    /// OpenPGP keys, armoured or not: what clients trust first must be signed by one of them.
    pub keyring: Option<PathBuf>,
}

/// How long an answer is taken as current.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Window {
    /// Ask upstream each time (requests of the same moment share one question).
    Revalidate,
    /// Not asked again for this long after the last confirmation.
    For(Duration),
    /// Never asked again.
    Immutable,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Other {
    /// Forwarded, never stored.
    Pass,
    /// Stored and reused as RFC 9111 lets a shared cache do it: variants, validation, invalidation, stale answers.
    Rfc9111,
}

#[derive(Debug, Clone)]
pub struct Freshness {
    pub metadata: Window,
    pub package: Window,
    pub other: Other,
}

#[derive(Debug, Clone)]
pub struct Replication {
    pub enabled: bool,
    pub max_copies: u8,
    /// Bytes a second; `None` is no limit.
    pub rate_limit: Option<u64>,
}

#[derive(Debug, Clone)]
pub struct Helper {
    pub enabled: bool,
    pub popular: bool,
    pub prepopulate: Vec<String>,
    pub interval: Duration,
    /// Minutes of the local day, start and end; `None` is always. An end before the start passes midnight.
    pub window: Option<(u16, u16)>,
    /// Bytes a second; `None` is no limit.
    pub rate_limit: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccessLog {
    Squid,
    Combined,
    Json,
    Off,
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("(secret)")
    }
}

//! What `imirror status --json` and `/-/api/status` say; the names are a public contract.

use serde::{Deserialize, Serialize};

use super::history::Sums;
use crate::os::clock::Timestamp;

/// Everything worth knowing about a running node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    pub node: Node,
    pub site: Site,
    pub cache: Cache,
    pub traffic: Traffic,
    pub flights: Vec<Flight>,
    pub popular: Vec<Popular>,
    pub repos: Vec<Repo>,
    pub helper: Helper,
    pub history: Kept,
    /// The latest first.
    pub errors: Vec<Failure>,
}

#[cfg(test)]
impl Status {
    /// A busy little node, for tests of what shows it.
    pub(crate) fn example() -> Self {
        Self {
            node: Node {
                name: "lab1".into(),
                id: "b1946ac92492d234".into(),
                version: "0.1.0".into(),
                started: Timestamp(1_793_526_185_007),
                address: "192.0.2.1:3142".into(),
            },
            site: Site {
                id: "b1946ac92492d234".into(),
                nodes: vec![Member {
                    name: "lab1".into(),
                    id: "b1946ac92492d234".into(),
                    address: "192.0.2.1:3142".into(),
                    state: "alive".into(),
                    objects: 4711,
                    bytes: 12 << 30,
                    load: 0.25,
                    round_trip_ms: None,
                    report: None,
                }],
            },
            cache: Cache { objects: 4711, bytes: 12 << 30, limit_bytes: 50 << 30 },
            traffic: Traffic {
                requests: 1000,
                hits: 800,
                peer_hits: 0,
                misses: 150,
                stale: 3,
                errors: 2,
                bytes_to_clients: 9_000_000_000,
                bytes_from_memory: 100_000_000,
                bytes_from_disk: 7_400_000_000,
                bytes_from_peers: 0,
                bytes_from_upstream: 1_500_000_000,
                bytes_to_peers: 0,
            },
            flights: vec![Flight {
                url: "http://example.org/fedora/kernel-core-7.0.rpm".into(),
                bytes: 20 << 20,
                total: Some(80 << 20),
                readers: 3,
                source: "example.org".into(),
                rate: 5 << 20,
            }],
            popular: vec![Popular { name: "kernel-core:x86_64".into(), demand: 41.6, copies: 2 }],
            repos: vec![Repo {
                name: "fedora".into(),
                upstreams: vec!["https://example.org/pub/fedora".into()],
                metalink: None,
                roots: vec![Root {
                    url: "https://example.org/pub/fedora/repodata/repomd.xml".into(),
                    made: Some(1_793_519_969),
                    since: Timestamp(1_793_526_300_000),
                    packages: 60_000,
                    lists: 1,
                    earlier: 1,
                }],
            }],
            helper: Helper::default(),
            history: Kept {
                today: Sums {
                    bytes_to_clients: 3 << 30,
                    bytes_from_upstream: 1 << 30,
                    upstream_busy_ms: 600_000,
                    ..Sums::default()
                },
                total: Sums {
                    hits: 9,
                    misses: 1,
                    bytes_to_clients: 90 << 30,
                    bytes_from_upstream: 30 << 30,
                    ..Sums::default()
                },
            },
            errors: vec![],
        }
    }
}

/// The node that answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Node {
    pub name: String,
    pub id: String,
    pub version: String,
    #[serde(with = "rfc3339")]
    pub started: Timestamp,
    /// Where clients reach it, `ADDRESS:PORT`.
    pub address: String,
}

/// The nodes that work together.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Site {
    pub id: String,
    pub nodes: Vec<Member>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Member {
    pub name: String,
    pub id: String,
    pub address: String,
    /// `alive`, `suspect`, `draining` or `dead`.
    pub state: String,
    pub objects: u64,
    pub bytes: u64,
    /// 0 is idle, 1 is as busy as it can be.
    pub load: f64,
    /// Of a packet from the node that answers, in milliseconds; `None` of itself, and where there is no connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub round_trip_ms: Option<f64>,
    /// What it has told lately; `None` of the node that answers, which says the same of itself elsewhere, and where it does not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report: Option<Report>,
}

/// What a node tells the others, for people to see.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Report {
    pub flights: Vec<Flight>,
    pub history: Kept,
    /// The latest first.
    pub errors: Vec<Failure>,
    pub repos: Vec<Repo>,
    pub helper: Helper,
    /// As of [`Health::degraded`].
    pub degraded: Vec<String>,
}

/// Downloads in progress, and repositories, that one node tells another of.
const TOLD_MAX: usize = 100;

impl Report {
    /// What the node of this status tells.
    pub fn of(status: Status, health: Health) -> Self {
        let Status { mut flights, history, errors, mut repos, helper, .. } = status;
        flights.truncate(TOLD_MAX);
        repos.truncate(TOLD_MAX);
        Self { flights, history, errors, repos, helper, degraded: health.degraded }
    }
}

/// The whole site, as far as its nodes have told.
impl Status {
    /// Is there anybody else?
    pub fn has_others(&self) -> bool {
        self.site.nodes.len() > 1
    }

    /// Downloads in progress, each with the node that makes it; this node's first.
    pub fn flights_of_site(&self) -> Vec<(&str, &Flight)> {
        let own = self.flights.iter().map(|flight| (self.node.name.as_str(), flight));
        own.chain(self.reports().flat_map(|(name, it)| it.flights.iter().map(move |flight| (name, flight)))).collect()
    }

    /// What has failed, each with the node where it did; the latest first.
    pub fn errors_of_site(&self) -> Vec<(&str, &Failure)> {
        let own = self.errors.iter().map(|failure| (self.node.name.as_str(), failure));
        let others = self.reports().flat_map(|(name, it)| it.errors.iter().map(move |failure| (name, failure)));
        let mut all: Vec<_> = own.chain(others).collect();
        all.sort_by_key(|(_, failure)| std::cmp::Reverse(failure.at));
        all
    }

    /// All repositories, each as the node tells it that has its newest generation; this node's come first.
    pub fn repos_of_site(&self) -> Vec<&Repo> {
        let mut all: Vec<&Repo> = self.repos.iter().collect();
        for repo in self.reports().flat_map(|(_, report)| &report.repos) {
            match all.iter_mut().find(|known| known.name == repo.name) {
                Some(known) if known.made() < repo.made() => *known = repo,
                Some(_) => {}
                None => all.push(repo),
            }
        }
        all
    }

    /// The helpers that have something to do, each with its node.
    pub fn helpers_of_site(&self) -> Vec<(&str, &Helper)> {
        let others = self.reports().map(|(name, report)| (name, &report.helper));
        let all = std::iter::once((self.node.name.as_str(), &self.helper)).chain(others);
        all.filter(|(_, helper)| helper.enabled || helper.wanted > 0).collect()
    }

    /// What other nodes do not do as they should, each with its name.
    pub fn others_degraded(&self) -> Vec<(&str, &str)> {
        self.reports().flat_map(|(name, it)| it.degraded.iter().map(move |why| (name, why.as_str()))).collect()
    }

    /// What went through all nodes together.
    pub fn history_of_site(&self) -> Kept {
        self.reports().fold(self.history, |sum, (_, report)| Kept {
            today: sum.today.plus(&report.history.today),
            total: sum.total.plus(&report.history.total),
        })
    }

    fn reports(&self) -> impl Iterator<Item = (&str, &Report)> {
        self.site.nodes.iter().filter_map(|node| Some((node.name.as_str(), node.report.as_ref()?)))
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cache {
    pub objects: u64,
    pub bytes: u64,
    pub limit_bytes: u64,
}

/// Sums since the node started. Tunnels, passed-on and refused requests are in `requests` only.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// All but those for the node's own pages.
    pub requests: u64,
    /// Served from this node or from a download that was under way, confirmed by upstream or not in need of it.
    pub hits: u64,
    pub peer_hits: u64,
    pub misses: u64,
    /// Served unconfirmed, because upstream was unreachable.
    pub stale: u64,
    pub errors: u64,
    pub bytes_to_clients: u64,
    pub bytes_from_memory: u64,
    pub bytes_from_disk: u64,
    pub bytes_from_peers: u64,
    pub bytes_from_upstream: u64,
    pub bytes_to_peers: u64,
}

/// A download in progress.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Flight {
    pub url: String,
    /// So far.
    pub bytes: u64,
    /// Of the whole, when it is known.
    pub total: Option<u64>,
    pub readers: u64,
    /// The host or peer it comes from.
    pub source: String,
    /// Bytes a second since it began.
    pub rate: u64,
}

impl Flight {
    /// The host or node that it comes from, and in words what that is; [`Self::source`] has the access log's words.
    pub fn origin(&self) -> (&str, &'static str) {
        match self.source.split_once('/') {
            Some(("FIRSTUP_PARENT", proxy)) => (proxy, "parent proxy"),
            Some(("SIBLING_HIT", node)) => (node, "node of the site"),
            Some(("HIER_DIRECT", host)) => (host, "upstream"),
            _ => (&self.source, "upstream"),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Popular {
    pub name: String,
    /// Decayed count of requests.
    pub demand: f64,
    /// Nodes of the site that have it.
    #[serde(default)]
    pub copies: u64,
}

/// A repository: one that is configured, or one whose metadata has passed through.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Repo {
    /// The configured name, else the URL that its packages lie below.
    pub name: String,
    pub upstreams: Vec<String>,
    pub metalink: Option<String>,
    /// What is known of its contents: one for each root of its metadata.
    #[serde(default)]
    pub roots: Vec<Root>,
}

impl Repo {
    /// When its newest generation was made.
    pub fn made(&self) -> Option<Timestamp> {
        let made = self.roots.iter().filter_map(|root| root.made).max();
        made.map(|seconds| Timestamp(seconds.saturating_mul(1000)))
    }

    /// Packages in the lists that have been read.
    pub fn packages(&self) -> u64 {
        self.roots.iter().map(|root| root.packages).sum()
    }
}

/// What a root of a repository's metadata (`repomd.xml`, `InRelease`) says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Root {
    pub url: String,
    /// When its current generation was made, in seconds since 1970, as it says itself.
    pub made: Option<u64>,
    /// Since when it is served here.
    pub since: Timestamp,
    /// Files in the lists that have been read.
    pub packages: u64,
    /// Lists that have been read.
    pub lists: u64,
    /// Earlier generations that are remembered.
    pub earlier: u64,
}

/// What the helper has to do and has done.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Helper {
    pub enabled: bool,
    /// In words: what it does now, or waits for.
    pub doing: String,
    /// Packages it wants to have, and those of them that the site has.
    pub wanted: u64,
    pub present: u64,
    pub bytes_wanted: u64,
    pub bytes_present: u64,
    /// Packages that could not be had when they were last tried.
    pub failed: u64,
    /// The download under way.
    pub current: Option<Flight>,
    /// Until all is there at the present rate, if anything is coming.
    pub seconds_left: Option<u64>,
    /// What no repository in use has, and who needs it.
    pub missing: Vec<String>,
    /// There is more than fits.
    pub is_cut: bool,
    /// Rounds that have ended since the node started; a round is a look at the metadata and the downloads that follow.
    pub rounds: u64,
}

/// A package that the helper wants to have.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Prefetch {
    /// With its architecture: `vlc:amd64`.
    pub name: String,
    pub version: String,
    pub bytes: u64,
    pub url: String,
    /// `popular`, `listed` or `needed`.
    pub why: String,
    /// `present`, `waiting`, `fetching` or `failed`.
    pub state: String,
    /// Why it could not be had.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// What has become of files that were imported.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Import {
    /// Files that have been looked at, of so many.
    pub files: u64,
    pub files_total: u64,
    /// Stored now.
    pub imported: u64,
    pub bytes: u64,
    /// Here already.
    pub known: u64,
    /// Named by no repository in use: nobody can say what they have to be.
    pub unknown: u64,
    /// Not what the repository says, or not readable; the first of them.
    pub refused: Vec<String>,
    pub refused_total: u64,
    pub finished: bool,
    /// Why there was nothing to be looked at.
    pub error: Option<String>,
}

/// What went through the node; kept over restarts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Kept {
    /// Since midnight, local time.
    pub today: Sums,
    /// Since the node first ran.
    pub total: Sums,
}

/// Something that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// When it was last seen.
    #[serde(with = "rfc3339")]
    pub at: Timestamp,
    /// What was asked for.
    pub what: String,
    pub why: String,
    /// How often it was seen, as far back as it is remembered.
    pub times: u64,
}

/// What does not work as it should. Degraded nodes go on serving.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// Empty when all is well.
    pub degraded: Vec<String>,
    /// Hosts that are remembered as unreachable, with the reason.
    pub unreachable: Vec<String>,
}

/// What `imirror lookup` says of a URL.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Lookup {
    /// As it was asked for, in canonical form.
    pub url: String,
    /// What it is called in the index, when that differs.
    pub key: String,
    /// `package`, `immutable-metadata`, `mutable-metadata` or `other`.
    pub class: String,
    pub stored: Option<StoredObject>,
    /// The download that would be joined.
    pub flight: Option<Flight>,
    /// What would be done with a request for it now, and why.
    pub would: String,
    /// The servers that would be asked, in order.
    pub sources: Vec<String>,
    /// What repositories say of it, if any does.
    #[serde(default)]
    pub said: Option<Said>,
    /// Requests for the name of the package in the whole site; those of a month ago count half.
    #[serde(default)]
    pub popularity: Option<f64>,
}

/// What a repository's metadata says of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Said {
    /// The root of the metadata; empty when it names it no more.
    pub root: String,
    /// `current`, `earlier`, or `superseded`: it has others instead.
    pub generation: String,
    /// `ALGORITHM:HEX`.
    pub digest: Option<String>,
    /// Whether what is stored is that; `None` where nothing is stored or no digest is named.
    pub verified: Option<bool>,
}

/// An object in this node's store.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StoredObject {
    /// BLAKE3 of the content, in hexadecimal.
    pub object: String,
    pub bytes: u64,
    #[serde(with = "rfc3339")]
    pub stored_at: Timestamp,
    /// When upstream last confirmed it.
    #[serde(with = "rfc3339")]
    pub confirmed_at: Timestamp,
    pub in_memory: bool,
    /// The digest that a repository names for it, `ALGORITHM:HEX`.
    pub digest: Option<String>,
}

/// How far `imirror verify` has come, and at the end what it found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verify {
    pub objects: u64,
    pub objects_total: u64,
    pub bytes: u64,
    /// Objects that were damaged or missing and have been dropped.
    pub dropped: u64,
    pub finished: bool,
    /// It ended early; the node's log says why.
    pub failed: bool,
}

/// What `imirror purge` has done.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Purged {
    /// Objects forgotten, at all nodes together.
    pub forgotten: u64,
    /// Of those, at the node that was asked.
    pub here: u64,
    /// Nodes that had any, this one among them.
    pub nodes: u64,
    /// Names of nodes that have not answered in five seconds: they are told again when they are met again.
    pub unanswered: Vec<String>,
}

/// How far `imirror drain` has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drain {
    /// Objects looked at, of those that there were at the beginning.
    pub objects: u64,
    pub objects_total: u64,
    /// Those that no other node had, and one has now.
    pub handed: u64,
    /// Those that no other node has or takes.
    pub left: u64,
    pub finished: bool,
}

/// Times as `2026-11-01T09:43:05.123Z`.
mod rfc3339 {
    use serde::de::{Deserialize, Deserializer, Error};
    use serde::ser::Serializer;

    use crate::ledger::format;
    use crate::os::clock::Timestamp;

    pub(super) fn serialize<S: Serializer>(at: &Timestamp, to: S) -> Result<S::Ok, S::Error> {
        let mut text = String::new();
        format::rfc3339(*at, &mut text).map_err(serde::ser::Error::custom)?;
        to.serialize_str(&text)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Timestamp, D::Error> {
        let text = String::deserialize(from)?;
        let at: jiff::Timestamp = text.parse().map_err(D::Error::custom)?;
        Ok(Timestamp(u64::try_from(at.as_millisecond()).unwrap_or(0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_are_those_of_the_contract() {
        let json = serde_json::to_value(Status::example()).unwrap();
        let names = |value: &serde_json::Value| -> Vec<String> {
            let mut names: Vec<_> = value.as_object().unwrap().keys().cloned().collect();
            names.sort();
            names
        };
        assert_eq!(
            names(&json),
            ["cache", "errors", "flights", "helper", "history", "node", "popular", "repos", "site", "traffic"]
        );
        assert_eq!(names(&json["node"]), ["address", "id", "name", "started", "version"]);
        assert_eq!(names(&json["site"]), ["id", "nodes"]);
        assert_eq!(names(&json["site"]["nodes"][0]), ["address", "bytes", "id", "load", "name", "objects", "state"]);
        assert_eq!(names(&json["cache"]), ["bytes", "limit_bytes", "objects"]);
        assert_eq!(
            names(&json["traffic"]),
            [
                "bytes_from_disk",
                "bytes_from_memory",
                "bytes_from_peers",
                "bytes_from_upstream",
                "bytes_to_clients",
                "bytes_to_peers",
                "errors",
                "hits",
                "misses",
                "peer_hits",
                "requests",
                "stale",
            ]
        );
        assert_eq!(json["node"]["started"], "2026-11-01T09:43:05.007Z");
        assert_eq!(serde_json::from_value::<Status>(json).unwrap(), Status::example());
    }
}

//! How a request ended, in the words that the log, the metrics and `Cache-Status` share.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// How a request was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// From the memory of this node, without asking upstream.
    MemoryHit,
    /// From the disk of this node, without asking upstream.
    Hit,
    /// From another node of the site.
    PeerHit,
    /// From upstream, by a flight that this request began.
    Miss,
    /// By joining a flight that another request began.
    Collapsed,
    /// From this node, after upstream confirmed it.
    RefreshUnmodified,
    /// From upstream, which has a newer version than this node had.
    RefreshModified,
    /// From this node, unconfirmed because upstream is unreachable.
    Stale,
    /// A tunnel (CONNECT); its bytes are not looked at.
    Tunnel,
    /// Passed on as an ordinary proxy does, nothing kept.
    Pass,
    /// Refused: a network, destination, port or method that is not permitted.
    Denied,
    /// Failed: a malformed request, or no source had an answer.
    Error,
    /// The node's own pages under `/-/`.
    Own,
}

impl Outcome {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 13] = [
        Self::MemoryHit,
        Self::Hit,
        Self::PeerHit,
        Self::Miss,
        Self::Collapsed,
        Self::RefreshUnmodified,
        Self::RefreshModified,
        Self::Stale,
        Self::Tunnel,
        Self::Pass,
        Self::Denied,
        Self::Error,
        Self::Own,
    ];

    /// The word in metrics and in the JSON log.
    pub fn word(self) -> &'static str {
        match self {
            Self::MemoryHit => "memory-hit",
            Self::Hit => "hit",
            Self::PeerHit => "peer-hit",
            Self::Miss => "miss",
            Self::Collapsed => "collapsed",
            Self::RefreshUnmodified => "refresh-unmodified",
            Self::RefreshModified => "refresh-modified",
            Self::Stale => "stale",
            Self::Tunnel => "tunnel",
            Self::Pass => "pass",
            Self::Denied => "denied",
            Self::Error => "error",
            Self::Own => "own",
        }
    }

    /// Squid's result code (`%Ss`) for an answer with this status.
    pub fn squid_code(self, status: u16) -> &'static str {
        match self {
            Self::MemoryHit | Self::Hit if status == 304 => "TCP_IMS_HIT",
            Self::MemoryHit => "TCP_MEM_HIT",
            Self::Hit => "TCP_HIT",
            Self::Collapsed => "TCP_CF_HIT",
            Self::RefreshUnmodified => "TCP_REFRESH_UNMODIFIED",
            Self::RefreshModified => "TCP_REFRESH_MODIFIED",
            Self::Stale => "TCP_OFFLINE_HIT",
            Self::Tunnel => "TCP_TUNNEL",
            Self::Denied => "TCP_DENIED",
            Self::Error if status < 500 => "NONE",
            Self::Own => "NONE",
            // Squid logs what a sibling answered as a miss, with SIBLING_HIT as the hierarchy code.
            Self::PeerHit | Self::Miss | Self::Pass | Self::Error => "TCP_MISS",
        }
    }

    /// The parameters of this node's member of `Cache-Status` (RFC 9211 section 2).
    pub fn cache_status(self) -> &'static str {
        match self {
            Self::MemoryHit | Self::Hit => "hit",
            Self::PeerHit => "fwd=uri-miss",
            Self::Miss => "fwd=uri-miss; stored",
            Self::Collapsed => "fwd=uri-miss; collapsed",
            Self::RefreshUnmodified => "hit; fwd=stale; fwd-status=304",
            Self::RefreshModified => "fwd=stale; fwd-status=200; stored",
            Self::Stale => "hit; detail=stale",
            Self::Tunnel | Self::Pass => "fwd=bypass",
            Self::Denied => "detail=denied",
            Self::Error => "fwd=miss; detail=error",
            Self::Own => "detail=own",
        }
    }

    /// Did the content come from this node, or from a download that was under way for another?
    pub fn is_hit(self) -> bool {
        matches!(self, Self::MemoryHit | Self::Hit | Self::Collapsed | Self::RefreshUnmodified)
    }
}

/// What a request was about, as metrics divide it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Subject {
    Package,
    ImmutableMetadata,
    MutableMetadata,
    /// Not ours, tunnels included.
    Other,
    /// The node's own pages.
    Own,
}

impl Subject {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 5] = [Self::Package, Self::ImmutableMetadata, Self::MutableMetadata, Self::Other, Self::Own];

    /// The word in metrics and in the JSON log.
    pub fn word(self) -> &'static str {
        match self {
            Self::Package => "package",
            Self::ImmutableMetadata => "immutable-metadata",
            Self::MutableMetadata => "mutable-metadata",
            Self::Other => "other",
            Self::Own => "own",
        }
    }
}

/// Who was asked for the content, in Squid's hierarchy codes (`%Sh/%<a`); `Display` gives the log's word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hierarchy<'a> {
    /// Nobody.
    None,
    /// A server of the world.
    Direct(IpAddr),
    /// The parent proxy.
    Parent(&'a str),
    /// A peer that had it.
    Sibling(&'a str),
}

impl fmt::Display for Hierarchy<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("HIER_NONE/-"),
            Self::Direct(address) => write!(f, "HIER_DIRECT/{}", address.to_canonical()),
            Self::Parent(proxy) => write!(f, "FIRSTUP_PARENT/{proxy}"),
            Self::Sibling(peer) => write!(f, "SIBLING_HIT/{peer}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_places_and_words_are_the_serialised_ones() {
        for (place, outcome) in Outcome::ALL.into_iter().enumerate() {
            assert_eq!(outcome as usize, place);
            assert_eq!(serde_json::to_string(&outcome).unwrap(), format!("\"{}\"", outcome.word()));
        }
        for (place, subject) in Subject::ALL.into_iter().enumerate() {
            assert_eq!(subject as usize, place);
            assert_eq!(serde_json::to_string(&subject).unwrap(), format!("\"{}\"", subject.word()));
        }
    }

    #[test]
    fn analysers_see_a_hit_where_no_upstream_byte_was_paid_for() {
        for outcome in Outcome::ALL.into_iter().filter(|o| o.is_hit()) {
            let code = outcome.squid_code(200);
            assert!(code.contains("HIT") || code.contains("UNMODIFIED"), "{code}");
        }
        assert_eq!(Outcome::Miss.squid_code(200), "TCP_MISS");
        assert_eq!(Outcome::Hit.squid_code(304), "TCP_IMS_HIT");
        assert_eq!(Outcome::Error.squid_code(400), "NONE");
        assert_eq!(Outcome::Error.squid_code(504), "TCP_MISS");
    }

    #[test]
    fn hierarchy_codes() {
        let mapped: IpAddr = "::ffff:192.0.2.1".parse().unwrap();
        assert_eq!(Hierarchy::Direct(mapped).to_string(), "HIER_DIRECT/192.0.2.1");
        assert_eq!(Hierarchy::Parent("squid").to_string(), "FIRSTUP_PARENT/squid");
        assert_eq!(Hierarchy::Sibling("lab2").to_string(), "SIBLING_HIT/lab2");
        assert_eq!(Hierarchy::None.to_string(), "HIER_NONE/-");
    }
}

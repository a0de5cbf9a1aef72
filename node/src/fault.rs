//! What went wrong, whose fault it is and whether another try may help.
//!
//! Sources are chosen (same one again, next mirror, give up) and answers are worded (502, 504, a cut
//! connection) by these data, never by reading a message.

use std::fmt;
use std::sync::Arc;

/// Who has to mend it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whose {
    /// The request is wrong or not permitted.
    Client,
    /// A server outside the site.
    Upstream,
    /// Another node of the site.
    Peer,
    /// The file system under `cache_dir`.
    Disk,
    /// A bug or a limit of this program.
    Ours,
}

/// What may help.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// Nothing: the same request fails again.
    Never,
    /// The same source, from where it broke off.
    SameSource,
    /// Another source of the same content.
    OtherSource,
}

/// The reason, in the words of the log and of the client's error page.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Cause {
    /// The name has no address, or the resolver did not answer.
    NameNotFound { host: Arc<str>, detail: Arc<str> },
    /// The connection was refused.
    Refused { address: Arc<str> },
    /// No connection in time, or the network says there is no way.
    NoConnection { address: Arc<str>, detail: Arc<str> },
    /// TLS failed: certificate expired, wrong name, unknown authority, protocol error.
    Tls { host: Arc<str>, detail: Arc<str> },
    /// Connected, but no answer (head) in time.
    NoAnswer { host: Arc<str>, waited_ms: u64 },
    /// The body stopped coming.
    Stalled { host: Arc<str>, waited_ms: u64 },
    /// The body comes, but so slowly that nobody is served by it.
    TooSlow { host: Arc<str> },
    /// The connection ended before the body did.
    Truncated { host: Arc<str>, detail: Arc<str> },
    /// The answer breaks HTTP or contradicts the request.
    Malformed { host: Arc<str>, detail: Arc<str> },
    /// An answer with a status that cannot be used here.
    Status { host: Arc<str>, status: u16 },
    /// Upstream has another version now than the one being downloaded.
    Changed { host: Arc<str> },
    /// The bytes do not match the digest that the repository names.
    WrongDigest { host: Arc<str>, expected: Arc<str>, got: Arc<str> },
    /// An address, port or scheme that this node must not contact for anyone.
    DestinationForbidden { detail: Arc<str> },
    /// The parent proxy refused or failed.
    Parent { proxy: Arc<str>, detail: Arc<str> },
    /// No list of a repository's mirrors could be had.
    NoMirrors { repo: Arc<str>, detail: Arc<str> },
    /// More redirects than anyone needs, or a redirect to itself.
    RedirectLoop { host: Arc<str> },
    /// The request has already passed through this node, or through another one of its site.
    ForwardingLoop { detail: Arc<str> },
    /// Larger than the cache may hold.
    TooLarge { limit: u64 },
    /// No room on the file system, or the quota of blocks or inodes is used up.
    DiskFull { detail: Arc<str> },
    /// The file system failed.
    Disk { detail: Arc<str> },
    /// A stored object is not what it was when it was stored.
    Corrupt { object: Arc<str> },
    /// The request is malformed.
    BadRequest { detail: Arc<str> },
    /// The node is stopping, too busy, or has a bug.
    Internal { detail: Arc<str> },
}

/// An error that knows whose fault it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{cause}")]
pub struct Fault {
    pub whose: Whose,
    pub retry: Retry,
    pub cause: Cause,
}

impl Fault {
    /// The fault of this cause, with the blame and the remedy that always go with it.
    pub fn new(cause: Cause) -> Self {
        use Cause::*;
        let (whose, retry) = match &cause {
            NameNotFound { .. }
            | Refused { .. }
            | NoConnection { .. }
            | Tls { .. }
            | NoAnswer { .. }
            | TooSlow { .. }
            | NoMirrors { .. }
            | Parent { .. } => (Whose::Upstream, Retry::OtherSource),
            Stalled { .. } | Truncated { .. } => (Whose::Upstream, Retry::SameSource),
            Malformed { .. } | Status { .. } | Changed { .. } | WrongDigest { .. } | RedirectLoop { .. } => {
                (Whose::Upstream, Retry::OtherSource)
            }
            DestinationForbidden { .. } | BadRequest { .. } | ForwardingLoop { .. } => (Whose::Client, Retry::Never),
            TooLarge { .. } | Internal { .. } => (Whose::Ours, Retry::Never),
            DiskFull { .. } | Disk { .. } | Corrupt { .. } => (Whose::Disk, Retry::OtherSource),
        };
        Self { whose, retry, cause }
    }

    /// A bug or limit of ours, in words.
    pub fn internal(detail: impl Into<Arc<str>>) -> Self {
        Self::new(Cause::Internal { detail: detail.into() })
    }

    /// The client's request is wrong, in words.
    pub fn bad_request(detail: impl Into<Arc<str>>) -> Self {
        Self::new(Cause::BadRequest { detail: detail.into() })
    }

    /// What a failed file operation means. `what` names the operation and the file.
    pub fn disk(what: impl fmt::Display, error: &std::io::Error) -> Self {
        use std::io::ErrorKind::{QuotaExceeded, StorageFull};
        let detail: Arc<str> = format!("{what}: {error}").into();
        Self::new(match error.kind() {
            StorageFull | QuotaExceeded => Cause::DiskFull { detail },
            _ => Cause::Disk { detail },
        })
    }

    /// Is it "unreachable" in the sense of the decision tree: DNS, connect, TLS or time-out failure, or 5xx?
    pub fn is_unreachable(&self) -> bool {
        use Cause::*;
        match &self.cause {
            NameNotFound { .. }
            | Refused { .. }
            | NoConnection { .. }
            | Tls { .. }
            | NoAnswer { .. }
            | Stalled { .. }
            | TooSlow { .. }
            | Truncated { .. }
            | Parent { .. }
            | NoMirrors { .. }
            | Malformed { .. } => true,
            Status { status, .. } => *status >= 500 || *status == 429,
            _ => false,
        }
    }

    /// The HTTP status that tells a client (R5b: 504, but 502 when refused, when TLS fails or when the answer is broken).
    pub fn http_status(&self) -> http::StatusCode {
        use Cause::*;
        use http::StatusCode as S;
        match &self.cause {
            NameNotFound { .. } | NoConnection { .. } | NoAnswer { .. } | Stalled { .. } | TooSlow { .. } => {
                S::GATEWAY_TIMEOUT
            }
            // The circle is behind this node: whoever asked it may have another way, and looks for one at a 502.
            Status { status: 508, .. } => S::BAD_GATEWAY,
            Status { status, .. } => S::from_u16(*status).unwrap_or(S::BAD_GATEWAY),
            Refused { .. }
            | Tls { .. }
            | Parent { .. }
            | NoMirrors { .. }
            | Truncated { .. }
            | Malformed { .. }
            | Changed { .. }
            | WrongDigest { .. }
            | RedirectLoop { .. } => S::BAD_GATEWAY,
            DestinationForbidden { .. } => S::FORBIDDEN,
            ForwardingLoop { .. } => S::LOOP_DETECTED,
            BadRequest { .. } => S::BAD_REQUEST,
            TooLarge { .. } | DiskFull { .. } | Disk { .. } | Corrupt { .. } => S::BAD_GATEWAY,
            Internal { .. } => S::INTERNAL_SERVER_ERROR,
        }
    }

    /// A word for metrics and logs.
    pub fn label(&self) -> &'static str {
        use Cause::*;
        match &self.cause {
            NameNotFound { .. } => "name-not-found",
            Refused { .. } => "refused",
            NoConnection { .. } => "no-connection",
            Tls { .. } => "tls",
            NoAnswer { .. } => "no-answer",
            Stalled { .. } => "stalled",
            TooSlow { .. } => "too-slow",
            Truncated { .. } => "truncated",
            Malformed { .. } => "malformed",
            Status { .. } => "status",
            Changed { .. } => "changed",
            WrongDigest { .. } => "wrong-digest",
            DestinationForbidden { .. } => "destination-forbidden",
            Parent { .. } => "parent-proxy",
            NoMirrors { .. } => "no-mirrors",
            RedirectLoop { .. } => "redirect-loop",
            ForwardingLoop { .. } => "forwarding-loop",
            TooLarge { .. } => "too-large",
            DiskFull { .. } => "disk-full",
            Disk { .. } => "disk",
            Corrupt { .. } => "corrupt",
            BadRequest { .. } => "bad-request",
            Internal { .. } => "internal",
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use Cause::*;
        match self {
            NameNotFound { host, detail } => {
                write!(f, "the name {host} could not be resolved: {detail}")
            }
            Refused { address } => write!(f, "{address} refused the connection"),
            NoConnection { address, detail } => write!(f, "no connection to {address}: {detail}"),
            Tls { host, detail } => write!(f, "TLS with {host} failed: {detail}"),
            NoAnswer { host, waited_ms } => {
                write!(f, "{host} did not answer within {waited_ms} ms")
            }
            Stalled { host, waited_ms } => write!(f, "{host} sent nothing for {waited_ms} ms"),
            TooSlow { host } => write!(f, "{host} sends too slowly"),
            Truncated { host, detail } => write!(f, "{host} broke off: {detail}"),
            Malformed { host, detail } => write!(f, "{host} sent a malformed answer: {detail}"),
            Status { host, status: 508 } => {
                write!(f, "{host} was asked through proxies that lead in a circle (508): look at `[upstream] proxy`")
            }
            Status { host, status } => write!(f, "{host} answered {status}"),
            Changed { host } => write!(f, "{host} has another version now"),
            WrongDigest { host, expected, got } => {
                write!(f, "{host} sent wrong bytes: the repository names {expected}, they are {got}")
            }
            DestinationForbidden { detail } => write!(f, "not permitted: {detail}"),
            Parent { proxy, detail } => write!(f, "the parent proxy {proxy} failed: {detail}"),
            NoMirrors { repo, detail } => {
                write!(f, "no mirrors of [repos.{repo}] are known, for its metalink could not be had: {detail}")
            }
            RedirectLoop { host } => write!(f, "{host} redirects in a circle"),
            ForwardingLoop { detail } => write!(f, "the request goes in a circle: {detail}"),
            TooLarge { limit } => write!(f, "larger than the {limit} bytes the cache may hold"),
            DiskFull { detail } => write!(f, "no room in the cache folder: {detail}"),
            Disk { detail } => write!(f, "the cache folder failed: {detail}"),
            Corrupt { object } => write!(f, "the stored object {object} is damaged"),
            BadRequest { detail } => write!(f, "bad request: {detail}"),
            Internal { detail } => f.write_str(detail),
        }
    }
}

//! Which generation of a repository each client was handed last (R18): what it asks for next it expects to be of that one.

use std::net::SocketAddr;

use quick_cache::sync::Cache;

use crate::classify::{KeyHash, Url};
use crate::repos::ContentId;

/// Clients and repositories that are remembered; whoever is forgotten gets what is current.
const HANDED_MAX: usize = 16 * 1024;

/// By connection, since package managers ask on one for what belongs together, and by address (port 0).
pub(super) struct Handed(Cache<(SocketAddr, KeyHash), ContentId>);

impl Default for Handed {
    fn default() -> Self {
        Self(Cache::new(HANDED_MAX))
    }
}

impl Handed {
    /// A client has got this version of a root; `None`: one that is not known yet.
    pub(super) fn note(&self, client: SocketAddr, root: &Url, object: Option<ContentId>) {
        for client in [client, anywhere(client)] {
            match object {
                Some(object) => self.0.insert((client, root.key_hash()), object),
                None => drop(self.0.remove(&(client, root.key_hash()))),
            }
        }
    }

    /// The version of a root that a client has got last.
    pub(super) fn get(&self, client: SocketAddr, root: &Url) -> Option<ContentId> {
        let of = |client| self.0.get(&(client, root.key_hash()));
        of(client).or_else(|| of(anywhere(client)))
    }
}

/// The client, by whichever connection.
fn anywhere(client: SocketAddr) -> SocketAddr {
    SocketAddr::new(client.ip(), 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_counts_more_than_an_address() {
        let (handed, root) = (Handed::default(), Url::parse("http://example.org/d/dists/s/InRelease").unwrap());
        let client = |port| SocketAddr::from(([192, 0, 2, 1], port));
        handed.note(client(1), &root, Some([1; 32]));
        handed.note(client(2), &root, Some([2; 32]));
        let get = |port| handed.get(client(port), &root).map(|object| object[0]);
        assert_eq!((get(1), get(2), get(3)), (Some(1), Some(2), Some(2)));
        handed.note(client(2), &root, None);
        assert_eq!((get(1), get(2), get(3)), (Some(1), None, None));
        assert_eq!(handed.get(SocketAddr::from(([192, 0, 2, 2], 1)), &root), None);
    }
}

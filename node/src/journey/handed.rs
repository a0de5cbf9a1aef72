//! Which generation of a repository each client was handed last (R18): what it asks for next it expects to be of that one.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use quick_cache::sync::Cache;

use crate::classify::{KeyHash, Url};
use crate::repos::ContentId;

/// Clients and repositories that are remembered; whoever is forgotten gets what is current.
const HANDED_MAX: usize = 16 * 1024;

/// Who asks: a machine, and one of the connections that it has made. Not by its port: that is given to another connection some day.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Caller {
    address: IpAddr,
    /// `None` for whichever.
    connection: Option<u64>,
}

impl Caller {
    /// A connection that has just been made.
    pub fn connected(address: IpAddr) -> Self {
        static CONNECTIONS: AtomicU64 = AtomicU64::new(0);
        Self { address, connection: Some(CONNECTIONS.fetch_add(1, Ordering::Relaxed)) }
    }

    fn anywhere(self) -> Self {
        Self { connection: None, ..self }
    }
}

/// By connection, since package managers ask on one for what belongs together, and by address.
pub(super) struct Handed(Cache<(Caller, KeyHash), ContentId>);

impl Default for Handed {
    fn default() -> Self {
        Self(Cache::new(HANDED_MAX))
    }
}

impl Handed {
    /// A client has got this version of a root; `None`: one that is not known yet.
    pub(super) fn note(&self, client: Caller, root: &Url, object: Option<ContentId>) {
        for client in [client, client.anywhere()] {
            match object {
                Some(object) => self.0.insert((client, root.key_hash()), object),
                None => drop(self.0.remove(&(client, root.key_hash()))),
            }
        }
    }

    /// The version of a root that a client has got last.
    pub(super) fn get(&self, client: Caller, root: &Url) -> Option<ContentId> {
        let of = |client| self.0.get(&(client, root.key_hash()));
        of(client).or_else(|| of(client.anywhere()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_counts_more_than_an_address() {
        let (handed, root) = (Handed::default(), Url::parse("http://example.org/d/dists/s/InRelease").unwrap());
        let clients = [(); 3].map(|()| Caller::connected(IpAddr::from([192, 0, 2, 1])));
        handed.note(clients[0], &root, Some([1; 32]));
        handed.note(clients[1], &root, Some([2; 32]));
        let get = || clients.map(|client| handed.get(client, &root).map(|object| object[0]));
        assert_eq!(get(), [Some(1), Some(2), Some(2)]);
        handed.note(clients[1], &root, None);
        assert_eq!(get(), [Some(1), None, None]);
        assert_eq!(handed.get(Caller::connected(IpAddr::from([192, 0, 2, 2])), &root), None);
    }
}

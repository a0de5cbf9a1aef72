//! Where Squid is to get something instead: the mirror path of a node. Pure; who lives is for others to find out. With nobody alive all
//! stays as it is, so that Squid goes on as if there were no node.

use std::net::SocketAddr;

use super::lines::Line;
use crate::classify::{Url, classify};

/// The nodes that may be asked now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Nodes(Vec<Node>);

/// A node as clients reach it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// What it is told apart by, for as long as it exists.
    pub id: String,
    /// `HOST:PORT`.
    pub address: String,
}

impl Nodes {
    pub fn new(nodes: Vec<Node>) -> Self {
        Self(nodes)
    }

    /// The URL at a node for what Squid asks, if it is a package manager's.
    pub fn rewritten(&self, line: &Line<'_>) -> Option<String> {
        let reads = line.method.is_none_or(|method| method == "GET" || method == "HEAD");
        let url = Url::parse(line.url).ok().filter(|_| reads)?;
        // What a node asks Squid for as its parent, and what is already asked of a node, would go in a circle.
        if self.0.iter().any(|node| node.asks(line) || node.address == url.authority())
            || !classify(&url).class.is_ours()
        {
            return None;
        }
        let node = self.0.iter().max_by_key(|node| weight(node, &url))?;
        Some(mirror_path(&node.address, &url))
    }
}

impl Node {
    fn asks(&self, line: &Line<'_>) -> bool {
        let own = self.address.parse::<SocketAddr>().map(|address| address.ip().to_canonical());
        line.client.is_some_and(|client| own == Ok(client.to_canonical()))
    }
}

/// The highest wins (rendezvous hashing): a node that comes or goes changes nothing for what the others have.
fn weight(node: &Node, url: &Url) -> [u8; 32] {
    let parts = [node.id.as_bytes(), b"\n", url.as_str().as_bytes()];
    *blake3::hash(&parts.concat()).as_bytes()
}

fn mirror_path(node: &str, url: &Url) -> String {
    let (authority, path) = (url.authority(), url.path_and_query());
    match url.is_https() {
        true => format!("http://{node}/HTTPS///{authority}{path}"),
        // A node knows a host by its dot or its colon.
        false if authority.contains(['.', ':']) => format!("http://{node}/{authority}{path}"),
        false => format!("http://{node}/{authority}:80{path}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journey::target::{Target, parse_target};
    use std::collections::BTreeSet;

    fn nodes(addresses: &[&str]) -> Nodes {
        let node = |address: &&str| Node { id: format!("id of {address}"), address: (*address).into() };
        Nodes::new(addresses.iter().map(node).collect())
    }

    fn rewritten(nodes: &Nodes, line: &str) -> Option<String> {
        nodes.rewritten(&Line::read(line.as_bytes()).unwrap())
    }

    #[test]
    fn packages_go_to_a_node_and_nothing_else_does() {
        let node = nodes(&["192.0.2.1:3142"]);
        for (line, expected) in [
            ("http://example.org/a%2bb.rpm?x 192.0.2.7/- - GET", Some("/example.org/a%2bb.rpm?x")),
            ("http://example.org:8080/a.rpm", Some("/example.org:8080/a.rpm")),
            ("http://mirror/a.rpm - - HEAD", Some("/mirror:80/a.rpm")),
            ("https://example.org/a.rpm", Some("/HTTPS///example.org/a.rpm")),
            ("http://[2001:db8::1]/a.rpm", Some("/[2001:db8::1]/a.rpm")),
            ("http://example.org/dists/stable/InRelease", Some("/example.org/dists/stable/InRelease")),
            ("http://example.org/", None),
            ("http://example.org/a.rpm 192.0.2.7/- - POST", None),
            ("example.org:443 192.0.2.7/- - CONNECT", None),
            ("http://example.org/a.rpm 192.0.2.1/- - GET", None),
            ("http://192.0.2.1:3142/example.org/a.rpm", None),
            ("http://user@example.org/a.rpm", None),
            ("not-a-url", None),
        ] {
            let expected = expected.map(|path| format!("http://192.0.2.1:3142{path}"));
            assert_eq!(rewritten(&node, line), expected, "{line}");
        }
        assert_eq!(rewritten(&Nodes::default(), "http://example.org/a.rpm"), None);
    }

    #[test]
    fn a_node_understands_what_was_made_for_it() {
        let node = nodes(&["192.0.2.1:3142"]);
        for text in [
            "http://example.org/a.rpm?b",
            "https://example.org:8443/a.deb",
            "http://mirror/x.apk",
            "http://[2001:db8::1]:81/a.rpm",
        ] {
            let made = rewritten(&node, text).unwrap();
            let path = made.strip_prefix("http://192.0.2.1:3142").unwrap();
            let fields = [(http::header::HOST, http::HeaderValue::from_static("192.0.2.1:3142"))].into_iter().collect();
            let target = parse_target(
                &http::Method::GET,
                &path.parse().unwrap(),
                &fields,
                |name| name == "mirror",
                |_| false,
                None,
            );
            assert_eq!(target.unwrap(), Target::Resource(Url::parse(text).unwrap()), "{path}");
        }
    }

    #[test]
    fn a_node_that_goes_moves_only_what_was_its_own() {
        let (three, two) = (nodes(&["a:1", "b:1", "c:1"]), nodes(&["a:1", "b:1"]));
        let mut used = BTreeSet::new();
        for i in 0..200 {
            let line = format!("http://example.org/p{i}.rpm");
            let (before, after) = (rewritten(&three, &line).unwrap(), rewritten(&two, &line).unwrap());
            assert!(before == after || before.starts_with("http://c:1/"), "{before} {after}");
            used.insert(before.split('/').nth(2).unwrap().to_owned());
        }
        assert_eq!(used.len(), 3);
    }
}

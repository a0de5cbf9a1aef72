//! The forms that lists of nodes have for clients. Pure. A node stands in them as `HOST:PORT`, the first one is preferred.

use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};

use crate::classify::Url;
use crate::repos::metalink::{Root, Version};

/// Nodes in a list: more are of no use to one client.
const NODES_MAX: usize = 32;

/// The nodes that a client at this address can reach, in their order. `None` is the node that it has reached already, under the
/// name that it used. Who comes by IPv4 may have no IPv6; who comes by IPv6 is given IPv4 addresses last.
pub(super) fn suited(nodes: &[Option<SocketAddr>], own: &str, client: IpAddr) -> Vec<String> {
    let mut ranked: Vec<(bool, String)> = Vec::new();
    for node in nodes {
        let listed = match node {
            None => Some((false, own.to_owned())),
            Some(address) => elsewhere(*address, client),
        };
        ranked.extend(listed.filter(|(_, node)| ranked.iter().all(|(_, known)| known != node)));
    }
    ranked.sort_by_key(|(last, _)| *last);
    ranked.into_iter().map(|(_, node)| node).take(NODES_MAX).collect()
}

/// Another node as it stands in a list, and whether it comes last; `None`: the client can't reach it there.
fn elsewhere(address: SocketAddr, client: IpAddr) -> Option<(bool, String)> {
    let ip = address.ip().to_canonical();
    let is_on_one_link = matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local());
    let is_out_of_reach = ip.is_loopback() || ip.is_unspecified() || is_on_one_link || client.is_ipv4() && ip.is_ipv6();
    (!is_out_of_reach).then(|| (client.is_ipv6() && ip.is_ipv4(), SocketAddr::new(ip, address.port()).to_string()))
}

/// For `mirrorlist=` of dnf and zypper: nodes only, a base URL a line. The path has no slash in front.
pub(super) fn mirrorlist(nodes: &[String], path: &str) -> String {
    nodes.iter().map(|node| format!("http://{node}/{path}\n")).collect()
}

/// For apt's `mirror+http`: each line has its priority, and only one that fails is followed by the next. Upstream is the last.
pub(super) fn apt_mirrors(nodes: &[String], path: &str, upstreams: &[Url]) -> String {
    let nodes = nodes.iter().map(|node| format!("http://{node}/{path}"));
    let lines = nodes.chain(upstreams.iter().map(ToString::to_string)).enumerate();
    lines.map(|(i, url)| format!("{url}\tpriority:{}\n", i + 1)).collect()
}

/// For `metalink=` of dnf and zypper (version 3.0, which librepo reads): where the file at `path` is to be had, the nodes first,
/// and which versions of it are permitted, if that is known.
pub(super) fn metalink(nodes: &[String], path: &str, upstreams: &[Url], root: Option<&Root>) -> String {
    let name = Escaped(path.rsplit('/').next().unwrap_or_default());
    let mut text = format!(
        "<?xml version=\"1.0\" encoding=\"utf-8\"?>\n\
         <metalink version=\"3.0\" xmlns=\"http://www.metalinker.org/\" type=\"dynamic\" \
         xmlns:mm0=\"http://fedorahosted.org/mirrormanager\">\n <files>\n  <file name=\"{name}\">\n"
    );
    if let Some(root) = root {
        version(&mut text, &root.current);
        if !root.older.is_empty() {
            text.push_str("   <mm0:alternates>\n");
            for older in &root.older {
                text.push_str("   <mm0:alternate>\n");
                version(&mut text, older);
                text.push_str("   </mm0:alternate>\n");
            }
            text.push_str("   </mm0:alternates>\n");
        }
    }
    text.push_str("   <resources maxconnections=\"1\">\n");
    let nodes = nodes.iter().map(|node| ("http", format!("http://{node}/{path}")));
    let all = nodes.chain(upstreams.iter().map(|url| (url.scheme(), url.to_string())));
    // From 100 down; what is beyond is preferred alike.
    for (preference, (scheme, url)) in (1..=100).rev().chain(std::iter::repeat(1)).zip(all) {
        let url = Escaped(&url);
        let _ =
            writeln!(text, "    <url protocol=\"{scheme}\" type=\"{scheme}\" preference=\"{preference}\">{url}</url>");
    }
    text.push_str("   </resources>\n  </file>\n </files>\n</metalink>\n");
    text
}

fn version(text: &mut String, version: &Version) {
    if let Some(timestamp) = version.timestamp {
        let _ = writeln!(text, "   <mm0:timestamp>{timestamp}</mm0:timestamp>");
    }
    if let Some(size) = version.size {
        let _ = writeln!(text, "   <size>{size}</size>");
    }
    text.push_str("   <verification>\n");
    for (kind, digest) in &version.hashes {
        let _ = writeln!(text, "    <hash type=\"{kind}\">{digest}</hash>");
    }
    text.push_str("   </verification>\n");
}

/// For browsers and whatever else reads a proxy auto-configuration; package managers don't. Without a node, direct.
pub(super) fn proxy_pac(nodes: &[String]) -> String {
    let nodes: String = nodes.iter().map(|node| format!("PROXY {node}; ")).collect();
    format!(
        "function FindProxyForURL(url, host) {{\n  if (isPlainHostName(host)) return \"DIRECT\";\n  \
         return \"{nodes}DIRECT\";\n}}\n"
    )
}

/// A text in which nothing is markup.
struct Escaped<'a>(&'a str);

impl std::fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.chars().try_for_each(|c| match c {
            '&' => f.write_str("&amp;"),
            '<' => f.write_str("&lt;"),
            '>' => f.write_str("&gt;"),
            '"' => f.write_str("&quot;"),
            c => f.write_char(c),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes() -> Vec<String> {
        ["192.0.2.1:3142", "[2001:db8::2]:3142"].map(String::from).to_vec()
    }

    fn upstreams() -> Vec<Url> {
        let parse = |url| Url::parse(url).unwrap();
        ["https://one.example.org/f/repodata/repomd.xml", "http://two.example.org/a&b"].map(parse).to_vec()
    }

    #[test]
    fn clients_get_what_they_reach() {
        let node = |text: &str| (!text.is_empty()).then(|| text.parse().unwrap());
        let nodes = ["[2001:db8::2]:1", "192.0.2.2:1", "", "[::ffff:192.0.2.3]:1", "[fe80::4%2]:1", "127.0.0.1:1", ""]
            .map(node);
        for (client, expected) in [
            ("192.0.2.9", &["192.0.2.2:1", "lab1:3142", "192.0.2.3:1"][..]),
            ("2001:db8::9", &["[2001:db8::2]:1", "lab1:3142", "192.0.2.2:1", "192.0.2.3:1"]),
        ] {
            assert_eq!(suited(&nodes, "lab1:3142", client.parse().unwrap()), expected, "{client}");
        }
        let many: Vec<_> = (0..200).map(|i| Some(SocketAddr::from(([192, 0, 2, i], 1)))).collect();
        assert_eq!(suited(&many, "lab1:3142", "192.0.2.9".parse().unwrap()).len(), NODES_MAX);
    }

    #[test]
    fn lists_of_lines() {
        let list = mirrorlist(&nodes(), "HTTPS///one.example.org/f");
        assert_eq!(
            list,
            "http://192.0.2.1:3142/HTTPS///one.example.org/f\nhttp://[2001:db8::2]:3142/HTTPS///one.example.org/f\n"
        );
        assert_eq!(
            apt_mirrors(&nodes(), "debian", &upstreams()[1..]),
            "http://192.0.2.1:3142/debian\tpriority:1\nhttp://[2001:db8::2]:3142/debian\tpriority:2\n\
             http://two.example.org/a&b\tpriority:3\n"
        );
    }

    #[test]
    fn a_proxy_configuration() {
        insta::assert_snapshot!(proxy_pac(&nodes()), @r#"
        function FindProxyForURL(url, host) {
          if (isPlainHostName(host)) return "DIRECT";
          return "PROXY 192.0.2.1:3142; PROXY [2001:db8::2]:3142; DIRECT";
        }
        "#);
        assert!(proxy_pac(&[]).contains("return \"DIRECT\";\n}"));
    }

    #[test]
    fn a_metalink() {
        let version = |timestamp, digit: &str| Version {
            timestamp: Some(timestamp),
            size: Some(7425),
            hashes: vec![("sha256".into(), digit.repeat(4))],
        };
        let root = Root { current: version(1_730_000_000, "ab"), older: vec![version(1_720_000_000, "cd")] };
        insta::assert_snapshot!(metalink(&nodes(), "fedora/repodata/repomd.xml", &upstreams(), Some(&root)), @r#"
        <?xml version="1.0" encoding="utf-8"?>
        <metalink version="3.0" xmlns="http://www.metalinker.org/" type="dynamic" xmlns:mm0="http://fedorahosted.org/mirrormanager">
         <files>
          <file name="repomd.xml">
           <mm0:timestamp>1730000000</mm0:timestamp>
           <size>7425</size>
           <verification>
            <hash type="sha256">abababab</hash>
           </verification>
           <mm0:alternates>
           <mm0:alternate>
           <mm0:timestamp>1720000000</mm0:timestamp>
           <size>7425</size>
           <verification>
            <hash type="sha256">cdcdcdcd</hash>
           </verification>
           </mm0:alternate>
           </mm0:alternates>
           <resources maxconnections="1">
            <url protocol="http" type="http" preference="100">http://192.0.2.1:3142/fedora/repodata/repomd.xml</url>
            <url protocol="http" type="http" preference="99">http://[2001:db8::2]:3142/fedora/repodata/repomd.xml</url>
            <url protocol="https" type="https" preference="98">https://one.example.org/f/repodata/repomd.xml</url>
            <url protocol="http" type="http" preference="97">http://two.example.org/a&amp;b</url>
           </resources>
          </file>
         </files>
        </metalink>
        "#);
    }

    #[test]
    fn what_is_written_is_read_again() {
        let digest = "a".repeat(64);
        let version = Version { timestamp: Some(1), size: Some(2), hashes: vec![("sha256".into(), digest)] };
        let root = Root { current: version.clone(), older: vec![version] };
        let text = metalink(&nodes(), "a&b/repodata/repomd.xml", &upstreams(), Some(&root));
        assert_eq!(crate::repos::metalink::root(text.as_bytes()), Some(root));
        let mirrors = crate::repos::metalink::mirrors(text.as_bytes()).unwrap();
        let mirrors: Vec<_> = mirrors.iter().map(ToString::to_string).collect();
        assert_eq!(
            mirrors,
            ["http://192.0.2.1:3142/a&b", "http://[2001:db8::2]:3142/a&b", "https://one.example.org/f"]
        );
    }
}

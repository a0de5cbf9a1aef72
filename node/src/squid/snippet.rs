//! What a Squid has to be told of the nodes of a site, ready to be included into its configuration. Pure.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};

use serde::Serialize;

use crate::classify::Url;
use crate::ledger::Status;

/// The forms of paths that package managers ask for, as extended regular expressions (POSIX) over the path and query without their
/// escapes: what `classify` takes for ours, and next to nothing else.
pub const FORMS: [&str; 22] = [
    // Packages.
    r"^[^?]*[^/?]\.(d?rpm|u?deb|ddeb|apk)(\?|$)",
    r"^[^?]*[^/?]\.pkg\.tar(\.(gz|bz2|xz|zst|lrz|lzo|Z|lz4|lz))?(\.sig)?(\?|$)",
    r"^[^?]*/[^/?_]+_[0-9][^/?]*\.(dsc|diff\.gz)(\.asc)?(\?|$)",
    r"^[^?]*/[^/?_]+_[0-9][^/?]*\.(debian|orig(-[A-Za-z0-9-]+)?)\.tar\.(gz|xz|bz2|zst|lzma|lz4)(\.asc)?(\?|$)",
    r"^[^?]*/pool/[^?]*/[^/?_]+_[0-9][^/?]*\.tar\.(gz|xz|bz2|zst|lzma|lz4)(\.asc)?(\?|$)",
    // Metadata: RPM.
    r"^[^?]*/repodata/[^/?]+(\?|$)",
    r"^[^?]*/media\.[0-9]+/(media|products)(\.asc|\.key)?(\?|$)",
    r"^[^?]*/(suse|oss|non-oss)/content(\.asc|\.key)?(\?|$)",
    r"^[^?]*/setup/descr/[^/?]+(\?|$)",
    r"^[^?]*/(metalink|mirrorlist|metalink\.xml)\?(.*&)?repo=[^&]",
    r"^[^?]*/mirrorlist/[0-9][^/?]*/[A-Za-z0-9_-]+(\?|$)",
    r"^/\?(.*&)?(release|arch|repo)=[^&]+&(.*&)?(release|arch|repo)=[^&]+&(.*&)?(release|arch|repo)=[^&]",
    // Metadata: deb.
    r"^[^?]*/by-hash/(MD5Sum|SHA1|SHA256|SHA512)/[0-9a-f]+(\?|$)",
    r"^[^?]*/(InRelease|Release|Release\.gpg)(\?|$)",
    r"^[^?]*/(Packages|Sources)(\.(gz|xz|bz2|zst|lzma|lz4))?(\?|$)",
    r"^[^?]*/(Packages|Sources|Contents-[^/?]+|Translation-[^/?]+)\.diff/(Index|[T2][0-9TF.-]+\.gz)(\?|$)",
    r"^[^?]*/dists/([^?]*/)?Contents-[A-Za-z0-9-]+(\.(gz|xz|bz2|zst|lzma|lz4))?(\?|$)",
    r"^[^?]*/i18n/(Index|Translation-[A-Za-z0-9@_-]+(\.(gz|xz|bz2|zst|lzma|lz4))?)(\?|$)",
    r"^[^?]*/dep11/(Components|icons|CID-Index)-[A-Za-z0-9@-]+\.(yml|tar|json)(\.(gz|xz|bz2|zst|lzma|lz4))?(\?|$)",
    r"^[^?]*/cnf/Commands-[A-Za-z0-9-]+(\.(gz|xz|bz2|zst|lzma|lz4))?(\?|$)",
    // Metadata: Arch and Alpine.
    r"^[^?]*[^/?]\.(db|files)(\.tar(\.(gz|bz2|xz|zst|lrz|lzo|Z|lz4|lz))?)?(\.sig)?(\?|$)",
    r"^[^?]*/(APKINDEX\.tar\.gz|Packages\.adb)(\?|$)",
];

/// How Squid uses the nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// Parents: the same URL always goes to the same node.
    Carp,
    /// Parents that are asked by ICP who has it (needs `[icp] listen` on the nodes).
    Parent,
    /// Asked by ICP, and only for what they have; the rest Squid fetches itself.
    Sibling,
}

/// What goes to the nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Match {
    /// Whatever has the form of a package or of a repository's metadata.
    Forms,
    /// Whatever is asked of a host whose repositories are in use.
    Hosts,
    /// What is both.
    Both,
}

/// What is wished for.
#[derive(Debug, Clone, Copy)]
pub struct Wish {
    pub kind: Kind,
    pub by: Match,
    /// Where the nodes answer ICP.
    pub icp_port: u16,
    /// From where Squid asks.
    pub squid_icp_port: u16,
}

/// The snippet with what stands in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Snippet {
    pub nodes: Vec<Peer>,
    /// Of repositories in use.
    pub hosts: Vec<String>,
    pub text: String,
}

/// A node as a `cache_peer`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Peer {
    /// Enters Squid's hash: the same for as long as the node exists.
    pub peer_name: String,
    pub name: String,
    pub address: SocketAddr,
}

/// The snippet for a site as one of its nodes sees it.
///
/// # Errors
/// Says what is missing.
pub fn snippet(status: &Status, wish: Wish) -> Result<Snippet, String> {
    // One whose connection is lost for a moment is still there, and Squid notices by itself when it is not.
    let serving = status.site.nodes.iter().filter(|node| node.state != "draining");
    let mut nodes: Vec<Peer> = serving.filter_map(peer).collect();
    nodes.sort_by(|a, b| a.peer_name.cmp(&b.peer_name));
    let hosts = hosts(status);
    if nodes.is_empty() {
        return Err("no node of the site takes new work: all are being drained".into());
    }
    if hosts.is_empty() && wish.by != Match::Forms {
        return Err("no repository is in use yet, and none is configured: `--match forms` needs none".into());
    }
    let text = render(&nodes, &hosts, wish);
    Ok(Snippet { nodes, hosts, text })
}

fn peer(member: &crate::ledger::status::Member) -> Option<Peer> {
    let address = member.address.parse().ok()?;
    Some(Peer { peer_name: format!("imirror-{}", member.id), name: member.name.clone(), address })
}

/// Names of hosts, in order.
fn hosts(status: &Status) -> Vec<String> {
    let of_repo = |repo: &crate::ledger::status::Repo| {
        let roots = repo.roots.iter().map(|root| root.url.clone());
        let all: Vec<String> = repo.upstreams.iter().cloned().chain(roots).chain(repo.metalink.clone()).collect();
        all
    };
    let urls = status.repos.iter().flat_map(of_repo);
    let hosts: BTreeSet<String> = urls.filter_map(|url| Some(Url::parse(&url).ok()?.host().to_owned())).collect();
    hosts.into_iter().collect()
}

fn render(nodes: &[Peer], hosts: &[String], wish: Wish) -> String {
    let mut text = String::new();
    let mut line = |words: &str| {
        text.push_str(words);
        text.push('\n');
    };
    line("# Packages come from the nodes of an imirror site. Made by `imirror squid-config`; in squid.conf:");
    line("#     include /etc/squid/imirror.conf");
    line("");
    what_goes(&mut line, hosts, wish.by);
    line("");
    line(
        "# What comes from a node is never sent to one: where this Squid is the parent of the nodes, too, that would be a circle.",
    );
    let addresses: BTreeSet<IpAddr> = nodes.iter().map(|node| node.address.ip()).collect();
    let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    line(&format!("acl imirror_nodes src {}", addresses.join(" ")));
    line(r"acl imirror_passed req_header Via \(imirror\)");
    line("");
    line(match wish.kind {
        Kind::Carp => {
            "# Which node is asked depends on the URL alone (carp); the name enters into that and must not change."
        }
        Kind::Parent => "# All are asked by ICP; who has it is asked for it, else the first that answers.",
        Kind::Sibling => "# All are asked by ICP, and are asked for nothing else than what they have.",
    });
    line("# A node that does not answer is given up soon, and tried again by Squid itself.");
    if wish.kind != Kind::Carp {
        line("# Squid asks from this port, which no node of the same machine may have.");
        line(&format!("icp_port {}", wish.squid_icp_port));
    }
    for node in nodes {
        line(&format!("# {}", node.name));
        line(&peer_line(node, wish));
    }
    line("# Servers that Squid finds near, which most are, it would fetch from itself, past all its peers.");
    line("minimum_direct_rtt 0");
    line("minimum_direct_hops 0");
    for node in nodes {
        for rule in rules(wish.by) {
            line(&format!("cache_peer_access {} {rule}", node.peer_name));
        }
    }
    line("");
    if wish.kind == Kind::Sibling {
        line(
            "# What a node has is not stored here (proxy-only); what no node has Squid fetches, and stores, as before.",
        );
    } else {
        line("# Nothing is stored twice: the nodes keep it.");
        line(&format!("cache deny {}", matching(wish.by)));
        line("");
        line("# When no node lives Squid fetches from the servers itself. Where it must not:");
        line(&format!("# never_direct allow {}", matching(wish.by)));
    }
    text
}

fn what_goes(line: &mut impl FnMut(&str), hosts: &[String], by: Match) {
    if by != Match::Hosts {
        line("# Packages and metadata of RPM, deb, Arch and Alpine repositories, by the form of their paths.");
        FORMS.iter().for_each(|form| line(&format!("acl imirror_packages urlpath_regex {form}")));
    }
    if by != Match::Forms {
        line("# Hosts whose repositories are in use.");
        hosts.iter().for_each(|host| line(&format!("acl imirror_hosts dstdomain {host}")));
    }
}

fn peer_line(node: &Peer, wish: Wish) -> String {
    let (ip, port, icp) = (node.address.ip(), node.address.port(), wish.icp_port);
    let mut text = match wish.kind {
        Kind::Carp => format!("cache_peer {ip} parent {port} 0 no-query no-digest carp carp-key=host,path"),
        Kind::Parent => format!("cache_peer {ip} parent {port} {icp} no-digest"),
        Kind::Sibling => format!("cache_peer {ip} sibling {port} {icp} no-digest proxy-only"),
    };
    // Writing to a `String` cannot fail.
    let _ = write!(text, " no-netdb-exchange connect-timeout=2 connect-fail-limit=2 name={}", node.peer_name);
    text
}

fn matching(by: Match) -> &'static str {
    match by {
        Match::Forms => "imirror_packages",
        Match::Hosts => "imirror_hosts",
        Match::Both => "imirror_hosts imirror_packages",
    }
}

fn rules(by: Match) -> [String; 4] {
    let allow = format!("allow {}", matching(by));
    ["deny imirror_nodes".into(), "deny imirror_passed".into(), allow, "deny all".into()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::classify::family::tests::real_urls;

    const WISH: Wish = Wish { kind: Kind::Carp, by: Match::Forms, icp_port: 3130, squid_icp_port: 3130 };

    #[test]
    fn the_forms_are_those_that_classify_knows() {
        let forms: Vec<_> = FORMS.iter().map(|form| regex_lite::Regex::new(form).unwrap()).collect();
        for (url, class) in real_urls() {
            // As Squid looks at it.
            let path = unescaped(url.path_and_query());
            let found = forms.iter().any(|form| form.is_match(&path));
            if class.is_ours() {
                assert!(found, "{url}");
            }
        }
    }

    /// Squid sends a little more than a node keeps, which then passes it on. These are all of the known ones.
    #[test]
    fn what_is_not_ours_hardly_ever_has_such_a_form() {
        let forms: Vec<_> = FORMS.iter().map(|form| regex_lite::Regex::new(form).unwrap()).collect();
        let others = real_urls().into_iter().filter(|(_, class)| !class.is_ours());
        let wrong = others.map(|(url, _)| unescaped(url.path_and_query()));
        let wrong: Vec<String> = wrong.filter(|path| forms.iter().any(|form| form.is_match(path))).collect();
        assert_eq!(
            wrong,
            [
                "/tumbleweed/repo/oss/x86_64/vim-9.1-1.1.x86_64.rpm?mirrorlist",
                "/tumbleweed/repo/oss/repodata/repomd.xml?metalink",
                "/a/repodata/repomd.xml",
                "/a/repodata/repomd.xml",
                "/dists/bookworm/main/Contents-amd64.gz"
            ]
        );
    }

    fn unescaped(text: &str) -> String {
        let mut parts = text.split('%');
        let first = parts.next().unwrap_or_default().to_owned();
        parts.fold(first, |all, part| match part.get(..2).and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) if byte != 0 => all + &char::from(byte).to_string() + &part[2..],
            _ => all + "%" + part,
        })
    }

    fn site() -> Status {
        let mut status = Status::example();
        let first = status.site.nodes[0].clone();
        let other = |name: &str, id: &str, address: &str, state: &str| crate::ledger::status::Member {
            name: name.into(),
            id: id.into(),
            address: address.into(),
            state: state.into(),
            ..first.clone()
        };
        status.site.nodes.extend([
            other("lab2", "1111111111111111", "[2001:db8::2]:3142", "suspect"),
            other("lab3", "2222222222222222", "192.0.2.3:3142", "draining"),
            other("lab4", "3333333333333333", "", "alive"),
        ]);
        status
    }

    /// The examples in `deploy/` are what is printed.
    #[test]
    fn nodes_as_parents_and_as_siblings() {
        let mut status = site();
        status.site.nodes.truncate(2);
        for (node, (id, address)) in status
            .site
            .nodes
            .iter_mut()
            .zip([("b1946ac92492d234", "192.0.2.11:3142"), ("e59ff97941044f85", "192.0.2.12:3142")])
        {
            (node.id, node.address) = (id.into(), address.into());
        }
        let printed = |kind| snippet(&status, Wish { kind, ..WISH }).unwrap().text;
        assert_eq!(printed(Kind::Carp), include_str!("../../../deploy/squid/nodes-as-parents.conf"));
        assert_eq!(printed(Kind::Sibling), include_str!("../../../deploy/squid/nodes-as-siblings.conf"));
    }

    #[test]
    fn who_serves_is_named_and_nobody_else() {
        let wish = Wish { kind: Kind::Parent, by: Match::Both, ..WISH };
        let Snippet { nodes, text, .. } = snippet(&site(), wish).unwrap();
        assert_eq!(
            nodes.iter().map(|node| &*node.name).collect::<Vec<_>>(),
            ["lab2", "lab1"],
            "one is leaving, one has no address"
        );
        assert!(text.contains("\ncache_peer 2001:db8::2 parent 3142 3130 no-digest no-netdb-exchange "), "{text}");
        assert!(
            text.contains("\ncache_peer_access imirror-1111111111111111 allow imirror_hosts imirror_packages\n"),
            "{text}"
        );
        assert!(
            text.contains("\nicp_port 3130\n") && text.contains("\ncache deny imirror_hosts imirror_packages\n"),
            "{text}"
        );
    }

    #[test]
    fn the_text_does_not_depend_on_who_is_asked() {
        let mut status = site();
        let text = snippet(&status, WISH).unwrap().text;
        status.site.nodes.reverse();
        status.site.nodes.iter_mut().for_each(|node| node.load = 1.0);
        assert_eq!(snippet(&status, WISH).unwrap().text, text);
    }

    #[test]
    fn what_is_missing_is_said() {
        let mut status = site();
        status.repos.clear();
        assert!(snippet(&status, Wish { by: Match::Hosts, ..WISH }).unwrap_err().contains("--match forms"));
        status.site.nodes.retain(|node| node.state == "draining");
        assert!(snippet(&status, WISH).unwrap_err().contains("drained"));
    }
}

//! Lists of live nodes for clients, so that they find another one by themselves: `/-/mirrorlist/PATH`, `/-/metalink/PATH`,
//! `/-/mirrors/PATH.txt` and `/-/proxy.pac`. PATH is what the client would ask a node for: `NAME`, `HOST/PATH` or
//! `HTTPS///HOST/PATH`.

mod render;

use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;
use http::uri::Uri;
use http::{HeaderMap, Method, Response, StatusCode};

use super::pages::{Operations, text};
use crate::classify::{Url, classify};
use crate::fault::Fault;
use crate::journey::target::{Target, parse_target};
use crate::repos::Configured;
use crate::repos::metalink::ROOT;

/// Which list is asked for, with the PATH, which has no slash at either end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum List<'a> {
    Mirrorlist(&'a str),
    Metalink(&'a str),
    AptMirrors(&'a str),
    ProxyPac,
}

/// Who asks, and how it has reached this node.
pub(super) struct Asker<'a> {
    pub(super) address: IpAddr,
    /// The address of this node's end of the connection.
    pub(super) local: Option<SocketAddr>,
    /// The `Host` field.
    pub(super) host: Option<&'a str>,
}

impl<'a> List<'a> {
    /// The list that a path of the node's own names; a query (dnf counts its users by one) makes no difference.
    pub(super) fn named(path: &'a str) -> Option<Self> {
        let path = path.split('?').next()?.strip_prefix("/-/")?;
        if path == "proxy.pac" {
            return Some(Self::ProxyPac);
        }
        let (kind, path) = path.split_once('/')?;
        match kind {
            "mirrorlist" => Some(Self::Mirrorlist(path.trim_matches('/'))),
            "metalink" => Some(Self::Metalink(path.trim_matches('/'))),
            "mirrors" => Some(Self::AptMirrors(path.strip_suffix(".txt")?.trim_matches('/'))),
            _ => None,
        }
    }
}

/// The list for this client.
pub(super) async fn answer(
    list: List<'_>,
    method: &Method,
    asker: &Asker<'_>,
    operations: &dyn Operations,
    repos: &Configured,
) -> Result<Response<Bytes>, Fault> {
    if method != Method::GET && method != Method::HEAD {
        return Ok(text(StatusCode::METHOD_NOT_ALLOWED, "text/plain", "lists can only be read\n"));
    }
    let nodes = operations.nodes(asker.number());
    let nodes = render::suited(&nodes, &asker.own_name(), asker.address);
    let (kind, body) = match list {
        List::ProxyPac => ("application/x-ns-proxy-autoconfig", render::proxy_pac(&nodes)),
        List::Mirrorlist(path) => {
            Place::of(path, repos)?;
            ("text/plain; charset=utf-8", render::mirrorlist(&nodes, path))
        }
        List::AptMirrors(path) => {
            let place = Place::of(path, repos)?;
            ("text/plain; charset=utf-8", render::apt_mirrors(&nodes, path, &place.upstreams))
        }
        List::Metalink(path) => {
            let path = file(path, repos)?;
            let place = Place::of(&path, repos)?;
            let root = match &place.root_of {
                Some(repo) => operations.root(repo).await,
                None => None,
            };
            ("application/metalink+xml", render::metalink(&nodes, &path, &place.upstreams, root.as_deref()))
        }
    };
    Ok(text(StatusCode::OK, kind, body))
}

impl Asker<'_> {
    /// Tells clients apart, the same at all nodes.
    fn number(&self) -> u64 {
        match self.address {
            IpAddr::V4(ip) => u64::from(ip.to_bits()),
            IpAddr::V6(ip) => (ip.to_bits() ^ (ip.to_bits() >> 64)) as u64,
        }
    }

    /// This node as the client has reached it: what it wrote as the host, which has been checked to be this node's, or else
    /// where its connection ends.
    pub(super) fn own_name(&self) -> String {
        let url = self.host.and_then(|host| Url::from_parts(false, host, "/").ok());
        match (url, self.local) {
            (Some(url), _) if url.host().contains(':') => format!("[{}]:{}", url.host(), url.port()),
            (Some(url), _) => format!("{}:{}", url.host(), url.port()),
            (None, Some(local)) => SocketAddr::new(local.ip().to_canonical(), local.port()).to_string(),
            (None, None) => "localhost".into(),
        }
    }
}

/// What a PATH means.
#[derive(Debug)]
struct Place {
    /// Where the same is to be had outside the site, in order of preference.
    upstreams: Vec<Url>,
    key: Url,
    /// The configured repository whose root of trust it is.
    root_of: Option<String>,
}

impl Place {
    /// What nobody can be asked for is refused: nothing of it comes into a list.
    fn of(path: &str, repos: &Configured) -> Result<Self, Fault> {
        let uri: Uri = format!("/{path}").parse().map_err(|_| Fault::bad_request("the path is malformed"))?;
        match parse_target(&Method::GET, &uri, &HeaderMap::new(), |name| repos.is_repo(name), |_| false, None)? {
            Target::Resource(url) => {
                let named = repos.resolve(&url);
                Ok(Self { upstreams: named.sources, key: named.key, root_of: None })
            }
            Target::Repo { name, rest } => {
                let named = repos.named(&name, rest.trim_end_matches('/'))?;
                let root_of = (rest == ROOT).then_some(name);
                Ok(Self { upstreams: named.sources, key: named.key, root_of })
            }
            Target::Own(_) | Target::Tunnel { .. } | Target::Server => {
                Err(Fault::bad_request("after the kind of list comes what it is for, say HOST/PATH or a [repos.NAME]"))
            }
        }
    }
}

/// A metalink is of one file: of a repository it is its root of trust.
fn file(path: &str, repos: &Configured) -> Result<String, Fault> {
    let is_file = classify(&Place::of(path, repos)?.key).class.is_ours();
    Ok(if is_file { path.to_owned() } else { format!("{path}{ROOT}") })
}

#[cfg(test)]
mod tests;

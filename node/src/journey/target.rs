//! What a request line names, by all the ways in which a client can say it (DESIGN.md section 1).

use std::net::{IpAddr, SocketAddr};

use http::header::{HOST, VIA};
use http::uri::Uri;
use http::{HeaderMap, Method};

use crate::classify::Url;
use crate::fault::Fault;

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// Something that a URL names.
    Resource(Url),
    /// `GET /NAME/path` of a configured repository; the rest begins with a slash.
    Repo { name: String, rest: String },
    /// `CONNECT host:port`.
    Tunnel { host: String, port: u16 },
    /// One of the node's own pages, with its path.
    Own(String),
    /// `OPTIONS *`: the node itself.
    Server,
}

/// Reads the request line and `Host`. `is_repo` tells the names of configured repositories, `is_own_name` whether a host
/// is a name of this node (addresses always are): a page of the node's is never given to a foreign name (DNS rebinding). `local` is where the
/// request has reached this node.
pub fn parse_target(
    method: &Method,
    uri: &Uri,
    fields: &HeaderMap,
    is_repo: impl Fn(&str) -> bool,
    is_own_name: impl Fn(&str) -> bool,
    local: Option<SocketAddr>,
) -> Result<Target, Fault> {
    let mut hosts = fields.get_all(HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err(Fault::bad_request("more than one Host field"));
    }
    let host = match host {
        Some(host) => Some(host.to_str().map_err(|_| Fault::bad_request("the Host field is malformed"))?),
        None => None,
    };
    check_method(method)?;
    if method == Method::CONNECT {
        return tunnel(uri);
    }
    if uri.scheme().is_some() || uri.authority().is_some() {
        return absolute(uri);
    }
    let path = uri.path_and_query().map_or("", |p| p.as_str());
    if path == "*" {
        return match *method {
            Method::OPTIONS => Ok(Target::Server),
            _ => Err(Fault::bad_request("`*` is for OPTIONS only")),
        };
    }
    let Some(rest) = path.strip_prefix('/') else { return Err(Fault::bad_request("the request target is malformed")) };
    let (first, tail) = rest.find(['/', '?']).map_or((rest, ""), |at| rest.split_at(at));
    if first.is_empty() && !rest.starts_with('/') || first == "-" {
        let own = host.is_none_or(|host| is_own_host(host, &is_own_name));
        return match own {
            true => Ok(Target::Own(path.to_owned())),
            false => Err(Fault::bad_request("this node's pages are not served under a foreign host name")),
        };
    }
    if host.is_some_and(|host| Url::from_parts(false, host, "/").is_err()) {
        return Err(Fault::bad_request("the Host field is malformed"));
    }
    if first == "HTTPS" {
        return https(tail);
    }
    if is_repo(first) {
        let slash = if tail.starts_with('/') { "" } else { "/" };
        return Ok(Target::Repo { name: first.to_owned(), rest: format!("{slash}{tail}") });
    }
    if first.contains(['.', ':']) {
        return url(false, first, tail);
    }
    // A proxy that takes this node for the server itself: so does a Squid with connections to its parents that are left from before it
    // has read its configuration anew.
    if let Some(host) = host.filter(|host| fields.contains_key(VIA) && !is_here(host, &is_own_name, local)) {
        return url(false, host, path);
    }
    Err(Fault::bad_request(format!(
        "/{first} is neither a configured repository nor a host name; ask for /HOST/PATH, /HTTPS///HOST/PATH or a [repos.NAME]"
    )))
}

/// Methods are case-sensitive (RFC 9110 9.1): `get` is not GET, and a server that thinks it is would answer for another
/// key than a cache does. No registered method is longer than 17 letters.
fn check_method(method: &Method) -> Result<(), Fault> {
    const KNOWN: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH", "CONNECT"];
    let name = method.as_str();
    let nearly = KNOWN.iter().any(|known| name != *known && name.eq_ignore_ascii_case(known));
    match nearly || name.len() > 32 {
        true => Err(Fault::bad_request("the method is not known")),
        false => Ok(()),
    }
}

fn absolute(uri: &Uri) -> Result<Target, Fault> {
    let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
        return Err(Fault::bad_request("host and port alone are for CONNECT only"));
    };
    let tail = uri.path_and_query().map_or("", |p| p.as_str());
    // http://HTTPS///host/path
    if authority.as_str() == "HTTPS" && tail.starts_with("//") {
        return https(tail);
    }
    let https = match scheme {
        "http" => false,
        "https" => true,
        _ => return Err(Fault::bad_request("the scheme is neither http nor https")),
    };
    url(https, authority.as_str(), tail)
}

/// `///host/path` behind `HTTPS`.
fn https(tail: &str) -> Result<Target, Fault> {
    let rest = tail.trim_start_matches('/');
    let (authority, path) = rest.find(['/', '?']).map_or((rest, ""), |at| rest.split_at(at));
    url(true, authority, path)
}

fn url(https: bool, authority: &str, tail: &str) -> Result<Target, Fault> {
    Url::from_parts(https, authority, tail).map(Target::Resource).map_err(|e| Fault::bad_request(e.to_string()))
}

fn tunnel(uri: &Uri) -> Result<Target, Fault> {
    let authority = uri.authority().ok_or_else(|| Fault::bad_request("CONNECT needs HOST:PORT"))?;
    let port =
        authority.port_u16().filter(|port| *port != 0).ok_or_else(|| Fault::bad_request("CONNECT needs a port"))?;
    let url = Url::from_parts(false, authority.as_str(), "/").map_err(|e| Fault::bad_request(e.to_string()))?;
    Ok(Target::Tunnel { host: url.host().to_owned(), port })
}

fn is_own_host(host: &str, is_own_name: impl Fn(&str) -> bool) -> bool {
    match Url::from_parts(false, host, "/") {
        Ok(url) => url.host().parse::<IpAddr>().is_ok() || is_own_name(url.host()),
        Err(_) => false,
    }
}

/// Is it this node at which this host and port lead?
fn is_here(host: &str, is_own_name: impl Fn(&str) -> bool, local: Option<SocketAddr>) -> bool {
    let Ok(url) = Url::from_parts(false, host, "/") else { return true };
    match url.host().parse::<IpAddr>() {
        Ok(ip) => local.is_none_or(|local| local.ip().to_canonical() == ip && local.port() == url.port()),
        Err(_) => is_own_name(url.host()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn parse(method: &str, uri: &str, hosts: &[&'static str]) -> Result<Target, String> {
        let mut fields = HeaderMap::new();
        for host in hosts {
            fields.append(HOST, HeaderValue::from_static(host));
        }
        let method: Method = method.parse().unwrap();
        let uri: Uri = uri.parse().map_err(|e| format!("uri: {e}"))?;
        let local = "192.0.2.1:3142".parse().ok();
        parse_target(&method, &uri, &fields, |n| n == "fedora", |n| n == "lab1" || n == "localhost", local)
            .map_err(|f| f.to_string())
    }

    #[test]
    fn a_proxy_that_takes_the_node_for_the_server() {
        let by_proxy = |host: &'static str, path: &'static str| {
            let fields = [(HOST, HeaderValue::from_static(host)), (VIA, HeaderValue::from_static("1.1 squid"))];
            let (fields, local) = (fields.into_iter().collect(), "192.0.2.1:3142".parse().ok());
            parse_target(&Method::GET, &Uri::from_static(path), &fields, |n| n == "fedora", |n| n == "lab1", local).ok()
        };
        let resource = |url: &str| Some(Target::Resource(Url::parse(url).unwrap()));
        assert_eq!(by_proxy("example.org", "/pool/a.deb?x"), resource("http://example.org/pool/a.deb?x"));
        assert_eq!(by_proxy("192.0.2.1:80", "/pool/a.deb"), resource("http://192.0.2.1/pool/a.deb"));
        assert_eq!(by_proxy("192.0.2.9:3142", "/pool/a.deb"), resource("http://192.0.2.9:3142/pool/a.deb"));
        for own in ["lab1:3142", "192.0.2.1:3142"] {
            assert_eq!(by_proxy(own, "/pool/a.deb"), None, "{own}");
        }
        // What it can be anyhow it is.
        assert_eq!(by_proxy("example.org", "/example.net/a.deb"), resource("http://example.net/a.deb"));
        assert!(matches!(by_proxy("example.org", "/fedora/a"), Some(Target::Repo { .. })));
    }

    #[test]
    fn all_ways_to_name_a_thing() {
        let resource = |url: &str| Ok(Target::Resource(Url::parse(url).unwrap()));
        let own = |path: &str| Ok(Target::Own(path.to_owned()));
        for (method, uri, host, target) in [
            ("GET", "http://Example.org/a?b", "evil.example.org", resource("http://example.org/a?b")),
            ("GET", "http://example.org", "example.org", resource("http://example.org/")),
            ("GET", "https://example.org/a", "x", resource("https://example.org/a")),
            ("GET", "/example.org/a", "lab1:3142", resource("http://example.org/a")),
            ("GET", "/127.0.0.1:18080/debian/x", "lab1:3142", resource("http://127.0.0.1:18080/debian/x")),
            ("GET", "/HTTPS///example.org/a?b", "lab1:3142", resource("https://example.org/a?b")),
            ("GET", "/fedora/a/b", "lab1", Ok(Target::Repo { name: "fedora".into(), rest: "/a/b".into() })),
            ("GET", "/fedora", "lab1", Ok(Target::Repo { name: "fedora".into(), rest: "/".into() })),
            ("GET", "/fedora?x", "lab1", Ok(Target::Repo { name: "fedora".into(), rest: "/?x".into() })),
            ("GET", "/", "10.0.0.1:3142", own("/")),
            ("GET", "/-/api/status", "lab1", own("/-/api/status")),
            ("CONNECT", "example.org:443", "example.org", Ok(Target::Tunnel { host: "example.org".into(), port: 443 })),
            ("OPTIONS", "*", "lab1", Ok(Target::Server)),
        ] {
            assert_eq!(parse(method, uri, &[host]), target, "{method} {uri}");
        }
    }

    #[test]
    fn refusals() {
        for (method, uri, hosts) in [
            ("GET", "http://example.org/a", &["a", "b"][..]),
            ("GET", "http://example.org/a", &["a", "a"]),
            ("GET", "http://user:secret@example.org/", &["a"]),
            ("GET", "ftp://example.org/", &["a"]),
            ("GET", "http://example.org:0/", &["a"]),
            ("GET", "example.org:80", &["a"]),
            ("GET", "*", &["a"]),
            ("GET", "/-/metrics", &["evil.example.org"]),
            ("GET", "/", &["evil.example.org"]),
            ("GET", "/nothing/here", &["lab1"]),
            ("GET", "/example.org/a", &["a, b"]),
            ("get", "http://example.org/", &["a"]),
            ("GETGETGETGETGETGETGETGETGETGETGET", "http://example.org/", &["a"]),
            ("GET", "/HTTPS///", &["lab1"]),
            ("GET", "//", &["lab1"]),
            ("CONNECT", "example.org:0", &["a"]),
            ("CONNECT", "user@example.org:443", &["a"]),
        ] {
            assert!(parse(method, uri, hosts).is_err(), "{method} {uri} {hosts:?}");
        }
    }
}

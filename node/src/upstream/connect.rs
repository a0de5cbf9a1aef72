//! Connections: names are resolved here, each address is judged, and exactly that address is dialled (Happy Eyeballs, RFC
//! 8305); TLS and the parent proxy's CONNECT come on top.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::destination::{self, Own};
use crate::classify::Url;
use crate::config::{self, ParentProxy};
use crate::fault::{Cause, Fault};

/// Between two attempts at addresses of one host (RFC 8305 section 5).
const STAGGER: Duration = Duration::from_millis(250);

/// Longest answer of a parent proxy to CONNECT.
const CONNECT_HEAD_MAX: usize = 8 * 1024;

/// Any byte stream.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// How a request reached its destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hop {
    Direct(SocketAddr),
    Parent(String),
}

impl std::fmt::Display for Hop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Direct(address) => write!(f, "HIER_DIRECT/{}", address.ip()),
            Self::Parent(proxy) => write!(f, "FIRSTUP_PARENT/{proxy}"),
        }
    }
}

/// Makes connections.
pub(super) struct Connector {
    config: config::Upstream,
    own: Own,
    tls: OnceLock<Result<Arc<ClientConfig>, Arc<str>>>,
}

impl Connector {
    pub(super) fn new(config: config::Upstream, own: Own) -> Self {
        Self { config, own, tls: OnceLock::new() }
    }

    /// The parent that a request for this host goes through, if any.
    pub(super) fn parent(&self, host: &str) -> Option<&ParentProxy> {
        self.config.proxy.as_ref().filter(|_| !bypasses(&self.config.no_proxy, host))
    }

    /// A stream to the server of a URL. Through a parent, plain HTTP gets a stream to the parent itself.
    pub(super) async fn connect(&self, url: &Url, patience: Duration) -> Result<(Box<dyn Stream>, Hop), Fault> {
        let (stream, hop) = match self.parent(url.host()) {
            Some(parent) if url.is_https() => {
                let stream = self.tunnel_through(parent, url.host(), url.port(), patience).await?;
                (stream, Hop::Parent(parent.host.clone()))
            }
            Some(parent) => {
                self.judge_name(url.host(), url.port())?;
                (
                    Box::new(self.dial_parent(parent, patience).await?) as Box<dyn Stream>,
                    Hop::Parent(parent.host.clone()),
                )
            }
            None => {
                let (stream, address) = self.dial(url.host(), url.port(), patience).await?;
                (Box::new(stream) as Box<dyn Stream>, Hop::Direct(address))
            }
        };
        if !url.is_https() {
            return Ok((stream, hop));
        }
        let tls = |detail: String| Fault::new(Cause::Tls { host: url.host().into(), detail: detail.into() });
        let config = self.tls().map_err(|detail| tls(detail.to_string()))?;
        let name = ServerName::try_from(url.host().to_owned()).map_err(|e| tls(e.to_string()))?;
        let connecting = TlsConnector::from(config).connect(name, stream);
        match tokio::time::timeout(patience.max(Duration::from_secs(5)), connecting).await {
            Ok(Ok(stream)) => Ok((Box::new(stream), hop)),
            Ok(Err(error)) => Err(tls(error.to_string())),
            Err(_) => Err(tls("no answer to the handshake".into())),
        }
    }

    /// A stream for CONNECT: straight to the host, or through the parent.
    pub(super) async fn tunnel(
        &self,
        host: &str,
        port: u16,
        patience: Duration,
    ) -> Result<(Box<dyn Stream>, Hop), Fault> {
        match self.parent(host) {
            Some(parent) => {
                let stream = self.tunnel_through(parent, host, port, patience).await?;
                Ok((stream, Hop::Parent(parent.host.clone())))
            }
            None => {
                let (stream, address) = self.dial(host, port, patience).await?;
                Ok((Box::new(stream), Hop::Direct(address)))
            }
        }
    }

    async fn dial(&self, host: &str, port: u16, patience: Duration) -> Result<(TcpStream, SocketAddr), Fault> {
        let addresses = resolve(host, port, patience).await?;
        let mut refusal = None;
        let permitted: Vec<_> = addresses
            .into_iter()
            .filter(|address| match destination::judge(address.ip(), port, &self.config.allow, &self.own) {
                Ok(()) => true,
                Err(why) => {
                    refusal = Some(format!(
                        "{host} is {}: {why} (the operator can permit it with `[upstream] allow = [\"{address}\"]`)",
                        address.ip()
                    ));
                    false
                }
            })
            .collect();
        if let (true, Some(detail)) = (permitted.is_empty(), refusal) {
            return Err(Fault::new(Cause::DestinationForbidden { detail: detail.into() }));
        }
        race(host, interleave(permitted), patience).await
    }

    async fn dial_parent(&self, parent: &ParentProxy, patience: Duration) -> Result<TcpStream, Fault> {
        // The operator has named it: it may be anywhere.
        let addresses = resolve(&parent.host, parent.port, patience).await?;
        race(&parent.host, interleave(addresses), patience).await.map(|(stream, _)| stream)
    }

    /// Through a parent the parent resolves; what can be judged by its text is judged all the same.
    fn judge_name(&self, host: &str, port: u16) -> Result<(), Fault> {
        let forbidden =
            |why: &str| Err(Fault::new(Cause::DestinationForbidden { detail: format!("{host}: {why}").into() }));
        if host == "localhost" || host.ends_with(".localhost") {
            return forbidden("this machine is not contacted");
        }
        match textual_address(host) {
            Some(address) => destination::judge(address, port, &self.config.allow, &self.own).or_else(forbidden),
            None => Ok(()),
        }
    }

    async fn tunnel_through(
        &self,
        parent: &ParentProxy,
        host: &str,
        port: u16,
        patience: Duration,
    ) -> Result<Box<dyn Stream>, Fault> {
        self.judge_name(host, port)?;
        let failed =
            |detail: String| Fault::new(Cause::Parent { proxy: parent.host.as_str().into(), detail: detail.into() });
        let mut stream = self.dial_parent(parent, patience).await?;
        let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
        let credentials = authorization(parent).map(|v| format!("Proxy-Authorization: {v}\r\n")).unwrap_or_default();
        let request = format!("CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n{credentials}\r\n");
        let exchange = async {
            stream.write_all(request.as_bytes()).await?;
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") && head.len() < CONNECT_HEAD_MAX {
                head.push(stream.read_u8().await?);
            }
            Ok::<_, std::io::Error>(head)
        };
        let head = match tokio::time::timeout(patience.max(Duration::from_secs(5)), exchange).await {
            Ok(Ok(head)) => head,
            Ok(Err(error)) => return Err(failed(error.to_string())),
            Err(_) => return Err(failed("no answer to CONNECT".into())),
        };
        let line = String::from_utf8_lossy(head.split(|b| *b == b'\r').next().unwrap_or_default()).into_owned();
        match line.split(' ').nth(1) {
            Some(status) if status.starts_with('2') => Ok(Box::new(stream)),
            _ => Err(failed(format!("CONNECT {host}:{port} was answered with {line:?}"))),
        }
    }

    fn tls(&self) -> Result<Arc<ClientConfig>, Arc<str>> {
        self.tls.get_or_init(|| tls_config(platform_roots()?)).clone()
    }
}

fn platform_roots() -> Result<RootCertStore, Arc<str>> {
    let loaded = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(loaded.certs);
    match roots.is_empty() {
        true => Err("no CA certificates were found: install the package ca-certificates, or set SSL_CERT_FILE".into()),
        false => Ok(roots),
    }
}

fn tls_config(roots: RootCertStore) -> Result<Arc<ClientConfig>, Arc<str>> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// `Basic` credentials (RFC 7617) for a parent.
pub(super) fn authorization(parent: &ParentProxy) -> Option<String> {
    parent.credentials.as_ref().map(|secret| format!("Basic {}", base64(secret.0.as_bytes())))
}

fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let word = chunk.iter().fold(0u32, |word, b| word << 8 | u32::from(*b)) << (8 * (3 - chunk.len()));
        for i in 0..4 {
            let letter = ALPHABET[(word >> (18 - 6 * i) & 63) as usize];
            out.push(if i <= chunk.len() { char::from(letter) } else { '=' });
        }
    }
    out
}

/// `no_proxy`: names, `.suffixes`, `*`.
fn bypasses(no_proxy: &[String], host: &str) -> bool {
    no_proxy.iter().map(|entry| entry.trim()).filter(|entry| !entry.is_empty()).any(|entry| {
        let suffix = entry.trim_start_matches('.');
        entry == "*"
            || host == suffix
            || host.strip_suffix(suffix).is_some_and(|front| front.ends_with('.'))
            || matches!((entry.parse::<ipnet::IpNet>(), host.parse::<IpAddr>()), (Ok(net), Ok(ip)) if net.contains(&ip))
    })
}

/// An address in any of the forms that `getaddrinfo` takes for IPv4 (`127.1`, `0x7f000001`, `0177.0.0.1`), or IPv6.
fn textual_address(host: &str) -> Option<IpAddr> {
    if let Ok(address) = host.parse() {
        return Some(address);
    }
    let parts: Option<Vec<u64>> = host.split('.').map(number).collect();
    let parts = parts.filter(|parts| parts.len() <= 4)?;
    let (last, front) = parts.split_last()?;
    let width = 8 * (4 - front.len() as u32);
    if front.iter().any(|part| *part > 255) || *last >= 1 << width {
        return None;
    }
    let high = front.iter().enumerate().fold(0u64, |sum, (i, part)| sum | part << (24 - 8 * i));
    u32::try_from(high | last).ok().map(|bits| IpAddr::V4(bits.into()))
}

fn number(text: &str) -> Option<u64> {
    let lower = text.to_ascii_lowercase();
    match (lower.strip_prefix("0x"), lower.strip_prefix('0')) {
        (Some(hex), _) => u64::from_str_radix(hex, 16).ok(),
        (None, Some(octal)) if !octal.is_empty() => u64::from_str_radix(octal, 8).ok(),
        _ => lower.parse().ok(),
    }
}

async fn resolve(host: &str, port: u16, patience: Duration) -> Result<Vec<SocketAddr>, Fault> {
    if let Some(address) = textual_address(host) {
        return Ok(vec![SocketAddr::new(address, port)]);
    }
    let unknown = |detail: String| Fault::new(Cause::NameNotFound { host: host.into(), detail: detail.into() });
    match tokio::time::timeout(patience, tokio::net::lookup_host((host, port))).await {
        Ok(Ok(addresses)) => Ok(addresses.collect()),
        Ok(Err(error)) => Err(unknown(error.to_string())),
        Err(_) => Err(unknown("the resolver did not answer".into())),
    }
}

/// Families in turn, as the resolver ordered them.
fn interleave(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let first_v6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (mut first, mut second): (Vec<_>, Vec<_>) = addresses.into_iter().partition(|a| a.is_ipv6() == first_v6);
    first.reverse();
    second.reverse();
    let mut mixed = Vec::with_capacity(first.len() + second.len());
    while !first.is_empty() || !second.is_empty() {
        mixed.extend(first.pop());
        mixed.extend(second.pop());
    }
    mixed
}

/// Tries the addresses one after the other, each a moment after the one before; the first connection wins.
async fn race(host: &str, addresses: Vec<SocketAddr>, patience: Duration) -> Result<(TcpStream, SocketAddr), Fault> {
    let mut waiting = addresses.into_iter();
    let mut running = FuturesUnordered::new();
    let mut last: Option<Fault> = None;
    let deadline = tokio::time::sleep(patience);
    tokio::pin!(deadline);
    loop {
        if let Some(address) = waiting.next() {
            running.push(async move { (address, TcpStream::connect(address).await) });
        } else if running.is_empty() {
            return Err(last.unwrap_or_else(|| {
                Fault::new(Cause::NameNotFound { host: host.into(), detail: "it has no address".into() })
            }));
        }
        let stagger = tokio::time::sleep(STAGGER);
        tokio::select! {
            Some((address, connected)) = running.next() => match connected {
                Ok(stream) => {
                    let _ = stream.set_nodelay(true);
                    return Ok((stream, address));
                }
                Err(error) => last = Some(connect_fault(address, &error)),
            },
            () = stagger, if waiting.len() > 0 => {}
            () = &mut deadline => {
                let detail = format!("nothing within {} ms", patience.as_millis());
                return Err(Fault::new(Cause::NoConnection { address: host.into(), detail: detail.into() }));
            }
        }
    }
}

fn connect_fault(address: SocketAddr, error: &std::io::Error) -> Fault {
    let address = address.to_string().into();
    Fault::new(match error.kind() {
        std::io::ErrorKind::ConnectionRefused => Cause::Refused { address },
        _ => Cause::NoConnection { address, detail: error.to_string().into() },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_that_getaddrinfo_takes_for_addresses() {
        for (host, address) in [
            ("127.1", Some("127.0.0.1")),
            ("2130706433", Some("127.0.0.1")),
            ("0x7f000001", Some("127.0.0.1")),
            ("0177.0.0.1", Some("127.0.0.1")),
            ("192.0.2.1", Some("192.0.2.1")),
            ("::1", Some("::1")),
            ("10.65536", Some("10.1.0.0")),
            ("10.16777216", None),
            ("1.2.3.4.5", None),
            ("example.org", None),
            ("256.1.1.1", None),
        ] {
            assert_eq!(textual_address(host), address.map(|a| a.parse().unwrap()), "{host}");
        }
    }

    #[test]
    fn no_proxy_entries() {
        let entries = ["example.org", ".example.net", "10.0.0.0/8"].map(String::from);
        for (host, expected) in [
            ("example.org", true),
            ("www.example.org", true),
            ("badexample.org", false),
            ("example.net", true),
            ("a.example.net", true),
            ("10.1.2.3", true),
            ("11.1.2.3", false),
        ] {
            assert_eq!(bypasses(&entries, host), expected, "{host}");
        }
        assert!(bypasses(&["*".into()], "anything"));
        assert!(!bypasses(&["".into()], "anything"));
    }

    #[test]
    fn base64_of_rfc_4648() {
        for (plain, encoded) in
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg=="), ("fooba", "Zm9vYmE=")]
        {
            assert_eq!(base64(plain.as_bytes()), encoded);
        }
    }
}

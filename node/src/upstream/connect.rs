//! Connections: names are resolved here, each address is judged, and exactly that address is dialled; TLS and the parent
//! proxy's CONNECT come on top. The whole of it has one limit of time.

use std::net::SocketAddr;
use std::time::Duration;

use http::HeaderMap;
use tokio::time::{Instant, timeout_at};

use super::destination::{self, Own};
use super::dial::dial;
use super::parent;
use super::resolve::Resolver;
use super::stream::Stream;
use super::tls::Tls;
use crate::classify::Url;
use crate::config::{self, ParentProxy};
use crate::fault::{Cause, Fault};
use crate::os::net;

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
    resolver: Resolver,
    tls: Tls,
}

impl Connector {
    pub(super) fn new(config: config::Upstream, own: Own, resolver: Resolver, tls: Tls) -> Self {
        Self { config, own, resolver, tls }
    }

    pub(super) async fn load_roots(&self) -> Result<(), String> {
        self.tls.config().await.map(drop)
    }

    /// The parent that a request for this host goes through, if any.
    pub(super) fn parent(&self, host: &str) -> Option<&ParentProxy> {
        self.config.proxy.as_ref().filter(|_| !parent::bypasses(&self.config.no_proxy, host))
    }

    /// A stream to the server of a URL. Through a parent, plain HTTP gets a stream to the parent itself; of the request's `fields`
    /// it is told which proxies are behind it.
    pub(super) async fn connect(
        &self,
        url: &Url,
        fields: &HeaderMap,
        patience: Duration,
    ) -> Result<(Stream, Hop), Fault> {
        let deadline = Deadline::after(patience);
        let (host, port) = (url.host(), url.port());
        let (stream, hop) = match self.parent(host) {
            Some(parent) if !url.is_https() => {
                self.judge_text(host, port)?;
                (self.dial_parent(parent, deadline).await?, Hop::Parent(parent.host.clone()))
            }
            _ => self.reach(host, port, fields, deadline).await?,
        };
        if !url.is_https() {
            return Ok((stream, hop));
        }
        match timeout_at(deadline.at, self.tls.handshake(host, stream)).await {
            Ok(secured) => Ok((secured?, hop)),
            Err(_) => Err(deadline.missed(host, "TLS was not set up")),
        }
    }

    /// A stream for CONNECT: straight to the host, or through the parent.
    pub(super) async fn tunnel(
        &self,
        host: &str,
        port: u16,
        hops: &HeaderMap,
        patience: Duration,
    ) -> Result<(Stream, Hop), Fault> {
        self.reach(host, port, hops, Deadline::after(patience)).await
    }

    /// Bytes to and from a host, whatever lies between.
    async fn reach(&self, host: &str, port: u16, hops: &HeaderMap, deadline: Deadline) -> Result<(Stream, Hop), Fault> {
        let Some(parent) = self.parent(host) else {
            let (stream, address) = self.dial(host, port, deadline).await?;
            return Ok((stream, Hop::Direct(address)));
        };
        self.judge_text(host, port)?;
        let mut stream = self.dial_parent(parent, deadline).await?;
        match timeout_at(deadline.at, parent::open_tunnel(parent, &mut stream, host, port, hops)).await {
            Ok(opened) => opened.map(|()| (stream, Hop::Parent(parent.host.clone()))),
            Err(_) => Err(parent::fault(parent, format!("no tunnel to {host} within {} ms", deadline.patience_ms()))),
        }
    }

    async fn dial(&self, host: &str, port: u16, deadline: Deadline) -> Result<(Stream, SocketAddr), Fault> {
        let mut refusal = None;
        let mut permitted = Vec::new();
        for address in self.resolve(host, deadline).await? {
            let address = SocketAddr::new(address.to_canonical(), port);
            match self.judge(address) {
                Ok(()) => permitted.push(address),
                Err(why) => refusal = Some((address, why)),
            }
        }
        match refusal {
            Some((address, why)) if permitted.is_empty() => Err(forbidden(refusal_of(host, address, why))),
            _ => race(host, &permitted, deadline).await,
        }
    }

    async fn dial_parent(&self, parent: &ParentProxy, deadline: Deadline) -> Result<Stream, Fault> {
        // The operator has named it: it may be anywhere.
        let dialled = async {
            let addresses = self.resolve(&parent.host, deadline).await?;
            let addresses: Vec<_> = addresses.into_iter().map(|ip| SocketAddr::new(ip, parent.port)).collect();
            if addresses.iter().any(|address| self.is_own(*address)) {
                return Err(parent::fault(parent, parent::ITSELF.into()));
            }
            race(&parent.host, &addresses, deadline).await
        };
        dialled.await.map(|(stream, _)| stream).map_err(|fault| parent::unreached(parent, fault))
    }

    async fn resolve(&self, host: &str, deadline: Deadline) -> Result<Vec<std::net::IpAddr>, Fault> {
        match timeout_at(deadline.at, self.resolver.resolve(host)).await {
            Ok(resolved) => resolved,
            Err(_) => Err(Fault::new(Cause::NameNotFound {
                host: host.into(),
                detail: format!("the resolver did not answer within {} ms", deadline.patience_ms()).into(),
            })),
        }
    }

    fn judge(&self, address: SocketAddr) -> Result<(), &'static str> {
        destination::judge(address.ip(), address.port(), &self.config.allow, &self.own)?;
        match !address.ip().is_loopback() && self.is_own(address) {
            true => Err(destination::ITSELF),
            false => Ok(()),
        }
    }

    /// Is it this node's own door?
    fn is_own(&self, address: SocketAddr) -> bool {
        let ip = address.ip().to_canonical();
        let is_here = || self.own.addresses.contains(&ip) || net::is_local(ip);
        address.port() == self.own.port && is_here()
    }

    fn judge_text(&self, host: &str, port: u16) -> Result<(), Fault> {
        destination::judge_text(host, port, &self.config.allow, &self.own)
            .map_err(|why| forbidden(format!("{host}: {why}")))
    }
}

async fn race(host: &str, addresses: &[SocketAddr], deadline: Deadline) -> Result<(Stream, SocketAddr), Fault> {
    match timeout_at(deadline.at, dial(addresses)).await {
        Ok(dialled) => dialled.map(|(stream, address)| (Stream::plain(stream), address)),
        Err(_) => Err(deadline.missed(host, "nobody answered")),
    }
}

/// What is refused, why, and how it can be permitted if it can.
fn refusal_of(host: &str, address: SocketAddr, why: &str) -> String {
    let ip = address.ip().to_string();
    let what = if ip == host { ip } else { format!("{host} is {ip}") };
    match why {
        destination::ITSELF => format!("{what}: {why}"),
        _ => format!("{what}: {why} (the operator can permit it with `[upstream] allow = [\"{address}\"]`)"),
    }
}

fn forbidden(detail: String) -> Fault {
    Fault::new(Cause::DestinationForbidden { detail: detail.into() })
}

/// When the patience for a connection ends, and how long it was for the message.
#[derive(Clone, Copy)]
struct Deadline {
    at: Instant,
    patience: Duration,
}

impl Deadline {
    fn after(patience: Duration) -> Self {
        Self { at: Instant::now() + patience, patience }
    }

    fn patience_ms(self) -> u128 {
        self.patience.as_millis()
    }

    fn missed(self, host: &str, what: &str) -> Fault {
        let detail = format!("{what} within {} ms", self.patience_ms()).into();
        Fault::new(Cause::NoConnection { address: host.into(), detail })
    }
}

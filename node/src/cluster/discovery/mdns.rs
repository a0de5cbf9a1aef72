//! Announces this node on the links of the site and hears of the others (RFC 6762, RFC 6763). The daemon of `mdns-sd` has a
//! thread of its own; this task reads what it finds and starts it again when it is lost.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::time::Duration;

use imirror_protocol::NodeId;
use mdns_sd::{Error, IfKind, IfPredicate, ResolvedService, ScopedIp, ServiceDaemon, ServiceEvent, ServiceInfo};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::{Announcement, Candidate, How, interfaces};
use crate::os::clock::Clock;

/// What nodes look for.
const NODES: &str = "_imirror._udp.local.";
/// What apt's clients of other caches look for, too.
const PROXIES: &str = "_apt_proxy._tcp.local.";
/// Of what is announced, not of the program.
const VERSION: &str = "1";

/// Addresses of one node.
const ADDRESSES_MAX: usize = 16;
/// Instances that the daemon keeps in memory: whoever announces more is not a site, and the daemon forgets all of it.
const INSTANCES_MAX: usize = 1024;

const ADDRESSES_CHECKED_EVERY_SECONDS: u32 = 2;
/// Addresses of proxies that are tried.
const PROXIES_MAX: usize = 16;
const LOOKED_AGAIN_AFTER: Duration = Duration::from_secs(30);
const AFTER_A_GOODBYE: Duration = Duration::from_secs(3);
/// Longer than it takes to find out that nobody else has a name, and to announce it twice (RFC 6762 section 8).
const ANNOUNCED_AGAIN_AFTER: Duration = Duration::from_secs(3);
const STARTED_AGAIN_AFTER: Duration = Duration::from_secs(5);
const HOST_ASKED_FOR_MILLISECONDS: u64 = 5000;
const GOODBYE_MAX: Duration = Duration::from_secs(1);

/// Runs until told to leave, or until nobody takes what is found.
pub(super) async fn run(
    own: Announcement,
    mut addresses: watch::Receiver<Vec<SocketAddr>>,
    found: mpsc::Sender<Candidate>,
    mut leaving: watch::Receiver<bool>,
) {
    loop {
        match Daemon::start(&own) {
            Ok(daemon) => {
                let left = tokio::select! {
                    () = daemon.look(&own, &mut addresses, &found) => false,
                    _ = leaving.wait_for(|leaving| *leaving) => true,
                };
                if left {
                    return daemon.leave().await;
                }
            }
            Err(error) => tracing::warn!(%error, "multicast DNS cannot be used: other nodes are found by seeds only"),
        }
        if found.is_closed() {
            return;
        }
        tracing::debug!("multicast DNS is started again");
        tokio::select! {
            () = sleep(STARTED_AGAIN_AFTER) => {}
            _ = leaving.wait_for(|leaving| *leaving) => return,
            () = found.closed() => return,
        }
    }
}

/// The first proxy for apt that is announced on the links of this machine and that `serves`. Blocks for `patience` at most,
/// while `serves` does not.
pub(super) fn proxy(patience: Duration, mut serves: impl FnMut(SocketAddr) -> bool) -> Option<SocketAddr> {
    let (clock, daemon) = (Clock::system(), Daemon::new().ok()?);
    let events = daemon.0.browse(PROXIES).ok()?;
    let (begun, mut tried) = (clock.now(), Vec::new());
    while let Some(rest) = patience.checked_sub(clock.now().since(begun)) {
        let ServiceEvent::ServiceResolved(service) = events.recv_timeout(rest).ok()? else { continue };
        // What is known on one link only can't be written in a URL.
        let anywhere = |address: &SocketAddr| !(address.is_ipv6() && is_link_local(address));
        for address in addresses(&service).into_iter().filter(anywhere) {
            if tried.len() >= PROXIES_MAX || tried.contains(&address) {
                continue;
            }
            if serves(address) {
                return Some(address);
            }
            tried.push(address);
        }
    }
    None
}

/// Ends its thread when dropped.
struct Daemon(ServiceDaemon);

impl Daemon {
    /// One that speaks on the links of the site and announces nothing yet.
    fn new() -> Result<Self, Error> {
        let daemon = Self(ServiceDaemon::new()?);
        daemon.0.set_ip_check_interval(ADDRESSES_CHECKED_EVERY_SECONDS)?;
        // What is enabled last counts. Otherwise addresses of one link would be told on another.
        daemon.0.disable_interface(IfKind::All)?;
        let suitable = IfPredicate::new(|i| !i.is_loopback() && interfaces::leads_to_the_site(&i.name));
        daemon.0.enable_interface(IfKind::Predicate(suitable))?;
        Ok(daemon)
    }

    fn start(own: &Announcement) -> Result<Self, Error> {
        let daemon = Self::new()?;
        daemon.announce(own)?;
        Ok(daemon)
    }

    /// Announces it, (again) with all addresses of this moment.
    fn announce(&self, own: &Announcement) -> Result<(), Error> {
        self.0.register(service(own, NODES, own.listen.port())?)?;
        match own.client_port {
            Some(port) => self.0.register(service(own, PROXIES, port)?),
            None => Ok(()),
        }
    }

    /// Ends when the daemon does, when somebody tells it too much, or when nobody takes what is found.
    async fn look(
        &self,
        own: &Announcement,
        addresses: &mut watch::Receiver<Vec<SocketAddr>>,
        found: &mpsc::Sender<Candidate>,
    ) {
        let mut asked_for = HashSet::new();
        let mut announce_at = None;
        // The daemon tells what it knows already, then what is new.
        while let Ok(events) = self.0.browse(NODES) {
            let mut instances = 0_usize;
            let mut again = std::pin::pin!(sleep(LOOKED_AGAIN_AFTER));
            loop {
                let event = tokio::select! {
                    event = events.recv_async() => event,
                    () = &mut again => break,
                    Ok(()) = addresses.changed() => {
                        announce_at = Some(Instant::now() + ANNOUNCED_AGAIN_AFTER);
                        continue;
                    }
                    // An address that came before the last ones had been announced twice the daemon would never tell (mdns-sd 0.21).
                    () = sleep_until(announce_at.unwrap_or_else(Instant::now)), if announce_at.is_some() => {
                        announce_at = None;
                        let _ = self.announce(own);
                        continue;
                    }
                    () = found.closed() => return,
                };
                match event {
                    Ok(ServiceEvent::ServiceResolved(service)) => {
                        let candidates = candidates(own, &service);
                        // The daemon is content with some of the addresses; one that is lost with a packet, or held back since
                        // it has just been told to others, it would never ask for.
                        let is_whole = candidates.is_empty() || candidates.iter().any(|c| c.address.is_ipv4());
                        if !is_whole && asked_for.len() < INSTANCES_MAX && asked_for.insert(service.host.clone()) {
                            // What is found comes as news of the service.
                            let _ = self.0.resolve_hostname(&service.host, Some(HOST_ASKED_FOR_MILLISECONDS));
                        }
                        for candidate in candidates {
                            if found.send(candidate).await.is_err() {
                                return;
                            }
                        }
                    }
                    Ok(ServiceEvent::ServiceFound(..)) if instances >= INSTANCES_MAX => {
                        tracing::warn!("somebody on this network announces more than {INSTANCES_MAX} nodes");
                        return;
                    }
                    Ok(ServiceEvent::ServiceFound(..)) => instances += 1,
                    Ok(ServiceEvent::ServiceRemoved(..)) => {
                        instances = instances.saturating_sub(1);
                        // It says nothing about the node: all are told of when this machine loses its link. But of an address
                        // that comes back while it is being forgotten the daemon tells only when asked.
                        let soon = Instant::now() + AFTER_A_GOODBYE;
                        if again.deadline() > soon {
                            again.as_mut().reset(soon);
                        }
                    }
                    Ok(_) => {}
                    // We have been too slow, or the daemon is gone; the next question tells.
                    Err(_) => break,
                }
            }
        }
    }

    async fn leave(self) {
        // It says goodbye for what is registered before it ends.
        if let Ok(ended) = self.0.shutdown() {
            let _ = timeout(GOODBYE_MAX, ended.recv_async()).await;
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.shutdown();
    }
}

/// Instance and host are named by the node's id: a host name is not unique on every LAN, and who has the name of another is
/// found at its address.
fn service(own: &Announcement, kind: &str, port: u16) -> Result<ServiceInfo, Error> {
    let (id, site) = (own.node.to_string(), own.site.to_string());
    let host = format!("{id}.local.");
    let facts = [("id", id.as_str()), ("v", VERSION), ("site", site.as_str())];
    let facts = if kind == NODES { &facts[..] } else { &[] };
    let (ip, is_all) = (own.listen.ip(), own.listen.ip().is_unspecified());
    let addresses: &[IpAddr] = if is_all { &[] } else { &[ip] };
    let mut service = ServiceInfo::new(kind, &id, &host, addresses, port, facts)?;
    if is_all {
        service = service.enable_addr_auto();
        if ip.is_ipv4() {
            service.set_interfaces(vec![IfKind::IPv4]);
        }
    }
    Ok(service)
}

/// Where a node that was heard of may be reached, link-local addresses last; nothing when it is this one or of another site.
fn candidates(own: &Announcement, service: &ResolvedService) -> Vec<Candidate> {
    let fact = |name| service.get_property_val_str(name);
    let peer = fact("id").and_then(node_id);
    if fact("site") != Some(own.site.to_string().as_str())
        || peer.is_none()
        || peer == Some(own.node)
        || service.port == 0
    {
        return Vec::new();
    }
    addresses(service).into_iter().map(|address| Candidate { address, peer, how: How::Mdns }).collect()
}

fn addresses(service: &ResolvedService) -> Vec<SocketAddr> {
    let mut addresses: Vec<SocketAddr> =
        service.addresses.iter().filter_map(|ip| reachable(ip, service.port)).collect();
    // The same each time, although they come from a set.
    addresses.sort_by_key(|address| (is_link_local(address), *address));
    addresses.truncate(ADDRESSES_MAX);
    addresses
}

/// Link-local IPv6 addresses mean something only with the link on which they were heard.
fn reachable(ip: &ScopedIp, port: u16) -> Option<SocketAddr> {
    let address = match ip {
        _ if port == 0 => None,
        ScopedIp::V6(v6) if v6.addr().is_unicast_link_local() => {
            let scope = v6.scope_id().index;
            (scope != 0).then(|| SocketAddrV6::new(*v6.addr(), port, 0, scope).into())
        }
        other => Some(SocketAddr::new(other.to_ip_addr(), port)),
    };
    address.filter(|address| {
        let ip = address.ip();
        let is_broadcast = matches!(ip, IpAddr::V4(ip) if ip.is_broadcast());
        !ip.is_loopback() && !ip.is_unspecified() && !ip.is_multicast() && !is_broadcast
    })
}

fn is_link_local(address: &SocketAddr) -> bool {
    match address.ip() {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}

/// As it is shown: 32 hexadecimal digits.
fn node_id(text: &str) -> Option<NodeId> {
    let is_hex = text.len() == 32 && text.bytes().all(|b| b.is_ascii_hexdigit());
    let number = u128::from_str_radix(text, 16).ok().filter(|_| is_hex)?;
    Some(NodeId(number.to_be_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use imirror_protocol::token::Token;

    const SELF: NodeId = NodeId([1; 16]);
    const OTHER: NodeId = NodeId([0xab; 16]);

    fn announcement(node: NodeId, token: u8) -> Announcement {
        let site = Token::from_entropy([token; 20]).site_id();
        Announcement { node, site, listen: "[::]:3142".parse().unwrap(), client_port: Some(3142) }
    }

    /// What is heard of a node, with addresses as they come.
    fn heard(of: Announcement, addresses: &[(&str, &str, u32)]) -> ResolvedService {
        let mut service = service(&of, NODES, of.listen.port()).unwrap().as_resolved_service();
        let scoped =
            |(ip, link, index): &(&str, &str, u32)| ScopedIp::from(&super::super::tests::interface(link, *index, ip));
        service.addresses = addresses.iter().map(scoped).collect();
        service
    }

    fn told(service: &ResolvedService) -> Vec<String> {
        let candidates = candidates(&announcement(SELF, 1), service);
        assert!(candidates.iter().all(|c| c.peer == Some(OTHER) && c.how == How::Mdns));
        candidates.iter().map(|candidate| candidate.address.to_string()).collect()
    }

    #[test]
    fn addresses_keep_their_link_and_useless_ones_are_dropped() {
        let service = heard(
            announcement(OTHER, 1),
            &[
                ("fe80::2", "eth0", 7),
                ("fe80::2", "eth1", 8),
                ("fe80::3", "nowhere", 0),
                ("2001:db8::2", "eth0", 7),
                ("169.254.0.2", "eth0", 7),
                ("192.0.2.2", "eth0", 7),
                ("127.0.0.1", "eth0", 7),
                ("::1", "eth0", 7),
                ("0.0.0.0", "eth0", 7),
                ("255.255.255.255", "eth0", 7),
                ("ff02::fb", "eth0", 7),
            ],
        );
        let expected =
            ["192.0.2.2:3142", "[2001:db8::2]:3142", "169.254.0.2:3142", "[fe80::2%7]:3142", "[fe80::2%8]:3142"];
        assert_eq!(told(&service), expected);
        let many: Vec<String> = (0..200).map(|i| format!("192.0.2.{i}")).collect();
        let many: Vec<(&str, &str, u32)> = many.iter().map(|ip| (ip.as_str(), "eth0", 7)).collect();
        assert_eq!(told(&heard(announcement(OTHER, 1), &many)).len(), ADDRESSES_MAX);
    }

    #[test]
    fn only_others_of_the_site_count() {
        let here = [("192.0.2.2", "eth0", 7)];
        assert_eq!(told(&heard(announcement(SELF, 1), &here)), [""; 0], "itself");
        assert_eq!(told(&heard(announcement(OTHER, 2), &here)), [""; 0], "of another site");
        let port = Announcement { listen: "[::]:0".parse().unwrap(), ..announcement(OTHER, 1) };
        assert_eq!(told(&heard(port, &here)), [""; 0], "without a port");
        let bare = ServiceInfo::new(NODES, "x", "x.local.", "", 3142, None).unwrap();
        let mut bare = bare.as_resolved_service();
        bare.addresses = heard(announcement(OTHER, 1), &here).addresses;
        assert_eq!(told(&bare), [""; 0], "without facts");
    }

    #[test]
    fn ids_are_read_as_they_are_shown() {
        assert_eq!(node_id(&OTHER.to_string()), Some(OTHER));
        for wrong in ["", "ab", "+bababababababababababababababab", &"ab".repeat(17), "zz"] {
            assert_eq!(node_id(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn nothing_secret_is_announced() {
        let own = announcement(SELF, 1);
        let nodes = service(&own, NODES, 3142).unwrap();
        assert_eq!(nodes.get_fullname(), format!("{SELF}.{NODES}"));
        assert_eq!(nodes.get_hostname(), format!("{SELF}.local."));
        let facts: Vec<String> =
            nodes.get_properties().iter().map(|fact| format!("{}={}", fact.key(), fact.val_str())).collect();
        assert_eq!(facts, [format!("id={SELF}"), "v=1".into(), format!("site={}", own.site)]);
        let proxies = service(&own, PROXIES, 3142).unwrap();
        assert!(proxies.get_properties().is_empty() && proxies.is_addr_auto());
        let one = Announcement { listen: "192.0.2.1:3142".parse().unwrap(), ..own };
        let one = service(&one, NODES, 3142).unwrap();
        assert_eq!((one.is_addr_auto(), one.get_addresses().len()), (false, 1));
    }
}

//! Which of this machine's interfaces lead to the site, and its addresses there.

use std::net::{IpAddr, SocketAddr};

use if_addrs::Interface;

/// What host and containers, virtual machines and overlays of clusters share among themselves; more letters may follow.
const INSIDE: [&str; 15] = [
    "veth", "docker", "podman", "lxc", "lxd", "virbr", "vnet", "vmnet", "vboxnet", "cni", "cali", "cilium", "flannel",
    "kube", "zt",
];

/// Tunnels and what is not a network; a number may follow.
const NOWHERE: [&str; 14] =
    ["lo", "tun", "tap", "utun", "wg", "ppp", "tailscale", "sit", "gre", "ip_vti", "ip6tnl", "dummy", "ifb", "wwan"];

/// Is an interface of this name one on which other machines of the site may be? All are that are not known for something
/// else: people and distributions name theirs as they like.
pub(super) fn leads_to_the_site(name: &str) -> bool {
    let number = |rest: &str| rest.bytes().all(|b| b.is_ascii_digit());
    let is_nowhere = NOWHERE.iter().any(|kind| name.strip_prefix(kind).is_some_and(number));
    // A bridge that docker has made is named by a hash; `br-lan` is somebody's LAN.
    let is_of_docker = |hash: &str| hash.len() == 12 && hash.bytes().all(|b| b.is_ascii_hexdigit());
    let is_inside = INSIDE.iter().any(|kind| name.starts_with(kind));
    !is_nowhere && !is_inside && !name.strip_prefix("br-").is_some_and(is_of_docker)
}

/// The names of this machine's links to the site that are up, each once.
pub(super) fn links() -> Vec<String> {
    let all = if_addrs::get_if_addrs().unwrap_or_default();
    let mut names: Vec<String> = all
        .into_iter()
        .filter(|i| leads_to_the_site(&i.name) && i.is_oper_up() && !i.is_loopback())
        .map(|i| i.name)
        .collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// Where this node can be reached now when it listens on `listen`: what others are to be told, best first. What only this link
/// knows is not among it.
pub(in crate::cluster) fn own_addresses(listen: SocketAddr) -> Vec<SocketAddr> {
    let all = if_addrs::get_if_addrs().unwrap_or_default();
    match listen.ip().is_unspecified() {
        true => best_first(&all, listen),
        false => vec![listen],
    }
}

/// Of each interface its first address of each family before any second one, IPv4 before IPv6: the first few are told.
fn best_first(all: &[Interface], listen: SocketAddr) -> Vec<SocketAddr> {
    let serves = |ip: IpAddr| listen.is_ipv6() || ip.is_ipv4();
    let usable = |interface: &&Interface| {
        leads_to_the_site(&interface.name)
            && interface.is_oper_up()
            && !interface.is_p2p()
            && !interface.is_loopback()
            && !interface.is_link_local()
            && serves(interface.ip())
    };
    let mut ranked: Vec<(usize, bool, u32, IpAddr)> = Vec::new();
    for interface in all.iter().filter(usable) {
        let (ip, index) = (interface.ip(), interface.index.unwrap_or(0));
        let before = ranked.iter().filter(|(_, v6, i, _)| (*v6, *i) == (ip.is_ipv6(), index)).count();
        ranked.push((before, ip.is_ipv6(), index, ip));
    }
    ranked.sort_unstable();
    ranked.into_iter().map(|(.., ip)| SocketAddr::new(ip, listen.port())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::discovery::tests::interface;
    use if_addrs::IfOperStatus;

    #[test]
    fn names() {
        for name in [
            "eth0",
            "eth0.100",
            "en0",
            "eno1",
            "enp3s0f1",
            "enx00e04c680001",
            "wlan0",
            "wlp2s0",
            "bond0",
            "team0",
            "br0",
            "br-lan",
            "bridge0",
            "vlan7",
            "lan",
            "lab-net",
            "tunnel-hall",
            "uplink",
            "end0",
            "ib0",
            "local0",
            "vmbr0",
        ] {
            assert!(leads_to_the_site(name), "{name}");
        }
        for name in [
            "lo",
            "lo1",
            "docker0",
            "docker_gwbridge",
            "br-0123456789ab",
            "veth1a2b3c4",
            "vethwl",
            "tun0",
            "tap3",
            "wg0",
            "virbr0",
            "virbr0-nic",
            "vnet4",
            "cni0",
            "cali12ab",
            "cilium_host",
            "flannel.1",
            "lxdbr0",
            "lxcbr0",
            "podman1",
            "zt7nnig34",
            "tailscale0",
            "ppp0",
            "sit0",
            "dummy0",
            "kube-ipvs0",
            "vmnet8",
            "vboxnet0",
            "wwan0",
        ] {
            assert!(!leads_to_the_site(name), "{name}");
        }
    }

    #[test]
    fn one_address_of_each_kind_before_any_second() {
        let mut all = vec![
            interface("lo", 1, "127.0.0.1"),
            interface("eth0", 2, "192.0.2.1"),
            interface("eth0", 2, "198.51.100.1"),
            interface("eth0", 2, "fe80::1"),
            interface("eth0", 2, "2001:db8::1"),
            interface("docker0", 3, "172.17.0.1"),
            interface("wlan0", 4, "203.0.113.1"),
            interface("wlan0", 4, "203.0.113.2"),
        ];
        all[7].oper_status = IfOperStatus::Down;
        let told = |listen: &str| -> Vec<String> {
            best_first(&all, listen.parse().unwrap()).iter().map(ToString::to_string).collect()
        };
        assert_eq!(told("[::]:1"), ["192.0.2.1:1", "203.0.113.1:1", "[2001:db8::1]:1", "198.51.100.1:1"]);
        assert_eq!(told("0.0.0.0:1"), ["192.0.2.1:1", "203.0.113.1:1", "198.51.100.1:1"]);
        assert_eq!(own_addresses("192.0.2.9:7".parse().unwrap()), ["192.0.2.9:7".parse().unwrap()]);
    }
}

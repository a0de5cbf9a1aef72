//! Where requests may go (FAULTS.md 5). Pure. The address that was judged is the address that is dialled.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::config::AllowedDestination;

/// The node's own door, which it must not knock at.
#[derive(Debug, Clone)]
pub struct Own {
    pub port: u16,
    pub addresses: Vec<IpAddr>,
}

/// Says why an address is refused.
pub fn judge(address: IpAddr, port: u16, allow: &[AllowedDestination], own: &Own) -> Result<(), &'static str> {
    let address = embedded_v4(address);
    if port == 0 {
        return Err("port 0 is no port");
    }
    if port == own.port && (own.addresses.contains(&address) || address.is_loopback() || address.is_unspecified()) {
        return Err("it is this node itself");
    }
    if allow.iter().any(|allowed| allowed.permits(address, port)) {
        return Ok(());
    }
    if port < 1024 && port != 80 && port != 443 {
        return Err("ports below 1024 other than 80 and 443 are not contacted");
    }
    let refused = match address {
        IpAddr::V4(v4) => {
            v4.is_loopback()
                || v4.is_unspecified()
                || v4.octets()[0] == 0
                || v4.is_link_local()
                || v4.is_multicast()
                || v4.is_broadcast()
        }
        IpAddr::V6(v6) => {
            v6.is_loopback()
                || v6.is_unspecified()
                || v6.is_unicast_link_local()
                || v6.is_multicast()
                || is_metadata(v6)
        }
    };
    match refused {
        true => Err("loopback, link-local, multicast and unspecified addresses are not contacted"),
        false => Ok(()),
    }
}

/// The cloud's instance metadata service, which has a unique local address.
fn is_metadata(v6: Ipv6Addr) -> bool {
    v6 == Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)
}

/// An IPv4 address in IPv6 clothes: mapped, compatible, NAT64 (RFC 6052), 6to4.
fn embedded_v4(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else { return address };
    let s = v6.segments();
    let v4 = |high: u16, low: u16| {
        let [a, b] = high.to_be_bytes();
        let [c, d] = low.to_be_bytes();
        IpAddr::V4(Ipv4Addr::new(a, b, c, d))
    };
    match s {
        [0, 0, 0, 0, 0, 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => v4(high, low),
        [0, 0, 0, 0, 0, 0, high, low] if high != 0 => v4(high, low),
        [0x2002, high, low, ..] => v4(high, low),
        _ => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let allow = [AllowedDestination { net: "127.0.0.1/32".parse().unwrap(), port: Some(8000) }];
        let own = Own { port: 3142, addresses: vec!["192.168.1.5".parse().unwrap()] };
        for (address, port, permitted) in [
            ("192.0.2.1", 80, true),
            ("10.0.0.1", 8080, true),
            ("fd12::1", 443, true),
            ("192.0.2.1", 0, false),
            ("192.0.2.1", 22, false),
            ("127.0.0.1", 80, false),
            ("127.0.0.1", 8000, true),
            ("127.0.0.2", 8000, false),
            ("0.0.0.0", 80, false),
            ("0.1.2.3", 80, false),
            ("169.254.169.254", 80, false),
            ("224.0.0.1", 80, false),
            ("255.255.255.255", 80, false),
            ("::1", 80, false),
            ("::", 80, false),
            ("fe80::1", 80, false),
            ("ff02::1", 80, false),
            ("fd00:ec2::254", 80, false),
            ("::ffff:127.0.0.1", 80, false),
            ("::ffff:127.0.0.1", 8000, true),
            ("::127.0.0.1", 80, false),
            ("64:ff9b::7f00:1", 80, false),
            ("64:ff9b::c000:201", 80, true),
            ("2002:7f00:1::", 80, false),
            ("192.168.1.5", 3142, false),
            ("192.168.1.5", 80, true),
            ("127.0.0.1", 3142, false),
        ] {
            let judged = judge(address.parse().unwrap(), port, &allow, &own);
            assert_eq!(judged.is_ok(), permitted, "{address} {port}: {judged:?}");
        }
    }
}

//! What the tests of the parts share.

use std::net::IpAddr;

use if_addrs::{IfAddr, IfOperStatus, Ifv4Addr, Ifv6Addr, Interface};

/// An interface that is up, with one of its addresses.
pub(super) fn interface(name: &str, index: u32, ip: &str) -> Interface {
    let addr = match ip.parse().unwrap() {
        IpAddr::V4(ip) => {
            IfAddr::V4(Ifv4Addr { ip, netmask: [255, 255, 255, 0].into(), prefixlen: 24, broadcast: None })
        }
        IpAddr::V6(ip) => {
            IfAddr::V6(Ifv6Addr { ip, netmask: "ffff::".parse().unwrap(), prefixlen: 64, broadcast: None })
        }
    };
    Interface { name: name.into(), addr, index: Some(index), oper_status: IfOperStatus::Up, is_p2p: false }
}

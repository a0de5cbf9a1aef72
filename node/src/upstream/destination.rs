//! Where requests may go (R27). Pure. Who resolves must ask for each address, and dial exactly the one that was judged.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::config::AllowedDestination;

/// The node's own door, which it must not knock at.
#[derive(Debug, Clone)]
pub struct Own {
    pub port: u16,
    pub addresses: Vec<IpAddr>,
}

/// What a host in a URL is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Host {
    /// An address in one of the forms that the resolver of C libraries takes for one.
    Address(IpAddr),
    /// A name to be resolved.
    Name,
    /// Looks like a number, but is no address.
    Nonsense,
}

/// The one reason that no configuration overrules.
pub(super) const ITSELF: &str = "it is this node itself";

/// Says why an address is refused.
pub fn judge(address: IpAddr, port: u16, allow: &[AllowedDestination], own: &Own) -> Result<(), &'static str> {
    let address = address.to_canonical();
    if port == 0 {
        return Err("port 0 is no port");
    }
    let is_own = |a: &IpAddr| own.addresses.contains(a) || a.is_loopback() || a.is_unspecified();
    let meant = std::iter::once(address).chain(embedded_v4(address).into_iter().flatten());
    if port == own.port && meant.clone().any(|a| is_own(&a)) {
        return Err(ITSELF);
    }
    if allow.iter().any(|allowed| allowed.permits(address, port)) {
        return Ok(());
    }
    if !is_usual(port) {
        return Err("ports below 1024 other than 80 and 443 are not contacted");
    }
    match meant.into_iter().any(is_refused) {
        true => Err("loopback, link-local, multicast and unspecified addresses are not contacted"),
        false => Ok(()),
    }
}

/// Says why a destination is refused whose name somebody else (the parent proxy) resolves: by what its text tells.
pub(super) fn judge_text(host: &str, port: u16, allow: &[AllowedDestination], own: &Own) -> Result<(), &'static str> {
    match classify_host(host) {
        Host::Address(address) => judge(address, port, allow, own),
        Host::Nonsense => Err("it looks like an address, but is none"),
        Host::Name if is_localhost(host) => Err("this machine is not contacted"),
        Host::Name if !is_usual(port) => Err("ports below 1024 other than 80 and 443 are not contacted"),
        Host::Name => Ok(()),
    }
}

fn is_usual(port: u16) -> bool {
    matches!(port, 80 | 443 | 1024..)
}

fn is_localhost(host: &str) -> bool {
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    let is_known = matches!(&*host, "localhost" | "localhost.localdomain" | "ip6-localhost" | "ip6-loopback");
    is_known || host.ends_with(".localhost")
}

fn is_refused(address: IpAddr) -> bool {
    match address {
        // The last is the metadata service of a cloud outside of link-local.
        IpAddr::V4(v4) => matches!(v4.octets(), [0 | 127 | 224.., ..] | [169, 254, ..] | [100, 100, 100, 200]),
        IpAddr::V6(v6) => {
            v6.is_loopback()
                || v6.is_unspecified()
                || v6.is_unicast_link_local()
                || v6.is_multicast()
                || is_metadata(v6)
        }
    }
}

/// The cloud's instance metadata service, which has a unique local address.
fn is_metadata(v6: Ipv6Addr) -> bool {
    v6 == Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)
}

/// IPv4 addresses that a translator or tunnel would take out of an IPv6 address: v4-compatible, NAT64 (RFC 6052, RFC
/// 8215), 6to4 (RFC 3056), server and client of Teredo (RFC 4380).
fn embedded_v4(address: IpAddr) -> [Option<IpAddr>; 2] {
    let IpAddr::V6(v6) = address else { return [None, None] };
    let v4 = |high: u16, low: u16| Some(IpAddr::V4((u32::from(high) << 16 | u32::from(low)).into()));
    match v6.segments() {
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => [None, None],
        [0, 0, 0, 0, 0, 0, a, b] | [0x64, 0xff9b, 0, 0, 0, 0, a, b] | [0x64, 0xff9b, 1, _, _, _, a, b] => {
            [v4(a, b), None]
        }
        [0x2002, a, b, ..] => [v4(a, b), None],
        [0x2001, 0, a, b, _, _, c, d] => [v4(a, b), v4(!c, !d)],
        _ => [None, None],
    }
}

/// What `host` (without brackets) means. Numbers in any form that `inet_aton` knows are addresses: `127.1`,
/// `2130706433`, `0x7f000001` and `0177.0.0.1` are all 127.0.0.1.
pub(super) fn classify_host(host: &str) -> Host {
    if let Ok(address) = host.parse::<IpAddr>() {
        return Host::Address(address);
    }
    let last = host.rsplit('.').next().unwrap_or_default();
    let is_hex = |s: &str| s.get(..2).is_some_and(|p| p.eq_ignore_ascii_case("0x"));
    let is_number = !last.is_empty() && last.bytes().all(|b| b.is_ascii_digit()) || is_hex(last);
    match inet_aton(host) {
        _ if !is_number => Host::Name,
        Some(address) => Host::Address(address.into()),
        None => Host::Nonsense,
    }
}

/// One to four numbers, decimal, octal or hexadecimal, the last of which fills the remaining bytes.
fn inet_aton(text: &str) -> Option<Ipv4Addr> {
    let number = |part: &str| -> Option<u64> {
        let (digits, radix) = match part.as_bytes() {
            [b'0', b'x' | b'X', ..] => (&part[2..], 16),
            [b'0', _, ..] => (&part[1..], 8),
            _ => (part, 10),
        };
        if digits.is_empty() && radix == 16 {
            return Some(0);
        }
        if !digits.bytes().all(|b| b.is_ascii_alphanumeric()) {
            return None;
        }
        u64::from_str_radix(digits, radix).ok()
    };
    let parts: Vec<u64> = text.split('.').map(number).collect::<Option<_>>()?;
    let (last, leading) = parts.split_last()?;
    if leading.len() > 3 || leading.iter().any(|p| *p > 255) {
        return None;
    }
    let bytes_of_last = 4 - leading.len();
    if *last >= 1 << (8 * bytes_of_last) {
        return None;
    }
    let high = leading.iter().enumerate().fold(0, |sum, (i, p)| sum | p << (8 * (3 - i)));
    u32::try_from(high | last).ok().map(Ipv4Addr::from)
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
            ("64:ff9b:1::7f00:1", 80, false),
            ("2002:7f00:1::", 80, false),
            ("2002:c000:201::", 80, true),
            ("2001:0:7f00:1::", 80, false),
            ("2001:0:c000:201::80ff:fffe", 80, false),
            ("2001:0:c000:201::3fff:fdfe", 80, true),
            ("240.0.0.1", 80, false),
            ("100.100.100.200", 80, false),
            ("64:ff9b::c0a8:105", 3142, false),
            ("64:ff9b::7f00:1", 8000, false),
            ("192.168.1.5", 3142, false),
            ("192.168.1.5", 80, true),
            ("127.0.0.1", 3142, false),
        ] {
            let judged = judge(address.parse().unwrap(), port, &allow, &own);
            assert_eq!(judged.is_ok(), permitted, "{address} {port}: {judged:?}");
        }
    }

    #[test]
    fn behind_a_parent_only_the_text_is_known() {
        let own = Own { port: 3142, addresses: vec!["192.168.1.5".parse().unwrap()] };
        for (host, port, permitted) in [
            ("example.org", 80, true),
            ("10.0.0.1", 8080, true),
            ("localhost", 80, false),
            ("LOCALHOST", 80, false),
            ("a.localhost", 80, false),
            ("127.1", 80, false),
            ("0x7f000001", 80, false),
            ("::1", 80, false),
            ("192.168.1.5", 3142, false),
            ("example.org", 25, false),
            ("999.1", 80, false),
        ] {
            assert_eq!(judge_text(host, port, &[], &own).is_ok(), permitted, "{host} {port}");
        }
    }

    #[test]
    fn textual_hosts() {
        let v4 = |a, b, c, d| Host::Address(IpAddr::from([a, b, c, d]));
        for (host, expected) in [
            ("127.0.0.1", v4(127, 0, 0, 1)),
            ("127.1", v4(127, 0, 0, 1)),
            ("2130706433", v4(127, 0, 0, 1)),
            ("0x7f000001", v4(127, 0, 0, 1)),
            ("0X7F.1", v4(127, 0, 0, 1)),
            ("0177.0.0.1", v4(127, 0, 0, 1)),
            ("10.1.2", v4(10, 1, 0, 2)),
            ("0", v4(0, 0, 0, 0)),
            ("::1", Host::Address("::1".parse().unwrap())),
            ("256.0.0.1", Host::Nonsense),
            ("1.2.3.4.5", Host::Nonsense),
            ("4294967296", Host::Nonsense),
            ("08.0.0.1", Host::Nonsense),
            ("a.1", Host::Nonsense),
            ("1.0xg", Host::Nonsense),
            ("example.org", Host::Name),
            ("1.example", Host::Name),
            ("127.0.0.1.example", Host::Name),
            ("0xfeed.org", Host::Name),
            ("7zip", Host::Name),
        ] {
            assert_eq!(classify_host(host), expected, "{host}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_host_is_handled(host in "[0-9a-fx.]{0,24}") {
            let _ = classify_host(&host);
        }
    }
}

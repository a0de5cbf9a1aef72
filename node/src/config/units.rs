//! Texts of values: sizes, rates, durations, times of the day, networks, addresses. Pure; `None` is malformed.

use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;

use super::{AllowedDestination, CacheSize, ParentProxy, Secret, Window};

/// Units of sizes. The first that divides a number without a rest is the one that it is shown in.
const UNITS: [(&str, u64); 13] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("B", 1),
    ("", 1),
    ("T", 1 << 40),
    ("G", 1 << 30),
    ("M", 1 << 20),
    ("K", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
];

/// `50GiB`, `1.5 TB`, `1000000`.
pub fn size(text: &str) -> Option<u64> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = (&text[..end], text[end..].trim());
    let factor = match unit {
        "kB" | "KB" => 1000,
        unit => UNITS.iter().find(|(name, _)| *name == unit)?.1,
    };
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(factor);
    }
    let bytes = number.parse::<f64>().ok()? * factor as f64;
    // Within the exact range of a double.
    (0.0..9e15).contains(&bytes).then_some(bytes as u64)
}

/// The shortest text that means exactly this size.
pub fn show_size(bytes: u64) -> String {
    let (unit, factor) = UNITS.into_iter().find(|(_, factor)| bytes.is_multiple_of(*factor)).unwrap_or(("B", 1));
    match bytes {
        0 => "0".into(),
        _ => format!("{}{unit}", bytes / factor),
    }
}

/// A size, or a percentage of the file system.
pub fn cache_size(text: &str) -> Option<CacheSize> {
    match text.trim().strip_suffix('%') {
        Some(percent) => match percent.trim().parse() {
            Ok(percent @ 1..=100) => Some(CacheSize::Percent(percent)),
            _ => None,
        },
        None => size(text).filter(|bytes| *bytes > 0).map(CacheSize::Bytes),
    }
}

/// `2MiB/s`; `Some(None)`, written `0`, is no limit.
#[allow(clippy::option_option)] // The outer one says whether the text is right, like everywhere here.
pub fn rate(text: &str) -> Option<Option<u64>> {
    let text = text.trim();
    let bytes = size(text.strip_suffix("/s").unwrap_or(text))?;
    Some((bytes > 0).then_some(bytes))
}

/// `60s`, `10m`, `1h`, `2d`.
pub fn duration(text: &str) -> Option<Duration> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(end);
    let seconds = match unit.trim() {
        "s" => 1,
        "m" | "min" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(seconds).map(Duration::from_secs)
}

/// How long an answer is taken as current.
pub fn window(text: &str) -> Option<Window> {
    match text.trim() {
        "revalidate" => Some(Window::Revalidate),
        "immutable" => Some(Window::Immutable),
        text => duration(text).map(Window::For),
    }
}

/// `01:00-06:00` in minutes of the day.
pub fn day_window(text: &str) -> Option<(u16, u16)> {
    let minutes = |text: &str| {
        let (hours, minutes) = text.trim().split_once(':')?;
        let (hours, minutes): (u16, u16) = (hours.parse().ok()?, minutes.parse().ok()?);
        (hours < 24 && minutes < 60).then_some(60 * hours + minutes)
    };
    let (from, to) = text.split_once('-')?;
    Some((minutes(from)?, minutes(to)?))
}

/// A network, an address, or `private`: loopback, RFC 1918, unique local, link-local.
pub fn networks(text: &str) -> Option<Vec<IpNet>> {
    const PRIVATE: [&str; 8] = [
        "127.0.0.0/8",
        "10.0.0.0/8",
        "172.16.0.0/12",
        "192.168.0.0/16",
        "169.254.0.0/16",
        "::1/128",
        "fc00::/7",
        "fe80::/10",
    ];
    match text.trim() {
        "private" => PRIVATE.iter().map(|text| network(text)).collect(),
        text => network(text).map(|net| vec![net]),
    }
}

fn network(text: &str) -> Option<IpNet> {
    text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
}

/// `ADDRESS` or CIDR, each with an optional `:PORT`; IPv6 with a port in brackets.
pub fn destination(text: &str) -> Option<AllowedDestination> {
    let text = text.trim();
    if let Some(net) = network(text) {
        return Some(AllowedDestination { net, port: None });
    }
    let (host, port) = text.rsplit_once(':')?;
    let host = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
    Some(AllowedDestination { net: network(host)?, port: Some(port.parse().ok()?) })
}

/// `http://[USER:PASSWORD@]HOST:PORT`. What a URL cannot hold is percent-encoded, as `http_proxy` has it.
pub fn parent_proxy(text: &str) -> Option<ParentProxy> {
    let rest = text.trim().strip_prefix("http://")?.trim_end_matches('/');
    let (credentials, authority) = match rest.rsplit_once('@') {
        Some((credentials, authority)) => (Some(Secret(percent_decoded(credentials))), authority),
        None => (None, rest),
    };
    let (host, port) = host_and_port(authority)?;
    Some(ParentProxy { host, port, credentials })
}

/// A `%` that is not followed by two hexadecimal digits is one.
fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let digits = tail.get(..2).filter(|pair| first == b'%' && pair.iter().all(u8::is_ascii_hexdigit));
        let code = digits.and_then(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok());
        bytes.push(code.unwrap_or(first));
        rest = if code.is_some() { &tail[2..] } else { tail };
    }
    String::from_utf8(bytes).unwrap_or_else(|_| text.to_owned())
}

/// `HOST:PORT` of a node; an IPv6 address stands in brackets and may have a zone, as in `[fe80::1%eth0]:3142`.
pub fn seed(text: &str) -> Option<(String, u16)> {
    let zoned = text.strip_prefix('[').and_then(|rest| rest.split_once("]:")).and_then(|(host, port)| {
        let (address, zone) = host.split_once('%')?;
        Some((address, zone, port))
    });
    let Some((address, zone, port)) = zoned else { return host_and_port(text) };
    let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
    let (_, port) = host_and_port(&format!("[{address}]:{port}"))?;
    (!zone.is_empty() && zone.bytes().all(legal)).then(|| (format!("{address}%{zone}"), port))
}

/// `HOST:PORT`, an IPv6 host in brackets.
fn host_and_port(text: &str) -> Option<(String, u16)> {
    let (host, port) = text.rsplit_once(':')?;
    let host = match host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
        Some(address) => address.parse::<std::net::Ipv6Addr>().ok().map(|_| address)?,
        None => host,
    };
    let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b':');
    let port = port.parse().ok().filter(|port| *port != 0)?;
    (!host.is_empty() && host.bytes().all(legal)).then(|| (host.to_owned(), port))
}

/// The base URL of a mirror, without slashes at its end.
pub fn base_url(text: &str) -> Option<String> {
    http_url(text.trim().trim_end_matches('/')).filter(|url| !url.contains('?'))
}

/// An absolute `http` or `https` URL without a user.
pub fn http_url(text: &str) -> Option<String> {
    let text = text.trim();
    let uri: http::Uri = text.parse().ok()?;
    let authority = uri.authority().filter(|a| !a.host().is_empty() && !a.as_str().contains('@'));
    (authority.is_some() && matches!(uri.scheme_str(), Some("http" | "https"))).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn seeds() {
        for (text, seed) in [
            ("lab2.example.org:3142", Some("lab2.example.org 3142")),
            ("192.0.2.2:1", Some("192.0.2.2 1")),
            ("[2001:db8::2]:3142", Some("2001:db8::2 3142")),
            ("[fe80::2%eth0]:3142", Some("fe80::2%eth0 3142")),
            ("[fe80::2%]:3142", None),
            ("[fe80::2%e/0]:3142", None),
            ("[lab2%eth0]:3142", None),
            ("lab2", None),
            ("lab2:0", None),
            ("lab2:65536", None),
            (":3142", None),
            ("http://lab2:3142", None),
        ] {
            assert_eq!(seed_shown(text).as_deref(), seed, "{text}");
        }
    }

    fn seed_shown(text: &str) -> Option<String> {
        seed(text).map(|(host, port)| format!("{host} {port}"))
    }

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("50GiB", Some(50 << 30)),
            ("1.5 TB", Some(1_500_000_000_000)),
            ("1000", Some(1000)),
            ("2kB", Some(2000)),
            ("0", Some(0)),
            ("18446744073709551615", Some(u64::MAX)),
            ("18446744073709551616", None),
            ("17000000TiB", None),
            ("many", None),
            ("-1", None),
            ("1.2.3MB", None),
            ("", None),
            ("5 parsecs", None),
        ] {
            assert_eq!(size(text), bytes, "{text}");
        }
        assert_eq!((rate("2MiB/s"), rate("0"), rate("x/s")), (Some(Some(2 << 20)), Some(None), None));
        assert_eq!(cache_size("80%"), Some(CacheSize::Percent(80)));
        assert_eq!((cache_size("0%"), cache_size("101%"), cache_size("0")), (None, None, None));
    }

    #[test]
    fn times() {
        assert_eq!(duration("90s"), Some(Duration::from_secs(90)));
        assert_eq!(duration("2d"), Some(Duration::from_secs(172_800)));
        assert!(
            [duration("90"), duration("s"), duration("1y"), duration("99999999999999999999s")]
                .iter()
                .all(Option::is_none)
        );
        assert_eq!(day_window("22:30-06:00"), Some((1350, 360)));
        assert_eq!((day_window("24:00-01:00"), day_window("1-2")), (None, None));
        assert_eq!(window("immutable"), Some(Window::Immutable));
    }

    #[test]
    fn places() {
        let allowed = |text: &str| destination(text).map(|d| format!("{} {:?}", d.net, d.port));
        assert_eq!(allowed("127.0.0.1:8000").as_deref(), Some("127.0.0.1/32 Some(8000)"));
        assert_eq!(allowed("10.0.0.0/8").as_deref(), Some("10.0.0.0/8 None"));
        assert_eq!(allowed("[::1]:81").as_deref(), Some("::1/128 Some(81)"));
        assert_eq!(allowed("192.0.2.0/24:99").as_deref(), Some("192.0.2.0/24 Some(99)"));
        assert_eq!(allowed("example.org"), None);
        let proxy = parent_proxy("http://user:p@ss@[2001:db8::1]:3128/").unwrap();
        assert_eq!(
            (proxy.host.as_str(), proxy.port, proxy.credentials.unwrap().0.as_str()),
            ("2001:db8::1", 3128, "user:p@ss")
        );
        for (written, meant) in
            [("a:p%40ss%3a", "a:p@ss:"), ("a:100%", "a:100%"), ("a:%4", "a:%4"), ("a:%zz", "a:%zz"), ("a:%ff", "a:%ff")]
        {
            let proxy = parent_proxy(&format!("http://{written}@squid:3128")).unwrap();
            assert_eq!(proxy.credentials.unwrap().0, meant);
        }
        for wrong in
            ["https://squid:3128", "squid:3128", "http://squid", "http://:3128", "http://squid:0", "http://a b:1"]
        {
            assert_eq!(parent_proxy(wrong), None, "{wrong}");
        }
        assert_eq!(base_url("https://example.org/fedora//").as_deref(), Some("https://example.org/fedora"));
        for wrong in
            ["ftp://example.org", "example.org/x", "http://", "http://u:p@example.org/", "http://example.org/?x"]
        {
            assert_eq!(base_url(wrong), None, "{wrong}");
            assert_eq!(http_url(wrong).is_some(), wrong.ends_with("?x"), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn sizes_come_back(bytes in any::<u64>(), shift in 0_u32..50) {
            let bytes = bytes >> shift << shift.min(20);
            prop_assert_eq!(size(&show_size(bytes)), Some(bytes));
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,30}", near in "[0-9.:/%\\[\\]@a-zGiB -]{0,30}") {
            for text in [&text, &near] {
                let _ = (size(text), cache_size(text), rate(text), duration(text), window(text), day_window(text));
                let _ = (networks(text), destination(text), parent_proxy(text), base_url(text), seed(text));
                let _ = parent_proxy(&format!("http://{text}"));
            }
        }
    }
}

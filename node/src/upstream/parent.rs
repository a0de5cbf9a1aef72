//! The parent proxy: the only way out, never round it but for `no_proxy`. Plain HTTP goes to it in absolute form, all
//! else through CONNECT (RFC 9110 section 9.3.6).

use std::net::IpAddr;

use http::HeaderMap;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::config::ParentProxy;
use crate::fault::{Cause, Fault};

/// Longest head of an answer to CONNECT.
const HEAD_MAX: usize = 8 * 1024;

/// `host:port`, with brackets round an IPv6 address.
pub(super) fn authority(host: &str, port: u16) -> String {
    match host.contains(':') {
        true => format!("[{host}]:{port}"),
        false => format!("{host}:{port}"),
    }
}

/// The parent failed, in words.
pub(super) fn fault(parent: &ParentProxy, detail: String) -> Fault {
    Fault::new(Cause::Parent { proxy: authority(&parent.host, parent.port).into(), detail: detail.into() })
}

/// Says of a failed connection that it was the one to the parent, for which no client has asked.
pub(super) fn unreached(parent: &ParentProxy, fault: Fault) -> Fault {
    let name = format!("the parent proxy {} (`[upstream] proxy`)", authority(&parent.host, parent.port));
    let cause = match fault.cause {
        Cause::Refused { .. } => Cause::Refused { address: name.into() },
        Cause::NoConnection { detail, .. } => Cause::NoConnection { address: name.into(), detail },
        Cause::NameNotFound { detail, .. } => Cause::NameNotFound { host: format!("of {name}").into(), detail },
        other => other,
    };
    Fault { cause, ..fault }
}

/// Asks the parent for a tunnel over a fresh stream to it; the caller bounds the time. Of `fields` the parent is told those that say
/// whom the request has passed through: tunnels can go in a circle like everything else.
///
/// # Errors
/// `Parent` with what it said.
pub(super) async fn open_tunnel<S>(
    parent: &ParentProxy,
    stream: &mut S,
    host: &str,
    port: u16,
    fields: &HeaderMap,
) -> Result<(), Fault>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let target = authority(host, port);
    let credentials = authorization(parent).map(|v| format!("Proxy-Authorization: {v}\r\n")).unwrap_or_default();
    let hops: String = ["Via", "CDN-Loop"].into_iter().map(|name| lines(fields, name)).collect();
    let request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{hops}{credentials}\r\n");
    let broken = |error: std::io::Error| fault(parent, format!("CONNECT {target}: {error}"));
    stream.write_all(request.as_bytes()).await.map_err(broken)?;
    let head = read_head(stream).await.map_err(broken)?;
    match status_of(&head) {
        Some(200..=299) => Ok(()),
        Some(407) => Err(fault(parent, format!("CONNECT {target}: {WANTS_CREDENTIALS}"))),
        Some(508) => Err(fault(parent, format!("CONNECT {target}: the proxies lead in a circle (508)"))),
        Some(403) => Err(fault(parent, format!("CONNECT {target}: its rules forbid it (403)"))),
        Some(status) => Err(fault(parent, format!("CONNECT {target} was answered with {status}"))),
        None => Err(fault(parent, format!("CONNECT {target} was answered with what is not HTTP"))),
    }
}

/// What a 407 means.
pub(super) const WANTS_CREDENTIALS: &str =
    "it wants (other) credentials (407): set `proxy = \"http://USER:PASSWORD@HOST:PORT\"`";

/// Said where the parent is the node itself.
pub(super) const ITSELF: &str = "it is this node itself: name the proxy that leads to the world, or none";

/// All lines of a field, as they are sent.
fn lines(fields: &HeaderMap, name: &str) -> String {
    let values = fields.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.map(|value| format!("{name}: {value}\r\n")).collect()
}

/// Byte by byte, so that nothing is read of what comes through the tunnel.
async fn read_head(stream: &mut (impl AsyncRead + Unpin)) -> std::io::Result<Vec<u8>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() == HEAD_MAX {
            return Err(std::io::Error::new(std::io::ErrorKind::InvalidData, "the head of its answer has no end"));
        }
        head.push(stream.read_u8().await?);
    }
    Ok(head)
}

fn status_of(head: &[u8]) -> Option<u16> {
    let line = head.split(|b| *b == b'\r').next()?;
    let mut words = std::str::from_utf8(line).ok()?.splitn(3, ' ');
    words.next().filter(|version| version.starts_with("HTTP/1."))?;
    words.next().filter(|status| status.len() == 3)?.parse().ok()
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

/// Is a host reached without the parent? `no_proxy` holds names (which mean their sub-domains too, with or without a
/// leading `.` or `*.`), addresses, CIDRs and `*`.
pub(super) fn bypasses(no_proxy: &[String], host: &str) -> bool {
    no_proxy.iter().map(|entry| entry.trim().to_ascii_lowercase()).any(|entry| {
        let name = entry.trim_start_matches('*').trim_start_matches('.');
        let in_net = || matches!((entry.parse::<ipnet::IpNet>(), host.parse::<IpAddr>()), (Ok(net), Ok(ip)) if net.contains(&ip));
        let below = || host.strip_suffix(name).is_some_and(|front| front.is_empty() || front.ends_with('.'));
        entry == "*" || !name.is_empty() && below() || in_net()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    #[test]
    fn no_proxy_entries() {
        let entries = ["Example.org", ".example.net", "*.example.com", "10.0.0.0/8", "2001:db8::1"].map(String::from);
        for (host, expected) in [
            ("example.org", true),
            ("www.example.org", true),
            ("badexample.org", false),
            ("example.net", true),
            ("a.example.net", true),
            ("10.1.2.3", true),
            ("11.1.2.3", false),
            ("a.example.com", true),
            ("2001:db8::1", true),
            ("2001:db8::2", false),
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

    async fn tunnel_answered(answer: &'static [u8]) -> (Result<(), Fault>, Vec<u8>) {
        let (mut near, mut far) = tokio::io::duplex(32 * 1024);
        let parent = ParentProxy {
            host: "proxy.example.org".into(),
            port: 3128,
            credentials: Some(config::Secret("u:p".into())),
        };
        far.write_all(answer).await.unwrap();
        let mut hops = HeaderMap::new();
        for (name, value) in [("via", "1.1 a"), ("cdn-loop", "b"), ("cookie", "secret"), ("via", "1.1 c")] {
            hops.append(name, value.parse().unwrap());
        }
        let outcome = open_tunnel(&parent, &mut near, "2001:db8::1", 443, &hops).await;
        near.shutdown().await.unwrap();
        let mut asked = Vec::new();
        far.read_to_end(&mut asked).await.unwrap();
        (outcome, asked)
    }

    #[tokio::test]
    async fn a_tunnel_is_asked_for_and_refusals_are_named() {
        let (outcome, asked) = tunnel_answered(b"HTTP/1.1 200 Connection established\r\nX: y\r\n\r\n").await;
        assert_eq!(outcome, Ok(()));
        let expected = "CONNECT [2001:db8::1]:443 HTTP/1.1\r\nHost: [2001:db8::1]:443\r\nVia: 1.1 a\r\nVia: 1.1 c\r\nCDN-Loop: b\r\n\
             Proxy-Authorization: Basic dTpw\r\n\r\n";
        assert_eq!(String::from_utf8(asked).unwrap(), expected);
        for (answer, word) in [
            (&b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n"[..], "credentials"),
            (b"HTTP/1.1 403 Forbidden\r\n\r\n", "rules"),
            (b"HTTP/1.0 503 No\r\n\r\n", "503"),
            (b"HTTP/1.1 508 Loop Detected\r\n\r\n", "circle"),
            (b"HTTP/1.1 2000 OK\r\n\r\n", "not HTTP"),
            (b"SSH-2.0-x\r\n\r\n", "not HTTP"),
        ] {
            let fault = tunnel_answered(answer).await.0.unwrap_err();
            assert!(fault.to_string().contains(word), "{fault}");
            assert_eq!(fault.label(), "parent-proxy");
        }
        static ENDLESS: [u8; HEAD_MAX + 1] = [b'x'; HEAD_MAX + 1];
        assert!(tunnel_answered(&ENDLESS).await.0.unwrap_err().to_string().contains("no end"));
    }
}

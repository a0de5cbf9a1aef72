//! Canonical URLs. A key is a canonical URL; two requests that mean the same resource get the same key, two that may
//! mean different ones never do.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// An absolute `http` or `https` URL in canonical form: scheme and host in lower case, no trailing dot on the host, no
/// default port, no user info, no fragment, a path of at least `/`. The path and query are kept byte for byte
/// (neither decoded nor with dot segments removed): upstream alone knows what they mean.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Url {
    text: Arc<str>,
    /// Where the host starts: behind `://`.
    host: u8,
    /// Where the path starts.
    path: u16,
}

/// Why a text is no URL that can be requested.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadUrl {
    #[error("the scheme is neither http nor https")]
    Scheme,
    #[error("user names and passwords in a URL are not accepted")]
    UserInfo,
    #[error("the host name is missing or malformed")]
    Host,
    #[error("the port is malformed")]
    Port,
    #[error("the path has characters that a URL cannot have")]
    Path,
    #[error("the URL is longer than 16 KiB")]
    TooLong,
}

/// The first 128 bits of the BLAKE3 of a key: what the index is ordered by.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct KeyHash(pub [u8; 16]);

impl Url {
    /// Longest URL in bytes.
    pub const LEN_MAX: usize = 16 * 1024;

    /// Parses an absolute URL and brings it into canonical form.
    pub fn parse(text: &str) -> Result<Self, BadUrl> {
        let (scheme, rest) = text.split_once("://").ok_or(BadUrl::Scheme)?;
        let https = match scheme {
            s if s.eq_ignore_ascii_case("http") => false,
            s if s.eq_ignore_ascii_case("https") => true,
            _ => return Err(BadUrl::Scheme),
        };
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, tail) = rest.split_at(end);
        Self::from_parts(https, authority, tail)
    }

    /// From a scheme, an authority (`host` or `host:port`) and what follows it (path and query, may be empty).
    pub fn from_parts(https: bool, authority: &str, path_and_query: &str) -> Result<Self, BadUrl> {
        if authority.len() + path_and_query.len() + 9 > Self::LEN_MAX {
            return Err(BadUrl::TooLong);
        }
        let default_port = if https { 443 } else { 80 };
        let (host, port) = split_authority(authority, default_port)?;
        let tail = path_and_query.split('#').next().unwrap_or_default();
        if tail.bytes().any(|b| b <= b' ' || b == 0x7f) {
            return Err(BadUrl::Path);
        }
        let scheme = if https { "https://" } else { "http://" };
        let mut url = String::with_capacity(scheme.len() + authority.len() + tail.len() + 1);
        url.push_str(scheme);
        url.extend(host.chars().map(|c| c.to_ascii_lowercase()));
        if port != default_port {
            url.push(':');
            url.push_str(&port.to_string());
        }
        let path = u16::try_from(url.len()).map_err(|_| BadUrl::TooLong)?;
        if !tail.starts_with('/') {
            url.push('/');
        }
        url.push_str(tail);
        // `scheme` is 7 or 8 bytes long.
        Ok(Self { text: url.into(), host: if https { 8 } else { 7 }, path })
    }

    pub fn as_str(&self) -> &str {
        &self.text
    }

    pub fn is_https(&self) -> bool {
        self.host == 8
    }

    /// `http` or `https`.
    pub fn scheme(&self) -> &str {
        if self.is_https() { "https" } else { "http" }
    }

    /// `host` or `host:port`, as it belongs into a `Host` field.
    pub fn authority(&self) -> &str {
        &self.text[usize::from(self.host)..usize::from(self.path)]
    }

    /// The host without a port; an IPv6 address without its brackets.
    pub fn host(&self) -> &str {
        let authority = self.authority();
        match authority.strip_prefix('[') {
            Some(rest) => rest.split(']').next().unwrap_or_default(),
            None => authority.split(':').next().unwrap_or_default(),
        }
    }

    pub fn port(&self) -> u16 {
        let authority = self.authority();
        let after_host = authority.rsplit(']').next().unwrap_or_default();
        match after_host.rsplit_once(':').and_then(|(_, port)| port.parse().ok()) {
            Some(port) => port,
            None if self.is_https() => 443,
            None => 80,
        }
    }

    /// Path and query, as they belong on a request line in origin form.
    pub fn path_and_query(&self) -> &str {
        &self.text[usize::from(self.path)..]
    }

    /// The path without the query.
    pub fn path(&self) -> &str {
        self.path_and_query().split('?').next().unwrap_or_default()
    }

    /// The query without its question mark.
    pub fn query(&self) -> Option<&str> {
        self.path_and_query().split_once('?').map(|(_, query)| query)
    }

    /// The same host with another path and query (which must start with a slash).
    pub fn with_path_and_query(&self, path_and_query: &str) -> Result<Self, BadUrl> {
        Self::from_parts(self.is_https(), self.authority(), path_and_query)
    }

    /// What the index is ordered by.
    pub fn key_hash(&self) -> KeyHash {
        KeyHash::of(self.text.as_bytes())
    }
}

impl KeyHash {
    /// From 32 hexadecimal digits, as `Debug` writes them.
    pub fn from_hex(hex: &str) -> Option<Self> {
        let number = u128::from_str_radix(hex, 16).ok()?;
        (hex.len() == 32 && hex.bytes().all(|b| b.is_ascii_hexdigit())).then(|| Self(number.to_be_bytes()))
    }

    pub fn of(bytes: &[u8]) -> Self {
        let mut first = [0; 16];
        first.copy_from_slice(&blake3::hash(bytes).as_bytes()[..16]);
        Self(first)
    }
}

/// Host and port of an authority. A reg-name may have letters, digits, `-`, `.`, `_`; an IPv6 address stands in brackets.
fn split_authority(authority: &str, default_port: u16) -> Result<(&str, u16), BadUrl> {
    if authority.contains('@') {
        return Err(BadUrl::UserInfo);
    }
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (address, after) = rest.split_once(']').ok_or(BadUrl::Host)?;
            address.parse::<std::net::Ipv6Addr>().map_err(|_| BadUrl::Host)?;
            (&authority[..address.len() + 2], after)
        }
        None => {
            let end = authority.find(':').unwrap_or(authority.len());
            let host = authority[..end].strip_suffix('.').unwrap_or(&authority[..end]);
            let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
            if host.is_empty()
                || host.len() > 253
                || !host.bytes().all(legal)
                || host.starts_with('.')
                || host.contains("..")
            {
                return Err(BadUrl::Host);
            }
            (host, &authority[end..])
        }
    };
    let port = match port.strip_prefix(':') {
        None if port.is_empty() => default_port,
        Some("") => default_port,
        Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => {
            digits.parse().ok().filter(|p| *p != 0).ok_or(BadUrl::Port)?
        }
        _ => return Err(BadUrl::Port),
    };
    Ok((host, port))
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.text, f)
    }
}

impl fmt::Debug for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_hashes_are_read_as_they_are_written() {
        let hash = KeyHash::of(b"x");
        assert_eq!(KeyHash::from_hex(&format!("{hash:?}")), Some(hash));
        assert_eq!(KeyHash::from_hex("+0000000000000000000000000000001"), None);
        assert_eq!(KeyHash::from_hex("00"), None);
    }

    #[test]
    fn canonical_forms() {
        for (text, canonical) in [
            ("HTTP://Example.ORG", "http://example.org/"),
            ("http://example.org:80/a", "http://example.org/a"),
            ("https://example.org:443?x=1", "https://example.org/?x=1"),
            ("http://example.org:443/", "http://example.org:443/"),
            ("http://example.org./a#frag", "http://example.org/a"),
            ("http://example.org:/a", "http://example.org/a"),
            ("http://[2001:DB8::1]:8080/a", "http://[2001:db8::1]:8080/a"),
            ("http://example.org/a/../b//%2e/A+B%20c?x=/y", "http://example.org/a/../b//%2e/A+B%20c?x=/y"),
            ("http://example.org/\u{e9}", "http://example.org/\u{e9}"),
        ] {
            let url = Url::parse(text).unwrap();
            assert_eq!(url.as_str(), canonical);
            assert_eq!(Url::parse(canonical).unwrap(), url);
        }
    }

    #[test]
    fn parts() {
        let url = Url::parse("https://[::1]:8443/a/b?c=d?e").unwrap();
        assert_eq!((url.scheme(), url.host(), url.port()), ("https", "::1", 8443));
        assert_eq!((url.authority(), url.path(), url.query()), ("[::1]:8443", "/a/b", Some("c=d?e")));
        let url = Url::parse("http://example.org/a").unwrap();
        assert_eq!((url.scheme(), url.host(), url.port()), ("http", "example.org", 80));
        assert_eq!((url.authority(), url.path(), url.query()), ("example.org", "/a", None));
    }

    #[test]
    fn refusals() {
        for (text, why) in [
            ("", BadUrl::Scheme),
            ("/a", BadUrl::Scheme),
            ("ftp://example.org/", BadUrl::Scheme),
            ("file:///etc/passwd", BadUrl::Scheme),
            ("http://user:secret@example.org/", BadUrl::UserInfo),
            ("http:///a", BadUrl::Host),
            ("http://.example.org/", BadUrl::Host),
            ("http://a..b/", BadUrl::Host),
            ("http://exa mple/", BadUrl::Host),
            ("http://a,b/", BadUrl::Host),
            ("http://[::1/", BadUrl::Host),
            ("http://[zz]/", BadUrl::Host),
            ("http://[::1]x/", BadUrl::Port),
            ("http://example.org:0/", BadUrl::Port),
            ("http://example.org:65536/", BadUrl::Port),
            ("http://example.org:+80/", BadUrl::Port),
            ("http://example.org/a b", BadUrl::Path),
            ("http://example.org/a\r\nX: y", BadUrl::Path),
        ] {
            assert_eq!(Url::parse(text), Err(why), "{text:?}");
        }
        assert_eq!(Url::parse(&format!("http://example.org/{}", "a".repeat(Url::LEN_MAX))), Err(BadUrl::TooLong));
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_handled_and_canonical_form_is_stable(text in "(https?://)?\\PC{0,40}") {
            if let Ok(url) = Url::parse(&text) {
                proptest::prop_assert_eq!(Url::parse(url.as_str()).unwrap(), url);
            }
        }
    }
}

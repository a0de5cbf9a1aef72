//! A digest as repositories name it.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::KeyHash;

/// The algorithms that repositories use. New ones are added at the end: stored records number them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Algorithm {
    Md5,
    Sha1,
    Sha256,
    Sha512,
    Sha384,
}

impl Algorithm {
    /// Bytes of a digest of this algorithm.
    pub const fn width(self) -> usize {
        match self {
            Self::Md5 => 16,
            Self::Sha1 => 20,
            Self::Sha256 => 32,
            Self::Sha512 => 64,
            Self::Sha384 => 48,
        }
    }

    /// As repositories write it, in lower case.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Md5 => "md5",
            Self::Sha1 => "sha1",
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
            Self::Sha384 => "sha384",
        }
    }
}

/// A digest that content must have. Ordered by algorithm, then bytes.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Digest {
    algorithm: Algorithm,
    bytes: Box<[u8]>,
}

impl Digest {
    /// `None` unless `bytes` has the algorithm's length.
    pub fn new(algorithm: Algorithm, bytes: &[u8]) -> Option<Self> {
        (bytes.len() == algorithm.width()).then(|| Self { algorithm, bytes: bytes.into() })
    }

    /// From hexadecimal digits of either case; `None` unless they are digits of the algorithm's length.
    pub fn from_hex(algorithm: Algorithm, hex: &str) -> Option<Self> {
        let hex = hex.as_bytes();
        if hex.len() != 2 * algorithm.width() {
            return None;
        }
        let digit = |c: u8| char::from(c).to_digit(16).and_then(|d| u8::try_from(d).ok());
        let bytes: Option<Box<[u8]>> = hex.chunks_exact(2).map(|p| Some(digit(p[0])? << 4 | digit(p[1])?)).collect();
        Some(Self { algorithm, bytes: bytes? })
    }

    /// The key of content with this digest, whatever its URL; `None` for algorithms by which two contents can be made to have the
    /// same.
    pub fn content_key(&self) -> Option<KeyHash> {
        match self.algorithm {
            Algorithm::Md5 | Algorithm::Sha1 => None,
            // No URL begins so.
            Algorithm::Sha256 | Algorithm::Sha384 | Algorithm::Sha512 => Some(KeyHash::of(self.to_string().as_bytes())),
        }
    }

    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The bytes in lower-case hexadecimal.
    pub fn hex(&self) -> String {
        use fmt::Write;
        self.bytes.iter().fold(String::with_capacity(2 * self.bytes.len()), |mut s, b| {
            let _ = write!(s, "{b:02x}");
            s
        })
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm.name(), self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_round_trip_and_refusals() {
        let hex = "d41d8cd98f00b204e9800998ecf8427e";
        let digest = Digest::from_hex(Algorithm::Md5, hex).unwrap();
        assert_eq!(digest.hex(), hex);
        assert_eq!(Digest::from_hex(Algorithm::Md5, &hex.to_uppercase()), Some(digest.clone()));
        assert_eq!(digest.to_string(), format!("md5:{hex}"));
        for bad in ["", "d4", &hex[1..], "g41d8cd98f00b204e9800998ecf8427e", "é1d8cd98f00b204e9800998ecf8427e"] {
            assert_eq!(Digest::from_hex(Algorithm::Md5, bad), None, "{bad:?}");
        }
        assert_eq!(Digest::new(Algorithm::Sha256, &[0; 20]), None);
    }
}

//! The site token: the one secret that makes nodes a site, its spelling, and what is derived from it.
//!
//! Pure: the random bits are an argument, and nothing here prints the secret but [`Token::spelled`].

use alloc::string::String;
use core::fmt;

/// 160 secret bits. Whoever has them is a member of the site and may admit others.
#[derive(Clone, PartialEq, Eq)]
pub struct Token([u8; SECRET]);

/// Why some text is not a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadToken {
    /// It does not begin with `im1`.
    Prefix,
    /// It is longer or shorter than a token.
    Length,
    /// It holds a character that base32 (RFC 4648) has not.
    Character,
    /// The check sum does not fit: a letter is wrong or missing.
    CheckSum,
}

const PREFIX: &str = "im1";
const SECRET: usize = 20;
const CHECK: usize = 5;
/// Base32 spells 5 bytes in 8 characters: 25 bytes are 40 characters, without padding.
const SPELLED: usize = (SECRET + CHECK) / 5 * 8;
/// RFC 4648 section 6, in lower case: easier to read aloud and to type.
const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

impl Token {
    /// The token of these bits, which must come from the operating system's entropy.
    pub const fn from_entropy(secret: [u8; SECRET]) -> Self {
        Self(secret)
    }

    /// Reads a token as people write it: case and white space at the ends don't matter.
    ///
    /// # Errors
    /// See [`BadToken`].
    pub fn parse(text: &str) -> Result<Self, BadToken> {
        let text = text.trim();
        let (Some(prefix), Some(rest)) = (text.get(..PREFIX.len()), text.get(PREFIX.len()..)) else {
            return Err(BadToken::Prefix);
        };
        if !prefix.eq_ignore_ascii_case(PREFIX) {
            return Err(BadToken::Prefix);
        }
        if rest.len() != SPELLED {
            return Err(BadToken::Length);
        }
        let bytes = unspell(rest.as_bytes())?;
        let (secret, check) = bytes.split_at(SECRET);
        let mut token = Self([0; SECRET]);
        token.0.copy_from_slice(secret);
        if token.check() == check { Ok(token) } else { Err(BadToken::CheckSum) }
    }

    /// The token as text. This is the secret itself: for a file of mode 0600 and for the person who asks, never for a log.
    pub fn spelled(&self) -> String {
        let mut bytes = [0; SECRET + CHECK];
        bytes[..SECRET].copy_from_slice(&self.0);
        bytes[SECRET..].copy_from_slice(&self.check());
        let mut text = String::with_capacity(PREFIX.len() + SPELLED);
        text.push_str(PREFIX);
        for five in bytes.chunks_exact(5) {
            let word = five.iter().fold(0u64, |word, byte| word << 8 | u64::from(*byte));
            for place in (0..8).rev() {
                text.push(char::from(ALPHABET[(word >> (5 * place)) as usize & 31]));
            }
        }
        text
    }

    /// The seed of the Ed25519 key of the site's certificate authority. As secret as the token.
    pub fn authority_seed(&self) -> [u8; 32] {
        blake3::derive_key("imirror 2026 site authority Ed25519 seed", &self.0)
    }

    /// The public name of the site, as announced by mDNS: says which nodes belong together, proves nothing, betrays nothing.
    pub fn site_id(&self) -> SiteId {
        let hash = blake3::derive_key("imirror 2026 public site id", &self.0);
        let mut id = [0; 10];
        id.copy_from_slice(&hash[..10]);
        SiteId(id)
    }

    fn check(&self) -> [u8; CHECK] {
        let hash = blake3::derive_key("imirror 2026 token check sum", &self.0);
        let mut check = [0; CHECK];
        check.copy_from_slice(&hash[..CHECK]);
        check
    }
}

/// The public name of a site; see [`Token::site_id`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SiteId([u8; 10]);

fn unspell(text: &[u8]) -> Result<[u8; SECRET + CHECK], BadToken> {
    let mut bytes = [0; SECRET + CHECK];
    for (eight, five) in text.chunks_exact(8).zip(bytes.chunks_exact_mut(5)) {
        let mut word = 0u64;
        for character in eight {
            let lower = character.to_ascii_lowercase();
            let digit = ALPHABET.iter().position(|letter| *letter == lower).ok_or(BadToken::Character)?;
            word = word << 5 | digit as u64;
        }
        five.copy_from_slice(&word.to_be_bytes()[3..]);
    }
    Ok(bytes)
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token(of site {})", self.site_id())
    }
}

impl fmt::Display for SiteId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Display for BadToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Prefix => "a site token begins with im1",
            Self::Length => "a site token has 43 characters: some are missing or too many",
            Self::Character => "a site token consists of letters and the digits 2 to 7",
            Self::CheckSum => "the check sum of the site token is wrong: a character was mistyped",
        })
    }
}

impl core::error::Error for BadToken {}

#[cfg(test)]
mod tests {
    use alloc::format;
    use alloc::string::ToString;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_derived_never_changes() {
        let token = Token::from_entropy(*b"twenty secret bytes!");
        assert_eq!(token.spelled(), "im1or3wk3tupeqhgzldojsxiidcpf2gk4zb33e5pn72");
        assert_eq!(token.site_id().to_string(), "b5f7772ac6c08b6e07cd");
        assert_eq!(
            blake3::hash(&token.authority_seed()).to_hex().as_str(),
            "33be7f7bb47952f72ca5655df48b9f957074bb4552a86dae4f002d6fcd5afbce"
        );
    }

    #[test]
    fn mistakes_are_told_apart() {
        let text = Token::from_entropy([7; SECRET]).spelled();
        assert_eq!(Token::parse(&format!(" {}\n", text.to_uppercase())), Ok(Token([7; SECRET])));
        assert_eq!(Token::parse("xy1abc"), Err(BadToken::Prefix));
        assert_eq!(Token::parse("é1"), Err(BadToken::Prefix));
        assert_eq!(Token::parse(&text[..30]), Err(BadToken::Length));
        assert_eq!(Token::parse(&text.replace(&text[5..6], "1")), Err(BadToken::Character));
        let other = if text.as_bytes()[9] == b'a' { "b" } else { "a" };
        assert_eq!(Token::parse(&format!("{}{other}{}", &text[..9], &text[10..])), Err(BadToken::CheckSum));
    }

    #[test]
    fn debugging_does_not_betray_the_secret() {
        let token = Token::from_entropy([9; SECRET]);
        let spelled = token.spelled();
        assert!(!format!("{token:?}").contains(&spelled[3..12]));
    }

    proptest! {
        #[test]
        fn every_token_is_read_back(secret: [u8; SECRET]) {
            let token = Token::from_entropy(secret);
            prop_assert_eq!(Token::parse(&token.spelled()), Ok(token));
        }

        #[test]
        fn no_text_panics(text in ".{0,60}") {
            let _ = Token::parse(&text);
        }
    }
}

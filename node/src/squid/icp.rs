//! The Internet Cache Protocol, version 2 (RFC 2186), as far as somebody needs it who is asked and does not ask. Pure.
//!
//! ```text
//! opcode (1)  version (1)  length (2)  request number (4)  options (4)  option data (4)  sender (4)
//! a query:  requester (4), the URL, a zero      an answer:  the URL, a zero
//! ```
//! An answer is shorter than its query, and no answer is ever answered: nobody is flooded by way of this node.

/// Longest datagram (RFC 2186 section 2).
pub const LEN_MAX: usize = 16 * 1024;

const HEADER_LEN: usize = 20;
const VERSION: u8 = 2;
const QUERY: u8 = 1;

/// A question for a URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Query<'a> {
    /// Chosen by the one who asks, who knows the answer by it.
    pub number: u32,
    /// As it came; not yet known to be one.
    pub url: &'a str,
}

/// What is said of a URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// It can be had here without anybody being asked outside of the site.
    Hit,
    /// It cannot, and may be asked for here all the same.
    Miss,
    /// It cannot, and had better be asked for elsewhere.
    MissNoFetch,
    /// It is no URL.
    Error,
    /// Who asks gets nothing here.
    Denied,
}

/// Why a datagram is not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Refused {
    /// Longer than [`LEN_MAX`].
    TooLong,
    /// Of another version.
    Version,
    /// No question for a URL: an answer, or what nobody uses any more.
    Opcode,
    /// Its length, or its text, is not what it has to be.
    Malformed,
}

impl Verdict {
    pub const ALL: [Self; 5] = [Self::Hit, Self::Miss, Self::MissNoFetch, Self::Error, Self::Denied];

    /// The number on the wire (RFC 2186 section 2).
    fn opcode(self) -> u8 {
        match self {
            Self::Hit => 2,
            Self::Miss => 3,
            Self::Error => 4,
            Self::MissNoFetch => 21,
            Self::Denied => 22,
        }
    }

    /// For metrics.
    pub fn word(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Miss => "miss",
            Self::MissNoFetch => "miss-nofetch",
            Self::Error => "error",
            Self::Denied => "denied",
        }
    }
}

impl Refused {
    pub const ALL: [Self; 4] = [Self::TooLong, Self::Version, Self::Opcode, Self::Malformed];

    /// For metrics.
    pub fn word(self) -> &'static str {
        match self {
            Self::TooLong => "too-long",
            Self::Version => "version",
            Self::Opcode => "opcode",
            Self::Malformed => "malformed",
        }
    }
}

/// Reads a datagram.
///
/// # Errors
/// It is no question for a URL; then it is not to be answered.
pub fn parse(datagram: &[u8]) -> Result<Query<'_>, Refused> {
    if datagram.len() > LEN_MAX {
        return Err(Refused::TooLong);
    }
    let (header, payload) = datagram.split_at_checked(HEADER_LEN).ok_or(Refused::Malformed)?;
    let &[opcode, version, long, short, a, b, c, d, ..] = header else { return Err(Refused::Malformed) };
    if version != VERSION {
        return Err(Refused::Version);
    }
    if opcode != QUERY {
        return Err(Refused::Opcode);
    }
    if usize::from(u16::from_be_bytes([long, short])) != datagram.len() {
        return Err(Refused::Malformed);
    }
    let text = payload.get(4..).and_then(|text| text.strip_suffix(b"\0")).ok_or(Refused::Malformed)?;
    match std::str::from_utf8(text) {
        Ok(url) if !url.contains('\0') => Ok(Query { number: u32::from_be_bytes([a, b, c, d]), url }),
        _ => Err(Refused::Malformed),
    }
}

/// The datagram that answers a query.
pub fn answer(query: &Query<'_>, verdict: Verdict) -> Vec<u8> {
    datagram(verdict.opcode(), query.number, &[], query.url)
}

/// The datagram that asks: for tests.
pub fn question(query: &Query<'_>) -> Vec<u8> {
    datagram(QUERY, query.number, &[0; 4], query.url)
}

/// No options, and no sender: who gets it sees where it comes from.
fn datagram(opcode: u8, number: u32, before: &[u8], url: &str) -> Vec<u8> {
    let len = HEADER_LEN + before.len() + url.len() + 1;
    let mut datagram = Vec::with_capacity(len);
    datagram.extend([opcode, VERSION]);
    // What is answered came in a datagram and was longer.
    datagram.extend(u16::try_from(len).unwrap_or(u16::MAX).to_be_bytes());
    datagram.extend(number.to_be_bytes());
    datagram.extend([0; 12]);
    datagram.extend(before);
    datagram.extend(url.as_bytes());
    datagram.push(0);
    datagram
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const URL: &str = "http://example.org/a.rpm";

    fn query() -> Vec<u8> {
        question(&Query { number: 0x0102_0304, url: URL })
    }

    /// As a Squid sends it: with its address, and wishes that nobody here fulfils.
    #[test]
    fn a_question_of_squid() {
        let mut bytes = b"\x01\x02\x00\x2c\x00\x00\x00\x07\x40\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00".to_vec();
        bytes.extend(b"\xc0\x00\x02\x01http://example.org/\0");
        assert_eq!(parse(&bytes), Ok(Query { number: 7, url: "http://example.org/" }));
        let answered = answer(&parse(&bytes).unwrap(), Verdict::Hit);
        let expected = b"\x02\x02\x00\x28\x00\x00\x00\x07\0\0\0\0\0\0\0\0\0\0\0\0http://example.org/\0";
        assert_eq!(answered, expected);
    }

    #[test]
    fn what_is_no_question_is_refused() {
        assert_eq!(parse(&query()), Ok(Query { number: 0x0102_0304, url: URL }));
        let changed = |at: usize, byte: u8| {
            let mut bytes = query();
            bytes[at] = byte;
            bytes
        };
        let mut longer = query();
        longer.push(0);
        for (bytes, why) in [
            (Vec::new(), Refused::Malformed),
            (query()[..19].to_vec(), Refused::Malformed),
            (changed(1, 3), Refused::Version),
            (changed(0, 2), Refused::Opcode),
            (changed(0, 0), Refused::Opcode),
            (changed(0, 10), Refused::Opcode),
            (changed(3, 1), Refused::Malformed),
            (changed(48, b'x'), Refused::Malformed),
            (changed(30, 0), Refused::Malformed),
            (changed(30, 0xff), Refused::Malformed),
            (longer, Refused::Malformed),
            (vec![1; LEN_MAX + 1], Refused::TooLong),
        ] {
            assert_eq!(parse(&bytes), Err(why), "{bytes:02x?}");
        }
        let long = "a".repeat(LEN_MAX - HEADER_LEN - 5);
        assert!(parse(&question(&Query { number: 1, url: &long })).is_ok());
        assert_eq!(parse(&question(&Query { number: 1, url: &format!("{long}a") })), Err(Refused::TooLong));
    }

    proptest! {
        #[test]
        fn an_answer_is_no_question_and_shorter(number: u32, url in "[ -~]{0,80}") {
            let asked = question(&Query { number, url: &url });
            let query = parse(&asked).unwrap();
            prop_assert_eq!((query.number, query.url), (number, &*url));
            for verdict in Verdict::ALL {
                let answered = answer(&query, verdict);
                prop_assert!(answered.len() < asked.len());
                prop_assert_eq!(answered[0], verdict.opcode());
                prop_assert_eq!(usize::from(u16::from_be_bytes([answered[2], answered[3]])), answered.len());
                prop_assert_eq!(&answered[4..8], &number.to_be_bytes());
                prop_assert_eq!(parse(&answered), Err(Refused::Opcode));
            }
        }

        #[test]
        fn no_datagram_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&bytes);
        }

        #[test]
        fn a_damaged_question_is_another_or_none(at in 0usize..49, byte: u8) {
            let mut bytes = query();
            bytes[at] = byte;
            if let Ok(query) = parse(&bytes) {
                prop_assert!(query.url.len() == URL.len());
            }
        }
    }
}

//! The lines that Squid exchanges with a helper program (its `url_rewrite_program` and `store_id_program`). Pure.
//!
//! ```text
//! [CHANNEL] URL CLIENT/NAME USER METHOD key=value…     asked
//! [CHANNEL] OK key="value"…     or ERR: all stays as it is     answered
//! ```
//! With `concurrency=N` Squid numbers its lines and takes answers in any order; without it there are no numbers. Which it is can be
//! seen: no URL is a number. A URL comes with its escapes as the client sent them. An unquoted value of an answer would have its
//! RFC 1738 escapes taken out, so that all values are quoted.

use std::net::IpAddr;

/// Longest line in bytes, which is more than Squid sends.
pub const LEN_MAX: usize = 32 * 1024;

/// Longest number of a channel in digits.
const CHANNEL_MAX: usize = 20;

/// What Squid asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Line<'a> {
    pub channel: Option<&'a str>,
    pub url: &'a str,
    /// Who has asked Squid, if it says so.
    pub client: Option<IpAddr>,
    /// With which method, if it says so.
    pub method: Option<&'a str>,
}

/// What is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reply<'a> {
    /// All stays as it is. It is no failure.
    Unchanged,
    /// Squid asks for this instead, and the client does not learn of it.
    Rewrite(&'a str),
    /// The client is sent there (302).
    Redirect(&'a str),
    /// It is stored under this name.
    StoreId(&'a str),
}

/// Cuts what is read into lines, whose length is bounded.
#[derive(Debug, Default)]
pub struct Splitter {
    begun: Vec<u8>,
    /// The rest of a line that is too long is thrown away.
    skipping: bool,
}

/// A line without its end; of one that is too long nothing but its beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut<'a> {
    Whole(&'a [u8]),
    TooLong(&'a [u8]),
}

impl Splitter {
    /// Takes what was read next; `each` gets every line that ends in it.
    pub fn push(&mut self, mut bytes: &[u8], mut each: impl FnMut(Cut<'_>)) {
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            self.keep(&bytes[..end]);
            bytes = &bytes[end + 1..];
            let line = self.begun.strip_suffix(b"\r").unwrap_or(&self.begun);
            each(if self.skipping { Cut::TooLong(line) } else { Cut::Whole(line) });
            self.begun.clear();
            self.skipping = false;
        }
        self.keep(bytes);
    }

    fn keep(&mut self, bytes: &[u8]) {
        let room = LEN_MAX - self.begun.len();
        self.begun.extend(&bytes[..bytes.len().min(room)]);
        self.skipping |= bytes.len() > room;
    }
}

impl<'a> Line<'a> {
    /// Reads a line; what is no URL in it is for others to say. `None`: there is none in it.
    pub fn read(line: &'a [u8]) -> Option<Self> {
        let text = std::str::from_utf8(line).ok()?;
        let mut words = text.split(' ').filter(|word| !word.is_empty()).peekable();
        let channel = words.next_if(|word| is_channel(word));
        let url = words.next()?;
        let client = words.next().and_then(|word| word.split('/').next()?.parse().ok());
        let method = words.nth(1).filter(|word| !word.contains('='));
        Some(Self { channel, url, client, method })
    }
}

/// The number that a line begins with, also of one that cannot be read.
pub fn channel(line: &[u8]) -> Option<&str> {
    let word = line.split(|byte| *byte == b' ').next()?;
    std::str::from_utf8(word).ok().filter(|word| is_channel(word))
}

fn is_channel(word: &str) -> bool {
    (1..=CHANNEL_MAX).contains(&word.len()) && word.bytes().all(|byte| byte.is_ascii_digit())
}

/// Adds the line that answers.
pub fn write(out: &mut Vec<u8>, channel: Option<&str>, reply: Reply<'_>) {
    if let Some(channel) = channel {
        out.extend(channel.as_bytes());
        out.push(b' ');
    }
    match reply {
        Reply::Unchanged => out.extend(b"ERR"),
        Reply::Rewrite(url) => quoted(out, "OK rewrite-url", url),
        Reply::Redirect(url) => quoted(out, "OK status=302 url", url),
        Reply::StoreId(id) => quoted(out, "OK store-id", id),
    }
    out.push(b'\n');
}

fn quoted(out: &mut Vec<u8>, key: &str, value: &str) {
    out.extend(key.as_bytes());
    out.extend(b"=\"");
    for byte in value.bytes() {
        match byte {
            // It would end the line. No URL has one.
            b'\n' | b'\r' => continue,
            b'"' | b'\\' => out.push(b'\\'),
            _ => {}
        }
        out.push(byte);
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn answer(channel: Option<&str>, reply: Reply<'_>) -> String {
        let mut out = Vec::new();
        write(&mut out, channel, reply);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn lines_of_squid() {
        let client: IpAddr = "192.0.2.7".parse().unwrap();
        for (line, channel, url, address, method) in [
            (
                "7 http://example.org/libstdc%2b%2b.rpm 192.0.2.7/- - GET myip=192.0.2.1 myport=3128",
                Some("7"),
                "http://example.org/libstdc%2b%2b.rpm",
                Some(client),
                Some("GET"),
            ),
            (
                "http://example.org/ 192.0.2.7/lab7.example.org me HEAD",
                None,
                "http://example.org/",
                Some(client),
                Some("HEAD"),
            ),
            (
                "0 example.org:443 2001:db8::7/- - CONNECT myport=1",
                Some("0"),
                "example.org:443",
                "2001:db8::7".parse().ok(),
                Some("CONNECT"),
            ),
            ("http://example.org/", None, "http://example.org/", None, None),
            ("http://example.org/ - - myport=1", None, "http://example.org/", None, None),
            ("12  http://example.org/", Some("12"), "http://example.org/", None, None),
        ] {
            assert_eq!(Line::read(line.as_bytes()), Some(Line { channel, url, client: address, method }), "{line}");
        }
        for line in ["", " ", "12", "12 "] {
            assert_eq!(Line::read(line.as_bytes()), None, "{line:?}");
        }
        assert_eq!(Line::read(b"1 http://example.org/\xff"), None);
        assert_eq!(channel(b"1 http://example.org/\xff"), Some("1"));
        assert_eq!(channel(b"http://example.org/ 1"), None);
        assert_eq!(channel(b"123456789012345678901 x"), None);
    }

    #[test]
    fn answers_keep_their_escapes() {
        assert_eq!(answer(None, Reply::Unchanged), "ERR\n");
        assert_eq!(
            answer(Some("3"), Reply::Rewrite("http://a/%2b\"\\\n")),
            "3 OK rewrite-url=\"http://a/%2b\\\"\\\\\"\n"
        );
        assert_eq!(answer(Some("3"), Reply::Redirect("http://a/")), "3 OK status=302 url=\"http://a/\"\n");
        assert_eq!(answer(None, Reply::StoreId("http://a/")), "OK store-id=\"http://a/\"\n");
    }

    /// All lines, with whether they are whole.
    fn cut(pieces: &[&[u8]]) -> Vec<(bool, Vec<u8>)> {
        let (mut splitter, mut lines) = (Splitter::default(), Vec::new());
        for piece in pieces {
            splitter.push(piece, |line| {
                lines.push(match line {
                    Cut::Whole(line) => (true, line.to_vec()),
                    Cut::TooLong(line) => (false, line.to_vec()),
                });
            });
        }
        lines
    }

    #[test]
    fn a_line_that_is_too_long_costs_only_itself() {
        let long = vec![b'x'; LEN_MAX + 1];
        let lines = cut(&[b"1 a\r\n2 ", &long, &long, b"\n3 c\n4"]);
        assert_eq!(lines.len(), 3);
        assert_eq!((&lines[0], &lines[2]), (&(true, b"1 a".to_vec()), &(true, b"3 c".to_vec())));
        assert!(!lines[1].0 && lines[1].1.len() == LEN_MAX && channel(&lines[1].1) == Some("2"));
        let most = [&long[..LEN_MAX], b"\n"].concat();
        assert_eq!(cut(&[&most]), [(true, long[..LEN_MAX].to_vec())]);
    }

    proptest! {
        #[test]
        fn it_does_not_matter_how_lines_are_cut(text in "[a\n\r ]{0,60}", at in 0usize..60) {
            let bytes = text.as_bytes();
            let at = at.min(bytes.len());
            prop_assert_eq!(cut(&[bytes]), cut(&[&bytes[..at], &bytes[at..]]));
        }

        #[test]
        fn no_line_panics(line in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = (Line::read(&line), channel(&line));
        }

        /// As Squid reads a quoted value: a backslash takes away the meaning of the next character.
        #[test]
        fn a_value_is_read_as_it_was_meant(value in "[!-~]{0,40}") {
            let line = answer(Some("5"), Reply::StoreId(&value));
            let text = line.strip_prefix("5 OK store-id=\"").unwrap().strip_suffix("\"\n").unwrap();
            let (mut read, mut letters) = (String::new(), text.chars());
            while let Some(letter) = letters.next() {
                prop_assert!(letter != '"', "it ends early: {}", line);
                read.push(if letter == '\\' { letters.next().unwrap() } else { letter });
            }
            prop_assert_eq!(read, value);
        }
    }
}

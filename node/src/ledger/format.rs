//! Lines of the access log: one finished request in, one line of printable ASCII out. Pure.
//!
//! What a client or server sent is escaped and cut to a bound, so that no request can forge a line or fill the disk;
//! user names and passwords in URLs are left out. Fields that carry secrets never reach the ledger.

use std::fmt::{self, Write};

use super::Record;
use crate::config;
use crate::os::clock::Timestamp;

/// Longest URL in a line, in bytes; the rest is cut.
const URL_MAX: usize = 4096;

/// Longest other text of a client in a line.
const TEXT_MAX: usize = 256;

/// Appends the line for a record, with its end of line, to `out`; nothing when the log is off.
pub(super) fn line(form: config::AccessLog, record: &Record<'_>, out: &mut String) {
    // Writing to a `String` cannot fail.
    let _ = match form {
        config::AccessLog::Squid => squid(record, out),
        config::AccessLog::Combined => combined(record, out),
        config::AccessLog::Json => json(record, out),
        config::AccessLog::Off => Ok(()),
    };
}

/// Squid's native format: `%ts.%03tu %6tr %>a %Ss/%03>Hs %<st %rm %ru %[un %Sh/%<a %mt`.
fn squid(r: &Record<'_>, out: &mut String) -> fmt::Result {
    writeln!(
        out,
        "{}.{:03} {:6} {} {}{}/{:03} {} {} {} - {} {}",
        r.finished.unix_seconds(),
        r.finished.0 % 1000,
        r.elapsed.as_millis(),
        r.client.to_canonical(),
        r.outcome.squid_code(r.status),
        if r.aborted { "_ABORTED" } else { "" },
        r.status,
        r.bytes,
        Word(r.method, TEXT_MAX),
        Word(without_secrets(r.url), URL_MAX),
        Word(r.from.unwrap_or("HIER_NONE/-"), TEXT_MAX),
        Word(media_type(r.content_type), TEXT_MAX),
    )
}

/// The combined log format of web servers.
fn combined(r: &Record<'_>, out: &mut String) -> fmt::Result {
    write!(out, "{} - - [", r.client.to_canonical())?;
    common_log_time(r.finished, out)?;
    writeln!(
        out,
        "] \"{} {} HTTP/1.1\" {:03} {} \"{}\" \"{}\"",
        Word(r.method, TEXT_MAX),
        Word(without_secrets(r.url), URL_MAX),
        r.status,
        r.bytes,
        Quoted(r.referer.map_or("-", without_secrets), TEXT_MAX),
        Quoted(r.user_agent.unwrap_or("-"), TEXT_MAX),
    )
}

/// One JSON object a line.
fn json(r: &Record<'_>, out: &mut String) -> fmt::Result {
    out.push_str("{\"time\":\"");
    rfc3339(r.finished, out)?;
    write!(out, "\",\"ms\":{},\"client\":\"{}\"", r.elapsed.as_millis(), r.client.to_canonical())?;
    let texts = [
        ("method", Some(r.method), TEXT_MAX),
        ("url", Some(without_secrets(r.url)), URL_MAX),
        ("outcome", Some(r.outcome.word()), TEXT_MAX),
        ("class", Some(r.subject.word()), TEXT_MAX),
        ("from", r.from, TEXT_MAX),
        ("type", r.content_type, TEXT_MAX),
        ("user_agent", r.user_agent, TEXT_MAX),
        ("referer", r.referer.map(without_secrets), TEXT_MAX),
        ("fault", r.fault, TEXT_MAX),
    ];
    for (name, text, max) in texts {
        if let Some(text) = text {
            write!(out, ",\"{name}\":\"{}\"", JsonText(text, max))?;
        }
    }
    writeln!(out, ",\"status\":{},\"bytes\":{},\"aborted\":{}}}", r.status, r.bytes, r.aborted)
}

/// A text that holds no space, quote or control character: others appear as `%XX`. Never empty.
struct Word<'a>(&'a str, usize);

impl fmt::Display for Word<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("-");
        }
        let plain = |b: u8| b.is_ascii_graphic() && !matches!(b, b'"' | b'\\');
        escaped(f, self.0, self.1, plain, |f, b| write!(f, "%{b:02X}"))
    }
}

/// A text between double quotes: quotes, backslashes and what is not printable appear as `\xXX`.
struct Quoted<'a>(&'a str, usize);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plain = |b: u8| (b.is_ascii_graphic() || b == b' ') && !matches!(b, b'"' | b'\\');
        escaped(f, self.0, self.1, plain, |f, b| write!(f, "\\x{b:02X}"))
    }
}

/// The inside of a JSON string.
struct JsonText<'a>(&'a str, usize);

impl fmt::Display for JsonText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (text, cut) = bounded(self.0, self.1);
        for c in text.chars() {
            match c {
                '"' | '\\' => write!(f, "\\{c}")?,
                ' '..='~' => f.write_char(c)?,
                _ => {
                    let mut units = [0; 2];
                    for unit in c.encode_utf16(&mut units) {
                        write!(f, "\\u{unit:04x}")?;
                    }
                }
            }
        }
        f.write_str(cut)
    }
}

/// Writes runs of plain bytes at once and each other byte by `escape`.
fn escaped(
    f: &mut fmt::Formatter<'_>,
    text: &str,
    max: usize,
    plain: impl Fn(u8) -> bool,
    escape: impl Fn(&mut fmt::Formatter<'_>, u8) -> fmt::Result,
) -> fmt::Result {
    let (text, cut) = bounded(text, max);
    for piece in text.as_bytes().chunk_by(|a, b| plain(*a) && plain(*b)) {
        match std::str::from_utf8(piece) {
            Ok(run) if plain(piece[0]) => f.write_str(run)?,
            _ => piece.iter().try_for_each(|b| escape(f, *b))?,
        }
    }
    f.write_str(cut)
}

/// The start of a text of at most `max` bytes, and the mark that says that it was cut.
fn bounded(text: &str, max: usize) -> (&str, &'static str) {
    match text.len() <= max {
        true => (text, ""),
        false => (&text[..text.floor_char_boundary(max)], "..."),
    }
}

/// `http://user:password@host/path?query` without what stands before the `@`, and with nothing behind the `?`, where people put
/// keys and sessions; Squid does the same (`strip_query_terms`).
fn without_secrets(url: &str) -> &str {
    let url = url.find('?').map_or(url, |at| &url[..=at]);
    let start = url.find("://").map_or(0, |at| at + 3);
    let authority_end = url[start..].find(['/', '?', '#']).map_or(url.len(), |at| start + at);
    match url[start..authority_end].rfind('@') {
        // The scheme goes with it: a line without credentials matters more than a complete one.
        Some(at) => &url[start + at + 1..],
        None => url,
    }
}

/// `text/html` of `text/html; charset=utf-8`; `-` when there is none.
fn media_type(content_type: Option<&str>) -> &str {
    match content_type.and_then(|t| t.split(';').next()).map(str::trim) {
        Some(media_type) if !media_type.is_empty() => media_type,
        _ => "-",
    }
}

/// `01/Nov/2026:09:43:05 +0000`.
fn common_log_time(at: Timestamp, out: &mut String) -> fmt::Result {
    write!(out, "{}", civil(at).strftime("%d/%b/%Y:%H:%M:%S +0000"))
}

/// `2026-11-01T09:43:05.123Z`.
pub(super) fn rfc3339(at: Timestamp, out: &mut String) -> fmt::Result {
    write!(out, "{:.3}", civil(at))
}

/// Times beyond the year 9999 count as 1970.
fn civil(at: Timestamp) -> jiff::Timestamp {
    (i64::try_from(at.0).ok()).and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::{Outcome, Subject};
    use proptest::prelude::*;
    use std::net::IpAddr;
    use std::time::Duration;

    fn record() -> Record<'static> {
        Record {
            finished: Timestamp(1_793_526_185_007),
            elapsed: Duration::from_millis(42),
            client: IpAddr::from([192, 0, 2, 7]),
            method: "GET",
            url: "http://example.org/debian/pool/vim_9.1_amd64.deb",
            status: 200,
            bytes: 1_234_567,
            outcome: Outcome::Miss,
            subject: Subject::Package,
            from: Some("HIER_DIRECT/198.51.100.1"),
            content_type: Some("application/vnd.debian.binary-package"),
            user_agent: Some("Debian APT-HTTP/1.3 (3.0.3)"),
            referer: None,
            aborted: false,
            fault: None,
        }
    }

    fn formatted(form: config::AccessLog, record: &Record<'_>) -> String {
        let mut out = String::new();
        line(form, record, &mut out);
        out
    }

    #[test]
    fn lines() {
        use config::AccessLog::*;
        insta::assert_snapshot!(formatted(Squid, &record()), @r##"1793526185.007     42 192.0.2.7 TCP_MISS/200 1234567 GET http://example.org/debian/pool/vim_9.1_amd64.deb - HIER_DIRECT/198.51.100.1 application/vnd.debian.binary-package"##);
        insta::assert_snapshot!(formatted(Combined, &record()), @r##"192.0.2.7 - - [01/Nov/2026:09:43:05 +0000] "GET http://example.org/debian/pool/vim_9.1_amd64.deb HTTP/1.1" 200 1234567 "-" "Debian APT-HTTP/1.3 (3.0.3)""##);
        insta::assert_snapshot!(formatted(Json, &record()), @r##"{"time":"2026-11-01T09:43:05.007Z","ms":42,"client":"192.0.2.7","method":"GET","url":"http://example.org/debian/pool/vim_9.1_amd64.deb","outcome":"miss","class":"package","from":"HIER_DIRECT/198.51.100.1","type":"application/vnd.debian.binary-package","user_agent":"Debian APT-HTTP/1.3 (3.0.3)","status":200,"bytes":1234567,"aborted":false}"##);
        assert_eq!(formatted(Off, &record()), "");
    }

    #[test]
    fn other_ends_in_squids_words() {
        let with = |change: &dyn Fn(&mut Record<'static>)| {
            let mut r = record();
            change(&mut r);
            formatted(config::AccessLog::Squid, &r)
        };
        insta::assert_snapshot!(with(&|r| {
            (r.outcome, r.from, r.content_type) = (Outcome::MemoryHit, None, Some("text/html; charset=utf-8"));
        }), @r##"1793526185.007     42 192.0.2.7 TCP_MEM_HIT/200 1234567 GET http://example.org/debian/pool/vim_9.1_amd64.deb - HIER_NONE/- text/html"##);
        insta::assert_snapshot!(with(&|r| (r.aborted, r.bytes) = (true, 17)), @r##"1793526185.007     42 192.0.2.7 TCP_MISS_ABORTED/200 17 GET http://example.org/debian/pool/vim_9.1_amd64.deb - HIER_DIRECT/198.51.100.1 application/vnd.debian.binary-package"##);
        insta::assert_snapshot!(with(&|r| {
            (r.method, r.url, r.outcome, r.status) = ("CONNECT", "example.org:443", Outcome::Tunnel, 200);
            (r.content_type, r.from) = (None, Some("FIRSTUP_PARENT/squid"));
        }), @r##"1793526185.007     42 192.0.2.7 TCP_TUNNEL/200 1234567 CONNECT example.org:443 - FIRSTUP_PARENT/squid -"##);
    }

    #[test]
    fn secrets_and_forgeries_stay_out() {
        let mut r = record();
        r.url = "http://user:secret@example.org/a b\n\"x\u{e9}";
        r.user_agent = Some("a\"b\\c\r\nGET");
        r.referer = Some("http://u:secret@example.org/");
        r.fault = Some("refused");
        insta::assert_snapshot!(formatted(config::AccessLog::Squid, &r), @r##"1793526185.007     42 192.0.2.7 TCP_MISS/200 1234567 GET example.org/a%20b%0A%22x%C3%A9 - HIER_DIRECT/198.51.100.1 application/vnd.debian.binary-package"##);
        insta::assert_snapshot!(formatted(config::AccessLog::Combined, &r), @r##"192.0.2.7 - - [01/Nov/2026:09:43:05 +0000] "GET example.org/a%20b%0A%22x%C3%A9 HTTP/1.1" 200 1234567 "example.org/" "a\x22b\x5Cc\x0D\x0AGET""##);
        insta::assert_snapshot!(formatted(config::AccessLog::Json, &r), @r##"{"time":"2026-11-01T09:43:05.007Z","ms":42,"client":"192.0.2.7","method":"GET","url":"example.org/a b\u000a\"x\u00e9","outcome":"miss","class":"package","from":"HIER_DIRECT/198.51.100.1","type":"application/vnd.debian.binary-package","user_agent":"a\"b\\c\u000d\u000aGET","referer":"example.org/","fault":"refused","status":200,"bytes":1234567,"aborted":false}"##);
    }

    #[test]
    fn what_a_query_says_is_nobodys_business() {
        let mut r = record();
        (r.url, r.referer) = ("http://example.org/a?key=secret&e=a@b", Some("http://example.org/?secret"));
        for form in [config::AccessLog::Squid, config::AccessLog::Combined, config::AccessLog::Json] {
            let line = formatted(form, &r);
            assert!(
                line.contains("http://example.org/a?") && !line.contains("secret") && !line.contains("a@b"),
                "{line}"
            );
        }
    }

    #[test]
    fn long_texts_are_cut() {
        let url = format!("http://example.org/{}", "\u{e9}".repeat(9000));
        let mut r = record();
        r.url = &url;
        for form in [config::AccessLog::Squid, config::AccessLog::Combined, config::AccessLog::Json] {
            let line = formatted(form, &r);
            assert!(line.len() < 3 * URL_MAX + 1000, "{}", line.len());
            assert!(line.contains("..."));
        }
    }

    proptest! {
        #[test]
        fn one_line_of_printable_ascii_whatever_was_sent(url in ".*", method in ".*", agent in ".*", kind in ".*") {
            let mut r = record();
            (r.url, r.method) = (&url, &method);
            (r.user_agent, r.referer, r.content_type) = (Some(agent.as_str()), Some(url.as_str()), Some(kind.as_str()));
            for form in [config::AccessLog::Squid, config::AccessLog::Combined, config::AccessLog::Json] {
                let line = formatted(form, &r);
                let text = line.strip_suffix('\n').unwrap();
                prop_assert!(text.bytes().all(|b| b.is_ascii_graphic() || b == b' '), "{text}");
            }
            let squid = formatted(config::AccessLog::Squid, &r);
            prop_assert_eq!(squid.split_whitespace().count(), 10);
            let json: serde_json::Value = serde_json::from_str(&formatted(config::AccessLog::Json, &r)).unwrap();
            prop_assert_eq!(&json["status"], 200);
        }
    }
}

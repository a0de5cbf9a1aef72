//! `Cache-Control` as it is written (RFC 9111 5.2), of requests and of answers alike. Knows what a directive looks like,
//! not what any of them means.

use std::time::Duration;

use http::HeaderMap;
use http::header::{CACHE_CONTROL, HeaderName};

/// Seconds that stand for "more than can be counted" (RFC 9111 1.2.2).
pub const DELTA_SECONDS_MAX: u64 = 1 << 31;

/// The directives of all `Cache-Control` lines of a message, in their order. Names are in lower case, arguments are unquoted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Directives(Vec<(String, Option<String>)>);

impl Directives {
    /// Reads a message's directives. A line that is not visible ASCII and a member without a name count for nothing.
    pub fn of(fields: &HeaderMap) -> Self {
        let lines = fields.get_all(CACHE_CONTROL).iter().filter_map(|value| value.to_str().ok());
        Self(lines.flat_map(members).filter_map(directive).collect())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(n, _)| n == name)
    }

    /// Does the directive stand without an argument, so that it is about the whole message?
    pub fn has_bare(&self, name: &str) -> bool {
        self.0.iter().any(|(n, argument)| n == name && argument.as_deref().unwrap_or_default().is_empty())
    }

    /// The seconds of a directive; of several the first (RFC 9111 4.2.1). What is no number is zero, that is, stale.
    pub fn seconds(&self, name: &str) -> Option<Duration> {
        let (_, argument) = self.0.iter().find(|(n, _)| n == name)?;
        Some(argument.as_deref().and_then(delta_seconds).unwrap_or_default())
    }

    /// The fields that a directive with an argument is about (`private="set-cookie, x-user"`).
    pub fn field_names(&self, name: &str) -> impl Iterator<Item = HeaderName> {
        let arguments = self.0.iter().filter(move |(n, _)| n == name).filter_map(|(_, argument)| argument.as_deref());
        arguments.flat_map(|names| names.split(',')).filter_map(|name| HeaderName::try_from(name.trim()).ok())
    }
}

/// A number of seconds, at most `DELTA_SECONDS_MAX`; `None` for anything but digits.
pub fn delta_seconds(text: &str) -> Option<Duration> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| Duration::from_secs(text.parse().unwrap_or(DELTA_SECONDS_MAX).min(DELTA_SECONDS_MAX)))
}

/// The members of a list. A comma within a quoted string separates nothing (RFC 9110 5.6.1, 5.6.4). Where a quote never ends
/// every comma separates, lest it hide a `no-store`.
pub fn members(list: &str) -> impl Iterator<Item = &str> {
    split(list, Quotes { escapes: true, ..Quotes::default() })
}

/// The members of a list of entity tags, in which a backslash is a character like any other (RFC 9110 8.8.3).
pub fn tags(list: &str) -> impl Iterator<Item = &str> {
    split(list, Quotes::default())
}

fn split(list: &str, quotes: Quotes) -> impl Iterator<Item = &str> {
    let mut all = quotes;
    for c in list.chars() {
        all.within(c);
    }
    let broken = all.open;
    let mut quotes = quotes;
    let members = list.split(move |c| {
        let within = quotes.within(c);
        c == ',' && (broken || !within)
    });
    members.map(|member| member.trim_matches([' ', '\t'])).filter(|member| !member.is_empty())
}

/// Where quoted texts begin and end.
#[derive(Clone, Copy, Default)]
struct Quotes {
    /// Does a backslash take away the meaning of the next character?
    escapes: bool,
    open: bool,
    escaped: bool,
}

impl Quotes {
    /// Takes the next character; says whether it stands within a quoted text.
    fn within(&mut self, c: char) -> bool {
        let within = self.open;
        match c {
            _ if self.escaped => self.escaped = false,
            '\\' if self.open => self.escaped = self.escapes,
            '"' => self.open = !self.open,
            _ => {}
        }
        within
    }
}

fn directive(member: &str) -> Option<(String, Option<String>)> {
    let (name, argument) = match member.split_once('=') {
        Some((name, argument)) => (name, Some(unquoted(argument.trim()))),
        None => (member, None),
    };
    let name = name.trim().to_ascii_lowercase();
    (!name.is_empty()).then_some((name, argument))
}

/// The content of a quoted string; any other text is itself.
fn unquoted(text: &str) -> String {
    let Some(inside) = text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) else {
        return text.to_owned();
    };
    let mut escaped = false;
    let kept = inside.chars().filter(|c| {
        escaped = *c == '\\' && !escaped;
        !escaped
    });
    kept.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn of(lines: &[&'static str]) -> Directives {
        let mut fields = HeaderMap::new();
        for line in lines {
            fields.append(CACHE_CONTROL, HeaderValue::from_static(line));
        }
        Directives::of(&fields)
    }

    #[test]
    fn directives_as_they_are_written() {
        assert!(of(&[]).is_empty());
        assert!(of(&["", " , ,"]).is_empty());
        assert!(of(&["No-Store"]).has("no-store"));
        assert!(of(&["max-age=1", "public"]).has("public"));
        assert!(of(&["no-cache"]).has_bare("no-cache"));
        assert!(of(&["no-cache=\"\""]).has_bare("no-cache"));
        assert!(!of(&["no-cache=\"a\""]).has_bare("no-cache"));
        assert!(!of(&["no-storeX, =no-store"]).has("no-store"));
        // What stands in quotes is no directive.
        assert!(!of(&["x=\"a, no-store\""]).has("no-store"));
        assert!(!of(&["x=\"a\\\", no-store\""]).has("no-store"));
        assert!(of(&["x=\"a\", no-store"]).has("no-store"));
        assert!(of(&["x=\"a, no-store"]).has("no-store"));
    }

    #[test]
    fn seconds_rfc9111_1_2_2() {
        for (line, seconds) in [
            ("max-age=600", Some(600)),
            ("MAX-AGE=\"600\"", Some(600)),
            ("max-age=0", Some(0)),
            ("max-age", Some(0)),
            ("max-age=", Some(0)),
            ("max-age=-1", Some(0)),
            ("max-age=+1", Some(0)),
            ("max-age=1.5", Some(0)),
            ("max-age=1 2", Some(0)),
            ("max-age=2147483648", Some(1 << 31)),
            ("max-age=2147483649", Some(1 << 31)),
            ("max-age=99999999999999999999999", Some(1 << 31)),
            ("max-age=1, max-age=2", Some(1)),
            ("s-maxage=1", None),
        ] {
            let got = of(&[line]).seconds("max-age");
            assert_eq!(got, seconds.map(Duration::from_secs), "{line}");
        }
    }

    #[test]
    fn names_in_arguments() {
        let names = |line| of(&[line]).field_names("private").map(|n| n.to_string()).collect::<Vec<_>>();
        assert_eq!(names("private=\"Set-Cookie, x-user\""), ["set-cookie", "x-user"]);
        assert_eq!(names("private=x-user, public"), ["x-user"]);
        assert_eq!(names("private, private=\", a b, c\""), ["c"]);
        assert!(names("private").is_empty());
    }

    proptest::proptest! {
        #[test]
        fn no_line_panics(line in "[ -~\t]{0,60}") {
            let mut fields = HeaderMap::new();
            if let Ok(value) = HeaderValue::from_str(&line) {
                fields.insert(CACHE_CONTROL, value);
            }
            let directives = Directives::of(&fields);
            let seconds = directives.seconds("max-age").unwrap_or_default();
            proptest::prop_assert!(seconds.as_secs() <= DELTA_SECONDS_MAX);
            directives.field_names("private").count();
        }

        #[test]
        fn without_quotes_members_are_a_split(line in "[a-z,= ]{0,40}") {
            let plain: Vec<_> = line.split(',').map(str::trim).filter(|m| !m.is_empty()).collect();
            proptest::prop_assert_eq!(members(&line).collect::<Vec<_>>(), plain);
        }
    }
}

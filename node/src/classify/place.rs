//! The form of a URL's path and query, as the families look at it.

use std::borrow::Cow;

use super::Url;

/// The last segments of a path, percent-decoded for the comparison only: the key keeps what the client sent.
#[derive(Debug)]
pub(super) struct Place<'a> {
    /// Empty when the path ends with a slash.
    pub(super) name: Cow<'a, str>,
    pub(super) parent: Cow<'a, str>,
    pub(super) grandparent: Cow<'a, str>,
    /// The path before the name, as it was sent.
    folders: &'a str,
    query: &'a str,
}

impl<'a> Place<'a> {
    pub(super) fn of(url: &'a Url) -> Self {
        let (folders, name) = url.path().rsplit_once('/').unwrap_or_default();
        let mut above = folders.rsplit('/').map(decoded);
        let (parent, grandparent) = (above.next().unwrap_or_default(), above.next().unwrap_or_default());
        Self { name: decoded(name), parent, grandparent, folders, query: url.query().unwrap_or_default() }
    }

    /// The folders on the way to the name, from the root.
    pub(super) fn folders(&self) -> impl Iterator<Item = &'a str> {
        self.folders.split('/').skip(1)
    }

    /// The query's parameters with their values, if they have any.
    pub(super) fn parameters(&self) -> impl Iterator<Item = (&'a str, Option<&'a str>)> {
        let parts = self.query.split('&').filter(|part| !part.is_empty());
        parts.map(|part| part.split_once('=').map_or((part, None), |(name, value)| (name, Some(value))))
    }

    /// Is there a parameter of this name that has a value?
    pub(super) fn gives(&self, parameter: &str) -> bool {
        self.parameters().any(|(name, value)| name == parameter && value.is_some_and(|value| !value.is_empty()))
    }
}

/// Percent-decoded where that is visible ASCII; anything else stays as it is. So does `%2F`: it is a character of its
/// segment and separates nothing (RFC 3986 2.2).
fn decoded(segment: &str) -> Cow<'_, str> {
    if !segment.contains('%') {
        return segment.into();
    }
    let mut out = String::with_capacity(segment.len());
    let mut rest = segment;
    while let Some((before, after)) = rest.split_once('%') {
        out.push_str(before);
        let byte = after.get(..2).filter(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()));
        match byte.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) if byte.is_ascii_graphic() && byte != b'/' => {
                out.push(char::from(byte));
                rest = &after[2..];
            }
            _ => {
                out.push('%');
                rest = after;
            }
        }
    }
    out.push_str(rest);
    out.into()
}

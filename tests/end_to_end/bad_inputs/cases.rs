//! The list of the cases (`cases.json`) and what their macros stand for.

use serde::Deserialize;

/// A bad input with the results that are safe.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Case {
    pub(super) name: String,
    /// For readers of the list.
    #[serde(rename = "group")]
    _group: String,
    pub(super) from: Side,
    #[serde(rename = "where")]
    pub(super) place: Place,
    /// One character is one byte; `{BASE}`, `{HOST}`, `{P}`, `{SECRET}`, `{PROXY}`, `{ORIGIN_PORT}` as in `Macros`; what
    /// stands between `<<` and `>>` is described in `script`, but `<<NEXT>>`, which begins the next connection.
    pub(super) raw: String,
    /// One of these is what the first connection leads to.
    pub(super) safe: Vec<String>,
    /// All of these hold besides.
    #[serde(default)]
    pub(super) also: Vec<String>,
    /// These hold too where the node stores what it fetches.
    #[serde(default)]
    pub(super) stored: Vec<String>,
    pub(super) why: String,
    /// Where it was found.
    #[serde(rename = "ref", default)]
    _reference: String,
}

/// Who misbehaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Side {
    Client,
    /// `raw` is the origin's answer to a plain GET.
    Upstream,
}

/// By which ways of asking the case makes sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Place {
    Everywhere,
    /// The target is a whole URL.
    Forward,
    /// The target is `/HOST/path`.
    Mirror,
    /// As `forward`, for cases that last until the node loses its patience.
    Slow,
}

pub(super) fn all() -> Vec<Case> {
    let cases: Vec<Case> = serde_json::from_str(include_str!("cases.json")).expect("the list is sound");
    assert!(cases.len() >= 150, "the list has shrunk");
    cases
}

/// What the macros of one playing stand for.
pub(super) struct Macros {
    /// What precedes a path in a target.
    pub(super) base: String,
    /// For the `Host` field: of the origin in a forward request, of the node in a mirror's.
    pub(super) host: String,
    pub(super) secret: u16,
    pub(super) node: String,
    pub(super) origin_port: u16,
}

impl Macros {
    /// Everything but `{P}`, which belongs to one case.
    pub(super) fn expand(&self, text: &str) -> String {
        text.replace("{BASE}", &self.base)
            .replace("{HOST}", &self.host)
            .replace("{SECRET}", &self.secret.to_string())
            .replace("{PROXY}", &self.node)
            .replace("{ORIGIN_PORT}", &self.origin_port.to_string())
    }
}

//! All keys that can be set, in the order in which they are shown: the one definition behind files, variables and flags.

/// What form a value has when it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Text,
    Number,
    Flag,
    Texts,
    Numbers,
}

/// A key of the configuration.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    /// With its section: `clients.allow`.
    pub name: &'static str,
    pub kind: Kind,
    /// As it would be written in TOML; empty for one that is unset, or found out when the node starts.
    pub default: &'static str,
}

const fn key(name: &'static str, kind: Kind, default: &'static str) -> Key {
    Key { name, kind, default }
}

/// Every key but those of repositories, which have names of their own.
pub const KEYS: &[Key] = &[
    key("name", Kind::Text, ""),
    key("listen", Kind::Text, "\"[::]:3142\""),
    key("state_dir", Kind::Text, ""),
    key("cache_dir", Kind::Text, ""),
    key("cache_size", Kind::Text, "\"50GiB\""),
    key("memory_size", Kind::Text, "\"256MiB\""),
    key("site.token", Kind::Text, ""),
    key("site.token_file", Kind::Text, ""),
    key("site.mdns", Kind::Flag, "true"),
    key("site.seeds", Kind::Texts, "[]"),
    key("clients.allow", Kind::Texts, "[\"private\"]"),
    key("clients.connect_ports", Kind::Numbers, "[443]"),
    key("upstream.proxy", Kind::Text, ""),
    key("upstream.allow", Kind::Texts, "[]"),
    key("upstream.rate_limit", Kind::Text, "\"0\""),
    key("freshness.metadata", Kind::Text, "\"revalidate\""),
    key("freshness.package", Kind::Text, "\"revalidate\""),
    key("freshness.other", Kind::Text, "\"pass\""),
    key("replication.enabled", Kind::Flag, "true"),
    key("replication.max_copies", Kind::Number, "3"),
    key("replication.rate_limit", Kind::Text, "\"50MiB/s\""),
    key("helper.enabled", Kind::Flag, "false"),
    key("helper.popular", Kind::Flag, "true"),
    key("helper.prepopulate", Kind::Texts, "[]"),
    key("helper.interval", Kind::Text, "\"1h\""),
    key("helper.window", Kind::Text, ""),
    key("helper.rate_limit", Kind::Text, "\"2MiB/s\""),
    key("icp.listen", Kind::Text, ""),
    key("log.access", Kind::Text, "\"squid\""),
];

/// The keys of a `[repos.NAME]`.
pub const REPO_KEYS: &[Key] =
    &[key("upstreams", Kind::Texts, "[]"), key("metalink", Kind::Text, ""), key("keyring", Kind::Text, "")];

/// The definition of a full key; `repos.NAME.KEY` for any name.
pub fn find(name: &str) -> Option<Key> {
    match name.strip_prefix("repos.").and_then(|rest| rest.rsplit_once('.')) {
        Some((_, key)) => REPO_KEYS.iter().find(|k| k.name == key).copied(),
        None => KEYS.iter().find(|k| k.name == name).copied(),
    }
}

/// Is it the name of a section?
pub fn is_section(name: &str) -> bool {
    KEYS.iter().any(|k| k.name.strip_prefix(name).is_some_and(|rest| rest.starts_with('.')))
}

/// The variable of the environment that sets a key: `clients.allow` is `IMIRROR_CLIENTS_ALLOW`.
pub fn variable(name: &str) -> String {
    format!("IMIRROR_{}", name.replace('.', "_").to_uppercase())
}

/// What was probably meant by a key that does not exist: one of the same name in another section, else the nearest.
pub fn nearest(name: &str) -> Option<String> {
    if let Some((repo, key)) = name.strip_prefix("repos.").and_then(|rest| rest.rsplit_once('.')) {
        return nearest_of(key, REPO_KEYS.iter().map(|k| k.name)).map(|key| format!("repos.{repo}.{key}"));
    }
    let last = |name: &str| name.rsplit('.').next().unwrap_or_default().to_owned();
    let elsewhere = KEYS.iter().map(|k| k.name).find(|known| last(known) == last(name));
    let sections = KEYS.iter().filter_map(|k| Some(k.name.split_once('.')?.0)).chain(["repos"]);
    elsewhere.map(str::to_owned).or_else(|| nearest_of(name, KEYS.iter().map(|k| k.name).chain(sections)))
}

fn nearest_of<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<String> {
    // A third of the letters may be wrong.
    let closest = known.min_by_key(|known| strsim::osa_distance(name, known))?;
    (strsim::osa_distance(name, closest) <= name.len().max(closest.len()) / 3).then(|| closest.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn typing_errors_are_understood() {
        for (written, meant) in [
            ("lisen", Some("listen")),
            ("listen_on", Some("listen")),
            ("clients.alow", Some("clients.allow")),
            ("connect_ports", Some("clients.connect_ports")),
            ("upstream.metadata", Some("freshness.metadata")),
            ("repos.fedora.upstream", Some("repos.fedora.upstreams")),
            ("freshnes", Some("freshness")),
            ("colour_of_the_sky", None),
        ] {
            assert_eq!(nearest(written).as_deref(), meant, "{written}");
        }
    }

    #[test]
    fn no_two_keys_share_a_variable() {
        let mut variables: Vec<String> = KEYS.iter().map(|k| variable(k.name)).collect();
        variables.sort();
        variables.dedup();
        assert_eq!(variables.len(), KEYS.len());
        assert_eq!(variable("clients.connect_ports"), "IMIRROR_CLIENTS_CONNECT_PORTS");
    }
}

//! Repositories that the configuration names: which URLs are the same content at several mirrors. Knows nothing of HTTP.

use std::collections::BTreeMap;

use crate::classify::{Url, cache_key};
use crate::config::Repo;
use crate::fault::Fault;

/// What a request is called and where it can be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    pub key: Url,
    /// In order of preference, never empty.
    pub sources: Vec<Url>,
}

/// The `[repos]` of the configuration.
#[derive(Debug, Clone, Default)]
pub struct Configured(BTreeMap<String, Vec<Url>>);

impl Configured {
    pub fn new(repos: &BTreeMap<String, Repo>) -> Result<Self, Fault> {
        let mut configured = BTreeMap::new();
        for (name, repo) in repos {
            let bases: Result<Vec<_>, _> =
                repo.upstreams.iter().map(|base| Url::parse(base.trim_end_matches('/'))).collect();
            let bases = bases.map_err(|e| Fault::bad_request(format!("[repos.{name}] upstreams: {e}")))?;
            configured.insert(name.clone(), bases);
        }
        Ok(Self(configured))
    }

    pub fn is_repo(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// `/NAME/rest` of a configured repository; `rest` begins with a slash.
    pub fn named(&self, name: &str, rest: &str) -> Result<Named, Fault> {
        let bases = self.0.get(name).filter(|bases| !bases.is_empty());
        let bases = bases.ok_or_else(|| Fault::bad_request(format!("the repository {name} has no upstreams")))?;
        let sources: Result<Vec<_>, _> = bases.iter().map(|base| below(base, rest)).collect();
        let sources = sources.map_err(|e| Fault::bad_request(e.to_string()))?;
        let key = cache_key(&sources[0]);
        Ok(Named { key, sources })
    }

    /// Any URL: below a mirror of a configured repository it is that repository's, whichever mirror was asked.
    pub fn resolve(&self, url: &Url) -> Named {
        for (name, bases) in &self.0 {
            let rest = bases.iter().find_map(|base| {
                let rest = url.as_str().strip_prefix(base.as_str().trim_end_matches('/'))?;
                rest.starts_with('/').then_some(rest)
            });
            if let Some(Ok(named)) = rest.map(|rest| self.named(name, rest)) {
                return named;
            }
        }
        Named { key: cache_key(url), sources: vec![url.clone()] }
    }
}

fn below(base: &Url, rest: &str) -> Result<Url, crate::classify::BadUrl> {
    base.with_path_and_query(&format!("{}{rest}", base.path().trim_end_matches('/')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirrors_of_one_repository_share_their_keys() {
        let repo = Repo {
            upstreams: vec![
                "https://mirror1.example.org/pub/fedora/".into(),
                "http://mirror2.example.org/fedora".into(),
            ],
            metalink: None,
        };
        let repos = Configured::new(&BTreeMap::from([("fedora".to_owned(), repo)])).unwrap();
        let named = repos.named("fedora", "/a/b?c").unwrap();
        assert_eq!(named.key.as_str(), "https://mirror1.example.org/pub/fedora/a/b?c");
        assert_eq!(named.sources[1].as_str(), "http://mirror2.example.org/fedora/a/b?c");
        assert_eq!(repos.resolve(&Url::parse("http://mirror2.example.org/fedora/a/b?c").unwrap()), named);
        let other = Url::parse("http://mirror2.example.org/fedora2/a").unwrap();
        assert_eq!(repos.resolve(&other), Named { key: other.clone(), sources: vec![other] });
        assert!(repos.named("debian", "/").is_err());
    }
}

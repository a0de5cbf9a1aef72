//! Repositories: which URLs are the same content at several mirrors, because the configuration says so ([`Configured`]) or the
//! metadata does ([`Generations`]). Knows nothing of HTTP: the list of a repository that has a metalink is brought by whoever fetches
//! it (`daemon/metalinks.rs`), metadata by whoever stores it.

pub mod catalogue;
mod expand;
mod generations;
pub mod list;
pub mod metalink;
pub mod relation;
pub mod resolve;
pub mod root;
pub mod signature;
mod tar;
pub mod version;
mod xml;
mod zchunk;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use serde::{Deserialize, Serialize};

use crate::classify::{Digest, Url, cache_key};
use crate::config::Repo;
use crate::fault::{Cause, Fault};

pub use generations::{ContentId, Generations, Listed, Outlook, Reading};

/// What a repository says of one of its files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Promise {
    pub digest: Digest,
    /// Bytes.
    pub size: u64,
}

/// What a request is called and where it can be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    pub key: Url,
    /// In order of preference, never empty.
    pub sources: Vec<Url>,
}

/// The `[repos]` of the configuration.
#[derive(Debug, Default)]
pub struct Configured(BTreeMap<String, Repository>);

#[derive(Debug)]
struct Repository {
    /// What the repository's content is called here: it is the same whichever mirrors there are today.
    root: Url,
    metalink: Option<Url>,
    /// Whose signatures its roots must have.
    keyring: Option<PathBuf>,
    mirrors: RwLock<Mirrors>,
}

#[derive(Debug, Clone, Default)]
struct Mirrors {
    /// In order of preference; empty until a metalink has come.
    bases: Vec<Url>,
    /// Why none has come.
    trouble: Option<Fault>,
    /// What the metalink says that the repository's root of trust is.
    root: Option<Arc<metalink::Root>>,
}

impl Repository {
    fn new(repo: &Repo) -> Result<Self, crate::classify::BadUrl> {
        let parse = |url: &String| Url::parse(url.trim_end_matches('/'));
        let bases = repo.upstreams.iter().map(parse).collect::<Result<Vec<_>, _>>()?;
        let metalink = repo.metalink.as_ref().map(|url| Url::parse(url)).transpose()?;
        // Mirrors come and go, and each node may be told others first, so that none of them can lend its name. The metalink
        // itself can: what is below it, as if its query were a folder, is nothing else.
        let root = match (&metalink, bases.first()) {
            (Some(metalink), _) => Url::parse(metalink.as_str().replacen('?', "/", 1).trim_end_matches('/'))?,
            (None, Some(base)) => base.clone(),
            (None, None) => return Err(crate::classify::BadUrl::Host),
        };
        let keyring = repo.keyring.clone();
        Ok(Self { root, metalink, keyring, mirrors: RwLock::new(Mirrors { bases, ..Mirrors::default() }) })
    }

    fn read<T>(&self, look: impl FnOnce(&Mirrors) -> T) -> T {
        look(&self.mirrors.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn change(&self, change: impl FnOnce(&mut Mirrors)) {
        change(&mut self.mirrors.write().unwrap_or_else(PoisonError::into_inner));
    }

    /// What of a URL is below this repository's root or one of its mirrors; it begins with a slash.
    fn rest<'u>(&self, url: &'u Url) -> Option<&'u str> {
        let below = |base: &Url| {
            url.as_str().strip_prefix(base.as_str().trim_end_matches('/')).filter(|rest| rest.starts_with('/'))
        };
        below(&self.root).or_else(|| self.read(|mirrors| mirrors.bases.iter().find_map(below)))
    }
}

impl Configured {
    pub fn new(repos: &BTreeMap<String, Repo>) -> Result<Self, Fault> {
        let mut configured = BTreeMap::new();
        for (name, repo) in repos {
            let repository = Repository::new(repo);
            let repository = repository.map_err(|e| Fault::bad_request(format!("[repos.{name}]: {e}")))?;
            configured.insert(name.clone(), repository);
        }
        Ok(Self(configured))
    }

    pub fn is_repo(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// The repositories whose mirrors are named by a metalink, with its URL.
    pub fn metalinks(&self) -> impl Iterator<Item = (&str, &Url)> {
        self.0.iter().filter_map(|(name, repo)| Some((name.as_str(), repo.metalink.as_ref()?)))
    }

    /// The base URLs of a repository's mirrors as they are now, in order of preference.
    pub fn mirrors(&self, name: &str) -> Vec<Url> {
        self.0.get(name).map(|repo| repo.read(|mirrors| mirrors.bases.clone())).unwrap_or_default()
    }

    /// A list of mirrors has come: requests from now on use it.
    pub fn use_mirrors(&self, name: &str, bases: Vec<Url>) {
        if let Some(repo) = self.0.get(name).filter(|_| !bases.is_empty()) {
            repo.change(|mirrors| (mirrors.bases, mirrors.trouble) = (bases, None));
        }
    }

    /// The metalink that has just come says so of the repository's root of trust, or nothing.
    pub fn use_root(&self, name: &str, root: Option<metalink::Root>) {
        if let Some(repo) = self.0.get(name) {
            repo.change(|mirrors| mirrors.root = root.map(Arc::new));
        }
    }

    /// What the last metalink said of a repository's root of trust.
    pub fn root(&self, name: &str) -> Option<Arc<metalink::Root>> {
        self.0.get(name)?.read(|mirrors| mirrors.root.clone())
    }

    /// No list can be had: the last one, if there is one, stays in use.
    pub fn lacks_mirrors(&self, name: &str, why: Fault) {
        if let Some(repo) = self.0.get(name) {
            repo.change(|mirrors| mirrors.trouble = Some(why));
        }
    }

    /// `/NAME/rest` of a configured repository; `rest` begins with a slash.
    pub fn named(&self, name: &str, rest: &str) -> Result<Named, Fault> {
        let repo = self.0.get(name).ok_or_else(|| Fault::bad_request(format!("there is no repository {name}")))?;
        let mirrors = repo.read(Mirrors::clone);
        if mirrors.bases.is_empty() {
            let why = mirrors.trouble.map_or_else(|| "not fetched yet".to_owned(), |fault| fault.to_string());
            return Err(Fault::new(Cause::NoMirrors { repo: name.into(), detail: why.into() }));
        }
        let sources: Result<Vec<_>, _> = mirrors.bases.iter().map(|base| below(base, rest)).collect();
        let named = sources.and_then(|sources| Ok(Named { key: cache_key(&below(&repo.root, rest)?), sources }));
        named.map_err(|e| Fault::bad_request(e.to_string()))
    }

    /// The keyring of the configured repository that a URL belongs to, if it has one.
    pub fn keyring(&self, url: &Url) -> Option<&Path> {
        self.0.values().find(|repo| repo.rest(url).is_some())?.keyring.as_deref()
    }

    /// The configured repository that a URL belongs to.
    pub fn name_of(&self, url: &Url) -> Option<&str> {
        let base = format!("{}/", url.as_str().trim_end_matches('/'));
        let url = Url::parse(&base).ok()?;
        self.0.iter().find(|(_, repo)| repo.rest(&url).is_some()).map(|(name, _)| name.as_str())
    }

    /// Any URL: below a mirror of a configured repository it is that repository's, whichever mirror was asked.
    pub fn resolve(&self, url: &Url) -> Named {
        let found = self.0.iter().find_map(|(name, repo)| self.named(name, repo.rest(url)?).ok());
        found.unwrap_or_else(|| Named { key: cache_key(url), sources: vec![url.clone()] })
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
            keyring: None,
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

    #[test]
    fn keys_stay_when_the_mirrors_of_a_metalink_change() {
        let url = |text: &str| Url::parse(text).unwrap();
        let metalink = "https://lists.example.org/metalink?repo=fedora-41&arch=x86_64".to_owned();
        let repo = Repo { upstreams: vec![], metalink: Some(metalink.clone()), keyring: None };
        let repos = Configured::new(&BTreeMap::from([("fedora".to_owned(), repo)])).unwrap();
        assert_eq!(repos.metalinks().collect::<Vec<_>>(), [("fedora", &url(&metalink))]);
        let label = |why: Fault| (why.label(), why.to_string());
        let (none, text) = label(repos.named("fedora", "/a").unwrap_err());
        assert_eq!((none, text.ends_with("not fetched yet")), ("no-mirrors", true), "{text}");
        repos.lacks_mirrors("fedora", Fault::internal("it rained"));
        assert!(label(repos.named("fedora", "/a").unwrap_err()).1.ends_with("it rained"));

        let (one, two) = (url("http://one.example.org/f"), url("https://two.example.org/"));
        repos.use_mirrors("fedora", vec![one.clone(), two.clone()]);
        let first = repos.named("fedora", "/a?b").unwrap();
        assert_eq!(first.sources, [url("http://one.example.org/f/a?b"), url("https://two.example.org/a?b")]);
        repos.lacks_mirrors("fedora", Fault::internal("it rained"));
        assert_eq!(repos.named("fedora", "/a?b").unwrap(), first, "the last list stays in use");
        repos.use_mirrors("fedora", vec![]);
        assert_eq!(repos.mirrors("fedora"), [one, two.clone()]);

        repos.use_mirrors("fedora", vec![two]);
        let second = repos.named("fedora", "/a?b").unwrap();
        assert_eq!((&second.key, second.sources.len()), (&first.key, 1));
        assert_eq!(repos.resolve(&url("https://two.example.org/a?b")), second);
        assert_eq!(repos.resolve(&first.key), second, "what is stored is found by its key, too");
        assert_eq!(repos.resolve(&url(&metalink)).key, url(&metalink));
        assert_eq!(repos.resolve(&url("http://one.example.org/f/a")).key, url("http://one.example.org/f/a"));
    }
}

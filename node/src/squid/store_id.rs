//! Under which name a Squid keeps something, so that it keeps one copy whichever mirror was asked: the digest that the repository's
//! metadata has for its path below the repository's root, else the path below the root of a configured repository. Never the name of
//! the file alone: two repositories may have two contents under it.
//!
//! Only what does not change under its name gets another one. Who asks a mirror for metadata gets that mirror's.

use crate::classify::{Class, Url, classify};
use crate::repos::{Configured, Generations};

/// Where nobody can be: what a Squid keeps under it came from elsewhere (RFC 2606 section 2).
const NOWHERE: &str = "http://store-id.imirror.invalid";

/// The name, if it is another one than the URL.
pub fn name_of(repos: &Configured, generations: &Generations, url: &Url) -> Option<String> {
    let key = repos.resolve(url).key;
    let classified = classify(&key);
    if !matches!(classified.class, Class::Package | Class::ImmutableMetadata) {
        return None;
    }
    let digest = classified.digest.or_else(|| Some(generations.current(&key)?.digest));
    let strong = digest.filter(|digest| digest.content_key().is_some());
    match strong {
        Some(digest) => Some(format!("{NOWHERE}/{}", digest.to_string().replacen(':', "/", 1))),
        None => (key != *url).then(|| key.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Repo;
    use std::collections::BTreeMap;

    const SHA256: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    fn named(url: &str) -> Option<String> {
        let upstreams = vec!["http://one.example.org/pub/lab".into(), "http://two.example.org/lab".into()];
        let lab = Repo { upstreams, metalink: None, keyring: None };
        let repos = Configured::new(&BTreeMap::from([("lab".to_owned(), lab)])).unwrap();
        name_of(&repos, &Generations::default(), &Url::parse(url).unwrap())
    }

    #[test]
    fn mirrors_of_a_configured_repository_have_one_name() {
        let (one, two) = ("http://one.example.org/pub/lab/p/a-1.rpm", "http://two.example.org/lab/p/a-1.rpm");
        assert_eq!((named(one), named(two)), (None, Some(one.to_owned())));
        assert_eq!(
            named("http://two.example.org/lab/q/a-1.rpm"),
            Some("http://one.example.org/pub/lab/q/a-1.rpm".into())
        );
        for other in [
            "http://three.example.org/lab/p/a-1.rpm",
            "http://two.example.org/other/p/a-1.rpm",
            "http://two.example.org/lab/repodata/repomd.xml",
            "http://two.example.org/lab/index.html",
        ] {
            assert_eq!(named(other), None, "{other}");
        }
    }

    #[test]
    fn what_says_its_digest_is_named_by_it() {
        for url in [
            format!("http://a.example.org/x/repodata/{SHA256}-primary.xml.zst"),
            format!("http://b.example.org/dists/stable/main/binary-amd64/by-hash/SHA256/{SHA256}"),
        ] {
            assert_eq!(named(&url), Some(format!("{NOWHERE}/sha256/{SHA256}")));
        }
        let weak = "http://a.example.org/dists/stable/by-hash/MD5Sum/0123456789abcdef0123456789abcdef";
        assert_eq!(named(weak), None, "anybody can make two contents of one");
    }
}

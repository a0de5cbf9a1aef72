use std::collections::BTreeMap;

use super::*;
use crate::config::Repo;

fn repos() -> Configured {
    let repo = Repo {
        upstreams: vec!["https://one.example.org/pub/lab".into(), "http://two.example.org".into()],
        metalink: None,
        keyring: None,
    };
    Configured::new(&BTreeMap::from([("lab".to_owned(), repo)])).unwrap()
}

#[test]
fn paths_name_lists() {
    use List::*;
    for (path, list) in [
        ("/-/mirrorlist/lab/x", Some(Mirrorlist("lab/x"))),
        ("/-/mirrorlist/lab/?countme=1", Some(Mirrorlist("lab"))),
        ("/-/mirrorlist/HTTPS///example.org/x", Some(Mirrorlist("HTTPS///example.org/x"))),
        ("/-/metalink/lab", Some(Metalink("lab"))),
        ("/-/mirrors/debian.example.org/debian.txt", Some(AptMirrors("debian.example.org/debian"))),
        ("/-/mirrors/debian", None),
        ("/-/proxy.pac", Some(ProxyPac)),
        ("/-/proxy.pac?x", Some(ProxyPac)),
        ("/-/status", None),
        ("/-/", None),
        ("/", None),
        ("/mirrorlist/lab", None),
    ] {
        assert_eq!(List::named(path), list, "{path}");
    }
}

#[test]
fn what_a_path_means() {
    let upstreams = |path: &str| -> Result<Vec<String>, String> {
        let place = Place::of(path, &repos()).map_err(|fault| fault.to_string())?;
        Ok(place.upstreams.iter().map(ToString::to_string).collect())
    };
    assert_eq!(upstreams("lab").unwrap(), ["https://one.example.org/pub/lab", "http://two.example.org/"]);
    assert_eq!(upstreams("lab/a").unwrap(), ["https://one.example.org/pub/lab/a", "http://two.example.org/a"]);
    assert_eq!(upstreams("HTTPS///example.org/a").unwrap(), ["https://example.org/a"]);
    assert_eq!(upstreams("example.org/a").unwrap(), ["http://example.org/a"]);
    // A repository's mirror is as good as its name.
    assert_eq!(upstreams("two.example.org/a").unwrap().len(), 2);
    for wrong in ["", "-", "-/status", "nothing", "a b", "example.org/\n", "user@example.org/x"] {
        assert!(upstreams(wrong).is_err(), "{wrong:?}");
    }
}

#[test]
fn a_metalink_is_of_a_file() {
    for (path, expected) in [
        ("lab", "lab/repodata/repomd.xml"),
        ("lab/41/x86_64", "lab/41/x86_64/repodata/repomd.xml"),
        ("lab/repodata/repomd.xml", "lab/repodata/repomd.xml"),
        ("lab/Packages/a-1-1.x86_64.rpm", "lab/Packages/a-1-1.x86_64.rpm"),
    ] {
        assert_eq!(file(path, &repos()).unwrap(), expected);
    }
    let root_of = |path| Place::of(path, &repos()).unwrap().root_of;
    assert_eq!(root_of("lab/repodata/repomd.xml").as_deref(), Some("lab"));
    assert_eq!((root_of("lab/41/repodata/repomd.xml"), root_of("lab")), (None, None), "the metalink is not of these");
}

#[test]
fn the_name_by_which_a_client_knows_the_node() {
    let local = Some("[::ffff:192.0.2.1]:3142".parse().unwrap());
    let name = |host, local| Asker { address: "192.0.2.9".parse().unwrap(), local, host }.own_name();
    for (host, expected) in [
        (Some("lab1:3142"), "lab1:3142"),
        (Some("LAB1"), "lab1:80"),
        (Some("[2001:db8::1]:3142"), "[2001:db8::1]:3142"),
        (Some("a\"; evil"), "192.0.2.1:3142"),
        (None, "192.0.2.1:3142"),
    ] {
        assert_eq!(name(host, local), expected, "{host:?}");
    }
}

//! What says through whom a request has passed (`Via`, RFC 9110 7.6.3; `CDN-Loop`, RFC 8586), so that one that goes in a circle
//! is refused by the first node that sees it again, however the circle was built.
//!
//! A node of the same site counts like this node: it would wait for the download for which this one asks. Pure.

use http::header::{HeaderName, VIA};
use http::{HeaderMap, HeaderValue};

use super::cache_control::members;
use super::reply::append_via;
use crate::fault::{Cause, Fault};

const CDN_LOOP: HeaderName = HeaderName::from_static("cdn-loop");

/// More proxies than anyone has in a row.
const HOPS_MAX: usize = 32;

/// How this node is called in the fields of requests and answers.
#[derive(Debug)]
pub(super) struct Hops {
    name: String,
    /// The same for all nodes of the site.
    site: String,
    /// `1.1 NAME (imirror)`.
    pub(super) via: HeaderValue,
    cdn: HeaderValue,
}

impl Hops {
    pub(super) fn new(name: &str, site: &str) -> Result<Self, Fault> {
        let site = format!("imirror-{site}");
        let value = |text: &str| {
            HeaderValue::try_from(text)
                .map_err(|_| Fault::internal("the name of this node cannot stand in a header field"))
        };
        Ok(Self { via: value(&format!("1.1 {name} (imirror)"))?, cdn: value(&site)?, name: name.to_owned(), site })
    }

    /// Adds this node to a request that is passed on, or to one of its own. What is its own has a `Via` of its own: a Squid that is both
    /// before and behind a node would refuse what has its own name in it (403). `CDN-Loop` goes along with every request.
    pub(super) fn sign(&self, fields: &mut HeaderMap) {
        append_via(fields, &self.via);
        fields.append(CDN_LOOP, self.cdn.clone());
    }

    /// Has the request passed through this node or its site before, or through more proxies than anyone has? `is_of_site` tells the
    /// names of the site's other nodes.
    pub(super) fn check(&self, fields: &HeaderMap, is_of_site: impl Fn(&str) -> bool) -> Result<(), Fault> {
        let round = |detail: String| Err(Fault::new(Cause::ForwardingLoop { detail: detail.into() }));
        let via = fields.get_all(VIA).iter().filter_map(|value| value.to_str().ok()).flat_map(members);
        for (before, hop) in via.enumerate() {
            if before >= HOPS_MAX {
                return round(format!("it has passed through {HOPS_MAX} proxies"));
            }
            match node_of(hop) {
                Some(name) if name == self.name => return round(format!("it has been at this node, {name}, before")),
                Some(name) if is_of_site(name) => return round(format!("it comes from {name}, a node of this site")),
                _ => {}
            }
        }
        // Whoever hides `Via` leaves this one alone (RFC 8586 section 2).
        let mut cdn = fields.get_all(CDN_LOOP).iter().filter_map(|value| value.to_str().ok()).flat_map(members);
        match cdn.any(|cdn| cdn.split([';', ' ', '\t']).next() == Some(&self.site)) {
            true => round("it has been at a node of this site before".to_owned()),
            false => Ok(()),
        }
    }
}

/// The fields of a request that say whom it has passed through.
pub(super) fn of(fields: &HeaderMap) -> HeaderMap {
    let mut hops = sites_of(fields);
    fields.get_all(VIA).iter().for_each(|value| {
        hops.append(VIA, value.clone());
    });
    hops
}

/// Of them the one that goes along even with what is asked for on behalf of many.
pub(super) fn sites_of(fields: &HeaderMap) -> HeaderMap {
    fields.get_all(CDN_LOOP).iter().map(|value| (CDN_LOOP, value.clone())).collect()
}

/// The name of the node that a hop of `Via` is, if it is one.
fn node_of(hop: &str) -> Option<&str> {
    let mut words = hop.split_whitespace().skip(1);
    let name = words.next()?;
    (words.next() == Some("(imirror)")).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::header::COOKIE;

    fn check(lines: &[(&'static str, &str)]) -> Result<(), String> {
        let mut fields = HeaderMap::new();
        for (name, value) in lines {
            fields.append(*name, value.parse().unwrap());
        }
        let hops = Hops::new("lab1", "b1946ac92492d234").unwrap();
        hops.check(&fields, |name| name == "lab2").map_err(|fault| {
            assert_eq!((fault.http_status().as_u16(), fault.label()), (508, "forwarding-loop"));
            fault.to_string()
        })
    }

    #[test]
    fn circles_are_seen_by_either_field() {
        let long = vec!["1.1 a"; 33].join(", ");
        for (lines, reason) in [
            (&[("via", "1.1 squid (squid/5.7), 1.1 lab1 (imirror)")][..], "this node, lab1,"),
            (&[("via", "1.1 a"), ("via", "1.0 lab1 (imirror),1.1 b")], "this node, lab1,"),
            (&[("via", "1.1 lab2 (imirror), 1.1 squid")], "from lab2, a node of this site"),
            (&[("via", &long)], "32 proxies"),
            (&[("cdn-loop", "imirror-b1946ac92492d234")], "a node of this site"),
            (&[("cdn-loop", "a.example.org;x=\"1,2\", imirror-b1946ac92492d234 ; n=1")], "a node of this site"),
        ] {
            let refused = check(lines).unwrap_err();
            assert!(refused.contains(reason), "{lines:?}: {refused}");
        }
    }

    #[test]
    fn others_of_the_same_name_are_no_circle() {
        for lines in [
            &[][..],
            &[("via", "1.1 lab1, 1.1 lab1 (squid)")],
            &[("via", "1.1 lab3 (imirror)")],
            &[("via", "1.1"), ("via", ",,"), ("via", "lab1 (imirror)")],
            &[("cdn-loop", "imirror-b1946ac92492d235, x-imirror-b1946ac92492d234")],
        ] {
            assert_eq!(check(lines), Ok(()), "{lines:?}");
        }
    }

    #[test]
    fn what_a_node_signs_it_knows_again() {
        let ours = Hops::new("lab1", "b1946ac92492d234").unwrap();
        let mut fields = HeaderMap::new();
        for hop in ["1.1 a", "1.1 b (c), 1.1 d"] {
            fields.append(VIA, HeaderValue::from_static(hop));
        }
        fields.insert(COOKIE, HeaderValue::from_static("secret"));
        let mut fields = of(&fields);
        ours.sign(&mut fields);
        assert_eq!(fields[VIA], "1.1 a, 1.1 b (c), 1.1 d, 1.1 lab1 (imirror)");
        assert!(!fields.contains_key(COOKIE));
        for hidden in [VIA, CDN_LOOP] {
            let mut rest = fields.clone();
            rest.remove(&hidden);
            assert!(ours.check(&rest, |_| false).is_err(), "without {hidden}");
            let sister = Hops::new("lab2", "b1946ac92492d234").unwrap();
            assert!(sister.check(&rest, |name| name == "lab1").is_err(), "a sister, without {hidden}");
            let stranger = Hops::new("lab2", "0000000000000000").unwrap();
            assert!(stranger.check(&rest, |_| false).is_ok(), "a stranger, without {hidden}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_value_panics(via in "\\PC{0,60}", cdn in "\\PC{0,60}") {
            let mut fields = HeaderMap::new();
            for (name, value) in [(VIA, via), (CDN_LOOP, cdn)] {
                if let Ok(value) = HeaderValue::try_from(value) {
                    fields.insert(name, value);
                }
            }
            let _ = Hops::new("lab1", "x").unwrap().check(&fields, |_| false);
        }
    }
}

//! Which family's file a URL names. Class follows from the form of path and query alone; the families' own forms stand in
//! the files of `family/`. A form is exact, and a name that the web uses too counts only in the folder where the family has
//! it: what is taken for ours by mistake is answered from the store and without the client's own fields.

mod alpine;
mod arch;
mod deb;
mod rpm;

use super::place::Place;
use super::{Class, Classified, Digest, Format, Url};

type Found = Option<(Class, Option<Digest>)>;

/// What a URL names.
pub fn classify(url: &Url) -> Classified {
    let place = Place::of(url);
    let found = if asks_about_the_file(&place) {
        None
    } else if place.name.is_empty() {
        rpm::mirror_list(&place).map(|found| (Format::Rpm, found))
    } else {
        (rpm::classify(&place).map(|found| (Format::Rpm, found)))
            .or_else(|| Some((Format::Deb, deb::classify(&place)?)))
            .or_else(|| Some((Format::Arch, arch::classify(&place)?)))
            .or_else(|| Some((Format::Alpine, alpine::classify(&place)?)))
    };
    match found {
        Some((format, (class, digest))) => Classified { class, format: Some(format), digest, size: None },
        None => Classified { class: Class::Other, format: None, digest: None, size: None },
    }
}

/// `a.rpm?mirrorlist`: a redirector is asked where the file is, in a form that the client's own fields choose.
fn asks_about_the_file(place: &Place<'_>) -> bool {
    place.parameters().any(|parameter| {
        let questions =
            ["mirrorlist", "metalink", "meta4", "torrent", "magnet", "zsync", "btih", "md5", "sha1", "sha256"];
        matches!(parameter, (name, None) if questions.contains(&name))
    })
}

/// What a URL is called in the cache: `countme=N`, by which dnf counts machines once a week when it asks for a mirror list,
/// names nothing (CLIENTS.md 1). Upstream is sent what the client sent.
pub fn cache_key(url: &Url) -> Url {
    let Some(query) = url.query().filter(|query| query.contains("countme=")) else { return url.clone() };
    if rpm::mirror_list(&Place::of(url)).is_none() {
        return url.clone();
    }
    let kept: Vec<_> = query.split('&').filter(|part| !part.starts_with("countme=")).collect();
    let question = if kept.is_empty() { "" } else { "?" };
    url.with_path_and_query(&format!("{}{question}{}", url.path(), kept.join("&"))).unwrap_or_else(|_| url.clone())
}

/// The name without its ending; `None` when it has another one, or nothing else.
fn before<'n>(name: &'n str, ending: &str) -> Option<&'n str> {
    name.strip_suffix(ending).filter(|stem| !stem.is_empty())
}

/// Not empty, and of letters, digits and these characters only.
fn is_word(text: &str, and: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || and.contains(c))
}

#[cfg(test)]
pub(crate) mod tests;

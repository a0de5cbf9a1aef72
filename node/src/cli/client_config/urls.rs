//! How a repository's URL is asked for at a node.

/// Names in the place of a host that nobody serves: distributions write them into what is to be filled in.
const PLACEHOLDERS: [&str; 2] = [".example", ".invalid"];

/// The URL at a node of what is at this http or https URL; `None` for what a node does not fetch. Variables such as
/// `$releasever` stay as they are.
pub(super) fn at_node(node: &str, url: &str) -> Option<String> {
    let (scheme, rest) = url.split_once("://")?;
    let host = rest.split('/').next().unwrap_or_default();
    // A name and a password in a URL are for one server alone.
    if host.is_empty() || host.contains('@') {
        return None;
    }
    match scheme {
        "http" => Some(format!("http://{node}/{rest}")),
        "https" => Some(format!("http://{node}/HTTPS///{rest}")),
        _ => None,
    }
}

/// Does this URL lead to one of these nodes already?
pub(super) fn is_at(nodes: &[String], url: &str) -> bool {
    let host = url.split_once("://").map(|(_, rest)| rest.split('/').next().unwrap_or_default());
    host.is_some_and(|host| nodes.iter().any(|node| node.eq_ignore_ascii_case(host)))
}

/// Is its host no host?
pub(super) fn is_placeholder(url: &str) -> bool {
    let host = url.split_once("://").map_or(url, |(_, rest)| rest);
    let host = host.split(['/', ':']).next().unwrap_or_default();
    PLACEHOLDERS.iter().any(|end| host.ends_with(end))
}

/// A node as clients reach it, `HOST:PORT`, as it can stand in every file.
pub(super) fn node(text: &str) -> Result<String, String> {
    let wrong = |why: &str| Err(format!("--node {text}: {why}; expected HOST:PORT, say lab1.example.org:3142"));
    let name = text.strip_prefix("http://").unwrap_or(text).trim_end_matches('/');
    if !name.chars().all(|c| c.is_ascii_alphanumeric() || ".-_:[]".contains(c)) {
        return wrong("this is no name of a host");
    }
    let (host, port) = match name.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port),
        _ => (name, "3142"),
    };
    if host.contains(':') && !(host.starts_with('[') && host.ends_with(']')) {
        return wrong("an IPv6 address stands in brackets, [2001:db8::1]:3142");
    }
    match port.parse::<u16>() {
        Ok(1..) if !host.is_empty() => Ok(format!("{host}:{port}")),
        _ => wrong("this is no port"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_at_a_node() {
        for (url, expected) in [
            ("http://example.org/a/$arch", Some("http://lab1:3142/example.org/a/$arch")),
            ("https://example.org:8443/a/", Some("http://lab1:3142/HTTPS///example.org:8443/a/")),
            ("file:///srv/repo", None),
            ("https://user:secret@example.org/a", None),
            ("http:///a", None),
            ("/srv/repo", None),
        ] {
            assert_eq!(at_node("lab1:3142", url).as_deref(), expected, "{url}");
        }
        let nodes = ["lab1:3142".to_owned()];
        assert!(is_at(&nodes, "http://LAB1:3142/example.org/a") && !is_at(&nodes, "http://lab1/a"));
        assert!(is_placeholder("https://download.example/pub") && !is_placeholder("https://dl.example.org/pub"));
    }

    #[test]
    fn names_of_nodes() {
        for (text, name) in [
            ("lab1", "lab1:3142"),
            ("http://lab1:80/", "lab1:80"),
            ("192.0.2.1:3142", "192.0.2.1:3142"),
            ("[2001:db8::1]", "[2001:db8::1]:3142"),
            ("[2001:db8::1]:1", "[2001:db8::1]:1"),
        ] {
            assert_eq!(node(text).as_deref(), Ok(name));
        }
        for wrong in ["", ":3142", "lab1:0", "lab1:x", "2001:db8::1", "a b", "a\"; rm -rf /", "$(x)", "a\nb"] {
            assert!(node(wrong).is_err(), "{wrong}");
        }
    }
}

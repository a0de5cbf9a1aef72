//! The page under `/-/`: what the node does and what to type on a client. Whole in itself: no script, nothing from
//! elsewhere, light or dark as the reader has it.

use std::fmt::Write;

use crate::ledger::status::{Flight, Health, Status};

const STYLE: &str = "\
:root{color-scheme:light dark}\
body{font:1rem/1.5 system-ui,sans-serif;margin:2rem auto;max-width:60rem;padding:0 1rem}\
h1,h2{line-height:1.2}h2{margin-top:2rem;font-size:1.2rem}\
table{border-collapse:collapse;width:100%}\
th,td{text-align:left;padding:.25rem 1rem .25rem 0;border-bottom:1px solid #8884;vertical-align:top}\
th{font-weight:normal;white-space:nowrap}td{font-variant-numeric:tabular-nums;overflow-wrap:anywhere}\
pre{overflow:auto;padding:.75rem;border:1px solid #8884;border-radius:.3rem}\
.bad{border-left:.3rem solid #c33;padding-left:.75rem}";

/// Rows of each table; more are only counted.
const ROWS_MAX: usize = 50;

pub(super) fn render(status: &Status, health: &Health) -> String {
    let mut page = Page(String::with_capacity(8 * 1024));
    let name = Escaped(&status.node.name);
    page.push(format_args!(
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content=\"width=device-width\">\
         <title>imirror {name}</title><style>{STYLE}</style>\n<h1>imirror {name}</h1>\n<p>Version {}. \
         <a href=\"/-/api/status\">status</a>, <a href=\"/-/metrics\">metrics</a>, <a href=\"/-/health\">health</a></p>\n",
        Escaped(&status.node.version)
    ));
    for reason in &health.degraded {
        page.push(format_args!("<p class=bad>Degraded: {}</p>\n", Escaped(reason)));
    }
    page.table("", &[], &figures(status));
    page.table("Downloads in progress", &["URL", "so far", "per second", "readers", "from"], &flights(&status.flights));
    let repos = status
        .repos
        .iter()
        .map(|repo| vec![format!("http://{}/{}/", status.node.address, repo.name), repo.upstreams.join(", ")]);
    page.table("Repositories", &["here", "upstream"], &repos.collect::<Vec<_>>());
    let down: Vec<_> = health.unreachable.iter().map(|host| vec![host.clone()]).collect();
    page.table("Unreachable", &["upstream"], &down);
    clients(&mut page, &status.node.address);
    page.0
}

fn figures(status: &Status) -> Vec<Vec<String>> {
    let (t, cache) = (&status.traffic, &status.cache);
    let saved = t.bytes_to_clients.saturating_sub(t.bytes_from_upstream);
    let rows = [
        ("Stored", format!("{} objects, {} of {}", cache.objects, bytes(cache.bytes), bytes(cache.limit_bytes))),
        ("Requests", t.requests.to_string()),
        ("Hits", t.hits.to_string()),
        ("From peers", t.peer_hits.to_string()),
        ("Misses", t.misses.to_string()),
        ("While upstream was down", t.stale.to_string()),
        ("Errors", t.errors.to_string()),
        ("To clients", bytes(t.bytes_to_clients)),
        ("From upstream", bytes(t.bytes_from_upstream)),
        ("Saved", bytes(saved)),
    ];
    rows.into_iter().map(|(name, text)| vec![name.to_owned(), text]).collect()
}

fn flights(flights: &[Flight]) -> Vec<Vec<String>> {
    let row = |f: &Flight| {
        let done = match f.total {
            Some(total) => format!("{} of {}", bytes(f.bytes), bytes(total)),
            None => bytes(f.bytes),
        };
        vec![f.url.clone(), done, bytes(f.rate), f.readers.to_string(), f.source.clone()]
    };
    flights.iter().map(row).collect()
}

/// What to type on a client; `imirror client-config` says it at length.
fn clients(page: &mut Page, address: &str) {
    page.push(format_args!(
        "<h2>To use this node</h2>\n<pre># apt: /etc/apt/apt.conf.d/30imirror\nAcquire::http::Proxy \"http://{0}\";\n\n\
         # dnf: /etc/dnf/dnf.conf, [main]\nproxy=http://{0}\n\n\
         # zypper: /etc/sysconfig/proxy\nPROXY_ENABLED=\"yes\"\nHTTP_PROXY=\"http://{0}\"\n\n\
         # pacman: /etc/pacman.conf, above the Server lines of a repository\n\
         CacheServer = http://{0}/MIRROR-HOST/PATH/$repo/os/$arch\n\n\
         # apk: /etc/apk/repositories\nhttp://{0}/MIRROR-HOST/PATH/main\n\n\
         # a repository over https, cached\nhttp://{0}/HTTPS///HOST/PATH</pre>\n",
        Escaped(address)
    ));
}

/// Text that grows.
struct Page(String);

impl Page {
    fn push(&mut self, text: std::fmt::Arguments<'_>) {
        // Writing to a `String` cannot fail.
        let _ = self.0.write_fmt(text);
    }

    /// A heading and a table; nothing when there are no rows. The first cell of a row names it.
    fn table(&mut self, heading: &str, columns: &[&str], rows: &[Vec<String>]) {
        if rows.is_empty() {
            return;
        }
        if !heading.is_empty() {
            self.push(format_args!("<h2>{heading}</h2>\n"));
        }
        self.push(format_args!("<table>\n"));
        for column in columns {
            self.push(format_args!("<th scope=col>{column}"));
        }
        for row in rows.iter().take(ROWS_MAX) {
            for (i, cell) in row.iter().enumerate() {
                let open = if i == 0 { "<tr><th scope=row>" } else { "<td>" };
                self.push(format_args!("{open}{}", Escaped(cell)));
            }
            self.push(format_args!("\n"));
        }
        self.push(format_args!("</table>\n"));
        if rows.len() > ROWS_MAX {
            self.push(format_args!("<p>and {} more</p>\n", rows.len() - ROWS_MAX));
        }
    }
}

/// A text in which nothing is markup.
struct Escaped<'a>(&'a str);

impl std::fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.chars().try_for_each(|c| match c {
            '&' => f.write_str("&amp;"),
            '<' => f.write_str("&lt;"),
            '>' => f.write_str("&gt;"),
            '"' => f.write_str("&quot;"),
            '\'' => f.write_str("&#39;"),
            c => f.write_char(c),
        })
    }
}

fn bytes(bytes: u64) -> String {
    match bytes {
        b if b < 1 << 10 => format!("{b} B"),
        b if b < 1 << 20 => format!("{:.1} KiB", b as f64 / 1024.0),
        b if b < 1 << 30 => format!("{:.1} MiB", b as f64 / f64::from(1 << 20)),
        b => format!("{:.1} GiB", b as f64 / f64::from(1 << 30)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_shows_what_there_is() {
        let health = Health { degraded: vec!["disk <full>".into()], unreachable: vec!["example.net: refused".into()] };
        let page = render(&Status::example(), &health);
        for text in [
            "<h1>imirror lab1</h1>",
            "4711 objects, 12.0 GiB of 50.0 GiB",
            "kernel-core-7.0.rpm<td>20.0 MiB of 80.0 MiB<td>5.0 MiB<td>3<td>example.org",
            "http://192.0.2.1:3142/fedora/",
            "Degraded: disk &lt;full&gt;",
            "example.net: refused",
            "Acquire::http::Proxy \"http://192.0.2.1:3142\";",
        ] {
            assert!(page.contains(text), "{text} is not in\n{page}");
        }
    }

    #[test]
    fn nothing_that_came_from_outside_is_markup_and_nothing_is_loaded() {
        let mut status = Status::example();
        status.flights[0].url = "http://example.org/<script>alert('\"&')</script>".into();
        status.flights = vec![status.flights[0].clone(); ROWS_MAX + 7];
        let page = render(&status, &Health::default());
        assert!(!page.contains("<script") && page.contains("&lt;script&gt;alert(&#39;&quot;&amp;&#39;)"));
        assert!(page.contains("and 7 more"));
        assert!(!page.contains(" src=") && !page.contains("<link") && !page.contains("@import"));
    }
}

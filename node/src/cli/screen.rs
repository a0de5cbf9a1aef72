//! What the verbs show to people: facts in, text out. Pure.

use std::fmt::Write;
use std::path::PathBuf;
use std::time::Duration;

use crate::config::{Loaded, Shown};
use crate::ledger::status::{Drain, Flight, Health, Lookup, Purged, Site, Status, Verify};
use crate::os::clock::Timestamp;

/// Lines of each list on the screen; more are only counted.
const LINES_MAX: usize = 10;

/// One good screen.
pub(super) fn status(status: &Status, health: &Health, now: Timestamp) -> String {
    let (node, cache, traffic) = (&status.node, &status.cache, &status.traffic);
    let percent = |part: u64, whole: u64| (part as f64 * 100.0 / whole.max(1) as f64).round();
    let saved = traffic.bytes_to_clients.saturating_sub(traffic.bytes_from_upstream);
    let mut screen = format!(
        "{}  imirror {}  http://{}  up {}\n\n",
        node.name,
        node.version,
        node.address,
        duration(now.since(node.started))
    );
    let rows = [
        (
            "cache",
            format!(
                "{} objects, {} of {} ({} %)",
                cache.objects,
                bytes(cache.bytes),
                bytes(cache.limit_bytes),
                percent(cache.bytes, cache.limit_bytes)
            ),
        ),
        (
            "requests",
            format!(
                "{}: {} hits, {} from peers, {} misses, {} while upstream was down, {} errors",
                traffic.requests, traffic.hits, traffic.peer_hits, traffic.misses, traffic.stale, traffic.errors
            ),
        ),
        (
            "to clients",
            format!(
                "{}: {} from memory, {} from disk",
                bytes(traffic.bytes_to_clients),
                bytes(traffic.bytes_from_memory),
                bytes(traffic.bytes_from_disk)
            ),
        ),
        (
            "upstream",
            format!(
                "{} ({} saved, {} %)",
                bytes(traffic.bytes_from_upstream),
                bytes(saved),
                percent(saved, traffic.bytes_to_clients)
            ),
        ),
    ];
    let helper = &status.helper;
    let helper = ("helper", format!("{}, {} of {} packages here", helper.doing, helper.present, helper.wanted));
    let is_at_work = status.helper.enabled || status.helper.wanted > 0;
    for (name, text) in rows.into_iter().chain(is_at_work.then_some(helper)) {
        // Writing to a `String` cannot fail, here and below.
        let _ = writeln!(screen, "  {name:<11} {text}");
    }
    list(&mut screen, "downloads", &status.flights, flight);
    list(&mut screen, "popular", &status.popular, |popular| {
        let copies = if popular.copies == 1 { "1 copy".into() } else { format!("{} copies", popular.copies) };
        format!("{:<39} asked for {:.0} times, {copies}", popular.name, popular.demand)
    });
    list(&mut screen, "repos", &status.repos, |repo| {
        let packages: u64 = repo.roots.iter().map(|root| root.packages).sum();
        let made = repo.roots.iter().filter_map(|root| root.made).max();
        let age = made.map_or_else(String::new, |made| {
            format!(", made {} ago", duration(now.since(Timestamp(made.saturating_mul(1000)))))
        });
        let known = if repo.roots.is_empty() { String::new() } else { format!("  {packages} packages known{age}") };
        match (&repo.metalink, repo.upstreams.is_empty()) {
            (Some(metalink), _) => {
                let mirrors = repo.upstreams.len();
                format!("http://{}/{}/  from {mirrors} mirrors that {metalink} names{known}", node.address, repo.name)
            }
            (None, false) => {
                format!("http://{}/{}/  from {}{known}", node.address, repo.name, repo.upstreams.join(", "))
            }
            (None, true) => format!("{}{known}", repo.name),
        }
    });
    list(&mut screen, "down", &health.unreachable, Clone::clone);
    list(&mut screen, "DEGRADED", &health.degraded, Clone::clone);
    screen
}

/// The nodes of a site, a line each.
pub(super) fn nodes(site: &Site) -> String {
    let mut rows = vec![["NODE", "ADDRESS", "STATE", "OBJECTS", "STORED", "LOAD", "RTT", "ID"].map(ToOwned::to_owned)];
    rows.extend(site.nodes.iter().map(|node| {
        [
            node.name.clone(),
            node.address.clone(),
            node.state.clone(),
            node.objects.to_string(),
            bytes(node.bytes),
            format!("{:.0} %", node.load * 100.0),
            node.round_trip_ms.map_or_else(|| "-".into(), |ms| format!("{ms:.1} ms")),
            node.id.clone(),
        ]
    }));
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; 8] = std::array::from_fn(width);
    let line = |row: &[String; 8]| {
        let cells: Vec<String> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        format!("{}\n", cells.join("  ").trim_end())
    };
    format!("site {}\n\n{}", site.id, rows.iter().map(line).collect::<String>())
}

/// A heading and its lines; nothing when there are none.
fn list<T>(screen: &mut String, heading: &str, items: &[T], line: impl Fn(&T) -> String) {
    if items.is_empty() {
        return;
    }
    let _ = write!(screen, "\n  {heading}\n");
    for item in items.iter().take(LINES_MAX) {
        let _ = writeln!(screen, "    {}", line(item));
    }
    if items.len() > LINES_MAX {
        let _ = writeln!(screen, "    and {} more", items.len() - LINES_MAX);
    }
}

fn flight(flight: &Flight) -> String {
    let done = match flight.total {
        Some(total) => format!("{} of {}", bytes(flight.bytes), bytes(total)),
        None => bytes(flight.bytes),
    };
    let readers = if flight.readers == 1 { "1 reader".into() } else { format!("{} readers", flight.readers) };
    format!("{done}, {}/s from {}, {readers}  {}", bytes(flight.rate), flight.source, flight.url)
}

pub(super) fn lookup(found: &Lookup, now: Timestamp) -> String {
    let mut screen = format!("{}\n\n", found.url);
    let mut row = |name: &str, text: &str| {
        let _ = writeln!(screen, "  {name:<9} {text}");
    };
    if found.key != found.url {
        row("stored as", &found.key);
    }
    row("class", &found.class);
    match &found.stored {
        None => row("here", "not stored"),
        Some(stored) => {
            let place = if stored.in_memory { "in memory and on disk" } else { "on disk" };
            row("here", &format!("{} {place}, BLAKE3 {}", bytes(stored.bytes), stored.object));
            let ago = |at: Timestamp| format!("{} ago", duration(now.since(at)));
            row("age", &format!("stored {}, confirmed {}", ago(stored.stored_at), ago(stored.confirmed_at)));
            row("digest", stored.digest.as_deref().unwrap_or("no repository names one"));
        }
    }
    if let Some(under_way) = &found.flight {
        row("loading", &flight(under_way));
    }
    if let Some(said) = &found.said {
        let verified = match said.verified {
            Some(true) => ", and what is here is that",
            Some(false) => ", and what is here is something else",
            None => "",
        };
        let text = match &said.digest {
            _ if said.generation == "superseded" => "its repository has other versions instead".to_owned(),
            Some(digest) => format!("the {} generation names {digest}{verified}", said.generation),
            None => format!("the {} generation names it", said.generation),
        };
        row("repo", &text);
        if !said.root.is_empty() {
            row("", &said.root);
        }
    }
    if let Some(popularity) = found.popularity {
        row("asked for", &format!("{popularity:.0} times in the last weeks, in any version"));
    }
    row("would be", &found.would);
    for source in &found.sources {
        row("source", source);
    }
    screen
}

pub(super) fn verifying(report: &Verify) -> String {
    let found = if report.dropped == 0 { String::new() } else { format!(", {} damaged", report.dropped) };
    format!("{} of {} objects, {} read{found}", report.objects, report.objects_total, bytes(report.bytes))
}

pub(super) fn verify(report: &Verify) -> String {
    let found = match report.dropped {
        _ if report.failed => "not all could be read, the node's log says why".into(),
        0 => "all are as they were stored".into(),
        dropped => {
            format!("{dropped} were damaged or missing and have been dropped; they are fetched again when asked for")
        }
    };
    format!("{} objects, {} read: {found}\n", report.objects, bytes(report.bytes))
}

pub(super) fn purged(purged: &Purged) -> String {
    let nodes = match purged.nodes {
        1 => "1 node".to_owned(),
        nodes => format!("{nodes} nodes"),
    };
    let silent = match &purged.unanswered[..] {
        [] => String::new(),
        silent => format!("; no answer from {}: told again when met again", silent.join(", ")),
    };
    format!("{} forgotten at {nodes}{silent}\n", purged.forgotten)
}

pub(super) fn draining(report: &Drain) -> String {
    format!("{} of {} objects, {} handed over", report.objects, report.objects_total, report.handed)
}

pub(super) fn drained(report: &Drain) -> String {
    let left = match report.left {
        0 => "what this node holds, others hold, too: it can be stopped now".to_owned(),
        left => format!("{left} that nobody else holds or takes are left: they are fetched again when asked for"),
    };
    format!("{} handed over; {left}\n", report.handed)
}

/// As a file that says the same, with where each value came from beside it.
pub(super) fn configuration(shown: &[Shown], loaded: &Loaded) -> String {
    let mut screen = String::new();
    for file in &loaded.files {
        let _ = writeln!(screen, "# read: {}", file.display());
    }
    let _ = writeln!(screen, "# control socket: {}", loaded.config.socket.display());
    let mut section = "";
    for setting in shown {
        let (its_section, key) = setting.key.rsplit_once('.').unwrap_or(("", &setting.key));
        if its_section != section {
            section = its_section;
            let _ = write!(screen, "\n[{section}]\n");
        }
        let line = match &setting.value {
            Some(value) => format!("{key} = {value}"),
            None => format!("# {key} ="),
        };
        let _ = writeln!(screen, "{line:<39} # {}", setting.origin);
    }
    screen
}

pub(super) fn checked(files: &[PathBuf]) -> String {
    match files {
        [] => "the configuration is right; there is no file, so the defaults apply\n".into(),
        files => {
            let names: Vec<String> = files.iter().map(|file| file.display().to_string()).collect();
            format!("the configuration is right: {}\n", names.join(", "))
        }
    }
}

/// `12.3 GiB`.
pub(super) fn bytes(bytes: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    if bytes < 1024 { format!("{bytes} B") } else { format!("{value:.1} {}", units[unit]) }
}

/// The two largest units: `3 d 4 h`.
pub(super) fn duration(time: Duration) -> String {
    match time.as_secs() {
        s if s < 60 => format!("{s} s"),
        s if s < 3600 => format!("{} min {} s", s / 60, s % 60),
        s if s < 86_400 => format!("{} h {} min", s / 3600, s / 60 % 60),
        s => format!("{} d {} h", s / 86_400, s / 3600 % 24),
    }
}

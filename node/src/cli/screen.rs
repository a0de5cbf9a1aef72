//! What the verbs show to people: facts in, text out. Pure.

use std::fmt::Write;
use std::path::PathBuf;
use std::time::Duration;

use crate::config::{Loaded, Shown};
use crate::ledger::status::{Drain, Flight, Lookup, Purged, Site, Verify};
use crate::os::clock::Timestamp;

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

fn flight(flight: &Flight) -> String {
    let done = match flight.total {
        Some(total) => format!("{} of {}", bytes(flight.bytes), bytes(total)),
        None => bytes(flight.bytes),
    };
    let readers = if flight.readers == 1 { "1 reader".into() } else { format!("{} readers", flight.readers) };
    let (host, what) = flight.origin();
    format!("{done}, {}/s from {what} {host}, {readers}  {}", bytes(flight.rate), flight.url)
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

/// `87 %`; `-` of nothing.
pub(super) fn percent(part: Option<f64>) -> String {
    part.map_or_else(|| "-".into(), |part| format!("{:.0} %", part * 100.0))
}

/// No longer than there is room.
pub(super) fn fitted(text: &str, width: usize) -> String {
    match text.char_indices().nth(width) {
        None => text.to_owned(),
        Some(_) if width < 3 => String::new(),
        Some(_) => text.chars().take(width - 2).chain("..".chars()).collect(),
    }
}

/// The end of a URL, without its query.
pub(super) fn file_name(url: &str) -> &str {
    let url = url.split('?').next().unwrap_or_default();
    url.rsplit('/').next().filter(|name| !name.is_empty()).unwrap_or(url)
}

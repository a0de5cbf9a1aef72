//! The table of each panel: facts in, rows out, sorted as the reader wants them. Pure; it knows nothing of terminals.

use std::cmp::Ordering;
use std::time::Duration;

use super::model::{Panel, Place, Snapshot};
use crate::cli::screen::{bytes, duration, file_name};
use crate::ledger::status::{Flight, Helper};
use crate::os::clock::Timestamp;

/// A panel's table.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Sheet {
    pub(super) columns: &'static [Column],
    pub(super) lines: Vec<Line>,
    /// Said where there are no lines.
    pub(super) empty: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Column {
    Text(&'static str),
    /// Set to the right, and sorted with the most in front.
    Number(&'static str),
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Line {
    pub(super) cells: Vec<Cell>,
    pub(super) tone: Tone,
    /// All there is to say of it, where a cell has no room.
    pub(super) detail: String,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Cell {
    Text(String),
    /// What it is sorted by, and how it is shown.
    Number(f64, String),
}

/// What a line means to the reader. Its words say the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tone {
    Plain,
    Good,
    Warning,
    Bad,
}

use Column::{Number, Text};

const NODES: &[Column] = &[
    Text("NODE"),
    Text("STATE"),
    Text("ADDRESS"),
    Number("STORED"),
    Number("OBJECTS"),
    Number("LOAD"),
    Number("ROUND TRIP"),
];
const DOWNLOADS: &[Column] =
    &[Text("FILE"), Number("SO FAR"), Number("DONE"), Number("RATE"), Number("READERS"), Text("FROM"), Text("TO")];
const POPULAR: &[Column] = &[Text("PACKAGE"), Number("DEMAND"), Number("COPIES")];
const REPOSITORIES: &[Column] =
    &[Text("REPOSITORY"), Text("GENERATION"), Number("AGE"), Number("PACKAGES"), Text("FROM")];
const HELPER: &[Column] = &[Text("AT"), Text("WHAT"), Text("HOW IT STANDS")];
const ERRORS: &[Column] = &[Number("LAST"), Number("TIMES"), Text("AT"), Text("ASKED FOR"), Text("WHY")];

impl Sheet {
    /// How many columns a panel has.
    pub(super) fn columns(panel: Panel) -> usize {
        titles(panel).len()
    }

    /// How many lines a panel has.
    pub(super) fn rows(panel: Panel, snapshot: &Snapshot) -> usize {
        Self::of(panel, snapshot, Timestamp::default()).lines.len()
    }

    /// A panel's table, in the node's own order.
    pub(super) fn of(panel: Panel, snapshot: &Snapshot, now: Timestamp) -> Self {
        let (lines, empty) = match panel {
            Panel::Nodes => (nodes(snapshot), "no node is known"),
            Panel::Downloads => (downloads(snapshot), "nothing is being downloaded from upstream or peers"),
            Panel::Popular => (popular(snapshot), "no package has been asked for yet"),
            Panel::Repositories => (repositories(snapshot, now), "no repository's metadata has passed through yet"),
            Panel::Helper => (helpers(snapshot), "the helper is off: `helper.enabled` switches it on"),
            Panel::Errors => (errors(snapshot, now), "nothing has failed of late"),
        };
        Self { columns: titles(panel), lines, empty }
    }

    pub(super) fn sorted(mut self, place: Place) -> Self {
        if let Some(column) = place.sort {
            // Stable: what is equal stays in the node's own order.
            self.lines.sort_by(|a, b| compare(&a.cells[column], &b.cells[column]));
        }
        if place.is_reversed {
            self.lines.reverse();
        }
        self
    }
}

impl Column {
    pub(super) fn title(self) -> &'static str {
        match self {
            Text(title) | Number(title) => title,
        }
    }
}

impl Cell {
    pub(super) fn text(&self) -> &str {
        match self {
            Self::Text(text) | Self::Number(_, text) => text,
        }
    }

    fn count(count: u64) -> Self {
        Self::Number(count as f64, count.to_string())
    }

    fn bytes(count: u64) -> Self {
        Self::Number(count as f64, bytes(count))
    }

    /// What is not known comes last.
    fn unknown() -> Self {
        Self::Number(-1.0, "-".into())
    }
}

fn titles(panel: Panel) -> &'static [Column] {
    match panel {
        Panel::Nodes => NODES,
        Panel::Downloads => DOWNLOADS,
        Panel::Popular => POPULAR,
        Panel::Repositories => REPOSITORIES,
        Panel::Helper => HELPER,
        Panel::Errors => ERRORS,
    }
}

fn compare(a: &Cell, b: &Cell) -> Ordering {
    match (a, b) {
        (Cell::Number(a, _), Cell::Number(b, _)) => b.total_cmp(a),
        _ => a.text().cmp(b.text()),
    }
}

fn nodes(snapshot: &Snapshot) -> Vec<Line> {
    let own = &snapshot.status.node.id;
    let mut members: Vec<_> = snapshot.status.site.nodes.iter().collect();
    members.sort_by_key(|node| (node.id != *own, &node.name));
    let line = |node: &&crate::ledger::status::Member| {
        let is_own = node.id == *own;
        let tone = match node.state.as_str() {
            "alive" => Tone::Good,
            "dead" => Tone::Bad,
            _ => Tone::Warning,
        };
        let cells = vec![
            Cell::Text(node.name.clone()),
            Cell::Text(node.state.clone()),
            Cell::Text(node.address.clone()),
            Cell::bytes(node.bytes),
            Cell::count(node.objects),
            Cell::Number(node.load, format!("{:.0} %", node.load * 100.0)),
            node.round_trip_ms.map_or_else(Cell::unknown, |ms| Cell::Number(ms, format!("{ms:.1} ms"))),
        ];
        let this = if is_own { ", this node" } else { "" };
        let detail = format!("{} at {}: {}, id {}{this}", node.name, node.address, node.state, node.id);
        Line { cells, tone, detail }
    };
    members.iter().map(line).collect()
}

fn downloads(snapshot: &Snapshot) -> Vec<Line> {
    let line = |(node, flight): &(&str, &Flight)| {
        let (host, what) = flight.origin();
        let done = match flight.total.filter(|total| *total > 0) {
            Some(total) => {
                let percent = flight.bytes as f64 * 100.0 / total as f64;
                Cell::Number(percent, format!("{percent:.0} %"))
            }
            None => Cell::unknown(),
        };
        let cells = vec![
            Cell::Text(file_name(&flight.url).to_owned()),
            Cell::bytes(flight.bytes),
            done,
            Cell::Number(flight.rate as f64, format!("{}/s", bytes(flight.rate))),
            Cell::count(flight.readers),
            Cell::Text(host.to_owned()),
            Cell::Text((*node).to_owned()),
        ];
        let total = flight.total.map_or_else(String::new, |total| format!(" of {}", bytes(total)));
        let detail = format!("{}{total} from {what} {host} to {node}: {}", bytes(flight.bytes), flight.url);
        Line { cells, tone: Tone::Plain, detail }
    };
    snapshot.status.flights_of_site().iter().map(line).collect()
}

fn popular(snapshot: &Snapshot) -> Vec<Line> {
    let popular = snapshot.status.popular.iter().map(|popular| Line {
        cells: vec![
            Cell::Text(popular.name.clone()),
            Cell::Number(popular.demand, format!("{:.1}", popular.demand)),
            Cell::count(popular.copies),
        ],
        tone: Tone::Plain,
        detail: format!(
            "{}: asked for {:.0} times in the last weeks, {} on nodes of the site",
            popular.name,
            popular.demand,
            copies(popular.copies)
        ),
    });
    popular.collect()
}

fn copies(copies: u64) -> String {
    if copies == 1 { "1 copy".into() } else { format!("{copies} copies") }
}

fn repositories(snapshot: &Snapshot, now: Timestamp) -> Vec<Line> {
    let repos = snapshot.status.repos_of_site().into_iter().map(|repo| {
        let made = repo.made();
        let age = made.map_or_else(Cell::unknown, |made| {
            let age = now.since(made);
            Cell::Number(age.as_secs_f64(), duration(age))
        });
        let from = match (&repo.metalink, repo.upstreams.as_slice()) {
            (Some(metalink), mirrors) => format!("{} mirrors by {metalink}", mirrors.len()),
            (None, []) => "-".into(),
            (None, [only]) => only.clone(),
            (None, [first, rest @ ..]) => format!("{first} and {} more", rest.len()),
        };
        let detail = format!("{} from {from}", repo.name);
        let cells = vec![
            Cell::Text(repo.name.clone()),
            Cell::Text(made.map_or_else(|| "-".into(), Timestamp::local_minute)),
            age,
            if repo.roots.is_empty() { Cell::unknown() } else { Cell::count(repo.packages()) },
            Cell::Text(from),
        ];
        Line { cells, tone: Tone::Plain, detail }
    });
    repos.collect()
}

fn helpers(snapshot: &Snapshot) -> Vec<Line> {
    let helpers = snapshot.status.helpers_of_site();
    helpers.into_iter().flat_map(|(node, it)| helper(node, it)).collect()
}

fn helper(node: &str, helper: &Helper) -> Vec<Line> {
    let line = |tone: Tone, what: &str, how: String| Line {
        detail: format!("{node}: {what}: {how}"),
        cells: vec![Cell::Text(node.into()), Cell::Text(what.into()), Cell::Text(how)],
        tone,
    };
    let plain = |what: &str, how: String| line(Tone::Plain, what, how);
    let mut lines = vec![
        plain("doing", helper.doing.clone()),
        plain("packages here", format!("{} of {} wanted", helper.present, helper.wanted)),
        plain("bytes here", format!("{} of {}", bytes(helper.bytes_present), bytes(helper.bytes_wanted))),
    ];
    if let Some(current) = &helper.current {
        lines.push(plain("fetching", format!("{} at {}/s", file_name(&current.url), bytes(current.rate))));
    }
    if let Some(seconds) = helper.seconds_left {
        lines.push(plain("time left", duration(Duration::from_secs(seconds))));
    }
    if helper.failed > 0 {
        let how = format!("{}: `imirror prefetch list` says why", helper.failed);
        lines.push(line(Tone::Bad, "could not be had", how));
    }
    if helper.is_cut {
        lines.push(line(Tone::Warning, "too much", "what counts least is left out".into()));
    }
    lines.extend(helper.missing.iter().map(|missing| line(Tone::Warning, "in no repository", missing.clone())));
    lines
}

fn errors(snapshot: &Snapshot, now: Timestamp) -> Vec<Line> {
    let errors = snapshot.status.errors_of_site();
    let failures = errors.iter().map(|(node, failure)| {
        let ago = now.since(failure.at);
        // The latest in front.
        let cells = vec![
            Cell::Number(-ago.as_secs_f64(), format!("{} ago", duration(ago))),
            Cell::count(failure.times),
            Cell::Text((*node).to_owned()),
            Cell::Text(file_name(&failure.what).to_owned()),
            Cell::Text(failure.why.clone()),
        ];
        Line { cells, tone: Tone::Bad, detail: format!("at {node}: {}: {}", failure.what, failure.why) }
    });
    let hosts = snapshot.health.unreachable.iter().map(|host| {
        let (name, why) = host.split_once(": ").unwrap_or((host, ""));
        let cells = vec![
            Cell::Number(0.0, "now".into()),
            Cell::unknown(),
            Cell::Text(snapshot.status.node.name.clone()),
            Cell::Text(name.to_owned()),
            Cell::Text(why.to_owned()),
        ];
        Line { cells, tone: Tone::Warning, detail: format!("not reached at present: {host}") }
    });
    hosts.chain(failures).collect()
}

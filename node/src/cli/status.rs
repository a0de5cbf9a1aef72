//! The one screen of `imirror status`: what matters at the top, and as much as fits 80 columns and 40 lines. Pure.

use std::fmt::Write;
use std::time::Duration;

use super::screen::{bytes, duration, file_name, fitted, percent};
use crate::ledger::history::Sums;
use crate::ledger::status::{Failure, Flight, Health, Member, Popular, Repo, Status};
use crate::os::clock::Timestamp;

/// Columns of the names in front.
const NAME_WIDTH: usize = 12;

/// A screen as it grows; each line has a name in front, or belongs to the one above.
struct Screen {
    text: String,
    /// Columns of a line.
    width: usize,
}

/// One good screen, no wider than that.
pub(super) fn screen(status: &Status, health: &Health, now: Timestamp, width: usize) -> String {
    let node = &status.node;
    let head = format!("{}  imirror {}  http://{}", node.name, node.version, node.address);
    let mut screen = Screen { text: format!("{head}  up {}\n\n", duration(now.since(node.started))), width };
    screen.list("DEGRADED", 4, &health.degraded, Clone::clone);
    for (name, text) in figures(status) {
        screen.row(name, &text);
    }
    if status.site.nodes.len() > 1 {
        screen.gap();
        screen.list("nodes", 5, &status.site.nodes, member);
    }
    if !status.flights.is_empty() {
        screen.gap();
        screen.list("downloads", 4, &status.flights, flight);
    }
    if !(status.popular.is_empty() && status.repos.is_empty()) {
        screen.gap();
        screen.list("popular", 3, &status.popular, popular);
        screen.list("repos", 4, &status.repos, |repo| repository(repo, now));
    }
    if !(status.errors.is_empty() && health.unreachable.is_empty()) {
        screen.gap();
        screen.list("down", 2, &health.unreachable, Clone::clone);
        screen.list("errors", 2, &status.errors, |failure| error(failure, now));
    }
    screen.text
}

impl Screen {
    fn row(&mut self, name: &str, text: &str) {
        let text = fitted(text, self.width.saturating_sub(NAME_WIDTH + 2));
        // Writing to a `String` cannot fail.
        let _ = writeln!(self.text, "  {name:<NAME_WIDTH$}{text}");
    }

    /// The first of the items beside the name; those for which there is no room are counted.
    fn list<T>(&mut self, name: &str, lines_max: usize, items: &[T], line: impl Fn(&T) -> String) {
        for (i, item) in items.iter().take(lines_max).enumerate() {
            self.row(if i == 0 { name } else { "" }, &line(item));
        }
        if items.len() > lines_max {
            self.row("", &format!("and {} more", items.len() - lines_max));
        }
    }

    fn gap(&mut self) {
        self.text.push('\n');
    }
}

fn figures(status: &Status) -> Vec<(&'static str, String)> {
    let (cache, traffic, history) = (&status.cache, &status.traffic, &status.history);
    let filled = (cache.limit_bytes > 0).then(|| cache.bytes as f64 / cache.limit_bytes as f64);
    let objects = counted(cache.objects, "object");
    let stored = format!("{objects}, {} of {} ({})", bytes(cache.bytes), bytes(cache.limit_bytes), percent(filled));
    let mut rows = vec![
        ("stored", stored),
        (
            "saved",
            format!(
                "{} today{}, {} in all",
                bytes(history.today.bytes_saved()),
                time(&history.today),
                bytes(history.total.bytes_saved())
            ),
        ),
        (
            "hits today",
            format!(
                "{} of {}, {} of {} to clients",
                percent(history.today.hit_ratio()),
                counted(history.today.hits + history.today.misses, "request"),
                percent(history.today.byte_hit_ratio()),
                bytes(history.today.bytes_to_clients)
            ),
        ),
        (
            "requests",
            format!(
                "{} ({}): {} hits, {} from peers, {} misses, {} stale",
                traffic.requests,
                counted(traffic.errors, "error"),
                traffic.hits,
                traffic.peer_hits,
                traffic.misses,
                traffic.stale,
            ),
        ),
        (
            "bytes from",
            format!(
                "memory {}, disk {}, peers {}, upstream {}",
                bytes(traffic.bytes_from_memory),
                bytes(traffic.bytes_from_disk),
                bytes(traffic.bytes_from_peers),
                bytes(traffic.bytes_from_upstream)
            ),
        ),
    ];
    let nodes = &status.site.nodes;
    if nodes.len() > 1 {
        let stored = nodes.iter().map(|node| node.bytes).sum();
        let alive = nodes.iter().filter(|node| node.state == "alive").count();
        let load = nodes.iter().map(|node| node.load).sum::<f64>() / nodes.len() as f64;
        let text =
            format!("{alive} of {} nodes alive, {} stored, load {}", nodes.len(), bytes(stored), percent(Some(load)));
        rows.insert(0, ("site", text));
    }
    let helper = &status.helper;
    if helper.enabled || helper.wanted > 0 {
        let left = helper
            .seconds_left
            .map_or_else(String::new, |left| format!(", {} left", duration(Duration::from_secs(left))));
        rows.push(("helper", format!("{}, {} of {} packages here{left}", helper.doing, helper.present, helper.wanted)));
    }
    rows
}

fn time(sums: &Sums) -> String {
    let time = sums.time_saved().filter(|time| time.as_secs() > 0);
    time.map_or_else(String::new, |time| format!(" ({} of the uplink)", duration(time)))
}

fn counted(count: u64, one: &str) -> String {
    format!("{count} {one}{}", if count == 1 { "" } else { "s" })
}

fn member(node: &Member) -> String {
    let (name, stored, load) = (fitted(&node.name, 14), bytes(node.bytes), percent(Some(node.load)));
    format!("{name:<14} {:<8} {stored:>10}  load {load:<5} {}", node.state, node.address)
}

/// The name comes last, where the line may be cut.
fn flight(flight: &Flight) -> String {
    let done = match flight.total.filter(|total| *total > 0) {
        Some(total) => format!("{} of {}", percent(Some(flight.bytes as f64 / total as f64)), bytes(total)),
        None => bytes(flight.bytes),
    };
    let (host, _) = flight.origin();
    let (rate, readers) = (bytes(flight.rate), counted(flight.readers, "reader"));
    format!("{done}, {rate}/s, {readers}, {host}  {}", file_name(&flight.url))
}

fn popular(popular: &Popular) -> String {
    let copies = if popular.copies == 1 { "1 copy".into() } else { format!("{} copies", popular.copies) };
    format!("{:<34} asked for {:.0} times, {copies}", fitted(&popular.name, 34), popular.demand)
}

fn repository(repo: &Repo, now: Timestamp) -> String {
    let age = repo.made().map_or_else(String::new, |made| format!(", made {} ago", duration(now.since(made))));
    let known = match repo.roots.is_empty() {
        true => "nothing known yet".to_owned(),
        false => format!("{}{age}", counted(repo.packages(), "package")),
    };
    let from = match (&repo.metalink, repo.upstreams.as_slice()) {
        (Some(metalink), mirrors) => {
            format!("  from {} that {metalink} names", counted(mirrors.len() as u64, "mirror"))
        }
        (None, []) => String::new(),
        (None, [only]) => format!("  from {only}"),
        (None, [first, rest @ ..]) => format!("  from {first} and {} more", rest.len()),
    };
    format!("{}  {known}{from}", repo.name)
}

fn error(failure: &Failure, now: Timestamp) -> String {
    let ago = duration(now.since(failure.at));
    format!("{ago} ago, {}  {}: {}", counted(failure.times, "time"), file_name(&failure.what), failure.why)
}

#[cfg(test)]
mod tests;

//! The parts of the overview, each from facts to markup; one that has nothing to show is empty. The page is made of them,
//! and the same markup replaces them while it is open: there is one place that renders, and one that escapes.

use super::View;
use super::markup::{Column, Escaped, Markup, bytes, duration, number, percent, plural, push, table, text};
use crate::ledger::history::Sums;
use crate::ledger::status::{Failure, Flight, Helper, Member, Popular, Repo};
use crate::os::clock::Timestamp;

/// Rows of errors, of which each node of the site may have a score.
const ERRORS_SHOWN: usize = 30;

/// A part of the overview.
pub(super) struct Section {
    pub(super) id: &'static str,
    /// Empty for one that needs none.
    pub(super) heading: &'static str,
    pub(super) render: fn(&View<'_>) -> Markup,
}

/// In the order of the page.
pub(super) const SECTIONS: [Section; 10] = [
    Section { id: "trouble", heading: "", render: trouble },
    Section { id: "figures", heading: "", render: figures },
    Section { id: "downloads", heading: "Downloads in progress", render: downloads },
    Section { id: "nodes", heading: "Nodes", render: nodes },
    Section { id: "popular", heading: "Popular", render: popular },
    Section { id: "repositories", heading: "Repositories", render: repositories },
    Section { id: "helper", heading: "Helper", render: helpers },
    Section { id: "unreachable", heading: "Unreachable upstreams", render: unreachable },
    Section { id: "errors", heading: "Recent errors", render: errors },
    Section { id: "traffic", heading: "Traffic by the hour", render: traffic },
];

fn trouble(view: &View<'_>) -> Markup {
    let mut out = Markup::new();
    for reason in &view.health.degraded {
        push(&mut out, format_args!("<p class=bad><strong>Degraded.</strong> {}</p>", Escaped(reason)));
    }
    for (node, reason) in view.status.others_degraded() {
        push(
            &mut out,
            format_args!("<p class=bad><strong>{} is degraded.</strong> {}</p>", Escaped(node), Escaped(reason)),
        );
    }
    out
}

/// A number to be seen from afar, with what it means in small.
fn figure(name: &str, value: &str, note: &str) -> Markup {
    format!("<div><dt>{name}</dt><dd>{value}</dd><dd class=note>{note}</dd></div>")
}

fn figures(view: &View<'_>) -> Markup {
    let (cache, history) = (&view.status.cache, &view.status.history_of_site());
    let time = |sums: &Sums| match sums.time_saved() {
        Some(time) if time.as_secs() > 0 => format!("about {} of the uplink", duration(time)),
        _ => "that did not cross the uplink".into(),
    };
    let today = &history.today;
    let mut out = Markup::from("<dl>");
    out += &figure("Saved today", &bytes(today.bytes_saved()), &time(today));
    out += &figure("Saved in total", &bytes(history.total.bytes_saved()), &time(&history.total));
    let asked = format!("of {} today", plural(today.hits + today.misses, "request"));
    out += &figure("Hits by request", &percent(today.hit_ratio()), &asked);
    let sent = format!("of {} today", bytes(today.bytes_to_clients));
    out += &figure("Hits by byte", &percent(today.byte_hit_ratio()), &sent);
    let fill = format!(
        "<meter min=0 max={1} value={0} aria-label=\"Room in use\"></meter> {2} of {3}",
        cache.bytes,
        cache.limit_bytes.max(1),
        plural(cache.objects, "object"),
        bytes(cache.limit_bytes),
    );
    out += &figure("Stored here", &bytes(cache.bytes), &fill);
    let nodes = &view.status.site.nodes;
    if nodes.len() > 1 {
        let (objects, stored) = nodes.iter().fold((0, 0), |(o, b), node| (o + node.objects, b + node.bytes));
        let note = format!("{} on {}", plural(objects, "object"), plural(nodes.len() as u64, "node"));
        out += &figure("Stored in the site", &bytes(stored), &note);
    }
    out + "</dl>"
}

fn downloads(view: &View<'_>) -> Markup {
    use Column::{Head, Number, Text};
    let row = |(node, flight): &(&str, &Flight)| {
        let (done, bar) = match flight.total.filter(|total| *total > 0) {
            Some(total) => (
                format!("{} of {}", bytes(flight.bytes), bytes(total)),
                format!("<progress max={total} value={} aria-label=\"Progress\"></progress>", flight.bytes),
            ),
            None => (bytes(flight.bytes), Markup::new()),
        };
        let mut row = vec![
            file(&flight.url),
            format!("{bar} {done}"),
            format!("{}/s", bytes(flight.rate)),
            number(flight.readers),
            source(flight),
        ];
        row.extend(at(view, node));
        row
    };
    let mut columns = vec![Head("File"), Text("So far"), Number("Rate"), Number("Readers"), Text("From")];
    columns.extend(view.status.has_others().then_some(Text("To")));
    table("Downloads in progress", &columns, &view.status.flights_of_site().iter().map(row).collect::<Vec<_>>())
}

/// Which node it is about, where there are several.
fn at(view: &View<'_>, node: &str) -> Option<Markup> {
    view.status.has_others().then(|| text(node))
}

/// Without a word for what needs none.
fn source(flight: &Flight) -> Markup {
    match flight.origin() {
        (host, "upstream") => text(host),
        (host, what) => format!("{} <small>{what}</small>", Escaped(host)),
    }
}

/// The name in front, the rest of the URL small.
fn file(url: &str) -> Markup {
    let url = url.split('?').next().unwrap_or_default();
    match url.rsplit_once('/') {
        Some((folder, name)) if !name.is_empty() => {
            format!("{}<small>{}/</small>", Escaped(name), Escaped(folder))
        }
        _ => text(url),
    }
}

fn nodes(view: &View<'_>) -> Markup {
    use Column::{Head, Number, Text};
    let own = &view.status.node.id;
    let row = |node: &Member| {
        let name = match (node.id == *own, node.address.is_empty()) {
            (true, _) => format!("{} <small>this node</small>", Escaped(&node.name)),
            (false, true) => text(&node.name),
            (false, false) => format!("<a href=\"http://{}/-/\">{}</a>", Escaped(&node.address), Escaped(&node.name)),
        };
        let state = format!("<span class=\"state {0}\">{0}</span>", Escaped(&node.state));
        vec![
            name,
            state,
            text(&node.address),
            bytes(node.bytes),
            number(node.objects),
            percent(Some(node.load)),
            node.round_trip_ms.map_or_else(|| "–".into(), |ms| format!("{ms:.1} ms")),
        ]
    };
    let columns = [
        Head("Node"),
        Text("State"),
        Text("Address"),
        Number("Stored"),
        Number("Objects"),
        Number("Load"),
        Number("Round trip"),
    ];
    let mut members: Vec<&Member> = view.status.site.nodes.iter().collect();
    members.sort_by_key(|node| (node.id != *own, &node.name));
    table("Nodes of the site", &columns, &members.into_iter().map(row).collect::<Vec<_>>())
}

fn popular(view: &View<'_>) -> Markup {
    let row = |p: &Popular| vec![text(&p.name), format!("{:.1}", p.demand), number(p.copies)];
    let columns = [Column::Head("Package"), Column::Number("Demand"), Column::Number("Copies")];
    table("Popular packages", &columns, &view.status.popular.iter().map(row).collect::<Vec<_>>())
}

fn repositories(view: &View<'_>) -> Markup {
    use Column::{Head, Number, Text};
    let node = &view.status.node.address;
    let row = |repo: &Repo| {
        let made = repo.made();
        // One that is not configured is known by its URL.
        let here = match repo.name.contains('/') {
            true => text(&repo.name),
            false => format!("{0}<small>http://{1}/{0}/</small>", Escaped(&repo.name), Escaped(node)),
        };
        let from = match (&repo.metalink, repo.upstreams.as_slice()) {
            (Some(metalink), all) => format!("{} by {}", plural(all.len() as u64, "mirror"), Escaped(metalink)),
            (None, [first]) => text(first),
            (None, [first, rest @ ..]) => format!("{} and {} more", Escaped(first), rest.len()),
            (None, []) => "–".into(),
        };
        let known = if repo.roots.is_empty() { "–".into() } else { number(repo.packages()) };
        vec![
            here,
            made.map_or_else(|| "–".into(), Timestamp::local_minute),
            made.map_or_else(|| "–".into(), |made| duration(view.now.since(made))),
            known,
            from,
        ]
    };
    let columns = [Head("Repository"), Text("Generation"), Number("Age"), Number("Packages"), Text("Upstream")];
    table("Repositories", &columns, &view.status.repos_of_site().into_iter().map(row).collect::<Vec<_>>())
}

fn helpers(view: &View<'_>) -> Markup {
    let one = |(node, it): (&str, &Helper)| match at(view, node) {
        Some(node) => format!("<h3>{node}</h3>{}", helper(it)),
        None => helper(it),
    };
    view.status.helpers_of_site().into_iter().map(one).collect()
}

fn helper(helper: &Helper) -> Markup {
    let current = helper.current.as_ref().map_or_else(String::new, |current| {
        let left = helper.seconds_left.map_or_else(String::new, |seconds| {
            format!(", {} left", duration(std::time::Duration::from_secs(seconds)))
        });
        format!("<p>{} at {}/s{left}</p>", file(&current.url), bytes(current.rate))
    });
    let missing = helper.missing.iter().take(10).map(|missing| format!("<li>{}</li>", text(missing)));
    let missing: String = missing.collect();
    let missing = match missing.is_empty() {
        true => String::new(),
        false => format!("<p>In no repository that clients use:</p><ul>{missing}</ul>"),
    };
    format!(
        "<p><progress max={} value={} aria-label=\"Packages present\"></progress> {} of {} wanted packages are here; {}.</p>{current}{missing}",
        helper.wanted.max(1),
        helper.present,
        number(helper.present),
        number(helper.wanted),
        text(&helper.doing)
    )
}

fn unreachable(view: &View<'_>) -> Markup {
    let row = |host: &String| {
        let (host, why) = host.split_once(": ").unwrap_or((host, ""));
        vec![text(host), text(why)]
    };
    let columns = [Column::Head("Upstream"), Column::Text("Why")];
    table("Unreachable upstreams", &columns, &view.health.unreachable.iter().map(row).collect::<Vec<_>>())
}

fn errors(view: &View<'_>) -> Markup {
    let row = |(node, failure): &(&str, &Failure)| {
        let ago = format!("{} ago", duration(view.now.since(failure.at)));
        let at = at(view, node).map_or_else(Markup::new, |node| format!("<small>at {node}</small>"));
        vec![file(&failure.what) + &at, text(&failure.why), number(failure.times), ago]
    };
    let columns = [Column::Head("Asked for"), Column::Text("Why"), Column::Number("Times"), Column::Number("Last")];
    let errors = view.status.errors_of_site();
    table("Recent errors", &columns, &errors.iter().take(ERRORS_SHOWN).map(row).collect::<Vec<_>>())
}

/// The chart in numbers, also for who cannot see it.
fn traffic(view: &View<'_>) -> Markup {
    let row = |(at, sums): &(Timestamp, Sums)| {
        vec![
            at.local_minute(),
            bytes(sums.bytes_to_clients),
            bytes(sums.bytes_from_memory + sums.bytes_from_disk),
            bytes(sums.bytes_from_peers),
            bytes(sums.bytes_from_upstream),
            number(sums.requests),
            percent(sums.hit_ratio()),
        ]
    };
    let columns = [
        Column::Head("Hour"),
        Column::Number("To clients"),
        Column::Number("From here"),
        Column::Number("From peers"),
        Column::Number("From upstream"),
        Column::Number("Requests"),
        Column::Number("Hits"),
    ];
    table("Traffic by the hour", &columns, &view.hours.iter().map(row).collect::<Vec<_>>())
}

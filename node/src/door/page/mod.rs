//! The pages for people: the site at a glance, and what to write on a client. Whole without a script; with one the
//! overview is kept up to date and has a chart. No script and no style stands in a page itself, and everything that came
//! from outside is escaped.

mod markup;
mod sections;

use std::collections::BTreeMap;

use serde::Serialize;

use super::recipes::{self, Family};
use crate::ledger::history::{Series, Sums};
use crate::ledger::status::{Health, Status};
use crate::os::clock::Timestamp;
use markup::{Escaped, Markup, duration, push, text};
use sections::SECTIONS;

/// What the overview shows.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    pub status: &'a Status,
    pub health: &'a Health,
    /// Traffic of the last hours, the latest first.
    pub hours: &'a [(Timestamp, Sums)],
    pub now: Timestamp,
}

/// What an open overview is told.
#[derive(Serialize)]
struct Event<'a> {
    /// The parts as they are now, by their ids.
    sections: BTreeMap<&'static str, Markup>,
    up: String,
    /// The end of the last hour's rates.
    recent: &'a Series,
}

/// The overview at `/-/`.
pub(super) fn overview(view: &View<'_>) -> Markup {
    let node = &view.status.node;
    let mut out = begin(&node.name, "Overview", true);
    push(
        &mut out,
        format_args!(
            "<p class=about>imirror {} at {}, up <span id=up>{}</span> <span id=live role=status></span></p>\n\
             <noscript><p class=about>Reload the page for newer numbers.</p></noscript>\n",
            Escaped(&node.version),
            Escaped(&node.address),
            up(view),
        ),
    );
    for section in SECTIONS {
        let body = (section.render)(view);
        let hidden = if body.is_empty() { " hidden" } else { "" };
        match section.heading {
            "" => push(&mut out, format_args!("<div id={}{hidden}><div class=body>{body}</div></div>\n", section.id)),
            heading => push(
                &mut out,
                format_args!(
                    "<section id={0} aria-labelledby={0}-heading{hidden}><h2 id={0}-heading>{heading}</h2>\
                     <div class=body>{body}</div></section>\n",
                    section.id
                ),
            ),
        }
        if section.id == "figures" {
            out += CHART;
        }
    }
    out + END
}

/// The script shows it.
const CHART: &str = "\
<section id=chart aria-labelledby=chart-heading hidden><h2 id=chart-heading>Traffic by source</h2>\
<div class=spans role=group aria-label=\"Time shown\">\
<button type=button data-span=hour aria-pressed=true>Hour</button>\
<button type=button data-span=days aria-pressed=false>Two days</button>\
<button type=button data-span=month aria-pressed=false>Month</button></div>\
<div id=plot></div><p class=unseen>The same in numbers is at the end of the page.</p></section>\n";

/// What an open overview is told, as JSON.
pub fn event(view: &View<'_>, recent: &Series) -> String {
    let sections = SECTIONS.into_iter().map(|section| (section.id, (section.render)(view))).collect();
    serde_json::to_string(&Event { sections, up: up(view), recent }).unwrap_or_default()
}

fn up(view: &View<'_>) -> String {
    duration(view.now.since(view.status.node.started))
}

/// The page at `/-/clients`: what to write on a client. `address` is this node as the reader has reached it.
pub(super) fn clients(status: &Status, address: &str) -> Markup {
    let mut out = begin(&status.node.name, "Set up a client", false);
    push(
        &mut out,
        format_args!(
            "<p class=lead>Copy the lines for your distribution; they name this node as <strong>{0}</strong>. Whatever comes \
             through it crosses the uplink once for all.</p>\n\
             <section aria-labelledby=any><h2 id=any>Anything, for one command</h2>\
             <pre tabindex=0><code>export http_proxy=http://{0}</code></pre></section>\n",
            Escaped(address)
        ),
    );
    for family in Family::ALL {
        let id = format!("{family:?}").to_lowercase();
        push(
            &mut out,
            format_args!(
                "<section aria-labelledby={id}><h2 id={id}>{}</h2><pre tabindex=0><code>{}</code></pre></section>\n",
                text(family.title()),
                // Ours, but for the address, which is short: it is escaped and not cut.
                recipes::recipe(family, &text(address)).trim_end()
            ),
        );
    }
    if !status.repos.is_empty() {
        let urls: String =
            (status.repos.iter()).map(|r| format!("http://{}/{}/\n", Escaped(address), Escaped(&r.name))).collect();
        push(
            &mut out,
            format_args!(
                "<section aria-labelledby=repos><h2 id=repos>Repositories that this node mirrors</h2>\
                 <pre tabindex=0><code>{}</code></pre></section>\n",
                urls.trim_end()
            ),
        );
    }
    push(
        &mut out,
        format_args!(
            "<section aria-labelledby=lists><h2 id=lists>Lists of all nodes, for clients that choose</h2>\
             <p>HOST/PATH is the mirror that you use now. The lists name the live nodes, the least busy first, and end with \
             the mirror itself, so that nothing fails when the nodes are gone.</p>\
             <pre tabindex=0><code># dnf: metalink=\nhttp://{0}/-/metalink/HOST/PATH\n\n# apt: mirror+http: in place of http:\n\
             http://{0}/-/mirrors/HOST/PATH.txt\n\n# browsers and desktops: automatic proxy configuration\n\
             http://{0}/-/proxy.pac</code></pre></section>\n",
            Escaped(address)
        ),
    );
    out + END
}

fn begin(name: &str, title: &str, overview: bool) -> Markup {
    let here = |is: bool| if is { " aria-current=page" } else { "" };
    let chart = match overview {
        true => "<link rel=stylesheet href=/-/assets/uplot.css><script src=/-/assets/uplot.js defer></script>",
        false => "",
    };
    format!(
        "<!doctype html>\n<html lang=en><head><meta charset=utf-8>\
         <meta name=viewport content=\"width=device-width, initial-scale=1\">\
         <meta name=color-scheme content=\"light dark\"><title>{title}, {0}: imirror</title>\
         <link rel=icon href=/-/assets/icon.svg type=image/svg+xml>{chart}\
         <link rel=stylesheet href=/-/assets/page.css><script src=/-/assets/page.js defer></script></head>\n\
         <body><a class=skip href=#main>Skip to the content</a>\n\
         <header><p class=brand><img src=/-/assets/icon.svg alt=\"\" width=24 height=24>imirror</p>\
         <nav aria-label=Pages><a href=/-/{1}>Overview</a><a href=/-/clients{2}>Set up a client</a></nav></header>\n\
         <main id=main tabindex=-1><h1>{3}</h1>\n",
        Escaped(name),
        here(overview),
        here(!overview),
        if overview { text(name) } else { title.to_owned() },
    )
}

const END: &str = "</main>\n<footer><nav aria-label=\"For programs\"><a href=/-/api/status>Status</a>\
<a href=/-/metrics>Metrics</a><a href=/-/health>Health</a></nav></footer></body></html>\n";

#[cfg(test)]
mod tests;

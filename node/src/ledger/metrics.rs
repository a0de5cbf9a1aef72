//! The counters as Prometheus text (exposition format 0.0.4): base units, `_total` for what only grows.

use std::fmt::{Display, Write};

use super::counters::Amount;
use super::outcome::{Outcome, Subject};
use super::status::{Health, Status};
use super::{Ledger, locked};
use crate::os::process;

/// What is counted between the nodes of the site, since the start.
#[derive(Debug, Clone, Copy, Default)]
pub struct SiteCounts {
    pub handshakes_refused: u64,
    pub frames_received: u64,
    pub frames_sent: u64,
    pub misbehaved: u64,
    pub noise: u64,
}

/// The page for `/-/metrics`.
pub fn render(ledger: &Ledger, status: &Status, health: &Health, site: SiteCounts) -> String {
    let mut page = Page(String::with_capacity(8 * 1024));
    info(&mut page, status, health);
    repositories(&mut page, status);
    between_nodes(&mut page, site);
    requests(&mut page, ledger);
    bytes(&mut page, ledger);
    events(&mut page, ledger);
    resources(&mut page);
    page.0
}

fn info(page: &mut Page, status: &Status, health: &Health) {
    let node = &status.node;
    page.family("imirror_info", "gauge", "The node; always 1.");
    page.sample(&[("name", &node.name), ("id", &node.id), ("version", &node.version)], 1);
    page.family("imirror_start_time_seconds", "gauge", "When the node started, since 1970.");
    page.sample(&[], node.started.0 as f64 / 1000.0);
    page.family("imirror_cache_objects", "gauge", "Objects in the store.");
    page.sample(&[], status.cache.objects);
    page.family("imirror_cache_bytes", "gauge", "Bytes in the store.");
    page.sample(&[], status.cache.bytes);
    page.family("imirror_cache_limit_bytes", "gauge", "Bytes that the store may hold.");
    page.sample(&[], status.cache.limit_bytes);
    page.family("imirror_flights", "gauge", "Downloads in progress.");
    page.sample(&[], status.flights.len());
    page.family("imirror_flight_readers", "gauge", "Clients and peers that read a download in progress.");
    page.sample(&[], status.flights.iter().map(|flight| flight.readers).sum::<u64>());
    page.family("imirror_site_nodes", "gauge", "Nodes of the site that are alive.");
    page.sample(&[], status.site.nodes.iter().filter(|n| n.state == "alive").count());
    page.family("imirror_degraded", "gauge", "Reasons why the node does less than it should.");
    page.sample(&[], health.degraded.len());
    page.family("imirror_upstreams_unreachable", "gauge", "Hosts remembered as unreachable.");
    page.sample(&[], health.unreachable.len());
}

/// What repositories say, and what has been fetched ahead.
fn repositories(page: &mut Page, status: &Status) {
    let roots = || status.repos.iter().flat_map(|repo| &repo.roots);
    page.family("imirror_repo_packages", "gauge", "Files in the lists of a repository that have been read.");
    roots().for_each(|root| page.sample(&[("root", &root.url)], root.packages));
    page.family("imirror_repo_made_timestamp_seconds", "gauge", "When the current generation was made, as it says.");
    for (root, made) in roots().filter_map(|root| Some((root, root.made?))) {
        page.sample(&[("root", &root.url)], made);
    }
    page.family("imirror_repo_switched_timestamp_seconds", "gauge", "Since when the current generation is served.");
    roots().for_each(|root| page.sample(&[("root", &root.url)], root.since.unix_seconds()));
    let helper = &status.helper;
    for (name, help, value) in [
        ("imirror_helper_wanted_packages", "Packages that the helper wants to have.", helper.wanted),
        ("imirror_helper_present_packages", "Those of them that the site has.", helper.present),
        ("imirror_helper_wanted_bytes", "Bytes that the helper wants to have.", helper.bytes_wanted),
        ("imirror_helper_present_bytes", "Those of them that the site has.", helper.bytes_present),
        ("imirror_helper_failed_packages", "Packages that could not be had when last tried.", helper.failed),
    ] {
        page.family(name, "gauge", help);
        page.sample(&[], value);
    }
}

fn between_nodes(page: &mut Page, site: SiteCounts) {
    let families = [
        ("imirror_handshakes_refused_total", "Connections of nodes that were not let in.", site.handshakes_refused),
        ("imirror_frames_received_total", "Messages from other nodes.", site.frames_received),
        ("imirror_frames_sent_total", "Messages to other nodes.", site.frames_sent),
        ("imirror_misbehaved_total", "How often a node did what no sound node does.", site.misbehaved),
        ("imirror_noise_packets_total", "UDP packets that were of no node.", site.noise),
    ];
    for (name, help, count) in families {
        page.family(name, "counter", help);
        page.sample(&[], count);
    }
}

fn requests(page: &mut Page, ledger: &Ledger) {
    page.family("imirror_requests_total", "counter", "Requests that are over, by outcome and class.");
    for outcome in Outcome::ALL {
        for subject in Subject::ALL {
            let count = ledger.counters.requests(outcome, subject);
            // Most pairs never occur; a family of zeros helps nobody.
            if count > 0 {
                page.sample(&[("outcome", outcome.word()), ("class", subject.word())], count);
            }
        }
    }
    page.family("imirror_faults_total", "counter", "Faults by their cause.");
    for (label, count) in ledger.faults().iter() {
        page.sample(&[("cause", label)], count);
    }
    page.family("imirror_icp_answers_total", "counter", "Questions of ICP by their answer.");
    for (word, count) in locked(&ledger.icp_answers).iter() {
        page.sample(&[("answer", word)], count);
    }
    page.family("imirror_icp_refused_total", "counter", "Datagrams that were no questions of ICP, by what is wrong.");
    for (word, count) in locked(&ledger.icp_refused).iter() {
        page.sample(&[("reason", word)], count);
    }
}

fn bytes(page: &mut Page, ledger: &Ledger) {
    page.family("imirror_sent_bytes_total", "counter", "Bytes of bodies sent to clients, by class.");
    for subject in Subject::ALL {
        page.sample(&[("class", subject.word())], ledger.counters.bytes_to_clients(subject));
    }
    page.family("imirror_source_bytes_total", "counter", "Bytes of bodies by where they came from.");
    let sources = [
        ("memory", Amount::BytesFromMemory),
        ("disk", Amount::BytesFromDisk),
        ("peers", Amount::BytesFromPeers),
        ("upstream", Amount::BytesFromUpstream),
    ];
    for (source, amount) in sources {
        page.sample(&[("source", source)], ledger.counters.amount(amount));
    }
    let families = [
        ("imirror_peers_sent_bytes_total", "Bytes of objects sent to peers.", Amount::BytesToPeers),
        ("imirror_tunnel_bytes_total", "Bytes through tunnels, both ways.", Amount::BytesTunnelled),
        ("imirror_evicted_bytes_total", "Bytes dropped for want of room.", Amount::BytesEvicted),
    ];
    for (name, help, amount) in families {
        page.family(name, "counter", help);
        page.sample(&[], ledger.counters.amount(amount));
    }
}

fn events(page: &mut Page, ledger: &Ledger) {
    let families = [
        ("imirror_revalidations_total", "Questions to upstream whether an object is current.", Amount::Revalidations),
        ("imirror_client_aborts_total", "Clients that went before their answer was complete.", Amount::ClientAborts),
        ("imirror_evictions_total", "Objects dropped for want of room.", Amount::Evictions),
    ];
    for (name, help, amount) in families {
        page.family(name, "counter", help);
        page.sample(&[], ledger.counters.amount(amount));
    }
    page.family("imirror_access_log_dropped_total", "counter", "Lines of the access log that were lost.");
    page.sample(&[], ledger.access_log().map_or(0, |log| log.dropped()));
}

/// By the names that every exporter has for them.
fn resources(page: &mut Page) {
    let usage = process::usage();
    page.family("process_cpu_seconds_total", "counter", "Processor time of all threads.");
    page.sample(&[], usage.cpu_seconds);
    page.family("process_resident_memory_bytes", "gauge", "Memory in use, mapped files included.");
    page.sample(&[], usage.resident_bytes);
    page.family("process_open_fds", "gauge", "Open files and connections.");
    page.sample(&[], usage.open_files);
    page.family("process_max_fds", "gauge", "Files and connections that may be open.");
    page.sample(&[], usage.open_files_max);
}

/// Text that grows by families and samples. A family's name stands before its samples.
struct Page(String);

impl Page {
    fn family(&mut self, name: &'static str, kind: &str, help: &str) {
        // Writing to a `String` cannot fail.
        let _ = write!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    /// A sample of the family that was begun last.
    fn sample(&mut self, labels: &[(&str, &str)], value: impl Display) {
        let name = match self.0.rfind("# TYPE ") {
            Some(at) => self.0[at + 7..].split(' ').next().unwrap_or_default().to_owned(),
            None => return,
        };
        self.0.push_str(&name);
        for (i, (label, text)) in labels.iter().enumerate() {
            let text = text.replace('\\', r"\\").replace('"', "\\\"").replace('\n', r"\n");
            let open = if i == 0 { '{' } else { ',' };
            let _ = write!(self.0, "{open}{label}=\"{text}\"");
        }
        let close = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(self.0, "{close} {value}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::{Origin, Subject};

    #[test]
    fn every_sample_stands_under_its_family() {
        let ledger = Ledger::new(None);
        ledger.sent(Subject::Package, Origin::Memory, 7);
        ledger.received_from_upstream(9);
        ledger.icp_answered("hit");
        ledger.icp_refused("malformed");
        ledger.failed(crate::os::clock::Timestamp(0), "/x", &crate::fault::Fault::bad_request("x"));
        let mut status = Status::example();
        status.node.name = "a\"b".into();
        let page = render(&ledger, &status, &Health::default(), SiteCounts::default());
        let mut family = "";
        for line in page.lines() {
            match line.strip_prefix("# TYPE ") {
                Some(rest) => family = rest.split(' ').next().unwrap(),
                None if line.starts_with('#') => {}
                None => {
                    assert!(line.starts_with(family), "{line}");
                    let (_, value) = line.rsplit_once(' ').unwrap();
                    value.parse::<f64>().unwrap();
                }
            }
        }
        for line in [
            "imirror_info{name=\"a\\\"b\",id=\"b1946ac92492d234\",version=\"0.1.0\"} 1",
            "imirror_sent_bytes_total{class=\"package\"} 7",
            "imirror_source_bytes_total{source=\"memory\"} 7",
            "imirror_source_bytes_total{source=\"upstream\"} 9",
            "imirror_faults_total{cause=\"bad-request\"} 1",
            "imirror_icp_answers_total{answer=\"hit\"} 1",
            "imirror_icp_refused_total{reason=\"malformed\"} 1",
            "imirror_flights 1",
        ] {
            assert!(page.lines().any(|l| l == line), "{line} is not in\n{page}");
        }
    }
}

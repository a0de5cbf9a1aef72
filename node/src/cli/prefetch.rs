//! `imirror prefetch`: what the helper has and lacks, a round at once, and packages from a folder.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::Subcommand;

use super::progress::Progress;
use super::screen::{bytes, duration};
use super::{Output, ask, print};
use crate::door::pages::encoded;
use crate::ledger::status::{Helper, Import, Prefetch, Status};

#[derive(Debug, Subcommand)]
pub(super) enum PrefetchVerb {
    /// Look for new versions and fetch what is wanted now, whatever the hour; shows how far it comes.
    Run(Output),
    /// Show what the helper wants to have, what counts most first.
    List(Output),
    /// Show what the helper does.
    Status(Output),
    /// Take packages from a folder: a medium, or what a client has kept. Each is checked against what its repository says.
    Import {
        folder: PathBuf,
        #[command(flatten)]
        output: Output,
    },
}

/// Of files that were not taken.
const LINES_MAX: usize = 10;

/// Something could not be had, or was not what it has to be.
const NOT_ALL: u8 = 4;

pub(super) fn dispatch(verb: PrefetchVerb, node: &Path) -> anyhow::Result<ExitCode> {
    match verb {
        PrefetchVerb::Run(output) => {
            let helper = run(node, output)?;
            print(&helper, output, status)?;
            return Ok(ExitCode::from(if helper.failed == 0 && helper.missing.is_empty() { 0 } else { NOT_ALL }));
        }
        PrefetchVerb::List(output) => {
            let prefetches: Vec<Prefetch> = ask(node, "GET", "/-/api/prefetch")?;
            print(&prefetches, output, |prefetches| list(prefetches))?;
        }
        PrefetchVerb::Status(output) => {
            let node: Status = ask(node, "GET", "/-/api/status")?;
            print(&node.helper, output, status)?;
        }
        PrefetchVerb::Import { folder, output } => {
            let report = import(node, &folder, output)?;
            print(&report, output, imported)?;
            return Ok(ExitCode::from(match report {
                Import { error: Some(_), .. } => 1,
                Import { refused_total: 0, .. } => 0,
                _ => NOT_ALL,
            }));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Lets the helper work and waits for it. An end of this program is no end of that.
fn run(node: &Path, output: Output) -> anyhow::Result<Helper> {
    let until: u64 = ask(node, "POST", "/-/api/prefetch")?;
    let mut progress = Progress::new();
    loop {
        let status: Status = ask(node, "GET", "/-/api/status")?;
        let helper = status.helper;
        if helper.rounds >= until {
            progress.end();
            return Ok(helper);
        }
        if !output.json {
            let done = helper.bytes_present + helper.current.as_ref().map_or(0, |current| current.bytes);
            progress.show(done, helper.bytes_wanted, &line(&helper));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Has the node take a folder's packages and waits for it.
fn import(node: &Path, folder: &Path, output: Output) -> anyhow::Result<Import> {
    let folder = folder.canonicalize().with_context(|| format!("cannot find {}", folder.display()))?;
    let folder = folder.to_str().with_context(|| format!("{} is no UTF-8", folder.display()))?;
    let mut report: Import = ask(node, "POST", &format!("/-/api/import?{}", encoded(folder)))?;
    let mut progress = Progress::new();
    while !report.finished {
        std::thread::sleep(Duration::from_millis(50));
        report = ask(node, "GET", "/-/api/import")?;
        if !output.json {
            let text = format!("{} of {} files, {} imported", report.files, report.files_total, report.imported);
            progress.show(report.files, report.files_total, &text);
        }
    }
    progress.end();
    Ok(report)
}

/// A bar, how much, how fast and how long still.
fn line(helper: &Helper) -> String {
    let Some(current) = &helper.current else {
        return format!("{} ({} of {} packages here)", helper.doing, helper.present, helper.wanted);
    };
    let done = helper.bytes_present + current.bytes;
    let left = helper
        .seconds_left
        .map_or_else(String::new, |seconds| format!(", {} left", duration(Duration::from_secs(seconds))));
    let name = current.url.rsplit('/').next().unwrap_or_default();
    format!(
        "{} {} of {}, {}/s{left}  {name}",
        bar(done, helper.bytes_wanted),
        bytes(done),
        bytes(helper.bytes_wanted),
        bytes(current.rate)
    )
}

/// `[#####-----]`.
fn bar(done: u64, total: u64) -> String {
    const WIDTH: u64 = 20;
    let filled = (done.saturating_mul(WIDTH) / total.max(1)).min(WIDTH) as usize;
    format!("[{}{}]", "#".repeat(filled), "-".repeat(WIDTH as usize - filled))
}

fn status(helper: &Helper) -> String {
    let mut screen = format!(
        "{}: {} of {} packages here, {} of {}",
        helper.doing,
        helper.present,
        helper.wanted,
        bytes(helper.bytes_present),
        bytes(helper.bytes_wanted)
    );
    if helper.failed > 0 {
        // Writing to a `String` cannot fail, here and below.
        let _ = write!(screen, "; {} could not be had, `imirror prefetch list` says why", helper.failed);
    }
    screen.push('\n');
    if let Some(current) = &helper.current {
        let total = current.total.map_or_else(String::new, |total| format!(" of {}", bytes(total)));
        let _ = writeln!(screen, "now: {}{total}, {}/s  {}", bytes(current.bytes), bytes(current.rate), current.url);
    }
    if helper.is_cut {
        screen.push_str("there is more than a quarter of the cache takes: what counts least is left out\n");
    }
    if !helper.missing.is_empty() {
        screen.push_str("not in any repository that clients use:\n");
    }
    for missing in helper.missing.iter().take(LINES_MAX) {
        let _ = writeln!(screen, "  {missing}");
    }
    if helper.missing.len() > LINES_MAX {
        let _ = writeln!(screen, "  and {} more", helper.missing.len() - LINES_MAX);
    }
    screen
}

fn list(prefetches: &[Prefetch]) -> String {
    if prefetches.is_empty() {
        return "the helper wants nothing\n".into();
    }
    let width = |field: fn(&Prefetch) -> &str| prefetches.iter().map(|it| field(it).chars().count()).max().unwrap_or(0);
    let (name, version) = (width(|it| &it.name), width(|it| &it.version));
    let line = |it: &Prefetch| {
        let error = it.error.as_ref().map_or_else(String::new, |error| format!("  {error}"));
        let size = bytes(it.bytes);
        format!("{:<8}  {:<7}  {:<name$}  {:<version$}  {size:>10}{error}\n", it.state, it.why, it.name, it.version)
    };
    prefetches.iter().map(line).collect()
}

fn imported(report: &Import) -> String {
    if let Some(error) = &report.error {
        return format!("nothing was imported: {error}\n");
    }
    let mut screen = format!(
        "{} files: {} imported ({}), {} here already, {} that no repository in use names, {} refused\n",
        report.files_total,
        report.imported,
        bytes(report.bytes),
        report.known,
        report.unknown,
        report.refused_total
    );
    for refused in report.refused.iter().take(LINES_MAX) {
        let _ = writeln!(screen, "  {refused}");
    }
    screen
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::status::Flight;

    fn helper() -> Helper {
        let url = "http://example.org/d/pool/vlc_3_amd64.deb".into();
        let (total, source) = (Some(20 << 20), "example.org".into());
        Helper {
            enabled: true,
            doing: "fetching".into(),
            wanted: 12,
            present: 7,
            bytes_wanted: 100 << 20,
            bytes_present: 40 << 20,
            failed: 1,
            current: Some(Flight { url, bytes: 10 << 20, total, readers: 0, source, rate: 2 << 20 }),
            seconds_left: Some(25),
            missing: vec!["vcl".into(), "libx (needed by vlc, bookworm amd64)".into()],
            ..Helper::default()
        }
    }

    #[test]
    fn what_people_see() {
        assert_eq!(
            line(&helper()),
            "[##########----------] 50.0 MiB of 100.0 MiB, 2.0 MiB/s, 25 s left  vlc_3_amd64.deb"
        );
        let looking = Helper { doing: "looking for new metadata".into(), ..Helper::default() };
        assert_eq!(line(&looking), "looking for new metadata (0 of 0 packages here)");
        assert_eq!(
            status(&helper()),
            "fetching: 7 of 12 packages here, 40.0 MiB of 100.0 MiB; 1 could not be had, `imirror prefetch list` says why\n\
             now: 10.0 MiB of 20.0 MiB, 2.0 MiB/s  http://example.org/d/pool/vlc_3_amd64.deb\n\
             not in any repository that clients use:\n  vcl\n  libx (needed by vlc, bookworm amd64)\n"
        );
        let prefetch = |name: &str, state: &str, error: Option<&str>| Prefetch {
            name: name.into(),
            version: "3".into(),
            bytes: 2048,
            url: String::new(),
            why: "listed".into(),
            state: state.into(),
            error: error.map(ToOwned::to_owned),
        };
        let both = [prefetch("vlc:amd64", "present", None), prefetch("mc:all", "failed", Some("it is gone"))];
        assert_eq!(
            list(&both),
            "present   listed   vlc:amd64  3     2.0 KiB\nfailed    listed   mc:all     3     2.0 KiB  it is gone\n"
        );
        assert_eq!(list(&[]), "the helper wants nothing\n");
        let report = Import {
            files_total: 9,
            imported: 2,
            bytes: 4096,
            known: 3,
            unknown: 3,
            refused_total: 1,
            ..Import::default()
        };
        let expected =
            "9 files: 2 imported (4.0 KiB), 3 here already, 3 that no repository in use names, 1 refused\n  /a: torn\n";
        assert_eq!(imported(&Import { refused: vec!["/a: torn".into()], ..report }), expected);
    }
}

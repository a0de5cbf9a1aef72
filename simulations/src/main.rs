//! Runs scenarios and prints the table; writes JSON and charts where it is told to.
//!
//! `imirror-simulations [--nodes 10,100] [--seeds 3] [--scenario NAME,NAME|none] [--with results.json] [--out FOLDER]`

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use imirror_simulations::report::{Series, by_size, chart, table};
use imirror_simulations::scenarios::{ALL, Outcome};

struct Wishes {
    nodes: Vec<usize>,
    seeds: std::ops::Range<u64>,
    /// Some, or all.
    scenarios: Option<Vec<String>>,
    /// Results of earlier runs, to be reported with those of this one.
    with: Vec<PathBuf>,
    out: Option<PathBuf>,
}

fn main() -> ExitCode {
    let wishes = match wishes(std::env::args().skip(1)) {
        Ok(wishes) => wishes,
        Err(problem) => {
            eprintln!("{problem}");
            eprintln!(
                "usage: imirror-simulations [--nodes 10,100] [--seeds COUNT|FROM..TO] [--scenario NAME,NAME|none] [--with FILE,FILE] [--out FOLDER]"
            );
            return ExitCode::from(2);
        }
    };
    let mut outcomes = Vec::new();
    for file in &wishes.with {
        match read(file) {
            Ok(some) => outcomes.extend(some),
            Err(problem) => {
                eprintln!("can't read {}: {problem}", file.display());
                return ExitCode::FAILURE;
            }
        }
    }
    let is_wished = |name: &str| wishes.scenarios.as_ref().is_none_or(|wishes| wishes.iter().any(|wish| wish == name));
    for (name, scenario) in ALL.iter().filter(|(name, _)| is_wished(name)) {
        for nodes in &wishes.nodes {
            for seed in wishes.seeds.clone() {
                let outcome = scenario(*nodes, seed);
                let verdict = if outcome.wrongs.is_empty() { "ok" } else { "WRONG" };
                eprintln!("{verdict:>5}  {name}, {nodes} nodes, seed {seed}");
                outcome.wrongs.iter().for_each(|wrong| eprintln!("       {wrong}"));
                outcomes.push(outcome);
            }
        }
    }
    println!("{}", table(&outcomes));
    if let Some(folder) = &wishes.out
        && let Err(problem) = write(folder, &outcomes)
    {
        eprintln!("can't write to {}: {problem}", folder.display());
        return ExitCode::FAILURE;
    }
    if outcomes.iter().all(|outcome| outcome.wrongs.is_empty()) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn wishes(mut words: impl Iterator<Item = String>) -> Result<Wishes, String> {
    let mut wishes = Wishes { nodes: vec![10, 100], seeds: 0..1, scenarios: None, with: Vec::new(), out: None };
    while let Some(word) = words.next() {
        let value = words.next().ok_or_else(|| format!("{word} needs a value"))?;
        let number = |text: &str| text.parse::<u64>().map_err(|_| format!("{text} is no number"));
        match word.as_str() {
            "--nodes" => {
                let sizes = value.split(',').map(|size| number(size).map(|size| size.clamp(3, 4000) as usize));
                wishes.nodes = sizes.collect::<Result<_, _>>()?;
            }
            "--seeds" => {
                wishes.seeds = match value.split_once("..") {
                    Some((from, to)) => number(from)?..number(to)?,
                    None => 0..number(&value)?,
                };
            }
            "--scenario" => {
                let known = |name: &str| name == "none" || ALL.iter().any(|(known, _)| *known == name);
                if let Some(unknown) = value.split(',').find(|name| !known(name)) {
                    return Err(format!("there is no scenario {unknown}"));
                }
                wishes.scenarios = Some(value.split(',').map(String::from).collect());
            }
            "--with" => wishes.with = value.split(',').map(PathBuf::from).collect(),
            "--out" => wishes.out = Some(value.into()),
            _ => return Err(format!("what is {word}?")),
        }
    }
    Ok(wishes)
}

fn read(file: &Path) -> std::io::Result<Vec<Outcome>> {
    Ok(serde_json::from_slice(&std::fs::read(file)?)?)
}

fn write(folder: &Path, outcomes: &[Outcome]) -> std::io::Result<()> {
    std::fs::create_dir_all(folder)?;
    std::fs::write(folder.join("results.json"), serde_json::to_string(outcomes)?)?;
    for (file, title, across, up, series) in charts(outcomes) {
        if series.iter().any(|line| !line.points.is_empty()) {
            std::fs::write(folder.join(file), chart(title, across, up, &series))?;
        }
    }
    Ok(())
}

/// File, title, what the axes show, and the lines.
type Chart = (&'static str, &'static str, &'static str, &'static str, Vec<Series>);

fn charts(outcomes: &[Outcome]) -> Vec<Chart> {
    let of = |scenario: &str| -> Vec<Series> {
        let first_seed = outcomes.iter().map(|outcome| outcome.seed).min();
        let shown = |outcome: &&Outcome| outcome.scenario == scenario && Some(outcome.seed) == first_seed;
        outcomes.iter().filter(shown).flat_map(|outcome| outcome.series.clone()).collect()
    };
    let starts = |names: &[&str]| names.iter().map(|name| by_size(outcomes, "cold start", name)).collect();
    vec![
        ("cold-start.svg", "Who knows whom after a cold start", "seconds", "share of all pairs", of("cold start")),
        (
            "release-day.svg",
            "Bytes sent by each node on a release day",
            "nodes, least busy first",
            "times the mean",
            of("release day"),
        ),
        (
            "convergence.svg",
            "How long it takes until all know",
            "nodes",
            "seconds",
            starts(&["membership s", "stored object known to all s"]),
        ),
        (
            "gossip.svg",
            "Gossip of an idle site",
            "nodes",
            "bytes a second and node",
            starts(&["gossip after the start B/s/node", "idle gossip B/s/node"]),
        ),
    ]
}

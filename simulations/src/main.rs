//! Runs scenarios and prints the table; writes JSON and charts where it is told to.
//!
//! `imirror-simulations [--nodes 10,100] [--seeds 3] [--scenario NAME] [--out FOLDER]`

use std::path::PathBuf;
use std::process::ExitCode;

use imirror_simulations::report::{Series, chart, table};
use imirror_simulations::scenarios::{ALL, Outcome};

struct Wishes {
    nodes: Vec<usize>,
    seeds: std::ops::Range<u64>,
    scenario: Option<String>,
    out: Option<PathBuf>,
}

fn main() -> ExitCode {
    let wishes = match wishes(std::env::args().skip(1)) {
        Ok(wishes) => wishes,
        Err(problem) => {
            eprintln!("{problem}");
            eprintln!(
                "usage: imirror-simulations [--nodes 10,100] [--seeds COUNT|FROM..TO] [--scenario NAME] [--out FOLDER]"
            );
            return ExitCode::from(2);
        }
    };
    let mut outcomes = Vec::new();
    for (name, scenario) in ALL.iter().filter(|(name, _)| wishes.scenario.as_deref().is_none_or(|wish| wish == *name)) {
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
    let mut wishes = Wishes { nodes: vec![10, 100], seeds: 0..1, scenario: None, out: None };
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
            "--scenario" => wishes.scenario = Some(value),
            "--out" => wishes.out = Some(value.into()),
            _ => return Err(format!("what is {word}?")),
        }
    }
    Ok(wishes)
}

fn write(folder: &std::path::Path, outcomes: &[Outcome]) -> std::io::Result<()> {
    std::fs::create_dir_all(folder)?;
    std::fs::write(folder.join("results.json"), serde_json::to_string_pretty(outcomes)?)?;
    let of = |scenario: &str| -> Vec<Series> {
        let first_seed = outcomes.iter().map(|outcome| outcome.seed).min();
        let shown = |outcome: &&Outcome| outcome.scenario == scenario && Some(outcome.seed) == first_seed;
        outcomes.iter().filter(shown).flat_map(|outcome| outcome.series.clone()).collect()
    };
    let charts = [
        ("cold start", "cold-start.svg", "Who knows whom after a cold start", "seconds", "share of all pairs"),
        (
            "release day",
            "release-day.svg",
            "Bytes sent by each node on a release day",
            "nodes, least busy first",
            "times the mean",
        ),
    ];
    for (scenario, file, title, across, up) in charts {
        let series = of(scenario);
        if !series.is_empty() {
            std::fs::write(folder.join(file), chart(title, across, up, &series))?;
        }
    }
    Ok(())
}

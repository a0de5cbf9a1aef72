//! Results for people and programs: a table, JSON, and line charts as SVG.

use std::collections::BTreeSet;
use std::fmt::Write;

use serde::{Deserialize, Serialize};

use crate::scenarios::Outcome;

/// A line of a chart.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Series {
    /// What it shows.
    pub name: String,
    /// From left to right.
    pub points: Vec<(f64, f64)>,
}

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 400.0;
const MARGIN: f64 = 60.0;
const COLOURS: [&str; 6] = ["#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377"];

/// A line chart. Both axes begin at zero.
pub fn chart(title: &str, across: &str, up: &str, series: &[Series]) -> String {
    let points = || series.iter().flat_map(|line| &line.points);
    let right = points().map(|(x, _)| *x).fold(f64::MIN_POSITIVE, f64::max);
    let top = points().map(|(_, y)| *y).fold(f64::MIN_POSITIVE, f64::max);
    let x = |value: f64| MARGIN + value / right * (WIDTH - 2.0 * MARGIN);
    let y = |value: f64| HEIGHT - MARGIN - value / top * (HEIGHT - 2.0 * MARGIN);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n<text x=\"{MARGIN}\" y=\"30\" font-size=\"16\">{}</text>\n",
        escaped(title)
    );
    for step in 0..=4 {
        let (across_value, up_value) = (right * f64::from(step) / 4.0, top * f64::from(step) / 4.0);
        let (left, bottom) = (x(across_value), y(up_value));
        let _ = writeln!(
            svg,
            "<line x1=\"{MARGIN}\" x2=\"{}\" y1=\"{bottom:.1}\" y2=\"{bottom:.1}\" stroke=\"#ddd\"/>\
             <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{up_value:.2}</text>\
             <text x=\"{left:.1}\" y=\"{}\" text-anchor=\"middle\">{across_value:.2}</text>",
            WIDTH - MARGIN,
            MARGIN - 6.0,
            bottom + 4.0,
            HEIGHT - MARGIN + 18.0,
        );
    }
    let _ = writeln!(
        svg,
        "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">{}</text>\n<text x=\"{MARGIN}\" y=\"50\">{}</text>",
        WIDTH / 2.0,
        HEIGHT - 15.0,
        escaped(across),
        escaped(up)
    );
    for (line, colour) in series.iter().zip(COLOURS.iter().cycle()) {
        let path: Vec<String> =
            line.points.iter().map(|(left, bottom)| format!("{:.1},{:.1}", x(*left), y(*bottom))).collect();
        let _ = writeln!(
            svg,
            "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\" points=\"{}\"/>",
            path.join(" ")
        );
    }
    for (place, (line, colour)) in series.iter().zip(COLOURS.iter().cycle()).enumerate() {
        let level = 70.0 + 16.0 * place as f64;
        let _ = writeln!(
            svg,
            "<text x=\"{}\" y=\"{level}\" fill=\"{colour}\">{}</text>",
            WIDTH - 240.0,
            escaped(&line.name)
        );
    }
    svg.push_str("</svg>\n");
    svg
}

/// A table in Markdown: a row for each figure of each scenario, a column for each size.
pub fn table(outcomes: &[Outcome]) -> String {
    let mut sizes: Vec<usize> = outcomes.iter().map(|outcome| outcome.nodes).collect();
    sizes.sort_unstable();
    sizes.dedup();
    let mut rows: Vec<(&str, &str)> = Vec::new();
    for outcome in outcomes {
        for name in outcome.figures.keys() {
            if !rows.contains(&(&outcome.scenario, name)) {
                rows.push((&outcome.scenario, name));
            }
        }
    }
    let heads: Vec<String> = sizes.iter().map(|size| format!("{size} nodes")).collect();
    let mut text = format!("| scenario | figure | {} |\n|---|---|{}\n", heads.join(" | "), "---|".repeat(sizes.len()));
    for (scenario, name) in rows {
        let cells: Vec<String> = sizes.iter().map(|size| cell(outcomes, scenario, name, *size)).collect();
        let _ = writeln!(text, "| {scenario} | {name} | {} |", cells.join(" | "));
    }
    text
}

/// The mean over all seeds, and the greatest where they differ.
fn cell(outcomes: &[Outcome], scenario: &str, name: &str, size: usize) -> String {
    let values = values(outcomes, scenario, name, size);
    let Some(mean) = mean(&values) else { return String::new() };
    let most = values.iter().copied().fold(f64::MIN, f64::max);
    let short = |value: f64| if value >= 100.0 { format!("{value:.0}") } else { format!("{value:.2}") };
    if most > mean * 1.005 { format!("{} (at most {})", short(mean), short(most)) } else { short(mean) }
}

/// How a figure of a scenario, the mean over all seeds, grows with the number of nodes.
pub fn by_size(outcomes: &[Outcome], scenario: &str, name: &str) -> Series {
    let sizes: BTreeSet<usize> = outcomes.iter().map(|outcome| outcome.nodes).collect();
    let point = |size: usize| Some((size as f64, mean(&values(outcomes, scenario, name, size))?));
    Series { name: name.into(), points: sizes.into_iter().filter_map(point).collect() }
}

fn values(outcomes: &[Outcome], scenario: &str, name: &str, size: usize) -> Vec<f64> {
    let these = outcomes.iter().filter(|outcome| outcome.scenario == scenario && outcome.nodes == size);
    these.filter_map(|outcome| outcome.figures.get(name).copied()).collect()
}

fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn charts_hold_every_point_and_are_well_formed_enough() {
        let series = [Series { name: "a < b".into(), points: vec![(0.0, 0.0), (1.0, 2.0)] }];
        let svg = chart("t & u", "s", "n", &series);
        assert!(svg.contains("60.0,340.0 660.0,60.0"), "{svg}");
        assert!(svg.contains("a &lt; b") && svg.contains("t &amp; u"));
        assert_eq!(svg.matches("<text").count(), svg.matches("</text>").count());
    }

    #[test]
    fn a_table_has_a_column_for_each_size() {
        let outcome = |nodes, seed, value| Outcome {
            scenario: "s".into(),
            nodes,
            seed,
            figures: [("f".into(), value)].into(),
            idle_by_kind: [].into(),
            series: Vec::new(),
            wrongs: Vec::new(),
        };
        let text = table(&[outcome(10, 1, 1.0), outcome(10, 2, 3.0), outcome(100, 1, 5.0)]);
        assert!(text.contains("| scenario | figure | 10 nodes | 100 nodes |"));
        assert!(text.contains("| s | f | 2.00 (at most 3.00) | 5.00 |"), "{text}");
    }

    #[test]
    fn a_figure_is_drawn_by_size() {
        let outcome = |nodes, figure: &str, value| Outcome {
            scenario: "s".into(),
            nodes,
            seed: 1,
            figures: [(figure.into(), value)].into(),
            idle_by_kind: [].into(),
            series: Vec::new(),
            wrongs: Vec::new(),
        };
        let outcomes = [outcome(100, "f", 5.0), outcome(10, "f", 1.0), outcome(10, "f", 2.0), outcome(50, "g", 9.0)];
        assert_eq!(by_size(&outcomes, "s", "f").points, [(10.0, 1.5), (100.0, 5.0)]);
    }
}

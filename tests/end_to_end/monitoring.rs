//! What monitoring reads: the metrics by Prometheus' own tool, and what `deploy/` makes of them.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use imirror_tests::node::Node;
use imirror_tests::origin::{Origin, Page};

fn deployed(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("deploy").join(name)
}

/// What Debian's `promtool` says of it; nothing when all is well.
fn promtool(arguments: &[&str], input: &[u8]) -> String {
    let mut tool = Command::new("promtool")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool is installed (it comes with the package prometheus)");
    tool.stdin.take().unwrap().write_all(input).unwrap();
    let said = tool.wait_with_output().unwrap();
    let text = [said.stdout, said.stderr].concat();
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&text));
    String::from_utf8(text).unwrap()
}

/// Names of metrics in a text.
fn metrics_in(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("imirror_") || word.starts_with("process_")).map(ToOwned::to_owned).collect()
}

fn metrics(node: &Node) -> Vec<u8> {
    node.ask("GET", "/-/metrics", &node.address(), &[]).body
}

#[test]
fn the_metrics_are_as_prometheus_wants_them() {
    let origin = Origin::start();
    let node = Node::start(&[origin.address()], "");
    assert_eq!(promtool(&["check", "metrics"], &metrics(&node)), "", "of a node that has done nothing");
    origin.put("/p_1.deb", Page::new(vec![7; 1000]));
    node.get(&origin.url("/p_1.deb"));
    node.get(&origin.url("/p_1.deb"));
    node.get("http://127.0.0.1:9/p_1.deb");
    let busy = metrics(&node);
    assert_eq!(promtool(&["check", "metrics"], &busy), "");
    let text = String::from_utf8(busy).unwrap();
    for line in [
        "imirror_source_bytes_total{source=\"upstream\"} 1000",
        "imirror_requests_total{outcome=\"miss\",class=\"package\"} 1",
        "imirror_faults_total{cause=\"destination-forbidden\"} 1",
        "imirror_cache_objects 1",
    ] {
        node.wait_for(|| String::from_utf8(metrics(&node)).unwrap().lines().any(|l| l == line));
    }
    assert!(text.contains("process_resident_memory_bytes "));
}

#[test]
fn what_is_deployed_names_only_metrics_that_there_are() {
    let node = Node::start(&[], "");
    let there = String::from_utf8(metrics(&node)).unwrap();
    let there: BTreeSet<_> = there.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    for (file, least) in [("grafana/imirror.json", 12), ("prometheus/alerts.yml", 9), ("prometheus/alerts_test.yml", 4)]
    {
        let named = metrics_in(&std::fs::read_to_string(deployed(file)).unwrap());
        assert!(named.len() >= least, "{file}: {named:?}");
        for name in named {
            assert!(there.contains(name.as_str()), "{file} names {name}");
        }
    }
}

#[test]
fn what_the_guide_says_to_write_for_prometheus_is_right() {
    let guide = std::fs::read_to_string(deployed("../docs/operating.md")).unwrap();
    let text = guide.split("```yaml\n").nth(1).and_then(|rest| rest.split("```").next()).expect("a configuration");
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(deployed("prometheus/alerts.yml"), folder.path().join("alerts.yml")).unwrap();
    let file = folder.path().join("prometheus.yml");
    std::fs::write(&file, text).unwrap();
    let said = promtool(&["check", "config", file.to_str().unwrap()], b"");
    assert!(said.contains("1 rule files found"), "{said}");
}

#[test]
fn the_alert_rules_do_what_they_are_for() {
    let rules = deployed("prometheus/alerts.yml");
    let checked = promtool(&["check", "rules", rules.to_str().unwrap()], b"");
    assert!(checked.contains("rules found"), "{checked}");
    let tested = promtool(&["test", "rules", deployed("prometheus/alerts_test.yml").to_str().unwrap()], b"");
    assert!(tested.contains("SUCCESS"), "{tested}");
}

#[test]
fn the_dashboard_is_sound() {
    let text = std::fs::read_to_string(deployed("grafana/imirror.json")).unwrap();
    let dashboard: serde_json::Value = serde_json::from_str(&text).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let ids: BTreeSet<u64> = panels.iter().map(|panel| panel["id"].as_u64().unwrap()).collect();
    assert!(ids.len() == panels.len() && ids.len() >= 10);
    let mut rules = String::from("groups:\n- name: dashboard\n  rules:\n");
    for (i, target) in panels.iter().flat_map(|panel| panel["targets"].as_array().unwrap()).enumerate() {
        let expression = target["expr"].as_str().unwrap();
        assert!(expression.contains("$instance") && target["datasource"]["uid"] == "${datasource}", "{expression}");
        // As Grafana fills it in; a rule is the way to have an expression checked.
        let filled = expression.replace("$__rate_interval", "5m").replace("$__range", "1d").replace("$instance", ".*");
        rules += &format!("  - record: panel:{i}\n    expr: {}\n", serde_json::Value::from(filled));
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("rules.yml");
    std::fs::write(&file, rules).unwrap();
    promtool(&["check", "rules", file.to_str().unwrap()], b"");
}

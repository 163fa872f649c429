//! The alerts and the dashboard of `docs/alerts`: promtool accepts them, each alert fires in its test, they use only
//! metrics and label values that a gateway exports, and a real Prometheus raises them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::harness::process::{Process, free_port};
use crate::harness::{Gateway, Redis, http, until};

#[test]
fn the_rules_are_valid_tested_and_documented() {
    promtool(&["check", "rules"], &alerts().join("earshot.rules.yml"));
    promtool(&["test", "rules"], &alerts().join("earshot.rules.test.yml"));
    let (rules, tests) = (read("earshot.rules.yml"), read("earshot.rules.test.yml"));
    let operations = std::fs::read_to_string(alerts().join("../operations.md")).unwrap();
    let names = alert_names(&rules);
    assert!(names.len() > 20, "{names:?}");
    for name in names {
        assert!(tests.contains(&format!("alertname: {name}\n")), "{name} is not tested");
        assert!(operations.contains(&format!("`{name}`")), "{name} is not in docs/operations.md");
    }
}

#[test]
fn the_queries_of_the_dashboard_are_valid() {
    let dashboard: Value = serde_json::from_str(&read("dashboard.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let ids: BTreeSet<u64> = panels.iter().map(|panel| panel["id"].as_u64().unwrap()).collect();
    assert_eq!(ids.len(), panels.len(), "duplicate panel id");
    let queries = queries(&dashboard);
    assert!(queries.len() > 20, "{queries:?}");
    // promtool reads rules: each query becomes one.
    let directory = tempfile::tempdir().unwrap();
    let mut rules = String::from("groups:\n- name: dashboard\n  rules:\n");
    for (place, query) in queries.iter().enumerate() {
        let query =
            ["job", "gateway", "redis"].iter().fold(query.replace("$__rate_interval", "1m"), |text, name| {
                text.replace(&format!("${name}"), ".*")
            });
        assert!(!query.contains('$'), "an unknown variable: {query}");
        rules += &format!("  - record: query_{place}\n    expr: {}\n", serde_json::json!(query));
    }
    let file = directory.path().join("queries.yml");
    std::fs::write(&file, rules).unwrap();
    promtool(&["check", "rules"], &file);
}

#[tokio::test]
async fn every_metric_and_label_value_in_use_is_exported() {
    let redis = Redis::start().await;
    let gateway = Gateway::on(&redis).await;
    let dashboard: Value = serde_json::from_str(&read("dashboard.json")).unwrap();
    let in_use = [read("earshot.rules.yml"), read("earshot.rules.test.yml"), queries(&dashboard).join("\n")]
        .join("\n");
    let names: BTreeSet<&str> = in_use
        .split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_')
        .filter(|word| word.len() > 8 && word.starts_with("earshot_"))
        .collect();
    assert!(names.len() > 15, "{names:?}");
    // Some samples appear only later, such as those of the first probe.
    let mut missing = Vec::new();
    until("everything in use is exported", async || {
        let now = missing_samples(&gateway.fetch("/metrics").await.text(), &names, &in_use);
        if now != missing {
            eprintln!("missing: {now:?}");
            missing = now;
        }
        missing.is_empty().then_some(())
    })
    .await;
}

/// Metrics and label values in use that the page of metrics does not have.
fn missing_samples(page: &str, names: &BTreeSet<&str>, in_use: &str) -> Vec<String> {
    let samples = page.lines().filter(|line| !line.starts_with('#'));
    let exported: BTreeSet<&str> = samples.filter_map(|line| line.split(['{', ' ']).next()).collect();
    let mut missing: Vec<String> = names.difference(&exported).map(ToString::to_string).collect();
    for label in ["code", "reason", "state", "link", "transport"] {
        let values = values_of(label, in_use).into_iter().map(|value| format!("{label}=\"{value}\""));
        missing.extend(values.filter(|sample| !page.contains(sample)));
    }
    missing
}

#[tokio::test]
async fn prometheus_raises_the_alert_when_redis_is_down() {
    let mut redis = Redis::start().await;
    let gateway = Gateway::on(&redis).await;
    let prometheus = Prometheus::watching(&gateway).await;
    prometheus.wait_for_answer(r#"count(earshot_redis_up{redis="default"} == 1)"#, "2").await;
    redis.kill();
    let query = r#"ALERTS{alertname="EarshotRedisLinkDown",redis="default",severity="critical"}"#;
    prometheus.wait_for_answer(&format!("count({query})"), "2").await;
}

/// A running Prometheus with the alerts of the documentation.
struct Prometheus {
    port: u16,
    _process: Process,
}

impl Prometheus {
    async fn watching(gateway: &Gateway) -> Self {
        let (port, directory) = (free_port(), tempfile::tempdir().unwrap());
        let rules = alerts().join("earshot.rules.yml");
        let config = format!(
            "global: {{ scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s }}\nrule_files: [{}]\n\
             scrape_configs:\n- job_name: earshot\n  static_configs: [{{ targets: [\"{}\"] }}]\n",
            rules.display(),
            gateway.address()
        );
        std::fs::write(directory.path().join("prometheus.yml"), config).unwrap();
        let mut command = Command::new("prometheus");
        command.args(["--config.file=prometheus.yml", "--storage.tsdb.path=data"]);
        command.arg(format!("--web.listen-address=127.0.0.1:{port}"));
        Self { port, _process: Process::start(command, directory) }
    }

    /// Waits until a query returns this value.
    async fn wait_for_answer(&self, query: &str, answer: &str) {
        let query: String = form_urlencoded::byte_serialize(query.as_bytes()).collect();
        let address = std::net::SocketAddr::from(([127, 0, 0, 1], self.port));
        until(&format!("Prometheus returns {answer} for {query}"), async || {
            let response = http::try_fetch(address, &format!("/api/v1/query?query={query}")).await.ok()?;
            let result: Value = serde_json::from_slice(&response.body).ok()?;
            (result["data"]["result"][0]["value"][1] == answer).then_some(())
        })
        .await;
    }
}

fn alerts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/alerts")
}

fn read(name: &str) -> String {
    std::fs::read_to_string(alerts().join(name)).unwrap()
}

fn promtool(arguments: &[&str], file: &Path) {
    let ran = Command::new("promtool").args(arguments).arg(file).output().unwrap();
    let output = [ran.stdout, ran.stderr].concat();
    assert!(ran.status.success(), "promtool {arguments:?}: {}", String::from_utf8_lossy(&output));
}

fn alert_names(rules: &str) -> Vec<&str> {
    rules.lines().filter_map(|line| line.trim_start().strip_prefix("- alert: ")).collect()
}

/// The queries of all panels of the dashboard.
fn queries(dashboard: &Value) -> Vec<String> {
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let targets = panels.filter_map(|panel| panel["targets"].as_array()).flatten();
    targets.map(|target| target["expr"].as_str().unwrap().to_owned()).collect()
}

/// The values of a label in a text, from all `label="value"`.
fn values_of<'t>(label: &str, text: &'t str) -> BTreeSet<&'t str> {
    let opening = format!("{label}=\"");
    let found = text.match_indices(&opening).map(|(at, _)| &text[at + opening.len()..]);
    found.filter_map(|rest| rest.split('"').next()).collect()
}

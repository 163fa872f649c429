//! The alarms and the dashboard of `docs/alarms`: their own tools accept them, each alarm fires on what it is for, they
//! name nothing that a gateway does not tell, and a real Prometheus raises them over a real gateway.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::harness::process::{Process, free_port};
use crate::harness::{Gateway, Redis, http, until};

#[test]
fn the_rules_are_right_and_fire_on_what_they_are_for() {
    promtool(&["check", "rules"], &alarms().join("earshot.rules.yml"));
    promtool(&["test", "rules"], &alarms().join("earshot.rules.test.yml"));
    let (rules, tests) = (read("earshot.rules.yml"), read("earshot.rules.test.yml"));
    let operations = std::fs::read_to_string(alarms().join("../operations.md")).unwrap();
    let names = names_of_alarms(&rules);
    assert!(names.len() > 20, "{names:?}");
    for name in names {
        assert!(tests.contains(&format!("alertname: {name}\n")), "{name} is not tested");
        assert!(operations.contains(&format!("`{name}`")), "{name} is not in docs/operations.md");
    }
}

#[test]
fn the_dashboard_is_one_and_asks_what_prometheus_understands() {
    let dashboard: Value = serde_json::from_str(&read("dashboard.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let ids: BTreeSet<u64> = panels.iter().map(|panel| panel["id"].as_u64().unwrap()).collect();
    assert_eq!(ids.len(), panels.len(), "each panel has an id of its own");
    let questions = questions(&dashboard);
    assert!(questions.len() > 20, "{questions:?}");
    // promtool reads rules: each question becomes one.
    let directory = tempfile::tempdir().unwrap();
    let mut rules = String::from("groups:\n- name: dashboard\n  rules:\n");
    for (place, question) in questions.iter().enumerate() {
        let question = ["job", "gateway", "redis"]
            .iter()
            .fold(question.replace("$__rate_interval", "1m"), |text, name| {
                text.replace(&format!("${name}"), ".*")
            });
        assert!(!question.contains('$'), "an unknown variable: {question}");
        rules += &format!("  - record: question_{place}\n    expr: {}\n", serde_json::json!(question));
    }
    let file = directory.path().join("questions.yml");
    std::fs::write(&file, rules).unwrap();
    promtool(&["check", "rules"], &file);
}

#[tokio::test]
async fn everything_that_is_asked_for_is_told() {
    let redis = Redis::start().await;
    let gateway = Gateway::on(&redis).await;
    // What is known of hearing is told once it is proven.
    let page = until("hearing is proven", async || {
        let page = gateway.fetch("/metrics").await.text();
        page.contains("earshot_redis_lag_seconds{").then_some(page)
    })
    .await;
    let told: BTreeSet<&str> = page
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split(['{', ' ']).next())
        .collect();
    let dashboard: Value = serde_json::from_str(&read("dashboard.json")).unwrap();
    let asked = [read("earshot.rules.yml"), read("earshot.rules.test.yml"), questions(&dashboard).join("\n")]
        .join("\n");
    let names: BTreeSet<&str> = asked
        .split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_')
        .filter(|word| word.len() > 8 && word.starts_with("earshot_"))
        .collect();
    assert!(names.len() > 15, "{names:?}");
    for name in names {
        assert!(told.contains(name), "{name} is asked for, but no gateway tells it");
    }
    for label in ["cause", "code", "state", "link", "transport"] {
        for value in values_of(label, &asked) {
            assert!(page.contains(&format!("{label}=\"{value}\"")), "no sample has {label}=\"{value}\"");
        }
    }
}

#[tokio::test]
async fn a_real_prometheus_raises_the_alarm_when_redis_is_gone() {
    let mut redis = Redis::start().await;
    let gateway = Gateway::on(&redis).await;
    let prometheus = Prometheus::watching(&gateway).await;
    prometheus.answers(r#"count(earshot_redis_up{exported_instance="default"} == 1)"#, "2").await;
    redis.kill();
    let query = r#"ALERTS{alertname="EarshotRedisLinkDown",exported_instance="default",severity="critical"}"#;
    prometheus.answers(&format!("count({query})"), "2").await;
}

/// A running Prometheus with the alarms of the documentation.
struct Prometheus {
    port: u16,
    _process: Process,
}

impl Prometheus {
    async fn watching(gateway: &Gateway) -> Self {
        let (port, directory) = (free_port(), tempfile::tempdir().unwrap());
        let rules = alarms().join("earshot.rules.yml");
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

    /// Waits until a query has this answer.
    async fn answers(&self, query: &str, answer: &str) {
        let query: String = form_urlencoded::byte_serialize(query.as_bytes()).collect();
        let address = std::net::SocketAddr::from(([127, 0, 0, 1], self.port));
        until(&format!("Prometheus answers {answer} to {query}"), async || {
            let told = http::try_fetch(address, &format!("/api/v1/query?query={query}")).await.ok()?;
            let told: Value = serde_json::from_slice(&told.body).ok()?;
            (told["data"]["result"][0]["value"][1] == answer).then_some(())
        })
        .await;
    }
}

fn alarms() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/alarms")
}

fn read(name: &str) -> String {
    std::fs::read_to_string(alarms().join(name)).unwrap()
}

fn promtool(arguments: &[&str], file: &Path) {
    let ran = Command::new("promtool").args(arguments).arg(file).output().unwrap();
    let told = [ran.stdout, ran.stderr].concat();
    assert!(ran.status.success(), "promtool {arguments:?}: {}", String::from_utf8_lossy(&told));
}

fn names_of_alarms(rules: &str) -> Vec<&str> {
    rules.lines().filter_map(|line| line.trim_start().strip_prefix("- alert: ")).collect()
}

/// What the panels of the dashboard ask Prometheus.
fn questions(dashboard: &Value) -> Vec<String> {
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let targets = panels.filter_map(|panel| panel["targets"].as_array()).flatten();
    targets.map(|target| target["expr"].as_str().unwrap().to_owned()).collect()
}

/// The values that a label must have, of all `label="value"`.
fn values_of<'t>(label: &str, text: &'t str) -> BTreeSet<&'t str> {
    let opening = format!("{label}=\"");
    let found = text.match_indices(&opening).map(|(at, _)| &text[at + opening.len()..]);
    found.filter_map(|rest| rest.split('"').next()).collect()
}

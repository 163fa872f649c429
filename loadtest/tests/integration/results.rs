//! Output formats: JSON with a stable structure, HTML pages, comparisons.

use serde_json::Value;

use crate::harness::loadtest::{command, loadtest};
use crate::harness::server::gateway;

/// Sorted keys of an object.
fn keys(value: &Value) -> Vec<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

#[test]
fn json_format_is_stable() {
    let gateway = gateway(None);
    let outcome = loadtest(&format!(
        "resume {} --process {} --subscribers 10 --rate 20 --duration 1500ms --downtime 100ms",
        gateway.url(),
        gateway.id()
    ));
    outcome.assert_clean();
    let json = &outcome.json;
    let names = [
        "clean",
        "cohorts",
        "commit",
        "connect",
        "date",
        "deliveries",
        "failure",
        "format",
        "generator",
        "interrupted",
        "machine",
        "measures",
        "processes",
        "published",
        "reconnecting",
        "scenario",
        "series",
        "settings",
        "target",
        "title",
        "warnings",
    ];
    assert_eq!(keys(json), names);
    let latency = ["count", "distribution", "max", "mean", "p50", "p90", "p99", "p99_9"];
    assert_eq!(keys(&json["cohorts"][0]["latency"]), latency);
    assert_eq!(keys(&json["cohorts"][0]["uncorrected"]), latency);
    assert_eq!(keys(&json["connect"]), ["latency", "per_second", "seconds", "subscribers"]);
    let generator = [
        "bottleneck",
        "busiest_second",
        "core_utilization",
        "core_utilization_max",
        "cores",
        "late",
        "publisher",
        "read_delay",
        "subscribers",
        "system_seconds",
        "timer_delay",
        "user_seconds",
    ];
    assert_eq!(keys(&json["generator"]), generator);
    assert!(keys(&json["processes"][0]).contains(&"user_micros_per_delivery"));
    assert_eq!((&json["format"], &json["scenario"]), (&Value::from(2), &Value::from("resume")));
    assert!(json["series"].as_array().unwrap().len() >= 2);
    assert_eq!(json["measures"][0]["name"], "reconnect_seconds");
    assert!(json["date"].as_str().unwrap().ends_with('Z') && json["machine"]["cores"].as_u64().unwrap() > 0);
}

#[test]
fn json_can_replace_the_table() {
    let gateway = gateway(None);
    let line = format!("fanout {} --subscribers 4 --duration 200ms --json -", gateway.url());
    let output = command().args(line.split(' ')).output().unwrap();
    let record: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((output.status.code(), &record["clean"]), (Some(0), &Value::Bool(true)));
}

#[test]
fn results_are_compared_on_the_terminal_and_as_a_page() {
    let (gateway, directory) = (gateway(None), tempfile::tempdir().unwrap());
    let file = |name: &str| directory.path().join(name).display().to_string();
    for (name, subscribers) in [("a", 5), ("b", 10)] {
        let outcome = loadtest(&format!(
            "fanout {} --subscribers {subscribers} --duration 300ms --html {}",
            gateway.url(),
            file(&format!("{name}.html"))
        ));
        outcome.assert_clean();
        std::fs::write(file(name), outcome.json.to_string()).unwrap();
        let page = std::fs::read_to_string(file(&format!("{name}.html"))).unwrap();
        assert!(page.contains("<svg") && page.ends_with("</html>\n"), "{page}");
    }
    let compare = |files: &[&str]| {
        let output =
            command().arg("compare").args(files).args(["--html", &file("both.html")]).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap();
        (output.status.code().unwrap(), text)
    };
    let (code, text) = compare(&[&file("a"), &file("b")]);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("+100.0%") && text.contains("the runs differ in subscribers"), "{text}");
    assert!(std::fs::read_to_string(file("both.html")).unwrap().contains("B delivered"));
    std::fs::write(file("c"), r#"{"format":99}"#).unwrap();
    let (code, text) = compare(&[&file("a"), &file("c")]);
    assert!(code == 2 && text.contains("format 99 is not supported (supported: 1 to 2)"), "{text}");
}

//! `earshot-loadtest redis` against a real Redis.

use serde_json::Value;

use crate::harness::first_core;
use crate::harness::loadtest::command;

fn redis(arguments: &str) -> (i32, String, String) {
    let line = format!("redis --server-core {} --duration 50ms --channels 2000 {arguments}", first_core());
    let output = command().args(line.split_ascii_whitespace()).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[test]
fn redis_costs_are_measured() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("costs.json");
    let (code, table, errors) = redis(&format!("--json {}", file.display()));
    assert_eq!(code, 0, "{errors}");
    let costs: Value = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    let number = |value: &Value| value.as_f64().unwrap_or_else(|| panic!("{costs:#}"));
    let publish = costs["publish"].as_array().unwrap();
    let received: Vec<_> =
        publish.iter().map(|one| (number(&one["gateways"]), number(&one["publishers"]))).collect();
    let gateways = [0.0, 1.0, 2.0, 8.0];
    let expected = [64.0, 1.0].map(|publishers| gateways.map(|gateways| (gateways, publishers)));
    assert_eq!(received, expected.concat());
    assert!(
        publish.iter().all(|one| number(&one["micros"]) > 0.0 && number(&one["count"]) > 0.0),
        "{costs:#}"
    );
    let subscribe = costs["subscribe"].as_array().unwrap();
    assert_eq!(subscribe.len(), 3);
    // At least a name and two pointers in hash tables.
    assert!(subscribe.iter().all(|one| number(&one["bytes"]) > 24.0), "{costs:#}");
    assert!(number(&subscribe[0]["bytes"]) > number(&subscribe[1]["bytes"]), "{costs:#}");
    assert!(
        table.contains("| received by 8 gateways | ") && table.contains("Redis, 2,000 channels"),
        "{table}"
    );
}

#[test]
fn redis_that_does_not_start_is_exit_code_2() {
    let (code, _, errors) = redis("--redis /bin/false");
    assert!(code == 2 && errors.contains("/bin/false") && errors.contains("exited"), "{code}: {errors}");
}

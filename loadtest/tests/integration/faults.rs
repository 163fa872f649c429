//! Servers that lose, duplicate, reorder or alter messages cause exit code 1 and are reported separately; a test that
//! cannot run causes exit code 2.

use crate::harness::faulty_server::{Fault, faulty_server};
use crate::harness::loadtest::{Outcome, loadtest};

fn run(fault: Fault, arguments: &str) -> Outcome {
    let port = faulty_server(fault);
    loadtest(&format!(
        "fanout --url http://127.0.0.1:{port} --transport sse --subscribers 4 --rate 20 --duration 300ms --settle 300ms \
         --threads 1 {arguments}"
    ))
}

/// All fault counters that are not zero.
fn counts(outcome: &Outcome) -> Vec<(&'static str, f64)> {
    ["lost", "duplicates", "out_of_order", "misrouted", "altered"]
        .into_iter()
        .map(|name| (name, outcome.number(&format!("deliveries/{name}"))))
        .filter(|(_, count)| *count > 0.0)
        .collect()
}

#[test]
fn correct_server_is_clean() {
    run(Fault::None, "").assert_clean();
}

#[test]
fn lost_message_is_exit_code_1() {
    let outcome = run(Fault::Lose, "");
    assert_eq!((outcome.code, counts(&outcome)), (1, vec![("lost", 1.0)]), "{outcome:#?}");
    assert!(outcome.table.contains("lost            1\n"), "{outcome:#?}");
}

#[test]
fn duplicated_message_is_exit_code_1() {
    let outcome = run(Fault::Duplicate, "");
    assert_eq!((outcome.code, counts(&outcome)), (1, vec![("duplicates", 1.0)]), "{outcome:#?}");
}

#[test]
fn out_of_order_message_is_exit_code_1() {
    let outcome = run(Fault::Reorder, "");
    assert_eq!((outcome.code, counts(&outcome)), (1, vec![("out_of_order", 1.0)]), "{outcome:#?}");
}

#[test]
fn altered_message_is_exit_code_1() {
    let outcome = run(Fault::Alter, "");
    assert_eq!((outcome.code, counts(&outcome)), (1, vec![("lost", 1.0), ("altered", 1.0)]), "{outcome:#?}");
}

#[test]
fn misrouted_message_is_exit_code_1() {
    // Messages rotate over three channels; the third message is not on the first subscriber's channel.
    let outcome = run(Fault::Misroute, "--channels 3");
    assert_eq!((outcome.code, counts(&outcome)), (1, vec![("misrouted", 1.0)]), "{outcome:#?}");
}

#[test]
fn closed_connection_loses_later_messages() {
    let outcome = run(Fault::Close, "");
    assert_eq!((outcome.code, counts(&outcome)), (1, vec![("lost", 4.0)]), "{outcome:#?}");
    assert!(outcome.table.contains("closed early    1 SSE: closed by the server"), "{outcome:#?}");
}

#[test]
fn rejected_publisher_is_exit_code_2_with_partial_result() {
    let outcome = run(Fault::Reject, "");
    assert_eq!(outcome.code, 2, "{outcome:#?}");
    assert!(outcome.json["failure"].as_str().is_some_and(|text| text.contains("internal server error")));
    assert!(outcome.table.contains("publishing ended early: HTTP API: status 200"), "{outcome:#?}");
}

#[test]
fn unreachable_server_is_exit_code_2() {
    let outcome = loadtest("fanout --url http://127.0.0.1:9 --subscribers 1");
    assert_eq!(outcome.code, 2, "{outcome:#?}");
    assert!(outcome.errors.contains("publisher: HTTP API: Connection refused"), "{outcome:#?}");
}

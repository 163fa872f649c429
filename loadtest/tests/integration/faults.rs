//! Loss, duplicates, disorder and the like end with exit code 1, and are told apart; what cannot be run ends with 2.

use crate::harness::loadtest::{Outcome, loadtest};
use crate::harness::misbehaving::{Fault, misbehaving};

fn run(fault: Fault, arguments: &str) -> Outcome {
    let port = misbehaving(fault);
    loadtest(&format!(
        "fanout --url http://127.0.0.1:{port} --transport sse --subscribers 4 --rate 20 --duration 300ms --settle 300ms \
         --threads 1 {arguments}"
    ))
}

/// What each fault is counted as, of everything that can be.
fn counts(outcome: &Outcome) -> Vec<(&'static str, f64)> {
    ["lost", "duplicates", "out_of_order", "misrouted", "altered"]
        .into_iter()
        .map(|name| (name, outcome.number(&format!("deliveries/{name}"))))
        .filter(|(_, count)| *count > 0.0)
        .collect()
}

#[test]
fn a_server_that_behaves_is_clean() {
    run(Fault::Nothing, "").assert_clean();
}

#[test]
fn a_lost_message_is_exit_code_1() {
    let outcome = run(Fault::Loses, "");
    assert_eq!((outcome.code, counts(&outcome)), (1, vec![("lost", 1.0)]), "{outcome:#?}");
    assert!(outcome.table.contains("lost            1\n"), "{outcome:#?}");
}

#[test]
fn a_doubled_message_is_exit_code_1() {
    let outcome = run(Fault::Doubles, "");
    assert_eq!((outcome.code, counts(&outcome)), (1, vec![("duplicates", 1.0)]), "{outcome:#?}");
}

#[test]
fn a_message_that_was_overtaken_is_exit_code_1() {
    let outcome = run(Fault::Overtakes, "");
    assert_eq!((outcome.code, counts(&outcome)), (1, vec![("out_of_order", 1.0)]), "{outcome:#?}");
}

#[test]
fn an_altered_message_is_exit_code_1() {
    let outcome = run(Fault::Alters, "");
    assert_eq!((outcome.code, counts(&outcome)), (1, vec![("lost", 1.0), ("altered", 1.0)]), "{outcome:#?}");
}

#[test]
fn a_message_of_a_foreign_channel_is_exit_code_1() {
    // Messages go round three channels: the third one is not the first subscriber's.
    let outcome = run(Fault::Misroutes, "--channels 3");
    assert_eq!((outcome.code, counts(&outcome)), (1, vec![("misrouted", 1.0)]), "{outcome:#?}");
}

#[test]
fn a_connection_that_is_cut_off_loses_the_rest() {
    let outcome = run(Fault::Hangs, "");
    assert_eq!((outcome.code, counts(&outcome)), (1, vec![("lost", 4.0)]), "{outcome:#?}");
    assert!(outcome.table.contains("closed early    1 SSE: closed by the server"), "{outcome:#?}");
}

#[test]
fn a_publisher_that_is_refused_is_exit_code_2_and_shows_what_there_is() {
    let outcome = run(Fault::Refuses, "");
    assert_eq!(outcome.code, 2, "{outcome:#?}");
    assert!(outcome.json["failure"].as_str().is_some_and(|text| text.contains("internal server error")));
    assert!(outcome.table.contains("publishing ended early: HTTP API: status 200"), "{outcome:#?}");
}

#[test]
fn a_server_that_is_not_there_is_exit_code_2() {
    let outcome = loadtest("fanout --url http://127.0.0.1:9 --subscribers 1");
    assert_eq!(outcome.code, 2, "{outcome:#?}");
    assert!(outcome.errors.contains("publisher: HTTP API: Connection refused"), "{outcome:#?}");
}

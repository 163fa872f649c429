//! The load test never becomes the bottleneck unnoticed, and can be stopped without losing its result.

use std::thread;
use std::time::Duration;

use crate::harness::loadtest::Loadtest;
use crate::harness::server::gateway;

/// The load test is made to hang for a moment, as by a machine that does something else: the server is not to blame,
/// and the result says so in words and as a field.
#[test]
fn a_load_test_that_could_not_read_in_time_says_so() {
    let gateway = gateway(None);
    let running = Loadtest::start(&format!(
        "fanout {} --subscribers 100 --rate 50 --duration 3s --progress lines",
        gateway.url()
    ));
    // Only what is stopped while messages are published can be late for them.
    for _ in 0..6 {
        thread::park_timeout(Duration::from_millis(350));
        running.signal("STOP");
        thread::park_timeout(Duration::from_millis(150));
        running.signal("CONT");
    }
    let outcome = running.end();
    outcome.assert_clean();
    assert!(outcome.number("meter/timers/max") > 40.0, "{outcome:#?}");
    assert_eq!(outcome.json["meter"]["late"], true, "{outcome:#?}");
    assert!(outcome.table.contains("  note: the load test itself ran up to "), "{outcome:#?}");
}

#[test]
fn an_interrupted_run_tells_what_it_has() {
    let gateway = gateway(None);
    let running = Loadtest::start(&format!("soak {} --subscribers 20 --progress lines", gateway.url()));
    thread::park_timeout(Duration::from_millis(1500));
    running.signal("INT");
    let outcome = running.end();
    outcome.assert_clean();
    assert_eq!(outcome.json["interrupted"], true, "{outcome:#?}");
    assert!(outcome.table.contains("interrupted: "), "{outcome:#?}");
}

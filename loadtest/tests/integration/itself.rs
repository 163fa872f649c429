//! The load test never becomes the bottleneck unnoticed, and can be stopped without losing its result.

use std::process::{Child, Command};
use std::thread;
use std::time::Duration;

use crate::harness::first_core;
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
    assert!(outcome.number("generator/timer_delay/max") > 40.0, "{outcome:#?}");
    assert_eq!(outcome.json["generator"]["late"], true, "{outcome:#?}");
    assert!(outcome.table.contains("  note: the load test itself ran up to "), "{outcome:#?}");
}

/// Whoever fills its core, the clocks of its own threads do not show it: here another program, elsewhere the kernel's
/// interrupts.
#[test]
fn a_load_test_whose_core_is_full_says_so() {
    let core = first_core();
    let gateway = gateway(None);
    let _filler = Filler::start(&core);
    for scenario in
        ["connect --subscribers 60 --rounds 2", "fanout --subscribers 20 --rate 20 --duration 500ms"]
    {
        let outcome =
            Loadtest::start_on(&core, &format!("{scenario} {} --process {}", gateway.url(), gateway.id()))
                .end();
        outcome.assert_clean();
        assert_eq!(
            (&outcome.json["generator"]["cores"], &outcome.json["generator"]["bottleneck"]),
            (&core.as_str().into(), &true.into()),
            "{outcome:#?}"
        );
        assert!(
            outcome.number("generator/core_utilization") > 0.9
                && outcome.number("processes/0/core_utilization") > 0.0,
            "{outcome:#?}"
        );
        assert!(outcome.table.contains(&format!("may run ({core}) were ")), "{outcome:#?}");
        assert!(
            outcome.table.contains(&format!("core {core} ")) && outcome.table.contains("it is in the way"),
            "{outcome:#?}"
        );
    }
}

/// A program that does nothing, as fast as it can.
struct Filler(Child);

impl Filler {
    fn start(core: &str) -> Self {
        // It must not outlive a test that is killed.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "taskset", "-c", core, "sh", "-c", "while :; do :; done"]);
        Self(command.spawn().unwrap())
    }
}

impl Drop for Filler {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
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

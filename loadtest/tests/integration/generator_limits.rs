//! The load test reports when it is the bottleneck, and keeps its result when interrupted.

use std::process::{Child, Command};
use std::thread;
use std::time::Duration;

use crate::harness::first_core;
use crate::harness::loadtest::Loadtest;
use crate::harness::server::gateway;

/// The load test is stopped for short times, as on a busy machine. The result must not blame the server: it contains a
/// note and a field.
#[test]
fn late_reads_are_reported() {
    let gateway = gateway(None);
    let running = Loadtest::start(&format!(
        "fanout {} --subscribers 100 --rate 50 --duration 3s --progress lines",
        gateway.url()
    ));
    // Only interruptions during publishing delay messages.
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
    assert!(outcome.table.contains("  note: the load test read up to "), "{outcome:#?}");
}

/// The CPU clocks of its threads do not show a core that is used by others: another process in this test, interrupts
/// elsewhere.
#[test]
fn full_core_is_reported() {
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
        assert!(outcome.table.contains(&format!("of the load test ({core}) were ")), "{outcome:#?}");
        assert!(
            outcome.table.contains(&format!("core {core} "))
                && outcome.table.contains("it is the bottleneck"),
            "{outcome:#?}"
        );
    }
}

/// A process that uses all CPU time it gets.
struct Filler(Child);

impl Filler {
    fn start(core: &str) -> Self {
        // The process must not outlive a test that is killed.
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
fn interrupted_run_reports_its_result() {
    let gateway = gateway(None);
    let running = Loadtest::start(&format!("soak {} --subscribers 20 --progress lines", gateway.url()));
    thread::park_timeout(Duration::from_millis(1500));
    running.signal("INT");
    let outcome = running.end();
    outcome.assert_clean();
    assert_eq!(outcome.json["interrupted"], true, "{outcome:#?}");
    assert!(outcome.table.contains("interrupted: "), "{outcome:#?}");
}

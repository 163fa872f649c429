//! Other servers and the kernel baseline with the same clients.

use crate::harness::loadtest::{Outcome, loadtest};
use crate::harness::server::{gateway, nchan};

const LOAD: &str = "--subscribers 40 --rate 100 --duration 500ms --channels 2";

fn assert_all_arrived(outcome: &Outcome) {
    outcome.assert_clean();
    assert_eq!(outcome.number("deliveries/delivered"), 50.0 * 20.0);
}

/// Protocol and publish API are the same as Earshot's.
#[test]
fn centrifugo_target_uses_the_centrifuge_protocol() {
    let gateway = gateway(None);
    for encoding in ["json", "protobuf"] {
        let outcome =
            loadtest(&format!("fanout --target centrifugo {} {LOAD} --encoding {encoding}", gateway.url()));
        assert_all_arrived(&outcome);
        assert_eq!(outcome.json["target"], "centrifugo");
    }
}

#[test]
fn nchan_over_both_transports() {
    let nchan = nchan();
    let outcome = loadtest(&format!("fanout --target nchan {} {LOAD} --process {}", nchan.url(), nchan.id()));
    assert_all_arrived(&outcome);
    assert_eq!(outcome.json["processes"][0]["name"], "nginx");
}

#[test]
fn nchan_event_streams_resume() {
    let nchan = nchan();
    let outcome = loadtest(&format!(
        "resume --target nchan --transport sse {} --subscribers 20 --rate 20 --duration 2s --downtime 300ms --channel-prefix r",
        nchan.url()
    ));
    outcome.assert_clean();
}

#[test]
fn any_websocket_and_any_event_stream() {
    let nchan = nchan();
    for (kind, path) in [("raw-ws", "/sub/w{channel}"), ("raw-sse", "/sub/s{channel}")] {
        let publish = path.replace("sub", "pub");
        let outcome = loadtest(&format!(
            "fanout --target {kind} {} {LOAD} --subscribe-path {path} --publish-path {publish}",
            nchan.url()
        ));
        assert_all_arrived(&outcome);
    }
}

#[test]
fn kernel_baseline_is_measured_like_a_server() {
    for arguments in ["", "--transport sse", "--burst 10", "--transport sse --burst 10"] {
        let outcome = loadtest(&format!("kernel-baseline {LOAD} {arguments}"));
        assert_all_arrived(&outcome);
        assert_eq!(outcome.json["processes"][0]["name"], "kernel baseline");
        assert_eq!(outcome.json["scenario"], "kernel-baseline");
    }
}

#[test]
fn unsupported_options_are_rejected_first() {
    let outcome = loadtest("resume --target nchan --transport ws");
    assert_eq!(outcome.code, 2);
    assert!(outcome.errors.contains("cannot resume over every selected transport"), "{outcome:#?}");
}

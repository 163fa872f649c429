//! Small runs of each scenario against a real gateway: every message arrives, and the result contains the scenario's
//! measures.

use crate::harness::loadtest::loadtest;
use crate::harness::server::{gateway, gateway_with_config, redis};

#[test]
fn fanout_over_both_transports_and_encodings() {
    let gateway = gateway(None);
    for encoding in ["json", "protobuf"] {
        let outcome = loadtest(&format!(
            "fanout {} --process {} --subscribers 60 --channels 3 --rate 60 --duration 500ms --encoding {encoding}",
            gateway.url(),
            gateway.id()
        ));
        outcome.assert_clean();
        assert_eq!(outcome.number("deliveries/delivered"), 600.0);
        assert_eq!(outcome.json["cohorts"].as_array().unwrap().len(), 2, "{outcome:#?}");
        assert!(outcome.number("processes/0/resident_connected") > 1e6, "{outcome:#?}");
        assert!(outcome.number("cohorts/0/latency/p99") > 0.0, "{outcome:#?}");
    }
}

#[test]
fn fanout_as_fast_as_deliveries_come() {
    let gateway = gateway(None);
    let outcome = loadtest(&format!(
        "fanout {} --subscribers 20 --rate max --window 4 --duration 300ms",
        gateway.url()
    ));
    outcome.assert_clean();
    assert!(
        outcome.number("published/count") > 8.0 && outcome.json["published"]["asked_per_second"].is_null()
    );
}

#[test]
fn many_channels_through_redis() {
    let redis = redis();
    let gateway = gateway(Some(&redis));
    let outcome = loadtest(&format!(
        "many-channels {} --publish redis://127.0.0.1:{} --subscribers 100 --rate 400 --duration 500ms",
        gateway.url(),
        redis.port
    ));
    outcome.assert_clean();
    assert_eq!(outcome.number("deliveries/delivered"), 200.0);
    assert_eq!(outcome.json["settings"]["channels"], "100");
}

#[test]
fn burst_measures_retained_memory() {
    let gateway = gateway(None);
    let outcome = loadtest(&format!(
        "burst {} --process {} --subscribers 20 --rate 200 --duration 500ms --cooldown 100ms",
        gateway.url(),
        gateway.id()
    ));
    outcome.assert_clean();
    assert_eq!(outcome.number("deliveries/delivered"), 2000.0);
    assert!(outcome.measure("retained_percent_0").abs() < 1000.0);
}

#[test]
fn idle_measures_cost_per_connection() {
    let gateway = gateway(None);
    let outcome = loadtest(&format!(
        "idle {} --process {} --subscribers 100 --duration 500ms",
        gateway.url(),
        gateway.id()
    ));
    outcome.assert_clean();
    // One message to each subscriber at the end.
    assert_eq!(outcome.number("deliveries/delivered"), 100.0);
    assert!(outcome.measure("cores_per_100000_0") >= 0.0 && outcome.measure("mib_per_100000_0").is_finite());
}

#[test]
fn connect_in_rounds_and_at_a_rate() {
    let gateway = gateway(None);
    let outcome = loadtest(&format!("connect {} --subscribers 60 --rounds 3", gateway.url()));
    outcome.assert_clean();
    assert_eq!(outcome.number("deliveries/delivered"), 180.0);
    assert_eq!(outcome.number("connect/latency/count"), 180.0);
    assert!(outcome.measure("connections_per_second") > 0.0);
    let outcome = loadtest(&format!("connect {} --subscribers 50 --connect-rate 200", gateway.url()));
    outcome.assert_clean();
    assert!(outcome.number("connect/per_second") < 220.0, "{outcome:#?}");
}

#[test]
fn resume_recovers_missed_messages_for_all() {
    let gateway = gateway(None);
    let outcome = loadtest(&format!(
        "resume {} --subscribers 60 --rate 20 --duration 2s --downtime 500ms",
        gateway.url()
    ));
    outcome.assert_clean();
    assert_eq!(outcome.number("deliveries/delivered"), 60.0 * 40.0);
    assert_eq!((outcome.number("deliveries/recovered"), outcome.measure("recovered_percent")), (60.0, 100.0));
    assert_eq!(outcome.number("reconnecting/count"), 60.0);
}

/// More messages are published during the downtime than the history holds: they are lost, and the server reports it.
#[test]
fn resume_reports_unrecovered_subscribers() {
    let gateway = gateway(None);
    let outcome = loadtest(&format!(
        "resume {} --subscribers 10 --rate 2000 --duration 1s --downtime 400ms --settle 300ms",
        gateway.url()
    ));
    assert_eq!(outcome.code, 1, "{outcome:#?}");
    assert_eq!(outcome.number("deliveries/unrecovered"), 10.0, "{outcome:#?}");
    assert!(outcome.number("deliveries/lost") > 0.0, "{outcome:#?}");
}

/// A slow reader misses 4 MB, which is more than the queue and the socket buffers hold with this limit.
#[test]
fn slow_readers_are_closed_and_others_lose_no_messages() {
    let gateway = gateway_with_config(None, "[limits]\nclient_queue_bytes = \"1MiB\"\n");
    let outcome = loadtest(&format!(
        "slow {} --subscribers 20 --share 20% --rate 60 --size 65536 --duration 2s",
        gateway.url()
    ));
    outcome.assert_clean();
    assert_eq!((outcome.measure("slow"), outcome.measure("slow_closed")), (4.0, 4.0), "{outcome:#?}");
    let slow = outcome.json["cohorts"].as_array().unwrap().iter().find(|cohort| cohort["verified"] == false);
    let closed = slow.unwrap()["closed"].to_string();
    assert!(closed.contains("3008"), "{closed}");
    assert!(outcome.measure("p99_before") > 0.0 && outcome.measure("p99_during") > 0.0);
}

#[test]
fn churn_loses_no_messages() {
    let gateway = gateway(None);
    let outcome = loadtest(&format!(
        "churn {} --subscribers 40 --rate 100 --duration 1s --churn-rate 400",
        gateway.url()
    ));
    outcome.assert_clean();
    assert!(outcome.measure("resubscribed") > 20.0, "{outcome:#?}");
    let moving =
        outcome.json["cohorts"].as_array().unwrap().iter().find(|cohort| cohort["name"] == "churning");
    let moving = moving.unwrap();
    assert_eq!(moving["subscribers"], 20);
    // Churning subscribers were unsubscribed for part of the time.
    assert!(moving["delivered"].as_u64().unwrap() < 20 * 101, "{moving}");
}

#[test]
fn soak_with_reconnects_loses_no_messages() {
    let gateway = gateway(None);
    let outcome = loadtest(&format!(
        "soak {} --process {} --subscribers 30 --rate 50 --duration 1500ms --reconnects 40",
        gateway.url(),
        gateway.id()
    ));
    outcome.assert_clean();
    assert!(outcome.number("deliveries/recovered") > 20.0, "{outcome:#?}");
    assert!(outcome.measure("growth_mib_per_hour_0").is_finite());
}

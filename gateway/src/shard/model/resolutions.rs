//! The name of a channel is resolved once, where it enters the gateway.

use earshot_protocol::Encoding;
use fastrand::Rng;

use super::closing::client_frame;
use super::gateway::Gateway;
use super::parameters::{Parameters, Scenario, Slow};
use super::transport::Transport;
use crate::node::namespace::RESOLUTIONS;
use crate::shard::NewConnectionKind;

#[test]
fn resolves_the_channel_of_a_command_once() {
    let clock =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let _entered = clock.enter();
    let mut parameters = Parameters::draw(&mut Rng::with_seed(7), Scenario::Unlimited);
    (parameters.pending_requests, parameters.inflight_requests, parameters.channels, parameters.last) =
        (100, 100, 2, None);
    parameters.slow = vec![Slow::Disconnect; 2];
    let mut gateway = Gateway::new(&parameters);
    let kind = NewConnectionKind::WebSocket { encoding: Encoding::Json, client: None, rejection: None };
    let mut transport = Transport::open(&mut gateway, 0, kind);
    let mut resolutions = |command: &str, expected: &str| {
        let before = RESOLUTIONS.get();
        transport.sent = client_frame(0x81, command.as_bytes());
        transport.deliver_sent(&mut gateway);
        while gateway.shards[0].forward_request() | gateway.shards[0].deliver_all() {}
        while transport.read(100) | gateway.shards[0].wake() {}
        let reply = String::from_utf8_lossy(&std::mem::take(&mut transport.read)).into_owned();
        assert!(reply.contains(expected), "{reply:?} does not contain {expected:?}");
        RESOLUTIONS.get() - before
    };
    assert_eq!(resolutions(r#"{"id":1,"connect":{}}"#, r#""connect""#), 0);
    let recover = r#"{"id":2,"subscribe":{"channel":"a","recover":true,"offset":0}}"#;
    assert_eq!(resolutions(recover, r#""subscribe""#), 1);
    assert_eq!(resolutions(r#"{"id":3,"publish":{"channel":"a","data":1}}"#, r#""publish""#), 1);
    // The second command waits for the reply to the first one.
    let commands = concat!(
        r#"{"id":5,"subscribe":{"channel":"b","recover":true,"offset":0}}"#,
        "\n",
        r#"{"id":6,"publish":{"channel":"b","data":1}}"#
    );
    assert_eq!(resolutions(commands, r#""publish""#), 2);
    assert_eq!(resolutions(r#"{"id":4,"unsubscribe":{"channel":"a"}}"#, r#""unsubscribe""#), 0);
}

//! Probes detect failures that a PONG does not show.

use std::sync::atomic::{AtomicU16, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

use super::super::probe;
use super::*;
use crate::broker::ProbeState;

fn is_verified(test: &TestBroker) -> bool {
    matches!(test.subscriptions().probe, Some(ProbeState::Verified { .. }))
}

#[tokio::test(flavor = "multi_thread")]
async fn probes_return_repeatedly() {
    let server = Server::start(&[]).await;
    let test = TestBroker::up(&server).await;
    eventually("a probe is verified", || is_verified(&test)).await;
    let probes = server.calls("publish").await;
    for _ in 0..3 {
        let before = server.calls("publish").await;
        wait_for_probe(&server, before).await;
    }
    assert!(server.calls("publish").await >= probes + 3);
    let status = test.subscriptions();
    assert!(status.up && is_verified(&test), "{status:?}");
    assert_eq!(
        (status.desired, status.active, status.reconnects),
        (0, 0, 0),
        "a probe is not counted as a topic"
    );
    assert!(test.recorder.events().is_empty(), "a probe is not delivered as a publication");
}

/// Waits until the server has received more than this number of PUBLISH commands.
async fn wait_for_probe(server: &Server, before: u64) {
    let deadline = Instant::now() + DEADLINE;
    while server.calls("publish").await <= before {
        assert!(Instant::now() < deadline, "no probe was sent");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn detects_that_publishers_use_another_server() {
    let (old, new) = (Server::start(&[]).await, Server::start(&[]).await);
    let proxy = SwitchableProxy::open(old.port).await;
    let test = TestBroker::new(test_settings(&proxy.url()));
    test.wait_until_up().await;
    test.subscribe("news").await;
    eventually("a probe is verified", || is_verified(&test)).await;
    // New connections now reach another server; here only the command link reconnects.
    proxy.set_target(new.port);
    old.command(&["CLIENT", "KILL", "TYPE", "normal"]).await;
    eventually("the failure is detected", || {
        let failures = test.subscriptions().failures;
        failures.iter().any(|(reason, count)| *reason == "not-receiving" && *count > 0)
    })
    .await;
    eventually("a probe of the other server is verified", || test.subscriptions().up && is_verified(&test))
        .await;
    eventually("the gap is reported", || {
        test.recorder.gaps().iter().any(|gap| gap.cause == GapCause::LinkDown)
    })
    .await;
    new.command(&["PUBLISH", "news", "after"]).await;
    eventually("the publication is received", || {
        test.recorder.messages().iter().any(|(_, data)| &data[..] == b"after")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_denied_probes_and_keeps_the_link() {
    let server = Server::start(&[]).await;
    let rights = ["ACL", "SETUSER", "web", "on", ">pw", "+@all", "~*", "resetchannels", "&news"];
    server.command(&rights).await;
    let url = format!("redis://web:pw@127.0.0.1:{}", server.port);
    let test = TestBroker::new(test_settings(&url));
    test.wait_until_up().await;
    let is_reported = || match test.subscriptions().probe {
        Some(ProbeState::Unavailable(reason)) => reason.contains("NOPERM"),
        _ => false,
    };
    eventually("the reason is reported", is_reported).await;
    test.subscribe("news").await;
    server.command(&["PUBLISH", "news", "1"]).await;
    eventually("the publication is received", || test.recorder.messages().len() == 1).await;
    server.command(&["ACL", "SETUSER", "web", "&earshot:probe:*"]).await;
    eventually("the subscription is verified as soon as possible", || is_verified(&test)).await;
    assert!(test.recorder.gaps().is_empty());
    assert_eq!(test.subscriptions().reconnects, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_of_the_command_link_does_not_end_the_subscription() {
    let server = Server::start(&[]).await;
    let test = TestBroker::up(&server).await;
    eventually("a probe is verified", || is_verified(&test)).await;
    let reconnects =
        || test.broker.links().into_iter().find(|link| link.link == "commands").unwrap().reconnects;
    for _ in 0..5 {
        let (before, probes) = (reconnects(), server.calls("publish").await);
        server.command(&["CLIENT", "KILL", "TYPE", "normal"]).await;
        eventually("the command link has reconnected", || reconnects() > before).await;
        wait_for_probe(&server, probes).await;
    }
    let status = test.subscriptions();
    assert!(status.failures.iter().all(|(_, count)| *count == 0), "{status:?}");
    assert!(test.recorder.gaps().is_empty());
}

/// A proxy with a target that can be changed for new connections.
struct SwitchableProxy {
    port: u16,
    target: Arc<AtomicU16>,
}

impl SwitchableProxy {
    async fn open(target: u16) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let target = Arc::new(AtomicU16::new(target));
        let current = Arc::clone(&target);
        Drain::default().spawn(async move {
            let connections = Drain::default();
            while let Ok((mut client, _)) = listener.accept().await {
                let target = current.load(Ordering::Relaxed);
                connections.spawn(async move {
                    if let Ok(mut server) = tokio::net::TcpStream::connect(("127.0.0.1", target)).await {
                        let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
                    }
                });
            }
        });
        Self { port, target }
    }

    fn set_target(&self, port: u16) {
        self.target.store(port, Ordering::Relaxed);
    }

    fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }
}

/// Starts a proxy that delays all data in both directions. Returns its port.
async fn slow_proxy(target: u16, delay: Duration) -> u16 {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    Drain::default().spawn(async move {
        let connections = Drain::default();
        while let Ok((client, _)) = listener.accept().await {
            let Ok(server) = tokio::net::TcpStream::connect(("127.0.0.1", target)).await else { return };
            let ((client_read, client_write), (server_read, server_write)) =
                (client.into_split(), server.into_split());
            connections.spawn(copy_delayed(client_read, server_write, delay));
            connections.spawn(copy_delayed(server_read, client_write, delay));
        }
    });
    port
}

async fn copy_delayed(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, delay: Duration) {
    let (sender, mut receiver) = tokio::sync::mpsc::channel::<(Instant, Vec<u8>)>(10_000);
    let read = async move {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(length @ 1..) = from.read(&mut buffer).await {
            let _ = sender.send((Instant::now() + delay, buffer[..length].to_vec())).await;
        }
    };
    let write = async move {
        while let Some((at, chunk)) = receiver.recv().await {
            tokio::time::sleep_until(at).await;
            if to.write_all(&chunk).await.is_err() {
                return;
            }
        }
    };
    tokio::join!(read, write);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_probe_verifies_earlier_messages() {
    let server = Server::start(&[]).await;
    // The round trip takes longer than the wait for a probe.
    let port = slow_proxy(server.port, probe::ROUND_TIMEOUT_MIN * 6 / 10).await;
    let mut settings = test_settings(&format!("redis://127.0.0.1:{port}"));
    settings.probe_interval = Some(Duration::from_millis(100));
    settings.ping_timeout = DEADLINE;
    let test = TestBroker::new(settings);
    test.wait_until_up().await;
    let probes = server.calls("publish").await;
    let deadline = Instant::now() + DEADLINE;
    // More probes than the permitted consecutive misses.
    while server.calls("publish").await < probes + 3 * u64::from(probe::MISSES_WHILE_RECEIVING_MAX) {
        assert!(Instant::now() < deadline, "no probe was sent");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(is_verified(&test));
    assert_eq!(test.subscriptions().failures, [("unreachable", 0), ("not-receiving", 0), ("rejected", 0)]);
}

#[tokio::test]
async fn an_older_probe_after_a_newer_one_changes_nothing() {
    let probe_replies = probe::ProbeReplies::new("probe:");
    let (older, newer) = (probe_replies.send().number, probe_replies.send().number);
    for number in [newer, older] {
        assert!(probe_replies.accept(probe_replies.channel(), number.to_string().as_bytes()));
    }
    assert!(probe_replies.wait_for(newer).await);
    assert!(
        probe_replies.accept(probe_replies.channel(), (newer + 1).to_string().as_bytes()),
        "the channel is the probe channel"
    );
    assert_eq!(probe_replies.last(), newer, "a number that was never sent is ignored");
}

#[tokio::test(start_paused = true)]
async fn a_probe_over_the_subscriber_connection_does_not_move_the_start_of_a_gap() {
    let probe_replies = probe::ProbeReplies::new("probe:");
    let start = probe_replies.verified();
    for (is_own, verified) in [(true, Duration::ZERO), (false, Duration::from_secs(2))] {
        tokio::time::advance(Duration::from_secs(1)).await;
        let (last, number) = (probe_replies.last(), probe_replies.send().number);
        if is_own {
            probe_replies.publish_on_subscription(number);
        }
        assert!(probe_replies.accept(probe_replies.channel(), number.to_string().as_bytes()));
        let outcome = probe_replies.on_timeout(number, last, 0, std::future::ready(true)).await;
        assert_eq!(outcome, probe::ProbeOutcome::Received(start + verified, Duration::ZERO));
    }
}

#[tokio::test]
async fn a_round_with_a_discarded_probe_is_inconclusive() {
    let probe_replies = probe::ProbeReplies::new("probe:");
    let number = probe_replies.send().number;
    let (arrived, ()) = tokio::join!(probe_replies.wait_for(number), async { probe_replies.clear() });
    assert!(!arrived);
    let outcome = probe_replies.on_timeout(number, 0, 0, std::future::ready(true)).await;
    assert_eq!(outcome, probe::ProbeOutcome::Inconclusive);
}

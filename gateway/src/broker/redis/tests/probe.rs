//! The probes, and what they detect that an answered PING does not.

use std::sync::atomic::{AtomicU16, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

use super::super::probe;
use super::*;
use crate::broker::ProbeState;

fn is_proven(lab: &Lab) -> bool {
    matches!(lab.subscriptions().probe, Some(ProbeState::Verified { .. }))
}

#[tokio::test(flavor = "multi_thread")]
async fn probes_return_repeatedly() {
    let server = Server::start(&[]).await;
    let lab = Lab::up(&server).await;
    eventually("it is proven", || is_proven(&lab)).await;
    let probes = server.calls("publish").await;
    for _ in 0..3 {
        let before = server.calls("publish").await;
        until_more(&server, before).await;
    }
    assert!(server.calls("publish").await >= probes + 3);
    let status = lab.subscriptions();
    assert!(status.up && is_proven(&lab), "{status:?}");
    assert_eq!((status.desired, status.active, status.reconnects), (0, 0, 0), "a probe is no topic");
    assert!(lab.recorder.events().is_empty(), "a probe is no publication");
}

async fn until_more(server: &Server, before: u64) {
    let deadline = Instant::now() + DEADLINE;
    while server.calls("publish").await <= before {
        assert!(Instant::now() < deadline, "no more probes");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn detects_a_server_that_publishers_no_longer_reach() {
    let (old, new) = (Server::start(&[]).await, Server::start(&[]).await);
    let way = Way::open(old.port).await;
    let lab = Lab::new(quick(&way.url()));
    lab.both_up().await;
    lab.subscribe("news").await;
    eventually("it is proven", || is_proven(&lab)).await;
    // The name resolves to another server, and only new connections reach it, as the command link here.
    way.lead_to(new.port);
    old.command(&["CLIENT", "KILL", "TYPE", "normal"]).await;
    eventually("deafness is noticed", || {
        let losses = lab.subscriptions().failures;
        losses.iter().any(|(reason, count)| *reason == "not-receiving" && *count > 0)
    })
    .await;
    eventually("it hears at the other server", || lab.subscriptions().up && is_proven(&lab)).await;
    eventually("the loss is told", || {
        lab.recorder.gaps().iter().any(|loss| loss.cause == GapCause::LinkDown)
    })
    .await;
    new.command(&["PUBLISH", "news", "after"]).await;
    eventually("news are heard", || lab.recorder.messages().iter().any(|(_, data)| &data[..] == b"after"))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_denied_probes_and_keeps_the_link() {
    let server = Server::start(&[]).await;
    let rights = ["ACL", "SETUSER", "web", "on", ">pw", "+@all", "~*", "resetchannels", "&news"];
    server.command(&rights).await;
    let url = format!("redis://web:pw@127.0.0.1:{}", server.port);
    let lab = Lab::new(quick(&url));
    lab.both_up().await;
    let said = || match lab.subscriptions().probe {
        Some(ProbeState::Unavailable(reason)) => reason.contains("NOPERM"),
        _ => false,
    };
    eventually("it is said why", said).await;
    lab.subscribe("news").await;
    server.command(&["PUBLISH", "news", "1"]).await;
    eventually("news are heard", || lab.recorder.messages().len() == 1).await;
    server.command(&["ACL", "SETUSER", "web", "&earshot:probe:*"]).await;
    eventually("it is proven as soon as it may be", || is_proven(&lab)).await;
    assert!(lab.recorder.gaps().is_empty());
    assert_eq!(lab.subscriptions().reconnects, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_of_the_command_link_does_not_end_the_subscription() {
    let server = Server::start(&[]).await;
    let lab = Lab::up(&server).await;
    eventually("it is proven", || is_proven(&lab)).await;
    let reconnects =
        || lab.broker.links().into_iter().find(|link| link.link == "commands").unwrap().reconnects;
    for _ in 0..5 {
        let (before, probes) = (reconnects(), server.calls("publish").await);
        server.command(&["CLIENT", "KILL", "TYPE", "normal"]).await;
        eventually("the command link was thrown out", || reconnects() > before).await;
        until_more(&server, probes).await;
    }
    let status = lab.subscriptions();
    assert!(status.failures.iter().all(|(_, count)| *count == 0), "{status:?}");
    assert!(lab.recorder.gaps().is_empty());
}

/// A proxy whose new connections can be directed to another server.
struct Way {
    port: u16,
    target: Arc<AtomicU16>,
}

impl Way {
    async fn open(target: u16) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let target = Arc::new(AtomicU16::new(target));
        let leads_to = Arc::clone(&target);
        Drain::default().spawn(async move {
            let inside = Drain::default();
            while let Ok((mut near, _)) = listener.accept().await {
                let target = leads_to.load(Ordering::Relaxed);
                inside.spawn(async move {
                    if let Ok(mut far) = tokio::net::TcpStream::connect(("127.0.0.1", target)).await {
                        let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
                    }
                });
            }
        });
        Self { port, target }
    }

    fn lead_to(&self, port: u16) {
        self.target.store(port, Ordering::Relaxed);
    }

    fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }
}

/// The bytes from a server to a connection, in chunks that are all delayed.
async fn long_way(target: u16, each_way: Duration) -> u16 {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    Drain::default().spawn(async move {
        let inside = Drain::default();
        while let Ok((near, _)) = listener.accept().await {
            let Ok(far) = tokio::net::TcpStream::connect(("127.0.0.1", target)).await else { return };
            let ((near_read, near_write), (far_read, far_write)) = (near.into_split(), far.into_split());
            inside.spawn(carry(near_read, far_write, each_way));
            inside.spawn(carry(far_read, near_write, each_way));
        }
    });
    port
}

async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, delay: Duration) {
    let (pieces, mut carried) = tokio::sync::mpsc::channel::<(Instant, Vec<u8>)>(10_000);
    let read = async move {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(length @ 1..) = from.read(&mut buffer).await {
            let _ = pieces.send((Instant::now() + delay, buffer[..length].to_vec())).await;
        }
    };
    let write = async move {
        while let Some((at, piece)) = carried.recv().await {
            tokio::time::sleep_until(at).await;
            if to.write_all(&piece).await.is_err() {
                return;
            }
        }
    };
    tokio::join!(read, write);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_probe_proves_earlier_messages() {
    let server = Server::start(&[]).await;
    // The round trip takes longer than the timeout of a probe.
    let port = long_way(server.port, probe::ROUND_TIMEOUT_MIN * 6 / 10).await;
    let mut settings = quick(&format!("redis://127.0.0.1:{port}"));
    settings.probe_interval = Some(Duration::from_millis(100));
    settings.ping_timeout = DEADLINE;
    let lab = Lab::new(settings);
    lab.both_up().await;
    let probes = server.calls("publish").await;
    let deadline = Instant::now() + DEADLINE;
    // More than the number of misses that end the link.
    while server.calls("publish").await < probes + 3 * u64::from(probe::MISSES_WHILE_RECEIVING_MAX) {
        assert!(Instant::now() < deadline, "no more probes");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(is_proven(&lab));
    assert_eq!(lab.subscriptions().failures, [("unreachable", 0), ("not-receiving", 0), ("rejected", 0)]);
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
        "it is our channel"
    );
    assert_eq!(probe_replies.last(), newer, "what was never asked proves nothing");
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
        let proof = probe_replies.on_timeout(number, last, 0, std::future::ready(true)).await;
        assert_eq!(proof, probe::ProbeOutcome::Received(start + verified, Duration::ZERO));
    }
}

#[tokio::test]
async fn a_round_with_a_discarded_probe_is_inconclusive() {
    let probe_replies = probe::ProbeReplies::new("probe:");
    let number = probe_replies.send().number;
    let (arrived, ()) = tokio::join!(probe_replies.wait_for(number), async { probe_replies.clear() });
    assert!(!arrived);
    let proof = probe_replies.on_timeout(number, 0, 0, std::future::ready(true)).await;
    assert_eq!(proof, probe::ProbeOutcome::Inconclusive);
}

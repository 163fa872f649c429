//! SIGTERM under load: every client is notified, sent messages are not lost, and the process exits cleanly.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep, timeout};

use crate::harness::http::Raw;
use crate::harness::http2::Connection;
use crate::harness::sse::Next;
use crate::harness::ws::Incoming;
use crate::harness::{Gateway, Redis, SseClient, WsClient, exclusive, http, until, within_timeout};

/// Clients per transport.
const CLIENTS: usize = 20;

const CONFIG: &str = "[drain]\nshutdown_timeout = \"20s\"\ndisconnect_window = \"1s\"\n";

/// A shutdown timeout that no test waits for.
const LONG_TIMEOUT: &str = "[drain]\nshutdown_timeout = \"1h\"\ndisconnect_window = \"100ms\"\n[websocket]\nclose_timeout = \"500ms\"\n";

/// Timeouts that a stalled client could exhaust.
const SHORT_TIMEOUT: &str = "[drain]\nshutdown_timeout = \"4s\"\ndisconnect_window = \"1s\"\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_lose_no_message_and_continue_at_another_gateway() {
    let _exclusive = exclusive().await;
    let redis = Arc::new(Redis::start().await);
    let mut leaving = Gateway::settings().config(CONFIG).redis(&redis).start().await;
    let staying = Gateway::on(&redis).await;
    let (old, new) = (leaving.address(), staying.address());

    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        let socket = WsClient::open(old, &["numbers"]).await;
        clients.spawn(async move { follow_socket(socket, new).await });
        let events = SseClient::open(old, "/sse/numbers").await;
        clients.spawn(async move { follow_events(events, new).await });
    }
    let publisher = Publisher::start(Arc::clone(&redis));
    until("messages are flowing", async || {
        (leaving.metric("earshot_deliveries_total", &[]).await > 20_000.0).then_some(())
    })
    .await;

    leaving.process.signal("TERM");
    let notified = Instant::now();
    assert_unready_until_exit(&mut leaving).await;
    let status = leaving.process.wait_for_exit().await;
    assert_eq!(status.code(), Some(0), "{status}");
    assert!(
        notified.elapsed() < Duration::from_secs(20),
        "the shutdown timeout was exceeded: {:?}",
        notified.elapsed()
    );
    within_timeout("all clients continue at the other gateway", clients.join_all()).await;
    publisher.stop().await;
}

#[tokio::test]
async fn gateway_without_clients_exits_immediately_with_0() {
    let redis = Redis::start().await;
    let mut gateway = Gateway::on(&redis).await;
    let notified = Instant::now();
    gateway.process.signal("TERM");
    assert_eq!(gateway.process.wait_for_exit().await.code(), Some(0));
    assert!(notified.elapsed() < Duration::from_secs(5), "{:?}", notified.elapsed());
}

#[tokio::test]
async fn second_signal_exits_immediately() {
    let config = "[drain]\nshutdown_timeout = \"60s\"\ndisconnect_window = \"50s\"\n";
    let mut gateway = Gateway::settings().config(config).start().await;
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        clients.push(WsClient::open(gateway.address(), &["a"]).await);
    }
    gateway.process.signal("TERM");
    until("it is draining", async || (!is_ready(gateway.address()).await).then_some(())).await;
    assert!(gateway.process.exit_status().is_none(), "disconnects are spread over the window");
    gateway.process.signal("TERM");
    let notified = Instant::now();
    gateway.process.wait_for_exit().await;
    assert!(notified.elapsed() < Duration::from_secs(5), "{:?}", notified.elapsed());
}

#[tokio::test]
async fn unanswered_close_does_not_delay_the_exit() {
    let gateway = Gateway::settings().config(SHORT_TIMEOUT).start().await;
    let _stalled = WsClient::open(gateway.address(), &["a"]).await;
    assert_exits_cleanly(gateway).await;
}

#[tokio::test]
async fn unread_stream_does_not_delay_the_exit() {
    let gateway = Gateway::settings().config(SHORT_TIMEOUT).start().await;
    let _stalled = SseClient::open(gateway.address(), "/sse/a").await;
    assert_exits_cleanly(gateway).await;
}

#[tokio::test]
async fn incomplete_head_does_not_delay_the_exit() {
    let gateway = Gateway::settings().config(SHORT_TIMEOUT).start().await;
    let mut begun = Vec::new();
    for bytes in ["", "GET /sse/a HTTP/1.1\r\nHost: "] {
        let mut raw = Raw::connect(gateway.address()).await;
        raw.send(bytes).await;
        begun.push(raw);
    }
    assert_exits_cleanly(gateway).await;
}

#[tokio::test]
async fn keep_alive_connection_does_not_delay_the_exit() {
    let gateway = Gateway::settings().config(SHORT_TIMEOUT).start().await;
    let mut idle = Raw::connect(gateway.address()).await;
    idle.send("GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert_eq!(idle.response().await.unwrap().status, 200);
    assert_exits_cleanly(gateway).await;
}

#[tokio::test]
async fn stalled_http2_stream_does_not_delay_the_exit() {
    let gateway = Gateway::settings().config(LONG_TIMEOUT).start().await;
    let stalled = Connection::with_zero_window(&gateway).await;
    let _stream = stalled.get("/sse/a").await;
    let _answer = stalled.get("/metrics").await;
    assert_exits_before_the_timeout(gateway).await;
}

#[tokio::test]
async fn unread_pipelined_responses_do_not_delay_the_exit() {
    let gateway = Gateway::settings().config(LONG_TIMEOUT).start().await;
    let mut unread = Raw::over(gateway.small_buffer_connection());
    unread.send("GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(2000)).await;
    let mut received = 0;
    until("the gateway cannot write any further", async || {
        sleep(Duration::from_millis(100)).await;
        let before = std::mem::replace(&mut received, unread.waiting_bytes());
        (received > 0 && received == before).then_some(())
    })
    .await;
    assert_exits_before_the_timeout(gateway).await;
}

/// The shutdown timeout is longer than the test waits.
async fn assert_exits_before_the_timeout(mut gateway: Gateway) {
    gateway.process.signal("TERM");
    assert_eq!(gateway.process.wait_for_exit().await.code(), Some(0));
}

/// Asserts that the gateway exits with 0 within its shutdown timeout.
async fn assert_exits_cleanly(mut gateway: Gateway) {
    gateway.process.signal("TERM");
    let notified = Instant::now();
    let status = gateway.process.wait_for_exit().await;
    assert!(notified.elapsed() < Duration::from_secs(6), "{:?}", notified.elapsed());
    assert_eq!(status.code(), Some(0));
}

/// Asserts that `/ready` stays unready from the first sign of the drain until the exit.
async fn assert_unready_until_exit(gateway: &mut Gateway) {
    until("it is no longer ready", async || (!is_ready(gateway.address()).await).then_some(())).await;
    while gateway.process.exit_status().is_none() {
        assert!(!is_ready(gateway.address()).await, "ready while draining");
        sleep(Duration::from_millis(20)).await;
    }
}

/// Whether `/ready` returns 200; a closed listener counts as unready.
async fn is_ready(address: SocketAddr) -> bool {
    let answer = timeout(Duration::from_secs(2), http::try_fetch(address, "/ready")).await;
    match answer {
        Ok(Ok(answer)) => {
            assert!([200, 503].contains(&answer.status), "{answer:?}");
            answer.status == 200
        }
        Ok(Err(_)) | Err(_) => false,
    }
}

/// Reads without a hole until the close with 3001, then continues at the other gateway.
async fn follow_socket(mut socket: WsClient, other: SocketAddr) {
    let mut sequence = Sequence::default();
    let why = loop {
        match socket.next().await {
            Incoming::Publication(publication) => sequence.record(&publication.data),
            Incoming::Closed(why) => break why,
            unexpected => panic!("{unexpected:?}"),
        }
    };
    assert_eq!(why.map(|(code, _)| code), Some(3001), "after {sequence:?}");
    let mut socket = WsClient::open(other, &["numbers"]).await;
    let mut sequence = Sequence::after(&sequence);
    while sequence.count < 100 {
        sequence.record(&socket.publication().await.data);
    }
}

/// Reads without a hole until the stream completes, then continues at the other gateway.
async fn follow_events(mut events: SseClient, other: SocketAddr) {
    let mut sequence = Sequence::default();
    let mut notified = String::new();
    loop {
        match events.next().await {
            Next::Event(event) if event.name == "message" => sequence.record(&event.data),
            Next::Event(event) if event.name == "error" => notified = event.data,
            Next::Event(event) => panic!("{event:?}"),
            Next::End => break,
            Next::Broken(error) => panic!("the stream broke after {sequence:?}: {error}"),
        }
    }
    assert!(notified.contains("3001"), "reason of the end: {notified:?}");
    let mut events = SseClient::open(other, "/sse/numbers").await;
    let mut sequence = Sequence::after(&sequence);
    while sequence.count < 100 {
        sequence.record(&events.data("message").await);
    }
}

/// Consecutive numbers.
#[derive(Debug, Default)]
struct Sequence {
    last: Option<u64>,
    /// The first number must be greater than this.
    above: Option<u64>,
    count: usize,
}

impl Sequence {
    /// A sequence that begins later than the end of another one.
    fn after(earlier: &Self) -> Self {
        Self { above: earlier.last, ..Self::default() }
    }

    fn record(&mut self, data: &str) {
        let number = data.parse().unwrap();
        match self.last {
            Some(last) => assert_eq!(number, last + 1, "a hole after {last}"),
            None => assert!(Some(number) > self.above, "{number} was already received at the other gateway"),
        }
        self.last = Some(number);
        self.count += 1;
    }
}

/// Publishes bursts of consecutive numbers until it is stopped.
struct Publisher {
    stopping: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

impl Publisher {
    fn start(redis: Arc<Redis>) -> Self {
        let stopping = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&stopping);
        let task = tokio::spawn(async move {
            let mut connection = redis.connection().await;
            let mut number = 0u64;
            while !stop.load(Ordering::Relaxed) {
                let mut burst = redis::Pipeline::new();
                for _ in 0..10 {
                    burst.cmd("PUBLISH").arg("numbers").arg(number).ignore();
                    number += 1;
                }
                burst.exec_async(&mut connection).await.unwrap();
                sleep(Duration::from_millis(5)).await;
            }
        });
        Self { stopping, task }
    }

    async fn stop(self) {
        self.stopping.store(true, Ordering::Relaxed);
        self.task.await.unwrap();
    }
}

#[tokio::test]
async fn sighup_is_ignored_and_logged() {
    let mut gateway = Gateway::start().await;
    let mut stream = SseClient::open(gateway.address(), "/sse/a").await;
    gateway.process.signal("HUP");
    until("SIGHUP is logged", async || gateway.process.log().contains("SIGHUP is ignored").then_some(()))
        .await;
    gateway.publish("a", "1").await;
    assert_eq!(stream.data("message").await, "1");
    gateway.assert_alive();
}

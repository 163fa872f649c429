//! SIGTERM under load: everyone is told, nothing that was sent is lost, and the process ends in good order.

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

/// Clients of each kind.
const CLIENTS: usize = 20;

const CONFIG: &str = "[drain]\nshutdown_timeout = \"20s\"\ndisconnect_window = \"1s\"\n";

/// A grace that no test waits for.
const ENDLESS: &str = "[drain]\nshutdown_timeout = \"1h\"\ndisconnect_window = \"100ms\"\n[websocket]\nclose_timeout = \"500ms\"\n";

/// Times that a client could sit out.
const IMPATIENT: &str = "[drain]\nshutdown_timeout = \"4s\"\ndisconnect_window = \"1s\"\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_of_a_gateway_that_stops_lose_nothing_they_were_sent_and_go_on_at_another() {
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
    until("the load flows", async || {
        (leaving.metric("earshot_deliveries_total", &[]).await > 20_000.0).then_some(())
    })
    .await;

    leaving.process.signal("TERM");
    let told = Instant::now();
    assert_unready_until_the_end(&mut leaving).await;
    let status = leaving.process.end().await;
    assert_eq!(status.code(), Some(0), "{status}");
    assert!(told.elapsed() < Duration::from_secs(20), "the grace was overrun: {:?}", told.elapsed());
    within_timeout("everyone goes on at the other gateway", clients.join_all()).await;
    publisher.stop().await;
}

#[tokio::test]
async fn a_gateway_without_clients_ends_at_once_with_zero() {
    let redis = Redis::start().await;
    let mut gateway = Gateway::on(&redis).await;
    let told = Instant::now();
    gateway.process.signal("TERM");
    assert_eq!(gateway.process.end().await.code(), Some(0));
    assert!(told.elapsed() < Duration::from_secs(5), "{:?}", told.elapsed());
}

#[tokio::test]
async fn a_second_signal_ends_at_once() {
    let config = "[drain]\nshutdown_timeout = \"60s\"\ndisconnect_window = \"50s\"\n";
    let mut gateway = Gateway::settings().config(config).start().await;
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        clients.push(WsClient::open(gateway.address(), &["a"]).await);
    }
    gateway.process.signal("TERM");
    until("it drains", async || (!is_ready(gateway.address()).await).then_some(())).await;
    assert!(gateway.process.ended().is_none(), "the closes are spread over the window");
    gateway.process.signal("TERM");
    let told = Instant::now();
    gateway.process.end().await;
    assert!(told.elapsed() < Duration::from_secs(5), "{:?}", told.elapsed());
}

#[tokio::test]
async fn a_client_that_never_answers_its_close_does_not_hold_up_the_end() {
    let gateway = Gateway::settings().config(IMPATIENT).start().await;
    let _deaf = WsClient::open(gateway.address(), &["a"]).await;
    assert_ends_in_good_order(gateway).await;
}

#[tokio::test]
async fn a_stream_that_is_not_read_does_not_hold_up_the_end() {
    let gateway = Gateway::settings().config(IMPATIENT).start().await;
    let _deaf = SseClient::open(gateway.address(), "/sse/a").await;
    assert_ends_in_good_order(gateway).await;
}

#[tokio::test]
async fn half_a_head_does_not_hold_up_the_end() {
    let gateway = Gateway::settings().config(IMPATIENT).start().await;
    let mut begun = Vec::new();
    for bytes in ["", "GET /sse/a HTTP/1.1\r\nHost: "] {
        let mut raw = Raw::connect(gateway.address()).await;
        raw.send(bytes).await;
        begun.push(raw);
    }
    assert_ends_in_good_order(gateway).await;
}

#[tokio::test]
async fn a_kept_alive_connection_does_not_hold_up_the_end() {
    let gateway = Gateway::settings().config(IMPATIENT).start().await;
    let mut idle = Raw::connect(gateway.address()).await;
    idle.send("GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert_eq!(idle.response().await.unwrap().status, 200);
    assert_ends_in_good_order(gateway).await;
}

#[tokio::test]
async fn a_stalled_http2_stream_does_not_hold_up_the_end() {
    let gateway = Gateway::settings().config(ENDLESS).start().await;
    let stalled = Connection::with_zero_window(&gateway).await;
    let _stream = stalled.get("/sse/a").await;
    let _answer = stalled.get("/metrics").await;
    assert_ends_long_before_the_grace(gateway).await;
}

#[tokio::test]
async fn unread_pipelined_answers_do_not_hold_up_the_end() {
    let gateway = Gateway::settings().config(ENDLESS).start().await;
    let mut unread = Raw::over(gateway.small_buffer_connection());
    unread.send("GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(2000)).await;
    let mut received = 0;
    until("the gateway cannot write any more", async || {
        sleep(Duration::from_millis(100)).await;
        let before = std::mem::replace(&mut received, unread.waiting_bytes());
        (received > 0 && received == before).then_some(())
    })
    .await;
    assert_ends_long_before_the_grace(gateway).await;
}

/// The grace is longer than the test would wait for.
async fn assert_ends_long_before_the_grace(mut gateway: Gateway) {
    gateway.process.signal("TERM");
    assert_eq!(gateway.process.end().await.code(), Some(0));
}

/// The gateway ends within its grace, and says that all is well.
async fn assert_ends_in_good_order(mut gateway: Gateway) {
    gateway.process.signal("TERM");
    let told = Instant::now();
    let status = gateway.process.end().await;
    assert!(told.elapsed() < Duration::from_secs(6), "{:?}", told.elapsed());
    assert_eq!(status.code(), Some(0));
}

/// From the first sign of the drain on, nobody is told that the gateway is ready.
async fn assert_unready_until_the_end(gateway: &mut Gateway) {
    until("it is not ready any more", async || (!is_ready(gateway.address()).await).then_some(())).await;
    while gateway.process.ended().is_none() {
        assert!(!is_ready(gateway.address()).await, "ready again while it drains");
        sleep(Duration::from_millis(20)).await;
    }
}

/// Whether `/ready` says yes. A listener that is closed says no, too.
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

/// Reads without a hole until the close with 3001, then goes on at the other gateway.
async fn follow_socket(mut socket: WsClient, other: SocketAddr) {
    let mut run = Run::default();
    let why = loop {
        match socket.next().await {
            Incoming::Publication(publication) => run.take(&publication.data),
            Incoming::Closed(why) => break why,
            unexpected => panic!("{unexpected:?}"),
        }
    };
    assert_eq!(why.map(|(code, _)| code), Some(3001), "after {run:?}");
    let mut socket = WsClient::open(other, &["numbers"]).await;
    let mut run = Run::after(&run);
    while run.got < 100 {
        run.take(&socket.publication().await.data);
    }
}

/// Reads without a hole until the stream ends in good order, then goes on at the other gateway.
async fn follow_events(mut events: SseClient, other: SocketAddr) {
    let mut run = Run::default();
    let mut told = String::new();
    loop {
        match events.next().await {
            Next::Event(event) if event.name == "message" => run.take(&event.data),
            Next::Event(event) if event.name == "error" => told = event.data,
            Next::Event(event) => panic!("{event:?}"),
            Next::End => break,
            Next::Broken(error) => panic!("the stream broke off after {run:?}: {error}"),
        }
    }
    assert!(told.contains("3001"), "why the stream ended: {told:?}");
    let mut events = SseClient::open(other, "/sse/numbers").await;
    let mut run = Run::after(&run);
    while run.got < 100 {
        run.take(&events.data("message").await);
    }
}

/// Numbers that must follow each other.
#[derive(Debug, Default)]
struct Run {
    last: Option<u64>,
    /// The first number must be above this.
    above: Option<u64>,
    got: usize,
}

impl Run {
    /// A run that takes up later than another one ended.
    fn after(earlier: &Self) -> Self {
        Self { above: earlier.last, ..Self::default() }
    }

    fn take(&mut self, data: &str) {
        let number = data.parse().unwrap();
        match self.last {
            Some(last) => assert_eq!(number, last + 1, "a hole after {last}"),
            None => assert!(Some(number) > self.above, "{number} came before, at the other gateway"),
        }
        self.last = Some(number);
        self.got += 1;
    }
}

/// Publishes 0, 1, 2 … in a steady stream of bursts, until told to stop.
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
async fn sighup_is_ignored_with_a_line_in_the_log() {
    let mut gateway = Gateway::start().await;
    let mut stream = SseClient::open(gateway.address(), "/sse/a").await;
    gateway.process.signal("HUP");
    until("the log has a line", async || gateway.process.log().contains("SIGHUP is ignored").then_some(()))
        .await;
    gateway.publish("a", "1").await;
    assert_eq!(stream.data("message").await, "1");
    gateway.assert_alive();
}

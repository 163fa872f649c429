//! An address that temporarily routes new connections to another server, and a network that drops bytes: each
//! publication that Redis acknowledged is received or covered by a reported gap.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::time::sleep;

use super::*;

mod proxy;

use proxy::{Dropped, ErrorProxy, Proxy};

const NUMBERS: &str = "numbers";
/// The maximum delay between a publication that follows a gap and the report of the gap.
const GAP_REPORT_DELAY_MAX: Duration = Duration::from_secs(5);

/// An event handler that stores every event with its time.
#[derive(Default)]
struct TimedRecorder(Mutex<Vec<(Instant, Event)>>);

impl BrokerEventHandler for TimedRecorder {
    fn on_messages(&self, messages: &mut Vec<BrokerMessage>) {
        let now = Instant::now();
        let events = messages.drain(..).map(|message| (now, Event::Message(message.channel, message.data)));
        self.0.lock().unwrap().extend(events);
    }

    fn on_message(&self, message: BrokerMessage, _: Attributes) {
        panic!("Redis messages have no attributes: {message:?}");
    }

    fn on_local_publish(&self, message: BrokerMessage) {
        BrokerEventHandler::on_messages(self, &mut vec![message]);
    }

    fn on_gap(&self, gap: TopicGap) {
        self.0.lock().unwrap().push((Instant::now(), Event::Gap(gap)));
    }
}

impl TimedRecorder {
    fn gaps(&self) -> usize {
        self.0.lock().unwrap().iter().filter(|(_, event)| matches!(event, Event::Gap(_))).count()
    }

    fn has(&self, publisher: &str, number: u64) -> bool {
        let payload = format!("{publisher} {number}");
        let events = self.0.lock().unwrap();
        events.iter().rev().any(|(_, event)| matches!(event, Event::Message(_, data) if *data == payload))
    }
}

/// Publishes 1, 2, 3 and so on at one address, and reconnects after errors.
struct NumberPublisher {
    name: &'static str,
    /// The numbers that Redis acknowledged, each with its time.
    acknowledged: Arc<Mutex<Vec<(u64, Instant)>>>,
    stop: Arc<AtomicBool>,
}

impl NumberPublisher {
    fn start(name: &'static str, url: String) -> Self {
        let (acknowledged, stop) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let publisher = Self { name, acknowledged: Arc::clone(&acknowledged), stop: Arc::clone(&stop) };
        Drain::default().spawn(async move {
            let client = redis::Client::open(url).unwrap();
            let mut number = 0;
            while !stop.load(Ordering::Relaxed) {
                let Ok(mut connection) = client.get_multiplexed_async_connection().await else {
                    sleep(Duration::from_millis(1)).await;
                    continue;
                };
                while !stop.load(Ordering::Relaxed) {
                    number += 1;
                    let publish = redis::cmd("PUBLISH").arg(NUMBERS).arg(format!("{name} {number}")).take();
                    if publish.exec_async(&mut connection).await.is_err() {
                        break;
                    }
                    acknowledged.lock().unwrap().push((number, Instant::now()));
                    sleep(Duration::from_millis(2)).await;
                }
            }
        });
        publisher
    }

    fn last(&self) -> u64 {
        self.acknowledged.lock().unwrap().last().map_or(0, |(number, _)| *number)
    }

    /// Checks that each acknowledged number was received, or that a gap was reported that begins before the number was
    /// published. Returns the numbers of received and missing publications.
    fn count_received(&self, recorder: &TimedRecorder) -> (usize, usize) {
        let acknowledged: BTreeMap<u64, Instant> =
            self.acknowledged.lock().unwrap().iter().copied().collect();
        let events = recorder.0.lock().unwrap();
        let (mut last, mut last_at, mut received, mut missing) = (0, 0, 0, 0);
        for (at, (when, event)) in events.iter().enumerate() {
            let Event::Message(_, data) = event else { continue };
            let text = std::str::from_utf8(data).unwrap();
            let Some(number) = text.strip_prefix(self.name).and_then(|text| text.trim().parse().ok()) else {
                continue;
            };
            assert!(number > last, "{}: {number} after {last}", self.name);
            let skipped = acknowledged.range(last + 1..number).count();
            if let Some((_, published)) = acknowledged.range(last + 1..number).next() {
                let reported = events[last_at..].iter().any(|(reported_at, event)| match event {
                    Event::Gap(gap) => gap.from <= *published && *reported_at <= *when + GAP_REPORT_DELAY_MAX,
                    Event::Message(..) => false,
                });
                assert!(reported, "{}: {skipped} missing before {number} without a reported gap", self.name);
            }
            (last, last_at) = (number, at);
            received += 1;
            missing += skipped;
        }
        (received, missing)
    }
}

fn settings(url: &str) -> RedisSettings {
    RedisSettings { probe_interval: Some(Duration::from_secs(1)), ..test_settings(url) }
}

/// Starts a broker behind a proxy, and waits until a probe is verified.
async fn start(proxy: &Proxy) -> (Arc<TimedRecorder>, Arc<RedisBroker>, Drain) {
    let (recorder, drain) = (Arc::new(TimedRecorder::default()), Drain::default());
    let broker = RedisBroker::start(settings(&proxy.url()), recorder.clone(), &drain);
    let up = || broker.links().iter().all(|link| link.up);
    eventually("both links are up", up).await;
    broker.subscribe(&channel(NUMBERS), WhenUnavailable::Reject).await.unwrap();
    let verified = || broker.links().iter().any(|link| link.probe.is_some());
    eventually("a probe is verified", verified).await;
    (recorder, broker, drain)
}

/// The connections that are closed when the address changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Closed {
    /// All except subscriptions.
    CommandLink,
    Subscriptions,
    All,
}

async fn close(server: &Server, closed: Closed) {
    if closed != Closed::Subscriptions {
        server.command(&["CLIENT", "KILL", "TYPE", "normal"]).await;
    }
    if closed != Closed::CommandLink {
        server.command(&["CLIENT", "KILL", "TYPE", "pubsub"]).await;
    }
}

/// Routes new connections to another server for this duration.
async fn redirect_temporarily(duration: Duration, closed: Closed) {
    let (original, other) = (Server::start(&[]).await, Server::start(&[]).await);
    let proxy = Proxy::open(original.port).await;
    let (recorder, broker, _drain) = start(&proxy).await;
    let via_proxy = NumberPublisher::start("via-proxy", proxy.url());
    let at_original = NumberPublisher::start("at-original", original.url());
    let at_other = NumberPublisher::start("at-other", other.url());
    eventually("publications are received", || recorder.has("via-proxy", 100)).await;
    assert_eq!(recorder.gaps(), 0, "{duration:?} {closed:?}: before the change");
    proxy.target.store(other.port, Ordering::Relaxed);
    close(&original, closed).await;
    sleep(duration).await;
    proxy.target.store(original.port, Ordering::Relaxed);
    close(&other, closed).await;
    let after = via_proxy.last() + 200;
    eventually("publishing continues", || via_proxy.last() >= after).await;
    let (mut received, mut missing) = (0, 0);
    // While the links are on different servers, publications through the proxy are not received.
    eventually("publications through the proxy are received again", || {
        recorder.has("via-proxy", via_proxy.last())
    })
    .await;
    for publisher in [&via_proxy, &at_original, &at_other] {
        publisher.stop.store(true, Ordering::Relaxed);
        let counts = publisher.count_received(&recorder);
        (received, missing) = (received + counts.0, missing + counts.1);
    }
    eprintln!("{duration:?} {closed:?}: {received} received, {missing} missing, {} gaps", recorder.gaps());
    assert!(recorder.gaps() > 0 && missing > 0, "{duration:?} {closed:?}: the change lost no publication");
    // For each of the two changes: at most one gap for the closed connections and one for the link on the old server.
    assert!(recorder.gaps() <= 4, "{duration:?} {closed:?}: {} gaps", recorder.gaps());
    assert!(
        broker.links().iter().all(|link| link.reconnects <= 3),
        "{duration:?} {closed:?}: {:?}",
        broker.links()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_temporary_change_of_the_address_is_a_reported_gap() {
    let durations = [300, 1000, 3000, 8000].map(Duration::from_millis);
    let all = durations.into_iter().flat_map(|duration| {
        [Closed::CommandLink, Closed::Subscriptions, Closed::All]
            .map(|closed| redirect_temporarily(duration, closed))
    });
    futures::future::join_all(all).await;
}

fn link(broker: &RedisBroker, name: &str) -> LinkStatus {
    broker.links().into_iter().find(|link| link.link == name).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_link_on_the_old_server_reconnects() {
    let (original, other) = (Server::start(&[]).await, Server::start(&[]).await);
    let proxy = Proxy::open(original.port).await;
    let (recorder, broker, _drain) = start(&proxy).await;
    proxy.target.store(other.port, Ordering::Relaxed);
    close(&original, Closed::Subscriptions).await;
    eventually("the command link reconnects", || link(&broker, "commands").reconnects > 0).await;
    eventually("both links are up", || broker.links().iter().all(|link| link.up)).await;
    let name = ChannelName::parse(NUMBERS).unwrap();
    broker.publish(&name, "own 1".into(), PublishOptions::new(WhenUnavailable::Reject)).await.unwrap();
    eventually("the new server delivers publications", || recorder.has("own", 1)).await;
    assert_eq!(link(&broker, "commands").reconnects, 1);
    assert_eq!(
        link(&broker, "subscriptions").reconnects,
        1,
        "the first connection was closed, the second stays"
    );
    assert!(other.calls("publish").await > 0);
    assert_eq!(recorder.gaps(), 2, "one for the closed connection, one for the old server");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_link_on_the_old_server_reconnects_although_a_pattern_counts_the_probes() {
    let (original, other) = (Server::start(&[]).await, Server::start(&[]).await);
    let proxy = Proxy::open(original.port).await;
    let (recorder, broker, _drain) = start(&proxy).await;
    let mut monitor = redis::Client::open(original.url()).unwrap().get_async_pubsub().await.unwrap();
    proxy.target.store(other.port, Ordering::Relaxed);
    close(&original, Closed::Subscriptions).await;
    // From now on, the old server reports one receiver for each probe.
    monitor.psubscribe("*").await.unwrap();
    eventually("the command link reconnects", || link(&broker, "commands").reconnects > 0).await;
    eventually("both links are up", || broker.links().iter().all(|link| link.up)).await;
    let name = ChannelName::parse(NUMBERS).unwrap();
    broker.publish(&name, "own 1".into(), PublishOptions::new(WhenUnavailable::Reject)).await.unwrap();
    eventually("the new server delivers publications", || recorder.has("own", 1)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_drops_bytes_is_a_reported_gap() {
    for kind in [Dropped::Subscription, Dropped::Replies, Dropped::CommandLink] {
        let server = Server::start(&[]).await;
        let proxy = Proxy::open(server.port).await;
        let (recorder, broker, _drain) = start(&proxy).await;
        let direct = NumberPublisher::start("direct", server.url());
        for _ in 0..4 {
            let next = direct.last() + 200;
            eventually("publications are received", || direct.last() >= next).await;
            proxy.drop_for(kind, Duration::from_millis(250)).await;
        }
        eventually("publications are received again", || recorder.has("direct", direct.last())).await;
        let after = direct.last() + 200;
        eventually("publications are received", || recorder.has("direct", after)).await;
        direct.stop.store(true, Ordering::Relaxed);
        let (received, missing) = direct.count_received(&recorder);
        eprintln!("{kind:?}: {received} received, {missing} missing, {} gaps", recorder.gaps());
        assert!(proxy.bytes.load(Ordering::Relaxed) > 0, "{kind:?}: nothing was dropped");
        assert_eq!(missing > 0, kind == Dropped::Subscription, "{kind:?}");
        let gaps_max = if kind == Dropped::Subscription { 4 } else { 0 };
        assert!(recorder.gaps() <= gaps_max, "{kind:?}: {} gaps", recorder.gaps());
        assert_eq!(link(&broker, "subscriptions").reconnects, 0, "{kind:?}");
        if kind == Dropped::Subscription {
            assert_eq!(link(&broker, "commands").reconnects, 0, "both links work");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_server_causes_no_gap() {
    let server = Server::start(&["--enable-debug-command", "yes"]).await;
    let proxy = Proxy::open(server.port).await;
    let (recorder, broker, _drain) = start(&proxy).await;
    let direct = NumberPublisher::start("direct", server.url());
    for pause in ["0.1", "0.3", "0.45"] {
        server.command(&["DEBUG", "SLEEP", pause]).await;
        let next = direct.last() + 50;
        eventually("publications are received", || recorder.has("direct", next)).await;
        // A probe waits behind a burst.
        let burst = "x".repeat(1024 * 1024);
        for _ in 0..20 {
            server.command(&["PUBLISH", NUMBERS, &burst]).await;
        }
    }
    let next = direct.last() + 200;
    eventually("publications are received", || recorder.has("direct", next)).await;
    direct.stop.store(true, Ordering::Relaxed);
    assert_eq!(recorder.gaps(), 0, "{:?}", broker.links());
    assert_eq!(direct.count_received(&recorder).1, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stalled_subscription_causes_no_gap() {
    let server = Server::start(&[]).await;
    let proxy = Proxy::open(server.port).await;
    let (recorder, broker, _drain) = start(&proxy).await;
    let direct = NumberPublisher::start("direct", server.url());
    // Longer than the wait for a probe before PING decides; the PONG arrives together with the probe.
    for span in [260, 300, 350, 400, 450, 600, 260, 300, 350, 400, 450, 600] {
        let next = direct.last() + 10;
        eventually("publications are received", || recorder.has("direct", next)).await;
        proxy.hold_for(Duration::from_millis(span)).await;
    }
    let next = direct.last() + 200;
    eventually("publications are received", || recorder.has("direct", next)).await;
    direct.stop.store(true, Ordering::Relaxed);
    assert_eq!(direct.count_received(&recorder).1, 0);
    assert_eq!(recorder.gaps(), 0, "{:?}", broker.links());
    assert!(broker.links().iter().all(|link| link.reconnects == 0), "{:?}", broker.links());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_returns_only_errors_is_not_ready() {
    for reply in ["-ERR no\r\n", "-ERR unknown command\r\n", "-MOVED 1 127.0.0.1:1\r\n"] {
        let server = Server::start(&[]).await;
        let proxy = ErrorProxy::open(server.port, reply, false).await;
        let url = format!("redis://127.0.0.1:{}", proxy.port);
        let mut settings = settings(&url);
        // Only the probes detect it.
        (settings.ping_interval, settings.instance.rejected_retry_max) = (DEADLINE * 2, DEADLINE * 2);
        let test = TestBroker::new(settings);
        test.wait_until_up().await;
        eventually("a probe is verified", || test.subscriptions().probe.is_some()).await;
        proxy.returns_errors.store(true, Ordering::Relaxed);
        let since = Instant::now();
        eventually("the failure is detected", || !test.subscriptions().up).await;
        eprintln!("{reply:?}: {:?}", since.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_survives_a_command_link_that_receives_only_errors() {
    let server = Server::start(&[]).await;
    let proxy = ErrorProxy::open(server.port, "-ERR no\r\n", true).await;
    let mut settings = settings(&format!("redis://127.0.0.1:{}", proxy.port));
    // Longer than the interval of the probes.
    settings.ping_interval = Duration::from_secs(1);
    let test = TestBroker::new(settings);
    test.wait_until_up().await;
    test.subscribe("news").await;
    eventually("a probe is verified", || test.subscriptions().probe.is_some()).await;
    proxy.returns_errors.store(true, Ordering::Relaxed);
    eventually("the command link is down", || !link(&test.broker, "commands").up).await;
    // The subscriber connection publishes the probes itself.
    let probes = server.calls("publish").await;
    let deadline = Instant::now() + DEADLINE;
    while server.calls("publish").await < probes + 3 {
        assert!(Instant::now() < deadline, "no probe was sent");
        sleep(Duration::from_millis(20)).await;
    }
    proxy.returns_errors.store(false, Ordering::Relaxed);
    test.wait_until_up().await;
    assert_eq!(test.subscriptions().reconnects, 0);
    assert!(test.recorder.gaps().is_empty());
}

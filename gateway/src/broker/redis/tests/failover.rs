//! A name that temporarily resolves to another server, and a network that drops bytes: each acknowledged publication
//! is received, or a gap is reported for it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::time::sleep;

use super::*;

mod proxy;

use proxy::{AnsweringProxy, Dropped, Proxy};

const NUMBERS: &str = "numbers";
/// A gap may be reported after the messages that follow it, but not much later.
const LATE: Duration = Duration::from_secs(5);

/// A handler that records the times of its calls.
#[derive(Default)]
struct TimedRecorder(Mutex<Vec<(Instant, Event)>>);

impl BrokerEventHandler for TimedRecorder {
    fn on_messages(&self, messages: &mut Vec<BrokerMessage>) {
        let now = Instant::now();
        let events = messages.drain(..).map(|message| (now, Event::Message(message.channel, message.data)));
        self.0.lock().unwrap().extend(events);
    }

    fn on_message(&self, message: BrokerMessage, _: Attributes) {
        panic!("Redis carries no attributes: {message:?}");
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

/// Publishes 1, 2, 3 and so on at one address.
struct Counting {
    name: &'static str,
    /// Each acknowledged number with its time.
    acknowledged: Arc<Mutex<Vec<(u64, Instant)>>>,
    stop: Arc<AtomicBool>,
}

impl Counting {
    fn start(name: &'static str, url: String) -> Self {
        let (acknowledged, stop) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let counting = Self { name, acknowledged: Arc::clone(&acknowledged), stop: Arc::clone(&stop) };
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
        counting
    }

    fn last(&self) -> u64 {
        self.acknowledged.lock().unwrap().last().map_or(0, |(number, _)| *number)
    }

    /// Checks that each acknowledged number was received, or that a gap was reported that begins before it was
    /// published. Returns how many were received and how many are missing.
    fn account(&self, diary: &TimedRecorder) -> (usize, usize) {
        let acknowledged: BTreeMap<u64, Instant> =
            self.acknowledged.lock().unwrap().iter().copied().collect();
        let events = diary.0.lock().unwrap();
        let (mut last, mut last_at, mut heard, mut missing) = (0, 0, 0, 0);
        for (at, (when, event)) in events.iter().enumerate() {
            let Event::Message(_, data) = event else { continue };
            let text = std::str::from_utf8(data).unwrap();
            let Some(number) = text.strip_prefix(self.name).and_then(|text| text.trim().parse().ok()) else {
                continue;
            };
            assert!(number > last, "{}: {number} after {last}", self.name);
            let hole = acknowledged.range(last + 1..number).count();
            if let Some((_, published)) = acknowledged.range(last + 1..number).next() {
                let reported = events[last_at..].iter().any(|(told, event)| match event {
                    Event::Gap(loss) => loss.from <= *published && *told <= *when + LATE,
                    Event::Message(..) => false,
                });
                assert!(reported, "{}: {hole} lost in silence before {number}", self.name);
            }
            (last, last_at) = (number, at);
            heard += 1;
            missing += hole;
        }
        (heard, missing)
    }
}

fn settings(url: &str) -> RedisSettings {
    RedisSettings { probe_interval: Some(Duration::from_secs(1)), ..quick(url) }
}

/// A broker behind a proxy, after its first verified probe.
async fn start(proxy: &Proxy) -> (Arc<TimedRecorder>, Arc<RedisBroker>, Drain) {
    let (diary, drain) = (Arc::new(TimedRecorder::default()), Drain::default());
    let broker = RedisBroker::start(settings(&proxy.url()), diary.clone(), &drain);
    let up = || broker.links().iter().all(|link| link.up);
    eventually("both links are up", up).await;
    broker.subscribe(&channel(NUMBERS), WhenUnavailable::Reject).await.unwrap();
    let proven = || broker.links().iter().any(|link| link.probe.is_some());
    eventually("it is proven", proven).await;
    (diary, broker, drain)
}

/// The connections that end when the name resolves to another server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cut {
    /// All except subscriptions.
    CommandLink,
    Subscriptions,
    Everything,
}

async fn cut(server: &Server, cut: Cut) {
    if cut != Cut::Subscriptions {
        server.command(&["CLIENT", "KILL", "TYPE", "normal"]).await;
    }
    if cut != Cut::CommandLink {
        server.command(&["CLIENT", "KILL", "TYPE", "pubsub"]).await;
    }
}

/// The name resolves to another server for a while.
async fn excursion(span: Duration, whose: Cut) {
    let (home, away) = (Server::start(&[]).await, Server::start(&[]).await);
    let proxy = Proxy::open(home.port).await;
    let (diary, broker, _drain) = start(&proxy).await;
    let through = Counting::start("through", proxy.url());
    let at_home = Counting::start("at-home", home.url());
    let at_away = Counting::start("at-away", away.url());
    eventually("the load flows", || diary.has("through", 100)).await;
    assert_eq!(diary.gaps(), 0, "{span:?} {whose:?}: before anything happened");
    proxy.target.store(away.port, Ordering::Relaxed);
    cut(&home, whose).await;
    sleep(span).await;
    proxy.target.store(home.port, Ordering::Relaxed);
    cut(&away, whose).await;
    let after = through.last() + 200;
    eventually("it goes on", || through.last() >= after).await;
    let (heard, missing) = (Mutex::new(0), Mutex::new(0));
    // While the links are on different servers, nothing that goes through the proxy is received.
    eventually("what is published through the proxy is heard again", || diary.has("through", through.last()))
        .await;
    for publisher in [&through, &at_home, &at_away] {
        publisher.stop.store(true, Ordering::Relaxed);
        let (some, none) = publisher.account(&diary);
        *heard.lock().unwrap() += some;
        *missing.lock().unwrap() += none;
    }
    eprintln!("{span:?} {whose:?}: {heard:?} heard, {missing:?} missing, {} losses", diary.gaps());
    assert!(diary.gaps() > 0 && *missing.lock().unwrap() > 0, "{span:?} {whose:?}: this shows nothing");
    // There and back: at most one gap for the cut, and one for the stale link.
    assert!(diary.gaps() <= 4, "{span:?} {whose:?}: {} losses", diary.gaps());
    assert!(
        broker.links().iter().all(|link| link.reconnects <= 3),
        "{span:?} {whose:?}: {:?}",
        broker.links()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_temporary_change_of_the_address_is_a_reported_gap() {
    let spans = [300, 1000, 3000, 8000].map(Duration::from_millis);
    let all = spans.into_iter().flat_map(|span| {
        [Cut::CommandLink, Cut::Subscriptions, Cut::Everything].map(|cut| excursion(span, cut))
    });
    futures::future::join_all(all).await;
}

fn link(broker: &RedisBroker, name: &str) -> LinkStatus {
    broker.links().into_iter().find(|link| link.link == name).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_link_on_the_old_server_reconnects() {
    let (home, away) = (Server::start(&[]).await, Server::start(&[]).await);
    let proxy = Proxy::open(home.port).await;
    let (diary, broker, _drain) = start(&proxy).await;
    proxy.target.store(away.port, Ordering::Relaxed);
    cut(&home, Cut::Subscriptions).await;
    eventually("the command link reconnects", || link(&broker, "commands").reconnects > 0).await;
    eventually("both links are up", || broker.links().iter().all(|link| link.up)).await;
    let name = ChannelName::parse(NUMBERS).unwrap();
    broker.publish(&name, "own 1".into(), WhenUnavailable::Reject).await.unwrap();
    eventually("the new server carries publications", || diary.has("own", 1)).await;
    assert_eq!(link(&broker, "commands").reconnects, 1);
    assert_eq!(link(&broker, "subscriptions").reconnects, 1, "the first one was cut, the second one is good");
    assert!(away.calls("publish").await > 0);
    assert_eq!(diary.gaps(), 2, "one for the cut, one for the old server");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_link_on_the_old_server_reconnects_although_a_pattern_counts_the_probes() {
    let (home, away) = (Server::start(&[]).await, Server::start(&[]).await);
    let proxy = Proxy::open(home.port).await;
    let (diary, broker, _drain) = start(&proxy).await;
    let mut monitor = redis::Client::open(home.url()).unwrap().get_async_pubsub().await.unwrap();
    proxy.target.store(away.port, Ordering::Relaxed);
    cut(&home, Cut::Subscriptions).await;
    // From now on the old server counts a receiver of each probe.
    monitor.psubscribe("*").await.unwrap();
    eventually("the command link reconnects", || link(&broker, "commands").reconnects > 0).await;
    eventually("both links are up", || broker.links().iter().all(|link| link.up)).await;
    let name = ChannelName::parse(NUMBERS).unwrap();
    broker.publish(&name, "own 1".into(), WhenUnavailable::Reject).await.unwrap();
    eventually("the new server carries publications", || diary.has("own", 1)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_drops_bytes_is_a_reported_gap() {
    for kind in [Dropped::Subscription, Dropped::Answers, Dropped::CommandLink] {
        let server = Server::start(&[]).await;
        let proxy = Proxy::open(server.port).await;
        let (diary, broker, _drain) = start(&proxy).await;
        let direct = Counting::start("direct", server.url());
        for _ in 0..4 {
            let next = direct.last() + 200;
            eventually("the load flows", || direct.last() >= next).await;
            proxy.drop_for(kind, Duration::from_millis(250)).await;
        }
        eventually("it is heard again", || diary.has("direct", direct.last())).await;
        let after = direct.last() + 200;
        eventually("it goes on", || diary.has("direct", after)).await;
        direct.stop.store(true, Ordering::Relaxed);
        let (heard, missing) = direct.account(&diary);
        eprintln!("{kind:?}: {heard} heard, {missing} missing, {} losses", diary.gaps());
        assert!(proxy.bytes.load(Ordering::Relaxed) > 0, "{kind:?}: nothing was dropped");
        assert_eq!(missing > 0, kind == Dropped::Subscription, "{kind:?}");
        let most = if kind == Dropped::Subscription { 4 } else { 0 };
        assert!(diary.gaps() <= most, "{kind:?}: {} losses", diary.gaps());
        assert_eq!(link(&broker, "subscriptions").reconnects, 0, "{kind:?}");
        if kind == Dropped::Subscription {
            assert_eq!(link(&broker, "commands").reconnects, 0, "both links are good");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_server_causes_no_gap() {
    let server = Server::start(&["--enable-debug-command", "yes"]).await;
    let proxy = Proxy::open(server.port).await;
    let (diary, broker, _drain) = start(&proxy).await;
    let direct = Counting::start("direct", server.url());
    for pause in ["0.1", "0.3", "0.45"] {
        server.command(&["DEBUG", "SLEEP", pause]).await;
        let next = direct.last() + 50;
        eventually("the load flows", || diary.has("direct", next)).await;
        // A subscription after a burst.
        let burst = "x".repeat(1024 * 1024);
        for _ in 0..20 {
            server.command(&["PUBLISH", NUMBERS, &burst]).await;
        }
    }
    let next = direct.last() + 200;
    eventually("the load flows", || diary.has("direct", next)).await;
    direct.stop.store(true, Ordering::Relaxed);
    assert_eq!(diary.gaps(), 0, "{:?}", broker.links());
    assert_eq!(direct.account(&diary).1, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stalled_subscription_causes_no_gap() {
    let server = Server::start(&[]).await;
    let proxy = Proxy::open(server.port).await;
    let (diary, broker, _drain) = start(&proxy).await;
    let direct = Counting::start("direct", server.url());
    // Longer than the wait for a probe before PING decides; the reply arrives together with the probe.
    for span in [260, 300, 350, 400, 450, 600, 260, 300, 350, 400, 450, 600] {
        let next = direct.last() + 10;
        eventually("the load flows", || diary.has("direct", next)).await;
        proxy.hold_for(Duration::from_millis(span)).await;
    }
    let next = direct.last() + 200;
    eventually("the load flows", || diary.has("direct", next)).await;
    direct.stop.store(true, Ordering::Relaxed);
    assert_eq!(direct.account(&diary).1, 0);
    assert_eq!(diary.gaps(), 0, "{:?}", broker.links());
    assert!(broker.links().iter().all(|link| link.reconnects == 0), "{:?}", broker.links());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_answers_with_errors_only_is_not_ready() {
    for reply in ["-ERR no\r\n", "-ERR unknown command\r\n", "-MOVED 1 127.0.0.1:1\r\n"] {
        let server = Server::start(&[]).await;
        let proxy = AnsweringProxy::open(server.port, reply, false).await;
        let url = format!("redis://127.0.0.1:{}", proxy.port);
        let mut settings = settings(&url);
        // Only the probes detect it.
        (settings.ping_interval, settings.instance.rejected_retry_max) = (DEADLINE * 2, DEADLINE * 2);
        let lab = Lab::new(settings);
        lab.both_up().await;
        eventually("it is proven", || lab.subscriptions().probe.is_some()).await;
        proxy.answers.store(true, Ordering::Relaxed);
        let since = Instant::now();
        eventually("it is noticed", || !lab.subscriptions().up).await;
        eprintln!("{reply:?}: {:?}", since.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_survives_a_command_link_that_answers_with_errors_only() {
    let server = Server::start(&[]).await;
    let proxy = AnsweringProxy::open(server.port, "-ERR no\r\n", true).await;
    let mut settings = settings(&format!("redis://127.0.0.1:{}", proxy.port));
    // Longer than the interval of the probes.
    settings.ping_interval = Duration::from_secs(1);
    let lab = Lab::new(settings);
    lab.both_up().await;
    lab.subscribe("news").await;
    eventually("it is proven", || lab.subscriptions().probe.is_some()).await;
    proxy.answers.store(true, Ordering::Relaxed);
    eventually("the command link ends", || !link(&lab.broker, "commands").up).await;
    // The subscriber connection publishes the probes itself.
    let probes = server.calls("publish").await;
    let deadline = Instant::now() + DEADLINE;
    while server.calls("publish").await < probes + 3 {
        assert!(Instant::now() < deadline, "no more probes");
        sleep(Duration::from_millis(20)).await;
    }
    proxy.answers.store(false, Ordering::Relaxed);
    lab.both_up().await;
    assert_eq!(lab.subscriptions().reconnects, 0);
    assert!(lab.recorder.gaps().is_empty());
}

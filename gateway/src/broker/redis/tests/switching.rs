//! A name that leads new connections to another server for a while, and a network that drops bytes: each publication
//! that Redis acknowledged is received, or a loss is reported for it.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener as Listening, TcpStream};
use tokio::time::sleep;

use super::*;

const NUMBERS: &str = "numbers";
/// A loss may be reported after what follows it, but not much later.
const LATE: Duration = Duration::from_secs(5);

/// What passes a proxy, by the kind of connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dropped {
    Subscription,
    Answers,
    Commands,
}

/// A TCP proxy in front of two servers.
#[derive(Default)]
struct Proxy {
    port: u16,
    target: AtomicU16,
    /// Bytes are dropped: `Dropped` as a number from 1, or 0.
    dropped: AtomicU16,
    bytes: AtomicU64,
}

impl Proxy {
    async fn open(target: u16) -> Arc<Self> {
        let listener = Listening::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let proxy = Arc::new(Self { port, target: AtomicU16::new(target), ..Self::default() });
        let run = Arc::clone(&proxy);
        Drain::default().spawn(async move {
            let inside = Drain::default();
            while let Ok((near, _)) = listener.accept().await {
                inside.spawn(Arc::clone(&run).join(near));
            }
        });
        proxy
    }

    async fn join(self: Arc<Self>, mut near: TcpStream) {
        let target = self.target.load(Ordering::Relaxed);
        let Ok(mut far) = TcpStream::connect(("127.0.0.1", target)).await else { return };
        let (mut up, mut down) = ([0; 16 * 1024], [0; 16 * 1024]);
        let mut subscribes = false;
        loop {
            let sent = tokio::select! {
                read = near.read(&mut up) => match read {
                    Ok(length @ 1..) => {
                        subscribes |= up[..length].windows(9).any(|word| word == b"SUBSCRIBE");
                        if !subscribes && self.drops(Dropped::Commands, length) {
                            continue;
                        }
                        far.write_all(&up[..length]).await
                    }
                    _ => return,
                },
                read = far.read(&mut down) => match read {
                    Ok(length @ 1..) => {
                        let kind = if subscribes { Dropped::Subscription } else { Dropped::Answers };
                        if self.drops(kind, length) {
                            continue;
                        }
                        near.write_all(&down[..length]).await
                    }
                    _ => return,
                },
            };
            if sent.is_err() {
                return;
            }
        }
    }

    fn drops(&self, kind: Dropped, length: usize) -> bool {
        let drops = self.dropped.load(Ordering::Relaxed) == kind as u16 + 1;
        if drops {
            self.bytes.fetch_add(length as u64, Ordering::Relaxed);
        }
        drops
    }

    async fn drop_for(&self, kind: Dropped, span: Duration) {
        self.dropped.store(kind as u16 + 1, Ordering::Relaxed);
        sleep(span).await;
        self.dropped.store(0, Ordering::Relaxed);
    }

    fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }
}

/// A listener that remembers when.
#[derive(Default)]
struct Diary(Mutex<Vec<(Instant, Event)>>);

impl Listener for Diary {
    fn heard(&self, messages: &mut Vec<Message>) {
        let now = Instant::now();
        let events = messages.drain(..).map(|message| (now, Event::Heard(message.channel, message.data)));
        self.0.lock().unwrap().extend(events);
    }

    fn heard_with(&self, message: Message, _: Attributes) {
        panic!("Redis carries no attributes: {message:?}");
    }

    fn heard_here(&self, message: Message) {
        Listener::heard(self, &mut vec![message]);
    }

    fn lost(&self, loss: Loss) {
        self.0.lock().unwrap().push((Instant::now(), Event::Lost(loss)));
    }
}

impl Diary {
    fn losses(&self) -> usize {
        self.0.lock().unwrap().iter().filter(|(_, event)| matches!(event, Event::Lost(_))).count()
    }

    fn has(&self, publisher: &str, number: u64) -> bool {
        let payload = format!("{publisher} {number}");
        let events = self.0.lock().unwrap();
        events.iter().rev().any(|(_, event)| matches!(event, Event::Heard(_, data) if *data == payload))
    }
}

/// Publishes 1, 2, 3 and so on, at one address, through whatever happens.
struct Counting {
    name: &'static str,
    acknowledged: Arc<Mutex<Vec<u64>>>,
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
                    acknowledged.lock().unwrap().push(number);
                    sleep(Duration::from_millis(2)).await;
                }
            }
        });
        counting
    }

    fn last(&self) -> u64 {
        self.acknowledged.lock().unwrap().last().copied().unwrap_or(0)
    }

    /// Each acknowledged number was heard, or a loss was reported since the last one that was.
    fn account(&self, diary: &Diary) -> (usize, usize) {
        let acknowledged: HashSet<u64> = self.acknowledged.lock().unwrap().iter().copied().collect();
        let events = diary.0.lock().unwrap();
        let (mut last, mut last_at, mut heard, mut missing) = (0, 0, 0, 0);
        for (at, (when, event)) in events.iter().enumerate() {
            let Event::Heard(_, data) = event else { continue };
            let text = std::str::from_utf8(data).unwrap();
            let Some(number) = text.strip_prefix(self.name).and_then(|text| text.trim().parse().ok()) else {
                continue;
            };
            assert!(number > last, "{}: {number} after {last}", self.name);
            let hole = (last + 1..number).filter(|number| acknowledged.contains(number)).count();
            let reported = events[last_at..]
                .iter()
                .any(|(told, event)| matches!(event, Event::Lost(_)) && *told <= *when + LATE);
            assert!(hole == 0 || reported, "{}: {hole} lost in silence before {number}", self.name);
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

/// A broker behind a proxy, that has proven that it receives.
async fn start(proxy: &Proxy) -> (Arc<Diary>, Arc<RedisBroker>, Drain) {
    let (diary, drain) = (Arc::new(Diary::default()), Drain::default());
    let broker = RedisBroker::start(settings(&proxy.url()), diary.clone(), &drain);
    let up = || broker.links().iter().all(|link| link.up);
    eventually("both links are up", up).await;
    broker.subscribe(&channel(NUMBERS), OnLoss::Reject).await.unwrap();
    let proven = || broker.links().iter().any(|link| link.proof.is_some());
    eventually("it is proven", proven).await;
    (diary, broker, drain)
}

/// Whose connections end when the name leads elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cut {
    /// All but subscriptions.
    Commands,
    Everything,
}

async fn cut(server: &Server, cut: Cut) {
    server.command(&["CLIENT", "KILL", "TYPE", "normal"]).await;
    if cut == Cut::Everything {
        server.command(&["CLIENT", "KILL", "TYPE", "pubsub"]).await;
    }
}

/// The name leads to another server for a while.
async fn excursion(span: Duration, whose: Cut) {
    let (home, away) = (Server::start(&[]).await, Server::start(&[]).await);
    let proxy = Proxy::open(home.port).await;
    let (diary, _broker, _drain) = start(&proxy).await;
    let through = Counting::start("through", proxy.url());
    let at_home = Counting::start("at-home", home.url());
    let at_away = Counting::start("at-away", away.url());
    eventually("the load flows", || diary.has("through", 100)).await;
    assert_eq!(diary.losses(), 0, "{span:?} {whose:?}: before anything happened");
    proxy.target.store(away.port, Ordering::Relaxed);
    cut(&home, whose).await;
    sleep(span).await;
    proxy.target.store(home.port, Ordering::Relaxed);
    cut(&away, whose).await;
    let after = through.last() + 200;
    eventually("it goes on", || through.last() >= after).await;
    let (heard, missing) = (Mutex::new(0), Mutex::new(0));
    // As long as the links are on different servers, nothing that goes through the proxy can be heard.
    eventually("what is published through the proxy is heard again", || diary.has("through", through.last()))
        .await;
    for publisher in [&through, &at_home, &at_away] {
        publisher.stop.store(true, Ordering::Relaxed);
        let (some, none) = publisher.account(&diary);
        *heard.lock().unwrap() += some;
        *missing.lock().unwrap() += none;
    }
    eprintln!("{span:?} {whose:?}: {heard:?} heard, {missing:?} missing, {} losses", diary.losses());
    assert!(diary.losses() > 0 && *missing.lock().unwrap() > 0, "{span:?} {whose:?}: this shows nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_excursion_of_the_name_is_a_reported_loss() {
    let spans = [300, 1000, 3000, 8000].map(Duration::from_millis);
    let all =
        spans.into_iter().flat_map(|span| [Cut::Commands, Cut::Everything].map(|cut| excursion(span, cut)));
    futures::future::join_all(all).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_drops_bytes_is_a_reported_loss() {
    for kind in [Dropped::Subscription, Dropped::Answers, Dropped::Commands] {
        let server = Server::start(&[]).await;
        let proxy = Proxy::open(server.port).await;
        let (diary, _broker, _drain) = start(&proxy).await;
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
        eprintln!("{kind:?}: {heard} heard, {missing} missing, {} losses", diary.losses());
        assert!(proxy.bytes.load(Ordering::Relaxed) > 0, "{kind:?}: nothing was dropped");
        assert_eq!(missing > 0, kind == Dropped::Subscription, "{kind:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_busy_for_a_while_has_lost_nothing() {
    let server = Server::start(&["--enable-debug-command", "yes"]).await;
    let proxy = Proxy::open(server.port).await;
    let (diary, broker, _drain) = start(&proxy).await;
    let direct = Counting::start("direct", server.url());
    for pause in ["0.1", "0.3", "0.45"] {
        server.command(&["DEBUG", "SLEEP", pause]).await;
        let next = direct.last() + 50;
        eventually("the load flows", || diary.has("direct", next)).await;
        // A subscription that stands behind a burst.
        let burst = "x".repeat(1024 * 1024);
        for _ in 0..20 {
            server.command(&["PUBLISH", NUMBERS, &burst]).await;
        }
    }
    let next = direct.last() + 200;
    eventually("the load flows", || diary.has("direct", next)).await;
    direct.stop.store(true, Ordering::Relaxed);
    assert_eq!(diary.losses(), 0, "{:?}", broker.links());
    assert_eq!(direct.account(&diary).1, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_answers_with_errors_only_is_not_ready() {
    for reply in ["-ERR no\r\n", "-ERR unknown command\r\n", "-MOVED 1 127.0.0.1:1\r\n"] {
        let server = Server::start(&[]).await;
        let proxy = Answering::open(server.port, reply).await;
        let url = format!("redis://127.0.0.1:{}", proxy.port);
        let mut settings = settings(&url);
        // Nothing but the probes finds it.
        (settings.ping_interval, settings.instance.refused_retry_max) = (DEADLINE * 2, DEADLINE * 2);
        let lab = Lab::new(settings);
        lab.both_up().await;
        eventually("it is proven", || lab.subscriptions().proof.is_some()).await;
        proxy.answers.store(true, Ordering::Relaxed);
        let since = Instant::now();
        eventually("it is noticed", || !lab.subscriptions().up).await;
        eprintln!("{reply:?}: {:?}", since.elapsed());
    }
}

/// A proxy that begins to answer by itself, everything with an error.
struct Answering {
    port: u16,
    answers: Arc<AtomicBool>,
}

impl Answering {
    async fn open(target: u16, reply: &'static str) -> Self {
        let listener = Listening::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let answers = Arc::new(AtomicBool::new(false));
        let run = Arc::clone(&answers);
        Drain::default().spawn(async move {
            let inside = Drain::default();
            while let Ok((near, _)) = listener.accept().await {
                inside.spawn(answer(near, target, reply, Arc::clone(&run)));
            }
        });
        Self { port, answers }
    }
}

async fn answer(mut near: TcpStream, target: u16, reply: &'static str, answers: Arc<AtomicBool>) {
    let Ok(mut far) = TcpStream::connect(("127.0.0.1", target)).await else { return };
    let (mut up, mut down) = ([0; 16 * 1024], [0; 16 * 1024]);
    loop {
        let done = tokio::select! {
            read = near.read(&mut up) => match read {
                Ok(length @ 1..) if answers.load(Ordering::Relaxed) => {
                    let commands = up[..length].windows(2).filter(|word| word[0] == b'*' && word[1].is_ascii_digit());
                    near.write_all(reply.repeat(commands.count()).as_bytes()).await
                }
                Ok(length @ 1..) => far.write_all(&up[..length]).await,
                _ => return,
            },
            read = far.read(&mut down) => match read {
                Ok(length @ 1..) => near.write_all(&down[..length]).await,
                _ => return,
            },
        };
        if done.is_err() {
            return;
        }
    }
}

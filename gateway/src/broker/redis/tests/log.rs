//! Logs: one sequence for all writers, kept for the configured time, with a new epoch after a gap.

use earshot_protocol::{ClientInfo, StreamPosition};

use super::*;
use crate::broker::Attributes;
use crate::broker::log::{AppendOptions, LogConfig, LogEntry, LogPage, LoggedMessage};

mod loss;
mod reading;
mod rejected;

fn log() -> LogConfig {
    let (key_prefix, ttl) = ("{t}:".to_owned(), Duration::from_secs(60));
    LogConfig { key_prefix, channel_hash_tag: false, sharded: false, size: 100, ttl }
}

fn name() -> ChannelName {
    ChannelName::parse("web:чат").unwrap()
}

const STREAM: &str = "{t}:stream:web:чат";
const META: &str = "{t}:stream-meta:web:чат";

impl TestBroker {
    fn appending<D: Into<Bytes>>(
        &self,
        data: D,
    ) -> impl Future<Output = Result<StreamPosition, BrokerError>> + use<D> {
        self.broker.append(&log(), &name(), data.into(), AppendOptions::default(), None)
    }

    async fn append(&self, data: &'static str) -> StreamPosition {
        self.appending(data).await.unwrap()
    }

    async fn read(&self, after: u64) -> LogPage {
        self.broker.read_log(&log(), &name(), after, 1000).await.unwrap()
    }

    fn envelopes(&self) -> Vec<LoggedMessage> {
        self.recorder.messages().iter().map(|(_, data)| LoggedMessage::decode(data).unwrap()).collect()
    }
}

fn offsets(page: &LogPage) -> Vec<u64> {
    page.entries.iter().map(|entry| entry.offset).collect()
}

fn payloads(page: &LogPage) -> Vec<&[u8]> {
    page.entries.iter().map(|entry| &entry.payload[..]).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn two_brokers_share_one_sequence() {
    const EACH: usize = 500;
    let server = Server::start(&[]).await;
    let brokers = [TestBroker::up(&server).await, TestBroker::up(&server).await];
    let log = LogConfig { size: 2 * EACH, ..log() };
    brokers[0].subscribe(name().as_str()).await;
    let append = |index: usize, n: usize| {
        brokers[index].broker.append(
            &log,
            &name(),
            format!("{index} {n}").into(),
            AppendOptions::default(),
            None,
        )
    };
    let pending: Vec<_> = (0..EACH).flat_map(|n| [append(0, n), append(1, n)]).collect();
    let results = futures::future::join_all(pending).await;
    let positions: Vec<_> = results.into_iter().map(Result::unwrap).collect();
    let epoch = positions[0].epoch;
    assert!(positions.iter().all(|position| position.epoch == epoch), "all positions have one epoch");
    let mut numbers: Vec<_> = positions.iter().map(|position| position.offset).collect();
    for index in 0..2 {
        let own: Vec<_> = numbers.iter().skip(index).step_by(2).collect();
        assert!(own.is_sorted(), "the order of each publisher is kept");
    }
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=2 * EACH as u64).collect::<Vec<_>>());

    eventually("all publications are received", || brokers[0].recorder.messages().len() == 2 * EACH).await;
    let page = brokers[1].broker.read_log(&log, &name(), 0, usize::MAX).await.unwrap();
    assert_eq!(page.top, Some(StreamPosition { epoch, offset: 2 * EACH as u64 }));
    let stored = page.entries.into_iter().map(|LogEntry { offset, attributes, payload }| {
        let position = StreamPosition { epoch, offset };
        LoggedMessage { position, attributes, payload }
    });
    assert_eq!(
        brokers[0].envelopes(),
        stored.collect::<Vec<_>>(),
        "the received publications equal the stored ones, in order"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_payloads_and_attributes_unchanged() {
    let server = Server::start(&[]).await;
    let test = TestBroker::up(&server).await;
    test.subscribe(name().as_str()).await;
    let tag = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    let info = |user: &str| {
        Some(ClientInfo { user: user.to_owned(), client: "c1".to_owned(), ..ClientInfo::default() })
    };
    let cases = [
        (Bytes::new(), vec![], None),
        (Bytes::from_static(b"\0es2 z 1 0\n\xff\r\n"), vec![], info("")),
        (Bytes::from(vec![0xa5; 900 * 1024]), vec![tag("z", "\"\n\0é"), tag("a", "")], None),
        (Bytes::from_static(b"{\"type\":\"offer\"}"), vec![tag("", "x")], info("\"ann\"\n")),
    ];
    let mut expected = Vec::new();
    for (payload, tags, info) in cases {
        let attributes = Attributes::new(tags, info);
        let options = AppendOptions { attributes: attributes.clone(), idempotency_key: None };
        let position = test.broker.append(&log(), &name(), payload.clone(), options, None).await.unwrap();
        expected.push(LoggedMessage { position, attributes, payload });
    }
    eventually("all publications are received", || test.recorder.messages().len() == expected.len()).await;
    assert_eq!(test.envelopes(), expected);
    let encoded: Vec<_> = expected.iter().map(LoggedMessage::encode).collect();
    let received: Vec<_> = test.recorder.messages().into_iter().map(|(_, data)| data).collect();
    assert_eq!(received, encoded, "the script and the codec produce the same bytes");
    let entry = |LoggedMessage { position, attributes, payload }| {
        let offset = position.offset;
        LogEntry { offset, attributes, payload }
    };
    assert_eq!(test.read(0).await.entries, expected.into_iter().map(entry).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn keeps_the_newest_entries() {
    let server = Server::start(&[]).await;
    let test = TestBroker::up(&server).await;
    for size in [10, 3, 0, 5] {
        let log = LogConfig { size, ..log() };
        for _ in 0..20 {
            test.broker
                .append(&log, &name(), Bytes::from_static(b"x"), AppendOptions::default(), None)
                .await
                .unwrap();
        }
        let page = test.read(0).await;
        let top = page.top.unwrap().offset;
        assert_eq!(offsets(&page), (top + 1 - size as u64..=top).collect::<Vec<_>>());
    }
    assert_eq!(test.read(0).await.top.unwrap().offset, 80, "the epoch has not changed");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_position_outlives_expired_entries() {
    let server = Server::start(&[]).await;
    let test = TestBroker::up(&server).await;
    test.append("x").await;
    let ttl = async |key| match server.command(&["PTTL", key]).await {
        Value::Int(ttl) => ttl,
        other => panic!("{other:?}"),
    };
    assert!((50_000..=60_000).contains(&ttl(STREAM).await), "{}", ttl(STREAM).await);
    let day = 86_400_000;
    assert!((day + 50_000..=day + 60_000).contains(&ttl(META).await), "{}", ttl(META).await);

    let quick = LogConfig { ttl: Duration::from_millis(30), ..log() };
    let first = test
        .broker
        .append(&quick, &name(), Bytes::from_static(b"y"), AppendOptions::default(), None)
        .await
        .unwrap();
    assert_eq!(first.offset, 2);
    while !test.read(0).await.entries.is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(test.read(0).await.top, Some(first));
    let next = test.append("z").await;
    assert_eq!((next.epoch, next.offset), (first.epoch, 3), "expired entries are not a gap");
    assert_eq!(payloads(&test.read(0).await), [b"z"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn publishes_once_per_idempotency_key() {
    let server = Server::start(&[]).await;
    let test = TestBroker::up(&server).await;
    test.subscribe(name().as_str()).await;
    let append_once = |key: &str, data: &'static str| {
        let options = AppendOptions { attributes: Attributes::default(), idempotency_key: Some(key.into()) };
        test.broker.append(&log(), &name(), data.into(), options, None)
    };
    let (first, again, other) =
        tokio::join!(append_once("a", "1"), append_once("a", "2"), append_once("b", "3"));
    let (first, other) = (first.unwrap(), other.unwrap());
    assert_eq!(again, Ok(first));
    assert_eq!((first.offset, other.offset), (1, 2));
    test.append("4").await;
    assert_eq!(append_once("a", "5").await, Ok(first), "not after a later append");
    eventually("three publications are received", || test.recorder.messages().len() >= 3).await;
    assert_eq!(payloads(&test.read(0).await), [b"1", b"3", b"4"]);
    let Value::Int(ttl) = server.command(&["PTTL", "{t}:idempotency:10:web:чат:a"]).await else {
        panic!()
    };
    assert!((290_000..=300_000).contains(&ttl), "{ttl}");
    server.command(&["DEL", STREAM, META]).await;
    assert_eq!(append_once("a", "6").await, Ok(first), "not in a new epoch");
    assert_eq!(test.read(0).await.top, None);
    assert_eq!(test.recorder.messages().len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_different_channels_do_not_collide() {
    let server = Server::start(&[]).await;
    let test = TestBroker::up(&server).await;
    for (channel, key) in [("order", "42:paid"), ("order:42", "paid")] {
        let channel = ChannelName::parse(channel).unwrap();
        let options = AppendOptions { attributes: Attributes::default(), idempotency_key: Some(key.into()) };
        assert!(test.broker.append(&log(), &channel, "1".into(), options, None).await.is_ok());
        assert_eq!(
            test.broker.read_log(&log(), &channel, 0, 10).await.unwrap().entries.len(),
            1,
            "{channel}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keeps_the_order_of_publishes_and_appends() {
    const MANY: usize = 1000;
    let server = Server::start(&[]).await;
    let test = TestBroker::up(&server).await;
    test.subscribe(name().as_str()).await;
    let mut pending: Vec<std::pin::Pin<Box<dyn Future<Output = bool>>>> = Vec::new();
    for n in 0..MANY {
        let data = Bytes::from(n.to_string());
        if n % 3 == 0 {
            let published = test.broker.publish(&name(), data, PublishOptions::new(WhenUnavailable::Reject));
            pending.push(Box::pin(async { published.await.is_ok() }));
        } else {
            let appended = test.appending(data);
            pending.push(Box::pin(async { appended.await.is_ok() }));
        }
    }
    pending.reverse();
    assert!(futures::future::join_all(pending).await.into_iter().all(|done| done));
    eventually("all publications are received", || test.recorder.messages().len() == MANY).await;
    let payload = |data: Bytes| LoggedMessage::decode(&data).map_or(data, |envelope| envelope.payload);
    let payloads: Vec<_> = test.recorder.messages().into_iter().map(|(_, data)| payload(data)).collect();
    assert_eq!(payloads, (0..MANY).map(|n| n.to_string()).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn reloads_scripts_that_the_server_dropped() {
    let server = Server::start(&[]).await;
    let test = TestBroker::up(&server).await;
    let first = test.append("1").await;
    for _ in 0..3 {
        server.command(&["SCRIPT", "FLUSH"]).await;
        let pending: Vec<_> = (0..20).map(|n| test.appending(n.to_string())).collect();
        assert!(futures::future::join_all(pending).await.iter().all(Result::is_ok));
    }
    server.command(&["SCRIPT", "FLUSH"]).await;
    let page = test.read(0).await;
    assert_eq!(page.top, Some(StreamPosition { offset: 61, ..first }));
    let expected: Vec<_> =
        std::iter::once("1".to_owned()).chain((0..3).flat_map(|_| (0..20).map(|n| n.to_string()))).collect();
    assert_eq!(payloads(&page), expected.iter().map(String::as_bytes).collect::<Vec<_>>());
    assert!(server.calls("eval").await <= 60 + 1);
    let by_hash = server.calls("evalsha").await;
    test.append("x").await;
    assert_eq!(server.calls("evalsha").await, by_hash + 1, "the script is called by its hash again");
}

#[tokio::test(flavor = "multi_thread")]
async fn all_keys_of_a_log_share_a_slot() {
    let server = Server::start(&["--cluster-enabled", "yes"]).await;
    server.command(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]).await;
    let test = TestBroker::up(&server).await;
    let options = AppendOptions { attributes: Attributes::default(), idempotency_key: Some("key".into()) };
    let append =
        |log: &LogConfig| test.broker.append(log, &name(), Bytes::from_static(b"x"), options.clone(), None);
    let mut first = append(&log()).await;
    while matches!(first, Err(BrokerError::Unavailable(_))) {
        tokio::time::sleep(Duration::from_millis(20)).await;
        first = append(&log()).await;
    }
    let first = first.unwrap();
    assert_eq!(append(&log()).await, Ok(first));
    test.append("y").await;
    assert_eq!(payloads(&test.read(0).await), [b"x", b"y"]);
    test.broker.clear_log(&log(), &name()).await.unwrap();
    assert_eq!(test.append("z").await, StreamPosition { offset: 3, ..first });
    let untagged = append(&LogConfig { key_prefix: "t:".to_owned(), ..log() }).await;
    assert!(
        matches!(&untagged, Err(BrokerError::Rejected(why)) if why.contains("CROSSSLOT")),
        "{untagged:?}"
    );
}

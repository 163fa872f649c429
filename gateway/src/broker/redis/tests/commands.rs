//! Publishing: in order, once or not at all, each caller with an answer of its own.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn publications_keep_the_order_in_which_they_were_given() {
    const MANY: usize = 5000;
    let server = Server::start(&[]).await;
    let lab = Lab::up(&server).await;
    lab.subscribe("order").await;
    let name = ChannelName::parse("order").unwrap();
    // None is polled before the last is given, and they are polled from the last to the first.
    let mut answers: Vec<_> = (0..MANY)
        .map(|n| lab.broker.publish(&name, Bytes::from(n.to_string()), WhenUnavailable::Reject))
        .collect();
    answers.reverse();
    assert!(futures::future::join_all(answers).await.iter().all(Result::is_ok));
    eventually("all heard", || lab.ear.heard().len() == MANY).await;
    let expected: Vec<_> = (0..MANY).map(|n| ("order".to_owned(), Bytes::from(n.to_string()))).collect();
    assert_eq!(lab.ear.heard(), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_has_to_wait_for_the_answer() {
    let server = Server::start(&[]).await;
    let lab = Lab::up(&server).await;
    lab.subscribe("forgotten").await;
    drop(lab.broker.publish(
        &ChannelName::parse("forgotten").unwrap(),
        Bytes::from_static(b"x"),
        WhenUnavailable::Reject,
    ));
    eventually("heard", || lab.ear.count("forgotten") == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_short_outage_loses_no_publication() {
    let mut server = Server::start(&[]).await;
    let lab = Lab::new(RedisSettings { ping_interval: Duration::from_secs(60), ..silent(&server.url()) });
    lab.both_up().await;
    server.kill();
    eventually("noticed without a publication", || lab.broker.links().iter().all(|link| !link.up)).await;
    let name = ChannelName::parse("blip").unwrap();
    let answers: Vec<_> = (0..300)
        .map(|_| lab.broker.publish(&name, Bytes::from_static(b"x"), WhenUnavailable::Reject))
        .collect();
    server.restart().await;
    let answers = futures::future::join_all(answers).await;
    assert!(answers.iter().all(Result::is_ok), "{:?}", answers.iter().find(|answer| answer.is_err()));
    assert_eq!(server.calls("publish").await, 300);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_outage_is_told_within_the_time_out_and_leaves_nothing_behind() {
    let mut server = Server::start(&[]).await;
    let settings = RedisSettings {
        queue_items: 10,
        probe_interval: None,
        ..impatient(&server.url(), Duration::from_millis(300))
    };
    let lab = Lab::new(settings);
    lab.both_up().await;
    server.kill();
    eventually("down", || lab.broker.links().iter().all(|link| !link.up)).await;
    let name = ChannelName::parse("gone").unwrap();
    let publish = || lab.broker.publish(&name, Bytes::from_static(b"x"), WhenUnavailable::Reject);
    for _ in 0..3 {
        let begun = Instant::now();
        let answers = futures::future::join_all((0..20).map(|_| publish()).collect::<Vec<_>>()).await;
        assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
        let busy = answers.iter().filter(|answer| **answer == Err(BrokerError::Busy)).count();
        let unavailable = answers.iter().filter(|answer| matches!(answer, Err(BrokerError::Unavailable(_))));
        assert_eq!(busy + unavailable.count(), 20, "{answers:?}");
        assert!(busy >= 9, "the queue holds ten, and one is looked at: {answers:?}");
        // Those that expired make room again.
        while publish().await == Err(BrokerError::Busy) {
            assert!(begun.elapsed() < DEADLINE, "no room again");
        }
    }
    server.restart().await;
    lab.both_up().await;
    lab.publish("gone", b"now").await.unwrap();
    assert_eq!(server.calls("publish").await, 1, "what was given up was published all the same");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_on_its_way_when_the_connection_broke_is_never_sent_twice() {
    let mut server = Server::start(&[]).await;
    let mut settings = silent(&server.url());
    settings.ping_interval = Duration::from_secs(60);
    let lab = Lab::new(settings);
    lab.both_up().await;
    server.signal("-STOP");
    let answer = lab.broker.publish(
        &ChannelName::parse("once").unwrap(),
        Bytes::from_static(b"x"),
        WhenUnavailable::Reject,
    );
    let answer = lab.drain.spawn(answer);
    // The bytes wait in the stopped server's socket.
    eventually("it is in the server's socket", || unread(server.port) > 0).await;
    server.kill();
    assert!(matches!(answer.await.unwrap(), Err(BrokerError::Unavailable(_))));
    server.restart().await;
    lab.both_up().await;
    lab.publish("other", b"x").await.unwrap();
    assert_eq!(server.calls("publish").await, 1, "only the second one");
}

/// Bytes that wait unread on the server's side of connections to `port`.
fn unread(port: u16) -> u64 {
    let sockets = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let local = format!("0100007F:{port:04X}");
    let waiting = sockets.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let waiting = waiting.filter(|fields| fields[1] == local && fields[3] == "01");
    waiting.map(|fields| u64::from_str_radix(fields[4].split(':').nth(1).unwrap(), 16).unwrap()).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_bytes_are_busy_and_leave_no_debt() {
    let server = Server::start(&[]).await;
    let lab = Lab::new(RedisSettings { queue_bytes: 1000, ..quick(&server.url()) });
    lab.both_up().await;
    let name = ChannelName::parse("big").unwrap();
    let answer = lab.broker.publish(&name, Bytes::from(vec![0; 2000]), WhenUnavailable::Reject).await;
    assert_eq!(answer, Err(BrokerError::Busy));
    for _ in 0..50 {
        lab.broker.publish(&name, Bytes::from(vec![0; 500]), WhenUnavailable::Reject).await.unwrap();
    }
}

#[tokio::test]
async fn what_its_caller_gave_up_is_not_taken_out_of_the_queue_to_be_sent() {
    let settings = impatient("redis://127.0.0.1", Duration::from_millis(20));
    let (outbox, mut inbox) = super::super::outbox::outbox(&settings, never_alone());
    let publish = |data: &'static [u8]| Request::Publish {
        alone: false,
        channel: ChannelName::parse("late").unwrap(),
        data: Bytes::from_static(data),
    };
    let answer = outbox.ask(publish(b"late")).await;
    assert!(matches!(answer, Err(BrokerError::Unavailable(_))));
    drop(outbox.ask(publish(b"fresh")));
    let batch = inbox.batch();
    let [Request::Publish { data, .. }] =
        batch.iter().map(|waiting| &waiting.request).collect::<Vec<_>>()[..]
    else {
        panic!("{batch:?}");
    };
    assert_eq!(&data[..], b"fresh");
}

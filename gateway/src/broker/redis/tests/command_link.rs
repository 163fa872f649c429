//! Publishing: in order, at most once, with a result for each caller.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn keeps_the_order_of_publications() {
    const MANY: usize = 5000;
    let server = Server::start(&[]).await;
    let lab = Lab::up(&server).await;
    lab.subscribe("order").await;
    let name = ChannelName::parse("order").unwrap();
    // None is polled before the last is submitted, and they are polled from the last to the first.
    let mut answers: Vec<_> = (0..MANY)
        .map(|n| lab.broker.publish(&name, Bytes::from(n.to_string()), WhenUnavailable::Reject))
        .collect();
    answers.reverse();
    assert!(futures::future::join_all(answers).await.iter().all(Result::is_ok));
    eventually("all heard", || lab.recorder.messages().len() == MANY).await;
    let expected: Vec<_> = (0..MANY).map(|n| ("order".to_owned(), Bytes::from(n.to_string()))).collect();
    assert_eq!(lab.recorder.messages(), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn does_not_wait_for_a_reply() {
    let server = Server::start(&[]).await;
    let lab = Lab::up(&server).await;
    lab.subscribe("forgotten").await;
    drop(lab.broker.publish(
        &ChannelName::parse("forgotten").unwrap(),
        Bytes::from_static(b"x"),
        WhenUnavailable::Reject,
    ));
    eventually("heard", || lab.recorder.count("forgotten") == 1).await;
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
async fn a_long_outage_fails_commands_within_the_timeout() {
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
        // Expired commands make room.
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
async fn commands_in_flight_are_never_sent_twice() {
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

/// Unread bytes on the server's side of connections to `port`.
fn unread(port: u16) -> u64 {
    let sockets = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let local = format!("0100007F:{port:04X}");
    let waiting = sockets.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let waiting = waiting.filter(|fields| fields[1] == local && fields[3] == "01");
    waiting.map(|fields| u64::from_str_radix(fields[4].split(':').nth(1).unwrap(), 16).unwrap()).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_bytes_are_busy_and_release_their_usage() {
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
async fn expired_commands_are_not_sent() {
    let settings = impatient("redis://127.0.0.1", Duration::from_millis(20));
    let (command_sender, mut queue) =
        super::super::command_queue::command_queue(&settings, inactive_fallback());
    let publish = |data: &'static [u8]| RedisRequest::Publish {
        allow_local: false,
        channel: ChannelName::parse("late").unwrap(),
        data: Bytes::from_static(data),
    };
    let answer = command_sender.submit(publish(b"late")).await;
    assert!(matches!(answer, Err(BrokerError::Unavailable(_))));
    drop(command_sender.submit(publish(b"fresh")));
    let batch = queue.batch();
    let [RedisRequest::Publish { data, .. }] =
        batch.iter().map(|waiting| &waiting.request).collect::<Vec<_>>()[..]
    else {
        panic!("{batch:?}");
    };
    assert_eq!(&data[..], b"fresh");
}

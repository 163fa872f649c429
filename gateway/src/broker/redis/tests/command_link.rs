//! Publishing: in order, at most once, with a result for each caller.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn keeps_the_order_of_publications() {
    const MANY: usize = 5000;
    let server = Server::start(&[]).await;
    let test = TestBroker::up(&server).await;
    test.subscribe("order").await;
    let name = ChannelName::parse("order").unwrap();
    // All requests are created before the first is polled; they are polled from the last to the first.
    let mut pending: Vec<_> = (0..MANY)
        .map(|n| {
            test.broker.publish(
                &name,
                Bytes::from(n.to_string()),
                PublishOptions::new(WhenUnavailable::Reject),
            )
        })
        .collect();
    pending.reverse();
    assert!(futures::future::join_all(pending).await.iter().all(Result::is_ok));
    eventually("all publications are received", || test.recorder.messages().len() == MANY).await;
    let expected: Vec<_> = (0..MANY).map(|n| ("order".to_owned(), Bytes::from(n.to_string()))).collect();
    assert_eq!(test.recorder.messages(), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn does_not_wait_for_a_reply() {
    let server = Server::start(&[]).await;
    let test = TestBroker::up(&server).await;
    test.subscribe("unawaited").await;
    drop(test.broker.publish(
        &ChannelName::parse("unawaited").unwrap(),
        Bytes::from_static(b"x"),
        PublishOptions::new(WhenUnavailable::Reject),
    ));
    eventually("the publication is received", || test.recorder.count("unawaited") == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_short_outage_loses_no_publication() {
    let mut server = Server::start(&[]).await;
    let test = TestBroker::new(RedisSettings {
        ping_interval: Duration::from_secs(60),
        ..settings_without_probes(&server.url())
    });
    test.wait_until_up().await;
    server.kill();
    eventually("the outage is detected without a publication", || {
        test.broker.links().iter().all(|link| !link.up)
    })
    .await;
    let name = ChannelName::parse("short-outage").unwrap();
    let pending: Vec<_> = (0..300)
        .map(|_| {
            test.broker.publish(&name, Bytes::from_static(b"x"), PublishOptions::new(WhenUnavailable::Reject))
        })
        .collect();
    server.restart().await;
    let results = futures::future::join_all(pending).await;
    assert!(results.iter().all(Result::is_ok), "{:?}", results.iter().find(|result| result.is_err()));
    assert_eq!(server.calls("publish").await, 300);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_outage_fails_commands_within_the_timeout() {
    let mut server = Server::start(&[]).await;
    let settings = RedisSettings {
        queue_items: 10,
        probe_interval: None,
        ..settings_with_timeout(&server.url(), Duration::from_millis(300))
    };
    let test = TestBroker::new(settings);
    test.wait_until_up().await;
    server.kill();
    eventually("down", || test.broker.links().iter().all(|link| !link.up)).await;
    let name = ChannelName::parse("long-outage").unwrap();
    let publish =
        || test.broker.publish(&name, Bytes::from_static(b"x"), PublishOptions::new(WhenUnavailable::Reject));
    for _ in 0..3 {
        let started = Instant::now();
        let results = futures::future::join_all((0..20).map(|_| publish()).collect::<Vec<_>>()).await;
        assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
        let busy = results.iter().filter(|result| **result == Err(BrokerError::Busy)).count();
        let unavailable = results.iter().filter(|result| matches!(result, Err(BrokerError::Unavailable(_))));
        assert_eq!(busy + unavailable.count(), 20, "{results:?}");
        assert!(busy >= 9, "the queue holds ten requests, and one more is being processed: {results:?}");
        // Expired requests release their places in the queue.
        while publish().await == Err(BrokerError::Busy) {
            assert!(started.elapsed() < DEADLINE, "the queue stays full");
        }
    }
    server.restart().await;
    test.wait_until_up().await;
    test.publish("long-outage", b"now").await.unwrap();
    assert_eq!(server.calls("publish").await, 1, "an expired request was published");
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_in_flight_are_never_sent_twice() {
    let mut server = Server::start(&[]).await;
    let mut settings = settings_without_probes(&server.url());
    settings.ping_interval = Duration::from_secs(60);
    let test = TestBroker::new(settings);
    test.wait_until_up().await;
    server.signal("-STOP");
    let result = test.broker.publish(
        &ChannelName::parse("once").unwrap(),
        Bytes::from_static(b"x"),
        PublishOptions::new(WhenUnavailable::Reject),
    );
    let result = test.drain.spawn(result);
    eventually("the request is in the socket of the stopped server", || unread(server.port) > 0).await;
    server.kill();
    assert!(matches!(result.await.unwrap(), Err(BrokerError::Unavailable(_))));
    server.restart().await;
    test.wait_until_up().await;
    test.publish("other", b"x").await.unwrap();
    assert_eq!(server.calls("publish").await, 1, "only the second publication");
}

/// Bytes that the server has not read from connections to `port`.
fn unread(port: u16) -> u64 {
    let sockets = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let local = format!("0100007F:{port:04X}");
    let established = sockets.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let established = established.filter(|fields| fields[1] == local && fields[3] == "01");
    established.map(|fields| u64::from_str_radix(fields[4].split(':').nth(1).unwrap(), 16).unwrap()).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_byte_budget_is_busy_and_finished_requests_release_it() {
    let server = Server::start(&[]).await;
    let test = TestBroker::new(RedisSettings { queue_bytes: 1000, ..test_settings(&server.url()) });
    test.wait_until_up().await;
    let name = ChannelName::parse("big").unwrap();
    let result = test
        .broker
        .publish(&name, Bytes::from(vec![0; 2000]), PublishOptions::new(WhenUnavailable::Reject))
        .await;
    assert_eq!(result, Err(BrokerError::Busy));
    for _ in 0..50 {
        test.broker
            .publish(&name, Bytes::from(vec![0; 500]), PublishOptions::new(WhenUnavailable::Reject))
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn expired_commands_are_not_sent() {
    let settings = settings_with_timeout("redis://127.0.0.1", Duration::from_millis(20));
    let (command_sender, mut queue) =
        super::super::command_queue::command_queue(&settings, inactive_fallback());
    let publish = |data: &'static [u8]| RedisRequest::Publish {
        allow_local: false,
        channel: ChannelName::parse("late").unwrap(),
        data: Bytes::from_static(data),
    };
    let result = command_sender.submit(publish(b"late")).await;
    assert!(matches!(result, Err(BrokerError::Unavailable(_))));
    drop(command_sender.submit(publish(b"new")));
    let batch = queue.batch();
    let [RedisRequest::Publish { data, .. }] =
        batch.iter().map(|queued| &queued.request).collect::<Vec<_>>()[..]
    else {
        panic!("{batch:?}");
    };
    assert_eq!(&data[..], b"new");
}

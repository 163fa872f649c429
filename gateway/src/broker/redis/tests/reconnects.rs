//! Link failures are detected, reported as gaps and recovered.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn resubscribes_twenty_thousand_topics_after_a_crash() {
    const TOPICS: usize = 20_000;
    let mut server = Server::start(&[]).await;
    let test = TestBroker::up(&server).await;
    let names: Vec<_> = (0..TOPICS).map(|n| ChannelName::parse(&format!("c{n}")).unwrap()).collect();
    let topics: Vec<_> = names.iter().cloned().map(Topic::Channel).collect();
    let subscriptions = futures::future::join_all(
        topics.iter().map(|topic| test.broker.subscribe(topic, WhenUnavailable::Reject)),
    )
    .await;
    assert!(subscriptions.iter().all(Result::is_ok));
    let before = Instant::now();

    server.kill();
    eventually("the link failure is detected", || !test.subscriptions().up).await;
    assert_eq!(test.subscriptions().active, 0);
    server.restart().await;
    test.wait_until_up().await;
    assert_eq!(test.subscriptions().active, TOPICS);
    for names in names.chunks(5000) {
        let published = names.iter().map(|name| {
            test.broker.publish(
                name,
                Bytes::from_static(b"again"),
                PublishOptions::new(WhenUnavailable::Reject),
            )
        });
        let published = futures::future::join_all(published.collect::<Vec<_>>()).await;
        assert!(published.iter().all(Result::is_ok));
    }
    eventually("every topic receives", || test.recorder.messages().len() >= TOPICS).await;

    let events = test.recorder.events();
    let Event::Gap(gap) = &events[0] else { panic!("received before the gap was reported: {:?}", events[0]) };
    assert_eq!(gap.cause, GapCause::LinkDown);
    assert!(matches!(gap.topics, AffectedTopics::All));
    assert!(
        gap.from <= before + Duration::from_secs(1),
        "the gap must begin at the last verified probe, not at the reconnect"
    );
    let received: std::collections::HashSet<_> =
        test.recorder.messages().into_iter().map(|(name, _)| name).collect();
    assert_eq!((events.len(), received.len()), (TOPICS + 1, TOPICS), "each exactly once");
    let calls = server.calls("subscribe").await;
    assert!(calls <= 45, "{calls} SUBSCRIBE commands for {TOPICS} topics");
}

#[tokio::test(flavor = "multi_thread")]
async fn detects_a_stopped_server_and_recovers() {
    let server = Server::start(&[]).await;
    let test = TestBroker::up(&server).await;
    test.subscribe("frozen").await;
    server.signal("-STOP");
    let stopped = Instant::now();
    eventually("both links are down", || test.broker.links().iter().all(|link| !link.up)).await;
    assert!(stopped.elapsed() < Duration::from_secs(4), "{:?}", stopped.elapsed());
    server.signal("-CONT");
    test.wait_until_up().await;
    assert_eq!(test.recorder.gaps().len(), 1);
    assert!(test.recorder.gaps()[0].from <= stopped);
    test.publish("frozen", b"resumed").await.unwrap();
    eventually("the publication is received", || test.recorder.count("frozen") == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_subscriber_reconnects_and_reports_a_gap() {
    let server = Server::start(&[]).await;
    let test = TestBroker::up(&server).await;
    test.subscribe("killed").await;
    test.publish("killed", b"before").await.unwrap();
    eventually("the first publication is received", || test.recorder.count("killed") == 1).await;
    server.command(&["CLIENT", "KILL", "TYPE", "pubsub"]).await;
    eventually("the link reconnects", || test.subscriptions().reconnects == 1 && test.subscriptions().up)
        .await;
    test.publish("killed", b"after").await.unwrap();
    eventually("the second publication is received", || test.recorder.count("killed") == 2).await;
    let events = test.recorder.events();
    assert!(matches!(events[1], Event::Gap(TopicGap { cause: GapCause::LinkDown, .. })), "{events:?}");
    assert_eq!(events.len(), 3, "{events:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscribe_during_an_outage_has_no_gap() {
    let mut server = Server::start(&[]).await;
    let settings = settings_with_timeout(&server.url(), Duration::from_millis(300));
    let test = TestBroker::new(settings);
    test.wait_until_up().await;
    test.subscribe("old").await;
    server.kill();
    eventually("down", || !test.subscriptions().up).await;
    let result = test.broker.subscribe(&channel("new"), WhenUnavailable::Reject).await;
    assert!(matches!(result, Err(BrokerError::Unavailable(_))), "{result:?}");
    server.restart().await;
    eventually("both topics are active", || test.subscriptions().active == 2).await;
    test.wait_until_up().await;
    let gaps = test.recorder.gaps();
    assert_eq!(gaps.len(), 1);
    assert!(
        matches!(&gaps[0].topics, AffectedTopics::Some(topics) if *topics == [channel("old")]),
        "{gaps:?}"
    );
    test.publish("new", b"x").await.unwrap();
    eventually("the publication is received", || test.recorder.count("new") == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_during_the_resubscription_follow_the_gap() {
    const TOPICS: usize = 30_000;
    let server = Server::start(&[]).await;
    let settings = RedisSettings { subscribe_chunk: 10, ..test_settings(&server.url()) };
    let test = Arc::new(TestBroker::new(settings));
    test.wait_until_up().await;
    let topics: Vec<_> = (0..TOPICS).map(|n| channel(&format!("r{n}"))).collect();
    let subscriptions = futures::future::join_all(
        topics.iter().map(|topic| test.broker.subscribe(topic, WhenUnavailable::Reject)),
    )
    .await;
    assert!(subscriptions.iter().all(Result::is_ok));
    server.command(&["CLIENT", "KILL", "TYPE", "pubsub"]).await;
    let client = redis::Client::open(server.url()).unwrap();
    let mut publisher = client.get_multiplexed_async_connection().await.unwrap();
    let mut accepted = 0;
    while !(test.subscriptions().up && test.subscriptions().reconnects == 1) {
        for name in ["r0", "r1", "r15000", "r29999"] {
            let receivers: usize =
                redis::cmd("PUBLISH").arg(name).arg("x").query_async(&mut publisher).await.unwrap();
            accepted += receivers;
        }
    }
    eventually("every message that the server delivered is received", || {
        test.recorder.messages().len() >= accepted
    })
    .await;
    let events = test.recorder.events();
    let gap_at = events.iter().position(|event| matches!(event, Event::Gap(_))).unwrap();
    // Messages that the server delivered to the old connection may precede the gap.
    assert!(gap_at < 8, "{gap_at} messages before the gap");
    assert!(events.len() - gap_at > 8, "no message was received during the resubscription: {}", events.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn stops_promptly() {
    let mut server = Server::start(&[]).await;
    let test = TestBroker::up(&server).await;
    test.subscribe("end").await;
    let started = Instant::now();
    test.drain.stop().await;
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
    assert!(test.broker.links().iter().all(|link| !link.up));
    assert!(matches!(test.publish("end", b"").await, Err(BrokerError::Unavailable(_))));

    server.kill();
    let test = TestBroker::new(test_settings(&server.url()));
    eventually("both are down", || test.broker.links().iter().all(|link| !link.up)).await;
    let topic = channel("end");
    let ((), result, started) = tokio::join!(
        async {
            eventually("the subscription is pending", || test.subscriptions().desired == 1).await;
            test.drain.stop().await;
        },
        test.broker.subscribe(&topic, WhenUnavailable::Reject),
        async { Instant::now() },
    );
    assert!(matches!(result, Err(BrokerError::Unavailable(_))));
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
}

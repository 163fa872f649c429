//! Failures are detected and reported, and the link recovers.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn resubscribes_twenty_thousand_topics_after_a_crash() {
    const TOPICS: usize = 20_000;
    let mut server = Server::start(&[]).await;
    let lab = Lab::up(&server).await;
    let names: Vec<_> = (0..TOPICS).map(|n| ChannelName::parse(&format!("c{n}")).unwrap()).collect();
    let topics: Vec<_> = names.iter().cloned().map(Topic::Channel).collect();
    let subscriptions = futures::future::join_all(
        topics.iter().map(|topic| lab.broker.subscribe(topic, WhenUnavailable::Reject)),
    )
    .await;
    assert!(subscriptions.iter().all(Result::is_ok));
    let before = Instant::now();

    server.kill();
    eventually("the loss of the link is noticed", || !lab.subscriptions().up).await;
    assert_eq!(lab.subscriptions().active, 0);
    server.restart().await;
    lab.both_up().await;
    assert_eq!(lab.subscriptions().active, TOPICS);
    for names in names.chunks(5000) {
        let published = names
            .iter()
            .map(|name| lab.broker.publish(name, Bytes::from_static(b"again"), WhenUnavailable::Reject));
        let published = futures::future::join_all(published.collect::<Vec<_>>()).await;
        assert!(published.iter().all(Result::is_ok));
    }
    eventually("every topic is heard", || lab.recorder.messages().len() >= TOPICS).await;

    let events = lab.recorder.events();
    let Event::Gap(loss) = &events[0] else { panic!("heard before the loss was said: {:?}", events[0]) };
    assert_eq!(loss.cause, GapCause::LinkDown);
    assert!(matches!(loss.topics, AffectedTopics::All));
    assert!(loss.from <= before + Duration::from_secs(1), "from the last proof, not from the return");
    let heard: std::collections::HashSet<_> =
        lab.recorder.messages().into_iter().map(|(name, _)| name).collect();
    assert_eq!((events.len(), heard.len()), (TOPICS + 1, TOPICS), "each exactly once");
    let calls = server.calls("subscribe").await;
    assert!(calls <= 45, "{calls} SUBSCRIBE commands for {TOPICS} topics");
}

#[tokio::test(flavor = "multi_thread")]
async fn detects_a_stopped_server_and_recovers() {
    let server = Server::start(&[]).await;
    let lab = Lab::up(&server).await;
    lab.subscribe("frozen").await;
    server.signal("-STOP");
    let stopped = Instant::now();
    eventually("both links are down", || lab.broker.links().iter().all(|link| !link.up)).await;
    assert!(stopped.elapsed() < Duration::from_secs(4), "{:?}", stopped.elapsed());
    server.signal("-CONT");
    lab.both_up().await;
    assert_eq!(lab.recorder.gaps().len(), 1);
    assert!(lab.recorder.gaps()[0].from <= stopped);
    lab.publish("frozen", b"thawed").await.unwrap();
    eventually("heard again", || lab.recorder.count("frozen") == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_subscriber_reconnects_and_reports_a_gap() {
    let server = Server::start(&[]).await;
    let lab = Lab::up(&server).await;
    lab.subscribe("killed").await;
    lab.publish("killed", b"before").await.unwrap();
    eventually("heard before", || lab.recorder.count("killed") == 1).await;
    server.command(&["CLIENT", "KILL", "TYPE", "pubsub"]).await;
    eventually("back", || lab.subscriptions().reconnects == 1 && lab.subscriptions().up).await;
    lab.publish("killed", b"after").await.unwrap();
    eventually("heard after", || lab.recorder.count("killed") == 2).await;
    let events = lab.recorder.events();
    assert!(matches!(events[1], Event::Gap(TopicGap { cause: GapCause::LinkDown, .. })), "{events:?}");
    assert_eq!(events.len(), 3, "{events:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscribe_during_an_outage_has_no_gap() {
    let mut server = Server::start(&[]).await;
    let settings = impatient(&server.url(), Duration::from_millis(300));
    let lab = Lab::new(settings);
    lab.both_up().await;
    lab.subscribe("old").await;
    server.kill();
    eventually("down", || !lab.subscriptions().up).await;
    let wish = lab.broker.subscribe(&channel("new"), WhenUnavailable::Reject).await;
    assert!(matches!(wish, Err(BrokerError::Unavailable(_))), "{wish:?}");
    server.restart().await;
    eventually("both confirmed", || lab.subscriptions().active == 2).await;
    lab.both_up().await;
    let losses = lab.recorder.gaps();
    assert_eq!(losses.len(), 1);
    assert!(
        matches!(&losses[0].topics, AffectedTopics::Some(topics) if *topics == [channel("old")]),
        "{losses:?}"
    );
    lab.publish("new", b"x").await.unwrap();
    eventually("heard", || lab.recorder.count("new") == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_during_the_replay_follow_the_gap() {
    const TOPICS: usize = 30_000;
    let server = Server::start(&[]).await;
    let settings = RedisSettings { subscribe_chunk: 10, ..quick(&server.url()) };
    let lab = Arc::new(Lab::new(settings));
    lab.both_up().await;
    let topics: Vec<_> = (0..TOPICS).map(|n| channel(&format!("r{n}"))).collect();
    let subscriptions = futures::future::join_all(
        topics.iter().map(|topic| lab.broker.subscribe(topic, WhenUnavailable::Reject)),
    )
    .await;
    assert!(subscriptions.iter().all(Result::is_ok));
    server.command(&["CLIENT", "KILL", "TYPE", "pubsub"]).await;
    let client = redis::Client::open(server.url()).unwrap();
    let mut publisher = client.get_multiplexed_async_connection().await.unwrap();
    let mut accepted = 0;
    while !(lab.subscriptions().up && lab.subscriptions().reconnects == 1) {
        for name in ["r0", "r1", "r15000", "r29999"] {
            let receivers: usize =
                redis::cmd("PUBLISH").arg(name).arg("x").query_async(&mut publisher).await.unwrap();
            accepted += receivers;
        }
    }
    eventually("all that the server delivered is heard", || lab.recorder.messages().len() >= accepted).await;
    let events = lab.recorder.events();
    let lost = events.iter().position(|event| matches!(event, Event::Gap(_))).unwrap();
    // Messages that the server delivered to the old connection may precede the gap.
    assert!(lost < 8, "{lost} messages before the loss");
    assert!(events.len() - lost > 8, "nothing came during the replay: {}", events.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn stops_promptly() {
    let mut server = Server::start(&[]).await;
    let lab = Lab::up(&server).await;
    lab.subscribe("end").await;
    let begun = Instant::now();
    lab.drain.stop().await;
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    assert!(lab.broker.links().iter().all(|link| !link.up));
    assert!(matches!(lab.publish("end", b"").await, Err(BrokerError::Unavailable(_))));

    server.kill();
    let lab = Lab::new(quick(&server.url()));
    eventually("both are down", || lab.broker.links().iter().all(|link| !link.up)).await;
    let topic = channel("end");
    let ((), wish, begun) = tokio::join!(
        async {
            eventually("wanted", || lab.subscriptions().desired == 1).await;
            lab.drain.stop().await;
        },
        lab.broker.subscribe(&topic, WhenUnavailable::Reject),
        async { Instant::now() },
    );
    assert!(matches!(wish, Err(BrokerError::Unavailable(_))));
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
}

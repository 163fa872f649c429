//! Publications are received unchanged, once and in order.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn passes_payloads_unchanged() {
    let server = Server::start(&[]).await;
    let test = TestBroker::up(&server).await;
    test.subscribe("bytes").await;
    let all_bytes: Vec<u8> = (0..=255).collect();
    let payloads = [
        Bytes::new(),
        Bytes::from_static(b"{\"a\":1}"),
        Bytes::from(all_bytes),
        Bytes::from_static(b"\r\n$3\r\n\0"),
        Bytes::from(vec![b'x'; 1024 * 1024]),
    ];
    let name = ChannelName::parse("bytes").unwrap();
    for payload in &payloads {
        test.broker
            .publish(&name, payload.clone(), PublishOptions::new(WhenUnavailable::Reject))
            .await
            .unwrap();
    }
    eventually("all publications are received", || test.recorder.messages().len() == payloads.len()).await;
    assert_eq!(test.recorder.messages(), payloads.map(|data| ("bytes".to_owned(), data)));
}

#[tokio::test(flavor = "multi_thread")]
async fn receives_a_plain_publish_on_desired_topics_only() {
    let server = Server::start(&[]).await;
    let test = TestBroker::up(&server).await;
    test.subscribe("web-signals").await;
    server.command(&["PUBLISH", "nest-signals", "no"]).await;
    server.command(&["PUBLISH", "web-signals", "yes"]).await;
    eventually("the publication is received", || test.recorder.count("web-signals") == 1).await;
    assert_eq!(test.recorder.messages().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_subscribes_share_commands() {
    let server = Server::start(&[]).await;
    let test = TestBroker::up(&server).await;
    let topics: Vec<_> = (0..5000).map(|n| channel(&format!("t{n}"))).collect();
    let subscriptions = futures::future::join_all(
        topics.iter().map(|topic| test.broker.subscribe(topic, WhenUnavailable::Reject)),
    )
    .await;
    assert!(subscriptions.iter().all(Result::is_ok));
    let calls = server.calls("subscribe").await;
    assert!(calls <= 100, "{calls} SUBSCRIBE commands for 5000 topics");
    assert_eq!(test.subscriptions().active, 5000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_subscribe_needs_no_command() {
    let server = Server::start(&[]).await;
    let test = TestBroker::new(settings_without_probes(&server.url()));
    test.wait_until_up().await;
    test.subscribe("again").await;
    test.subscribe("again").await;
    assert_eq!(server.calls("subscribe").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_confirmed_topic_receives_every_publication() {
    let server = Server::start(&[]).await;
    let test = TestBroker::up(&server).await;
    for n in 0..300 {
        let name = format!("race{n}");
        test.subscribe(&name).await;
        test.publish(&name, b"x").await.unwrap();
    }
    eventually("all publications are received", || test.recorder.messages().len() == 300).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_call_decides() {
    let server = Server::start(&[]).await;
    let test = TestBroker::up(&server).await;
    let topic = channel("flip");
    for round in 0..100 {
        let _ = tokio::time::timeout(
            Duration::from_micros(round * 7),
            test.broker.subscribe(&topic, WhenUnavailable::Reject),
        )
        .await;
        test.broker.unsubscribe(&topic);
        if round % 3 == 0 {
            tokio::task::yield_now().await;
        }
    }
    test.subscribe("flip").await;
    test.publish("flip", b"x").await.unwrap();
    eventually("the publication is received", || test.recorder.count("flip") == 1).await;
    test.broker.unsubscribe(&topic);
    let deadline = Instant::now() + DEADLINE;
    loop {
        let Value::Array(reply) = server.command(&["PUBSUB", "NUMSUB", "flip"]).await else { panic!() };
        if reply[1] == Value::Int(0) {
            break;
        }
        assert!(Instant::now() < deadline, "still subscribed");
    }
    assert_eq!(test.subscriptions().desired, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pattern_delivers_without_duplicates() {
    let server = Server::start(&[]).await;
    let test = TestBroker::up(&server).await;
    test.subscribe("job.1").await;
    test.broker.subscribe(&Topic::Pattern("job.*".into()), WhenUnavailable::Reject).await.unwrap();
    test.broker.subscribe(&Topic::Pattern("*".into()), WhenUnavailable::Reject).await.unwrap();
    for name in ["job.1", "job.1", "job.2", "other"] {
        test.publish(name, b"same").await.unwrap();
    }
    test.publish("end", b"").await.unwrap();
    eventually("the last publication is received", || test.recorder.count("end") == 1).await;
    let names: Vec<_> = test.recorder.messages().into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["job.1", "job.1", "job.2", "other", "end"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_reports_a_gap_in_order_and_stays_bounded() {
    let server = Server::start(&[]).await;
    let test =
        TestBroker::new(RedisSettings { receive_queue_items: 50, ..settings_without_probes(&server.url()) });
    test.wait_until_up().await;
    test.subscribe("flood").await;
    let flood = ChannelName::parse("flood").unwrap();
    {
        let blocked = test.recorder.stall.lock().unwrap();
        let mut last = None;
        for n in 0..8000_u32 {
            last = Some(test.broker.publish(
                &flood,
                Bytes::from(n.to_string()),
                PublishOptions::new(WhenUnavailable::Reject),
            ));
        }
        // The reply to the last PUBLISH arrives on the other connection while messages may still be in flight on this
        // one: the assertions below hold for any part of the flood that arrives after the release.
        futures::executor::block_on(last.unwrap()).unwrap();
        drop(blocked);
    }
    // The queue may still be full for the first publications after the release.
    let started = Instant::now();
    let mut after = 8000..;
    while test.recorder.last_message().is_none_or(|data| number(&data) < 8000) {
        assert!(started.elapsed() < DEADLINE, "nothing is received after the flood");
        let number: u32 = after.next().unwrap();
        test.broker
            .publish(&flood, Bytes::from(number.to_string()), PublishOptions::new(WhenUnavailable::Reject))
            .await
            .unwrap();
    }
    let mut expected = 0_u32;
    let mut gap_reported = false;
    for event in test.recorder.events() {
        match event {
            Event::Gap(gap) => {
                assert_eq!(gap.cause, GapCause::QueueFull);
                assert!(matches!(gap.topics, AffectedTopics::Some(topics) if topics == [channel("flood")]));
                gap_reported = true;
            }
            Event::Message(_, data) => {
                let number = number(&data);
                assert!(
                    number == expected || (gap_reported && number > expected),
                    "publications are missing before {number} without a reported gap"
                );
                expected = number + 1;
                gap_reported = false;
            }
        }
    }
    assert!(!test.recorder.gaps().is_empty(), "8000 do not fit into 50");
}

fn number(data: &Bytes) -> u32 {
    std::str::from_utf8(data).unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payload_above_the_limit_is_a_gap_of_its_channel() {
    let server = Server::start(&[]).await;
    let test = TestBroker::new(RedisSettings { message_bytes: 10, ..test_settings(&server.url()) });
    test.wait_until_up().await;
    test.subscribe("size").await;
    for payload in [&b"0123456789"[..], b"0123456789+", b"after"] {
        test.broker
            .publish(
                &ChannelName::parse("size").unwrap(),
                Bytes::copy_from_slice(payload),
                PublishOptions::new(WhenUnavailable::Reject),
            )
            .await
            .unwrap();
    }
    eventually("the last publication is received", || test.recorder.messages().len() == 2).await;
    let events = test.recorder.events();
    assert!(matches!(&events[0], Event::Message(_, data) if data == "0123456789"), "{events:?}");
    assert!(matches!(&events[1], Event::Gap(TopicGap { cause: GapCause::TooLarge, .. })), "{events:?}");
    assert!(matches!(&events[2], Event::Message(_, data) if data == "after"), "{events:?}");
}

//! Publications are received unchanged, once, in order.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn passes_payloads_unchanged() {
    let server = Server::start(&[]).await;
    let lab = Lab::up(&server).await;
    lab.subscribe("bytes").await;
    let every: Vec<u8> = (0..=255).collect();
    let payloads = [
        Bytes::new(),
        Bytes::from_static(b"{\"a\":1}"),
        Bytes::from(every),
        Bytes::from_static(b"\r\n$3\r\n\0"),
        Bytes::from(vec![b'x'; 1024 * 1024]),
    ];
    let name = ChannelName::parse("bytes").unwrap();
    for payload in &payloads {
        lab.broker.publish(&name, payload.clone(), WhenUnavailable::Reject).await.unwrap();
    }
    eventually("all heard", || lab.recorder.messages().len() == payloads.len()).await;
    assert_eq!(lab.recorder.messages(), payloads.map(|data| ("bytes".to_owned(), data)));
}

#[tokio::test(flavor = "multi_thread")]
async fn receives_a_plain_publish_on_desired_topics_only() {
    let server = Server::start(&[]).await;
    let lab = Lab::up(&server).await;
    lab.subscribe("web-signals").await;
    server.command(&["PUBLISH", "nest-signals", "no"]).await;
    server.command(&["PUBLISH", "web-signals", "yes"]).await;
    eventually("heard", || lab.recorder.count("web-signals") == 1).await;
    assert_eq!(lab.recorder.messages().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_subscribes_share_commands() {
    let server = Server::start(&[]).await;
    let lab = Lab::up(&server).await;
    let topics: Vec<_> = (0..5000).map(|n| channel(&format!("t{n}"))).collect();
    let subscriptions = futures::future::join_all(
        topics.iter().map(|topic| lab.broker.subscribe(topic, WhenUnavailable::Reject)),
    )
    .await;
    assert!(subscriptions.iter().all(Result::is_ok));
    let calls = server.calls("subscribe").await;
    assert!(calls <= 100, "{calls} SUBSCRIBE commands for 5000 topics");
    assert_eq!(lab.subscriptions().active, 5000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_subscribe_needs_no_command() {
    let server = Server::start(&[]).await;
    let lab = Lab::new(silent(&server.url()));
    lab.both_up().await;
    lab.subscribe("again").await;
    lab.subscribe("again").await;
    assert_eq!(server.calls("subscribe").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_confirmed_topic_receives_every_publication() {
    let server = Server::start(&[]).await;
    let lab = Lab::up(&server).await;
    for n in 0..300 {
        let name = format!("race{n}");
        lab.subscribe(&name).await;
        lab.publish(&name, b"x").await.unwrap();
    }
    eventually("all heard", || lab.recorder.messages().len() == 300).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_call_decides() {
    let server = Server::start(&[]).await;
    let lab = Lab::up(&server).await;
    let topic = channel("flip");
    for round in 0..100 {
        let _ = tokio::time::timeout(
            Duration::from_micros(round * 7),
            lab.broker.subscribe(&topic, WhenUnavailable::Reject),
        )
        .await;
        lab.broker.unsubscribe(&topic);
        if round % 3 == 0 {
            tokio::task::yield_now().await;
        }
    }
    lab.subscribe("flip").await;
    lab.publish("flip", b"heard").await.unwrap();
    eventually("heard", || lab.recorder.count("flip") == 1).await;
    lab.broker.unsubscribe(&topic);
    let deadline = Instant::now() + DEADLINE;
    loop {
        let Value::Array(answer) = server.command(&["PUBSUB", "NUMSUB", "flip"]).await else { panic!() };
        if answer[1] == Value::Int(0) {
            break;
        }
        assert!(Instant::now() < deadline, "still subscribed");
    }
    assert_eq!(lab.subscriptions().desired, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pattern_delivers_without_duplicates() {
    let server = Server::start(&[]).await;
    let lab = Lab::up(&server).await;
    lab.subscribe("job.1").await;
    lab.broker.subscribe(&Topic::Pattern("job.*".into()), WhenUnavailable::Reject).await.unwrap();
    lab.broker.subscribe(&Topic::Pattern("*".into()), WhenUnavailable::Reject).await.unwrap();
    for name in ["job.1", "job.1", "job.2", "other"] {
        lab.publish(name, b"same").await.unwrap();
    }
    lab.publish("end", b"").await.unwrap();
    eventually("the last is heard", || lab.recorder.count("end") == 1).await;
    let names: Vec<_> = lab.recorder.messages().into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["job.1", "job.1", "job.2", "other", "end"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_reports_a_gap_in_order_and_stays_bounded() {
    let server = Server::start(&[]).await;
    let lab = Lab::new(RedisSettings { receive_queue_items: 50, ..silent(&server.url()) });
    lab.both_up().await;
    lab.subscribe("flood").await;
    let flood = ChannelName::parse("flood").unwrap();
    {
        let stalled = lab.recorder.stall.lock().unwrap();
        let mut last = None;
        for n in 0..8000_u32 {
            last = Some(lab.broker.publish(&flood, Bytes::from(n.to_string()), WhenUnavailable::Reject));
        }
        // The reply to the last PUBLISH arrives on the other connection, and messages may still be in flight on this
        // one. The assertions below hold for any number of messages after the release.
        futures::executor::block_on(last.unwrap()).unwrap();
        drop(stalled);
    }
    // The first messages after the release may find a full queue, too.
    let begun = Instant::now();
    let mut after = 8000..;
    while lab.recorder.last_message().is_none_or(|data| number(&data) < 8000) {
        assert!(begun.elapsed() < DEADLINE, "deaf after the flood");
        let number: u32 = after.next().unwrap();
        lab.broker.publish(&flood, Bytes::from(number.to_string()), WhenUnavailable::Reject).await.unwrap();
    }
    let mut expected = 0_u32;
    let mut said = false;
    for event in lab.recorder.events() {
        match event {
            Event::Gap(loss) => {
                assert_eq!(loss.cause, GapCause::QueueFull);
                assert!(matches!(loss.topics, AffectedTopics::Some(topics) if topics == [channel("flood")]));
                said = true;
            }
            Event::Message(_, data) => {
                let number = number(&data);
                assert!(number == expected || (said && number > expected), "a silent gap before {number}");
                expected = number + 1;
                said = false;
            }
        }
    }
    assert!(!lab.recorder.gaps().is_empty(), "8000 do not fit into 50");
}

fn number(data: &Bytes) -> u32 {
    std::str::from_utf8(data).unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payload_above_the_limit_is_a_gap_of_its_channel() {
    let server = Server::start(&[]).await;
    let lab = Lab::new(RedisSettings { message_bytes: 10, ..quick(&server.url()) });
    lab.both_up().await;
    lab.subscribe("size").await;
    for payload in [&b"0123456789"[..], b"0123456789+", b"after"] {
        lab.broker
            .publish(
                &ChannelName::parse("size").unwrap(),
                Bytes::copy_from_slice(payload),
                WhenUnavailable::Reject,
            )
            .await
            .unwrap();
    }
    eventually("the last is heard", || lab.recorder.messages().len() == 2).await;
    let events = lab.recorder.events();
    assert!(matches!(&events[0], Event::Message(_, data) if data == "0123456789"), "{events:?}");
    assert!(matches!(&events[1], Event::Gap(TopicGap { cause: GapCause::TooLarge, .. })), "{events:?}");
    assert!(matches!(&events[2], Event::Message(_, data) if data == "after"), "{events:?}");
}

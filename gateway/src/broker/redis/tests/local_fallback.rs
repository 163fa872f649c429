//! Local delivery while Redis is unavailable: in order, and reported to publishers.

use super::*;

fn name(name: &str) -> ChannelName {
    ChannelName::parse(name).unwrap()
}

async fn down(test: &TestBroker, server: &mut Server) {
    server.kill();
    eventually("both links are down", || test.broker.links().iter().all(|link| !link.up)).await;
}

fn received(test: &TestBroker) -> Vec<String> {
    let text = |(_, data): (String, Bytes)| String::from_utf8(data.to_vec()).unwrap();
    test.recorder.messages().into_iter().map(text).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn delivers_locally_in_order() {
    let mut server = Server::start(&[]).await;
    let test = TestBroker::new(settings_without_probes(&server.url()));
    test.wait_until_up().await;
    down(&test, &mut server).await;
    // From before the fallback becomes active until after it.
    let started = Instant::now();
    let mut pending = Vec::new();
    while started.elapsed() < 2 * super::super::local_fallback::FALLBACK_AFTER {
        let data = Bytes::from(pending.len().to_string());
        pending.push(test.broker.publish(&name("here"), data, PublishOptions::new(WhenUnavailable::Local)));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let count = pending.len();
    for result in pending {
        assert_eq!(result.await, Ok(DeliveryScope::ThisNode));
    }
    let expected: Vec<_> = (0..count).map(|number| number.to_string()).collect();
    assert_eq!(received(&test), expected);
    server.restart().await;
    test.wait_until_up().await;
    assert_eq!(server.calls("publish").await, 0, "local publications are not sent to Redis later");
}

#[tokio::test(flavor = "multi_thread")]
async fn waits_for_redis_during_a_short_outage() {
    let mut server = Server::start(&[]).await;
    let test = TestBroker::new(settings_without_probes(&server.url()));
    test.wait_until_up().await;
    down(&test, &mut server).await;
    let result = test.broker.publish(
        &name("short-outage"),
        Bytes::from_static(b"x"),
        PublishOptions::new(WhenUnavailable::Local),
    );
    server.restart().await;
    assert_eq!(result.await, Ok(DeliveryScope::AllNodes));
    assert!(test.recorder.messages().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_without_a_fallback_do_not_delay_others() {
    let mut server = Server::start(&[]).await;
    let test = TestBroker::up(&server).await;
    down(&test, &mut server).await;
    let rejected = test.broker.publish(
        &name("strict"),
        Bytes::from_static(b"x"),
        PublishOptions::new(WhenUnavailable::Reject),
    );
    let local = test.broker.publish(
        &name("here"),
        Bytes::from_static(b"y"),
        PublishOptions::new(WhenUnavailable::Local),
    );
    assert_eq!(local.await, Ok(DeliveryScope::ThisNode));
    assert!(matches!(rejected.await, Err(BrokerError::Unavailable(_))));
    assert_eq!(received(&test), ["y"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_accepted_offline_reports_a_gap_when_active() {
    let mut server = Server::start(&[]).await;
    let test = TestBroker::up(&server).await;
    down(&test, &mut server).await;
    test.broker.subscribe(&channel("new"), WhenUnavailable::Local).await.unwrap();
    assert_eq!((test.subscriptions().desired, test.subscriptions().active), (1, 0));
    server.restart().await;
    eventually("the topic is active", || test.subscriptions().active == 1).await;
    let gaps = test.recorder.gaps();
    assert!(matches!(&gaps[..], [TopicGap { cause: GapCause::LinkDown, .. }]), "{gaps:?}");
    server.command(&["PUBLISH", "new", "after"]).await;
    eventually("the publication is received", || received(&test) == ["after"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denied_topic_accepted_offline_does_not_affect_the_link() {
    let rights = ["--user", "web", "on", ">pw", "+@all", "~*", "resetchannels", "&ok", "&earshot:probe:*"];
    let mut server = Server::start(&rights).await;
    let mut settings = test_settings(&format!("redis://web:pw@127.0.0.1:{}", server.port));
    settings.instance.rejected_retry_max = Duration::from_secs(3600);
    let test = TestBroker::new(settings);
    test.wait_until_up().await;
    down(&test, &mut server).await;
    test.broker.subscribe(&channel("forbidden"), WhenUnavailable::Local).await.unwrap();
    test.broker.subscribe(&channel("ok"), WhenUnavailable::Local).await.unwrap();
    server.restart().await;
    eventually("the permitted topic is active", || test.subscriptions().active == 1).await;
    test.wait_until_up().await;
    eventually("a gap is reported for both topics", || {
        let topics = |gap: TopicGap| match gap.topics {
            AffectedTopics::All => 2,
            AffectedTopics::Some(topics) => topics.len(),
        };
        test.recorder.gaps().into_iter().map(topics).sum::<usize>() >= 2
    })
    .await;
    assert!(test.subscriptions().up, "{:?}", test.subscriptions());
}

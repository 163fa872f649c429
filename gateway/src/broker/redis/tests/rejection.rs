//! Rejections by the server: passwords, TLS, single channels.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn reports_a_wrong_password_and_recovers() {
    let server = Server::start(&["--requirepass", "right"]).await;
    let test = TestBroker::new(test_settings(&format!("redis://:s3cret-wrong@127.0.0.1:{}", server.port)));
    let is_reported =
        |link: &LinkStatus| link.error.as_ref().is_some_and(|error| error.contains("WRONGPASS"));
    eventually("both links report the error", || test.broker.links().iter().all(is_reported)).await;
    assert!(!format!("{:?} {:?}", test.broker.links(), test.broker).contains("s3cret"));
    let admin = format!("redis://:right@127.0.0.1:{}", server.port);
    server.command_as(&admin, &["CONFIG", "SET", "requirepass", "s3cret-wrong"]).await;
    test.wait_until_up().await;
    test.subscribe("in").await;
    test.publish("in", b"x").await.unwrap();
    eventually("the publication is received", || test.recorder.count("in") == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_a_missing_password() {
    let server = Server::start(&["--requirepass", "right"]).await;
    let mut settings = test_settings(&server.url());
    settings.instance.rejected_retry_min = Duration::from_secs(3600);
    settings.instance.rejected_retry_max = Duration::from_secs(3600);
    let test = TestBroker::new(settings);
    let is_reported = |link: &LinkStatus| link.error.as_ref().is_some_and(|error| error.contains("NOAUTH"));
    eventually("both links report the error", || test.broker.links().iter().all(is_reported)).await;
    // A link that treated the server as unreachable would retry soon and succeed.
    let admin = format!("redis://:right@127.0.0.1:{}", server.port);
    server.command_as(&admin, &["CONFIG", "SET", "requirepass", ""]).await;
    tokio::time::timeout(Duration::from_secs(3), test.wait_until_up())
        .await
        .expect_err("a rejected link must wait for its retry interval");
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_to_a_server_without_tls_fails() {
    let server = Server::start(&[]).await;
    let test = TestBroker::new(test_settings(&format!("rediss://127.0.0.1:{}", server.port)));
    let is_reported = |link: &LinkStatus| !link.up && link.error.as_deref() != Some("connecting");
    eventually("both links report the error", || test.broker.links().iter().all(is_reported)).await;
    let result = tokio::time::timeout(
        Duration::from_millis(100),
        test.broker.subscribe(&channel("x"), WhenUnavailable::Reject),
    )
    .await;
    assert!(result.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn rejects_only_the_denied_channel() {
    let server = Server::start(&[]).await;
    let rules = ["ACL", "SETUSER", "bob", "on", ">pw", "+@all", "resetchannels", "&ok:*"];
    server.command(&rules).await;
    let test = TestBroker::new(test_settings(&format!("redis://bob:pw@127.0.0.1:{}", server.port)));
    test.wait_until_up().await;
    let names = (0..1200).map(|n| if n % 400 == 7 { format!("secret:{n}") } else { format!("ok:{n}") });
    let names: Vec<_> = names.collect();
    let topics: Vec<_> = names.iter().map(|name| channel(name)).collect();
    let subscriptions = futures::future::join_all(
        topics.iter().map(|topic| test.broker.subscribe(topic, WhenUnavailable::Reject)),
    )
    .await;
    for (name, result) in names.iter().zip(subscriptions) {
        match result {
            Ok(_) => assert!(name.starts_with("ok:"), "{name}"),
            Err(BrokerError::Rejected(why)) => {
                assert!(name.starts_with("secret:") && why.starts_with("NOPERM"), "{name}: {why}");
            }
            Err(other) => panic!("{name}: {other}"),
        }
    }
    assert_eq!((test.subscriptions().desired, test.subscriptions().active), (1197, 1197));
    assert!(test.subscriptions().up);

    let published = names.iter().map(|name| {
        let name = ChannelName::parse(name).unwrap();
        test.broker.publish(&name, Bytes::from_static(b"x"), PublishOptions::new(WhenUnavailable::Reject))
    });
    let published = futures::future::join_all(published.collect::<Vec<_>>()).await;
    for (name, published) in names.iter().zip(published) {
        match published {
            Ok(_) => assert!(name.starts_with("ok:"), "{name}"),
            Err(BrokerError::Rejected(_)) => assert!(name.starts_with("secret:"), "{name}"),
            Err(other) => panic!("{name}: {other}"),
        }
    }
    eventually("every permitted channel receives", || test.recorder.messages().len() == 1197).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_a_revoked_permission_and_recovers() {
    let server = Server::start(&[]).await;
    let rules = |channels| ["ACL", "SETUSER", "bob", "on", ">pw", "+@all", "resetchannels", channels];
    server.command(&rules("&*")).await;
    let test = TestBroker::new(test_settings(&format!("redis://bob:pw@127.0.0.1:{}", server.port)));
    test.wait_until_up().await;
    test.subscribe("kept").await;
    test.subscribe("taken").await;
    server.command(&rules("&kept")).await;
    eventually("the rejection is reported", || {
        test.subscriptions().error.is_some_and(|error| error.contains("1 topics"))
    })
    .await;
    assert_eq!(test.subscriptions().active, 1);
    assert!(
        matches!(test.recorder.gaps()[..], [TopicGap { topics: AffectedTopics::All, .. }]),
        "{:?}",
        test.recorder.gaps()
    );
    test.publish("kept", b"x").await.unwrap();
    eventually("the permitted channel receives", || test.recorder.count("kept") == 1).await;
    let again = test.broker.subscribe(&channel("taken"), WhenUnavailable::Reject).await;
    assert!(matches!(&again, Err(BrokerError::Unavailable(why)) if why.starts_with("NOPERM")), "{again:?}");
    let new = test.broker.subscribe(&channel("never-subscribed"), WhenUnavailable::Reject).await;
    assert!(matches!(new, Err(BrokerError::Rejected(_))), "{new:?}");

    test.recorder.clear();
    server.command(&rules("&*")).await;
    eventually("both topics are active", || test.subscriptions().up && test.subscriptions().active == 2)
        .await;
    server.command(&["PUBLISH", "taken", "x"]).await;
    eventually("the publication is received", || test.recorder.count("taken") == 1).await;
    let taken =
        |gap: &TopicGap| matches!(&gap.topics, AffectedTopics::Some(topics) if *topics == [channel("taken")]);
    assert!(test.recorder.gaps().iter().any(taken), "{:?}", test.recorder.gaps());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denied_subscribe_command_is_not_split() {
    let server = Server::start(&[]).await;
    server.command(&["ACL", "SETUSER", "bob", "on", ">pw", "+@all", "-subscribe", "&*"]).await;
    let test = TestBroker::new(test_settings(&format!("redis://bob:pw@127.0.0.1:{}", server.port)));
    test.wait_until_up().await;
    let topics: Vec<_> = (0..500).map(|n| channel(&format!("n{n}"))).collect();
    let subscriptions = futures::future::join_all(
        topics.iter().map(|topic| test.broker.subscribe(topic, WhenUnavailable::Reject)),
    )
    .await;
    assert!(
        subscriptions.iter().all(|result| matches!(result, Err(BrokerError::Rejected(_)))),
        "{:?}",
        subscriptions[0]
    );
    assert_eq!(test.subscriptions().desired, 0);
    let rejected = server.statistic("subscribe", "rejected_calls").await;
    assert!((1..=50).contains(&rejected), "{rejected} attempts for 500 topics");
}

//! Rejections by the server: passwords, TLS, single channels.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn reports_a_wrong_password_and_recovers() {
    let server = Server::start(&["--requirepass", "right"]).await;
    let lab = Lab::new(quick(&format!("redis://:s3cret-wrong@127.0.0.1:{}", server.port)));
    let told = |link: &LinkStatus| link.error.as_ref().is_some_and(|cause| cause.contains("WRONGPASS"));
    eventually("both links tell", || lab.broker.links().iter().all(told)).await;
    assert!(!format!("{:?} {:?}", lab.broker.links(), lab.broker).contains("s3cret"));
    let admin = format!("redis://:right@127.0.0.1:{}", server.port);
    server.command_as(&admin, &["CONFIG", "SET", "requirepass", "s3cret-wrong"]).await;
    lab.both_up().await;
    lab.subscribe("in").await;
    lab.publish("in", b"x").await.unwrap();
    eventually("heard", || lab.recorder.count("in") == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_a_missing_password() {
    let server = Server::start(&["--requirepass", "right"]).await;
    let mut settings = quick(&server.url());
    settings.instance.rejected_retry_min = Duration::from_secs(3600);
    settings.instance.rejected_retry_max = Duration::from_secs(3600);
    let lab = Lab::new(settings);
    let told = |link: &LinkStatus| link.error.as_ref().is_some_and(|cause| cause.contains("NOAUTH"));
    eventually("both links tell", || lab.broker.links().iter().all(told)).await;
    // An unreachable server would be tried again soon, and would be reached.
    let admin = format!("redis://:right@127.0.0.1:{}", server.port);
    server.command_as(&admin, &["CONFIG", "SET", "requirepass", ""]).await;
    tokio::time::timeout(Duration::from_secs(3), lab.both_up()).await.expect_err("refusals are not hurried");
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_to_a_server_without_tls_fails() {
    let server = Server::start(&[]).await;
    let lab = Lab::new(quick(&format!("rediss://127.0.0.1:{}", server.port)));
    let told = |link: &LinkStatus| !link.up && link.error.as_deref() != Some("connecting");
    eventually("both links tell", || lab.broker.links().iter().all(told)).await;
    let wish = tokio::time::timeout(
        Duration::from_millis(100),
        lab.broker.subscribe(&channel("x"), WhenUnavailable::Reject),
    )
    .await;
    assert!(wish.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn rejects_only_the_denied_channel() {
    let server = Server::start(&[]).await;
    let rules = ["ACL", "SETUSER", "bob", "on", ">pw", "+@all", "resetchannels", "&ok:*"];
    server.command(&rules).await;
    let lab = Lab::new(quick(&format!("redis://bob:pw@127.0.0.1:{}", server.port)));
    lab.both_up().await;
    let names = (0..1200).map(|n| if n % 400 == 7 { format!("secret:{n}") } else { format!("ok:{n}") });
    let names: Vec<_> = names.collect();
    let topics: Vec<_> = names.iter().map(|name| channel(name)).collect();
    let subscriptions = futures::future::join_all(
        topics.iter().map(|topic| lab.broker.subscribe(topic, WhenUnavailable::Reject)),
    )
    .await;
    for (name, wish) in names.iter().zip(subscriptions) {
        match wish {
            Ok(_) => assert!(name.starts_with("ok:"), "{name}"),
            Err(BrokerError::Rejected(why)) => {
                assert!(name.starts_with("secret:") && why.starts_with("NOPERM"), "{name}: {why}");
            }
            Err(other) => panic!("{name}: {other}"),
        }
    }
    assert_eq!((lab.subscriptions().desired, lab.subscriptions().active), (1197, 1197));
    assert!(lab.subscriptions().up);

    let published = names.iter().map(|name| {
        let name = ChannelName::parse(name).unwrap();
        lab.broker.publish(&name, Bytes::from_static(b"x"), WhenUnavailable::Reject)
    });
    let published = futures::future::join_all(published.collect::<Vec<_>>()).await;
    for (name, published) in names.iter().zip(published) {
        match published {
            Ok(_) => assert!(name.starts_with("ok:"), "{name}"),
            Err(BrokerError::Rejected(_)) => assert!(name.starts_with("secret:"), "{name}"),
            Err(other) => panic!("{name}: {other}"),
        }
    }
    eventually("every neighbour is heard", || lab.recorder.messages().len() == 1197).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_a_revoked_permission_and_recovers() {
    let server = Server::start(&[]).await;
    let rules = |channels| ["ACL", "SETUSER", "bob", "on", ">pw", "+@all", "resetchannels", channels];
    server.command(&rules("&*")).await;
    let lab = Lab::new(quick(&format!("redis://bob:pw@127.0.0.1:{}", server.port)));
    lab.both_up().await;
    lab.subscribe("kept").await;
    lab.subscribe("taken").await;
    server.command(&rules("&kept")).await;
    eventually("the refusal is told", || {
        lab.subscriptions().error.is_some_and(|cause| cause.contains("1 topics"))
    })
    .await;
    assert_eq!(lab.subscriptions().active, 1);
    assert!(
        matches!(lab.recorder.gaps()[..], [TopicGap { topics: AffectedTopics::All, .. }]),
        "{:?}",
        lab.recorder.gaps()
    );
    lab.publish("kept", b"x").await.unwrap();
    eventually("the other is heard", || lab.recorder.count("kept") == 1).await;
    let again = lab.broker.subscribe(&channel("taken"), WhenUnavailable::Reject).await;
    assert!(matches!(&again, Err(BrokerError::Unavailable(why)) if why.starts_with("NOPERM")), "{again:?}");
    let anew = lab.broker.subscribe(&channel("never heard"), WhenUnavailable::Reject).await;
    assert!(matches!(anew, Err(BrokerError::Rejected(_))), "{anew:?}");

    lab.recorder.clear();
    server.command(&rules("&*")).await;
    eventually("healed", || lab.subscriptions().up && lab.subscriptions().active == 2).await;
    server.command(&["PUBLISH", "taken", "x"]).await;
    eventually("heard", || lab.recorder.count("taken") == 1).await;
    let taken = |loss: &TopicGap| matches!(&loss.topics, AffectedTopics::Some(topics) if *topics == [channel("taken")]);
    assert!(lab.recorder.gaps().iter().any(taken), "{:?}", lab.recorder.gaps());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denied_subscribe_command_is_not_halved() {
    let server = Server::start(&[]).await;
    server.command(&["ACL", "SETUSER", "bob", "on", ">pw", "+@all", "-subscribe", "&*"]).await;
    let lab = Lab::new(quick(&format!("redis://bob:pw@127.0.0.1:{}", server.port)));
    lab.both_up().await;
    let topics: Vec<_> = (0..500).map(|n| channel(&format!("n{n}"))).collect();
    let subscriptions = futures::future::join_all(
        topics.iter().map(|topic| lab.broker.subscribe(topic, WhenUnavailable::Reject)),
    )
    .await;
    assert!(
        subscriptions.iter().all(|wish| matches!(wish, Err(BrokerError::Rejected(_)))),
        "{:?}",
        subscriptions[0]
    );
    assert_eq!(lab.subscriptions().desired, 0);
    let rejected = server.statistic("subscribe", "rejected_calls").await;
    assert!((1..=50).contains(&rejected), "{rejected} attempts for 500 topics");
}

//! Delivery within the node while Redis is unavailable, in order.

use super::*;

fn name(name: &str) -> ChannelName {
    ChannelName::parse(name).unwrap()
}

async fn down(lab: &Lab, server: &mut Server) {
    server.kill();
    eventually("both links are down", || lab.broker.links().iter().all(|link| !link.up)).await;
}

fn heard(lab: &Lab) -> Vec<String> {
    let text = |(_, data): (String, Bytes)| String::from_utf8(data.to_vec()).unwrap();
    lab.recorder.messages().into_iter().map(text).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn delivers_locally_in_order() {
    let mut server = Server::start(&[]).await;
    let lab = Lab::new(silent(&server.url()));
    lab.both_up().await;
    down(&lab, &mut server).await;
    // From before the fallback becomes active until after it.
    let begun = Instant::now();
    let mut answers = Vec::new();
    while begun.elapsed() < 2 * super::super::local_fallback::FALLBACK_AFTER {
        let data = Bytes::from(answers.len().to_string());
        answers.push(lab.broker.publish(&name("here"), data, WhenUnavailable::Local));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let count = answers.len();
    for answer in answers {
        assert_eq!(answer.await, Ok(DeliveryScope::ThisNode));
    }
    let expected: Vec<_> = (0..count).map(|number| number.to_string()).collect();
    assert_eq!(heard(&lab), expected);
    server.restart().await;
    lab.both_up().await;
    assert_eq!(server.calls("publish").await, 0, "and is not published a second time");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_short_outage_is_waited_for() {
    let mut server = Server::start(&[]).await;
    let lab = Lab::new(silent(&server.url()));
    lab.both_up().await;
    down(&lab, &mut server).await;
    let answer = lab.broker.publish(&name("soon"), Bytes::from_static(b"x"), WhenUnavailable::Local);
    server.restart().await;
    assert_eq!(answer.await, Ok(DeliveryScope::AllNodes));
    assert!(lab.recorder.messages().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_without_a_fallback_do_not_delay_others() {
    let mut server = Server::start(&[]).await;
    let lab = Lab::up(&server).await;
    down(&lab, &mut server).await;
    let refused = lab.broker.publish(&name("strict"), Bytes::from_static(b"x"), WhenUnavailable::Reject);
    let local = lab.broker.publish(&name("here"), Bytes::from_static(b"y"), WhenUnavailable::Local);
    assert_eq!(local.await, Ok(DeliveryScope::ThisNode));
    assert!(matches!(refused.await, Err(BrokerError::Unavailable(_))));
    assert_eq!(heard(&lab), ["y"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_accepted_offline_reports_a_gap_when_active() {
    let mut server = Server::start(&[]).await;
    let lab = Lab::up(&server).await;
    down(&lab, &mut server).await;
    lab.broker.subscribe(&channel("new"), WhenUnavailable::Local).await.unwrap();
    assert_eq!((lab.subscriptions().desired, lab.subscriptions().active), (1, 0));
    server.restart().await;
    eventually("it is heard", || lab.subscriptions().active == 1).await;
    let losses = lab.recorder.gaps();
    assert!(matches!(&losses[..], [TopicGap { cause: GapCause::LinkDown, .. }]), "{losses:?}");
    server.command(&["PUBLISH", "new", "after"]).await;
    eventually("news", || heard(&lab) == ["after"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denied_topic_accepted_offline_does_not_affect_the_link() {
    let rights = ["--user", "web", "on", ">pw", "+@all", "~*", "resetchannels", "&ok", "&earshot:probe:*"];
    let mut server = Server::start(&rights).await;
    let mut settings = quick(&format!("redis://web:pw@127.0.0.1:{}", server.port));
    settings.instance.rejected_retry_max = Duration::from_secs(3600);
    let lab = Lab::new(settings);
    lab.both_up().await;
    down(&lab, &mut server).await;
    lab.broker.subscribe(&channel("forbidden"), WhenUnavailable::Local).await.unwrap();
    lab.broker.subscribe(&channel("ok"), WhenUnavailable::Local).await.unwrap();
    server.restart().await;
    eventually("what may be heard is", || lab.subscriptions().active == 1).await;
    lab.both_up().await;
    eventually("the loss of both is told", || {
        let topics = |loss: TopicGap| match loss.topics {
            AffectedTopics::All => 2,
            AffectedTopics::Some(topics) => topics.len(),
        };
        lab.recorder.gaps().into_iter().map(topics).sum::<usize>() >= 2
    })
    .await;
    assert!(lab.subscriptions().up, "{:?}", lab.subscriptions());
}

//! The requests of one slot: what did not run is sent again, in order, and nothing is overtaken.

use futures::FutureExt as _;
use futures::future::BoxFuture;

use super::super::cluster::lane::{Batch, Lane, Moved};
use super::super::outbox;
use super::*;
use earshot_redis_link::NodeAddress;

const HERE: &str = "127.0.0.1:7000";

/// What a node answers, as it stands on the wire.
fn answer(line: &str) -> Value {
    redis::parse_redis_value(format!("{line}\r\n").as_bytes()).unwrap()
}

fn node(text: &str) -> NodeAddress {
    NodeAddress::parse(text).unwrap()
}

fn is_done(told: &outbox::Answer) -> bool {
    matches!(told, Ok(outbox::Told::Value(Value::Int(1))))
}

fn subjects(batch: &Batch) -> Vec<String> {
    batch.requests.iter().map(|waiting| waiting.request.subject().to_owned()).collect()
}

/// A lane that holds publications on these channels, and what their callers are told, in the same order.
async fn lane(names: &[&'static str]) -> (Lane, Vec<BoxFuture<'static, outbox::Answer>>) {
    let state = Arc::new(LinkState::new("lab", "commands", String::new()));
    let alone = Alone { state, listener: Arc::new(Ear::default()) };
    let (outbox, mut inbox) = outbox::outbox(&RedisSettings::default(), alone);
    let ask = |name: &&str| {
        let channel = ChannelName::parse(name).unwrap();
        let request = Request::PublishSharded { channel, data: Bytes::new(), alone: false };
        outbox.ask(request).boxed()
    };
    let told = names.iter().map(ask).collect();
    assert!(inbox.ready().await);
    let mut lane = Lane::default();
    inbox.batch().into_iter().for_each(|waiting| lane.push(waiting));
    (lane, told)
}

#[tokio::test]
async fn what_has_moved_is_sent_again_in_order_and_one_by_one() {
    let (mut lane, told) = lane(&["a", "b", "c"]).await;
    let batch = lane.take();
    assert!(!batch.careful && !lane.is_due(Instant::now()));
    let moved = "-MOVED 7 127.0.0.1:7001";
    let answers = vec![answer(":1"), answer(moved), answer(moved)];
    let settled = lane.settle(batch.requests, answers, &node(HERE));
    assert_eq!(settled, (Some(Moved { slot: 7, node: node("127.0.0.1:7001") }), true));
    for name in ["b", "c"] {
        let batch = lane.take();
        assert_eq!(subjects(&batch), [name]);
        lane.settle(batch.requests, vec![answer(":1")], &node("127.0.0.1:7001"));
    }
    assert!(lane.is_idle());
    for told in told {
        assert!(is_done(&told.await));
    }
}

#[tokio::test]
async fn what_was_overtaken_is_given_up() {
    let (mut lane, told) = lane(&["a", "b", "a"]).await;
    let batch = lane.take();
    let answers = vec![answer("-CLUSTERDOWN a"), answer("-CLUSTERDOWN b"), answer(":1")];
    lane.settle(batch.requests, answers, &node(HERE));
    assert_eq!(subjects(&lane.take()), ["b"], "the first `a` would come after the second");
    let mut told = told.into_iter();
    let first = told.next().unwrap().await;
    assert!(matches!(&first, Err(BrokerError::Unavailable(why)) if why.contains("CLUSTERDOWN")), "{first:?}");
    assert!(is_done(&told.nth(1).unwrap().await));
}

#[tokio::test]
async fn a_slot_on_its_way_is_asked_for_where_it_goes_once() {
    let (mut lane, _told) = lane(&["a"]).await;
    let batch = lane.take();
    lane.settle(batch.requests, vec![answer("-ASK 7 127.0.0.1:7001")], &node(HERE));
    assert_eq!(lane.asking(), Some(&node("127.0.0.1:7001")));
    let batch = lane.take();
    assert_eq!((batch.asking, batch.careful), (Some(node("127.0.0.1:7001")), true));
    lane.settle(batch.requests, vec![answer("-TRYAGAIN x")], &node("127.0.0.1:7001"));
    assert_eq!(lane.asking(), None, "by then the slot may be there");
    let batch = lane.take();
    assert_eq!(subjects(&batch), ["a"]);
}

#[tokio::test]
async fn a_refusal_is_no_setback() {
    let (mut lane, told) = lane(&["a"]).await;
    let batch = lane.take();
    let settled = lane.settle(batch.requests, vec![answer("-NOPERM no")], &node(HERE));
    assert_eq!(settled, (None, false));
    for told in told {
        assert!(matches!(told.await, Err(BrokerError::Refused(_))));
    }
}

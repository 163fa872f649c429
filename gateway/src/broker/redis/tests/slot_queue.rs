//! The commands of one slot: those not executed are sent again, in order, and none is overtaken.

use futures::FutureExt as _;
use futures::future::BoxFuture;

use super::super::cluster::slot_queue::{Batch, Moved, SlotQueue};
use super::super::command_queue;
use super::*;
use earshot_redis_link::NodeAddress;

const HERE: &str = "127.0.0.1:7000";

/// A reply of a node in wire format.
fn answer(line: &str) -> Value {
    redis::parse_redis_value(format!("{line}\r\n").as_bytes()).unwrap()
}

fn node(text: &str) -> NodeAddress {
    NodeAddress::parse(text).unwrap()
}

fn is_done(told: &command_queue::CommandResult) -> bool {
    matches!(told, Ok(command_queue::CommandReply::Value(Value::Int(1))))
}

fn subjects(batch: &Batch) -> Vec<String> {
    batch.requests.iter().map(|waiting| waiting.request.subject().to_owned()).collect()
}

/// A queue with publications on these channels, and their results in the same order.
async fn queue(names: &[&'static str]) -> (SlotQueue, Vec<BoxFuture<'static, command_queue::CommandResult>>) {
    let state = Arc::new(LinkState::new("lab", "commands", String::new()));
    let alone = LocalFallback { state, handler: Arc::new(Recorder::default()) };
    let (command_sender, mut inbox) = command_queue::command_queue(&RedisSettings::default(), alone);
    let ask = |name: &&str| {
        let channel = ChannelName::parse(name).unwrap();
        let request = RedisRequest::PublishSharded { channel, data: Bytes::new(), allow_local: false };
        command_sender.submit(request).boxed()
    };
    let told = names.iter().map(ask).collect();
    assert!(inbox.ready().await);
    let mut queue = SlotQueue::default();
    inbox.batch().into_iter().for_each(|waiting| queue.push(waiting));
    (queue, told)
}

#[tokio::test]
async fn moved_commands_are_resent_in_order_one_at_a_time() {
    let (mut queue, told) = queue(&["a", "b", "c"]).await;
    let batch = queue.next_batch();
    assert!(!batch.one_at_a_time && !queue.is_due(Instant::now()));
    let moved = "-MOVED 7 127.0.0.1:7001";
    let answers = vec![answer(":1"), answer(moved), answer(moved)];
    let settled = queue.on_replies(batch.requests, answers, &node(HERE));
    assert_eq!(settled, (Some(Moved { slot: 7, node: node("127.0.0.1:7001") }), true));
    for name in ["b", "c"] {
        let batch = queue.next_batch();
        assert_eq!(subjects(&batch), [name]);
        queue.on_replies(batch.requests, vec![answer(":1")], &node("127.0.0.1:7001"));
    }
    assert!(queue.is_idle());
    for told in told {
        assert!(is_done(&told.await));
    }
}

#[tokio::test]
async fn an_overtaken_command_is_not_resent() {
    let (mut queue, told) = queue(&["a", "b", "a"]).await;
    let batch = queue.next_batch();
    let answers = vec![answer("-CLUSTERDOWN a"), answer("-CLUSTERDOWN b"), answer(":1")];
    queue.on_replies(batch.requests, answers, &node(HERE));
    assert_eq!(subjects(&queue.next_batch()), ["b"], "the first `a` would come after the second");
    let mut told = told.into_iter();
    let first = told.next().unwrap().await;
    assert!(matches!(&first, Err(BrokerError::Unavailable(why)) if why.contains("CLUSTERDOWN")), "{first:?}");
    assert!(is_done(&told.nth(1).unwrap().await));
}

#[tokio::test]
async fn a_migrating_slot_is_asked_once_at_its_target() {
    let (mut queue, _told) = queue(&["a"]).await;
    let batch = queue.next_batch();
    queue.on_replies(batch.requests, vec![answer("-ASK 7 127.0.0.1:7001")], &node(HERE));
    assert_eq!(queue.asking(), Some(&node("127.0.0.1:7001")));
    let batch = queue.next_batch();
    assert_eq!((batch.asking, batch.one_at_a_time), (Some(node("127.0.0.1:7001")), true));
    queue.on_replies(batch.requests, vec![answer("-TRYAGAIN x")], &node("127.0.0.1:7001"));
    assert_eq!(queue.asking(), None, "by then the slot may be there");
    let batch = queue.next_batch();
    assert_eq!(subjects(&batch), ["a"]);
}

#[tokio::test]
async fn a_rejection_is_final() {
    let (mut queue, told) = queue(&["a"]).await;
    let batch = queue.next_batch();
    let settled = queue.on_replies(batch.requests, vec![answer("-NOPERM no")], &node(HERE));
    assert_eq!(settled, (None, false));
    for told in told {
        assert!(matches!(told.await, Err(BrokerError::Rejected(_))));
    }
}

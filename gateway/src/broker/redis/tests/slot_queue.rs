//! The requests of one slot: requests that were not executed are sent again, in order.

use futures::FutureExt as _;
use futures::future::BoxFuture;

use super::super::cluster::slot_queue::{Moved, SlotBatch, SlotQueue};
use super::super::command_queue;
use super::*;
use earshot_redis_link::NodeAddress;

const HERE: &str = "127.0.0.1:7000";

/// Parses the reply of a node in wire format.
fn reply(line: &str) -> Value {
    redis::parse_redis_value(format!("{line}\r\n").as_bytes()).unwrap()
}

fn node(text: &str) -> NodeAddress {
    NodeAddress::parse(text).unwrap()
}

fn is_done(result: &command_queue::CommandResult) -> bool {
    matches!(result, Ok(command_queue::CommandReply::Value(Value::Int(1))))
}

fn subjects(batch: &SlotBatch) -> Vec<String> {
    batch.requests.iter().map(|queued| queued.request.subject().to_owned()).collect()
}

/// Returns a queue with publications on these channels, and the results for their callers, in the same order.
async fn queue(names: &[&'static str]) -> (SlotQueue, Vec<BoxFuture<'static, command_queue::CommandResult>>) {
    let state = Arc::new(LinkState::new("test", "commands", String::new()));
    let fallback = LocalFallback { state, handler: Arc::new(Recorder::default()) };
    let (command_sender, mut commands) = command_queue::command_queue(&RedisSettings::default(), fallback);
    let submit = |name: &&str| {
        let channel = ChannelName::parse(name).unwrap();
        let request = RedisRequest::PublishSharded { channel, data: Bytes::new(), allow_local: false };
        command_sender.submit(request).boxed()
    };
    let results = names.iter().map(submit).collect();
    assert!(commands.ready().await);
    let mut queue = SlotQueue::default();
    commands.batch().into_iter().for_each(|queued| queue.push(queued));
    (queue, results)
}

#[tokio::test]
async fn moved_commands_are_resent_in_order_one_at_a_time() {
    let (mut queue, results) = queue(&["a", "b", "c"]).await;
    let batch = queue.next_batch();
    assert!(!batch.one_at_a_time && !queue.is_due(Instant::now()));
    let moved = "-MOVED 7 127.0.0.1:7001";
    let replies = vec![reply(":1"), reply(moved), reply(moved)];
    let settled = queue.on_replies(batch.requests, replies, &node(HERE));
    assert_eq!(settled, (Some(Moved { slot: 7, node: node("127.0.0.1:7001") }), true));
    for name in ["b", "c"] {
        let batch = queue.next_batch();
        assert_eq!(subjects(&batch), [name]);
        queue.on_replies(batch.requests, vec![reply(":1")], &node("127.0.0.1:7001"));
    }
    assert!(queue.is_idle());
    for result in results {
        assert!(is_done(&result.await));
    }
}

#[tokio::test]
async fn a_command_is_not_resent_after_a_later_one_of_its_channel() {
    let (mut queue, results) = queue(&["a", "b", "a"]).await;
    let batch = queue.next_batch();
    let replies = vec![reply("-CLUSTERDOWN a"), reply("-CLUSTERDOWN b"), reply(":1")];
    queue.on_replies(batch.requests, replies, &node(HERE));
    assert_eq!(subjects(&queue.next_batch()), ["b"], "the first `a` would come after the second");
    let mut results = results.into_iter();
    let first = results.next().unwrap().await;
    assert!(matches!(&first, Err(BrokerError::Unavailable(why)) if why.contains("CLUSTERDOWN")), "{first:?}");
    assert!(is_done(&results.nth(1).unwrap().await));
}

#[tokio::test]
async fn sends_asking_once_to_the_target_of_a_migrating_slot() {
    let (mut queue, _results) = queue(&["a"]).await;
    let batch = queue.next_batch();
    queue.on_replies(batch.requests, vec![reply("-ASK 7 127.0.0.1:7001")], &node(HERE));
    assert_eq!(queue.asking(), Some(&node("127.0.0.1:7001")));
    let batch = queue.next_batch();
    assert_eq!((batch.asking, batch.one_at_a_time), (Some(node("127.0.0.1:7001")), true));
    queue.on_replies(batch.requests, vec![reply("-TRYAGAIN x")], &node("127.0.0.1:7001"));
    assert_eq!(queue.asking(), None, "the migration may be complete by then");
    let batch = queue.next_batch();
    assert_eq!(subjects(&batch), ["a"]);
}

#[tokio::test]
async fn a_rejection_is_final() {
    let (mut queue, results) = queue(&["a"]).await;
    let batch = queue.next_batch();
    let settled = queue.on_replies(batch.requests, vec![reply("-NOPERM no")], &node(HERE));
    assert_eq!(settled, (None, false));
    for result in results {
        assert!(matches!(result.await, Err(BrokerError::Rejected(_))));
    }
}

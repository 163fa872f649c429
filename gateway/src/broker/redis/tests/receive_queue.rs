//! The receive queue without I/O: bounds and order.

use redis::aio::AsyncPushSender;
use redis::{PushInfo, PushKind};

use super::super::receive_queue::{Dequeued, ReceiveQueue};
use super::*;

fn push(receive_queue: &ReceiveQueue, name: &str, data: &[u8]) {
    let data = vec![Value::BulkString(name.into()), Value::BulkString(data.to_vec())];
    receive_queue.send(PushInfo { kind: PushKind::Message, data }).unwrap();
}

/// Takes everything from the queue. Returns channel names and descriptions of gaps.
fn dequeue_all(receive_queue: &ReceiveQueue) -> Vec<String> {
    let mut taken = Vec::new();
    let mut batch = Vec::new();
    loop {
        match receive_queue.dequeue(&mut batch, 2) {
            Dequeued::Messages => taken.extend(batch.drain(..).map(|message| message.channel)),
            Dequeued::Unsubscribed(topic) => panic!("unexpected unsubscribe of {topic}"),
            Dequeued::Gap(gap) => taken.push(format!("{} {:?}", gap.cause.as_str(), gap.topics)),
            Dequeued::Nothing | Dequeued::Ended => return taken,
        }
    }
}

#[tokio::test]
async fn a_full_queue_names_the_dropped_topics() {
    let receive_queue =
        ReceiveQueue::new(&RedisSettings { receive_queue_items: 3, ..RedisSettings::default() }, None);
    for name in ["a", "b", "c", "d", "e", "d"] {
        push(&receive_queue, name, b"");
    }
    assert_eq!(dequeue_all(&receive_queue)[..3], ["a", "b", "c"]);
    push(&receive_queue, "f", b"");
    assert_eq!(dequeue_all(&receive_queue), ["f"]);
}

#[tokio::test]
async fn a_gap_is_reported_in_order() {
    let receive_queue =
        ReceiveQueue::new(&RedisSettings { receive_queue_items: 2, ..RedisSettings::default() }, None);
    let mut batch = Vec::new();
    push(&receive_queue, "a", b"");
    push(&receive_queue, "b", b"");
    push(&receive_queue, "lost", b"");
    assert!(matches!(receive_queue.dequeue(&mut batch, 1), Dequeued::Messages));
    push(&receive_queue, "c", b"");
    let lost = format!("queue-full {:?}", AffectedTopics::Some(vec![channel("lost")]));
    assert_eq!(dequeue_all(&receive_queue), ["b", &lost, "c"]);
}

#[tokio::test]
async fn bounds_the_bytes() {
    let settings = RedisSettings { receive_queue_bytes: 1000, ..RedisSettings::default() };
    let receive_queue = ReceiveQueue::new(&settings, None);
    for _ in 0..10 {
        push(&receive_queue, "a", &[0; 300]);
    }
    let taken = dequeue_all(&receive_queue);
    assert_eq!(taken.len(), 3, "two messages fit, followed by one gap: {taken:?}");
}

#[tokio::test]
async fn too_many_topics_become_all() {
    let receive_queue =
        ReceiveQueue::new(&RedisSettings { receive_queue_items: 0, ..RedisSettings::default() }, None);
    for n in 0..100_000 {
        push(&receive_queue, &format!("n{n}"), b"");
    }
    assert_eq!(dequeue_all(&receive_queue), ["queue-full All"]);
    push(&receive_queue, "after", b"");
    assert_eq!(dequeue_all(&receive_queue).len(), 1);
    assert!(!dequeue_all(&receive_queue).contains(&"queue-full All".to_owned()), "the names are released");
}

#[tokio::test]
async fn bounds_alternating_gaps() {
    let settings = RedisSettings { receive_queue_items: 0, message_bytes: 10, ..RedisSettings::default() };
    let receive_queue = ReceiveQueue::new(&settings, None);
    for n in 0..10_000 {
        push(&receive_queue, &format!("full{n}"), b"");
        push(&receive_queue, &format!("large{n}"), &[0; 11]);
    }
    let taken = dequeue_all(&receive_queue);
    assert!(taken.len() <= 128, "{} gaps are queued", taken.len());
    assert!(
        taken.last().unwrap().ends_with("All"),
        "the last gap must cover the unnamed topics: {:?}",
        taken.last()
    );
}

#[tokio::test]
async fn ends_after_the_queued_messages() {
    let receive_queue = ReceiveQueue::new(&RedisSettings::default(), None);
    push(&receive_queue, "a", b"");
    receive_queue.send(PushInfo { kind: PushKind::Disconnection, data: Vec::new() }).unwrap();
    push(&receive_queue, "late", b"");
    let mut batch = Vec::new();
    assert!(matches!(receive_queue.dequeue(&mut batch, 9), Dequeued::Messages));
    assert_eq!(batch.len(), 1);
    batch.clear();
    tokio::time::timeout(DEADLINE, receive_queue.ready()).await.expect("must be woken for the end");
    assert!(matches!(receive_queue.dequeue(&mut batch, 9), Dequeued::Ended));
}

#[tokio::test]
async fn a_partial_dequeue_wakes_the_next_one() {
    let receive_queue = ReceiveQueue::new(&RedisSettings::default(), None);
    for _ in 0..5 {
        push(&receive_queue, "a", b"");
    }
    let mut batch = Vec::new();
    while batch.len() < 5 {
        tokio::time::timeout(DEADLINE, receive_queue.ready())
            .await
            .expect("must be woken while messages are queued");
        receive_queue.dequeue(&mut batch, 2);
    }
}

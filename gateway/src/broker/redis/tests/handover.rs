//! The hand-over alone: bounds and order.

use redis::aio::AsyncPushSender;
use redis::{PushInfo, PushKind};

use super::super::handover::{Handover, Taken};
use super::*;

fn push(handover: &Handover, name: &str, data: &[u8]) {
    let data = vec![Value::BulkString(name.into()), Value::BulkString(data.to_vec())];
    handover.send(PushInfo { kind: PushKind::Message, data }).unwrap();
}

fn everything(handover: &Handover) -> Vec<String> {
    let mut told = Vec::new();
    let mut batch = Vec::new();
    loop {
        match handover.take(&mut batch, 2) {
            Taken::Messages => told.extend(batch.drain(..).map(|message| message.channel)),
            Taken::Gone(topic) => panic!("{topic} has no slot"),
            Taken::TopicGap(loss) => told.push(format!("{} {:?}", loss.cause.as_str(), loss.topics)),
            Taken::Nothing | Taken::Ended => return told,
        }
    }
}

#[tokio::test]
async fn a_full_queue_keeps_what_it_has_and_names_what_it_drops() {
    let handover = Handover::new(&RedisSettings { receive_queue_items: 3, ..RedisSettings::default() }, None);
    for name in ["a", "b", "c", "d", "e", "d"] {
        push(&handover, name, b"");
    }
    assert_eq!(everything(&handover)[..3], ["a", "b", "c"]);
    push(&handover, "f", b"");
    assert_eq!(everything(&handover), ["f"]);
}

#[tokio::test]
async fn a_loss_stands_where_it_happened() {
    let handover = Handover::new(&RedisSettings { receive_queue_items: 2, ..RedisSettings::default() }, None);
    let mut batch = Vec::new();
    push(&handover, "a", b"");
    push(&handover, "b", b"");
    push(&handover, "lost", b"");
    assert!(matches!(handover.take(&mut batch, 1), Taken::Messages));
    push(&handover, "c", b"");
    let lost = format!("queue-full {:?}", AffectedTopics::Some(vec![channel("lost")]));
    assert_eq!(everything(&handover), ["b", &lost, "c"]);
}

#[tokio::test]
async fn bytes_are_bounded_too() {
    let settings = RedisSettings { receive_queue_bytes: 1000, ..RedisSettings::default() };
    let handover = Handover::new(&settings, None);
    for _ in 0..10 {
        push(&handover, "a", &[0; 300]);
    }
    let told = everything(&handover);
    assert_eq!(told.len(), 3, "two fit, and one loss: {told:?}");
}

#[tokio::test]
async fn too_many_names_become_all() {
    let handover = Handover::new(&RedisSettings { receive_queue_items: 0, ..RedisSettings::default() }, None);
    for n in 0..100_000 {
        push(&handover, &format!("n{n}"), b"");
    }
    assert_eq!(everything(&handover), ["queue-full All"]);
    push(&handover, "after", b"");
    assert_eq!(everything(&handover).len(), 1);
    assert!(!everything(&handover).contains(&"queue-full All".to_owned()), "the names are given back");
}

#[tokio::test]
async fn losses_of_two_causes_in_turn_are_bounded_too() {
    let settings = RedisSettings { receive_queue_items: 0, message_bytes: 10, ..RedisSettings::default() };
    let handover = Handover::new(&settings, None);
    for n in 0..10_000 {
        push(&handover, &format!("full{n}"), b"");
        push(&handover, &format!("large{n}"), &[0; 11]);
    }
    let told = everything(&handover);
    assert!(told.len() <= 128, "{} losses wait", told.len());
    assert!(told.last().unwrap().ends_with("All"), "who is not named is meant: {:?}", told.last());
}

#[tokio::test]
async fn the_end_comes_after_what_waits_and_nothing_comes_after_the_end() {
    let handover = Handover::new(&RedisSettings::default(), None);
    push(&handover, "a", b"");
    handover.send(PushInfo { kind: PushKind::Disconnection, data: Vec::new() }).unwrap();
    push(&handover, "late", b"");
    let mut batch = Vec::new();
    assert!(matches!(handover.take(&mut batch, 9), Taken::Messages));
    assert_eq!(batch.len(), 1);
    batch.clear();
    tokio::time::timeout(DEADLINE, handover.ready()).await.expect("woken once more, for the end");
    assert!(matches!(handover.take(&mut batch, 9), Taken::Ended));
}

#[tokio::test]
async fn whoever_takes_a_part_is_woken_for_the_rest() {
    let handover = Handover::new(&RedisSettings::default(), None);
    for _ in 0..5 {
        push(&handover, "a", b"");
    }
    let mut batch = Vec::new();
    while batch.len() < 5 {
        tokio::time::timeout(DEADLINE, handover.ready()).await.expect("woken while something waits");
        handover.take(&mut batch, 2);
    }
}

//! Pages: forward, backward, bounded in entries and bytes.

use super::*;
use crate::broker::redis::command_queue::{RedisRequest, command_queue};
use crate::broker::redis::log::read_after;

#[tokio::test(flavor = "multi_thread")]
async fn reads_pages_forward_and_backward() {
    let server = Server::start(&[]).await;
    let test = TestBroker::up(&server).await;
    let page = test.read(0).await;
    assert_eq!((page.top, page.entries), (None, vec![]));
    for n in 1..=50 {
        test.appending(n.to_string()).await.unwrap();
    }
    let top = test.read(u64::MAX).await.top;
    assert_eq!(top.unwrap().offset, 50);
    for (after, limit, expected) in [
        (0, 50, 1..=50),
        (0, 1000, 1..=50),
        (0, 16, 1..=16),
        (0, 17, 1..=17),
        (10, 32, 11..=42),
        (49, 5, 50..=50),
    ] {
        let page = test.broker.read_log(&log(), &name(), after, limit).await.unwrap();
        assert_eq!((page.top, offsets(&page)), (top, expected.collect()), "after {after}, {limit}");
    }
    for (after, limit) in [(50, 5), (51, 5), (u64::MAX, 5), (u64::MAX - 1, 5), (u64::MAX, 0), (0, 0)] {
        let page = test.broker.read_log(&log(), &name(), after, limit).await.unwrap();
        assert_eq!((page.top, page.entries), (top, vec![]), "after {after}, {limit}");
    }
    for (before, limit, expected) in [
        (None, 1000, 1..=50),
        (None, 20, 31..=50),
        (Some(31), 20, 11..=30),
        (Some(11), 20, 1..=10),
        (Some(2), 5, 1..=1),
        (Some(u64::MAX), 1, 50..=50),
    ] {
        let page = test.broker.read_log_back(&log(), &name(), before, limit).await.unwrap();
        assert_eq!((page.top, offsets(&page)), (top, expected.rev().collect()), "before {before:?}, {limit}");
    }
    for (before, limit) in [(Some(0), 5), (Some(1), 5), (None, 0)] {
        let page = test.broker.read_log_back(&log(), &name(), before, limit).await.unwrap();
        assert_eq!((page.top, page.entries), (top, vec![]), "before {before:?}, {limit}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn large_entries_result_in_short_pages() {
    let server = Server::start(&[]).await;
    let test = TestBroker::up(&server).await;
    for _ in 0..30 {
        test.appending(vec![b'x'; 100 * 1024]).await.unwrap();
    }
    let huge = test.appending(vec![b'x'; 3 * 1024 * 1024]).await.unwrap();
    let (mut after, mut read) = (0, Vec::new());
    loop {
        let page = test.read(after).await;
        let bytes: usize = page.entries.iter().map(|entry| entry.payload.len()).sum();
        assert!(
            bytes <= 1124 * 1024 || page.entries.len() == 1 || after == 20 + 2,
            "{bytes} bytes in a page"
        );
        let Some(last) = page.entries.last() else { break };
        after = last.offset;
        read.push(offsets(&page));
    }
    assert!(read.len() >= 3, "{read:?}");
    assert_eq!(read.concat(), (1..=huge.offset).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_entry_is_detected() {
    let server = Server::start(&[]).await;
    let test = TestBroker::up(&server).await;
    for _ in 0..130 {
        test.append("x").await;
    }
    let page = test.broker.read_log(&log(), &name(), 5, 3).await.unwrap();
    assert_eq!(offsets(&page), [31, 32, 33], "the first is not the sixth: the log is too short");
}

#[tokio::test(flavor = "multi_thread")]
async fn serves_concurrent_reads() {
    let server = Server::start(&[]).await;
    let test = TestBroker::up(&server).await;
    for _ in 0..100 {
        test.appending(vec![b'x'; 4096]).await.unwrap();
    }
    let pages = futures::future::join_all((0..200).map(|n| test.read(n % 100))).await;
    for (n, page) in pages.iter().enumerate() {
        assert_eq!(page.entries.len(), 100 - n % 100);
    }
}

#[tokio::test]
async fn bounds_the_reply_bytes_of_a_pipeline() {
    let (command_sender, mut queue) = command_queue(&RedisSettings::default(), inactive_fallback());
    let mut batch_sizes = |limit, times| {
        for _ in 0..times {
            drop(command_sender.submit(RedisRequest::Script(read_after(&log(), &name(), 0, limit))));
        }
        std::iter::from_fn(|| Some(queue.batch().len()).filter(|len| *len > 0)).collect::<Vec<_>>()
    };
    assert_eq!(batch_sizes(1000, 10), [4, 4, 2]);
    assert_eq!(batch_sizes(0, 100), [100], "reads of only the position are not limited");
}

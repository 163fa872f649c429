//! Lost log data begins a new epoch; everything else keeps it.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_without_data_begins_a_new_epoch() {
    let mut server = Server::start(&[]).await;
    let test = TestBroker::up(&server).await;
    test.append("1").await;
    let last = test.append("2").await;
    server.kill();
    eventually("down", || test.broker.links().iter().all(|link| !link.up)).await;
    server.restart().await;
    test.wait_until_up().await;
    assert_eq!(test.read(0).await.top, None);
    let next = test.append("3").await;
    assert_ne!(next.epoch, last.epoch);
    assert_eq!(next.offset, 1);
    assert_eq!(payloads(&test.read(0).await), [b"3"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_with_data_keeps_the_epoch() {
    let mut server = Server::start(&["--appendonly", "yes", "--appendfsync", "always"]).await;
    let test = TestBroker::up(&server).await;
    let first = test.append("1").await;
    test.append("2").await;
    server.kill();
    eventually("down", || test.broker.links().iter().all(|link| !link.up)).await;
    server.restart().await;
    test.wait_until_up().await;
    let next = test.append("3").await;
    assert_eq!((next.epoch, next.offset), (first.epoch, 3));
    assert_eq!(payloads(&test.read(0).await), [b"1", b"2", b"3"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_truncated_log_begins_a_new_epoch() {
    let damages: [(&str, &[&str], u64); 6] = [
        ("the end", &["XDEL", STREAM, "3-0"], 2),
        ("the beginning", &["XTRIM", STREAM, "MAXLEN", "1"], 1),
        ("everything", &["XTRIM", STREAM, "MAXLEN", "0"], 0),
        ("the stream", &["DEL", STREAM], 0),
        ("meta", &["DEL", META], 0),
        ("an entry of another program", &["XADD", STREAM, "*", "d", "foreign"], 3),
    ];
    let server = Server::start(&[]).await;
    let test = TestBroker::up(&server).await;
    for (what, damage, left) in damages {
        test.append("1").await;
        test.append("2").await;
        let last = test.append("3").await;
        assert_eq!(last.offset, 3, "{what}");
        server.command(damage).await;
        let page = test.read(0).await;
        assert_eq!(page.entries.len() as u64, left, "{what}");
        assert_eq!(
            page.top,
            (what != "meta").then_some(last),
            "{what}: the old position until the next append"
        );
        let next = test.append("4").await;
        assert_ne!(next.epoch, last.epoch, "{what}");
        assert_eq!(next.offset, 1, "{what}");
        assert_eq!(test.append("5").await, StreamPosition { offset: 2, ..next }, "{what}");
        assert_eq!(payloads(&test.read(0).await), [b"4", b"5"], "{what}: no entry of the old epoch is left");
        server.command(&["FLUSHALL"]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_behind_the_delivered_position_begins_a_new_epoch() {
    let server = Server::start(&[]).await;
    let test = TestBroker::up(&server).await;
    let append = |seen| {
        let data = Bytes::from_static(b"x");
        test.broker.append(&log(), &name(), data, AppendOptions::default(), seen)
    };
    let first = append(None).await.unwrap();
    let second = append(Some(first)).await.unwrap();
    assert_eq!(second, StreamPosition { offset: 2, ..first }, "a log at the delivered position continues");
    let third = append(Some(first)).await.unwrap();
    assert_eq!(third, StreamPosition { offset: 3, ..first }, "a log beyond the delivered position continues");
    let lost = append(Some(StreamPosition { offset: 9, ..first })).await.unwrap();
    assert_ne!(lost.epoch, first.epoch);
    assert_eq!(lost.offset, 1);
    let other = append(Some(StreamPosition { offset: 9, ..first })).await.unwrap();
    assert_eq!(other, StreamPosition { offset: 2, ..lost }, "offsets of another epoch are ignored");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_may_have_lost_a_log_reports_another_state() {
    let server = Server::start(&[]).await;
    let test = TestBroker::up(&server).await;
    let absent = test.read(0).await.origin.unwrap();
    assert!(test.read(0).await.origin.unwrap().is_same_absence(absent));
    let epoch = test.append("x").await.epoch;
    let started = test.read(0).await;
    assert_eq!(started.top.unwrap().epoch, epoch);
    assert!(started.origin.unwrap().is_first_since(absent));
    // Redis evicts everything.
    server.command(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]).await;
    server.command(&["CONFIG", "SET", "maxmemory", "1"]).await;
    while server.command(&["DBSIZE"]).await != Value::Int(0) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    server.command(&["CONFIG", "SET", "maxmemory", "0"]).await;
    let evicted = test.read(0).await.origin.unwrap();
    assert!(!evicted.is_same_absence(absent));
    test.append("x").await;
    let started = test.read(0).await.origin.unwrap();
    assert!(started.is_first_since(evicted) && !started.is_first_since(absent));
    // The server was replaced by another one, and is the primary again.
    server.command(&["REPLICAOF", "127.0.0.1", "1"]).await;
    server.command(&["REPLICAOF", "NO", "ONE"]).await;
    server.command(&["FLUSHALL"]).await;
    assert!(!test.read(0).await.origin.unwrap().is_same_absence(evicted));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cleared_log_keeps_its_epoch() {
    let server = Server::start(&[]).await;
    let test = TestBroker::up(&server).await;
    test.broker.clear_log(&log(), &name()).await.unwrap();
    assert_eq!(server.command(&["DBSIZE"]).await, Value::Int(0), "clearing does not create a log");
    test.append("1").await;
    let last = test.append("2").await;
    test.broker.clear_log(&log(), &name()).await.unwrap();
    let page = test.read(0).await;
    assert_eq!((page.top, page.entries), (Some(last), vec![]));
    let next = test.append("3").await;
    assert_eq!((next.epoch, next.offset), (last.epoch, 3));
    assert_eq!(offsets(&test.read(0).await), [3]);
    assert!(matches!(server.command(&["PTTL", META]).await, Value::Int(1..)), "the key still expires");

    server.command(&["XDEL", STREAM, "3-0"]).await;
    test.broker.clear_log(&log(), &name()).await.unwrap();
    assert_ne!(test.append("4").await.epoch, last.epoch, "an earlier gap is still detected");
}

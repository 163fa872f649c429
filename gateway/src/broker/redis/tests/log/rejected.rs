//! Requests that the server rejects do not change the log.

use super::*;

/// Creates a user with these permissions. Returns a broker that is authenticated as this user.
async fn with_permissions(server: &Server, rights: &[&str]) -> TestBroker {
    let rules = [&["ACL", "SETUSER", "bob", "reset", "on", ">pw"], rights].concat();
    server.command(&rules).await;
    let test = TestBroker::new(test_settings(&format!("redis://bob:pw@127.0.0.1:{}", server.port)));
    test.wait_until_up().await;
    test
}

#[track_caller]
fn assert_rejected<T: std::fmt::Debug>(result: &Result<T, BrokerError>) {
    let Err(BrokerError::Rejected(why)) = result else { panic!("{result:?}") };
    // Redis 7.0 has another message when a command within a script is denied.
    assert!(why.starts_with("NOPERM") || why.contains("user executing the script can't"), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn denied_scripts_are_rejected_and_publish_works() {
    let server = Server::start(&[]).await;
    for rights in [&["+@all", "-evalsha", "~*", "&*"][..], &["+@all", "-@scripting", "~*", "&*"]] {
        let test = with_permissions(&server, rights).await;
        for _ in 0..2 {
            let (appended, published) = tokio::join!(test.appending("x"), test.publish("other", b"x"));
            assert_rejected(&appended);
            published.unwrap();
        }
        assert_rejected(&test.broker.read_log(&log(), &name(), 0, 10).await);
        assert_rejected(&test.broker.clear_log(&log(), &name()).await);
        assert!(test.broker.links().iter().all(|link| link.up && link.reconnects == 0), "{rights:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_scripts_without_permission_to_load_them() {
    let server = Server::start(&[]).await;
    let test = with_permissions(&server, &["+@all", "-script", "~*", "&*"]).await;
    let pending: Vec<_> = (0..300).map(|n| test.appending(n.to_string())).collect();
    let results = futures::future::join_all(pending).await;
    let numbers: Vec<_> = results.into_iter().map(|result| result.unwrap().offset).collect();
    assert_eq!(numbers, (1..=300).collect::<Vec<_>>());
    assert!(server.calls("eval").await <= 128, "only the first batch");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denied_channel_or_key_changes_nothing() {
    let server = Server::start(&[]).await;
    let test = TestBroker::up(&server).await;
    for exists in [false, true] {
        let before = if exists { Some(test.append("x").await) } else { None };
        for rights in [["+@all", "~*", "resetchannels"], ["+@all", "~other:*", "&*"]] {
            let denied = with_permissions(&server, &rights).await;
            assert_rejected(&denied.appending("y").await);
            assert_eq!(test.read(0).await.top, before, "{rights:?}");
        }
        assert_eq!(matches!(server.command(&["EXISTS", META]).await, Value::Int(1)), exists);
    }
    assert_eq!(test.append("z").await.offset, 2);
    assert_eq!(payloads(&test.read(0).await), [b"x", b"z"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_info_the_server_state_is_unknown() {
    let server = Server::start(&[]).await;
    for rights in [&["+@all", "-info", "~*", "&*"][..], &["+@all", "-info", "+info|server", "~*", "&*"]] {
        server.command(&["ACL", "LOG", "RESET"]).await;
        let test = with_permissions(&server, rights).await;
        let page = test.read(0).await;
        assert_eq!((page.top, page.origin), (None, None), "{rights:?}");
        test.append("x").await;
        let page = test.read(0).await;
        assert_eq!((payloads(&page), page.origin), (vec![&b"x"[..]], None), "{rights:?}");
        assert_eq!(server.command(&["ACL", "LOG"]).await, Value::Array(Vec::new()), "{rights:?}");
        server.command(&["FLUSHALL"]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_write_is_detected() {
    let server = Server::start(&[]).await;
    let test = TestBroker::up(&server).await;
    let first = test.append("x").await;
    assert_rejected(&with_permissions(&server, &["+@all", "-xadd", "~*", "&*"]).await.appending("y").await);
    let next = test.append("z").await;
    assert_ne!(next.epoch, first.epoch, "the entry was published but not stored");
    assert_eq!(payloads(&test.read(0).await), [b"z"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn rejects_a_key_of_another_type() {
    let server = Server::start(&[]).await;
    let test = TestBroker::up(&server).await;
    for key in [STREAM, META] {
        server.command(&["SET", key, "x"]).await;
        let result = test.appending("y").await;
        assert!(
            matches!(&result, Err(BrokerError::Rejected(why)) if why.contains("WRONGTYPE")),
            "{result:?}"
        );
        server.command(&["DEL", key]).await;
    }
    assert_eq!(server.command(&["DBSIZE"]).await, Value::Int(0));
    server.command(&["HSET", META, "epoch", "not an epoch", "offset", "-1"]).await;
    let result = test.broker.read_log(&log(), &name(), 0, 10).await;
    assert!(matches!(result, Err(BrokerError::Rejected(_))), "{result:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_or_read_only_server_is_unavailable_and_unchanged() {
    let server = Server::start(&[]).await;
    let test = TestBroker::up(&server).await;
    test.subscribe(name().as_str()).await;
    test.append("x").await;
    for (break_server, code, repair) in [
        (&["CONFIG", "SET", "maxmemory", "1"][..], "OOM", &["CONFIG", "SET", "maxmemory", "0"][..]),
        (&["REPLICAOF", "127.0.0.1", "1"], "READONLY", &["REPLICAOF", "NO", "ONE"]),
    ] {
        server.command(break_server).await;
        let result = test.appending("y").await;
        assert!(matches!(&result, Err(BrokerError::Unavailable(why)) if why.contains(code)), "{result:?}");
        server.command(repair).await;
    }
    assert_eq!(test.append("z").await.offset, 2);
    assert_eq!(payloads(&test.read(0).await), [b"x", b"z"]);
    eventually("the last publication is received", || {
        test.envelopes().iter().any(|message| message.payload == "z")
    })
    .await;
    assert_eq!(test.recorder.count(name().as_str()), 2, "rejected appends are not published");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_server_is_unavailable_within_the_timeout() {
    let server = Server::start(&[]).await;
    let test = TestBroker::new(settings_with_timeout(&server.url(), Duration::from_millis(200)));
    test.wait_until_up().await;
    test.append("x").await;
    server.signal("-STOP");
    let started = Instant::now();
    let (log, name) = (log(), name());
    let (appended, read) = tokio::join!(test.appending("y"), test.broker.read_log(&log, &name, 0, 10));
    server.signal("-CONT");
    assert!(matches!(appended, Err(BrokerError::Unavailable(_))), "{appended:?}");
    assert!(matches!(read, Err(BrokerError::Unavailable(_))), "{read:?}");
    assert!(started.elapsed() < Duration::from_secs(2));
}

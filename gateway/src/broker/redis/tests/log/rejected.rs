//! Rejections by the server leave the log unchanged.

use super::*;

/// A user with these permissions, and a broker with this user.
async fn bob(server: &Server, rights: &[&str]) -> Lab {
    let rules = [&["ACL", "SETUSER", "bob", "reset", "on", ">pw"], rights].concat();
    server.command(&rules).await;
    let lab = Lab::new(quick(&format!("redis://bob:pw@127.0.0.1:{}", server.port)));
    lab.both_up().await;
    lab
}

#[track_caller]
fn assert_refused<T: std::fmt::Debug>(answer: &Result<T, BrokerError>) {
    let Err(BrokerError::Rejected(why)) = answer else { panic!("{answer:?}") };
    // Redis 7.0 has another message when a script is denied midway.
    assert!(why.starts_with("NOPERM") || why.contains("user executing the script can't"), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn denied_scripts_are_rejected_and_publish_works() {
    let server = Server::start(&[]).await;
    for rights in [&["+@all", "-evalsha", "~*", "&*"][..], &["+@all", "-@scripting", "~*", "&*"]] {
        let lab = bob(&server, rights).await;
        for _ in 0..2 {
            let (appended, published) = tokio::join!(lab.appending("x"), lab.publish("other", b"x"));
            assert_refused(&appended);
            published.unwrap();
        }
        assert_refused(&lab.broker.read_log(&log(), &name(), 0, 10).await);
        assert_refused(&lab.broker.clear_log(&log(), &name()).await);
        assert!(lab.broker.links().iter().all(|link| link.up && link.reconnects == 0), "{rights:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_scripts_without_permission_to_load_them() {
    let server = Server::start(&[]).await;
    let lab = bob(&server, &["+@all", "-script", "~*", "&*"]).await;
    let answers: Vec<_> = (0..300).map(|n| lab.appending(n.to_string())).collect();
    let answers = futures::future::join_all(answers).await;
    let numbers: Vec<_> = answers.into_iter().map(|answer| answer.unwrap().offset).collect();
    assert_eq!(numbers, (1..=300).collect::<Vec<_>>());
    assert!(server.calls("eval").await <= 128, "the first batch alone");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denied_channel_or_key_changes_nothing() {
    let server = Server::start(&[]).await;
    let lab = Lab::up(&server).await;
    for made in [false, true] {
        let before = if made { Some(lab.append("x").await) } else { None };
        for rights in [["+@all", "~*", "resetchannels"], ["+@all", "~other:*", "&*"]] {
            let bob = bob(&server, &rights).await;
            assert_refused(&bob.appending("y").await);
            assert_eq!(lab.read(0).await.top, before, "{rights:?}");
        }
        assert_eq!(matches!(server.command(&["EXISTS", META]).await, Value::Int(1)), made);
    }
    assert_eq!(lab.append("z").await.offset, 2);
    assert_eq!(payloads(&lab.read(0).await), [b"x", b"z"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_info_the_server_state_is_unknown() {
    let server = Server::start(&[]).await;
    for rights in [&["+@all", "-info", "~*", "&*"][..], &["+@all", "-info", "+info|server", "~*", "&*"]] {
        server.command(&["ACL", "LOG", "RESET"]).await;
        let lab = bob(&server, rights).await;
        let page = lab.read(0).await;
        assert_eq!((page.top, page.origin), (None, None), "{rights:?}");
        lab.append("x").await;
        let page = lab.read(0).await;
        assert_eq!((payloads(&page), page.origin), (vec![&b"x"[..]], None), "{rights:?}");
        assert_eq!(server.command(&["ACL", "LOG"]).await, Value::Array(Vec::new()), "{rights:?}");
        server.command(&["FLUSHALL"]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_write_is_detected() {
    let server = Server::start(&[]).await;
    let lab = Lab::up(&server).await;
    let first = lab.append("x").await;
    assert_refused(&bob(&server, &["+@all", "-xadd", "~*", "&*"]).await.appending("y").await);
    let next = lab.append("z").await;
    assert_ne!(next.epoch, first.epoch, "its number was heard, but it was not kept");
    assert_eq!(payloads(&lab.read(0).await), [b"z"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn rejects_a_key_of_another_type() {
    let server = Server::start(&[]).await;
    let lab = Lab::up(&server).await;
    for key in [STREAM, META] {
        server.command(&["SET", key, "x"]).await;
        let answer = lab.appending("y").await;
        assert!(
            matches!(&answer, Err(BrokerError::Rejected(why)) if why.contains("WRONGTYPE")),
            "{answer:?}"
        );
        server.command(&["DEL", key]).await;
    }
    assert_eq!(server.command(&["DBSIZE"]).await, Value::Int(0));
    server.command(&["HSET", META, "epoch", "not an epoch", "offset", "-1"]).await;
    let answer = lab.broker.read_log(&log(), &name(), 0, 10).await;
    assert!(matches!(answer, Err(BrokerError::Rejected(_))), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_or_read_only_server_is_unavailable_and_unchanged() {
    let server = Server::start(&[]).await;
    let lab = Lab::up(&server).await;
    lab.subscribe(name().as_str()).await;
    lab.append("x").await;
    for (sick, code, well) in [
        (&["CONFIG", "SET", "maxmemory", "1"][..], "OOM", &["CONFIG", "SET", "maxmemory", "0"][..]),
        (&["REPLICAOF", "127.0.0.1", "1"], "READONLY", &["REPLICAOF", "NO", "ONE"]),
    ] {
        server.command(sick).await;
        let answer = lab.appending("y").await;
        assert!(matches!(&answer, Err(BrokerError::Unavailable(why)) if why.contains(code)), "{answer:?}");
        server.command(well).await;
    }
    assert_eq!(lab.append("z").await.offset, 2);
    assert_eq!(payloads(&lab.read(0).await), [b"x", b"z"]);
    eventually("the last is heard", || lab.envelopes().iter().any(|heard| heard.payload == "z")).await;
    assert_eq!(lab.recorder.count(name().as_str()), 2, "what was refused was not heard either");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_server_is_unavailable_within_the_timeout() {
    let server = Server::start(&[]).await;
    let lab = Lab::new(impatient(&server.url(), Duration::from_millis(200)));
    lab.both_up().await;
    lab.append("x").await;
    server.signal("-STOP");
    let begun = Instant::now();
    let (log, name) = (log(), name());
    let (appended, read) = tokio::join!(lab.appending("y"), lab.broker.read_log(&log, &name, 0, 10));
    server.signal("-CONT");
    assert!(matches!(appended, Err(BrokerError::Unavailable(_))), "{appended:?}");
    assert!(matches!(read, Err(BrokerError::Unavailable(_))), "{read:?}");
    assert!(begun.elapsed() < Duration::from_secs(2));
}

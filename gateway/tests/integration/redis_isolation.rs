//! Several Redis servers: a failure of one does not affect channels on the others.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::json;

use crate::harness::publisher::{Load, Publisher};
use crate::harness::{Gateway, Redis, SseClient, WsClient, until};

#[tokio::test]
async fn failing_and_hanging_redis_do_not_affect_the_third() {
    let mut down = Redis::start().await;
    let (hung, healthy) = (Redis::start().await, Redis::start().await);
    let mut config = String::new();
    for (name, redis) in [("down", &down), ("hung", &hung), ("healthy", &healthy)] {
        let url = redis.url();
        config += &format!(
            "[redis.{name}]\nurl = {url:?}\ncommand_timeout = \"2s\"\n[[namespace]]\nname = {name:?}\nchannels = [\"{name}:*\"]\nsubscribe = \"anyone\"\n\
             redis = {name:?}\npublish = \"anyone\"\nwhen_redis_down = \"reject\"\n"
        );
    }
    let gateway = Gateway::settings().config(&config).start().await;
    let mut affected = WsClient::open(gateway.address(), &["down:a", "hung:a"]).await;
    let mut stream = SseClient::open(gateway.address(), "/sse/healthy:numbers").await;
    let progress: Arc<[AtomicU64]> = [AtomicU64::new(0)].into();
    let load = Load { channels: &["healthy:numbers"], batch: 1, padding: 0, max_lead: 100 };
    let _publisher = Publisher::start(&healthy, load, Arc::clone(&progress));

    down.kill();
    hung.signal("STOP");
    // Some messages arrive before the failures are detected, the others after.
    let mut number = 0;
    until("both failures are detected", async || {
        for _ in 0..20 {
            number += 1;
            assert_eq!(
                stream.data("message").await,
                number.to_string(),
                "duplicate, missing or out of order"
            );
            progress[0].store(number, Ordering::Relaxed);
        }
        let health = gateway.fetch("/health").await.json();
        let links = health["links"].as_array().cloned().unwrap_or_default();
        let up = |name: &str| links.iter().filter(|link| link["redis"] == name && link["up"] == true).count();
        assert_eq!(up("healthy"), 2, "{health}");
        (up("down") + up("hung") == 0).then_some(())
    })
    .await;
    // A request to a failed server waits; meanwhile the healthy server responds.
    let waiting = async {
        let mut socket = WsClient::open::<&str>(gateway.address(), &[]).await;
        socket.request("publish", json!({"channel": "hung:a", "data": 1})).await
    };
    let requests = async {
        let mut socket = WsClient::open(gateway.address(), &["healthy:a"]).await;
        for number in 0..20 {
            let reply = socket.request("publish", json!({"channel": "healthy:a", "data": number})).await;
            assert!(reply.get("error").is_none(), "{reply}");
            assert_eq!(socket.publication().await.data, number.to_string());
        }
    };
    let mut waiting = Box::pin(waiting);
    tokio::select! {
        reply = &mut waiting => panic!("the failed server responded first: {reply}"),
        () = Box::pin(requests) => {}
    }
    assert_eq!(waiting.await["error"]["temporary"], true);

    down.restart().await;
    hung.signal("CONT");
    gateway.wait_for_ready_status(200).await;
    affected.resubscribe_after_gaps(2).await;
    for (redis, channel) in [(&down, "down:a"), (&hung, "hung:a")] {
        redis.publish(channel, b"1").await;
        assert_eq!(affected.publication().await.channel, channel);
    }
}

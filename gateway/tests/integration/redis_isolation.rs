//! Several instances side by side: one that is gone and one that hangs cost the others nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::json;

use crate::harness::publisher::{Load, Publisher};
use crate::harness::{Gateway, Redis, SseClient, WsClient, until};

#[tokio::test]
async fn one_instance_that_is_gone_and_one_that_hangs_cost_the_third_nothing() {
    let mut gone = Redis::start().await;
    let (hung, good) = (Redis::start().await, Redis::start().await);
    let mut config = String::new();
    for (name, redis) in [("gone", &gone), ("hung", &hung), ("good", &good)] {
        let url = redis.url();
        config += &format!(
            "[redis.{name}]\nurl = {url:?}\ncommand_timeout = \"2s\"\n[[namespace]]\nname = {name:?}\nchannels = [\"{name}:*\"]\n\
             redis = {name:?}\npublish = \"anyone\"\nwhen_redis_down = \"reject\"\n"
        );
    }
    let gateway = Gateway::settings().config(&config).start().await;
    let mut lost = WsClient::open(gateway.address(), &["gone:a", "hung:a"]).await;
    let mut stream = SseClient::open(gateway.address(), "/sse/good:numbers").await;
    let marks: Arc<[AtomicU64]> = [AtomicU64::new(0)].into();
    let pace = Load { channels: &["good:numbers"], batch: 1, padding: 0, max_lead: 100 };
    let _publisher = Publisher::start(&good, pace, Arc::clone(&marks));

    gone.kill();
    hung.signal("STOP");
    // Some of it comes while nobody knows yet, the rest when both are known to be away.
    let mut number = 0;
    until("both are known to be away", async || {
        for _ in 0..20 {
            number += 1;
            assert_eq!(stream.data("message").await, number.to_string(), "in order, nothing missing, no gap");
            marks[0].store(number, Ordering::Relaxed);
        }
        let health = gateway.fetch("/health").await.json();
        let links = health["links"].as_array().cloned().unwrap_or_default();
        let up = |name: &str| links.iter().filter(|link| link["redis"] == name && link["up"] == true).count();
        assert_eq!(up("good"), 2, "{health}");
        (up("gone") + up("hung") == 0).then_some(())
    })
    .await;
    // Somebody waits for those that are away; whoever asks the third is answered meanwhile.
    let waits = async {
        let mut socket = WsClient::open::<&str>(gateway.address(), &[]).await;
        socket.request("publish", json!({"channel": "hung:a", "data": 1})).await
    };
    let asks = async {
        let mut socket = WsClient::open(gateway.address(), &["good:a"]).await;
        for asked in 0..20 {
            let reply = socket.request("publish", json!({"channel": "good:a", "data": asked})).await;
            assert!(reply.get("error").is_none(), "{reply}");
            assert_eq!(socket.publication().await.data, asked.to_string());
        }
    };
    let mut waits = Box::pin(waits);
    tokio::select! {
        reply = &mut waits => panic!("answered before the third: {reply}"),
        () = Box::pin(asks) => {}
    }
    assert_eq!(waits.await["error"]["temporary"], true);

    gone.restart().await;
    hung.signal("CONT");
    gateway.wait_for_ready_status(200).await;
    lost.resubscribe_after_gaps(2).await;
    for (redis, channel) in [(&gone, "gone:a"), (&hung, "hung:a")] {
        redis.publish(channel, b"1").await;
        assert_eq!(lost.publication().await.channel, channel);
    }
}

//! Channels without subscribers are a cache: they never block a new subscriber, and are unsubscribed at Redis.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::json;
use tokio::task::JoinHandle;

use crate::harness::encoding::Encoding;
use crate::harness::{Gateway, Redis, SseClient, WsClient, exclusive, until};

/// Channels per request: the maximum of one connection.
const PER_REQUEST: usize = 128;

const LIMIT: usize = 512;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn client_that_exhausts_the_channel_limit_does_not_block_others() {
    let _exclusive = exclusive().await;
    let redis = Redis::start().await;
    let config = format!("[limits]\nchannels = {LIMIT}\n");
    let mut gateway = Gateway::settings().config(&config).redis(&redis).start().await;
    let mut kept = WsClient::open(gateway.address(), &["kept"]).await;
    let attack = Attack::start(gateway.address());
    until("the channel limit is reached", async || {
        (gateway.metric("earshot_channels", &[]).await >= LIMIT as f64).then_some(())
    })
    .await;
    for number in 0..20 {
        assert_subscribes(&gateway, &format!("during-{number}")).await;
    }
    gateway.wait_for_metric("earshot_channels_evicted_total", &[r#"reason="limit""#], |n| n > 0.0).await;
    let requests = attack.stop().await;
    assert!(requests * PER_REQUEST > LIMIT, "{requests} requests are too few");
    assert_subscribes(&gateway, "after").await;
    redis.publish("kept", b"1").await;
    assert_eq!(kept.publication().await.data, "1", "a channel with subscribers is never evicted");
    until("evicted channels are unsubscribed at Redis", async || {
        let redis::Value::Array(channels) = redis.run(&["PUBSUB", "CHANNELS"]).await else { return None };
        // One is the probe channel of the gateway.
        (channels.len() <= LIMIT + 1).then_some(())
    })
    .await;
    gateway.assert_alive();
}

/// A client that repeatedly subscribes to new channels and disconnects.
struct Attack {
    stop: Arc<AtomicBool>,
    task: JoinHandle<usize>,
}

impl Attack {
    fn start(address: SocketAddr) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let task = tokio::spawn(async move {
            let mut requests = 0;
            while !stopped.load(Ordering::Relaxed) {
                drop(SseClient::open(address, &path(&requests.to_string())).await);
                requests += 1;
            }
            requests
        });
        Self { stop, task }
    }

    async fn stop(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.unwrap()
    }
}

fn path(request: &str) -> String {
    let channels: Vec<String> =
        (0..PER_REQUEST).map(|number| format!("channel=fill-{request}-{number}")).collect();
    format!("/sse?{}", channels.join("&"))
}

async fn assert_subscribes(gateway: &Gateway, channel: &str) {
    let mut client = WsClient::connect(gateway.address(), Encoding::Json).await;
    let reply = client.request("subscribe", json!({ "channel": channel })).await;
    assert!(reply.get("error").is_none(), "{reply}");
}

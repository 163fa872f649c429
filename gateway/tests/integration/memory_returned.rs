//! Memory used by a burst is returned to the operating system, not only to the allocator.

use futures::FutureExt;
use serde_json::json;

use crate::harness::http::Raw;
use crate::harness::{Gateway, WsClient, exclusive, until};

const CONFIG: &str = "[[namespace]]\nname = \"all\"\nchannels = [\"*\"]\nsubscribe = \"anyone\"\nhistory = { size = 0 }\npublish = \"anyone\"\n";

const CLIENTS: usize = 800;
const PUBLICATIONS: usize = 2000;
const PER_ROUND: usize = 100;

#[tokio::test]
async fn most_memory_of_a_burst_is_returned() {
    let _exclusive = exclusive().await;
    let gateway = Gateway::settings().config(CONFIG).start().await;
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        let mut raw = Raw::over(gateway.small_buffer_connection());
        raw.send("GET /sse/a HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
        assert_eq!(raw.head().await.unwrap().status, 200);
        clients.push(raw);
    }
    let mut publisher = WsClient::open::<&str>(gateway.address(), &[]).await;
    let idle = gateway.memory();

    let publish = json!({ "channel": "a", "data": "x".repeat(256) });
    for _ in 0..PUBLICATIONS / PER_ROUND {
        publisher.requests("publish", std::iter::repeat_n(publish.clone(), PER_ROUND)).await;
    }
    let burst =
        until("the messages are queued", async || Some(gateway.memory()).filter(|burst| *burst > 2 * idle))
            .await;

    until("the queued messages are read", async || {
        for client in &mut clients {
            while client.fill().now_or_never().is_some_and(|read| read.unwrap()) {
                let read = client.buffered().len();
                client.take(read);
            }
        }
        (gateway.metric("earshot_client_queue_bytes", &[]).await == 0.0).then_some(())
    })
    .await;
    // How much remains depends on the allocator; without returning memory, it is nearly half.
    until("the memory is returned", async || {
        let remaining = gateway.memory().saturating_sub(idle);
        (remaining <= (burst - idle) / 4).then_some(())
    })
    .await;
}

//! Gateways whose channels are logs in Redis streams, and the history of a log over the HTTP API.

use redis::aio::MultiplexedConnection;
use serde_json::{Value, json};

use super::proxy::Proxy;
use super::{Gateway, Redis};

/// Every channel is a log that keeps more entries than any of these tests publishes.
const CONFIG: &str = r#"
[limits]
recovery_publications = 10000
client_queue_bytes = "16MiB"

[[namespace]]
name = "status"
channels = ["status:*"]
subscribe = "anyone"
source = "stream"
replay = "last"

[[namespace]]
name = "logs"
channels = ["*"]
subscribe = "anyone"
source = "stream"
publish = "subscribers"
history = { size = 10000, bytes = "16MiB" }
"#;

/// A gateway on this Redis.
pub(crate) async fn gateway(redis: &Redis) -> Gateway {
    Gateway::settings().config(CONFIG).redis(redis).start().await
}

/// A gateway on this Redis behind a proxy that can cut connections. With one shard, a new subscriber needs no Redis
/// request for a channel that the gateway is already subscribed to.
pub(crate) async fn gateway_behind_proxy(redis: &Redis) -> (Gateway, Proxy) {
    let proxy = Proxy::before(redis.address()).await;
    let url = format!("redis://{}/0", proxy.address);
    let config = format!("[gateway]\nshards = 1\n{CONFIG}");
    (Gateway::settings().config(&config).environment("REDIS_URL", &url).start().await, proxy)
}

/// Replaces a killed gateway by a new one on the same port, without its state.
pub(crate) async fn restart_empty(gateway: &mut Gateway, redis: &Redis) {
    gateway.process.kill();
    *gateway = Gateway::settings().config(CONFIG).redis(redis).at(gateway.address()).start().await;
}

/// Publishes over the HTTP API with the other fields of the request; returns the position.
pub(crate) async fn append(gateway: &Gateway, channel: &str, mut request: Value) -> (String, u64) {
    request["channel"] = channel.into();
    let answer = gateway.api("publish", &request.to_string()).await.json();
    let (epoch, offset) = (answer["result"]["epoch"].as_str(), answer["result"]["offset"].as_u64());
    let position = epoch.filter(|epoch| !epoch.is_empty()).zip(offset);
    let (epoch, offset) = position.unwrap_or_else(|| panic!("no position: {answer}"));
    (epoch.to_owned(), offset)
}

/// Publishes these numbers; returns the last position.
pub(crate) async fn append_numbers(
    gateway: &Gateway,
    channel: &str,
    numbers: impl IntoIterator<Item = u64>,
) -> (String, u64) {
    let mut last = (String::new(), 0);
    for number in numbers {
        last = append(gateway, channel, json!({ "data": number })).await;
    }
    last
}

/// Reads the whole log over this gateway: its epoch, and its publications, oldest first.
pub(crate) async fn read_log(gateway: &Gateway, channel: &str) -> (String, Vec<Value>) {
    let request = json!({"channel": channel, "limit": -1});
    let answer = gateway.api("history", &request.to_string()).await.json();
    let result = &answer["result"];
    let publications = result["publications"].as_array().unwrap_or_else(|| panic!("{answer}"));
    (result["epoch"].as_str().unwrap().to_owned(), publications.clone())
}

/// Offset and data of each publication.
pub(crate) fn offsets_and_data(publications: &[Value]) -> Vec<(u64, Value)> {
    let place = |publication: &Value| publication["offset"].as_u64().unwrap();
    publications.iter().map(|publication| (place(publication), publication["data"].clone())).collect()
}

/// How many scripts Redis has run.
pub(crate) async fn scripts_run(connection: &mut MultiplexedConnection) -> u64 {
    let stats: String = redis::cmd("INFO").arg("commandstats").query_async(connection).await.unwrap();
    let calls = stats.lines().filter_map(|line| {
        let (name, rest) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
        let counted = ["eval", "evalsha", "eval_ro", "evalsha_ro", "fcall", "fcall_ro"].contains(&name);
        counted.then(|| rest.split(',').next()?.parse::<u64>().ok())?
    });
    calls.sum()
}

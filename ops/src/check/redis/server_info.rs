//! State of a server: HELLO, INFO, CONFIG, ROLE, CLUSTER INFO.
//!
//! Owns the queries. Missing permissions are not errors, since managed services forbid CONFIG: the fields are absent.

use std::collections::HashMap;

use redis::aio::MultiplexedConnection;
use redis::{FromRedisValue, RedisError, Value};

use super::query;
use earshot_redis_link::server_message;

/// Settings that affect a gateway.
const CONFIG: [&str; 5] =
    ["maxclients", "client-output-buffer-limit", "timeout", "maxmemory-policy", "maxmemory"];

/// State and settings of a server.
#[derive(Clone, Debug, Default)]
pub(super) struct ServerInfo {
    /// Authenticated user.
    pub(super) user: Option<String>,
    /// Fields of INFO.
    pub(super) info: HashMap<String, String>,
    /// Why INFO failed.
    pub(super) info_refused: Option<String>,
    /// Settings from CONFIG GET.
    pub(super) config: HashMap<String, String>,
    /// Why CONFIG failed.
    pub(super) config_refused: Option<String>,
    /// First element of ROLE: `master`, `slave`, `sentinel`.
    pub(super) role: Option<String>,
    /// Fields of HELLO: server, version, mode.
    pub(super) hello: HashMap<String, String>,
    /// Fields of CLUSTER INFO, for a cluster node.
    pub(super) cluster: HashMap<String, String>,
}

impl ServerInfo {
    /// Runs all queries.
    pub(super) async fn read(connection: &mut MultiplexedConnection) -> Self {
        let user = query(connection, &["ACL", "WHOAMI"]).await.ok().and_then(text);
        let mut facts = Self { user, ..Self::default() };
        match query(connection, &["INFO"]).await {
            Ok(info) => facts.info = fields(&text(info).unwrap_or_default()),
            Err(error) => facts.info_refused = Some(server_message(&error)),
        }
        facts.hello = query(connection, &["HELLO"]).await.map(pairs).unwrap_or_default();
        facts.role = query(connection, &["ROLE"]).await.ok().and_then(first);
        for name in CONFIG {
            match query(connection, &["CONFIG", "GET", name]).await {
                Ok(answer) => facts.config.extend(pairs(answer)),
                Err(error) => facts.no_config(&error),
            }
        }
        if facts.is_cluster() {
            let answer = query(connection, &["CLUSTER", "INFO"]).await.ok().and_then(text);
            facts.cluster = fields(&answer.unwrap_or_default());
        }
        facts
    }

    fn no_config(&mut self, error: &RedisError) {
        self.config_refused.get_or_insert_with(|| server_message(error));
    }

    /// A numeric field of INFO.
    pub(super) fn number(&self, field: &str) -> Option<u64> {
        self.info.get(field)?.parse().ok()
    }

    /// A setting from CONFIG, or from the corresponding field of INFO.
    pub(super) fn setting(&self, name: &str) -> Option<&str> {
        let from_info = || self.info.get(&name.replace('-', "_"));
        self.config.get(name).or_else(from_info).map(String::as_str)
    }

    /// `primary` or the role reported by the server; `None` if unknown.
    pub(super) fn role(&self) -> Option<&str> {
        let message = self.role.as_ref().or_else(|| self.info.get("role")).or_else(|| self.hello.get("role"));
        message.map(|role| if role == "master" { "primary" } else { role.as_str() })
    }

    /// Whether it is a cluster node.
    pub(super) fn is_cluster(&self) -> bool {
        self.info.get("cluster_enabled").is_some_and(|enabled| enabled == "1")
            || self.hello.get("mode").is_some_and(|mode| mode == "cluster")
    }
}

/// Parses lines of `name:value`; comments start with `#`.
fn fields(text: &str) -> HashMap<String, String> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

fn text(value: Value) -> Option<String> {
    String::from_redis_value(value).ok()
}

/// A map of strings; other values (such as the list of modules) are omitted.
pub(super) fn pairs(value: Value) -> HashMap<String, String> {
    let pairs: Vec<(Value, Value)> = match value {
        Value::Map(pairs) => pairs,
        Value::Array(flat) => {
            let mut flat = flat.into_iter();
            std::iter::from_fn(|| Some((flat.next()?, flat.next()?))).collect()
        }
        _ => Vec::new(),
    };
    pairs.into_iter().filter_map(|(name, value)| Some((text(name)?, text(value)?))).collect()
}

fn first(value: Value) -> Option<String> {
    match value {
        Value::Array(values) => values.into_iter().next().and_then(text),
        _ => None,
    }
}

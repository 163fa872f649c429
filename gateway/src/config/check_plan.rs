//! The Redis servers of a configuration and their planned use, for `earshot check`.
//!
//! Must never connect to one.

use super::{Config, NamespaceConfig, RedisInstance, RedisUrl, Servers, Source};
use earshot_ops::check::redis::{CheckPlan, CheckedServer, PlannedChannel, PlannedLog};

impl Config {
    /// Every server that namespaces or logins use.
    pub fn servers(&self) -> Vec<CheckedServer> {
        self.connected_redis().flat_map(|redis| self.servers_of(redis)).collect()
    }

    /// The servers of an instance: the one for commands and the one for pub/sub, which may be the same, or all servers of
    /// a client-sharded instance.
    fn servers_of(&self, redis: &RedisInstance) -> Vec<CheckedServer> {
        let plan = self.plan(redis);
        let server = |name: String, url: &RedisUrl, plan: CheckPlan| {
            let instance = redis.settings(name.clone(), url);
            CheckedServer { name, instance, plan }
        };
        match (&redis.servers, &redis.pubsub_url) {
            (Servers::ClientSharded(urls), _) => urls
                .iter()
                .enumerate()
                .map(|(index, url)| server(format!("{}.{index}", redis.name), url, plan.clone()))
                .collect(),
            (Servers::One | Servers::Cluster(_), None) => vec![server(redis.name.clone(), &redis.url, plan)],
            (Servers::One | Servers::Cluster(_), Some(pubsub)) => {
                let unused = CheckPlan { channels: Vec::new(), logs: Vec::new(), ..plan.clone() };
                vec![
                    server(redis.name.clone(), &redis.url, unused),
                    server(format!("{} (pubsub_url)", redis.name), pubsub, plan),
                ]
            }
        }
    }

    /// The planned use of an instance by its namespaces.
    fn plan(&self, redis: &RedisInstance) -> CheckPlan {
        let namespaces = self.namespaces.iter().filter(|space| space.redis.as_ref() == Some(&redis.name));
        let mut plan = CheckPlan {
            channels: Vec::new(),
            logs: Vec::new(),
            publication_bytes: self.limits.publication_bytes,
            ping_interval: redis.times.ping_interval,
            // No probe is published where only sessions are read.
            probe_prefix: redis
                .times
                .probe_interval
                .filter(|_| self.redis.iter().any(|used| used.name == redis.name))
                .map(|_| redis.probe_prefix.clone()),
            cluster: matches!(redis.servers, Servers::Cluster(_)),
            assumed: false,
        };
        for space in namespaces {
            plan.channels.extend(channels(space));
            if space.source == Source::Stream {
                plan.logs.extend(space.channels.iter().map(|channel| PlannedLog {
                    key_prefix: space.key_prefix.clone(),
                    channel: channel.text.clone(),
                }));
            }
        }
        plan
    }
}

fn channels(space: &NamespaceConfig) -> impl Iterator<Item = PlannedChannel> {
    space.channels.iter().map(|channel| PlannedChannel {
        name: channel.text.clone(),
        pattern: space.redis_pattern(channel),
        sharded: space.sharded_pubsub,
    })
}

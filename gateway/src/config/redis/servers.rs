//! `cluster` and `urls` in an instance: several servers as one.
//!
//! Owns their conflicts with other keys. Must never connect to a server.

use toml::de::DeValue;

use super::RedisUrl;
use super::url_sources::UrlSources;
use crate::config::environment::Environment;
use crate::config::reader::diagnostics::Location;
use crate::config::reader::toml_writer::TomlWriter;
use crate::config::reader::{Located, Section, kind_of, text_of};
use earshot_redis_link::{NodeAddress, address};

/// The servers of an instance.
#[derive(Clone, Debug, Default)]
pub enum Servers {
    /// One server.
    #[default]
    One,
    /// A Redis Cluster, with nodes in addition to the one in `url`.
    Cluster(Vec<NodeAddress>),
    /// Two or more independent servers: the hash of a channel selects one of them.
    ClientSharded(Vec<RedisUrl>),
}

/// Maximum number of servers of one instance: each has its own connections.
const SERVERS_MAX: usize = 64;

/// The keys for several servers.
pub(super) struct MultiServer<'d> {
    /// Further nodes of a cluster.
    cluster: Option<Located<'d, Vec<NodeAddress>>>,
    /// The servers of a client-sharded instance.
    pub(super) urls: Vec<Located<'d, RedisUrl>>,
}

impl<'d> MultiServer<'d> {
    pub(super) fn read(section: &mut Section<'d>) -> Self {
        let cluster = section.read("cluster", seeds);
        let cluster = cluster
            .and_then(|found| found.value.map(|value| Located { value, location: found.location.clone() }));
        let urls = section.texts("urls", RedisUrl::parse);
        if cluster.is_some() {
            forbid(
                section,
                "pubsub_url",
                "conflicts with `cluster`, in which every node carries pub/sub: remove it",
            );
            forbid(section, "sentinels", "conflicts with `cluster`, which has its own failover: remove it");
            forbid(section, "urls", "conflicts with `cluster`, which discovers its nodes: remove it");
        } else if urls.is_some() {
            forbid(section, "url", "conflicts with `urls`: remove one of them");
            forbid(section, "sentinels", "conflicts with `urls`: remove one of them");
            let what = "conflicts with `urls`, whose servers carry both commands and pub/sub: remove it";
            forbid(section, "pubsub_url", what);
        }
        let is_cluster = cluster.is_some();
        let urls = urls.filter(|_| !is_cluster).unwrap_or_default();
        if section.has("urls") && !is_cluster {
            check_urls(section, &urls);
        }
        Self { cluster, urls }
    }

    /// Checks the keys together with the URLs and the environment.
    pub(super) fn check(&self, section: &Section<'_>, urls: &UrlSources<'_>, env: Option<&Environment>) {
        if let Some(cluster) = &self.cluster {
            check_cluster(section, &cluster.location, urls, env);
        }
        let named = env.into_iter().flat_map(|env| {
            let parts = &env.redis_parts;
            [
                (env.redis_url.is_some(), "REDIS_URL"),
                (env.redis_pubsub_url.is_some(), "REDIS_PUBSUB_URL"),
                (parts.host.is_some(), "REDIS_HOST"),
                (parts.port.is_some(), "REDIS_PORT"),
            ]
        });
        for (_, name) in named.filter(|(is_set, _)| *is_set && !self.urls.is_empty()) {
            let what = "conflicts with `urls` in the file: unset it";
            section.error(&Location::Variable(name), what);
        }
    }

    /// The servers of the instance; `urls` are the final URLs.
    pub(super) fn servers(self, urls: &[Located<'_, RedisUrl>]) -> Servers {
        match self.cluster {
            Some(seeds) => Servers::Cluster(seeds.value),
            None if urls.is_empty() => Servers::One,
            None => Servers::ClientSharded(urls.iter().map(|found| found.value.clone()).collect()),
        }
    }
}

impl Servers {
    /// Whether it is a Redis Cluster.
    pub(in crate::config) fn is_cluster(&self) -> bool {
        matches!(self, Self::Cluster(_))
    }

    pub(super) fn show(&self, out: &mut TomlWriter, url: &RedisUrl) {
        match self {
            Self::One => out.text("url", &url.to_string()),
            Self::Cluster(seeds) => {
                out.text("url", &url.to_string());
                if seeds.is_empty() {
                    out.line("cluster", "true");
                } else {
                    let seeds: Vec<_> = seeds.iter().map(ToString::to_string).collect();
                    out.texts("cluster", seeds.iter().map(String::as_str));
                }
            }
            Self::ClientSharded(urls) => {
                let urls: Vec<_> = urls.iter().map(ToString::to_string).collect();
                out.texts("urls", urls.iter().map(String::as_str));
            }
        }
    }
}

fn check_urls(section: &Section<'_>, urls: &[Located<'_, RedisUrl>]) {
    let location = section.location_of_key("urls");
    if urls.len() < 2 || urls.len() > SERVERS_MAX {
        section.error(&location, format!("expected 2 to {SERVERS_MAX} servers; for one server use `url`"));
    }
    for (index, Located { value, location }) in urls.iter().enumerate() {
        let same = |other: &Located<'_, RedisUrl>| other.value.address().endpoint == value.address().endpoint;
        if urls[..index].iter().any(same) {
            section.error(location, format!("duplicate server {value}"));
        }
        if value.address().tls != urls[0].value.address().tls {
            section.error(location, "expected TLS for all servers or for none");
        }
    }
}

fn check_cluster(
    section: &Section<'_>,
    location: &Location<'_>,
    urls: &UrlSources<'_>,
    env: Option<&Environment>,
) {
    if env.is_some_and(|env| env.redis_pubsub_url.is_some()) {
        let what = "conflicts with `cluster`, in which every node carries pub/sub: unset it";
        section.error(&Location::Variable("REDIS_PUBSUB_URL"), what);
    }
    let address = urls.url.value.address();
    if address.database.is_some_and(|number| number != 0) {
        section.error(&urls.url.location, "a cluster supports only database 0");
    }
    if matches!(address.endpoint, address::ServerEndpoint::Unix(_)) {
        section.error(location, "a cluster cannot be reached over a Unix socket");
    }
}

fn forbid(section: &Section<'_>, key: &'static str, what: &str) {
    if section.has(key) {
        section.error(&section.location_of_key(key), what);
    }
}

/// Parses `true`, `false` or a list of nodes; `None`: not a cluster.
fn seeds(value: &DeValue<'_>) -> Result<Option<Vec<NodeAddress>>, String> {
    match value {
        DeValue::Boolean(false) => Ok(None),
        DeValue::Boolean(true) => Ok(Some(Vec::new())),
        DeValue::Array(items) => {
            let seeds = items.iter().map(|item| text_of(item.get_ref()).and_then(seed));
            seeds.collect::<Result<_, _>>().map(Some)
        }
        other => Err(format!(
            "expected true or a list of nodes such as [\"redis-2:6379\"], found {}",
            kind_of(other)
        )),
    }
}

fn seed(text: &str) -> Result<NodeAddress, String> {
    let what = || {
        format!(
            "expected host:port, found \"{}\"; password and TLS are taken from `url`",
            text.escape_debug()
        )
    };
    NodeAddress::parse(text).ok_or_else(what)
}

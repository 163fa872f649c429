//! `cluster` and `urls` in an instance: how several servers are one.
//!
//! Owns the kinds that there are, and what else a kind forbids. Must never dial anybody.

use toml::de::DeValue;

use super::document::{Found, Section, kind_of, text_of};
use super::environment::Environment;
use super::redis::DEFAULT_INSTANCE;
use super::show::Shown;
use super::url::RedisUrl;
use crate::instance::NodeAddress;

/// What one instance is made of.
#[derive(Clone, Debug, Default)]
pub enum Servers {
    /// One server, or whatever is behind its name.
    #[default]
    One,
    /// A Redis Cluster; these are nodes to ask beside the one that `url` names.
    Cluster(Vec<NodeAddress>),
    /// Servers that know nothing of each other: each has the channels that hash to its place. Two or more.
    Spread(Vec<RedisUrl>),
}

/// The most servers that may be one instance: each takes connections of its own.
const SERVERS_MAX: usize = 64;

impl Servers {
    pub(super) fn read(section: &mut Section<'_>) -> Self {
        let cluster = section.read("cluster", seeds);
        let urls = section.texts("urls", RedisUrl::parse);
        match (cluster.map(|found| found.value), urls) {
            (Some(seeds), None) => {
                forbid(section, "pubsub_url", "each node of a cluster carries pub/sub: leave it out");
                seeds.map_or(Self::One, Self::Cluster)
            }
            (Some(_), Some(_)) => {
                section.refuse(
                    &section.place_of_key("urls"),
                    "not together with `cluster`, which finds its nodes by itself",
                );
                Self::One
            }
            (None, Some(urls)) => Self::spread(section, urls),
            (None, None) => Self::One,
        }
    }

    fn spread(section: &Section<'_>, urls: Vec<Found<'_, RedisUrl>>) -> Self {
        forbid(section, "url", "not together with `urls`");
        forbid(
            section,
            "pubsub_url",
            "not together with `urls`: each of them has commands and subscriptions",
        );
        let place = section.place_of_key("urls");
        if urls.len() < 2 || urls.len() > SERVERS_MAX {
            section.refuse(&place, format!("2 to {SERVERS_MAX} servers; one is written `url`"));
        }
        let urls: Vec<_> = urls.into_iter().map(|found| found.value).collect();
        for (index, url) in urls.iter().enumerate() {
            if urls[..index].iter().any(|other| other.expose() == url.expose()) {
                section.refuse(&place, format!("{url} stands there twice"));
            }
        }
        Self::Spread(urls)
    }

    /// What the instance's URLs, wherever they come from, must not be.
    pub(super) fn check(&self, section: &Section<'_>, url: &RedisUrl, env: &Environment) {
        let is_default = section.is_named(DEFAULT_INSTANCE);
        let is_set = |url: &Option<RedisUrl>| is_default && url.is_some();
        let refuse = |key, what: &str| section.refuse(&section.place_of_key(key), what);
        match self {
            Self::One => {}
            Self::Cluster(_) if is_set(&env.redis_pubsub_url) => {
                refuse("cluster", "each node of a cluster carries pub/sub: unset REDIS_PUBSUB_URL");
            }
            Self::Cluster(_) if !url.to_string().ends_with("/0") => {
                let key = if is_set(&env.redis_url) { "cluster" } else { "url" };
                refuse(key, "a cluster has no databases but 0");
            }
            Self::Spread(_) if is_set(&env.redis_url) || is_set(&env.redis_pubsub_url) => {
                refuse("urls", "not together with REDIS_URL or REDIS_PUBSUB_URL, which name one server");
            }
            Self::Cluster(_) | Self::Spread(_) => {}
        }
    }

    /// The URL that stands for the instance where it has none of its own.
    pub(super) fn first(&self) -> Option<RedisUrl> {
        match self {
            Self::Spread(urls) => urls.first().cloned(),
            Self::One | Self::Cluster(_) => None,
        }
    }

    /// Whether it is a cluster.
    pub(super) fn is_cluster(&self) -> bool {
        matches!(self, Self::Cluster(_))
    }

    pub(super) fn show(&self, out: &mut Shown, url: &RedisUrl) {
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
            Self::Spread(urls) => {
                let urls: Vec<_> = urls.iter().map(ToString::to_string).collect();
                out.texts("urls", urls.iter().map(String::as_str));
            }
        }
    }
}

fn forbid(section: &Section<'_>, key: &'static str, what: &str) {
    if section.has(key) {
        section.refuse(&section.place_of_key(key), what);
    }
}

/// `true`, `false`, or more nodes; `None`: it is no cluster.
fn seeds(value: &DeValue<'_>) -> Result<Option<Vec<NodeAddress>>, String> {
    match value {
        DeValue::Boolean(false) => Ok(None),
        DeValue::Boolean(true) => Ok(Some(Vec::new())),
        DeValue::Array(items) => {
            let seeds = items.iter().map(|item| text_of(item.get_ref()).and_then(seed));
            seeds.collect::<Result<_, _>>().map(Some)
        }
        other => {
            Err(format!("expected true, or more nodes such as [\"redis-2:6379\"], found {}", kind_of(other)))
        }
    }
}

fn seed(text: &str) -> Result<NodeAddress, String> {
    let what = || {
        format!("expected host:port, found \"{}\"; password and TLS are those of `url`", text.escape_debug())
    };
    NodeAddress::parse(text).ok_or_else(what)
}

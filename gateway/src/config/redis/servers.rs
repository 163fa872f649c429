//! `cluster` and `urls` in an instance: how several servers are one.
//!
//! Owns the kinds that there are, and what else a kind forbids. Must never dial anybody.

use toml::de::DeValue;

use super::RedisUrl;
use super::place::Urls;
use crate::config::document::{Found, Section, kind_of, text_of};
use crate::config::environment::Environment;
use crate::config::errors::Place;
use crate::config::show::Shown;
use earshot_redis_link::{NodeAddress, address};

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

/// What the section says of several servers.
pub(super) struct Several<'d> {
    /// More nodes of the cluster that it is.
    cluster: Option<Found<'d, Vec<NodeAddress>>>,
    /// In the place of the one URL.
    pub(super) urls: Vec<Found<'d, RedisUrl>>,
}

impl<'d> Several<'d> {
    pub(super) fn read(section: &mut Section<'d>) -> Self {
        let cluster = section.read("cluster", seeds);
        let cluster =
            cluster.and_then(|found| found.value.map(|value| Found { value, place: found.place.clone() }));
        let urls = section.texts("urls", RedisUrl::parse);
        if cluster.is_some() {
            forbid(section, "pubsub_url", "each node of a cluster carries pub/sub: leave it out");
            forbid(section, "sentinels", "not together with `cluster`, which fails over by itself");
            forbid(section, "urls", "not together with `cluster`, which finds its nodes by itself");
        } else if urls.is_some() {
            forbid(section, "url", "not together with `urls`");
            forbid(section, "sentinels", "not together with `urls`");
            let what = "not together with `urls`: each of them has commands and subscriptions";
            forbid(section, "pubsub_url", what);
        }
        let is_bad = cluster.is_some();
        let urls = urls.filter(|_| !is_bad).unwrap_or_default();
        if section.has("urls") && !is_bad {
            check_urls(section, &urls);
        }
        Self { cluster, urls }
    }

    /// Judges what the file and the environment say together.
    pub(super) fn check(&self, section: &Section<'_>, urls: &Urls<'_>, env: Option<&Environment>) {
        if let Some(cluster) = &self.cluster {
            check_cluster(section, &cluster.place, urls, env);
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
            let what = "it is for one server, and the file has `urls`: unset it";
            section.refuse(&Place::Variable(name), what);
        }
    }

    /// What the instance is made of, its URLs as TLS and environment have made them.
    pub(super) fn servers(self, urls: &[Found<'_, RedisUrl>]) -> Servers {
        match self.cluster {
            Some(seeds) => Servers::Cluster(seeds.value),
            None if urls.is_empty() => Servers::One,
            None => Servers::Spread(urls.iter().map(|found| found.value.clone()).collect()),
        }
    }
}

impl Servers {
    /// Whether it is a cluster.
    pub(in crate::config) fn is_cluster(&self) -> bool {
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

fn check_urls(section: &Section<'_>, urls: &[Found<'_, RedisUrl>]) {
    let place = section.place_of_key("urls");
    if urls.len() < 2 || urls.len() > SERVERS_MAX {
        section.refuse(&place, format!("2 to {SERVERS_MAX} servers; one is written `url`"));
    }
    for (index, Found { value, place }) in urls.iter().enumerate() {
        let same = |other: &Found<'_, RedisUrl>| other.value.address().endpoint == value.address().endpoint;
        if urls[..index].iter().any(same) {
            section.refuse(place, format!("{value} stands there twice"));
        }
        if value.address().tls != urls[0].value.address().tls {
            section.refuse(place, "either all of them speak TLS or none");
        }
    }
}

fn check_cluster(section: &Section<'_>, place: &Place<'_>, urls: &Urls<'_>, env: Option<&Environment>) {
    if env.is_some_and(|env| env.redis_pubsub_url.is_some()) {
        let what = "each node of a cluster carries pub/sub: unset it";
        section.refuse(&Place::Variable("REDIS_PUBSUB_URL"), what);
    }
    let address = urls.url.value.address();
    if address.database.is_some_and(|number| number != 0) {
        section.refuse(&urls.url.place, "a cluster has no databases but 0");
    }
    if matches!(address.endpoint, address::Endpoint::Unix(_)) {
        section.refuse(
            place,
            "the nodes of a cluster are on the network, and the URL is a socket of this machine",
        );
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

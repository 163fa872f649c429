//! Where an instance is: the file's `url`, the environment's, or the two together.
//!
//! Owns how REDIS_URL and its parts (REDIS_HOST and so on) make one URL. A part fills in what the URL leaves out; one
//! that contradicts it is refused. Must never show a password.

use super::{DEFAULT_INSTANCE, RedisUrl};
use crate::config::document::{Document, Found, Section};
use crate::config::environment::{Environment, RedisParts};
use crate::config::errors::Place;
use earshot_redis_link::address;

/// The URLs of an instance with the places that they come from.
pub(super) struct Urls<'d> {
    pub(super) url: Found<'d, RedisUrl>,
    pub(super) pubsub: Option<Found<'d, RedisUrl>>,
    /// Those of several servers that are one instance; the first of them stands for `url`.
    pub(super) spread: Vec<Found<'d, RedisUrl>>,
}

impl<'d> Urls<'d> {
    /// Reads the URLs of the file and, for the default instance, the environment. With Sentinels the primary's name
    /// stands for a host that nobody knows yet.
    pub(super) fn read(
        section: &mut Section<'d>,
        env: Option<&Environment>,
        primary: Option<RedisUrl>,
        spread: &[Found<'d, RedisUrl>],
    ) -> Self {
        let own = section.text("url", RedisUrl::parse);
        let own_pubsub = section.text("pubsub_url", RedisUrl::parse);
        if primary.is_some() {
            for key in ["url", "pubsub_url"].into_iter().filter(|key| section.has(key)) {
                section.refuse(
                    &section.place_of_key(key),
                    "the Sentinels say where the server is: leave it out",
                );
            }
        }
        let by_sentinels = primary.is_some();
        let base = primary.map(|value| Found { value, place: section.place() }).or(own);
        let is_bad = section.has("url") || section.has("urls");
        let base = spread.first().cloned().or(base);
        let url = match env {
            Some(env) if spread.is_empty() => from_environment(section, env, base, by_sentinels),
            _ => base,
        };
        if url.is_none() && !is_bad {
            section.refuse(&section.place(), "has no `url`, such as url = \"redis://127.0.0.1:6379/0\"");
        }
        let pubsub = env.and_then(|env| env.redis_pubsub_url.clone());
        let place = Place::Variable("REDIS_PUBSUB_URL");
        // Whatever stands here when the file's own URL is bad or missing is never used: the load fails.
        let local = || Found { value: RedisUrl::local(), place: section.place() };
        Self {
            url: url.unwrap_or_else(local),
            pubsub: pubsub.map(|value| Found { value, place }).or(own_pubsub),
            spread: spread.to_vec(),
        }
    }

    /// All that there are.
    pub(super) fn all(&mut self) -> impl Iterator<Item = &mut Found<'d, RedisUrl>> {
        std::iter::once(&mut self.url).chain(&mut self.pubsub).chain(&mut self.spread)
    }

    /// What they mean.
    pub(super) fn addresses(&self) -> impl Iterator<Item = &address::Address> {
        let all = std::iter::once(&self.url).chain(&self.pubsub).chain(&self.spread);
        all.map(|url| url.value.address())
    }
}

/// Says of each variable about an instance that there is none.
pub(super) fn refuse_orphans(document: &Document<'_>, env: &Environment) {
    if env.set.iter().any(|name| matches!(*name, "REDIS_URL" | "REDIS_HOST")) {
        // It is bad, and that was said.
        return;
    }
    let parts = &env.redis_parts;
    for (is_set, name) in [
        (env.redis_pubsub_url.is_some(), "REDIS_PUBSUB_URL"),
        (env.redis_tls.is_some(), env.redis_tls.map_or("REDIS_TLS", |(_, name)| name)),
        (parts.port.is_some(), "REDIS_PORT"),
        (parts.username.is_some(), "REDIS_USERNAME"),
        (parts.password.is_some(), "REDIS_PASSWORD"),
        (parts.database.is_some(), "REDIS_DB"),
    ] {
        if is_set {
            let what =
                "there is no instance it could belong to: set REDIS_URL, too, or write [redis.default]";
            document.refuse(&Place::Variable(name), what);
        }
    }
}

fn from_environment<'d>(
    section: &Section<'d>,
    env: &Environment,
    base: Option<Found<'d, RedisUrl>>,
    by_sentinels: bool,
) -> Option<Found<'d, RedisUrl>> {
    let parts = &env.redis_parts;
    if by_sentinels {
        let named = [
            (env.redis_url.is_some(), "REDIS_URL"),
            (env.redis_pubsub_url.is_some(), "REDIS_PUBSUB_URL"),
            (parts.host.is_some(), "REDIS_HOST"),
            (parts.port.is_some(), "REDIS_PORT"),
        ];
        for (_, name) in named.into_iter().filter(|(is_set, _)| *is_set) {
            let what =
                format!("the Sentinels of [redis.{DEFAULT_INSTANCE}] say where the server is: unset it");
            section.refuse(&Place::Variable(name), what);
        }
    }
    let named = match (&env.redis_url, &parts.host) {
        (Some(url), _) => Some((url.clone(), "REDIS_URL")),
        (None, Some(host)) => Some((RedisUrl::of(host.clone()), "REDIS_HOST")),
        (None, None) => None,
    };
    let base = match named {
        Some((value, name)) if !by_sentinels => Found { value, place: Place::Variable(name) },
        _ => base?,
    };
    Some(fill_in(section, parts, base))
}

fn fill_in<'d>(section: &Section<'d>, parts: &RedisParts, base: Found<'d, RedisUrl>) -> Found<'d, RedisUrl> {
    let Found { value, place } = base;
    let mut address = value.address().clone();
    let refuse = |name, what: &str| {
        section.refuse(&Place::Variable(name), format!("{place} says another {what}: unset one of them"));
    };
    let host = |address: &address::Address| match &address.endpoint {
        address::Endpoint::Tcp { host, .. } => Some(host.to_ascii_lowercase()),
        address::Endpoint::Unix(_) => None,
    };
    if parts.host.as_ref().is_some_and(|own| host(own) != host(&address)) {
        refuse("REDIS_HOST", "server");
    }
    let fits = |own| match &mut address.endpoint {
        address::Endpoint::Tcp { port, .. } => *port.get_or_insert(own) == own,
        address::Endpoint::Unix(_) => false,
    };
    if !parts.port.is_none_or(fits) {
        refuse("REDIS_PORT", "port");
    }
    let username = &parts.username;
    if username.as_ref().is_some_and(|own| address.username.get_or_insert_with(|| own.clone()) != own) {
        refuse("REDIS_USERNAME", "user");
    }
    let password = parts.password.as_ref().map(|secret| secret.expose().to_owned());
    if password.is_some_and(|own| *address.password.get_or_insert_with(|| own.clone()) != own) {
        refuse("REDIS_PASSWORD", "password");
    }
    if parts.database.is_some_and(|own| *address.database.get_or_insert(own) != own) {
        refuse("REDIS_DB", "database");
    }
    let unchanged = address == *value.address();
    Found { value: if unchanged { value } else { RedisUrl::of(address) }, place }
}

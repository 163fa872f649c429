//! The URLs of an instance, from the file and the environment.
//!
//! Owns the rules that combine REDIS_URL and its parts (REDIS_HOST and so on) into one URL. A part supplies what the
//! URL omits; a part that conflicts with the URL is an error. Must never show a password.

use super::{DEFAULT_INSTANCE, RedisUrl};
use crate::config::environment::{Environment, RedisParts};
use crate::config::reader::diagnostics::Location;
use crate::config::reader::{Document, Located, Section};
use earshot_redis_link::address;

/// The URLs of an instance with their locations.
pub(super) struct UrlSources<'d> {
    pub(super) url: Located<'d, RedisUrl>,
    pub(super) pubsub: Option<Located<'d, RedisUrl>>,
    /// The servers of a client-sharded instance; the first is also `url`.
    pub(super) sharded: Vec<Located<'d, RedisUrl>>,
}

impl<'d> UrlSources<'d> {
    /// Reads the URLs of the file and, for the default instance, of the environment. With Sentinels, the host is the name of
    /// the primary.
    pub(super) fn read(
        section: &mut Section<'d>,
        env: Option<&Environment>,
        primary: Option<RedisUrl>,
        sharded: &[Located<'d, RedisUrl>],
    ) -> Self {
        let own = section.text("url", RedisUrl::parse);
        let own_pubsub = section.text("pubsub_url", RedisUrl::parse);
        if primary.is_some() {
            for key in ["url", "pubsub_url"].into_iter().filter(|key| section.has(key)) {
                section.error(
                    &section.location_of_key(key),
                    "conflicts with `sentinels`, which provide the address: remove it",
                );
            }
        }
        let has_sentinels = primary.is_some();
        let base = primary.map(|value| Located { value, location: section.location() }).or(own);
        let is_invalid = section.has("url") || section.has("urls");
        let base = sharded.first().cloned().or(base);
        let url = match env {
            Some(env) if sharded.is_empty() => from_environment(section, env, base, has_sentinels),
            _ => base,
        };
        if url.is_none() && !is_invalid {
            section.error(&section.location(), "missing `url`, such as url = \"redis://127.0.0.1:6379/0\"");
        }
        let pubsub = env.and_then(|env| env.redis_pubsub_url.clone());
        let location = Location::Variable("REDIS_PUBSUB_URL");
        // A placeholder: without a valid URL, loading fails.
        let local = || Located { value: RedisUrl::local(), location: section.location() };
        Self {
            url: url.unwrap_or_else(local),
            pubsub: pubsub.map(|value| Located { value, location }).or(own_pubsub),
            sharded: sharded.to_vec(),
        }
    }

    /// All URLs.
    pub(super) fn all(&mut self) -> impl Iterator<Item = &mut Located<'d, RedisUrl>> {
        std::iter::once(&mut self.url).chain(&mut self.pubsub).chain(&mut self.sharded)
    }

    /// The addresses of all URLs.
    pub(super) fn addresses(&self) -> impl Iterator<Item = &address::Address> {
        let all = std::iter::once(&self.url).chain(&self.pubsub).chain(&self.sharded);
        all.map(|url| url.value.address())
    }
}

/// Reports each variable for an instance, if there is no instance.
pub(super) fn reject_without_instance(document: &Document<'_>, env: &Environment) {
    if env.set.iter().any(|name| matches!(*name, "REDIS_URL" | "REDIS_HOST")) {
        // Invalid, which is an error already.
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
            let what = "no Redis instance is configured: set REDIS_URL, or add [redis.default]";
            document.error(&Location::Variable(name), what);
        }
    }
}

fn from_environment<'d>(
    section: &Section<'d>,
    env: &Environment,
    base: Option<Located<'d, RedisUrl>>,
    has_sentinels: bool,
) -> Option<Located<'d, RedisUrl>> {
    let parts = &env.redis_parts;
    if has_sentinels {
        let named = [
            (env.redis_url.is_some(), "REDIS_URL"),
            (env.redis_pubsub_url.is_some(), "REDIS_PUBSUB_URL"),
            (parts.host.is_some(), "REDIS_HOST"),
            (parts.port.is_some(), "REDIS_PORT"),
        ];
        for (_, name) in named.into_iter().filter(|(is_set, _)| *is_set) {
            let what = format!("conflicts with `sentinels` of [redis.{DEFAULT_INSTANCE}]: unset it");
            section.error(&Location::Variable(name), what);
        }
    }
    let named = match (&env.redis_url, &parts.host) {
        (Some(url), _) => Some((url.clone(), env.redis_url_location.clone())),
        (None, Some(host)) => Some((RedisUrl::of(host.clone()), Location::Variable("REDIS_HOST"))),
        (None, None) => None,
    };
    let base = match named {
        Some((value, location)) if !has_sentinels => Located { value, location },
        _ => base?,
    };
    Some(add_parts(section, parts, base))
}

fn add_parts<'d>(
    section: &Section<'d>,
    parts: &RedisParts,
    base: Located<'d, RedisUrl>,
) -> Located<'d, RedisUrl> {
    let Located { value, location } = base;
    let mut address = value.address().clone();
    let reject = |name, what: &str| {
        section.error(
            &Location::Variable(name),
            format!("conflicts with the {what} in {location}: unset one of them"),
        );
    };
    let host = |address: &address::Address| match &address.endpoint {
        address::ServerEndpoint::Tcp { host, .. } => Some(host.to_ascii_lowercase()),
        address::ServerEndpoint::Unix(_) => None,
    };
    if parts.host.as_ref().is_some_and(|own| host(own) != host(&address)) {
        reject("REDIS_HOST", "host");
    }
    let matches_port = |own| match &mut address.endpoint {
        address::ServerEndpoint::Tcp { port, .. } => *port.get_or_insert(own) == own,
        address::ServerEndpoint::Unix(_) => false,
    };
    if !parts.port.is_none_or(matches_port) {
        reject("REDIS_PORT", "port");
    }
    let username = &parts.username;
    if username.as_ref().is_some_and(|own| address.username.get_or_insert_with(|| own.clone()) != own) {
        reject("REDIS_USERNAME", "user");
    }
    let password = parts.password.as_ref().map(|secret| secret.expose().to_owned());
    if password.is_some_and(|own| *address.password.get_or_insert_with(|| own.clone()) != own) {
        reject("REDIS_PASSWORD", "password");
    }
    if parts.database.is_some_and(|own| *address.database.get_or_insert(own) != own) {
        reject("REDIS_DB", "database");
    }
    let unchanged = address == *value.address();
    Located { value: if unchanged { value } else { RedisUrl::of(address) }, location }
}

//! The Redis instance that a login reads.

use super::super::redis::{DEFAULT_INSTANCE, MEMORY, RedisInstance, Servers};
use crate::config::reader::Section;

/// Reads the instance that holds `content`, such as "sessions". If the key is absent: the default instance.
pub(super) fn read(section: &mut Section<'_>, instances: &[RedisInstance], content: &str) -> Option<String> {
    let find = |name: &str| instances.iter().find(|instance| instance.name == name);
    let names: Vec<_> =
        instances.iter().map(|instance| format!("\"{}\"", instance.name.escape_debug())).collect();
    let choices =
        if names.is_empty() { "add one".to_owned() } else { format!("use one of {}", names.join(", ")) };
    let named = section.text("redis", |name| match find(name) {
        Some(instance) => Ok(instance),
        None if name == MEMORY => Err(format!("{content} are read from a Redis server: {choices}")),
        None => Err(format!("no [redis.{}] is configured; {choices}", name.escape_debug())),
    });
    let found = match named.map(|found| found.value).or_else(|| find(DEFAULT_INSTANCE)) {
        Some(found) => found,
        None if section.has("redis") => return None,
        None if names.is_empty() => {
            let what = format!("{content} require a Redis server: add a [redis.NAME], or set REDIS_URL");
            section.error(&section.location(), what);
            return None;
        }
        None => {
            section.error(&section.location(), format!("missing `redis`; {choices}"));
            return None;
        }
    };
    if matches!(found.servers, Servers::ClientSharded(_)) {
        let what = format!(
            "the instance \"{}\" has several independent servers (`urls`): {content} require one server or a cluster",
            found.name
        );
        section.error(&section.location_of_key("redis"), what);
    }
    Some(found.name.clone())
}

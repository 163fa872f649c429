//! Sentinels instead of a URL.
//!
//! Owns their keys. Must never connect to them.

use super::RedisUrl;
use super::auth::{read_pair, show_optional, show_path};
use crate::config::reader::Section;
use crate::config::reader::toml_writer::TomlWriter;
use earshot_redis_link::SentinelConfig;
use earshot_redis_link::address::{Address, ServerEndpoint};

/// The default port of a Sentinel.
const DEFAULT_PORT: u16 = 26379;

/// Keys that require `sentinels`.
const KEYS: [&str; 5] =
    ["sentinel_master", "sentinel_username", "sentinel_password_file", "sentinel_tls", "database"];

/// Reads the Sentinels, and a URL whose host is the name of the primary. `None` without `sentinels`.
pub(super) fn read(section: &mut Section<'_>) -> Option<(SentinelConfig, RedisUrl)> {
    let sentinels = section.texts("sentinels", |text| Address::parse_host_port(text, DEFAULT_PORT));
    let master = section.text("sentinel_master", check_master);
    let auth = read_pair(section, "sentinel_username", "sentinel_password_file");
    let sentinel_tls =
        section.read("sentinel_tls", |value| value.as_bool().ok_or("expected true or false".to_owned()));
    let database = section.read("database", |value| {
        let number = value.as_integer().and_then(|number| number.as_str().parse::<u32>().ok());
        number.ok_or_else(|| "expected a database number, such as 0".to_owned())
    });
    if sentinels.is_none() {
        for key in KEYS.into_iter().filter(|key| section.has(key)) {
            let what = match key {
                "database" => {
                    "requires `sentinels`; with a `url`, the database is part of it: redis://host:port/0"
                }
                _ => "requires `sentinels`, such as sentinels = [\"10.0.0.1:26379\", \"10.0.0.2:26379\"]",
            };
            section.error(&section.location_of_key(key), what);
        }
        return None;
    }
    if section.is_empty_list("sentinels") {
        section.error(&section.location_of_key("sentinels"), "empty list");
    }
    if master.is_none() && !section.has("sentinel_master") {
        let what = "requires `sentinel_master`, the name of the primary in `sentinel monitor`";
        section.error(&section.location_of_key("sentinels"), what);
    }
    if auth.username.is_some() && !section.has("sentinel_password_file") {
        let place = section.location_of_key("sentinel_username");
        section.error(&place, "requires a password: set `sentinel_password_file`");
    }
    let master = master.map_or_else(|| "mymaster".to_owned(), |found| found.value);
    let primary = Address {
        endpoint: ServerEndpoint::Tcp { host: master.clone(), port: None },
        tls: false,
        verify: false,
        username: None,
        password: None,
        database: database.map(|found| found.value),
    };
    let settings = SentinelConfig {
        addresses: sentinels?.into_iter().map(|found| found.value).collect(),
        master_name: master,
        username: auth.username,
        password_file: auth.password_file,
        // By default as for the server.
        tls: sentinel_tls.map_or_else(|| section.is_true("tls"), |found| found.value),
    };
    Some((settings, RedisUrl::of(primary)))
}

/// Checks the name of a primary: the characters that Redis permits.
fn check_master(name: &str) -> Result<String, String> {
    if !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte)) {
        return Ok(name.into());
    }
    Err("expected letters (a-z, A-Z), digits, `.`, `-` and `_`".into())
}

pub(super) fn show(sentinel: &SentinelConfig, url: &RedisUrl, out: &mut TomlWriter) {
    let shown: Vec<String> = sentinel
        .addresses
        .iter()
        .map(
            |(host, port)| {
                if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
            },
        )
        .collect();
    out.texts("sentinels", shown.iter().map(String::as_str));
    out.text("sentinel_master", &sentinel.master_name);
    show_optional(out, "sentinel_username", sentinel.username.as_deref());
    show_path(out, "sentinel_password_file", sentinel.password_file.as_ref());
    out.line("sentinel_tls", &sentinel.tls.to_string());
    out.line("database", &url.address().database.unwrap_or(0).to_string());
}

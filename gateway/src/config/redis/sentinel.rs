//! Sentinels in the place of a URL.
//!
//! Owns their keys. Must never ask them anything.

use super::RedisUrl;
use super::security::{read_pair, show_optional, show_path};
use crate::config::document::Section;
use crate::config::show::Shown;
use earshot_redis_link::SentinelConfig;
use earshot_redis_link::address::{Address, Endpoint};

/// The port of a Sentinel that is written without one.
const PORT: u16 = 26379;

/// What has no use without Sentinels.
const KEYS: [&str; 5] =
    ["sentinel_master", "sentinel_username", "sentinel_password_file", "sentinel_tls", "database"];

/// The Sentinels, and a URL whose host stands for the primary's.
pub(super) fn read(section: &mut Section<'_>) -> Option<(SentinelConfig, RedisUrl)> {
    let sentinels = section.texts("sentinels", |text| Address::parse_host_port(text, PORT));
    let master = section.text("sentinel_master", check_master);
    let sign_in = read_pair(section, "sentinel_username", "sentinel_password_file");
    let wish =
        section.read("sentinel_tls", |value| value.as_bool().ok_or("expected true or false".to_owned()));
    let database = section.read("database", |value| {
        let number = value.as_integer().and_then(|number| number.as_str().parse::<u32>().ok());
        number.ok_or_else(|| "expected the number of a database, such as 0".to_owned())
    });
    if sentinels.is_none() {
        for key in KEYS.into_iter().filter(|key| section.has(key)) {
            let what = match key {
                "database" => "stands in the `url`, such as redis://host:port/0; this key is for `sentinels`",
                _ => "needs `sentinels`, such as sentinels = [\"10.0.0.1:26379\", \"10.0.0.2:26379\"]",
            };
            section.refuse(&section.place_of_key(key), what);
        }
        return None;
    }
    if section.is_empty_list("sentinels") {
        section.refuse(&section.place_of_key("sentinels"), "no Sentinel at all");
    }
    if master.is_none() && !section.has("sentinel_master") {
        let what = "needs `sentinel_master`, the name of the primary in their `sentinel monitor`";
        section.refuse(&section.place_of_key("sentinels"), what);
    }
    if sign_in.username.is_some() && !section.has("sentinel_password_file") {
        let place = section.place_of_key("sentinel_username");
        section.refuse(&place, "needs a password: `sentinel_password_file`");
    }
    let master = master.map_or_else(|| "mymaster".to_owned(), |found| found.value);
    let primary = Address {
        endpoint: Endpoint::Tcp { host: master.clone(), port: None },
        tls: false,
        verify: false,
        username: None,
        password: None,
        database: database.map(|found| found.value),
    };
    let settings = SentinelConfig {
        addresses: sentinels?.into_iter().map(|found| found.value).collect(),
        master_name: master,
        username: sign_in.username,
        password_file: sign_in.password_file,
        // Whoever encrypts the one usually encrypts the other.
        tls: wish.map_or_else(|| section.is_true("tls"), |found| found.value),
    };
    Some((settings, RedisUrl::of(primary)))
}

/// The characters that Redis allows.
fn check_master(name: &str) -> Result<String, String> {
    if !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte)) {
        return Ok(name.into());
    }
    Err("the name of a primary has letters (a-z, A-Z), digits, `.`, `-` and `_`".into())
}

pub(super) fn show(sentinel: &SentinelConfig, url: &RedisUrl, out: &mut Shown) {
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

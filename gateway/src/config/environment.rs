//! The environment variables of the gateway.
//!
//! Owns their names and is the only place that reads them. Must never show a value that may be a secret.

use std::ffi::OsString;
use std::path::PathBuf;

use super::reader::diagnostics::{Diagnostics, Location};
use super::reader::{SettingVariable, suggest};
use super::redis_url::RedisUrl;
use super::secret::Secret;
use earshot_redis_link::address::Address;

/// The prefix of the gateway's own variables.
const PREFIX: &str = "EARSHOT_";

/// The top-level keys of the file that have a variable only because they are keys: `EARSHOT_` and the key.
const TOP_LEVEL: [&str; 4] = ["INTERNAL_LISTEN", "ALLOWED_HOSTS", "TRUSTED_PROXIES", "LOG_FORMAT"];

/// The flag that replaces `REDIS_URL`.
const REDIS_FLAG: &str = "--redis";

/// The values of the variables. An empty variable counts as not set.
#[derive(Clone, Debug, Default)]
pub(super) struct Environment {
    pub(super) config: Option<PathBuf>,
    /// Addresses, separated by commas.
    pub(super) listen: Option<String>,
    pub(super) log: Option<String>,
    /// Channel patterns, separated by commas.
    pub(super) open_channels: Option<String>,
    /// Origins, separated by commas.
    pub(super) allowed_origins: Option<String>,
    pub(super) api_key: Option<Secret>,
    pub(super) redis_url: Option<RedisUrl>,
    /// `REDIS_URL` or `--redis`.
    pub(super) redis_url_location: Location<'static>,
    pub(super) redis_pubsub_url: Option<RedisUrl>,
    pub(super) redis_parts: RedisParts,
    /// Whether to use TLS, and the variable that sets it.
    pub(super) redis_tls: Option<(bool, &'static str)>,
    /// The variables that set a key of the file, in the order of their names.
    pub(super) settings: Vec<SettingVariable>,
    /// The other variables that are set.
    pub(super) set: Vec<&'static str>,
    /// All known variables.
    known: Vec<&'static str>,
}

impl Environment {
    pub(super) fn read(lookup: impl Fn(&str) -> Option<OsString>, diagnostics: &mut Diagnostics) -> Self {
        let mut variables = Variables { lookup, diagnostics, set: Vec::new(), known: Vec::new() };
        Self {
            config: variables.raw("EARSHOT_CONFIG").map(PathBuf::from),
            listen: variables.text("EARSHOT_LISTEN", |text| Ok(text.into())),
            log: variables.text("EARSHOT_LOG", |text| Ok(text.into())),
            open_channels: variables.text("EARSHOT_OPEN_CHANNELS", |text| Ok(text.into())),
            allowed_origins: variables.text("EARSHOT_ALLOWED_ORIGINS", |text| Ok(text.into())),
            api_key: variables.text("EARSHOT_API_KEY", Secret::parse),
            redis_url: variables.text("REDIS_URL", RedisUrl::parse),
            redis_url_location: Location::Variable("REDIS_URL"),
            redis_pubsub_url: variables.text("REDIS_PUBSUB_URL", RedisUrl::parse),
            redis_parts: RedisParts::read(&mut variables),
            redis_tls: read_tls(&mut variables),
            settings: Vec::new(),
            set: variables.set,
            known: variables.known,
        }
    }

    /// Adds the variables that set a key of the file.
    pub(super) fn with_settings(
        mut self,
        variables: impl Iterator<Item = (OsString, OsString)>,
        diagnostics: &mut Diagnostics,
    ) -> Self {
        for (name, value) in variables {
            let Some(name) = name.to_str() else { continue };
            let Some(path) = name.strip_prefix(PREFIX).filter(|path| is_setting(path)) else { continue };
            if value.is_empty() || is_service_link(name) {
                continue;
            }
            match value.into_string() {
                Ok(value) => self.settings.push(SettingVariable::new(PREFIX, path, value)),
                Err(_) => diagnostics.add(&Location::Variable(name), "not valid UTF-8"),
            }
        }
        self.settings.sort_by(|first, second| first.name.cmp(&second.name));
        self
    }

    /// A warning for each name that starts with `EARSHOT_` and is not a known variable.
    pub(super) fn unknown(&self, names: impl Iterator<Item = OsString>) -> Vec<String> {
        let unknown = |name: &String| {
            name.strip_prefix(PREFIX).is_some_and(|path| !is_setting(path))
                && !self.known.contains(&name.as_str())
                && !is_service_link(name)
        };
        let mut unknown: Vec<String> =
            names.filter_map(|name| name.into_string().ok()).filter(unknown).collect();
        unknown.sort();
        let known = || self.known.iter().copied().filter(|name| name.starts_with(PREFIX));
        let warning = |name: String| {
            // Compared without the common prefix.
            let suggestion = suggest(&name[PREFIX.len()..], known().map(|name| &name[PREFIX.len()..]));
            let hint = suggestion.map(|name| format!("; did you mean {PREFIX}{name}?"));
            let hint = hint
                .unwrap_or_else(|| format!("; valid variables: {}", known().collect::<Vec<_>>().join(", ")));
            format!("{}: unknown variable{hint}", name.escape_debug())
        };
        unknown.into_iter().map(warning).collect()
    }

    /// Replaces `REDIS_URL` by the value of the flag `--redis`. The parts (`REDIS_HOST` and so on) apply to it as well.
    pub(super) fn with_redis_flag(self, url: Option<&str>, diagnostics: &mut Diagnostics) -> Self {
        let Some(text) = url else { return self };
        let url =
            RedisUrl::parse(text).map_err(|what| diagnostics.add(&Location::Flag(REDIS_FLAG), what)).ok();
        Self { redis_url: url, redis_url_location: Location::Flag(REDIS_FLAG), ..self }
    }

    /// Whether the variables name a Redis server.
    pub(super) fn names_redis(&self) -> bool {
        self.redis_url.is_some() || self.redis_parts.host.is_some()
    }
}

/// The parts of a URL.
#[derive(Clone, Debug, Default)]
pub(super) struct RedisParts {
    /// The host, as an address without other parts.
    pub(super) host: Option<Address>,
    pub(super) port: Option<u16>,
    pub(super) username: Option<String>,
    pub(super) password: Option<Secret>,
    pub(super) database: Option<u32>,
}

impl RedisParts {
    fn read<L: Fn(&str) -> Option<OsString>>(variables: &mut Variables<'_, L>) -> Self {
        let port = |text: &str| match text.parse::<u16>() {
            Ok(port) if port > 0 => Ok(port),
            _ => Err("expected a port: a number from 1 to 65535".into()),
        };
        // For a service named `redis`, Kubernetes sets this variable to a URL.
        let is_link = |value: &OsString| value.to_str().is_some_and(|text| text.starts_with("tcp://"));
        let is_port = !(variables.lookup)("REDIS_PORT").is_some_and(|value| is_link(&value));
        Self {
            host: variables.text("REDIS_HOST", Address::from_host),
            port: is_port.then(|| variables.text("REDIS_PORT", port)).flatten(),
            username: variables.text("REDIS_USERNAME", |text| Ok(text.into())),
            password: variables.text("REDIS_PASSWORD", Secret::password),
            database: variables.text("REDIS_DB", |text| {
                text.parse().map_err(|_| "expected a database number, such as 0".into())
            }),
        }
    }
}

/// Whether a variable sets a key of the file. Such a variable is read even if the key is unknown, which is then an error.
fn is_setting(path: &str) -> bool {
    SettingVariable::has_section(path) || TOP_LEVEL.contains(&path)
}

/// Whether Kubernetes sets this variable for a service named `earshot` or `earshot-…`.
fn is_service_link(name: &str) -> bool {
    name.starts_with("EARSHOT_PORT")
        || name.starts_with("EARSHOT_SERVICE_")
        || ["_SERVICE_HOST", "_SERVICE_PORT"].iter().any(|end| name.contains(end))
        || name.ends_with("_PORT")
        || ["_TCP", "_UDP"]
            .iter()
            .any(|protocol| name.split_once("_PORT_").is_some_and(|(_, link)| link.contains(protocol)))
}

/// `REDIS_TLS`, or `REDIS_SSL` with the same meaning.
fn read_tls<L: Fn(&str) -> Option<OsString>>(
    variables: &mut Variables<'_, L>,
) -> Option<(bool, &'static str)> {
    let tls = variables.text("REDIS_TLS", yes_or_no);
    let ssl = variables.text("REDIS_SSL", yes_or_no);
    if let (Some(tls), Some(ssl)) = (tls, ssl)
        && tls != ssl
    {
        variables
            .diagnostics
            .add(&Location::Variable("REDIS_SSL"), "conflicts with REDIS_TLS: set only one of them");
    }
    tls.map(|tls| (tls, "REDIS_TLS")).or(ssl.map(|ssl| (ssl, "REDIS_SSL")))
}

fn yes_or_no(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" => Ok(true),
        "false" | "0" | "no" | "off" => Ok(false),
        _ => Err("expected true or false".into()),
    }
}

struct Variables<'p, L> {
    lookup: L,
    diagnostics: &'p mut Diagnostics,
    set: Vec<&'static str>,
    known: Vec<&'static str>,
}

impl<L: Fn(&str) -> Option<OsString>> Variables<'_, L> {
    fn raw(&mut self, name: &'static str) -> Option<OsString> {
        self.known.push(name);
        let value = (self.lookup)(name).filter(|value| !value.is_empty())?;
        self.set.push(name);
        Some(value)
    }

    fn text<T>(&mut self, name: &'static str, parse: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        let value = self.raw(name)?;
        let read = value.to_str().ok_or_else(|| "not valid UTF-8".into()).and_then(parse);
        read.map_err(|what| self.diagnostics.add(&Location::Variable(name), what)).ok()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt as _;

    use super::*;

    fn read(variables: &[(&str, &str)]) -> (Environment, String) {
        let mut diagnostics = Diagnostics::default();
        let find = |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into());
        let env = Environment::read(find, &mut diagnostics);
        (env, diagnostics.into_errors().to_string())
    }

    #[test]
    fn an_empty_variable_counts_as_not_set() {
        let (env, errors) = read(&[("REDIS_URL", ""), ("EARSHOT_API_KEY", ""), ("EARSHOT_LISTEN", "")]);
        assert!(
            env.redis_url.is_none() && env.api_key.is_none() && env.listen.is_none() && env.set.is_empty()
        );
        assert_eq!(errors, "");
    }

    #[test]
    fn an_error_contains_the_variable_but_not_its_value() {
        let (_, errors) = read(&[("REDIS_URL", "hunter2"), ("EARSHOT_API_KEY", "hunter 2")]);
        assert_eq!(
            errors,
            "EARSHOT_API_KEY: expected visible ASCII characters without spaces, because a key is sent in an HTTP header\n\
             REDIS_URL: expected redis://host:port/database, rediss:// for TLS, or unix:///path for a Unix socket"
        );
    }

    #[test]
    fn an_unknown_variable_causes_a_warning_with_a_suggestion() {
        let (env, _) = read(&[]);
        let warnings = |names: &[&str]| env.unknown(names.iter().map(OsString::from));
        assert_eq!(
            warnings(&["EARSHOT_LOGS", "PATH", "EARSHOT_API_KEY", "EARSHOT_APIKEY"]),
            [
                "EARSHOT_APIKEY: unknown variable; did you mean EARSHOT_API_KEY?",
                "EARSHOT_LOGS: unknown variable; did you mean EARSHOT_LOG?",
            ]
        );
        let other = warnings(&["EARSHOT_COLOUR"]);
        assert!(
            other[0].starts_with("EARSHOT_COLOUR: unknown variable; valid variables: EARSHOT_CONFIG, "),
            "{other:?}"
        );
        let kubernetes = [
            "EARSHOT_PORT",
            "EARSHOT_PORT_8000_TCP_ADDR",
            "EARSHOT_SERVICE_HOST",
            "EARSHOT_SERVICE_PORT_HTTP",
            "EARSHOT_GATEWAY_SERVICE_HOST",
            "EARSHOT_GATEWAY_PORT",
            "EARSHOT_GATEWAY_PORT_8000_TCP",
        ];
        assert_eq!(warnings(&kubernetes), Vec::<String>::new());
    }

    #[test]
    fn a_variable_of_a_key_causes_no_warning() {
        let (env, _) = read(&[]);
        let names = ["EARSHOT_LIMITS__CONNECTIONS", "EARSHOT_LIMITS__X", "EARSHOT_LOG_FORMAT"];
        assert_eq!(env.unknown(names.iter().map(OsString::from)), Vec::<String>::new());
    }

    #[test]
    fn redis_ssl_is_an_alias_of_redis_tls() {
        assert_eq!(read(&[("REDIS_SSL", "true")]).0.redis_tls, Some((true, "REDIS_SSL")));
        assert_eq!(read(&[("REDIS_TLS", "no"), ("REDIS_SSL", "0")]).0.redis_tls, Some((false, "REDIS_TLS")));
        let (_, errors) = read(&[("REDIS_TLS", "yes"), ("REDIS_SSL", "no")]);
        assert_eq!(errors, "REDIS_SSL: conflicts with REDIS_TLS: set only one of them");
    }

    #[test]
    fn rejects_invalid_utf_8() {
        let mut diagnostics = Diagnostics::default();
        let find = |name: &str| (name == "EARSHOT_LOG").then(|| OsString::from_vec(vec![0xff]));
        assert!(Environment::read(find, &mut diagnostics).log.is_none());
        assert_eq!(diagnostics.into_errors().to_string(), "EARSHOT_LOG: not valid UTF-8");
    }

    #[test]
    fn secrets_are_redacted() {
        let (env, _) = read(&[("REDIS_URL", "redis://:hunter2@host"), ("EARSHOT_API_KEY", "hunter2")]);
        assert!(!format!("{env:?}").contains("hunter2"));
    }
}

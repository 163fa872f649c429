//! The top-level keys: `listen`, `allowed_origins`, `allowed_hosts`, `trusted_proxies`, `log`; and `[api]`.
//!
//! Owns the precedence of file, environment and flags. Must never contain the settings of one transport.

use ipnet::IpNet;
use tracing_subscriber::EnvFilter;

use super::channel_pattern::channel_pattern;
use super::environment::Environment;
use super::listen::{Listen, Resolve, repeated};
use super::reader::diagnostics::Location;
use super::reader::setting::quote;
use super::reader::{Document, Located, Section};
use super::reader::{keyword, suggest};
use super::secret::Secret;
use super::{Flags, network};
use crate::node::channel_pattern::ChannelPattern;

/// The variable that opens channels without a file.
pub(super) const OPEN_CHANNELS: &str = "EARSHOT_OPEN_CHANNELS";

/// The crate whose modules a log filter names.
const OWN_CRATE: &str = "earshot";

/// The default log filter.
const DEFAULT_LOG: &str = "info";

/// The format of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// A line of text for each record.
    #[default]
    Text,
    /// A JSON object for each record.
    Json,
}

impl LogFormat {
    /// The value in the file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Json => "json",
        }
    }
}

/// Reads the listening addresses: of the flags, otherwise of the environment, otherwise of the file.
pub(super) fn read_listen(
    document: &Document<'_>,
    top: &mut Section<'_>,
    env: &Environment,
    flags: &Flags,
    resolve: Resolve,
) -> Vec<Listen> {
    let parse = |text: &str| Listen::parse(text, resolve);
    let file = top.texts("listen", parse);
    if top.is_empty_list("listen") {
        top.error(
            &top.location_of_key("listen"),
            "empty list; without this key, the default is \"localhost:8000\"",
        );
    }
    let others = if flags.listen.is_empty() {
        env.listen
            .iter()
            .flat_map(|list| list.split(','))
            .map(|text| (text.trim(), "EARSHOT_LISTEN"))
            .collect()
    } else {
        flags.listen.iter().map(|text| (text.as_str(), "--listen")).collect::<Vec<_>>()
    };
    let mut found: Vec<Located<'_, Listen>> =
        if others.is_empty() { file.unwrap_or_default() } else { Vec::new() };
    for (text, name) in others {
        let location = if name == "--listen" { Location::Flag(name) } else { Location::Variable(name) };
        match parse(text) {
            Ok(value) => found.push(Located { value, location }),
            Err(what) => document.error(&location, what),
        }
    }
    for (found, addr) in repeated(&found) {
        document.error(&found.location, format!("duplicate address {addr}"));
    }
    if flags.dev {
        require_loopback(document, &found);
    }
    let listen: Vec<Listen> = found.into_iter().map(|found| found.value).collect();
    if listen.is_empty() { vec![Listen::default()] } else { listen }
}

/// Reports every address that is not a loopback address.
fn require_loopback(document: &Document<'_>, listen: &[Located<'_, Listen>]) {
    for found in listen.iter().filter(|found| !found.value.is_loopback()) {
        let what = "not a loopback address, which development mode (--dev) requires because it has no access \
                    control: listen on localhost, or omit --dev";
        document.error(&found.location, format!("\"{}\": {what}", found.value.text.escape_debug()));
    }
}

/// Reads the addresses for the HTTP API, health and metrics.
pub(super) fn read_internal_listen(
    document: &Document<'_>,
    top: &mut Section<'_>,
    flags: &Flags,
    resolve: Resolve,
) -> Vec<Listen> {
    let found = top.texts("internal_listen", |text| Listen::parse(text, resolve)).unwrap_or_default();
    for (found, addr) in repeated(&found) {
        document.error(&found.location, format!("duplicate address {addr}"));
    }
    if flags.dev {
        require_loopback(document, &found);
    }
    found.into_iter().map(|found| found.value).collect()
}

/// Reads `log_format`.
pub(super) fn read_log_format(top: &mut Section<'_>) -> LogFormat {
    let formats = [LogFormat::Text, LogFormat::Json];
    keyword::read(top, "log_format", &formats, LogFormat::as_str)
        .map_or(LogFormat::default(), |found| found.value)
}

/// Reads `[console]`. Development mode enables the page unless the file disables it.
pub(super) fn read_console(top: &mut Section<'_>, flags: &Flags) -> bool {
    let mut section = top.section("console");
    let enabled = section.flag("enabled", flags.dev);
    section.finish();
    enabled
}

/// Reads the log filter.
pub(super) fn read_log(
    document: &Document<'_>,
    top: &mut Section<'_>,
    env: &Environment,
    flags: &Flags,
) -> String {
    let file = top.text("log", filter);
    let flag = flags.log.as_deref().map(|log| (log, Location::Flag("--log")));
    let variable = env.log.as_deref().map(|log| (log, Location::Variable("EARSHOT_LOG")));
    let other = flag.or(variable).map(|(log, location)| (filter(log), location));
    match other {
        Some((Ok(log), _)) => log,
        Some((Err(what), location)) => {
            document.error(&location, what);
            DEFAULT_LOG.into()
        }
        None => file.map_or_else(|| DEFAULT_LOG.into(), |found| found.value),
    }
}

/// Reads the allowed origins: of the environment, otherwise of the file.
pub(super) fn read_origins(
    document: &Document<'_>,
    top: &mut Section<'_>,
    env: &Environment,
    flags: &Flags,
) -> Vec<String> {
    let file = top.texts("allowed_origins", origin);
    let found = match &env.allowed_origins {
        _ if !flags.allowed_origins.is_empty() => {
            let location = || Location::Flag("--allowed-origin");
            let parse = |text: &String| match origin(text) {
                Ok(value) => Some(Located { value, location: location() }),
                Err(what) => {
                    document.error(&location(), what);
                    None
                }
            };
            flags.allowed_origins.iter().filter_map(parse).collect()
        }
        Some(list) => read_list(document, "EARSHOT_ALLOWED_ORIGINS", list, origin),
        None => file.unwrap_or_default(),
    };
    found.into_iter().map(|found| found.value).collect()
}

/// Reads the allowed hosts.
pub(super) fn read_allowed_hosts(top: &mut Section<'_>) -> Vec<String> {
    top.texts("allowed_hosts", host).unwrap_or_default().into_iter().map(|found| found.value).collect()
}

/// Reads the networks of trusted proxies.
pub(super) fn read_trusted_proxies(top: &mut Section<'_>) -> Vec<IpNet> {
    top.texts("trusted_proxies", network::parse)
        .unwrap_or_default()
        .into_iter()
        .map(|found| found.value)
        .collect()
}

/// Reads the channels that are open without a namespace in the file.
pub(super) fn read_open_channels<'d>(
    document: &Document<'d>,
    env: &Environment,
) -> Vec<Located<'d, ChannelPattern>> {
    let list = env.open_channels.as_deref().unwrap_or_default();
    read_list(document, OPEN_CHANNELS, list, |text| channel_pattern(text, &[]))
}

/// The elements of a variable, separated by commas. An invalid one is a diagnostic and is omitted.
fn read_list<'d, T>(
    document: &Document<'d>,
    name: &'static str,
    list: &str,
    parse: impl Fn(&str) -> Result<T, String>,
) -> Vec<Located<'d, T>> {
    let texts = list.split(',').map(str::trim).filter(|text| !text.is_empty());
    let read = |text| match parse(text) {
        Ok(value) => Some(Located { value, location: Location::Variable(name) }),
        Err(what) => {
            document.error(&Location::Variable(name), what);
            None
        }
    };
    texts.filter_map(read).collect()
}

/// Reads the key of the HTTP API.
pub(super) fn read_api_key(top: &mut Section<'_>, env: &Environment) -> Option<Secret> {
    let mut api = top.section("api");
    let file = api.text("key", Secret::parse);
    api.finish();
    env.api_key.clone().or(file.map(|found| found.value))
}

fn filter(text: &str) -> Result<String, String> {
    // EnvFilter slices the text at byte positions and panics on other characters.
    if !text.is_ascii() {
        return Err("expected ASCII characters only".into());
    }
    EnvFilter::builder().parse(text).map_err(|error| format!("invalid log filter: {error}"))?;
    for word in text.split(',').map(str::trim).filter(|word| !word.is_empty()) {
        check_directive(word)?;
    }
    Ok(text.into())
}

/// Rejects a directive with a mistyped level or module. EnvFilter takes a mistyped level for a module, and then the log is
/// empty, including fatal errors.
fn check_directive(word: &str) -> Result<(), String> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    let shown = quote(&word.escape_debug().to_string(), "\"");
    let module = word.split(['=', '[']).next().unwrap_or_default();
    let is_alone = module.len() == word.len();
    let is_level = LEVELS.iter().any(|level| level.eq_ignore_ascii_case(word));
    let root = module.split("::").next().unwrap_or_default();
    if is_level || root.is_empty() || root == OWN_CRATE {
        return Ok(());
    }
    if suggest(root, [OWN_CRATE]).is_some() {
        return Err(format!("unknown module {shown}; did you mean \"{OWN_CRATE}\"?"));
    }
    if !is_alone {
        return Ok(());
    }
    match level_alias(word).or_else(|| suggest(word, LEVELS)) {
        Some(level) => Err(format!("unknown level {shown}; did you mean \"{level}\"?")),
        None => Err(format!(
            "unknown level {shown}; use one of {}, also by module: \"info,{OWN_CRATE}::broker=debug\"",
            LEVELS.join(", ")
        )),
    }
}

/// The level for a name that other programs use.
fn level_alias(word: &str) -> Option<&'static str> {
    match word.to_ascii_lowercase().as_str() {
        "none" | "silent" | "quiet" => Some("off"),
        "fatal" | "critical" | "crit" | "err" => Some("error"),
        "warning" => Some("warn"),
        "notice" | "information" => Some("info"),
        "verbose" => Some("debug"),
        "all" | "silly" => Some("trace"),
        _ => None,
    }
}

/// Parses a host as in requests, without a port.
fn host(text: &str) -> Result<String, String> {
    let is_name =
        !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte));
    if text == "*" || is_name {
        return Ok(text.to_ascii_lowercase());
    }
    let shown = text.escape_debug();
    Err(format!(
        "expected a host such as \"app.example.com\", without scheme and port, or \"*\", found \"{shown}\""
    ))
}

/// Parses an origin as browsers send it.
fn origin(text: &str) -> Result<String, String> {
    if text == "*" {
        return Ok(text.into());
    }
    let shown = text.escape_debug();
    let Some((scheme, host)) =
        text.split_once("://").filter(|(scheme, host)| !scheme.is_empty() && !host.is_empty())
    else {
        return Err(format!(
            "expected an origin such as \"https://app.example.com\" or \"*\", found \"{shown}\""
        ));
    };
    if let Some((host, _)) = host.split_once('/') {
        let origin = format!("{scheme}://{host}").escape_debug().to_string();
        return Err(format!("an origin has no path: write \"{origin}\""));
    }
    let bare = match scheme {
        "https" => host.strip_suffix(":443"),
        "http" => host.strip_suffix(":80"),
        _ => None,
    };
    if let Some(host) = bare {
        return Err(format!("browsers omit the default port: write \"{scheme}://{}\"", host.escape_debug()));
    }
    if !host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_:[]".contains(&byte)) {
        return Err(format!(
            "\"{shown}\" has no valid host name; wildcards are not supported, except \"*\" for all origins"
        ));
    }
    Ok(text.to_ascii_lowercase())
}

//! What stands at the top of the file: `listen`, `allowed_origins`, `log`, and the key of `[api]`.
//!
//! Owns what the file, the environment and the flags may all say, and which of them counts. Must never hold what
//! belongs to one transport.

use tracing_subscriber::EnvFilter;

use super::Flags;
use super::channel::ChannelPattern;
use super::document::{Document, Found, Section};
use super::environment::Environment;
use super::errors::Place;
use super::knob::quote;
use super::listen::{Listen, Resolve, repeated};
use super::namespace::channel_pattern;
use super::nearest::nearest;
use super::secret::Secret;

/// The variable that opens channels without a file.
pub(super) const OPEN_CHANNELS: &str = "EARSHOT_OPEN_CHANNELS";

/// The crate whose modules a log filter names.
const OWN_CRATE: &str = "earshot";

/// What the log shows when nobody says otherwise.
const LOG: &str = "info";

/// The listening addresses: of the flags, else of the environment, else of the file.
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
        top.refuse(
            &top.place_of_key("listen"),
            "no address at all; without this key it is \"localhost:8000\"",
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
    let mut found: Vec<Found<'_, Listen>> =
        if others.is_empty() { file.unwrap_or_default() } else { Vec::new() };
    for (text, name) in others {
        let place = if name == "--listen" { Place::Flag(name) } else { Place::Variable(name) };
        match parse(text) {
            Ok(value) => found.push(Found { value, place }),
            Err(what) => document.refuse(&place, what),
        }
    }
    for (found, addr) in repeated(&found) {
        document.refuse(&found.place, format!("{addr} is listened on already"));
    }
    if flags.dev {
        for found in found.iter().filter(|found| !found.value.is_loopback()) {
            let what = "not in development mode (--dev), which is open to everybody who reaches it: listen on \
                        localhost, or leave --dev out";
            document.refuse(&found.place, format!("\"{}\": {what}", found.value.text.escape_debug()));
        }
    }
    let listen: Vec<Listen> = found.into_iter().map(|found| found.value).collect();
    if listen.is_empty() { vec![Listen::default()] } else { listen }
}

/// The filter of the log.
pub(super) fn read_log(document: &Document<'_>, top: &mut Section<'_>, env: &Environment) -> String {
    let file = top.text("log", filter);
    match env.log.as_deref().map(filter) {
        Some(Ok(log)) => log,
        Some(Err(what)) => {
            document.refuse(&Place::Variable("EARSHOT_LOG"), what);
            LOG.into()
        }
        None => file.map_or_else(|| LOG.into(), |found| found.value),
    }
}

/// The origins that browsers may come from, besides the gateway's own: of the environment, else of the file.
pub(super) fn read_origins(document: &Document<'_>, top: &mut Section<'_>, env: &Environment) -> Vec<String> {
    let file = top.texts("allowed_origins", origin);
    let found = match &env.allowed_origins {
        Some(list) => read_list(document, "EARSHOT_ALLOWED_ORIGINS", list, origin),
        None => file.unwrap_or_default(),
    };
    found.into_iter().map(|found| found.value).collect()
}

/// The hosts that requests may name.
pub(super) fn read_allowed_hosts(top: &mut Section<'_>) -> Vec<String> {
    top.texts("allowed_hosts", host).unwrap_or_default().into_iter().map(|found| found.value).collect()
}

/// The channels that are open without a namespace in the file.
pub(super) fn read_open_channels<'d>(
    document: &Document<'d>,
    env: &Environment,
) -> Vec<Found<'d, ChannelPattern>> {
    let list = env.open_channels.as_deref().unwrap_or_default();
    read_list(document, OPEN_CHANNELS, list, channel_pattern)
}

/// The elements of a variable, separated by commas. A wrong one is a problem, and is left out.
fn read_list<'d, T>(
    document: &Document<'d>,
    name: &'static str,
    list: &str,
    parse: impl Fn(&str) -> Result<T, String>,
) -> Vec<Found<'d, T>> {
    let texts = list.split(',').map(str::trim).filter(|text| !text.is_empty());
    let read = |text| match parse(text) {
        Ok(value) => Some(Found { value, place: Place::Variable(name) }),
        Err(what) => {
            document.refuse(&Place::Variable(name), what);
            None
        }
    };
    texts.filter_map(read).collect()
}

/// The key of the HTTP API.
pub(super) fn read_api_key(top: &mut Section<'_>, env: &Environment) -> Option<Secret> {
    let mut api = top.section("api");
    let file = api.text("key", Secret::parse);
    api.finish();
    env.api_key.clone().or(file.map(|found| found.value))
}

fn filter(text: &str) -> Result<String, String> {
    // EnvFilter cuts the text at byte positions and panics on what is not ASCII.
    if !text.is_ascii() {
        return Err("a log filter is made of ASCII characters".into());
    }
    EnvFilter::builder().parse(text).map_err(|error| format!("not a log filter: {error}"))?;
    for word in text.split(',').map(str::trim).filter(|word| !word.is_empty()) {
        check_directive(word)?;
    }
    Ok(text.into())
}

/// To EnvFilter a mistyped level is the name of a module, and so is a mistyped module: the log stays empty, fatal errors
/// included.
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
    if nearest(root, [OWN_CRATE]).is_some() {
        return Err(format!("{shown} names no module of Earshot; did you mean \"{OWN_CRATE}\"?"));
    }
    if !is_alone {
        return Ok(());
    }
    match meant_level(word).or_else(|| nearest(word, LEVELS)) {
        Some(level) => Err(format!("{shown} is no level; did you mean \"{level}\"?")),
        None => Err(format!(
            "{shown} is no level: {}; by module: \"info,{OWN_CRATE}::broker=debug\"",
            LEVELS.join(", ")
        )),
    }
}

/// What other programs call the levels.
fn meant_level(word: &str) -> Option<&'static str> {
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

/// A host as requests name it, without its port.
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

/// An origin as browsers send it.
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
        return Err(format!("an origin ends with its host: write \"{origin}\""));
    }
    let bare = match scheme {
        "https" => host.strip_suffix(":443"),
        "http" => host.strip_suffix(":80"),
        _ => None,
    };
    if let Some(host) = bare {
        return Err(format!(
            "browsers leave the usual port out: write \"{scheme}://{}\"",
            host.escape_debug()
        ));
    }
    if !host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_:[]".contains(&byte)) {
        return Err(format!("\"{shown}\" holds no host name; one host each, and \"*\" alone stands for all"));
    }
    Ok(text.to_ascii_lowercase())
}

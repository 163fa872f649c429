//! Tests of the configuration: valid and invalid files, precedence, and the documentation.

use std::io;
use std::net::SocketAddr;

use super::environment::Environment;
use super::*;

mod access;
mod api_keys;
mod bad_files;
mod bad_logins;
mod documentation;
mod good_files;
mod hooks;
mod logins;
mod namespaces;
mod properties;
mod redis;
mod servers;
mod variables;

/// A namespace on a Redis instance; further keys start on line 7.
const ON_REDIS: &str = r#"[redis.a]
url = "redis://h"
[[namespace]]
name = "a"
channels = ["a", "b*"]
redis = "a"
"#;

/// The environment of a test.
type Variables<'v> = &'v [(&'v str, &'v str)];

/// Loads a text as `earshot.toml`.
fn load(text: &str) -> Result<Config, String> {
    load_with(text, &[], &[])
}

/// The one namespace of a text.
fn only_namespace(text: &str) -> NamespaceConfig {
    load(text).unwrap().namespaces.remove(0)
}

/// Loads a text together with variables and `--listen` flags.
fn load_with(text: &str, variables: Variables<'_>, listen: &[&str]) -> Result<Config, String> {
    load_by(text, variables, &Flags { listen: texts(listen), ..Flags::default() })
}

/// The same in development mode.
fn load_dev(text: &str, variables: Variables<'_>, listen: &[&str]) -> Result<Config, String> {
    load_by(text, variables, &Flags { listen: texts(listen), dev: true, ..Flags::default() })
}

fn texts(texts: &[&str]) -> Vec<String> {
    texts.iter().map(ToString::to_string).collect()
}

fn load_by(text: &str, variables: Variables<'_>, flags: &Flags) -> Result<Config, String> {
    let mut diagnostics = Diagnostics::default();
    let find = |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into());
    let all = variables.iter().map(|(name, value)| (name.into(), value.into()));
    let env = Environment::read(find, &mut diagnostics).with_settings(all, &mut diagnostics);
    let file = (!text.is_empty()).then(|| ConfigFile { path: "earshot.toml".into(), text: text.into() });
    Config::assemble(file.as_ref(), &env, flags, offline, diagnostics).map_err(|errors| errors.to_string())
}

/// A resolver without a network.
fn offline(_: &str, _: u16) -> io::Result<Vec<SocketAddr>> {
    Err(io::Error::other("no such host"))
}

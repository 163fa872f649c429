//! The entry point of a fuzz target.

use std::io;

use super::Config;
use super::Flags;
use super::environment::Environment;
use super::reader::diagnostics::Diagnostics;
use super::reader::file::ConfigFile;

/// Loads a text as `earshot.toml`, and formats the effective configuration or the errors.
pub fn load(text: &str) {
    let file = ConfigFile { path: "earshot.toml".into(), text: text.into() };
    let offline = |_: &str, _: u16| Err(io::Error::other("no such host"));
    let flags = Flags::default();
    let loaded =
        Config::assemble(Some(&file), &Environment::default(), &flags, offline, Diagnostics::default());
    match loaded {
        Ok(config) => drop(config.to_toml()),
        Err(errors) => drop(errors.to_string()),
    }
}

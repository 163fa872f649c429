//! Reads `earshot.toml` into checked values, and writes such values as TOML.
//!
//! Owns syntax, locations and diagnostics. Must never know which settings exist: each section declares its own.
//!
//! - `file`: finds and reads the file
//! - `document`: the parsed file, its sections and its unknown keys
//! - `setting`: numbers with a default and a range; `keyword`: one word of several; `units`: durations and sizes
//! - `diagnostics`: errors with their locations; `suggest`: "did you mean"
//! - `toml_writer`: writes TOML; `variable`: environment variables as keys of the file

pub(super) mod diagnostics;
mod document;
pub(super) mod file;
pub(super) mod keyword;
pub(super) mod setting;
mod suggest;
pub(super) mod toml_writer;
pub(super) mod units;
mod variable;

pub(super) use document::{Document, Located, Section, kind_of, text_of};
pub(super) use suggest::suggest;
pub(super) use variable::SettingVariable;

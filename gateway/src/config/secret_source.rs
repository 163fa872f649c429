//! Secrets of a section, in the configuration or in a file.
//!
//! Owns reading them. Must never show one, and must never keep the content of a file.

use std::fmt;
use std::path::PathBuf;

use earshot_redis_link::files;

use crate::config::reader::Section;
use crate::config::reader::toml_writer::TomlWriter;
use crate::config::secret::{MASK, Secret};

/// Where secrets are.
#[derive(Clone, Debug, Default)]
pub enum SecretSource {
    /// There are no secrets.
    #[default]
    None,
    /// In the configuration, newest first.
    Inline(Vec<Secret>),
    /// In a file, one per line, newest first.
    File(PathBuf),
}

/// The two keys of a source.
#[derive(Clone, Copy, Debug)]
pub(super) struct SecretKeys {
    /// The key of secrets in the configuration.
    pub(super) inline: &'static str,
    /// The key of the path.
    pub(super) file: &'static str,
}

impl SecretKeys {
    /// Whether one of the keys is set.
    pub(super) fn are_set(self, section: &Section<'_>) -> bool {
        section.has(self.inline) || section.has(self.file)
    }

    /// The key that is set, for the location of an error.
    pub(super) fn found(self, section: &Section<'_>) -> &'static str {
        if section.has(self.file) { self.file } else { self.inline }
    }
}

impl SecretSource {
    /// Reads the keys of a source, of which at most one may be set.
    pub(super) fn read(section: &mut Section<'_>, keys: SecretKeys) -> Self {
        let inline = section.texts(keys.inline, Secret::signing);
        let file = section.text(keys.file, |path| match path {
            "" => Err("empty; expected the path of a file".to_owned()),
            path => Ok(PathBuf::from(path)),
        });
        if section.has(keys.inline) && section.has(keys.file) {
            let location = section.location_of_key(keys.inline);
            section.error(&location, format!("conflicts with `{}`: remove one of them", keys.file));
        }
        if section.is_empty_list(keys.inline) {
            section.error(&section.location_of_key(keys.inline), "empty list; expected at least one secret");
        }
        match (inline, file) {
            (_, Some(file)) => Self::File(file.value),
            (Some(secrets), None) if !secrets.is_empty() => {
                Self::Inline(secrets.into_iter().map(|found| found.value).collect())
            }
            _ => Self::None,
        }
    }

    /// The files that [`SecretSource::load`] reads.
    pub fn files(&self) -> Vec<PathBuf> {
        match self {
            Self::None | Self::Inline(_) => Vec::new(),
            Self::File(path) => vec![path.clone()],
        }
    }

    /// The secrets, newest first: those in the configuration, or those that the file contains now.
    ///
    /// # Errors
    /// The file cannot be read, or contains no secret or an invalid one. The message contains no secret.
    pub fn load(&self) -> Result<Vec<Secret>, String> {
        let path = match self {
            Self::None => return Ok(Vec::new()),
            Self::Inline(secrets) => return Ok(secrets.clone()),
            Self::File(path) => path,
        };
        let text = String::from_utf8(files::read(path)?).map_err(|_| self.explain("not UTF-8"))?;
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        let secrets: Vec<Secret> =
            lines.map(Secret::signing).collect::<Result<_, _>>().map_err(|what| self.explain(what))?;
        if secrets.is_empty() {
            return Err(self.explain("empty; expected one secret a line, newest first"));
        }
        Ok(secrets)
    }

    /// An error in the secrets, after the path of their file.
    pub(super) fn explain(&self, what: impl fmt::Display) -> String {
        match self {
            Self::File(path) => format!("{}: {what}", path.display()),
            Self::None | Self::Inline(_) => what.to_string(),
        }
    }

    /// Writes the key that is set, without the secrets.
    pub(super) fn show(&self, keys: SecretKeys, out: &mut TomlWriter) {
        match self {
            Self::None => {}
            Self::Inline(secrets) if secrets.len() == 1 => out.text(keys.inline, MASK),
            Self::Inline(secrets) => out.texts(keys.inline, secrets.iter().map(|_| MASK)),
            Self::File(path) => out.text(keys.file, &path.to_string_lossy()),
        }
    }
}

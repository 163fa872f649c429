//! `[[api_key]]`: keys of the HTTP API with their scopes and namespaces.
//!
//! Owns the keys of these sections. Must never decide what a key permits: [`crate::auth`] does.

use std::collections::BTreeMap;

use super::NamespaceConfig;
use super::reader::Section;
use super::reader::setting::quote;
use super::reader::toml_writer::TomlWriter;
use super::redis::check_name;
use super::secret::Secret;
use super::secret_source::{SecretKeys, SecretSource};
use crate::auth::api_key::{ApiPermissions, ApiSecrets, Scope};

/// The keys of the secrets.
const SECRET_KEYS: SecretKeys = SecretKeys { inline: "secret", file: "secret_file" };

/// Minimum size of a secret.
const SECRET_BYTES_MIN: usize = 16;

/// One `[[api_key]]`.
#[derive(Clone, Debug)]
pub struct ApiKeyConfig {
    /// The name, for logs.
    pub name: String,
    /// Its secrets, all of which are valid.
    pub secrets: SecretSource,
    /// The scopes of the key.
    pub scopes: Vec<Scope>,
    /// Globs over the names of namespaces; `None`: all.
    pub namespaces: Option<Vec<String>>,
}

impl ApiKeyConfig {
    fn read(section: &mut Section<'_>) -> Self {
        let name = section.text("name", |text| check_name(text).map(|()| text.to_owned()));
        let scopes = section.texts("scopes", parse_scope);
        let namespaces = section.texts("namespaces", |text| match text {
            "" => Err("empty; expected the name of a namespace, or a glob such as \"chat*\"".to_owned()),
            text => Ok(text.to_owned()),
        });
        let scopes_missing = "a key without one permits nothing";
        for (key, what) in [("name", "the log names the key by it"), ("scopes", scopes_missing)] {
            if !section.has(key) {
                section.error(&section.location(), format!("missing `{key}`: {what}"));
            }
        }
        for (key, what) in [("scopes", scopes_missing), ("namespaces", "for all namespaces, omit it")] {
            if section.is_empty_list(key) {
                section.error(&section.location_of_key(key), format!("empty list: {what}"));
            }
        }
        let values = |found: Vec<super::reader::Located<'_, String>>| {
            found.into_iter().map(|found| found.value).collect()
        };
        let key = Self {
            name: name.map(|found| found.value).unwrap_or_default(),
            secrets: SecretSource::read(section, SECRET_KEYS),
            scopes: scopes.into_iter().flatten().map(|found| found.value).collect(),
            namespaces: namespaces.map(values),
        };
        if !SECRET_KEYS.are_set(section) {
            section.error(&section.location(), "missing the secret: set `secret_file`");
        } else if let Err(what) = key.load_texts() {
            section.error(&section.location_of_key(SECRET_KEYS.found(section)), what);
        }
        key
    }

    /// The permissions of the key.
    pub fn permissions(&self) -> ApiPermissions {
        ApiPermissions::new(&self.name, &self.scopes, self.namespaces.as_deref())
    }

    /// The secrets: those in the configuration, or those that the file contains now.
    ///
    /// # Errors
    /// See [`SecretSource::load`]; or a secret cannot be sent in a header, or is too short. The message contains no
    /// secret.
    pub fn load_secrets(&self) -> Result<ApiSecrets, String> {
        self.load_texts().map(|secrets| ApiSecrets::new(secrets.iter().map(Secret::expose)))
    }

    fn load_texts(&self) -> Result<Vec<Secret>, String> {
        let secrets = self.secrets.load()?;
        for secret in &secrets {
            Secret::parse(secret.expose()).map_err(|what| self.secrets.explain(what))?;
            if secret.expose().len() < SECRET_BYTES_MIN {
                let what =
                    format!("a secret has fewer than {SECRET_BYTES_MIN} characters (openssl rand -hex 32)");
                return Err(self.secrets.explain(what));
            }
        }
        Ok(secrets)
    }

    pub(super) fn show(&self, out: &mut TomlWriter) {
        out.section("[[api_key]]");
        out.text("name", &self.name);
        self.secrets.show(SECRET_KEYS, out);
        out.texts("scopes", self.scopes.iter().map(|scope| scope.as_str()));
        if let Some(namespaces) = &self.namespaces {
            out.texts("namespaces", namespaces.iter().map(String::as_str));
        }
    }
}

fn parse_scope(text: &str) -> Result<Scope, String> {
    Scope::ALL.into_iter().find(|scope| scope.as_str() == text).ok_or_else(|| {
        let words: Vec<String> = Scope::ALL.iter().map(|scope| format!("\"{}\"", scope.as_str())).collect();
        format!("expected {}, found {}", words.join(" or "), quote(&text.escape_debug().to_string(), "\""))
    })
}

/// Reads all keys. Names and secrets must be different.
pub(super) fn read_all(top: &mut Section<'_>) -> Vec<ApiKeyConfig> {
    let sections = top.list("api_key");
    if top.is_empty_list("api_key") {
        top.error(&top.location_of_key("api_key"), "empty list: remove it, or add an [[api_key]]");
    }
    let mut keys: Vec<ApiKeyConfig> = Vec::new();
    let mut names_by_secret = BTreeMap::new();
    for mut section in sections.into_iter().flatten() {
        let key = ApiKeyConfig::read(&mut section);
        if section.has("name") && keys.iter().any(|other| other.name == key.name) {
            section.error(&section.location_of_key("name"), "another [[api_key]] has the same name");
        }
        for secret in key.load_texts().unwrap_or_default() {
            let other = names_by_secret.insert(secret.expose().to_owned(), key.name.clone());
            if let Some(other) = other {
                let what = format!("a secret occurs twice; the other one is of the key `{other}`");
                section.error(&section.location_of_key(SECRET_KEYS.found(&section)), what);
            }
        }
        section.finish();
        keys.push(key);
    }
    keys
}

/// A warning for each glob that no namespace matches.
pub(super) fn warnings(keys: &[ApiKeyConfig], namespaces: &[NamespaceConfig]) -> Vec<String> {
    let mut warnings = Vec::new();
    for key in keys {
        for glob in key.namespaces.iter().flatten() {
            let pattern = wildmatch::WildMatch::new(glob);
            if !namespaces.iter().any(|namespace| pattern.matches(&namespace.name)) {
                warnings.push(format!("api_key `{}`: no namespace matches \"{glob}\"", key.name));
            }
        }
    }
    warnings
}

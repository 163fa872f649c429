//! Logins by a JSON Web Token.
//!
//! Owns the keys of these logins. Must never verify a token.

use std::path::{Path, PathBuf};
use std::time::Duration;

use earshot_redis_link::files;

use crate::auth::cookie;
use crate::auth::jwks::JwksSettingsError;
use crate::auth::jwt::{DeniedKeyTemplate, JwtRules, JwtVerifier, KeySet};
use crate::config::reader::Section;
use crate::config::reader::setting::{self, DurationKind, SettingKind as _};
use crate::config::reader::toml_writer::TomlWriter;
use crate::config::secret_source::{SecretKeys, SecretSource};
use crate::http_client::HttpUrl;

use super::super::redis::RedisInstance;
use super::fields::{self, Field};
use super::instance;

/// The keys of the HMAC secrets.
const SECRET_KEYS: SecretKeys = SecretKeys { inline: "hmac_secret", file: "hmac_secret_file" };

/// The range of `leeway`.
const LEEWAY_RANGE: (Duration, Duration) = (Duration::ZERO, Duration::from_secs(5 * 60));

/// A login by a token.
#[derive(Clone, Debug)]
pub struct JwtLoginConfig {
    /// The conditions of tokens, and which claims become the identity; valid for [`JwtVerifier::new`].
    pub rules: JwtRules,
    /// The HMAC secrets.
    pub hmac: SecretSource,
    /// Files of public keys.
    pub public_key_files: Vec<PathBuf>,
    /// The URL of a published key set.
    pub jwks_url: Option<HttpUrl>,
    /// The name of a cookie that may contain the token.
    pub cookie: Option<String>,
    /// The list of denied tokens.
    pub denied: Option<DeniedTokensConfig>,
}

/// A list of denied tokens that an application keeps.
#[derive(Clone, Debug)]
pub struct DeniedTokensConfig {
    /// The key of a denied token.
    pub key: DeniedKeyTemplate,
    /// The name of the Redis instance that holds the keys.
    pub redis: String,
}

impl DeniedTokensConfig {
    fn read(section: &mut Section<'_>, instances: &[RedisInstance]) -> Option<Self> {
        let key = section.text("denied_key", DeniedKeyTemplate::parse);
        if !section.has("denied_key") {
            // Marks the key as known.
            if let Some(found) = section.value("redis") {
                section.error(
                    &found.location,
                    "without `denied_key`, tokens are not read from Redis: remove it",
                );
            }
            return None;
        }
        let redis = instance::read(section, instances, "denied tokens")?;
        Some(Self { key: key?.value, redis })
    }
}

impl JwtLoginConfig {
    pub(super) fn read(section: &mut Section<'_>, fields: &[Field<'_>], instances: &[RedisInstance]) -> Self {
        let login = Self {
            rules: read_rules(section, fields),
            hmac: SecretSource::read(section, SECRET_KEYS),
            public_key_files: read_public_key_files(section),
            jwks_url: section
                .text("jwks_url", |text| HttpUrl::parse(text, false).map_err(|error| error.to_string()))
                .map(|found| found.value),
            cookie: section.text("cookie", cookie_name).map(|found| found.value),
            denied: DeniedTokensConfig::read(section, instances),
        };
        let has_key = SECRET_KEYS.are_set(section) || section.has("public_key_file");
        if !has_key && !section.has("jwks_url") {
            let what = "missing the keys that verify tokens: set `hmac_secret_file`, `public_key_file` or `jwks_url`";
            section.error(&section.location(), what);
        }
        if let Err(what) = login.hmac_keys() {
            section.error(&section.location_of_key(SECRET_KEYS.found(section)), what);
        }
        if section.has("jwks_url") && !section.has("issuer") && !section.has("audience") {
            let what = JwksSettingsError::Unbound.to_string();
            section.error(&section.location_of_key("jwks_url"), what);
        }
        login
    }

    /// The files that [`JwtLoginConfig::load_verifier`] reads.
    pub fn files(&self) -> Vec<PathBuf> {
        self.hmac.files().into_iter().chain(self.public_key_files.iter().cloned()).collect()
    }

    /// The keys of the configuration: the HMAC secrets and public keys, read from their files now.
    ///
    /// # Errors
    /// A file cannot be read, or contains an invalid key. The message contains no secret.
    pub fn load_keys(&self) -> Result<KeySet, String> {
        let mut keys = self.hmac_keys()?;
        for path in &self.public_key_files {
            keys.append(public_keys(path)?);
        }
        Ok(keys)
    }

    /// A verifier with the keys of the configuration.
    ///
    /// # Errors
    /// See [`Self::load_keys`].
    pub fn load_verifier(&self) -> Result<JwtVerifier, String> {
        JwtVerifier::new(self.rules.clone(), self.load_keys()?)
    }

    fn hmac_keys(&self) -> Result<KeySet, String> {
        let secrets = self.hmac.load()?;
        let secrets = secrets.iter().map(|secret| secret.expose());
        KeySet::from_secrets(secrets).map_err(|error| self.hmac.explain(error))
    }

    pub(super) fn show(&self, out: &mut TomlWriter) {
        self.hmac.show(SECRET_KEYS, out);
        let paths: Vec<_> = self.public_key_files.iter().map(|path| path.to_string_lossy()).collect();
        show_texts("public_key_file", &paths, out);
        if let Some(url) = &self.jwks_url {
            out.text("jwks_url", &url.to_string());
        }
        if let Some(cookie) = &self.cookie {
            out.text("cookie", cookie);
        }
        if let Some(issuer) = &self.rules.issuer {
            out.text("issuer", issuer);
        }
        show_texts("audience", &self.rules.audiences, out);
        out.text("user_claim", &self.rules.user_claim);
        if let Some(denied) = &self.denied {
            out.text("denied_key", &denied.key.to_string());
            out.text("redis", &denied.redis);
        }
        fields::show(&self.rules.fields, out);
        out.line("leeway", &DurationKind::format(&Duration::from_secs(self.rules.leeway)));
    }
}

fn read_rules(section: &mut Section<'_>, fields: &[Field<'_>]) -> JwtRules {
    let defaults = JwtRules::default();
    let issuer = section.text("issuer", not_empty).map(|found| found.value);
    let audiences = section.texts("audience", not_empty).unwrap_or_default();
    if section.is_empty_list("audience") {
        section.error(&section.location_of_key("audience"), "empty list; to accept any audience, omit it");
    }
    for field in fields {
        let rules = JwtRules { fields: fields::to_map(std::slice::from_ref(field)), ..JwtRules::default() };
        if let Err(what) = JwtVerifier::new(rules, KeySet::default()) {
            section.error(&field.pointer.location, what);
        }
    }
    let user_claim = section.text("user_claim", |text| {
        let rules = JwtRules { user_claim: not_empty(text)?, ..JwtRules::default() };
        JwtVerifier::new(rules, KeySet::default()).map(|verifier| verifier.rules().user_claim.clone())
    });
    JwtRules {
        issuer,
        audiences: audiences.into_iter().map(|found| found.value).collect(),
        user_claim: user_claim.map_or(defaults.user_claim, |found| found.value),
        fields: fields::to_map(fields),
        leeway: read_leeway(section, Duration::from_secs(defaults.leeway)).as_secs(),
    }
}

fn read_leeway(section: &mut Section<'_>, default: Duration) -> Duration {
    let leeway = setting::read::<DurationKind>(section, "leeway", default, LEEWAY_RANGE);
    if leeway.subsec_nanos() != 0 {
        section.error(
            &section.location_of_key("leeway"),
            "the times of tokens are whole seconds: use whole seconds",
        );
    }
    leeway
}

fn read_public_key_files(section: &mut Section<'_>) -> Vec<PathBuf> {
    let files = section.texts("public_key_file", |path| {
        let path = PathBuf::from(not_empty(path)?);
        public_keys(&path).map(|_| path)
    });
    if section.is_empty_list("public_key_file") {
        section.error(&section.location_of_key("public_key_file"), "empty list; expected at least one file");
    }
    files.into_iter().flatten().map(|found| found.value).collect()
}

/// The public keys in a file.
fn public_keys(path: &Path) -> Result<KeySet, String> {
    KeySet::from_pem(&files::read(path)?).map_err(|error| format!("{}: {error}", path.display()))
}

fn cookie_name(text: &str) -> Result<String, String> {
    if cookie::is_name(text) {
        Ok(text.to_owned())
    } else {
        Err("not the name of a cookie: expected letters, digits and the characters !#$%&'*+-.^_`|~"
            .to_owned())
    }
}

fn not_empty(text: &str) -> Result<String, String> {
    if text.is_empty() { Err("empty; omit it, or set a value".to_owned()) } else { Ok(text.to_owned()) }
}

/// Writes a key with one text or several; none if there is none.
fn show_texts(key: &str, texts: &[impl AsRef<str>], out: &mut TomlWriter) {
    match texts {
        [] => {}
        [text] => out.text(key, text.as_ref()),
        _ => out.texts(key, texts.iter().map(AsRef::as_ref)),
    }
}

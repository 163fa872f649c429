//! Logins by the session that an application keeps in Redis.
//!
//! Owns the keys of these logins. Must never read a session.

use super::super::redis::RedisInstance;
use crate::auth::session::{Secrets, SessionFormat, SessionFormatError, SessionKind, SessionSettings};
use crate::config::reader::Section;
use crate::config::reader::toml_writer::TomlWriter;
use crate::config::secret_source::{SecretKeys, SecretSource};

use super::fields::{self, Field};
use super::instance;

/// The keys of the secrets that sign cookies.
const SECRET_KEYS: SecretKeys = SecretKeys { inline: "secret", file: "secret_file" };

/// The values of `touch`.
const TOUCH_NEVER: &str = "never";
const TOUCH_TTL: &str = "ttl";

/// A login by a session.
#[derive(Clone, Debug)]
pub struct SessionLoginConfig {
    /// How sessions are found and read; valid for [`SessionFormat::new`].
    pub settings: SessionSettings,
    /// The secrets that verify or decrypt the cookies.
    pub secrets: SecretSource,
    /// The name of the Redis instance that holds the sessions.
    pub redis: String,
    /// The TTL of a session is extended while its user is connected.
    pub touch: bool,
}

impl SessionLoginConfig {
    pub(super) fn read(
        section: &mut Section<'_>,
        kind: SessionKind,
        fields: &[Field<'_>],
        instances: &[RedisInstance],
    ) -> Self {
        let is_exists = kind == SessionKind::Exists;
        let settings = SessionSettings {
            kind,
            cookie: read_text(section, "cookie"),
            key: read_text(section, "key"),
            // Keys that do not apply are errors already.
            user: if is_exists { None } else { read_text(section, "user") },
            fields: if is_exists { fields::to_map(&[]) } else { fields::to_map(fields) },
            is_hash: kind == SessionKind::Plain && section.flag("hash", false),
            user_key: if is_exists { read_text(section, "user_key") } else { None },
        };
        check_format(section, &settings, fields);
        let login = Self {
            settings,
            secrets: if kind.is_signed() { read_secrets(section, kind) } else { SecretSource::None },
            redis: instance::read(section, instances, "sessions").unwrap_or_default(),
            touch: section.text("touch", touch).is_some_and(|found| found.value),
        };
        if !matches!(login.secrets, SecretSource::None)
            && let Err(what) = login.load_secrets()
        {
            section.error(&section.location_of_key(SECRET_KEYS.found(section)), what);
        }
        login
    }

    /// The format of the sessions.
    ///
    /// # Errors
    /// None for a login of a loaded configuration.
    pub fn format(&self) -> Result<SessionFormat, SessionFormatError> {
        SessionFormat::new(self.settings.clone())
    }

    /// The secrets: those in the configuration, or those that the file contains now. Empty for cookies without a
    /// signature.
    ///
    /// # Errors
    /// See [`SecretSource::load`]; or a secret is not a valid key of the kind. The message contains no secret.
    pub fn load_secrets(&self) -> Result<Secrets, String> {
        let secrets = self.secrets.load()?;
        let lines: Vec<&str> = secrets.iter().map(|secret| secret.expose()).collect();
        Secrets::parse(self.settings.kind, &lines.join("\n")).map_err(|error| self.secrets.explain(error))
    }

    pub(super) fn show(&self, out: &mut TomlWriter) {
        let (settings, defaults) = (&self.settings, self.settings.kind.defaults());
        let only_user = match defaults.user {
            [user] => Some(*user),
            _ => None,
        };
        let mut optional = |key, value: Option<&str>, default: Option<&str>| {
            if let Some(value) = value.or(default) {
                out.text(key, value);
            }
        };
        optional("cookie", settings.cookie.as_deref(), defaults.cookie);
        optional("key", settings.key.as_deref(), defaults.key);
        optional("user", settings.user.as_deref(), only_user);
        optional("user_key", settings.user_key.as_deref(), None);
        fields::show(&settings.fields, out);
        if settings.kind == SessionKind::Plain {
            out.line("hash", &settings.is_hash.to_string());
        }
        self.secrets.show(SECRET_KEYS, out);
        out.text("redis", &self.redis);
        out.text("touch", if self.touch { TOUCH_TTL } else { TOUCH_NEVER });
    }
}

fn touch(text: &str) -> Result<bool, String> {
    match text {
        TOUCH_TTL => Ok(true),
        TOUCH_NEVER => Ok(false),
        _ => Err(format!("expected \"{TOUCH_NEVER}\" or \"{TOUCH_TTL}\"")),
    }
}

fn read_text(section: &mut Section<'_>, key: &'static str) -> Option<String> {
    section.text(key, |text| Ok(text.to_owned())).map(|found| found.value)
}

/// Checks the settings with the constructor of the format, and maps its error to a key.
fn check_format(section: &Section<'_>, settings: &SessionSettings, fields: &[Field<'_>]) {
    let error = match SessionFormat::new(settings.clone()) {
        Ok(format) if format.key_prefix().is_empty() => {
            let what = "starts with the placeholder, so the gateway would watch every key of the server: put a text \
                        before it, such as \"sess:{sid}\"";
            return section.error(&section.location_of_key("key"), what);
        }
        Ok(_) => return,
        Err(error) => error,
    };
    let is = |setting: &Option<String>, text: &String| setting.as_ref() == Some(text);
    let location = match &error {
        // The value has another type, which is an error already.
        SessionFormatError::Missing { setting, .. } if section.has(setting) => return,
        SessionFormatError::Missing { .. } => section.location(),
        SessionFormatError::NotApplicable { setting, .. } => section.location_of_key(setting),
        SessionFormatError::CookieName(_) => section.location_of_key("cookie"),
        SessionFormatError::KeyTemplate(text) | SessionFormatError::KeyPrefix(text) => {
            section.location_of_key(if is(&settings.key, text) { "key" } else { "user_key" })
        }
        SessionFormatError::Pointer(text) if !is(&settings.user, text) => {
            let field = fields.iter().find(|field| field.pointer.value == *text);
            field.map_or_else(|| section.location_of_key("fields"), |field| field.pointer.location.clone())
        }
        SessionFormatError::Pointer(_) => section.location_of_key("user"),
        SessionFormatError::NoSecrets(_) | SessionFormatError::Secret { .. } => {
            section.location_of_key(SECRET_KEYS.found(section))
        }
    };
    section.error(&location, error.to_string());
}

fn read_secrets(section: &mut Section<'_>, kind: SessionKind) -> SecretSource {
    let secrets = SecretSource::read(section, SECRET_KEYS);
    if !SECRET_KEYS.are_set(section) {
        let what = format!("missing `secret_file`: the cookies of kind = \"{kind}\" are signed");
        section.error(&section.location(), what);
    }
    secrets
}

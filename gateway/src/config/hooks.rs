//! `[hooks]`: the backend of the application that decides what clients may do.
//!
//! Owns the names and ranges of its settings, and the checks between them and the namespaces. Must never send a request.

use std::time::Duration;

use axum::http::{HeaderName, header};

use super::reader::setting::settings;
use super::reader::toml_writer::TomlWriter;
use super::reader::{Section, keyword};
use super::secret_source::{SecretKeys, SecretSource};
use super::{LoginMethod, NamespaceConfig};
use crate::auth::access::{Grant, Operation};
use crate::auth::{ForwardedFields, MacKeys, cookie};
use crate::hooks::{HookEvent, HookLimits, HookUrls};
use crate::http_client::{HttpUrl, HttpUrlError};

const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

settings! {
    impl HookLimits {
        timeout: Duration as DurationKind = secs(3), in Duration::from_millis(100), secs(60);
        cache: Duration as DurationKind = secs(5), in Duration::ZERO, secs(60);
        connections: usize as CountKind = 64, in 1, 4096;
        response_bytes: usize as SizeKind = 64 * 1024, in 1024, 16 * 1024 * 1024;
        rpc_inflight: usize as CountKind = 16, in 1, 1024;
        breaker_failures: usize as CountKind = 5, in 1, 1000;
        breaker_pause: Duration as DurationKind = secs(2), in Duration::from_millis(100), secs(300);
    }
}

/// The keys of the secrets that sign requests.
const SECRET_KEYS: SecretKeys = SecretKeys { inline: "secret", file: "secret_file" };

/// The decision of the gateway if a hook gives no valid answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnHookError {
    /// Clients get a temporary error.
    #[default]
    Deny,
    /// Clients may subscribe and publish.
    Allow,
}

impl OnHookError {
    fn as_str(self) -> &'static str {
        match self {
            Self::Deny => "deny",
            Self::Allow => "allow",
        }
    }
}

/// `[hooks]`.
#[derive(Clone, Debug, Default)]
pub struct HooksConfig {
    /// The URL for each event.
    pub urls: HookUrls,
    /// Whether URLs with `http` may name other hosts than this one.
    pub allow_http: bool,
    /// The bounds.
    pub limits: HookLimits,
    /// The decision without a valid answer.
    pub on_error: OnHookError,
    /// The fields of client requests that are forwarded to hooks.
    pub forwarded: ForwardedFields,
    /// The secrets that sign requests.
    pub secrets: SecretSource,
}

impl HooksConfig {
    pub(super) fn read(section: &mut Section<'_>) -> Self {
        let allow_http = section.flag("allow_http", false);
        let mut urls = HookUrls::default();
        for event in HookEvent::ALL {
            if let Some(found) = section.text(event.as_str(), |text| parse_url(text, allow_http)) {
                urls.set(event, found.value);
            }
        }
        let on_error =
            keyword::read(section, "on_error", &[OnHookError::Deny, OnHookError::Allow], OnHookError::as_str);
        let config = Self {
            urls,
            allow_http,
            limits: HookLimits::read_settings(section, HookLimits::default()),
            on_error: on_error.map_or(OnHookError::default(), |found| found.value),
            forwarded: ForwardedFields {
                headers: values(section.texts("headers", header_name)),
                cookies: values(section.texts("cookies", cookie_name)),
            },
            secrets: SecretSource::read(section, SECRET_KEYS),
        };
        if let Err(what) = config.load_keys() {
            section.error(&section.location_of_key(SECRET_KEYS.found(section)), what);
        }
        config
    }

    /// The keys that sign requests; `None` without secrets.
    ///
    /// # Errors
    /// The file cannot be read, or a secret is invalid. The message contains no secret.
    pub fn load_keys(&self) -> Result<Option<MacKeys>, String> {
        let secrets = self.secrets.load()?;
        if secrets.is_empty() {
            return Ok(None);
        }
        let keys = MacKeys::new(secrets.iter().map(|secret| secret.expose().to_owned()));
        keys.map(Some).map_err(|error| error.to_string())
    }

    /// Sets what namespaces decide without an answer, and reports those whose hook has no URL.
    pub(super) fn apply(&self, namespaces: &mut [NamespaceConfig], section: &Section<'_>) {
        let hooks = [(Operation::Subscribe, HookEvent::Subscribe), (Operation::Publish, HookEvent::Publish)];
        for namespace in namespaces {
            namespace.access.permits_without_hook = self.on_error == OnHookError::Allow;
            for (operation, event) in hooks {
                let needs_hook = namespace.access.of(operation).contains(Grant::Hook);
                // An invalid URL is reported already.
                if needs_hook && self.urls.of(event).is_none() && !section.has(event.as_str()) {
                    let (name, key) = (&namespace.name, event.as_str());
                    let what = format!(
                        "missing `{key}`, the URL of the hook: namespace `{name}` has {key} = \"hook\""
                    );
                    section.error(&section.location(), what);
                }
            }
        }
    }

    /// Reports a login by a hook without its URL, and a URL without such a login.
    pub(super) fn check_login(&self, logins: &[LoginMethod], section: &Section<'_>) {
        let (key, url) = (HookEvent::Connect.as_str(), self.urls.of(HookEvent::Connect));
        match (logins.iter().any(|login| matches!(login, LoginMethod::Hook)), url) {
            (true, None) if !section.has(key) => {
                let what = "missing `connect`, the URL of the hook: a [[login]] has kind = \"hook\"";
                section.error(&section.location(), what);
            }
            (false, Some(_)) => {
                let what = "has no effect: no [[login]] has kind = \"hook\"";
                section.error(&section.location_of_key(key), what);
            }
            _ => {}
        }
    }

    pub(super) fn show(&self, out: &mut TomlWriter) {
        if self.urls.is_empty() {
            return;
        }
        out.section("[hooks]");
        for event in HookEvent::ALL {
            if let Some(url) = self.urls.of(event) {
                out.text(event.as_str(), &url.to_string());
            }
        }
        out.line("allow_http", &self.allow_http.to_string());
        out.text("on_error", self.on_error.as_str());
        out.texts("headers", self.forwarded.headers.iter().map(HeaderName::as_str));
        out.texts("cookies", self.forwarded.cookies.iter().map(String::as_str));
        self.secrets.show(SECRET_KEYS, out);
        out.lines(&self.limits.entries());
    }
}

fn values<T>(found: Option<Vec<super::reader::Located<'_, T>>>) -> Vec<T> {
    found.unwrap_or_default().into_iter().map(|found| found.value).collect()
}

fn parse_url(text: &str, allow_http: bool) -> Result<HttpUrl, String> {
    HttpUrl::parse(text, allow_http).map_err(|error| match error {
        HttpUrlError::Insecure(_) => format!("{error}; on a trusted network, set `allow_http = true`"),
        HttpUrlError::Invalid(_) => error.to_string(),
    })
}

/// A header field that may be forwarded. Fields that the gateway sets in the request to the hook may not.
fn header_name(text: &str) -> Result<HeaderName, String> {
    const OWN: [HeaderName; 10] = [
        header::HOST,
        header::CONTENT_LENGTH,
        header::CONTENT_TYPE,
        header::TRANSFER_ENCODING,
        header::CONNECTION,
        header::UPGRADE,
        header::TE,
        header::TRAILER,
        header::EXPECT,
        header::ACCEPT,
    ];
    let name: HeaderName = text.parse().map_err(|_| {
        format!("expected a header field such as \"X-Request-Id\", found \"{}\"", text.escape_debug())
    })?;
    if name == header::COOKIE {
        return Err("cookies are forwarded by name: list them in `cookies`".to_owned());
    }
    if OWN.contains(&name) || name.as_str().starts_with("x-earshot-") {
        return Err(format!("{name} belongs to the request of the gateway and cannot be forwarded"));
    }
    Ok(name)
}

fn cookie_name(text: &str) -> Result<String, String> {
    if cookie::is_name(text) {
        return Ok(text.to_owned());
    }
    Err(format!("expected the name of a cookie such as \"sid\", found \"{}\"", text.escape_debug()))
}

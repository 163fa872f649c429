//! Authentication and TLS of an instance.
//!
//! Owns the conflicts between their keys, and checks the files when the configuration is loaded. Must never keep their
//! content.

use std::path::PathBuf;

use rustls::pki_types::ServerName;

use super::url_sources::UrlSources;
use super::{RedisUrl, SentinelConfig};
use crate::config::environment::Environment;
use crate::config::reader::Section;
use crate::config::reader::diagnostics::Location;
use crate::config::reader::toml_writer::TomlWriter;
use earshot_redis_link::{TlsConfig, address, files};

/// Keys that require TLS.
const TLS_KEYS: [&str; 5] = ["ca_file", "cert_file", "key_file", "server_name", "insecure_skip_verify"];

/// User and password outside the URL.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RedisAuth {
    /// The ACL user.
    pub username: Option<String>,
    /// The file that contains the password.
    pub password_file: Option<PathBuf>,
}

impl RedisAuth {
    pub(super) fn read(section: &mut Section<'_>, urls: &mut UrlSources<'_>) -> Self {
        let auth = read_pair(section, "username", "password_file");
        let in_url = |of: fn(&address::Address) -> bool| urls.addresses().any(of);
        if auth.password_file.is_some() && in_url(|address| address.password.is_some()) {
            let location = section.location_of_key("password_file");
            section
                .error(&location, "conflicts with the password in the URL (or REDIS_PASSWORD): use only one");
        }
        if auth.username.is_some() && in_url(|address| address.username.is_some()) {
            let location = section.location_of_key("username");
            section.error(&location, "conflicts with the user in the URL (or REDIS_USERNAME): use only one");
        }
        let has_password = auth.password_file.is_some() || in_url(|address| address.password.is_some());
        if auth.username.is_some() && !has_password && !section.has("password_file") {
            section.error(&section.location_of_key("username"), "requires a password: set `password_file`");
        }
        let has_user_only =
            |address: &address::Address| address.username.is_some() && address.password.is_none();
        if auth.password_file.is_none() && in_url(has_user_only) && !section.has("password_file") {
            section.error(&Location::Variable("REDIS_USERNAME"), "requires a password: set REDIS_PASSWORD");
        }
        auth
    }

    pub(super) fn show(&self, out: &mut TomlWriter) {
        show_optional(out, "username", self.username.as_deref());
        show_path(out, "password_file", self.password_file.as_ref());
    }
}

/// Reads a user and a password file.
pub(super) fn read_pair(section: &mut Section<'_>, user: &'static str, file: &'static str) -> RedisAuth {
    let username = section.text(user, |text| match text {
        "" => Err("empty; omit it for the default user".to_owned()),
        name if name.contains(char::is_whitespace) => Err("expected a user name without spaces".to_owned()),
        name => Ok(name.to_owned()),
    });
    let password_file = section.text(file, |path| {
        files::read_password(path.as_ref())?;
        Ok(PathBuf::from(path))
    });
    RedisAuth {
        username: username.map(|found| found.value),
        password_file: password_file.map(|found| found.value),
    }
}

/// Reads the TLS settings of an instance, and applies `tls` to its URLs.
pub(super) fn read_tls(
    section: &mut Section<'_>,
    env: Option<&Environment>,
    urls: &mut UrlSources<'_>,
) -> TlsConfig {
    let (requested, location) = read_requested(section, env);
    for url in urls.all() {
        apply(section, url, requested.map(|tls| (tls, &location)));
    }
    let text = |text: &str| Ok(text.to_owned());
    let path =
        |section: &mut Section<'_>, key| section.text(key, text).map(|found| PathBuf::from(found.value));
    let ca_file = path(section, "ca_file");
    let (cert_file, key_file) = (path(section, "cert_file"), path(section, "key_file"));
    let server_name = section.text("server_name", |name| match ServerName::try_from(name) {
        Ok(_) => Ok(name.to_owned()),
        Err(_) => Err("expected a host name or an IP address".to_owned()),
    });
    for (key, other) in [("cert_file", "key_file"), ("key_file", "cert_file")] {
        if section.has(key) && !section.has(other) {
            section.error(&section.location_of_key(key), format!("requires `{other}`, too"));
        }
    }
    let tls = TlsConfig {
        ca_file,
        client_cert_files: cert_file.zip(key_file),
        server_name: server_name.map(|found| found.value),
        insecure_skip_verify: section.flag("insecure_skip_verify", false),
    };
    check_files(section, &tls);
    tls
}

/// The setting `tls`, which may be absent, and its location.
fn read_requested<'d>(section: &mut Section<'d>, env: Option<&Environment>) -> (Option<bool>, Location<'d>) {
    let own = section.read("tls", |value| value.as_bool().ok_or_else(|| "expected true or false".to_owned()));
    match (env.and_then(|env| env.redis_tls), own) {
        (Some((tls, name)), _) => (Some(tls), Location::Variable(name)),
        (None, Some(own)) => (Some(own.value), own.location),
        (None, None) => (None, section.location()),
    }
}

fn apply(
    section: &Section<'_>,
    url: &mut crate::config::reader::Located<'_, RedisUrl>,
    requested: Option<(bool, &Location<'_>)>,
) {
    let mut address = url.value.address().clone();
    let is_socket = matches!(address.endpoint, address::ServerEndpoint::Unix(_));
    match requested {
        Some((true, location)) if is_socket => section.error(location, "a Unix socket cannot use TLS"),
        Some((true, _)) if !address.tls => {
            address.tls = true;
            url.value = RedisUrl::of(address);
        }
        Some((false, location)) if address.tls => {
            section.error(location, format!("conflicts with rediss:// in {}", url.location));
        }
        _ => {}
    }
    let address = url.value.address();
    if address.verify && !address.tls {
        section.error(&url.location, "`ssl_cert_reqs` requires TLS: use rediss:// instead of redis://");
    }
}

/// Checks the files when the configuration is loaded, not at the first connection attempt.
fn check_files(section: &Section<'_>, tls: &TlsConfig) {
    if tls.insecure_skip_verify && (tls.ca_file.is_some() || tls.server_name.is_some()) {
        let what = "conflicts with `ca_file` and `server_name`, which have no effect without verification: remove this key";
        section.error(&section.location_of_key("insecure_skip_verify"), what);
        return;
    }
    let ca = TlsConfig { ca_file: tls.ca_file.clone(), ..TlsConfig::default() };
    if tls.ca_file.is_some()
        && let Err(what) = ca.load()
    {
        section.error(&section.location_of_key("ca_file"), what);
    }
    let client = TlsConfig {
        client_cert_files: tls.client_cert_files.clone(),
        insecure_skip_verify: true,
        ..TlsConfig::default()
    };
    if tls.client_cert_files.is_some()
        && let Err(what) = client.load()
    {
        section.error(&section.location_of_key("cert_file"), what);
    }
}

/// Rejects keys that require TLS if TLS is not used.
pub(super) fn reject_unused(
    section: &Section<'_>,
    urls: &mut UrlSources<'_>,
    sentinel: Option<&SentinelConfig>,
) {
    let uses_tls =
        urls.all().any(|url| url.value.address().tls) || sentinel.is_some_and(|sentinel| sentinel.tls);
    let unused = TLS_KEYS.into_iter().filter(|key| section.has(key) && !section.is_false(key));
    for key in unused.filter(|_| !uses_tls) {
        section
            .error(&section.location_of_key(key), "requires TLS: use rediss:// in the `url`, or tls = true");
    }
}

pub(super) fn show_tls(tls: &TlsConfig, url: &RedisUrl, out: &mut TomlWriter) {
    out.line("tls", &url.address().tls.to_string());
    show_path(out, "ca_file", tls.ca_file.as_ref());
    if let Some((cert_file, key_file)) = &tls.client_cert_files {
        show_path(out, "cert_file", Some(cert_file));
        show_path(out, "key_file", Some(key_file));
    }
    show_optional(out, "server_name", tls.server_name.as_deref());
    out.line("insecure_skip_verify", &tls.insecure_skip_verify.to_string());
}

pub(super) fn show_optional(out: &mut TomlWriter, key: &str, text: Option<&str>) {
    if let Some(text) = text {
        out.text(key, text);
    }
}

pub(super) fn show_path(out: &mut TomlWriter, key: &str, path: Option<&PathBuf>) {
    show_optional(out, key, path.map(|path| path.to_string_lossy()).as_deref());
}

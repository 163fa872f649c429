//! How one signs in to an instance, and what its TLS is like.
//!
//! Owns what goes together and what does not, and looks into the files once, at load. Must never keep what is in them.

use std::path::PathBuf;

use rustls::pki_types::ServerName;

use super::place::Urls;
use super::{RedisUrl, SentinelConfig};
use crate::config::document::Section;
use crate::config::environment::Environment;
use crate::config::errors::Place;
use crate::config::show::Shown;
use earshot_redis_link::{TlsConfig, address, files};

/// What only TLS has a use for.
const TLS_KEYS: [&str; 5] = ["ca_file", "cert_file", "key_file", "server_name", "insecure_skip_verify"];

/// User and password, where they are not in the URL.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RedisSignIn {
    /// The ACL user.
    pub username: Option<String>,
    /// The file that holds the password.
    pub password_file: Option<PathBuf>,
}

impl RedisSignIn {
    pub(super) fn read(section: &mut Section<'_>, urls: &mut Urls<'_>) -> Self {
        let sign_in = read_pair(section, "username", "password_file");
        let in_url = |of: fn(&address::Address) -> bool| urls.addresses().any(of);
        if sign_in.password_file.is_some() && in_url(|address| address.password.is_some()) {
            let place = section.place_of_key("password_file");
            section
                .refuse(&place, "the URL has a password of its own (or REDIS_PASSWORD is set): one of them");
        }
        if sign_in.username.is_some() && in_url(|address| address.username.is_some()) {
            let place = section.place_of_key("username");
            section.refuse(&place, "the URL has a user of its own (or REDIS_USERNAME is set): one of them");
        }
        let has_password = sign_in.password_file.is_some() || in_url(|address| address.password.is_some());
        if sign_in.username.is_some() && !has_password && !section.has("password_file") {
            section.refuse(&section.place_of_key("username"), "needs a password: `password_file`");
        }
        let lonely = |address: &address::Address| address.username.is_some() && address.password.is_none();
        if sign_in.password_file.is_none() && in_url(lonely) && !section.has("password_file") {
            section.refuse(&Place::Variable("REDIS_USERNAME"), "needs a password: REDIS_PASSWORD");
        }
        sign_in
    }

    pub(super) fn show(&self, out: &mut Shown) {
        show_optional(out, "username", self.username.as_deref());
        show_path(out, "password_file", self.password_file.as_ref());
    }
}

/// A user and the file of the password.
pub(super) fn read_pair(section: &mut Section<'_>, user: &'static str, file: &'static str) -> RedisSignIn {
    let username = section.text(user, |text| match text {
        "" => Err("is empty; the default user needs no word about it".to_owned()),
        name if name.contains(char::is_whitespace) => Err("a user has no spaces in its name".to_owned()),
        name => Ok(name.to_owned()),
    });
    let password_file = section.text(file, |path| {
        files::read_password(path.as_ref())?;
        Ok(PathBuf::from(path))
    });
    RedisSignIn {
        username: username.map(|found| found.value),
        password_file: password_file.map(|found| found.value),
    }
}

/// Reads the TLS of an instance, and makes its URLs say whether they speak it.
pub(super) fn read_tls(
    section: &mut Section<'_>,
    env: Option<&Environment>,
    urls: &mut Urls<'_>,
) -> TlsConfig {
    let (wanted, place) = read_wish(section, env);
    for url in urls.all() {
        apply(section, url, wanted.map(|wanted| (wanted, &place)));
    }
    let text = |text: &str| Ok(text.to_owned());
    let path =
        |section: &mut Section<'_>, key| section.text(key, text).map(|found| PathBuf::from(found.value));
    let ca_file = path(section, "ca_file");
    let (cert_file, key_file) = (path(section, "cert_file"), path(section, "key_file"));
    let server_name = section.text("server_name", |name| match ServerName::try_from(name) {
        Ok(_) => Ok(name.to_owned()),
        Err(_) => Err("is no name that a certificate could be for".to_owned()),
    });
    for (key, other) in [("cert_file", "key_file"), ("key_file", "cert_file")] {
        if section.has(key) && !section.has(other) {
            section.refuse(
                &section.place_of_key(key),
                format!("a client certificate needs both: `{other}`, too"),
            );
        }
    }
    let tls = TlsConfig {
        ca_file,
        client_cert_files: cert_file.zip(key_file),
        server_name: server_name.map(|found| found.value),
        insecure_skip_verify: section.flag("insecure_skip_verify", false),
    };
    look_into(section, &tls);
    tls
}

/// Whether TLS was asked for, or asked not to be there, apart from the URL.
fn read_wish<'d>(section: &mut Section<'d>, env: Option<&Environment>) -> (Option<bool>, Place<'d>) {
    let own = section.read("tls", |value| value.as_bool().ok_or_else(|| "expected true or false".to_owned()));
    match (env.and_then(|env| env.redis_tls), own) {
        (Some((wanted, name)), _) => (Some(wanted), Place::Variable(name)),
        (None, Some(own)) => (Some(own.value), own.place),
        (None, None) => (None, section.place()),
    }
}

fn apply(
    section: &Section<'_>,
    url: &mut crate::config::document::Found<'_, RedisUrl>,
    wanted: Option<(bool, &Place<'_>)>,
) {
    let mut address = url.value.address().clone();
    let is_socket = matches!(address.endpoint, address::Endpoint::Unix(_));
    match wanted {
        Some((true, place)) if is_socket => section.refuse(place, "a socket of this machine speaks no TLS"),
        Some((true, _)) if !address.tls => {
            address.tls = true;
            url.value = RedisUrl::of(address);
        }
        Some((false, place)) if address.tls => {
            section.refuse(place, format!("{} begins with rediss://, which is TLS: one of them", url.place));
        }
        _ => {}
    }
    let address = url.value.address();
    if address.verify && !address.tls {
        section.refuse(&url.place, "`ssl_cert_reqs` needs TLS: rediss:// in the place of redis://");
    }
}

/// Says what is wrong with the files now, rather than at the first attempt to connect.
fn look_into(section: &Section<'_>, tls: &TlsConfig) {
    if tls.insecure_skip_verify && (tls.ca_file.is_some() || tls.server_name.is_some()) {
        let what = "nothing is verified then: leave `ca_file` and `server_name` out, or better this";
        section.refuse(&section.place_of_key("insecure_skip_verify"), what);
        return;
    }
    let authorities = TlsConfig { ca_file: tls.ca_file.clone(), ..TlsConfig::default() };
    if tls.ca_file.is_some()
        && let Err(what) = authorities.load()
    {
        section.refuse(&section.place_of_key("ca_file"), what);
    }
    let ours = TlsConfig {
        client_cert_files: tls.client_cert_files.clone(),
        insecure_skip_verify: true,
        ..TlsConfig::default()
    };
    if tls.client_cert_files.is_some()
        && let Err(what) = ours.load()
    {
        section.refuse(&section.place_of_key("cert_file"), what);
    }
}

/// Refuses what has no use without TLS.
pub(super) fn refuse_unused(section: &Section<'_>, urls: &mut Urls<'_>, sentinel: Option<&SentinelConfig>) {
    let speaks =
        urls.all().any(|url| url.value.address().tls) || sentinel.is_some_and(|sentinel| sentinel.tls);
    let unused = TLS_KEYS.into_iter().filter(|key| section.has(key) && !section.is_false(key));
    for key in unused.filter(|_| !speaks) {
        section.refuse(&section.place_of_key(key), "needs TLS: rediss:// in the `url`, or `tls = true`");
    }
}

pub(super) fn show_tls(tls: &TlsConfig, url: &RedisUrl, out: &mut Shown) {
    out.line("tls", &url.address().tls.to_string());
    show_path(out, "ca_file", tls.ca_file.as_ref());
    if let Some((cert_file, key_file)) = &tls.client_cert_files {
        show_path(out, "cert_file", Some(cert_file));
        show_path(out, "key_file", Some(key_file));
    }
    show_optional(out, "server_name", tls.server_name.as_deref());
    out.line("insecure_skip_verify", &tls.insecure_skip_verify.to_string());
}

pub(super) fn show_optional(out: &mut Shown, key: &str, text: Option<&str>) {
    if let Some(text) = text {
        out.text(key, text);
    }
}

pub(super) fn show_path(out: &mut Shown, key: &str, path: Option<&PathBuf>) {
    show_optional(out, key, path.map(|path| path.to_string_lossy()).as_deref());
}

//! `[[login]]`: the methods by which clients log in.
//!
//! Owns the keys of each kind, and checks them with the constructors of [`crate::auth`]. Must never verify a login.
//!
//! - `kind`: the kinds and their keys
//! - `session`: logins by a session in Redis; `jwt`: logins by a token; `ticket`: logins by a ticket
//! - `instance`: the Redis instance that a login reads
//! - `fields`: the fields of an identity

use std::collections::BTreeSet;

use super::reader::Section;
use super::reader::toml_writer::TomlWriter;
use super::redis::RedisInstance;
use crate::auth::identity::USER;
use fields::Field;
use kind::LoginKind;

mod fields;
mod instance;
mod jwt;
mod kind;
mod session;
mod ticket;

pub use jwt::{DeniedTokensConfig, JwtLoginConfig};
pub use session::SessionLoginConfig;
pub use ticket::TicketLoginConfig;

#[cfg(test)]
pub(super) use kind::KEYS;

/// One `[[login]]`.
#[derive(Clone, Debug)]
pub enum LoginMethod {
    /// By the session of an application.
    Session(SessionLoginConfig),
    /// By a JSON Web Token.
    Jwt(JwtLoginConfig),
    /// By a ticket.
    Ticket(TicketLoginConfig),
    /// By a hook of the application.
    Hook,
    /// Clients without a login are admitted.
    Anonymous,
}

/// The logins of a file.
#[derive(Debug)]
pub(super) struct Logins {
    /// In the order of the file.
    pub(super) methods: Vec<LoginMethod>,
    /// The names of the placeholders in channel patterns: the user, and the fields of all logins.
    pub(super) placeholders: BTreeSet<String>,
}

impl Logins {
    /// Whether a client can log in.
    pub(super) fn identify_clients(&self) -> bool {
        self.methods.iter().any(|login| !matches!(login, LoginMethod::Anonymous))
    }

    /// Whether a login uses a Redis instance.
    pub(super) fn uses(&self, instance: &RedisInstance) -> bool {
        self.methods.iter().any(|login| login.redis() == Some(&instance.name))
    }
}

impl LoginMethod {
    /// The value of `kind` in the file.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Session(login) => LoginKind::Session(login.settings.kind),
            Self::Jwt(_) => LoginKind::Jwt,
            Self::Ticket(_) => LoginKind::Ticket,
            Self::Hook => LoginKind::Hook,
            Self::Anonymous => LoginKind::Anonymous,
        }
        .as_str()
    }

    /// The name of the Redis instance of its sessions, tickets or denied tokens.
    pub fn redis(&self) -> Option<&str> {
        match self {
            Self::Session(login) => Some(&login.redis),
            Self::Jwt(login) => login.denied.as_ref().map(|denied| denied.redis.as_str()),
            Self::Ticket(login) => login.redis.as_deref(),
            Self::Hook | Self::Anonymous => None,
        }
    }

    pub(super) fn show(&self, out: &mut TomlWriter) {
        out.section("[[login]]");
        out.text("kind", self.kind());
        match self {
            Self::Session(login) => login.show(out),
            Self::Jwt(login) => login.show(out),
            Self::Ticket(login) => login.show(out),
            Self::Hook | Self::Anonymous => {}
        }
    }
}

/// Reads all logins. `instances` are the configured Redis instances.
pub(super) fn read_all(top: &mut Section<'_>, instances: &[RedisInstance]) -> Logins {
    let sections = top.list("login");
    if top.is_empty_list("login") {
        top.error(&top.location_of_key("login"), "empty list: remove it, or add a [[login]]");
    }
    let mut logins = Logins { methods: Vec::new(), placeholders: BTreeSet::from([USER.to_owned()]) };
    for section in sections.into_iter().flatten() {
        let location = section.location_of_key("kind");
        let (method, fields) = read(section, instances);
        logins.placeholders.extend(fields.into_iter().map(|field| field.name));
        if let Some(method @ (LoginMethod::Anonymous | LoginMethod::Hook | LoginMethod::Ticket(_))) = &method
            && logins.methods.iter().any(|other| other.kind() == method.kind())
        {
            top.error(&location, format!("duplicate \"{}\": remove one of them", method.kind()));
        }
        logins.methods.extend(method);
    }
    logins
}

/// Reads one login. `None` if its kind is invalid; the fields are known nevertheless.
fn read<'d>(mut section: Section<'d>, instances: &[RedisInstance]) -> (Option<LoginMethod>, Vec<Field<'d>>) {
    let kind = section.text("kind", LoginKind::parse).map(|found| found.value);
    if !section.has("kind") {
        section.error(&section.location(), format!("missing `kind`; use one of {}", LoginKind::names()));
    }
    kind::reject_inapplicable(&mut section, kind);
    let fields = fields::read(&mut section);
    let method = kind.map(|kind| match kind {
        LoginKind::Session(kind) => {
            LoginMethod::Session(SessionLoginConfig::read(&mut section, kind, &fields, instances))
        }
        LoginKind::Jwt => LoginMethod::Jwt(JwtLoginConfig::read(&mut section, &fields, instances)),
        LoginKind::Ticket => LoginMethod::Ticket(TicketLoginConfig::read(&mut section, instances)),
        LoginKind::Hook => LoginMethod::Hook,
        LoginKind::Anonymous => LoginMethod::Anonymous,
    });
    section.finish();
    (method, fields)
}

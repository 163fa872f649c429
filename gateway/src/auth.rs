//! Authorization: which clients may connect, and what they may do with a channel.
//!
//! All decisions are pure: facts and rules in, a result with its reason out. Other modules do not compare a client with
//! a rule.
//!
//! - [`Authorizer`]: the decisions; [`Denial`]: the reasons; [`log_denial`]: logs them; [`Explanation`]: explains one.
//! - [`access`]: the permissions of a namespace; [`ChannelTemplate`]: channel patterns that name a client.
//! - [`Identity`]: who a client is.
//! - [`ClientMeta`]: the part of a client's request that authentication needs; [`ForwardedFields`]: the part that is
//!   forwarded to hooks.
//! - [`TrustedProxies`]: the address of a client behind proxies; [`ClientNetwork`]: the unit of limits per address.
//! - [`api_key`]: authentication of API requests, and what each key permits.
//! - [`cookie`]: finds cookies in a request.
//! - [`jwt`]: verification of JSON Web Tokens; [`jwks`]: keys that an identity provider publishes.
//! - [`origin`]: allowed origins and hosts.
//! - [`revocation`]: logins that no longer count, and commands to connected clients.
//! - [`session`]: formats of sessions that applications keep in Redis.
//! - [`signed_name`], [`ticket`]: channels and logins that a backend signs or requests for its pages.
//! - [`token`]: detects tokens, which are rejected while no authentication is configured.

pub mod access;
pub mod api_key;
mod authorizer;
mod client_meta;
mod client_network;
pub mod cookie;
mod denial;
mod denial_log;
mod explanation;
pub mod identity;
pub mod jwks;
pub mod jwt;
mod last_event_id;
mod mac_keys;
pub mod origin;
mod pointer;
pub mod revocation;
pub mod session;
pub mod signed_name;
mod template;
pub mod ticket;
pub mod token;
mod trusted_proxies;
mod unix_time;

pub use authorizer::{Authorizer, ChannelRequest, HookAnswer};
pub use client_meta::{ClientMeta, ForwardedFields};
pub use client_network::ClientNetwork;
pub use denial::Denial;
pub use denial_log::{LogRateLimit, log_api_denial, log_command_denial, log_denial};
pub use explanation::{Explanation, RuleOutcome};
pub use identity::Identity;
pub use last_event_id::{LAST_EVENT_ID, LAST_EVENT_ID_PARAMETERS, last_event_id};
pub use mac_keys::{MAC_SECRET_BYTES_MIN, MacKeys, MacKeysError};
pub use template::ChannelTemplate;
pub use trusted_proxies::TrustedProxies;
pub use unix_time::{UnixSeconds, unix_milliseconds, unix_now};

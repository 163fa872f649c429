//! Logins: determines the identity of a client, and when its login ends.
//!
//! The formats of sessions and tokens are in [`crate::auth`]; this module reads sessions from the store, keeps the
//! identities of connected clients, and is notified by the store when a session ends. Must never decide a permission.
//!
//! - [`Authenticator`]: determines an identity from a client's credentials.
//! - [`ClientLimits`]: limits for each user and address.
//! - [`Credentials`], [`LoginOutcome`]: credentials that a connected client sends, and the result.
//! - [`Identities`]: the identities of connected clients, shared by the connections of one session.
//! - [`SessionLogin`], [`TokenLogin`], [`TicketLogin`]: the methods; [`AuthMethod`]: one of them; [`TokenMethod`]: tokens and their list of denied ones.
//! - `hook_login`: login by a hook of the application.
//! - [`SessionTouch`]: keeps sessions alive while their users are connected.
//! - [`Revocations`]: logins that are no longer valid, on all nodes.
//! - [`DeniedTokens`]: tokens that an application denies by keys in a store.
//! - [`FileBacked`]: a value from files with secrets or keys, reloaded when one of them changes.

mod authenticator;
mod client_limits;
mod denied_tokens;
mod file_backed;
mod hook_login;
mod identities;
mod request;
mod revocations;
mod sessions;
mod tickets;
mod tokens;
mod touch;

pub use authenticator::{AuthMethod, Authenticator};
pub use client_limits::{ClientLimitSettings, ClientLimits};
pub use denied_tokens::{DeniedKeys, DeniedTokens};
pub use file_backed::FileBacked;
pub use identities::{Identities, SessionEvents};
pub use request::{Credentials, LoginOutcome};
pub use revocations::{RevocationError, RevocationSettings, Revocations};
pub use sessions::SessionLogin;
pub use tickets::{TICKET_BYTES_MAX, TicketIssueError, TicketLogin, TicketStorage};
pub use tokens::{TokenLogin, TokenMethod};
pub use touch::SessionTouch;

//! Logins: determines who a client is, and when a login ends.
//!
//! The formats of sessions and tokens are in [`crate::auth`]; this module reads sessions from the store, keeps the
//! identities of connected clients, and learns from the store when a session ends. Must never decide a permission.
//!
//! - [`Authenticator`]: from what a client presents to its identity.
//! - [`ClientLimits`]: limits for each user and address.
//! - [`Credentials`], [`LoginOutcome`]: what a client presents later, and the result.
//! - [`Identities`]: the identities of connected clients, shared by the connections of one session.
//! - [`SessionLogin`], [`TokenLogin`]: the methods; [`AuthMethod`]: one of them; [`TokenMethod`]: tokens and their list of denied ones.
//! - [`Revocations`]: logins that no longer count, over all nodes.
//! - [`DeniedTokens`]: tokens that an application denies by keys in a store.
//! - [`FileBacked`]: a value from files with secrets or keys, loaded again when one of them changes.

mod authenticator;
mod client_limits;
mod denied_tokens;
mod file_backed;
mod identities;
mod request;
mod revocations;
mod sessions;
mod tokens;

pub use authenticator::{AuthMethod, Authenticator, TokenMethod};
pub use client_limits::{ClientLimitSettings, ClientLimits};
pub use denied_tokens::{DeniedKeys, DeniedTokens};
pub use file_backed::FileBacked;
pub use identities::{Identities, SessionEvents};
pub use request::{Credentials, LoginOutcome};
pub use revocations::{RevocationError, RevocationSettings, Revocations};
pub use sessions::SessionLogin;
pub use tokens::TokenLogin;

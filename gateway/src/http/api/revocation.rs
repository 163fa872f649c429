//! Methods that end logins, connections and subscriptions: `disconnect`, `unsubscribe`, `refresh` (as Centrifugo), and
//! `revoke`.
//!
//! Owns the mapping from JSON. A request succeeds only after it is stored for all nodes.

use std::time::Duration;

use earshot_protocol::{Disconnect, ErrorCode};
use serde::Deserialize;
use serde_json::json;

use super::params::{parse_body, parse_channel};
use super::response::{ApiError, ApiResult, to_result};
use crate::auth::revocation::{ClientAction, ClientCommand, ClientSelector, RevokedLogin};
use crate::auth::unix_now;
use crate::http::AppState;
use crate::login::{RevocationError, Revocations};
use crate::store::StoreError;

/// Maximum size of a user, a token id or a session id.
const TEXT_BYTES_MAX: usize = 512;

/// Maximum size of a close reason, as limited by a close frame.
const REASON_BYTES_MAX: usize = 123;

/// Maximum number of clients in a whitelist.
const WHITELIST_MAX: usize = 64;

/// The close codes that a request may choose.
const CLOSE_CODES: std::ops::RangeInclusive<u16> = 3000..=4999;

/// The longest time that a revocation may be in effect.
const TTL_MAX: u64 = 366 * 24 * 60 * 60;

/// The clients of a request.
#[derive(Debug, Default, Deserialize)]
pub(super) struct ClientParams {
    #[serde(default)]
    user: String,
    #[serde(default)]
    client: String,
    #[serde(default)]
    session: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct DisconnectParams {
    #[serde(flatten)]
    clients: ClientParams,
    disconnect: Option<DisconnectParam>,
    #[serde(default)]
    whitelist: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct DisconnectParam {
    #[serde(default)]
    code: u32,
    #[serde(default)]
    reason: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct UnsubscribeParams {
    #[serde(flatten)]
    clients: ClientParams,
    #[serde(default)]
    channel: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct RefreshParams {
    #[serde(flatten)]
    clients: ClientParams,
    #[serde(default)]
    expired: bool,
    #[serde(default)]
    expire_at: i64,
}

#[derive(Debug, Deserialize)]
pub(super) struct RevokeParams {
    #[serde(default)]
    user: String,
    #[serde(default)]
    token_id: String,
    #[serde(default)]
    session: String,
    expire_at: Option<i64>,
    ttl: Option<u64>,
}

pub(super) async fn disconnect(state: &AppState, body: &[u8]) -> ApiResult {
    command(state, parse_body::<DisconnectParams>(body)?.command()?).await
}

pub(super) async fn unsubscribe(state: &AppState, body: &[u8]) -> ApiResult {
    command(state, parse_body::<UnsubscribeParams>(body)?.command()?).await
}

pub(super) async fn refresh(state: &AppState, body: &[u8]) -> ApiResult {
    command(state, parse_body::<RefreshParams>(body)?.command()?).await
}

pub(super) async fn revoke(state: &AppState, body: &[u8]) -> ApiResult {
    let request: RevokeParams = parse_body(body)?;
    let authenticator = state.node.authenticator();
    let logins = match request.target()? {
        RevokeTarget::Login(login) => vec![login],
        RevokeTarget::Session(id) => authenticator.sessions_of(id),
    };
    if logins.is_empty() {
        return Err(invalid("`session`: no [[login]] reads sessions"));
    }
    let revocations: &Revocations = authenticator.revocations();
    revocations.revoke(&logins, request.ttl(revocations.default_ttl())?).await?;
    to_result(&json!({}))
}

async fn command(state: &AppState, command: ClientCommand) -> ApiResult {
    state.node.authenticator().revocations().command(command).await?;
    to_result(&json!({}))
}

impl ClientParams {
    fn selector(self) -> Result<ClientSelector, ApiError> {
        let Self { user, client, session } = self;
        if !session.is_empty() {
            let what =
                "session is not supported, because connections have no session id: use client, or revoke";
            return Err(ApiError::new(ErrorCode::NotAvailable, what));
        }
        check_length("user", &user)?;
        check_length("client", &client)?;
        let given = |text: String| Some(text).filter(|text| !text.is_empty());
        match (given(user), given(client)) {
            (None, None) => Err(ApiError::missing("user")),
            (user, client) => Ok(ClientSelector { user, client }),
        }
    }
}

impl DisconnectParams {
    pub(super) fn command(self) -> Result<ClientCommand, ApiError> {
        let default = Disconnect::ForceDisconnect;
        let (code, reason) = match self.disconnect {
            None => (default.code(), default.reason().to_owned()),
            Some(given) => {
                let code = u16::try_from(given.code).ok().filter(|code| CLOSE_CODES.contains(code));
                let code = code.ok_or_else(|| invalid("disconnect.code: not within 3000 to 4999"))?;
                let known = Disconnect::ALL.iter().find(|known| known.code() == code);
                let reason = if given.reason.is_empty() {
                    // SDKs reconnect after an empty reason.
                    known.map_or(default.reason(), |known| known.reason()).to_owned()
                } else {
                    given.reason
                };
                (code, reason)
            }
        };
        if reason.len() > REASON_BYTES_MAX {
            return Err(invalid(format!("disconnect.reason: longer than {REASON_BYTES_MAX} bytes")));
        }
        if self.whitelist.len() > WHITELIST_MAX {
            return Err(invalid(format!("whitelist: more than {WHITELIST_MAX} clients")));
        }
        for client in &self.whitelist {
            check_length("whitelist", client)?;
        }
        let action = ClientAction::Disconnect { code, reason, whitelist: self.whitelist };
        Ok(ClientCommand { selector: self.clients.selector()?, action })
    }
}

impl UnsubscribeParams {
    pub(super) fn command(self) -> Result<ClientCommand, ApiError> {
        if self.channel.is_empty() {
            return Err(ApiError::missing("channel"));
        }
        let channel = parse_channel(&self.channel)?.to_string();
        let action = ClientAction::Unsubscribe { channel };
        Ok(ClientCommand { selector: self.clients.selector()?, action })
    }
}

impl RefreshParams {
    pub(super) fn command(self) -> Result<ClientCommand, ApiError> {
        let expire_at = match (self.expired, u64::try_from(self.expire_at)) {
            (true, _) => 0,
            (false, Ok(at)) if at > 0 => at,
            _ => return Err(invalid("either expired or expire_at is required")),
        };
        let action = ClientAction::Refresh { expire_at };
        Ok(ClientCommand { selector: self.clients.selector()?, action })
    }
}

/// The logins that a revocation names.
enum RevokeTarget<'a> {
    Login(RevokedLogin),
    /// The session with this id, or with this key.
    Session(&'a str),
}

impl RevokeParams {
    fn target(&self) -> Result<RevokeTarget<'_>, ApiError> {
        for (name, text) in [("user", &self.user), ("token_id", &self.token_id), ("session", &self.session)] {
            check_length(name, text)?;
        }
        match (&*self.user, &*self.token_id, &*self.session) {
            (user, "", "") if !user.is_empty() => Ok(RevokeTarget::Login(RevokedLogin::User(user.into()))),
            ("", id, "") if !id.is_empty() => Ok(RevokeTarget::Login(RevokedLogin::Token(id.into()))),
            ("", "", session) if !session.is_empty() => Ok(RevokeTarget::Session(session)),
            _ => Err(invalid("exactly one of user, token_id and session is required")),
        }
    }

    /// How long the revocation is in effect.
    fn ttl(&self, default: Duration) -> Result<Duration, ApiError> {
        let seconds = match (self.expire_at, self.ttl) {
            (None, None) => return Ok(default),
            (Some(_), Some(_)) => return Err(invalid("either expire_at or ttl, not both")),
            (None, Some(ttl)) => ttl,
            (Some(at), None) => u64::try_from(at).unwrap_or(0).saturating_sub(unix_now()),
        };
        if !(1..=TTL_MAX).contains(&seconds) {
            return Err(invalid(format!("the revocation must be in effect for 1 to {TTL_MAX} seconds")));
        }
        Ok(Duration::from_secs(seconds))
    }
}

impl From<RevocationError> for ApiError {
    fn from(error: RevocationError) -> Self {
        let code = match &error {
            RevocationError::NotAvailable(_) => ErrorCode::NotAvailable,
            RevocationError::Full(_) => ErrorCode::LimitExceeded,
            RevocationError::Store(StoreError::Busy) => ErrorCode::TooManyRequests,
            RevocationError::Store(_) => ErrorCode::Internal,
        };
        Self::new(code, error.to_string())
    }
}

fn check_length(name: &str, text: &str) -> Result<(), ApiError> {
    if text.len() > TEXT_BYTES_MAX {
        return Err(invalid(format!("{name}: longer than {TEXT_BYTES_MAX} bytes")));
    }
    Ok(())
}

fn invalid(detail: impl Into<String>) -> ApiError {
    ApiError::new(ErrorCode::BadRequest, detail)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn disconnect(body: &str) -> Result<ClientCommand, ErrorCode> {
        let params: DisconnectParams = parse_body(body.as_bytes()).map_err(|error| error.code)?;
        params.command().map_err(|error| error.code)
    }

    #[test]
    fn a_disconnect_has_the_defaults_of_centrifugo() {
        let command = disconnect(r#"{"user":"42"}"#).unwrap();
        let (code, reason) = (3503, "force disconnect".to_owned());
        assert_eq!(command.action, ClientAction::Disconnect { code, reason, whitelist: Vec::new() });
        assert_eq!(command.selector.user.as_deref(), Some("42"));
        let body = r#"{"client":"c","disconnect":{"code":4001,"reason":"bye"},"whitelist":["d"]}"#;
        let (code, reason) = (4001, "bye".to_owned());
        let action = ClientAction::Disconnect { code, reason, whitelist: vec!["d".to_owned()] };
        assert_eq!(disconnect(body).unwrap().action, action);
    }

    #[test]
    fn rejects_what_does_not_work() {
        for (body, code) in [
            (r#"{}"#, ErrorCode::BadRequest),
            (r#"{"user":""}"#, ErrorCode::BadRequest),
            (r#"{"user":42}"#, ErrorCode::BadRequest),
            (r#"{"user":"42","session":"s"}"#, ErrorCode::NotAvailable),
            (r#"{"user":"42","disconnect":{"code":1000}}"#, ErrorCode::BadRequest),
            (r#"{"user":"42","disconnect":{"code":70000}}"#, ErrorCode::BadRequest),
        ] {
            assert_eq!(disconnect(body).unwrap_err(), code, "{body}");
        }
        let long = "x".repeat(REASON_BYTES_MAX + 1);
        let body = format!(r#"{{"user":"42","disconnect":{{"code":4000,"reason":"{long}"}}}}"#);
        assert_eq!(disconnect(&body).unwrap_err(), ErrorCode::BadRequest);
    }

    #[test]
    fn a_revocation_names_one_login_and_one_time() {
        let revoke = |body: &str| {
            let params: RevokeParams = parse_body(body.as_bytes()).unwrap();
            let is_valid = params.target().is_ok();
            params.ttl(Duration::from_secs(7)).ok().filter(|_| is_valid).map(|ttl| ttl.as_secs())
        };
        assert_eq!(revoke(r#"{"user":"42"}"#), Some(7));
        assert_eq!(revoke(r#"{"token_id":"t","ttl":60}"#), Some(60));
        let at = unix_now() + 100;
        assert!(revoke(&format!(r#"{{"session":"s","expire_at":{at}}}"#)).is_some_and(|ttl| ttl <= 100));
        for body in [
            r#"{}"#,
            r#"{"user":"42","token_id":"t"}"#,
            r#"{"user":"42","ttl":0}"#,
            r#"{"user":"42","ttl":31622401}"#,
            r#"{"user":"42","expire_at":1}"#,
            r#"{"user":"42","expire_at":-1}"#,
            r#"{"user":"42","expire_at":9999999999,"ttl":1}"#,
        ] {
            assert_eq!(revoke(body), None, "{body}");
        }
    }

    proptest! {
        #[test]
        fn any_body_is_parsed_or_rejected(body in "\\PC{0,60}") {
            for body in [body.clone(), format!("{{\"user\":\"42\",{body}}}")] {
                let _ = disconnect(&body);
                let _ = parse_body::<UnsubscribeParams>(body.as_bytes()).map(UnsubscribeParams::command);
                let _ = parse_body::<RefreshParams>(body.as_bytes()).map(RefreshParams::command);
                let _ = parse_body::<RevokeParams>(body.as_bytes()).map(|params| params.ttl(Duration::ZERO));
            }
        }
    }
}

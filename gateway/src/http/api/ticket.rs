//! `ticket`: makes a single-use ticket for a client.

use std::collections::BTreeMap;

use earshot_protocol::ErrorCode;
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;

use super::params::{FieldValues, parse_body};
use super::response::{ApiError, ApiResult, to_result};
use crate::auth::ticket::{TICKET_TTL_MAX, TicketGrant};
use crate::auth::unix_now;
use crate::http::AppState;
use crate::login::TicketIssueError;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct TicketParams<'a> {
    user: Option<String>,
    #[serde(default)]
    fields: BTreeMap<String, FieldValues>,
    #[serde(default)]
    channels: Vec<String>,
    ttl: Option<u64>,
    #[serde(default)]
    expire_at: u64,
    #[serde(borrow)]
    info: Option<&'a RawValue>,
}

pub(super) async fn ticket(state: &AppState, body: &[u8]) -> ApiResult {
    let tickets = state.streams.authenticator.tickets().ok_or_else(|| {
        ApiError::new(ErrorCode::NotAvailable, "no [[login]] has kind = \"ticket\": add one")
    })?;
    let params: TicketParams<'_> = parse_body(body)?;
    let ttl = params.ttl.unwrap_or(TICKET_TTL_MAX);
    let grant = grant(params)?;
    let ticket = tickets.issue(&grant, ttl).await.map_err(|error| {
        let code = match &error {
            TicketIssueError::TooLarge(_) => ErrorCode::LimitExceeded,
            TicketIssueError::Full => ErrorCode::TooManyRequests,
            TicketIssueError::Encoding | TicketIssueError::Store(_) => ErrorCode::Internal,
        };
        ApiError::new(code, error.to_string())
    })?;
    to_result(&json!({ "ticket": ticket.expose() }))
}

fn grant(params: TicketParams<'_>) -> Result<TicketGrant, ApiError> {
    let invalid = |detail: String| Err(ApiError::new(ErrorCode::BadRequest, detail));
    let issued_at = unix_now();
    if let Some(ttl) = params.ttl.filter(|ttl| !(1..=TICKET_TTL_MAX).contains(ttl)) {
        return invalid(format!("ttl is {ttl}; expected 1 to {TICKET_TTL_MAX} seconds"));
    }
    let expires_at = Some(params.expire_at).filter(|at| *at != 0);
    if let Some(at) = expires_at.filter(|at| *at <= issued_at) {
        return invalid(format!("expire_at is {at} (Unix time), which is in the past"));
    }
    Ok(TicketGrant {
        user: params.user.ok_or_else(|| ApiError::missing("user"))?,
        fields: params.fields.into_iter().map(|(name, values)| (name, values.into())).collect(),
        channels: params.channels,
        info: params.info.map(|info| info.get().to_owned()),
        expires_at,
        issued_at,
    })
}

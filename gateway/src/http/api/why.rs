//! `why`: which permission a client has on a channel, and why.

use std::collections::BTreeMap;

use earshot_protocol::ErrorCode;
use serde::Deserialize;

use super::params::{FieldValues, parse_body, parse_channel};
use super::response::{ApiError, ApiResult, to_result};
use crate::auth::access::Operation;
use crate::auth::identity::Fields;
use crate::http::AppState;
use crate::node::permission_report::{PermissionQuery, QueriedClient};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WhyParams {
    channel: String,
    operation: Option<String>,
    user: Option<String>,
    #[serde(default)]
    fields: BTreeMap<String, FieldValues>,
    token: Option<String>,
    cookie: Option<String>,
    #[serde(default)]
    subscribed: bool,
}

pub(super) async fn why(state: &AppState, body: &[u8]) -> ApiResult {
    let query = query(parse_body(body)?)?;
    to_result(&state.node.explain(&query).await)
}

fn query(params: WhyParams) -> Result<PermissionQuery, ApiError> {
    let invalid = |detail: String| ApiError::new(ErrorCode::BadRequest, detail);
    let operation = match params.operation.as_deref() {
        None => Operation::Subscribe,
        Some(name) => Operation::parse(name).ok_or_else(|| {
            invalid(format!("operation {name:?} is unknown: use subscribe, publish or read_history"))
        })?,
    };
    if params.user.is_none() && !params.fields.is_empty() {
        return Err(invalid("`fields` requires `user`".to_owned()));
    }
    let fields = params.fields.into_iter().map(|(name, values)| (name, Vec::from(values)));
    let client = match (params.user, params.token, params.cookie) {
        (None, None, None) => QueriedClient::Guest,
        (Some(user), None, None) => QueriedClient::User(user, fields.collect::<Fields>()),
        (None, Some(token), None) => QueriedClient::Token(token),
        (None, None, Some(cookie)) => QueriedClient::Cookie(cookie),
        _ => return Err(invalid("send only one of `user`, `token` and `cookie`".to_owned())),
    };
    let (channel, is_subscribed) = (parse_channel(&params.channel)?, params.subscribed);
    Ok(PermissionQuery { client, operation, channel, is_subscribed })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parsed(body: &str) -> Result<PermissionQuery, ApiError> {
        query(parse_body(body.as_bytes())?)
    }

    #[test]
    fn accepts_one_client() {
        for (body, expected) in [
            (r#"{"channel":"a"}"#, "Guest"),
            (r#"{"channel":"a","user":"42","fields":{"roles":["a"],"tenant":"b"}}"#, "User"),
            (r#"{"channel":"a","token":"t","operation":"publish"}"#, "Token(***)"),
            (r#"{"channel":"a","cookie":"sid=1","subscribed":true}"#, "Cookie(***)"),
        ] {
            assert_eq!(format!("{:?}", parsed(body).unwrap().client), expected, "{body}");
        }
        for body in [
            r#"{}"#,
            r#"{"channel":""}"#,
            r#"{"channel":"a","operation":"read"}"#,
            r#"{"channel":"a","user":"42","token":"t"}"#,
            r#"{"channel":"a","fields":{"roles":"a"}}"#,
            r#"{"channel":"a","users":"42"}"#,
        ] {
            assert!(parsed(body).is_err(), "{body}");
        }
    }

    proptest! {
        #[test]
        fn any_body_is_parsed_or_rejected(body in "\\PC{0,60}", key in "[a-z]{1,9}", value in "\\PC{0,20}") {
            for body in [body, format!("{{\"channel\":\"a\",\"{key}\":{value}}}")] {
                let _ = parsed(&body);
            }
        }
    }
}

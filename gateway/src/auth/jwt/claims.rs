//! The claims of connection tokens and subscription tokens, as Centrifugo defines them.
//!
//! JSON values are kept as slices of the token; they are never parsed and serialized again.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::super::UnixSeconds;
use super::error::TokenError;
use super::members::Members;
use super::rules::JwtRules;

/// A connection token whose signature, times, issuer and audience are valid.
#[derive(Clone, Debug)]
pub struct ConnectionClaims {
    /// The user; empty if the token is for a client without a login.
    pub user: String,
    /// When the login ends, if it does.
    pub expires_at: Option<UnixSeconds>,
    /// When the token was issued.
    pub issued_at: Option<UnixSeconds>,
    /// The id of the token (`jti`).
    pub token_id: Option<String>,
    /// Information about the user for other clients: JSON.
    pub info: Option<Box<RawValue>>,
    /// Channels that the server subscribes the client to, without options.
    pub channels: Vec<String>,
    /// Channels that the server subscribes the client to, with options.
    pub subs: BTreeMap<String, SubscriptionOptions>,
    /// Data about the connection that is not sent to any client: JSON.
    pub meta: Option<Box<RawValue>>,
    /// The configured fields that the token has, each with one value or several.
    pub fields: BTreeMap<String, Vec<String>>,
}

/// A subscription token whose signature, times, issuer and audience are valid. [`SubscriptionClaims::check`] compares
/// it with the subscription.
#[derive(Clone, Debug)]
pub struct SubscriptionClaims {
    /// The user; empty if the token is for a client without a login.
    pub user: String,
    /// The channel.
    pub channel: String,
    /// The id of the only connection that may use the token.
    pub client: Option<String>,
    /// When the subscription ends, if it does.
    pub expires_at: Option<UnixSeconds>,
    /// When the token was issued.
    pub issued_at: Option<UnixSeconds>,
    /// The id of the token (`jti`).
    pub token_id: Option<String>,
    /// Options of the subscription.
    pub options: SubscriptionOptions,
}

/// The options of a subscription in a token.
///
/// Of Centrifugo's `override`, only `presence` and `join_leave` are read, because a token that hides its client must
/// hide it. The other overrides are ignored: the rules of the namespace decide.
#[derive(Clone, Debug, Default)]
pub struct SubscriptionOptions {
    /// Information about the user for other subscribers of the channel: JSON.
    pub info: Option<Box<RawValue>>,
    /// Data for the client in the reply: JSON.
    pub data: Option<Box<RawValue>>,
    /// Whether the client takes part in presence; `None`: the namespace decides.
    pub presence: Option<bool>,
    /// Whether the client causes join and leave messages; `None`: the namespace decides.
    pub join_leave: Option<bool>,
}

impl ConnectionClaims {
    pub(super) fn read(claims: &Members<'_>, rules: &JwtRules, now: UnixSeconds) -> Result<Self, TokenError> {
        let registered = rules.check_registered(claims, now)?;
        // A subscription token grants one channel; it must not grant a connection.
        if claims.get("channel").is_some_and(|channel| channel.get() != "\"\"") {
            return Err(TokenError::Claim("channel"));
        }
        let channels: Option<Vec<String>> = optional(claims, "channels")?;
        let subs = match claims.get_non_null("subs") {
            Some(subs) => read_subs(subs)?,
            None => BTreeMap::new(),
        };
        Ok(Self {
            user: rules.user(claims)?,
            expires_at: registered.expires_at,
            issued_at: registered.issued_at,
            token_id: registered.token_id,
            info: json_or_base64(claims, "info", "b64info")?,
            channels: channels.unwrap_or_default(),
            subs,
            meta: claims.get_non_null("meta").map(ToOwned::to_owned),
            fields: rules.fields(claims),
        })
    }
}

impl SubscriptionClaims {
    pub(super) fn read(claims: &Members<'_>, rules: &JwtRules, now: UnixSeconds) -> Result<Self, TokenError> {
        let registered = rules.check_registered(claims, now)?;
        let text = |name| claims.text(name).map_err(|_| TokenError::Claim(name));
        Ok(Self {
            user: rules.user(claims)?,
            channel: text("channel")?.filter(|name| !name.is_empty()).ok_or(TokenError::Claim("channel"))?,
            client: text("client")?.filter(|id| !id.is_empty()),
            expires_at: registered.expires_at,
            issued_at: registered.issued_at,
            token_id: registered.token_id,
            options: SubscriptionOptions::read(claims)?,
        })
    }

    /// Checks that the token is for this subscription. `user` is empty for a client without a login.
    ///
    /// # Errors
    /// [`TokenError::Mismatch`].
    pub fn check(&self, channel: &str, user: &str, client: &str) -> Result<(), TokenError> {
        let mismatch = if self.channel != channel {
            "channel"
        } else if self.user != user {
            "user"
        } else if self.client.as_deref().is_some_and(|own| own != client) {
            "client"
        } else {
            return Ok(());
        };
        Err(TokenError::Mismatch(mismatch))
    }
}

#[derive(Deserialize)]
struct OverrideOption {
    #[serde(default)]
    value: bool,
}

#[derive(Default, Deserialize)]
struct Override {
    presence: Option<OverrideOption>,
    join_leave: Option<OverrideOption>,
}

impl SubscriptionOptions {
    fn read(members: &Members<'_>) -> Result<Self, TokenError> {
        let overrides: Override = optional(members, "override")?.unwrap_or_default();
        Ok(Self {
            info: json_or_base64(members, "info", "b64info")?,
            data: json_or_base64(members, "data", "b64data")?,
            presence: overrides.presence.map(|option| option.value),
            join_leave: overrides.join_leave.map(|option| option.value),
        })
    }
}

fn read_subs(subs: &RawValue) -> Result<BTreeMap<String, SubscriptionOptions>, TokenError> {
    const INVALID: TokenError = TokenError::Claim("subs");
    let channels = Members::parse(subs.get()).ok_or(INVALID)?.into_iter();
    let options = channels.map(|(channel, options)| {
        if options.get() == "null" {
            return Ok((channel, SubscriptionOptions::default()));
        }
        let options = Members::parse(options.get()).ok_or(INVALID)?;
        Ok((channel, SubscriptionOptions::read(&options)?))
    });
    options.collect()
}

/// Parses a claim; `None` if it is absent or `null`.
fn optional<T: for<'de> Deserialize<'de>>(
    claims: &Members<'_>,
    name: &'static str,
) -> Result<Option<T>, TokenError> {
    let value = claims.get_non_null(name).map(|value| serde_json::from_str(value.get()));
    value.transpose().map_err(|_| TokenError::Claim(name))
}

/// JSON in a claim, or base64 in another claim, which takes precedence as in Centrifugo.
fn json_or_base64(
    claims: &Members<'_>,
    name: &str,
    encoded: &'static str,
) -> Result<Option<Box<RawValue>>, TokenError> {
    let text = claims.text(encoded).map_err(|_| TokenError::Claim(encoded))?;
    let Some(text) = text.filter(|text| !text.is_empty()) else {
        return Ok(claims.get_non_null(name).map(ToOwned::to_owned));
    };
    let json = STANDARD.decode(text).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    json.and_then(|json| RawValue::from_string(json).ok()).ok_or(TokenError::Claim(encoded)).map(Some)
}

//! The requirements for a token, in addition to a valid signature.

use std::collections::BTreeMap;

use serde_json::value::RawValue;

use super::super::UnixSeconds;
use super::error::TokenError;
use super::fields;
use super::members::Members;

/// The claim that contains the user, unless another one is configured.
pub const USER_CLAIM: &str = "sub";
/// Maximum size of a user id.
pub const USER_BYTES_MAX: usize = 256;

/// The requirements for tokens, and the claims that form the identity.
#[derive(Clone, Debug)]
pub struct JwtRules {
    /// The required value of `iss`.
    pub issuer: Option<String>,
    /// `aud` must contain one of these. Empty: `aud` is not checked.
    pub audiences: Vec<String>,
    /// The claim of the user: a name, or a JSON pointer (it starts with `/`).
    ///
    /// With the default, `sub`, a token without a user is one for a client without a login, as in Centrifugo. A token
    /// without any other configured claim is rejected.
    pub user_claim: String,
    /// Fields of the identity, as JSON pointers.
    pub fields: BTreeMap<String, String>,
    /// Tolerated difference of clocks, in seconds: for `exp`, `nbf` and `iat`.
    pub leeway: u64,
}

impl Default for JwtRules {
    fn default() -> Self {
        Self {
            issuer: None,
            audiences: Vec::new(),
            user_claim: USER_CLAIM.to_owned(),
            fields: BTreeMap::new(),
            leeway: 10,
        }
    }
}

/// The registered claims that are used after the checks.
#[derive(Debug)]
pub(super) struct Registered {
    /// When the login of the token ends. `expire_at` takes precedence over `exp`; an `expire_at` of 0 means never.
    pub(super) expires_at: Option<UnixSeconds>,
    pub(super) issued_at: Option<UnixSeconds>,
    pub(super) token_id: Option<String>,
}

impl JwtRules {
    /// The first pointer that is invalid.
    pub(super) fn invalid_pointer(&self) -> Option<&str> {
        let user = Some(&self.user_claim).filter(|claim| claim.starts_with('/'));
        self.fields.values().chain(user).find(|pointer| !fields::is_pointer(pointer)).map(String::as_str)
    }

    /// Checks the issuer.
    pub(super) fn check_issuer(&self, claims: &Members<'_>) -> Result<(), TokenError> {
        let Some(issuer) = &self.issuer else { return Ok(()) };
        match claims.text("iss") {
            Ok(Some(found)) if found == *issuer => Ok(()),
            _ => Err(TokenError::Issuer),
        }
    }

    /// Checks audience and times.
    pub(super) fn check_registered(
        &self,
        claims: &Members<'_>,
        now: UnixSeconds,
    ) -> Result<Registered, TokenError> {
        if !self.audiences.is_empty() && !self.is_for_audience(claims) {
            return Err(TokenError::Audience);
        }
        let (earliest, latest) = (now.saturating_sub(self.leeway), now.saturating_add(self.leeway));
        let issued_at = time(claims, "iat", f64::ceil)?;
        for (name, from) in [("nbf", time(claims, "nbf", f64::ceil)?), ("iat", issued_at)] {
            if from.is_some_and(|from| from > latest) {
                return Err(TokenError::NotYetValid(name));
            }
        }
        let expiry = time(claims, "exp", f64::floor)?;
        let login_expiry = match time(claims, "expire_at", f64::floor)? {
            Some(0) => None,
            Some(at) => Some(at),
            None => expiry,
        };
        if let Some(at) = [expiry, login_expiry].into_iter().flatten().find(|at| *at <= earliest) {
            return Err(TokenError::Expired(at));
        }
        let token_id = claims.text("jti").map_err(|_| TokenError::Claim("jti"))?;
        Ok(Registered { expires_at: login_expiry, issued_at, token_id })
    }

    fn is_for_audience(&self, claims: &Members<'_>) -> bool {
        let Some(found) = claims.get("aud").map(RawValue::get) else { return false };
        let found: Vec<String> = if found.starts_with('[') {
            serde_json::from_str(found).unwrap_or_default()
        } else {
            serde_json::from_str(found).into_iter().collect()
        };
        self.audiences.iter().any(|audience| found.contains(audience))
    }

    /// The user; empty if the token is for a client without a login.
    pub(super) fn user(&self, claims: &Members<'_>) -> Result<String, TokenError> {
        let is_default = self.user_claim == USER_CLAIM;
        let invalid = TokenError::Claim(if is_default { USER_CLAIM } else { "user_claim" });
        let found = match self.user_claim.starts_with('/') {
            true => fields::resolve(claims, &self.user_claim),
            false => claims.get(&self.user_claim),
        };
        let text = match found.map(RawValue::get) {
            None | Some("null" | "\"\"") if is_default => return Ok(String::new()),
            None => return Err(invalid),
            Some(text) => text,
        };
        let is_integer = text.strip_prefix('-').unwrap_or(text).bytes().all(|byte| byte.is_ascii_digit());
        let user = match text.as_bytes().first() {
            Some(b'"') => serde_json::from_str(text).map_err(|_| invalid.clone())?,
            _ if is_integer => text.to_owned(),
            _ => return Err(invalid),
        };
        if user.is_empty() || user.len() > USER_BYTES_MAX {
            return Err(invalid);
        }
        Ok(user)
    }

    /// The configured fields that the claims have.
    pub(super) fn fields(&self, claims: &Members<'_>) -> BTreeMap<String, Vec<String>> {
        let found = |(name, pointer): (&String, &String)| (name.clone(), fields::values(claims, pointer));
        self.fields.iter().map(found).filter(|(_, values)| !values.is_empty()).collect()
    }
}

/// A time (RFC 7519, NumericDate): seconds, possibly with a fraction, which `round` removes. `null` is an error: a
/// backend that sends it for an expiry has no expiry by mistake.
fn time(
    claims: &Members<'_>,
    name: &'static str,
    round: fn(f64) -> f64,
) -> Result<Option<UnixSeconds>, TokenError> {
    let Some(value) = claims.get(name) else { return Ok(None) };
    if let Ok(seconds) = serde_json::from_str(value.get()) {
        return Ok(Some(seconds));
    }
    let seconds: f64 = serde_json::from_str(value.get()).map_err(|_| TokenError::Claim(name))?;
    if seconds < 0.0 {
        return Err(TokenError::Claim(name));
    }
    // Conversion saturates: a later time than u64 holds is as good as its maximum.
    Ok(Some(round(seconds) as UnixSeconds))
}

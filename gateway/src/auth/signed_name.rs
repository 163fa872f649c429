//! Signed channel names: a server-rendered page names a channel that its reader may subscribe to, and the gateway needs
//! no lookup.
//!
//! A signed name is `name~expiry~mac`:
//! - `name`: the channel, which may contain `~`,
//! - `expiry`: Unix seconds in decimal, without leading zeros; the name is valid before this time,
//! - `mac`: HMAC-SHA256 in base64url without padding (43 characters).
//!
//! The signed text has these lines, joined by a line feed, in UTF-8, without one at the end:
//!
//! ```text
//! earshot-name-v1
//! namespace
//! name
//! expiry
//! user          (only if the name is for one user)
//! ```
//!
//! A namespace and a channel name contain no control characters, and the user is the last line, so two different names
//! always have different texts. A name that was signed for a user does not verify for another; one without a user
//! verifies for every client.
//!
//! In Node.js:
//!
//! ```js
//! const { createHmac } = require("node:crypto");
//! function signName(secret, namespace, name, expiry, user) {
//!   const lines = ["earshot-name-v1", namespace, name, expiry, ...(user === undefined ? [] : [user])];
//!   const mac = createHmac("sha256", secret).update(lines.join("\n")).digest("base64url");
//!   return `${name}~${expiry}~${mac}`;
//! }
//! ```
//!
//! In Python:
//!
//! ```py
//! import base64, hmac
//! def sign_name(secret: bytes, namespace, name, expiry: int, user=None):
//!     lines = ["earshot-name-v1", namespace, name, str(expiry)] + ([] if user is None else [user])
//!     mac = hmac.new(secret, "\n".join(lines).encode(), "sha256").digest()
//!     return f"{name}~{expiry}~{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}"
//! ```
//!
//! Where a client has a field for a token (WebSocket), it subscribes to the plain name, and the token is `expiry~mac`.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::UnixSeconds;
use super::mac_keys::MacKeys;

/// The first line of a signed text. No other use of the same secret signs a text that begins with it.
const PURPOSE: &str = "earshot-name-v1";
const SEPARATOR: char = '~';
const MAC_BYTES: usize = 32;

/// A channel name with a signature that is not verified yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SignedName<'a> {
    name: &'a str,
    expires_at: UnixSeconds,
    mac: [u8; MAC_BYTES],
}

/// Why a signed name is rejected. The text is for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignedNameError {
    /// The code does not match this name, namespace, expiry and user.
    #[error("the signature of the channel name is wrong: it is for another name, namespace, expiry or user")]
    Signature,
    /// The name has expired.
    #[error("the signed channel name has expired at {0} (Unix time)")]
    Expired(UnixSeconds),
}

impl<'a> SignedName<'a> {
    /// Parses `name~expiry~mac`. `None` if the text is not a signed name: it may be a plain one.
    pub fn parse(text: &'a str) -> Option<Self> {
        let (rest, mac) = text.rsplit_once(SEPARATOR)?;
        let (name, expiry) = rest.rsplit_once(SEPARATOR)?;
        Self::from_parts(name, expiry, mac)
    }

    /// A plain name with the token `expiry~mac`. `None` if the token has another form.
    pub fn with_token(name: &'a str, token: &str) -> Option<Self> {
        let (expiry, mac) = token.split_once(SEPARATOR)?;
        Self::from_parts(name, expiry, mac)
    }

    fn from_parts(name: &'a str, expiry: &str, mac: &str) -> Option<Self> {
        let expires_at: UnixSeconds = expiry.parse().ok()?;
        // One spelling for each name: no sign, no leading zeros; the decoder accepts no unused bits and no padding.
        let mac = URL_SAFE_NO_PAD.decode(mac).ok()?.try_into().ok()?;
        (!name.is_empty() && expires_at.to_string() == expiry).then_some(Self { name, expires_at, mac })
    }

    /// The channel.
    pub fn name(&self) -> &'a str {
        self.name
    }

    /// When the name expires.
    pub fn expires_at(&self) -> UnixSeconds {
        self.expires_at
    }

    /// Verifies the name for a client. `user` is `None` or empty for a client without a login.
    ///
    /// # Errors
    /// See [`SignedNameError`].
    pub fn verify(
        &self,
        keys: &MacKeys,
        namespace: &str,
        user: Option<&str>,
        now: UnixSeconds,
    ) -> Result<(), SignedNameError> {
        let is_signed = |user| {
            signed_text(namespace, self.name, self.expires_at, user)
                .is_some_and(|text| keys.verify(&text, &self.mac))
        };
        let user = user.filter(|user| !user.is_empty());
        if !is_signed(None) && !user.is_some_and(|user| is_signed(Some(user))) {
            return Err(SignedNameError::Signature);
        }
        if now >= self.expires_at {
            return Err(SignedNameError::Expired(self.expires_at));
        }
        Ok(())
    }
}

/// Signs a name for a user, or, with `None`, for every client. `None` if namespace or name contain a control character
/// or are empty, or the user is empty.
pub fn sign_name(
    keys: &MacKeys,
    namespace: &str,
    name: &str,
    expires_at: UnixSeconds,
    user: Option<&str>,
) -> Option<String> {
    let text = signed_text(namespace, name, expires_at, user)?;
    let mac = URL_SAFE_NO_PAD.encode(keys.sign(&text));
    Some(format!("{name}{SEPARATOR}{expires_at}{SEPARATOR}{mac}"))
}

fn signed_text(namespace: &str, name: &str, expires_at: UnixSeconds, user: Option<&str>) -> Option<String> {
    let is_line = |text: &str| !text.is_empty() && !text.contains(char::is_control);
    if !is_line(namespace) || !is_line(name) || user.is_some_and(str::is_empty) {
        return None;
    }
    let text = format!("{PURPOSE}\n{namespace}\n{name}\n{expires_at}");
    Some(match user {
        Some(user) => format!("{text}\n{user}"),
        None => text,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: UnixSeconds = 1_800_000_000;
    const LATER: UnixSeconds = NOW + 60;

    fn keys() -> MacKeys {
        MacKeys::new(["a secret of the tests, 32 bytes+"]).unwrap()
    }

    fn verify(
        text: &str,
        namespace: &str,
        user: Option<&str>,
        now: UnixSeconds,
    ) -> Result<(), SignedNameError> {
        SignedName::parse(text).unwrap().verify(&keys(), namespace, user, now)
    }

    #[test]
    fn matches_the_snippets_of_the_documentation() {
        // Made by the two snippets above, run by Node.js and Python.
        let secret = keys();
        let for_all = sign_name(&secret, "room", "room:ü~1", LATER, None).unwrap();
        assert_eq!(for_all, "room:ü~1~1800000060~B2cybv0spWRimLzqSFnn8TwTBC47GoPDjaxl3JyA3-A");
        let for_one = sign_name(&secret, "room", "room:ü~1", LATER, Some("42")).unwrap();
        assert_eq!(for_one, "room:ü~1~1800000060~N5UPM2mXrUn8GzETpq9MVVMyx41nsF-4Hn-_ucBaFV0");
    }

    #[test]
    fn verifies_for_its_user_only() {
        let own = sign_name(&keys(), "room", "room:1", LATER, Some("42")).unwrap();
        assert_eq!(verify(&own, "room", Some("42"), NOW), Ok(()));
        for user in [Some("43"), Some("4"), Some("42\n"), Some(""), None] {
            assert_eq!(verify(&own, "room", user, NOW), Err(SignedNameError::Signature), "{user:?}");
        }
        let all = sign_name(&keys(), "room", "room:1", LATER, None).unwrap();
        for user in [Some("42"), Some("43"), Some(""), None] {
            assert_eq!(verify(&all, "room", user, NOW), Ok(()), "{user:?}");
        }
    }

    #[test]
    fn is_bound_to_namespace_name_and_expiry() {
        let text = sign_name(&keys(), "room", "room:1", LATER, None).unwrap();
        assert_eq!(verify(&text, "room", None, LATER - 1), Ok(()));
        assert_eq!(verify(&text, "room", None, LATER), Err(SignedNameError::Expired(LATER)));
        assert_eq!(verify(&text, "rooms", None, NOW), Err(SignedNameError::Signature));
        for other in [
            text.replace("room:1", "room:2"),
            text.replace("060~", "061~"),
            text.replace("room:1", "room:1~1"),
        ] {
            assert_eq!(verify(&other, "room", None, NOW), Err(SignedNameError::Signature), "{other}");
        }
        let other = MacKeys::new(["another secret of the tests"]).unwrap();
        let signed = SignedName::parse(&text).unwrap();
        assert_eq!(signed.verify(&other, "room", None, NOW), Err(SignedNameError::Signature));
        // An expired name without a valid signature is not reported as expired.
        assert_eq!(verify(&text, "rooms", None, LATER), Err(SignedNameError::Signature));
    }

    #[test]
    fn a_token_contains_the_signature_of_a_plain_name() {
        let text = sign_name(&keys(), "room", "room:1", LATER, Some("42")).unwrap();
        let token = text.strip_prefix("room:1~").unwrap();
        assert_eq!(SignedName::with_token("room:1", token), SignedName::parse(&text));
        let moved = SignedName::with_token("room:2", token).unwrap();
        assert_eq!(moved.verify(&keys(), "room", Some("42"), NOW), Err(SignedNameError::Signature));
        assert_eq!(SignedName::with_token("room:1", "a.b.c"), None);
    }

    #[test]
    fn other_texts_are_not_signed_names() {
        let mac = "A".repeat(43);
        assert!(SignedName::parse(&format!("a~1~{mac}")).is_some());
        for text in [
            "a".to_owned(),
            "a~b~c".to_owned(),
            format!("~1~{mac}"),
            format!("1~{mac}"),
            format!("a~01~{mac}"),
            format!("a~+1~{mac}"),
            format!("a~-1~{mac}"),
            format!("a~1 ~{mac}"),
            format!("a~~{mac}"),
            format!("a~18446744073709551616~{mac}"),
            format!("a~1~{mac}="),
            format!("a~1~{mac}A"),
            format!("a~1~{}", &mac[1..]),
            format!("a~1~{}B", &mac[1..]),
            format!("a~1~{}+", &mac[1..]),
        ] {
            assert_eq!(SignedName::parse(&text), None, "{text}");
        }
    }

    #[test]
    fn does_not_sign_ambiguous_names() {
        let sign = |namespace, name, user| sign_name(&keys(), namespace, name, LATER, user);
        assert_eq!(sign("room", "a\nb", None), None);
        assert_eq!(sign("ro\nom", "a", None), None);
        assert_eq!(sign("", "a", None), None);
        assert_eq!(sign("room", "", None), None);
        assert_eq!(sign("room", "a", Some("")), None);
        assert!(sign("room", "a", Some("x\ny")).is_some());
    }

    proptest! {
        #[test]
        fn different_names_have_different_texts(a in parts(), b in parts()) {
            let text = |(namespace, name, expiry, user): &(String, String, u64, Option<String>)| {
                signed_text(namespace, name, *expiry, user.as_deref())
            };
            prop_assert_eq!(text(&a) == text(&b), a == b);
        }

        #[test]
        fn a_modified_byte_never_verifies((namespace, name, _, user) in parts(), index in 0_usize..1000, with in any::<u8>()) {
            let text = sign_name(&keys(), &namespace, &name, LATER, user.as_deref()).unwrap();
            prop_assert_eq!(verify(&text, &namespace, user.as_deref(), NOW), Ok(()));
            let mut bytes = text.into_bytes();
            let index = index % bytes.len();
            prop_assume!(bytes[index] != with);
            bytes[index] = with;
            if let Ok(modified) = String::from_utf8(bytes)
                && let Some(modified) = SignedName::parse(&modified)
            {
                let result = modified.verify(&keys(), &namespace, user.as_deref(), NOW);
                prop_assert_eq!(result, Err(SignedNameError::Signature));
            }
        }

        #[test]
        fn accepts_any_text(text in "\\PC{0,20}(~[0-9]{0,3}~[A-Za-z0-9_-]{42,44})?") {
            let _ = SignedName::parse(&text);
        }
    }

    fn parts() -> impl Strategy<Value = (String, String, u64, Option<String>)> {
        ("[a-b]{1,2}", "[a-b~1]{1,3}", 0_u64..3, prop::option::of("[1\na]{1,3}"))
    }
}

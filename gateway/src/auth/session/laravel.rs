//! Cookies and values of Laravel: encrypted payloads, and the value of its cache store.

use std::borrow::Cow;

use aes::Aes256;
use aes::cipher::block_padding::Pkcs7;
use aes::cipher::{BlockModeDecrypt, KeyIvInit};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::{aead, hmac};
use serde::Deserialize;

use super::error::SessionError;
use super::id::SessionId;
use super::php;
use super::secrets::{Secret, Secrets};

/// The suffix of the message whose HMAC precedes a cookie's value.
const PREFIX_VERSION: &str = "v2";
/// The start of a payload in base64: `{"`.
const PAYLOAD_START: &[u8] = b"eyJ";

/// The JSON in an encrypted payload. AES-256-CBC has a `mac`, AES-256-GCM has a `tag`.
#[derive(Deserialize)]
struct LaravelPayload<'p> {
    #[serde(borrow)]
    iv: Cow<'p, str>,
    #[serde(borrow)]
    value: Cow<'p, str>,
    #[serde(borrow, default)]
    mac: Cow<'p, str>,
    #[serde(borrow, default)]
    tag: Cow<'p, str>,
}

/// The session id in an encrypted cookie. The value starts with an HMAC of the cookie's name, so that the value of one
/// cookie is not accepted in another.
pub(super) fn session_id(cookie: &str, value: &str, secrets: &Secrets) -> Option<SessionId> {
    let plain = String::from_utf8(decrypt(value.as_bytes(), secrets)?).ok()?;
    let (prefix, id) = plain.split_once('|')?;
    let message = format!("{cookie}{PREFIX_VERSION}");
    let mac = from_hex(prefix)?;
    let verifies = |secret: &Secret| {
        let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, secret.bytes());
        hmac::verify(&key, message.as_bytes(), &mac).is_ok()
    };
    if secrets.iter().any(verifies) { SessionId::laravel(id) } else { None }
}

/// The session within the value of a key: a serialized text, which is encrypted if `SESSION_ENCRYPT` is set.
///
/// # Errors
/// The value is not a serialized text, or no secret decrypts it.
pub(super) fn session<'v>(value: &'v [u8], secrets: &Secrets) -> Result<Cow<'v, [u8]>, SessionError> {
    let text = php::decode_text(value)?;
    if !text.starts_with(PAYLOAD_START) {
        return Ok(Cow::Borrowed(text));
    }
    let plain = decrypt(text, secrets).ok_or(SessionError::Encrypted)?;
    php::decode_text(&plain).map(|text| Cow::Owned(text.to_vec()))
}

/// Decrypts a payload with the first secret that verifies it.
fn decrypt(payload: &[u8], secrets: &Secrets) -> Option<Vec<u8>> {
    let json = STANDARD.decode(payload).ok()?;
    let payload: LaravelPayload<'_> = serde_json::from_slice(&json).ok()?;
    let iv = STANDARD.decode(payload.iv.as_bytes()).ok()?;
    let value = STANDARD.decode(payload.value.as_bytes()).ok()?;
    if !payload.tag.is_empty() {
        let tag = STANDARD.decode(payload.tag.as_bytes()).ok()?;
        return secrets.iter().find_map(|secret| decrypt_gcm(secret, &iv, &value, &tag));
    }
    let mac = from_hex(&payload.mac)?;
    let message = [payload.iv.as_bytes(), payload.value.as_bytes()].concat();
    let secret = secrets.iter().find(|secret| secret.verifies(&message, &mac))?;
    let cipher = cbc::Decryptor::<Aes256>::new_from_slices(secret.bytes(), &iv).ok()?;
    cipher.decrypt_padded_vec::<Pkcs7>(&value).ok()
}

fn decrypt_gcm(secret: &Secret, iv: &[u8], value: &[u8], tag: &[u8]) -> Option<Vec<u8>> {
    if tag.len() != aead::AES_256_GCM.tag_len() {
        return None;
    }
    let key = aead::LessSafeKey::new(aead::UnboundKey::new(&aead::AES_256_GCM, secret.bytes()).ok()?);
    let nonce = aead::Nonce::try_assume_unique_for_key(iv).ok()?;
    let mut sealed = [value, tag].concat();
    let plain = key.open_in_place(nonce, aead::Aad::empty(), &mut sealed).ok()?.len();
    sealed.truncate(plain);
    Some(sealed)
}

/// Bytes from lower-case hexadecimal digits, as PHP writes them.
fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let (pairs, []) = text.as_bytes().as_chunks() else { return None };
    pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?)).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::super::cookie;
    use super::super::fixtures::{
        self, LARAVEL_COOKIE, LARAVEL_COOKIE_GCM, LARAVEL_ENCRYPTED, LARAVEL_ENCRYPTED_GCM, LARAVEL_KEY,
        LARAVEL_PLAIN,
    };
    use super::super::kind::SessionKind;
    use super::*;

    const COOKIE: &str = "laravel_session";
    const ID: &str = "ZkuyEoTtYx0lVm8ywq9GbNFfrYvOiyl1Kc2hx7aP";

    fn secrets(lines: &str) -> Secrets {
        Secrets::parse(SessionKind::Laravel, lines).unwrap()
    }

    fn other_key() -> String {
        format!("base64:{}", STANDARD.encode([1; 32]))
    }

    #[test]
    fn reads_encrypted_cookies() {
        for fixture in [LARAVEL_COOKIE, LARAVEL_COOKIE_GCM] {
            let value = cookie::decode(fixture.as_bytes()).unwrap();
            let rotated = format!("{}\n{LARAVEL_KEY}", other_key());
            for key in [LARAVEL_KEY, &rotated] {
                let id = session_id(COOKIE, &value, &secrets(key)).unwrap();
                assert_eq!(id.as_str(), ID);
            }
            assert_eq!(session_id(COOKIE, &value, &secrets(&other_key())), None, "with another key");
            assert_eq!(session_id("remember", &value, &secrets(LARAVEL_KEY)), None, "as another cookie");
        }
    }

    /// A payload with one of its parts changed.
    fn changed(fixture: &str, part: &str, change: impl FnOnce(&str) -> String) -> String {
        let value = cookie::decode(fixture.as_bytes()).unwrap();
        let mut json: serde_json::Value = serde_json::from_slice(&STANDARD.decode(&*value).unwrap()).unwrap();
        let new = change(json[part].as_str().unwrap());
        json[part] = new.into();
        STANDARD.encode(json.to_string())
    }

    #[test]
    fn rejects_changed_payloads() {
        let secrets = secrets(LARAVEL_KEY);
        let flip = |text: &str| {
            let mut bytes = STANDARD.decode(text).unwrap();
            bytes[0] ^= 1;
            STANDARD.encode(bytes)
        };
        let id = |payload: &str| session_id(COOKIE, payload, &secrets);
        assert!(id(&changed(LARAVEL_COOKIE, "iv", str::to_owned)).is_some());
        for part in ["iv", "value"] {
            assert_eq!(id(&changed(LARAVEL_COOKIE, part, flip)), None, "{part}");
            assert_eq!(id(&changed(LARAVEL_COOKIE_GCM, part, flip)), None, "{part}");
        }
        assert_eq!(id(&changed(LARAVEL_COOKIE_GCM, "tag", flip)), None);
        // Without a tag, the MAC counts; a short tag would be guessed.
        assert_eq!(id(&changed(LARAVEL_COOKIE_GCM, "tag", |_| String::new())), None);
        assert_eq!(id(&changed(LARAVEL_COOKIE_GCM, "tag", |tag| tag[..4].to_owned())), None);
        // Bytes of the tag that are moved to the end of the value.
        let value = cookie::decode(LARAVEL_COOKIE_GCM.as_bytes()).unwrap();
        let mut json: serde_json::Value = serde_json::from_slice(&STANDARD.decode(&*value).unwrap()).unwrap();
        let part =
            |json: &serde_json::Value, name: &str| STANDARD.decode(json[name].as_str().unwrap()).unwrap();
        let (mut value, mut tag) = (part(&json, "value"), part(&json, "tag"));
        value.extend(tag.drain(..4));
        (json["value"], json["tag"]) = (STANDARD.encode(value).into(), STANDARD.encode(tag).into());
        assert_eq!(id(&STANDARD.encode(json.to_string())), None);
        for mac in ["", "00", "é"] {
            assert_eq!(id(&changed(LARAVEL_COOKIE, "mac", |_| mac.to_owned())), None, "{mac}");
        }
        assert_eq!(id(&changed(LARAVEL_COOKIE, "mac", str::to_uppercase)), None);
        assert_eq!(id(&changed(LARAVEL_COOKIE, "mac", |mac| mac[..62].to_owned())), None);
        for wrong in
            ["", "e30=", "bnVsbA==", "W10=", &STANDARD.encode(r#"{"iv":"","value":"","mac":"","tag":""}"#)]
        {
            assert_eq!(id(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn reads_stored_sessions() {
        let plain = fixtures::bytes(LARAVEL_PLAIN);
        assert!(session(&plain, &Secrets::default()).unwrap().starts_with(b"a:"));
        for fixture in [LARAVEL_ENCRYPTED, LARAVEL_ENCRYPTED_GCM] {
            let value = fixtures::bytes(fixture);
            assert!(session(&value, &secrets(LARAVEL_KEY)).unwrap().starts_with(b"a:"));
            assert_eq!(session(&value, &secrets(&other_key())), Err(SessionError::Encrypted));
            assert_eq!(session(&value, &Secrets::default()), Err(SessionError::Encrypted));
        }
    }

    #[test]
    fn hexadecimal_digits_are_exact() {
        assert_eq!(from_hex("00ff1a"), Some(vec![0, 255, 26]));
        for wrong in ["0", "FF", "0g", "é", " 0"] {
            assert_eq!(from_hex(wrong), None, "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn accepts_any_text(value in "\\PC{0,60}", iv in "\\PC{0,10}", text in "\\PC{0,10}") {
            let secrets = secrets(LARAVEL_KEY);
            let json = serde_json::json!({ "iv": iv, "value": text, "mac": "00", "tag": iv }).to_string();
            for payload in [value, STANDARD.encode(json)] {
                prop_assert_eq!(session_id(COOKIE, &payload, &secrets), None);
                let _ = session(payload.as_bytes(), &secrets);
            }
        }
    }
}

//! Tests of attacks with tokens.

use proptest::prelude::*;

use super::super::{JwtRules, JwtVerifier, KeySet, TOKEN_BYTES_MAX, TokenError};
use super::{NOW, SECRET, encode, error, fixtures, sign, sign_with, verifier};

const PAYLOAD: &str = r#"{"sub":"42"}"#;

fn with_header(header: &str) -> String {
    sign_with(header, PAYLOAD, SECRET)
}

fn is_malformed(token: &str) -> bool {
    matches!(error(&verifier(JwtRules::default()), token), Some(TokenError::Malformed(_)))
}

#[test]
fn rejects_tokens_without_a_signature() {
    let verifier = verifier(JwtRules::default());
    for name in ["none", "None", "nOnE", "NONE", "", "HS257"] {
        let header = format!(r#"{{"alg":"{name}"}}"#);
        let unsigned = format!("{}.{}.", encode(&header), encode(PAYLOAD));
        assert_eq!(error(&verifier, &unsigned), Some(TokenError::Algorithm(name.to_owned())), "{name}");
        assert_eq!(error(&verifier, &with_header(&header)), Some(TokenError::Algorithm(name.to_owned())));
    }
    let signed = sign(PAYLOAD);
    let (text, _) = signed.rsplit_once('.').unwrap();
    assert_eq!(error(&verifier, &format!("{text}.")), Some(TokenError::Signature));
    assert!(is_malformed(text));
    for header in
        [r#"{"typ":"JWT"}"#, r#"{"alg":null}"#, r#"{"alg":["HS256"]}"#, r#"{"alg":256}"#, "[]", "HS256"]
    {
        assert!(is_malformed(&with_header(header)), "{header}");
    }
}

#[test]
fn a_public_key_is_never_an_hmac_secret() {
    // The signer knows the public key only, and signs with its text, its DER form or its numbers as the secret.
    let keys = KeySet::from_pem(fixtures::RSA.as_bytes()).unwrap();
    let verifier = JwtVerifier::new(JwtRules::default(), keys).unwrap();
    let body: String = fixtures::RSA.lines().filter(|line| !line.starts_with('-')).collect();
    for secret in [fixtures::RSA, fixtures::RSA.trim_end(), &body] {
        let token = sign_with(r#"{"alg":"HS256","typ":"JWT"}"#, PAYLOAD, secret.as_bytes());
        assert_eq!(error(&verifier, &token), Some(TokenError::Algorithm("HS256".to_owned())));
    }
    // Even if secrets are configured as well, the public key is never used as one.
    let mut both = KeySet::from_secrets([SECRET]).unwrap();
    both.append(KeySet::from_pem(fixtures::RSA.as_bytes()).unwrap());
    let both = JwtVerifier::new(JwtRules::default(), both).unwrap();
    let token = sign_with(r#"{"alg":"HS256"}"#, PAYLOAD, fixtures::RSA.as_bytes());
    assert_eq!(error(&both, &token), Some(TokenError::Signature));
    // The algorithm of the header does not change how a key is used.
    let (_, rs256) = fixtures::TOKENS.into_iter().find(|(name, _)| *name == "RS256").unwrap();
    let (_, rest) = rs256.split_once('.').unwrap();
    for name in ["RS384", "PS256", "HS256", "ES256", "EdDSA"] {
        let token = format!("{}.{rest}", encode(&format!(r#"{{"alg":"{name}"}}"#)));
        assert!(error(&both, &token).is_some(), "{name}");
    }
}

#[test]
fn rejects_duplicate_names() {
    for header in [r#"{"alg":"HS256","alg":"HS256"}"#, r#"{"alg":"none","\u0061lg":"HS256"}"#] {
        assert!(is_malformed(&with_header(header)), "{header}");
    }
    for payload in [r#"{"sub":"1","sub":"42"}"#, r#"{"sub":"1","s\u0075b":"42"}"#, r#"{"x":1,"x":1}"#] {
        assert!(is_malformed(&sign(payload)), "{payload}");
    }
}

#[test]
fn rejects_critical_extensions() {
    for extension in
        [r#""crit":["exp"],"exp":1"#, r#""crit":[]"#, r#""crit":null"#, r#""b64":false"#, r#""b64":true"#]
    {
        let token = with_header(&format!(r#"{{"alg":"HS256",{extension}}}"#));
        assert!(is_malformed(&token), "{extension}");
    }
}

#[test]
fn keys_and_addresses_of_the_token_are_ignored() {
    let own = r#""jwk":{"kty":"oct","k":"YQ"},"jku":"https://evil.example/jwks","x5u":"https://evil.example","x5c":["MA=="]"#;
    let header = format!(r#"{{"alg":"HS256",{own}}}"#);
    let verifier = verifier(JwtRules::default());
    assert_eq!(error(&verifier, &with_header(&header)), None);
    assert_eq!(error(&verifier, &sign_with(&header, PAYLOAD, b"a")), Some(TokenError::Signature));
}

#[test]
fn a_key_id_is_only_compared() {
    let verifier = verifier(JwtRules::default());
    for id in
        ["../../../../dev/null", "/etc/passwd", "' OR 1=1 --", "http://evil.example", "a\\u0000b", "", "|id"]
    {
        let header = format!(r#"{{"alg":"HS256","kid":"{id}"}}"#);
        assert_eq!(error(&verifier, &with_header(&header)), None, "secrets have no id: {id}");
        assert_eq!(error(&verifier, &sign_with(&header, PAYLOAD, b"")), Some(TokenError::Signature), "{id}");
    }
    for id in ["7", "{}", "[\"a\"]", &format!("\"{}\"", "k".repeat(257))] {
        assert!(is_malformed(&with_header(&format!(r#"{{"alg":"HS256","kid":{id}}}"#))), "{id}");
    }
    // A key with an id verifies only tokens that name this id or none.
    let (_, token) = fixtures::TOKENS.into_iter().find(|(name, _)| *name == "ES256").unwrap();
    let key = KeySet::from_pem(fixtures::P256.as_bytes()).unwrap().keys()[0].clone();
    let check = |id: &str| {
        let keys = KeySet::new(vec![key.clone().with_id(Some(id.to_owned()))]);
        let verifier = JwtVerifier::new(JwtRules::default(), KeySet::default()).unwrap();
        error(&verifier.with_remote_keys(keys.into()), token)
    };
    assert_eq!(check("p256"), None);
    assert_eq!(check("../p256"), Some(TokenError::UnknownKey { key_id: Some("p256".to_owned()) }));
}

#[test]
fn an_unknown_key_is_reported_only_where_a_key_set_is_published() {
    let (_, token) = fixtures::TOKENS.into_iter().find(|(name, _)| *name == "ES256").unwrap();
    let local = verifier(JwtRules::default());
    assert_eq!(error(&local, token), Some(TokenError::Algorithm("ES256".to_owned())));
    let remote = local.with_remote_keys(KeySet::default().into());
    assert_eq!(error(&remote, token), Some(TokenError::UnknownKey { key_id: Some("p256".to_owned()) }));
    // Secrets are never published.
    let wrong = sign_with(r#"{"alg":"HS256","kid":"x"}"#, PAYLOAD, b"wrong");
    assert_eq!(error(&remote, &wrong), Some(TokenError::Signature));
    let secrets = KeySet::from_secrets(["wrong"]).unwrap();
    assert_eq!(error(&local.with_remote_keys(secrets.into()), &wrong), Some(TokenError::Signature));
    // A token from another issuer does not cause a request either.
    let rules = JwtRules { issuer: Some("https://id.example".to_owned()), ..JwtRules::default() };
    let remote = verifier(rules).with_remote_keys(KeySet::default().into());
    assert_eq!(error(&remote, token), Some(TokenError::Issuer));
}

#[test]
fn rejects_other_spellings_of_a_token() {
    let verifier = verifier(JwtRules::default());
    let token = sign(PAYLOAD);
    let parts: Vec<&str> = token.split('.').collect();
    let (header, payload, signature) = (parts[0], parts[1], parts[2]);
    assert_eq!(error(&verifier, &token), None);
    // The last character of 43 has two unused bits: four characters decode to the same bytes in a lax decoder.
    const ALPHABET: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let last = ALPHABET.find(signature.chars().last().unwrap()).unwrap();
    for other in (last / 4 * 4..last / 4 * 4 + 4).filter(|other| *other != last) {
        let signature = format!("{}{}", &signature[..42], &ALPHABET[other..=other]);
        assert!(is_malformed(&format!("{header}.{payload}.{signature}")), "{signature}");
    }
    for signature in [
        format!("{signature}="),
        format!("{signature}\n"),
        format!(" {signature}"),
        format!("{}+/", &signature[..41]),
        format!("{signature}.{signature}"),
    ] {
        assert!(is_malformed(&format!("{header}.{payload}.{signature}")), "{signature:?}");
    }
    assert_eq!(error(&verifier, &format!("{token}A")), Some(TokenError::Signature), "a byte more");
    for length in 0..signature.len() {
        assert!(error(&verifier, &format!("{header}.{payload}.{}", &signature[..length])).is_some());
    }
    for token in
        [format!("Bearer {token}"), format!("{token} "), format!("{payload}.{signature}"), String::new()]
    {
        assert!(is_malformed(&token), "{token:?}");
    }
}

#[test]
fn rejects_large_tokens() {
    let verifier = verifier(JwtRules::default());
    let token = "a".repeat(1 << 20);
    assert_eq!(error(&verifier, &token), Some(TokenError::TooLarge { bytes: 1 << 20, max: TOKEN_BYTES_MAX }));
    assert!(is_malformed(&".".repeat(TOKEN_BYTES_MAX)));
    let header = format!(r#"{{"alg":"HS256","x":"{}"}}"#, "x".repeat(4096));
    assert!(is_malformed(&with_header(&header)));
}

#[test]
fn a_token_of_one_kind_is_not_accepted_as_the_other() {
    let verifier = verifier(JwtRules::default());
    let subscription = sign(r#"{"sub":"42","channel":"room:1"}"#);
    assert_eq!(error(&verifier, &subscription), Some(TokenError::Claim("channel")));
    let connection = verifier.verify_subscription(&sign(PAYLOAD), NOW);
    assert_eq!(connection.err(), Some(TokenError::Claim("channel")));
}

#[test]
fn a_signature_of_zeros_does_not_verify() {
    // CVE-2022-21449: r = s = 0.
    let mut keys = KeySet::from_pem(fixtures::P256.as_bytes()).unwrap();
    keys.append(KeySet::from_pem(fixtures::ED25519.as_bytes()).unwrap());
    let verifier = JwtVerifier::new(JwtRules::default(), keys).unwrap();
    for name in ["ES256", "EdDSA"] {
        for length in [64, 65, 63, 96, 0] {
            let text = format!("{}.{}", encode(&format!(r#"{{"alg":"{name}"}}"#)), encode(PAYLOAD));
            let signature = encode(&"\0".repeat(length));
            assert_eq!(error(&verifier, &format!("{text}.{signature}")), Some(TokenError::Signature));
        }
    }
}

proptest! {
    #[test]
    fn accepts_any_text_without_a_panic(text in "\\PC{0,80}", parts in "[A-Za-z0-9_.=-]{0,120}") {
        let verifier = verifier(JwtRules::default());
        prop_assert!(error(&verifier, &text).is_some() && error(&verifier, &parts).is_some());
    }

    #[test]
    fn accepts_any_header_and_payload_without_a_panic(header in any_json(), payload in any_json()) {
        let verifier = verifier(JwtRules::default());
        let _ = error(&verifier, &sign_with(&header, &payload, SECRET));
        let _ = error(&verifier, &sign(&payload));
        let _ = verifier.verify_subscription(&sign(&payload), NOW);
    }

    #[test]
    fn a_modified_byte_never_verifies(index in 0_usize..10_000, with in any::<u8>(), kind in 0_usize..12) {
        let mut keys = KeySet::from_secrets([fixtures::SECRET]).unwrap();
        let pem = [fixtures::RSA, fixtures::P256, fixtures::P384, fixtures::ED25519].concat();
        keys.append(KeySet::from_pem(pem.as_bytes()).unwrap());
        let verifier = JwtVerifier::new(JwtRules::default(), keys).unwrap();
        let token = fixtures::TOKENS[kind].1;
        let mut bytes = token.as_bytes().to_vec();
        let index = index % bytes.len();
        prop_assume!(bytes[index] != with);
        bytes[index] = with;
        if let Ok(modified) = String::from_utf8(bytes) {
            prop_assert!(error(&verifier, &modified).is_some(), "{}", modified);
        }
    }
}

fn any_json() -> impl Strategy<Value = String> {
    let name = prop::sample::select(vec![
        "alg",
        "kid",
        "crit",
        "sub",
        "exp",
        "nbf",
        "iat",
        "expire_at",
        "info",
        "b64info",
        "channels",
        "channel",
        "subs",
        "meta",
        "jti",
        "override",
        "x",
    ]);
    let value = prop::sample::select(vec![
        "\"HS256\"",
        "\"a\"",
        "\"\"",
        "1",
        "-1",
        "1e400",
        "1.5",
        "null",
        "true",
        "[]",
        "[\"a\"]",
        "[1]",
        "{}",
        "{\"a\":{}}",
        "{\"a\":1}",
        "\"e30=\"",
        "\"\\ud800\"",
        "99999999999999999999",
    ]);
    let members = prop::collection::vec((name, value), 0..5);
    members.prop_map(|members| {
        let members: Vec<String> =
            members.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
        format!("{{{}}}", members.join(","))
    })
}

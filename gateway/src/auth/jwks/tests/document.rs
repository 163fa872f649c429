//! Tests of JWK sets.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::super::document::parse;
use super::super::{JwksError, KeySet};
use super::{NOW, base, fixtures, only};

/// The key `ed` of the fixtures with some members replaced; `null` removes one.
fn with(id: &str, changes: &Value) -> Result<KeySet, JwksError> {
    let mut set: Value = serde_json::from_str(&only(id)).unwrap();
    for (name, value) in changes.as_object().unwrap() {
        let key = set["keys"][0].as_object_mut().unwrap();
        key.insert(name.clone(), value.clone());
        key.retain(|_, value| !value.is_null());
    }
    parse(set.to_string().as_bytes())
}

#[test]
fn reads_the_keys_of_another_implementation() {
    let keys = parse(fixtures::KEY_SET.as_bytes()).unwrap();
    let ids: Vec<_> = keys.keys().iter().filter_map(|key| key.id()).collect();
    assert_eq!(ids, ["rsa", "p256", "p384", "ed", "p521"]);
    let verifier = base().with_remote_keys(keys.into());
    for (algorithm, token) in fixtures::TOKENS {
        let claims = verifier.verify(token, NOW).unwrap_or_else(|error| panic!("{algorithm}: {error}"));
        assert_eq!(claims.user, "42", "{algorithm}");
    }
    assert!(verifier.verify(fixtures::NO_KEY_ID, NOW).is_ok());
}

#[test]
fn skips_keys_that_must_not_verify() {
    assert!(with("ed", &json!({})).is_ok());
    assert!(with("ed", &json!({"use": null, "key_ops": ["verify"], "alg": "EdDSA", "x5c": ["x"]})).is_ok());
    for changes in [
        json!({"use": "enc"}),
        json!({"key_ops": ["sign"]}),
        json!({"key_ops": []}),
        json!({"alg": "HS256"}),
        json!({"alg": "RS256"}),
        json!({"alg": "none"}),
        json!({"alg": ""}),
        json!({"d": "AAAA"}),
        json!({"kty": "oct", "k": "c2VjcmV0"}),
        json!({"kty": "EC"}),
        json!({"kty": "RSA"}),
        json!({"crv": "X25519"}),
        json!({"crv": null}),
        json!({"x": null}),
        json!({"x": "AAAA"}),
        json!({"x": 7}),
        json!({"kid": 7}),
        json!({"kid": "k".repeat(257)}),
    ] {
        assert_eq!(with("ed", &changes).err(), Some(JwksError::NoKeys), "{changes}");
    }
    for (id, changes) in [
        ("rsa", json!({"n": "AQAB"})),
        ("rsa", json!({"e": "AQ"})),
        ("p256", json!({"crv": "P-384"})),
        ("p256", json!({"y": "AAAA"})),
        ("p256", json!({"y": null})),
        ("p256", json!({"x": "A".repeat(40), "y": "A".repeat(46)})),
    ] {
        assert_eq!(with(id, &changes).err(), Some(JwksError::NoKeys), "{id} {changes}");
    }
}

#[test]
fn a_key_is_used_for_its_algorithm_only() {
    let (_, token) = fixtures::TOKENS.into_iter().find(|(name, _)| *name == "RS256").unwrap();
    let verify = |algorithm: &str| {
        let keys = with("rsa", &json!({"alg": algorithm})).unwrap();
        base().with_remote_keys(keys.into()).verify(token, NOW).map(|claims| claims.user)
    };
    assert_eq!(verify("RS256"), Ok("42".to_owned()));
    for other in ["RS384", "PS256"] {
        assert_eq!(verify(other), Err(super::super::TokenError::Signature), "{other}");
    }
}

#[test]
fn rejects_other_documents() {
    for text in ["", "{}", "[]", "<html>", r#"{"keys":{}}"#, r#"{"keys":null}"#, "\u{feff}{\"keys\":[]}"] {
        assert_eq!(parse(text.as_bytes()).err(), Some(JwksError::Document), "{text}");
    }
    for text in [r#"{"keys":[]}"#, r#"{"keys":[1,null,{},[]]}"#] {
        assert_eq!(parse(text.as_bytes()).err(), Some(JwksError::NoKeys), "{text}");
    }
    let many = format!(r#"{{"keys":[{}]}}"#, vec!["{}"; 129].join(","));
    assert_eq!(parse(many.as_bytes()).err(), Some(JwksError::TooManyKeys { max: 128 }));
}

proptest! {
    #[test]
    fn accepts_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..60), index in 0_usize..2000, with in any::<u8>()) {
        let _ = parse(&bytes);
        let mut modified = fixtures::KEY_SET.as_bytes().to_vec();
        let index = index % modified.len();
        modified[index] = with;
        let _ = parse(&modified);
    }
}

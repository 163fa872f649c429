//! Tests of claims.

use std::collections::BTreeMap;

use super::super::{ConnectionClaims, JwtRules, JwtVerifier, KeySet, SubscriptionClaims, TokenError};
use super::{NOW, error, fixtures, sign, verifier};

fn read(payload: &str) -> Result<ConnectionClaims, TokenError> {
    verifier(JwtRules::default()).verify(&sign(payload), NOW)
}

fn read_subscription(payload: &str) -> Result<SubscriptionClaims, TokenError> {
    verifier(JwtRules::default()).verify_subscription(&sign(payload), NOW)
}

#[test]
fn reads_the_claims_of_centrifugo() {
    let claims = read(
        r#"{"sub":"42","exp":1800000100,"iat":1799999999,"jti":"t1","info":{"name" : "Zoë", "n":1.50},
            "channels":["news","user:42"],"subs":{"a":{"info":{"x":1},"data":[ 1 ],"override":{"presence":{"value":false},
            "force_recovery":{"value":true}}},"b":{},"c":null},"meta":{"plan":"x"},"caps":[]}"#,
    )
    .unwrap();
    assert_eq!((claims.user.as_str(), claims.expires_at), ("42", Some(1_800_000_100)));
    assert_eq!((claims.issued_at, claims.token_id.as_deref()), (Some(1_799_999_999), Some("t1")));
    assert_eq!(claims.info.unwrap().get(), r#"{"name" : "Zoë", "n":1.50}"#, "the slice of the token");
    assert_eq!(claims.channels, ["news", "user:42"]);
    assert_eq!(claims.meta.unwrap().get(), r#"{"plan":"x"}"#);
    assert_eq!(claims.subs.keys().collect::<Vec<_>>(), ["a", "b", "c"]);
    let options = &claims.subs["a"];
    assert_eq!(options.info.as_ref().unwrap().get(), r#"{"x":1}"#);
    assert_eq!(options.data.as_ref().unwrap().get(), "[ 1 ]");
    assert_eq!((options.presence, options.join_leave), (Some(false), None));
}

#[test]
fn accepts_generated_tokens_of_centrifugo() {
    let [user, anonymous] =
        fixtures::GENERATED.map(|token| verifier(JwtRules::default()).verify(token, NOW).unwrap());
    assert_eq!((user.user.as_str(), user.expires_at), ("42", Some(1_800_604_800)));
    assert_eq!((anonymous.user.as_str(), anonymous.expires_at), ("", None));
    for payload in [r#"{"sub":""}"#, r#"{"sub":null}"#, "{}"] {
        assert_eq!(read(payload).unwrap().user, "", "{payload}");
    }
}

#[test]
fn decides_about_the_test_tokens_of_centrifugo() {
    use fixtures::centrifugo::{
        ARRAY_AUDIENCE, EMPTY, EXPIRED, INVALID_SIGNATURE, NOT_BEFORE, STRING_AUDIENCE,
        SUBSCRIPTION_USER_CLAIM, USER_CLAIM, VALID,
    };
    let with = |rules| JwtVerifier::new(rules, KeySet::from_secrets(["secret"]).unwrap()).unwrap();
    let verifier = with(JwtRules::default());
    let claims = verifier.verify(VALID, NOW).unwrap();
    let info = r#"{"first_name":"Alexander","last_name":"Emelin"}"#;
    assert_eq!((claims.user.as_str(), claims.info.unwrap().get()), ("2694", info));
    assert_eq!(error(&verifier, EMPTY), None);
    assert_eq!(error(&verifier, EXPIRED), Some(TokenError::Expired(1_588_351_704)));
    assert_eq!(error(&verifier, NOT_BEFORE), Some(TokenError::NotYetValid("nbf")));
    assert_eq!(error(&verifier, INVALID_SIGNATURE), Some(TokenError::Signature));
    let audience = |name: &str| with(JwtRules { audiences: vec![name.to_owned()], ..JwtRules::default() });
    for (token, name, expected) in [
        (ARRAY_AUDIENCE, "foo", None),
        (ARRAY_AUDIENCE, "bar", None),
        (ARRAY_AUDIENCE, "baz", Some(TokenError::Audience)),
        (STRING_AUDIENCE, "foo", None),
        (STRING_AUDIENCE, "bar", Some(TokenError::Audience)),
    ] {
        assert_eq!(error(&audience(name), token), expected, "{name}");
    }
    let verifier = with(JwtRules { user_claim: "user_id".to_owned(), ..JwtRules::default() });
    assert_eq!(verifier.verify(USER_CLAIM, NOW).unwrap().user, "test");
    let subscription = verifier.verify_subscription(SUBSCRIPTION_USER_CLAIM, NOW).unwrap();
    assert_eq!(subscription.check("channel", "test", "any"), Ok(()));
}

#[test]
fn expire_at_precedes_exp() {
    let expiry = |payload| read(payload).map(|claims| claims.expires_at);
    assert_eq!(expiry(r#"{"exp":1800000100,"expire_at":1800000900}"#), Ok(Some(1_800_000_900)));
    assert_eq!(
        expiry(r#"{"exp":1800000100,"expire_at":0}"#),
        Ok(None),
        "exp limits only the use of the token"
    );
    assert_eq!(expiry(r#"{"exp":1799999000,"expire_at":0}"#), Err(TokenError::Expired(1_799_999_000)));
    assert_eq!(expiry(r#"{"expire_at":1799999000}"#), Err(TokenError::Expired(1_799_999_000)));
    assert_eq!(expiry(r#"{"exp":1800000100.9}"#), Ok(Some(1_800_000_100)));
    assert_eq!(expiry(r#"{"exp":1.8000001e9}"#), Ok(Some(1_800_000_100)));
    assert_eq!(expiry(r#"{"exp":1e300}"#), Ok(Some(u64::MAX)));
}

#[test]
fn the_leeway_applies_to_all_times() {
    let now = |payload: String| read(&payload).err();
    // The default is 10 s.
    assert_eq!(now(format!(r#"{{"exp":{}}}"#, NOW - 9)), None);
    assert_eq!(now(format!(r#"{{"exp":{}}}"#, NOW - 10)), Some(TokenError::Expired(NOW - 10)));
    for name in ["nbf", "iat"] {
        assert_eq!(now(format!(r#"{{"{name}":{}}}"#, NOW + 10)), None);
        assert_eq!(now(format!(r#"{{"{name}":{}}}"#, NOW + 11)), Some(TokenError::NotYetValid(name)));
        assert_eq!(now(format!(r#"{{"{name}":{}.1}}"#, NOW + 10)), Some(TokenError::NotYetValid(name)));
    }
}

#[test]
fn rejects_claims_of_the_wrong_type() {
    for (payload, claim) in [
        (r#"{"exp":"1800000100"}"#, "exp"),
        (r#"{"exp":null}"#, "exp"),
        (r#"{"exp":-1}"#, "exp"),
        (r#"{"expire_at":-1}"#, "expire_at"),
        (r#"{"expire_at":true}"#, "expire_at"),
        (r#"{"nbf":[]}"#, "nbf"),
        (r#"{"iat":{}}"#, "iat"),
        (r#"{"jti":7}"#, "jti"),
        (r#"{"sub":{}}"#, "sub"),
        (r#"{"sub":["42"]}"#, "sub"),
        (r#"{"sub":false}"#, "sub"),
        (r#"{"sub":true}"#, "sub"),
        (r#"{"sub":1.5}"#, "sub"),
        (r#"{"sub":1e3}"#, "sub"),
        (r#"{"channels":"a"}"#, "channels"),
        (r#"{"channels":[1]}"#, "channels"),
        (r#"{"subs":[]}"#, "subs"),
        (r#"{"subs":{"a":1}}"#, "subs"),
        (r#"{"subs":{"a":{},"a":{}}}"#, "subs"),
        (r#"{"subs":{"a":{"override":1}}}"#, "override"),
        (r#"{"b64info":"%"}"#, "b64info"),
        (r#"{"b64info":"e30"}"#, "b64info"),
        (r#"{"b64info":"AAAA"}"#, "b64info"),
        (r#"{"channel":"a"}"#, "channel"),
        (r#"{"channel":7}"#, "channel"),
    ] {
        assert_eq!(read(payload).err(), Some(TokenError::Claim(claim)), "{payload}");
    }
    let long = format!(r#"{{"sub":"{}"}}"#, "u".repeat(257));
    assert_eq!(read(&long).err(), Some(TokenError::Claim("sub")));
}

#[test]
fn base64_info_precedes_info() {
    let info = |payload| read(payload).unwrap().info.map(|info| info.get().to_owned());
    assert_eq!(info(r#"{"b64info":"eyJ4IjogMX0=","info":2}"#).as_deref(), Some(r#"{"x": 1}"#));
    assert_eq!(info(r#"{"b64info":"","info":2}"#).as_deref(), Some("2"));
    assert_eq!(info(r#"{"info":null}"#), None);
}

#[test]
fn the_user_claim_is_configurable() {
    let user = |claim: &str, payload: &str| {
        let rules = JwtRules { user_claim: claim.to_owned(), ..JwtRules::default() };
        verifier(rules).verify(&sign(payload), NOW).map(|claims| claims.user)
    };
    let number = Ok("12345678901234567890123".to_owned());
    assert_eq!(user("sub", r#"{"sub":12345678901234567890123}"#), number);
    assert_eq!(user("user_id", r#"{"user_id":"7","sub":"8"}"#), Ok("7".to_owned()));
    assert_eq!(user("/user/id", r#"{"user":{"id":-7}}"#), Ok("-7".to_owned()));
    for payload in [r#"{"sub":"8"}"#, r#"{"user_id":""}"#, r#"{"user_id":null}"#, r#"{"user_id":{}}"#] {
        assert_eq!(user("user_id", payload), Err(TokenError::Claim("user_claim")), "{payload}");
    }
}

#[test]
fn fields_are_selected_by_pointer() {
    let pointers = [("tenant", "/tenant"), ("roles", "/realm/roles"), ("none", "/none")];
    let fields = pointers.map(|(name, pointer)| (name.to_owned(), pointer.to_owned())).into();
    let rules = JwtRules { fields, ..JwtRules::default() };
    let token = sign(r#"{"tenant":7,"realm":{"roles":["editor",true]},"none":{}}"#);
    let claims = verifier(rules).verify(&token, NOW).unwrap();
    let list = |values: &[&str]| values.iter().map(|&value| value.to_owned()).collect::<Vec<_>>();
    let expected = [("tenant".to_owned(), list(&["7"])), ("roles".to_owned(), list(&["editor", "true"]))];
    assert_eq!(claims.fields, BTreeMap::from(expected));
}

#[test]
fn rejects_invalid_pointers() {
    let keys = KeySet::default();
    for pointer in ["tenant", "", "/a~2"] {
        let fields = [("tenant".to_owned(), pointer.to_owned())].into();
        let rules = JwtRules { fields, ..JwtRules::default() };
        assert!(JwtVerifier::new(rules, keys.clone()).is_err(), "{pointer}");
    }
    let rules = JwtRules { user_claim: "/~".to_owned(), ..JwtRules::default() };
    assert!(JwtVerifier::new(rules, keys).is_err());
}

#[test]
fn issuer_and_audience_must_match() {
    let rules = JwtRules {
        issuer: Some("https://id.example".to_owned()),
        audiences: vec!["earshot".to_owned(), "app".to_owned()],
        ..JwtRules::default()
    };
    let verifier = verifier(rules);
    for (payload, expected) in [
        (r#"{"iss":"https://id.example","aud":"app"}"#, None),
        (r#"{"iss":"https://id.example","aud":["other","earshot"]}"#, None),
        (r#"{"iss":"https://id.example/","aud":"app"}"#, Some(TokenError::Issuer)),
        (r#"{"iss":["https://id.example"],"aud":"app"}"#, Some(TokenError::Issuer)),
        (r#"{"aud":"app"}"#, Some(TokenError::Issuer)),
        (r#"{"iss":"https://id.example"}"#, Some(TokenError::Audience)),
        (r#"{"iss":"https://id.example","aud":"ap"}"#, Some(TokenError::Audience)),
        (r#"{"iss":"https://id.example","aud":[]}"#, Some(TokenError::Audience)),
        (r#"{"iss":"https://id.example","aud":{"app":1}}"#, Some(TokenError::Audience)),
        (r#"{"iss":"https://id.example","aud":[["app"]]}"#, Some(TokenError::Audience)),
    ] {
        assert_eq!(error(&verifier, &sign(payload)), expected, "{payload}");
    }
}

#[test]
fn a_subscription_token_grants_one_channel_to_one_user() {
    let claims = read_subscription(
        r#"{"sub":"42","channel":"room:1","info":{"a":1},"exp":1800000100,"expire_at":0,"jti":"t","iat":1800000000}"#,
    )
    .unwrap();
    assert_eq!((claims.expires_at, claims.token_id.as_deref()), (None, Some("t")));
    assert_eq!(claims.options.info.as_ref().unwrap().get(), r#"{"a":1}"#);
    assert_eq!(claims.check("room:1", "42", "c1"), Ok(()));
    assert_eq!(claims.check("room:2", "42", "c1"), Err(TokenError::Mismatch("channel")));
    assert_eq!(claims.check("room:1", "43", "c1"), Err(TokenError::Mismatch("user")));
    assert_eq!(claims.check("room:1", "", "c1"), Err(TokenError::Mismatch("user")));
    let bound = read_subscription(r#"{"channel":"a","client":"c1"}"#).unwrap();
    assert_eq!(bound.check("a", "", "c1"), Ok(()));
    assert_eq!(bound.check("a", "", "c2"), Err(TokenError::Mismatch("client")));
    for payload in [r#"{"sub":"42"}"#, r#"{"channel":""}"#, r#"{"channel":null}"#, r#"{"channel":["a"]}"#] {
        assert_eq!(read_subscription(payload).err(), Some(TokenError::Claim("channel")), "{payload}");
    }
}

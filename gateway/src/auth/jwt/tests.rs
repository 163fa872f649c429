//! Tests of token verification: interoperability, claims, and attacks.

mod attacks;
mod claims;
mod fixtures;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;

use super::{Algorithm, JwtRules, JwtVerifier, KeyError, KeySet, TokenError, VerificationKey};

/// The time in tests.
const NOW: u64 = 1_800_000_000;
const SECRET: &[u8] = b"a secret of the tests, 32 bytes+";

/// The parts of a token as text.
fn encode(text: &str) -> String {
    URL_SAFE_NO_PAD.encode(text)
}

/// A token with this header and payload, signed with HMAC-SHA256.
fn sign_with(header: &str, payload: &str, secret: &[u8]) -> String {
    let text = format!("{}.{}", encode(header), encode(payload));
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
    let signature = URL_SAFE_NO_PAD.encode(hmac::sign(&key, text.as_bytes()));
    format!("{text}.{signature}")
}

fn sign(payload: &str) -> String {
    sign_with(r#"{"alg":"HS256","typ":"JWT"}"#, payload, SECRET)
}

fn verifier(rules: JwtRules) -> JwtVerifier {
    JwtVerifier::new(rules, KeySet::from_secrets([SECRET]).unwrap()).unwrap()
}

/// The error of a token, if it is rejected.
fn error(verifier: &JwtVerifier, token: &str) -> Option<TokenError> {
    verifier.verify(token, NOW).err()
}

#[test]
fn verifies_tokens_of_another_implementation() {
    let mut keys = KeySet::from_secrets([fixtures::SECRET]).unwrap();
    let pem = [fixtures::RSA, fixtures::P256, fixtures::P384, fixtures::P521, fixtures::ED25519].concat();
    keys.append(KeySet::from_pem(pem.as_bytes()).unwrap());
    let verifier = JwtVerifier::new(JwtRules::default(), keys.clone()).unwrap();
    for (algorithm, token) in fixtures::TOKENS {
        let claims = verifier.verify(token, NOW).unwrap_or_else(|error| panic!("{algorithm}: {error}"));
        assert_eq!(
            (claims.user.as_str(), &claims.channels[..]),
            ("42", &["a".to_owned()][..]),
            "{algorithm}"
        );
        // One key for each family, and no key of another family verifies.
        let verifying = keys.keys().iter().filter(|key| {
            let keys = KeySet::new(vec![(*key).clone()]);
            let verifier = JwtVerifier::new(JwtRules::default(), keys).unwrap();
            verifier.verify(token, NOW).is_ok()
        });
        assert_eq!(verifying.count(), 1, "{algorithm}");
    }
}

#[test]
fn algorithm_names_are_those_of_the_header() {
    for (name, _) in fixtures::TOKENS {
        assert_eq!(Algorithm::parse(name).map(Algorithm::name), Some(name));
    }
    for name in ["none", "None", "NONE", "", "hs256", "HS256 ", "ES521", "ES256K", "RSA-OAEP", "dir"] {
        assert_eq!(Algorithm::parse(name), None, "{name}");
    }
}

#[test]
fn all_secrets_of_the_list_verify() {
    let rotated = KeySet::from_secrets([&b"the new secret"[..], SECRET]).unwrap();
    let rotated = JwtVerifier::new(JwtRules::default(), rotated).unwrap();
    assert!(rotated.verify(&sign(r#"{"sub":"1"}"#), NOW).is_ok());
    let new = sign_with(r#"{"alg":"HS256"}"#, r#"{"sub":"1"}"#, b"the new secret");
    assert!(rotated.verify(&new, NOW).is_ok());
    assert_eq!(error(&verifier(JwtRules::default()), &new), Some(TokenError::Signature));
}

#[test]
fn rejects_unusable_keys() {
    let pem = |text: &str| KeySet::from_pem(text.as_bytes()).err();
    assert_eq!(pem(""), Some(KeyError::NoPem));
    assert_eq!(pem(fixtures::SECRET), Some(KeyError::NoPem));
    assert_eq!(pem(&fixtures::P521.replace("BBAAj", "BBAAh")), Some(KeyError::Unsupported));
    assert_eq!(pem(fixtures::RSA_1024), Some(KeyError::RsaSize));
    assert_eq!(pem(&fixtures::RSA.replace("PUBLIC", "PRIVATE")), Some(KeyError::PrivateKey));
    assert_eq!(pem(&fixtures::RSA.replace("PUBLIC KEY", "CERTIFICATE")), Some(KeyError::Certificate));
    assert_eq!(pem(&fixtures::ED25519.replace("MCow", "MCox")), Some(KeyError::Encoding));
    let secret = |secret: &str| KeySet::from_secrets([secret]).err();
    assert_eq!(secret(""), Some(KeyError::EmptySecret));
    assert_eq!(secret(fixtures::RSA), Some(KeyError::PemAsSecret));
    let rsa = KeySet::from_pem(fixtures::RSA.as_bytes()).unwrap().keys()[0].clone();
    assert_eq!(rsa.for_algorithm(Algorithm::Hs256).err(), Some(KeyError::AlgorithmMismatch));
    let modulus = [0xff; 256];
    for exponent in [&[][..], &[0], &[1], &[2], &[1, 0, 0], &[1, 0, 0, 0, 1]] {
        assert_eq!(VerificationKey::rsa(&modulus, exponent).err(), Some(KeyError::RsaSize), "{exponent:?}");
    }
    assert!(VerificationKey::rsa(&modulus, &[1, 0, 1]).is_ok());
}

#[test]
fn debug_output_contains_no_secret() {
    let shown = format!("{:?}", verifier(JwtRules::default()));
    let secret = String::from_utf8_lossy(SECRET);
    assert!(shown.contains("HMAC") && !shown.contains(&*secret), "{shown}");
}

//! Tests of key sets: documents, the times of reads, tokens that wait, and HTTP.

mod cache;
mod document;
mod fixtures;
mod http;
mod waiting;

use super::super::jwt::{JwtRules, JwtVerifier, KeySet};

/// The time in tests.
const NOW: u64 = 1_800_000_000;

/// A verifier without keys, for tokens of the issuer of the fixtures.
fn base() -> JwtVerifier {
    let rules = JwtRules { issuer: Some("https://id.example".to_owned()), ..JwtRules::default() };
    JwtVerifier::new(rules, KeySet::default()).unwrap()
}

/// The key set of the fixtures with one of its keys only.
fn only(id: &str) -> String {
    let set: serde_json::Value = serde_json::from_str(fixtures::KEY_SET).unwrap();
    let keys = set["keys"].as_array().unwrap().iter().filter(|key| key["kid"] == id);
    serde_json::json!({ "keys": keys.collect::<Vec<_>>() }).to_string()
}

//! Tests of tokens that wait for a key set. Time is paused: it advances when every task waits.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::{BoxFuture, join_all};

use super::super::super::jwt::TokenError;
use super::super::{FetchKeySet, FetchedKeySet, JwksError, JwksSettings, JwksSettingsError, JwksVerifier};
use super::{NOW, base, fixtures, only};

/// Answers reads from a script; without an answer it never returns.
#[derive(Clone, Debug, Default)]
struct Provider {
    answers: Arc<Mutex<VecDeque<Result<String, JwksError>>>>,
    reads: Arc<Mutex<usize>>,
}

impl Provider {
    fn answer(&self, key_id: &str) {
        self.answers.lock().unwrap().push_back(Ok(only(key_id)));
    }

    fn fail(&self) {
        self.answers.lock().unwrap().push_back(Err(JwksError::Status(503)));
    }

    fn reads(&self) -> usize {
        *self.reads.lock().unwrap()
    }
}

impl FetchKeySet for Provider {
    fn fetch(&self) -> BoxFuture<'_, Result<FetchedKeySet, JwksError>> {
        async {
            *self.reads.lock().unwrap() += 1;
            tokio::time::sleep(Duration::from_millis(100)).await;
            let answer = self.answers.lock().unwrap().pop_front();
            match answer {
                Some(answer) => answer.map(|text| FetchedKeySet { body: text.into(), max_age: None }),
                None => std::future::pending().await,
            }
        }
        .boxed()
    }
}

fn start(provider: &Provider) -> JwksVerifier {
    JwksVerifier::new(&base(), JwksSettings::default(), Box::new(provider.clone())).unwrap()
}

fn token(algorithm: &str) -> &'static str {
    fixtures::TOKENS.into_iter().find(|(name, _)| *name == algorithm).unwrap().1
}

/// Runs the test beside the task that reads.
async fn beside(verifier: &JwksVerifier, test: impl Future<Output = ()>) {
    tokio::select! {
        () = test => {}
        () = verifier.run() => {}
    }
}

async fn user(verifier: &JwksVerifier, token: &str) -> Result<String, TokenError> {
    verifier.verify(token, NOW).await.map(|claims| claims.user)
}

#[tokio::test(start_paused = true)]
async fn all_tokens_wait_for_one_read() {
    let provider = Provider::default();
    provider.answer("ed");
    let verifier = start(&provider);
    let test = async {
        let results = join_all((0..1000).map(|_| user(&verifier, token("EdDSA")))).await;
        assert!(results.iter().all(|result| *result == Ok("42".to_owned())));
    };
    beside(&verifier, test).await;
    assert_eq!((provider.reads(), verifier.status().keys), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_rotated_key_is_read_when_a_token_names_it() {
    let provider = Provider::default();
    provider.answer("ed");
    provider.answer("p256");
    let verifier = start(&provider);
    let test = async {
        assert_eq!(user(&verifier, token("EdDSA")).await, Ok("42".to_owned()));
        assert_eq!(user(&verifier, token("ES256")).await, Err(TokenError::KeysUnavailable), "too soon");
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert_eq!(user(&verifier, token("ES256")).await, Ok("42".to_owned()));
        let unknown = TokenError::UnknownKey { key_id: Some("ed".to_owned()) };
        let removed = user(&verifier, token("EdDSA")).await;
        assert_eq!(removed, Err(TokenError::KeysUnavailable), "may be temporary");
        tokio::time::sleep(Duration::from_secs(10)).await;
        provider.answer("p256");
        assert_eq!(user(&verifier, token("EdDSA")).await, Err(unknown.clone()));
        assert_eq!(user(&verifier, token("EdDSA")).await, Err(unknown), "without a read");
    };
    beside(&verifier, test).await;
    assert_eq!(provider.reads(), 3);
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_is_down_at_start_is_temporary() {
    let provider = Provider::default();
    provider.fail();
    let verifier = start(&provider);
    let test = async {
        let first = user(&verifier, token("EdDSA")).await;
        assert_eq!(first, Err(TokenError::KeysUnavailable));
        assert!(first.unwrap_err().is_temporary());
        assert_eq!(verifier.status().failures, 1);
        provider.answer("ed");
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(user(&verifier, token("EdDSA")).await, Ok("42".to_owned()), "read again by itself");
    };
    beside(&verifier, test).await;
    assert_eq!((provider.reads(), verifier.status().failures), (2, 0));
}

#[tokio::test(start_paused = true)]
async fn known_keys_verify_while_the_endpoint_is_down() {
    let provider = Provider::default();
    provider.answer("ed");
    let verifier = start(&provider);
    let test = async {
        assert_eq!(user(&verifier, token("EdDSA")).await, Ok("42".to_owned()));
        // The endpoint no longer responds: each read ends by its time limit.
        tokio::time::sleep(Duration::from_hours(23)).await;
        assert_eq!(user(&verifier, token("EdDSA")).await, Ok("42".to_owned()));
        assert_eq!(user(&verifier, token("ES256")).await, Err(TokenError::KeysUnavailable));
        tokio::time::sleep(Duration::from_hours(2)).await;
        assert_eq!(user(&verifier, token("EdDSA")).await, Err(TokenError::KeysUnavailable), "too old");
    };
    beside(&verifier, test).await;
    assert!(provider.reads() > 100);
}

#[tokio::test(start_paused = true)]
async fn a_document_without_keys_does_not_replace_the_last_set() {
    let provider = Provider::default();
    provider.answer("ed");
    let verifier = start(&provider);
    let test = async {
        assert_eq!(user(&verifier, token("EdDSA")).await, Ok("42".to_owned()));
        provider.answers.lock().unwrap().push_back(Ok(r#"{"keys":[]}"#.to_owned()));
        tokio::time::sleep(Duration::from_mins(9)).await;
        assert_eq!(user(&verifier, token("EdDSA")).await, Ok("42".to_owned()));
    };
    beside(&verifier, test).await;
    assert!(provider.reads() > 1);
}

#[tokio::test(start_paused = true)]
async fn a_token_without_a_key_id_tries_all_keys() {
    let provider = Provider::default();
    provider.answer("p256");
    provider.answer("ed");
    let verifier = start(&provider);
    let test = async {
        assert_eq!(user(&verifier, token("ES256")).await, Ok("42".to_owned()));
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert_eq!(user(&verifier, fixtures::NO_KEY_ID).await, Ok("42".to_owned()));
    };
    beside(&verifier, test).await;
}

#[tokio::test(start_paused = true)]
async fn without_the_reading_task_a_token_waits_no_longer_than_its_limit() {
    let verifier = start(&Provider::default());
    assert_eq!(user(&verifier, token("EdDSA")).await, Err(TokenError::KeysUnavailable));
}

#[tokio::test(start_paused = true)]
async fn forged_tokens_cause_no_read() {
    let provider = Provider::default();
    provider.answer("ed");
    let verifier = start(&provider);
    let test = async {
        let (text, signature) = token("EdDSA").rsplit_once('.').unwrap();
        let first = if signature.starts_with('A') { "B" } else { "A" };
        let forged = format!("{text}.{first}{}", &signature[1..]);
        for _ in 0..3 {
            tokio::time::sleep(Duration::from_secs(11)).await;
            assert_eq!(user(&verifier, &forged).await, Err(TokenError::Signature));
        }
    };
    beside(&verifier, test).await;
    assert_eq!(provider.reads(), 1);
}

#[test]
fn requires_issuer_or_audience() {
    use super::super::super::jwt::{JwtRules, JwtVerifier, KeySet};
    let verifier = JwtVerifier::new(JwtRules::default(), KeySet::default()).unwrap();
    let error = JwksVerifier::new(&verifier, JwksSettings::default(), Box::new(Provider::default())).err();
    assert_eq!(error, Some(JwksSettingsError::Unbound));
}

//! Keys of the HTTP API: valid and invalid sections, warnings.

use super::bad_files::assert_errors;
use super::load;
use crate::auth::api_key::{ApiMethod, ApiPermissions, Scope};

/// A valid key except for what a test adds; the next line is 4.
const KEY: &str = "[[api_key]]\nname = \"a\"\nscopes = \"read\"\n";

#[test]
fn a_key_has_scopes_and_namespaces() {
    let text = "[[api_key]]\nname = \"a\"\nsecret = [\"first-secret-of-the-api\", \"second-secret-of-the-api\"]\n\
                scopes = [\"publish\", \"admin\"]\nnamespaces = [\"n*\"]\n\
                [[namespace]]\nname = \"n\"\nchannels = [\"c\"]\n";
    let config = load(text).unwrap();
    assert!(config.has_api_key() && config.api_key.is_none() && config.warnings.is_empty());
    let permissions = config.api_keys[0].permissions();
    let expected = ApiPermissions::new("a", &[Scope::Publish, Scope::Admin], Some(&["n*".to_owned()]));
    assert_eq!(permissions, expected);
    assert!(permissions.check_method(ApiMethod::History).is_err());
    let shown = config.to_toml();
    assert!(shown.contains("secret = [\"***\", \"***\"]") && !shown.contains("secret-of-the-api"), "{shown}");
}

#[test]
fn a_namespace_that_does_not_exist_is_a_warning() {
    let text = format!("{KEY}secret = \"first-secret-of-the-api\"\nnamespaces = \"chat\"\n");
    assert_eq!(load(&text).unwrap().warnings, ["api_key `a`: no namespace matches \"chat\""]);
}

#[test]
fn rejects_invalid_keys() {
    let secret = "secret = \"first-secret-of-the-api\"\n";
    let other = "[[api_key]]\nname = \"b\"\nscopes = \"read\"\n";
    let rows = [
        (KEY.to_owned(), "1: api_key: missing the secret: set `secret_file`"),
        (
            format!("{KEY}secret = \"short\""),
            "4: api_key.secret: a secret has fewer than 16 characters (openssl rand -hex 32)",
        ),
        (
            format!("{KEY}secret = \"with a space in the middle\""),
            "4: api_key.secret: expected visible ASCII characters without spaces, because a key is sent in an HTTP \
             header",
        ),
        (
            format!("{KEY}{secret}namespaces = []"),
            "5: api_key.namespaces: empty list: for all namespaces, omit it",
        ),
        (
            format!("{KEY}{secret}{KEY}secret = \"second-secret-of-the-api\""),
            "6: api_key.name: another [[api_key]] has the same name",
        ),
        (
            format!("{KEY}{secret}{other}{secret}"),
            "8: api_key.secret: a secret occurs twice; the other one is of the key `a`",
        ),
        (
            format!("[[api_key]]\nname = \"a b\"\nscopes = [\"write\"]\n{secret}"),
            "2: api_key.name: expected a name of 1 to 64 characters: letters (a-z, A-Z), digits, `-` and `_`\n\
             earshot.toml:3: api_key.scopes: expected \"publish\" or \"read\" or \"admin\", found \"write\"",
        ),
        (
            format!("[[api_key]]\n{secret}"),
            "1: api_key: missing `name`: the log names the key by it\n\
             earshot.toml:1: api_key: missing `scopes`: a key without one permits nothing",
        ),
    ];
    assert_errors(rows);
}

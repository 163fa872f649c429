//! `[hooks]`.

use std::time::Duration;

use super::super::*;
use super::load;
use crate::hooks::{HookEvent, HookLimits};

const HOOKED: &str =
    "[[namespace]]\nname = \"a\"\nchannels = [\"a\"]\nsubscribe = \"hook\"\npublish = \"hook\"\n";

#[test]
fn reads_hooks() {
    let config = load(&format!(
        "{HOOKED}[hooks]\nsubscribe = \"https://backend.example/s?a=b\"\npublish = \"http://localhost:3000/p\"\n\
         timeout = \"1s\"\ncache = \"0s\"\non_error = \"allow\"\nheaders = [\"X-Request-Id\"]\ncookies = [\"sid\"]\n\
         secret = \"a secret of 16 bytes\"\n",
    ))
    .unwrap();
    let hooks = &config.hooks;
    let url = |event| hooks.urls.of(event).map(ToString::to_string);
    assert_eq!(url(HookEvent::Subscribe).unwrap(), "https://backend.example/s?a=b");
    assert_eq!(
        (url(HookEvent::Publish).unwrap().as_str(), url(HookEvent::Rpc)),
        ("http://localhost:3000/p", None)
    );
    assert_eq!((hooks.limits.timeout, hooks.limits.cache), (Duration::from_secs(1), Duration::ZERO));
    assert_eq!((hooks.forwarded.headers.len(), &*hooks.forwarded.cookies), (1, &["sid".to_owned()][..]));
    assert!(hooks.load_keys().unwrap().is_some() && config.namespaces[0].access.permits_without_hook);
    assert!(!config.to_toml().contains("16 bytes"));
    let again = load(&config.to_toml().replace("\"***\"", "\"a secret of 16 bytes\"")).unwrap();
    assert_eq!((&again.hooks.urls, &again.hooks.forwarded), (&hooks.urls, &hooks.forwarded));
}

#[test]
fn there_is_no_hook_by_default() {
    let config = load("").unwrap();
    assert!(config.hooks.urls.is_empty() && config.hooks.on_error == OnHookError::Deny);
    assert_eq!(config.hooks.limits, HookLimits::default());
    let strict =
        load(&format!("{HOOKED}[hooks]\nsubscribe = \"https://b/\"\npublish = \"https://b/\"")).unwrap();
    assert!(!strict.namespaces[0].access.permits_without_hook);
}

#[test]
fn rejects_invalid_hooks() {
    for (text, expected) in [
        (
            "subscribe = \"backend/hooks\"",
            "2: hooks.subscribe: \"backend/hooks\" is not an http(s) URL with a host",
        ),
        ("rpc = \"http://backend/hooks\"", "2: hooks.rpc: \"http://backend/hooks\" is not https"),
        ("rpc = \"http://backend/hooks\"", "; on a trusted network, set `allow_http = true`"),
        ("rpc = \"https://user:pw@backend/\"", "2: hooks.rpc: "),
        ("on_error = \"maybe\"", "2: hooks.on_error: expected \"deny\" or \"allow\", found \"maybe\""),
        (
            "headers = [\"a b\"]",
            "2: hooks.headers: expected a header field such as \"X-Request-Id\", found \"a b\"",
        ),
        ("headers = [\"Cookie\"]", "2: hooks.headers: cookies are forwarded by name: list them in `cookies`"),
        ("headers = [\"Host\"]", "2: hooks.headers: host belongs to the request of the gateway"),
        ("headers = [\"X-Earshot-Signature\"]", "2: hooks.headers: x-earshot-signature belongs to"),
        (
            "cookies = [\"a;b\"]",
            "2: hooks.cookies: expected the name of a cookie such as \"sid\", found \"a;b\"",
        ),
        ("secret = \"short\"", "2: hooks.secret: a secret has fewer than 16 bytes"),
        ("timeout = \"0s\"", "2: hooks.timeout: \"0s\" is out of range: 100ms to 1m"),
        ("connect_url = \"https://b/\"", "2: hooks.connect_url: unknown"),
    ] {
        let error = load(&format!("[hooks]\n{text}")).unwrap_err();
        assert!(error.contains(expected), "{text}: {error}");
    }
    assert!(load("[hooks]\nrpc = \"http://backend/hooks\"\nallow_http = true").is_ok());
}

#[test]
fn a_login_by_the_hook_requires_its_url_and_reverse() {
    let login = "[[login]]\nkind = \"hook\"\n";
    let config = load(&format!("{login}[hooks]\nconnect = \"https://b/\"")).unwrap();
    assert!(config.hooks.urls.of(HookEvent::Connect).is_some() && load(&config.to_toml()).is_ok());
    let error = load(login).unwrap_err();
    assert!(
        error.contains("missing `connect`, the URL of the hook: a [[login]] has kind = \"hook\""),
        "{error}"
    );
    let error = load("[hooks]\nconnect = \"https://b/\"").unwrap_err();
    assert!(error.contains("2: hooks.connect: has no effect: no [[login]] has kind = \"hook\""), "{error}");
    let error = load(&format!("{login}{login}[hooks]\nconnect = \"https://b/\"")).unwrap_err();
    assert!(error.contains("duplicate \"hook\""), "{error}");
    let error = load(&format!("{login}cookie = \"sid\"\n[hooks]\nconnect = \"https://b/\"")).unwrap_err();
    assert!(error.contains("does not apply to kind = \"hook\""), "{error}");
}

#[test]
fn a_namespace_with_a_hook_requires_its_url() {
    let error = load(HOOKED).unwrap_err();
    assert!(
        error.contains("missing `subscribe`, the URL of the hook: namespace `a` has subscribe = \"hook\""),
        "{error}"
    );
    let error = load(&format!("{HOOKED}[hooks]\nsubscribe = \"https://b/\"")).unwrap_err();
    assert!(error.contains("missing `publish`") && !error.contains("missing `subscribe`"), "{error}");
    let error = load(&HOOKED.replace("publish = \"hook\"", "read_history = \"hook\"")).unwrap_err();
    assert!(error.contains("read_history: expected \"nobody\" or"), "{error}");
}

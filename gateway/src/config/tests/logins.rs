//! Logins: valid and invalid files, placeholders, Redis instances, warnings.

use std::path::PathBuf;

use super::super::*;
use super::{load, load_with};
use crate::auth::session::SessionKind;

/// A Redis instance and a login; further keys start on line 4.
pub(super) const SESSION: &str = "redis.default.url = \"redis://h\"\n\n[[login]]\n";

/// A namespace on that instance.
const NAMESPACE: &str = "[[namespace]]\nname = \"n\"\nchannels = [\"c\"]\n";

/// A key of Laravel.
const APP_KEY: &str = "base64:BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=";

fn logins(keys: &str) -> Vec<LoginMethod> {
    load(&format!("{SESSION}{keys}")).unwrap().logins
}

fn session(keys: &str) -> SessionLoginConfig {
    match logins(keys).remove(0) {
        LoginMethod::Session(login) => login,
        other => panic!("{other:?}"),
    }
}

fn jwt(keys: &str) -> JwtLoginConfig {
    match logins(&format!("kind = \"jwt\"\n{keys}")).remove(0) {
        LoginMethod::Jwt(login) => login,
        other => panic!("{other:?}"),
    }
}

/// A file in a directory of its own.
fn file(content: &str) -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file");
    std::fs::write(&path, content).unwrap();
    (directory, path)
}

/// A key with a path as a literal string, which has no escapes.
fn path_key(key: &str, path: &std::path::Path) -> String {
    format!("{key} = '{}'\n", path.display())
}

#[test]
fn a_session_has_the_defaults_of_its_kind() {
    for kind in SessionKind::ALL {
        let keys = match kind {
            SessionKind::Laravel => format!("secret = \"{APP_KEY}\""),
            SessionKind::Exists => "cookie = \"c\"\nkey = \"s:{sid}\"".to_owned(),
            SessionKind::Plain | SessionKind::Fastify => {
                let secret = if kind.is_signed() { "secret = \"s\"\n" } else { "" };
                format!("{secret}user = \"/user\"")
            }
            kind if kind.is_signed() => "secret = \"s\"".to_owned(),
            _ => String::new(),
        };
        let login = session(&format!("kind = \"{kind}\"\n{keys}"));
        assert_eq!((login.settings.kind, login.redis.as_str()), (kind, "default"));
        assert_eq!(matches!(login.secrets, SecretSource::None), !kind.is_signed(), "{kind}");
        assert!(login.format().is_ok() && login.load_secrets().is_ok(), "{kind}");
    }
}

#[test]
fn every_key_of_a_session_is_read() {
    let login = session(
        "kind = \"plain\"\ncookie = \"c\"\nkey = \"k:{sid}\"\nuser = \"/u\"\nfields = { tenant = \"/t\", roles = \"/r\" }\n\
         hash = true\nredis = \"default\"",
    );
    let settings = &login.settings;
    assert_eq!((settings.cookie.as_deref(), settings.key.as_deref()), (Some("c"), Some("k:{sid}")));
    assert_eq!((settings.user.as_deref(), settings.is_hash), (Some("/u"), true));
    let fields: Vec<_> = settings.fields.iter().map(|(name, pointer)| (&**name, &**pointer)).collect();
    assert_eq!(fields, [("roles", "/r"), ("tenant", "/t")]);
    let login = session("kind = \"exists\"\ncookie = \"c\"\nkey = \"k:{sid}\"\nuser_key = \"u:{sid}\"");
    assert_eq!(login.settings.user_key.as_deref(), Some("u:{sid}"));
}

#[test]
fn secrets_are_inline_or_in_a_file() {
    let (_directory, path) = file("new\n\n old \n");
    let exposed = |source: &SecretSource| {
        source.load().unwrap().iter().map(|secret| secret.expose().to_owned()).collect::<Vec<_>>()
    };
    let inline = session("kind = \"express\"\nsecret = [\"new\", \"old\"]").secrets;
    assert_eq!(exposed(&inline), ["new", "old"]);
    let login = session(&format!("kind = \"express\"\n{}", path_key("secret_file", &path)));
    assert!(matches!(&login.secrets, SecretSource::File(found) if *found == path));
    assert_eq!(exposed(&login.secrets), ["new", "old"]);
    // The content is not kept.
    std::fs::write(&path, "newest\n").unwrap();
    assert_eq!(exposed(&login.secrets), ["newest"]);
    std::fs::write(&path, "\n").unwrap();
    let error = login.load_secrets().unwrap_err();
    assert!(error.ends_with("file: empty; expected one secret a line, newest first"), "{error}");
}

#[test]
fn a_token_has_rules_and_keys() {
    let public = rcgen::generate_simple_self_signed(["h".to_owned()]).unwrap().signing_key.public_key_pem();
    let (_public, public) = file(&public);
    let (_secrets, secrets) = file("new\nold\n");
    let files = path_key("hmac_secret_file", &secrets) + &path_key("public_key_file", &public);
    let login = jwt(&format!(
        "{files}jwks_url = \"https://id.example/jwks\"\nissuer = \"i\"\naudience = [\"a\", \"b\"]\nuser_claim = \"/u/id\"\n\
         fields = {{ tenant = \"/t\" }}\nleeway = \"0s\""
    ));
    assert_eq!((login.rules.issuer.as_deref(), login.rules.leeway), (Some("i"), 0));
    assert_eq!(
        (&*login.rules.audiences, &*login.rules.user_claim),
        (&["a", "b"].map(String::from)[..], "/u/id")
    );
    assert_eq!(login.jwks_url.as_ref().map(ToString::to_string).as_deref(), Some("https://id.example/jwks"));
    assert_eq!(login.load_keys().unwrap().keys().len(), 3);
    assert!(login.load_verifier().is_ok());
    let login = jwt("hmac_secret = \"s\"");
    assert_eq!((&*login.rules.user_claim, login.rules.leeway, login.jwks_url), ("sub", 10, None));
}

#[test]
fn a_ticket_has_a_secret_and_optionally_a_redis() {
    let ticket =
        |keys: &str| match logins(&format!("kind = \"ticket\"\nsecret = \"a-secret-of-tickets\"\n{keys}"))
            .remove(0)
        {
            LoginMethod::Ticket(login) => login,
            other => panic!("{other:?}"),
        };
    let login = ticket("");
    assert!(login.redis.is_none() && login.load_keys().is_ok());
    let login = ticket("redis = \"default\"");
    assert_eq!((login.redis.as_deref(), login.key_prefix.as_str()), (Some("default"), "earshot:"));
    assert_eq!(ticket("redis = \"default\"\nkey_prefix = \"app:\"").key_prefix, "app:");
}

#[test]
fn logins_keep_their_order() {
    let text =
        "kind = \"anonymous\"\n[[login]]\nkind = \"django\"\n[[login]]\nkind = \"jwt\"\nhmac_secret = \"s\"";
    let kinds: Vec<_> = logins(text).iter().map(LoginMethod::kind).collect();
    assert_eq!(kinds, ["anonymous", "django", "jwt"]);
    assert!(load("").unwrap().logins.is_empty());
}

#[test]
fn fields_of_all_logins_are_placeholders() {
    let fields = "kind = \"django\"\nfields = { tenant = \"/t\" }\n[[login]]\nkind = \"jwt\"\nhmac_secret = \"s\"\nfields = { team = \"/t\" }\n";
    let space = "[[namespace]]\nname = \"n\"\nchannels = [\"{team}:x\", \"{nest}:{tenant}:{user}\"]\n";
    let config = load(&format!("{SESSION}{fields}{space}")).unwrap();
    let names = |index: usize| {
        let template = config.namespaces[0].channels[index].template().unwrap();
        template.placeholders().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!((names(0), names(1)), (vec!["team".to_owned()], texts(&["tenant", "user"])));
    let without = load(&format!("{SESSION}kind = \"django\"\n{space}")).unwrap();
    assert!(without.namespaces[0].channels[0].template().is_none());
}

fn texts(texts: &[&str]) -> Vec<String> {
    texts.iter().map(ToString::to_string).collect()
}

#[test]
fn an_instance_of_a_login_only_is_separate() {
    let redis = "redis.a.url = \"redis://a\"\nredis.b.url = \"redis://b\"\nredis.c.url = \"redis://c\"\n";
    let login = "[[login]]\nkind = \"django\"\nredis = \"b\"\n";
    let names = |list: &[RedisInstance]| list.iter().map(|redis| redis.name.clone()).collect::<Vec<_>>();
    let config = load(&format!("{redis}{login}{NAMESPACE}redis = \"a\"\n")).unwrap();
    assert_eq!((names(&config.redis), names(&config.login_redis)), (texts(&["a"]), texts(&["b"])));
    // `earshot check` checks both, and publishes no probe where only sessions are read.
    let probed = |name: &str| {
        config
            .servers()
            .into_iter()
            .find(|server| server.name == name)
            .map(|server| server.plan.probe_prefix.is_some())
    };
    assert_eq!((probed("a"), probed("b")), (Some(true), Some(false)));
    assert_eq!(names(&config.unused_redis), ["c"]);
    let unused = "redis `c` is unused: no namespace and no login uses it";
    let unrevocable = "the API cannot revoke a login: no Redis instance is chosen: name one in [revocation]";
    assert_eq!(config.warnings, [unused, unrevocable]);
    // An instance that holds revocations counts as an instance of logins.
    let found = |name| config.redis_instance(name).map(|redis| redis.url.to_string());
    assert_eq!((found("a").is_some(), found("b").is_some(), found("c")), (true, true, None));
    let revocation = "[revocation]\nredis = \"c\"\n";
    let config = load(&format!("{redis}{revocation}{login}{NAMESPACE}redis = \"a\"\n")).unwrap();
    assert_eq!((names(&config.login_redis), config.warnings.len()), (texts(&["b", "c"]), 0));
    // An instance of a namespace is not started twice.
    let config = load(&format!("{redis}{login}{NAMESPACE}redis = \"b\"\n")).unwrap();
    assert_eq!((names(&config.redis), config.login_redis.len()), (texts(&["b"]), 0));
    // An instance that only a login uses needs no namespace.
    let config = load(&format!("redis.b.url = \"redis://b\"\n{login}")).unwrap();
    assert_eq!((config.redis.len(), names(&config.login_redis)), (0, texts(&["b"])));
    let open = [("EARSHOT_OPEN_CHANNELS", "demo")];
    let error = load_with(&format!("redis.b.url = \"redis://b\"\n{login}"), &open, &[]).unwrap_err();
    assert!(error.starts_with("EARSHOT_OPEN_CHANNELS: its channels use the redis `default`"), "{error}");
}

#[test]
fn a_rule_that_no_login_meets_is_a_warning() {
    let space = format!(
        "{NAMESPACE}subscribe = [\"anyone\", \"authenticated\"]\npublish = \"token\"\nread_history = \"anyone\"\n"
    );
    let users =
        "namespace `n`: subscribe = \"authenticated\" applies to no client: no [[login]] identifies users";
    let tokens = "namespace `n`: publish = \"token\" applies to no client: no [[login]] has kind = \"jwt\" or \"ticket\"";
    for (login, warnings) in [
        ("", &[users, tokens][..]),
        ("[[login]]\nkind = \"anonymous\"\n", &[users, tokens]),
        ("[[login]]\nkind = \"django\"\n", &[tokens]),
        ("[[login]]\nkind = \"jwt\"\nhmac_secret = \"s\"\n", &[]),
    ] {
        let config = load(&format!("redis.default.url = \"redis://h\"\n{login}{space}")).unwrap();
        assert_eq!(config.warnings, warnings, "{login}");
    }
}

#[test]
fn the_dump_of_logins_loads_as_the_same() {
    let (_directory, path) = file("s\n");
    let secret_file = path_key("secret_file", &path);
    let hmac = path_key("hmac_secret_file", &path);
    for keys in [
        format!("kind = \"express\"\n{secret_file}fields = {{ a-b = \"/~0 '\\\"é\", _ = \"/\" }}"),
        "kind = \"plain\"\nuser = \"/u\"\nhash = true".to_owned(),
        "kind = \"spring\"\ncookie = \"S\"".to_owned(),
        "kind = \"exists\"\ncookie = \"c\"\nkey = \"k:{sid_sha256}\"\nuser_key = \"u:{sid}\"".to_owned(),
        format!(
            "kind = \"jwt\"\n{hmac}issuer = \"i\"\naudience = \"a\"\nfields = {{ a = \"/b\" }}\nleeway = \"5m\""
        ),
        format!(
            "kind = \"jwt\"\n{hmac}jwks_url = \"https://h\"\naudience = [\"a\", \"b\"]\nuser_claim = \"/u\""
        ),
        "kind = \"anonymous\"".to_owned(),
    ] {
        let config = load(&format!("{SESSION}{keys}")).unwrap();
        let shown = config.to_toml();
        let again = load(&shown).unwrap_or_else(|error| panic!("{error}\n{shown}"));
        assert_eq!(again.to_toml(), shown);
        assert_eq!(format!("{:?}", again.logins.len()), "1");
    }
}

#[test]
fn secrets_are_not_shown() {
    let keys = "kind = \"express\"\nsecret = [\"hunter2\", \"hunter22\"]\n[[login]]\nkind = \"jwt\"\nhmac_secret = \"hunter2\"";
    let config = load(&format!("{SESSION}{keys}")).unwrap();
    let shown = config.to_toml();
    assert!(
        shown.contains("secret = [\"***\", \"***\"]\n") && shown.contains("hmac_secret = \"***\"\n"),
        "{shown}"
    );
    assert!(!shown.contains("hunter2") && !format!("{config:?}").contains("hunter2"));
    for keys in [
        "kind = \"express\"\nsecret = \"hunter2 \"",
        "kind = \"express\"\nsecret = [\"hunter2\\n\"]",
        "kind = \"express\"\nsecret = { a = \"hunter2\" }",
        "kind = \"laravel\"\nsecret = \"hunter2\"",
        "kind = \"django\"\nsecret = \"hunter2\"",
        "kind = \"jwt\"\nhmac_secret = \"-----BEGIN hunter2\"",
        "kind = \"jwt\"\nsecret = \"hunter2\"",
        "kind = \"hunter\"\nsecret = \"hunter2\"",
    ] {
        let error = load(&format!("{SESSION}{keys}")).map(|_| ()).unwrap_err();
        assert!(!error.contains("hunter2"), "{error}");
    }
}

//! Settings of a Redis instance: URLs and their parts, passwords, TLS, Sentinels, and their conflicts.

use std::path::Path;

use tempfile::TempDir;

use super::bad_files::assert_errors;
use super::{load, load_with};

/// Loads only variables, and returns the resulting URL.
fn url(variables: &[(&str, &str)]) -> String {
    load_with("", variables, &[]).unwrap().redis.remove(0).url.expose().to_owned()
}

#[test]
fn a_url_can_be_set_in_parts() {
    assert_eq!(url(&[("REDIS_HOST", "h")]), "redis://h:6379/0");
    let parts = [
        ("REDIS_HOST", "::1"),
        ("REDIS_PORT", "6380"),
        ("REDIS_PASSWORD", "a@b/c#%41 \"d"),
        ("REDIS_DB", "2"),
        ("REDIS_TLS", "true"),
    ];
    let config = load_with("", &parts, &[]).unwrap();
    assert_eq!(config.redis[0].url.to_string(), "rediss://***@[::1]:6380/2");
    let read = earshot_redis_link::address::Address::parse(config.redis[0].url.expose()).unwrap();
    assert_eq!(read.password.as_deref(), Some("a@b/c#%41 \"d"), "as it was set");
    let user = [("REDIS_HOST", "h"), ("REDIS_USERNAME", "bob"), ("REDIS_PASSWORD", "pw")];
    assert_eq!(url(&user), "redis://bob:pw@h:6379/0");
}

#[test]
fn parts_supply_what_a_url_omits() {
    let parts = [("REDIS_URL", "redis://h"), ("REDIS_HOST", "H"), ("REDIS_PORT", "1"), ("REDIS_DB", "3")];
    assert_eq!(url(&parts), "redis://h:1/3");
    assert_eq!(url(&[("REDIS_URL", "redis://h:6379/0"), ("REDIS_PORT", "6379")]), "redis://h:6379/0");
    let file = "redis.default.url = \"redis://file:7\"";
    let config = load_with(file, &[("REDIS_PASSWORD", "pw")], &[]).unwrap();
    assert_eq!(config.redis[0].url.expose(), "redis://:pw@file:7/0");
    let config = load_with(file, &[("REDIS_HOST", "env")], &[]).unwrap();
    assert_eq!(config.redis[0].url.expose(), "redis://env:6379/0", "another host is another server");
}

#[test]
fn rejects_conflicting_parts() {
    let full = ("REDIS_URL", "redis://bob:hunter2@h:1/2");
    for (variable, what) in [
        (("REDIS_HOST", "other"), "REDIS_HOST: conflicts with the host in REDIS_URL: unset one of them"),
        (("REDIS_PORT", "2"), "REDIS_PORT: conflicts with the port in REDIS_URL: unset one of them"),
        (
            ("REDIS_USERNAME", "eve"),
            "REDIS_USERNAME: conflicts with the user in REDIS_URL: unset one of them",
        ),
        (
            ("REDIS_PASSWORD", "hunter3"),
            "REDIS_PASSWORD: conflicts with the password in REDIS_URL: unset one of them",
        ),
        (("REDIS_DB", "0"), "REDIS_DB: conflicts with the database in REDIS_URL: unset one of them"),
        (("REDIS_DB", "x"), "REDIS_DB: expected a database number, such as 0"),
        (("REDIS_PORT", "0"), "REDIS_PORT: expected a port: a number from 1 to 65535"),
        (("REDIS_TLS", "maybe"), "REDIS_TLS: expected true or false"),
        (("REDIS_HOST", "h:1"), "REDIS_HOST: must not contain a port; set the port separately"),
    ] {
        assert_eq!(load_with("", &[full, variable], &[]).map(|_| ()).unwrap_err(), what);
    }
    for (variables, what) in [
        (
            &[("REDIS_URL", "rediss://h"), ("REDIS_TLS", "false")][..],
            "REDIS_TLS: conflicts with rediss:// in REDIS_URL",
        ),
        (&[("REDIS_URL", "unix:///a"), ("REDIS_TLS", "1")], "REDIS_TLS: a Unix socket cannot use TLS"),
        (
            &[("REDIS_URL", "redis://h?ssl_cert_reqs=required")],
            "REDIS_URL: `ssl_cert_reqs` requires TLS: use rediss:// instead of redis://",
        ),
        (
            &[("REDIS_HOST", "h"), ("REDIS_USERNAME", "bob")],
            "REDIS_USERNAME: requires a password: set REDIS_PASSWORD",
        ),
        (
            &[("REDIS_PASSWORD", "hunter2")],
            "REDIS_PASSWORD: no Redis instance is configured: set REDIS_URL, or add [redis.default]",
        ),
    ] {
        assert_eq!(load_with("", variables, &[]).map(|_| ()).unwrap_err(), what);
    }
}

#[test]
fn ignores_the_port_variable_of_kubernetes() {
    let variables = [("REDIS_URL", "redis://h"), ("REDIS_PORT", "tcp://10.0.0.1:6379")];
    assert_eq!(url(&variables), "redis://h");
    assert!(load_with("", &variables[1..], &[]).unwrap().redis.is_empty());
}

#[test]
fn tls_can_be_set_outside_the_url() {
    let with_tls = "redis.default = { url = \"redis://h?ssl_cert_reqs=required\", pubsub_url = \"redis://p\", tls = true }";
    let config = load(with_tls).unwrap();
    assert_eq!(config.redis[0].url.to_string(), "rediss://h:6379/0");
    assert_eq!(config.redis[0].pubsub_url.as_ref().unwrap().expose(), "rediss://p:6379/0");
    let config = load_with("", &[("REDIS_URL", "redis://h"), ("REDIS_TLS", "true")], &[]).unwrap();
    assert_eq!(config.redis[0].url.expose(), "rediss://h:6379/0");
    assert_eq!(config.sources.to_string(), "REDIS_URL, REDIS_TLS");
}

/// A directory with a password, a CA, and a certificate with its key.
fn files() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    let own = rcgen::generate_simple_self_signed(["h".to_owned()]).unwrap();
    let other = rcgen::KeyPair::generate().unwrap();
    for (name, content) in [
        ("password", "hunter2\n"),
        ("empty", "\n"),
        ("own.pem", &own.cert.pem()),
        ("own.key", &own.signing_key.serialize_pem()),
        ("other.key", &other.serialize_pem()),
    ] {
        std::fs::write(directory.path().join(name), content).unwrap();
    }
    directory
}

/// The default instance with these keys, which start on line 3; `@name` is a file.
fn with(directory: &Path, keys: &str) -> String {
    let keys = keys.replace('@', &format!("{}/", directory.display()));
    format!("[redis.default]\nurl = \"redis://h\"\n{keys}")
}

#[test]
fn files_are_checked_at_load_and_stored_by_path() {
    let directory = files();
    let keys = "username = \"bob\"\npassword_file = \"@password\"\ntls = true\nca_file = \"@own.pem\"\n\
                cert_file = \"@own.pem\"\nkey_file = \"@own.key\"\nserver_name = \"redis.internal\"\n";
    let config = load(&with(directory.path(), keys)).unwrap();
    let shown = format!("{config:?}{}", config.to_toml());
    assert!(!shown.contains("hunter2"), "{shown}");
    assert_eq!(config.redis[0].auth.username.as_deref(), Some("bob"));
    let again = load(&config.to_toml()).unwrap();
    assert_eq!((&again.redis[0].tls, &again.redis[0].auth), (&config.redis[0].tls, &config.redis[0].auth));
    assert_eq!(again.to_toml().replace("# Effective", ""), config.to_toml().replace("# Effective", ""));
}

#[test]
fn rejects_conflicting_keys() {
    let directory = files();
    let path = |name: &str| directory.path().join(name).display().to_string();
    let none = format!("{} cannot be read: No such file or directory (os error 2)", path("none"));
    let rows = [
        ("ca_file = \"@own.pem\"", "3: redis.default.ca_file: requires TLS: use rediss:// in the `url`, or tls = true".to_owned()),
        ("tls = true\nca_file = \"@none\"", format!("4: redis.default.ca_file: {none}")),
        (
            "tls = true\nca_file = \"@password\"",
            format!("4: redis.default.ca_file: {} contains no certificate in PEM format", path("password")),
        ),
        ("password_file = \"@none\"", format!("3: redis.default.password_file: {none}")),
        (
            "password_file = \"@empty\"",
            format!("3: redis.default.password_file: {} is empty; expected a password", path("empty")),
        ),
        (
            "tls = true\ncert_file = \"@own.pem\"",
            "4: redis.default.cert_file: requires `key_file`, too".to_owned(),
        ),
        (
            "tls = true\ncert_file = \"@own.pem\"\nkey_file = \"@other.key\"",
            format!(
                "4: redis.default.cert_file: the certificate {} and the key {} do not match: keys may not be \
                 consistent: KeyMismatch",
                path("own.pem"),
                path("other.key")
            ),
        ),
        (
            "tls = true\nca_file = \"@own.pem\"\ninsecure_skip_verify = true",
            "5: redis.default.insecure_skip_verify: conflicts with `ca_file` and `server_name`, which have no effect without \
             verification: remove this key"
                .to_owned(),
        ),
        ("username = \"bob\"", "3: redis.default.username: requires a password: set `password_file`".to_owned()),
        (
            "tls = true\nserver_name = \"a b\"",
            "4: redis.default.server_name: expected a host name or an IP address".to_owned(),
        ),
        (
            "database = 1",
            "3: redis.default.database: requires `sentinels`; with a `url`, the database is part of it: redis://host:port/0"
                .to_owned(),
        ),
        (
            "sentinel_master = \"m\"",
            "3: redis.default.sentinel_master: requires `sentinels`, such as sentinels = [\"10.0.0.1:26379\", \
             \"10.0.0.2:26379\"]"
                .to_owned(),
        ),
        (
            "sentinels = \"s\"\nsentinel_master = \"m\"",
            "2: redis.default.url: conflicts with `sentinels`, which provide the address: remove it".to_owned(),
        ),
    ];
    assert_errors(rows.iter().map(|(keys, what)| (with(directory.path(), keys), what.as_str())));
    let file = directory.path().join("password");
    let twice = format!(
        "[redis.default]\nurl = \"redis://:hunter2@h\"\npassword_file = {:?}\n",
        file.display().to_string()
    );
    assert_errors([(
        twice,
        "3: redis.default.password_file: conflicts with the password in the URL (or REDIS_PASSWORD): use only one",
    )]);
}

#[test]
fn disabled_verification_causes_a_warning() {
    let config = load("redis.default = { url = \"rediss://h\", insecure_skip_verify = true }").unwrap();
    assert!(config.redis[0].tls.insecure_skip_verify);
    assert!(
        config.warnings[0].contains("certificates are not verified (insecure_skip_verify)"),
        "{:?}",
        config.warnings
    );
    let error =
        load_with("", &[("REDIS_URL", "rediss://h?ssl_cert_reqs=none")], &[]).map(|_| ()).unwrap_err();
    assert!(error.contains("`insecure_skip_verify = true` in [redis.NAME]"), "{error}");
}

const SENTINELS: &str =
    "[redis.default]\nsentinels = [\"a\", \"[::1]:7\"]\nsentinel_master = \"my-master.1\"\n";

#[test]
fn sentinels_replace_the_url() {
    let config = load_with(SENTINELS, &[("REDIS_PASSWORD", "hunter2"), ("REDIS_DB", "2")], &[]).unwrap();
    let redis = &config.redis[0];
    let sentinel = redis.sentinel.as_ref().unwrap();
    assert_eq!(sentinel.addresses, [("a".to_owned(), 26379), ("::1".to_owned(), 7)]);
    assert_eq!((sentinel.master_name.as_str(), sentinel.tls), ("my-master.1", false));
    assert_eq!(redis.url.expose(), "redis://:hunter2@my-master.1:6379/2");
    let config = load(&format!("{SENTINELS}tls = true\ndatabase = 3\n")).unwrap();
    assert!(config.redis[0].sentinel.as_ref().unwrap().tls, "as the servers");
    assert_eq!(config.redis[0].url.expose(), "rediss://my-master.1:6379/3");
    let again = load(&config.to_toml()).unwrap();
    assert_eq!(again.redis[0].sentinel, config.redis[0].sentinel);
    assert_eq!(again.redis[0].url.expose(), config.redis[0].url.expose());
}

#[test]
fn rejects_a_server_in_the_environment_in_addition_to_sentinels() {
    for name in ["REDIS_URL", "REDIS_PUBSUB_URL", "REDIS_HOST", "REDIS_PORT"] {
        let value = if name.ends_with("URL") { "redis://h" } else { "1" };
        let error = load_with(SENTINELS, &[(name, value)], &[]).map(|_| ()).unwrap_err();
        let what = "conflicts with `sentinels` of [redis.default]: unset it";
        assert!(error.starts_with(&format!("{name}: {what}")), "{error}");
    }
    assert_errors([
        (
            "[redis.default]\nsentinels = [\"a\"]",
            "2: redis.default.sentinels: requires `sentinel_master`, the name of the primary in `sentinel monitor`",
        ),
        (
            "[redis.default]\nsentinels = [\"a\"]\nsentinel_master = \"a b\"",
            "3: redis.default.sentinel_master: expected letters (a-z, A-Z), digits, `.`, `-` and `_`",
        ),
    ]);
}

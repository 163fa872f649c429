//! What reaches a Redis: URLs and their parts, passwords, TLS, Sentinels; alone, together, and against each other.

use std::path::Path;

use tempfile::TempDir;

use super::bad_files::assert_told;
use super::{load, load_with};

/// Loads variables alone, and gives the URL that they make.
fn url(variables: &[(&str, &str)]) -> String {
    load_with("", variables, &[]).unwrap().redis.remove(0).url.expose().to_owned()
}

#[test]
fn a_url_may_come_in_parts() {
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
fn parts_fill_in_what_a_url_leaves_out() {
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
fn parts_that_contradict_are_refused() {
    let full = ("REDIS_URL", "redis://bob:hunter2@h:1/2");
    for (variable, what) in [
        (("REDIS_HOST", "other"), "REDIS_HOST: REDIS_URL says another server: unset one of them"),
        (("REDIS_PORT", "2"), "REDIS_PORT: REDIS_URL says another port: unset one of them"),
        (("REDIS_USERNAME", "eve"), "REDIS_USERNAME: REDIS_URL says another user: unset one of them"),
        (("REDIS_PASSWORD", "hunter3"), "REDIS_PASSWORD: REDIS_URL says another password: unset one of them"),
        (("REDIS_DB", "0"), "REDIS_DB: REDIS_URL says another database: unset one of them"),
        (("REDIS_DB", "x"), "REDIS_DB: is not the number of a database, such as 0"),
        (("REDIS_PORT", "0"), "REDIS_PORT: is not a port: a number from 1 to 65535"),
        (("REDIS_TLS", "maybe"), "REDIS_TLS: expected true or false"),
        (("REDIS_HOST", "h:1"), "REDIS_HOST: must not contain a port; set the port separately"),
    ] {
        assert_eq!(load_with("", &[full, variable], &[]).map(|_| ()).unwrap_err(), what);
    }
    for (variables, what) in [
        (
            &[("REDIS_URL", "rediss://h"), ("REDIS_TLS", "false")][..],
            "REDIS_TLS: REDIS_URL begins with rediss://, which is TLS: one of them",
        ),
        (
            &[("REDIS_URL", "unix:///a"), ("REDIS_TLS", "1")],
            "REDIS_TLS: a socket of this machine speaks no TLS",
        ),
        (
            &[("REDIS_URL", "redis://h?ssl_cert_reqs=required")],
            "REDIS_URL: `ssl_cert_reqs` needs TLS: rediss:// in the place of redis://",
        ),
        (
            &[("REDIS_HOST", "h"), ("REDIS_USERNAME", "bob")],
            "REDIS_USERNAME: needs a password: REDIS_PASSWORD",
        ),
        (
            &[("REDIS_PASSWORD", "hunter2")],
            "REDIS_PASSWORD: there is no instance it could belong to: set REDIS_URL, too, or write [redis.default]",
        ),
    ] {
        assert_eq!(load_with("", variables, &[]).map(|_| ()).unwrap_err(), what);
    }
}

#[test]
fn what_kubernetes_sets_for_a_service_called_redis_is_not_a_port() {
    let variables = [("REDIS_URL", "redis://h"), ("REDIS_PORT", "tcp://10.0.0.1:6379")];
    assert_eq!(url(&variables), "redis://h");
    assert!(load_with("", &variables[1..], &[]).unwrap().redis.is_empty());
}

#[test]
fn tls_may_be_asked_for_apart_from_the_url() {
    let with_tls = "redis.default = { url = \"redis://h?ssl_cert_reqs=required\", pubsub_url = \"redis://p\", tls = true }";
    let config = load(with_tls).unwrap();
    assert_eq!(config.redis[0].url.to_string(), "rediss://h:6379/0");
    assert_eq!(config.redis[0].pubsub_url.as_ref().unwrap().expose(), "rediss://p:6379/0");
    let config = load_with("", &[("REDIS_URL", "redis://h"), ("REDIS_TLS", "true")], &[]).unwrap();
    assert_eq!(config.redis[0].url.expose(), "rediss://h:6379/0");
    assert_eq!(config.origin.to_string(), "REDIS_URL, REDIS_TLS");
}

/// A directory with a password, an authority, and a certificate with its key.
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

/// The default instance with these keys, which begin on line 3; `@name` is a file.
fn with(directory: &Path, keys: &str) -> String {
    let keys = keys.replace('@', &format!("{}/", directory.display()));
    format!("[redis.default]\nurl = \"redis://h\"\n{keys}")
}

#[test]
fn files_are_looked_into_at_load_and_kept_by_name() {
    let directory = files();
    let keys = "username = \"bob\"\npassword_file = \"@password\"\ntls = true\nca_file = \"@own.pem\"\n\
                cert_file = \"@own.pem\"\nkey_file = \"@own.key\"\nserver_name = \"redis.internal\"\n";
    let config = load(&with(directory.path(), keys)).unwrap();
    let shown = format!("{config:?}{}", config.show());
    assert!(!shown.contains("hunter2"), "{shown}");
    assert_eq!(config.redis[0].sign_in.username.as_deref(), Some("bob"));
    let again = load(&config.show()).unwrap();
    assert_eq!(
        (&again.redis[0].tls, &again.redis[0].sign_in),
        (&config.redis[0].tls, &config.redis[0].sign_in)
    );
    assert_eq!(again.show().replace("# The", ""), config.show().replace("# The", ""));
}

#[test]
fn what_does_not_go_together_is_refused() {
    let directory = files();
    let path = |name: &str| directory.path().join(name).display().to_string();
    let none = format!("{} cannot be read: No such file or directory (os error 2)", path("none"));
    let rows = [
        ("ca_file = \"@own.pem\"", "3: redis.default.ca_file: needs TLS: rediss:// in the `url`, or `tls = true`".to_owned()),
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
            "4: redis.default.cert_file: a client certificate needs both: `key_file`, too".to_owned(),
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
            "5: redis.default.insecure_skip_verify: nothing is verified then: leave `ca_file` and `server_name` out, \
             or better this"
                .to_owned(),
        ),
        ("username = \"bob\"", "3: redis.default.username: needs a password: `password_file`".to_owned()),
        (
            "tls = true\nserver_name = \"a b\"",
            "4: redis.default.server_name: is no name that a certificate could be for".to_owned(),
        ),
        (
            "database = 1",
            "3: redis.default.database: stands in the `url`, such as redis://host:port/0; this key is for `sentinels`"
                .to_owned(),
        ),
        (
            "sentinel_master = \"m\"",
            "3: redis.default.sentinel_master: needs `sentinels`, such as sentinels = [\"10.0.0.1:26379\", \
             \"10.0.0.2:26379\"]"
                .to_owned(),
        ),
        (
            "sentinels = \"s\"\nsentinel_master = \"m\"",
            "2: redis.default.url: the Sentinels say where the server is: leave it out".to_owned(),
        ),
    ];
    assert_told(rows.iter().map(|(keys, what)| (with(directory.path(), keys), what.as_str())));
    let file = directory.path().join("password");
    let twice = format!(
        "[redis.default]\nurl = \"redis://:hunter2@h\"\npassword_file = {:?}\n",
        file.display().to_string()
    );
    assert_told([(
        twice,
        "3: redis.default.password_file: the URL has a password of its own (or REDIS_PASSWORD is set): one of them",
    )]);
}

#[test]
fn verification_is_switched_off_by_one_key_that_warns() {
    let config = load("redis.default = { url = \"rediss://h\", insecure_skip_verify = true }").unwrap();
    assert!(config.redis[0].tls.insecure_skip_verify);
    assert!(
        config.warnings[0].contains("no certificate is verified (insecure_skip_verify)"),
        "{:?}",
        config.warnings
    );
    let told = load_with("", &[("REDIS_URL", "rediss://h?ssl_cert_reqs=none")], &[]).map(|_| ()).unwrap_err();
    assert!(told.contains("`insecure_skip_verify = true` in [redis.NAME]"), "{told}");
}

const SENTINELS: &str =
    "[redis.default]\nsentinels = [\"a\", \"[::1]:7\"]\nsentinel_master = \"my-master.1\"\n";

#[test]
fn sentinels_stand_in_the_place_of_a_url() {
    let config = load_with(SENTINELS, &[("REDIS_PASSWORD", "hunter2"), ("REDIS_DB", "2")], &[]).unwrap();
    let redis = &config.redis[0];
    let sentinel = redis.sentinel.as_ref().unwrap();
    assert_eq!(sentinel.addresses, [("a".to_owned(), 26379), ("::1".to_owned(), 7)]);
    assert_eq!((sentinel.master_name.as_str(), sentinel.tls), ("my-master.1", false));
    assert_eq!(redis.url.expose(), "redis://:hunter2@my-master.1:6379/2");
    let config = load(&format!("{SENTINELS}tls = true\ndatabase = 3\n")).unwrap();
    assert!(config.redis[0].sentinel.as_ref().unwrap().tls, "as the servers");
    assert_eq!(config.redis[0].url.expose(), "rediss://my-master.1:6379/3");
    let again = load(&config.show()).unwrap();
    assert_eq!(again.redis[0].sentinel, config.redis[0].sentinel);
    assert_eq!(again.redis[0].url.expose(), config.redis[0].url.expose());
}

#[test]
fn the_environment_names_no_other_server_than_the_sentinels() {
    for name in ["REDIS_URL", "REDIS_PUBSUB_URL", "REDIS_HOST", "REDIS_PORT"] {
        let value = if name.ends_with("URL") { "redis://h" } else { "1" };
        let told = load_with(SENTINELS, &[(name, value)], &[]).map(|_| ()).unwrap_err();
        let what = "the Sentinels of [redis.default] say where the server is: unset it";
        assert!(told.starts_with(&format!("{name}: {what}")), "{told}");
    }
    assert_told([
        (
            "[redis.default]\nsentinels = [\"a\"]",
            "2: redis.default.sentinels: needs `sentinel_master`, the name of the primary in their `sentinel monitor`",
        ),
        (
            "[redis.default]\nsentinels = [\"a\"]\nsentinel_master = \"a b\"",
            "3: redis.default.sentinel_master: the name of a primary has letters (a-z, A-Z), digits, `.`, `-` and `_`",
        ),
    ]);
}

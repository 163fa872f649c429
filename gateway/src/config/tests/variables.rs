//! Environment variables that set keys of the file.

use super::documentation::everything;
use super::{Config, load, load_with};

#[test]
fn every_key_of_the_example_can_be_set_by_a_variable() {
    let (text, _files) = everything();
    let (others, lists) = text.split_once("# Logins:").unwrap();
    let mut variables = Vec::new();
    collect("EARSHOT", &others.parse().unwrap(), &mut variables);
    let variables: Vec<_> = variables.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    assert!(variables.len() > 70, "{}", variables.len());
    let config = load_with(&format!("#{lists}"), &variables, &[]).unwrap();
    // The sources, in the first line of the dump, differ.
    let settings = |config: &Config| config.to_toml().split_once('\n').unwrap().1.to_owned();
    assert_eq!(settings(&config), settings(&load(&text).unwrap()));
}

/// A variable for each key of a table.
fn collect(name: &str, table: &toml::Table, variables: &mut Vec<(String, String)>) {
    for (key, value) in table {
        let separator = if name == "EARSHOT" { "_" } else { "__" };
        let name = format!("{name}{separator}{}", key.to_ascii_uppercase());
        match value {
            toml::Value::Table(inner) => collect(&name, inner, variables),
            toml::Value::String(text) => variables.push((name, text.clone())),
            // Some of the top-level lists have a variable of their own, which takes elements with commas only.
            toml::Value::Array(items) if separator == "_" => {
                let items: Vec<_> = items.iter().filter_map(toml::Value::as_str).collect();
                variables.push((name, items.join(",")));
            }
            value => variables.push((name, value.to_string())),
        }
    }
}

#[test]
fn a_variable_replaces_the_key_of_the_file() {
    let file = "[limits]\nconnections = 7\nchannels = 9\n[redis.my-cache]\nurl = 'redis://a:1'\n[[namespace]]\n\
                name = 'a'\nchannels = ['a']\nredis = 'my-cache'\n";
    let variables = [
        ("EARSHOT_LIMITS__CONNECTIONS", "8"),
        ("EARSHOT_REDIS__MY_CACHE__URL", "redis://:hunter2@b:2"),
        ("EARSHOT_API__KEY", "1234567890123456"),
        ("EARSHOT_ALLOWED_HOSTS", "a.example, b.example"),
        ("EARSHOT_SSE__RETRY", ""),
    ];
    let config = load_with(file, &variables, &[]).unwrap();
    assert_eq!((config.limits.connections, config.limits.channels), (Some(8), 9));
    assert_eq!(config.redis[0].url.expose(), "redis://:hunter2@b:2");
    assert_eq!(config.api_key.as_ref().map(|key| key.expose()), Some("1234567890123456"));
    assert_eq!(config.allowed_hosts, ["a.example", "b.example"]);
    assert!(!config.to_toml().contains("hunter2") && !format!("{config:?}").contains("hunter2"));
    assert_eq!(
        config.sources.to_string(),
        "earshot.toml, EARSHOT_ALLOWED_HOSTS, EARSHOT_API__KEY, EARSHOT_LIMITS__CONNECTIONS, \
         EARSHOT_REDIS__MY_CACHE__URL"
    );
}

#[test]
fn the_special_variables_override_the_variables_of_keys() {
    let variables = [
        ("EARSHOT_REDIS__DEFAULT__URL", "redis://a:1"),
        ("EARSHOT_REDIS__DEFAULT__COMMAND_TIMEOUT", "7s"),
        ("REDIS_URL", "redis://b:2"),
        ("EARSHOT_API__KEY", "first-key-of-the-api"),
        ("EARSHOT_API_KEY", "second-key-of-the-api"),
    ];
    let config = load_with("", &variables, &[]).unwrap();
    assert_eq!(config.redis[0].url.to_string(), "redis://b:2/0");
    assert_eq!(config.redis[0].times.command_timeout.as_secs(), 7);
    assert_eq!(config.api_key.map(|key| key.expose().to_owned()).as_deref(), Some("second-key-of-the-api"));
}

#[test]
fn an_error_contains_the_variable() {
    let file = "[[namespace]]\nname = 'a'\nchannels = ['a']\nredis = 'memory'\n";
    for (name, value, what) in [
        (
            "EARSHOT_LIMITS__CONECTIONS",
            "1",
            "unknown key `limits.conections`; did you mean EARSHOT_LIMITS__CONNECTIONS?",
        ),
        ("EARSHOT_LIMIT__CONNECTIONS", "1", "unknown key `limit`; did you mean EARSHOT_LIMITS__CONNECTIONS?"),
        (
            "EARSHOT_COLOUR__OF_THE_PAGE",
            "1",
            "unknown key `colour`; expected EARSHOT_SECTION__KEY, with a section and a key of the file",
        ),
        ("EARSHOT_LIMITS__CONNECTIONS", "many", "expected a whole number, found \"many\""),
        ("EARSHOT_LIMITS__CHANNELS", "0", "0 is out of range: 1 to 100000000"),
        ("EARSHOT_NAMESPACE__NAME", "b", "only the file can set `namespace`, which is a list of sections"),
        ("EARSHOT_LIMITS____CHANNELS", "1", "expected a section and a key between the underscores"),
        ("EARSHOT_LISTEN__X", "1", "`listen` is not a section"),
        ("EARSHOT_CONSOLE__ENABLED", "yes", "expected true or false, found a string"),
    ] {
        let file = if name == "EARSHOT_LISTEN__X" { "listen = ':1'\n" } else { file };
        assert_eq!(load_with(file, &[(name, value)], &[]).unwrap_err(), format!("{name}: {what}"));
    }
    assert_eq!(
        load_with("", &[("EARSHOT_NAMESPACE__NAME", "b")], &[]).unwrap_err(),
        "EARSHOT_NAMESPACE__NAME: only the file can set the sections [[namespace]]"
    );
    let error = load_with(file, &[("EARSHOT_REDIS__MAIN__URL", "hunter2")], &[]).unwrap_err();
    assert!(
        error.starts_with("EARSHOT_REDIS__MAIN__URL: expected redis://") && !error.contains("hunter2"),
        "{error}"
    );
    let error = load_with(file, &[("EARSHOT_REDIS__MAIN__COMAND_TIMEOUT", "1s")], &[]).unwrap_err();
    assert!(error.contains("did you mean EARSHOT_REDIS__MAIN__COMMAND_TIMEOUT?"), "{error}");
}

//! The command line: what is wrong with a configuration is said with file, line and key, and no secret is shown.

use std::process::{Command, Output};

use crate::harness::gateway::binary;

#[test]
fn a_good_configuration_is_ok_and_is_shown_without_its_secrets() {
    let config = "[api]\nkey = \"open-sesame-0123456789\"\n\n[redis.default]\nurl = \"redis://app:hunter2@127.0.0.1:6379/0\"\n";
    assert!(earshot(&["config", "check"], config).status.success());
    let shown = earshot(&["config", "show"], config);
    assert!(shown.status.success(), "{shown:?}");
    let text = String::from_utf8(shown.stdout).unwrap();
    assert!(!text.contains("hunter2") && !text.contains("sesame"), "{text}");
    assert!(text.contains("127.0.0.1:6379"), "{text}");
}

#[test]
fn a_bad_configuration_is_refused_with_file_line_and_key() {
    let twice = "[[namespace]]\nname = \"a\"\nchannels = [\"x\"]\n\n[[namespace]]\nname = \"b\"\nchannels = [\"x\"]\n";
    let rows = [
        ("an unknown key", "\n[limits]\nhaed_bytes = 1024\n", "test.toml:3", "haed_bytes"),
        ("a bad value", "[limits]\nrequest_header_bytes = \"much\"\n", "test.toml:2", "request_header_bytes"),
        ("a value out of range", "[websocket]\nping_interval = \"0s\"\n", "test.toml:2", "ping_interval"),
        ("one pattern twice", twice, "test.toml:7", "x"),
        ("no TOML", "listen = \n", "test.toml:1", "not valid TOML"),
    ];
    for (what, config, place, key) in rows {
        for command in [&["config", "check"][..], &["serve"][..]] {
            let refused = earshot(command, config);
            assert!(!refused.status.success(), "{what}: {command:?}");
            let text = String::from_utf8_lossy(&refused.stderr).into_owned();
            assert!(text.contains(place) && text.contains(key), "{what}: {command:?}: {text}");
        }
    }
}

#[test]
fn an_address_that_is_taken_ends_the_start_with_a_reason() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let refused = earshot(&["serve", "--listen", &address], "");
    assert!(!refused.status.success());
    let told = [refused.stdout, refused.stderr].concat();
    assert!(String::from_utf8_lossy(&told).contains(&address), "{}", String::from_utf8_lossy(&told));
}

#[test]
fn no_log_filter_hides_why_the_gateway_cannot_run() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for (filter, code) in [("verbose", 2), ("off", 1), ("earshot::node=info", 1)] {
        let log = format!("log = \"{filter}\"\n");
        let refused = earshot(&["serve", "--listen", &address], &log);
        assert_eq!(refused.status.code(), Some(code), "{filter}");
        assert!(!refused.stderr.is_empty(), "{filter}");
    }
}

#[test]
fn the_version_is_told() {
    let version = Command::new(binary()).arg("--version").output().unwrap();
    assert!(version.status.success());
    assert!(String::from_utf8(version.stdout).unwrap().contains(env!("CARGO_PKG_VERSION")));
}

/// Runs a command to its end, with this text as its configuration and a clean environment.
fn earshot(arguments: &[&str], config: &str) -> Output {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("test.toml");
    std::fs::write(&path, config).unwrap();
    let mut command = Command::new(binary());
    command.env_clear().current_dir(directory.path()).args(arguments).arg("--config").arg(path);
    command.output().unwrap()
}

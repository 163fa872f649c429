//! The command line: configuration errors name file, line and key, and secrets are never shown.

use std::process::{Command, Output};

use serde_json::Value;

use crate::harness::gateway::binary;
use crate::harness::{Gateway, until};

#[test]
fn valid_configuration_is_accepted_and_shown_without_secrets() {
    let config = "[api]\nkey = \"open-sesame-0123456789\"\n\n[redis.default]\nurl = \"redis://app:hunter2@127.0.0.1:6379/0\"\n";
    assert!(earshot(&["config", "check"], config).status.success());
    let shown = earshot(&["config", "show"], config);
    assert!(shown.status.success(), "{shown:?}");
    let text = String::from_utf8(shown.stdout).unwrap();
    assert!(!text.contains("hunter2") && !text.contains("sesame"), "{text}");
    assert!(text.contains("127.0.0.1:6379"), "{text}");
}

#[test]
fn invalid_configuration_is_rejected_with_file_line_and_key() {
    let twice = "[[namespace]]\nname = \"a\"\nchannels = [\"x\"]\nsubscribe = \"anyone\"\n\n[[namespace]]\nname = \"b\"\nchannels = [\"x\"]\nsubscribe = \"anyone\"\n";
    let rows = [
        ("an unknown key", "\n[limits]\nhaed_bytes = 1024\n", "test.toml:3", "haed_bytes"),
        (
            "an invalid value",
            "[limits]\nrequest_header_bytes = \"much\"\n",
            "test.toml:2",
            "request_header_bytes",
        ),
        ("a value out of range", "[websocket]\nping_interval = \"0s\"\n", "test.toml:2", "ping_interval"),
        ("a duplicate pattern", twice, "test.toml:8", "x"),
        ("invalid TOML", "listen = \n", "test.toml:1", "not valid TOML"),
    ];
    for (what, config, place, key) in rows {
        for command in [&["config", "check"][..], &["serve"][..]] {
            let rejected = earshot(command, config);
            assert!(!rejected.status.success(), "{what}: {command:?}");
            let text = String::from_utf8_lossy(&rejected.stderr).into_owned();
            assert!(text.contains(place) && text.contains(key), "{what}: {command:?}: {text}");
        }
    }
}

#[test]
fn completions_and_manual_pages_name_every_command() {
    for shell in ["bash", "zsh", "fish"] {
        let script = Command::new(binary()).args(["completions", shell]).output().unwrap();
        let text = String::from_utf8(script.stdout).unwrap();
        assert!(
            script.status.success() && text.contains("serve") && text.contains("drill"),
            "{shell}: {text}"
        );
    }
    let directory = tempfile::tempdir().unwrap();
    let pages = directory.path().join("man");
    let written = Command::new(binary()).arg("man").arg(&pages).output().unwrap();
    assert!(written.status.success(), "{written:?}");
    for page in ["earshot.1", "earshot-serve.1", "earshot-drill.1"] {
        let text = std::fs::read_to_string(pages.join(page)).unwrap();
        assert!(text.contains(".SH NAME"), "{page}: {text}");
    }
    let rejected = Command::new(binary()).args(["man", "/dev/null/man"]).output().unwrap();
    assert_eq!(rejected.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&rejected.stderr).contains("/dev/null/man"), "{rejected:?}");
}

#[test]
fn address_in_use_is_reported() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let rejected = earshot(&["serve", "--listen", &address], "");
    assert!(!rejected.status.success());
    let output = [rejected.stdout, rejected.stderr].concat();
    let output = String::from_utf8_lossy(&output);
    assert!(output.contains(&address) && output.contains("--listen"), "{output}");
}

#[test]
fn log_filter_never_hides_a_startup_error() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for (filter, code) in [("verbose", 2), ("off", 1), ("earshot::node=info", 1)] {
        let log = format!("log = \"{filter}\"\n");
        let rejected = earshot(&["serve", "--listen", &address], &log);
        assert_eq!(rejected.status.code(), Some(code), "{filter}");
        assert!(!rejected.stderr.is_empty(), "{filter}");
    }
}

#[tokio::test]
async fn the_log_is_json_if_configured_and_ends_with_stopped() {
    let mut gateway = Gateway::settings().config("log_format = \"json\"\n").start().await;
    gateway.process.signal("TERM");
    until("the process exits", async || gateway.process.exit_status().map(|_| ())).await;
    let log = gateway.process.log();
    let records: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(
        records.iter().all(|record| record["level"].is_string() && record["timestamp"].is_string()),
        "{log}"
    );
    assert_eq!(records.last().unwrap()["message"], "stopped", "{log}");
    assert_eq!(records.last().unwrap()["complete"], true);
}

#[tokio::test]
async fn the_log_of_a_file_has_no_colors() {
    let gateway = Gateway::start().await;
    let log = gateway.process.log();
    assert!(log.contains("listening on") && !log.contains('\u{1b}'), "{log}");
}

#[tokio::test]
async fn the_console_is_served_if_enabled() {
    let production = || Gateway::settings().production();
    let closed = production().start().await;
    assert_eq!(closed.fetch("/").await.status, 404);
    let open = production().config("[console]\nenabled = true\n").start().await;
    assert_eq!(open.fetch("/").await.status, 200);
}

#[test]
fn version_is_printed() {
    let version = Command::new(binary()).arg("--version").output().unwrap();
    assert!(version.status.success());
    assert!(String::from_utf8(version.stdout).unwrap().contains(env!("CARGO_PKG_VERSION")));
}

/// Runs a command with this configuration and an empty environment.
fn earshot(arguments: &[&str], config: &str) -> Output {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("test.toml");
    std::fs::write(&path, config).unwrap();
    let mut command = Command::new(binary());
    command.env_clear().current_dir(directory.path()).args(arguments).arg("--config").arg(path);
    command.output().unwrap()
}

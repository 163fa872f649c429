//! The module ladder of the gateway: imports go strictly down, and some things only one module may use.

use std::fs;

use crate::source::{root, sources};

/// Modules of the gateway with their ranks. Modules of one rank do not import each other.
const LADDER: [(&str, u8); 18] = [
    ("cli", 10),
    ("gateway", 9),
    ("config", 8),
    ("http", 7),
    ("ingress", 6),
    ("shard", 5),
    ("node", 4),
    ("login", 3),
    ("broker", 2),
    ("store", 2),
    ("hooks", 2),
    ("auth", 1),
    ("metrics", 1),
    ("drain", 1),
    ("random", 1),
    ("redact", 1),
    ("admission", 1),
    ("http_client", 0),
];

/// What only some files of the gateway may use: (text, path prefixes below `gateway/src`, reason).
const FENCES: [(&str, &[&str], &str); 6] = [
    (
        "redis::",
        &["broker/redis", "store"],
        "only the Redis broker and the key store use Redis, over a connection of `redis-link`",
    ),
    ("tokio::spawn", &["drain.rs"], "`Drain` starts every task and waits for it"),
    ("thread::Builder", &["shard.rs"], "the gateway starts no threads except shards"),
    ("Command::new(", &["broker/redis/tests.rs"], "the gateway starts no processes"),
    (
        "crate::config",
        &["config", "cli", "gateway.rs", "gateway/"],
        "inner modules declare their own settings",
    ),
    ("mio::", &["shard", "ingress.rs", "ingress/listener.rs"], "only shards poll sockets"),
];

fn rank(module: &str) -> Option<u8> {
    LADDER.iter().find(|(name, _)| *name == module).map(|(_, rank)| *rank)
}

fn module_of(file: &str) -> &str {
    file.split(['/', '.']).next().unwrap_or_default()
}

#[test]
fn imports_go_strictly_down() {
    let mut wrong = Vec::new();
    for (file, code) in sources("gateway") {
        let own = module_of(&file);
        let Some(own_rank) = rank(own) else {
            assert!(matches!(own, "lib" | "main"), "{file}: a module without a rank in LADDER");
            continue;
        };
        for import in code.split("crate::").skip(1) {
            let module: String =
                import.chars().take_while(|letter| letter.is_ascii_lowercase() || *letter == '_').collect();
            if module != own && rank(&module).is_none_or(|rank| rank >= own_rank) {
                wrong.push(format!("{file} (rank {own_rank}) imports crate::{module}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn fences_hold() {
    let mut wrong = Vec::new();
    for (file, code) in sources("gateway") {
        for (what, allowed, why) in FENCES {
            let inside = allowed.iter().any(|prefix| file.starts_with(prefix));
            // These are modules of the gateway, not the crate.
            let own = ["broker::redis::", "check::redis::", "super::redis::", "self::redis::"];
            let code = own.iter().fold(code.clone(), |code, path| code.replace(path, ""));
            let written = code.lines().any(|line| {
                line.find(what)
                    .is_some_and(|at| !line[..at].ends_with(|before: char| before.is_alphanumeric()))
            });
            if written && !inside {
                wrong.push(format!("{file} uses `{what}`: {why}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn protocol_is_pure() {
    let manifest = fs::read_to_string(root().join("protocol/Cargo.toml")).unwrap();
    let dependencies = manifest.split("[dev-dependencies]").next().unwrap();
    for banned in ["tokio", "redis", "axum", "hyper", "mio"] {
        assert!(!dependencies.contains(banned), "protocol must not depend on {banned}");
    }
}

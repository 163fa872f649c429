//! The style is a test: the ladder of modules, the fences around what only one place may do, and the head of each
//! file. Change the drawing in `ARCHITECTURE.md` and the tables here together, on purpose.

#![allow(clippy::unwrap_used, reason = "a test ends where it cannot go on")]

use std::fs;
use std::path::{Path, PathBuf};

/// Modules of the gateway with their ranks: imports go strictly down, siblings never meet.
const LADDER: [(&str, u8); 13] = [
    ("cli", 9),
    ("gateway", 8),
    ("config", 7),
    ("http", 6),
    ("ingress", 5),
    ("shard", 4),
    ("node", 3),
    ("broker", 2),
    ("metrics", 1),
    ("drain", 1),
    ("random", 1),
    ("redact", 1),
    ("admission", 1),
];

/// Who alone may write a thing: (what, path prefixes below `gateway/src`, why).
const FENCES: [(&str, &[&str], &str); 6] = [
    (
        "redis::",
        &["broker/redis"],
        "only the Redis broker speaks to Redis, over a connection of `redis-link`",
    ),
    ("tokio::spawn", &["drain.rs"], "every task is started and waited for by the drain"),
    ("thread::Builder", &["shard.rs"], "a shard is the only thread that is started"),
    ("Command::new(", &["broker/redis/tests.rs"], "only tests start processes"),
    ("crate::config", &["config", "cli", "gateway.rs"], "inner modules declare their own limits"),
    ("mio::", &["shard", "ingress.rs", "ingress/listener.rs"], "only shards poll sockets"),
];

/// A file's lines of text may not exceed this; longer ones want to be two.
const LINES_MAX: usize = 600;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn rust_files(below: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(below).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.ends_with("target") && !path.ends_with("node_modules") {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
    files
}

/// The files of the gateway with their path below `src`, and their code without comments.
fn sources() -> Vec<(String, String)> {
    let src = root().join("gateway/src");
    rust_files(&src)
        .into_iter()
        .map(|path| {
            let name = path.strip_prefix(&src).unwrap().to_str().unwrap().to_owned();
            let text = fs::read_to_string(&path).unwrap();
            let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
            (name, code.collect::<Vec<_>>().join("\n"))
        })
        .collect()
}

fn rank(module: &str) -> Option<u8> {
    LADDER.iter().find(|(name, _)| *name == module).map(|(_, rank)| *rank)
}

fn module_of(file: &str) -> &str {
    file.split(['/', '.']).next().unwrap_or_default()
}

#[test]
fn imports_go_strictly_down() {
    let mut wrong = Vec::new();
    for (file, code) in sources() {
        let own = module_of(&file);
        let Some(own_rank) = rank(own) else {
            assert!(matches!(own, "lib" | "main"), "{file}: a module without a rank; give it one");
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
    for (file, code) in sources() {
        for (what, allowed, why) in FENCES {
            let inside = allowed.iter().any(|prefix| file.starts_with(prefix));
            // These name modules of our own, not the crate.
            let own = ["broker::redis::", "check::redis::", "super::redis::", "self::redis::"];
            let code = own.iter().fold(code.clone(), |code, path| code.replace(path, ""));
            let written = code.lines().any(|line| {
                line.find(what)
                    .is_some_and(|at| !line[..at].ends_with(|before: char| before.is_alphanumeric()))
            });
            if written && !inside {
                wrong.push(format!("{file} writes `{what}`: {why}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_protocol_is_pure() {
    let manifest = fs::read_to_string(root().join("protocol/Cargo.toml")).unwrap();
    let dependencies = manifest.split("[dev-dependencies]").next().unwrap();
    for banned in ["tokio", "redis", "axum", "hyper", "mio"] {
        assert!(!dependencies.contains(banned), "protocol must not depend on {banned}");
    }
}

#[test]
fn each_file_says_what_it_owns_and_stays_readable() {
    let mut wrong = Vec::new();
    for crate_ in ["protocol", "redis-link", "ops", "gateway", "loadtest"] {
        for path in rust_files(&root().join(crate_)) {
            let text = fs::read_to_string(&path).unwrap();
            let shown = path.strip_prefix(root()).unwrap().display().to_string();
            if !text.starts_with("//!") {
                wrong.push(format!("{shown}: does not open with //!"));
            }
            if text.lines().count() > LINES_MAX {
                wrong.push(format!("{shown}: more than {LINES_MAX} lines"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn documents_name_files_that_exist() {
    let root = root();
    for document in ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md"] {
        let text = fs::read_to_string(root.join(document)).unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let path = link.split('#').next().unwrap();
            if !path.is_empty() && !path.contains("://") {
                assert!(root.join(path).exists(), "{document} points to {path}, which is not there");
            }
        }
    }
}

/// Endings of files that programs leave behind and that do not belong into the repository.
const JUNK: [&str; 8] = [".pid", "/pid", ".log", ".swp", ".swo", ".rdb", ".orig", "/core"];

#[test]
fn no_junk_is_tracked() {
    let listed = std::process::Command::new("git").arg("ls-files").current_dir(root()).output().unwrap();
    let tracked = String::from_utf8(listed.stdout).unwrap();
    let junk: Vec<&str> = tracked
        .lines()
        .filter(|file| JUNK.iter().any(|ending| format!("/{file}").ends_with(ending)))
        .collect();
    assert!(junk.is_empty(), "tracked, but left behind by a program: {}", junk.join(", "));
}

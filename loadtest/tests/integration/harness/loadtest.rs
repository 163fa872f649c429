//! Runs the load test as a child process and collects its result.

use std::process::{Child, Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use super::until;

/// A running load test.
pub(crate) struct Loadtest {
    child: Child,
    directory: TempDir,
}

/// Result of a load test.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) code: i32,
    pub(crate) table: String,
    pub(crate) errors: String,
    /// Output of `--json`; null if it was not written.
    pub(crate) json: Value,
}

impl Loadtest {
    /// Starts the load test with blank-separated arguments and `--json`.
    pub(crate) fn start(arguments: &str) -> Self {
        Self::spawn(command(), arguments)
    }

    /// Starts the load test on one core.
    pub(crate) fn start_on(core: &str, arguments: &str) -> Self {
        let plain = command();
        let mut command = Command::new("taskset");
        command.args(["-c", core]).arg(plain.get_program());
        Self::spawn(command.env_remove("EARSHOT_API_KEY").env_remove("LOADTEST_PUBLISH"), arguments)
    }

    fn spawn(mut command: impl std::borrow::BorrowMut<Command>, arguments: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let child = command
            .borrow_mut()
            .args(arguments.split_ascii_whitespace())
            .arg("--json")
            .arg(directory.path().join("result.json"))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Self { child, directory }
    }

    /// Sends a signal by name, such as `STOP`.
    pub(crate) fn signal(&self, name: &str) {
        let arguments = [format!("-{name}"), self.child.id().to_string()];
        assert!(Command::new("kill").args(arguments).status().unwrap().success(), "kill -{name}");
    }

    /// Waits for the exit. The output fits into the pipe buffers.
    pub(crate) fn end(mut self) -> Outcome {
        until("the load test exits", || self.child.try_wait().unwrap());
        let path = self.directory.path().join("result.json");
        let output = self.child.wait_with_output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        let json = std::fs::read_to_string(path).map(|text| serde_json::from_str(&text).unwrap());
        Outcome {
            code: output.status.code().unwrap_or(-1),
            table: text(output.stdout),
            errors: text(output.stderr),
            json: json.unwrap_or_default(),
        }
    }
}

/// The binary, without environment variables that affect the measurement.
pub(crate) fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_earshot-loadtest"));
    command.env_remove("EARSHOT_API_KEY").env_remove("LOADTEST_PUBLISH");
    command
}

/// Runs the load test until it exits.
pub(crate) fn loadtest(arguments: &str) -> Outcome {
    Loadtest::start(arguments).end()
}

impl Outcome {
    /// A number of the record, such as `deliveries/lost`.
    pub(crate) fn number(&self, pointer: &str) -> f64 {
        let value = self.json.pointer(&format!("/{pointer}"));
        value.and_then(Value::as_f64).unwrap_or_else(|| panic!("no {pointer} in {self:#?}"))
    }

    /// A measure specific to the scenario.
    pub(crate) fn measure(&self, name: &str) -> f64 {
        let measures = self.json["measures"].as_array().unwrap();
        let measure = measures.iter().find(|measure| measure["name"] == name);
        measure
            .and_then(|measure| measure["value"].as_f64())
            .unwrap_or_else(|| panic!("no {name} in {self:#?}"))
    }

    /// Asserts that every message arrived once and in order, and that all outputs agree.
    pub(crate) fn assert_clean(&self) {
        assert_eq!((self.code, &self.json["clean"]), (0, &Value::Bool(true)), "{self:#?}");
        assert_eq!(self.number("deliveries/delivered"), self.number("deliveries/expected"), "{self:#?}");
        assert!(self.number("deliveries/delivered") > 0.0, "{self:#?}");
        for wrong in ["lost", "duplicates", "out_of_order", "misrouted", "altered", "skipped", "gaps"] {
            assert_eq!(self.number(&format!("deliveries/{wrong}")), 0.0, "{wrong}: {self:#?}");
        }
    }
}

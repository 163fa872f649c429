//! Standard input and output of commands, and their exit codes.
//!
//! Owns the redaction of credentials in all output, including the log of `earshot serve`. Commands must not write to
//! standard output or standard error in any other way.

use std::io::{self, Read as _, Write};
use std::process::ExitCode;

use crate::redact;

/// Exit code for an invalid command line, URL or configuration.
pub(super) const EXIT_USAGE: u8 = 2;

/// Maximum length of a URL on standard input.
const INPUT_BYTES_MAX: u64 = 64 * 1024;

/// Writes a report to standard output. Returns `code`, even if the reader closed the pipe (`| head`); any other error
/// is a failure.
pub(super) fn write_stdout(text: &str, code: ExitCode) -> ExitCode {
    match io::stdout().write_all(redact::urls(text).as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => ExitCode::FAILURE,
        _ => code,
    }
}

/// Writes a line to standard error.
pub(super) fn print_message(text: &str) {
    // A failure to write an error cannot be reported.
    let _ = writeln!(io::stderr(), "{}", redact::urls(text));
}

/// Writes an error about the command line or the configuration. Returns the exit code.
pub(super) fn usage_error(text: &str) -> ExitCode {
    print_message(text);
    ExitCode::from(EXIT_USAGE)
}

/// Reads a URL from standard input.
///
/// # Errors
/// If standard input cannot be read.
pub(super) fn read_stdin() -> Result<String, String> {
    let mut text = String::new();
    let read = io::stdin().take(INPUT_BYTES_MAX).read_to_string(&mut text);
    read.map_err(|error| format!("cannot read a URL from standard input: {error}"))?;
    Ok(text)
}

/// Standard error as the writer of the log. Each call of `write` receives one record.
#[derive(Debug)]
pub(super) struct LogWriter;

impl Write for LogWriter {
    fn write(&mut self, record: &[u8]) -> io::Result<usize> {
        match std::str::from_utf8(record) {
            Ok(text) => io::stderr().write_all(redact::urls(text).as_bytes())?,
            Err(_) => io::stderr().write_all(record)?,
        }
        Ok(record.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

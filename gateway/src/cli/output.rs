//! What commands write to standard output and standard error.
//!
//! Owns the hiding of credentials in all of it, the log of `earshot serve` included. Must never be gone around.

use std::io::{self, Write};
use std::process::ExitCode;

use crate::redact;

/// Writes a report to standard output. The exit code is `code`, also when the reader has seen enough (`| head`).
pub(super) fn write_stdout(text: &str, code: ExitCode) -> ExitCode {
    match io::stdout().write_all(redact::urls(text).as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => ExitCode::FAILURE,
        _ => code,
    }
}

/// Writes a line to standard error.
pub(super) fn print_message(text: &str) {
    // There is no other place to report that this cannot be written.
    let _ = writeln!(io::stderr(), "{}", redact::urls(text));
}

/// Standard error as the log writes to it, one record at a time.
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

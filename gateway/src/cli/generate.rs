//! `earshot completions` and `earshot man`: files that are generated from the definition of the command line.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::CommandFactory as _;
use clap_complete::Shell;

use super::{Cli, io};

/// The arguments of `earshot completions`.
#[derive(Debug, clap::Args)]
pub struct CompletionsArgs {
    /// Shell
    shell: Shell,
}

/// The arguments of `earshot man`.
#[derive(Debug, clap::Args)]
pub struct ManArgs {
    /// Directory; created if it does not exist
    directory: PathBuf,
}

impl CompletionsArgs {
    /// Prints the completion script.
    #[must_use]
    pub fn run(self) -> ExitCode {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "earshot", &mut script);
        io::write_stdout(&String::from_utf8_lossy(&script), ExitCode::SUCCESS)
    }
}

impl ManArgs {
    /// Writes `earshot.1` and one page for each command.
    #[must_use]
    pub fn run(self) -> ExitCode {
        let written = fs::create_dir_all(&self.directory)
            .and_then(|()| clap_mangen::generate_to(Cli::command(), &self.directory));
        match written {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                io::print_message(&format!(
                    "cannot write manual pages to {}: {error}",
                    self.directory.display()
                ));
                ExitCode::FAILURE
            }
        }
    }
}

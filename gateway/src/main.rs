//! The binary `earshot`: one command, one exit code. Everything else is in the library.

use std::process::ExitCode;

use earshot::cli::{self, Cli};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match cli::parse() {
        Cli::Serve(args) => args.run(),
        Cli::Config(args) => args.run(),
        Cli::Migrate(args) => args.run(),
        Cli::Check(args) => args.run(),
        Cli::Why(args) => args.run(),
        Cli::Drill(args) => args.run(),
        Cli::Completions(args) => args.run(),
        Cli::Man(args) => args.run(),
    }
}

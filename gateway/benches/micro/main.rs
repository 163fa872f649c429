//! Micro-benchmarks: the cost of each step of the delivery path, compared with a lower bound for that step. Both are
//! measured alternately in one run, so the ratio is valid on a busy machine and comparable between machines.
//!
//! `make microbench`, or `make microbench ARGS=flush` for a selection. The benchmarks never fail.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    missing_docs,
    reason = "a benchmark may panic, reads the clock and prints its results"
)]

mod comparison;
mod encode;
mod head;
mod receive;
mod shard;
mod share;

use comparison::Comparison;

/// The allocator of the binary.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    // Cargo adds flags such as `--bench`.
    let filter = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    let comparison = Comparison::new(filter);
    encode::run(&comparison);
    shard::run(&comparison);
    head::run(&comparison);
    receive::run(&comparison);
    share::run(&comparison);
}

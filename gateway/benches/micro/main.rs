//! Micro-benchmarks: what each step on the way of a message costs, beside the least that such a step can cost, measured
//! in turns in the same run. The ratio is what to look at: it holds on a busy machine, and from one machine to another.
//!
//! `make microbench`, or `make microbench ARGS=flush` for some of them. A step that gets slower says so here; nothing
//! here fails.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    missing_docs,
    reason = "a benchmark may panic, reads the clock, and prints what it found"
)]

mod encode;
mod head;
mod hear;
mod race;
mod share;
mod stage;

use race::Race;

/// The allocator of the binary.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    // cargo passes flags of its own.
    let wanted = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    let race = Race::new(wanted);
    encode::run(&race);
    stage::run(&race);
    head::run(&race);
    hear::run(&race);
    share::run(&race);
}

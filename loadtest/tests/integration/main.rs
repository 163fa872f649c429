//! What the load test promises: every scenario measures a real gateway, what a server does wrong ends with exit code 1,
//! and the results are what the documents say. Servers that misbehave are the tests' own, since it is the meter that is
//! tested here; everything else is real.

#![allow(clippy::unwrap_used, reason = "a test ends where it cannot go on")]

mod costs;
mod faults;
mod harness;
mod itself;
mod quoted;
mod results;
mod scenarios;
mod targets;

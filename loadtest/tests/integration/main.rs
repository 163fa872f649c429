//! Integration tests of the load test: every scenario against a real gateway, exit codes for faulty servers, and
//! documents that quote results. Only the faulty servers are simulated.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod costs;
mod faults;
mod generator_limits;
mod harness;
mod quoted;
mod results;
mod scenarios;
mod targets;

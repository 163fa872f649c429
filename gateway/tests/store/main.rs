//! The key store against real Redis servers: reads, writes, and what is reported of watched keys.
//!
//! Tests wait for conditions, up to a deadline. A test of tracking sets the sweep interval to an hour, so that only
//! tracking can have reported the change.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test may panic, read the clock and start processes of its own"
)]

mod cluster;
mod commands;
mod faults;
mod harness;
mod tracking;

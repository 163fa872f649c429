//! Tools for operators of an Earshot gateway. The `earshot` binary runs each of them as a command.
//!
//! - [`check`]: diagnoses a Redis deployment, a TLS certificate, and the path from a client to a gateway.
//! - [`drill`]: injects Redis failures and verifies that the gateway detects, reports and recovers from each.
//! - [`migrate`]: copies a Redis keyspace to another deployment, verifies the copy, and deletes the source.

pub mod check;
pub mod drill;
pub mod migrate;

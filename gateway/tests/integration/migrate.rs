//! A keyspace is moved whole: every key, of any type, with its TTL, to the place that rules name, whatever happens on
//! the way; and nothing but what was asked for is touched.
//!
//! What was moved is judged by reading both sides type by type (see `harness::keyspace`), never by what the tool says.

mod cluster;
mod conflicts;
mod deleting;
mod killed;
mod pieces;
mod refused;
mod running;
mod whole;

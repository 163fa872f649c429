//! `earshot migrate` copies every key, of any type and with its TTL, to the target that rules define, despite failures,
//! and changes nothing else.
//!
//! The tests compare both sides type by type (see `harness::keyspace`), independently of the tool's output.

mod chunked;
mod cluster;
mod conflicts;
mod deleting;
mod killed;
mod rejected;
mod running;
mod whole;

//! The promises of the gateway, tested from outside: real gateway processes, a real Redis, real sockets.
//!
//! Each module is one promise. Nothing here may know the gateway's code, stand in for Redis, or wait for a fixed
//! time: tests wait for conditions, up to a deadline.
//! `EARSHOT_BIN` names another binary to test than the one that was just built.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::large_futures,
    reason = "a test may panic, read the clock and start tasks of its own"
)]

mod harness;

mod accounting;
mod admission;
mod alarms;
mod asleep;
mod attributes;
mod bad_frames;
mod bad_heads;
mod bad_messages;
mod bounds;
mod channel_limit;
mod check_path;
mod check_redis;
mod check_tls;
mod check_topology;

mod cli;
mod client_sharding;
mod closed;
mod cluster;
mod cluster_sharded;
mod compatibility;
mod cors;
mod cursor;
mod deaf;
mod drill;
mod fanout;
mod gaps;
mod given_back;
mod history;
mod hosts;
mod http2;
mod http_api;
mod ipv6;
mod isolation;
mod last_value;
mod limits;
mod migrate;
mod racing;
mod racing_together;
mod recovery;
mod redis_restart;
mod redis_sign_in;
mod redis_tls;
mod replica;
mod resume;
mod sentinel;
mod shutdown;
mod slow;
mod slow_rules;
mod stream;
mod stream_before_first;
mod stream_before_first_lost;
mod stream_deaf;
mod stream_outage;
mod stream_return;
mod streams;
mod without_redis;

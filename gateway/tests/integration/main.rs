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

mod alerts;
mod api_keys;
mod channel_limit;
mod check_path;
mod check_redis;
mod check_redis_connection;
mod check_tls;
mod check_topology;
mod connection_limit;
mod invalid_frames;
mod invalid_heads;
mod invalid_messages;
mod large_recovery;
mod mixed_load;
mod publication_attributes;
mod queue_bounds;

mod cli;
mod client_limits;
mod client_logs;
mod client_sharding;
mod cluster;
mod cluster_sharded;
mod compatibility;
mod cors;
mod demoted_primary;
mod denied_tokens;
mod drill;
mod event_streams;
mod fanout;
mod gaps;
mod history;
mod hooks;
mod host_header;
mod http2;
mod http_api;
mod internal_listener;
mod ipv6;
mod isolation;
mod last_value;
mod limits;
mod link_down;
mod login_faults;
mod memory_returned;
mod metrics;
mod migrate;
mod production_defaults;
mod redis_auth;
mod redis_down;
mod redis_isolation;
mod redis_restart;
mod redis_tls;
mod revocation;
mod sentinel;
mod session_login;
mod session_touch;
mod shutdown;
mod slow_consumer;
mod slow_consumer_policy;
mod sse_cursor;
mod sse_recovery;
mod stream;
mod stream_link_down;
mod stream_outage;
mod stream_reconnect;
mod stream_without_log;
mod stream_without_log_lost;
mod subscribe_race;
mod subscribe_race_channels;
mod tickets;
mod token_cookie;
mod token_expiry;
mod trusted_proxies;
mod websocket_recovery;
mod why;

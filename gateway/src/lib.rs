//! Earshot, a real-time fan-out gateway. Delivers Redis `PUBLISH` messages to browsers over SSE and to apps over
//! WebSocket.
//!
//! Modules import strictly downwards, in this order:
//!
//! - [`cli`]: commands and flags.
//! - [`gateway`]: the composition root.
//! - [`config`]: reads the file and the environment into one validated value.
//! - [`http`]: the HTTP API, health, readiness, metrics and the console.
//! - [`ingress`]: listeners, request heads, the WebSocket handshake, the routing of each connection.
//! - [`shard`]: the data plane: connections, subscriptions, writes.
//! - [`node`]: channels: assigns offsets, dispatches publications, keeps idle channels.
//! - [`login`]: determines who a client is, and when its login ends.
//! - [`broker`]: memory and Redis. [`store`]: keys in Redis, read and watched.
//! - [`hooks`]: requests to the backend of the application.
//! - [`metrics`], [`drain`], [`random`]: counters; graceful shutdown; random numbers.
//! - [`auth`]: authenticates clients and decides their permissions.
//! - [`admission`]: permits for connections. [`redact`]: removes credentials from texts.
//! - [`http_client`]: requests to HTTP servers.

pub mod admission;
pub mod auth;
pub mod broker;
pub mod cli;
pub mod config;
pub mod drain;
pub mod gateway;
pub mod hooks;
pub mod http;
pub mod http_client;
pub mod ingress;
pub mod login;
pub mod metrics;
pub mod node;
pub mod random;
pub mod redact;
pub mod shard;
pub mod store;

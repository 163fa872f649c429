//! Earshot, a real-time fan-out gateway. What a backend says to Redis with a plain `PUBLISH` reaches every browser
//! (SSE) and app (WebSocket) that may hear it.
//!
//! Modules import strictly downwards, in this order:
//!
//! - [`cli`]: commands and flags.
//! - [`gateway`]: the composition root.
//! - [`config`]: file and environment become one checked value.
//! - [`http`]: everything that is not a stream.
//! - [`ingress`]: listeners, request heads, the WebSocket handshake, the routing of each connection.
//! - [`shard`]: the data plane: connections, subscriptions, writes.
//! - [`node`]: channels: stamp, dispatch, linger.
//! - [`broker`]: memory and Redis.
//! - [`metrics`], [`drain`], [`random`]: what everybody counts; how everything stops; unpredictable numbers.
//! - [`auth`]: who may connect, and what clients may do.
//! - [`admission`]: permits for connections. [`redact`]: hides credentials in texts.

pub mod admission;
pub mod auth;
pub mod broker;
pub mod cli;
pub mod config;
pub mod drain;
pub mod gateway;
pub mod http;
pub mod ingress;
pub mod metrics;
pub mod node;
pub mod random;
pub mod redact;
pub mod shard;

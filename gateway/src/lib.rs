//! Earshot, a real-time fan-out gateway. What a backend says to Redis with a plain `PUBLISH` reaches every browser
//! (SSE) and app (WebSocket) that may hear it.
//!
//! Modules import strictly downwards, in this order:
//!
//! - [`cli`]: commands and flags.
//! - [`gateway`]: the composition root.
//! - [`config`]: file and environment become one checked value.
//! - [`http`]: everything that is not a stream.
//! - [`accept`]: listeners, the head of each connection, the parting of ways.
//! - [`shard`]: the data plane: connections, subscriptions, writes.
//! - [`node`]: channels: stamp, dispatch, linger.
//! - [`broker`]: memory and Redis. [`check`]: what is wrong with a Redis, or with the way to a gateway.
//!   [`drill`]: whether all heals when a Redis is taken away.
//! - [`migrate`]: moving a keyspace from one Redis to others.
//! - [`instance`]: one Redis server, and how it is dialled.
//! - [`metrics`], [`drain`], [`random`]: what everybody counts; how everything stops; unpredictable numbers.
//! - [`admission`]: permits for connections. [`redact`]: hides credentials in texts.

pub mod accept;
pub mod admission;
pub mod broker;
pub mod check;
pub mod cli;
pub mod config;
pub mod drain;
pub mod drill;
pub mod gateway;
pub mod http;
pub mod instance;
pub mod metrics;
pub mod migrate;
pub mod node;
pub mod random;
pub mod redact;
pub mod shard;

//! A client of the gateway, used by the operator tools and the load test.
//!
//! The tests of the gateway have their own clients on purpose: a shared mistake would hide a defect.
//!
//! - `sse`: parser for event streams; `http1`: parser for HTTP/1.1 responses. Both are pure.
//! - `centrifuge`: the client side of a Centrifuge session: commands, pings, recovery positions. Pure.
//! - `ledger`: what one subscriber received of a numbered sequence: delivered, reported, lost, late, duplicate. Pure.
//! - `http`: an HTTP client over any byte stream; `websocket`: a Centrifuge client over any byte stream.
//! - `tasks`: background tasks and how they stop.

pub mod centrifuge;
pub mod http;
pub mod http1;
pub mod ledger;
pub mod sse;
mod tasks;
pub mod websocket;

pub use tasks::Tasks;

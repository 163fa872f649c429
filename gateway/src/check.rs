//! Looking for what is wrong: with a Redis, as the gateway would use it, and with the way to a gateway, as a client
//! sees it.
//!
//! Owns what is looked at, in which order, and what each sight means: the likely cause, and what to do. Must never
//! change anything that outlives the look (a test key has a random name and expires), never wait without a bound,
//! and never put a secret into a report.
//!
//! - `report`: findings, and their two forms: text and JSON.
//! - `endpoint`, `network`, `tls`: what lies below any protocol: names, addresses, certificates.
//! - `sample`: names of our own.
//! - `redis`: one Redis server.
//! - `path`: a deployed gateway, through whatever stands before it.

use std::time::Duration;

mod endpoint;
mod network;
pub mod path;
pub mod redis;
mod report;
mod sample;
mod tls;

pub use report::{Finding, Level, Report, Section};

/// How long one step may take where nothing else is said.
pub const STEP: Duration = Duration::from_secs(10);

/// What a step comes to, or else the finding that it took too long.
async fn within<T>(
    limit: Duration,
    check: &'static str,
    step: impl Future<Output = T>,
) -> Result<T, Finding> {
    tokio::time::timeout(limit, step).await.map_err(|_| {
        Finding::failed(check, format!("no answer within {limit:?}"))
            .because("the server hangs or is overloaded, or the network between has lost the connection")
            .advise("look at the server's CPU and slow log; a larger --timeout tells slow from dead")
    })
}

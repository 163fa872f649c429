//! Diagnostics for a Redis server, as the gateway would use it, and for the network path to a gateway, as a client sees
//! it.
//!
//! Owns the order of the checks and their interpretation: the likely cause and the fix. Must never change anything
//! permanently (test keys have random names and expire), never wait without a limit, and never put a secret into a
//! report.
//!
//! - `report`: findings, as text and as JSON.
//! - `endpoint`, `network`, `tls`: names, addresses, certificates.
//! - `test_names`: names for test channels and keys.
//! - `redis`: one Redis server.
//! - `client_path`: a deployed gateway, through the proxies in front of it.

use std::time::Duration;

pub mod client_path;
mod endpoint;
mod network;
pub mod redis;
mod report;
mod test_names;
mod tls;

pub use report::{Finding, Level, Report, ReportSection};

/// Default time limit of one step.
pub const STEP_TIMEOUT: Duration = Duration::from_secs(10);

/// Runs a step with a time limit; returns a finding if it times out.
async fn within<T>(
    limit: Duration,
    check: &'static str,
    step: impl Future<Output = T>,
) -> Result<T, Finding> {
    tokio::time::timeout(limit, step).await.map_err(|_| {
        Finding::failed(check, format!("no reply within {limit:?}"))
            .cause("the server hangs or is overloaded, or the network dropped the connection")
            .fix("check the server's CPU usage and slow log; repeat with a larger --timeout to see whether it is only slow")
    })
}

//! The faults that can be injected.
//!
//! Owns the list of faults and what each of them requires. Must never inject a fault without its requirements.
//!
//! - `runner`: one fault, from the start of the traffic to the evaluation.
//! - `injection`: injects a fault and removes it.
//! - `assertions`: evaluates the result.

use tokio::time::Instant;

use super::environment::DrillEnvironment;
use super::report::{Outcome, RecoveryOutcome, Verdict};
use super::scrape::Numbers;

mod assertions;
mod injection;
mod runner;

/// A fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// No fault: checks that the environment works.
    Baseline,
    /// Redis is killed and restarted after 1 s.
    Kill,
    /// Redis is killed and restarted after a long time.
    Outage,
    /// Redis is suspended.
    Stop,
    /// The network drops everything while connections stay open, then resets them.
    HalfOpen,
    /// The network closes all connections.
    Cut,
    /// Redis closes the subscriber connection only.
    SubscriberKilled,
    /// The password is changed for a short time.
    WrongPassword,
    /// More is published at once than the output buffer of a subscriber permits.
    OutputBuffer,
    /// The permission to subscribe to a channel is revoked and granted again.
    PermissionRevoked,
    /// Another server becomes the primary, and the old primary keeps its connections open.
    Failover,
    /// The gateway is killed and restarted after 1 s.
    GatewayKilled,
}

/// What a fault requires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Requires {
    Nothing,
    /// A Redis that can be killed and restarted.
    TestServer,
    /// A proxy in front of Redis.
    Proxy,
    Gateway,
}

impl Fault {
    /// All selectable faults, in order.
    pub const ALL: [Self; 11] = [
        Self::Kill,
        Self::Outage,
        Self::Stop,
        Self::HalfOpen,
        Self::Cut,
        Self::SubscriberKilled,
        Self::WrongPassword,
        Self::OutputBuffer,
        Self::PermissionRevoked,
        Self::Failover,
        Self::GatewayKilled,
    ];

    /// Finds a fault by its name.
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|fault| fault.name() == name)
    }

    /// Name in flags and reports.
    pub fn name(self) -> &'static str {
        self.name_and_description().0
    }

    /// Description for `--list`.
    pub fn description(self) -> &'static str {
        self.name_and_description().1
    }

    fn name_and_description(self) -> (&'static str, &'static str) {
        match self {
            Self::Baseline => ("baseline", "no fault: checks that the environment works"),
            Self::Kill => ("kill", "Redis is killed and restarted after 1 s"),
            Self::Outage => ("outage", "Redis is killed and restarted after --outage"),
            Self::Stop => ("stop", "Redis is suspended (SIGSTOP) for --outage"),
            Self::HalfOpen => {
                ("half-open", "the network drops everything for --outage, then resets its connections")
            }
            Self::Cut => ("cut", "the network closes all connections"),
            Self::SubscriberKilled => ("subscriber-killed", "Redis closes the subscriber connection only"),
            Self::WrongPassword => ("wrong-password", "the password is rejected for 1 s"),
            Self::OutputBuffer => ("output-buffer", "a burst exceeds client-output-buffer-limit"),
            Self::PermissionRevoked => {
                ("permission-revoked", "the permission to subscribe is revoked and granted again")
            }
            Self::Failover => {
                ("failover", "a replica is promoted, and the old primary keeps its connections open")
            }
            Self::GatewayKilled => ("gateway-killed", "the gateway is killed and restarted after 1 s"),
        }
    }

    fn requires(self) -> Requires {
        match self {
            Self::Kill | Self::Outage | Self::Stop | Self::Failover => Requires::TestServer,
            Self::HalfOpen | Self::Cut => Requires::Proxy,
            Self::GatewayKilled => Requires::Gateway,
            Self::Baseline
            | Self::SubscriberKilled
            | Self::WrongPassword
            | Self::OutputBuffer
            | Self::PermissionRevoked => Requires::Nothing,
        }
    }

    fn recovery(self) -> RecoveryOutcome {
        match self {
            Self::WrongPassword | Self::PermissionRevoked => RecoveryOutcome::Rejection,
            Self::GatewayKilled => RecoveryOutcome::Gateway,
            _ => RecoveryOutcome::Redis,
        }
    }

    /// Why the fault cannot be injected in this environment.
    fn unavailable_reason(self, environment: &DrillEnvironment) -> Option<&'static str> {
        match self.requires() {
            Requires::TestServer if environment.servers.is_none() => {
                Some("requires a Redis started by the drill: omit --redis")
            }
            Requires::Proxy if environment.proxy.is_none() => Some(
                "requires that the gateway connects to Redis through the drill: use --proxy, and configure the gateway to connect there",
            ),
            Requires::Gateway if environment.gateway.is_none() => {
                Some("requires a gateway started by the drill: omit --gateway")
            }
            _ => None,
        }
    }
}

/// Why the run of a fault ended early.
#[derive(Debug)]
enum DrillError {
    /// The server denied a command, which is not a failure of the gateway.
    Rejected(String),
    /// The gateway failed an assertion, or the drill itself failed.
    Failed(String),
}

impl From<String> for DrillError {
    fn from(reason: String) -> Self {
        Self::Failed(reason)
    }
}

/// When a fault was injected and removed.
#[derive(Debug)]
struct FaultWindow {
    injected_at: Instant,
    removed_at: Instant,
    /// Metrics while the fault lasted.
    during: Option<Numbers>,
}

/// Runs one fault, from the start of the traffic to the evaluation.
pub(super) async fn run(fault: Fault, environment: &mut DrillEnvironment) -> Outcome {
    let outcome = Outcome::new(fault.name(), fault.recovery());
    if let Some(reason) = fault.unavailable_reason(environment) {
        return outcome.finished(Verdict::Skipped, reason.to_owned());
    }
    match Box::pin(runner::run(fault, environment, outcome.clone())).await {
        Ok(outcome) => outcome,
        Err(DrillError::Rejected(reason)) => {
            outcome.finished(Verdict::Skipped, format!("the server denied a command: {reason}"))
        }
        Err(DrillError::Failed(reason)) => outcome.finished(Verdict::Failed, reason),
    }
}

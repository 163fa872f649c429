//! What can be done to a Redis, and what must follow.
//!
//! Owns the list, and what each exercise needs. Must never be done where that is not at hand.
//!
//! - `course`: one exercise from its first number to its last.
//! - `fault`: how it is brought about, and taken away.
//! - `judge`: what must be so.

use tokio::time::Instant;

use super::report::{Outcome, Return, Verdict};
use super::scrape::Numbers;
use super::stage::Stage;

mod course;
mod fault;
mod judge;

/// One thing that is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exercise {
    /// Nothing: whether it works at all.
    Steady,
    /// Redis is killed, and started again after a second.
    Kill,
    /// The same, after a long time.
    Outage,
    /// Redis hangs.
    Stop,
    /// The network between swallows everything while its connections stay open; then they are reset.
    HalfOpen,
    /// The network between closes every connection.
    Cut,
    /// Redis cuts off the subscriber alone.
    SubscriberKilled,
    /// The password is another one for a while.
    WrongPassword,
    /// More is published at once than Redis keeps for a subscriber.
    OutputBuffer,
    /// The right to hear a channel is taken away, and given back.
    RightRevoked,
    /// Another server becomes the primary, while the old one closes nothing.
    FailOver,
    /// The gateway itself is killed, and started again after a second.
    GatewayKilled,
}

/// What an exercise must have in its hands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Need {
    Nothing,
    /// A Redis that can be killed and started.
    Server,
    /// The network before it.
    Proxy,
    Gateway,
}

impl Exercise {
    /// Everything that can be chosen, in the order in which it is done.
    pub const ALL: [Self; 11] = [
        Self::Kill,
        Self::Outage,
        Self::Stop,
        Self::HalfOpen,
        Self::Cut,
        Self::SubscriberKilled,
        Self::WrongPassword,
        Self::OutputBuffer,
        Self::RightRevoked,
        Self::FailOver,
        Self::GatewayKilled,
    ];

    /// The one of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|exercise| exercise.name() == name)
    }

    /// What flags and reports call it.
    pub fn name(self) -> &'static str {
        self.described().0
    }

    /// What is done, in words.
    pub fn about(self) -> &'static str {
        self.described().1
    }

    fn described(self) -> (&'static str, &'static str) {
        match self {
            Self::Steady => ("steady", "nothing is done: whether it works at all"),
            Self::Kill => ("kill", "Redis is killed, and started again after 1 s"),
            Self::Outage => ("outage", "Redis is killed, and started again after --outage"),
            Self::Stop => ("stop", "Redis hangs (SIGSTOP) for --outage, then goes on"),
            Self::HalfOpen => {
                ("half-open", "the network swallows everything for --outage, then resets its connections")
            }
            Self::Cut => ("cut", "the network closes every connection"),
            Self::SubscriberKilled => {
                ("subscriber-killed", "Redis closes the connection for subscriptions, and no other")
            }
            Self::WrongPassword => ("wrong-password", "the password is refused for a while"),
            Self::OutputBuffer => {
                ("output-buffer", "more is published at once than client-output-buffer-limit allows")
            }
            Self::RightRevoked => {
                ("right-revoked", "the right to hear a channel is taken away, and given back")
            }
            Self::FailOver => (
                "fail-over",
                "a replica becomes the primary, and the old primary a replica that closes nothing",
            ),
            Self::GatewayKilled => ("gateway-killed", "the gateway is killed, and started again after 1 s"),
        }
    }

    fn need(self) -> Need {
        match self {
            Self::Kill | Self::Outage | Self::Stop | Self::FailOver => Need::Server,
            Self::HalfOpen | Self::Cut => Need::Proxy,
            Self::GatewayKilled => Need::Gateway,
            Self::Steady
            | Self::SubscriberKilled
            | Self::WrongPassword
            | Self::OutputBuffer
            | Self::RightRevoked => Need::Nothing,
        }
    }

    fn returns(self) -> Return {
        match self {
            Self::WrongPassword | Self::RightRevoked => Return::Refusal,
            Self::GatewayKilled => Return::Gateway,
            _ => Return::Redis,
        }
    }

    /// Why it cannot be done here.
    fn is_out_of_reach(self, stage: &Stage) -> Option<&'static str> {
        match self.need() {
            Need::Server if stage.servers.is_none() => {
                Some("it needs a Redis that the drill started: leave --redis out")
            }
            Need::Proxy if stage.proxy.is_none() => Some(
                "the gateway does not reach its Redis through the drill: give --proxy, and point the gateway there",
            ),
            Need::Gateway if stage.gateway.is_none() => {
                Some("it needs a gateway that the drill started: leave --gateway out")
            }
            _ => None,
        }
    }
}

/// Why an exercise did not come to its end.
#[derive(Debug)]
enum Trouble {
    /// The server does not let us, which is no fault of the gateway's.
    Refused(String),
    /// Something did not go as it must.
    Wrong(String),
}

impl From<String> for Trouble {
    fn from(why: String) -> Self {
        Self::Wrong(why)
    }
}

/// When a fault came and went, and what was seen meanwhile.
#[derive(Debug)]
struct Spell {
    fault: Instant,
    back: Instant,
    /// The metrics while it was known.
    during: Option<Numbers>,
}

/// Does one exercise, from the first number to the last.
pub(super) async fn carry_out(exercise: Exercise, stage: &mut Stage) -> Outcome {
    let outcome = Outcome::new(exercise.name(), exercise.returns());
    if let Some(why) = exercise.is_out_of_reach(stage) {
        return outcome.ended(Verdict::Skipped, why.to_owned());
    }
    match Box::pin(course::run(exercise, stage, outcome.clone())).await {
        Ok(outcome) => outcome,
        Err(Trouble::Refused(why)) => {
            outcome.ended(Verdict::Skipped, format!("the server does not let us: {why}"))
        }
        Err(Trouble::Wrong(why)) => outcome.ended(Verdict::Failed, why),
    }
}

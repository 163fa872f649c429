//! The goals: ratios in one run against the bare loop and against nchan, and a few numbers that stand alone.

use super::Subject;
use super::Subject::{BareLoop, Nchan};
use super::run::Numbers;

/// A number of a run.
pub(super) type Pick = fn(&Numbers) -> Option<f64>;

/// What Earshot's number is to be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Goal {
    /// At most so many times another's.
    Within(f64, Subject),
    /// At least so many times another's.
    Reaches(f64, Subject),
    /// At most this.
    NoMoreThan(f64),
    /// At least this.
    NoLessThan(f64),
}

/// One line of the table.
#[derive(Clone, Debug)]
pub(super) struct Question {
    pub(super) what: &'static str,
    pub(super) case: &'static str,
    pub(super) unit: &'static str,
    pub(super) pick: Pick,
    pub(super) goals: &'static [Goal],
    /// Whether it is as much as could be reached: then it matters who could not do more.
    pub(super) is_rate: bool,
}

const fn question(
    what: &'static str,
    case: &'static str,
    unit: &'static str,
    pick: Pick,
    goals: &'static [Goal],
) -> Question {
    Question { what, case, unit, pick, goals, is_rate: false }
}

/// As much as could be reached in a second.
const fn rate(what: &'static str, case: &'static str, pick: Pick, goals: &'static [Goal]) -> Question {
    Question { what, case, unit: "/s", pick, goals, is_rate: true }
}

const CPU: Pick = |numbers| numbers.micros_per_delivery;
const USER: Pick = |numbers| numbers.user_share.map(|share| share * 100.0);
const MEMORY: Pick = |numbers| numbers.bytes_per_connection.map(|bytes| bytes / 1024.0);
const RATE: Pick = |numbers| Some(numbers.deliveries_per_second);
const CONNECTIONS: Pick = |numbers| Some(numbers.connections_per_second);
const CONNECTION: Pick = |numbers| numbers.micros_per_connection;

/// All lines, in the order of the table. Growth is apart: see [`GROWTH`].
pub(super) const QUESTIONS: &[Question] = {
    use Goal::{NoLessThan, NoMoreThan, Reaches, Within};
    const BURST: &[Goal] = &[Within(1.3, BareLoop)];
    const ONE: &[Goal] = &[Within(1.15, BareLoop), Within(0.75, Nchan)];
    &[
        question("CPU per delivery, WebSocket", "fanout WebSocket", "µs", CPU, ONE),
        question("of that in user space", "fanout WebSocket", "%", USER, &[NoMoreThan(15.0)]),
        question("CPU per delivery, SSE", "fanout SSE", "µs", CPU, ONE),
        question("of that in user space, SSE", "fanout SSE", "%", USER, &[NoMoreThan(15.0)]),
        question("CPU per delivery, WebSocket, bursts of ten", "burst WebSocket", "µs", CPU, BURST),
        question("CPU per delivery, SSE, bursts of ten", "burst SSE", "µs", CPU, BURST),
        rate(
            "many channels, one subscriber each: deliveries a second",
            "many channels",
            RATE,
            &[Reaches(0.6, BareLoop)],
        ),
        question("the same: CPU per delivery", "many channels", "µs", CPU, &[]),
        question(
            "the same: lost",
            "many channels",
            "",
            |numbers| Some(numbers.lost as f64),
            &[NoMoreThan(0.0)],
        ),
        rate("highest rate, one channel: deliveries a second", "highest", RATE, &[]),
        question(
            "latency at half of the bare loop's, p50",
            "half load",
            "ms",
            |numbers| Some(numbers.p50),
            &[],
        ),
        question(
            "latency at half of the bare loop's, p99",
            "half load",
            "ms",
            |numbers| Some(numbers.p99),
            &[Within(2.0, BareLoop)],
        ),
        question(
            "latency at half of the bare loop's, p99.9",
            "half load",
            "ms",
            |numbers| Some(numbers.p99_9),
            &[],
        ),
        question(
            "memory per idle connection, WebSocket",
            "memory WebSocket",
            "KiB",
            MEMORY,
            &[NoMoreThan(2.5)],
        ),
        question("memory per idle connection, SSE", "memory SSE", "KiB", MEMORY, &[NoMoreThan(2.0)]),
        question(
            "memory after a burst, above idle, WebSocket",
            "burst WebSocket",
            "%",
            |numbers| numbers.kept_percent,
            &[NoMoreThan(10.0)],
        ),
        question(
            "memory after a burst, above idle, SSE",
            "burst SSE",
            "%",
            |numbers| numbers.kept_percent,
            &[NoMoreThan(10.0)],
        ),
        rate(
            "connections accepted and subscribed a second, WebSocket (nchan's need no subscribe command)",
            "connect WebSocket",
            CONNECTIONS,
            &[NoLessThan(15_000.0)],
        ),
        question("the same: CPU per connection", "connect WebSocket", "µs", CONNECTION, &[]),
        rate("connections accepted and subscribed a second, SSE", "connect SSE", CONNECTIONS, &[]),
        question("the same: CPU per connection, SSE", "connect SSE", "µs", CONNECTION, &[]),
        question(
            "100,000 idle connections: cores",
            "idle",
            "",
            |numbers| numbers.cores_per_100000,
            &[NoMoreThan(0.06)],
        ),
        question(
            "100,000 idle connections: memory",
            "idle",
            "MiB",
            |numbers| numbers.mib_per_100000,
            &[NoMoreThan(300.0)],
        ),
    ]
};

/// What must stay flat from one number of subscribers to another.
#[derive(Clone, Copy, Debug)]
pub(super) struct Growth {
    pub(super) what: &'static str,
    pub(super) unit: &'static str,
    pub(super) pick: Pick,
    /// Fewer subscribers say nothing about it.
    pub(super) from: u32,
    /// Whether the bare loop's is worth a comparison.
    pub(super) has_bare_loop: bool,
}

/// Memory per connection says nothing below a thousand: what the server takes for itself is shared by too few. The bare
/// loop keeps nothing for a connection.
pub(super) const GROWTH: &[Growth] = &[
    Growth { what: "CPU per delivery", unit: "µs", pick: CPU, from: 0, has_bare_loop: true },
    Growth { what: "memory per connection", unit: "KiB", pick: MEMORY, from: 1000, has_bare_loop: false },
];
/// Within how many per cent of the mean over the numbers of subscribers.
pub(super) const FLAT_PERCENT: f64 = 20.0;

//! Plan of a subscriber: what it connects to and how it behaves.

use earshot_protocol::Encoding;

/// Transport of a subscriber.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    /// Server-Sent Events.
    Sse,
    /// WebSocket; the encoding applies to targets that speak the Centrifuge protocol.
    WebSocket(Encoding),
}

/// How fast a subscriber reads once reads are throttled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReadRate {
    /// No limit.
    Unlimited,
    /// This many bytes per second.
    BytesPerSecond(u32),
    /// Does not read.
    Paused,
}

/// Plan of one subscriber.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SubscriberPlan {
    /// Transport.
    pub(crate) transport: Transport,
    /// Index of the channel.
    pub(crate) channel: u32,
    /// Index of the cohort.
    pub(crate) cohort: u8,
    /// Read rate once reads are throttled.
    pub(crate) read_rate: ReadRate,
    /// Whether the subscriber takes part in churn.
    pub(crate) churns: bool,
}

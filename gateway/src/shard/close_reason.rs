//! Why a connection ends.

use std::io;

use earshot_protocol::Disconnect;

/// Why a connection ends, for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum CloseReason {
    /// The gateway disconnects the client.
    #[error("disconnected with code {}: {}", .0.code(), .0.reason())]
    Disconnect(Disconnect),
    /// A command of the API disconnects the client.
    #[error("disconnected by the API with code {0}")]
    Command(u16),
    /// A hook disconnects the client.
    #[error("disconnected by a hook with code {0}")]
    Hook(u16),
    /// The client sent a close frame.
    #[error("the client sent a close frame")]
    CloseFrame,
    /// The client violated the WebSocket protocol.
    #[error("WebSocket protocol error: {0}")]
    ProtocolError(&'static str),
    /// A stream reached its maximum age, or one of its channels is not available.
    #[error("the stream ended")]
    StreamEnd,
    /// The client closed the connection.
    #[error("the client closed the connection")]
    ClientClosed,
    /// Reading or writing failed.
    #[error("the connection failed: {0}")]
    Io(io::ErrorKind),
    /// The client did not close its end in time.
    #[error("close timeout")]
    CloseTimeout,
}

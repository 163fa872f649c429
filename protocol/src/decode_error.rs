//! Why a frame cannot be decoded.

/// Why a frame cannot be decoded.
#[derive(thiserror::Error, Debug, Clone, PartialEq, Eq)]
pub enum DecodeError {
    /// The frame contains no message.
    #[error("the frame is empty")]
    Empty,
    /// The frame is not valid in this encoding. The text gives the position and never repeats what the client sent.
    #[error("malformed frame: {0}")]
    Malformed(String),
    /// A command without a known method.
    #[error("a command names no known method")]
    UnknownCommand,
    /// A command with more than one method.
    #[error("a command names more than one method")]
    DuplicateMethod,
    /// A reply or push without a known body.
    #[error("a reply has no known body")]
    UnknownReply,
    /// A reply or push with more than one body.
    #[error("a reply has more than one body")]
    DuplicateBody,
}

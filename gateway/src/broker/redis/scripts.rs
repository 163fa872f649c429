//! The scripts that maintain a log, and their calls.
//!
//! Owns their texts and hashes, and whether the server of a connection has loaded them. Must never let a script access a
//! key that is not among its keys: a cluster rejects that.

use std::sync::LazyLock;

use bytes::Bytes;
use redis::aio::MultiplexedConnection;
use redis::{Pipeline, Script};

use earshot_redis_link::LinkError;

/// The text of a script, and its hash.
#[derive(Debug)]
pub(super) struct LogScript {
    text: &'static str,
    hash: LazyLock<String>,
}

/// Appends an entry and publishes it.
pub(super) static APPEND: LogScript =
    LogScript { text: APPEND_TEXT, hash: LazyLock::new(|| hash_of(APPEND_TEXT)) };
/// Reads a page.
pub(super) static READ: LogScript = LogScript { text: READ_TEXT, hash: LazyLock::new(|| hash_of(READ_TEXT)) };
/// Removes the entries.
pub(super) static CLEAR: LogScript =
    LogScript { text: CLEAR_TEXT, hash: LazyLock::new(|| hash_of(CLEAR_TEXT)) };

const APPEND_TEXT: &str = concat!(include_str!("log_origin.lua"), include_str!("log.lua"));
const READ_TEXT: &str = concat!(include_str!("log_origin.lua"), include_str!("log_read.lua"));
const CLEAR_TEXT: &str = include_str!("log_clear.lua");

fn hash_of(text: &str) -> String {
    Script::new(text).get_hash().to_owned()
}

/// A call of a script.
#[derive(Debug)]
pub(super) struct ScriptCall {
    pub(super) source: &'static LogScript,
    pub(super) keys: Vec<String>,
    pub(super) arguments: Vec<Bytes>,
    /// The maximum size of the reply.
    pub(super) answer_bytes: usize,
}

/// How a call refers to its script.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ScriptRef {
    /// By its hash: short, but the server must know it.
    Hash,
    /// By its text.
    Text,
}

impl ScriptCall {
    /// Bytes of the call.
    pub(super) fn bytes(&self) -> usize {
        let keys: usize = self.keys.iter().map(String::len).sum();
        self.arguments.iter().map(Bytes::len).sum::<usize>() + keys
    }

    /// Adds the call to a pipeline.
    pub(super) fn write(&self, by: ScriptRef, pipeline: &mut Pipeline) {
        match by {
            ScriptRef::Hash => pipeline.cmd("EVALSHA").arg(&*self.source.hash),
            ScriptRef::Text => pipeline.cmd("EVAL").arg(self.source.text),
        };
        pipeline.arg(self.keys.len()).arg(&self.keys);
        self.arguments.iter().for_each(|argument| {
            pipeline.arg(&argument[..]);
        });
    }
}

/// Whether the scripts were loaded on a connection.
#[derive(Debug, Default)]
pub(super) struct ScriptCache {
    done: bool,
}

impl ScriptCache {
    /// Loads the scripts, once for each connection, so that a call does not have to be repeated after later ones. If
    /// an ACL denies it, only the first calls are repeated.
    pub(super) async fn load(&mut self, connection: &mut MultiplexedConnection) -> Result<(), LinkError> {
        if self.done {
            return Ok(());
        }
        let mut pipeline = Pipeline::with_capacity(3);
        for source in [&APPEND, &READ, &CLEAR] {
            pipeline.cmd("SCRIPT").arg("LOAD").arg(source.text);
        }
        let sent = connection.send_packed_commands(&pipeline, 0, 3).await;
        sent.map_err(|error| LinkError::Unreachable(error.to_string()))?;
        self.done = true;
        Ok(())
    }
}

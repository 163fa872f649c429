//! The scripts that keep a log, and how one is called.
//!
//! Owns their texts and names, and whether a connection's server knows them. Must never let a script touch a key that
//! is not among its keys: a cluster would refuse it.

use std::sync::LazyLock;

use bytes::Bytes;
use redis::aio::MultiplexedConnection;
use redis::{Pipeline, Script};

use earshot_redis_link::LinkError;

/// A script's text, and the name by which a server that has seen it knows it.
#[derive(Debug)]
pub(super) struct Source {
    text: &'static str,
    hash: LazyLock<String>,
}

/// Numbers, keeps and publishes.
pub(super) static APPEND: Source = Source { text: APPEND_TEXT, hash: LazyLock::new(|| hash_of(APPEND_TEXT)) };
/// Reads a page.
pub(super) static READ: Source = Source { text: READ_TEXT, hash: LazyLock::new(|| hash_of(READ_TEXT)) };
/// Removes the entries.
pub(super) static CLEAR: Source = Source { text: CLEAR_TEXT, hash: LazyLock::new(|| hash_of(CLEAR_TEXT)) };

const APPEND_TEXT: &str = concat!(include_str!("log_origin.lua"), include_str!("log.lua"));
const READ_TEXT: &str = concat!(include_str!("log_origin.lua"), include_str!("log_read.lua"));
const CLEAR_TEXT: &str = include_str!("log_clear.lua");

fn hash_of(text: &str) -> String {
    Script::new(text).get_hash().to_owned()
}

/// A script with what it is called on.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) source: &'static Source,
    pub(super) keys: Vec<String>,
    pub(super) arguments: Vec<Bytes>,
    /// Bytes that the answer may have.
    pub(super) answer_bytes: usize,
}

/// How a script is named in a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum By {
    /// By its hash: short, but the server must have seen it.
    Hash,
    /// By its whole text.
    Text,
}

impl Call {
    /// Bytes that it takes to wait and to send.
    pub(super) fn bytes(&self) -> usize {
        let keys: usize = self.keys.iter().map(String::len).sum();
        self.arguments.iter().map(Bytes::len).sum::<usize>() + keys
    }

    /// Puts the call into a pipeline.
    pub(super) fn write(&self, by: By, pipeline: &mut Pipeline) {
        match by {
            By::Hash => pipeline.cmd("EVALSHA").arg(&*self.source.hash),
            By::Text => pipeline.cmd("EVAL").arg(self.source.text),
        };
        pipeline.arg(self.keys.len()).arg(&self.keys);
        self.arguments.iter().for_each(|argument| {
            pipeline.arg(&argument[..]);
        });
    }
}

/// Whether the server behind a connection was given the scripts.
#[derive(Debug, Default)]
pub(super) struct Loading {
    done: bool,
}

impl Loading {
    /// Gives the scripts to the server, once for a connection, so that no call has to be made a second time, behind
    /// those that were made after it. An ACL may forbid it, and then only the first calls are.
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

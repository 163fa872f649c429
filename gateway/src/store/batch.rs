//! One pipeline: requests of callers, and watched keys that are read again.
//!
//! Owns the order of commands and replies. Must never execute a batch twice: the outcome of a write in flight when the
//! connection breaks is unknown, so its caller gets an error.

use redis::aio::MultiplexedConnection;
use redis::{Pipeline, Value};

use super::error::{ErrorScope, StoreError};
use super::key::KeyType;
use super::queue::QueuedRequest;
use super::request::{
    StoreReply, StoreRequest, WatchedValue, parse_role, parse_watched_read, write_watched_read,
};
use super::status::{LinkHealth, ServerRole};
use super::watch_table::Reread;
use super::watches::Watches;
use earshot_redis_link::LinkError;

/// The commands for one server.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) requests: Vec<QueuedRequest>,
    pub(super) rereads: Vec<Reread>,
}

impl Batch {
    pub(super) fn is_empty(&self) -> bool {
        self.requests.is_empty() && self.rereads.is_empty()
    }

    /// Executes the commands, answers the callers, and passes the results of reads to the watched keys.
    ///
    /// # Errors
    /// The connection failed, or the server does not answer commands at present.
    pub(super) async fn execute(
        self,
        mut connection: MultiplexedConnection,
        watches: &Watches,
        health: &LinkHealth,
    ) -> Result<(), LinkError> {
        let pipeline = self.pipeline();
        let commands = pipeline.len();
        match connection.send_packed_commands(&pipeline, 0, commands).await {
            Ok(replies) if replies.len() == commands => self.complete(replies, watches, health),
            Ok(_) => Err(self.fail(watches, "replies are missing")),
            Err(error) => Err(self.fail(watches, &error.to_string())),
        }
    }

    fn pipeline(&self) -> Pipeline {
        let mut pipeline = Pipeline::with_capacity(self.requests.len() + 2 * self.rereads.len() + 1);
        self.requests.iter().for_each(|queued| queued.request.write(&mut pipeline));
        self.rereads.iter().for_each(|reread| write_watched_read(&mut pipeline, &reread.key, reread.kind));
        if self.reads_watched_keys() {
            // After the reads: if the server is a primary now, the data that was read is valid.
            pipeline.cmd("ROLE");
        }
        pipeline
    }

    fn reads_watched_keys(&self) -> bool {
        !self.rereads.is_empty() || self.requests.iter().any(|queued| queued.request.watch().is_some())
    }

    fn complete(
        self,
        mut replies: Vec<Value>,
        watches: &Watches,
        health: &LinkHealth,
    ) -> Result<(), LinkError> {
        let mut role = ServerRole::Unknown;
        if self.reads_watched_keys() {
            role = replies.pop().as_ref().map_or(ServerRole::Unknown, parse_role);
            health.lock().role = role;
        }
        let mut failures = Failures::default();
        let mut replies = replies.into_iter();
        for queued in self.requests {
            let answer = match (&queued.request, queued.request.watch()) {
                (StoreRequest::Read { kind, .. }, Some(id)) => {
                    let read = note(next_watched_read(*kind, &mut replies), &mut failures);
                    watches.on_caller_read((id, *kind), read.as_ref(), role);
                    read.map(StoreReply::Watched)
                }
                (request, _) => note(request.parse(replies.next().unwrap_or_default()), &mut failures),
            };
            queued.answer(answer);
        }
        for reread in self.rereads {
            let read = note(next_watched_read(reread.kind, &mut replies), &mut failures);
            watches.on_read(&reread, read.as_ref(), role);
        }
        if let Some(rejection) = failures.rejection {
            health.lock().last_error = rejection;
        }
        failures.server.map_or(Ok(()), Err)
    }

    /// Answers with an error.
    pub(super) fn fail(self, watches: &Watches, cause: &str) -> LinkError {
        let error = StoreError::Unavailable(cause.to_owned());
        for reread in self.rereads {
            watches.on_read(&reread, Err(&error), ServerRole::Unknown);
        }
        for queued in self.requests {
            queued.answer(Err(error.clone()));
        }
        LinkError::Unreachable(cause.to_owned())
    }
}

type Parsed<T> = Result<T, (StoreError, ErrorScope)>;

fn next_watched_read(kind: KeyType, replies: &mut impl Iterator<Item = Value>) -> Parsed<WatchedValue> {
    let (value, ttl) = (replies.next().unwrap_or_default(), replies.next().unwrap_or_default());
    parse_watched_read(kind, value, &ttl)
}

/// The failure of a batch.
#[derive(Debug, Default)]
struct Failures {
    /// The server answers no command: the connection is then closed, and the next one waits.
    server: Option<LinkError>,
    /// A command was rejected, for example by the ACL.
    rejection: Option<String>,
}

fn note<T>(parsed: Parsed<T>, failures: &mut Failures) -> Result<T, StoreError> {
    parsed.map_err(|(error, scope)| {
        match (&error, scope) {
            (StoreError::Rejected(text), ErrorScope::Server) => {
                failures.server = Some(LinkError::Rejected(text.clone()));
            }
            (_, ErrorScope::Server) => failures.server = Some(LinkError::Unreachable(error.to_string())),
            (StoreError::Rejected(text), ErrorScope::Command) => failures.rejection = Some(text.clone()),
            (_, ErrorScope::Command) => {}
        }
        error
    })
}

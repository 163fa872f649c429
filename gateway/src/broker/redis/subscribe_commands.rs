//! SUBSCRIBE and its siblings in chunks, each confirmed or rejected.
//!
//! Owns finding the rejected topic of a chunk. Must never let one rejected topic affect another: a rejected chunk is
//! halved until one topic is left.

use futures::stream::{self, StreamExt, TryStreamExt};
use redis::aio::MultiplexedConnection;
use redis::{ErrorKind, RedisError, RedisResult, ServerErrorKind};

use super::subscription_table::{SyncBatch, SyncResult};
use crate::broker::Topic;
use earshot_redis_link::{LinkError, server_message};

/// Chunks in flight: enough to hide the round trip, few enough not to flood a server.
const IN_FLIGHT_MAX: usize = 4;

/// Executes a batch. Fails only when the connection is no longer usable.
pub(super) async fn execute(
    connection: MultiplexedConnection,
    round: SyncBatch,
    chunk: usize,
) -> Result<SyncResult, LinkError> {
    let commands = commands(Verb::Subscribe, round.subscribe, chunk).chain(commands(
        Verb::Unsubscribe,
        round.unsubscribe,
        chunk,
    ));
    stream::iter(commands.map(|command| command.execute(connection.clone())))
        .buffer_unordered(IN_FLIGHT_MAX)
        .try_fold(SyncResult::default(), |mut all, one| async {
            all.subscribed.extend(one.subscribed);
            all.unsubscribed.extend(one.unsubscribed);
            all.rejected.extend(one.rejected);
            Ok(all)
        })
        .await
}

#[derive(Clone, Copy, Debug)]
enum Verb {
    Subscribe,
    Unsubscribe,
}

/// One command: topics of one kind.
#[derive(Debug)]
struct SubscribeCommand {
    verb: Verb,
    topics: Vec<Topic>,
}

fn commands(verb: Verb, topics: Vec<Topic>, chunk: usize) -> impl Iterator<Item = SubscribeCommand> {
    let (channels, patterns): (Vec<_>, Vec<_>) =
        topics.into_iter().partition(|topic| matches!(topic, Topic::Channel(_)));
    [channels, patterns].into_iter().flat_map(move |mut rest| {
        std::iter::from_fn(move || {
            let topics = rest.split_off(rest.len() - rest.len().min(chunk.max(1)));
            (!topics.is_empty()).then_some(SubscribeCommand { verb, topics })
        })
    })
}

impl SubscribeCommand {
    async fn execute(self, mut connection: MultiplexedConnection) -> Result<SyncResult, LinkError> {
        let Self { verb, topics } = self;
        let mut outcome = SyncResult::default();
        let mut parts = vec![topics];
        while let Some(mut part) = parts.pop() {
            match (send(&mut connection, verb, &part).await, verb) {
                (Ok(()), Verb::Subscribe) => outcome.subscribed.append(&mut part),
                (Ok(()), Verb::Unsubscribe) => outcome.unsubscribed.append(&mut part),
                (Err(error), Verb::Subscribe) => match RejectionScope::of(&error) {
                    RejectionScope::Connection => return Err(error.into()),
                    RejectionScope::Topic if part.len() > 1 => {
                        parts.push(part.split_off(part.len() / 2));
                        parts.push(part);
                    }
                    RejectionScope::Topic | RejectionScope::Command => {
                        let reason = server_message(&error);
                        outcome.rejected.extend(part.into_iter().map(|topic| (topic, reason.clone())));
                    }
                },
                // A failed unsubscribe means that the connection does not match the table.
                (Err(error), Verb::Unsubscribe) => return Err(error.into()),
            }
        }
        Ok(outcome)
    }
}

async fn send(connection: &mut MultiplexedConnection, verb: Verb, topics: &[Topic]) -> RedisResult<()> {
    let patterns = matches!(topics.first(), Some(Topic::Pattern(_)));
    let names: Vec<&str> = topics.iter().map(name).collect();
    match (verb, patterns) {
        (Verb::Subscribe, false) => connection.subscribe(names).await,
        (Verb::Subscribe, true) => connection.psubscribe(names).await,
        (Verb::Unsubscribe, false) => connection.unsubscribe(names).await,
        (Verb::Unsubscribe, true) => connection.punsubscribe(names).await,
    }
}

fn name(topic: &Topic) -> &str {
    match topic {
        Topic::Channel(name) | Topic::Sharded(name) => name.as_str(),
        Topic::Pattern(pattern) => pattern,
    }
}

/// The scope of a rejected chunk.
#[derive(Debug, PartialEq, Eq)]
enum RejectionScope {
    /// The connection is broken, or the server is not ready: nothing is known about the topics.
    Connection,
    /// The command itself is denied or unknown: every topic of the chunk is rejected.
    Command,
    /// At least one topic is denied.
    Topic,
}

impl RejectionScope {
    fn of(error: &RedisError) -> Self {
        match error.kind() {
            ErrorKind::Server(ServerErrorKind::NoPerm) => {
                // Only the text distinguishes a denied command from a denied channel. If it ever changes, halving
                // yields the same result, only slower.
                let command = error.detail().is_some_and(|text| text.contains("permissions to run"));
                if command { Self::Command } else { Self::Topic }
            }
            ErrorKind::Server(ServerErrorKind::ResponseError) => {
                let command = error.detail().is_some_and(|text| text.contains("unknown command"));
                if command { Self::Command } else { Self::Topic }
            }
            ErrorKind::Extension if matches!(error.code(), Some("NOAUTH" | "WRONGPASS")) => Self::Connection,
            ErrorKind::Extension => Self::Topic,
            _ => Self::Connection,
        }
    }
}

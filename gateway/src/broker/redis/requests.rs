//! SUBSCRIBE and its siblings in chunks, each confirmed or refused.
//!
//! Owns the question which topic of a refused chunk is to blame. Must never let one refused topic cost another its
//! subscription: a chunk that the server refuses is halved until the culprit stands alone.

use futures::stream::{self, StreamExt, TryStreamExt};
use redis::aio::MultiplexedConnection;
use redis::{ErrorKind, RedisError, RedisResult, ServerErrorKind};

use super::table::{Outcome, Round};
use crate::broker::Topic;
use earshot_redis_link::{LinkError, server_message};

/// Chunks that may await their confirmation at one time: enough to hide the round trip, too few to swamp a server.
const IN_FLIGHT: usize = 4;

/// Carries out a round. Fails only when the connection is of no use any more.
pub(super) async fn carry_out(
    connection: MultiplexedConnection,
    round: Round,
    chunk: usize,
) -> Result<Outcome, LinkError> {
    let requests = requests(Verb::Subscribe, round.subscribe, chunk).chain(requests(
        Verb::Unsubscribe,
        round.unsubscribe,
        chunk,
    ));
    stream::iter(requests.map(|request| request.carry_out(connection.clone())))
        .buffer_unordered(IN_FLIGHT)
        .try_fold(Outcome::default(), |mut all, one| async {
            all.subscribed.extend(one.subscribed);
            all.unsubscribed.extend(one.unsubscribed);
            all.refused.extend(one.refused);
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
struct Request {
    verb: Verb,
    topics: Vec<Topic>,
}

fn requests(verb: Verb, topics: Vec<Topic>, chunk: usize) -> impl Iterator<Item = Request> {
    let (channels, patterns): (Vec<_>, Vec<_>) =
        topics.into_iter().partition(|topic| matches!(topic, Topic::Channel(_)));
    [channels, patterns].into_iter().flat_map(move |mut rest| {
        std::iter::from_fn(move || {
            let topics = rest.split_off(rest.len() - rest.len().min(chunk.max(1)));
            (!topics.is_empty()).then_some(Request { verb, topics })
        })
    })
}

impl Request {
    async fn carry_out(self, mut connection: MultiplexedConnection) -> Result<Outcome, LinkError> {
        let Self { verb, topics } = self;
        let mut outcome = Outcome::default();
        let mut parts = vec![topics];
        while let Some(mut part) = parts.pop() {
            match (send(&mut connection, verb, &part).await, verb) {
                (Ok(()), Verb::Subscribe) => outcome.subscribed.append(&mut part),
                (Ok(()), Verb::Unsubscribe) => outcome.unsubscribed.append(&mut part),
                (Err(error), Verb::Subscribe) => match Blame::of(&error) {
                    Blame::Connection => return Err(error.into()),
                    Blame::Topic if part.len() > 1 => {
                        parts.push(part.split_off(part.len() / 2));
                        parts.push(part);
                    }
                    Blame::Topic | Blame::Command => {
                        let reason = server_message(&error);
                        outcome.refused.extend(part.into_iter().map(|topic| (topic, reason.clone())));
                    }
                },
                // A connection that cannot be told to be quiet is not the connection that the table believes in.
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

/// What a failed command tells about its chunk.
#[derive(Debug, PartialEq, Eq)]
enum Blame {
    /// The connection is broken, or the server is not ready: nothing is known about the topics.
    Connection,
    /// The command itself is forbidden or unknown: no topic of the chunk will fare better alone.
    Command,
    /// At least one topic is forbidden.
    Topic,
}

impl Blame {
    fn of(error: &RedisError) -> Self {
        match error.kind() {
            ErrorKind::Server(ServerErrorKind::NoPerm) => {
                // The text is all that tells "may not SUBSCRIBE" from "may not hear this channel". If it ever
                // changes, halving finds the same answer, only slower.
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

//! Speaking to a Redis as a backend or an operator does.
//!
//! Owns what the drill asks of a Redis, over connections that are dialled as the gateway's are. Must never keep a
//! connection that failed, and never say a password.
//!
//! - `acl`: a user as the server knows it.

use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{PushInfo, Value};

use crate::instance::{Dialer, InstanceSettings};

mod acl;

pub(super) use acl::AclUser;

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(2);
/// How long a command may: longer than a server is stopped. What is given up may still be carried out later.
const COMMAND: Duration = Duration::from_secs(600);
/// Commands on their way at a time.
const CHUNK: usize = 1000;

/// A Redis.
#[derive(Clone, Debug)]
pub(super) struct Backend {
    dialer: Arc<Dialer>,
    location: String,
}

/// A connection of the gateway's, as the server lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct GatewayLink {
    pub(super) id: String,
    /// What it is for: `commands` or `subscriptions`.
    pub(super) purpose: String,
    /// The ACL user.
    pub(super) user: String,
}

impl Backend {
    /// The server at a URL.
    pub(super) fn at(url: &str) -> Self {
        Self::of(&InstanceSettings { url: url.to_owned(), ..InstanceSettings::default() })
    }

    /// The server of an instance.
    pub(super) fn of(settings: &InstanceSettings) -> Self {
        let settings = InstanceSettings {
            name: "drill".to_owned(),
            connect_timeout: CONNECT,
            command_timeout: COMMAND,
            ..settings.clone()
        };
        Self { dialer: Arc::new(Dialer::new(&settings, "backend")), location: settings.location() }
    }

    /// Where it is, without any secret.
    pub(super) fn location(&self) -> &str {
        &self.location
    }

    /// Connects.
    pub(super) async fn connect(&self) -> Result<Link, String> {
        let deaf = |_: PushInfo| Ok::<_, redis::aio::SendError>(());
        let connection = Box::pin(self.dialer.dial(deaf)).await.map_err(|failure| failure.to_string())?;
        Ok(Link { connection })
    }

    /// Runs one command on a connection of its own.
    pub(super) async fn run(&self, words: &[&str]) -> Result<Value, String> {
        self.connect().await?.run(words).await
    }

    /// Runs one command whose answer is a text.
    pub(super) async fn text(&self, words: &[&str]) -> Result<String, String> {
        let value = self.run(words).await?;
        redis::from_redis_value(value).map_err(|_| format!("{} is answered with no text", words[0]))
    }

    /// What CONFIG GET says of a setting.
    pub(super) async fn setting(&self, name: &str) -> Result<String, String> {
        let answer = self.run(&["CONFIG", "GET", name]).await?;
        let value = acl::under(answer, name).map(acl::texts).and_then(|texts| texts.into_iter().next());
        value.ok_or_else(|| format!("the server does not tell {name}"))
    }

    /// A user, as ACL GETUSER tells it.
    pub(super) async fn acl_user(&self, name: &str) -> Result<AclUser, String> {
        Ok(AclUser::read(name, &self.run(&["ACL", "GETUSER", name]).await?))
    }

    /// The connections of gateways.
    pub(super) async fn gateway_links(&self) -> Result<Vec<GatewayLink>, String> {
        Ok(links(&self.text(&["CLIENT", "LIST"]).await?))
    }

    /// Cuts connections, and tells how many they were.
    pub(super) async fn cut(&self, links: &[GatewayLink]) -> Result<usize, String> {
        let mut connection = self.connect().await?;
        let mut count = 0;
        for link in links {
            // One that is gone already is as good as cut.
            count += usize::from(connection.run(&["CLIENT", "KILL", "ID", &link.id]).await.is_ok());
        }
        Ok(count)
    }
}

/// A connection.
#[derive(Debug)]
pub(super) struct Link {
    connection: MultiplexedConnection,
}

impl Link {
    /// Runs one command.
    pub(super) async fn run(&mut self, words: &[&str]) -> Result<Value, String> {
        let mut command = redis::Cmd::new();
        words.iter().for_each(|word| {
            command.arg(*word);
        });
        let answer = self.connection.send_packed_command(&command).await.and_then(Value::extract_error);
        answer.map_err(|error| format!("{}: {error}", words[0]))
    }

    /// Publishes one number, and tells how many heard it.
    pub(super) async fn publish(&mut self, channel: &str, number: u64) -> Result<(), String> {
        self.run(&["PUBLISH", channel, &number.to_string()]).await.map(|_| ())
    }

    /// Publishes one number on many channels.
    pub(super) async fn publish_all(&mut self, channels: &[String], number: u64) -> Result<(), String> {
        for chunk in channels.chunks(CHUNK) {
            let mut pipeline = redis::pipe();
            chunk.iter().for_each(|channel| {
                pipeline.cmd("PUBLISH").arg(channel).arg(number).ignore();
            });
            pipeline.exec_async(&mut self.connection).await.map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    /// Publishes in one step, so that nothing of it leaves the server before all of it waits there.
    pub(super) async fn publish_at_once(
        &mut self,
        channel: &str,
        payload: &str,
        times: usize,
    ) -> Result<(), String> {
        let mut pipeline = redis::pipe();
        pipeline.atomic();
        (0..times).for_each(|_| {
            pipeline.cmd("PUBLISH").arg(channel).arg(payload).ignore();
        });
        pipeline.exec_async(&mut self.connection).await.map_err(|error| error.to_string())
    }
}

/// Reads CLIENT LIST: gateways name their connections.
fn links(list: &str) -> Vec<GatewayLink> {
    list.lines().filter_map(link).collect()
}

fn link(line: &str) -> Option<GatewayLink> {
    let field = |name: &str| {
        line.split(' ').find_map(|field| field.strip_prefix(name)?.strip_prefix('=')).map(ToOwned::to_owned)
    };
    let name = field("name")?;
    let (_, purpose) = name.strip_prefix("earshot:")?.rsplit_once(':')?;
    let is_gateway = matches!(purpose, "commands" | "subscriptions");
    is_gateway.then_some(GatewayLink { id: field("id")?, purpose: purpose.to_owned(), user: field("user")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_connections_of_gateways_are_told_from_others() {
        let list = "id=3 addr=127.0.0.1:1 name=earshot:default:commands user=bob lib-name=earshot\n\
                    id=4 addr=127.0.0.1:2 name=earshot:a:b:subscriptions user=default\n\
                    id=5 addr=127.0.0.1:3 name= user=default\n\
                    id=6 addr=127.0.0.1:4 name=earshot:drill:backend user=default\n";
        let link = |id: &str, purpose: &str, user: &str| GatewayLink {
            id: id.to_owned(),
            purpose: purpose.to_owned(),
            user: user.to_owned(),
        };
        assert_eq!(links(list), [link("3", "commands", "bob"), link("4", "subscriptions", "default")]);
    }
}

//! Redis commands of a publisher or an operator.
//!
//! Owns the commands that the drill uses, over connections that are opened in the same way as the gateway's. Must never
//! reuse a failed connection, and never show a password.
//!
//! - `acl`: ACL users.

use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{PushInfo, Value};

use earshot_redis_link::{ConnectConfig, Dialer};

mod acl;

pub(super) use acl::AclUser;

/// Time limit of a connect.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Time limit of a command, longer than a server is suspended. A command that timed out may still be executed.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(600);
/// Maximum number of commands in a pipeline.
const PIPELINE_MAX: usize = 1000;

/// A Redis server.
#[derive(Clone, Debug)]
pub(super) struct Backend {
    dialer: Arc<Dialer>,
    location: String,
}

/// A connection of a gateway, as listed by the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct GatewayConnection {
    pub(super) id: String,
    /// `commands` or `subscriptions`.
    pub(super) purpose: String,
    /// ACL user.
    pub(super) user: String,
}

impl Backend {
    /// The server with this URL.
    pub(super) fn at(url: &str) -> Self {
        Self::of(&ConnectConfig { url: url.to_owned(), ..ConnectConfig::default() })
    }

    /// The server of an instance.
    pub(super) fn of(settings: &ConnectConfig) -> Self {
        let settings = ConnectConfig {
            name: "drill".to_owned(),
            connect_timeout: CONNECT_TIMEOUT,
            command_timeout: COMMAND_TIMEOUT,
            ..settings.clone()
        };
        Self { dialer: Arc::new(Dialer::new(&settings, "backend")), location: settings.location() }
    }

    /// Location, without credentials.
    pub(super) fn location(&self) -> &str {
        &self.location
    }

    /// Opens a connection.
    pub(super) async fn connect(&self) -> Result<BackendConnection, String> {
        let discard = |_: PushInfo| Ok::<_, redis::aio::SendError>(());
        let connection = Box::pin(self.dialer.dial(discard)).await.map_err(|failure| failure.to_string())?;
        Ok(BackendConnection { connection })
    }

    /// Runs one command on a new connection.
    pub(super) async fn run(&self, words: &[&str]) -> Result<Value, String> {
        self.connect().await?.run(words).await
    }

    /// Runs one command with a text reply.
    pub(super) async fn text(&self, words: &[&str]) -> Result<String, String> {
        let value = self.run(words).await?;
        redis::from_redis_value(value).map_err(|_| format!("unexpected reply to {}: not a text", words[0]))
    }

    /// Value of a setting (CONFIG GET).
    pub(super) async fn setting(&self, name: &str) -> Result<String, String> {
        let answer = self.run(&["CONFIG", "GET", name]).await?;
        let value =
            acl::map_value(answer, name).map(acl::strings).and_then(|strings| strings.into_iter().next());
        value.ok_or_else(|| format!("CONFIG GET does not return {name}"))
    }

    /// An ACL user (ACL GETUSER).
    pub(super) async fn acl_user(&self, name: &str) -> Result<AclUser, String> {
        Ok(AclUser::read(name, &self.run(&["ACL", "GETUSER", name]).await?))
    }

    /// The connections of gateways.
    pub(super) async fn gateway_connections(&self) -> Result<Vec<GatewayConnection>, String> {
        Ok(parse_client_list(&self.text(&["CLIENT", "LIST"]).await?))
    }

    /// Kills connections. Returns how many were killed.
    pub(super) async fn kill_connections(&self, targets: &[GatewayConnection]) -> Result<usize, String> {
        let mut connection = self.connect().await?;
        let mut count = 0;
        for target in targets {
            // A connection that has already ended does not count.
            count += usize::from(connection.run(&["CLIENT", "KILL", "ID", &target.id]).await.is_ok());
        }
        Ok(count)
    }
}

/// A connection.
#[derive(Debug)]
pub(super) struct BackendConnection {
    connection: MultiplexedConnection,
}

impl BackendConnection {
    /// Runs one command.
    pub(super) async fn run(&mut self, words: &[&str]) -> Result<Value, String> {
        let mut command = redis::Cmd::new();
        words.iter().for_each(|word| {
            command.arg(*word);
        });
        let answer = self.connection.send_packed_command(&command).await.and_then(Value::extract_error);
        answer.map_err(|error| format!("{}: {error}", words[0]))
    }

    /// Publishes one number.
    pub(super) async fn publish(&mut self, channel: &str, number: u64) -> Result<(), String> {
        self.run(&["PUBLISH", channel, &number.to_string()]).await.map(|_| ())
    }

    /// Publishes one number on many channels.
    pub(super) async fn publish_all(&mut self, channels: &[String], number: u64) -> Result<(), String> {
        for chunk in channels.chunks(PIPELINE_MAX) {
            let mut pipeline = redis::pipe();
            chunk.iter().for_each(|channel| {
                pipeline.cmd("PUBLISH").arg(channel).arg(number).ignore();
            });
            pipeline.exec_async(&mut self.connection).await.map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    /// Publishes in one transaction, so that all messages are queued before the first is sent to a subscriber.
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

/// Parses CLIENT LIST. Gateways name their connections.
fn parse_client_list(list: &str) -> Vec<GatewayConnection> {
    list.lines().filter_map(connection).collect()
}

fn connection(line: &str) -> Option<GatewayConnection> {
    let field = |name: &str| {
        line.split(' ').find_map(|field| field.strip_prefix(name)?.strip_prefix('=')).map(ToOwned::to_owned)
    };
    let name = field("name")?;
    let (_, purpose) = name.strip_prefix("earshot:")?.rsplit_once(':')?;
    let is_gateway = matches!(purpose, "commands" | "subscriptions");
    is_gateway.then_some(GatewayConnection {
        id: field("id")?,
        purpose: purpose.to_owned(),
        user: field("user")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gateway_connections_are_recognised() {
        let list = "id=3 addr=127.0.0.1:1 name=earshot:default:commands user=bob lib-name=earshot\n\
                    id=4 addr=127.0.0.1:2 name=earshot:a:b:subscriptions user=default\n\
                    id=5 addr=127.0.0.1:3 name= user=default\n\
                    id=6 addr=127.0.0.1:4 name=earshot:drill:backend user=default\n";
        let connection = |id: &str, purpose: &str, user: &str| GatewayConnection {
            id: id.to_owned(),
            purpose: purpose.to_owned(),
            user: user.to_owned(),
        };
        assert_eq!(
            parse_client_list(list),
            [connection("3", "commands", "bob"), connection("4", "subscriptions", "default")]
        );
    }
}

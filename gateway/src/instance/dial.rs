//! Dialling: one attempt to connect, and what its failure means.
//!
//! Owns the socket options and the sign-in. Must never keep an address: each attempt resolves the name anew, which
//! is what makes a fail-over behind a DNS name heal by itself. (Sentinel and cluster will choose the address here.)

use std::error::Error;
use std::fmt;
use std::time::Duration;

use redis::aio::{AsyncPushSender, MultiplexedConnection};
use redis::io::tcp::{TcpSettings, socket2::TcpKeepalive};
use redis::{AsyncConnectionConfig, Client, ErrorKind, ProtocolVersion, RedisError, ServerErrorKind};

use super::{InstanceSettings, address};

/// Why a link is down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// It cannot be reached, or no longer answers. Retried soon.
    Unreachable(String),
    /// It answered and will not have us: password, ACL, TLS, protocol. Somebody has to change something.
    Refused(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable(cause) | Self::Refused(cause) => f.write_str(cause),
        }
    }
}

impl From<RedisError> for Failure {
    fn from(error: RedisError) -> Self {
        let refused = match error.kind() {
            ErrorKind::AuthenticationFailed
            | ErrorKind::InvalidClientConfig
            | ErrorKind::RESP3NotSupported
            | ErrorKind::Server(ServerErrorKind::NoPerm) => true,
            ErrorKind::Server(ServerErrorKind::ResponseError) => {
                error.to_string().contains("switch database")
            }
            ErrorKind::Io => is_tls(&error),
            _ => matches!(error.code(), Some("WRONGPASS" | "NOAUTH" | "DENIED")),
        };
        if refused { Self::Refused(said(&error)) } else { Self::Unreachable(said(&error)) }
    }
}

/// What the server said, in its own words, or else what the client says. A server that does not know a command repeats
/// its arguments, and those of HELLO are user and password: they are left out.
pub fn said(error: &RedisError) -> String {
    let mut said = match (error.code(), error.detail()) {
        (Some(code), Some(detail)) => format!("{code} {detail}"),
        _ => error.to_string(),
    };
    if let Some(arguments) = said.find(", with args beginning with") {
        said.truncate(arguments);
    }
    said
}

/// Whether an I/O error is TLS saying no (an unknown issuer, a wrong name) rather than the network.
fn is_tls(error: &RedisError) -> bool {
    let io = error.source().and_then(|source| source.downcast_ref::<std::io::Error>());
    io.and_then(std::io::Error::get_ref).is_some_and(|inner| inner.is::<rustls::Error>())
}

/// Where and how to connect.
#[derive(Clone, Debug)]
pub struct Dialer {
    client: Result<Client, String>,
    client_name: String,
    connect_timeout: Duration,
    command_timeout: Duration,
}

impl Dialer {
    /// A dialler for one purpose, which the server shows in CLIENT LIST. A URL that cannot be read makes every attempt fail.
    pub fn new(settings: &InstanceSettings, purpose: &str) -> Self {
        let client = address::parse(&settings.url).and_then(|info| {
            let signed_in = info.redis_settings().clone();
            let signed_in = signed_in.set_protocol(ProtocolVersion::RESP3);
            let signed_in = signed_in.set_lib_name("earshot", env!("CARGO_PKG_VERSION"));
            let info = info.set_redis_settings(signed_in).set_tcp_settings(tcp(settings));
            Client::open(info).map_err(|error| error.to_string())
        });
        Self {
            client,
            client_name: format!("earshot:{}:{purpose}", settings.name),
            connect_timeout: settings.connect_timeout,
            command_timeout: settings.command_timeout,
        }
    }

    /// One attempt. Pushes of the new connection, its end included, go to `pushes`, which must not block.
    ///
    /// # Errors
    /// Why there is no connection.
    pub async fn dial(&self, pushes: impl AsyncPushSender) -> Result<MultiplexedConnection, Failure> {
        let client = self.client.as_ref().map_err(|reason| Failure::Refused(reason.clone()))?;
        // The client panics without a provider. A second installation is refused, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(None)
            .set_response_timeout(Some(self.command_timeout))
            .set_push_sender(pushes);
        let attempt = async {
            let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
            // For those who read CLIENT LIST. An ACL may forbid it, and nothing depends on it.
            let mut named = redis::cmd("CLIENT");
            named.arg("SETNAME").arg(&self.client_name);
            let _ = connection.send_packed_command(&named).await;
            Ok::<_, RedisError>(connection)
        };
        match tokio::time::timeout(self.connect_timeout, Box::pin(attempt)).await {
            Ok(outcome) => outcome.map_err(Failure::from),
            Err(_) => Err(Failure::Unreachable(format!("no connection within {:?}", self.connect_timeout))),
        }
    }
}

fn tcp(settings: &InstanceSettings) -> TcpSettings {
    let keepalive = TcpKeepalive::new()
        .with_time(Duration::from_secs(15))
        .with_interval(Duration::from_secs(5))
        .with_retries(3);
    let tcp = TcpSettings::default().set_nodelay(true).set_keepalive(keepalive);
    #[cfg(target_os = "linux")]
    let tcp = tcp.set_user_timeout(settings.connect_timeout);
    #[cfg(not(target_os = "linux"))]
    let _ = settings;
    tcp
}

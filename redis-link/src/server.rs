//! One server: its address, its credentials, and one attempt to connect and authenticate.
//!
//! Owns authentication. Passwords and certificates are read again at each attempt, so a rotation needs no restart. Must
//! never keep what it read.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use redis::aio::{AsyncPushSender, MultiplexedConnection};
use redis::{AsyncConnectionConfig, ProtocolVersion, RedisConnectionInfo, RedisError};
use rustls::ClientConfig;

use super::address::{Address, ServerEndpoint};
use super::early_reply::{EarlyReply, Tap};
use super::error::{AuthContext, LinkError};
use super::stream::{Deadline, Stream, connect, server_name};
use super::tls::TlsConfig;
use super::tls_probe::{is_tls_server, post_handshake_alert};
use super::{ConnectConfig, files};

/// How to reach one server and authenticate.
#[derive(Clone)]
pub(super) struct Server {
    pub(super) address: Address,
    /// Overrides the user in the address.
    pub(super) username: Option<String>,
    pub(super) password_file: Option<PathBuf>,
    /// The settings that supply a password, for error messages.
    pub(super) password_settings: &'static str,
    pub(super) tls: TlsConfig,
    /// The name in CLIENT LIST.
    pub(super) client_name: String,
    pub(super) command_timeout: Duration,
    pub(super) protocol: ProtocolVersion,
}

/// The credentials of one attempt.
struct Credentials {
    password: Option<String>,
    tls: Option<Arc<ClientConfig>>,
}

impl Server {
    /// The server of the URL.
    ///
    /// # Errors
    /// The URL is invalid.
    pub(super) fn from_config(config: &ConnectConfig, purpose: &str) -> Result<Self, String> {
        Ok(Self {
            address: Address::parse(&config.url)?,
            username: config.username.clone(),
            password_file: config.password_file.clone(),
            password_settings: "`password_file`, REDIS_PASSWORD or the URL",
            tls: config.tls.clone(),
            client_name: format!("earshot:{}:{purpose}", config.name),
            command_timeout: config.command_timeout,
            protocol: ProtocolVersion::RESP3,
        })
    }

    /// The same credentials at another address.
    pub(super) fn with_address(&self, host: String, port: u16) -> Self {
        let endpoint = ServerEndpoint::Tcp { host, port: Some(port) };
        Self { address: Address { endpoint, ..self.address.clone() }, ..self.clone() }
    }

    /// Connects once. Returns the connection and, over TCP, the address of the peer. Pushes of the connection, including
    /// its end, go to `pushes`, which must not block. With RESP2 there are no pushes.
    pub(super) async fn connect(
        &self,
        pushes: impl AsyncPushSender,
        deadline: Deadline,
    ) -> Result<(MultiplexedConnection, Option<SocketAddr>), LinkError> {
        let on_timeout =
            |limit| format!("the password and certificate files could not be read within {limit:?}");
        let credentials = deadline.apply(self.credentials(), on_timeout).await?;
        let tls = credentials.tls.as_ref().map(|config| (Arc::clone(config), &self.tls));
        let (stream, peer) = Box::pin(connect(&self.address, tls, deadline)).await?;
        let host = self.address.host_port();
        let on_timeout =
            |limit| format!("{host} accepts connections, but did not reply within {limit:?}: it hangs");
        let connection =
            deadline.apply(self.authenticate(stream, peer, &credentials, pushes), on_timeout).await?;
        Ok((connection, peer))
    }

    async fn credentials(&self) -> Result<Credentials, LinkError> {
        if self.password_file.is_none() && !self.address.tls {
            return Ok(Credentials { password: self.address.password.clone(), tls: None });
        }
        let server = self.clone();
        // The disk of a file may hang.
        let read = tokio::task::spawn_blocking(move || server.read_credentials()).await;
        read.unwrap_or_else(|error| Err(error.to_string())).map_err(LinkError::Rejected)
    }

    fn read_credentials(&self) -> Result<Credentials, String> {
        let password = self.password_file.as_deref().map(files::read_password).transpose()?;
        let tls = self.address.tls.then(|| self.tls.load()).transpose()?;
        Ok(Credentials {
            password: password.or_else(|| self.address.password.clone()),
            tls: tls.map(Arc::new),
        })
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "the driver of a connection ends with the last clone of it"
    )]
    async fn authenticate(
        &self,
        stream: Stream,
        peer: Option<SocketAddr>,
        credentials: &Credentials,
        pushes: impl AsyncPushSender,
    ) -> Result<MultiplexedConnection, LinkError> {
        let config = AsyncConnectionConfig::new().set_response_timeout(Some(self.command_timeout));
        let config = if self.protocol.supports_resp3() { config.set_push_sender(pushes) } else { config };
        let info = self.connection_info(credentials);
        let early_reply = EarlyReply::default();
        let stream = Tap::new(stream, early_reply.clone());
        let connecting = MultiplexedConnection::new_with_config(&info, stream, config);
        let (mut connection, driver) = match connecting.await {
            Ok(connected) => connected,
            Err(error) => return Err(self.explain(&error, early_reply.error(), peer, credentials).await),
        };
        tokio::spawn(driver);
        // Optional: an ACL may forbid it.
        let mut set_name = redis::cmd("CLIENT");
        set_name.arg("SETNAME").arg(&self.client_name);
        let _ = connection.send_packed_command(&set_name).await;
        Ok(connection)
    }

    /// Explains why authentication failed. Probes a server that closed the connection: the cause may be TLS.
    async fn explain(
        &self,
        error: &RedisError,
        early_reply: Option<String>,
        peer: Option<SocketAddr>,
        credentials: &Credentials,
    ) -> LinkError {
        let host = self.address.host_port();
        let password_source = self.password_source(credentials);
        let context = AuthContext {
            password_source: password_source.as_deref(),
            password_settings: self.password_settings,
            tls: credentials.tls.is_some().then_some(&self.tls),
        };
        if let Some(reply) = early_reply.filter(|_| error.is_io_error()) {
            return LinkError::from_early_reply(reply);
        }
        let link_error = LinkError::from_auth(error, &host, context);
        let (true, Some(peer)) = (error.is_io_error(), peer) else { return link_error };
        let Some(config) = &credentials.tls else {
            return if is_tls_server(peer).await { LinkError::tls_server(&host) } else { link_error };
        };
        let ServerEndpoint::Tcp { host: name, .. } = &self.address.endpoint else { return link_error };
        let Ok(name) = server_name(&self.tls, name) else { return link_error };
        match post_handshake_alert(peer, name, Arc::clone(config)).await {
            Some(alert) => LinkError::from_handshake(&alert, &host, &self.tls),
            None => link_error,
        }
    }

    fn connection_info(&self, credentials: &Credentials) -> RedisConnectionInfo {
        let mut info = RedisConnectionInfo::default()
            .set_protocol(self.protocol)
            .set_lib_name("earshot", env!("CARGO_PKG_VERSION"))
            .set_db(self.address.database.unwrap_or(0).into());
        if let Some(username) = self.username.as_ref().or(self.address.username.as_ref()) {
            info = info.set_username(username);
        }
        if let Some(password) = &credentials.password {
            info = info.set_password(password);
        }
        info
    }

    /// Where the password comes from, for error messages.
    fn password_source(&self, credentials: &Credentials) -> Option<String> {
        credentials.password.as_ref()?;
        Some(match &self.password_file {
            Some(path) => format!("{}, read again at each attempt", path.display()),
            None => "the URL".to_owned(),
        })
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("address", &self.address).finish_non_exhaustive()
    }
}

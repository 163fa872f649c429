//! One server: where it is, how one signs in there, and one attempt to do so.
//!
//! Owns the sign-in. Secrets and certificates are read anew at each attempt, so what was rotated heals by itself. Must
//! never keep what it read.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use redis::aio::{AsyncPushSender, MultiplexedConnection};
use redis::{AsyncConnectionConfig, ProtocolVersion, RedisConnectionInfo, RedisError};
use rustls::ClientConfig;

use super::address::{Address, Place};
use super::failure::{Failure, SignIn};
use super::first_words::{FirstWords, Overheard};
use super::mismatch::{late_alert, speaks_tls};
use super::stream::{Deadline, Stream, connect, server_name};
use super::tls::TlsSettings;
use super::{InstanceSettings, files};

/// A server that can be dialled.
#[derive(Clone)]
pub(super) struct Server {
    pub(super) address: Address,
    /// In the place of the user in the address.
    pub(super) username: Option<String>,
    pub(super) password_file: Option<PathBuf>,
    /// What an operator would set, in words, to give it a password.
    pub(super) password_keys: &'static str,
    pub(super) tls: TlsSettings,
    /// What the server shows in CLIENT LIST.
    pub(super) client_name: String,
    pub(super) command_timeout: Duration,
}

/// What an attempt needs beside the address.
struct Secrets {
    password: Option<String>,
    tls: Option<Arc<ClientConfig>>,
}

impl Server {
    /// The server that an instance's URL names.
    pub(super) fn of(settings: &InstanceSettings, purpose: &str) -> Result<Self, String> {
        Ok(Self {
            address: Address::parse(&settings.url)?,
            username: settings.username.clone(),
            password_file: settings.password_file.clone(),
            password_keys: "`password_file`, REDIS_PASSWORD or the URL",
            tls: settings.tls.clone(),
            client_name: format!("earshot:{}:{purpose}", settings.name),
            command_timeout: settings.command_timeout,
        })
    }

    /// The same sign-in at another place.
    pub(super) fn at(&self, host: String, port: u16) -> Self {
        let place = Place::Tcp { host, port: Some(port) };
        Self { address: Address { place, ..self.address.clone() }, ..self.clone() }
    }

    /// One attempt: the connection, and whom it reached where that has an address. Pushes of the connection, its end
    /// included, go to `pushes`, which must not block.
    pub(super) async fn connect(
        &self,
        pushes: impl AsyncPushSender,
        deadline: Deadline,
    ) -> Result<(MultiplexedConnection, Option<SocketAddr>), Failure> {
        let late = |limit| format!("the files of passwords and certificates cannot be read within {limit:?}");
        let secrets = deadline.keep(self.secrets(), late).await?;
        let tls = secrets.tls.as_ref().map(|config| (Arc::clone(config), &self.tls));
        let (stream, peer) = Box::pin(connect(&self.address, tls, deadline)).await?;
        let shown = self.address.host_port();
        let late =
            |limit| format!("{shown} takes the connection, but does not answer within {limit:?}: it hangs");
        let connection = deadline.keep(self.sign_in(stream, peer, &secrets, pushes), late).await?;
        Ok((connection, peer))
    }

    async fn secrets(&self) -> Result<Secrets, Failure> {
        if self.password_file.is_none() && !self.address.tls {
            return Ok(Secrets { password: self.address.password.clone(), tls: None });
        }
        let server = self.clone();
        // A file may be on a disk that hangs.
        let read = tokio::task::spawn_blocking(move || server.read_secrets()).await;
        read.unwrap_or_else(|error| Err(error.to_string())).map_err(Failure::Refused)
    }

    fn read_secrets(&self) -> Result<Secrets, String> {
        let password = self.password_file.as_deref().map(files::password).transpose()?;
        let tls = self.address.tls.then(|| self.tls.load()).transpose()?;
        Ok(Secrets { password: password.or_else(|| self.address.password.clone()), tls: tls.map(Arc::new) })
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "the driver of a connection ends with the last clone of it"
    )]
    async fn sign_in(
        &self,
        stream: Stream,
        peer: Option<SocketAddr>,
        secrets: &Secrets,
        pushes: impl AsyncPushSender,
    ) -> Result<MultiplexedConnection, Failure> {
        let config = AsyncConnectionConfig::new()
            .set_response_timeout(Some(self.command_timeout))
            .set_push_sender(pushes);
        let identity = self.identity(secrets);
        let words = FirstWords::default();
        let stream = Overheard::new(stream, words.clone());
        let signing_in = MultiplexedConnection::new_with_config(&identity, stream, config);
        let (mut connection, driver) = match signing_in.await {
            Ok(signed_in) => signed_in,
            Err(error) => return Err(self.explain(&error, words.error(), peer, secrets).await),
        };
        tokio::spawn(driver);
        // For those who read CLIENT LIST. An ACL may forbid it, and nothing depends on it.
        let mut named = redis::cmd("CLIENT");
        named.arg("SETNAME").arg(&self.client_name);
        let _ = connection.send_packed_command(&named).await;
        Ok(connection)
    }

    /// Why signing in failed. A connection that just ended is looked at again: the cause may be TLS.
    async fn explain(
        &self,
        error: &RedisError,
        words: Option<String>,
        peer: Option<SocketAddr>,
        secrets: &Secrets,
    ) -> Failure {
        let shown = self.address.host_port();
        let place = self.password_place(secrets);
        let sign_in = SignIn {
            password: place.as_deref(),
            keys: self.password_keys,
            tls: secrets.tls.is_some().then_some(&self.tls),
        };
        if let Some(words) = words.filter(|_| error.is_io_error()) {
            return Failure::of_last_words(words);
        }
        let failure = Failure::of_sign_in(error, &shown, sign_in);
        let (true, Some(peer)) = (error.is_io_error(), peer) else { return failure };
        let Some(config) = &secrets.tls else {
            return if speaks_tls(peer).await { Failure::of_tls(&shown) } else { failure };
        };
        let Place::Tcp { host, .. } = &self.address.place else { return failure };
        let Ok(name) = server_name(&self.tls, host) else { return failure };
        match late_alert(peer, name, Arc::clone(config)).await {
            Some(alert) => Failure::of_handshake(&alert, &shown, &self.tls),
            None => failure,
        }
    }

    fn identity(&self, secrets: &Secrets) -> RedisConnectionInfo {
        let mut identity = RedisConnectionInfo::default()
            .set_protocol(ProtocolVersion::RESP3)
            .set_lib_name("earshot", env!("CARGO_PKG_VERSION"))
            .set_db(self.address.database.unwrap_or(0).into());
        if let Some(username) = self.username.as_ref().or(self.address.username.as_ref()) {
            identity = identity.set_username(username);
        }
        if let Some(password) = &secrets.password {
            identity = identity.set_password(password);
        }
        identity
    }

    /// Where the password was found, in words.
    fn password_place(&self, secrets: &Secrets) -> Option<String> {
        secrets.password.as_ref()?;
        Some(match &self.password_file {
            Some(path) => format!("{}, which is read again at each attempt", path.display()),
            None => "the URL".to_owned(),
        })
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("address", &self.address).finish_non_exhaustive()
    }
}

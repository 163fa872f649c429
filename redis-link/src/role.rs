//! Whether a server is the primary. Redis keeps connections open when it becomes a replica.
//!
//! Owns the ROLE query, and which change of the role requires a reconnect. Must never treat a missing reply as a change:
//! PING detects a server that does not reply.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{ErrorKind, Value};

use super::address::{Address, ServerEndpoint};
use super::error::LinkError;
use super::stream::resolve;

/// The reply to ROLE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Accepts writes; publications reach all subscribers.
    Primary,
    /// Accepts no writes; publications reach only its own subscribers.
    Replica,
    /// A Sentinel; holds no data.
    Sentinel,
    /// The ACL forbids ROLE.
    Unknown,
}

/// Queries the role once; `None` without a reply.
pub(super) async fn role(connection: &mut MultiplexedConnection) -> Option<Role> {
    match connection.send_packed_command(&redis::cmd("ROLE")).await {
        Ok(Value::Array(parts)) => Some(match parts.first() {
            Some(Value::BulkString(name)) if name == b"master" => Role::Primary,
            Some(Value::BulkString(name)) if name == b"slave" => Role::Replica,
            Some(Value::BulkString(name)) if name == b"sentinel" => Role::Sentinel,
            _ => Role::Unknown,
        }),
        Ok(_) => Some(Role::Unknown),
        Err(error) if matches!(error.kind(), ErrorKind::Server(_) | ErrorKind::Extension) => {
            Some(Role::Unknown)
        }
        Err(_) => None,
    }
}

/// Watches the role of the server behind a connection.
pub(super) struct RoleWatch {
    pub(super) connection: MultiplexedConnection,
    /// The role when the connection was established.
    pub(super) role: Role,
    /// The configured address.
    pub(super) address: Address,
    /// The address that it resolved to.
    pub(super) peer: Option<SocketAddr>,
}

impl RoleWatch {
    /// Resolves when a reconnect is needed: a primary became a replica, or the name of a replica now resolves to another
    /// server. Clears `is_replica` when a replica is promoted.
    pub(super) async fn until_changed(
        mut self,
        interval: Duration,
        is_replica: Arc<AtomicBool>,
    ) -> LinkError {
        if self.role == Role::Unknown {
            return std::future::pending().await;
        }
        loop {
            tokio::time::sleep(interval).await;
            match (self.role, role(&mut self.connection).await) {
                (Role::Primary, Some(Role::Replica)) => {
                    let shown = self.address.host_port();
                    return LinkError::Unreachable(format!("{shown} has become a replica"));
                }
                (_, Some(Role::Primary)) => {
                    self.role = Role::Primary;
                    is_replica.store(false, Ordering::Relaxed);
                }
                (Role::Replica, _) if self.dns_changed().await => {
                    let shown = self.address.host_port();
                    return LinkError::Unreachable(format!("{shown} no longer resolves to this replica"));
                }
                _ => {}
            }
        }
    }

    async fn dns_changed(&self) -> bool {
        let (ServerEndpoint::Tcp { host, port }, Some(peer)) = (&self.address.endpoint, self.peer) else {
            return false;
        };
        // A failed lookup is no reason to reconnect.
        resolve(host, Address::port_or_default(*port)).await.is_ok_and(|found| !found.contains(&peer))
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::process::{Child, Command, Stdio};

    use redis::PushInfo;
    use redis::aio::SendError;

    use super::super::ConnectConfig;
    use super::super::server::Server;
    use super::super::stream::Deadline;
    use super::*;

    struct Redis(Child, u16);

    impl Redis {
        fn start() -> Self {
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let mut command = Command::new("redis-server");
            command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", ""]);
            Self(command.stdout(Stdio::null()).spawn().unwrap(), port)
        }

        /// Connects, but records `peer` as the address.
        async fn watch(&self, role: Role, peer: &str) -> RoleWatch {
            let url = format!("redis://localhost:{}", self.1);
            let server =
                Server::from_config(&ConnectConfig { url, ..ConnectConfig::default() }, "test").unwrap();
            let ignore = |_: PushInfo| Ok::<_, SendError>(());
            let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
            loop {
                match server.connect(ignore, Deadline::after(Duration::from_secs(20))).await {
                    Ok((connection, _)) => {
                        let peer = Some(SocketAddr::new(peer.parse().unwrap(), self.1));
                        return RoleWatch { connection, role, address: server.address, peer };
                    }
                    Err(error) => assert!(tokio::time::Instant::now() < deadline, "{error}"),
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }

        async fn run(&self, watch: &RoleWatch, words: &[&str]) {
            let mut command = redis::cmd(words[0]);
            command.arg(&words[1..]);
            command.exec_async(&mut watch.connection.clone()).await.unwrap();
        }
    }

    impl Drop for Redis {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    async fn changed(change: impl Future<Output = LinkError>) -> String {
        tokio::time::timeout(Duration::from_secs(20), change).await.unwrap().to_string()
    }

    #[tokio::test]
    async fn a_replica_whose_name_resolves_elsewhere_is_left_and_a_primary_is_not() {
        let redis = Redis::start();
        let interval = Duration::from_millis(10);
        let moved = redis.watch(Role::Replica, "127.0.0.2").await;
        redis.run(&moved, &["REPLICAOF", "127.0.0.1", "1"]).await;
        let mut unmoved = redis.watch(Role::Replica, "127.0.0.1").await;
        assert_eq!(role(&mut unmoved.connection).await, Some(Role::Replica));
        let error = changed(moved.until_changed(interval, Arc::default())).await;
        assert!(error.ends_with("no longer resolves to this replica"), "{error}");
        let is_replica = Arc::new(AtomicBool::new(true));
        let change = unmoved.until_changed(interval, Arc::clone(&is_replica));
        tokio::time::timeout(interval * 20, change).await.expect_err("the name still resolves to it");

        let promoted = redis.watch(Role::Replica, "127.0.0.2").await;
        redis.run(&promoted, &["REPLICAOF", "NO", "ONE"]).await;
        let change = promoted.until_changed(interval, Arc::clone(&is_replica));
        tokio::time::timeout(interval * 20, change)
            .await
            .expect_err("it is the primary, whatever the name resolves to");
        assert!(!is_replica.load(Ordering::Relaxed));
    }
}

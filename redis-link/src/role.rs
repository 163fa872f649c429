//! Whether a server is the primary. Redis closes nothing when it is made a replica.
//!
//! Owns the question and what a change of the answer means for a connection. Must never take silence for a change: a
//! server that does not answer is for PING to find.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{ErrorKind, Value};

use super::address::{Address, Place};
use super::failure::Failure;
use super::stream::resolve;

/// What a server says it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// It takes writes, and what is published on it reaches everybody.
    Primary,
    /// What is published on it reaches its own subscribers alone, and it takes no writes.
    Replica,
    /// It knows where primaries are, and nothing else.
    Sentinel,
    /// It does not say: the ACL forbids the question.
    Unknown,
}

/// Asks once; `None` when there was no answer.
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

/// A connection to one server, as far as its role is concerned.
pub(super) struct Watched {
    pub(super) connection: MultiplexedConnection,
    /// The role at the time of the connection.
    pub(super) role: Role,
    /// What was dialled.
    pub(super) address: Address,
    /// Whom that reached.
    pub(super) peer: Option<SocketAddr>,
}

impl Watched {
    /// Resolves when another server should be dialled: a primary became a replica, or the name of a replica leads
    /// elsewhere now. Sentinels alone know where a primary without a name went. A replica that is promoted takes `replica`
    /// back.
    pub(super) async fn moved(mut self, interval: Duration, replica: Arc<AtomicBool>) -> Failure {
        if self.role == Role::Unknown {
            return std::future::pending().await;
        }
        loop {
            tokio::time::sleep(interval).await;
            match (self.role, role(&mut self.connection).await) {
                (Role::Primary, Some(Role::Replica)) => {
                    let shown = self.address.host_port();
                    return Failure::Unreachable(format!("{shown} has become a replica"));
                }
                (_, Some(Role::Primary)) => {
                    self.role = Role::Primary;
                    replica.store(false, Ordering::Relaxed);
                }
                (Role::Replica, _) if self.leads_elsewhere().await => {
                    let shown = self.address.host_port();
                    return Failure::Unreachable(format!(
                        "{shown} leads to another server than this replica"
                    ));
                }
                _ => {}
            }
        }
    }

    async fn leads_elsewhere(&self) -> bool {
        let (Place::Tcp { host, port }, Some(peer)) = (&self.address.place, self.peer) else { return false };
        // A name server that fails is no reason to leave.
        resolve(host, Address::port(*port)).await.is_ok_and(|found| !found.contains(&peer))
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::process::{Child, Command, Stdio};

    use redis::PushInfo;
    use redis::aio::SendError;

    use super::super::InstanceSettings;
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

        /// A connection that believes to have reached somebody else.
        async fn watched(&self, role: Role, peer: &str) -> Watched {
            let url = format!("redis://localhost:{}", self.1);
            let server =
                Server::of(&InstanceSettings { url, ..InstanceSettings::default() }, "test").unwrap();
            let ignore = |_: PushInfo| Ok::<_, SendError>(());
            let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
            loop {
                match server.connect(ignore, Deadline::after(Duration::from_secs(20))).await {
                    Ok((connection, _)) => {
                        let peer = Some(SocketAddr::new(peer.parse().unwrap(), self.1));
                        return Watched { connection, role, address: server.address, peer };
                    }
                    Err(failure) => assert!(tokio::time::Instant::now() < deadline, "{failure}"),
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }

        async fn run(&self, watched: &Watched, words: &[&str]) {
            let mut command = redis::cmd(words[0]);
            command.arg(&words[1..]);
            command.exec_async(&mut watched.connection.clone()).await.unwrap();
        }
    }

    impl Drop for Redis {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    async fn soon(moved: impl Future<Output = Failure>) -> String {
        tokio::time::timeout(Duration::from_secs(20), moved).await.unwrap().to_string()
    }

    #[tokio::test]
    async fn a_replica_whose_name_leads_elsewhere_is_left_and_a_primary_is_not() {
        let redis = Redis::start();
        let tick = Duration::from_millis(10);
        let watched = redis.watched(Role::Replica, "127.0.0.2").await;
        redis.run(&watched, &["REPLICAOF", "127.0.0.1", "1"]).await;
        let mut watched_here = redis.watched(Role::Replica, "127.0.0.1").await;
        assert_eq!(role(&mut watched_here.connection).await, Some(Role::Replica));
        let told = soon(watched.moved(tick, Arc::default())).await;
        assert!(told.ends_with("leads to another server than this replica"), "{told}");
        let replica = Arc::new(AtomicBool::new(true));
        let stays = watched_here.moved(tick, Arc::clone(&replica));
        tokio::time::timeout(tick * 20, stays).await.expect_err("its name still leads to it");

        let watched = redis.watched(Role::Replica, "127.0.0.2").await;
        redis.run(&watched, &["REPLICAOF", "NO", "ONE"]).await;
        let stays = watched.moved(tick, Arc::clone(&replica));
        tokio::time::timeout(tick * 20, stays)
            .await
            .expect_err("it is the primary now, wherever the name leads");
        assert!(!replica.load(Ordering::Relaxed));
    }
}

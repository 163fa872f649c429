//! Whether a server is the primary. Redis closes nothing when it is made a replica.
//!
//! Owns the question and what a change of the answer means for a connection. Must never take silence for a change: a
//! server that does not answer is for PING to find.

use std::net::SocketAddr;
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
    /// elsewhere now. Sentinels alone know where a primary without a name went.
    pub(super) async fn moved(mut self, interval: Duration) -> Failure {
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
                (_, Some(Role::Primary)) => self.role = Role::Primary,
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

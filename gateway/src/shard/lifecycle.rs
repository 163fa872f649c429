//! Accepts connections, and closes all of them at a shutdown.

use std::sync::Arc;
use std::time::Duration;

use earshot_protocol::Disconnect;

use super::connection::{Connection, ConnectionKind, TimerKind};
use super::event_loop::Shard;
use super::framing::Framing;
use super::session::Session;
use super::sse_stream::SseStream;
use super::timers::jittered;
use super::{NewConnection, NewConnectionKind, REJECTED_CLOSE_TIMEOUT, ShardCommand};
use crate::node::namespace::ResolvedChannel;

impl Shard {
    pub(super) fn on_command(&mut self, command: ShardCommand) {
        match command {
            ShardCommand::Accept(connection) => self.insert(*connection),
            ShardCommand::EndLogins => self.end_logins(),
            ShardCommand::CommandClients(commands) => self.command_clients(&commands),
            ShardCommand::Drain { window, close_timeout } => self.drain(window, close_timeout),
        }
    }

    pub(super) fn insert(&mut self, new: NewConnection) {
        let NewConnection { sink, network, kind, permit, response_head, response_head_written, prefetched } =
            new;
        let (is_reserved, is_socket) = (permit.is_reserved(), sink.is_socket());
        let counters = self.state.counters();
        counters.writes.add(u64::from(response_head_written > 0));
        counters.bytes_out.add(response_head_written as u64);
        let framing = Framing::new(&kind, is_socket);
        let (kind, opened) = self.open(kind);
        let connection = Connection::new(sink, network, framing, kind, permit);
        let Some((connection_id, key)) = self.state.insert(connection) else { return };
        if !is_socket {
            self.hyper_streams.push(key);
        }
        if !response_head.is_empty() {
            self.state.enqueue(connection_id, response_head);
        }
        match opened {
            Opened::WebSocket(rejection) => {
                let timeout = self.state.limits().connect_timeout;
                self.state.set_timer(connection_id, TimerKind::Connect, timeout);
                if let Some(rejection) = rejection {
                    self.state.disconnect(connection_id, rejection);
                }
            }
            Opened::Sse(channels, rejection) => self.stream(connection_id).open(channels, rejection),
        }
        if is_reserved {
            let wait = self.state.limits().close_timeout.min(REJECTED_CLOSE_TIMEOUT);
            self.state.set_timer(connection_id, TimerKind::Close, wait);
        }
        if self.draining {
            self.state.disconnect(connection_id, Disconnect::Shutdown);
        }
        if !prefetched.is_empty() {
            self.session(connection_id).on_bytes(&mut prefetched.to_vec());
        }
    }

    fn open(&self, kind: NewConnectionKind) -> (ConnectionKind, Opened) {
        match kind {
            NewConnectionKind::WebSocket { encoding, client, rejection } => {
                let guest = Arc::clone(self.node.authenticator().guest());
                let session = Session::new(encoding, client, guest);
                (ConnectionKind::WebSocket(Box::new(session)), Opened::WebSocket(rejection))
            }
            NewConnectionKind::Sse { channels, identity, ping, resume, rejection, .. } => {
                let max_age_at =
                    self.state.limits().sse_max_age.map(|age| self.state.timers().after(jittered(age)));
                let stream = SseStream::new(identity, ping, resume, max_age_at);
                (ConnectionKind::Sse(Box::new(stream)), Opened::Sse(channels, rejection))
            }
        }
    }

    /// Disconnects the clients whose login has ended. A client that reconnects uses its current login.
    fn end_logins(&mut self) {
        for connection_id in self.state.connections().ids() {
            let identity = self.state.connections().get(connection_id).map(Connection::identity);
            if identity.is_some_and(|identity| identity.has_ended()) {
                self.state.disconnect(connection_id, Disconnect::ConnectionExpired);
            }
        }
    }

    fn drain(&mut self, window: Duration, close_timeout: Duration) {
        self.draining = true;
        self.state.limit_close_timeout(close_timeout);
        let close_timeout = self.state.limits().close_timeout;
        for connection_id in self.state.connections().ids() {
            if self.state.connections().is_open(connection_id) {
                let wait = window.mul_f64(fastrand::f64());
                self.state.set_timer(connection_id, TimerKind::Drain, wait);
            } else {
                self.state.set_timer(connection_id, TimerKind::Close, close_timeout);
            }
        }
    }
}

enum Opened {
    WebSocket(Option<Disconnect>),
    Sse(Vec<ResolvedChannel>, Option<Disconnect>),
}

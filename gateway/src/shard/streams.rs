//! Drives SSE streams: passes events of the shard to [`SseStream`] and executes its actions.

use earshot_protocol::{Disconnect, ErrorCode};

use super::connection::{ConnectionKind, TimerKind};
use super::connection_context::ConnectionContext;
use super::sse_stream::{SseAction, SseStream};
use super::timers::{jittered, max_jittered};
use crate::node::namespace::ResolvedChannel;

/// Drives the stream of one connection. For a connection of another protocol it does nothing.
#[derive(Debug)]
pub(super) struct StreamDriver<'a> {
    context: ConnectionContext<'a>,
}

impl<'a> StreamDriver<'a> {
    pub(super) fn new(context: ConnectionContext<'a>) -> Self {
        Self { context }
    }
}

impl StreamDriver<'_> {
    fn stream(&mut self) -> Option<&mut SseStream> {
        match &mut self.context.connection()?.kind {
            ConnectionKind::Sse(stream) => Some(stream),
            ConnectionKind::WebSocket(_) => None,
        }
    }

    /// Requests the channels of the stream; [`StreamDriver::start_if_ready`] follows when all are attached.
    pub(super) fn open(&mut self, channels: Vec<ResolvedChannel>, rejection: Option<Disconnect>) {
        self.schedule_heartbeat();
        // The login may have ended since the request.
        let ended = self.context.connection().is_some_and(|connection| connection.is_login_over());
        let rejection = rejection.or(ended.then_some(Disconnect::ConnectionExpired));
        if let Some(rejection) = rejection {
            return self.context.disconnect(rejection);
        }
        if let Some(connection) = self.context.connection() {
            connection.deferred = Some(Box::default());
        }
        for resolved in channels {
            let replay_last = resolved.rules.namespace.replay_last;
            match self.context.subscribe(resolved) {
                Ok(channel) => {
                    if let Some(stream) = self.stream() {
                        stream.add_channel(channel, replay_last);
                    }
                }
                Err(code) => return self.on_subscribe_failed(code),
            }
        }
        if let Some((connection, channels, _)) = self.context.state.split(self.context.id)
            && let ConnectionKind::Sse(stream) = &mut connection.kind
        {
            stream.resume(channels);
        }
        self.start_if_ready();
    }

    /// Starts the stream once all its channels and their recoveries are available.
    pub(super) fn start_if_ready(&mut self) {
        // A stream that has ended meanwhile is unsubscribed.
        if !self.context.is_open()
            || self.stream().is_none_or(|stream| stream.is_started())
            || !self.context.is_ready_to_reply()
        {
            return;
        }
        let Some(stream) = self.stream() else { return };
        let mut pending = stream.take_pending();
        let id = self.context.id;
        for subscription in &mut pending {
            self.context.state.subscriptions().start_delivery(id, subscription);
        }
        let Some((connection, channels, limits)) = self.context.state.split(id) else { return };
        let ConnectionKind::Sse(stream) = &mut connection.kind else { return };
        let has_cursor = connection.framing.has_cursor();
        let heartbeat = max_jittered(limits.sse_heartbeat);
        let actions = stream.start(pending, channels, has_cursor, limits.retry_ms(), heartbeat);
        self.execute(actions);
        self.context.continue_delivery();
    }

    /// Ends the stream because a channel is not available.
    pub(super) fn on_subscribe_failed(&mut self, code: ErrorCode) {
        let retry_ms = self.context.limits().retry_ms();
        if let Some(stream) = self.stream() {
            let actions = stream.on_subscribe_failed(code, retry_ms);
            self.execute(actions);
        }
    }

    /// Sends a heartbeat, or ends a stream that has reached its maximum age.
    pub(super) fn on_heartbeat(&mut self) {
        let (now, interval) =
            (self.context.state.timers().now(), max_jittered(self.context.limits().sse_heartbeat));
        if self.context.connection().is_some_and(|connection| connection.is_login_over()) {
            return self.context.disconnect(Disconnect::ConnectionExpired);
        }
        let Some(stream) = self.stream() else { return };
        let action = stream.on_heartbeat(now, interval);
        let continues = matches!(action, SseAction::Send(_));
        self.execute([action]);
        if continues {
            self.schedule_heartbeat();
        }
    }

    fn schedule_heartbeat(&mut self) {
        let wait = jittered(self.context.limits().sse_heartbeat);
        self.context.set_timer_within_login(TimerKind::Heartbeat, wait);
    }

    /// Executes the actions of the stream in order.
    fn execute(&mut self, actions: impl IntoIterator<Item = SseAction>) {
        let id = self.context.id;
        for action in actions {
            match action {
                SseAction::Send(event) => {
                    let Some(connection) = self.context.connection() else { return };
                    let frame = connection.framing.event(&event);
                    self.context.enqueue(frame);
                }
                SseAction::SendRecovered(publication) => {
                    self.context.state.delivery().enqueue_recovered(id, &publication);
                }
                SseAction::End => self.context.state.end_stream(id),
            }
        }
    }
}

//! Decodes the input of a session: frames, messages, commands.

use earshot_protocol::Disconnect;

use super::SessionDriver;
use crate::shard::close_reason::CloseReason;
use crate::shard::session::Session;
use crate::shard::session_action::SessionAction;
use crate::shard::websocket::{ClientMessage, Decoder, ProtocolError};
use crate::shard::websocket_frames;

impl SessionDriver<'_> {
    /// Handles bytes of a client, as one read returned them.
    pub(in crate::shard) fn on_bytes(&mut self, bytes: &mut [u8]) {
        let limit = self.context.limits().message_bytes;
        let Some(mut reader) = self.session().map(Session::take_reader) else { return };
        if let Err(ProtocolError { code, reason }) = self.on_messages(&mut reader.decode(bytes, limit)) {
            self.context.state.counters().protocol_errors.add(1);
            let reason = CloseReason::ProtocolError(reason);
            return self.context.state.close(self.context.id, Some(code), reason);
        }
        if self.context.is_open()
            && let Some(session) = self.session()
        {
            session.restore_reader(reader);
        }
    }

    fn on_messages(&mut self, decoder: &mut Decoder<'_>) -> Result<(), ProtocolError> {
        while self.context.is_open() {
            if self.is_paused() {
                decoder.stop();
                break;
            }
            match decoder.next()? {
                Some(message) => self.on_message(&message),
                None => break,
            }
        }
        Ok(())
    }

    fn on_message(&mut self, message: &ClientMessage<'_>) {
        let protobuf =
            self.session().is_some_and(|session| session.encoding() == earshot_protocol::Encoding::Protobuf);
        match message {
            // React Native's ping is an empty binary message.
            ClientMessage::Pong | ClientMessage::Binary([]) => {}
            ClientMessage::Ping(payload) => self.context.enqueue(websocket_frames::pong(payload)),
            ClientMessage::Close(code) => {
                self.context.state.close(self.context.id, *code, CloseReason::CloseFrame)
            }
            ClientMessage::Text(bytes) if !protobuf => self.on_commands(bytes),
            ClientMessage::Binary(bytes) if protobuf => self.on_commands(bytes),
            ClientMessage::Text(_) | ClientMessage::Binary(_) => {
                self.context.disconnect(Disconnect::InappropriateProtocol);
            }
        }
    }

    fn on_commands(&mut self, frame: &[u8]) {
        let Some(encoding) = self.session().map(|session| session.encoding()) else { return };
        for (count, command) in encoding.decode_commands(frame).enumerate() {
            if count == self.context.limits().commands_per_frame {
                return self.context.disconnect(Disconnect::BadRequest);
            }
            let Ok(command) = command else { return self.context.disconnect(Disconnect::BadRequest) };
            self.context.state.counters().commands.add(1);
            let action = self.with_session(|session, context| session.on_command(command, context));
            self.execute(action.unwrap_or(SessionAction::None), false);
            if !self.context.is_open() {
                return;
            }
            self.pause_if_full();
        }
    }
}

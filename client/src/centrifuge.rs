//! Client side of a Centrifuge session: commands with their ids, pings, and positions to recover from.
//!
//! Pure: frames in, frames out. Used by the asynchronous client of this crate and by the poll loop of the load test.

use std::mem;

use earshot_protocol::{
    Command, ConnectRequest, DecodeError, Encoding, Reply, ReplyBody, Request, SubscribeRequest,
    SubscribeResult,
};

/// A position in a channel, from which a subscription recovers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecoveryPosition {
    /// The epoch; empty before the first subscription.
    pub epoch: String,
    /// The offset of the last publication.
    pub offset: u64,
    /// Whether the server assigns offsets in this channel.
    pub positioned: bool,
}

impl RecoveryPosition {
    /// A subscribe request that recovers from this position, if there is one.
    pub fn request(&self, channel: &str) -> SubscribeRequest {
        SubscribeRequest {
            channel: channel.to_owned(),
            recover: self.positioned,
            epoch: self.epoch.clone(),
            offset: self.offset,
            ..SubscribeRequest::default()
        }
    }

    /// Takes over the position of a subscription. After a recovery, the recovered publications advance it.
    pub fn on_subscribed(&mut self, result: &SubscribeResult) {
        if !(result.was_recovering && result.recovered) {
            self.offset = result.offset;
        }
        self.epoch.clone_from(&result.epoch);
        self.positioned = result.positioned || result.recoverable;
    }

    /// Advances to a publication. Returns whether offsets were skipped.
    pub fn on_publication(&mut self, offset: u64) -> bool {
        if !self.positioned || offset == 0 {
            return false;
        }
        let is_next = offset == self.offset + 1;
        self.offset = offset;
        !is_next
    }
}

/// Commands that wait to be sent, and the ids of commands.
#[derive(Debug)]
pub struct ClientSession {
    encoding: Encoding,
    last_id: u32,
    frame: Vec<u8>,
    pings: u64,
}

impl ClientSession {
    /// A session without commands.
    pub fn new(encoding: Encoding) -> Self {
        Self { encoding, last_id: 0, frame: Vec::new(), pings: 0 }
    }

    /// The encoding of the connection.
    pub fn encoding(&self) -> Encoding {
        self.encoding
    }

    /// The number of pings that the server has sent.
    pub fn pings(&self) -> u64 {
        self.pings
    }

    /// Adds a command to the next frame. Returns its id.
    pub fn queue(&mut self, request: Request) -> u32 {
        // A pong has no id.
        let id = if request == Request::Pong { 0 } else { self.last_id + 1 };
        self.last_id = self.last_id.max(id);
        if !self.frame.is_empty() {
            self.encoding.write_separator(&mut self.frame);
        }
        self.encoding.encode_command(&Command { id, request }, &mut self.frame);
        id
    }

    /// Adds a connect command with the name of the client to the next frame.
    pub fn queue_connect(&mut self, name: &str) -> u32 {
        self.queue(Request::Connect(ConnectRequest { name: name.to_owned(), ..ConnectRequest::default() }))
    }

    /// Takes the frame with all queued commands, if there are any.
    pub fn take_frame(&mut self) -> Option<Vec<u8>> {
        (!self.frame.is_empty()).then(|| mem::take(&mut self.frame))
    }

    /// Decodes the replies of a frame.
    pub fn decode(&self, frame: &[u8]) -> impl Iterator<Item = Result<Reply, DecodeError>> {
        self.encoding.decode_replies(frame)
    }

    /// Queues the pong if the reply is a ping. Returns whether it is.
    pub fn answer_ping(&mut self, reply: &Reply) -> bool {
        let is_ping = reply.body == ReplyBody::Ping;
        if is_ping {
            self.pings += 1;
            self.queue(Request::Pong);
        }
        is_ping
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use earshot_protocol::UnsubscribeRequest;
    use proptest::prelude::*;

    #[test]
    fn commands_of_one_frame_have_ascending_ids_and_a_pong_has_none() {
        for encoding in [Encoding::Json, Encoding::Protobuf] {
            let mut session = ClientSession::new(encoding);
            assert_eq!(session.take_frame(), None);
            assert_eq!(session.queue_connect("test"), 1);
            let position = RecoveryPosition { epoch: "e".to_owned(), offset: 7, positioned: true };
            assert_eq!(session.queue(Request::Subscribe(position.request("a"))), 2);
            assert!(session.answer_ping(&Reply { id: 0, body: ReplyBody::Ping }));
            assert!(!session.answer_ping(&Reply { id: 1, body: ReplyBody::Pong }));
            let unsubscribe = UnsubscribeRequest { channel: "a".to_owned() };
            assert_eq!(session.queue(Request::Unsubscribe(unsubscribe)), 3);
            let frame = session.take_frame().unwrap();
            let commands: Vec<Command> = encoding.decode_commands(&frame).map(Result::unwrap).collect();
            assert_eq!(commands.iter().map(|command| command.id).collect::<Vec<_>>(), [1, 2, 0, 3]);
            let Request::Subscribe(request) = &commands[1].request else { panic!("{commands:?}") };
            assert_eq!((request.recover, request.epoch.as_str(), request.offset), (true, "e", 7));
            assert_eq!((session.take_frame(), session.pings()), (None, 1));
        }
    }

    #[test]
    fn a_position_advances_with_publications_and_is_replaced_without_recovery() {
        let mut position = RecoveryPosition::default();
        assert!(!position.request("a").recover);
        assert!(!position.on_publication(5), "a channel without offsets");
        let result = SubscribeResult {
            offset: 3,
            epoch: "e".to_owned(),
            positioned: true,
            ..SubscribeResult::default()
        };
        position.on_subscribed(&result);
        assert!(!position.on_publication(4) && position.on_publication(6));
        assert_eq!((position.offset, position.request("a").recover), (6, true));
        let recovered =
            SubscribeResult { offset: 9, was_recovering: true, recovered: true, ..result.clone() };
        position.on_subscribed(&recovered);
        assert_eq!(position.offset, 6, "the recovered publications follow");
        position.on_subscribed(&SubscribeResult { offset: 9, was_recovering: true, ..result });
        assert_eq!(position.offset, 9);
    }

    proptest! {
        #[test]
        fn no_frame_panics(frame: Vec<u8>, text: String) {
            for encoding in [Encoding::Json, Encoding::Protobuf] {
                let mut session = ClientSession::new(encoding);
                for bytes in [frame.as_slice(), text.as_bytes()] {
                    let replies: Vec<_> = session.decode(bytes).collect();
                    for reply in replies.into_iter().flatten() {
                        session.answer_ping(&reply);
                    }
                }
            }
        }
    }
}

//! Centrifuge client protocol over a WebSocket: connect and subscribe in one frame, pongs, unsubscribe, and
//! subscriptions that resume from a position. Pure: bytes in, bytes out.

use earshot_protocol::{
    Command, ConnectRequest, Encoding, Publication, Push, PushBody, Reply, ReplyBody, Request,
    SubscribeRequest, SubscribeResult, UnsubscribeRequest,
};
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};

use super::ClientError;
use super::frames::write_frame;
use crate::tally::Recorder;

/// Position in a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct StreamPosition {
    /// Epoch; empty before the first subscription.
    pub(crate) epoch: String,
    /// Offset of the last publication.
    pub(crate) offset: u64,
    /// Whether the server assigns offsets in this channel.
    pub(crate) positioned: bool,
}

/// Session of one connection with one channel.
#[derive(Debug)]
pub(crate) struct CentrifugeSession {
    encoding: Encoding,
    subscribed: bool,
    last_id: u32,
    position: StreamPosition,
}

impl CentrifugeSession {
    /// Creates a session; the first subscription resumes from `position` if it is positioned.
    pub(super) fn new(encoding: Encoding, position: StreamPosition) -> Self {
        Self { encoding, subscribed: false, last_id: 0, position }
    }

    /// Whether publications are expected.
    pub(super) fn is_subscribed(&self) -> bool {
        self.subscribed
    }

    /// Current position.
    pub(super) fn position(&self) -> &StreamPosition {
        &self.position
    }

    /// Writes the first frame: connect and subscribe commands.
    pub(super) fn write_connect(&mut self, channel: &str, out: &mut Vec<u8>) {
        let connect = ConnectRequest { name: "loadtest".to_owned(), ..ConnectRequest::default() };
        let mut frame = Vec::new();
        self.command(Request::Connect(connect), &mut frame);
        self.encoding.write_separator(&mut frame);
        self.command(Request::Subscribe(self.request(channel)), &mut frame);
        self.write(&frame, out);
    }

    /// Writes a subscribe command without recovery.
    pub(super) fn subscribe(&mut self, channel: &str, out: &mut Vec<u8>) {
        self.position = StreamPosition::default();
        self.send(Request::Subscribe(self.request(channel)), out);
    }

    /// Writes an unsubscribe command.
    pub(super) fn unsubscribe(&mut self, channel: &str, out: &mut Vec<u8>) {
        self.send(Request::Unsubscribe(UnsubscribeRequest { channel: channel.to_owned() }), out);
    }

    fn request(&self, channel: &str) -> SubscribeRequest {
        SubscribeRequest {
            channel: channel.to_owned(),
            recover: self.position.positioned,
            epoch: self.position.epoch.clone(),
            offset: self.position.offset,
            ..SubscribeRequest::default()
        }
    }

    fn send(&mut self, request: Request, out: &mut Vec<u8>) {
        let mut frame = Vec::new();
        self.command(request, &mut frame);
        self.write(&frame, out);
    }

    fn command(&mut self, request: Request, frame: &mut Vec<u8>) {
        self.last_id += 1;
        self.encoding.encode_command(&Command { id: self.last_id, request }, frame);
    }

    fn write(&self, frame: &[u8], out: &mut Vec<u8>) {
        let data = match self.encoding {
            Encoding::Json => Data::Text,
            Encoding::Protobuf => Data::Binary,
        };
        write_frame(OpCode::Data(data), frame, out);
    }

    /// Processes a message from the server.
    pub(super) fn on_message(
        &mut self,
        message: &[u8],
        out: &mut Vec<u8>,
        recorder: &mut Recorder<'_>,
    ) -> Result<(), ClientError> {
        if self.encoding == Encoding::Json
            && let Some((data, offset)) =
                parse_plain_publication(message, recorder.channel(), recorder.run.size)
        {
            self.publication(data, offset, recorder);
            return Ok(());
        }
        for reply in self.encoding.decode_replies(message) {
            self.reply(reply?, out, recorder)?;
        }
        Ok(())
    }

    fn reply(
        &mut self,
        reply: Reply,
        out: &mut Vec<u8>,
        recorder: &mut Recorder<'_>,
    ) -> Result<(), ClientError> {
        match reply.body {
            ReplyBody::Ping => {
                let mut pong = Vec::new();
                self.encoding.encode_command(&Command { id: 0, request: Request::Pong }, &mut pong);
                self.write(&pong, out);
            }
            ReplyBody::Push(push) => self.push(push, recorder)?,
            ReplyBody::Error(error) => {
                return Err(ClientError::Rejected { code: error.code, message: error.message.into_owned() });
            }
            ReplyBody::Subscribe(result) => self.on_subscribed(result, recorder),
            ReplyBody::Unsubscribe => self.subscribed = false,
            _ => {}
        }
        Ok(())
    }

    fn on_subscribed(&mut self, result: SubscribeResult, recorder: &mut Recorder<'_>) {
        if result.was_recovering {
            recorder.record_recovery(result.recovered);
        }
        if !(result.was_recovering && result.recovered) {
            self.position.offset = result.offset;
        }
        self.position.epoch = result.epoch;
        self.position.positioned = result.positioned || result.recoverable;
        self.subscribed = true;
        for publication in result.publications {
            self.on_publication(&publication, recorder);
        }
    }

    fn push(&mut self, push: Push, recorder: &mut Recorder<'_>) -> Result<(), ClientError> {
        match push.body {
            PushBody::Publication(_) if push.channel != recorder.channel() => recorder.record_misrouted(),
            PushBody::Publication(publication) => self.on_publication(&publication, recorder),
            PushBody::Unsubscribe(push) => {
                recorder.record_gap();
                return Err(ClientError::Closed(format!("unsubscribed, {} {}", push.code, push.reason)));
            }
            PushBody::Disconnect(push) => {
                return Err(ClientError::Closed(format!("{} {}", push.code, push.reason)));
            }
            _ => {}
        }
        Ok(())
    }

    fn on_publication(&mut self, publication: &Publication, recorder: &mut Recorder<'_>) {
        self.publication(publication.data.bytes(), publication.offset, recorder);
    }

    fn publication(&mut self, data: &[u8], offset: u64, recorder: &mut Recorder<'_>) {
        if self.position.positioned && offset > 0 {
            if offset != self.position.offset + 1 {
                recorder.record_skipped();
            }
            self.position.offset = offset;
        }
        recorder.record_payload(data);
    }
}

/// Fast path for the usual form of a publication: payload and offset. All other messages go through the codec. Only
/// this message arrives at a rate of 100,000 per second.
fn parse_plain_publication<'a>(message: &'a [u8], channel: &str, size: usize) -> Option<(&'a [u8], u64)> {
    let rest = message.strip_prefix(br#"{"push":{"channel":""#)?.strip_prefix(channel.as_bytes())?;
    let rest = rest.strip_prefix(br#"","pub":{"data":"#)?;
    let (data, rest) = rest.split_at_checked(size)?;
    let digits = rest.strip_prefix(br#","offset":"#)?.strip_suffix(b"}}}")?;
    if digits.is_empty() || digits.len() > 18 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some((data, digits.iter().fold(0, |value, digit| value * 10 + u64::from(digit - b'0'))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::Ledger;
    use crate::run::Run;
    use crate::stamp::Stamp;
    use crate::tally::{CohortTally, Tally, TallyEntry};
    use tokio::time::Instant;

    fn fixture() -> (Run, Tally) {
        let run = Run::new(128, vec!["c\"0".to_owned(), "c1".to_owned()]);
        let mut tally = Tally::new(vec![CohortTally::new("WebSocket", true)]);
        for channel in 0..2 {
            tally.entries.push(TallyEntry { channel, cohort: 0, ledger: Ledger::default() });
        }
        (run, tally)
    }

    fn push(run: &Run, channel: u32, sequence: u64, offset: u64) -> Vec<u8> {
        let mut payload = Vec::new();
        Stamp { run: run.id, channel, sequence, due_micros: 0, late_micros: 0 }.write(128, &mut payload);
        let publication = Publication {
            data: earshot_protocol::Payload::new(payload.into()),
            offset,
            ..Publication::default()
        };
        let mut frame = Vec::new();
        Encoding::Json.encode_publication(&run.channels[channel as usize], &publication, &mut frame);
        frame
    }

    const SUBSCRIBED: &[u8] = br#"{"id":2,"subscribe":{"recoverable":true,"epoch":"e","positioned":true}}"#;

    #[test]
    fn fast_path_and_codec_agree() {
        // A name that needs JSON escapes never takes the fast path.
        for subscriber in 0..2 {
            let (run, mut tally) = fixture();
            let (mut session, mut out) =
                (CentrifugeSession::new(Encoding::Json, StreamPosition::default()), Vec::new());
            let mut recorder = Recorder { run: &run, tally: &mut tally, subscriber, now: Instant::now() };
            session.on_message(SUBSCRIBED, &mut out, &mut recorder).unwrap();
            let channel = u32::try_from(subscriber).unwrap();
            let first = push(&run, channel, 1, 1);
            assert_eq!(parse_plain_publication(&first, recorder.channel(), 128).is_some(), subscriber == 1);
            session.on_message(&first, &mut out, &mut recorder).unwrap();
            let both = [push(&run, channel, 2, 2), push(&run, channel, 3, 3)].join(&b'\n');
            session.on_message(&both, &mut out, &mut recorder).unwrap();
            session.on_message(&push(&run, channel, 5, 5), &mut out, &mut recorder).unwrap();
            session.on_message(&push(&run, 1 - channel, 1, 1), &mut out, &mut recorder).unwrap();
            let ledger = &tally.entries[subscriber].ledger;
            assert_eq!((ledger.delivered(), ledger.lost(5)), (4, 1));
            assert_eq!((tally.counts.skipped, tally.counts.misrouted), (1, 1));
            assert_eq!((session.position().offset, out.len()), (5, 0));
        }
    }

    #[test]
    fn session_resumes_from_its_position() {
        let (run, mut tally) = fixture();
        let position = StreamPosition { epoch: "e".to_owned(), offset: 1, positioned: true };
        let (mut session, mut out) = (CentrifugeSession::new(Encoding::Json, position), Vec::new());
        session.write_connect("c1", &mut out);
        let asked = br#""subscribe":{"channel":"c1","recover":true,"epoch":"e","offset":1}"#;
        assert!(out.windows(asked.len()).any(|window| window == asked), "{}", String::from_utf8_lossy(&out));
        let missed = push(&run, 1, 2, 2);
        let missed = std::str::from_utf8(&missed).unwrap();
        let missed = &missed[missed.find(r#"{"data""#).unwrap()..missed.len() - 2];
        let reply = format!(
            r#"{{"id":2,"subscribe":{{"epoch":"e","offset":1,"positioned":true,"was_recovering":true,"recovered":true,"publications":[{missed}]}}}}"#
        );
        let mut recorder = Recorder { run: &run, tally: &mut tally, subscriber: 1, now: Instant::now() };
        session.on_message(reply.as_bytes(), &mut out, &mut recorder).unwrap();
        assert_eq!((session.position().offset, session.is_subscribed()), (2, true));
        assert_eq!((tally.counts.recovered, tally.counts.skipped), (1, 0));
        assert_eq!(tally.entries[1].ledger.delivered(), 1);
    }

    #[test]
    fn pings_are_answered_and_notices_end_the_session() {
        let (run, mut tally) = fixture();
        let (mut session, mut out) =
            (CentrifugeSession::new(Encoding::Json, StreamPosition::default()), Vec::new());
        let mut recorder = Recorder { run: &run, tally: &mut tally, subscriber: 1, now: Instant::now() };
        session.on_message(b"{}", &mut out, &mut recorder).unwrap();
        assert_eq!(out, b"\x81\x82\0\0\0\0{}");
        let notice =
            br#"{"push":{"channel":"c1","unsubscribe":{"code":2500,"reason":"insufficient state"}}}"#;
        let end = session.on_message(notice, &mut out, &mut recorder).unwrap_err().to_string();
        assert_eq!(end, "closed by the server: unsubscribed, 2500 insufficient state");
        assert_eq!(tally.counts.gaps, 1);
    }
}

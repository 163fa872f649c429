//! Centrifuge client protocol over a WebSocket: connect and subscribe in one frame, pongs, unsubscribe, and
//! subscriptions that resume from a position. Pure: bytes in, bytes out.

use earshot_client::centrifuge::{ClientSession, RecoveryPosition};
use earshot_protocol::{
    Encoding, Publication, Push, PushBody, Reply, ReplyBody, Request, SubscribeResult, UnsubscribeRequest,
};
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};

use super::ClientError;
use super::frames::write_frame;
use crate::tally::TallyRecorder;

/// Session of one connection with one channel.
#[derive(Debug)]
pub(crate) struct CentrifugeSession {
    session: ClientSession,
    subscribed: bool,
    position: RecoveryPosition,
}

impl CentrifugeSession {
    /// Creates a session; the first subscription resumes from `position` if it is positioned.
    pub(super) fn new(encoding: Encoding, position: RecoveryPosition) -> Self {
        Self { session: ClientSession::new(encoding), subscribed: false, position }
    }

    /// Whether publications are expected.
    pub(super) fn is_subscribed(&self) -> bool {
        self.subscribed
    }

    /// Current position.
    pub(super) fn position(&self) -> &RecoveryPosition {
        &self.position
    }

    /// Writes the first frame: connect and subscribe commands.
    pub(super) fn write_connect(&mut self, channel: &str, out: &mut Vec<u8>) {
        self.session.queue_connect("loadtest");
        self.session.queue(Request::Subscribe(self.position.request(channel)));
        self.flush(out);
    }

    /// Writes a subscribe command without recovery.
    pub(super) fn subscribe(&mut self, channel: &str, out: &mut Vec<u8>) {
        self.position = RecoveryPosition::default();
        self.session.queue(Request::Subscribe(self.position.request(channel)));
        self.flush(out);
    }

    /// Writes an unsubscribe command.
    pub(super) fn unsubscribe(&mut self, channel: &str, out: &mut Vec<u8>) {
        self.session.queue(Request::Unsubscribe(UnsubscribeRequest { channel: channel.to_owned() }));
        self.flush(out);
    }

    /// Writes the queued commands as a WebSocket frame.
    fn flush(&mut self, out: &mut Vec<u8>) {
        let Some(frame) = self.session.take_frame() else { return };
        let data = match self.session.encoding() {
            Encoding::Json => Data::Text,
            Encoding::Protobuf => Data::Binary,
        };
        write_frame(OpCode::Data(data), &frame, out);
    }

    /// Processes a message from the server.
    pub(super) fn on_message(
        &mut self,
        message: &[u8],
        out: &mut Vec<u8>,
        recorder: &mut TallyRecorder<'_>,
    ) -> Result<(), ClientError> {
        if self.session.encoding() == Encoding::Json
            && let Some((data, offset)) =
                parse_plain_publication(message, recorder.channel(), recorder.run.size)
        {
            self.publication(data, offset, recorder);
            return Ok(());
        }
        for reply in self.session.encoding().decode_replies(message) {
            let reply = reply?;
            if !self.session.answer_ping(&reply) {
                self.reply(reply, recorder)?;
            }
        }
        self.flush(out);
        Ok(())
    }

    fn reply(&mut self, reply: Reply, recorder: &mut TallyRecorder<'_>) -> Result<(), ClientError> {
        match reply.body {
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

    fn on_subscribed(&mut self, result: SubscribeResult, recorder: &mut TallyRecorder<'_>) {
        if result.was_recovering {
            recorder.record_recovery(result.recovered);
        }
        self.position.on_subscribed(&result);
        self.subscribed = true;
        for publication in result.publications {
            self.on_publication(&publication, recorder);
        }
    }

    fn push(&mut self, push: Push, recorder: &mut TallyRecorder<'_>) -> Result<(), ClientError> {
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

    fn on_publication(&mut self, publication: &Publication, recorder: &mut TallyRecorder<'_>) {
        self.publication(publication.data.bytes(), publication.offset, recorder);
    }

    fn publication(&mut self, data: &[u8], offset: u64, recorder: &mut TallyRecorder<'_>) {
        if self.position.on_publication(offset) {
            recorder.record_skipped();
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
    use crate::run::Run;
    use crate::stamp::Stamp;
    use crate::tally::{CohortTally, Tally, TallyEntry};
    use earshot_client::ledger::Ledger;
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
                (CentrifugeSession::new(Encoding::Json, RecoveryPosition::default()), Vec::new());
            let mut recorder =
                TallyRecorder { run: &run, tally: &mut tally, subscriber, now: Instant::now() };
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
        let position = RecoveryPosition { epoch: "e".to_owned(), offset: 1, positioned: true };
        let (mut session, mut out) = (CentrifugeSession::new(Encoding::Json, position), Vec::new());
        session.write_connect("c1", &mut out);
        let expected = br#""subscribe":{"channel":"c1","recover":true,"epoch":"e","offset":1}"#;
        assert!(
            out.windows(expected.len()).any(|window| window == expected),
            "{}",
            String::from_utf8_lossy(&out)
        );
        let missed = push(&run, 1, 2, 2);
        let missed = std::str::from_utf8(&missed).unwrap();
        let missed = &missed[missed.find(r#"{"data""#).unwrap()..missed.len() - 2];
        let reply = format!(
            r#"{{"id":2,"subscribe":{{"epoch":"e","offset":1,"positioned":true,"was_recovering":true,"recovered":true,"publications":[{missed}]}}}}"#
        );
        let mut recorder = TallyRecorder { run: &run, tally: &mut tally, subscriber: 1, now: Instant::now() };
        session.on_message(reply.as_bytes(), &mut out, &mut recorder).unwrap();
        assert_eq!((session.position().offset, session.is_subscribed()), (2, true));
        assert_eq!((tally.counts.recovered, tally.counts.skipped), (1, 0));
        assert_eq!(tally.entries[1].ledger.delivered(), 1);
    }

    #[test]
    fn answers_pings_and_ends_with_a_notice() {
        let (run, mut tally) = fixture();
        let (mut session, mut out) =
            (CentrifugeSession::new(Encoding::Json, RecoveryPosition::default()), Vec::new());
        let mut recorder = TallyRecorder { run: &run, tally: &mut tally, subscriber: 1, now: Instant::now() };
        session.on_message(b"{}", &mut out, &mut recorder).unwrap();
        assert_eq!(out, b"\x81\x82\0\0\0\0{}");
        let notice =
            br#"{"push":{"channel":"c1","unsubscribe":{"code":2500,"reason":"insufficient state"}}}"#;
        let end = session.on_message(notice, &mut out, &mut recorder).unwrap_err().to_string();
        assert_eq!(end, "closed by the server: unsubscribed, 2500 insufficient state");
        assert_eq!(tally.counts.gaps, 1);
    }
}

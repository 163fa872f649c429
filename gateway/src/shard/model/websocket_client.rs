//! A WebSocket client that behaves as the SDKs do: it remembers where it stands in each channel, and asks from there
//! whenever it has to subscribe again.
//!
//! Owns the checks of a subscription: the reply stands before the first publication, offsets have no hole, and what is
//! called recovered is. Must never forgive what an SDK would stumble over.

use std::collections::HashMap;

use earshot_protocol::{
    Command, ConnectRequest, ConnectResult, Encoding, Epoch, ErrorCode, Push, PushBody, Reply, ReplyBody,
    Request, StreamPosition, SubscribeRequest, SubscribeResult, UnsubscribeRequest,
};
use fastrand::Rng;

use super::client::Around;
use super::gateway::SHARDS;
use super::line::Line;
use super::place::{Place, State};
use super::rules::{Rules, Weather};
use super::truth::{Truth, Verdict};
use crate::shard::ArrivalKind;

pub(super) struct WebSocketClient {
    id: usize,
    encoding: Encoding,
    /// Its channels come with the connect command.
    server_side: bool,
    /// It wants an error where its position cannot be recovered.
    strict: bool,
    pub(super) line: Option<Line>,
    commands: u32,
    waiting: HashMap<u32, Asked>,
    places: Vec<Place>,
}

/// What a reply will be about.
#[derive(Clone, Debug)]
enum Asked {
    Connect(Vec<Option<StreamPosition>>),
    Subscribe(usize, Option<StreamPosition>),
    Unsubscribe(usize),
}

impl WebSocketClient {
    pub(super) fn new(id: usize, rules: &Rules, rng: &mut Rng) -> Self {
        let rough = rules.weather == Weather::Rough;
        let place = |rng: &mut Rng| Place { wanted: rng.u8(..4) > 0, ..Place::default() };
        Self {
            id,
            encoding: if rng.bool() { Encoding::Json } else { Encoding::Protobuf },
            server_side: rng.u8(..3) == 0,
            strict: rough && rng.u8(..4) == 0,
            line: None,
            commands: 0,
            waiting: HashMap::new(),
            places: (0..rules.channels).map(|_| place(rng)).collect(),
        }
    }

    pub(super) fn act(&mut self, around: &mut Around<'_>) -> Verdict {
        if self.line.is_none() {
            if around.rng.u8(..3) == 0 {
                self.connect(around);
            }
            return Ok(());
        }
        match around.rng.u8(..24) {
            0 => self.hang_up(around),
            1 | 2 if !self.server_side => {
                let channel = around.rng.usize(..self.places.len());
                self.change_mind(channel, around);
            }
            3..7 => {
                self.subscribe_again(around);
            }
            _ if around.rng.u8(..around.rules.lazy) > 0 => {}
            _ => {
                let pieces = around.rng.usize(1..4);
                self.read(pieces, around)?;
            }
        }
        Ok(())
    }

    pub(super) fn settle(&mut self, around: &mut Around<'_>) -> Verdict<bool> {
        let mut busy = self.line.is_none();
        if self.line.is_none() {
            self.connect(around);
        }
        busy |= self.read(usize::MAX, around)?;
        busy |= self.subscribe_again(around);
        Ok(busy)
    }

    pub(super) fn at_rest(&self, truth: &Truth, strictly: bool) -> Verdict {
        for (channel, place) in self.places.iter().enumerate().filter(|(_, place)| place.wanted) {
            let of = |what: String| format!("client {}, channel {channel}: {what}", self.id);
            if place.state != State::Hearing {
                return Err(of(format!("wanted and not heard: {place:?}, {:?}", self.waiting)));
            }
            place.account.at_rest(truth.top(channel), strictly).map_err(of)?;
        }
        Ok(())
    }

    fn connect(&mut self, around: &mut Around<'_>) {
        let shard = around.rng.usize(..SHARDS);
        let kind = ArrivalKind::WebSocket { encoding: self.encoding, refusal: None };
        self.line = Some(Line::open(around.gateway, shard, kind));
        around.story.tell(|| format!("client {} connects to shard {shard}", self.id));
        if around.rules.weather == Weather::Rough && around.rng.u8(..8) == 0 {
            self.places.iter_mut().for_each(|place| place.position = None);
        }
        let wanted = |(_, place): &(usize, &Place)| self.server_side && place.wanted;
        let subs: Vec<_> = self.places.iter().enumerate().filter(wanted).map(|(at, _)| at).collect();
        let subs = subs.into_iter().map(|channel| self.subscribe_request(channel, around)).collect();
        let asked = self.places.iter().map(|place| place.since().filter(|_| self.server_side)).collect();
        let request = ConnectRequest { subs, ..ConnectRequest::default() };
        self.send(Request::Connect(request), Some(Asked::Connect(asked)));
        self.subscribe_again(around);
    }

    fn hang_up(&mut self, around: &mut Around<'_>) {
        around.story.tell(|| format!("client {} is cut off", self.id));
        self.closed();
    }

    fn closed(&mut self) {
        self.line = None;
        self.waiting.clear();
        for place in &mut self.places {
            place.state = State::Away;
            place.leaving = 0;
        }
    }

    fn change_mind(&mut self, channel: usize, around: &mut Around<'_>) {
        let place = &mut self.places[channel];
        place.wanted = !place.wanted;
        if place.wanted {
            return;
        }
        if place.state != State::Away {
            place.state = State::Away;
            place.leaving += 1;
            around.story.tell(|| format!("client {} leaves channel {channel}", self.id));
            let request = UnsubscribeRequest { channel: around.truth.names[channel].to_string() };
            self.send(Request::Unsubscribe(request), Some(Asked::Unsubscribe(channel)));
        }
    }

    /// Subscribes to what it wants and does not hear; whether there was anything.
    fn subscribe_again(&mut self, around: &mut Around<'_>) -> bool {
        if self.line.is_none() {
            return false;
        }
        let away = |place: &Place| place.wanted && place.state == State::Away;
        if self.server_side {
            // Such a channel comes with the connect command alone.
            let refused = self.waiting.is_empty() && self.places.iter().any(away);
            if refused {
                self.hang_up(around);
            }
            return refused;
        }
        let mut any = false;
        for channel in 0..self.places.len() {
            if away(&self.places[channel]) {
                let since = self.places[channel].since();
                let (_, request) = self.subscribe_request(channel, around);
                around.story.tell(|| format!("client {} asks for {channel} from {since:?}", self.id));
                self.send(Request::Subscribe(request), Some(Asked::Subscribe(channel, since)));
                any = true;
            }
        }
        any
    }

    fn subscribe_request(&mut self, channel: usize, around: &Around<'_>) -> (String, SubscribeRequest) {
        let name = around.truth.names[channel].to_string();
        let place = &mut self.places[channel];
        place.state = State::Asked;
        let since = place.since();
        let request = SubscribeRequest {
            channel: name.clone(),
            recover: since.is_some(),
            epoch: since.map(|since| since.epoch.to_string()).unwrap_or_default(),
            offset: since.map_or(0, |since| since.offset),
            flag: if self.strict && !self.server_side { 2 } else { 0 },
            ..SubscribeRequest::default()
        };
        (name, request)
    }

    fn send(&mut self, request: Request, asked: Option<Asked>) {
        let mut id = 0;
        if let Some(asked) = asked {
            self.commands += 1;
            id = self.commands;
            self.waiting.insert(id, asked);
        }
        let Some(line) = &mut self.line else { return };
        let mut payload = Vec::new();
        self.encoding.encode_command(&Command { id, request }, &mut payload);
        line.sent.push(if self.encoding == Encoding::Json { 0x81 } else { 0x82 });
        match payload.len() {
            length @ ..126 => line.sent.push(0x80 | u8::try_from(length).unwrap()),
            length => {
                line.sent.push(0x80 | 126);
                line.sent.extend(u16::try_from(length).unwrap().to_be_bytes());
            }
        }
        // A mask of zeros leaves the payload as it is.
        line.sent.extend([0; 4]);
        line.sent.extend(payload);
    }

    fn read(&mut self, pieces: usize, around: &mut Around<'_>) -> Verdict<bool> {
        let Some(line) = &mut self.line else { return Ok(false) };
        let some = line.read(pieces);
        let ended = line.ended;
        let mut read = std::mem::take(&mut line.read);
        while let Some((opcode, payload, rest)) = frame(&read) {
            let of = |what: String| format!("client {} (WebSocket): {what}", self.id);
            if opcode == 8 {
                let code = u16::from_be_bytes([payload[0], payload[1]]);
                around.story.tell(|| format!("client {} is closed with {code}", self.id));
                if !(3000..3500).contains(&code) {
                    return Err(of(format!("closed with {code}")));
                }
                self.closed();
                return Ok(true);
            }
            let replies: Result<Vec<Reply>, _> = self.encoding.decode_replies(payload).collect();
            for reply in replies.map_err(|error| of(error.to_string()))? {
                let told = format!("{reply:?}");
                around.story.tell(|| format!("client {} reads {}", self.id, shortened(&told)));
                self.reply(reply, around).map_err(|what| {
                    format!("client {} (WebSocket): {what}; on {}", self.id, shortened(&told))
                })?;
            }
            read = rest.to_vec();
        }
        match &mut self.line {
            Some(line) if !ended => line.read = read,
            _ => self.closed(),
        }
        Ok(some)
    }

    fn reply(&mut self, reply: Reply, around: &mut Around<'_>) -> Verdict {
        match reply.body {
            ReplyBody::Ping => self.send(Request::Pong, None),
            ReplyBody::Push(push) => return self.push(push, around),
            body => {
                let asked = self.waiting.remove(&reply.id).ok_or("a reply to nothing")?;
                return self.answer(asked, body, around);
            }
        }
        Ok(())
    }

    fn answer(&mut self, asked: Asked, body: ReplyBody, around: &mut Around<'_>) -> Verdict {
        match (asked, body) {
            (Asked::Connect(asked), ReplyBody::Connect(result)) => self.connected(&asked, result, around),
            (Asked::Unsubscribe(channel), ReplyBody::Unsubscribe) => {
                self.places[channel].leaving -= 1;
                Ok(())
            }
            (Asked::Subscribe(channel, _), _) if self.places[channel].leaving > 0 => Ok(()),
            (Asked::Subscribe(channel, since), ReplyBody::Subscribe(result)) => {
                self.subscribed(channel, since, &result, around)
            }
            (Asked::Subscribe(channel, _), ReplyBody::Error(error)) => {
                let place = &mut self.places[channel];
                place.state = State::Away;
                let unrecoverable = error.code == ErrorCode::UnrecoverablePosition.code();
                if unrecoverable && !around.rules.is_lossless() {
                    place.position = None;
                } else if error.code != ErrorCode::TooManyRequests.code() {
                    return Err("an error that should not be".to_owned());
                }
                Ok(())
            }
            _ => Err("an answer to something else".to_owned()),
        }
    }

    fn connected(
        &mut self,
        asked: &[Option<StreamPosition>],
        result: ConnectResult,
        around: &mut Around<'_>,
    ) -> Verdict {
        for (name, sub) in result.subs {
            let channel = around.truth.channel(&name)?;
            self.subscribed(channel, asked[channel], &sub, around)?;
        }
        if self.server_side {
            // What is not in the answer was refused.
            let refused = self.places.iter_mut().filter(|place| place.state == State::Asked);
            refused.for_each(|place| place.state = State::Away);
        }
        Ok(())
    }

    fn subscribed(
        &mut self,
        channel: usize,
        since: Option<StreamPosition>,
        result: &SubscribeResult,
        around: &Around<'_>,
    ) -> Verdict {
        let place = &mut self.places[channel];
        if around.rules.history.size == 0 {
            if *result != SubscribeResult::default() {
                return Err("a position in a channel without history".to_owned());
            }
            place.account.begin_anywhere();
            place.state = State::Hearing;
            return Ok(());
        }
        let epoch: Epoch = result.epoch.parse().map_err(|_| "no epoch")?;
        let position = StreamPosition { epoch, offset: result.offset };
        let number = around.truth.number(channel, position)?;
        if result.was_recovering != since.is_some() {
            return Err(format!("asked from {since:?}, and it does not say so"));
        }
        match since {
            Some(since) if result.recovered && since == position => {}
            Some(_) if result.recovered && around.rules.delivers_last(channel) => place.account.skip(number),
            Some(_) if result.recovered => return Err("recovered from elsewhere".to_owned()),
            Some(_) if around.rules.is_lossless() => return Err("not recovered".to_owned()),
            Some(_) => place.account.excuse(number),
            None if place.begun && around.rules.is_lossless() => {
                return Err("its position was forgotten".to_owned());
            }
            None => place.account.begin(number),
        }
        place.begun = true;
        place.state = State::Hearing;
        place.position = Some(position);
        place.recoverable = result.recoverable;
        result.publications.iter().try_for_each(|publication| place.publication(channel, publication, around))
    }

    fn push(&mut self, push: Push, around: &mut Around<'_>) -> Verdict {
        let channel = around.truth.channel(&push.channel)?;
        let place = &mut self.places[channel];
        match push.body {
            _ if place.leaving > 0 => Ok(()),
            PushBody::Publication(_) if place.state != State::Hearing => {
                Err("a publication outside of a subscription".to_owned())
            }
            PushBody::Publication(publication) => place.publication(channel, &publication, around),
            PushBody::Unsubscribe(push) if push.code == 2500 && place.state == State::Hearing => {
                if self.server_side {
                    return Err("its client cannot subscribe again by itself".to_owned());
                }
                if around.rules.weather == Weather::Calm {
                    return Err("a gap without a cause".to_owned());
                }
                place.state = State::Away;
                if around.rng.bool() {
                    self.subscribe_again(around);
                }
                Ok(())
            }
            _ => Err("a push that should not be".to_owned()),
        }
    }
}

/// The first frame of the server: its opcode, its payload, and what follows it.
fn frame(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (first, length) = (bytes.first()?, bytes.get(1)?);
    let (head, length) = match length {
        126 => (4, usize::from(u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?))),
        127 => (10, usize::try_from(u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?)).ok()?),
        length => (2, usize::from(*length)),
    };
    let payload = bytes.get(head..head + length)?;
    Some((first & 0x0f, payload, &bytes[head + length..]))
}

fn shortened(text: &str) -> &str {
    text.get(..600).unwrap_or(text)
}

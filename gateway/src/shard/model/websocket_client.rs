//! A WebSocket client that behaves like the SDKs: it stores its position in each channel and recovers from it whenever
//! it resubscribes.
//!
//! Verifies a subscription: the reply precedes the first publication, offsets have no gap, and `recovered` is true.

use std::collections::HashMap;

use earshot_protocol::{
    Command, ConnectRequest, ConnectResult, Encoding, Epoch, ErrorCode, Push, PushBody, Reply, ReplyBody,
    Request, StreamPosition, SubscribeRequest, SubscribeResult, UnsubscribeRequest,
};
use fastrand::Rng;

use super::channel_view::{ChannelView, State};
use super::client::Context;
use super::gateway::SHARDS;
use super::parameters::{Parameters, Scenario};
use super::transport::Transport;
use super::truth::{CheckResult, Truth};
use crate::shard::NewConnectionKind;

pub(super) struct WebSocketClient {
    id: usize,
    encoding: Encoding,
    /// Its channels are part of the connect command.
    server_side: bool,
    /// It requests an error if its position cannot be recovered.
    strict: bool,
    pub(super) transport: Option<Transport>,
    commands: u32,
    waiting: HashMap<u32, Requested>,
    views: Vec<ChannelView>,
}

/// The command that a reply belongs to.
#[derive(Clone, Debug)]
enum Requested {
    Connect(Vec<Option<StreamPosition>>),
    Subscribe(usize, Option<StreamPosition>),
    Unsubscribe(usize),
}

impl WebSocketClient {
    pub(super) fn new(id: usize, parameters: &Parameters, rng: &mut Rng) -> Self {
        let faulty = parameters.scenario == Scenario::Faulty;
        let view = |rng: &mut Rng| ChannelView { wanted: rng.u8(..4) > 0, ..ChannelView::default() };
        Self {
            id,
            encoding: if rng.bool() { Encoding::Json } else { Encoding::Protobuf },
            server_side: rng.u8(..3) == 0,
            strict: faulty && rng.u8(..4) == 0,
            transport: None,
            commands: 0,
            waiting: HashMap::new(),
            views: (0..parameters.channels).map(|_| view(rng)).collect(),
        }
    }

    pub(super) fn act(&mut self, context: &mut Context<'_>) -> CheckResult {
        if self.transport.is_none() {
            if context.rng.u8(..3) == 0 {
                self.connect(context);
            }
            return Ok(());
        }
        match context.rng.u8(..24) {
            0 => self.disconnect(context),
            1 | 2 if !self.server_side => {
                let channel = context.rng.usize(..self.views.len());
                self.toggle(channel, context);
            }
            3..7 => {
                self.resubscribe(context);
            }
            _ if context.rng.u8(..context.parameters.read_interval) > 0 => {}
            _ => {
                let pieces = context.rng.usize(1..4);
                self.read(pieces, context)?;
            }
        }
        Ok(())
    }

    pub(super) fn settle(&mut self, context: &mut Context<'_>) -> CheckResult<bool> {
        let mut busy = self.transport.is_none();
        if self.transport.is_none() {
            self.connect(context);
        }
        busy |= self.read(usize::MAX, context)?;
        busy |= self.resubscribe(context);
        Ok(busy)
    }

    pub(super) fn check_quiescent(&self, truth: &Truth, strictly: bool) -> CheckResult {
        for (channel, view) in self.views.iter().enumerate().filter(|(_, view)| view.wanted) {
            let of = |what: String| format!("client {}, channel {channel}: {what}", self.id);
            if view.state != State::Subscribed {
                return Err(of(format!("wanted and not subscribed: {view:?}, {:?}", self.waiting)));
            }
            view.record_of_deliveries.check_quiescent(truth.top(channel), strictly).map_err(of)?;
        }
        Ok(())
    }

    fn connect(&mut self, context: &mut Context<'_>) {
        let shard = context.rng.usize(..SHARDS);
        let kind = NewConnectionKind::WebSocket { encoding: self.encoding, client: None, rejection: None };
        self.transport = Some(Transport::open(context.gateway, shard, kind));
        context.trace.record(|| format!("client {} connects to shard {shard}", self.id));
        if context.parameters.scenario == Scenario::Faulty && context.rng.u8(..8) == 0 {
            self.views.iter_mut().for_each(|view| view.position = None);
        }
        let wanted = |(_, view): &(usize, &ChannelView)| self.server_side && view.wanted;
        let subs: Vec<_> = self.views.iter().enumerate().filter(wanted).map(|(at, _)| at).collect();
        let subs = subs.into_iter().map(|channel| self.subscribe_request(channel, context)).collect();
        let requested = self.views.iter().map(|view| view.since().filter(|_| self.server_side)).collect();
        let request = ConnectRequest { subs, ..ConnectRequest::default() };
        self.send(Request::Connect(request), Some(Requested::Connect(requested)));
        self.resubscribe(context);
    }

    fn disconnect(&mut self, context: &mut Context<'_>) {
        context.trace.record(|| format!("client {} is cut off", self.id));
        self.closed();
    }

    fn closed(&mut self) {
        self.transport = None;
        self.waiting.clear();
        for view in &mut self.views {
            view.state = State::Unsubscribed;
            view.pending_unsubscribes = 0;
        }
    }

    fn toggle(&mut self, channel: usize, context: &mut Context<'_>) {
        let view = &mut self.views[channel];
        view.wanted = !view.wanted;
        if view.wanted {
            return;
        }
        if view.state != State::Unsubscribed {
            view.state = State::Unsubscribed;
            view.pending_unsubscribes += 1;
            context.trace.record(|| format!("client {} leaves channel {channel}", self.id));
            let request = UnsubscribeRequest { channel: context.truth.names[channel].to_string() };
            self.send(Request::Unsubscribe(request), Some(Requested::Unsubscribe(channel)));
        }
    }

    /// Subscribes to its channels. Returns whether there were any to subscribe to.
    fn resubscribe(&mut self, context: &mut Context<'_>) -> bool {
        if self.transport.is_none() {
            return false;
        }
        let away = |view: &ChannelView| view.wanted && view.state == State::Unsubscribed;
        if self.server_side {
            // Such a channel is part of the connect command only.
            let rejected = self.waiting.is_empty() && self.views.iter().any(away);
            if rejected {
                self.disconnect(context);
            }
            return rejected;
        }
        let mut any = false;
        for channel in 0..self.views.len() {
            if away(&self.views[channel]) {
                let since = self.views[channel].since();
                let (_, request) = self.subscribe_request(channel, context);
                context.trace.record(|| format!("client {} subscribes to {channel} from {since:?}", self.id));
                self.send(Request::Subscribe(request), Some(Requested::Subscribe(channel, since)));
                any = true;
            }
        }
        any
    }

    fn subscribe_request(&mut self, channel: usize, context: &Context<'_>) -> (String, SubscribeRequest) {
        let name = context.truth.names[channel].to_string();
        let view = &mut self.views[channel];
        view.state = State::Requested;
        let since = view.since();
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

    fn send(&mut self, request: Request, requested: Option<Requested>) {
        let mut id = 0;
        if let Some(requested) = requested {
            self.commands += 1;
            id = self.commands;
            self.waiting.insert(id, requested);
        }
        let Some(transport) = &mut self.transport else { return };
        let mut payload = Vec::new();
        self.encoding.encode_command(&Command { id, request }, &mut payload);
        transport.sent.push(if self.encoding == Encoding::Json { 0x81 } else { 0x82 });
        match payload.len() {
            length @ ..126 => transport.sent.push(0x80 | u8::try_from(length).unwrap()),
            length => {
                transport.sent.push(0x80 | 126);
                transport.sent.extend(u16::try_from(length).unwrap().to_be_bytes());
            }
        }
        // A mask of zeros does not change the payload.
        transport.sent.extend([0; 4]);
        transport.sent.extend(payload);
    }

    fn read(&mut self, pieces: usize, context: &mut Context<'_>) -> CheckResult<bool> {
        let Some(transport) = &mut self.transport else { return Ok(false) };
        let some = transport.read(pieces);
        let ended = transport.ended;
        let mut read = std::mem::take(&mut transport.read);
        while let Some((opcode, payload, rest)) = frame(&read) {
            let of = |what: String| format!("client {} (WebSocket): {what}", self.id);
            if opcode == 8 {
                let code = u16::from_be_bytes([payload[0], payload[1]]);
                context.trace.record(|| format!("client {} is closed with {code}", self.id));
                if !(3000..3500).contains(&code) {
                    return Err(of(format!("closed with {code}")));
                }
                self.closed();
                return Ok(true);
            }
            let replies: Result<Vec<Reply>, _> = self.encoding.decode_replies(payload).collect();
            for reply in replies.map_err(|error| of(error.to_string()))? {
                let shown = format!("{reply:?}");
                context.trace.record(|| format!("client {} reads {}", self.id, shortened(&shown)));
                self.reply(reply, context).map_err(|what| {
                    format!("client {} (WebSocket): {what}; on {}", self.id, shortened(&shown))
                })?;
            }
            read = rest.to_vec();
        }
        match &mut self.transport {
            Some(transport) if !ended => transport.read = read,
            _ => self.closed(),
        }
        Ok(some)
    }

    fn reply(&mut self, reply: Reply, context: &mut Context<'_>) -> CheckResult {
        match reply.body {
            ReplyBody::Ping => self.send(Request::Pong, None),
            ReplyBody::Push(push) => return self.push(push, context),
            body => {
                let requested = self.waiting.remove(&reply.id).ok_or("a reply to nothing")?;
                return self.answer(requested, body, context);
            }
        }
        Ok(())
    }

    fn answer(&mut self, requested: Requested, body: ReplyBody, context: &mut Context<'_>) -> CheckResult {
        match (requested, body) {
            (Requested::Connect(requested), ReplyBody::Connect(result)) => {
                self.connected(&requested, result, context)
            }
            (Requested::Unsubscribe(channel), ReplyBody::Unsubscribe) => {
                self.views[channel].pending_unsubscribes -= 1;
                Ok(())
            }
            (Requested::Subscribe(channel, _), _) if self.views[channel].pending_unsubscribes > 0 => Ok(()),
            (Requested::Subscribe(channel, since), ReplyBody::Subscribe(result)) => {
                self.subscribed(channel, since, &result, context)
            }
            (Requested::Subscribe(channel, _), ReplyBody::Error(error)) => {
                let view = &mut self.views[channel];
                view.state = State::Unsubscribed;
                let unrecoverable = error.code == ErrorCode::UnrecoverablePosition.code();
                if unrecoverable && !context.parameters.is_lossless() {
                    view.position = None;
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
        requested: &[Option<StreamPosition>],
        result: ConnectResult,
        context: &mut Context<'_>,
    ) -> CheckResult {
        for (name, sub) in result.subs {
            let channel = context.truth.channel(&name)?;
            self.subscribed(channel, requested[channel], &sub, context)?;
        }
        if self.server_side {
            // Channels that are missing in the reply were rejected.
            let rejected = self.views.iter_mut().filter(|view| view.state == State::Requested);
            rejected.for_each(|view| view.state = State::Unsubscribed);
        }
        Ok(())
    }

    fn subscribed(
        &mut self,
        channel: usize,
        since: Option<StreamPosition>,
        result: &SubscribeResult,
        context: &Context<'_>,
    ) -> CheckResult {
        let view = &mut self.views[channel];
        if context.parameters.history.size == 0 {
            if *result != SubscribeResult::default() {
                return Err("a position in a channel without history".to_owned());
            }
            view.record_of_deliveries.begin_without_position();
            view.state = State::Subscribed;
            return Ok(());
        }
        let epoch: Epoch = result.epoch.parse().map_err(|_| "no epoch")?;
        let position = StreamPosition { epoch, offset: result.offset };
        let number = context.truth.number(channel, position)?;
        if result.was_recovering != since.is_some() {
            return Err(format!("recovers from {since:?}, but was_recovering is false"));
        }
        match since {
            Some(since) if result.recovered && since == position => {}
            Some(_) if result.recovered && context.parameters.delivers_last(channel) => {
                view.record_of_deliveries.skip_to(number)
            }
            Some(_) if result.recovered => return Err("recovered from elsewhere".to_owned()),
            Some(_) if context.parameters.is_lossless() => return Err("not recovered".to_owned()),
            Some(_) => view.record_of_deliveries.report_gap(number),
            None if view.begun && context.parameters.is_lossless() => {
                return Err("its position was forgotten".to_owned());
            }
            None => view.record_of_deliveries.begin(number),
        }
        view.begun = true;
        view.state = State::Subscribed;
        view.position = Some(position);
        view.recoverable = result.recoverable;
        result.publications.iter().try_for_each(|publication| view.publication(channel, publication, context))
    }

    fn push(&mut self, push: Push, context: &mut Context<'_>) -> CheckResult {
        let channel = context.truth.channel(&push.channel)?;
        let view = &mut self.views[channel];
        match push.body {
            _ if view.pending_unsubscribes > 0 => Ok(()),
            PushBody::Publication(_) if view.state != State::Subscribed => {
                Err("a publication outside of a subscription".to_owned())
            }
            PushBody::Publication(publication) => view.publication(channel, &publication, context),
            PushBody::Unsubscribe(push) if push.code == 2500 && view.state == State::Subscribed => {
                if self.server_side {
                    return Err("its client cannot subscribe again by itself".to_owned());
                }
                if context.parameters.scenario == Scenario::Unlimited {
                    return Err("a gap without a cause".to_owned());
                }
                view.state = State::Unsubscribed;
                if context.rng.bool() {
                    self.resubscribe(context);
                }
                Ok(())
            }
            _ => Err("a push that should not be".to_owned()),
        }
    }
}

/// The first frame of the server: its opcode, its payload, and the bytes after it.
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

//! An SSE client like a browser's `EventSource`: it stores the id of the last event and reconnects with it.
//!
//! Verifies a stream: `subscribed` first, cursors that advance by one and include every event before them, and a `gap`
//! for each channel that was not recovered.

use earshot_protocol::{ChannelName, ChannelTag, Cursor, CursorPosition, StreamPosition};
use fastrand::Rng;

use super::client::Context;
use super::gateway::SHARDS;
use super::parameters::{Parameters, Scenario, Slow};
use super::transport::Transport;
use super::truth::{CheckResult, DeliveryRecord, Truth, number_in};
use crate::auth::Identity;
use crate::shard::{NewConnectionKind, Resume};

pub(super) struct SseClient {
    id: usize,
    pub(super) transport: Option<Transport>,
    last_event_id: Option<String>,
    /// Its channels, in the order of the request.
    channels: Vec<usize>,
    named: bool,
    subscribed: bool,
    views: Vec<ChannelView>,
}

/// A client's view of one channel.
#[derive(Debug, Default)]
struct ChannelView {
    requested: Requested,
    position: Option<StreamPosition>,
    /// The channel was reported as not recovered, and the gap event has not arrived yet.
    pending_gap: bool,
    begun: bool,
    record_of_deliveries: DeliveryRecord,
}

/// The position that a client sends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Requested {
    #[default]
    Nowhere,
    At(StreamPosition),
    Unreadable,
}

/// An event as the parser of the client dispatches it.
#[derive(Debug, Default)]
struct Event {
    name: Option<String>,
    data: String,
    id: Option<String>,
}

impl SseClient {
    pub(super) fn new(id: usize, parameters: &Parameters, rng: &mut Rng) -> Self {
        let channels = some_channels(parameters, rng);
        Self {
            id,
            transport: None,
            last_event_id: None,
            channels,
            named: false,
            subscribed: false,
            views: (0..parameters.channels).map(|_| ChannelView::default()).collect(),
        }
    }

    pub(super) fn act(&mut self, context: &mut Context<'_>) -> CheckResult {
        if self.transport.is_none() {
            if context.rng.u8(..3) == 0 {
                if context.rng.u8(..5) == 0 {
                    self.channels = some_channels(context.parameters, context.rng);
                }
                self.open(context);
            }
        } else if context.rng.u8(..24) == 0 {
            context.trace.record(|| format!("client {} is cut off", self.id));
            self.transport = None;
        } else if context.rng.u8(..context.parameters.read_interval) == 0 {
            let pieces = context.rng.usize(1..4);
            self.read(pieces, context)?;
        }
        Ok(())
    }

    pub(super) fn settle(&mut self, context: &mut Context<'_>) -> CheckResult<bool> {
        let closed = self.transport.is_none();
        if closed {
            self.open(context);
        }
        Ok(self.read(usize::MAX, context)? || closed)
    }

    pub(super) fn check_quiescent(&self, truth: &Truth, strictly: bool) -> CheckResult {
        for channel in &self.channels {
            let view = &self.views[*channel];
            let of = |what: String| format!("client {} (SSE), channel {channel}: {what}", self.id);
            if self.transport.is_none() || !self.subscribed || view.pending_gap {
                return Err(of(format!("not subscribed: {view:?}")));
            }
            view.record_of_deliveries.check_quiescent(truth.top(*channel), strictly).map_err(of)?;
        }
        Ok(())
    }

    fn open(&mut self, context: &mut Context<'_>) {
        let shard = context.rng.usize(..SHARDS);
        let faulty = context.parameters.scenario == Scenario::Faulty;
        if faulty && context.rng.u8(..10) == 0 {
            self.last_event_id = None;
        }
        let cursor = self.last_event_id.as_deref().map(|id| Cursor::parse(id).unwrap());
        let resume = match cursor {
            Some(_) if faulty && context.rng.u8(..20) == 0 => Resume::Unreadable,
            Some(cursor) => Resume::From(cursor),
            None => Resume::New,
        };
        for (channel, view) in self.views.iter_mut().enumerate() {
            view.requested = match &resume {
                Resume::New => Requested::Nowhere,
                Resume::Unreadable => Requested::Unreadable,
                Resume::From(cursor) => position_in(cursor, &context.truth.names[channel])
                    .map_or(Requested::Nowhere, Requested::At),
            };
            view.pending_gap = false;
            view.begun &= self.channels.contains(&channel);
        }
        self.named = self.channels.len() > 1 || context.rng.bool();
        self.subscribed = false;
        context
            .trace
            .record(|| format!("client {} opens {:?} on shard {shard}: {resume:?}", self.id, self.channels));
        let channels = self
            .channels
            .iter()
            .map(|channel| context.gateway.resolve(context.truth.names[*channel].clone()))
            .collect();
        let kind = NewConnectionKind::Sse {
            channels,
            identity: Identity::anonymous(),
            named: self.named,
            ping: false,
            resume,
            rejection: None,
        };
        self.transport = Some(Transport::open(context.gateway, shard, kind));
    }

    fn read(&mut self, pieces: usize, context: &mut Context<'_>) -> CheckResult<bool> {
        let Some(transport) = &mut self.transport else { return Ok(false) };
        let some = transport.read(pieces);
        let ended = transport.ended;
        let read = std::mem::take(&mut transport.read);
        let mut text = std::str::from_utf8(&read).unwrap();
        while let Some((block, rest)) = text.split_once("\n\n") {
            text = rest;
            if let Some(event) = Event::parse(block) {
                context.trace.record(|| format!("client {} reads {}", self.id, event.shortened()));
                let id = self.id;
                let of = |what: String| format!("client {id} (SSE): {what}; on {}", event.shortened());
                self.event(&event, context).map_err(of)?;
            }
        }
        match &mut self.transport {
            Some(transport) if !ended => transport.read = text.as_bytes().to_vec(),
            _ => self.transport = None,
        }
        Ok(some)
    }

    fn event(&mut self, event: &Event, context: &Context<'_>) -> CheckResult {
        if let Some(id) = &event.id {
            self.last_event_id = Some(id.clone());
        }
        match event.name.as_deref() {
            Some("error") => return Ok(()),
            Some("subscribed") if !self.subscribed => self.begin(event, context)?,
            _ if !self.subscribed => return Err("an event before `subscribed`".to_owned()),
            Some("gap") => self.gap(event, context)?,
            name => {
                let channel = match name {
                    Some(name) if self.named => context.truth.channel(name)?,
                    None if !self.named => self.channels[0],
                    _ => return Err("an event of the wrong form".to_owned()),
                };
                self.publication(channel, event, context)?;
            }
        }
        self.check_cursor(event, context)
    }

    /// The first event: the channels and their positions.
    fn begin(&mut self, event: &Event, context: &Context<'_>) -> CheckResult {
        self.subscribed = true;
        let data: serde_json::Value = serde_json::from_str(&event.data).unwrap();
        for channel in self.channels.clone() {
            let name = &context.truth.names[channel];
            let recovered = data["channels"][name.as_str()]["recovered"].as_bool().ok_or("no `recovered`")?;
            let position = event.position(channel, context)?;
            let number = context.truth.number(channel, position)?;
            let (last, lossless) =
                (context.parameters.delivers_last(channel), context.parameters.is_lossless());
            let view = &mut self.views[channel];
            match view.requested {
                Requested::At(since) if recovered && since == position => {}
                Requested::At(_) if recovered && last => view.record_of_deliveries.skip_to(number),
                Requested::At(_) if !recovered && !lossless => {
                    view.record_of_deliveries.report_gap(number);
                    view.pending_gap = true;
                }
                Requested::Unreadable if !recovered => {
                    view.record_of_deliveries.report_gap(number);
                    view.pending_gap = true;
                }
                // The gateway cannot know the client's position.
                Requested::Unreadable if last => view.record_of_deliveries.begin(number),
                Requested::Nowhere if !(recovered || view.begun && lossless) => {
                    view.record_of_deliveries.begin(number)
                }
                requested => {
                    return Err(format!("requested {requested:?}, recovered {recovered}, at {position:?}"));
                }
            }
            view.begun = true;
            view.position = Some(position);
        }
        Ok(())
    }

    fn gap(&mut self, event: &Event, context: &Context<'_>) -> CheckResult {
        let data: serde_json::Value = serde_json::from_str(&event.data).unwrap();
        let channel = context.truth.channel(data["channel"].as_str().unwrap_or_default())?;
        let reason = data["reason"].as_str().unwrap_or_default();
        let allowed = match context.parameters.scenario {
            Scenario::Unlimited => false,
            Scenario::Constrained if reason == "slow-consumer" => {
                context.parameters.slow[channel] == Slow::DropOldest
            }
            Scenario::Constrained => reason == "queue-full",
            Scenario::Faulty => true,
        };
        if !allowed {
            return Err("a gap without a cause".to_owned());
        }
        let view = &mut self.views[channel];
        let position = event.position(channel, context)?;
        let back = |last: StreamPosition| last.epoch == position.epoch && last.offset > position.offset;
        if view.position.is_some_and(back) {
            return Err(format!("it goes back to {position:?} from {:?}", view.position));
        }
        view.pending_gap = false;
        view.position = Some(position);
        view.record_of_deliveries.report_gap(context.truth.number(channel, position)?);
        Ok(())
    }

    fn publication(&mut self, channel: usize, event: &Event, context: &Context<'_>) -> CheckResult {
        let number = number_in(event.data.as_bytes())?;
        let view = &mut self.views[channel];
        if view.pending_gap {
            return Err("the gap before it was not shown".to_owned());
        }
        let is_conflated = context.parameters.is_conflated(channel);
        if is_conflated {
            view.record_of_deliveries.deliver_latest(number, context.parameters.slow[channel])?;
        } else {
            view.record_of_deliveries.deliver(number)?;
        }
        // An event that was cut off has no id: the page has it, but its cursor does not include it.
        let (Some(last), Some(_)) = (view.position, &event.id) else { return Ok(()) };
        let position = event.position(channel, context)?;
        let next = position == StreamPosition { offset: last.offset + 1, ..last };
        let later = position.epoch == last.epoch && position.offset > last.offset;
        if !(next || is_conflated && later) {
            return Err(format!("{position:?} follows on {last:?}"));
        }
        view.position = Some(position);
        let stamped = context.truth.number(channel, position)?;
        if stamped != number {
            return Err(format!("{number} has the position of {stamped}"));
        }
        Ok(())
    }

    /// The id includes every event of every channel up to this one.
    fn check_cursor(&self, event: &Event, context: &Context<'_>) -> CheckResult {
        if event.id.is_none() {
            return Ok(());
        }
        for channel in &self.channels {
            let position = event.position(*channel, context)?;
            if self.views[*channel].position != Some(position) {
                let at = self.views[*channel].position;
                return Err(format!(
                    "the id has position {position:?} for channel {channel}, which is at {at:?}"
                ));
            }
        }
        Ok(())
    }
}

impl Event {
    fn parse(block: &str) -> Option<Self> {
        let mut event = Self::default();
        for line in block.lines() {
            match line.split_once(": ") {
                Some(("event", name)) => event.name = Some(name.to_owned()),
                Some(("data", data)) if event.data.is_empty() => event.data = data.to_owned(),
                Some(("data", data)) => event.data = format!("{}\n{data}", event.data),
                Some(("id", id)) => event.id = Some(id.to_owned()),
                _ => {}
            }
        }
        (!event.data.is_empty()).then_some(event)
    }

    fn position(&self, channel: usize, context: &Context<'_>) -> CheckResult<StreamPosition> {
        let cursor =
            Cursor::parse(self.id.as_deref().unwrap_or_default()).map_err(|error| error.to_string())?;
        let position = position_in(&cursor, &context.truth.names[channel]);
        position.ok_or_else(|| format!("no position for channel {channel}"))
    }

    fn shortened(&self) -> String {
        let data = self.data.get(..120).unwrap_or(&self.data);
        let at = self.id.as_deref().map(Cursor::parse);
        format!("{:?} {data} {at:?}", self.name)
    }
}

fn position_in(cursor: &Cursor, channel: &ChannelName) -> Option<StreamPosition> {
    match cursor.positions(&[ChannelTag::of(channel)])[..] {
        [CursorPosition::At(position)] => Some(position),
        _ => None,
    }
}

fn some_channels(parameters: &Parameters, rng: &mut Rng) -> Vec<usize> {
    let mut channels: Vec<usize> = (0..parameters.channels).collect();
    rng.shuffle(&mut channels);
    channels.truncate(rng.usize(1..=parameters.channels));
    channels
}

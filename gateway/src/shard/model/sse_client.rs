//! An SSE client as a browser's `EventSource` is: it remembers the id of the last event, and comes back with it.
//!
//! Owns the checks of a stream: `subscribed` first, cursors that go on by one and stand for every event before them, a
//! `gap` for each channel that could not be continued. Must never forgive what a page would stumble over.

use earshot_protocol::{ChannelName, ChannelTag, Cursor, CursorPosition, StreamPosition};
use fastrand::Rng;

use super::client::Around;
use super::gateway::SHARDS;
use super::line::Line;
use super::rules::{Rules, Slow, Weather};
use super::truth::{Account, Truth, Verdict, number_in};
use crate::shard::{ArrivalKind, Resume};

pub(super) struct SseClient {
    id: usize,
    pub(super) line: Option<Line>,
    last_event_id: Option<String>,
    /// What it hears, in the order of its request.
    channels: Vec<usize>,
    named: bool,
    subscribed: bool,
    places: Vec<Place>,
}

/// A client's view of one channel.
#[derive(Debug, Default)]
struct Place {
    asked: Asked,
    position: Option<StreamPosition>,
    /// It was said not to be recovered, and the gap has not been told yet.
    owed_gap: bool,
    begun: bool,
    account: Account,
}

/// Where a client says that it stood.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Asked {
    #[default]
    Nowhere,
    At(StreamPosition),
    Unreadable,
}

/// One event as the client's parser dispatches it.
#[derive(Debug, Default)]
struct Event {
    name: Option<String>,
    data: String,
    id: Option<String>,
}

impl SseClient {
    pub(super) fn new(id: usize, rules: &Rules, rng: &mut Rng) -> Self {
        let channels = some_channels(rules, rng);
        Self {
            id,
            line: None,
            last_event_id: None,
            channels,
            named: false,
            subscribed: false,
            places: (0..rules.channels).map(|_| Place::default()).collect(),
        }
    }

    pub(super) fn act(&mut self, around: &mut Around<'_>) -> Verdict {
        if self.line.is_none() {
            if around.rng.u8(..3) == 0 {
                if around.rng.u8(..5) == 0 {
                    self.channels = some_channels(around.rules, around.rng);
                }
                self.open(around);
            }
        } else if around.rng.u8(..24) == 0 {
            around.story.tell(|| format!("client {} is cut off", self.id));
            self.line = None;
        } else if around.rng.u8(..around.rules.lazy) == 0 {
            let pieces = around.rng.usize(1..4);
            self.read(pieces, around)?;
        }
        Ok(())
    }

    pub(super) fn settle(&mut self, around: &mut Around<'_>) -> Verdict<bool> {
        let closed = self.line.is_none();
        if closed {
            self.open(around);
        }
        Ok(self.read(usize::MAX, around)? || closed)
    }

    pub(super) fn at_rest(&self, truth: &Truth, strictly: bool) -> Verdict {
        for channel in &self.channels {
            let place = &self.places[*channel];
            let of = |what: String| format!("client {} (SSE), channel {channel}: {what}", self.id);
            if self.line.is_none() || !self.subscribed || place.owed_gap {
                return Err(of(format!("not heard: {place:?}")));
            }
            place.account.at_rest(truth.top(*channel), strictly).map_err(of)?;
        }
        Ok(())
    }

    fn open(&mut self, around: &mut Around<'_>) {
        let shard = around.rng.usize(..SHARDS);
        let rough = around.rules.weather == Weather::Rough;
        if rough && around.rng.u8(..10) == 0 {
            self.last_event_id = None;
        }
        let cursor = self.last_event_id.as_deref().map(|id| Cursor::parse(id).unwrap());
        let resume = match cursor {
            Some(_) if rough && around.rng.u8(..20) == 0 => Resume::Unreadable,
            Some(cursor) => Resume::From(cursor),
            None => Resume::Fresh,
        };
        for (channel, place) in self.places.iter_mut().enumerate() {
            place.asked = match &resume {
                Resume::Fresh => Asked::Nowhere,
                Resume::Unreadable => Asked::Unreadable,
                Resume::From(cursor) => {
                    position_in(cursor, &around.truth.names[channel]).map_or(Asked::Nowhere, Asked::At)
                }
            };
            place.owed_gap = false;
            place.begun &= self.channels.contains(&channel);
        }
        self.named = self.channels.len() > 1 || around.rng.bool();
        self.subscribed = false;
        around
            .story
            .tell(|| format!("client {} opens {:?} on shard {shard}: {resume:?}", self.id, self.channels));
        let channels = self.channels.iter().map(|channel| around.truth.names[*channel].clone()).collect();
        let kind = ArrivalKind::Sse { channels, named: self.named, ping: false, resume, refusal: None };
        self.line = Some(Line::open(around.gateway, shard, kind));
    }

    fn read(&mut self, pieces: usize, around: &mut Around<'_>) -> Verdict<bool> {
        let Some(line) = &mut self.line else { return Ok(false) };
        let some = line.read(pieces);
        let ended = line.ended;
        let read = std::mem::take(&mut line.read);
        let mut text = std::str::from_utf8(&read).unwrap();
        while let Some((block, rest)) = text.split_once("\n\n") {
            text = rest;
            if let Some(event) = Event::parse(block) {
                around.story.tell(|| format!("client {} reads {}", self.id, event.shortened()));
                let id = self.id;
                let of = |what: String| format!("client {id} (SSE): {what}; on {}", event.shortened());
                self.event(&event, around).map_err(of)?;
            }
        }
        match &mut self.line {
            Some(line) if !ended => line.read = text.as_bytes().to_vec(),
            _ => self.line = None,
        }
        Ok(some)
    }

    fn event(&mut self, event: &Event, around: &Around<'_>) -> Verdict {
        if let Some(id) = &event.id {
            self.last_event_id = Some(id.clone());
        }
        match event.name.as_deref() {
            Some("error") => return Ok(()),
            Some("subscribed") if !self.subscribed => self.begin(event, around)?,
            _ if !self.subscribed => return Err("an event before `subscribed`".to_owned()),
            Some("gap") => self.gap(event, around)?,
            name => {
                let channel = match name {
                    Some(name) if self.named => around.truth.channel(name)?,
                    None if !self.named => self.channels[0],
                    _ => return Err("an event of the wrong form".to_owned()),
                };
                self.publication(channel, event, around)?;
            }
        }
        self.check_cursor(event, around)
    }

    /// The first event: what is heard, and from where.
    fn begin(&mut self, event: &Event, around: &Around<'_>) -> Verdict {
        self.subscribed = true;
        let data: serde_json::Value = serde_json::from_str(&event.data).unwrap();
        for channel in self.channels.clone() {
            let name = &around.truth.names[channel];
            let recovered = data["channels"][name.as_str()]["recovered"].as_bool().ok_or("no `recovered`")?;
            let position = event.position(channel, around)?;
            let number = around.truth.number(channel, position)?;
            let (last, lossless) = (around.rules.delivers_last(channel), around.rules.is_lossless());
            let place = &mut self.places[channel];
            match place.asked {
                Asked::At(since) if recovered && since == position => {}
                Asked::At(_) if recovered && last => place.account.skip(number),
                Asked::At(_) if !recovered && !lossless => {
                    place.account.excuse(number);
                    place.owed_gap = true;
                }
                Asked::Unreadable if !recovered => {
                    place.account.excuse(number);
                    place.owed_gap = true;
                }
                // What it has, the gateway cannot know.
                Asked::Unreadable if last => place.account.begin(number),
                Asked::Nowhere if !(recovered || place.begun && lossless) => place.account.begin(number),
                asked => return Err(format!("asked {asked:?}, recovered {recovered}, at {position:?}")),
            }
            place.begun = true;
            place.position = Some(position);
        }
        Ok(())
    }

    fn gap(&mut self, event: &Event, around: &Around<'_>) -> Verdict {
        let data: serde_json::Value = serde_json::from_str(&event.data).unwrap();
        let channel = around.truth.channel(data["channel"].as_str().unwrap_or_default())?;
        let reason = data["reason"].as_str().unwrap_or_default();
        let allowed = match around.rules.weather {
            Weather::Calm => false,
            Weather::Crowded if reason == "slow-consumer" => around.rules.slow[channel] == Slow::DropOldest,
            Weather::Crowded => reason == "queue-full",
            Weather::Rough => true,
        };
        if !allowed {
            return Err("a gap without a cause".to_owned());
        }
        let place = &mut self.places[channel];
        let position = event.position(channel, around)?;
        let back = |last: StreamPosition| last.epoch == position.epoch && last.offset > position.offset;
        if place.position.is_some_and(back) {
            return Err(format!("it goes back to {position:?} from {:?}", place.position));
        }
        place.owed_gap = false;
        place.position = Some(position);
        place.account.excuse(around.truth.number(channel, position)?);
        Ok(())
    }

    fn publication(&mut self, channel: usize, event: &Event, around: &Around<'_>) -> Verdict {
        let number = number_in(event.data.as_bytes())?;
        let place = &mut self.places[channel];
        if place.owed_gap {
            return Err("the gap before it was not told".to_owned());
        }
        let supersedes = around.rules.supersedes(channel);
        if supersedes {
            place.account.deliver_latest(number, around.rules.slow[channel])?;
        } else {
            place.account.deliver(number)?;
        }
        // An event that was cut off has no id: the page has it, and will not be able to say so.
        let (Some(last), Some(_)) = (place.position, &event.id) else { return Ok(()) };
        let position = event.position(channel, around)?;
        let next = position == StreamPosition { offset: last.offset + 1, ..last };
        let later = position.epoch == last.epoch && position.offset > last.offset;
        if !(next || supersedes && later) {
            return Err(format!("{position:?} follows on {last:?}"));
        }
        place.position = Some(position);
        let stamped = around.truth.number(channel, position)?;
        if stamped != number {
            return Err(format!("{number} has the position of {stamped}"));
        }
        Ok(())
    }

    /// The id stands for every event of every channel up to this one.
    fn check_cursor(&self, event: &Event, around: &Around<'_>) -> Verdict {
        if event.id.is_none() {
            return Ok(());
        }
        for channel in &self.channels {
            let position = event.position(*channel, around)?;
            if self.places[*channel].position != Some(position) {
                let at = self.places[*channel].position;
                return Err(format!("the id says {position:?} for channel {channel}, which is at {at:?}"));
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

    fn position(&self, channel: usize, around: &Around<'_>) -> Verdict<StreamPosition> {
        let cursor =
            Cursor::parse(self.id.as_deref().unwrap_or_default()).map_err(|error| error.to_string())?;
        let position = position_in(&cursor, &around.truth.names[channel]);
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

fn some_channels(rules: &Rules, rng: &mut Rng) -> Vec<usize> {
    let mut channels: Vec<usize> = (0..rules.channels).collect();
    rng.shuffle(&mut channels);
    channels.truncate(rng.usize(1..=rules.channels));
    channels
}

//! The protocol of an SSE stream.
//!
//! [`SseStream`] is a pure state machine: subscriptions, gaps and the time are its inputs, [`SseAction`]s are its outputs.
//! It uses no socket, no poll and no clock. [`super::streams`] executes its actions.

use std::sync::Arc;
use std::time::Duration;

use earshot_protocol::{ChannelName, ChannelTag, CursorPosition, ErrorCode, StreamPosition};

use super::channels::{ChannelId, Channels};
use super::pending_subscription::PendingSubscription;
use super::timer_wheel::Tick;
use super::{Resume, sse};
use crate::auth::{Identity, UnixSeconds};
use crate::node::messages::{RecoverFrom, Recovery};
use crate::node::publication::Publication;

/// The reason of a gap if a channel cannot be resumed from the client's position.
pub(super) const UNRECOVERABLE: &str = "unrecoverable";

/// An action that a stream requests from its shard; actions are executed in order.
#[derive(Debug)]
pub(super) enum SseAction {
    /// Queue an event.
    Send(Vec<u8>),
    /// Queue a publication that the client has missed.
    SendRecovered(Arc<Publication>),
    /// End the stream after everything queued is written.
    End,
}

/// The stream of an SSE client.
#[derive(Debug)]
pub(super) struct SseStream {
    /// The channels until the `subscribed` event; empty after it.
    pending: Vec<PendingSubscription>,
    /// The `subscribed` event was sent.
    started: bool,
    /// Heartbeats are `ping` events instead of comments.
    ping: bool,
    /// The client's position; taken when the channels are resumed.
    resume: Resume,
    /// The position in each channel, in order; only for a stream whose events have ids of their own.
    positions: Vec<StreamPosition>,
    /// Its event ids contain more than the cursor. Kept here, so that other streams do not read the identity.
    has_suffix: bool,
    /// When the stream ends, so that its client reconnects to another node; [`Tick::MAX`]: never.
    max_age_at: Tick,
    /// The identity of the client.
    identity: Arc<Identity>,
    /// When its login expires; [`UnixSeconds::MAX`]: never.
    expires_at: UnixSeconds,
}

impl SseStream {
    pub(super) fn new(identity: Arc<Identity>, ping: bool, resume: Resume, max_age_at: Option<Tick>) -> Self {
        let has_suffix = !identity.event_id_suffix().is_empty();
        Self {
            pending: Vec::new(),
            started: false,
            ping,
            resume,
            positions: Vec::new(),
            has_suffix,
            max_age_at: max_age_at.unwrap_or(Tick::MAX),
            expires_at: identity.expires_at().unwrap_or(UnixSeconds::MAX),
            identity,
        }
    }

    /// The identity of the client.
    pub(super) fn identity(&self) -> &Identity {
        &self.identity
    }

    /// When the login of the client expires.
    pub(super) fn expires_at(&self) -> Option<UnixSeconds> {
        Some(self.expires_at).filter(|at| *at != UnixSeconds::MAX)
    }

    /// Sets when the login of the client expires.
    pub(super) fn set_expiry(&mut self, expires_at: UnixSeconds) {
        self.expires_at = expires_at;
    }

    /// What its event ids contain after the cursor.
    fn id_suffix(&self) -> &str {
        if self.has_suffix { self.identity.event_id_suffix() } else { "" }
    }

    /// Adds a channel, before the stream starts.
    pub(super) fn add_channel(&mut self, channel: ChannelId, replay_last: bool) {
        self.pending.push(PendingSubscription::new(channel, None, replay_last));
    }

    /// Looks up the client's position in each channel.
    pub(super) fn resume(&mut self, channels: &Channels) {
        // Not kept: a cursor may be as long as a request head.
        let resume = std::mem::replace(&mut self.resume, Resume::New);
        let tags: Vec<_> = self.pending.iter().map(|pending| channels.get(pending.channel).tag).collect();
        for (pending, since) in self.pending.iter_mut().zip(since(&resume, &tags)) {
            pending.since = since;
        }
    }

    /// Whether the `subscribed` event was sent.
    pub(super) fn is_started(&self) -> bool {
        self.started
    }

    /// The channels of the `subscribed` event.
    pub(super) fn pending_subscriptions(&mut self) -> &mut [PendingSubscription] {
        &mut self.pending
    }

    /// Takes the channels of the `subscribed` event, whose recoveries are complete.
    pub(super) fn take_pending(&mut self) -> Vec<PendingSubscription> {
        self.started = true;
        std::mem::take(&mut self.pending)
    }

    /// Starts the stream: the `subscribed` event, a gap for each channel that was not recovered, and missed publications.
    /// With `has_cursor` it keeps the position in each channel.
    pub(super) fn start(
        &mut self,
        subscriptions: Vec<PendingSubscription>,
        channels: &Channels,
        has_cursor: bool,
        retry_ms: u32,
        heartbeat: Duration,
    ) -> Vec<SseAction> {
        let states: Vec<InitialState<'_>> =
            subscriptions.into_iter().map(|subscription| InitialState::new(subscription, channels)).collect();
        if has_cursor {
            self.positions = states.iter().map(|state| state.position).collect();
        }
        let recovered = states.iter().map(|state| (state.name, state.recovered));
        let positions = || states.iter().map(|state| (state.tag, state.position));
        let suffix = self.id_suffix();
        let mut actions = vec![SseAction::Send(sse::subscribed(recovered, positions(), suffix, retry_ms))];
        for state in states.iter().filter(|state| state.gap) {
            actions.push(SseAction::Send(sse::gap(state.name, UNRECOVERABLE, positions(), suffix)));
        }
        actions.extend(states.into_iter().flat_map(|state| state.missed).map(SseAction::SendRecovered));
        if self.ping {
            actions.push(SseAction::Send(sse::ping(heartbeat)));
        }
        actions
    }

    /// The event of a gap. The channel at `place` continues after `position`; `tags` are those of all channels.
    pub(super) fn on_gap(
        &mut self,
        place: Option<usize>,
        channel: &ChannelName,
        reason: &str,
        position: StreamPosition,
        tags: impl Iterator<Item = ChannelTag>,
    ) -> Vec<u8> {
        match place.and_then(|place| self.positions.get_mut(place)) {
            None => sse::gap(channel, reason, [(ChannelTag::of(channel), position)], self.id_suffix()),
            Some(current) => {
                *current = position;
                sse::gap(channel, reason, tags.zip(self.positions.iter().copied()), self.id_suffix())
            }
        }
    }

    /// A publication of the channel at `place` is sent. Returns the end of its event: the cursor over all channels.
    pub(super) fn on_publication(
        &mut self,
        place: Option<usize>,
        position: StreamPosition,
        tags: impl Iterator<Item = ChannelTag>,
    ) -> Vec<u8> {
        if let Some(current) = place.and_then(|place| self.positions.get_mut(place)) {
            *current = position;
        }
        sse::id_line(tags.zip(self.positions.iter().copied()), self.id_suffix())
    }

    /// A channel is not available. The client reconnects after a while.
    pub(super) fn on_subscribe_failed(&self, code: ErrorCode, retry_ms: u32) -> [SseAction; 2] {
        [SseAction::Send(sse::error(code.code(), code.message(), retry_ms)), SseAction::End]
    }

    /// A heartbeat is due; the next one follows after at most `interval`.
    pub(super) fn on_heartbeat(&self, now: Tick, interval: Duration) -> SseAction {
        if self.max_age_at <= now {
            SseAction::End
        } else if self.ping {
            SseAction::Send(sse::ping(interval))
        } else {
            SseAction::Send(sse::heartbeat())
        }
    }
}

/// The state of one channel when a stream starts.
struct InitialState<'a> {
    name: &'a ChannelName,
    tag: ChannelTag,
    position: StreamPosition,
    recovered: bool,
    gap: bool,
    missed: Vec<Arc<Publication>>,
}

impl<'a> InitialState<'a> {
    fn new(subscription: PendingSubscription, channels: &'a Channels) -> Self {
        let channel = channels.get(subscription.channel);
        let (resumes, empty) = (subscription.since.is_some(), subscription.recovery.is_none());
        let Recovery { start: position, publications: missed, recovered, .. } =
            subscription.recovery.unwrap_or(Recovery::empty(channel.position, false));
        let gap = resumes && !empty && !recovered;
        Self { name: &channel.name, tag: channel.tag, position, recovered, gap, missed }
    }
}

/// The position from which a client resumes in each channel; `None` if it starts at the newest publication.
fn since(resume: &Resume, tags: &[ChannelTag]) -> Vec<Option<RecoverFrom>> {
    // An epoch that no channel has: the client reconnects, so it receives a gap.
    let unknown = || Some(RecoverFrom::parse("?", 0));
    match resume {
        Resume::New => vec![None; tags.len()],
        Resume::Unreadable => vec![unknown(); tags.len()],
        Resume::From(cursor) => cursor
            .positions(tags)
            .into_iter()
            .map(|position| match position {
                CursorPosition::Absent => None,
                CursorPosition::At(position) => Some(RecoverFrom::position(position)),
                CursorPosition::Ambiguous => unknown(),
            })
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::identity::{LoginResult, LoginSource};
    use crate::node::namespace::fixtures::open_channel;
    use earshot_protocol::{Cursor, Epoch, Payload};

    const HEARTBEAT: Duration = Duration::from_secs(15);

    fn at(offset: u64) -> StreamPosition {
        StreamPosition { epoch: Epoch::from_u64(7), offset }
    }

    /// A table of channels at offset 5, and a stream of all of them that resumes.
    fn stream(names: &[&str], resume: Resume, ping: bool, max_age_at: Option<Tick>) -> (Channels, SseStream) {
        let mut channels = Channels::default();
        let mut stream = SseStream::new(Arc::new(Identity::guest(true)), ping, resume, max_age_at);
        for name in names {
            let id = channels.insert(open_channel(name), None);
            channels.get_mut(id).position = at(5);
            stream.add_channel(id, false);
        }
        stream.resume(&channels);
        (channels, stream)
    }

    fn cursor(positions: &[(&str, u64)]) -> Resume {
        let mut text = Vec::new();
        let tag = |name: &str| ChannelTag::of(&ChannelName::parse(name).unwrap());
        Cursor::write(positions.iter().map(|(name, offset)| (tag(name), at(*offset))), &mut text);
        Resume::From(Cursor::parse(std::str::from_utf8(&text).unwrap()).unwrap())
    }

    fn text(action: &SseAction) -> String {
        match action {
            SseAction::Send(event) => String::from_utf8(event.clone()).unwrap(),
            SseAction::SendRecovered(publication) => format!("recovered {}", publication.position.offset),
            SseAction::End => "end".to_owned(),
        }
    }

    fn start(channels: &Channels, stream: &mut SseStream, has_cursor: bool) -> Vec<String> {
        let pending = stream.take_pending();
        stream.start(pending, channels, has_cursor, 1000, HEARTBEAT).iter().map(text).collect()
    }

    #[test]
    fn starts_with_the_subscribed_event_gaps_and_missed_publications() {
        let (channels, mut stream) = stream(&["a", "b", "c"], cursor(&[("a", 3), ("b", 3)]), true, None);
        let since: Vec<_> =
            stream.pending_subscriptions().iter().map(|pending| pending.since.clone()).collect();
        assert_eq!(since, [Some(RecoverFrom::position(at(3))), Some(RecoverFrom::position(at(3))), None]);
        let name = ChannelName::parse("a").unwrap();
        let missed = [4, 5]
            .map(|offset| Arc::new(Publication::new(name.clone(), at(offset), Payload::new("1".into()))));
        let recovery =
            Recovery { start: at(3), publications: missed.to_vec(), ..Recovery::empty(at(5), true) };
        stream.pending_subscriptions()[0].recovery = Some(recovery);
        stream.pending_subscriptions()[1].recovery = Some(Recovery::empty(at(5), false));
        let actions = start(&channels, &mut stream, true);
        assert!(actions[0].contains("event: subscribed") && actions[0].contains(r#""a":{"recovered":true}"#));
        assert!(
            actions[1].contains("event: gap") && actions[1].contains(r#""channel":"b""#),
            "{}",
            actions[1]
        );
        assert_eq!(actions[2..4], ["recovered 4", "recovered 5"]);
        assert!(actions[4].starts_with("event: ping"), "{}", actions[4]);
        assert_eq!(actions.len(), 5);
        assert!(stream.is_started() && stream.pending_subscriptions().is_empty());
    }

    #[test]
    fn reports_a_gap_for_a_position_that_cannot_be_parsed() {
        let (channels, mut stream) = stream(&["a"], Resume::Unreadable, false, None);
        assert!(stream.pending_subscriptions()[0].since.is_some());
        stream.pending_subscriptions()[0].recovery = Some(Recovery::empty(at(5), false));
        let actions = start(&channels, &mut stream, false);
        assert!(actions[1].contains(UNRECOVERABLE), "{actions:?}");
    }

    #[test]
    fn keeps_the_cursor_over_all_channels() {
        let (channels, mut stream) = stream(&["a", "b"], Resume::New, false, None);
        start(&channels, &mut stream, true);
        let names = ["a", "b"].map(|name| ChannelName::parse(name).unwrap());
        let tags = || names.iter().map(ChannelTag::of);
        let line = stream.on_publication(Some(1), at(6), tags());
        let expected = sse::id_line(tags().zip([at(5), at(6)]), "");
        assert_eq!(line, expected);
        let gap = stream.on_gap(Some(0), &names[0], "queue-full", at(9), tags());
        assert_eq!(gap, sse::gap(&names[0], "queue-full", tags().zip([at(9), at(6)]), ""));
    }

    #[test]
    fn the_ids_of_all_events_contain_the_code_of_a_ticket() {
        let source = Some(LoginSource::Ticket { event_id_suffix: "~code".into() });
        let identity = Identity::verified(LoginResult { source, ..LoginResult::default() });
        let mut channels = Channels::default();
        let mut stream = SseStream::new(Arc::new(identity), true, cursor(&[("a", 3)]), None);
        let id = channels.insert(open_channel("a"), None);
        channels.get_mut(id).position = at(5);
        stream.add_channel(id, false);
        stream.resume(&channels);
        stream.pending_subscriptions()[0].recovery = Some(Recovery::empty(at(5), false));
        let name = ChannelName::parse("a").unwrap();
        let mut events = start(&channels, &mut stream, true);
        let tags = || [ChannelTag::of(&name)].into_iter();
        events.push(String::from_utf8(stream.on_publication(Some(0), at(6), tags())).unwrap());
        events.push(String::from_utf8(stream.on_gap(Some(0), &name, "queue-full", at(9), tags())).unwrap());
        let ids = events.iter().flat_map(|event| event.lines()).filter_map(|line| line.strip_prefix("id: "));
        let ids: Vec<&str> = ids.collect();
        assert_eq!(ids.len(), 4, "subscribed, gap, publication, gap: {events:?}");
        for id in ids {
            let cursor = id.strip_suffix("~code").unwrap();
            assert!(Cursor::parse(cursor).is_ok(), "{id}");
        }
    }

    #[test]
    fn sends_heartbeats_until_its_maximum_age() {
        let (_, stream) = stream(&["a"], Resume::New, false, Some(10));
        assert_eq!(text(&stream.on_heartbeat(9, HEARTBEAT)).as_bytes(), sse::heartbeat());
        assert_eq!(text(&stream.on_heartbeat(10, HEARTBEAT)), "end");
    }

    #[test]
    fn ends_if_a_channel_is_not_available() {
        let (_, stream) = stream(&["a"], Resume::New, false, None);
        let [event, end] = stream.on_subscribe_failed(ErrorCode::LimitExceeded, 500);
        assert!(text(&event).contains("event: error") && text(&event).contains("retry: 500"), "{event:?}");
        assert_eq!(text(&end), "end");
    }
}

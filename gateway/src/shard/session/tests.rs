//! The order of replies, flow control, and what each command requests.

use std::time::Duration;

use earshot_protocol::{
    ConnectRequest, Epoch, HistoryRequest, PublishRequest, StreamPosition, SubscribeRequest,
    UnsubscribeRequest,
};

use super::*;
use crate::auth::access::{Access, AccessRules, Grant};
use crate::broker::WhenUnavailable;
use crate::login::Authenticator;
use crate::node::channel_pattern::ChannelPattern;
use crate::node::channel_source::ChannelSource;
use crate::node::history_rules::HistoryRules;
use crate::node::messages::PageLimit;
use crate::node::namespace::fixtures::open_channel;
use crate::node::namespace::{Namespace, Namespaces};
use crate::shard::ShardLimits;
use crate::shard::channels::Channels;
use crate::shard::subscription::Subscription;
use earshot_protocol::ReplyBody;

const HOUR: Duration = Duration::from_secs(3600);

/// A connected session, and what its commands are checked against.
struct Fixture {
    session: Session,
    namespaces: Namespaces,
    authenticator: Authenticator,
    limits: ShardLimits,
    channels: Channels,
    subscriptions: Vec<Subscription>,
}

impl Fixture {
    /// With a namespace `open:*` where everything is allowed, and `closed:*` where nothing is.
    fn new() -> Self {
        let mut session = Session::new(Encoding::Json, None, guest());
        session.connect(Uuid::from_u128(7), guest());
        let namespaces = vec![
            namespace("open:*", &[Grant::Anyone], &[Grant::Subscribers]),
            namespace("closed:*", &[], &[]),
        ];
        Self {
            session,
            namespaces: Namespaces::new(namespaces, &[]),
            authenticator: Authenticator::anonymous(),
            limits: limits(),
            channels: Channels::default(),
            subscriptions: Vec::new(),
        }
    }

    fn with_context<T>(&mut self, call: impl FnOnce(&mut Session, &SessionContext<'_>) -> T) -> T {
        let context = SessionContext {
            namespaces: &self.namespaces,
            authenticator: &self.authenticator,
            publication_bytes: 100,
            limits: &self.limits,
            channels: &self.channels,
            subscriptions: &self.subscriptions,
            awaiting_resubscribe: &[],
        };
        call(&mut self.session, &context)
    }

    fn command(&mut self, id: u32, request: Request) -> SessionAction {
        self.with_context(|session, context| session.on_command(Command { id, request }, context))
    }

    fn next_ready(&mut self) -> Option<SessionAction> {
        self.with_context(Session::next_ready)
    }

    /// The shard adds the subscription of a subscribe command.
    fn add_subscription(&mut self, id: u32, name: &str, status: Status) -> ChannelId {
        let position = StreamPosition { epoch: Epoch::from_u64(7), offset: 0 };
        let channel = self.channels.insert(open_channel(name), None);
        self.channels.get_mut(channel).position = position;
        self.subscriptions.push(Subscription { channel, status, recovered_up_to: None });
        let pending_subscription = PendingSubscription::new(channel, None, false);
        let reject_unrecovered = false;
        let reply =
            PendingReply::AwaitingSubscribe { id, pending_subscription, reject_unrecovered, failed: None };
        self.session.push_pending(reply, false);
        channel
    }
}

fn guest() -> Arc<Identity> {
    Arc::new(Identity::guest(true))
}

fn namespace(pattern: &str, subscribe: &[Grant], publish: &[Grant]) -> Namespace {
    Namespace {
        name: String::new(),
        channels: vec![ChannelPattern::parse(pattern).unwrap()],
        brokers: Box::new([0]),
        access: AccessRules {
            subscribe: Access::of(subscribe),
            publish: Access::of(publish),
            ..AccessRules::default()
        },
        source: ChannelSource::PubSub,
        history: HistoryRules { size: 10, ttl: HOUR, bytes: 1000 },
        when_unavailable: WhenUnavailable::Reject,
        replay_last: false,
        backpressure: None,
        counters: std::sync::Arc::default(),
    }
}

fn limits() -> ShardLimits {
    ShardLimits {
        message_bytes: 1000,
        client_queue_bytes: 1000,
        pending_command_bytes: 1000,
        client_queue_age: None,
        channels_per_connection: 10,
        commands_per_frame: 10,
        recovery_page: PageLimit { publications: 10, bytes: 1000 },
        recovery_publications: 10,
        inflight_requests: 10,
        ping_interval: HOUR,
        pong_timeout: HOUR,
        connect_timeout: HOUR,
        close_timeout: HOUR,
        sse_heartbeat: HOUR,
        sse_max_age: None,
        sse_retry: HOUR,
    }
}

fn subscribe(channel: &str) -> Request {
    Request::Subscribe(SubscribeRequest { channel: channel.to_owned(), ..SubscribeRequest::default() })
}

fn publish(channel: &str, bytes: usize) -> Request {
    let data = Bytes::from(vec![b'1'; bytes]);
    Request::Publish(PublishRequest { channel: channel.to_owned(), data, kind: 0 })
}

fn history(channel: &str) -> Request {
    Request::History(HistoryRequest { channel: channel.to_owned(), ..HistoryRequest::default() })
}

/// The error code of a reply.
fn code(action: &SessionAction) -> Option<u32> {
    match action {
        SessionAction::Reply { body: ReplyBody::Error(error), .. } => Some(error.code),
        SessionAction::Deny { denial, .. } => Some(ErrorCode::from(denial.denial).code()),
        _ => None,
    }
}

#[test]
fn rejects_commands_before_the_connect_command_and_a_second_one() {
    let mut fixture = Fixture::new();
    let connect = || Request::Connect(ConnectRequest::default());
    let bad = |action| matches!(action, SessionAction::Disconnect(Disconnect::BadRequest));
    assert!(bad(fixture.command(1, connect())));
    assert!(bad(fixture.command(0, Request::Ping)));
    fixture.session = Session::new(Encoding::Json, None, guest());
    assert!(bad(fixture.command(1, Request::Ping)));
    assert!(matches!(fixture.command(1, connect()), SessionAction::Connect { id: 1, .. }));
    let request = ConnectRequest { token: "t".to_owned(), ..ConnectRequest::default() };
    assert!(matches!(
        fixture.command(1, Request::Connect(request)),
        SessionAction::DenyConnect { denial: Denial::Token, .. }
    ));
}

#[test]
fn checks_commands_against_the_rules_of_their_channel() {
    let mut fixture = Fixture::new();
    let denied = Some(ErrorCode::PermissionDenied.code());
    assert!(matches!(fixture.command(1, subscribe("open:a")), SessionAction::Subscribe { id: 1, .. }));
    assert_eq!(code(&fixture.command(2, subscribe("closed:a"))), denied);
    assert_eq!(code(&fixture.command(3, subscribe("other"))), Some(ErrorCode::UnknownChannel.code()));
    assert_eq!(code(&fixture.command(4, publish("open:a", 1))), denied, "it is not subscribed");
    assert_eq!(code(&fixture.command(5, history("open:a"))), denied, "it is not subscribed");
    fixture.add_subscription(6, "open:a", Status::Joined(0));
    fixture.next_ready();
    assert!(matches!(fixture.command(7, publish("open:a", 1)), SessionAction::Publish { id: 7, .. }));
    assert_eq!(code(&fixture.command(8, publish("open:a", 101))), Some(ErrorCode::LimitExceeded.code()));
    assert!(matches!(fixture.command(9, history("open:a")), SessionAction::ReadHistory { id: 9, .. }));
}

#[test]
fn replies_in_the_order_of_the_commands() {
    let mut fixture = Fixture::new();
    let number = fixture.session.next_reply();
    fixture.session.await_node(1, AwaitedReply::Publish(1), false);
    assert_eq!(
        fixture.session.push_reply(Bytes::from_static(b"2")),
        None,
        "it waits for the reply before it"
    );
    assert!(fixture.next_ready().is_none());
    fixture.session.on_node_reply(number, NodeReply::Body(ReplyBody::Pong));
    assert!(matches!(fixture.next_ready(), Some(SessionAction::Reply { id: 1, body: ReplyBody::Pong })));
    assert!(matches!(fixture.next_ready(), Some(SessionAction::Send(frame)) if frame == "2"));
    assert!(fixture.next_ready().is_none());
    assert!(fixture.session.push_reply(Bytes::from_static(b"3")).is_some());
}

#[test]
fn defers_commands_on_a_channel_until_its_subscribe_command_is_answered() {
    let mut fixture = Fixture::new();
    fixture.add_subscription(1, "open:a", Status::Waiting);
    let unsubscribe = Request::Unsubscribe(UnsubscribeRequest { channel: "open:a".to_owned() });
    assert!(matches!(fixture.command(2, unsubscribe), SessionAction::None));
    assert!(matches!(fixture.command(3, publish("open:a", 1)), SessionAction::None));
    assert_eq!(code(&fixture.command(4, publish("open:a", 101))), Some(ErrorCode::LimitExceeded.code()));
    assert!(fixture.session.awaits_subscriptions());
    fixture.subscriptions[0].status = Status::Joined(0);
    assert!(matches!(fixture.next_ready(), Some(SessionAction::FinishSubscribe { id: 1, .. })));
    assert!(matches!(fixture.next_ready(), Some(SessionAction::Unsubscribe { id: 2, .. })));
    fixture.subscriptions.clear();
    let third = fixture.next_ready().unwrap();
    assert_eq!(code(&third), Some(ErrorCode::PermissionDenied.code()), "checked when it is executed");
}

#[test]
fn fails_the_subscribe_command_of_a_channel_that_is_not_available() {
    let mut fixture = Fixture::new();
    let channel = fixture.add_subscription(1, "open:a", Status::Waiting);
    fixture.session.on_subscribe_failed(channel, ErrorCode::LimitExceeded);
    assert!(!fixture.session.awaits_subscriptions());
    assert_eq!(code(&fixture.next_ready().unwrap()), Some(ErrorCode::LimitExceeded.code()));
}

#[test]
fn requests_one_page_of_history_at_a_time() {
    let mut fixture = Fixture::new();
    fixture.add_subscription(1, "open:a", Status::Joined(0));
    fixture.next_ready();
    let number = fixture.session.next_reply();
    fixture.session.await_node(2, AwaitedReply::History, false);
    assert!(matches!(fixture.command(3, history("open:a")), SessionAction::None));
    fixture.session.on_node_reply(number, NodeReply::Body(ReplyBody::Pong));
    assert!(matches!(fixture.next_ready(), Some(SessionAction::Reply { id: 2, .. })));
    assert!(matches!(fixture.next_ready(), Some(SessionAction::ReadHistory { id: 3, .. })));
}

#[test]
fn pauses_reading_while_too_many_bytes_of_commands_wait() {
    let mut fixture = Fixture::new();
    let number = fixture.session.next_reply();
    fixture.session.await_node(1, AwaitedReply::Publish(2000), false);
    assert!(fixture.session.pause_if_full(1000) && fixture.session.is_paused());
    assert!(!fixture.session.pause_if_full(1000), "it is paused already");
    assert!(!fixture.session.resume_if_relieved(1000));
    fixture.session.on_node_reply(number, NodeReply::Body(ReplyBody::Pong));
    fixture.next_ready();
    assert!(fixture.session.resume_if_relieved(1000) && !fixture.session.is_paused());
}

#[test]
fn accepts_a_pong_only_after_a_ping() {
    let mut fixture = Fixture::new();
    assert!(matches!(fixture.command(0, Request::Pong), SessionAction::Disconnect(Disconnect::BadRequest)));
    fixture.session.on_ping_sent();
    assert!(matches!(fixture.command(0, Request::Pong), SessionAction::SchedulePing));
    assert!(matches!(fixture.command(0, Request::Pong), SessionAction::Disconnect(Disconnect::BadRequest)));
}

#[test]
fn commands_of_a_login_that_has_ended_are_not_executed() {
    let mut fixture = Fixture::new();
    fixture.session.identity().end();
    let unsubscribe = Request::Unsubscribe(UnsubscribeRequest { channel: "open:a".to_owned() });
    for request in [publish("open:a", 1), unsubscribe] {
        let action = fixture.command(2, request);
        assert!(matches!(action, SessionAction::Disconnect(Disconnect::ConnectionExpired)), "{action:?}");
    }
}

//! When the login of a connection expires, and its subscriptions with a token.

use std::time::Duration;

use super::channels::ChannelId;
use crate::auth::{Identity, UnixSeconds, unix_now};

/// How long a client may take to present a new token after its login or subscription has expired.
const GRACE: Duration = Duration::from_secs(25);

/// When a WebSocket session expires. Boxed, since an idle connection without a token must not hold it.
#[derive(Debug, Default)]
pub(super) struct SessionExpiry(Option<Box<Expiries>>);

/// The expiry times of a login and of its subscriptions.
#[derive(Debug, Default)]
struct Expiries {
    login: Option<UnixSeconds>,
    /// The client cannot present another token for its login, which therefore ends without a grace.
    is_final: bool,
    /// The subscriptions whose token expires.
    subscriptions: Vec<(ChannelId, UnixSeconds)>,
}

impl SessionExpiry {
    /// Sets when the login expires.
    pub(super) fn set_login(&mut self, expires_at: Option<UnixSeconds>) {
        self.change(|expiries| expiries.login = expires_at);
    }

    /// Sets when the login of this identity expires.
    pub(super) fn set_login_of(&mut self, identity: &Identity) {
        let is_final = identity.is_ticket();
        self.change(|expiries| {
            (expiries.login, expiries.is_final) = (identity.expires_at(), is_final);
        });
    }

    /// When the login expires, if its client can present another token.
    pub(super) fn refreshable_login(&self) -> Option<UnixSeconds> {
        self.0.as_ref().filter(|expiries| !expiries.is_final)?.login
    }

    /// Whether the login has expired, and the client did not present a new token in time.
    pub(super) fn is_login_over(&self) -> bool {
        self.login_time_left().is_some_and(|left| left.is_zero())
    }

    fn login_time_left(&self) -> Option<Duration> {
        let expiries = self.0.as_ref()?;
        expiries.login.map(if expiries.is_final { time_left } else { time_left_with_grace })
    }

    /// Sets when the subscription to a channel expires.
    pub(super) fn set_subscription(&mut self, channel: ChannelId, expires_at: Option<UnixSeconds>) {
        self.remove_subscription(channel);
        if let Some(at) = expires_at {
            self.change(|expiries| expiries.subscriptions.push((channel, at)));
        }
    }

    /// The subscription to a channel ended.
    pub(super) fn remove_subscription(&mut self, channel: ChannelId) {
        if self.0.is_some() {
            self.change(|expiries| expiries.subscriptions.retain(|(other, _)| *other != channel));
        }
    }

    fn change(&mut self, change: impl FnOnce(&mut Expiries)) {
        let expiries = self.0.get_or_insert_default();
        change(expiries);
        if expiries.login.is_none() && expiries.subscriptions.is_empty() {
            self.0 = None;
        }
    }

    /// The subscriptions that have expired, and whose clients did not present a new token in time.
    pub(super) fn expired_subscriptions(&self) -> Vec<ChannelId> {
        let expired = self.subscriptions().filter(|(_, at)| time_left_with_grace(*at).is_zero());
        expired.map(|(channel, _)| channel).collect()
    }

    /// The time until the login or a subscription ends, unless the client presents a new token; `None`: nothing expires.
    pub(super) fn time_left(&self) -> Option<Duration> {
        let subscriptions = self.subscriptions().map(|(_, at)| time_left_with_grace(at));
        self.login_time_left().into_iter().chain(subscriptions).min()
    }

    fn subscriptions(&self) -> impl Iterator<Item = (ChannelId, UnixSeconds)> {
        self.0.iter().flat_map(|expiries| expiries.subscriptions.iter().copied())
    }
}

/// Seconds until `expires_at`, at least 1; `None` if it never expires.
pub(super) fn time_to_live(expires_at: Option<UnixSeconds>) -> Option<u32> {
    let left = time_left(expires_at?).as_secs().max(1);
    Some(u32::try_from(left).unwrap_or(u32::MAX))
}

/// The time until `expires_at`.
pub(super) fn time_left(expires_at: UnixSeconds) -> Duration {
    Duration::from_secs(expires_at.saturating_sub(unix_now()))
}

/// The time until a WebSocket ends, in which its client can present another token.
fn time_left_with_grace(expires_at: UnixSeconds) -> Duration {
    time_left(expires_at.saturating_add(GRACE.as_secs()))
}

/// Whether a login has ended or expired, so that nothing new may begin with it.
pub(super) fn is_over(identity: &Identity) -> bool {
    identity.has_ended() || identity.expires_at().is_some_and(|at| time_left_with_grace(at).is_zero())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::identity::{LoginResult, LoginSource};

    #[test]
    fn a_subscription_expires_alone() {
        let now = unix_now();
        let mut expiry = SessionExpiry::default();
        assert_eq!(expiry.time_left(), None);
        expiry.set_login(Some(now + 1000));
        expiry.set_subscription(1, Some(now - 60));
        expiry.set_subscription(2, Some(now + 60));
        expiry.set_subscription(3, None);
        assert_eq!(expiry.time_left(), Some(Duration::ZERO));
        assert!(!expiry.is_login_over());
        assert_eq!(expiry.expired_subscriptions(), [1]);
        expiry.set_subscription(1, Some(now + 500));
        assert!(expiry.expired_subscriptions().is_empty());
        assert!(expiry.time_left().is_some_and(|left| (80..=85).contains(&left.as_secs())));
        expiry.remove_subscription(1);
        expiry.remove_subscription(2);
        expiry.set_login(Some(now - 60));
        assert!(expiry.is_login_over());
        expiry.set_login(None);
        assert!(expiry.0.is_none(), "it holds no memory");
    }

    #[test]
    fn a_ticket_has_no_grace() {
        let source = Some(LoginSource::Ticket { event_id_suffix: "~code".into() });
        let login = |expires_at| LoginResult { source: source.clone(), expires_at, ..LoginResult::default() };
        let mut expiry = SessionExpiry::default();
        expiry.set_login_of(&Identity::verified(login(Some(unix_now() - 1))));
        assert!(expiry.is_login_over() && expiry.refreshable_login().is_none());
        expiry.set_login_of(&Identity::verified(login(None)));
        assert!(expiry.0.is_none(), "it holds no memory");
        expiry.set_login_of(&Identity::verified(LoginResult { source: None, ..login(Some(unix_now() - 1)) }));
        assert!(!expiry.is_login_over() && expiry.refreshable_login().is_some());
    }

    #[test]
    fn the_grace_lets_a_client_present_a_new_token() {
        let mut expiry = SessionExpiry::default();
        expiry.set_login(Some(unix_now() - 5));
        expiry.set_subscription(1, Some(unix_now() - 5));
        assert!(!expiry.is_login_over() && expiry.expired_subscriptions().is_empty());
    }
}

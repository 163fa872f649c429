//! The permissions of a namespace: which clients may perform which operations on its channels.

use std::fmt;

use super::Identity;
use super::template::ChannelTemplate;

/// A rule that permits an operation to some clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grant {
    /// Every client. Clients without a login are included only if the configuration admits them.
    Anyone,
    /// Clients whose login names a user.
    Authenticated,
    /// Clients that are subscribed to the channel.
    Subscribers,
    /// Clients whose identity is part of the channel name.
    Owner,
    /// Clients with a token that names the channel: a claim, a subscription token or a signed name.
    Token,
    /// Clients that the application's hook permits.
    Hook,
}

impl Grant {
    /// All grants.
    pub const ALL: [Self; 6] =
        [Self::Anyone, Self::Authenticated, Self::Subscribers, Self::Owner, Self::Token, Self::Hook];

    /// The word in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Anyone => "anyone",
            Self::Authenticated => "authenticated",
            Self::Subscribers => "subscribers",
            Self::Owner => "owner",
            Self::Token => "token",
            Self::Hook => "hook",
        }
    }
}

/// The clients that may perform an operation: those to which at least one grant applies. Empty: no client.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Access(u8);

impl Access {
    /// No client; only backends.
    pub const NOBODY: Self = Self(0);

    /// The clients of these grants.
    pub const fn of(grants: &[Grant]) -> Self {
        let (mut bits, mut at) = (0, 0);
        while at < grants.len() {
            bits |= 1 << grants[at] as u8;
            at += 1;
        }
        Self(bits)
    }

    /// Whether a grant is among them.
    pub fn contains(self, grant: Grant) -> bool {
        self.0 & (1 << grant as u8) != 0
    }

    /// The grants.
    pub fn grants(self) -> impl Iterator<Item = Grant> {
        Grant::ALL.into_iter().filter(move |grant| self.contains(*grant))
    }

    /// Whether no client is permitted.
    pub fn is_nobody(self) -> bool {
        self == Self::NOBODY
    }
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.grants()).finish()
    }
}

/// The permissions of a namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessRules {
    /// Which clients may subscribe.
    pub subscribe: Access,
    /// Which clients may publish.
    pub publish: Access,
    /// Which clients may read the history.
    pub read_history: Access,
    /// The channel patterns that contain the client's identity, for [`Grant::Owner`].
    pub owned: Box<[ChannelTemplate]>,
    /// Values that a client's identity must have, for every operation.
    pub require: Box<[Requirement]>,
    /// Whether [`Grant::Hook`] permits an operation if the hook does not answer.
    pub permits_without_hook: bool,
}

/// A field and its accepted values. A client must have one of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    /// The name of the field.
    pub field: String,
    /// The values.
    pub values: Vec<String>,
}

impl Requirement {
    /// Whether an identity has one of the values.
    pub fn is_met(&self, identity: &Identity) -> bool {
        let values = identity.values(&self.field);
        values.iter().any(|value| self.values.iter().any(|required| **required == **value))
    }
}

impl Default for AccessRules {
    /// Permits nothing, except that subscribers may read the history.
    fn default() -> Self {
        Self {
            subscribe: Access::NOBODY,
            publish: Access::NOBODY,
            read_history: Access::of(&[Grant::Subscribers]),
            owned: Box::default(),
            require: Box::default(),
            permits_without_hook: false,
        }
    }
}

/// An operation of a channel that a client requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// To receive its publications.
    Subscribe,
    /// To publish.
    Publish,
    /// To read its history.
    ReadHistory,
}

impl Operation {
    /// All operations.
    pub const ALL: [Self; 3] = [Self::Subscribe, Self::Publish, Self::ReadHistory];

    /// The operation that a namespace setting controls.
    pub fn parse(setting: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|operation| operation.setting() == setting)
    }

    /// The verb for messages: "may not …".
    pub fn verb(self) -> &'static str {
        match self {
            Self::Subscribe => "subscribe",
            Self::Publish => "publish",
            Self::ReadHistory => "read the history",
        }
    }

    /// The namespace setting that controls it.
    pub fn setting(self) -> &'static str {
        match self {
            Self::Subscribe => "subscribe",
            Self::Publish => "publish",
            Self::ReadHistory => "read_history",
        }
    }
}

impl AccessRules {
    /// The clients that may perform an operation.
    pub fn of(&self, operation: Operation) -> Access {
        match operation {
            Operation::Subscribe => self.subscribe,
            Operation::Publish => self.publish,
            Operation::ReadHistory => self.read_history,
        }
    }
}

//! The permissions of a namespace: which clients may use which operation of its channels.

use std::fmt;

use super::Identity;
use super::template::ChannelTemplate;

/// A rule that permits clients an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grant {
    /// Every client; clients without a login only if the configuration lets them in.
    Anyone,
    /// Clients whose login names a user.
    Authenticated,
    /// Clients that are subscribed to the channel.
    Subscribers,
    /// Clients whose identity the name of the channel contains.
    Owner,
    /// Clients with a token that names the channel: a claim, a subscription token or a signed name.
    Token,
    /// Clients that a hook of the application permits it.
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

/// Which clients may use an operation: those that one of its grants applies to. Empty: nobody.
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
    /// Its patterns that name the identity, for [`Grant::Owner`].
    pub owned: Box<[ChannelTemplate]>,
    /// Values that a client's identity must have, for every operation.
    pub require: Box<[Requirement]>,
    /// [`Grant::Hook`] permits an operation while the hook gives no answer.
    pub permits_without_hook: bool,
}

/// A field with the values of which a client must have one.
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
    /// Clients may do nothing, except that a subscriber may read.
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

    /// The operation of a setting of the namespace.
    pub fn parse(setting: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|operation| operation.setting() == setting)
    }

    /// What a client does, in messages: "may not …".
    pub fn verb(self) -> &'static str {
        match self {
            Self::Subscribe => "subscribe",
            Self::Publish => "publish",
            Self::ReadHistory => "read the history",
        }
    }

    /// The setting of the namespace that permits it.
    pub fn setting(self) -> &'static str {
        match self {
            Self::Subscribe => "subscribe",
            Self::Publish => "publish",
            Self::ReadHistory => "read_history",
        }
    }
}

impl AccessRules {
    /// Which clients may use an operation.
    pub fn of(&self, operation: Operation) -> Access {
        match operation {
            Operation::Subscribe => self.subscribe,
            Operation::Publish => self.publish,
            Operation::ReadHistory => self.read_history,
        }
    }
}

//! The methods of the HTTP API, and the permission that each requires.

/// A scope of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Publish.
    Publish,
    /// Read channels and their history.
    Read,
    /// Remove histories, log clients in, and read how permissions are decided.
    Admin,
}

impl Scope {
    /// All scopes.
    pub const ALL: [Self; 3] = [Self::Publish, Self::Read, Self::Admin];

    /// The word in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Publish => "publish",
            Self::Read => "read",
            Self::Admin => "admin",
        }
    }
}

/// The objects that a method affects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Channels: the namespace of each one decides.
    Channels,
    /// The node: a key that is restricted to namespaces may not call it.
    Node,
}

/// A method of the HTTP API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApiMethod {
    /// Publishes to a channel.
    Publish,
    /// Publishes to several channels.
    Broadcast,
    /// Lists channels with subscribers.
    Channels,
    /// Describes the node.
    Info,
    /// Reads the history of a channel.
    History,
    /// Removes the history of a channel.
    HistoryRemove,
    /// Closes connections.
    Disconnect,
    /// Ends subscriptions.
    Unsubscribe,
    /// Changes when logins expire.
    Refresh,
    /// Revokes logins.
    Revoke,
    /// Makes a ticket for a client.
    Ticket,
    /// Explains a permission.
    Why,
}

impl ApiMethod {
    /// All methods.
    pub const ALL: [Self; 12] = [
        Self::Publish,
        Self::Broadcast,
        Self::Channels,
        Self::Info,
        Self::History,
        Self::HistoryRemove,
        Self::Disconnect,
        Self::Unsubscribe,
        Self::Refresh,
        Self::Revoke,
        Self::Ticket,
        Self::Why,
    ];

    /// The name of each method, its scope, and the objects that it affects.
    const fn row(self) -> (&'static str, Scope, Reach) {
        match self {
            Self::Publish => ("publish", Scope::Publish, Reach::Channels),
            Self::Broadcast => ("broadcast", Scope::Publish, Reach::Channels),
            Self::Channels => ("channels", Scope::Read, Reach::Channels),
            Self::Info => ("info", Scope::Read, Reach::Node),
            Self::History => ("history", Scope::Read, Reach::Channels),
            Self::HistoryRemove => ("history_remove", Scope::Admin, Reach::Channels),
            Self::Disconnect => ("disconnect", Scope::Admin, Reach::Node),
            Self::Unsubscribe => ("unsubscribe", Scope::Admin, Reach::Node),
            Self::Refresh => ("refresh", Scope::Admin, Reach::Node),
            Self::Revoke => ("revoke", Scope::Admin, Reach::Node),
            // A ticket logs its client in as any user.
            Self::Ticket => ("ticket", Scope::Admin, Reach::Node),
            Self::Why => ("why", Scope::Admin, Reach::Node),
        }
    }

    /// The method of this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|method| method.as_str() == name)
    }

    /// Its name in the path.
    pub fn as_str(self) -> &'static str {
        self.row().0
    }

    /// The scope that it requires.
    pub fn scope(self) -> Scope {
        self.row().1
    }

    /// The objects that it affects.
    pub fn reach(self) -> Reach {
        self.row().2
    }
}

//! Decides all permissions.

use axum::http::HeaderMap;

use super::api_key::ApiAuth;
use super::origin::OriginPolicy;
use super::{ClientMeta, Denial, token};

/// Which clients may use an operation of a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// All clients.
    Anyone,
    /// Clients that are subscribed to the channel.
    Subscribers,
    /// No client; only backends.
    Nobody,
}

/// The identity of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Identity {
    /// A client without authentication.
    Anonymous,
    /// A backend that uses the API.
    Backend,
}

/// Decides which clients may connect and what they may do.
#[derive(Debug, Default)]
pub struct Authorizer {
    origins: OriginPolicy,
    api: ApiAuth,
}

impl Authorizer {
    /// Creates an authorizer with these rules.
    pub fn new(origins: OriginPolicy, api: ApiAuth) -> Self {
        Self { origins, api }
    }

    /// The allowed origins, for CORS headers.
    pub fn origins(&self) -> &OriginPolicy {
        &self.origins
    }

    /// Decides whether a client may connect.
    ///
    /// # Errors
    /// [`Denial::Origin`], [`Denial::Token`].
    pub fn connect(&self, client: &ClientMeta) -> Result<Identity, Denial> {
        if !self.origins.is_allowed(client.headers()) {
            return Err(Denial::Origin);
        }
        if token::is_presented(client) {
            return Err(Denial::Token);
        }
        Ok(Identity::Anonymous)
    }

    /// Decides whether a request may use the API.
    ///
    /// # Errors
    /// [`Denial::Api`].
    pub fn api(&self, headers: &HeaderMap, query: Option<&str>) -> Result<Identity, Denial> {
        self.api.check(headers, query, &self.origins)?;
        Ok(Identity::Backend)
    }

    /// Decides whether a client may subscribe to a channel whose namespace grants `access`.
    ///
    /// # Errors
    /// [`Denial::Subscribe`].
    pub fn subscribe(identity: Identity, access: Access) -> Result<(), Denial> {
        match (identity, access) {
            (Identity::Backend, _) | (Identity::Anonymous, Access::Anyone) => Ok(()),
            (Identity::Anonymous, Access::Subscribers | Access::Nobody) => Err(Denial::Subscribe),
        }
    }

    /// Decides whether a client may publish to a channel whose namespace grants `access`.
    ///
    /// # Errors
    /// [`Denial::Publish`], [`Denial::NotSubscribed`].
    pub fn publish(identity: Identity, access: Access, is_subscribed: bool) -> Result<(), Denial> {
        match (identity, access) {
            (Identity::Backend, _) | (Identity::Anonymous, Access::Anyone) => Ok(()),
            (Identity::Anonymous, Access::Subscribers) if is_subscribed => Ok(()),
            (Identity::Anonymous, Access::Subscribers) => Err(Denial::NotSubscribed),
            (Identity::Anonymous, Access::Nobody) => Err(Denial::Publish),
        }
    }

    /// Decides whether a client may read the history of a channel.
    ///
    /// # Errors
    /// [`Denial::NotSubscribed`].
    pub fn history(identity: Identity, is_subscribed: bool) -> Result<(), Denial> {
        match identity {
            Identity::Backend => Ok(()),
            Identity::Anonymous if is_subscribed => Ok(()),
            Identity::Anonymous => Err(Denial::NotSubscribed),
        }
    }

    /// Decides whether a client may read the presence of a channel.
    ///
    /// # Errors
    /// [`Denial::Presence`]: always, since presence is not supported.
    pub fn presence(_: Identity) -> Result<(), Denial> {
        Err(Denial::Presence)
    }
}

#[cfg(test)]
mod tests {
    use axum::http::Request;
    use std::net::{Ipv4Addr, SocketAddr};

    use super::super::TrustedProxies;
    use super::*;

    #[test]
    fn decides_on_identity_access_and_subscription() {
        use Access::{Anyone, Nobody, Subscribers};
        let client = Identity::Anonymous;
        assert_eq!(Authorizer::subscribe(client, Anyone), Ok(()));
        assert_eq!(Authorizer::subscribe(client, Subscribers), Err(Denial::Subscribe));
        assert_eq!(Authorizer::subscribe(client, Nobody), Err(Denial::Subscribe));
        for is_subscribed in [false, true] {
            assert_eq!(Authorizer::publish(client, Anyone, is_subscribed), Ok(()));
            assert_eq!(Authorizer::publish(client, Nobody, is_subscribed), Err(Denial::Publish));
        }
        assert_eq!(Authorizer::publish(client, Subscribers, true), Ok(()));
        assert_eq!(Authorizer::publish(client, Subscribers, false), Err(Denial::NotSubscribed));
        assert_eq!(Authorizer::history(client, true), Ok(()));
        assert_eq!(Authorizer::history(client, false), Err(Denial::NotSubscribed));
        assert_eq!(Authorizer::presence(client), Err(Denial::Presence));
        for access in [Anyone, Subscribers, Nobody] {
            assert_eq!(Authorizer::subscribe(Identity::Backend, access), Ok(()));
            assert_eq!(Authorizer::publish(Identity::Backend, access, false), Ok(()));
        }
        assert_eq!(Authorizer::history(Identity::Backend, false), Ok(()));
    }

    #[test]
    fn rejects_other_origins_and_tokens() {
        let origins = OriginPolicy::new(vec!["https://app.example".to_owned()]);
        let authorizer = Authorizer::new(origins, ApiAuth::Disabled);
        let connect = |uri: &str, headers: &[(&str, &str)]| {
            let request = Request::get(uri).header("host", "gateway.example");
            let add = |request: axum::http::request::Builder, header: &(&str, &str)| {
                request.header(header.0, header.1)
            };
            let request = headers.iter().fold(request, add).body(()).unwrap();
            let peer = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
            authorizer.connect(&ClientMeta::new(&request, peer, &TrustedProxies::default()))
        };
        assert_eq!(connect("/ws", &[]), Ok(Identity::Anonymous));
        assert_eq!(connect("/ws", &[("origin", "https://app.example")]), Ok(Identity::Anonymous));
        assert_eq!(connect("/ws", &[("origin", "https://evil.example")]), Err(Denial::Origin));
        assert_eq!(connect("/ws", &[("sec-fetch-site", "cross-site")]), Err(Denial::Origin));
        assert_eq!(connect("/ws?token=a", &[]), Err(Denial::Token));
        assert_eq!(connect("/ws", &[("authorization", "Bearer a")]), Err(Denial::Token));
        assert_eq!(connect("/ws", &[("authorization", "Basic dTpw")]), Ok(Identity::Anonymous));
    }
}

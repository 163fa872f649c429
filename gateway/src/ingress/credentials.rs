//! Tokens that a request for a stream presents.
//!
//! No login is configured, so nothing can check them: such a client expects to be somebody, and is refused rather than
//! let in as nobody. Must never look into a token.

use axum::http::{Request, header};

use crate::shard::token;

/// Parameters of a query that carry a token.
const PARAMETERS: [&str; 5] = ["token", "access_token", "ticket", "jwt", "authorization"];

/// Whether a request presents a token: in an `Authorization` header, or in its query.
pub(super) fn are_presented<B>(request: &Request<B>) -> bool {
    request.headers().get_all(header::AUTHORIZATION).iter().any(|value| token::is_token(value.as_bytes()))
        || request.uri().query().is_some_and(|query| {
            form_urlencoded::parse(query.as_bytes()).any(|(key, _)| PARAMETERS.contains(&key.as_ref()))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_seen_wherever_it_may_stand() {
        let request = |uri: &str, authorization: &str| {
            Request::get(uri).header(header::AUTHORIZATION, authorization).body(()).unwrap()
        };
        for authorization in
            ["Bearer a.b.c", "bearer a", "Bearer\ta", " Bearer a", "Token a", "JWT a", "DPoP a"]
        {
            assert!(are_presented(&request("/ws", authorization)), "{authorization}");
        }
        let mut second = request("/ws", "Basic dTpw");
        second.headers_mut().append(header::AUTHORIZATION, "Bearer a".parse().unwrap());
        assert!(are_presented(&second), "the second of two headers");
        for uri in ["/sse/a?token=x", "/sse?channel=a&ticket=x", "/ws?access_token=", "/ws?jwt=x"] {
            assert!(are_presented(&request(uri, "")), "{uri}");
        }
        for (uri, authorization) in [
            ("/sse/a", "Basic dTpw"),
            ("/sse/token?room=token", "apikey k"),
            ("/ws", ""),
            ("/ws", "Negotiate x"),
        ] {
            assert!(!are_presented(&request(uri, authorization)), "{uri} {authorization}");
        }
    }
}

//! Tokens that a request for a stream presents.
//!
//! No login is configured, so nothing can check them: such a client expects to be somebody, and is refused rather than
//! let in as nobody. Must never look into a token.

use axum::http::{Request, header};

/// Parameters of a query that carry a token.
const PARAMETERS: [&str; 3] = ["token", "access_token", "ticket"];

/// Whether a request presents a token: as `Authorization: Bearer`, or in its query.
pub(super) fn are_presented<B>(request: &Request<B>) -> bool {
    let authorization = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let scheme = authorization.and_then(|value| value.split(' ').next());
    scheme.is_some_and(|scheme| scheme.eq_ignore_ascii_case("bearer"))
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
        assert!(are_presented(&request("/ws", "Bearer a.b.c")) && are_presented(&request("/ws", "bearer a")));
        for uri in ["/sse/a?token=x", "/sse?channel=a&ticket=x", "/ws?access_token="] {
            assert!(are_presented(&request(uri, "")), "{uri}");
        }
        for (uri, authorization) in
            [("/sse/a", "Basic dTpw"), ("/sse/token?room=token", "apikey k"), ("/ws", "")]
        {
            assert!(!are_presented(&request(uri, authorization)), "{uri} {authorization}");
        }
    }
}

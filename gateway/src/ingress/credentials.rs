//! Tokens in requests for streams.
//!
//! Without a configured authentication the gateway cannot verify a token. It rejects such a client instead of treating
//! it as anonymous, since the client expects to be authenticated. Tokens are never parsed.

use axum::http::{Request, header};

use crate::shard::token;

/// Query parameters that carry a token.
const QUERY_PARAMETERS: [&str; 5] = ["token", "access_token", "ticket", "jwt", "authorization"];

/// Whether a request contains a token, in an `Authorization` header or in the query.
pub(super) fn has_token<B>(request: &Request<B>) -> bool {
    request.headers().get_all(header::AUTHORIZATION).iter().any(|value| token::is_token(value.as_bytes()))
        || request.uri().query().is_some_and(|query| {
            form_urlencoded::parse(query.as_bytes()).any(|(key, _)| QUERY_PARAMETERS.contains(&key.as_ref()))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn detects_tokens_in_headers_and_query() {
        let request = |uri: &str, authorization: &str| {
            Request::get(uri).header(header::AUTHORIZATION, authorization).body(()).unwrap()
        };
        for authorization in
            ["Bearer a.b.c", "bearer a", "Bearer\ta", " Bearer a", "Token a", "JWT a", "DPoP a"]
        {
            assert!(has_token(&request("/ws", authorization)), "{authorization}");
        }
        let mut second = request("/ws", "Basic dTpw");
        second.headers_mut().append(header::AUTHORIZATION, "Bearer a".parse().unwrap());
        assert!(has_token(&second), "the second of two headers");
        for uri in ["/sse/a?token=x", "/sse?channel=a&ticket=x", "/ws?access_token=", "/ws?jwt=x"] {
            assert!(has_token(&request(uri, "")), "{uri}");
        }
        for (uri, authorization) in [
            ("/sse/a", "Basic dTpw"),
            ("/sse/token?room=token", "apikey k"),
            ("/ws", ""),
            ("/ws", "Negotiate x"),
        ] {
            assert!(!has_token(&request(uri, authorization)), "{uri} {authorization}");
        }
    }
}

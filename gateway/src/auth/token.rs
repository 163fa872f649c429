//! Finds tokens in requests.

use std::borrow::Cow;

use super::ClientMeta;

/// Schemes without a token: browsers and proxies add them, and `apikey` is for the API.
const OTHER_SCHEMES: [&str; 5] = ["basic", "digest", "negotiate", "ntlm", "apikey"];

/// Query parameters that carry a token.
const QUERY_PARAMETERS: [&str; 5] = ["token", "access_token", "ticket", "jwt", "authorization"];

/// The token of a request, from an `Authorization` header or the query; empty if its value is not text.
pub fn presented(client: &ClientMeta) -> Option<Cow<'_, str>> {
    let header = client.authorization().find(|value| is_token(value.as_bytes()));
    header.map(|value| value.to_str().map_or("", without_scheme).into()).or_else(|| {
        form_urlencoded::parse(client.query()?.as_bytes())
            .find(|(key, _)| QUERY_PARAMETERS.contains(&key.as_ref()))
            .map(|(_, token)| token)
    })
}

/// The credentials in the value of an `Authorization` header.
pub fn without_scheme(authorization: &str) -> &str {
    let authorization = authorization.trim();
    authorization.split_once(char::is_whitespace).map_or("", |(_, token)| token.trim())
}

/// Whether the value of an `Authorization` header is a token (RFC 9110, section 11.4: a scheme, then white space).
pub fn is_token(authorization: &[u8]) -> bool {
    let scheme = authorization.split(u8::is_ascii_whitespace).find(|part| !part.is_empty());
    scheme.is_some_and(|scheme| {
        !OTHER_SCHEMES.iter().any(|other| scheme.eq_ignore_ascii_case(other.as_bytes()))
    })
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};

    use axum::http::Request;
    use proptest::prelude::*;

    use super::super::TrustedProxies;
    use super::*;

    fn client(uri: &str, headers: &[(&str, &str)]) -> ClientMeta {
        let add =
            |request: axum::http::request::Builder, header: &(&str, &str)| request.header(header.0, header.1);
        let request = headers.iter().fold(Request::get(uri), add).body(()).unwrap();
        let peer = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
        ClientMeta::new(&request, peer, &TrustedProxies::default())
    }

    fn is_presented(client: &ClientMeta) -> bool {
        presented(client).is_some()
    }

    #[test]
    fn finds_the_token() {
        let token = |uri: &str, header: &str| {
            presented(&client(uri, &[("authorization", header)])).map(Cow::into_owned)
        };
        assert_eq!(token("/ws", "Bearer  a.b.c ").as_deref(), Some("a.b.c"));
        assert_eq!(token("/ws?token=x", "Bearer a").as_deref(), Some("a"));
        assert_eq!(token("/ws?b=1&access_token=x%2By", "Basic a").as_deref(), Some("x+y"));
        assert_eq!(token("/ws", "Bearer").as_deref(), Some(""));
    }

    #[test]
    fn detects_tokens_in_headers_and_query() {
        for authorization in
            ["Bearer a.b.c", "bearer a", "Bearer\ta", " Bearer a", "Token a", "JWT a", "DPoP a"]
        {
            assert!(is_presented(&client("/ws", &[("authorization", authorization)])), "{authorization}");
        }
        let two = [("authorization", "Basic dTpw"), ("authorization", "Bearer a")];
        assert!(is_presented(&client("/ws", &two)), "the second of two headers");
        for uri in ["/sse/a?token=x", "/sse?channel=a&ticket=x", "/ws?access_token=", "/ws?jwt=x"] {
            assert!(is_presented(&client(uri, &[])), "{uri}");
        }
        for (uri, authorization) in [
            ("/sse/a", "Basic dTpw"),
            ("/sse/token?room=token", "apikey k"),
            ("/ws", ""),
            ("/ws", "Negotiate x"),
        ] {
            assert!(
                !is_presented(&client(uri, &[("authorization", authorization)])),
                "{uri} {authorization}"
            );
        }
    }

    proptest! {
        #[test]
        fn any_input_is_classified(value in prop::collection::vec(any::<u8>(), 0..40), query in "\\PC{0,40}") {
            let uri = format!("/sse?{}", form_urlencoded::byte_serialize(query.as_bytes()).collect::<String>());
            let _ = (is_token(&value), presented(&client(&uri, &[])));
        }

        #[test]
        fn a_scheme_is_compared_without_case(scheme in prop::sample::select(OTHER_SCHEMES.to_vec()), upper: bool) {
            let scheme = if upper { scheme.to_uppercase() } else { scheme.to_owned() };
            let value = format!("{scheme} abc");
            prop_assert!(!is_token(value.as_bytes()));
        }
    }
}

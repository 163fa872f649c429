//! Cross-origin pages: `fetch` clients send a preflight (`OPTIONS`) and can read why a request is rejected.

use crate::harness::Gateway;
use crate::harness::http::{Raw, Response};

const CONFIG: &str = "allowed_origins = [\"https://app.example.org\"]\n";
const LISTED: &str = "https://app.example.org";
const OTHER: &str = "https://other.example.org";

/// The CORS headers in this order: origin, credentials, methods, headers, max age, vary.
const CORS: [&str; 6] = [
    "access-control-allow-origin",
    "access-control-allow-credentials",
    "access-control-allow-methods",
    "access-control-allow-headers",
    "access-control-max-age",
    "vary",
];

async fn request(gateway: &Gateway, method: &str, path: &str, origin: Option<&str>) -> Response {
    let mut raw = Raw::connect(gateway.address()).await;
    let origin = origin.map(|origin| format!("Origin: {origin}\r\n")).unwrap_or_default();
    let preflight = match method {
        "OPTIONS" => {
            "Access-Control-Request-Method: GET\r\nAccess-Control-Request-Headers: last-event-id\r\n"
        }
        _ => "",
    };
    raw.send(format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n{origin}{preflight}\r\n")).await;
    raw.head().await.unwrap()
}

fn cors(response: &Response) -> Vec<(&str, &str)> {
    CORS.iter().filter_map(|name| response.header(name).map(|value| (*name, value))).collect()
}

#[tokio::test]
async fn preflight_allows_the_headers_of_sse_clients() {
    let gateway = Gateway::settings().config(CONFIG).start().await;
    for path in ["/sse/a", "/sse?channel=a&channel=b"] {
        let response = request(&gateway, "OPTIONS", path, Some(LISTED)).await;
        assert_eq!(response.status, 204, "{path}: {response:?}");
        assert_eq!(response.header("access-control-allow-origin"), Some(LISTED), "{path}");
        assert_eq!(response.header("access-control-allow-credentials"), Some("true"), "{path}");
        assert_eq!(response.header("access-control-allow-methods"), Some("GET"), "{path}");
        let allowed =
            response.header("access-control-allow-headers").unwrap_or_default().to_ascii_lowercase();
        for name in ["authorization", "last-event-id", "cache-control", "accept", "content-type"] {
            assert!(allowed.split(", ").any(|allowed| allowed == name), "{path}: {name} in {allowed}");
        }
        assert!(
            response.header("access-control-max-age").is_some_and(|age| age.parse::<u32>().is_ok()),
            "{path}"
        );
        assert!(
            response.header("vary").is_some_and(|vary| vary.to_ascii_lowercase().contains("origin")),
            "{path}"
        );
    }
}

#[tokio::test]
async fn unlisted_origin_is_rejected_without_cors_headers() {
    let gateway = Gateway::settings().config(CONFIG).start().await;
    for method in ["OPTIONS", "GET"] {
        let response = request(&gateway, method, "/sse/a", Some(OTHER)).await;
        assert_eq!(
            (response.status, response.header("access-control-allow-origin")),
            (403, None),
            "{method}"
        );
    }
}

#[tokio::test]
async fn listed_origin_can_read_streams_and_errors() {
    let gateway = Gateway::settings().config(CONFIG).start().await;
    for (method, path, status) in
        [("GET", "/sse/a", 200), ("GET", "/sse", 400), ("GET", "/sse/a%07", 400), ("POST", "/sse/a", 405)]
    {
        let response = request(&gateway, method, path, Some(LISTED)).await;
        let what = format!("{method} {path}");
        assert_eq!(response.status, status, "{what}");
        let [origin, credentials, .., vary] = CORS;
        assert_eq!(cors(&response), [(origin, LISTED), (credentials, "true"), (vary, "origin")], "{what}");
    }
    // Requests without an origin or from the same origin get no CORS headers.
    for origin in [None, Some("http://localhost")] {
        let response = request(&gateway, "GET", "/sse/a", origin).await;
        assert_eq!((response.status, cors(&response)), (200, vec![]), "{origin:?}");
    }
}

#[tokio::test]
async fn wildcard_origin_excludes_credentials() {
    let gateway = Gateway::settings().config("allowed_origins = [\"*\"]\n").start().await;
    for (method, status) in [("GET", 200), ("OPTIONS", 204)] {
        let response = request(&gateway, method, "/sse/a", Some(OTHER)).await;
        assert_eq!(response.status, status, "{method}");
        assert_eq!(response.header("access-control-allow-origin"), Some("*"), "{method}");
        assert_eq!(response.header("access-control-allow-credentials"), None, "{method}");
    }
}

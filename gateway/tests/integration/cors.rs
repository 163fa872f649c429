//! Pages of other origins: `fetch` clients ask first (`OPTIONS`), and read why they are refused.

use crate::harness::Gateway;
use crate::harness::http::{Raw, Response};

const CONFIG: &str = "allowed_origins = [\"https://app.example.org\"]\n";
const LISTED: &str = "https://app.example.org";
const OTHER: &str = "https://other.example.org";

/// The headers that decide for a browser, in this order: origin, credentials, methods, headers, age, vary.
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
    let asked = match method {
        "OPTIONS" => {
            "Access-Control-Request-Method: GET\r\nAccess-Control-Request-Headers: last-event-id\r\n"
        }
        _ => "",
    };
    raw.send(format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n{origin}{asked}\r\n")).await;
    raw.head().await.unwrap()
}

fn cors(answer: &Response) -> Vec<(&str, &str)> {
    CORS.iter().filter_map(|name| answer.header(name).map(|value| (*name, value))).collect()
}

#[tokio::test]
async fn a_listed_origin_may_send_what_clients_of_streams_send() {
    let gateway = Gateway::settings().config(CONFIG).start().await;
    for path in ["/sse/a", "/sse?channel=a&channel=b"] {
        let answer = request(&gateway, "OPTIONS", path, Some(LISTED)).await;
        assert_eq!(answer.status, 204, "{path}: {answer:?}");
        assert_eq!(answer.header("access-control-allow-origin"), Some(LISTED), "{path}");
        assert_eq!(answer.header("access-control-allow-credentials"), Some("true"), "{path}");
        assert_eq!(answer.header("access-control-allow-methods"), Some("GET"), "{path}");
        let allowed = answer.header("access-control-allow-headers").unwrap_or_default().to_ascii_lowercase();
        for name in ["authorization", "last-event-id", "cache-control", "accept", "content-type"] {
            assert!(allowed.split(", ").any(|allowed| allowed == name), "{path}: {name} in {allowed}");
        }
        assert!(
            answer.header("access-control-max-age").is_some_and(|age| age.parse::<u32>().is_ok()),
            "{path}"
        );
        assert!(
            answer.header("vary").is_some_and(|vary| vary.to_ascii_lowercase().contains("origin")),
            "{path}"
        );
    }
}

#[tokio::test]
async fn another_origin_is_refused_and_named_nowhere() {
    let gateway = Gateway::settings().config(CONFIG).start().await;
    for method in ["OPTIONS", "GET"] {
        let answer = request(&gateway, method, "/sse/a", Some(OTHER)).await;
        assert_eq!((answer.status, answer.header("access-control-allow-origin")), (403, None), "{method}");
    }
}

#[tokio::test]
async fn streams_and_refusals_of_streams_can_be_read_by_a_listed_origin() {
    let gateway = Gateway::settings().config(CONFIG).start().await;
    for (method, path, status) in
        [("GET", "/sse/a", 200), ("GET", "/sse", 400), ("GET", "/sse/a%07", 400), ("POST", "/sse/a", 405)]
    {
        let answer = request(&gateway, method, path, Some(LISTED)).await;
        let what = format!("{method} {path}");
        assert_eq!(answer.status, status, "{what}");
        let [origin, credentials, .., vary] = CORS;
        assert_eq!(cors(&answer), [(origin, LISTED), (credentials, "true"), (vary, "origin")], "{what}");
    }
    // Whoever comes from nowhere, or from the gateway itself, needs none of it.
    for origin in [None, Some("http://localhost")] {
        let answer = request(&gateway, "GET", "/sse/a", origin).await;
        assert_eq!((answer.status, cors(&answer)), (200, vec![]), "{origin:?}");
    }
}

#[tokio::test]
async fn where_every_origin_is_allowed_no_page_may_use_the_cookies_of_another() {
    let gateway = Gateway::settings().config("allowed_origins = [\"*\"]\n").start().await;
    for (method, status) in [("GET", 200), ("OPTIONS", 204)] {
        let answer = request(&gateway, method, "/sse/a", Some(OTHER)).await;
        assert_eq!(answer.status, status, "{method}");
        assert_eq!(answer.header("access-control-allow-origin"), Some("*"), "{method}");
        assert_eq!(answer.header("access-control-allow-credentials"), None, "{method}");
    }
}

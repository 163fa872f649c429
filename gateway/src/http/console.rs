//! The console: the page at `/` for trying the gateway out. Serves its files from memory.
//!
//! The content security policy allows these files only: no inline script, no inline style, no other origin.

use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self' ws: wss:; \
                      img-src data:; base-uri 'none'; form-action 'self'; frame-ancestors 'none'";
const SCRIPT: &str = "text/javascript; charset=utf-8";

macro_rules! script {
    ($name:literal) => {
        (concat!("/console/", $name), SCRIPT, include_str!(concat!("console/", $name)))
    };
}

/// Path, content type and text of each file.
const FILES: [(&str, &str, &str); 12] = [
    ("/", "text/html; charset=utf-8", include_str!("console/index.html")),
    ("/console/style.css", "text/css; charset=utf-8", include_str!("console/style.css")),
    script!("event_source.js"),
    script!("format.js"),
    script!("health.js"),
    script!("main.js"),
    script!("panel.js"),
    script!("publisher.js"),
    script!("recovery.js"),
    script!("snippets.js"),
    script!("watchdog.js"),
    script!("websocket.js"),
];

/// Handles `GET /` and `GET /console/{file}`.
pub(super) async fn serve(uri: Uri) -> Response {
    match FILES.into_iter().find(|(path, ..)| *path == uri.path()) {
        Some((_, content_type, text)) => file(content_type, text),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

fn file(content_type: &'static str, text: &'static str) -> Response {
    let headers = [
        (header::CONTENT_TYPE, content_type),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        // The page belongs to this version of the gateway.
        (header::CACHE_CONTROL, "no-store"),
    ];
    (headers, text).into_response()
}

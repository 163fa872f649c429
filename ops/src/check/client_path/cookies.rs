//! Checks large cookies, and cookies that a proxy sets.
//!
//! Must never show the value of a cookie.

use super::super::report::Finding;
use super::http_client::HttpClient;
use super::stream::path;
use earshot_client::http::HttpResponse;

/// Minimum size that browsers support per cookie (RFC 6265, 6.1).
const COOKIE_BYTES: usize = 4096;

/// Requests a stream with the largest cookie that a browser may send.
pub(super) async fn inspect(client: &HttpClient, channel: &str, origin: Option<&str>) -> Vec<Finding> {
    let cookie = format!("earshot-check={}", "x".repeat(COOKIE_BYTES));
    let mut headers = vec![("cookie", cookie.as_str()), ("accept", "text/event-stream")];
    headers.extend(origin.map(|origin| ("origin", origin)));
    match client.fetch(&path(channel), &headers).await {
        // The stream check reports this failure.
        Err(_) => Vec::new(),
        Ok(answer) if matches!(answer.status, 400 | 413 | 431 | 494) => vec![
            Finding::warning("cookies", format!("a request with {COOKIE_BYTES} bytes of cookies is rejected ({})", answer.status))
                .cause("the request header is too large for a proxy (nginx: large_client_header_buffers) or the gateway (request_header_bytes)")
                .fix("raise the smaller of the two; pages with many cookies cannot open a stream"),
        ],
        Ok(answer) => vec![proxy_cookies(&answer)],
    }
}

fn proxy_cookies(answer: &HttpResponse) -> Finding {
    let set = answer.headers.get_all("set-cookie").iter().filter_map(|value| value.to_str().ok());
    let set: Vec<String> = set.map(described).collect();
    if set.is_empty() {
        return Finding::ok(
            "cookies",
            format!("{COOKIE_BYTES} bytes of cookies pass; no cookie is set by a proxy"),
        );
    }
    let message = format!("{COOKIE_BYTES} bytes of cookies pass; set by a proxy: {}", set.join(", "));
    Finding::ok(
        "cookies",
        format!("{message}. pages of another site send it only with SameSite=None and Secure"),
    )
}

/// Name and relevant attributes of a cookie, without its value.
fn described(cookie: &str) -> String {
    let mut parts = cookie.split(';').map(str::trim);
    let name = parts.next().and_then(|pair| pair.split('=').next()).unwrap_or_default();
    let kept = parts.filter(|part| {
        let part = part.to_ascii_lowercase();
        part == "secure" || part == "httponly" || part.starts_with("samesite=")
    });
    std::iter::once(name).chain(kept).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_cookie_value_is_shown() {
        let shown = described("AWSALB=s3cret; Path=/; SameSite=None; Secure; Expires=Thu");
        assert_eq!(shown, "AWSALB SameSite=None Secure");
    }
}

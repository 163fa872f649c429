//! Cookies: whether large ones get through, and which the way itself sets.
//!
//! Must never show the value of a cookie.

use super::super::report::Finding;
use super::stream::path;
use super::way::{Answer, Way};

/// What browsers hold for a site at the least (RFC 6265, 6.1).
const COOKIE_BYTES: usize = 4096;

/// Asks for a stream with as large a cookie as a browser may send.
pub(super) async fn inspect(way: &Way, channel: &str, origin: Option<&str>) -> Vec<Finding> {
    let cookie = format!("earshot-check={}", "x".repeat(COOKIE_BYTES));
    let mut headers = vec![("cookie", cookie.as_str()), ("accept", "text/event-stream")];
    headers.extend(origin.map(|origin| ("origin", origin)));
    match way.fetch(&path(channel), &headers).await {
        // That no stream begins is told where streams are looked at.
        Err(_) => Vec::new(),
        Ok(answer) if matches!(answer.status, 400 | 413 | 431 | 494) => vec![
            Finding::warning("cookies", format!("a request with {COOKIE_BYTES} bytes of cookies is refused ({})", answer.status))
                .because("the head is too large for a proxy (nginx: large_client_header_buffers) or the gateway (head_bytes)")
                .advise("raise the smaller of the two; pages with many cookies cannot open a stream"),
        ],
        Ok(answer) => vec![set_by_the_way(&answer)],
    }
}

fn set_by_the_way(answer: &Answer) -> Finding {
    let set = answer.headers.get_all("set-cookie").iter().filter_map(|value| value.to_str().ok());
    let set: Vec<String> = set.map(described).collect();
    if set.is_empty() {
        return Finding::ok(
            "cookies",
            format!("{COOKIE_BYTES} bytes of cookies get through; none is set on the way"),
        );
    }
    let said = format!("{COOKIE_BYTES} bytes of cookies get through; set on the way: {}", set.join(", "));
    Finding::ok(
        "cookies",
        format!("{said}. A page of another site sends it back only with SameSite=None and Secure"),
    )
}

/// A cookie's name and what browsers make of it, without its value.
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
    fn no_value_is_shown() {
        let shown = described("AWSALB=s3cret; Path=/; SameSite=None; Secure; Expires=Thu");
        assert_eq!(shown, "AWSALB SameSite=None Secure");
    }
}

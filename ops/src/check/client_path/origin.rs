//! Checks CORS: pages of the gateway's own host, of the given origin, and of other origins.

use super::super::report::Finding;
use super::GatewayTarget;
use super::http_client::HttpClient;
use super::stream::path;
use earshot_client::http::HttpResponse;

/// An origin that does not exist.
const FOREIGN: &str = "https://earshot-check.invalid";

/// Findings, and the origin for further checks; `None` if it is rejected.
pub(super) struct OriginCheck {
    pub(super) findings: Vec<Finding>,
    pub(super) allowed: Option<String>,
}

/// Sends requests with three different origins.
pub(super) async fn inspect(target: &GatewayTarget, client: &HttpClient, channel: &str) -> OriginCheck {
    let own = target.own_origin();
    let origin = target.origin.clone().unwrap_or_else(|| own.clone());
    let mut check = OriginCheck { findings: Vec::new(), allowed: None };
    // The stream check reports other failures.
    let open =
        |status| OriginCheck { findings: Vec::new(), allowed: (status != 403).then(|| origin.clone()) };
    let Ok(answer) = request(client, channel, Some(&origin)).await else { return open(0) };
    match answer.status {
        200 => {
            check.findings.push(if origin == own {
                same_origin_allowed(&origin)
            } else {
                cross_origin_allowed(&origin, &answer)
            });
            check.allowed = Some(origin);
        }
        403 if request(client, channel, None).await.is_ok_and(|answer| answer.status == 200) => {
            check.findings.push(rejected(&origin, origin == own));
        }
        status => return open(status),
    }
    if let Ok(answer) = request(client, channel, Some(FOREIGN)).await {
        check.findings.push(other_origins(&answer));
    }
    check
}

async fn request(client: &HttpClient, channel: &str, origin: Option<&str>) -> Result<HttpResponse, String> {
    let mut headers = vec![("accept", "text/event-stream")];
    headers.extend(origin.map(|origin| ("origin", origin)));
    client.fetch(&path(channel), &headers).await
}

fn same_origin_allowed(origin: &str) -> Finding {
    Finding::ok("origin", format!("pages of {origin} are allowed"))
}

fn rejected(origin: &str, is_unique: bool) -> Finding {
    let finding = Finding::failed("origin", format!("pages of {origin} are rejected (403)"));
    if is_unique {
        return finding
            .cause("the proxy changes the Host header, so the gateway treats its own pages as cross-origin")
            .fix(format!("nginx: `proxy_set_header Host $http_host`; or add {origin} to allowed_origins"));
    }
    finding.cause("it is not in allowed_origins").fix(format!("allowed_origins = [\"{origin}\"]"))
}

/// A cross-origin response must name the origin exactly once.
fn cross_origin_allowed(origin: &str, answer: &HttpResponse) -> Finding {
    let named: Vec<_> = answer
        .headers
        .get_all("access-control-allow-origin")
        .iter()
        .filter_map(|value| value.to_str().ok())
        .collect();
    let with_cookies = answer.header("access-control-allow-credentials") == Some("true");
    match named[..] {
        [one] if one == origin && with_cookies => {
            Finding::ok("origin", format!("pages of {origin} are allowed, with cookies (withCredentials)"))
        }
        [one] if one == origin || one == "*" => {
            Finding::warning("origin", format!("pages of {origin} are allowed, but not with cookies: Access-Control-Allow-Origin is {one}, and Access-Control-Allow-Credentials is missing or not `true`"))
                .cause("a proxy replaces the gateway's CORS headers")
                .fix("forward the gateway's Access-Control-* headers unchanged")
        }
        [] => Finding::failed("origin", format!("browsers block the stream for pages of {origin}: Access-Control-Allow-Origin is missing"))
            .cause("a proxy removes it, or changes the Origin header")
            .fix("forward Origin and Access-Control-* unchanged"),
        _ => Finding::failed("origin", format!("browsers block the stream for pages of {origin}: Access-Control-Allow-Origin is {}", named.join(" and ")))
            .cause("the proxy adds CORS headers to those of the gateway")
            .fix("remove them from the proxy; the gateway sends them for each origin in allowed_origins"),
    }
}

fn other_origins(answer: &HttpResponse) -> Finding {
    if answer.status == 403 {
        return Finding::ok("origin", "pages of other origins are rejected");
    }
    Finding::warning("origin", format!("pages of any origin are allowed (status {})", answer.status))
        .cause("allowed_origins contains \"*\", or the proxy removes Origin")
        .fix("list the origins of your pages in allowed_origins, unless the channels are public")
}

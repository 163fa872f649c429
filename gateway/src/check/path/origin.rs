//! What pages may do: those of the gateway's own host, those of the origin that was named, and foreign ones.

use super::super::report::Finding;
use super::Target;
use super::stream::path;
use super::way::{Answer, Way};

/// An origin that nobody has.
const FOREIGN: &str = "https://earshot-check.invalid";

/// What was found, and the origin to go on with: `None` when the right one is refused.
pub(super) struct Judged {
    pub(super) findings: Vec<Finding>,
    pub(super) allowed: Option<String>,
}

/// Asks as pages of three origins would.
pub(super) async fn inspect(target: &Target, way: &Way, channel: &str) -> Judged {
    let own = target.own_origin();
    let origin = target.origin.clone().unwrap_or_else(|| own.clone());
    let mut judged = Judged { findings: Vec::new(), allowed: None };
    // That no stream begins, whoever asks, is told where streams are looked at.
    let open = |status| Judged { findings: Vec::new(), allowed: (status != 403).then(|| origin.clone()) };
    let Ok(answer) = ask(way, channel, Some(&origin)).await else { return open(0) };
    match answer.status {
        200 => {
            judged.findings.push(if origin == own { at_home(&origin) } else { abroad(&origin, &answer) });
            judged.allowed = Some(origin);
        }
        403 if ask(way, channel, None).await.is_ok_and(|answer| answer.status == 200) => {
            judged.findings.push(refused(&origin, origin == own));
        }
        status => return open(status),
    }
    if let Ok(answer) = ask(way, channel, Some(FOREIGN)).await {
        judged.findings.push(foreign(&answer));
    }
    judged
}

async fn ask(way: &Way, channel: &str, origin: Option<&str>) -> Result<Answer, String> {
    let mut headers = vec![("accept", "text/event-stream")];
    headers.extend(origin.map(|origin| ("origin", origin)));
    way.fetch(&path(channel), &headers).await
}

fn at_home(origin: &str) -> Finding {
    Finding::ok("origin", format!("pages of {origin} may come"))
}

fn refused(origin: &str, is_own: bool) -> Finding {
    let finding = Finding::failed("origin", format!("pages of {origin} are refused (403)"));
    if is_own {
        return finding
            .because("the proxy passes on another Host than the browser asked for, so the gateway takes its own pages for foreign ones")
            .advise(format!("nginx: `proxy_set_header Host $http_host`; or add {origin} to allowed_origins"));
    }
    finding.because("it is not in allowed_origins").advise(format!("allowed_origins = [\"{origin}\"]"))
}

/// A page of another origin: the browser wants to be told that it may look, once, and by that name.
fn abroad(origin: &str, answer: &Answer) -> Finding {
    let named: Vec<_> = answer
        .headers
        .get_all("access-control-allow-origin")
        .iter()
        .filter_map(|value| value.to_str().ok())
        .collect();
    let with_cookies = answer.header("access-control-allow-credentials") == Some("true");
    match named[..] {
        [one] if one == origin && with_cookies => {
            Finding::ok("origin", format!("pages of {origin} may come, with cookies (withCredentials)"))
        }
        [one] if one == origin || one == "*" => {
            Finding::warning("origin", format!("pages of {origin} may come, but not with cookies: Access-Control-Allow-Origin is {one}, and Access-Control-Allow-Credentials is missing or useless"))
                .because("a proxy replaces the gateway's CORS headers")
                .advise("pass the gateway's Access-Control-* headers on as they are")
        }
        [] => Finding::failed("origin", format!("a browser does not show the stream to pages of {origin}: Access-Control-Allow-Origin is missing"))
            .because("a proxy takes it off, or changes Origin on the way to the gateway")
            .advise("pass Origin and Access-Control-* on as they are"),
        _ => Finding::failed("origin", format!("a browser does not show the stream to pages of {origin}: Access-Control-Allow-Origin is {}", named.join(" and ")))
            .because("the proxy adds CORS headers of its own to the gateway's")
            .advise("take the proxy's out; the gateway names each origin in allowed_origins"),
    }
}

fn foreign(answer: &Answer) -> Finding {
    if answer.status == 403 {
        return Finding::ok("origin", "pages of foreign origins are refused");
    }
    Finding::warning("origin", format!("pages of any origin may come (status {})", answer.status))
        .because("allowed_origins has \"*\", or the proxy takes Origin off")
        .advise("name the origins of your pages in allowed_origins, unless the channels are public")
}

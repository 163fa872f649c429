//! Checks a deployed gateway from a client's side, through the proxies and load balancers in front of it.
//!
//! Owns the order of the checks. Must never publish on a channel that others may have subscribed to.
//!
//! - `http_client`: connections and requests, like those of a browser.
//! - `health`: which server responds, and over which HTTP version.
//! - `stream`: SSE: first byte, headers, compression.
//! - `origin`, `cookies`: CORS and cookies.
//! - `websocket`: upgrade, connect, ping.
//! - `delivery`: a publication arrives.
//! - `idle`: idle timeouts.

use std::time::Duration;

use self::http_client::HttpClient;
use super::endpoint::TcpEndpoint;
use super::report::{Finding, ReportSection};
use super::{network, test_names};
use earshot_client::Tasks;
use earshot_redis_link::TlsConfig;

mod cookies;
mod delivery;
mod health;
mod http_client;
mod idle;
mod origin;
mod stream;
mod websocket;

/// The gateway to check.
#[derive(Clone, Debug)]
pub struct GatewayTarget {
    /// `http` or `https`, host and port.
    endpoint: TcpEndpoint,
    /// Path prefix of every route, without a trailing slash.
    prefix: String,
    /// Origin of the page; `None` for the gateway's own host.
    pub origin: Option<String>,
    /// Channel to subscribe to, or a glob; `None` for any.
    pub channel: Option<String>,
    /// Duration of the idle test.
    pub idle: Duration,
    /// TLS trust settings.
    pub tls: TlsConfig,
}

impl GatewayTarget {
    /// Parses `http(s)://host[:port][/prefix]`.
    ///
    /// # Errors
    /// What is invalid.
    pub fn parse(url: &str) -> Result<Self, String> {
        let wrong = || "expected http(s)://host[:port][/prefix]".to_owned();
        let (scheme, rest) = url.split_once("://").ok_or_else(wrong)?;
        let (authority, prefix) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        if authority.contains('@') {
            return Err("the URL must not contain a user or password; remove them".to_owned());
        }
        let is_plain = |byte: u8| byte.is_ascii_graphic() && !b"?#\"<>\\^`{|}".contains(&byte);
        if !rest.bytes().all(is_plain) {
            return Err(wrong());
        }
        let endpoint = TcpEndpoint::read(&format!("{scheme}://{authority}"));
        Ok(Self {
            endpoint: endpoint.ok_or_else(wrong)?,
            prefix: prefix.trim_end_matches('/').to_owned(),
            origin: None,
            channel: None,
            idle: Duration::ZERO,
            tls: TlsConfig::default(),
        })
    }

    /// Origin of pages served by the gateway's own host.
    fn own_origin(&self) -> String {
        format!("{}://{}", if self.endpoint.tls { "https" } else { "http" }, self.authority())
    }

    /// Host and port as browsers write them.
    fn authority(&self) -> String {
        let TcpEndpoint { host, port, tls } = &self.endpoint;
        let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
        if *port == if *tls { 443 } else { 80 } { host } else { format!("{host}:{port}") }
    }

    fn url(&self) -> String {
        format!("{}{}", self.own_origin(), self.prefix)
    }
}

/// Runs all checks; each step takes at most `limit`, except the idle test.
pub async fn inspect(target: &GatewayTarget, limit: Duration) -> ReportSection {
    let mut section = ReportSection::new("path", "gateway", target.url());
    let tasks = Tasks::default();
    if let Some(client) = Box::pin(connect(target, &tasks, &mut section, limit)).await {
        Box::pin(inspect_routes(target, &client, &mut section)).await;
    }
    tasks.stop().await;
    section
}

/// DNS, TCP and TLS.
async fn connect(
    target: &GatewayTarget,
    tasks: &Tasks,
    section: &mut ReportSection,
    limit: Duration,
) -> Option<HttpClient> {
    let (finding, addresses) = network::resolve(&target.endpoint, limit).await;
    section.add(finding);
    let (findings, reached) = network::connect(&addresses, limit).await;
    section.findings.extend(findings);
    match HttpClient::new(target, *reached.first()?, tasks.clone(), limit) {
        Ok(client) => {
            let findings = client.inspect_tls().await;
            let is_open =
                findings.iter().all(|finding| finding.check != "tls" || finding.level < super::Level::Failed);
            section.findings.extend(findings);
            is_open.then_some(client)
        }
        Err(why) => {
            section.add(Finding::failed("tls", why).cause("the file given by --ca-file"));
            None
        }
    }
}

async fn inspect_routes(target: &GatewayTarget, client: &HttpClient, section: &mut ReportSection) {
    let (findings, is_there) = health::inspect(client).await;
    section.findings.extend(findings);
    if !is_there {
        section.add(Finding::skipped("rest", "skipped: no gateway responded"));
        return;
    }
    let channel = target.channel.as_deref().unwrap_or("*");
    let sample = test_names::TestName::of(channel);
    let origin = origin::inspect(target, client, &sample.name).await;
    section.findings.extend(origin.findings);
    // Even if the origin is rejected, the other checks are useful.
    let origin = origin.allowed;
    let opened = stream::inspect(client, &sample.name, origin.as_deref()).await;
    section.findings.extend(opened.findings);
    let (findings, socket) = websocket::inspect(client, origin.as_deref()).await;
    section.findings.extend(findings);
    section.findings.extend(cookies::inspect(client, &sample.name, origin.as_deref()).await);
    let (mut stream, mut socket) = (opened.stream, socket);
    section.add(delivery::inspect(&sample, stream.as_mut(), socket.as_mut(), client.limit).await);
    section.findings.extend(Box::pin(idle::inspect(stream, socket, target.idle)).await);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_parsed_with_their_prefix() {
        for (url, shown) in [
            ("http://localhost:8000", "http://localhost:8000"),
            ("http://h:80/", "http://h"),
            ("https://live.example.com/push/", "https://live.example.com/push"),
            ("https://[::1]:8443", "https://[::1]:8443"),
        ] {
            assert_eq!(GatewayTarget::parse(url).unwrap().url(), shown, "{url}");
        }
        for wrong in
            ["localhost:8000", "ftp://h", "http://", "http://u:hunter2@h", "http://h/?a", "http://h:x"]
        {
            let why = GatewayTarget::parse(wrong).unwrap_err();
            assert!(!why.contains("hunter2"), "{why}");
        }
    }
}

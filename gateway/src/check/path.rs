//! A deployed gateway, seen from where its clients are: through every proxy and balancer that stands before it.
//!
//! Owns the order, and what a client of either transport would suffer. Must never publish on a channel that somebody
//! else may hear.
//!
//! - `way`: connections and requests, as a browser makes them.
//! - `events`: the event stream, read.
//! - `arrival`: who answers, and over which HTTP.
//! - `stream`: SSE: the first byte, headers, compression.
//! - `origin`, `cookies`: what a page of another origin, and one with cookies, may do.
//! - `websocket`: upgrade, connect, ping.
//! - `delivery`: something published is heard.
//! - `idle`: how long silence is borne.

use std::time::Duration;

use self::way::Way;
use super::endpoint::Endpoint;
use super::report::{Finding, Section};
use super::{network, sample};
use crate::drain::Drain;
use crate::instance::TlsSettings;

mod arrival;
mod cookies;
mod delivery;
mod events;
mod idle;
mod origin;
mod stream;
mod way;
mod websocket;

/// The way to look at.
#[derive(Clone, Debug)]
pub struct Target {
    /// `http` or `https`, host and port.
    endpoint: Endpoint,
    /// What stands before every route; no slash at its end.
    prefix: String,
    /// The page that clients come from; `None`: the gateway's own host.
    pub origin: Option<String>,
    /// The channel to subscribe to, or a glob that it fits; `None`: any.
    pub channel: Option<String>,
    /// How long to stay silent.
    pub idle: Duration,
    /// Whom to trust.
    pub tls: TlsSettings,
}

impl Target {
    /// Reads `http(s)://host[:port][/prefix]`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(url: &str) -> Result<Self, String> {
        let wrong = || "expected http(s)://host[:port][/prefix]".to_owned();
        let (scheme, rest) = url.split_once("://").ok_or_else(wrong)?;
        let (authority, prefix) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        if authority.contains('@') {
            return Err("a URL with user and password is not sent: leave them out".to_owned());
        }
        let is_plain = |byte: u8| byte.is_ascii_graphic() && !b"?#\"<>\\^`{|}".contains(&byte);
        if !rest.bytes().all(is_plain) {
            return Err(wrong());
        }
        let endpoint = Endpoint::read(&format!("{scheme}://{authority}"));
        Ok(Self {
            endpoint: endpoint.ok_or_else(wrong)?,
            prefix: prefix.trim_end_matches('/').to_owned(),
            origin: None,
            channel: None,
            idle: Duration::ZERO,
            tls: TlsSettings::default(),
        })
    }

    /// The origin of pages that the gateway's own host would serve.
    fn own_origin(&self) -> String {
        format!("{}://{}", if self.endpoint.tls { "https" } else { "http" }, self.authority())
    }

    /// Host and port, as a browser writes them.
    fn authority(&self) -> String {
        let Endpoint { host, port, tls } = &self.endpoint;
        let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
        if *port == if *tls { 443 } else { 80 } { host } else { format!("{host}:{port}") }
    }

    fn url(&self) -> String {
        format!("{}{}", self.own_origin(), self.prefix)
    }
}

/// Looks at everything, as far as it goes; each step takes at most `limit`, silence apart.
pub async fn inspect(target: &Target, limit: Duration) -> Section {
    let mut section = Section::new("path", "gateway", target.url());
    let drain = Drain::default();
    if let Some(way) = Box::pin(reach(target, &drain, &mut section, limit)).await {
        Box::pin(walk(target, &way, &mut section)).await;
    }
    drain.stop().await;
    section
}

/// Name, TCP and TLS.
async fn reach(target: &Target, drain: &Drain, section: &mut Section, limit: Duration) -> Option<Way> {
    let (finding, addresses) = network::resolve(&target.endpoint, limit).await;
    section.add(finding);
    let (findings, reached) = network::connect(&addresses, limit).await;
    section.findings.extend(findings);
    match Way::new(target, *reached.first()?, drain.clone(), limit) {
        Ok(way) => {
            let findings = way.inspect_tls().await;
            let is_open =
                findings.iter().all(|finding| finding.check != "tls" || finding.level < super::Level::Failed);
            section.findings.extend(findings);
            is_open.then_some(way)
        }
        Err(why) => {
            section.add(Finding::failed("tls", why).because("the file given by --ca-file"));
            None
        }
    }
}

async fn walk(target: &Target, way: &Way, section: &mut Section) {
    let (findings, is_there) = arrival::inspect(way).await;
    section.findings.extend(findings);
    if !is_there {
        section.add(Finding::skipped("rest", "not looked at: no gateway answers"));
        return;
    }
    let channel = target.channel.as_deref().unwrap_or("*");
    let sample = sample::Sample::of(channel);
    let origin = origin::inspect(target, way, &sample.name).await;
    section.findings.extend(origin.findings);
    // Whoever's origin is refused still wants to know the rest.
    let origin = origin.allowed;
    let opened = stream::inspect(way, &sample.name, origin.as_deref()).await;
    section.findings.extend(opened.findings);
    let (findings, socket) = websocket::inspect(way, origin.as_deref()).await;
    section.findings.extend(findings);
    section.findings.extend(cookies::inspect(way, &sample.name, origin.as_deref()).await);
    let (mut stream, mut socket) = (opened.stream, socket);
    section.add(delivery::inspect(&sample, stream.as_mut(), socket.as_mut(), way.limit).await);
    section.findings.extend(idle::inspect(stream, socket, target.idle).await);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read_with_their_prefix() {
        for (url, shown) in [
            ("http://localhost:8000", "http://localhost:8000"),
            ("http://h:80/", "http://h"),
            ("https://live.example.com/push/", "https://live.example.com/push"),
            ("https://[::1]:8443", "https://[::1]:8443"),
        ] {
            assert_eq!(Target::parse(url).unwrap().url(), shown, "{url}");
        }
        for wrong in
            ["localhost:8000", "ftp://h", "http://", "http://u:hunter2@h", "http://h/?a", "http://h:x"]
        {
            let why = Target::parse(wrong).unwrap_err();
            assert!(!why.contains("hunter2"), "{why}");
        }
    }
}

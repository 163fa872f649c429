//! Sends the requests of hooks.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use earshot_protocol::ChannelName;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use super::breaker::Breaker;
use super::error::HookError;
use super::lock;
use super::metrics::HookMetrics;
use super::pool::Pool;
use super::protocol::{self, Answer, ChannelsAnswer, Envelope, LoginAnswer, PayloadAnswer};
use super::question::{ChannelQuestion, HookReply, HookedClient};
use super::settings::{HookEvent, HookSettings};
use crate::auth::identity::LoginResult;
use crate::auth::{LogRateLimit, unix_now};
use crate::http_client::HttpUrl;

/// The signature of a request: `t=<unix time>,v1=<HMAC-SHA256 of "<unix time>.<body>", hexadecimal>`.
const SIGNATURE_HEADER: HeaderName = HeaderName::from_static("x-earshot-signature");

const USER_AGENT: &str = concat!("earshot/", env!("CARGO_PKG_VERSION"));

/// Sends the requests of all hooks.
#[derive(Debug)]
pub(super) struct HookClient {
    settings: HookSettings,
    pool: Pool,
    breakers: [Mutex<Breaker>; HookEvent::ALL.len()],
    /// Limits the warnings of each event.
    warnings: [Mutex<LogRateLimit>; HookEvent::ALL.len()],
    metrics: HookMetrics,
}

impl HookClient {
    pub(super) fn new(settings: HookSettings, tls: Arc<rustls::ClientConfig>) -> Self {
        let limits = &settings.limits;
        let breaker =
            || Mutex::new(Breaker::new(limits.breaker_failures, limits.breaker_pause, Instant::now()));
        Self {
            pool: Pool::new(limits.connections, tls),
            breakers: HookEvent::ALL.map(|_| breaker()),
            warnings: HookEvent::ALL.map(|_| Mutex::default()),
            metrics: HookMetrics::default(),
            settings,
        }
    }

    pub(super) fn settings(&self) -> &HookSettings {
        &self.settings
    }

    pub(super) fn metrics(&self) -> &HookMetrics {
        &self.metrics
    }

    /// Who a client is.
    pub(super) async fn connect(&self, client: &HookedClient, token: &str) -> HookReply<LoginResult> {
        let body = protocol::connect_body(client, token);
        self.call::<LoginAnswer>(HookEvent::Connect, client, body).await
    }

    /// The reply for each channel, in order.
    pub(super) async fn subscribe(
        &self,
        client: &HookedClient,
        channels: &[ChannelQuestion],
    ) -> Vec<HookReply<()>> {
        let body = protocol::subscribe_body(client, channels);
        match self.call::<ChannelsAnswer>(HookEvent::Subscribe, client, body).await {
            HookReply::Result(result) => protocol::channel_replies(&result, channels),
            HookReply::Denied => vec![HookReply::Denied; channels.len()],
            HookReply::Failed(failure) => vec![HookReply::Failed(failure); channels.len()],
            HookReply::Disconnect(disconnect) => vec![HookReply::Disconnect(disconnect); channels.len()],
            HookReply::Unavailable => vec![HookReply::Unavailable; channels.len()],
        }
    }

    /// The replacement for the client's payload, if any.
    pub(super) async fn publish(
        &self,
        client: &HookedClient,
        channel: &ChannelName,
        data: &Bytes,
    ) -> HookReply<Option<Bytes>> {
        let body = protocol::publish_body(client, channel, data);
        self.call::<PayloadAnswer>(HookEvent::Publish, client, body).await
    }

    /// The result of a method.
    pub(super) async fn rpc(&self, client: &HookedClient, method: &str, data: &Bytes) -> HookReply<Bytes> {
        let body = protocol::rpc_body(client, method, data);
        match self.call::<PayloadAnswer>(HookEvent::Rpc, client, body).await {
            HookReply::Result(data) => HookReply::Result(data.unwrap_or_default()),
            HookReply::Denied => HookReply::Denied,
            HookReply::Failed(failure) => HookReply::Failed(failure),
            HookReply::Disconnect(disconnect) => HookReply::Disconnect(disconnect),
            HookReply::Unavailable => HookReply::Unavailable,
        }
    }

    /// Sends a request and reads the answer. A failure is logged and counted.
    async fn call<A: Answer>(
        &self,
        event: HookEvent,
        client: &HookedClient,
        body: String,
    ) -> HookReply<A::Result>
    where
        Envelope<A::Wire>: DeserializeOwned,
    {
        let started = Instant::now();
        let answered = self.attempts::<A>(event, client, body).await;
        let label = match &answered {
            Ok(HookReply::Failed(_)) => "error",
            Ok(HookReply::Disconnect(_)) => "disconnect",
            Ok(_) => "result",
            Err(error) => error.label(),
        };
        self.metrics.count(event, label, started.elapsed());
        answered.unwrap_or_else(|error| {
            self.warn(event, &error);
            HookReply::Unavailable
        })
    }

    async fn attempts<A: Answer>(
        &self,
        event: HookEvent,
        client: &HookedClient,
        body: String,
    ) -> Result<HookReply<A::Result>, HookError>
    where
        Envelope<A::Wire>: DeserializeOwned,
    {
        let url = self.settings.urls.of(event).ok_or(HookError::NotConfigured)?;
        let headers = self.headers(client, &body);
        let body = Bytes::from(body);
        let attempt = || async {
            if !lock(&self.breakers[event as usize]).permits(Instant::now()) {
                return Err(HookError::BreakerOpen);
            }
            let answered = self.attempt::<A>(url, client, headers.clone(), body.clone()).await;
            self.record(event, answered.as_ref().err());
            answered
        };
        match attempt().await {
            Err(error) if error.is_retryable() && event.is_idempotent() => {
                tracing::debug!(hook = event.as_str(), %error, "hook failed; asked again");
                attempt().await
            }
            answered => answered,
        }
    }

    async fn attempt<A: Answer>(
        &self,
        url: &HttpUrl,
        client: &HookedClient,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<HookReply<A::Result>, HookError>
    where
        Envelope<A::Wire>: DeserializeOwned,
    {
        let limits = &self.settings.limits;
        let response = self.pool.post(url, headers, body, limits.response_bytes, limits.timeout).await?;
        if response.status != hyper::StatusCode::OK {
            return Err(HookError::Status(response.status.as_u16()));
        }
        protocol::read::<A>(&response.body, client.is_binary).map_err(HookError::Answer)
    }

    /// The header fields of a request.
    fn headers(&self, client: &HookedClient, body: &str) -> HeaderMap {
        let mut headers = client.forwarded.clone();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        headers.insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
        headers.remove(SIGNATURE_HEADER);
        if let Some(signer) = &self.settings.signer {
            let time = unix_now();
            let code = signer.sign(&format!("{time}.{body}"));
            let code: String = code.iter().map(|byte| format!("{byte:02x}")).collect();
            if let Ok(value) = HeaderValue::try_from(format!("t={time},v1={code}")) {
                headers.insert(SIGNATURE_HEADER, value);
            }
        }
        headers
    }

    /// Passes the result of an attempt on to the breaker.
    fn record(&self, event: HookEvent, error: Option<&HookError>) {
        let (hook, mut breaker) = (event.as_str(), lock(&self.breakers[event as usize]));
        match error {
            None if breaker.succeeded() => tracing::info!(hook, "hook answers again"),
            None => {}
            Some(error) if error.is_failure() && breaker.failed(Instant::now()) => {
                let pause: Duration = self.settings.limits.breaker_pause;
                tracing::warn!(hook, %error, ?pause, "hook failed several times and is not asked for a while");
            }
            Some(_) => {}
        }
        self.metrics.set_breaker(event, breaker.state());
    }

    fn warn(&self, event: HookEvent, error: &HookError) {
        let hook = event.as_str();
        match lock(&self.warnings[event as usize]).count(Instant::now()) {
            Some(failed) => tracing::warn!(hook, failed, %error, "hook gives no valid answer"),
            None => tracing::debug!(hook, %error, "hook gives no valid answer"),
        }
    }
}

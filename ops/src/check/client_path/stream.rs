//! Checks SSE: whether the first byte arrives without delay, and whether the response is unmodified.

use std::collections::VecDeque;
use std::time::Duration;

use earshot_client::http::HttpResponse;
use earshot_client::sse::SseParser;
use tokio::time::Instant;

use super::super::network::{micros, millis};
use super::super::report::Finding;
use super::http_client::HttpClient;

/// The first event follows the response head as soon as Redis has confirmed the channel; a proxy must not delay it.
const BUFFERS: &str = "a proxy buffers the stream";
const UNBUFFER: &str = "nginx: `proxy_buffering off`, and no `proxy_ignore_headers X-Accel-Buffering`; elsewhere: disable response buffering for /sse";

/// Findings, and the stream if it is usable.
pub(super) struct OpenedStream {
    pub(super) findings: Vec<Finding>,
    pub(super) stream: Option<CheckedStream>,
}

/// An event; the name is `message` without one.
#[derive(Debug)]
pub(super) struct StreamEvent {
    pub(super) name: String,
    pub(super) data: String,
}

/// An open stream.
pub(super) struct CheckedStream {
    response: HttpResponse,
    parser: SseParser,
    ready: VecDeque<StreamEvent>,
}

/// Next item of a stream.
#[derive(Debug)]
pub(super) enum Next {
    /// An event.
    StreamEvent(StreamEvent),
    /// Only comments, or part of an event.
    Comment,
    /// The end, with the error if there is one.
    End(Option<String>),
}

impl CheckedStream {
    fn new(response: HttpResponse) -> Self {
        Self { response, parser: SseParser::default(), ready: VecDeque::new() }
    }

    /// Reads the next item.
    pub(super) async fn next(&mut self) -> Next {
        if let Some(event) = self.ready.pop_front() {
            return Next::StreamEvent(event);
        }
        match self.response.chunk().await {
            None => Next::End(None),
            Some(Err(why)) => Next::End(Some(why)),
            Some(Ok(bytes)) => {
                let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                self.parser.feed(&bytes, |event| {
                    let name = if event.name.is_empty() { "message".to_owned() } else { text(event.name) };
                    self.ready.push_back(StreamEvent { name, data: text(event.data) });
                });
                self.ready.pop_front().map_or(Next::Comment, Next::StreamEvent)
            }
        }
    }

    /// Number of heartbeats so far.
    pub(super) fn heartbeats(&self) -> u64 {
        self.parser.comments()
    }
}

/// Path of a channel's stream.
pub(super) fn path(channel: &str) -> String {
    format!("/sse/{}", percent_encoding::utf8_percent_encode(channel, percent_encoding::NON_ALPHANUMERIC))
}

/// Opens a stream like a browser and checks the response. A compressed stream cannot be parsed here, so the remaining
/// checks use an uncompressed one.
pub(super) async fn inspect(client: &HttpClient, channel: &str, origin: Option<&str>) -> OpenedStream {
    let mut headers = vec![("accept", "text/event-stream"), ("cache-control", "no-cache")];
    headers.extend(origin.map(|origin| ("origin", origin)));
    let path = path(channel);
    let packed = match client.fetch(&path, &headers).await {
        Ok(mut answer) => match compressed(&mut answer, client.limit).await {
            Some(finding) => finding,
            None => return evaluate(answer, channel, client.limit).await,
        },
        Err(why) => packed("does not start", &why),
    };
    headers.push(("accept-encoding", "identity"));
    match client.fetch(&path, &headers).await {
        Ok(answer) => {
            let mut opened = evaluate(answer, channel, client.limit).await;
            opened.findings.push(packed);
            opened
        }
        Err(why) => OpenedStream { findings: vec![no_head(&why)], stream: None },
    }
}

async fn evaluate(answer: HttpResponse, channel: &str, limit: Duration) -> OpenedStream {
    if let Some(finding) = rejected(&answer, channel) {
        return OpenedStream { findings: vec![finding], stream: None };
    }
    let headers = changed_headers(&answer);
    let (finding, stream) = first_event(answer, limit).await;
    OpenedStream { findings: vec![finding, headers], stream }
}

/// Waits for the first byte, then for the first event.
async fn first_event(answer: HttpResponse, limit: Duration) -> (Finding, Option<CheckedStream>) {
    let head = answer.took;
    let mut stream = CheckedStream::new(answer);
    let began = Instant::now();
    let Ok(mut next) = tokio::time::timeout(limit, stream.next()).await else {
        let message =
            format!("the response head arrived after {}, but no data within {limit:?}", millis(head));
        return (Finding::failed("sse", message).cause(BUFFERS).fix(UNBUFFER), None);
    };
    let byte = head + began.elapsed();
    loop {
        match next {
            Next::StreamEvent(event) if event.name == "subscribed" => break,
            Next::StreamEvent(event) if event.name == "error" => {
                let finding = Finding::failed("sse", format!("the gateway ended the stream: {}", event.data))
                    .cause("Redis is down or rejects the channel (100, 103), or the node is full (3013)")
                    .fix("see `links` in /health");
                return (finding, None);
            }
            Next::End(why) => {
                let why = why.map_or_else(String::new, |why| format!(": {why}"));
                let finding = Finding::failed("sse", format!("the stream ended before the first event{why}"));
                return (
                    finding.cause("a proxy closes it, or does not support chunked responses").fix(UNBUFFER),
                    None,
                );
            }
            Next::StreamEvent(_) | Next::Comment => {}
        }
        next = match tokio::time::timeout(limit, stream.next()).await {
            Ok(next) => next,
            Err(_) => {
                let finding = Finding::failed(
                    "sse",
                    format!("the first byte arrived after {}, but no event within {limit:?}", millis(byte)),
                )
                .cause("a proxy buffers small chunks, or Redis does not confirm the subscription")
                .fix(UNBUFFER);
                return (finding, None);
            }
        };
    }
    if stream.parser.unknown_lines() > 0 {
        let finding = Finding::failed("sse", "the stream contains lines that the gateway did not send")
            .cause("a proxy modifies the stream")
            .fix("disable everything that modifies response bodies (injected scripts, filters)");
        return (finding, Some(stream));
    }
    let message = format!(
        "the first byte after {}, the first event after {}",
        millis(byte),
        millis(head + began.elapsed())
    );
    (Finding::ok("sse", message).with("first_byte_microseconds", micros(byte)), Some(stream))
}

fn no_head(why: &str) -> Finding {
    Finding::failed("sse", format!("the stream does not start: {why}"))
        .cause(format!("{BUFFERS} or blocks it; /health responded immediately"))
        .fix(UNBUFFER)
}

fn rejected(answer: &HttpResponse, channel: &str) -> Option<Finding> {
    let kind = answer.header("content-type").unwrap_or("nothing").to_owned();
    match answer.status {
        200 if kind.starts_with("text/event-stream") => None,
        200 => Some(
            Finding::failed("sse", format!("the content type is {kind} instead of text/event-stream"))
                .cause("another site responds on /sse, or a proxy changes the content type")
                .fix("forward /sse to the gateway unchanged"),
        ),
        404 => Some(
            Finding::failed(
                "sse",
                format!("404: no namespace for channel {channel}, or /sse is not forwarded"),
            )
            .cause("the configuration allows only certain channels")
            .fix("set one of them, or a glob such as 'web-*', with --channel"),
        ),
        status => Some(
            Finding::failed("sse", format!("the stream is rejected with {status}"))
                .cause("the namespace does not permit clients to subscribe (403), or a proxy blocks it")
                .fix("set a channel that clients may subscribe to with --channel; check the proxy's log"),
        ),
    }
}

async fn compressed(answer: &mut HttpResponse, limit: Duration) -> Option<Finding> {
    let encoding = answer.header("content-encoding").filter(|encoding| *encoding != "identity")?.to_owned();
    Some(match tokio::time::timeout(limit, answer.chunk()).await {
        Ok(Some(Ok(_))) => Finding::warning("compression", format!("the stream is compressed ({encoding})"))
            .cause("a proxy compresses text/event-stream: small events can be delayed, and each stream uses memory of the proxy")
            .fix(UNPACK),
        Ok(_) => packed("ends immediately", &encoding),
        Err(_) => packed("does not start", &format!("{encoding}, no data within {limit:?}")),
    })
}

const UNPACK: &str = "nginx: remove text/event-stream from gzip_types, or set `gzip off` for /sse";

fn packed(what: &str, how: &str) -> Finding {
    Finding::failed(
        "compression",
        format!("for clients that accept compression, such as browsers, the stream {what}: {how}"),
    )
    .cause("a proxy compresses text/event-stream and forwards it only when its buffer is full")
    .fix(UNPACK)
}

fn changed_headers(answer: &HttpResponse) -> Finding {
    let caching = answer.header("cache-control").unwrap_or("nothing");
    if !caching.contains("no-cache") && !caching.contains("no-store") {
        return Finding::warning("headers", format!("Cache-Control is {caching}"))
            .cause("a proxy changed it: caches can store the stream or wait for its end")
            .fix(
                "forward Cache-Control unchanged (nginx: no `expires`, no `proxy_hide_header Cache-Control`)",
            );
    }
    let kept = if answer.headers.contains_key("x-accel-buffering") {
        "present"
    } else {
        "removed, as usual with nginx"
    };
    Finding::ok("headers", format!("Cache-Control is unchanged; X-Accel-Buffering is {kept}"))
}

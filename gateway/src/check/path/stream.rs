//! SSE: whether the first byte comes at once, and whether what comes is what the gateway sent.

use std::time::Duration;

use tokio::time::Instant;

use super::super::network::{micros, millis};
use super::super::report::Finding;
use super::events::{Event, Events};
use super::way::{Answer, Way};

/// What a proxy must not put off: the first event follows the head as soon as Redis has confirmed the channel.
const BUFFERS: &str = "a proxy collects the stream before it hands it on";
const UNBUFFER: &str = "nginx: `proxy_buffering off`, and no `proxy_ignore_headers X-Accel-Buffering`; elsewhere: switch response buffering off for /sse";

/// What was found, and the stream, if it can be used on.
pub(super) struct Opened {
    pub(super) findings: Vec<Finding>,
    pub(super) stream: Option<Stream>,
}

/// A stream that is open.
pub(super) struct Stream {
    answer: Answer,
    events: Events,
    ready: std::collections::VecDeque<Event>,
}

/// How a stream goes on.
#[derive(Debug)]
pub(super) enum Next {
    /// An event.
    Event(Event),
    /// Only comments, or part of an event.
    Comment,
    /// The end: orderly, or why not.
    End(Option<String>),
}

impl Stream {
    fn new(answer: Answer) -> Self {
        Self { answer, events: Events::default(), ready: std::collections::VecDeque::new() }
    }

    /// What comes next.
    pub(super) async fn next(&mut self) -> Next {
        if let Some(event) = self.ready.pop_front() {
            return Next::Event(event);
        }
        match self.answer.more().await {
            None => Next::End(None),
            Some(Err(why)) => Next::End(Some(why)),
            Some(Ok(bytes)) => {
                self.ready.extend(self.events.take(&bytes));
                self.ready.pop_front().map_or(Next::Comment, Next::Event)
            }
        }
    }

    /// Heartbeats so far.
    pub(super) fn heartbeats(&self) -> usize {
        self.events.comments
    }
}

/// The path of a channel's stream.
pub(super) fn path(channel: &str) -> String {
    format!("/sse/{}", percent_encoding::utf8_percent_encode(channel, percent_encoding::NON_ALPHANUMERIC))
}

/// Opens a stream as a browser does, and judges how it comes. One that comes packed cannot be read here: the rest is
/// then looked at unpacked.
pub(super) async fn inspect(way: &Way, channel: &str, origin: Option<&str>) -> Opened {
    let mut headers = vec![("accept", "text/event-stream"), ("cache-control", "no-cache")];
    headers.extend(origin.map(|origin| ("origin", origin)));
    let path = path(channel);
    let packed = match way.fetch(&path, &headers).await {
        Ok(mut answer) => match compressed(&mut answer, way.limit).await {
            Some(finding) => finding,
            None => return judge(answer, channel, way.limit).await,
        },
        Err(why) => packed("does not begin", &why),
    };
    headers.push(("accept-encoding", "identity"));
    match way.fetch(&path, &headers).await {
        Ok(answer) => {
            let mut opened = judge(answer, channel, way.limit).await;
            opened.findings.push(packed);
            opened
        }
        Err(why) => Opened { findings: vec![no_head(&why)], stream: None },
    }
}

async fn judge(answer: Answer, channel: &str, limit: Duration) -> Opened {
    if let Some(finding) = refused(&answer, channel) {
        return Opened { findings: vec![finding], stream: None };
    }
    let headers = changed_headers(&answer);
    let (finding, stream) = first_event(answer, limit).await;
    Opened { findings: vec![finding, headers], stream }
}

/// Waits for the first byte, then for the first event.
async fn first_event(answer: Answer, limit: Duration) -> (Finding, Option<Stream>) {
    let head = answer.took;
    let mut stream = Stream::new(answer);
    let began = Instant::now();
    let Ok(mut next) = tokio::time::timeout(limit, stream.next()).await else {
        let said = format!("the head came after {}, but not one byte within {limit:?}", millis(head));
        return (Finding::failed("sse", said).because(BUFFERS).advise(UNBUFFER), None);
    };
    let byte = head + began.elapsed();
    loop {
        match next {
            Next::Event(event) if event.name == "subscribed" => break,
            Next::Event(event) if event.name == "error" => {
                let finding = Finding::failed("sse", format!("the gateway ends the stream: {}", event.data))
                    .because("Redis is away or refuses the channel (100, 103), or the node is full (3013)")
                    .advise("see `links` in /health");
                return (finding, None);
            }
            Next::End(why) => {
                let why = why.map_or_else(String::new, |why| format!(": {why}"));
                let finding = Finding::failed("sse", format!("the stream ends before its first event{why}"));
                return (
                    finding.because("a proxy cuts it, or does not understand chunks").advise(UNBUFFER),
                    None,
                );
            }
            Next::Event(_) | Next::Comment => {}
        }
        next = match tokio::time::timeout(limit, stream.next()).await {
            Ok(next) => next,
            Err(_) => {
                let finding = Finding::failed(
                    "sse",
                    format!("the first byte came after {}, but no event within {limit:?}", millis(byte)),
                )
                .because("a proxy holds back what is small, or Redis does not confirm the channel")
                .advise(UNBUFFER);
                return (finding, None);
            }
        };
    }
    if stream.events.foreign > 0 {
        let finding =
            Finding::failed("sse", "there are lines between the events that the gateway did not send")
                .because("a proxy writes into the stream")
                .advise("switch off whatever changes bodies (injected scripts, filters)");
        return (finding, Some(stream));
    }
    let said = format!(
        "the first byte after {}, the first event after {}",
        millis(byte),
        millis(head + began.elapsed())
    );
    (Finding::ok("sse", said).with("first_byte_microseconds", micros(byte)), Some(stream))
}

fn no_head(why: &str) -> Finding {
    Finding::failed("sse", format!("the stream does not begin: {why}"))
        .because(format!("{BUFFERS} or lets none through; /health came at once"))
        .advise(UNBUFFER)
}

fn refused(answer: &Answer, channel: &str) -> Option<Finding> {
    let kind = answer.header("content-type").unwrap_or("nothing").to_owned();
    match answer.status {
        200 if kind.starts_with("text/event-stream") => None,
        200 => Some(
            Finding::failed("sse", format!("what comes is {kind} in the place of text/event-stream"))
                .because("another site answers on /sse, or a proxy changes the type")
                .advise("pass /sse on to the gateway as it is"),
        ),
        404 => Some(
            Finding::failed(
                "sse",
                format!("404: no namespace has the channel {channel}, or /sse is not passed on"),
            )
            .because("the configuration names its channels")
            .advise("name one, or a glob such as 'web-*', by --channel"),
        ),
        status => Some(
            Finding::failed("sse", format!("the stream is refused with {status}"))
                .because("the namespace lets nobody subscribe (403), or a proxy stands in the way")
                .advise("name a channel that clients may hear by --channel; look at the proxy's log"),
        ),
    }
}

async fn compressed(answer: &mut Answer, limit: Duration) -> Option<Finding> {
    let encoding = answer.header("content-encoding").filter(|encoding| *encoding != "identity")?.to_owned();
    Some(match tokio::time::timeout(limit, answer.more()).await {
        Ok(Some(Ok(_))) => Finding::warning("compression", format!("the stream comes compressed ({encoding})"))
            .because("a proxy packs text/event-stream: small events may wait inside the packer, and each stream costs it memory")
            .advise(UNPACK),
        Ok(_) => packed("ends at once", &encoding),
        Err(_) => packed("does not begin", &format!("{encoding}, not one byte within {limit:?}")),
    })
}

const UNPACK: &str = "nginx: take text/event-stream out of gzip_types, or `gzip off` for /sse";

fn packed(what: &str, how: &str) -> Finding {
    Finding::failed(
        "compression",
        format!("for whoever takes compression, as browsers do, the stream {what}: {how}"),
    )
    .because("a proxy packs text/event-stream, and hands on only what fills its packer")
    .advise(UNPACK)
}

fn changed_headers(answer: &Answer) -> Finding {
    let caching = answer.header("cache-control").unwrap_or("nothing");
    if !caching.contains("no-cache") && !caching.contains("no-store") {
        return Finding::warning("headers", format!("Cache-Control is {caching}"))
            .because("a proxy has changed it: caches on the way may keep the stream, or wait for its end")
            .advise("pass Cache-Control on as the gateway sends it (nginx: no `expires`, no `proxy_hide_header Cache-Control`)");
    }
    let kept =
        if answer.headers.contains_key("x-accel-buffering") { "kept" } else { "taken off, as nginx does" };
    Finding::ok("headers", format!("Cache-Control is kept; X-Accel-Buffering is {kept}"))
}

//! Parses request heads and negotiates a handshake, compared with `httparse` alone.

use earshot::ingress::handshake;
use earshot::ingress::head::RequestHead;

use crate::comparison::{Comparison, repeated};

/// The request head of a browser.
const WEBSOCKET: &str = "GET /connection/websocket HTTP/1.1\r\nHost: live.example.com\r\nConnection: Upgrade\r\n\
    Pragma: no-cache\r\nCache-Control: no-cache\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 \
    (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36\r\nUpgrade: websocket\r\nOrigin: https://live.example.com\r\n\
    Sec-WebSocket-Version: 13\r\nAccept-Encoding: gzip, deflate, br, zstd\r\nAccept-Language: en-GB,en;q=0.9\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
    Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\r\n";

const SSE: &str = "GET /sse/web-signals HTTP/1.1\r\nHost: live.example.com\r\nConnection: keep-alive\r\n\
    Pragma: no-cache\r\nCache-Control: no-cache\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 \
    (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36\r\nAccept: text/event-stream\r\n\
    Sec-Fetch-Site: same-origin\r\nSec-Fetch-Mode: cors\r\nSec-Fetch-Dest: empty\r\n\
    Referer: https://live.example.com/\r\nAccept-Encoding: gzip, deflate, br, zstd\r\n\
    Accept-Language: en-GB,en;q=0.9\r\n\r\n";

pub(crate) fn run(comparison: &Comparison) {
    let parse =
        |head: &'static str| repeated(move || RequestHead::parse(head.as_bytes(), 8192).unwrap().unwrap());
    comparison.run("head: WebSocket", parse(WEBSOCKET), "httparse", httparse(WEBSOCKET));
    comparison.run("head: event stream", parse(SSE), "httparse", httparse(SSE));
    let head = RequestHead::parse(WEBSOCKET.as_bytes(), 8192).unwrap().unwrap();
    comparison.run(
        "head: negotiate a handshake",
        repeated(|| handshake::negotiate(head.request())),
        "httparse",
        httparse(WEBSOCKET),
    );
}

fn httparse<'a>(head: &'static str) -> crate::comparison::Workload<'a> {
    repeated(move || {
        let mut headers = [httparse::EMPTY_HEADER; 32];
        let mut request = httparse::Request::new(&mut headers);
        request.parse(head.as_bytes()).unwrap().unwrap()
    })
}

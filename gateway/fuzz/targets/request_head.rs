//! Request heads, and everything that is decided from one: route, host, client address, origin, handshake and stream.
#![no_main]

use std::net::SocketAddr;

use earshot::auth::origin::HostPolicy;
use earshot::auth::{Authorizer, ClientMeta, TrustedProxies};
use earshot::ingress::head::RequestHead;
use earshot::ingress::{handshake, routes, sse_request};
use libfuzzer_sys::fuzz_target;

const LIMIT: usize = 4096;

fuzz_target!(|bytes: &[u8]| {
    let Ok(Some(head)) = RequestHead::parse(bytes, LIMIT) else { return };
    let request = head.request();
    let _ = head.rest(bytes);
    let peer = SocketAddr::from(([127, 0, 0, 1], 1));
    let client = ClientMeta::new(request, peer, &TrustedProxies::new(vec![peer.ip().into()]));
    let _ = Authorizer::default().connect(&client);
    let _ = HostPolicy::new(&[], &[]).is_allowed(request.headers().get("host"), true);
    let _ = routes::find(request.uri().path());
    let _ = handshake::negotiate(request);
    let _ = sse_request::parse(request);
});

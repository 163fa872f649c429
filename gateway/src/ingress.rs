//! Accepts connections and routes them to a shard or to hyper.
//!
//! The head of the first request must be complete within a size and a time limit, which protects against slow clients.
//! A valid request for a stream is passed to a shard together with its socket; every other request, including rejected
//! streams, is passed to hyper together with the bytes read so far. A connection holds a permit from the moment it is
//! accepted. Only hyper responds to well-formed requests.
//!
//! - [`listener`]: listening sockets and socket options.
//! - [`head`]: reads and parses the request head; `response_head`: renders one.
//! - [`routes`]: the routing table.
//! - [`handshake`], [`sse_request`]: requests for streams.
//! - [`cors`]: CORS headers.
//! - [`http_server`]: connections that hyper serves; [`activity`]: their activity, for timeouts.

pub mod activity;
mod admit;
pub mod cors;
pub mod handshake;
pub mod head;
pub mod http_server;
mod listener;
mod login;
mod response_head;
pub mod routes;
pub mod sse_request;

use std::io::{self, Read};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::{HeaderValue, Version, header};
use bytes::{Bytes, BytesMut};
use earshot_protocol::{Disconnect, Encoding};

use crate::admission::{Admission, KeyedLimit, Permit};
use crate::auth::origin::HostPolicy;
use crate::auth::{Authorizer, ClientMeta, ClientNetwork, Denial, Identity, TrustedProxies, log_denial};
use crate::drain::Drain;
use crate::hooks::ChannelAnswers;
use crate::login::Authenticator;
use crate::metrics::Metrics;
use crate::node::Node;
use crate::shard::{NewConnection, NewConnectionKind, ShardLimits, Shards, Sink};
use handshake::Handshake;
use head::{RequestHead, RequestHeadError};
use http_server::{HttpLimits, HttpServer, Peer};
use listener::Listener;
pub use listener::bind;
use routes::{Endpoint, ListenerRole};

/// The delay before connections are accepted again after an error.
const ACCEPT_RETRY_INTERVAL: Duration = Duration::from_millis(50);

/// Bytes that are read when a connection is accepted.
const FIRST_READ_BYTES: usize = 4096;

/// The limits of new connections.
#[derive(Clone, Copy, Debug)]
pub struct IngressLimits {
    /// The maximum size of a request head (`limits.request_header_bytes`).
    pub request_header_bytes: usize,
    /// The timeout of the request head (`limits.request_header_timeout`).
    pub request_header_timeout: Duration,
    /// The limits of connections that hyper serves.
    pub http: HttpLimits,
}

/// Authorizes requests for streams and hands them to shards; shared with the routes of hyper.
#[derive(Debug)]
pub struct StreamContext {
    /// The node, which knows the namespaces.
    pub node: Arc<Node>,
    /// The shards, which serve streams.
    pub shards: Arc<Shards>,
    /// The limits of streams.
    pub limits: ShardLimits,
    /// The maximum size of a request head (`limits.request_header_bytes`).
    pub request_header_bytes: usize,
    /// Decides who may connect, and what clients may do.
    pub authorizer: Authorizer,
    /// Determines who clients are.
    pub authenticator: Arc<Authenticator>,
    /// The allowed hosts.
    pub hosts: HostPolicy,
    /// The proxies that report the addresses of clients.
    pub trusted_proxies: TrustedProxies,
    /// The limit of connections.
    pub admission: Admission,
    /// The limit of the connections of each address (`limits.connections_per_address`).
    pub connections_per_address: Arc<KeyedLimit<ClientNetwork>>,
    /// Counts rejected connections.
    pub metrics: Arc<Metrics>,
}

/// The identity of an event stream's client, and the answers of hooks.
#[derive(Clone, Debug)]
pub struct StreamLogin {
    /// The identity of the client, or why it is rejected.
    pub login: Result<Arc<Identity>, Denial>,
    /// The answers of the hook for its channels.
    pub answers: ChannelAnswers,
}

/// A request for a stream that a shard serves.
#[derive(Debug)]
struct RoutedStream {
    kind: NewConnectionKind,
    network: Option<ClientNetwork>,
    response_head: Bytes,
}

/// Accepts connections.
#[derive(Debug)]
pub struct Acceptor {
    streams: Arc<StreamContext>,
    http_server: HttpServer,
    serves_streams: bool,
    limits: IngressLimits,
    drain: Drain,
}

impl Acceptor {
    /// Creates an acceptor for listeners with this role, or for all routes; `router` serves every request that is not
    /// passed to a shard.
    pub fn new(
        streams: Arc<StreamContext>,
        router: Router,
        role: Option<ListenerRole>,
        limits: IngressLimits,
        drain: Drain,
    ) -> Arc<Self> {
        let http_server = HttpServer::new(
            router,
            streams.hosts.clone(),
            limits.http,
            Arc::clone(&streams.metrics),
            drain.clone(),
        );
        let serves_streams = role != Some(ListenerRole::Internal);
        Arc::new(Self { streams, http_server, serves_streams, limits, drain })
    }

    /// Serves one listener until the drain begins.
    ///
    /// # Errors
    /// When the listener cannot be registered with the runtime.
    pub fn serve(self: &Arc<Self>, listener: TcpListener) -> io::Result<()> {
        let via_loopback = listener.local_addr()?.ip().is_loopback();
        let listener = Listener::register(listener)?;
        let acceptor = Arc::clone(self);
        self.drain.spawn(async move {
            tokio::select! {
                () = acceptor.accept(&listener, via_loopback) => {}
                () = acceptor.drain.draining() => {}
            }
        });
        Ok(())
    }

    async fn accept(self: &Arc<Self>, listener: &Listener, via_loopback: bool) {
        let mut read_buffer = vec![0; FIRST_READ_BYTES];
        loop {
            let on_accept =
                |socket, address| self.on_accept(socket, Peer { address, via_loopback }, &mut read_buffer);
            if let Err(error) = listener.accept(on_accept).await {
                // Out of file descriptors or memory: existing connections are served, new ones wait in the kernel.
                tracing::warn!(%error, "cannot accept connections: raise the limit of open files");
                tokio::time::sleep(ACCEPT_RETRY_INTERVAL).await;
            }
        }
    }

    /// Handles a new connection. Most clients have sent their request by now; a stream is passed to its shard immediately,
    /// without a task, a timer, or a registration with the runtime's poll.
    fn on_accept(self: &Arc<Self>, mut socket: mio::net::TcpStream, peer: Peer, read_buffer: &mut [u8]) {
        self.streams.metrics.control.connections_accepted.add(1);
        let prefetched = match socket.read(read_buffer) {
            Ok(0) => return,
            Ok(length) => &read_buffer[..length],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => &[],
            Err(_) => return,
        };
        let head = RequestHead::parse(prefetched, self.limits.request_header_bytes).ok().flatten();
        let Some(permit) = self.streams.acquire_permit(head.as_ref()) else { return };
        let Some((head, RoutedStream { kind, network, response_head })) =
            head.and_then(|head| self.route_stream(&head, peer, None).map(|stream| (head, stream)))
        else {
            return self.spawn_slow_path(socket, peer, prefetched.into(), permit);
        };
        let (permit, kind) = self.streams.admit(permit, kind, network);
        let prefetched = Bytes::copy_from_slice(head.rest(prefetched));
        let sink = Sink::Socket(socket);
        let mut connection = Box::new(NewConnection {
            sink,
            network,
            kind,
            permit,
            response_head,
            response_head_written: 0,
            prefetched,
        });
        if connection.write_handshake().is_err() {
            return;
        }
        if let Err(connection) = self.streams.shards.try_accept(connection) {
            let shards = Arc::clone(&self.streams.shards);
            self.spawn_tracked(async move { shards.accept(connection).await });
        }
    }

    /// Serves a connection whose request is incomplete or not for a stream; `prefetched` are the bytes read so far.
    fn spawn_slow_path(
        self: &Arc<Self>,
        socket: mio::net::TcpStream,
        peer: Peer,
        prefetched: BytesMut,
        permit: Permit,
    ) {
        // Fails when the runtime cannot register the socket: the connection is closed.
        let Ok(socket) = tokio::net::TcpStream::from_std(socket.into()) else { return };
        let acceptor = Arc::clone(self);
        self.spawn_tracked(async move { acceptor.serve_slow_path(socket, peer, prefetched, permit).await });
    }

    /// Starts the task of a connection; it ends when the gateway stops.
    fn spawn_tracked(self: &Arc<Self>, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.drain.clone();
        self.drain.spawn_connection(async move {
            tokio::select! {
                () = task => {}
                () = stop.stopped() => {}
            }
        });
    }

    async fn serve_slow_path(
        &self,
        mut socket: tokio::net::TcpStream,
        peer: Peer,
        prefetched: BytesMut,
        permit: Permit,
    ) {
        let mut timeout = self.limits.request_header_timeout;
        if permit.is_reserved() {
            timeout = timeout.min(self.limits.http.reserved_timeout);
        }
        let read = head::read(&mut socket, prefetched, self.limits.request_header_bytes);
        let read = tokio::select! {
            read = tokio::time::timeout(timeout, read) => read,
            // A client without a complete request can send it to another node.
            () = self.drain.draining() => return,
        };
        let (head, bytes) = match read {
            Ok(Ok(read)) => read,
            Ok(Err(RequestHeadError::Closed)) => return,
            Ok(Err(error)) => return self.reject(socket, error).await,
            Err(_) => return self.reject(socket, RequestHeadError::Timeout).await,
        };
        let login = self.streams.log_in_by_store(&head, peer).await;
        match self.route_stream(&head, peer, login.clone()) {
            Some(RoutedStream { kind, network, response_head }) => {
                let (permit, kind) = self.streams.admit(permit, kind, network);
                // A copy: a slice would keep the whole head in memory.
                let prefetched = Bytes::copy_from_slice(head.rest(&bytes));
                if let Ok(socket) = socket.into_std() {
                    let sink = Sink::Socket(mio::net::TcpStream::from_std(socket));
                    let connection = NewConnection {
                        sink,
                        network,
                        kind,
                        permit,
                        response_head,
                        response_head_written: 0,
                        prefetched,
                    };
                    self.streams.shards.accept(Box::new(connection)).await;
                }
            }
            None => {
                let permit = self.streams.admission.promote(permit);
                // Boxed: otherwise the task would have that size already while it reads the head.
                Box::pin(self.http_server.serve_connection(socket, peer, bytes, permit, login)).await;
            }
        }
    }

    fn route_stream(
        &self,
        head: &RequestHead,
        peer: Peer,
        login: Option<StreamLogin>,
    ) -> Option<RoutedStream> {
        self.serves_streams.then(|| self.streams.route_stream(head, peer, login)).flatten()
    }

    async fn reject(&self, socket: tokio::net::TcpStream, error: RequestHeadError) {
        self.streams.metrics.control.requests_rejected.add(1);
        http_server::write_error_response(socket, error.status(), &error.to_string()).await;
    }
}

impl StreamContext {
    /// Acquires a permit for a connection; `head` is its request head, if it is complete. `None`: the connection is
    /// closed without a response.
    fn acquire_permit(&self, head: Option<&RequestHead>) -> Option<Permit> {
        let is_state_request = || {
            let route = head.and_then(|head| routes::find(head.request().uri().path()));
            route.is_some_and(|route| route.endpoint.is_state())
        };
        let permit = self.admission.admit();
        let permit = permit.or_else(|| is_state_request().then(|| self.admission.admit_state_request())?);
        if permit.is_none() {
            self.metrics.control.connections_rejected.add(1);
        }
        permit
    }

    /// Returns a new WebSocket after its handshake. A client that may not connect gets a close code.
    pub fn websocket(&self, client: ClientMeta, encoding: Encoding) -> NewConnectionKind {
        let denial = self.log_in(&client).and_then(Result::err);
        if let Some(denial) = denial {
            log_denial(denial, Some(&client), None);
        }
        let client = denial.is_none().then(|| Box::new(client));
        NewConnectionKind::WebSocket { encoding, client, rejection: denial.map(Disconnect::from) }
    }

    /// Routes a valid request for a stream; `None` for any other request, and if `login` is required and absent.
    fn route_stream(
        &self,
        head: &RequestHead,
        peer: Peer,
        login: Option<StreamLogin>,
    ) -> Option<RoutedStream> {
        let request = head.request();
        let is_absolute = request.uri().authority().is_some();
        let host = request.headers().get(header::HOST);
        if is_absolute || !self.hosts.is_allowed(host, peer.via_loopback) {
            return None;
        }
        let route = routes::find(request.uri().path()).filter(|route| route.method == request.method())?;
        let client = self.client_meta(request, peer);
        let network = client.network();
        match route.endpoint {
            Endpoint::WebSocket => match handshake::negotiate(request) {
                Handshake::Accepted { headers, encoding } => {
                    let response_head = response_head::render("HTTP/1.1 101 Switching Protocols", &headers);
                    let kind = self.websocket(client, encoding);
                    Some(RoutedStream { kind, network, response_head })
                }
                Handshake::Rejected { .. } => None,
            },
            Endpoint::EventStream if request.version() == Version::HTTP_11 => {
                let StreamLogin { login, answers } = match login {
                    Some(login) => login,
                    None => StreamLogin { login: self.log_in(&client)?, answers: ChannelAnswers::default() },
                };
                let kind = sse_request::parse(request)?.open(self, login, &answers).ok()?;
                let mut headers = cors::headers(self.authorizer.origins(), request.headers());
                headers.extend(sse_request::RESPONSE_HEADERS);
                headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
                headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
                let response_head = response_head::render("HTTP/1.1 200 OK", &headers);
                Some(RoutedStream { kind, network, response_head })
            }
            _ => None,
        }
    }
}

/// Passes the socket of a WebSocket to a shard after hyper has upgraded the connection.
pub async fn accept_upgraded(
    streams: &StreamContext,
    socket: TcpStream,
    (permit, kind): (Permit, NewConnectionKind),
    network: Option<ClientNetwork>,
    prefetched: Bytes,
) {
    let sink = Sink::Socket(mio::net::TcpStream::from_std(socket));
    let connection = NewConnection {
        sink,
        network,
        kind,
        permit,
        response_head: Bytes::new(),
        response_head_written: 0,
        prefetched,
    };
    streams.shards.accept(Box::new(connection)).await;
}

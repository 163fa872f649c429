//! Connection of one subscriber: a non-blocking socket and the protocol on it. Connects, subscribes and records what it
//! receives through a [`TallyRecorder`]. Never blocks, publishes or reconnects.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use earshot_client::http1::HttpError;
use mio::net::TcpStream;
use mio::{Interest, Registry, Token};
use socket2::{Domain, Protocol, Socket, Type};

use crate::subscriber_plan::Transport;
use crate::tally::TallyRecorder;
use crate::target::BenchTarget;

mod centrifuge;
mod frames;
mod subscriber_protocol;

pub(crate) use subscriber_protocol::ResumePoint;
use subscriber_protocol::SubscriberProtocol;

/// Why a subscriber failed to connect, or lost its connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    /// Connecting failed, or the connection broke.
    #[error("connection failed: {0}")]
    Io(#[from] io::Error),
    /// Not subscribed in time.
    #[error("not subscribed within {0} s")]
    Timeout(u64),
    /// The response has a status that does not open a stream.
    #[error("rejected with HTTP status {0}")]
    Status(u16),
    /// The response is not HTTP.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// The response does not match the WebSocket handshake.
    #[error("the response does not accept the WebSocket handshake")]
    NotAccepted,
    /// The bytes are not valid frames.
    #[error(transparent)]
    Frame(#[from] frames::FrameError),
    /// The message does not decode.
    #[error("invalid protocol message: {0}")]
    Protocol(#[from] earshot_protocol::DecodeError),
    /// The server replied with a protocol error.
    #[error("error {code}: {message}")]
    Rejected {
        /// Error code of the protocol.
        code: u32,
        /// Error message of the server.
        message: String,
    },
    /// The server closed the connection; contains the reason.
    #[error("closed by the server: {0}")]
    Closed(String),
}

/// Connection of a subscriber.
#[derive(Debug)]
pub(crate) struct ClientConnection {
    socket: TcpStream,
    connected: bool,
    protocol: SubscriberProtocol,
    /// Bytes not yet written to the socket.
    out: Vec<u8>,
}

/// Where and how to connect.
#[derive(Debug)]
pub(crate) struct ConnectOptions<'a> {
    /// The server.
    pub(crate) target: &'a BenchTarget,
    /// Name of the channel.
    pub(crate) channel: &'a str,
    /// Local address, if one address has too few ports.
    pub(crate) source: Option<Ipv4Addr>,
    /// Size of the kernel receive buffer in bytes; the system default if `None`.
    pub(crate) receive_buffer: Option<usize>,
}

impl ClientConnection {
    /// Starts to connect. Registers the socket under `token`.
    pub(crate) fn dial(
        options: &ConnectOptions<'_>,
        transport: Transport,
        resume_point: ResumePoint,
        registry: &Registry,
        token: Token,
    ) -> io::Result<Self> {
        let mut socket = TcpStream::from_std(connect(options)?.into());
        registry.register(&mut socket, token, Interest::READABLE | Interest::WRITABLE)?;
        let (protocol, request) =
            SubscriberProtocol::open(options.target, options.channel, transport, resume_point);
        Ok(Self { socket, connected: false, protocol, out: request })
    }

    /// Whether every message published from now on is expected.
    pub(crate) fn is_subscribed(&self) -> bool {
        self.protocol.is_subscribed()
    }

    /// Position to resume from.
    pub(crate) fn resume_point(&self) -> ResumePoint {
        self.protocol.resume_point()
    }

    /// Handles a writable socket.
    pub(crate) fn writable(&mut self) -> Result<(), ClientError> {
        if !self.connected {
            if let Some(error) = self.socket.take_error()? {
                return Err(error.into());
            }
            match self.socket.peer_addr() {
                Ok(_) => self.connected = true,
                Err(error) if error.kind() == io::ErrorKind::NotConnected => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
        self.flush()
    }

    fn flush(&mut self) -> Result<(), ClientError> {
        while self.connected && !self.out.is_empty() {
            match self.socket.write(&self.out) {
                Ok(count) if count == self.out.len() => self.out = Vec::new(),
                Ok(count) => drop(self.out.drain(..count)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Handles a readable socket: reads through `buffer` and writes replies. A read that does not fill `buffer` has
    /// drained the socket; more data is a new event.
    pub(crate) fn readable(
        &mut self,
        buffer: &mut [u8],
        recorder: &mut TallyRecorder<'_>,
    ) -> Result<(), ClientError> {
        while self.read_once(buffer, recorder)? == buffer.len() {}
        Ok(())
    }

    /// Reads once, at most `buffer.len()` bytes; returns the number of bytes.
    pub(crate) fn read_once(
        &mut self,
        buffer: &mut [u8],
        recorder: &mut TallyRecorder<'_>,
    ) -> Result<usize, ClientError> {
        let count = match self.socket.read(buffer) {
            Ok(0) => return Err(self.protocol.close_reason()),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(0),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(buffer.len()),
            Err(error) => return Err(error.into()),
        };
        recorder.now = tokio::time::Instant::now();
        self.protocol.feed(&buffer[..count], &mut self.out, recorder)?;
        self.flush()?;
        Ok(count)
    }

    /// Unsubscribes or subscribes. False if the protocol has no such command.
    pub(crate) fn toggle(&mut self, subscribe: bool, channel: &str) -> Result<bool, ClientError> {
        let known = self.protocol.toggle(subscribe, channel, &mut self.out);
        self.flush()?;
        Ok(known)
    }

    /// Removes the socket from the poll.
    pub(crate) fn deregister(&mut self, registry: &Registry) {
        // Closing the socket has the same effect.
        let _ = registry.deregister(&mut self.socket);
    }
}

/// Creates a socket and starts to connect it.
fn connect(options: &ConnectOptions<'_>) -> io::Result<Socket> {
    let address = options.target.address();
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    if let Some(bytes) = options.receive_buffer {
        socket.set_recv_buffer_size(bytes)?;
    }
    if let Some(source) = options.source {
        socket.bind(&SocketAddr::new(IpAddr::V4(source), 0).into())?;
    }
    match socket.connect(&address.into()) {
        Err(error)
            if error.raw_os_error() != Some(IN_PROGRESS) && error.kind() != io::ErrorKind::WouldBlock =>
        {
            Err(error)
        }
        _ => Ok(socket),
    }
}

/// `EINPROGRESS` on Linux; the standard library has no stable name for it.
const IN_PROGRESS: i32 = 115;

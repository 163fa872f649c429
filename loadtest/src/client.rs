//! One subscriber's connection: a non-blocking socket and the protocol on it. It connects, subscribes, and enters what
//! it hears into its [`Recorder`]. It never waits, never publishes, never comes back by itself, and never judges what
//! it heard.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use earshot_protocol::Encoding;
use mio::net::TcpStream;
use mio::{Interest, Registry, Token};
use socket2::{Domain, Protocol, Socket, Type};

use crate::tally::Recorder;
use crate::target::Target;

mod centrifuge;
mod event_stream;
mod frames;
pub(crate) mod http;
mod subscriber_protocol;

pub(crate) use subscriber_protocol::ResumePoint;
use subscriber_protocol::SubscriberProtocol;

/// How a subscriber is connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    /// Server-Sent Events.
    Sse,
    /// A WebSocket; the encoding matters where the target speaks the Centrifuge protocol.
    WebSocket(Encoding),
}

/// How a subscriber reads once it is told to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReadRate {
    /// As fast as it comes.
    Unlimited,
    /// So many bytes a second.
    BytesPerSecond(u32),
    /// Not at all.
    Paused,
}

/// One subscriber as the scenario wants it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SubscriberPlan {
    /// How it is connected.
    pub(crate) transport: Transport,
    /// The index of its channel.
    pub(crate) channel: u32,
    /// The index of its cohort.
    pub(crate) cohort: u8,
    /// How it reads once it is told to.
    pub(crate) read_rate: ReadRate,
    /// Whether it is set in motion when some are to be.
    pub(crate) churns: bool,
}

/// Why a subscriber could not be had, or was lost.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    /// No connection, or it broke.
    #[error("the connection failed: {0}")]
    Io(#[from] io::Error),
    /// Not subscribed in time.
    #[error("not subscribed within {0} s")]
    Timeout(u64),
    /// Another status than the one that opens a stream.
    #[error("refused with HTTP status {0}")]
    Status(u16),
    /// The answer is not HTTP.
    #[error(transparent)]
    Http(#[from] http::HttpError),
    /// The answer to the handshake is not for us.
    #[error("the answer to the WebSocket handshake does not accept it")]
    NotAccepted,
    /// The frames are none.
    #[error(transparent)]
    Frame(#[from] frames::FrameError),
    /// A message that is none of the protocol.
    #[error("not the protocol: {0}")]
    Protocol(#[from] earshot_protocol::DecodeError),
    /// The server answered with an error of the protocol.
    #[error("error {code}: {message}")]
    Rejected {
        /// The protocol's error code.
        code: u32,
        /// The same in words.
        message: String,
    },
    /// The server ended the connection; the text tells how.
    #[error("closed by the server: {0}")]
    Closed(String),
}

/// A subscriber's connection.
#[derive(Debug)]
pub(crate) struct Connection {
    socket: TcpStream,
    connected: bool,
    protocol: SubscriberProtocol,
    /// What the socket has not taken yet.
    out: Vec<u8>,
}

/// Where to dial, and how.
#[derive(Debug)]
pub(crate) struct ConnectOptions<'a> {
    /// The server.
    pub(crate) target: &'a Target,
    /// The channel's name.
    pub(crate) channel: &'a str,
    /// The local address, where one alone has too few ports.
    pub(crate) source: Option<Ipv4Addr>,
    /// Bytes of the kernel's receive buffer; its own choice unless given.
    pub(crate) receive_buffer: Option<usize>,
}

impl Connection {
    /// Begins to connect. The socket is registered under `token`.
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

    /// Whether everything that is published from now on is expected.
    pub(crate) fn is_subscribed(&self) -> bool {
        self.protocol.is_subscribed()
    }

    /// Where the subscription stands.
    pub(crate) fn resume_point(&self) -> ResumePoint {
        self.protocol.resume_point()
    }

    /// The socket takes bytes.
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

    /// The socket has bytes: reads them through `buffer`, answers what wants an answer. A read that does not fill
    /// `buffer` has emptied the socket; whatever comes later is a new event.
    pub(crate) fn readable(
        &mut self,
        buffer: &mut [u8],
        recorder: &mut Recorder<'_>,
    ) -> Result<(), ClientError> {
        while self.read_once(buffer, recorder)? == buffer.len() {}
        Ok(())
    }

    /// One read of at most as many bytes as `buffer` has; how many it was.
    pub(crate) fn read_once(
        &mut self,
        buffer: &mut [u8],
        recorder: &mut Recorder<'_>,
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

    /// Gives the subscription up, or takes it up anew. False where the protocol knows no such thing.
    pub(crate) fn toggle(&mut self, subscribe: bool, channel: &str) -> Result<bool, ClientError> {
        let known = self.protocol.toggle(subscribe, channel, &mut self.out);
        self.flush()?;
        Ok(known)
    }

    /// Lets the poll forget the socket.
    pub(crate) fn deregister(&mut self, registry: &Registry) {
        // It is about to be closed, which does the same.
        let _ = registry.deregister(&mut self.socket);
    }
}

/// A socket on its way to the server.
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

/// `EINPROGRESS` of Linux, for which the standard library has no stable name.
const IN_PROGRESS: i32 = 115;

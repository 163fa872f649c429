//! Listening sockets.
//!
//! Socket options are set on the listener; accepted connections inherit them, which saves system calls per connection.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

#[cfg(target_os = "linux")]
use nix::{setsockopt_impl, sockopt_impl};
use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// The length of the kernel's accept queue.
const BACKLOG: i32 = 4096;

/// Connections accepted before the task yields to other tasks.
const ACCEPTS_PER_TURN: usize = 64;

/// Maximum number of unsent bytes in the kernel: the queue of a slow client stays in the gateway, which counts it.
const NOTSENT_LOWAT: u32 = 128 * 1024;

/// How long sent data may stay unacknowledged before the kernel closes the connection.
const USER_TIMEOUT: Duration = Duration::from_secs(30);

/// The idle time before the kernel sends keepalive probes.
const KEEPALIVE_TIME: Duration = Duration::from_secs(60);

/// Approximate time in seconds that the kernel waits for data before it reports a new connection.
#[cfg(target_os = "linux")]
const DEFER_ACCEPT_SECONDS: u32 = 1;

/// Binds a listener.
///
/// # Errors
/// When the address cannot be bound; the error names it.
pub fn bind(addr: SocketAddr) -> io::Result<TcpListener> {
    let listen = || {
        let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        if addr.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        socket.set_nonblocking(true)?;
        set_options(&socket)?;
        defer_accept(&socket);
        socket.bind(&addr.into())?;
        socket.listen(BACKLOG)?;
        Ok(TcpListener::from(socket))
    };
    listen()
        .map_err(|error: io::Error| io::Error::new(error.kind(), format!("cannot listen on {addr}: {error}")))
}

/// Sets the options that accepted connections inherit.
fn set_options(socket: &Socket) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_notsent_lowat(NOTSENT_LOWAT)?;
    socket.set_tcp_user_timeout(Some(USER_TIMEOUT))?;
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE_TIME))
}

/// Makes the kernel report a connection with the first bytes of its request, or after [`DEFER_ACCEPT_SECONDS`]: one
/// wake-up, and no task that waits for the bytes.
#[cfg(target_os = "linux")]
fn defer_accept(socket: &Socket) {
    use nix::sys::socket::SetSockOpt as _;
    // Without the option the kernel reports connections earlier, which is served as well.
    let _ = DeferAccept.set(socket, &DEFER_ACCEPT_SECONDS);
}

#[cfg(not(target_os = "linux"))]
fn defer_accept(_: &Socket) {}

#[cfg(target_os = "linux")]
sockopt_impl!(
    /// `TCP_DEFER_ACCEPT`, tcp(7): in seconds, rounded to the retransmissions of the SYN-ACK.
    DeferAccept,
    SetOnly,
    libc::IPPROTO_TCP,
    libc::TCP_DEFER_ACCEPT,
    u32
);

/// A listener on the Tokio runtime. Accepted sockets are not registered with any poll.
#[derive(Debug)]
pub(super) struct Listener(AsyncFd<mio::net::TcpListener>);

impl Listener {
    /// Registers the listener with the runtime.
    ///
    /// # Errors
    /// When the registration fails.
    #[expect(
        deprecated,
        reason = "the replacement is `unsafe`, for types that may change their descriptor; mio's listener does not"
    )]
    pub(super) fn register(listener: TcpListener) -> io::Result<Self> {
        let listener = mio::net::TcpListener::from_std(listener);
        AsyncFd::with_interest(listener, Interest::READABLE).map(Self)
    }

    /// Waits for connections and accepts those that are queued, up to [`ACCEPTS_PER_TURN`].
    ///
    /// # Errors
    /// When descriptors or memory are exhausted. The connection stays in the kernel's queue.
    pub(super) async fn accept(
        &self,
        mut on_accept: impl FnMut(mio::net::TcpStream, SocketAddr),
    ) -> io::Result<()> {
        let mut ready = self.0.readable().await?;
        for _ in 0..ACCEPTS_PER_TURN {
            match self.0.get_ref().accept() {
                Ok((socket, peer)) => on_accept(socket, peer),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready.clear_ready();
                    return Ok(());
                }
                Err(error) if is_connection_error(&error) => {}
                Err(error) => return Err(error),
            }
        }
        tokio::task::yield_now().await;
        Ok(())
    }
}

/// Whether an error of accept(2) concerns one connection only.
fn is_connection_error(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_inherit_the_options_of_the_listener() {
        let listener = bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let address = listener.local_addr().unwrap();
        let mut client = std::net::TcpStream::connect(address).unwrap();
        std::io::Write::write_all(&mut client, b"GET").unwrap();
        listener.set_nonblocking(false).unwrap();
        let (socket, _) = listener.accept().unwrap();
        let socket = socket2::SockRef::from(&socket);
        assert!(socket.tcp_nodelay().unwrap());
        assert_eq!(socket.tcp_notsent_lowat().unwrap(), NOTSENT_LOWAT);
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(USER_TIMEOUT));
        assert!(socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), KEEPALIVE_TIME);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_connection_is_accepted_with_its_first_bytes_or_after_a_delay() {
        use std::io::{Read as _, Write as _};
        let listener = bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let address = listener.local_addr().unwrap();
        let silent = std::net::TcpStream::connect(address).unwrap();
        let mut asking = std::net::TcpStream::connect(address).unwrap();
        asking.write_all(b"GET").unwrap();
        listener.set_nonblocking(false).unwrap();
        let (mut first, peer) = listener.accept().unwrap();
        assert_eq!(peer, asking.local_addr().unwrap());
        let mut received = [0; 3];
        first.set_nonblocking(true).unwrap();
        first.read_exact(&mut received).unwrap();
        let (_, peer) = listener.accept().unwrap();
        assert_eq!(peer, silent.local_addr().unwrap());
    }
}

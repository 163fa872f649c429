//! Listening sockets.
//!
//! Owns the options of every connection: they are set once, on the listener, and handed down by accept(2), which costs
//! a connection no call of its own. Must never read a byte.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

#[cfg(target_os = "linux")]
use nix::{setsockopt_impl, sockopt_impl};
use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Connections that the kernel may hold for us.
const BACKLOG: i32 = 4096;

/// Connections accepted in one turn, before others of the runtime have theirs.
const ACCEPTS_PER_TURN: usize = 64;

/// Unsent bytes above which the kernel takes no more from us: what a slow client has not fetched stays countable.
const NOTSENT_LOWAT: u32 = 128 * 1024;

/// How long written bytes may stay unacknowledged before the connection is given up.
const USER_TIMEOUT: Duration = Duration::from_secs(30);

/// The silence after which the kernel asks whether a peer is still there.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// How many seconds the kernel keeps a connection that asks for nothing to itself, about.
#[cfg(target_os = "linux")]
const REQUEST_PATIENCE: u32 = 1;

/// Binds a listener.
///
/// # Errors
/// When the address cannot be had; the error names it.
pub fn bind(addr: SocketAddr) -> io::Result<TcpListener> {
    let listen = || {
        let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        if addr.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        socket.set_nonblocking(true)?;
        prepare(&socket)?;
        await_request(&socket);
        socket.bind(&addr.into())?;
        socket.listen(BACKLOG)?;
        Ok(TcpListener::from(socket))
    };
    listen()
        .map_err(|error: io::Error| io::Error::new(error.kind(), format!("cannot listen on {addr}: {error}")))
}

/// What is set on a listener is set on what it accepts.
fn prepare(socket: &Socket) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_notsent_lowat(NOTSENT_LOWAT)?;
    socket.set_tcp_user_timeout(Some(USER_TIMEOUT))?;
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE))
}

/// The kernel hands a connection over with the first bytes of its request, or [`REQUEST_PATIENCE`] later: one wake, and
/// no task that waits for them.
#[cfg(target_os = "linux")]
fn await_request(socket: &Socket) {
    use nix::sys::socket::SetSockOpt as _;
    // A kernel without it hands connections over earlier; both ways are served.
    let _ = DeferAccept.set(socket, &REQUEST_PATIENCE);
}

#[cfg(not(target_os = "linux"))]
fn await_request(_: &Socket) {}

#[cfg(target_os = "linux")]
sockopt_impl!(
    /// `TCP_DEFER_ACCEPT`, tcp(7): in seconds, as many as a few resent SYN-ACKs take.
    DeferAccept,
    SetOnly,
    libc::IPPROTO_TCP,
    libc::TCP_DEFER_ACCEPT,
    u32
);

/// A listener that is waited for on the runtime. What it accepts is registered with no poll yet.
#[derive(Debug)]
pub(super) struct Listener(AsyncFd<mio::net::TcpListener>);

impl Listener {
    /// # Errors
    /// When it cannot be polled.
    #[expect(
        deprecated,
        reason = "its successor is unsafe for types that may lie about their descriptor; mio's listener does not"
    )]
    pub(super) fn watch(listener: TcpListener) -> io::Result<Self> {
        let listener = mio::net::TcpListener::from_std(listener);
        AsyncFd::with_interest(listener, Interest::READABLE).map(Self)
    }

    /// Waits for connections, and accepts those that wait; a bounded number, so that others have their turn, too.
    ///
    /// # Errors
    /// When there is no more room for one: descriptors, memory. It goes on waiting in the kernel.
    pub(super) async fn accept(
        &self,
        mut accepted: impl FnMut(mio::net::TcpStream, SocketAddr),
    ) -> io::Result<()> {
        let mut ready = self.0.readable().await?;
        for _ in 0..ACCEPTS_PER_TURN {
            match self.0.get_ref().accept() {
                Ok((socket, peer)) => accepted(socket, peer),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready.clear_ready();
                    return Ok(());
                }
                Err(error) if is_of_connection(&error) => {}
                Err(error) => return Err(error),
            }
        }
        tokio::task::yield_now().await;
        Ok(())
    }
}

/// Errors of accept(2) that concern one connection only.
fn is_of_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_of_the_listener_are_those_of_its_connections() {
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
        assert_eq!(socket.tcp_keepalive_time().unwrap(), KEEPALIVE);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_connection_comes_with_its_request_or_a_while_later() {
        use std::io::{Read as _, Write as _};
        let listener = bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let address = listener.local_addr().unwrap();
        let silent = std::net::TcpStream::connect(address).unwrap();
        let mut asking = std::net::TcpStream::connect(address).unwrap();
        asking.write_all(b"GET").unwrap();
        listener.set_nonblocking(false).unwrap();
        let (mut first, peer) = listener.accept().unwrap();
        assert_eq!(peer, asking.local_addr().unwrap());
        let mut begun = [0; 3];
        first.set_nonblocking(true).unwrap();
        first.read_exact(&mut begun).unwrap();
        let (_, peer) = listener.accept().unwrap();
        assert_eq!(peer, silent.local_addr().unwrap());
    }
}

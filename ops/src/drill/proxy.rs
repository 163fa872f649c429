//! A TCP proxy between a gateway and its Redis, which can drop, close, reset and redirect.
//!
//! Owns the connections through it. Must never change a byte.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::sleep;

use earshot_client::Tasks;

const BUFFER_BYTES: usize = 16 * 1024;

/// Treatment of connections.
#[derive(Clone, Debug)]
struct ProxyMode {
    /// Target of new connections.
    server: String,
    /// Connections stay open and their data is dropped.
    blackhole: bool,
    /// Connections of an earlier generation end.
    generation: u64,
    /// They are reset instead of closed.
    reset: bool,
}

/// Runs until the tasks are stopped.
#[derive(Debug)]
pub(super) struct Proxy {
    address: SocketAddr,
    mode: watch::Sender<ProxyMode>,
}

impl Proxy {
    /// Listens, and forwards to `server`, `host:port`.
    pub(super) async fn start(listen: &str, server: String, tasks: &Tasks) -> Result<Self, String> {
        let bound = TcpListener::bind(listen).await;
        let listener = bound.map_err(|error| format!("the proxy cannot listen on {listen}: {error}"))?;
        let address = listener.local_addr().map_err(|error| error.to_string())?;
        let (mode, state) =
            watch::channel(ProxyMode { server, blackhole: false, generation: 0, reset: false });
        let (accepting, stopped) = (accept(listener, state, tasks.clone()), tasks.clone());
        tasks.spawn(async move {
            tokio::select! {
                () = accepting => {}
                () = stopped.stopped() => {}
            }
        });
        Ok(Self { address, mode })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Closes all connections. New ones are forwarded.
    pub(super) fn cut(&self) {
        self.mode.send_modify(|mode| (mode.generation, mode.reset) = (mode.generation + 1, false));
    }

    /// Drops all data from now on, while connections stay open.
    pub(super) fn blackhole(&self) {
        self.mode.send_modify(|mode| mode.blackhole = true);
    }

    /// Resets all connections. New ones are forwarded.
    pub(super) fn reset(&self) {
        self.mode.send_modify(|mode| {
            (mode.generation, mode.reset, mode.blackhole) = (mode.generation + 1, true, false);
        });
    }

    /// Forwards new connections to another server. Existing ones stay.
    pub(super) fn redirect(&self, server: String) {
        self.mode.send_modify(|mode| mode.server = server);
    }
}

async fn accept(listener: TcpListener, mode: watch::Receiver<ProxyMode>, tasks: Tasks) {
    loop {
        let Ok((client, _)) = listener.accept().await else {
            // Out of file descriptors: wait for some to be closed.
            sleep(Duration::from_millis(10)).await;
            continue;
        };
        let (forwarding, stopped) = (forward(client, mode.clone()), tasks.clone());
        tasks.spawn(async move {
            tokio::select! {
                // Both ends see how a connection ended.
                _ = forwarding => {}
                () = stopped.stopped() => {}
            }
        });
    }
}

/// Forwards one connection until it ends or its generation ends.
async fn forward(mut client: TcpStream, mut mode: watch::Receiver<ProxyMode>) -> io::Result<()> {
    let initial = mode.borrow_and_update().clone();
    let mut server = TcpStream::connect(&initial.server).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (mut up, mut down) = (vec![0; BUFFER_BYTES], vec![0; BUFFER_BYTES]);
    loop {
        let current = mode.borrow_and_update().clone();
        if current.generation > initial.generation {
            if current.reset {
                SockRef::from(&client).set_linger(Some(Duration::ZERO))?;
            }
            return Ok(());
        }
        tokio::select! {
            changed = mode.changed() => changed.map_err(io::Error::other)?,
            read = client.read(&mut up) => {
                copy(read?, &up, &mut server, &mode).await?;
            }
            read = server.read(&mut down) => {
                copy(read?, &down, &mut client, &mode).await?;
            }
        }
    }
}

async fn copy(
    count: usize,
    bytes: &[u8],
    to: &mut TcpStream,
    mode: &watch::Receiver<ProxyMode>,
) -> io::Result<()> {
    if count == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    if mode.borrow().blackhole {
        return Ok(());
    }
    to.write_all(&bytes[..count]).await
}

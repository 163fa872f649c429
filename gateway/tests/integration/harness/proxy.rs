//! A TCP proxy between a gateway and Redis that can cut all connections or only subscriptions, and redirect new
//! connections to another server. It must never change a byte.

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Which connections are allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ProxyMode {
    Open,
    /// All except those that subscribe.
    Commands,
    Closed,
}

/// Which connections are closed when new ones are redirected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Disconnect {
    /// All except those that subscribe.
    Commands,
    Everything,
}

/// A running proxy; stopped when dropped.
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    mode: watch::Sender<ProxyMode>,
    target: watch::Sender<(SocketAddr, Disconnect)>,
    task: JoinHandle<()>,
}

impl Proxy {
    pub(crate) async fn before(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (mode, state) = watch::channel(ProxyMode::Open);
        let (target, leads_to) = watch::channel((server, Disconnect::Everything));
        let address = listener.local_addr().unwrap();
        Self { address, mode, target, task: tokio::spawn(run(listener, leads_to, state)) }
    }

    /// Redirects new connections to another server.
    pub(crate) fn redirect(&self, server: SocketAddr, cut: Disconnect) {
        self.target.send_replace((server, cut));
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://{}/0", self.address)
    }

    /// Sets the mode and closes the connections that it does not allow.
    pub(crate) fn allow(&self, mode: ProxyMode) {
        self.mode.send_replace(mode);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn run(
    listener: TcpListener,
    target: watch::Receiver<(SocketAddr, Disconnect)>,
    mode: watch::Receiver<ProxyMode>,
) {
    while let Ok((client, _)) = listener.accept().await {
        let (target, mode) = (target.clone(), mode.clone());
        tokio::spawn(async move { drop(join(client, target, mode).await) });
    }
}

/// Forwards one connection until one side closes it or the mode no longer allows it.
async fn join(
    mut client: TcpStream,
    mut target: watch::Receiver<(SocketAddr, Disconnect)>,
    mut mode: watch::Receiver<ProxyMode>,
) -> io::Result<()> {
    let (server, _) = *target.borrow_and_update();
    let mut server = TcpStream::connect(server).await?;
    let (mut up, mut down) = ([0; 16 * 1024], [0; 16 * 1024]);
    let mut subscribes = false;
    loop {
        tokio::select! {
            changed = mode.changed() => changed.map_err(io::Error::other)?,
            changed = target.changed() => {
                changed.map_err(io::Error::other)?;
                let (_, cut) = *target.borrow_and_update();
                if cut == Disconnect::Everything || !subscribes {
                    return Ok(());
                }
            }
            read = client.read(&mut up) => {
                let bytes = &up[..read?];
                subscribes |= bytes.windows(9).any(|word| word == b"SUBSCRIBE");
                // Close before the server receives a command that is not allowed.
                if bytes.is_empty() || !may_pass(*mode.borrow(), subscribes) {
                    return Ok(());
                }
                server.write_all(bytes).await?;
            }
            read = server.read(&mut down) => match read? {
                0 => return Ok(()),
                read => client.write_all(&down[..read]).await?,
            }
        }
        if !may_pass(*mode.borrow(), subscribes) {
            return Ok(());
        }
    }
}

fn may_pass(mode: ProxyMode, subscribes: bool) -> bool {
    match mode {
        ProxyMode::Open => true,
        ProxyMode::Commands => !subscribes,
        ProxyMode::Closed => false,
    }
}

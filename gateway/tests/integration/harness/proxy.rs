//! A network between a gateway and its Redis that can be cut, wholly or for the subscriptions alone, and that can lead
//! new connections to another server. It must never touch a byte.

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Who gets through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Passage {
    Open,
    /// All but those who subscribe.
    Commands,
    Closed,
}

/// Whose connections end when new ones are led to another server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cut {
    /// All but those who subscribe.
    Commands,
    Everything,
}

/// Stands in front of a Redis; ended when dropped.
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    passage: watch::Sender<Passage>,
    target: watch::Sender<(SocketAddr, Cut)>,
    task: JoinHandle<()>,
}

impl Proxy {
    pub(crate) async fn before(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (passage, state) = watch::channel(Passage::Open);
        let (target, leads_to) = watch::channel((server, Cut::Everything));
        let address = listener.local_addr().unwrap();
        Self { address, passage, target, task: tokio::spawn(run(listener, leads_to, state)) }
    }

    /// New connections come to another server from now on.
    pub(crate) fn lead_to(&self, server: SocketAddr, cut: Cut) {
        self.target.send_replace((server, cut));
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://{}/0", self.address)
    }

    /// Ends the connections that may not be there any more.
    pub(crate) fn allow(&self, passage: Passage) {
        self.passage.send_replace(passage);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn run(
    listener: TcpListener,
    target: watch::Receiver<(SocketAddr, Cut)>,
    passage: watch::Receiver<Passage>,
) {
    while let Ok((client, _)) = listener.accept().await {
        let (target, passage) = (target.clone(), passage.clone());
        tokio::spawn(async move { drop(join(client, target, passage).await) });
    }
}

/// Carries one connection until one of both ends it, or it may not be there.
async fn join(
    mut client: TcpStream,
    mut target: watch::Receiver<(SocketAddr, Cut)>,
    mut passage: watch::Receiver<Passage>,
) -> io::Result<()> {
    let (server, _) = *target.borrow_and_update();
    let mut server = TcpStream::connect(server).await?;
    let (mut up, mut down) = ([0; 16 * 1024], [0; 16 * 1024]);
    let mut subscribes = false;
    loop {
        tokio::select! {
            changed = passage.changed() => changed.map_err(io::Error::other)?,
            changed = target.changed() => {
                changed.map_err(io::Error::other)?;
                let (_, cut) = *target.borrow_and_update();
                if cut == Cut::Everything || !subscribes {
                    return Ok(());
                }
            }
            read = client.read(&mut up) => {
                let bytes = &up[..read?];
                subscribes |= bytes.windows(9).any(|word| word == b"SUBSCRIBE");
                // Whoever may not subscribe is gone before the server hears of it.
                if bytes.is_empty() || !may_pass(*passage.borrow(), subscribes) {
                    return Ok(());
                }
                server.write_all(bytes).await?;
            }
            read = server.read(&mut down) => match read? {
                0 => return Ok(()),
                read => client.write_all(&down[..read]).await?,
            }
        }
        if !may_pass(*passage.borrow(), subscribes) {
            return Ok(());
        }
    }
}

fn may_pass(passage: Passage, subscribes: bool) -> bool {
    match passage {
        Passage::Open => true,
        Passage::Commands => !subscribes,
        Passage::Closed => false,
    }
}

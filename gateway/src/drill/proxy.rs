//! The network between a gateway and its Redis: it carries, swallows, cuts, and leads elsewhere.
//!
//! Owns the connections through it. Must never change a byte that it carries.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::sleep;

use crate::drain::Drain;

const PIECE: usize = 16 * 1024;

/// What becomes of connections.
#[derive(Clone, Debug)]
struct Passage {
    /// Where new connections lead.
    server: String,
    /// Connections stay open, and nothing gets through.
    swallows: bool,
    /// Connections of earlier ages may not be there any more.
    age: u64,
    /// They are reset in the place of being closed.
    resets: bool,
}

/// Stands between a gateway and its Redis until the drain stops.
#[derive(Debug)]
pub(super) struct Proxy {
    address: SocketAddr,
    passage: watch::Sender<Passage>,
}

impl Proxy {
    /// Listens, and leads to `server`, as `host:port`.
    pub(super) async fn start(listen: &str, server: String, drain: &Drain) -> Result<Self, String> {
        let bound = TcpListener::bind(listen).await;
        let listener = bound.map_err(|error| format!("the proxy cannot listen on {listen}: {error}"))?;
        let address = listener.local_addr().map_err(|error| error.to_string())?;
        let (passage, state) = watch::channel(Passage { server, swallows: false, age: 0, resets: false });
        let (accepting, stopped) = (accept(listener, state, drain.clone()), drain.clone());
        drain.spawn(async move {
            tokio::select! {
                () = accepting => {}
                () = stopped.stopped() => {}
            }
        });
        Ok(Self { address, passage })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Closes every connection; new ones get through.
    pub(super) fn cut(&self) {
        self.passage.send_modify(|passage| (passage.age, passage.resets) = (passage.age + 1, false));
    }

    /// Lets nothing through from now on, while all stays open.
    pub(super) fn swallow(&self) {
        self.passage.send_modify(|passage| passage.swallows = true);
    }

    /// Resets every connection; new ones get through.
    pub(super) fn reset(&self) {
        self.passage.send_modify(|passage| {
            (passage.age, passage.resets, passage.swallows) = (passage.age + 1, true, false);
        });
    }

    /// Leads new connections to another server; the present ones stay where they are.
    pub(super) fn lead_to(&self, server: String) {
        self.passage.send_modify(|passage| passage.server = server);
    }
}

async fn accept(listener: TcpListener, passage: watch::Receiver<Passage>, drain: Drain) {
    loop {
        let Ok((client, _)) = listener.accept().await else {
            // No descriptors at this moment: a loop without a wait would not bring any.
            sleep(Duration::from_millis(10)).await;
            continue;
        };
        let (carrying, stopped) = (carry(client, passage.clone()), drain.clone());
        drain.spawn(async move {
            tokio::select! {
                // How a connection ends is for both its ends to see.
                _ = carrying => {}
                () = stopped.stopped() => {}
            }
        });
    }
}

/// Carries one connection until one side ends it, or it may not be there any more.
async fn carry(mut client: TcpStream, mut passage: watch::Receiver<Passage>) -> io::Result<()> {
    let born = passage.borrow_and_update().clone();
    let mut server = TcpStream::connect(&born.server).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (mut up, mut down) = (vec![0; PIECE], vec![0; PIECE]);
    loop {
        let now = passage.borrow_and_update().clone();
        if now.age > born.age {
            if now.resets {
                SockRef::from(&client).set_linger(Some(Duration::ZERO))?;
            }
            return Ok(());
        }
        tokio::select! {
            changed = passage.changed() => changed.map_err(io::Error::other)?,
            read = client.read(&mut up) => {
                pass(read?, &up, &mut server, &passage).await?;
            }
            read = server.read(&mut down) => {
                pass(read?, &down, &mut client, &passage).await?;
            }
        }
    }
}

async fn pass(
    count: usize,
    bytes: &[u8],
    to: &mut TcpStream,
    passage: &watch::Receiver<Passage>,
) -> io::Result<()> {
    if count == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    if passage.borrow().swallows {
        return Ok(());
    }
    to.write_all(&bytes[..count]).await
}

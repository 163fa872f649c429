//! TCP proxies that change their target, drop bytes, delay subscriptions or return errors.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;

use crate::drain::Drain;

/// The traffic that a proxy drops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dropped {
    /// Replies and messages on connections that subscribe.
    Subscription,
    /// Replies on connections without subscriptions.
    Replies,
    /// Commands on connections without subscriptions.
    CommandLink,
}

/// A TCP proxy with a target that can be changed.
#[derive(Default)]
pub(super) struct Proxy {
    pub(super) port: u16,
    pub(super) target: AtomicU16,
    /// The dropped traffic: `Dropped` as a number from 1, or 0 for none.
    dropped: AtomicU16,
    /// The number of dropped bytes.
    pub(super) bytes: AtomicU64,
    /// Whether messages on subscriptions are delayed.
    holds: AtomicBool,
}

impl Proxy {
    pub(super) async fn open(target: u16) -> Arc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let proxy = Arc::new(Self { port, target: AtomicU16::new(target), ..Self::default() });
        let run = Arc::clone(&proxy);
        Drain::default().spawn(async move {
            let connections = Drain::default();
            while let Ok((client, _)) = listener.accept().await {
                connections.spawn(Arc::clone(&run).forward(client));
            }
        });
        proxy
    }

    async fn forward(self: Arc<Self>, mut client: TcpStream) {
        let target = self.target.load(Ordering::Relaxed);
        let Ok(mut server) = TcpStream::connect(("127.0.0.1", target)).await else { return };
        let (mut up, mut down) = ([0; 16 * 1024], [0; 16 * 1024]);
        let mut subscribes = false;
        loop {
            let sent = tokio::select! {
                read = client.read(&mut up) => match read {
                    Ok(length @ 1..) => {
                        if !is_subscription(&mut subscribes, &up[..length]) && self.drops(Dropped::CommandLink, length) {
                            continue;
                        }
                        server.write_all(&up[..length]).await
                    }
                    _ => return,
                },
                () = sleep(Duration::from_millis(1)), if self.holds(subscribes) => continue,
                read = server.read(&mut down), if !self.holds(subscribes) => match read {
                    Ok(length @ 1..) => {
                        let kind = if subscribes { Dropped::Subscription } else { Dropped::Replies };
                        if self.drops(kind, length) {
                            continue;
                        }
                        client.write_all(&down[..length]).await
                    }
                    _ => return,
                },
            };
            if sent.is_err() {
                return;
            }
        }
    }

    fn holds(&self, subscribes: bool) -> bool {
        subscribes && self.holds.load(Ordering::Relaxed)
    }

    pub(super) async fn hold_for(&self, duration: Duration) {
        self.holds.store(true, Ordering::Relaxed);
        sleep(duration).await;
        self.holds.store(false, Ordering::Relaxed);
    }

    fn drops(&self, kind: Dropped, length: usize) -> bool {
        let drops = self.dropped.load(Ordering::Relaxed) == kind as u16 + 1;
        if drops {
            self.bytes.fetch_add(length as u64, Ordering::Relaxed);
        }
        drops
    }

    pub(super) async fn drop_for(&self, kind: Dropped, duration: Duration) {
        self.dropped.store(kind as u16 + 1, Ordering::Relaxed);
        sleep(duration).await;
        self.dropped.store(0, Ordering::Relaxed);
    }

    pub(super) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }
}

/// Whether a connection subscribes now or has subscribed before. Updates `subscribes`.
fn is_subscription(subscribes: &mut bool, sent: &[u8]) -> bool {
    *subscribes |= sent.windows(9).any(|word| word == b"SUBSCRIBE");
    *subscribes
}

/// A proxy that returns an error for every command while `returns_errors` is set.
pub(super) struct ErrorProxy {
    pub(super) port: u16,
    pub(super) returns_errors: Arc<AtomicBool>,
}

impl ErrorProxy {
    /// `commands_only`: forward connections that subscribe.
    pub(super) async fn open(target: u16, reply: &'static str, commands_only: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let returns_errors = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&returns_errors);
        Drain::default().spawn(async move {
            let connections = Drain::default();
            while let Ok((client, _)) = listener.accept().await {
                connections.spawn(return_errors(client, target, (reply, commands_only), Arc::clone(&flag)));
            }
        });
        Self { port, returns_errors }
    }
}

async fn return_errors(
    mut client: TcpStream,
    target: u16,
    (reply, commands_only): (&str, bool),
    returns_errors: Arc<AtomicBool>,
) {
    let Ok(mut server) = TcpStream::connect(("127.0.0.1", target)).await else { return };
    let (mut up, mut down) = ([0; 16 * 1024], [0; 16 * 1024]);
    let mut subscribes = false;
    loop {
        let done = tokio::select! {
            read = client.read(&mut up) => match read {
                Ok(length @ 1..) if is_subscription(&mut subscribes, &up[..length]) && commands_only => {
                    server.write_all(&up[..length]).await
                }
                Ok(length @ 1..) if returns_errors.load(Ordering::Relaxed) => {
                    let commands = up[..length].windows(2).filter(|word| word[0] == b'*' && word[1].is_ascii_digit());
                    client.write_all(reply.repeat(commands.count()).as_bytes()).await
                }
                Ok(length @ 1..) => server.write_all(&up[..length]).await,
                _ => return,
            },
            read = server.read(&mut down) => match read {
                Ok(length @ 1..) => client.write_all(&down[..length]).await,
                _ => return,
            },
        };
        if done.is_err() {
            return;
        }
    }
}

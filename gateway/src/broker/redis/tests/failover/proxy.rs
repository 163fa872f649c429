//! TCP proxies that redirect, drop bytes, or reply themselves.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;

use crate::drain::Drain;

/// What passes a proxy, by the kind of connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dropped {
    Subscription,
    Answers,
    CommandLink,
}

/// A TCP proxy in front of two servers.
#[derive(Default)]
pub(super) struct Proxy {
    pub(super) port: u16,
    pub(super) target: AtomicU16,
    /// Whether bytes are dropped: `Dropped` as a number from 1, or 0.
    dropped: AtomicU16,
    pub(super) bytes: AtomicU64,
    /// The bytes of subscriptions are held.
    holds: AtomicBool,
}

impl Proxy {
    pub(super) async fn open(target: u16) -> Arc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let proxy = Arc::new(Self { port, target: AtomicU16::new(target), ..Self::default() });
        let run = Arc::clone(&proxy);
        Drain::default().spawn(async move {
            let inside = Drain::default();
            while let Ok((near, _)) = listener.accept().await {
                inside.spawn(Arc::clone(&run).join(near));
            }
        });
        proxy
    }

    async fn join(self: Arc<Self>, mut near: TcpStream) {
        let target = self.target.load(Ordering::Relaxed);
        let Ok(mut far) = TcpStream::connect(("127.0.0.1", target)).await else { return };
        let (mut up, mut down) = ([0; 16 * 1024], [0; 16 * 1024]);
        let mut subscribes = false;
        loop {
            let sent = tokio::select! {
                read = near.read(&mut up) => match read {
                    Ok(length @ 1..) => {
                        if !is_subscription(&mut subscribes, &up[..length]) && self.drops(Dropped::CommandLink, length) {
                            continue;
                        }
                        far.write_all(&up[..length]).await
                    }
                    _ => return,
                },
                () = sleep(Duration::from_millis(1)), if self.holds(subscribes) => continue,
                read = far.read(&mut down), if !self.holds(subscribes) => match read {
                    Ok(length @ 1..) => {
                        let kind = if subscribes { Dropped::Subscription } else { Dropped::Answers };
                        if self.drops(kind, length) {
                            continue;
                        }
                        near.write_all(&down[..length]).await
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

    pub(super) async fn hold_for(&self, span: Duration) {
        self.holds.store(true, Ordering::Relaxed);
        sleep(span).await;
        self.holds.store(false, Ordering::Relaxed);
    }

    fn drops(&self, kind: Dropped, length: usize) -> bool {
        let drops = self.dropped.load(Ordering::Relaxed) == kind as u16 + 1;
        if drops {
            self.bytes.fetch_add(length as u64, Ordering::Relaxed);
        }
        drops
    }

    pub(super) async fn drop_for(&self, kind: Dropped, span: Duration) {
        self.dropped.store(kind as u16 + 1, Ordering::Relaxed);
        sleep(span).await;
        self.dropped.store(0, Ordering::Relaxed);
    }

    pub(super) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }
}

/// Whether a connection subscribes, or has done so before (`known`).
fn is_subscription(known: &mut bool, sent: &[u8]) -> bool {
    *known |= sent.windows(9).any(|word| word == b"SUBSCRIBE");
    *known
}

/// A proxy that replies to everything with an error.
pub(super) struct AnsweringProxy {
    pub(super) port: u16,
    pub(super) answers: Arc<AtomicBool>,
}

impl AnsweringProxy {
    /// `commands_only`: not on connections that subscribe.
    pub(super) async fn open(target: u16, reply: &'static str, commands_only: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let answers = Arc::new(AtomicBool::new(false));
        let run = Arc::clone(&answers);
        Drain::default().spawn(async move {
            let inside = Drain::default();
            while let Ok((near, _)) = listener.accept().await {
                inside.spawn(answer(near, target, (reply, commands_only), Arc::clone(&run)));
            }
        });
        Self { port, answers }
    }
}

async fn answer(
    mut near: TcpStream,
    target: u16,
    (reply, commands_only): (&str, bool),
    answers: Arc<AtomicBool>,
) {
    let Ok(mut far) = TcpStream::connect(("127.0.0.1", target)).await else { return };
    let (mut up, mut down) = ([0; 16 * 1024], [0; 16 * 1024]);
    let mut subscribes = false;
    loop {
        let done = tokio::select! {
            read = near.read(&mut up) => match read {
                Ok(length @ 1..) if is_subscription(&mut subscribes, &up[..length]) && commands_only => {
                    far.write_all(&up[..length]).await
                }
                Ok(length @ 1..) if answers.load(Ordering::Relaxed) => {
                    let commands = up[..length].windows(2).filter(|word| word[0] == b'*' && word[1].is_ascii_digit());
                    near.write_all(reply.repeat(commands.count()).as_bytes()).await
                }
                Ok(length @ 1..) => far.write_all(&up[..length]).await,
                _ => return,
            },
            read = far.read(&mut down) => match read {
                Ok(length @ 1..) => near.write_all(&down[..length]).await,
                _ => return,
            },
        };
        if done.is_err() {
            return;
        }
    }
}

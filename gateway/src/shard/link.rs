//! What a connection's bytes go out through: a socket of its own, or a stream inside a connection that hyper carries.
//!
//! Owns the non-blocking write and read. Must never wait, and never hold a buffer.

use std::io::{self, IoSlice, Read, Write};
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::Stream;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tokio_stream::wrappers::ReceiverStream;

use super::outbox::{Outbox, SLICES_MAX};

/// Pieces that may wait between a shard and hyper for one stream, and the size to which frames are gathered or cut.
const STREAM_PIECES: usize = 8;
const STREAM_PIECE_BYTES: usize = 16 * 1024;

/// Where a connection's bytes go.
#[derive(Debug)]
pub enum Link {
    /// A TCP connection that belongs to the shard.
    Socket(mio::net::TcpStream),
    /// A response body inside a connection that belongs to hyper.
    Stream(StreamLink),
}

/// How far a write came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Written {
    /// Everything is out.
    All,
    /// The other side takes no more for now.
    Blocked,
}

/// What a flush did, for the counters.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Flushed {
    pub(super) writes: u64,
    pub(super) bytes: u64,
}

impl Link {
    /// Whether it is a connection of the shard's own.
    #[inline]
    pub(super) fn is_socket(&self) -> bool {
        matches!(self, Self::Socket(_))
    }

    /// The client's address, as far as this gateway knows it. Asked of the kernel, so that a connection does not hold it.
    pub(super) fn peer(&self) -> Option<IpAddr> {
        match self {
            Self::Socket(socket) => socket.peer_addr().ok().map(|peer| peer.ip()),
            Self::Stream(stream) => stream.peer,
        }
    }

    /// Writes what waits, until nothing does or the other side takes no more.
    pub(super) fn flush(&mut self, outbox: &mut Outbox, flushed: &mut Flushed) -> io::Result<Written> {
        match self {
            Self::Socket(socket) => flush_socket(socket, outbox, flushed),
            Self::Stream(stream) => stream.flush(outbox, flushed),
        }
    }

    /// Reads what has arrived; a stream hears nothing from its client.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Socket(socket) => socket.read(buffer),
            Self::Stream(_) => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    /// Says that nothing more will be written.
    pub(super) fn finish(&mut self) {
        if let Self::Socket(socket) = self {
            // A connection that is already broken needs no goodbye.
            let _ = socket.shutdown(std::net::Shutdown::Write);
        }
    }
}

fn flush_socket(
    socket: &mut mio::net::TcpStream,
    outbox: &mut Outbox,
    flushed: &mut Flushed,
) -> io::Result<Written> {
    while !outbox.is_empty() {
        let result = match outbox.single() {
            Some(frame) => socket.write(frame),
            None => {
                let mut slices = [IoSlice::new(&[]); SLICES_MAX];
                let filled = outbox.slices(&mut slices);
                socket.write_vectored(&slices[..filled])
            }
        };
        flushed.writes += 1;
        match result {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                flushed.bytes += written as u64;
                outbox.advance(written);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Written::Blocked),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(Written::All)
}

/// The shard's end of a stream.
#[derive(Debug)]
pub struct StreamLink {
    pieces: mpsc::Sender<Bytes>,
    peer: Option<IpAddr>,
    shared: Arc<Shared>,
}

/// The body that hyper reads: a bounded stream of pieces.
#[derive(Debug)]
pub struct StreamBody {
    pieces: ReceiverStream<Bytes>,
    shared: Arc<Shared>,
}

/// Wakes a shard for one of its streams: there is room again, or the client has gone.
pub(super) type StreamWakes = mpsc::Sender<u64>;

#[derive(Debug)]
struct Shared {
    /// The connection's key in its shard; zero until it has one.
    key: AtomicU64,
    blocked: AtomicBool,
    wakes: StreamWakes,
}

/// Makes both ends of a stream whose shard is woken through `wakes`.
pub(super) fn stream(wakes: StreamWakes) -> (StreamLink, StreamBody) {
    let (sender, receiver) = mpsc::channel(STREAM_PIECES);
    let shared = Arc::new(Shared { key: AtomicU64::new(0), blocked: AtomicBool::new(false), wakes });
    let body = StreamBody { pieces: ReceiverStream::new(receiver), shared: Arc::clone(&shared) };
    (StreamLink { pieces: sender, peer: None, shared }, body)
}

impl StreamLink {
    /// The same for a client at this address.
    pub(super) fn with_peer(self, peer: Option<IpAddr>) -> Self {
        Self { peer, ..self }
    }

    /// From now on the shard knows the stream by this key.
    pub(super) fn enter(&self, key: u64) {
        self.shared.key.store(key, Ordering::Release);
    }

    /// Whether the client has gone.
    pub(super) fn is_closed(&self) -> bool {
        self.pieces.is_closed()
    }

    fn flush(&self, outbox: &mut Outbox, flushed: &mut Flushed) -> io::Result<Written> {
        while !outbox.is_empty() {
            // Said before trying: the reader looks at it after it has made room.
            self.shared.blocked.store(true, Ordering::SeqCst);
            match self.pieces.try_reserve() {
                Ok(place) => {
                    let piece = outbox.take(STREAM_PIECE_BYTES);
                    flushed.writes += 1;
                    flushed.bytes += piece.len() as u64;
                    place.send(piece);
                }
                Err(TrySendError::Full(())) => return Ok(Written::Blocked),
                Err(TrySendError::Closed(())) => return Err(io::ErrorKind::BrokenPipe.into()),
            }
        }
        self.shared.blocked.store(false, Ordering::SeqCst);
        Ok(Written::All)
    }
}

impl Stream for StreamBody {
    type Item = Result<Bytes, std::convert::Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let piece = Pin::new(&mut self.pieces).poll_next(cx);
        if let Poll::Ready(Some(_)) = piece
            && self.shared.blocked.swap(false, Ordering::SeqCst)
        {
            self.shared.wake();
        }
        piece.map(|piece| piece.map(Ok))
    }
}

impl Drop for StreamBody {
    fn drop(&mut self) {
        self.shared.wake();
    }
}

impl Shared {
    fn wake(&self) {
        // A wake that finds no place is made good by the shard's own look at its streams, once a tick.
        let _ = self.wakes.try_send(self.key.load(Ordering::Acquire));
    }
}

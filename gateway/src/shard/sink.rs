//! The destination of a connection's bytes: its own socket, or a stream in a connection that hyper serves.
//!
//! Writes and reads without blocking, and holds no buffer.

use std::io::{self, IoSlice, Read, Write};
use std::net::SocketAddr;
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

/// Chunks that may wait between a shard and hyper for one stream, and the size to which frames are joined or split.
const HYPER_CHUNKS_MAX: usize = 8;
const HYPER_CHUNK_BYTES: usize = 16 * 1024;

/// Where a connection's bytes are written.
#[derive(Debug)]
pub enum Sink {
    /// A TCP connection that belongs to the shard.
    Socket(mio::net::TcpStream),
    /// A response body in a connection that belongs to hyper.
    Hyper(HyperSink),
}

/// The result of a flush.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FlushStatus {
    /// Everything is written.
    Done,
    /// The other side accepts no more bytes for now.
    Blocked,
}

/// Counts of a flush.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct FlushStats {
    pub(super) writes: u64,
    pub(super) bytes: u64,
}

impl Sink {
    /// Whether it is a TCP connection of the shard.
    #[inline]
    pub(super) fn is_socket(&self) -> bool {
        matches!(self, Self::Socket(_))
    }

    /// The address of the peer of a TCP connection of the shard. Read from the kernel, so that an idle connection does not
    /// store it.
    pub(super) fn peer(&self) -> Option<SocketAddr> {
        match self {
            Self::Socket(socket) => socket.peer_addr().ok(),
            Self::Hyper(_) => None,
        }
    }

    /// Writes the outbox until it is empty or the other side accepts no more.
    pub(super) fn flush(&mut self, outbox: &mut Outbox, stats: &mut FlushStats) -> io::Result<FlushStatus> {
        match self {
            Self::Socket(socket) => flush_socket(socket, outbox, stats),
            Self::Hyper(stream) => stream.flush(outbox, stats),
        }
    }

    /// Reads available bytes; a hyper stream has none.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Socket(socket) => socket.read(buffer),
            Self::Hyper(_) => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    /// Shuts down the write side.
    pub(super) fn shut_down(&mut self) {
        if let Self::Socket(socket) = self {
            // The connection may already be broken.
            let _ = socket.shutdown(std::net::Shutdown::Write);
        }
    }
}

fn flush_socket(
    socket: &mut mio::net::TcpStream,
    outbox: &mut Outbox,
    stats: &mut FlushStats,
) -> io::Result<FlushStatus> {
    while !outbox.is_empty() {
        let result = match outbox.single() {
            Some(frame) => socket.write(frame),
            None => {
                let mut slices = [IoSlice::new(&[]); SLICES_MAX];
                let filled = outbox.slices(&mut slices);
                socket.write_vectored(&slices[..filled])
            }
        };
        stats.writes += 1;
        match result {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                stats.bytes += written as u64;
                outbox.advance(written);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(FlushStatus::Blocked),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(FlushStatus::Done)
}

/// The shard's end of a stream.
#[derive(Debug)]
pub struct HyperSink {
    chunks: mpsc::Sender<Bytes>,
    shared: Arc<Shared>,
}

/// The body that hyper reads: a bounded stream of chunks.
#[derive(Debug)]
pub struct HyperBody {
    chunks: ReceiverStream<Bytes>,
    shared: Arc<Shared>,
}

/// Wakes a shard for one of its streams: there is room again, or the client has disconnected.
pub(super) type HyperWakes = mpsc::Sender<u64>;

#[derive(Debug)]
struct Shared {
    /// The connection's key in its shard; zero until it has one.
    key: AtomicU64,
    blocked: AtomicBool,
    wakes: HyperWakes,
}

/// Creates both ends of a stream. `wakes` wakes its shard.
pub(super) fn hyper(wakes: HyperWakes) -> (HyperSink, HyperBody) {
    let (sender, receiver) = mpsc::channel(HYPER_CHUNKS_MAX);
    let shared = Arc::new(Shared { key: AtomicU64::new(0), blocked: AtomicBool::new(false), wakes });
    let body = HyperBody { chunks: ReceiverStream::new(receiver), shared: Arc::clone(&shared) };
    (HyperSink { chunks: sender, shared }, body)
}

impl HyperSink {
    /// Sets the key by which the shard finds the stream.
    pub(super) fn set_key(&self, key: u64) {
        self.shared.key.store(key, Ordering::Release);
    }

    /// Whether the client has disconnected.
    pub(super) fn is_closed(&self) -> bool {
        self.chunks.is_closed()
    }

    fn flush(&self, outbox: &mut Outbox, stats: &mut FlushStats) -> io::Result<FlushStatus> {
        while !outbox.is_empty() {
            // Set before trying: the reader checks it after it has made room.
            self.shared.blocked.store(true, Ordering::SeqCst);
            match self.chunks.try_reserve() {
                Ok(place) => {
                    let chunk = outbox.take_chunk(HYPER_CHUNK_BYTES);
                    stats.writes += 1;
                    stats.bytes += chunk.len() as u64;
                    place.send(chunk);
                }
                Err(TrySendError::Full(())) => return Ok(FlushStatus::Blocked),
                Err(TrySendError::Closed(())) => return Err(io::ErrorKind::BrokenPipe.into()),
            }
        }
        self.shared.blocked.store(false, Ordering::SeqCst);
        Ok(FlushStatus::Done)
    }
}

impl Stream for HyperBody {
    type Item = Result<Bytes, std::convert::Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let chunk = Pin::new(&mut self.chunks).poll_next(cx);
        if let Poll::Ready(Some(_)) = chunk
            && self.shared.blocked.swap(false, Ordering::SeqCst)
        {
            self.shared.wake();
        }
        chunk.map(|chunk| chunk.map(Ok))
    }
}

impl Drop for HyperBody {
    fn drop(&mut self) {
        self.shared.wake();
    }
}

impl Shared {
    fn wake(&self) {
        // If the queue is full, the shard finds the stream itself (`HYPER_POLL_TICKS`).
        let _ = self.wakes.try_send(self.key.load(Ordering::Acquire));
    }
}

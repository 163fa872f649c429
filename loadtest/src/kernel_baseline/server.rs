//! The baseline server: blocking sockets, one thread, one write per message and socket. No timers, no queues, no poll,
//! no unsubscribing. A lower bound for the cost of a real server; keep it minimal.

use std::collections::HashMap;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;

use clap::Args;
use memchr::memmem;
use socket2::{Domain, Socket, Type};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::frame::FrameHeader;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};

use crate::publisher::baseline;

const LISTEN_BACKLOG: i32 = 4096;
/// Size of the read buffer for the publisher; one message must fit.
const BUFFER_BYTES: usize = 1 << 20;

/// Server of the `kernel-baseline` scenario.
#[derive(Args, Clone, Debug)]
pub(crate) struct BaselineServerArgs {
    /// Address to listen on; the bound address is printed
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Write the messages of a burst with one call
    #[arg(long)]
    join: bool,
    /// Exit when standard input is closed
    #[arg(long)]
    until_eof: bool,
}

/// Subscribers of a channel by transport.
#[derive(Debug, Default)]
struct Subscribers {
    websockets: Vec<TcpStream>,
    streams: Vec<TcpStream>,
}

enum BaselinePeer {
    WebSocket(String),
    Stream(String),
    /// With the bytes received after the head.
    Publisher(Vec<u8>),
}

/// Accepts subscribers until a publisher connects, then writes its messages until it disconnects; repeats forever.
pub(crate) fn serve(args: &BaselineServerArgs) -> io::Result<()> {
    if args.until_eof {
        let thread = thread::Builder::new().name("owner".to_owned());
        thread.spawn(|| {
            // Standard input is closed, or cannot be read: exit in both cases.
            let _ = io::copy(&mut io::stdin(), &mut io::sink());
            std::process::exit(0);
        })?;
    }
    let listener = listen(args.listen)?;
    writeln!(io::stdout(), "{}", listener.local_addr()?)?;
    let mut channels: HashMap<Vec<u8>, Subscribers> = HashMap::new();
    loop {
        let (stream, _) = listener.accept()?;
        // A connection that breaks during the handshake is ignored.
        let Ok((stream, peer)) = handshake(stream) else { continue };
        match peer {
            BaselinePeer::WebSocket(channel) => {
                channels.entry(channel.into_bytes()).or_default().websockets.push(stream)
            }
            BaselinePeer::Stream(channel) => {
                channels.entry(channel.into_bytes()).or_default().streams.push(stream)
            }
            BaselinePeer::Publisher(sent) => broadcast(stream, sent, &mut channels, args.join)?,
        }
    }
}

/// With the standard library's backlog of 128 the test would measure SYN retries.
fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.bind(&address.into())?;
    socket.listen(LISTEN_BACKLOG)?;
    Ok(socket.into())
}

fn handshake(stream: TcpStream) -> io::Result<(TcpStream, BaselinePeer)> {
    stream.set_nodelay(true)?;
    let (head, rest) = read_head(&stream)?;
    let path = head.split(' ').nth(1).unwrap_or_default();
    if let Some(channel) = path.strip_prefix("/ws/") {
        let key = head.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Key: ")).unwrap_or_default();
        let accept = derive_accept_key(key.as_bytes());
        let answer = format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {accept}\r\n\r\n"
        );
        (&stream).write_all(answer.as_bytes())?;
        return Ok((stream, BaselinePeer::WebSocket(channel.to_owned())));
    }
    if let Some(channel) = path.strip_prefix("/sse/") {
        (&stream).write_all(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")?;
        return Ok((stream, BaselinePeer::Stream(channel.to_owned())));
    }
    Ok((stream, BaselinePeer::Publisher(rest)))
}

/// Reads a request head; returns it with the bytes after it.
fn read_head(mut stream: &TcpStream) -> io::Result<(String, Vec<u8>)> {
    let (mut head, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        if let Some(end) = memmem::find(&head, b"\r\n\r\n") {
            let rest = head.split_off(end + 4);
            return Ok((String::from_utf8_lossy(&head).into_owned(), rest));
        }
        match stream.read(&mut buffer)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => head.extend_from_slice(&buffer[..count]),
        }
    }
}

/// Writes the publisher's messages to the subscribers until the publisher disconnects.
fn broadcast(
    mut publisher: TcpStream,
    sent: Vec<u8>,
    channels: &mut HashMap<Vec<u8>, Subscribers>,
    join: bool,
) -> io::Result<()> {
    let (mut filled, mut buffer) = (sent.len(), sent);
    buffer.resize(BUFFER_BYTES, 0);
    loop {
        let mut used = 0;
        while let Some((channel, payload, length)) = baseline::read(&buffer[used..filled]) {
            let mut frames = Frames::default();
            frames.add(payload);
            used += length;
            if join {
                let channel = channel.to_vec();
                while let Some((next, payload, length)) = baseline::read(&buffer[used..filled])
                    && next == channel
                {
                    frames.add(payload);
                    used += length;
                }
                frames.write(channels.get_mut(&channel));
            } else {
                frames.write(channels.get_mut(channel));
            }
        }
        buffer.copy_within(used..filled, 0);
        filled -= used;
        match publisher.read(&mut buffer[filled..])? {
            0 => return Ok(()),
            count => filled += count,
        }
    }
}

/// Encoded messages.
#[derive(Default)]
struct Frames {
    websocket: Vec<u8>,
    stream: Vec<u8>,
}

impl Frames {
    fn add(&mut self, payload: &[u8]) {
        let header = FrameHeader { opcode: OpCode::Data(Data::Text), mask: None, ..FrameHeader::default() };
        // Writing to a vector cannot fail.
        let _ = header.format(payload.len() as u64, &mut self.websocket);
        self.websocket.extend_from_slice(payload);
        for part in [&b"data: "[..], payload, b"\n\n"] {
            self.stream.extend_from_slice(part);
        }
    }

    /// Writes the frames to all subscribers. Removes those whose connection is broken.
    fn write(&self, subscribers: Option<&mut Subscribers>) {
        let Some(subscribers) = subscribers else { return };
        subscribers.websockets.retain_mut(|socket| socket.write_all(&self.websocket).is_ok());
        subscribers.streams.retain_mut(|socket| socket.write_all(&self.stream).is_ok());
    }
}

//! The bare loop: blocking sockets, one thread, one write for each message and socket. No timer, no queue, no poll, no
//! subscription that ever ends. It is what a server cannot be faster than; never try to make it a server.

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
/// What is read at once of the publisher's messages; one of them must fit.
const BUFFER_BYTES: usize = 1 << 20;

/// The server of `limit`.
#[derive(Args, Clone, Debug)]
pub(crate) struct BaselineServerArgs {
    /// Where to listen; the address is printed
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Write what was published together in one go
    #[arg(long)]
    join: bool,
    /// End with standard input, as an owner does that cannot say goodbye
    #[arg(long)]
    until_eof: bool,
}

/// Those who hear a channel, by what they hear it over.
#[derive(Debug, Default)]
struct Subscribers {
    websockets: Vec<TcpStream>,
    streams: Vec<TcpStream>,
}

enum Peer {
    WebSocket(String),
    Stream(String),
    /// With what it has sent already.
    Publisher(Vec<u8>),
}

/// Lets everybody in until the publisher comes, then writes what it sends until it goes, and so on for ever.
pub(crate) fn serve(args: &BaselineServerArgs) -> io::Result<()> {
    if args.until_eof {
        let thread = thread::Builder::new().name("owner".to_owned());
        thread.spawn(|| {
            // Whatever comes of reading, it is the end.
            let _ = io::copy(&mut io::stdin(), &mut io::sink());
            std::process::exit(0);
        })?;
    }
    let listener = listen(args.listen)?;
    writeln!(io::stdout(), "{}", listener.local_addr()?)?;
    let mut channels: HashMap<Vec<u8>, Subscribers> = HashMap::new();
    loop {
        let (stream, _) = listener.accept()?;
        // Somebody who goes in the middle of the handshake is nobody's loss.
        let Ok((stream, peer)) = handshake(stream) else { continue };
        match peer {
            Peer::WebSocket(channel) => {
                channels.entry(channel.into_bytes()).or_default().websockets.push(stream)
            }
            Peer::Stream(channel) => channels.entry(channel.into_bytes()).or_default().streams.push(stream),
            Peer::Publisher(sent) => broadcast(stream, sent, &mut channels, args.join)?,
        }
    }
}

/// The standard library's backlog of 128 would measure how clients try again.
fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.bind(&address.into())?;
    socket.listen(LISTEN_BACKLOG)?;
    Ok(socket.into())
}

fn handshake(stream: TcpStream) -> io::Result<(TcpStream, Peer)> {
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
        return Ok((stream, Peer::WebSocket(channel.to_owned())));
    }
    if let Some(channel) = path.strip_prefix("/sse/") {
        (&stream).write_all(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")?;
        return Ok((stream, Peer::Stream(channel.to_owned())));
    }
    Ok((stream, Peer::Publisher(rest)))
}

/// The head of a request, and what came with it.
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

/// Until the publisher goes.
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

/// Messages, ready for the sockets.
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

    /// Whoever does not take it has gone.
    fn write(&self, subscribers: Option<&mut Subscribers>) {
        let Some(subscribers) = subscribers else { return };
        subscribers.websockets.retain_mut(|socket| socket.write_all(&self.websocket).is_ok());
        subscribers.streams.retain_mut(|socket| socket.write_all(&self.stream).is_ok());
    }
}

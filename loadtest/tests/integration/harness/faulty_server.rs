//! A server of event streams with a publish API that injects one fault, at the third message, for one subscriber of the
//! first channel. All other messages are delivered correctly.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

/// The fault to inject.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    None,
    Lose,
    Duplicate,
    /// Sends it after the fourth message.
    Reorder,
    /// Changes one byte.
    Alter,
    /// Sends a message of the other channel.
    Misroute,
    /// Closes the connection instead.
    Close,
    /// Rejects the publish request.
    Reject,
}

#[derive(Default)]
struct State {
    subscribers: Vec<(String, TcpStream)>,
    published: u64,
    held: Option<String>,
}

/// Starts the server; returns its port. It stops with the test process.
pub(crate) fn faulty_server(fault: Fault) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let state = Arc::new(Mutex::new(State::default()));
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let state = Arc::clone(&state);
            // Closed connections are ignored.
            thread::spawn(move || drop(serve(&stream, fault, &state)));
        }
    });
    port
}

fn serve(stream: &TcpStream, fault: Fault, state: &Mutex<State>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    loop {
        let (mut first, mut length) = (String::new(), 0);
        if reader.read_line(&mut first)? == 0 {
            return Ok(());
        }
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            if line == "\r\n" {
                break;
            }
            if let Some(value) = line.strip_prefix("Content-Length: ") {
                length = value.trim().parse().unwrap();
            }
        }
        if let Some(rest) = first.strip_prefix("GET /sse/") {
            let channel = rest.split(' ').next().unwrap().to_owned();
            let mut stream = stream.try_clone()?;
            stream
                .write_all(b"HTTP/1.1 200 OK\r\n\r\nevent: subscribed\ndata: {\"channels\":{}}\nid: 0\n\n")?;
            state.lock().unwrap().subscribers.push((channel, stream));
            continue;
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        let response = publish(&body, fault, &mut state.lock().unwrap());
        write!(&*stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{response}", response.len())?;
    }
}

/// Extracts the data without parsing JSON, since the load test checks every byte.
fn publish(body: &[u8], fault: Fault, state: &mut State) -> &'static str {
    let body = std::str::from_utf8(body).unwrap();
    let rest = body.strip_prefix(r#"{"channel":""#).unwrap();
    let (channel, rest) = rest.split_once('"').unwrap();
    let data = rest.strip_prefix(r#","data":"#).unwrap().strip_suffix('}').unwrap();
    state.published += 1;
    let third = state.published == 3;
    if third && fault == Fault::Reject {
        return r#"{"error":{"code":100,"message":"internal server error"}}"#;
    }
    // Sorted by name, since the order of connections is random.
    state.subscribers.sort_by(|one, other| one.0.cmp(&other.0));
    let (first, others) = state.subscribers.split_first_mut().unwrap();
    for (own, stream) in others {
        if own == channel {
            event(stream, data);
        }
    }
    let delayed = state.held.take();
    if first.0 == channel || (third && fault == Fault::Misroute) {
        match fault {
            _ if !third => event(&mut first.1, data),
            Fault::Lose => {}
            Fault::Duplicate => (0..2).for_each(|_| event(&mut first.1, data)),
            Fault::Reorder => state.held = Some(data.to_owned()),
            Fault::Alter => event(&mut first.1, &data.replacen("xx", "xy", 1)),
            Fault::Close => drop(first.1.shutdown(std::net::Shutdown::Both)),
            Fault::None | Fault::Misroute | Fault::Reject => event(&mut first.1, data),
        }
    }
    if let Some(data) = delayed {
        event(&mut first.1, &data);
    }
    r#"{"result":{}}"#
}

fn event(stream: &mut TcpStream, data: &str) {
    // Closed connections are ignored.
    let _ = write!(stream, "data: {data}\n\n");
}

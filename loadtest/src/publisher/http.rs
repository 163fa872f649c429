//! Blocking connection to the HTTP API of the target. Pipelines requests over one connection, which preserves the order
//! of messages and costs one round trip per batch.

use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;

use earshot_client::http1::ResponseParser;

use super::Outgoing;
use super::error::{IO_TIMEOUT, PublisherError};
use crate::target::BenchTarget;

/// Largest response body that is kept; usual ones are a few dozen bytes.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// An open connection.
#[derive(Debug)]
pub(crate) struct ApiConnection {
    stream: TcpStream,
    target: BenchTarget,
    /// Part of each request head between the path and the content length.
    head: String,
    /// Bytes read but not yet processed.
    unread: Vec<u8>,
}

impl ApiConnection {
    pub(super) fn open(target: &BenchTarget, api_key: Option<&str>) -> Result<Self, PublisherError> {
        let stream = TcpStream::connect_timeout(&target.address(), IO_TIMEOUT)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(IO_TIMEOUT))?;
        stream.set_write_timeout(Some(IO_TIMEOUT))?;
        let key = api_key.map(|key| format!("X-API-Key: {key}\r\n")).unwrap_or_default();
        let host = target.authority();
        let head =
            format!(" HTTP/1.1\r\nHost: {host}\r\n{key}Content-Type: application/json\r\nContent-Length: ");
        Ok(Self { stream, target: target.clone(), head, unread: Vec::new() })
    }

    pub(super) fn publish(&mut self, batch: &[Outgoing<'_>]) -> Result<(), PublisherError> {
        let mut requests = Vec::new();
        for message in batch {
            self.write_request(message, &mut requests);
        }
        self.stream.write_all(&requests)?;
        for _ in batch {
            self.read_answer()?;
        }
        Ok(())
    }

    fn write_request(&self, message: &Outgoing<'_>, out: &mut Vec<u8>) {
        let (opening, closing) = if self.target.kind().wraps_publications() {
            let channel = serde_json::Value::from(message.channel).to_string();
            (format!(r#"{{"channel":{channel},"data":"#), "}")
        } else {
            (String::new(), "")
        };
        let length = opening.len() + message.payload.len() + closing.len();
        let path = self.target.publish_path(message.channel);
        out.extend_from_slice(format!("POST {path}{}{length}\r\n\r\n{opening}", self.head).as_bytes());
        out.extend_from_slice(&message.payload);
        out.extend_from_slice(closing.as_bytes());
    }

    fn read_answer(&mut self) -> Result<(), PublisherError> {
        let (mut response, mut body) = (ResponseParser::default(), Vec::new());
        loop {
            let rest = response.feed(&self.unread, |bytes| {
                let room = ANSWER_BYTES_MAX.saturating_sub(body.len()).min(bytes.len());
                body.extend_from_slice(&bytes[..room]);
            })?;
            self.unread = rest.to_vec();
            if response.is_done() {
                let wrapped = self.target.kind().wraps_publications();
                return check_answer(wrapped, response.status().unwrap_or_default(), &body);
            }
            self.read_more()?;
        }
    }

    fn read_more(&mut self) -> io::Result<()> {
        let mut buffer = [0; 16 * 1024];
        match self.stream.read(&mut buffer) {
            Ok(0) => Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the connection was closed before the response",
            )),
            Ok(count) => {
                self.unread.extend_from_slice(&buffer[..count]);
                Ok(())
            }
            // The kernel does not restart a read with a timeout after SIGSTOP and SIGCONT.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// APIs with wrapped publications report errors in the body with status 200; others report them with the status.
fn check_answer(wrapped: bool, status: u16, body: &[u8]) -> Result<(), PublisherError> {
    let accepted = if wrapped {
        let answer = serde_json::from_slice::<serde_json::Value>(body);
        status == 200 && answer.is_ok_and(|answer| answer.is_object() && answer.get("error").is_none())
    } else {
        (200..300).contains(&status)
    };
    if accepted {
        return Ok(());
    }
    let answer = String::from_utf8_lossy(body).chars().take(200).collect();
    Err(PublisherError::Refused { status, answer })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_replies_are_rejected() {
        assert!(check_answer(true, 200, br#"{"result":{"offset":1}}"#).is_ok());
        assert!(check_answer(true, 200, br#"{"error":{"code":102,"message":"unknown channel"}}"#).is_err());
        assert!(check_answer(true, 200, b"<html>").is_err());
        assert!(check_answer(true, 401, br#"{"result":{}}"#).is_err());
        assert!(check_answer(false, 201, b"queued messages: 1").is_ok());
        assert!(check_answer(false, 403, b"").is_err());
    }
}

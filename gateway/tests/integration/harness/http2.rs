//! An HTTP/2 client with any number of streams. It must never repair a response.

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use hyper::http;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use super::sse::{Event, Parser};
use super::{Gateway, until, within_timeout};

/// An HTTP/2 connection with prior knowledge.
pub(crate) struct Connection {
    requests: SendRequest<Bytes>,
    driver: JoinHandle<Result<(), h2::Error>>,
}

impl Connection {
    /// Connects with a connection window that streams which are not read yet cannot use up.
    pub(crate) async fn open(gateway: &Gateway) -> Self {
        Self::handshake(gateway, h2::client::Builder::new().initial_connection_window_size(16 << 20)).await
    }

    /// A connection whose streams have a flow-control window of zero.
    pub(crate) async fn with_zero_window(gateway: &Gateway) -> Self {
        Self::handshake(gateway, h2::client::Builder::new().initial_window_size(0)).await
    }

    async fn handshake(gateway: &Gateway, builder: &h2::client::Builder) -> Self {
        let stream = TcpStream::connect(gateway.address()).await.unwrap();
        let (requests, driver) =
            within_timeout("the HTTP/2 preface", builder.handshake(stream)).await.unwrap();
        Self { requests, driver: tokio::spawn(driver) }
    }

    /// Waits until the gateway has closed the connection.
    pub(crate) async fn wait_until_closed(&self) {
        until("the gateway closes the connection", async || self.driver.is_finished().then_some(())).await;
    }

    pub(crate) async fn get(&self, path: &str) -> http::Response<RecvStream> {
        self.get_with_authority("localhost", path).await
    }

    /// `GET` with this `:authority`.
    pub(crate) async fn get_with_authority(&self, host: &str, path: &str) -> http::Response<RecvStream> {
        self.send(http::Request::get(format!("http://{host}{path}")).body(()).unwrap()).await
    }

    /// `GET` with these headers.
    pub(crate) async fn get_with_headers(
        &self,
        path: &str,
        headers: &[(&str, &str)],
    ) -> http::Response<RecvStream> {
        let request = http::Request::get(format!("http://localhost{path}"));
        let add =
            |request: http::request::Builder, (name, value): &(&str, &str)| request.header(*name, *value);
        self.send(headers.iter().fold(request, add).body(()).unwrap()).await
    }

    async fn send(&self, request: http::Request<()>) -> http::Response<RecvStream> {
        let mut requests = within_timeout("a free stream", self.requests.clone().ready()).await.unwrap();
        let (answer, _) = requests.send_request(request, true).unwrap();
        within_timeout("the response", answer).await.unwrap()
    }

    /// Sends a `POST` that can be cancelled with [`SendStream::send_reset`].
    pub(crate) async fn post(&self, path: &str, body: &str) -> (ResponseFuture, SendStream<Bytes>) {
        let (answer, mut stream) = self.begin_post(path).await;
        stream.send_data(Bytes::from(body.to_owned()), true).unwrap();
        (answer, stream)
    }

    /// Sends the head of a `POST`; the body follows.
    pub(crate) async fn begin_post(&self, path: &str) -> (ResponseFuture, SendStream<Bytes>) {
        let request = http::Request::post(format!("http://localhost{path}"))
            .header("content-type", "application/json")
            .body(())
            .unwrap();
        let mut requests = within_timeout("a free stream", self.requests.clone().ready()).await.unwrap();
        requests.send_request(request, false).unwrap()
    }

    pub(crate) async fn stream(&self, path: &str) -> Stream {
        let answer = self.get(path).await;
        assert_eq!(answer.status(), 200, "{path}");
        assert!(answer.headers()["content-type"].to_str().unwrap().starts_with("text/event-stream"));
        Stream { body: answer.into_body(), parser: Parser::default() }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// An event stream over HTTP/2.
pub(crate) struct Stream {
    body: RecvStream,
    parser: Parser,
}

impl Stream {
    pub(crate) async fn event(&mut self) -> Event {
        loop {
            if let Some(event) = self.parser.next() {
                return event;
            }
            let bytes =
                within_timeout("an event", self.body.data()).await.expect("the stream ended").unwrap();
            self.body.flow_control().release_capacity(bytes.len()).unwrap();
            self.parser.take(&bytes);
        }
    }
}

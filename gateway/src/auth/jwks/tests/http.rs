//! Tests of reads over HTTP and TLS, with a server on this machine.

use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::PrivateKeyDer;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::super::{FetchKeySet as _, FetchedKeySet, HttpKeySetFetcher, JwksError};
use crate::http_client::HttpUrl;

/// A certificate for `localhost`, and the configurations of a server with it and of a client that trusts it.
fn tls() -> (Arc<rustls::ServerConfig>, Arc<rustls::ClientConfig>) {
    let generated = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let certificate = generated.cert.der().clone();
    let key = PrivateKeyDer::try_from(generated.signing_key.serialize_der()).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let server = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    let client = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    (Arc::new(server), Arc::new(client))
}

/// Reads the head of a request, and sends a response. Returns the head.
async fn serve(mut stream: impl AsyncRead + AsyncWrite + Unpin, response: &[u8]) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    // The client may close before it has read all.
    let _ = stream.write_all(response).await;
    let _ = stream.shutdown().await;
    String::from_utf8(head).unwrap()
}

/// One read from a server that sends this response; the result, and the head of the request.
async fn fetch(response: &[u8]) -> (Result<FetchedKeySet, JwksError>, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/jwks?a=b", listener.local_addr().unwrap());
    let fetcher = HttpKeySetFetcher::new(HttpUrl::parse(&url, false).unwrap(), tls().1);
    let server = async { serve(listener.accept().await.unwrap().0, response).await };
    tokio::join!(fetcher.fetch(), server)
}

#[tokio::test]
async fn reads_body_and_lifetime() {
    let (fetched, head) =
        fetch(b"HTTP/1.1 200 OK\r\nCache-Control: public, max-age=300\r\nContent-Length: 2\r\n\r\n{}").await;
    let expected = FetchedKeySet { body: "{}".into(), max_age: Some(Duration::from_secs(300)) };
    assert_eq!(fetched, Ok(expected));
    assert!(head.starts_with("GET /jwks?a=b HTTP/1.1\r\n") && head.contains("host: 127.0.0.1:"), "{head}");
    // Without a length: the end of the connection ends the body.
    let (fetched, _) = fetch(b"HTTP/1.1 200 OK\r\n\r\n{\"keys\":[]}").await;
    assert_eq!(fetched.unwrap().body, "{\"keys\":[]}");
}

#[tokio::test]
async fn rejects_other_responses() {
    for (response, status) in [
        (&b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n"[..], 302),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", 404),
        (b"HTTP/1.1 503 Unavailable\r\nContent-Length: 0\r\n\r\n", 503),
        (b"HTTP/1.1 206 Partial\r\nContent-Length: 0\r\n\r\n", 206),
    ] {
        assert_eq!(fetch(response).await.0, Err(JwksError::Status(status)));
    }
    for response in [
        &b""[..],
        b"SSH-2.0-OpenSSH\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n",
    ] {
        let (result, _) = fetch(response).await;
        assert!(matches!(result, Err(JwksError::Response(_))), "{result:?}");
    }
}

#[tokio::test]
async fn rejects_large_responses() {
    for head in ["HTTP/1.1 200 OK\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 10000000\r\n\r\n"] {
        let response = [head.as_bytes(), &vec![b' '; 300 * 1024]].concat();
        assert_eq!(fetch(&response).await.0, Err(JwksError::TooLarge { max: 256 * 1024 }));
    }
    let head = [b"HTTP/1.1 200 OK\r\nX: ".to_vec(), vec![b'x'; 100 * 1024], b"\r\n\r\n".to_vec()].concat();
    assert!(matches!(fetch(&head).await.0, Err(JwksError::Response(_))));
}

#[tokio::test]
async fn reports_a_server_that_does_not_listen() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    let url = HttpUrl::parse(&format!("http://{address}/"), false).unwrap();
    let result = HttpKeySetFetcher::new(url, tls().1).fetch().await;
    assert!(matches!(&result, Err(JwksError::Connect { host, .. }) if *host == address), "{result:?}");
}

#[tokio::test]
async fn verifies_the_certificate() {
    let (server, trusting) = tls();
    let (_, other) = tls();
    for (client, name, is_trusted) in
        [(&trusting, "localhost", true), (&other, "localhost", false), (&trusting, "127.0.0.1", false)]
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://{name}:{}/jwks", listener.local_addr().unwrap().port());
        let fetcher = HttpKeySetFetcher::new(HttpUrl::parse(&url, false).unwrap(), Arc::clone(client));
        let serve = async {
            let stream = listener.accept().await.unwrap().0;
            if let Ok(stream) = TlsAcceptor::from(Arc::clone(&server)).accept(stream).await {
                serve(stream, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}").await;
            }
        };
        let (result, ()) = tokio::join!(fetcher.fetch(), serve);
        match result {
            Ok(fetched) => assert!(is_trusted && fetched.body == "{}", "{name}"),
            Err(error) => assert!(!is_trusted && matches!(error, JwksError::Connect { .. }), "{error}"),
        }
    }
}

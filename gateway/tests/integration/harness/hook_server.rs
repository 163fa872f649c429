//! The backend of an application: an HTTP server whose answers the test determines, and that records each call.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// A call that the server received.
#[derive(Clone, Debug)]
pub(crate) struct HookCall {
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
    pub(crate) body: Value,
}

impl HookCall {
    /// The names of `channels`.
    pub(crate) fn channels(&self) -> Vec<String> {
        let names = self.body["channels"].as_array().into_iter().flatten();
        names.map(|name| name.as_str().unwrap().to_owned()).collect()
    }

    /// The value of a header field; empty if it is absent.
    pub(crate) fn header(&self, name: &str) -> String {
        self.headers.get(name).map_or(String::new(), |value| value.to_str().unwrap().to_owned())
    }
}

/// What the server does with a call.
pub(crate) enum Answer {
    /// Status 200 with this body.
    Json(Value),
    /// This response.
    Raw(u16, Vec<(&'static str, String)>, Vec<u8>),
    /// The same, after this time.
    Late(Duration, Value),
    /// Never answers.
    Hang,
}

impl Answer {
    /// Permits all channels of a call.
    pub(crate) fn allow_all(call: &HookCall) -> Self {
        Self::allow(call, |_| true)
    }

    /// Permits some channels of a call, and denies the others.
    pub(crate) fn allow(call: &HookCall, is_allowed: impl Fn(&str) -> bool) -> Self {
        let channels = call.channels().into_iter().map(|name| {
            let allow = is_allowed(&name);
            (name, json!({ "allow": allow }))
        });
        Self::Json(json!({ "result": { "channels": channels.collect::<serde_json::Map<_, _>>() } }))
    }
}

type AnswerTo = Box<dyn Fn(&HookCall) -> Answer + Send + Sync>;

struct Shared {
    calls: Mutex<Vec<HookCall>>,
    answer: Mutex<AnswerTo>,
}

/// A running server.
pub(crate) struct HookServer {
    address: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

impl HookServer {
    pub(crate) async fn start(answer: impl Fn(&HookCall) -> Answer + Send + Sync + 'static) -> Self {
        let shared = Arc::new(Shared { calls: Mutex::default(), answer: Mutex::new(Box::new(answer)) });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().fallback(handle).with_state(Arc::clone(&shared));
        let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { address, shared, task }
    }

    /// Answers the following calls with this.
    pub(crate) fn answer(&self, answer: impl Fn(&HookCall) -> Answer + Send + Sync + 'static) {
        *self.shared.answer.lock().unwrap() = Box::new(answer);
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// The calls so far.
    pub(crate) fn calls(&self) -> Vec<HookCall> {
        self.shared.calls.lock().unwrap().clone()
    }
}

impl Drop for HookServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn handle(State(shared): State<Arc<Shared>>, uri: Uri, headers: HeaderMap, body: Bytes) -> Response {
    let text = String::from_utf8(body.to_vec()).unwrap();
    let body = serde_json::from_str(&text).unwrap_or_default();
    let call = HookCall { path: uri.path().to_owned(), headers, text, body };
    let answer = (shared.answer.lock().unwrap())(&call);
    shared.calls.lock().unwrap().push(call);
    match answer {
        Answer::Json(value) => axum::Json(value).into_response(),
        Answer::Raw(status, fields, body) => {
            let mut response = (StatusCode::from_u16(status).unwrap(), body).into_response();
            for (name, value) in fields {
                response.headers_mut().insert(name, value.parse().unwrap());
            }
            response
        }
        Answer::Late(delay, value) => {
            tokio::time::sleep(delay).await;
            axum::Json(value).into_response()
        }
        Answer::Hang => std::future::pending().await,
    }
}

//! The routing table: the endpoint of each path, and the listener that serves it.
//!
//! Connections are routed by this table before hyper is involved, and the axum router is built from it.

use axum::http::Method;

/// The endpoint of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// The server API.
    Api,
    /// The state of the node.
    Health,
    /// Whether the node accepts new connections.
    Ready,
    /// The metrics of the node.
    Metrics,
    /// Event streams. Also responds to preflight requests, and to other methods with its own error.
    EventStream,
    /// WebSockets.
    WebSocket,
    /// The console page of development mode, and its files.
    Console,
}

/// Which listener serves a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListenerRole {
    /// Clients.
    Public,
    /// Backends, operators and load balancers. Without a listener of this role, a public listener serves its routes.
    Internal,
}

/// A row of the routing table.
#[derive(Clone, Debug)]
pub struct Route {
    /// The path in the syntax of axum: a last segment `{name}` matches any segment, `{*name}` any rest of the path.
    pub path: &'static str,
    /// The method of requests.
    pub method: Method,
    /// The endpoint of the path.
    pub endpoint: Endpoint,
    /// The listener that serves the route.
    pub listener: ListenerRole,
}

const fn get(path: &'static str, endpoint: Endpoint, listener: ListenerRole) -> Route {
    Route { path, method: Method::GET, endpoint, listener }
}

const fn post(path: &'static str, endpoint: Endpoint, listener: ListenerRole) -> Route {
    Route { path, method: Method::POST, endpoint, listener }
}

/// All routes. A path matches at most one of them.
pub static ROUTES: [Route; 11] = [
    post("/api/{method}", Endpoint::Api, ListenerRole::Internal),
    get("/health", Endpoint::Health, ListenerRole::Internal),
    get("/ready", Endpoint::Ready, ListenerRole::Internal),
    get("/metrics", Endpoint::Metrics, ListenerRole::Internal),
    get("/sse", Endpoint::EventStream, ListenerRole::Public),
    get("/sse/", Endpoint::EventStream, ListenerRole::Public),
    get("/sse/{*channel}", Endpoint::EventStream, ListenerRole::Public),
    get("/ws", Endpoint::WebSocket, ListenerRole::Public),
    get("/connection/websocket", Endpoint::WebSocket, ListenerRole::Public),
    get("/", Endpoint::Console, ListenerRole::Public),
    get("/console/{file}", Endpoint::Console, ListenerRole::Public),
];

impl Endpoint {
    /// Whether the endpoint is served from the permit pool *state* when all other pools are exhausted.
    pub fn is_state(self) -> bool {
        matches!(self, Self::Health | Self::Ready | Self::Metrics)
    }
}

/// Returns the route of a path.
pub fn find(path: &str) -> Option<&'static Route> {
    ROUTES.iter().find(|route| route.matches(path))
}

impl Route {
    fn matches(&self, path: &str) -> bool {
        match self.path.split_once('{') {
            None => self.path == path,
            Some((prefix, parameter)) => path
                .strip_prefix(prefix)
                .is_some_and(|rest| !rest.is_empty() && (parameter.starts_with('*') || !rest.contains('/'))),
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::body::Body;
    use axum::http::{Request, StatusCode};
    use axum::routing::any;
    use proptest::prelude::*;
    use tower_service::Service;

    use super::*;

    #[test]
    fn finds_the_endpoint_of_a_path() {
        for (path, endpoint) in [
            ("/health", Some(Endpoint::Health)),
            ("/api/publish", Some(Endpoint::Api)),
            ("/sse", Some(Endpoint::EventStream)),
            ("/sse/", Some(Endpoint::EventStream)),
            ("/sse/a/b", Some(Endpoint::EventStream)),
            ("/connection/websocket", Some(Endpoint::WebSocket)),
            ("/", Some(Endpoint::Console)),
            ("/console/main.js", Some(Endpoint::Console)),
            ("", None),
            ("/sses", None),
            ("/api", None),
            ("/api/", None),
            ("/api/a/b", None),
            ("/health/", None),
            ("/HEALTH", None),
        ] {
            assert_eq!(find(path).map(|route| route.endpoint), endpoint, "{path}");
        }
    }

    #[test]
    fn streams_are_public_and_the_api_is_internal() {
        for route in &ROUTES {
            let is_public =
                matches!(route.endpoint, Endpoint::EventStream | Endpoint::WebSocket | Endpoint::Console);
            assert_eq!(route.listener == ListenerRole::Public, is_public, "{route:?}");
        }
    }

    fn path() -> impl Strategy<Value = String> {
        let segment = prop_oneof![
            prop::sample::select(vec![
                "api",
                "health",
                "ready",
                "metrics",
                "sse",
                "ws",
                "connection",
                "websocket"
            ])
            .prop_map(str::to_owned),
            "[a-z%0-9.]{0,4}",
        ];
        prop::collection::vec(segment, 0..4).prop_map(|segments| format!("/{}", segments.join("/")))
    }

    proptest! {
        /// axum's router and `find` use the same table and must agree on every path.
        #[test]
        fn agrees_with_the_router_of_axum(path in path()) {
            let mut router = ROUTES.iter().fold(Router::new(), |router, route| {
                router.route(route.path, any(async || StatusCode::OK))
            });
            let request = Request::get(&path).body(Body::empty()).unwrap();
            let response = futures::executor::block_on(router.call(request)).unwrap();
            prop_assert_eq!(response.status() == StatusCode::OK, find(&path).is_some(), "{}", path);
        }
    }
}

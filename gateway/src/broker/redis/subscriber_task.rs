//! The task of a subscriber link: one connection that carries only subscriptions and PING.
//!
//! Owns the lifecycle of the connection (connect, resubscribe, receive, fail, reconnect) and every call to the
//! handler, which keeps their order: messages of the old connection, then the gap, then messages of the new one. Must
//! never take an open socket for proof that it receives: see [`super::probe`].

use tokio::time::Instant;

use super::subscriber_connection::SubscriberConnection;
use super::subscriber_link::SubscriberLink;
use crate::drain::Drain;
use earshot_redis_link::{Backoff, LinkError};

/// Maintains the link until the gateway stops.
pub(super) async fn run(link: SubscriberLink, drain: Drain) {
    tokio::select! {
        biased;
        () = drain.stopped() => {}
        () = link.subscriptions.closed() => return,
        () = maintain(&link) => {}
    }
    link.subscriptions.state().stopped();
    link.subscriptions.table().clear();
}

async fn maintain(link: &SubscriberLink) {
    let mut backoff = Backoff::new(&link.settings.instance);
    loop {
        let failure = Box::pin(run_connection(link, &mut backoff)).await;
        link.subscriptions.state().down(&failure);
        link.target.invalidate_topology();
        link.target.pause(backoff.next(&failure)).await;
    }
}

/// One connection, from the attempt to its end.
async fn run_connection(link: &SubscriberLink, backoff: &mut Backoff) -> LinkError {
    let socket = match link.target.dial(&link.settings).await {
        Ok(socket) => socket,
        Err(failure) => return failure,
    };
    link.subscriptions.set_receive_queue(&socket.receive_queue);
    let since = Instant::now();
    let mut connection = SubscriberConnection::new(link, socket);
    let failure = connection.run().await;
    // A connection that is closed soon after it was accepted must not reset the backoff.
    if since.elapsed() > link.settings.instance.retry_max {
        backoff.reset();
    }
    failure
}

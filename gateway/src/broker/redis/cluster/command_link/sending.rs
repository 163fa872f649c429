//! Sends the batches of a cluster's command link, and detects disconnects.
//!
//! Owns writing batches. Must never send a batch twice.

use std::collections::VecDeque;

use redis::aio::SendError;
use redis::{Pipeline, PushInfo, PushKind, Value};
use tokio::sync::mpsc;

use super::super::super::command_queue::{QueuedCommand, RedisRequest};
use super::super::super::scripts::{ScriptCache, ScriptRef};
use super::super::node_pool::NodeConnection;
use super::super::slot_queue::SlotBatch;
use earshot_redis_link::{LinkError, NodeAddress};

/// A connection has ended.
pub(super) type Disconnected = (NodeAddress, u64);

/// The outcome of a batch.
pub(super) enum SendOutcome {
    /// And whether the server has loaded the scripts.
    Answered(Vec<Value>, bool),
    /// The outcome is unknown.
    Broken(LinkError),
    /// The scripts could not be loaded: nothing was sent.
    NotSent(LinkError),
}

/// Otherwise an idle connection would detect its end only by the next command, which would be lost.
pub(super) fn notify_disconnect(
    disconnects: mpsc::Sender<Disconnected>,
    node: NodeAddress,
    generation: u64,
) -> impl Fn(PushInfo) -> Result<(), SendError> + Clone + Send + Sync + 'static {
    move |push: PushInfo| {
        if push.kind == PushKind::Disconnection {
            // When full, the next use or check detects it.
            let _ = disconnects.try_send((node.clone(), generation));
        }
        Ok(())
    }
}

/// Sends a batch. Returns its commands with the outcome.
pub(super) async fn send(up: NodeConnection, batch: SlotBatch) -> (VecDeque<QueuedCommand>, SendOutcome) {
    let NodeConnection { mut connection, scripts, .. } = up;
    let SlotBatch { requests, asking, one_at_a_time } = batch;
    let has_script = requests.iter().any(|waiting| matches!(waiting.request, RedisRequest::Script(_)));
    let load = has_script && !scripts && !one_at_a_time;
    if load && let Err(failure) = ScriptCache::default().load(&mut connection).await {
        return (requests, SendOutcome::NotSent(failure));
    }
    // A script that the server may not have loaded is sent as text, in a batch of its own.
    let by = if one_at_a_time { ScriptRef::Text } else { ScriptRef::Hash };
    let mut pipeline = Pipeline::with_capacity(requests.len() + 1);
    let skipped = usize::from(asking.is_some());
    if asking.is_some() {
        pipeline.cmd("ASKING");
    }
    requests.iter().for_each(|waiting| waiting.request.write(by, &mut pipeline));
    match connection.send_packed_commands(&pipeline, skipped, requests.len()).await {
        Ok(values) => (requests, SendOutcome::Answered(values, scripts || load)),
        Err(error) => (requests, SendOutcome::Broken(LinkError::Unreachable(error.to_string()))),
    }
}

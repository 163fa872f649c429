//! Buffer for the pushes of a subscription.
//!
//! Owns the size limit: a busy channel can deliver more than is consumed. Must never block the connection.

use std::sync::{Arc, Mutex, PoisonError};

use redis::PushInfo;
use tokio::sync::Notify;

/// Maximum number of pushes; the oldest are kept.
const PUSHES_MAX: usize = 1024;

/// A buffer; all clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct PushBuffer {
    pushes: Arc<Mutex<std::collections::VecDeque<PushInfo>>>,
    more: Arc<Notify>,
}

impl PushBuffer {
    /// Callback that receives pushes from the connection.
    pub(super) fn sender(
        self,
    ) -> impl Fn(PushInfo) -> Result<(), redis::aio::SendError> + Send + Sync + 'static {
        move |push| {
            let mut pushes = self.pushes.lock().unwrap_or_else(PoisonError::into_inner);
            if pushes.len() < PUSHES_MAX {
                pushes.push_back(push);
                self.more.notify_one();
            }
            Ok(())
        }
    }

    /// Waits for the next push.
    pub(super) async fn next(&self) -> PushInfo {
        loop {
            if let Some(push) = self.pushes.lock().unwrap_or_else(PoisonError::into_inner).pop_front() {
                return push;
            }
            self.more.notified().await;
        }
    }
}

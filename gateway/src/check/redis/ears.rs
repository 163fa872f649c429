//! What a subscription of a check hears, kept until somebody waits for it.
//!
//! Owns the bound: a busy channel may bring more than anybody waits for. Must never block the connection.

use std::sync::{Arc, Mutex, PoisonError};

use redis::PushInfo;
use tokio::sync::Notify;

/// Pushes that are kept; the oldest are enough.
const HEARD_MOST: usize = 1024;

/// See the module. All clones are one.
#[derive(Clone, Debug, Default)]
pub(super) struct Ears {
    heard: Arc<Mutex<std::collections::VecDeque<PushInfo>>>,
    more: Arc<Notify>,
}

impl Ears {
    /// Where the connection puts what it hears.
    pub(super) fn sender(
        self,
    ) -> impl Fn(PushInfo) -> Result<(), redis::aio::SendError> + Send + Sync + 'static {
        move |push| {
            let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
            if heard.len() < HEARD_MOST {
                heard.push_back(push);
                self.more.notify_one();
            }
            Ok(())
        }
    }

    /// The next push.
    pub(super) async fn next(&self) -> PushInfo {
        loop {
            if let Some(push) = self.heard.lock().unwrap_or_else(PoisonError::into_inner).pop_front() {
                return push;
            }
            self.more.notified().await;
        }
    }
}

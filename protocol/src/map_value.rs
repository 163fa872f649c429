//! The values of maps, with the maximum number of entries.

use crate::{ClientInfo, SubscribeRequest, SubscribeResult};

/// A value type of a map.
pub(crate) trait MapValue {
    /// The maximum number of entries in a map. An entry takes a few bytes on the wire and a few hundred in memory, so
    /// the bound protects the server; clients send far fewer.
    const MAX: usize;
}

impl MapValue for String {
    const MAX: usize = 1024;
}

impl MapValue for SubscribeRequest {
    const MAX: usize = 1024;
}

// Only replies contain these: the client trusts its server.
impl MapValue for SubscribeResult {
    const MAX: usize = usize::MAX;
}

impl MapValue for ClientInfo {
    const MAX: usize = usize::MAX;
}

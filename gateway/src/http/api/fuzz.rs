//! The entry point of a fuzz target.

use super::params::{
    ChannelsParams, HistoryParams, HistoryRemoveParams, PublishParams, parse_body, parse_channel,
};

/// Parses a body as the parameters of each method.
pub fn parse(body: &[u8]) {
    if let Ok(params) = parse_body::<PublishParams<'_>>(body) {
        let _ = (params.payload(), params.publish_options());
    }
    if let Ok(params) = parse_body::<HistoryParams>(body) {
        let _ = parse_channel(&params.channel);
    }
    let _ = parse_body::<HistoryRemoveParams>(body);
    let _ = parse_body::<ChannelsParams>(body);
}

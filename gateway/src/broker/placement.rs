//! Which of several brokers carries a channel.
//!
//! Owns the rule, which publishers also apply: see docs/scaling.md. Pure.

use earshot_protocol::ChannelName;
use earshot_redis_link::slot::slot;

/// The index of the broker of a channel among `brokers` of them: the channel's hash slot modulo their number.
pub fn broker_index(channel: &ChannelName, brokers: usize) -> usize {
    match brokers {
        0 | 1 => 0,
        _ => usize::from(slot(channel.as_str())) % brokers,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selects_the_broker_by_the_hash_slot() {
        let channel = |name| ChannelName::parse(name).unwrap();
        for (name, brokers, index) in
            [("foo", 1, 0), ("foo", 3, 12_182 % 3), ("{foo}bar", 3, 12_182 % 3), ("bar", 4, 5_061 % 4)]
        {
            assert_eq!(broker_index(&channel(name), brokers), index, "{name} of {brokers}");
        }
    }
}

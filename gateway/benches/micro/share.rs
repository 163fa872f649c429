//! A frame whose references are counted by two shards at once, beside one of the shard's own: why a shard encodes for
//! itself what very many of its connections hear.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::race::{Race, measured};

/// Connections of a shard.
const SUBSCRIBERS: usize = 5000;

pub(crate) fn run(race: &Race) {
    if !race.wants("share") {
        return;
    }
    let (frame, over) = (frame(), AtomicBool::new(false));
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut outboxes = Vec::with_capacity(SUBSCRIBERS);
            while !over.load(Ordering::Relaxed) {
                deliver(&frame, &mut outboxes);
            }
        });
        let own = Bytes::copy_from_slice(&frame);
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        race.run(
            "share: a frame of the shard's own",
            measured(SUBSCRIBERS, || deliver(&own, &mut ours)),
            "one that another shard delivers, too",
            measured(SUBSCRIBERS, || deliver(&frame, &mut theirs)),
        );
        over.store(true, Ordering::Relaxed);
    });
}

/// A place in every outbox, and out of it.
fn deliver(frame: &Bytes, outboxes: &mut Vec<Bytes>) -> Duration {
    let begun = Instant::now();
    for _ in 0..SUBSCRIBERS {
        outboxes.push(frame.clone());
    }
    outboxes.clear();
    begun.elapsed()
}

fn frame() -> Bytes {
    // What came of a vector counts from its first clone on.
    let frame = Bytes::from(vec![b'x'; 200]);
    drop(frame.clone());
    frame
}

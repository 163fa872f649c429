//! A frame whose references two shards count, compared with a private frame: why a shard encodes for itself a
//! publication that many of its connections receive.

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
            "share: a private frame",
            measured(SUBSCRIBERS, || deliver(&own, &mut ours)),
            "a frame shared with another shard",
            measured(SUBSCRIBERS, || deliver(&frame, &mut theirs)),
        );
        over.store(true, Ordering::Relaxed);
    });
}

/// Puts the frame into every outbox and removes it.
fn deliver(frame: &Bytes, outboxes: &mut Vec<Bytes>) -> Duration {
    let begun = Instant::now();
    for _ in 0..SUBSCRIBERS {
        outboxes.push(frame.clone());
    }
    outboxes.clear();
    begun.elapsed()
}

fn frame() -> Bytes {
    // Bytes from a vector count references from the first clone on.
    let frame = Bytes::from(vec![b'x'; 200]);
    drop(frame.clone());
    frame
}

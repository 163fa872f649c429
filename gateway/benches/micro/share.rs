//! A frame whose references two shards count, compared with a private frame: why a shard encodes for itself a
//! publication that many of its connections receive.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::comparison::{Comparison, self_timed};

/// Connections of a shard.
const SUBSCRIBERS: usize = 5000;

pub(crate) fn run(comparison: &Comparison) {
    if !comparison.is_selected("share") {
        return;
    }
    let (frame, is_over) = (frame(), AtomicBool::new(false));
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut queues = Vec::with_capacity(SUBSCRIBERS);
            while !is_over.load(Ordering::Relaxed) {
                deliver(&frame, &mut queues);
            }
        });
        let copy = Bytes::copy_from_slice(&frame);
        let (mut private, mut shared) = (Vec::new(), Vec::new());
        comparison.run(
            "share: a private frame",
            self_timed(SUBSCRIBERS, || deliver(&copy, &mut private)),
            "a frame shared with another shard",
            self_timed(SUBSCRIBERS, || deliver(&frame, &mut shared)),
        );
        is_over.store(true, Ordering::Relaxed);
    });
}

/// Adds the frame to every client queue and removes it.
fn deliver(frame: &Bytes, queues: &mut Vec<Bytes>) -> Duration {
    let started = Instant::now();
    for _ in 0..SUBSCRIBERS {
        queues.push(frame.clone());
    }
    queues.clear();
    started.elapsed()
}

fn frame() -> Bytes {
    // `Bytes` from a vector use a reference count only after the first clone.
    let frame = Bytes::from(vec![b'x'; 200]);
    drop(frame.clone());
    frame
}

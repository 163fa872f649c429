//! Tests of the times of reads.

use std::time::Duration;

use tokio::time::Instant;

use super::super::cache::{
    JwksCache, JwksSettings, KeyLookup, MISSING_MAX, MISSING_TTL, UNKNOWN_KEY_INTERVAL,
};
use super::super::{KeySet, document};
use super::only;

const SECOND: Duration = Duration::from_secs(1);

fn keys(id: &str) -> KeySet {
    document::parse(only(id).as_bytes()).unwrap()
}

/// A cache that has read the key `ed` at the time.
fn read_cache(now: Instant) -> JwksCache {
    let mut cache = JwksCache::new(JwksSettings::default(), now);
    assert!(cache.start_read(now));
    cache.read_succeeded(keys("ed"), None, now, 0.0);
    cache
}

fn read(cache: &mut JwksCache, id: &str, now: Instant) {
    assert!(cache.start_read(now));
    cache.read_succeeded(keys(id), None, now, 0.0);
}

#[test]
fn the_first_read_is_due_at_once() {
    let now = Instant::now();
    let mut cache = JwksCache::new(JwksSettings::default(), now);
    assert!(cache.keys(now).is_none());
    assert_eq!(cache.unknown_key(Some("ed"), now), KeyLookup::Wait);
    assert!(cache.start_read(now) && !cache.start_read(now), "one read at a time");
    assert_eq!(cache.unknown_key(Some("x"), now), KeyLookup::Wait);
}

#[test]
fn a_set_is_read_again_before_it_expires() {
    let now = Instant::now();
    for (max_age, jitter, expected) in [
        (None, 0.0, 480),
        (None, 1.0, 360),
        (Some(100), 0.0, 80),
        (Some(0), 0.0, 48),
        (Some(86_400), 0.0, 480),
    ] {
        let mut cache = JwksCache::new(JwksSettings::default(), now);
        assert!(cache.start_read(now));
        cache.read_succeeded(keys("ed"), max_age.map(Duration::from_secs), now, jitter);
        let wait = cache.next_read_at().duration_since(now);
        assert_eq!(wait.as_secs_f64().round(), f64::from(expected), "{max_age:?} {jitter}");
        assert!(!cache.start_read(now + wait - SECOND) && cache.start_read(now + wait));
    }
}

#[test]
fn an_unknown_key_causes_one_read_and_is_then_missing() {
    let start = Instant::now();
    let mut cache = read_cache(start);
    let now = start + UNKNOWN_KEY_INTERVAL;
    assert_eq!(cache.unknown_key(Some("new"), now - SECOND), KeyLookup::Unavailable, "too soon");
    assert!(!cache.start_read(now - SECOND));
    assert_eq!(cache.unknown_key(Some("new"), now), KeyLookup::Wait);
    read(&mut cache, "ed", now);
    assert_eq!(cache.unknown_key(Some("new"), now), KeyLookup::Missing);
    assert_eq!(cache.unknown_key(Some("new"), now + MISSING_TTL - SECOND), KeyLookup::Missing);
    assert!(!cache.start_read(now + MISSING_TTL - SECOND), "a missing key causes no read");
    assert_eq!(cache.unknown_key(Some("new"), now + MISSING_TTL), KeyLookup::Wait);
    assert!(cache.start_read(now + MISSING_TTL));
}

#[test]
fn a_read_that_began_earlier_does_not_make_a_key_missing() {
    let start = Instant::now();
    let mut cache = read_cache(start);
    let now = start + UNKNOWN_KEY_INTERVAL;
    cache.unknown_key(Some("a"), now);
    assert!(cache.start_read(now));
    assert_eq!(cache.unknown_key(Some("b"), now), KeyLookup::Wait);
    cache.read_succeeded(keys("ed"), None, now + SECOND, 0.0);
    assert_eq!(cache.unknown_key(Some("a"), now + SECOND), KeyLookup::Missing);
    assert_eq!(cache.unknown_key(Some("b"), now + SECOND), KeyLookup::Unavailable);
}

#[test]
fn tokens_with_random_key_ids_do_not_cause_more_reads() {
    let start = Instant::now();
    let mut cache = read_cache(start);
    let mut reads = 0;
    for millisecond in 0..60_000 {
        let now = start + Duration::from_millis(millisecond);
        let _ = cache.unknown_key(Some(&format!("key {millisecond}")), now);
        if cache.start_read(now) {
            reads += 1;
            cache.read_succeeded(keys("ed"), None, now, 0.0);
        }
    }
    assert_eq!(reads, 5, "one in ten seconds");
}

#[test]
fn the_memory_for_missing_keys_is_bounded() {
    let start = Instant::now();
    let mut cache = read_cache(start);
    let now = start + UNKNOWN_KEY_INTERVAL;
    for index in 0..2 * MISSING_MAX {
        assert_eq!(cache.unknown_key(Some(&index.to_string()), now), KeyLookup::Wait);
    }
    let ids = format!("{cache:?}").matches("Some(\"").count();
    assert!(ids <= MISSING_MAX + 1, "{ids} ids, one of them of a key");
    read(&mut cache, "ed", now);
    let missing = (0..2 * MISSING_MAX)
        .filter(|index| cache.unknown_key(Some(&index.to_string()), now) == KeyLookup::Missing);
    assert_eq!(missing.count(), MISSING_MAX);
}

#[test]
fn a_new_key_is_found() {
    let start = Instant::now();
    let mut cache = read_cache(start);
    let now = start + UNKNOWN_KEY_INTERVAL;
    assert_eq!(cache.unknown_key(Some("p256"), now), KeyLookup::Wait);
    read(&mut cache, "p256", now);
    assert!(cache.keys(now).unwrap().has_id("p256"));
    assert_eq!(cache.unknown_key(Some("p256"), now), KeyLookup::Wait, "read since the token was checked");
}

#[test]
fn the_last_set_is_used_while_reads_fail() {
    let start = Instant::now();
    let settings = JwksSettings::default();
    let mut cache = read_cache(start);
    let mut now = cache.next_read_at();
    let mut waits = Vec::new();
    while now < start + settings.stale_max {
        assert!(cache.start_read(now));
        cache.read_failed(now, 0.0);
        assert!(cache.keys(now).is_some());
        assert_eq!(cache.unknown_key(Some("new"), now), KeyLookup::Unavailable);
        waits.push(cache.next_read_at().duration_since(now).as_secs());
        now = cache.next_read_at();
    }
    assert_eq!(waits[..8], [1, 2, 4, 8, 16, 32, 60, 60]);
    assert!(cache.keys(now).is_none(), "too old");
    read(&mut cache, "ed", now);
    assert!(cache.keys(now).is_some() && cache.failures() == 0);
}

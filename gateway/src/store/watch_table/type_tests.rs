//! Keys of another type, and watchers of several types.

use std::time::Duration;

use super::simulation::SETTINGS;
use super::{FirstRead, ReadOutcome, WatchId, WatchTable};
use crate::store::key::KeyType;

const KEY: &[u8] = b"sess:0";
const MISSING: ReadOutcome = ReadOutcome::Missing;
const NOW: Duration = Duration::from_secs(60);

fn present(fingerprint: u64) -> ReadOutcome {
    ReadOutcome::Present { fingerprint, expires_in: None }
}

fn table() -> WatchTable {
    let mut table = WatchTable::new(SETTINGS);
    table.set_tracked(true);
    table
}

/// Adds a watcher that has read this state. Returns whether it is a change to report to the others.
fn watch(table: &mut WatchTable, kind: KeyType, state: ReadOutcome) -> (WatchId, bool) {
    let id = table.watch(KEY, kind, true, FirstRead::ByCaller, NOW);
    (id, table.on_caller_read(id, kind, state, NOW))
}

/// Reads what is due soon. Returns the types by which the key was read, and how many results are to be reported.
fn reread(table: &mut WatchTable, state: impl Fn(KeyType) -> ReadOutcome) -> (Vec<KeyType>, usize) {
    let (mut kinds, mut reports) = (Vec::new(), 0);
    let at = table.next_wake().unwrap_or_default().max(NOW) + SETTINGS.reread_interval_min;
    while table.next_wake().is_some_and(|wake| wake <= at) {
        for read in table.next_reads(at, 8) {
            kinds.push(read.kind);
            reports += usize::from(table.on_read(read.id, state(read.kind), at));
        }
    }
    (kinds, reports)
}

#[test]
fn a_key_that_gets_another_type_is_reported_once_and_not_read_again() {
    let mut table = table();
    watch(&mut table, KeyType::String, present(7));
    table.on_invalidation(KEY, NOW);
    assert_eq!(reread(&mut table, |_| ReadOutcome::OtherType), (vec![KeyType::String], 1));
    assert_eq!(table.next_wake(), None);
    table.on_invalidation(KEY, NOW);
    assert_eq!(reread(&mut table, |_| ReadOutcome::OtherType), (vec![KeyType::String], 0));
    table.on_invalidation(KEY, NOW);
    assert_eq!(reread(&mut table, |_| MISSING).1, 1);
}

#[test]
fn an_ending_is_reported_when_another_watcher_changes_the_type() {
    let mut table = table();
    watch(&mut table, KeyType::Exists, present(3));
    // The key was deleted; the caller that reads the value finds it first.
    assert!(watch(&mut table, KeyType::String, MISSING).1);
}

#[test]
fn an_ending_is_reported_after_a_read_by_the_earlier_type() {
    let mut table = table();
    watch(&mut table, KeyType::Exists, present(3));
    table.on_invalidation(KEY, NOW);
    let at = NOW + SETTINGS.reread_interval_min;
    let read = table.next_reads(at, 8).remove(0);
    let string = table.watch(KEY, KeyType::String, true, FirstRead::ByCaller, NOW);
    assert!(table.on_read(read.id, present(3), at));
    assert!(!table.on_caller_read(string, KeyType::String, ReadOutcome::Failed, at));
    assert_eq!(reread(&mut table, |_| MISSING), (vec![KeyType::String], 1));
}

#[test]
fn a_caller_of_another_type_ends_no_login() {
    let mut table = table();
    watch(&mut table, KeyType::String, present(7));
    assert!(!watch(&mut table, KeyType::Hash, ReadOutcome::OtherType).1);
    table.on_invalidation(KEY, NOW);
    assert_eq!(reread(&mut table, |_| present(7)), (vec![KeyType::String], 0));
}

#[test]
fn the_type_follows_a_caller_that_could_read_the_key() {
    let mut table = table();
    let (string, _) = watch(&mut table, KeyType::String, ReadOutcome::OtherType);
    watch(&mut table, KeyType::Hash, present(9));
    table.unwatch(string);
    table.on_invalidation(KEY, NOW);
    assert_eq!(reread(&mut table, |_| present(9)), (vec![KeyType::Hash], 0));
}

#[test]
fn a_caller_that_reads_only_whether_a_key_exists_does_not_hide_a_change() {
    let mut table = table();
    watch(&mut table, KeyType::String, present(7));
    assert!(!watch(&mut table, KeyType::Exists, present(3)).1);
    let (kinds, reports) = reread(&mut table, |_| present(8));
    assert_eq!((kinds, reports), (vec![KeyType::String], 1));
}

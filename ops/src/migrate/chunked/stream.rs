//! State of a stream other than its entries: counters, groups, consumers and pending entries.
//!
//! Owns the commands that copy it. Cannot copy pending state of entries that have been deleted from the stream, or
//! when a consumer was last seen; DUMP contains both.

use std::collections::HashMap;

use redis::Value;

use super::super::error::Error;
use super::super::keyspace::{KeyCommand, Keyspace};
use super::chunk::existing;
use super::{execute_all, query_each};

/// Number of pending entries per query.
const PENDING_PAGE: usize = 500;

type StreamFields = HashMap<String, Value>;

/// Pending entry: id, consumer, milliseconds since its delivery, number of deliveries.
type Pending = (String, Vec<u8>, u64, u64);

/// Creates an empty stream; no other command does.
pub(super) async fn create_empty(target: &mut Keyspace, key: &[u8]) -> Result<(), Error> {
    let create = KeyCommand::sub("XGROUP", "CREATE", key).arg("earshot").arg("$").arg("MKSTREAM");
    execute_all(target, vec![create, KeyCommand::sub("XGROUP", "DESTROY", key).arg("earshot")]).await
}

/// Copies everything except the entries, which must exist.
pub(super) async fn copy_groups(
    source: &mut Keyspace,
    key: &[u8],
    target: &mut Keyspace,
    temp_key: &[u8],
) -> Result<(), Error> {
    let stream: StreamFields = source.query_one(KeyCommand::sub("XINFO", "STREAM", key)).await?;
    set_id(target, temp_key, &stream).await?;
    let groups: Vec<StreamFields> = source.query_one(KeyCommand::sub("XINFO", "GROUPS", key)).await?;
    for group in groups {
        let name = bytes(&group, "name");
        create_group(target, temp_key, &group, &name).await?;
        let consumers: Vec<StreamFields> =
            source.query_one(KeyCommand::sub("XINFO", "CONSUMERS", key).arg(&name)).await?;
        let create = |consumer: &StreamFields| {
            KeyCommand::sub("XGROUP", "CREATECONSUMER", temp_key).arg(&name).arg(bytes(consumer, "name"))
        };
        execute_all(target, consumers.iter().map(create).collect()).await?;
        copy_pending(source, key, target, temp_key, &name).await?;
    }
    Ok(())
}

/// Sets the last id and, from 7.0 on, the counters of removed entries.
async fn set_id(target: &mut Keyspace, key: &[u8], stream: &StreamFields) -> Result<(), Error> {
    let last = text(stream, "last-generated-id");
    let plain = KeyCommand::new("XSETID", key).arg(&last);
    if stream.contains_key("entries-added") {
        let added =
            KeyCommand::new("XSETID", key).arg(&last).arg("ENTRIESADDED").arg(text(stream, "entries-added"));
        let call = added.arg("MAXDELETEDID").arg(text(stream, "max-deleted-entry-id"));
        if !matches!(target.query(vec![call]).await?.pop(), Some(Value::ServerError(_))) {
            return Ok(());
        }
    }
    execute_all(target, vec![plain]).await
}

async fn create_group(
    target: &mut Keyspace,
    key: &[u8],
    group: &StreamFields,
    name: &[u8],
) -> Result<(), Error> {
    let create = || KeyCommand::sub("XGROUP", "CREATE", key).arg(name).arg(text(group, "last-delivered-id"));
    let read = text(group, "entries-read");
    if !read.is_empty() {
        let call = create().arg("ENTRIESREAD").arg(read);
        if !matches!(target.query(vec![call]).await?.pop(), Some(Value::ServerError(_))) {
            return Ok(());
        }
    }
    execute_all(target, vec![create()]).await
}

async fn copy_pending(
    source: &mut Keyspace,
    key: &[u8],
    target: &mut Keyspace,
    temp_key: &[u8],
    group: &[u8],
) -> Result<(), Error> {
    let mut from = "-".to_owned();
    loop {
        let pending = pending(source, key, group, &from).await?;
        let claim = |(id, consumer, idle, deliveries): &Pending| {
            let claim = KeyCommand::new("XCLAIM", temp_key).arg(group).arg(consumer).arg(0).arg(id);
            claim.arg("IDLE").arg(*idle).arg("RETRYCOUNT").arg(*deliveries).arg("FORCE").arg("JUSTID")
        };
        execute_all(target, pending.iter().map(claim).collect()).await?;
        let Some((last, ..)) = pending.last().filter(|_| pending.len() == PENDING_PAGE) else {
            return Ok(());
        };
        from = format!("({last}");
    }
}

async fn pending(space: &mut Keyspace, key: &[u8], group: &[u8], from: &str) -> Result<Vec<Pending>, Error> {
    space.query_one(KeyCommand::new("XPENDING", key).arg(group).arg(from).arg("+").arg(PENDING_PAGE)).await
}

/// First difference between two streams with equal entries, if any.
pub(super) async fn difference(
    source: &mut Keyspace,
    key: &[u8],
    target: &mut Keyspace,
    there: &[u8],
) -> Result<Option<String>, Error> {
    let stream: StreamFields = source.query_one(KeyCommand::sub("XINFO", "STREAM", key)).await?;
    let other: StreamFields = target.query_one(KeyCommand::sub("XINFO", "STREAM", there)).await?;
    for name in ["last-generated-id", "entries-added", "max-deleted-entry-id"] {
        if differs(&stream, &other, name) {
            return Ok(Some(format!("the stream's {name}")));
        }
    }
    let groups: Vec<StreamFields> = source.query_one(KeyCommand::sub("XINFO", "GROUPS", key)).await?;
    let others: Vec<StreamFields> = target.query_one(KeyCommand::sub("XINFO", "GROUPS", there)).await?;
    if groups.len() != others.len() {
        return Ok(Some("the stream's groups".to_owned()));
    }
    for group in &groups {
        let name = bytes(group, "name");
        let twin = others.iter().find(|other| bytes(other, "name") == name);
        let is_same = twin.is_some_and(|twin| {
            ["last-delivered-id", "entries-read", "consumers"]
                .iter()
                .all(|field| !differs(group, twin, field))
        });
        if !is_same || !pending_is_same(source, key, target, there, &name).await? {
            return Ok(Some(format!("the stream's group {}", name.escape_ascii())));
        }
    }
    Ok(None)
}

/// Fields that only one of the servers reports do not count as a difference.
fn differs(one: &StreamFields, two: &StreamFields, name: &str) -> bool {
    one.contains_key(name) && two.contains_key(name) && text(one, name) != text(two, name)
}

async fn pending_is_same(
    source: &mut Keyspace,
    key: &[u8],
    target: &mut Keyspace,
    there: &[u8],
    group: &[u8],
) -> Result<bool, Error> {
    let mut from = "-".to_owned();
    loop {
        let page = pending(source, key, group, &from).await?;
        let query = |(id, ..): &Pending| KeyCommand::new("XPENDING", there).arg(group).arg(id).arg(id).arg(1);
        let found: Vec<Vec<Pending>> = query_each(target, page.iter().map(query).collect()).await?;
        let mut missing = Vec::new();
        for ((id, consumer, _, deliveries), twin) in page.iter().zip(found) {
            match twin.first() {
                Some((_, other, _, times)) if other == consumer && times == deliveries => {}
                Some(_) => return Ok(false),
                None => missing.push(id.clone()),
            }
        }
        if existing(source, key, &missing).await?.contains(&true) {
            return Ok(false);
        }
        let Some((last, ..)) = page.last().filter(|_| page.len() == PENDING_PAGE) else { return Ok(true) };
        from = format!("({last}");
    }
}

fn bytes(fields: &StreamFields, name: &str) -> Vec<u8> {
    match fields.get(name) {
        Some(Value::BulkString(bytes)) => bytes.clone(),
        Some(Value::SimpleString(text)) => text.clone().into_bytes(),
        _ => Vec::new(),
    }
}

/// A field as text; empty if it is missing or nil.
fn text(fields: &StreamFields, name: &str) -> String {
    match fields.get(name) {
        Some(Value::Int(number)) => number.to_string(),
        _ => String::from_utf8(bytes(fields, name)).unwrap_or_default(),
    }
}

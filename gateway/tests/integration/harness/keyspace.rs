//! Keyspaces: filled with every type that Redis has, and read type by type, never by DUMP, so that what a move did is
//! judged by other means than those it used.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use redis::aio::MultiplexedConnection;
use redis::{Cmd, Pipeline, Value, cmd};

/// Key prefixes: three have a rule each, two share one, one has none.
pub(crate) const PREFIXES: [&str; 6] = ["express:", "room:", "nest:", "session:", "shared:", "stray-"];

/// What is known of a key: its type, a hash of its content, and when it ends (-1: never).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Content {
    pub(crate) kind: String,
    content: u64,
    pub(crate) expiry: i64,
}

/// All keys of a server.
pub(crate) type Keys = BTreeMap<Vec<u8>, Content>;

/// How many keys a test of a whole keyspace moves.
pub(crate) fn size() -> usize {
    std::env::var("EARSHOT_MIGRATE_KEYS").ok().and_then(|text| text.parse().ok()).unwrap_or(20_000)
}

/// Writes so many keys, of all types and encodings, most of them with a TTL.
pub(crate) async fn fill(connection: &mut MultiplexedConnection, keys: usize) {
    let mut pipeline = Pipeline::new();
    for number in 0..keys {
        let key = format!("{}{number}", PREFIXES[number % PREFIXES.len()]);
        write(&mut pipeline, key.as_bytes(), number / PREFIXES.len());
        // An expiry far in the future, with odd milliseconds.
        if !(number / PREFIXES.len() + number).is_multiple_of(3) {
            pipeline.cmd("PEXPIRE").arg(&key).arg(3_600_000 + number * 977).ignore();
        }
        if pipeline.len() > 2000 {
            pipeline.exec_async(connection).await.unwrap();
            pipeline.clear();
        }
    }
    if !pipeline.is_empty() {
        pipeline.exec_async(connection).await.unwrap();
    }
}

/// One key, of one of eighteen shapes.
fn write(pipeline: &mut Pipeline, key: &[u8], number: usize) {
    let add = |pipeline: &mut Pipeline, name: &str, arguments: &[Vec<u8>]| {
        pipeline.cmd(name).arg(key).arg(arguments).ignore();
    };
    let text = |part: usize| format!("{number}-{part}").into_bytes();
    let binary = |length: usize| (0..length).map(|at| (at * 31 + number) as u8).collect::<Vec<u8>>();
    let many = |count: usize| (0..count).map(text).collect::<Vec<_>>();
    let pairs =
        |count: usize| (0..count).flat_map(|part| [text(part), binary(part % 90)]).collect::<Vec<_>>();
    let scored = |count: usize| {
        (0..count).flat_map(|part| [format!("{}.5", part % 7).into_bytes(), text(part)]).collect::<Vec<_>>()
    };
    match number % 18 {
        0 => add(pipeline, "SET", &[text(0)]),
        1 => add(pipeline, "SET", &[number.to_string().into_bytes()]),
        2 => add(pipeline, "SET", &[binary(700)]),
        3 => add(pipeline, "SET", &[Vec::new()]),
        4 => add(pipeline, "SETBIT", &[b"100".to_vec(), b"1".to_vec()]),
        5 => add(pipeline, "PFADD", &many(9)),
        6 => add(pipeline, "RPUSH", &many(5)),
        7 => add(pipeline, "RPUSH", &[binary(9000), text(1), Vec::new(), binary(3000)]),
        8 => add(pipeline, "SADD", &[b"1".to_vec(), b"77".to_vec(), number.to_string().into_bytes()]),
        9 => add(pipeline, "SADD", &many(12)),
        10 => add(pipeline, "SADD", &many(140)),
        11 => add(pipeline, "HSET", &pairs(6)),
        12 => add(pipeline, "HSET", &pairs(100)),
        13 => add(pipeline, "ZADD", &scored(8)),
        14 => add(
            pipeline,
            "ZADD",
            &[scored(130), vec![b"-inf".to_vec(), b"a".to_vec(), b"inf".to_vec(), b"z".to_vec()]].concat(),
        ),
        15 => add(pipeline, "GEOADD", &[b"13.361389".to_vec(), b"38.115556".to_vec(), text(0)]),
        16 => stream(pipeline, key, 3),
        _ => stream(pipeline, key, 120),
    }
}

/// A stream with groups, consumers, pending entries and deleted entries.
fn stream(pipeline: &mut Pipeline, key: &[u8], entries: usize) {
    for entry in 1..=entries {
        pipeline
            .cmd("XADD")
            .arg(key)
            .arg(format!("{entry}-{}", entry % 3))
            .arg("n")
            .arg(entry)
            .arg("of")
            .arg(entries)
            .ignore();
    }
    let group = |pipeline: &mut Pipeline, name: &str, from: &str| {
        pipeline.cmd("XGROUP").arg("CREATE").arg(key).arg(name).arg(from).ignore();
    };
    group(pipeline, "workers", "0");
    group(pipeline, "idle", "$");
    let read = |pipeline: &mut Pipeline, consumer: &str, count: usize| {
        let call = pipeline.cmd("XREADGROUP").arg("GROUP").arg("workers").arg(consumer);
        call.arg("COUNT").arg(count).arg("STREAMS").arg(key).arg(">").ignore();
    };
    read(pipeline, "ann", 1);
    read(pipeline, "bob", 1);
    pipeline.cmd("XACK").arg(key).arg("workers").arg("1-1").ignore();
    pipeline.cmd("XGROUP").arg("CREATECONSUMER").arg(key).arg("workers").arg("new").ignore();
    // Delete the last entry: its id must not be reused.
    pipeline.cmd("XDEL").arg(key).arg(format!("{entries}-{}", entries % 3)).ignore();
}

/// Reads every key of a server.
pub(crate) async fn read(connection: &mut MultiplexedConnection) -> Keys {
    read_with(connection, "PEXPIRETIME").await
}

/// As [`read`], for servers where the expiry command has another name.
pub(crate) async fn read_with(connection: &mut MultiplexedConnection, expiry: &str) -> Keys {
    let mut keys = Keys::new();
    let mut cursor = 0_u64;
    loop {
        let (next, names): (u64, Vec<Vec<u8>>) =
            cmd("SCAN").arg(cursor).arg("COUNT").arg(1000).query_async(connection).await.unwrap();
        read_some(connection, names, expiry, &mut keys).await;
        cursor = next;
        if cursor == 0 {
            return keys;
        }
    }
}

async fn read_some(
    connection: &mut MultiplexedConnection,
    names: Vec<Vec<u8>>,
    expiry: &str,
    keys: &mut Keys,
) {
    if names.is_empty() {
        return;
    }
    let mut pipeline = Pipeline::new();
    for name in &names {
        pipeline.cmd("TYPE").arg(name);
        pipeline.cmd(expiry).arg(name);
    }
    let known: Vec<Value> = pipeline.query_async(connection).await.unwrap();
    let mut contents = Pipeline::new();
    let mut found = Vec::new();
    for (name, known) in names.into_iter().zip(known.chunks(2)) {
        let kind: String = redis::from_redis_value(known[0].clone()).unwrap();
        let expiry: i64 = redis::from_redis_value(known[1].clone()).unwrap();
        contents.add_command(reading(&kind, &name));
        found.push((name, kind, expiry));
    }
    let contents: Vec<Value> = contents.query_async(connection).await.unwrap();
    for ((name, kind, expiry), value) in found.into_iter().zip(contents) {
        let mut content = canonical(&kind, value);
        if kind == "stream" {
            content.push_str(&groups(connection, &name).await);
        }
        let mut hasher = DefaultHasher::new();
        content.hash(&mut hasher);
        keys.insert(name, Content { kind, content: hasher.finish(), expiry });
    }
}

fn reading(kind: &str, key: &[u8]) -> Cmd {
    let mut command = cmd(match kind {
        "string" => "GET",
        "list" => "LRANGE",
        "set" => "SMEMBERS",
        "hash" => "HGETALL",
        "zset" => "ZRANGE",
        "stream" => "XRANGE",
        other => panic!("a key of type {other}"),
    });
    command.arg(key);
    match kind {
        "list" => command.arg(0).arg(-1),
        "zset" => command.arg(0).arg(-1).arg("WITHSCORES"),
        "stream" => command.arg("-").arg("+"),
        _ => &mut command,
    };
    command
}

/// Sets and hashes have no order; everything else has.
fn canonical(kind: &str, value: Value) -> String {
    match (kind, value) {
        ("set", Value::Set(members) | Value::Array(members)) => {
            sorted(members.iter().map(|member| format!("{member:?}")))
        }
        ("hash", Value::Map(pairs)) => sorted(pairs.iter().map(|pair| format!("{pair:?}"))),
        ("hash", Value::Array(flat)) => sorted(flat.chunks(2).map(|pair| format!("{pair:?}"))),
        (_, value) => format!("{value:?}"),
    }
}

fn sorted(parts: impl Iterator<Item = String>) -> String {
    let mut parts: Vec<String> = parts.collect();
    parts.sort();
    parts.concat()
}

/// The groups of a stream. The idle time of pending entries is left out, because it depends on the time of the request.
async fn groups(connection: &mut MultiplexedConnection, key: &[u8]) -> String {
    let mut pipeline = Pipeline::new();
    pipeline.cmd("XINFO").arg("STREAM").arg(key);
    pipeline.cmd("XINFO").arg("GROUPS").arg(key);
    pipeline.cmd("XINFO").arg("CONSUMERS").arg(key).arg("workers");
    pipeline.cmd("XPENDING").arg(key).arg("workers").arg("-").arg("+").arg(1000);
    let (stream, groups, consumers, pending): (Value, Value, Value, Value) =
        pipeline.query_async(connection).await.unwrap();
    let pending: Vec<(String, String, u64, u64)> = redis::from_redis_value(pending).unwrap();
    let stream: BTreeMap<String, Value> = redis::from_redis_value(stream).unwrap();
    let consumers: Vec<BTreeMap<String, Value>> = redis::from_redis_value(consumers).unwrap();
    let names: Vec<(&Value, &Value)> =
        consumers.iter().map(|fields| (&fields["name"], &fields["pending"])).collect();
    let pending: Vec<_> = pending.iter().map(|(id, consumer, _, times)| (id, consumer, times)).collect();
    let kept = ["length", "last-generated-id", "max-deleted-entry-id", "entries-added"]
        .map(|name| stream.get(name).cloned());
    format!("{kept:?}{groups:?}{names:?}{pending:?}")
}

//! Migration of a whole keyspace by the rules of three applications, with a dry run before and a comparison after it.

use super::running::{Migrate, assert_same, count, keys, renamed};
use crate::harness::Redis;
use crate::harness::keyspace::{Keys, fill, size};

/// The source, and the instances of three applications.
struct Servers {
    old: Redis,
    express: Redis,
    nest: Redis,
    shared: Redis,
    state: tempfile::TempDir,
}

impl Servers {
    async fn start() -> Self {
        let (old, express) = tokio::join!(Redis::start(), Redis::start());
        let (nest, shared) = tokio::join!(Redis::start(), Redis::start());
        Self { old, express, nest, shared, state: tempfile::tempdir().unwrap() }
    }

    fn migrate(&self) -> Migrate {
        Migrate::from(&self.old.url(), &self.state.path().join("state"))
            .to("express", &self.express.url())
            .to("nest", &self.nest.url())
            .to("shared", &self.shared.url())
            .rule("express:*=express")
            .rule("room:=express:express:room:")
            .rule("nest:*=nest")
            .rule("session:*=nest:nest:session:")
            .with(&["--rest", "shared"])
    }

    /// Expected keys of each target.
    fn expected(before: &Keys) -> [Keys; 3] {
        let keep = |prefix: &str| renamed(before, prefix, prefix);
        let mut express = keep("express:");
        express.extend(renamed(before, "room:", "express:room:"));
        let mut nest = keep("nest:");
        nest.extend(renamed(before, "session:", "nest:session:"));
        let mut shared = keep("shared:");
        shared.extend(keep("stray-"));
        [express, nest, shared]
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_type_is_migrated_with_its_ttl() {
    let servers = Servers::start().await;
    fill(&mut servers.old.connection().await, size()).await;
    let before = keys(&servers.old).await;
    assert_eq!(before.len(), size());

    let began = std::time::Instant::now();
    let ended = servers.migrate().run().await.expect(0);
    eprintln!("{} keys moved and compared in {:?}\n{}", size(), began.elapsed(), ended.text);

    assert_eq!(ended.sum("keys moved"), size() as u64);
    assert!(ended.text.contains(&format!("compared {} keys: 0 differ", size())), "{}", ended.text);
    let [express, nest, shared] = Servers::expected(&before);
    assert_same(&express, &keys(&servers.express).await);
    assert_same(&nest, &keys(&servers.nest).await);
    assert_same(&shared, &keys(&servers.shared).await);
    assert_same(&before, &keys(&servers.old).await);
    assert_eq!(std::fs::read_dir(servers.state.path()).unwrap().count(), 0, "the state is removed");
}

#[tokio::test]
async fn dry_run_counts_and_changes_nothing() {
    let servers = Servers::start().await;
    let mut old = servers.old.connection().await;
    fill(&mut old, 600).await;
    let mut nest = servers.nest.connection().await;
    redis::cmd("SET").arg("nest:session:3").arg("there").exec_async(&mut nest).await.unwrap();
    let before = keys(&servers.old).await;

    let ended = servers.migrate().with(&["--dry-run"]).run().await.expect(1);
    assert_eq!(ended.sum(" keys, about"), 600);
    for line in [
        "room: → express as express:room:…\n  100 keys",
        "becomes \"express:room:",
        "\"nest:session:3\" at nest",
    ] {
        assert!(ended.text.contains(line), "{line}: {}", ended.text);
    }
    assert_eq!(ended.sum("with a TTL"), 600, "each rule reports the number of keys with a TTL");
    let with_ttl: u64 = ended
        .text
        .lines()
        .filter_map(|line| line.split(", ").nth(2)?.split(' ').next()?.parse::<u64>().ok())
        .sum();
    assert_eq!(
        with_ttl,
        before.values().filter(|content| format!("{content:?}").contains("expiry: 1")).count() as u64
    );

    assert_eq!((count(&mut servers.express.connection().await).await, count(&mut nest).await), (0, 1));
    assert_same(&before, &keys(&servers.old).await);
    assert_eq!(std::fs::read_dir(servers.state.path()).unwrap().count(), 0);
    // Existing keys are no problem if they are to be overwritten.
    servers.migrate().with(&["--dry-run", "--conflict", "overwrite"]).run().await.expect(0);
}

#[tokio::test]
async fn verify_finds_each_kind_of_difference() {
    let servers = Servers::start().await;
    fill(&mut servers.old.connection().await, 600).await;
    servers.migrate().run().await.expect(0);
    servers.migrate().with(&["--verify"]).run().await.expect(0);

    let mut nest = servers.nest.connection().await;
    let mut change = redis::pipe();
    // nest:2 is "0-0" with a TTL, 8 the integer 1, 38 a list, 56 a set of words, 74 a hash, 98 a stream.
    change.cmd("PEXPIRE").arg("nest:2").arg(50_000_000).cmd("SET").arg("nest:8").arg("2").arg("KEEPTTL");
    change
        .cmd("LSET")
        .arg("nest:38")
        .arg(0)
        .arg("x")
        .cmd("SREM")
        .arg("nest:56")
        .arg("9-1")
        .cmd("SADD")
        .arg("nest:56")
        .arg("x");
    change.cmd("DEL").arg("nest:68").cmd("HSET").arg("nest:74").arg("12-3").arg("x");
    change.cmd("XGROUP").arg("DESTROY").arg("nest:98").arg("idle").cmd("PERSIST").arg("nest:86");
    change.exec_async(&mut nest).await.unwrap();
    let ended = servers.migrate().with(&["--verify"]).run().await.expect(1);
    assert!(ended.text.contains("compared 600 keys: 8 differ"), "{}", ended.text);
    for line in [
        "\"nest:2\": expiry",
        "\"nest:8\": content",
        "\"nest:38\": content",
        "\"nest:56\": content",
        "\"nest:68\": missing",
        "\"nest:74\": content",
        "\"nest:98\": the stream's groups",
        "\"nest:86\": expiry",
    ] {
        assert!(ended.text.contains(line), "{line}: {}", ended.text);
    }
}

#[tokio::test]
async fn rules_come_from_a_file_and_servers_from_a_configuration() {
    let servers = Servers::start().await;
    fill(&mut servers.old.connection().await, 60).await;
    let before = keys(&servers.old).await;
    let mut express = servers.express.connection().await;
    let demand = |password: &str| redis::cmd("CONFIG").arg("SET").arg("requirepass").arg(password).clone();
    demand("hunter2").exec_async(&mut express).await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("password"), "hunter2\n").unwrap();
    let (rules, config) = (directory.path().join("rules.toml"), directory.path().join("earshot.toml"));
    let text = format!(
        "from = \"file:{}\"\nrest = \"shared:rest:\"\n[to]\nexpress = \"new-express\"\nshared = \"env:SHARED\"\n[[rule]]\n\
         keys = \"room:*\"\nto = \"express\"\nprefix = \"\"\n",
        directory.path().join("old").display()
    );
    std::fs::write(&rules, text).unwrap();
    std::fs::write(directory.path().join("old"), servers.old.url() + "\n").unwrap();
    std::fs::write(
        &config,
        format!(
            "[redis.default]\nurl = \"redis://127.0.0.1:1\"\n[redis.new-express]\nurl = \"{}\"\npassword_file = \"{}\"\n",
            servers.express.url(),
            directory.path().join("password").display()
        ),
    )
    .unwrap();
    let mut migrate = std::process::Command::new(crate::harness::gateway::binary());
    migrate.env_clear().env("SHARED", servers.shared.url()).current_dir(directory.path()).arg("migrate");
    let ended = migrate.arg("--rules").arg(rules).arg("--config").arg(config).output().unwrap();
    assert!(ended.status.success(), "{ended:?}");
    demand("").exec_async(&mut express).await.unwrap();
    assert_same(&renamed(&before, "room:", ""), &keys(&servers.express).await);
    let mut rest = renamed(&before, "", "rest:");
    rest.retain(|key, _| !key.starts_with(b"rest:room:"));
    assert_same(&rest, &keys(&servers.shared).await);
}

//! Invalid migrations are rejected before anything is moved, and no secret is shown.

use redis::cmd;

use super::running::{Migrate, count, finish};
use crate::harness::keyspace::fill;
use crate::harness::{Redis, until};

async fn servers() -> (Redis, Redis, tempfile::TempDir) {
    let (old, new) = tokio::join!(Redis::start(), Redis::start());
    fill(&mut old.connection().await, 300).await;
    (old, new, tempfile::tempdir().unwrap())
}

fn migrate(old: &Redis, new: &Redis, directory: &tempfile::TempDir) -> Migrate {
    Migrate::from(&old.url(), &directory.path().join("state")).to("new", &new.url())
}

#[tokio::test]
async fn unmatched_keys_prevent_a_migration() {
    let (old, new, directory) = servers().await;
    let ended =
        migrate(&old, &new, &directory).rule("nest:*=new").rule("express:*=new").run().await.expect(1);
    assert!(ended.text.contains("nothing was moved") && ended.text.contains("(200 keys)"), "{}", ended.text);
    assert_eq!(count(&mut new.connection().await).await, 0);
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn name_collisions_prevent_a_migration() {
    let (old, new, directory) = servers().await;
    cmd("SET").arg("express:room:1").arg("x").exec_async(&mut old.connection().await).await.unwrap();
    let merging = migrate(&old, &new, &directory).rule("room:*=new:express:room:").with(&["--rest", "new"]);
    let ended = merging.run().await.expect(1);
    assert!(
        ended.text.contains("\"room:1\" and \"express:room:1\" both become \"express:room:1\""),
        "{}",
        ended.text
    );
    assert_eq!(count(&mut new.connection().await).await, 0);
}

#[tokio::test]
async fn repeated_renames_are_rejected() {
    let (old, _, directory) = servers().await;
    let endless =
        migrate(&old, &old, &directory).with(&["--rest", "new:x:", "--delete"]).run().await.expect(1);
    assert!(endless.text.contains("would be moved again"), "{}", endless.text);
    assert_eq!(count(&mut old.connection().await).await, 300);
}

#[tokio::test]
async fn invalid_flags_are_exit_code_2() {
    let (old, new, directory) = servers().await;
    for (more, expected) in [
        (&["--rule", "nest:*=nest"][..], "no target `nest`"),
        (&["--rule", "nest:*"], "PATTERN=NAME"),
        (&[], "no rules"),
        (&["--rest", "new", "--dry-run", "--delete"], "cannot be used with"),
        (&["--rest", "new", "--rate", "0"], "--rate"),
        (&["--rest", "new", "--to", "other=env:NOT_SET"], "NOT_SET"),
        (&["--rest", "new", "--rules", "/no/such/file"], "/no/such/file"),
    ] {
        let ended = migrate(&old, &new, &directory).with(more).run().await.expect(2);
        assert!(ended.text.contains(expected), "{more:?}: {}", ended.text);
    }
}

#[tokio::test]
async fn passwords_are_used_and_never_shown() {
    let (old, new, directory) = servers().await;
    let secret = "hunter2-and-more";
    for server in [&old, &new] {
        let mut connection = server.connection().await;
        cmd("CONFIG").arg("SET").arg("requirepass").arg(secret).exec_async(&mut connection).await.unwrap();
    }
    let with = |url: String, password: &str| url.replace("://", &format!("://:{password}@"));
    let run = |password: &str| {
        let migrate = Migrate::from("env:OLD", &directory.path().join("state"))
            .to("new", "env:NEW")
            .with(&["--rest", "new", "--rate", "200"]);
        migrate.variable("OLD", &with(old.url(), secret)).variable("NEW", &with(new.url(), password))
    };
    let wrong = run("wrong-hunter2").run().await.expect(1);
    assert!(
        wrong.text.contains("new (redis://127.0.0.1") && wrong.text.contains("WRONGPASS"),
        "{}",
        wrong.text
    );
    let mut process = run(secret).start();
    let state = directory.path().join("state");
    until("there is a state", async || state.exists().then_some(())).await;
    let kept = std::fs::read_to_string(&state).unwrap();
    let shown = std::fs::read(format!("/proc/{}/cmdline", process.id())).unwrap();
    let ended = finish(&mut process).await.expect(0);
    for text in [wrong.text, kept, String::from_utf8_lossy(&shown).into_owned(), ended.text] {
        assert!(!text.contains("hunter2"), "{text}");
    }
}

#[tokio::test]
async fn full_or_replica_target_ends_the_run_with_a_reason() {
    let (old, new, directory) = servers().await;
    let mut there = new.connection().await;
    let configure = async |there: &mut _, value: &str| {
        cmd("CONFIG").arg("SET").arg("maxmemory").arg(value).exec_async(there).await.unwrap();
    };
    configure(&mut there, "1").await;
    let run = || migrate(&old, &new, &directory).with(&["--rest", "new"]);
    let full = run().run().await.expect(1);
    assert!(full.text.contains("OOM") && full.text.contains("maxmemory"), "{}", full.text);
    configure(&mut there, "0").await;
    cmd("REPLICAOF").arg("127.0.0.1").arg(old.address().port()).exec_async(&mut there).await.unwrap();
    let replica = run().run().await.expect(1);
    assert!(replica.text.contains("READONLY") && replica.text.contains("primary"), "{}", replica.text);
    cmd("REPLICAOF").arg("NO").arg("ONE").exec_async(&mut there).await.unwrap();
    cmd("FLUSHALL").exec_async(&mut there).await.unwrap();
    run().run().await.expect(0);
    assert_eq!(count(&mut there).await, 300);
}

#[tokio::test]
async fn evicting_target_causes_a_warning() {
    let (old, new, directory) = servers().await;
    let mut there = new.connection().await;
    for (key, value) in [("maxmemory", "1gb"), ("maxmemory-policy", "allkeys-lru")] {
        cmd("CONFIG").arg("SET").arg(key).arg(value).exec_async(&mut there).await.unwrap();
    }
    let ended = migrate(&old, &new, &directory).with(&["--rest", "new"]).run().await.expect(0);
    assert!(ended.text.contains("maxmemory-policy is allkeys-lru"), "{}", ended.text);
}

#[tokio::test]
async fn documented_permissions_are_sufficient() {
    let (old, new, directory) = servers().await;
    let user = async |server: &Redis, rights: &str| {
        let mut set = cmd("ACL");
        set.arg("SETUSER")
            .arg("mover")
            .arg("on")
            .arg(">hunter2")
            .arg("~*")
            .arg(rights.split(' ').collect::<Vec<_>>());
        set.exec_async(&mut server.connection().await).await.unwrap();
        server.url().replace("://", "://mover:hunter2@")
    };
    let from = "+@read +info +time +hello +client|setname +eval +unlink +watch +unwatch +multi +exec";
    let to = "+@read +@write +info +time +hello +client|setname";
    let (from, to) = (user(&old, from).await, user(&new, to).await);
    let run = |more: &[&str]| {
        let migrate = Migrate::from("env:OLD", &directory.path().join("state")).to("new", "env:NEW");
        migrate.with(&["--rest", "new"]).with(more).variable("OLD", &from).variable("NEW", &to)
    };
    run(&["--dry-run"]).run().await.expect(0);
    run(&[]).run().await.expect(0);
    cmd("FLUSHALL").exec_async(&mut new.connection().await).await.unwrap();
    run(&["--chunk-threshold", "1B"]).run().await.expect(0);
    run(&["--delete"]).run().await.expect(0);
    fill(&mut old.connection().await, 300).await;
    run(&["--delete", "--chunk-threshold", "1B", "--conflict", "overwrite"]).run().await.expect(0);
    assert_eq!(count(&mut old.connection().await).await, 0);
    assert_eq!(count(&mut new.connection().await).await, 300);
}

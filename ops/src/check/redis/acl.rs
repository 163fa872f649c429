//! Checks whether the user has permission for each command that the gateway uses.
//!
//! Owns the list of commands and three ways to test them, of which the first permitted one is used. None of them has
//! an effect: a transaction that is discarded (permissions are checked when a command is queued), `ACL DRYRUN`, and
//! harmless commands on unique names. Must never run a command on a name that others may use.

use redis::aio::MultiplexedConnection;
use redis::{Pipeline, RedisResult, Value};

use super::super::report::Finding;
use super::super::test_names::{TestName, random_name};
use super::plan::CheckPlan;
use super::server_info::ServerInfo;
use super::{command, query};
use earshot_redis_link::server_message;

/// Purpose of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Need {
    /// Without it no messages are received.
    Subscribe,
    /// Without it clients and the API cannot publish.
    Publish,
    /// Without it there are no `stream` channels.
    Logs,
    /// Without it a link that receives nothing is detected late.
    Probe,
    /// Without it diagnostics are incomplete.
    Diagnostics,
}

/// A command that the gateway uses.
#[derive(Clone, Debug)]
struct RequiredCommand {
    words: Vec<String>,
    purpose: Need,
    /// Running it has no effect that others could notice.
    is_safe: bool,
}

/// Result of a permission test.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Permission {
    Granted,
    /// Denied, with the server's message.
    Denied(String),
    /// The server does not have the command.
    Unsupported,
    /// A test would have an effect.
    Untested,
}

/// Tests all permissions.
pub(super) async fn inspect(
    connection: &mut MultiplexedConnection,
    plan: &CheckPlan,
    facts: &ServerInfo,
) -> Vec<Finding> {
    let commands = commands(plan, facts.is_cluster());
    let mut permissions = by_transaction(connection, &commands).await;
    if permissions.is_none() {
        permissions = by_dry_run(connection, &commands, facts.user.as_deref()).await;
    }
    match permissions {
        Some(permissions) => evaluate(&commands, &permissions, plan),
        None => {
            let permissions = by_trying(connection, &commands).await;
            evaluate(&commands, &permissions, plan)
        }
    }
}

/// All commands that the gateway uses, on names that match the plan.
fn commands(plan: &CheckPlan, is_cluster: bool) -> Vec<RequiredCommand> {
    let mut commands = vec![command_for(Need::Subscribe, &["PING"])];
    for channel in &plan.channels {
        let sample = TestName::of(&channel.name);
        let (publish, shard) = if channel.sharded { ("SPUBLISH", "S") } else { ("PUBLISH", "") };
        if let Some(pattern) = &channel.pattern {
            commands.push(command_for(Need::Subscribe, &["PSUBSCRIBE", pattern]));
            commands.push(command_for(Need::Subscribe, &["PUNSUBSCRIBE", pattern]));
        } else {
            commands.push(command_for(Need::Subscribe, &[&format!("{shard}SUBSCRIBE"), &sample.name]));
            commands.push(command_for(Need::Subscribe, &[&format!("{shard}UNSUBSCRIBE"), &sample.name]));
        }
        commands.push(on(&sample, Need::Publish, &[publish, &sample.name, ""]));
    }
    if let Some(prefix) = &plan.probe_prefix {
        let channel = format!("{prefix}{}", random_name());
        commands.push(command_for(Need::Probe, &["SUBSCRIBE", &channel]));
        commands.push(command_for(Need::Probe, &["PUBLISH", &channel, ""]));
    }
    for log in &plan.logs {
        commands.extend(log_commands(&log.key_prefix, &TestName::of(&log.channel)));
    }
    if is_cluster {
        commands.push(command_for(Need::Subscribe, &["CLUSTER", "SLOTS"]));
        commands.push(command_for(Need::Probe, &["CLUSTER", "NODES"]));
        commands.push(command_for(Need::Probe, &["CLUSTER", "LINKS"]));
        commands.push(command_for(Need::Publish, &["ASKING"]));
    }
    for words in
        [&["INFO"][..], &["ROLE"], &["CONFIG", "GET", "maxclients"], &["CLIENT", "SETNAME", "earshot:check"]]
    {
        commands.push(command_for(Need::Diagnostics, words));
    }
    commands
}

/// Commands of the stream scripts, in an order that permits running them: the keys are strings while the other commands
/// run, so these fail without an effect, and the keys are deleted at the end.
fn log_commands(prefix: &str, sample: &TestName) -> Vec<RequiredCommand> {
    const NOTHING: &str = "e0e1f9fabfc9d4800c877a703b823ac0578ff8db";
    let stream = &format!("{prefix}stream:{}", sample.name);
    let meta = &format!("{prefix}stream-meta:{}", sample.name);
    let once = &format!("{prefix}idempotency:{}:{}:check", sample.name.len(), sample.name);
    let mut commands = vec![
        command_for(Need::Logs, &["SCRIPT", "LOAD", "return 1"]),
        command_for(Need::Logs, &["EVALSHA", NOTHING, "0"]),
        command_for(Need::Logs, &["EVAL", "return 1", "0"]),
        command_for(Need::Logs, &["TIME"]),
    ];
    let on_keys: [&[&str]; 16] = [
        &["SET", once, "", "PX", "10000"],
        &["SET", stream, "", "PX", "10000"],
        &["SET", meta, "", "PX", "10000"],
        &["GET", once],
        &["HMGET", meta, "epoch"],
        &["HGET", meta, "length"],
        &["HSET", meta, "epoch", ""],
        &["XLEN", stream],
        &["XRANGE", stream, "-", "+"],
        &["XREVRANGE", stream, "+", "-"],
        &["XADD", stream, "*", "d", ""],
        &["PEXPIRE", stream, "10000"],
        &["PEXPIRE", meta, "10000"],
        &["UNLINK", stream],
        &["DEL", meta],
        &["DEL", once],
    ];
    commands.extend(on_keys.iter().map(|words| on(sample, Need::Logs, words)));
    commands
}

fn command_for(purpose: Need, words: &[&str]) -> RequiredCommand {
    RequiredCommand { words: words.iter().map(ToString::to_string).collect(), purpose, is_safe: true }
}

/// For a name that others may use.
fn on(sample: &TestName, purpose: Need, words: &[&str]) -> RequiredCommand {
    RequiredCommand { is_safe: sample.is_unique, ..command_for(purpose, words) }
}

/// Queues all commands in a transaction and discards it. `None` if that is not permitted.
async fn by_transaction(
    connection: &mut MultiplexedConnection,
    commands: &[RequiredCommand],
) -> Option<Vec<Permission>> {
    // Sent separately: if MULTI failed, the following commands would be executed.
    query(connection, &["MULTI"]).await.ok()?;
    let mut pipeline = Pipeline::with_capacity(commands.len() + 1);
    commands.iter().for_each(|one| {
        pipeline.add_command(command(&one.words));
    });
    pipeline.cmd("DISCARD");
    let answers = connection.send_packed_commands(&pipeline, 0, commands.len() + 1).await.ok()?;
    let permissions =
        answers.into_iter().zip(commands).map(|(answer, _)| permission_of(answer.extract_error())).collect();
    Some(permissions)
}

/// Uses ACL DRYRUN. `None` if it is not permitted or not supported.
async fn by_dry_run(
    connection: &mut MultiplexedConnection,
    commands: &[RequiredCommand],
    user: Option<&str>,
) -> Option<Vec<Permission>> {
    let user = user?;
    let mut permissions = Vec::with_capacity(commands.len());
    for one in commands {
        let words: Vec<&str> =
            ["ACL", "DRYRUN", user].into_iter().chain(one.words.iter().map(String::as_str)).collect();
        let permission = match query(connection, &words).await {
            Ok(Value::Okay) => Permission::Granted,
            // A denial is a normal reply, not an error.
            Ok(Value::BulkString(text)) => Permission::Denied(String::from_utf8_lossy(&text).into_owned()),
            Ok(_) => Permission::Untested,
            Err(error) if server_message(&error).contains("not found") => Permission::Unsupported,
            Err(_) => return None,
        };
        permissions.push(permission);
    }
    Some(permissions)
}

/// Runs the safe commands. Skips those that could leave something behind after a denial.
async fn by_trying(connection: &mut MultiplexedConnection, commands: &[RequiredCommand]) -> Vec<Permission> {
    let mut permissions = Vec::with_capacity(commands.len());
    let mut may_write = true;
    for one in commands {
        let is_write = matches!(one.words[0].as_str(), "HSET" | "XADD");
        if !one.is_safe || (is_write && !may_write) {
            permissions.push(Permission::Untested);
            continue;
        }
        let outcome = permission_of(query(connection, &one.words).await);
        may_write &= one.words[0] != "SET" || outcome == Permission::Granted;
        permissions.push(outcome);
    }
    permissions
}

/// Interprets a reply. Any error other than a denial occurs after the permission check.
fn permission_of(answer: RedisResult<Value>) -> Permission {
    let Err(error) = answer else { return Permission::Granted };
    let text = server_message(&error);
    if text.starts_with("NOPERM") {
        Permission::Denied(text)
    } else if text.contains("unknown command") || text.contains("nknown subcommand") {
        Permission::Unsupported
    } else {
        Permission::Granted
    }
}

fn evaluate(commands: &[RequiredCommand], permissions: &[Permission], plan: &CheckPlan) -> Vec<Finding> {
    let mut denials: Vec<AclDenial> = Vec::new();
    let (mut granted, mut untested, mut optional) = (0, Vec::new(), Vec::new());
    for (required, permission) in commands.iter().zip(permissions) {
        match permission {
            Permission::Granted => granted += 1,
            Permission::Untested => untested.push(shown(required)),
            Permission::Denied(_) | Permission::Unsupported if required.purpose == Need::Diagnostics => {
                optional.push(shown(required))
            }
            Permission::Denied(_) | Permission::Unsupported => {
                AclDenial::add(&mut denials, required, permission)
            }
        }
    }
    let mut findings: Vec<Finding> = denials.iter().map(|denial| denial.finding(plan)).collect();
    if findings.is_empty() {
        findings.push(Finding::ok("permissions", format!("all {granted} required commands are permitted")));
    }
    if !optional.is_empty() {
        findings.push(Finding::ok(
            "permissions",
            format!("not permitted, and not required: {}", optional.join(", ")),
        ));
    }
    if !untested.is_empty() {
        untested.dedup();
        let message = format!("not tested, because it would affect other clients: {}", untested.join(", "));
        let finding = Finding::skipped("permissions", message);
        findings
            .push(finding.fix("ACL SETUSER … +multi +discard permits a test without running the commands"));
    }
    findings
}

/// Scope of a denial.
#[derive(Clone, Debug, PartialEq, Eq)]
enum DeniedScope {
    /// The command.
    Command,
    /// The channel, by name.
    Channel(String),
    /// The key, by name.
    Key(String),
    /// The server does not have the command.
    Unsupported,
}

impl DeniedScope {
    fn of(required: &RequiredCommand, permission: &Permission) -> Self {
        let is_command = |text: &str| text.contains("permissions to run") || text.contains("can't run");
        match permission {
            Permission::Denied(text) if !is_command(text) => {
                let name = required.words.get(1).cloned().unwrap_or_default();
                if is_pubsub(required) { Self::Channel(name) } else { Self::Key(name) }
            }
            Permission::Unsupported => Self::Unsupported,
            Permission::Denied(_) | Permission::Granted | Permission::Untested => Self::Command,
        }
    }
}

/// Commands denied for the same reason.
struct AclDenial {
    scope: DeniedScope,
    purpose: Need,
    commands: Vec<String>,
}

impl AclDenial {
    fn add(denials: &mut Vec<Self>, required: &RequiredCommand, permission: &Permission) {
        let (scope, purpose, command) =
            (DeniedScope::of(required, permission), required.purpose, shown(required));
        match denials.iter_mut().find(|denial| denial.scope == scope && denial.purpose == purpose) {
            Some(denial) if denial.commands.contains(&command) => {}
            Some(denial) => denial.commands.push(command),
            None => denials.push(Self { scope, purpose, commands: vec![command] }),
        }
    }

    fn finding(&self, plan: &CheckPlan) -> Finding {
        let (commands, purpose) = (self.commands.join(", "), consequence(self.purpose));
        // Without a configuration the names are only assumptions.
        let on_name = matches!(self.scope, DeniedScope::Channel(_) | DeniedScope::Key(_));
        let assumed = plan.assumed && (on_name || self.purpose == Need::Logs) || self.purpose == Need::Probe;
        let level = if assumed { Finding::warning } else { Finding::failed };
        let unless =
            if plan.assumed && assumed { "; use --config to check the configured namespaces" } else { "" };
        match &self.scope {
            DeniedScope::Command => level("permissions", format!("not permitted: {commands}"))
                .cause(format!("the ACL denies it: {purpose}{unless}"))
                .fix(format!("ACL SETUSER …{}", self.rules())),
            DeniedScope::Channel(name) => level("permissions", format!("{commands}: not permitted on channel {name}"))
                .cause(format!("the ACL permits only other channels: {purpose} on it{unless}"))
                .fix(if commands.starts_with('P') && commands.contains("SUBSCRIBE") {
                    format!("ACL SETUSER … &{name}; the ACL must contain the exact pattern, a wider one does not match")
                } else {
                    format!("ACL SETUSER … with a & that covers {name}")
                }),
            DeniedScope::Key(name) => level("permissions", format!("{commands}: not permitted on key {name}"))
                .cause(format!("the ACL permits other keys only: {purpose}{unless}"))
                .fix(format!("ACL SETUSER … with a ~ that covers {name}")),
            DeniedScope::Unsupported => level("permissions", format!("not supported by the server: {commands}"))
                .cause(format!("the commands are renamed or disabled (rename-command, managed service): {purpose}{unless}"))
                .fix("enable the commands, or use another service"),
        }
    }

    /// The commands as ACL rules.
    fn rules(&self) -> String {
        self.commands
            .iter()
            .map(|name| format!(" +{}", name.to_ascii_lowercase().replace(' ', "|")))
            .collect()
    }
}

fn is_pubsub(one: &RequiredCommand) -> bool {
    matches!(one.words[0].as_str(), "PUBLISH" | "SPUBLISH") || one.words[0].ends_with("SUBSCRIBE")
}

fn consequence(purpose: Need) -> &'static str {
    match purpose {
        Need::Subscribe => "no messages are received",
        Need::Publish => "clients and the API cannot publish",
        Need::Logs => "`source = \"stream\"` does not work",
        Need::Probe => "the gateway cannot verify that messages arrive, only that the server replies",
        Need::Diagnostics => "diagnostics are incomplete",
    }
}

/// Name of the command with its subcommand.
fn shown(one: &RequiredCommand) -> String {
    match one.words[0].as_str() {
        container @ ("SCRIPT" | "CLIENT" | "CONFIG" | "CLUSTER") => format!("{container} {}", one.words[1]),
        name => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Commands that the gateway's scripts call must be in the list.
    #[test]
    fn every_command_of_the_scripts_is_checked() {
        let scripts = [
            include_str!("../../../../gateway/src/broker/redis/log.lua"),
            include_str!("../../../../gateway/src/broker/redis/log_read.lua"),
            include_str!("../../../../gateway/src/broker/redis/log_clear.lua"),
        ];
        let checked: Vec<String> =
            commands(&CheckPlan::default(), true).iter().map(|one| one.words[0].clone()).collect();
        let mut seen = 0;
        for script in scripts {
            for call in script.split("call('").skip(1) {
                let name = call.split('\'').next().unwrap();
                assert!(checked.iter().any(|checked| checked == name), "{name} is not checked");
                seen += 1;
            }
        }
        assert!(seen > 10, "the scripts are read");
    }

    #[test]
    fn noticeable_commands_are_not_run() {
        let mut plan = CheckPlan { assumed: false, ..CheckPlan::default() };
        plan.channels[0].name = "web-signals".to_owned();
        plan.logs[0].channel = "web-signals".to_owned();
        for one in commands(&plan, true).iter().filter(|one| one.is_safe) {
            let touches = one.words.iter().any(|word| word.contains("web-signals"));
            assert!(!touches || one.words[0].ends_with("SUBSCRIBE"), "{one:?}");
        }
    }
}

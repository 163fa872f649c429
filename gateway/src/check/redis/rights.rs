//! Whether the user may run each command that the gateway runs.
//!
//! Owns the list of those commands, and three ways to ask, of which the first that is allowed is taken. None of them
//! does anything: a transaction that is thrown away (rights are judged when a command is queued), `ACL DRYRUN`, and
//! the commands themselves where they are harmless on a name that nobody else has. Must never run anything on a name
//! of somebody else.

use redis::aio::MultiplexedConnection;
use redis::{Pipeline, RedisResult, Value};

use super::super::report::Finding;
use super::super::sample::{Sample, random};
use super::facts::Facts;
use super::plan::Plan;
use super::{ask, command};
use crate::instance::said;

/// What a command is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    /// Without it nothing is heard.
    Hearing,
    /// Without it nobody publishes through the gateway.
    Publishing,
    /// Without it there are no `stream` channels.
    Logs,
    /// Without it a deaf link is found out later.
    Proof,
    /// Without it something is not seen.
    Looking,
}

/// A command as the gateway runs it.
#[derive(Clone, Debug)]
struct Use {
    words: Vec<String>,
    purpose: Purpose,
    /// It may be run as it stands: it does nothing that anybody else could notice.
    is_harmless: bool,
}

/// What became of the question.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Right {
    Granted,
    /// The user may not, in the server's words.
    Refused(String),
    /// The server has no such command.
    Unknown,
    /// Nobody can tell without doing it.
    Untried,
}

/// Looks at every right.
pub(super) async fn inspect(
    connection: &mut MultiplexedConnection,
    plan: &Plan,
    facts: &Facts,
) -> Vec<Finding> {
    let uses = uses(plan, facts.is_cluster());
    let mut rights = by_transaction(connection, &uses).await;
    if rights.is_none() {
        rights = by_dry_run(connection, &uses, facts.user.as_deref()).await;
    }
    match rights {
        Some(rights) => judge(&uses, &rights, plan),
        None => {
            let rights = by_trying(connection, &uses).await;
            judge(&uses, &rights, plan)
        }
    }
}

/// Every command that the gateway runs, on names that fit the plan.
fn uses(plan: &Plan, is_cluster: bool) -> Vec<Use> {
    let mut uses = vec![own(Purpose::Hearing, &["PING"])];
    for channel in &plan.channels {
        let sample = Sample::of(&channel.name);
        let (publish, shard) = if channel.sharded { ("SPUBLISH", "S") } else { ("PUBLISH", "") };
        if let Some(pattern) = &channel.pattern {
            uses.push(own(Purpose::Hearing, &["PSUBSCRIBE", pattern]));
            uses.push(own(Purpose::Hearing, &["PUNSUBSCRIBE", pattern]));
        } else {
            uses.push(own(Purpose::Hearing, &[&format!("{shard}SUBSCRIBE"), &sample.name]));
            uses.push(own(Purpose::Hearing, &[&format!("{shard}UNSUBSCRIBE"), &sample.name]));
        }
        uses.push(on(&sample, Purpose::Publishing, &[publish, &sample.name, ""]));
    }
    if let Some(prefix) = &plan.probe_prefix {
        let channel = format!("{prefix}{}", random());
        uses.push(own(Purpose::Proof, &["SUBSCRIBE", &channel]));
        uses.push(own(Purpose::Proof, &["PUBLISH", &channel, ""]));
    }
    for log in &plan.logs {
        uses.extend(uses_of_a_log(&log.key_prefix, &Sample::of(&log.channel)));
    }
    if is_cluster {
        uses.push(own(Purpose::Hearing, &["CLUSTER", "SLOTS"]));
        uses.push(own(Purpose::Proof, &["CLUSTER", "NODES"]));
        uses.push(own(Purpose::Proof, &["CLUSTER", "LINKS"]));
        uses.push(own(Purpose::Publishing, &["ASKING"]));
    }
    for words in
        [&["INFO"][..], &["ROLE"], &["CONFIG", "GET", "maxclients"], &["CLIENT", "SETNAME", "earshot:check"]]
    {
        uses.push(own(Purpose::Looking, words));
    }
    uses
}

/// What the scripts of a log need, and what they do, in an order in which all of it may be tried: the keys are strings
/// while the others are run, so that these come to nothing, and are gone in the end.
fn uses_of_a_log(prefix: &str, sample: &Sample) -> Vec<Use> {
    const NOTHING: &str = "e0e1f9fabfc9d4800c877a703b823ac0578ff8db";
    let stream = &format!("{prefix}stream:{}", sample.name);
    let meta = &format!("{prefix}stream-meta:{}", sample.name);
    let once = &format!("{prefix}idempotency:{}:check", sample.name);
    let mut uses = vec![
        own(Purpose::Logs, &["SCRIPT", "LOAD", "return 1"]),
        own(Purpose::Logs, &["EVALSHA", NOTHING, "0"]),
        own(Purpose::Logs, &["EVAL", "return 1", "0"]),
        own(Purpose::Logs, &["TIME"]),
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
    uses.extend(on_keys.iter().map(|words| on(sample, Purpose::Logs, words)));
    uses
}

fn own(purpose: Purpose, words: &[&str]) -> Use {
    Use { words: words.iter().map(ToString::to_string).collect(), purpose, is_harmless: true }
}

/// On a name that may be somebody else's.
fn on(sample: &Sample, purpose: Purpose, words: &[&str]) -> Use {
    Use { is_harmless: sample.is_own, ..own(purpose, words) }
}

/// Queues everything in a transaction and throws it away. `None` when the user may not.
async fn by_transaction(connection: &mut MultiplexedConnection, uses: &[Use]) -> Option<Vec<Right>> {
    // Alone, and first: were it refused, what follows would be done.
    ask(connection, &["MULTI"]).await.ok()?;
    let mut pipeline = Pipeline::with_capacity(uses.len() + 1);
    uses.iter().for_each(|one| {
        pipeline.add_command(command(&one.words));
    });
    pipeline.cmd("DISCARD");
    let answers = connection.send_packed_commands(&pipeline, 0, uses.len() + 1).await.ok()?;
    let rights = answers.into_iter().zip(uses).map(|(answer, _)| right(answer.extract_error())).collect();
    Some(rights)
}

/// Asks the server what would be. `None` when the user may not, or the server cannot.
async fn by_dry_run(
    connection: &mut MultiplexedConnection,
    uses: &[Use],
    user: Option<&str>,
) -> Option<Vec<Right>> {
    let user = user?;
    let mut rights = Vec::with_capacity(uses.len());
    for one in uses {
        let words: Vec<&str> =
            ["ACL", "DRYRUN", user].into_iter().chain(one.words.iter().map(String::as_str)).collect();
        let right = match ask(connection, &words).await {
            Ok(Value::Okay) => Right::Granted,
            // A refusal is told as a text, and is no error.
            Ok(Value::BulkString(text)) => Right::Refused(String::from_utf8_lossy(&text).into_owned()),
            Ok(_) => Right::Untried,
            Err(error) if said(&error).contains("not found") => Right::Unknown,
            Err(_) => return None,
        };
        rights.push(right);
    }
    Some(rights)
}

/// Does what is harmless. What follows on a refusal is not done: it could leave something behind.
async fn by_trying(connection: &mut MultiplexedConnection, uses: &[Use]) -> Vec<Right> {
    let mut rights = Vec::with_capacity(uses.len());
    let mut may_write = true;
    for one in uses {
        let is_write = matches!(one.words[0].as_str(), "HSET" | "XADD");
        if !one.is_harmless || (is_write && !may_write) {
            rights.push(Right::Untried);
            continue;
        }
        let outcome = right(ask(connection, &one.words).await);
        may_write &= one.words[0] != "SET" || outcome == Right::Granted;
        rights.push(outcome);
    }
    rights
}

/// What an answer says of a right. Any error but a refusal comes after the right was judged.
fn right(answer: RedisResult<Value>) -> Right {
    let Err(error) = answer else { return Right::Granted };
    let text = said(&error);
    if text.starts_with("NOPERM") {
        Right::Refused(text)
    } else if text.contains("unknown command") || text.contains("nknown subcommand") {
        Right::Unknown
    } else {
        Right::Granted
    }
}

fn judge(uses: &[Use], rights: &[Right], plan: &Plan) -> Vec<Finding> {
    let mut wrongs: Vec<Wrong> = Vec::new();
    let (mut granted, mut untried, mut unseen) = (0, Vec::new(), Vec::new());
    for (one, right) in uses.iter().zip(rights) {
        match right {
            Right::Granted => granted += 1,
            Right::Untried => untried.push(shown(one)),
            Right::Refused(_) | Right::Unknown if one.purpose == Purpose::Looking => unseen.push(shown(one)),
            Right::Refused(_) | Right::Unknown => Wrong::note(&mut wrongs, one, right),
        }
    }
    let mut findings: Vec<Finding> = wrongs.iter().map(|wrong| wrong.told(plan)).collect();
    if findings.is_empty() {
        findings.push(Finding::ok(
            "rights",
            format!("each of {granted} commands that were asked for may be run"),
        ));
    }
    if !unseen.is_empty() {
        findings.push(Finding::ok("rights", format!("not allowed, and not needed: {}", unseen.join(", "))));
    }
    if !untried.is_empty() {
        untried.dedup();
        let said = format!("cannot be tried without being noticed by others: {}", untried.join(", "));
        let finding = Finding::skipped("rights", said);
        findings
            .push(finding.advise("ACL SETUSER … +multi +discard lets them be asked for without being run"));
    }
    findings
}

/// What keeps a command from being run.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Bar {
    /// The command is forbidden.
    Command,
    /// A channel is, by its name.
    Channel(String),
    /// A key is, by its name.
    Key(String),
    /// The server has no such command.
    Missing,
}

impl Bar {
    fn of(one: &Use, right: &Right) -> Self {
        let is_command = |text: &str| text.contains("permissions to run") || text.contains("can't run");
        match right {
            Right::Refused(text) if !is_command(text) => {
                let name = one.words.get(1).cloned().unwrap_or_default();
                if is_pubsub(one) { Self::Channel(name) } else { Self::Key(name) }
            }
            Right::Unknown => Self::Missing,
            Right::Refused(_) | Right::Granted | Right::Untried => Self::Command,
        }
    }
}

/// Commands that one thing keeps from being run, and what comes of it.
struct Wrong {
    bar: Bar,
    purpose: Purpose,
    commands: Vec<String>,
}

impl Wrong {
    fn note(wrongs: &mut Vec<Self>, one: &Use, right: &Right) {
        let (bar, purpose, command) = (Bar::of(one, right), one.purpose, shown(one));
        match wrongs.iter_mut().find(|wrong| wrong.bar == bar && wrong.purpose == purpose) {
            Some(wrong) if wrong.commands.contains(&command) => {}
            Some(wrong) => wrong.commands.push(command),
            None => wrongs.push(Self { bar, purpose, commands: vec![command] }),
        }
    }

    fn told(&self, plan: &Plan) -> Finding {
        let (commands, purpose) = (self.commands.join(", "), consequence(self.purpose));
        // Of which channels, keys and logs there will be, nothing is known.
        let on_a_name = matches!(self.bar, Bar::Channel(_) | Bar::Key(_));
        let guessed =
            plan.assumed && (on_a_name || self.purpose == Purpose::Logs) || self.purpose == Purpose::Proof;
        let level = if guessed { Finding::warning } else { Finding::failed };
        let unless =
            if plan.assumed && guessed { "; with --config, what is planned is looked at" } else { "" };
        match &self.bar {
            Bar::Command => level("rights", format!("may not be run: {commands}"))
                .because(format!("the ACL does not allow it, so {purpose}{unless}"))
                .advise(format!("ACL SETUSER …{}", self.rules())),
            Bar::Channel(name) => level("rights", format!("{commands}: not on the channel {name}"))
                .because(format!("the ACL allows other channels, so {purpose} there{unless}"))
                .advise(if commands.starts_with('P') && commands.contains("SUBSCRIBE") {
                    format!("ACL SETUSER … &{name}; a pattern must stand in the ACL as it is, a wider one does not count")
                } else {
                    format!("ACL SETUSER … with a & that covers {name}")
                }),
            Bar::Key(name) => level("rights", format!("{commands}: not on the key {name}"))
                .because(format!("the ACL allows other keys, so {purpose}{unless}"))
                .advise(format!("ACL SETUSER … with a ~ that covers {name}")),
            Bar::Missing => level("rights", format!("the server does not know: {commands}"))
                .because(format!("they are renamed or removed (rename-command, a managed service), so {purpose}{unless}"))
                .advise("give the commands back, or choose another service"),
        }
    }

    /// The commands as rules of an ACL.
    fn rules(&self) -> String {
        self.commands
            .iter()
            .map(|name| format!(" +{}", name.to_ascii_lowercase().replace(' ', "|")))
            .collect()
    }
}

fn is_pubsub(one: &Use) -> bool {
    matches!(one.words[0].as_str(), "PUBLISH" | "SPUBLISH") || one.words[0].ends_with("SUBSCRIBE")
}

fn consequence(purpose: Purpose) -> &'static str {
    match purpose {
        Purpose::Hearing => "nothing is heard",
        Purpose::Publishing => "clients and the API publish nothing",
        Purpose::Logs => "`source = \"stream\"` does not work",
        Purpose::Proof => "hearing is not proven, only that the server answers",
        Purpose::Looking => "something is not seen",
    }
}

/// The command's own name, with its sub-command.
fn shown(one: &Use) -> String {
    match one.words[0].as_str() {
        container @ ("SCRIPT" | "CLIENT" | "CONFIG" | "CLUSTER") => format!("{container} {}", one.words[1]),
        name => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the gateway's own scripts call must be in the list.
    #[test]
    fn every_command_of_the_scripts_is_asked_for() {
        let scripts = [
            include_str!("../../broker/redis/log.lua"),
            include_str!("../../broker/redis/log_read.lua"),
            include_str!("../../broker/redis/log_clear.lua"),
        ];
        let asked: Vec<String> =
            uses(&Plan::default(), true).iter().map(|one| one.words[0].clone()).collect();
        let mut seen = 0;
        for script in scripts {
            for call in script.split("call('").skip(1) {
                let name = call.split('\'').next().unwrap();
                assert!(asked.iter().any(|asked| asked == name), "{name} is not asked for");
                seen += 1;
            }
        }
        assert!(seen > 10, "the scripts are read");
    }

    #[test]
    fn nothing_that_others_could_notice_is_ever_tried() {
        let mut plan = Plan { assumed: false, ..Plan::default() };
        plan.channels[0].name = "web-signals".to_owned();
        plan.logs[0].channel = "web-signals".to_owned();
        for one in uses(&plan, true).iter().filter(|one| one.is_harmless) {
            let touches = one.words.iter().any(|word| word.contains("web-signals"));
            assert!(!touches || one.words[0].ends_with("SUBSCRIBE"), "{one:?}");
        }
    }
}

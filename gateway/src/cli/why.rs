//! `earshot why`: which permission a client has on a channel, and why.
//!
//! Owns the flags and the text of the answer. Must never print a token or a cookie.

use std::fmt::Write as _;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use earshot_protocol::ChannelName;

use super::io::{print_message, read_stdin, usage_error, write_stdout};
use crate::auth::access::Operation;
use crate::auth::identity::Fields;
use crate::config::{Config, Flags};
use crate::gateway;
use crate::node::permission_report::{PermissionQuery, PermissionReport, QueriedClient};

/// Flags of `earshot why`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Exit codes: 0 permitted, 1 denied, 2 invalid command line or configuration.")]
pub struct WhyArgs {
    /// The client: `user:NAME`, `token:TOKEN`, `cookie:HEADER` or `anonymous`. A token or cookie of `-` is read from
    /// standard input: arguments are visible to all users in `ps`
    #[arg(long = "as", value_name = "CLIENT", default_value = "anonymous")]
    client: String,
    /// A field of the user, such as tenant=acme; repeatable, also for several values
    #[arg(long = "field", value_name = "NAME=VALUE", value_parser = field)]
    fields: Vec<(String, String)>,
    /// Configuration file [default: EARSHOT_CONFIG, or earshot.toml in the working directory if it exists]
    #[arg(long, value_name = "PATH")]
    config: Option<PathBuf>,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
    /// The operation: subscribe, publish or read_history
    #[arg(value_parser = operation)]
    operation: Operation,
    /// The channel
    #[arg(value_parser = |text: &str| ChannelName::parse(text))]
    channel: ChannelName,
    /// The client is subscribed to the channel
    #[arg(long)]
    subscribed: bool,
}

fn field(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("expected NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

fn operation(text: &str) -> Result<Operation, String> {
    Operation::parse(text).ok_or_else(|| "expected subscribe, publish or read_history".to_owned())
}

impl WhyArgs {
    /// Answers with the rules and logins of the configuration.
    pub fn run(&self) -> ExitCode {
        let client = match self.client() {
            Ok(client) => client,
            Err(error) => return usage_error(&error),
        };
        let flags = Flags { config: self.config.clone(), ..Flags::default() };
        let config = match Config::load(&flags) {
            Ok(config) => config,
            Err(errors) => return usage_error(&errors.to_string()),
        };
        let (operation, channel) = (self.operation, self.channel.clone());
        let query = PermissionQuery { client, operation, channel, is_subscribed: self.subscribed };
        match explain(&config, &query) {
            Ok(report) => self.print(&report),
            Err(error) => {
                print_message(&format!("cannot determine the permission: {error}"));
                ExitCode::FAILURE
            }
        }
    }

    fn client(&self) -> Result<QueriedClient, String> {
        let (kind, value) = self.client.split_once(':').unwrap_or((&self.client, ""));
        if kind != "user" && !self.fields.is_empty() {
            return Err("--field requires --as user:NAME".to_owned());
        }
        let secret = || {
            if value == "-" { read_stdin().map(|text| text.trim().to_owned()) } else { Ok(value.to_owned()) }
        };
        match kind {
            "anonymous" if value.is_empty() => Ok(QueriedClient::Guest),
            "user" if !value.is_empty() => Ok(QueriedClient::User(value.to_owned(), self.fields())),
            "token" if !value.is_empty() => secret().map(QueriedClient::Token),
            "cookie" if !value.is_empty() => secret().map(QueriedClient::Cookie),
            _ => Err("--as: expected user:NAME, token:TOKEN, cookie:HEADER or anonymous".to_owned()),
        }
    }

    fn fields(&self) -> Fields {
        let mut fields = std::collections::BTreeMap::<String, Vec<String>>::new();
        for (name, value) in &self.fields {
            fields.entry(name.clone()).or_default().push(value.clone());
        }
        fields.into_iter().collect()
    }

    fn print(&self, report: &PermissionReport) -> ExitCode {
        let code = if report.allowed { ExitCode::SUCCESS } else { ExitCode::FAILURE };
        let text = if self.json {
            serde_json::to_string_pretty(report).unwrap_or_default() + "\n"
        } else {
            text(report)
        };
        write_stdout(&text, code)
    }
}

fn explain(config: &Config, query: &PermissionQuery) -> io::Result<PermissionReport> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(gateway::explain(config, query))
}

/// The answer for a terminal.
fn text(report: &PermissionReport) -> String {
    let answer = if report.allowed { "permitted" } else { "denied" };
    let mut text = format!("{answer}: {} {}: {}\n", report.operation, report.channel, report.reason);
    if let Some(client) = &report.client {
        let _ = writeln!(text, "client: login {}, user {:?}", client.login, client.user);
        for (name, values) in &client.fields {
            let _ = writeln!(text, "        {name} = {values:?}");
        }
    }
    if let Some(namespace) = &report.namespace {
        let _ = writeln!(text, "namespace: {namespace}");
    }
    for rule in &report.rules {
        let mark = if rule.applies { "applies       " } else { "does not apply" };
        let _ = writeln!(text, "  {mark}  {}: {}", rule.rule, rule.reason);
    }
    text
}

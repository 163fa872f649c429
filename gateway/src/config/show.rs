//! The configuration in effect, as TOML that reads back as the same (but for the secrets).
//!
//! Owns the layout of `earshot config show`. Must never write a secret: it has only what masks itself.

use std::fmt::Write as _;

use toml::Value;

use super::{Config, Namespace};

/// TOML being written, line by line.
#[derive(Debug, Default)]
pub(super) struct Shown(String);

impl Shown {
    /// A remark.
    pub(super) fn remark(&mut self, text: &str) {
        self.write(format_args!("# {}\n", text.escape_debug()));
    }

    /// The head of a section, brackets included.
    pub(super) fn section(&mut self, head: &str) {
        self.write(format_args!("\n{head}\n"));
    }

    /// A key with a value that is TOML already.
    pub(super) fn line(&mut self, key: &str, value: &str) {
        self.write(format_args!("{key} = {value}\n"));
    }

    /// Keys with values that are TOML already.
    pub(super) fn lines(&mut self, settings: &[(&str, String)]) {
        settings.iter().for_each(|(key, value)| self.line(key, value));
    }

    /// A key with a section on one line, its values TOML already.
    pub(super) fn inline(&mut self, key: &str, settings: &[(&str, String)]) {
        let settings: Vec<_> = settings.iter().map(|(key, value)| format!("{key} = {value}")).collect();
        self.line(key, &format!("{{ {} }}", settings.join(", ")));
    }

    /// A key with a text.
    pub(super) fn text(&mut self, key: &str, text: &str) {
        self.line(key, &Value::from(text).to_string());
    }

    /// A key with a list of texts.
    pub(super) fn texts<'t>(&mut self, key: &str, texts: impl IntoIterator<Item = &'t str>) {
        let list: Vec<Value> = texts.into_iter().map(Value::from).collect();
        self.line(key, &Value::from(list).to_string());
    }

    fn write(&mut self, line: std::fmt::Arguments<'_>) {
        // Writing to a String cannot fail.
        let _ = self.0.write_fmt(line);
    }
}

impl Config {
    /// The configuration in effect, as TOML with its secrets hidden.
    pub fn show(&self) -> String {
        let mut out = Shown::default();
        out.remark(&format!("The configuration in effect, from {}.", self.origin));
        for warning in &self.warnings {
            out.remark(&format!("Warning: {warning}"));
        }
        self.show_top(&mut out);
        out.section("[gateway]");
        out.lines(&self.gateway.settings());
        out.section("[limits]");
        out.lines(&self.limits.settings());
        out.section("[websocket]");
        out.lines(&self.websocket.settings());
        out.section("[sse]");
        out.lines(&self.sse.settings());
        out.section("[http]");
        out.lines(&self.http.settings());
        out.section("[drain]");
        out.lines(&self.drain.settings());
        self.redis.iter().for_each(|instance| instance.show(&mut out));
        let has_channels = |namespace: &&Namespace| !namespace.channels.is_empty();
        if !self.has_open_channels() {
            out.remark("No channel is open: write a [[namespace]], or set EARSHOT_OPEN_CHANNELS.");
        }
        self.namespaces.iter().filter(has_channels).for_each(|namespace| namespace.show(&mut out));
        out.0
    }

    fn show_top(&self, out: &mut Shown) {
        out.texts("listen", self.listen.iter().map(|listen| listen.text.as_str()));
        out.texts("allowed_origins", self.allowed_origins.iter().map(String::as_str));
        out.texts("allowed_hosts", self.allowed_hosts.iter().map(String::as_str));
        out.text("log", &self.log);
        if let Some(key) = &self.api_key {
            out.section("[api]");
            out.text("key", &key.to_string());
        }
    }
}

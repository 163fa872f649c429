//! The effective configuration as TOML.
//!
//! Owns the order of its sections. Must never write a secret.

use super::reader::toml_writer::TomlWriter;
use super::{Config, NamespaceConfig};

impl Config {
    /// The effective configuration as TOML, with secrets redacted.
    pub fn to_toml(&self) -> String {
        let mut out = TomlWriter::default();
        out.comment(&format!("Effective configuration, from: {}.", self.sources));
        for warning in &self.warnings {
            out.comment(&format!("Warning: {warning}"));
        }
        self.write_root(&mut out);
        self.api_keys.iter().for_each(|key| key.show(&mut out));
        out.section("[console]");
        out.line("enabled", &self.console.to_string());
        out.section("[gateway]");
        out.lines(&self.gateway.entries());
        out.section("[limits]");
        out.lines(&self.limits.entries());
        out.section("[websocket]");
        out.lines(&self.websocket.entries());
        out.section("[sse]");
        out.lines(&self.sse.entries());
        out.section("[http]");
        out.lines(&self.http.entries());
        out.section("[drain]");
        out.lines(&self.drain.entries());
        self.revocation.show(&mut out);
        self.connected_redis().for_each(|instance| instance.show(&mut out));
        self.logins.iter().for_each(|login| login.show(&mut out));
        self.hooks.show(&mut out);
        let has_channels = |namespace: &&NamespaceConfig| !namespace.channels.is_empty();
        if !self.has_open_channels() {
            out.comment("No channel is open: add a [[namespace]], or set EARSHOT_OPEN_CHANNELS.");
        }
        self.namespaces.iter().filter(has_channels).for_each(|namespace| namespace.show(&mut out));
        out.finish()
    }

    fn write_root(&self, out: &mut TomlWriter) {
        out.texts("listen", self.listen.iter().map(|listen| listen.text.as_str()));
        out.texts("internal_listen", self.internal_listen.iter().map(|listen| listen.text.as_str()));
        out.texts("allowed_origins", self.allowed_origins.iter().map(String::as_str));
        out.texts("allowed_hosts", self.allowed_hosts.iter().map(String::as_str));
        let proxies: Vec<String> = self.trusted_proxies.iter().map(ToString::to_string).collect();
        out.texts("trusted_proxies", proxies.iter().map(String::as_str));
        out.text("log", &self.log);
        out.text("log_format", self.log_format.as_str());
        if let Some(key) = &self.api_key {
            out.section("[api]");
            out.text("key", &key.to_string());
        }
    }
}

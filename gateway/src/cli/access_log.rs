//! Startup log lines about access: development mode, closed channels, missing API key.
//!
//! Must never change what a configuration permits.

use crate::config::Config;

/// Lines for a shell or an `.env` file that open channels and the HTTP API.
const OPEN_CHANNELS: &str = "EARSHOT_OPEN_CHANNELS=web-signals,jobs:*";
const API_KEY: &str = "EARSHOT_API_KEY=$(openssl rand -hex 32)";
const ALLOWED_ORIGINS: &str = "EARSHOT_ALLOWED_ORIGINS=https://app.example.com";

/// Logs development mode, or what is closed and the settings that open it.
pub(super) fn log(config: &Config) {
    if config.development {
        tracing::warn!(
            "development mode (--dev): every local program and every local page can subscribe, publish and call the \
             HTTP API; in production, start without --dev"
        );
    } else if !config.has_open_channels() {
        tracing::warn!("{}", closed(config));
    } else if !config.has_api_key() {
        tracing::info!(
            "no API key is configured (EARSHOT_API_KEY, or `key` in [api]): the HTTP API responds with 403"
        );
    }
}

/// The message for a gateway without open channels, with each missing line.
fn closed(config: &Config) -> String {
    let api = if !config.has_api_key() { ", and the HTTP API responds with 403" } else { "" };
    let missing = [
        Some(OPEN_CHANNELS),
        (!config.has_api_key()).then_some(API_KEY),
        config.allowed_origins.is_empty().then_some(ALLOWED_ORIGINS),
    ];
    let lines: Vec<&str> = missing.into_iter().flatten().collect();
    format!(
        "no channel is open: every subscribe is rejected with 102 (unknown channel){api}. Set these variables to your \
         own values, or add a [[namespace]]; for experiments on this machine, start `earshot serve --dev`\n{}",
        lines.join("\n")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_missing_lines_are_shown() {
        let config = Config::default();
        let shown = |config: &Config| closed(config).lines().skip(1).map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(shown(&config), [OPEN_CHANNELS, API_KEY, ALLOWED_ORIGINS]);
        let config = Config { allowed_origins: vec!["https://a.example".to_owned()], ..config };
        assert_eq!(shown(&config), [OPEN_CHANNELS, API_KEY]);
    }
}

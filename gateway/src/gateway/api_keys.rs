//! The keys of the HTTP API, whose files are read again when they change.

use std::io;
use std::sync::Arc;

use super::invalid;
use crate::auth::api_key::{ApiAuth, ApiKey, ApiPermissions, ApiSecrets};
use crate::config::Config;
use crate::drain::Drain;
use crate::login::FileBacked;

/// The name of the key of `[api]` in logs.
const MAIN_KEY: &str = "[api] key";

/// The name of the permissions in development mode in logs.
const DEVELOPMENT: &str = "--dev";

/// How API requests are authenticated.
///
/// # Errors
/// If a file of secrets cannot be read.
pub(super) fn start(config: &Config, drain: &Drain) -> io::Result<ApiAuth> {
    let mut keys = Vec::new();
    if let Some(key) = &config.api_key {
        let secrets = Arc::new(ApiSecrets::new([key.expose()]));
        keys.push(ApiKey::new(ApiPermissions::all(MAIN_KEY), move || Arc::clone(&secrets)));
    }
    for key in &config.api_keys {
        let loaded = key.clone();
        let secrets =
            FileBacked::open(key.secrets.files(), move || loaded.load_secrets()).map_err(invalid)?;
        secrets.follow(drain, || {});
        keys.push(ApiKey::new(key.permissions(), move || secrets.value()));
    }
    Ok(match (keys.is_empty(), config.development) {
        (false, _) => ApiAuth::Keys(keys),
        (true, true) => ApiAuth::Development(Arc::new(ApiPermissions::all(DEVELOPMENT))),
        (true, false) => ApiAuth::Disabled,
    })
}

//! Starts the hooks.

use std::io;
use std::sync::Arc;

use earshot_redis_link::TlsConfig;

use super::invalid;
use crate::config::Config;
use crate::drain::Drain;
use crate::hooks::{HookSettings, HookSigner, Hooks};
use crate::login::FileBacked;

/// Starts the hooks of a configuration; `None` without any.
///
/// # Errors
/// If a file of secrets or certificates cannot be read.
pub(super) fn start(config: &Config, drain: &Drain) -> io::Result<Option<Arc<Hooks>>> {
    let hooks = &config.hooks;
    if hooks.urls.is_empty() {
        return Ok(None);
    }
    let signer = match hooks.load_keys().map_err(invalid)? {
        None => None,
        Some(_) => {
            let loaded = hooks.clone();
            let load = move || loaded.load_keys()?.ok_or_else(|| "the secrets are missing".to_owned());
            let keys = FileBacked::open(hooks.secrets.files(), load).map_err(invalid)?;
            keys.follow(drain, || {});
            Some(HookSigner::new(move || keys.value()))
        }
    };
    let settings = HookSettings {
        urls: hooks.urls.clone(),
        limits: hooks.limits.clone(),
        forwarded: hooks.forwarded.clone(),
        signer,
    };
    let tls = Arc::new(TlsConfig::default().load().map_err(invalid)?);
    Ok(Some(Hooks::new(settings, tls, drain.clone())))
}

//! Starts the login methods: their stores, files and key sets.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use earshot_redis_link::TlsConfig;

use crate::auth::jwks::{HttpKeySetFetcher, JwksSettings, JwksUrl, JwksVerifier};
use crate::auth::jwt::{JwtVerifier, KeySet};
use crate::auth::session::Secrets;
use crate::config::{Config, JwtLoginConfig, LoginMethod, RedisInstance, SecretSource, SessionLoginConfig};
use crate::drain::Drain;
use crate::login::{
    AuthMethod, Authenticator, Identities, SecretFile, SessionEvents, SessionLogin, SessionSecrets,
    TokenKeys, TokenLogin,
};
use crate::shard::Shards;
use crate::store::{KeyStore, StoreSettings};

/// How long ended logins are collected before their clients are disconnected together.
const END_INTERVAL: Duration = Duration::from_millis(100);

/// Starts all login methods of a configuration.
///
/// # Errors
/// If a file of secrets or keys cannot be read, or a setting is invalid.
pub(super) fn start(config: &Config, drain: &Drain) -> io::Result<Arc<Authenticator>> {
    let identities = Arc::<Identities>::default();
    let sessions = sessions(config, drain)?;
    let stores = stores(config, &sessions, &identities, drain);
    let mut methods = Vec::new();
    for (index, login) in config.logins.iter().enumerate() {
        match login {
            LoginMethod::Session(login) => {
                let session = sessions.iter().find(|(_, session)| session.index() == index);
                let store = stores.iter().find(|(name, _)| *name == login.redis);
                if let (Some((_, session)), Some((_, store))) = (session, store) {
                    methods.push(AuthMethod::Session(Arc::clone(session), Arc::clone(store)));
                }
            }
            LoginMethod::Jwt(login) => methods.push(AuthMethod::Token(token_login(login, drain)?)),
            LoginMethod::Anonymous => {}
        }
    }
    let lets_in_guests =
        config.logins.is_empty() || config.logins.iter().any(|login| matches!(login, LoginMethod::Anonymous));
    let origins = config.origin_policy();
    Ok(Arc::new(Authenticator::new(methods, identities, origins, lets_in_guests)))
}

/// Disconnects the clients of each login that ends.
pub(super) fn disconnect_ended(authenticator: &Arc<Authenticator>, shards: &Arc<Shards>, drain: &Drain) {
    let (authenticator, shards, stop) = (Arc::clone(authenticator), Arc::clone(shards), drain.clone());
    drain.spawn(async move {
        let disconnect = async {
            loop {
                authenticator.identities().ended().await;
                tokio::time::sleep(END_INTERVAL).await;
                shards.end_logins().await;
            }
        };
        tokio::select! {
            () = disconnect => {}
            () = stop.stopped() => {}
        }
    });
}

/// The session logins, each with the name of its Redis instance.
fn sessions<'c>(config: &'c Config, drain: &Drain) -> io::Result<Vec<(&'c str, Arc<SessionLogin>)>> {
    let mut sessions = Vec::new();
    for (index, login) in config.logins.iter().enumerate() {
        if let LoginMethod::Session(login) = login {
            let format = login.format().map_err(invalid)?;
            let session = SessionLogin::new(index, format, session_secrets(login, drain)?);
            sessions.push((login.redis.as_str(), Arc::new(session)));
        }
    }
    Ok(sessions)
}

fn session_secrets(login: &SessionLoginConfig, drain: &Drain) -> io::Result<SessionSecrets> {
    let SecretSource::File(path) = &login.secrets else {
        return Ok(SessionSecrets::Fixed(Arc::new(login.load_secrets().map_err(invalid)?)));
    };
    let kind = login.settings.kind;
    let parse = move |bytes: &[u8]| {
        let text = str::from_utf8(bytes).map_err(|_| "not UTF-8".to_owned())?;
        Secrets::parse(kind, text).map_err(|error| error.to_string())
    };
    let file = SecretFile::open(path, parse).map_err(invalid)?;
    file.follow(drain, || {});
    Ok(SessionSecrets::File(file))
}

/// One store for each Redis instance that holds sessions.
fn stores<'c>(
    config: &'c Config,
    sessions: &[(&'c str, Arc<SessionLogin>)],
    identities: &Arc<Identities>,
    drain: &Drain,
) -> Vec<(&'c str, Arc<KeyStore>)> {
    let mut stores = Vec::new();
    for instance in config.redis.iter().chain(&config.login_redis) {
        let own = sessions.iter().filter(|(redis, _)| *redis == instance.name);
        let methods: Vec<Arc<SessionLogin>> = own.map(|(_, session)| Arc::clone(session)).collect();
        if methods.is_empty() {
            continue;
        }
        let settings = store_settings(config, instance, &methods);
        let events = SessionEvents::new(Arc::clone(identities), methods);
        stores.push((instance.name.as_str(), KeyStore::start(settings, drain, Arc::new(events))));
    }
    stores
}

fn store_settings(config: &Config, instance: &RedisInstance, methods: &[Arc<SessionLogin>]) -> StoreSettings {
    StoreSettings {
        connection: instance.settings(instance.name.clone(), &instance.url),
        prefixes: methods.iter().map(|method| method.key_prefix().as_bytes().to_vec()).collect(),
        disconnect_window: config.drain.disconnect_window,
        ping_interval: instance.times.ping_interval,
        ping_timeout: instance.times.command_timeout,
        ..StoreSettings::default()
    }
}

fn token_login(login: &JwtLoginConfig, drain: &Drain) -> io::Result<Arc<TokenLogin>> {
    let mut keys = TokenKeys::default();
    match &login.hmac {
        SecretSource::None => {}
        SecretSource::Inline(secrets) => {
            let secrets = secrets.iter().map(|secret| secret.expose().as_bytes());
            keys.fixed = KeySet::from_secrets(secrets).map_err(invalid)?;
        }
        SecretSource::File(path) => keys.files.push(open_keys(path, |bytes| {
            let lines = bytes.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
            KeySet::from_secrets(lines.filter(|line| !line.is_empty())).map_err(|error| error.to_string())
        })?),
    }
    for path in &login.public_key_files {
        keys.files.push(open_keys(path, |bytes| KeySet::from_pem(bytes).map_err(|error| error.to_string()))?);
    }
    let publish = login.jwks_url.clone().map(|url| |verifier: &JwtVerifier| published_keys(url, verifier));
    TokenLogin::start(&login.rules, keys, publish, drain).map_err(invalid)
}

fn published_keys(url: JwksUrl, verifier: &JwtVerifier) -> Result<JwksVerifier, String> {
    let tls = Arc::new(TlsConfig::default().load()?);
    let fetcher = Box::new(HttpKeySetFetcher::new(url, tls));
    JwksVerifier::new(verifier, JwksSettings::default(), fetcher).map_err(|error| error.to_string())
}

fn open_keys(
    path: &Path,
    parse: impl Fn(&[u8]) -> Result<KeySet, String> + Send + Sync + 'static,
) -> io::Result<Arc<SecretFile<KeySet>>> {
    SecretFile::open(path, parse).map_err(invalid)
}

fn invalid(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, error)
}

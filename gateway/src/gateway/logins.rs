//! Starts the login methods: their stores, files and key sets.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use earshot_redis_link::TlsConfig;

use super::invalid;
use crate::auth::jwks::{HttpKeySetFetcher, JwksSettings, JwksVerifier};
use crate::auth::jwt::JwtVerifier;
use crate::auth::session::Secrets;
use crate::config::{
    Config, JwtLoginConfig, LoginMethod, RedisInstance, SessionLoginConfig, TicketLoginConfig,
};
use crate::drain::Drain;
use crate::hooks::Hooks;
use crate::http_client::HttpUrl;
use crate::login::{
    AuthMethod, Authenticator, ClientLimits, DeniedKeys, DeniedTokens, FileBacked, Identities, Revocations,
    SessionEvents, SessionLogin, SessionTouch, TicketLogin, TicketStorage, TokenLogin, TokenMethod,
};
use crate::shard::Shards;
use crate::store::{KeyEvents, KeyStore, KeyValue, StoreSettings};

/// How long ended logins are collected before their clients are disconnected together.
const END_INTERVAL: Duration = Duration::from_millis(100);

/// Starts all login methods of a configuration with these hooks.
///
/// # Errors
/// If a file of secrets or keys cannot be read, or a setting is invalid.
pub(super) fn start(
    config: &Config,
    hooks: Option<Arc<Hooks>>,
    drain: &Drain,
) -> io::Result<Arc<Authenticator>> {
    let identities = Arc::<Identities>::default();
    let sessions = sessions(config, drain)?;
    let revocations =
        Revocations::new(config.revocation.settings(config.limits.revocations), Arc::clone(&identities));
    let stores = stores(config, &sessions, &identities, &revocations, drain);
    if let Some(found) = stores.iter().find(|store| Some(store.name) == config.revocation.redis()) {
        revocations.share(&found.store, drain);
    }
    let mut methods = Vec::new();
    for (index, login) in config.logins.iter().enumerate() {
        match login {
            LoginMethod::Session(login) => {
                let session = sessions.iter().find(|(_, session)| session.index() == index);
                let found = stores.iter().find(|store| store.name == login.redis);
                if let (Some((_, session)), Some(found)) = (session, found) {
                    methods.push(AuthMethod::Session(Arc::clone(session), Arc::clone(&found.store)));
                }
            }
            LoginMethod::Jwt(login) => {
                let denied = login.denied.as_ref().and_then(|denied| {
                    let store = stores.iter().find(|store| store.name == denied.redis)?;
                    let keys = Arc::clone(&store.denied_keys);
                    Some(DeniedTokens::new(denied.key.clone(), Arc::clone(&store.store), keys))
                });
                let cookie = login.cookie.as_deref().map(Box::from);
                methods.push(AuthMethod::Token(TokenMethod {
                    login: token_login(login, drain)?,
                    cookie,
                    denied,
                }));
            }
            LoginMethod::Ticket(login) => {
                methods.push(AuthMethod::Ticket(ticket_login(login, &stores, drain)?));
            }
            // The authenticator asks the hook after all other methods.
            LoginMethod::Hook | LoginMethod::Anonymous => {}
        }
    }
    let lets_in_guests =
        config.logins.is_empty() || config.logins.iter().any(|login| matches!(login, LoginMethod::Anonymous));
    let origins = config.origin_policy();
    let limits = ClientLimits::new(config.client_limits());
    let authenticator = Authenticator::new(methods, identities, revocations, origins, lets_in_guests);
    Ok(Arc::new(authenticator.with_hooks(hooks).with_limits(limits)))
}

/// Disconnects the clients of each login that ends, and passes commands of the API to the shards.
pub(super) fn disconnect_ended(authenticator: &Arc<Authenticator>, shards: &Arc<Shards>, drain: &Drain) {
    let (authenticator, shards, stop) = (Arc::clone(authenticator), Arc::clone(shards), drain.clone());
    drain.spawn(async move {
        let disconnect = async {
            loop {
                tokio::select! {
                    () = authenticator.identities().ended() => {
                        tokio::time::sleep(END_INTERVAL).await;
                        shards.end_logins().await;
                    }
                    commands = authenticator.revocations().next_commands() => {
                        shards.command_clients(commands.into()).await;
                    }
                }
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
            let touch = login.touch.then(|| SessionTouch::new(drain.clone()));
            let session = SessionLogin::new(index, format, session_secrets(login, drain)?, touch);
            sessions.push((login.redis.as_str(), Arc::new(session)));
        }
    }
    Ok(sessions)
}

fn session_secrets(login: &SessionLoginConfig, drain: &Drain) -> io::Result<Arc<FileBacked<Secrets>>> {
    let loaded = login.clone();
    let secrets = FileBacked::open(login.secrets.files(), move || loaded.load_secrets()).map_err(invalid)?;
    secrets.follow(drain, || {});
    Ok(secrets)
}

/// The store of a Redis instance.
struct LoginStore<'c> {
    /// The name of the instance.
    name: &'c str,
    store: Arc<KeyStore>,
    denied_keys: Arc<DeniedKeys>,
}

/// One store for each Redis instance that holds sessions, tickets, revocations or denied tokens.
fn stores<'c>(
    config: &'c Config,
    sessions: &[(&'c str, Arc<SessionLogin>)],
    identities: &Arc<Identities>,
    revocations: &Arc<Revocations>,
    drain: &Drain,
) -> Vec<LoginStore<'c>> {
    let mut stores = Vec::new();
    for instance in config.connected_redis() {
        let own = sessions.iter().filter(|(redis, _)| *redis == instance.name);
        let methods: Vec<Arc<SessionLogin>> = own.map(|(_, session)| Arc::clone(session)).collect();
        let own_revocations =
            (config.revocation.redis() == Some(&instance.name)).then(|| Arc::clone(revocations));
        let denied: Vec<&str> =
            config.logins.iter().filter_map(|login| denied_prefix(login, instance)).collect();
        let is_login = config.logins.iter().any(|login| login.redis() == Some(&instance.name));
        if !is_login && own_revocations.is_none() {
            continue;
        }
        let sessions = methods.iter().map(|method| method.key_prefix());
        let prefixes = sessions.chain(own_revocations.as_ref().map(|revocations| revocations.key()));
        let prefixes = prefixes.chain(denied);
        let settings = store_settings(config, instance, prefixes);
        let sessions = SessionEvents::new(Arc::clone(identities), methods);
        let denied_keys = DeniedKeys::new(Arc::clone(identities));
        let events =
            LoginEvents { sessions, revocations: own_revocations, denied_keys: Arc::clone(&denied_keys) };
        let store = KeyStore::start(settings, drain, Arc::new(events));
        stores.push(LoginStore { name: &instance.name, store, denied_keys });
    }
    stores
}

/// The prefix of the keys of denied tokens, if this instance holds them.
fn denied_prefix<'c>(login: &'c LoginMethod, instance: &RedisInstance) -> Option<&'c str> {
    let LoginMethod::Jwt(login) = login else { return None };
    let denied = login.denied.as_ref().filter(|denied| denied.redis == instance.name)?;
    Some(denied.key.prefix())
}

/// Receives the changes of all watched keys of one store.
struct LoginEvents {
    sessions: SessionEvents,
    revocations: Option<Arc<Revocations>>,
    denied_keys: Arc<DeniedKeys>,
}

impl KeyEvents for LoginEvents {
    fn on_change(&self, key: &[u8], value: Option<&KeyValue>) {
        self.sessions.on_change(key, value);
        self.denied_keys.on_change(key, value);
        if let Some(revocations) = &self.revocations {
            revocations.on_change(key, value);
        }
    }
}

fn store_settings<'p>(
    config: &Config,
    instance: &RedisInstance,
    prefixes: impl Iterator<Item = &'p str>,
) -> StoreSettings {
    StoreSettings {
        connection: instance.settings(instance.name.clone(), &instance.url),
        prefixes: prefixes.map(|prefix| prefix.as_bytes().to_vec()).collect(),
        disconnect_window: config.drain.disconnect_window,
        ping_interval: instance.times.ping_interval,
        ping_timeout: instance.times.command_timeout,
        ..StoreSettings::default()
    }
}

fn ticket_login(
    login: &TicketLoginConfig,
    stores: &[LoginStore<'_>],
    drain: &Drain,
) -> io::Result<Arc<TicketLogin>> {
    let loaded = login.clone();
    let keys = FileBacked::open(login.secrets.files(), move || loaded.load_keys()).map_err(invalid)?;
    keys.follow(drain, || {});
    let storage = match &login.redis {
        None => TicketStorage::Memory(Mutex::default()),
        Some(redis) => {
            let found = stores.iter().find(|store| store.name == redis);
            let found = found.ok_or_else(|| invalid(format!("no store for the redis {redis}")))?;
            TicketStorage::Redis(Arc::clone(&found.store), login.key_prefix.clone())
        }
    };
    Ok(Arc::new(TicketLogin::new(keys, storage)))
}

fn token_login(login: &JwtLoginConfig, drain: &Drain) -> io::Result<Arc<TokenLogin>> {
    let loaded = login.clone();
    let verifier = FileBacked::open(login.files(), move || loaded.load_verifier()).map_err(invalid)?;
    let publish = login.jwks_url.clone().map(|url| |verifier: &JwtVerifier| published_keys(url, verifier));
    TokenLogin::start(verifier, publish, drain).map(Arc::new).map_err(invalid)
}

fn published_keys(url: HttpUrl, verifier: &JwtVerifier) -> Result<JwksVerifier, String> {
    let tls = Arc::new(TlsConfig::default().load()?);
    let fetcher = Box::new(HttpKeySetFetcher::new(url, tls));
    JwksVerifier::new(verifier, JwksSettings::default(), fetcher).map_err(|error| error.to_string())
}

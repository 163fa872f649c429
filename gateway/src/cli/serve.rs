//! `earshot serve`: runs the gateway until it receives a signal.
//!
//! Owns the signals, the log and the exit code. Must never serve a request.

use std::io::{self, IsTerminal as _};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing_subscriber::EnvFilter;

use super::access_log;
use super::io::{LogWriter, print_message, usage_error};
use crate::config::{Config, ConfigErrors, Flags, LogFormat};
use crate::gateway::Gateway;

/// How often free memory is returned to the system.
const MEMORY_RETURN_INTERVAL: Duration = Duration::from_secs(2);

/// Size of an allocation for which the allocator uses a separate page.
const SEPARATE_PAGE_BYTES: usize = 4 * 1024 * 1024;

/// Flags of `earshot serve`.
#[derive(Clone, Debug, clap::Args)]
pub struct ServeArgs {
    /// Configuration file [default: EARSHOT_CONFIG, or earshot.toml in the working directory if it exists]
    #[arg(long, value_name = "PATH")]
    config: Option<PathBuf>,
    /// Address to listen on, such as :8000 or 127.0.0.1:8000; repeatable [default: EARSHOT_LISTEN, `listen` in the file,
    /// or localhost:8000]
    #[arg(long, value_name = "ADDR")]
    listen: Vec<String>,
    /// Origin of web pages that may connect, such as `https://app.example.com`; repeatable [default:
    /// EARSHOT_ALLOWED_ORIGINS, or `allowed_origins` in the file]
    #[arg(long, value_name = "ORIGIN")]
    allowed_origin: Vec<String>,
    /// URL of the Redis instance `default`. Arguments are visible to all users in `ps`: pass a URL with a password in
    /// REDIS_URL [default: REDIS_URL]
    #[arg(long, value_name = "URL")]
    redis: Option<String>,
    /// Log filter, such as debug or info,earshot::broker=debug [default: EARSHOT_LOG, `log` in the file, or info]
    #[arg(long, value_name = "FILTER")]
    log: Option<String>,
    /// Development mode, on loopback only: every channel is open unless the file has namespaces, the HTTP API needs no
    /// key, / serves a test page, and pages of every local origin are allowed
    #[arg(long)]
    dev: bool,
}

impl ServeArgs {
    /// Loads the configuration.
    ///
    /// # Errors
    /// All errors in it.
    pub fn load(&self) -> Result<Config, ConfigErrors> {
        Config::load(&Flags {
            config: self.config.clone(),
            listen: self.listen.clone(),
            allowed_origins: self.allowed_origin.clone(),
            redis: self.redis.clone(),
            log: self.log.clone(),
            dev: self.dev,
        })
    }

    /// Serves until SIGTERM or SIGINT; a second signal exits immediately.
    pub fn run(&self) -> ExitCode {
        let config = match self.load() {
            Ok(config) => config,
            Err(errors) => return usage_error(&errors.to_string()),
        };
        start_log(&config);
        match serve(&config) {
            Ok(complete) => {
                tracing::info!(complete, "stopped");
                if complete { ExitCode::SUCCESS } else { ExitCode::FAILURE }
            }
            Err(error) => {
                tracing::error!(%error, "the gateway failed");
                if !tracing::enabled!(tracing::Level::ERROR) {
                    // The reason for the exit is shown even if the log filter hides errors.
                    print_message(&format!("the gateway failed: {error}"));
                }
                ExitCode::FAILURE
            }
        }
    }
}

/// Starts logging to standard error, with colors only on a terminal.
fn start_log(config: &Config) {
    let log = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(&config.log))
        .with_writer(|| LogWriter)
        .with_target(false);
    match config.log_format {
        LogFormat::Text => log.with_ansi(io::stderr().is_terminal()).init(),
        LogFormat::Json => log.json().flatten_event(true).with_current_span(false).init(),
    }
}

/// Serves until a signal. Returns `true` if every client had disconnected within the shutdown timeout.
fn serve(config: &Config) -> io::Result<bool> {
    disable_huge_pages();
    // One crypto provider for all TLS. A second installation is rejected, which is harmless.
    let _ = rustls::crypto::ring::default_provider().install_default();
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    access_log::log(config);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().thread_name("control").build()?;
    let ended = runtime.block_on(async {
        let (mut terminate, mut interrupt) =
            (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let hangup = signal(SignalKind::hangup())?;
        let gateway = Gateway::start(config)?;
        if !gateway.internal_addresses().is_empty() {
            tracing::info!("HTTP API, health and metrics on {}", urls(gateway.internal_addresses()));
        }
        tracing::info!(version = env!("CARGO_PKG_VERSION"), config = %config.sources, "listening on {}", urls(gateway.addresses()));
        tokio::select! {
            () = first_of(&mut terminate, &mut interrupt) => {}
            () = return_memory() => {}
            () = ignore(hangup) => {}
        }
        tracing::info!(timeout = ?config.drain.shutdown_timeout, "shutting down; send the signal again to exit immediately");
        tokio::select! {
            in_time = gateway.stop() => {
                if !in_time {
                    tracing::warn!("shutdown timeout: some clients were still connected");
                }
                Ok(in_time)
            }
            () = first_of(&mut terminate, &mut interrupt) => {
                tracing::warn!("second signal: exiting immediately");
                std::process::exit(1)
            }
        }
    });
    // Tasks that are still running after the shutdown timeout are abandoned.
    runtime.shutdown_background();
    ended
}

fn urls(addresses: &[SocketAddr]) -> String {
    addresses.iter().map(|addr| format!("http://{addr}")).collect::<Vec<_>>().join(" and ")
}

/// Makes the allocator return memory to the system that has been free for a while. The allocator does so only when it
/// allocates or frees a page, which does not happen after a burst. Therefore this allocates and frees one page, without
/// touching it.
async fn return_memory() {
    let mut interval = tokio::time::interval(MEMORY_RETURN_INTERVAL);
    loop {
        interval.tick().await;
        drop(std::hint::black_box(Vec::<u8>::with_capacity(SEPARATE_PAGE_BYTES)));
    }
}

/// Logs each SIGHUP, which would otherwise end the process.
async fn ignore(mut hangup: Signal) {
    while hangup.recv().await.is_some() {
        tracing::warn!("SIGHUP is ignored: the configuration is read only at startup; restart to change it");
    }
    std::future::pending().await
}

async fn first_of(terminate: &mut Signal, interrupt: &mut Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

/// Disables huge pages: pages of 2 MiB would remain mostly empty, because a connection needs less than one KiB.
#[cfg(target_os = "linux")]
fn disable_huge_pages() {
    // Fails on kernels without huge pages, which is harmless.
    let _ = nix::sys::prctl::set_thp_disable(true);
}

#[cfg(not(target_os = "linux"))]
fn disable_huge_pages() {}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(config: &str, text: &str) -> ServeArgs {
        std::fs::write(config, text).unwrap();
        ServeArgs {
            config: Some(config.into()),
            listen: vec!["127.0.0.1:0".into()],
            allowed_origin: vec!["https://a.example".into()],
            redis: Some("redis://:hunter2@127.0.0.1:1".into()),
            log: Some("debug".into()),
            dev: false,
        }
    }

    #[test]
    fn flags_override_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("own.toml");
        let config =
            args(path.to_str().unwrap(), "listen = \":1\"\nlimits.connections = 7\n").load().unwrap();
        assert_eq!(config.listen[0].text, "127.0.0.1:0");
        assert_eq!(
            (config.log.as_str(), config.allowed_origins),
            ("debug", vec!["https://a.example".to_owned()])
        );
        assert_eq!(config.redis[0].url.to_string(), "redis://***@127.0.0.1:1/0");
        assert_eq!(
            config.sources.overrides,
            ["--listen", "--allowed-origin", "--redis", "--log"],
            "without variables in the environment of the test"
        );
        assert_eq!((config.limits.connections, config.sources.file), (Some(7), Some(path.clone())));
        let error = args(path.to_str().unwrap(), "lisen = 1").load().unwrap_err().to_string();
        assert!(error.starts_with(&format!("{}:1: lisen: unknown key", path.display())), "{error}");
    }
}

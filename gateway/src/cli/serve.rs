//! `earshot serve`: runs the gateway until it is told to stop.
//!
//! Owns the signals and the exit code. Must never know how anything is served.

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing_subscriber::EnvFilter;

use super::access;
use super::output::{LogWriter, print_message};
use crate::config::{Config, ConfigErrors, Flags};
use crate::gateway::Gateway;

/// The exit code of a configuration that is wrong.
const WRONG: u8 = 2;

/// How often free memory is returned to the system.
const GIVE_BACK: Duration = Duration::from_secs(2);

/// Bytes for which the allocator takes a page that nothing else is in.
const OWN_PAGE_BYTES: usize = 4 * 1024 * 1024;

/// The flags of `earshot serve`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Configuration file [default: EARSHOT_CONFIG, or earshot.toml in the working directory if it is there]
    #[arg(long, value_name = "PATH")]
    config: Option<PathBuf>,
    /// Address to listen on, such as :8000 or 127.0.0.1:8000; may be repeated [default: EARSHOT_LISTEN, or the
    /// file's, or localhost:8000]
    #[arg(long, value_name = "ADDR")]
    listen: Vec<String>,
    /// Development mode, on loopback only: every channel open unless the file has namespaces, the HTTP API without a
    /// key, a page for trying things out at /, pages of every local origin allowed
    #[arg(long)]
    dev: bool,
}

impl Args {
    /// The configuration to serve with.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn load(&self) -> Result<Config, ConfigErrors> {
        Config::load(&Flags { config: self.config.clone(), listen: self.listen.clone(), dev: self.dev })
    }

    /// Serves until SIGTERM or SIGINT; a second one ends at once.
    pub fn run(&self) -> ExitCode {
        let config = match self.load() {
            Ok(config) => config,
            Err(errors) => {
                print_message(&errors.to_string());
                return ExitCode::from(WRONG);
            }
        };
        tracing_subscriber::fmt()
            .with_env_filter(EnvFilter::new(&config.log))
            .with_writer(|| LogWriter)
            .with_target(false)
            .init();
        match serve(&config) {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => ExitCode::FAILURE,
            Err(error) => {
                tracing::error!(%error, "the gateway cannot run");
                if !tracing::enabled!(tracing::Level::ERROR) {
                    // No log filter hides why the process ends.
                    print_message(&format!("the gateway cannot run: {error}"));
                }
                ExitCode::FAILURE
            }
        }
    }
}

/// Serves; `true` when every client had gone in time.
fn serve(config: &Config) -> io::Result<bool> {
    take_small_pages();
    // One provider of cryptography for all of TLS; a second installation would be refused, and is not tried.
    let _ = rustls::crypto::ring::default_provider().install_default();
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    access::log(config);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().thread_name("control").build()?;
    let ended = runtime.block_on(async {
        let (mut terminate, mut interrupt) =
            (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let hangup = signal(SignalKind::hangup())?;
        let gateway = Gateway::start(config)?;
        let addresses: Vec<String> = gateway.addresses().iter().map(|addr| format!("http://{addr}")).collect();
        tracing::info!(version = env!("CARGO_PKG_VERSION"), config = %config.origin, "listening on {}", addresses.join(" and "));
        tokio::select! {
            () = first_of(&mut terminate, &mut interrupt) => {}
            () = give_back_memory() => {}
            () = ignore(hangup) => {}
        }
        tracing::info!(timeout = ?config.drain.shutdown_timeout, "stopping; a second signal ends at once");
        tokio::select! {
            in_time = gateway.stop() => {
                if !in_time {
                    tracing::warn!("not every client had gone within the grace");
                }
                Ok(in_time)
            }
            () = first_of(&mut terminate, &mut interrupt) => {
                tracing::warn!("second signal: ending at once");
                std::process::exit(1)
            }
        }
    });
    // What has not ended within the grace is not waited for.
    runtime.shutdown_background();
    ended
}

/// Lets the allocator return to the system what has been free for a while. It looks for that only when a page of its
/// own comes or goes, and after a burst none does: so one does, of which not a byte is touched.
async fn give_back_memory() {
    let mut look = tokio::time::interval(GIVE_BACK);
    loop {
        look.tick().await;
        drop(std::hint::black_box(Vec::<u8>::with_capacity(OWN_PAGE_BYTES)));
    }
}

/// Logs each SIGHUP, which would otherwise end the process.
async fn ignore(mut hangup: Signal) {
    while hangup.recv().await.is_some() {
        tracing::warn!(
            "SIGHUP is ignored: the configuration is read at the start only; restart to change it"
        );
    }
    std::future::pending().await
}

async fn first_of(terminate: &mut Signal, interrupt: &mut Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

/// Has the kernel give memory in its usual pages: those of 2 MiB would stay mostly empty where a connection takes less
/// than one KiB.
#[cfg(target_os = "linux")]
fn take_small_pages() {
    // A kernel without huge pages has nothing to refuse.
    let _ = nix::sys::prctl::set_thp_disable(true);
}

#[cfg(not(target_os = "linux"))]
fn take_small_pages() {}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(config: &str, text: &str) -> Args {
        std::fs::write(config, text).unwrap();
        Args { config: Some(config.into()), listen: vec!["127.0.0.1:0".into()], dev: false }
    }

    #[test]
    fn flags_reach_the_configuration() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("own.toml");
        let config =
            args(path.to_str().unwrap(), "listen = \":1\"\nlimits.connections = 7\n").load().unwrap();
        assert_eq!(config.listen[0].text, "127.0.0.1:0");
        assert_eq!((config.limits.connections, config.origin.file), (Some(7), Some(path.clone())));
        let told = args(path.to_str().unwrap(), "lisen = 1").load().unwrap_err().to_string();
        assert!(told.starts_with(&format!("{}:1: lisen: unknown key", path.display())), "{told}");
    }
}

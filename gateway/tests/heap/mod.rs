//! A gateway in this process, and the bytes on the heap of the process.
//!
//! Used by the tests of memory: they count all threads, so only one gateway runs at a time.

use std::alloc::System;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use earshot::config::{Config, Flags};
use earshot::gateway::Gateway;
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

#[global_allocator]
static HEAP: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

static EXCLUSIVE: Mutex<()> = Mutex::new(());

/// How long the size of the heap must be stable.
const STABLE_INTERVAL: Duration = Duration::from_millis(250);

/// The timeout of each step; generous, because the machine may be busy.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(60);

/// One shard, no timers during a measurement, no delay at the end.
const CONFIG: &str = r#"
[gateway]
shards = 1
unsubscribe_delay = "0s"
[websocket]
ping_interval = "10m"
[sse]
heartbeat = "10m"
[drain]
disconnect_window = "0s"
shutdown_timeout = "2s"
"#;

/// A gateway in development mode.
pub(crate) struct Running {
    gateway: Gateway,
    runtime: tokio::runtime::Runtime,
    pub(crate) address: SocketAddr,
    _exclusive: MutexGuard<'static, ()>,
}

impl Running {
    /// Starts with these sections in addition to [`CONFIG`].
    pub(crate) fn start(sections: &str) -> Self {
        let exclusive = EXCLUSIVE.lock().unwrap_or_else(PoisonError::into_inner);
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("heap.toml");
        std::fs::write(&file, format!("{CONFIG}{sections}")).unwrap();
        let flags = Flags {
            config: Some(file),
            listen: vec!["127.0.0.1:0".to_owned()],
            dev: true,
            ..Flags::default()
        };
        let config = Config::load(&flags).unwrap();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let gateway = runtime.block_on(async { Gateway::start(&config) }).unwrap();
        let address = gateway.addresses()[0];
        Self { gateway, runtime, address, _exclusive: exclusive }
    }

    pub(crate) fn stop(self) {
        self.runtime.block_on(self.gateway.stop());
    }
}

/// Bytes on the heap.
pub(crate) fn allocated() -> usize {
    let stats = HEAP.stats();
    stats.bytes_allocated - stats.bytes_deallocated
}

/// Waits until the size of the heap no longer changes by more than `tolerance`, and returns it.
pub(crate) fn settled_allocation(tolerance: usize) -> usize {
    let deadline = Instant::now() + TIMEOUT;
    let (mut last, mut since) = (allocated(), Instant::now());
    while since.elapsed() < STABLE_INTERVAL {
        assert!(Instant::now() < deadline, "the heap size keeps changing");
        std::thread::sleep(Duration::from_millis(10));
        let now = allocated();
        if now.abs_diff(last) > tolerance {
            (last, since) = (now, Instant::now());
        }
    }
    last
}

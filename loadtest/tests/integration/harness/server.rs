//! Real servers: gateway, Redis, and nginx with nchan, each in a child process that is killed on drop.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};

use tempfile::TempDir;

use super::until;

/// A server process.
pub(crate) struct Server {
    child: Child,
    pub(crate) port: u16,
    _directory: TempDir,
}

impl Server {
    fn start(mut command: Command, port: u16, directory: TempDir) -> Self {
        let name = format!("{command:?}");
        let spawned =
            command.current_dir(directory.path()).stdin(Stdio::null()).stdout(Stdio::null()).spawn();
        let child = spawned.unwrap_or_else(|error| panic!("{name}: {error}"));
        Self { child, port, _directory: directory }
    }

    fn wait_until(mut self, what: &str, ready: impl Fn(u16) -> bool) -> Self {
        until(what, || {
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none(), "{what}: {ended:?}");
            ready(self.port).then_some(())
        });
        self
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Arguments that select this server.
    pub(crate) fn url(&self) -> String {
        format!("--url http://127.0.0.1:{}", self.port)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// A gateway in development mode without a configuration file, with the memory broker or a Redis.
pub(crate) fn gateway(redis: Option<&Server>) -> Server {
    gateway_with_config(redis, "")
}

/// A gateway in development mode with this configuration file.
pub(crate) fn gateway_with_config(redis: Option<&Server>, config: &str) -> Server {
    let (port, directory) = (free_port(), tempfile::tempdir().unwrap());
    let mut command = Command::new(gateway_binary());
    for (name, _) in std::env::vars() {
        if ["EARSHOT_", "REDIS_", "QUEUE_PREFIX"].iter().any(|prefix| name.starts_with(prefix)) {
            command.env_remove(name);
        }
    }
    command.args(["serve", "--dev", "--listen"]).arg(format!("127.0.0.1:{port}")).env("RUST_LOG", "error");
    let file = directory.path().join("test.toml");
    std::fs::write(&file, config).unwrap();
    command.arg("--config").arg(file);
    if let Some(redis) = redis {
        command.env("REDIS_URL", format!("redis://127.0.0.1:{}", redis.port));
    }
    Server::start(command, port, directory)
        .wait_until("the gateway is ready", |port| status(port, "/ready") == 200)
}

/// The gateway's tests build the binary; the workspace is tested as a whole.
fn gateway_binary() -> PathBuf {
    let sibling = || PathBuf::from(env!("CARGO_BIN_EXE_earshot-loadtest")).with_file_name("earshot");
    let path = std::env::var_os("EARSHOT_BIN").map_or_else(sibling, PathBuf::from);
    let shown = path.display();
    assert!(
        path.exists(),
        "{shown} does not exist: run `cargo test -p earshot-gateway --no-run` or set EARSHOT_BIN"
    );
    path
}

/// A `redis-server` without persistence.
pub(crate) fn redis() -> Server {
    let (port, directory) = (free_port(), tempfile::tempdir().unwrap());
    let mut command = Command::new("redis-server");
    command.args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--port"]).arg(port.to_string());
    Server::start(command, port, directory).wait_until("redis-server responds", |port| {
        let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else { return false };
        let mut response = [0; 5];
        stream.write_all(b"PING\r\n").is_ok()
            && stream.read_exact(&mut response).is_ok()
            && &response == b"+PONG"
    })
}

/// nginx with nchan: `/sub/{channel}` and `/pub/{channel}`.
pub(crate) fn nchan() -> Server {
    let (port, directory) = (free_port(), tempfile::tempdir().unwrap());
    let path = directory.path().display().to_string();
    let module = "/usr/lib/nginx/modules/ngx_nchan_module.so";
    assert!(std::path::Path::new(module).exists(), "{module} does not exist: install libnginx-mod-nchan");
    let own = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
    let own: String = own.iter().map(|name| format!("{name}_temp_path {path}/{name};\n")).collect();
    let text = format!(
        "load_module {module};\ndaemon off; master_process off; pid {path}/pid; error_log stderr error;\n\
         events {{}}\nhttp {{ access_log off;\n{own}server {{ listen 127.0.0.1:{port};\n\
         location ~ ^/sub/(.+)$ {{ nchan_subscriber; nchan_channel_id $1; }}\n\
         location ~ ^/pub/(.+)$ {{ nchan_publisher; nchan_channel_id $1; }}\n}} }}\n"
    );
    let file = directory.path().join("nginx.conf");
    std::fs::write(&file, text).unwrap();
    let mut command = Command::new("nginx");
    command.args(["-e", "stderr", "-p"]).arg(directory.path()).arg("-c").arg(&file);
    Server::start(command, port, directory)
        .wait_until("nginx listens", |port| TcpStream::connect(("127.0.0.1", port)).is_ok())
}

fn status(port: u16, path: &str) -> u16 {
    let answer = || {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").ok()?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).ok()?;
        line.split(' ').nth(1)?.parse().ok()
    };
    answer().unwrap_or_default()
}

/// A free port below the ephemeral port range that no other test of this process uses.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    loop {
        let start = std::process::id() % 10_000;
        let step = u32::from(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = u16::try_from(20_000 + (start + step) % 10_000).unwrap();
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

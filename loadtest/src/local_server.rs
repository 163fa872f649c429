//! Servers of the benchmark: started on their core, awaited, and killed on drop. Each run gets a fresh server, so that
//! memory of one run does not affect the next.

use std::fs;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use tokio::time::Instant;

/// How long a server may take to become ready.
const START_TIMEOUT: Duration = Duration::from_secs(20);
const NCHAN: &str = include_str!("../bench/nchan.conf");
const CENTRIFUGO: &str = include_str!("../bench/centrifugo.json");

/// Paths of the programs.
#[derive(Clone, Debug)]
pub(crate) struct Programs {
    pub(crate) earshot: PathBuf,
    pub(crate) nginx: PathBuf,
    pub(crate) nchan: PathBuf,
    pub(crate) centrifugo: Option<PathBuf>,
    pub(crate) redis: PathBuf,
}

/// A running server.
#[derive(Debug)]
pub(crate) struct LocalServer {
    child: Child,
    pub(crate) port: u16,
    /// Log and other files; removed on drop.
    directory: PathBuf,
}

impl Drop for LocalServer {
    fn drop(&mut self) {
        // The process may have exited already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.directory);
    }
}

impl LocalServer {
    /// Process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Earshot in development mode, configured only with its Redis.
    pub(crate) fn earshot(programs: &Programs, core: u16, redis: &Self) -> Result<Self, String> {
        let port = free_port();
        let mut command = pinned(core, &programs.earshot);
        remove_variables(&mut command, &["EARSHOT_", "REDIS_"]);
        command.args(["serve", "--dev", "--listen", &format!("127.0.0.1:{port}")]);
        command.env("REDIS_URL", format!("redis://127.0.0.1:{}", redis.port));
        Self::start(command, port, temp_directory(port)?, |port| {
            answers(port, "GET /ready HTTP/1.1\r\nHost: localhost\r\n\r\n", " 200 ")
        })
    }

    /// Redis without persistence.
    pub(crate) fn redis(program: &Path, core: u16) -> Result<Self, String> {
        let port = free_port();
        let mut command = pinned(core, program);
        command.args([
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--appendonly",
            "no",
            "--port",
            &port.to_string(),
        ]);
        Self::start(command, port, temp_directory(port)?, |port| answers(port, "PING\r\n", "+PONG"))
    }

    /// nginx with nchan, with the given open file limit.
    pub(crate) fn nchan(programs: &Programs, core: u16, files: u32) -> Result<Self, String> {
        let port = free_port();
        let directory = temp_directory(port)?;
        let file = directory.join("nginx.conf");
        let text = NCHAN
            .replace("{module}", &programs.nchan.display().to_string())
            .replace("{path}", &directory.display().to_string())
            .replace("{files}", &files.to_string())
            .replace("{connections}", &(files + files / 4).to_string())
            .replace("{port}", &port.to_string());
        fs::write(&file, text).map_err(|error| format!("{}: {error}", file.display()))?;
        let mut command = pinned(core, &programs.nginx);
        command.args(["-e", "stderr", "-p"]).arg(&directory).arg("-c").arg(&file);
        Self::start(command, port, directory, |port| TcpStream::connect(("127.0.0.1", port)).is_ok())
    }

    /// Centrifugo as a single node with its memory broker, its fastest configuration.
    pub(crate) fn centrifugo(program: &Path, core: u16) -> Result<Self, String> {
        let port = free_port();
        let directory = temp_directory(port)?;
        let file = directory.join("centrifugo.json");
        let text = CENTRIFUGO.replace("{port}", &port.to_string());
        fs::write(&file, text).map_err(|error| format!("{}: {error}", file.display()))?;
        let mut command = pinned(core, program);
        remove_variables(&mut command, &["CENTRIFUGO_"]);
        command.arg("--config").arg(&file);
        Self::start(command, port, directory, |port| {
            answers(port, "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n", " 200 ")
        })
    }

    fn start(
        mut command: Command,
        port: u16,
        directory: PathBuf,
        ready: impl Fn(u16) -> bool,
    ) -> Result<Self, String> {
        let (name, log) = (format!("{command:?}"), directory.join("log"));
        let child = spawn(&mut command, &log).map_err(|error| format!("{name}: {error}"))?;
        let mut server = Self { child, port, directory };
        let deadline = Instant::now() + START_TIMEOUT;
        while !ready(port) {
            if let Ok(Some(status)) = server.child.try_wait() {
                let log = fs::read_to_string(&log).unwrap_or_default();
                return Err(format!("{name} exited: {status}\n{log}"));
            }
            if Instant::now() > deadline {
                return Err(format!("{name} is not ready after {START_TIMEOUT:?}"));
            }
            thread::park_timeout(Duration::from_millis(10));
        }
        Ok(server)
    }
}

fn spawn(command: &mut Command, log: &Path) -> io::Result<Child> {
    let log = fs::File::create(log)?;
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()
}

fn temp_directory(port: u16) -> Result<PathBuf, String> {
    let directory = std::env::temp_dir().join(format!("earshot-bench-{}-{port}", std::process::id()));
    fs::create_dir_all(&directory).map_err(|error| format!("{}: {error}", directory.display()))?;
    Ok(directory)
}

/// A command pinned to one core that is killed when this process ends for any reason.
pub(crate) fn pinned(core: u16, program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "taskset", "-c", &core.to_string()]).arg(program);
    command
}

/// Removes environment variables with these prefixes, which could change the measurement.
fn remove_variables(command: &mut Command, prefixes: &[&str]) {
    for (name, _) in std::env::vars() {
        if prefixes.iter().any(|prefix| name.starts_with(prefix)) {
            command.env_remove(name);
        }
    }
}

fn answers(port: u16, request: &str, expected: &str) -> bool {
    let ask = || {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(1))).ok()?;
        stream.write_all(request.as_bytes()).ok()?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).ok()?;
        Some(line)
    };
    ask().is_some_and(|line| line.contains(expected))
}

/// A free port below the ephemeral port range.
fn free_port() -> u16 {
    loop {
        let port = fastrand::u16(20_000..30_000);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

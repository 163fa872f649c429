//! A real nginx in front of a gateway, configured only by the text that a test passes.

use std::net::SocketAddr;
use std::process::Command;

use tokio::net::TcpStream;

use super::process::{Process, free_port};
use super::until;

/// A running nginx; its port is `port`.
pub(crate) struct Nginx {
    pub(crate) port: u16,
    pub(crate) process: Process,
}

impl Nginx {
    /// A server that proxies everything to a gateway, with these directives in its `location /`.
    pub(crate) async fn before(gateway: SocketAddr, directives: &str) -> Self {
        Self::serving(&format!(
            "server {{ listen 127.0.0.1:{{port}}; location / {{ proxy_pass http://{gateway}; {directives} }} }}"
        ))
        .await
    }

    /// Starts with this content of `http { … }`; `{port}` is replaced by the port.
    pub(crate) async fn serving(http: &str) -> Self {
        let port = free_port();
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().display().to_string();
        let own = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
        let own: String = own.iter().map(|name| format!("{name}_temp_path {path}/{name};\n")).collect();
        let http = http.replace("{port}", &port.to_string());
        // A single process, so that killing it leaves nothing behind.
        let text = format!(
            "daemon off; master_process off; pid {path}/pid; error_log stderr info;\n\
             events {{}}\nhttp {{ access_log off;\n{own}{http}\n}}\n"
        );
        let file = directory.path().join("nginx.conf");
        std::fs::write(&file, text).unwrap();
        let mut command = Command::new("nginx");
        command.args(["-e", "stderr", "-p"]).arg(directory.path()).arg("-c").arg(&file);
        let mut nginx = Self { port, process: Process::start(command, directory) };
        until("nginx listens", async || {
            assert!(nginx.process.exit_status().is_none(), "nginx exited");
            TcpStream::connect(("127.0.0.1", port)).await.ok()
        })
        .await;
        nginx
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
}

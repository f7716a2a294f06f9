//! Servers as processes: the `agentkit` binary, and the original design's stack.

use std::{
    net::TcpListener,
    os::unix::process::ExitStatusExt,
    path::PathBuf,
    process::Stdio,
    time::{Duration, Instant},
};

use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, ChildStdout, Command},
};

use crate::{Result, python};

/// How long a server may take to be ready, or to stop.
const PATIENCE: Duration = Duration::from_secs(30);

const SIGTERM: i32 = 15;

/// One that is ready. Killed when dropped.
pub(crate) struct Server {
    pub(crate) id: u32,
    pub(crate) ready_after: Duration,
    pub(crate) url: String,
    client: reqwest::Client,
    process: Child,
    _stdout: Option<BufReader<ChildStdout>>,
}

/// Builds the binary, in the profile of this program.
pub(crate) fn build() -> Result<()> {
    let mut cargo = std::process::Command::new(env!("CARGO"));
    // With this package, so that the dependencies keep their features and are not built twice.
    cargo.args(["build", "--quiet", "--package", "bench"]);
    cargo.args(["--package", "yai-agentkit-server"]);
    cargo.args([
        "--manifest-path",
        concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml"),
    ]);
    if !cfg!(debug_assertions) {
        cargo.arg("--release");
    }
    match cargo.status()?.success() {
        true => Ok(()),
        false => Err("agentkit does not build".into()),
    }
}

/// Beside this program.
pub(crate) fn binary() -> Result<PathBuf> {
    Ok(std::env::current_exe()?.with_file_name("agentkit"))
}

impl Server {
    /// `agentkit serve`.
    pub(crate) async fn start(database_url: &str) -> Result<Self> {
        let begun = Instant::now();
        let mut process = Command::new(binary()?)
            .args(["serve", "--bind", "127.0.0.1:0"])
            .current_dir(std::env::temp_dir())
            .env_clear()
            .env("DATABASE_URL", database_url)
            // As uvicorn: no line for each request.
            .env("RUST_LOG", "warn")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        let stdout = process.stdout.take().ok_or("no stdout")?;
        let mut stdout = BufReader::new(stdout);
        let mut line = String::new();
        stdout.read_line(&mut line).await?;
        let (_, rest) = line
            .split_once("http://")
            .ok_or("agentkit does not start")?;
        let address = rest.split([',', ' ', '/']).next().unwrap_or_default();
        Self::ready(process, address, begun, Some(stdout)).await
    }

    /// `bench/python/original.py`, in so many processes.
    pub(crate) async fn start_original(database_url: &str, processes: usize) -> Result<Self> {
        let begun = Instant::now();
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let process = Command::new(python::interpreter()?)
            .args(["-m", "uvicorn", "original:app", "--log-level", "warning"])
            .arg(format!("--port={}", address.port()))
            .arg(format!("--workers={processes}"))
            .current_dir(python::directory())
            .env("DATABASE_URL", database_url)
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        Self::ready(process, &address.to_string(), begun, None).await
    }

    async fn ready(
        mut process: Child,
        address: &str,
        begun: Instant,
        stdout: Option<BufReader<ChildStdout>>,
    ) -> Result<Self> {
        let client = reqwest::Client::builder().no_proxy().build()?;
        let url = format!("http://{address}");
        let ready = format!("{url}/readyz");
        loop {
            match client.get(&ready).send().await {
                Ok(answer) if answer.status().is_success() => break,
                _ if process.try_wait()?.is_some() => return Err("a server has ended".into()),
                _ if begun.elapsed() > PATIENCE => return Err("a server is not ready".into()),
                _ => tokio::time::sleep(Duration::from_millis(1)).await,
            }
        }
        Ok(Self {
            id: process.id().ok_or("a server has ended")?,
            ready_after: begun.elapsed(),
            url,
            client,
            process,
            _stdout: stdout,
        })
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Result<Value> {
        let request = self.client.post(format!("{}{path}", self.url)).json(body);
        Ok(request.send().await?.error_for_status()?.json().await?)
    }

    /// As an operator stops it.
    pub(crate) async fn stop(mut self) -> Result<()> {
        let id = self.id.to_string();
        Command::new("kill").arg(id).status().await?;
        let status = tokio::time::timeout(PATIENCE, self.process.wait()).await??;
        // uvicorn, once it has shut down, raises the signal again.
        match status.success() || status.signal() == Some(SIGTERM) {
            true => Ok(()),
            false => Err(format!("a server stopped with {status}").into()),
        }
    }
}

//! The `agentkit` binary as a process.

use std::{
    path::PathBuf,
    process::Stdio,
    time::{Duration, Instant},
};

use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, ChildStdout, Command},
};

use crate::Result;

/// How long a server may take to be ready, or to stop.
const PATIENCE: Duration = Duration::from_secs(10);

/// `agentkit serve`, killed when dropped.
pub(crate) struct Server {
    pub(crate) id: u32,
    pub(crate) ready_after: Duration,
    url: String,
    client: reqwest::Client,
    process: Child,
    _stdout: BufReader<ChildStdout>,
}

/// Builds the binary, in the profile of this program.
pub(crate) fn build() -> Result<()> {
    let mut cargo = std::process::Command::new(env!("CARGO"));
    cargo.args(["build", "--quiet", "--package", "yai-agentkit-server"]);
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
    pub(crate) async fn start(database_url: &str) -> Result<Self> {
        let client = reqwest::Client::builder().no_proxy().build()?;
        let begun = Instant::now();
        let mut process = Command::new(binary()?)
            .args(["serve", "--bind", "127.0.0.1:0"])
            .current_dir(std::env::temp_dir())
            .env_clear()
            .env("DATABASE_URL", database_url)
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
        let url = format!("http://{address}");
        let ready = format!("{url}/readyz");
        loop {
            match client.get(&ready).send().await {
                Ok(answer) if answer.status().is_success() => break,
                _ if begun.elapsed() > PATIENCE => return Err("agentkit is not ready".into()),
                _ => tokio::time::sleep(Duration::from_millis(1)).await,
            }
        }
        Ok(Self {
            id: process.id().ok_or("agentkit has ended")?,
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
        match status.success() {
            true => Ok(()),
            false => Err(format!("agentkit stopped with {status}").into()),
        }
    }
}

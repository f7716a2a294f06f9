//! The scripts of `bench/python`, as processes.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
};

use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    process::{Child, ChildStdin, ChildStdout, Command},
};

use crate::Result;

/// A script, which says `ready`, is told `go`, and answers with a line of JSON. Killed when dropped.
pub(crate) struct Script {
    pub(crate) id: u32,
    process: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

/// The interpreter with what `requirements.txt` names.
pub(crate) fn interpreter() -> Result<PathBuf> {
    let named = std::env::var_os("BENCH_PYTHON").map(PathBuf::from);
    named.ok_or_else(|| "BENCH_PYTHON names no interpreter: use bench/run".into())
}

pub(crate) fn directory() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/python"))
}

impl Script {
    pub(crate) async fn start(name: &str, arguments: &Value) -> Result<Self> {
        let mut process = Command::new(interpreter()?)
            .arg(directory().join(name))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let mut script = Self {
            id: process.id().ok_or("the script has ended")?,
            input: process.stdin.take().ok_or("no stdin")?,
            output: BufReader::new(process.stdout.take().ok_or("no stdout")?),
            process,
        };
        script.write(&arguments.to_string()).await?;
        Ok(script)
    }

    pub(crate) async fn ready(&mut self) -> Result<()> {
        match self.read().await?.trim() {
            "ready" => Ok(()),
            other => Err(format!("a script says {other:?}").into()),
        }
    }

    pub(crate) async fn go(&mut self) -> Result<()> {
        self.write("go").await
    }

    pub(crate) async fn answer(&mut self) -> Result<Value> {
        Ok(serde_json::from_str(&self.read().await?)?)
    }

    pub(crate) async fn end(mut self) -> Result<()> {
        match self.process.wait().await?.success() {
            true => Ok(()),
            false => Err("a script has failed".into()),
        }
    }

    async fn write(&mut self, line: &str) -> Result<()> {
        self.input.write_all(format!("{line}\n").as_bytes()).await?;
        Ok(self.input.flush().await?)
    }

    async fn read(&mut self) -> Result<String> {
        let mut line = String::new();
        match self.output.read_line(&mut line).await? {
            0 => Err("a script has failed".into()),
            _ => Ok(line),
        }
    }
}

//! Servers that run a turn.

use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
};

use crate::{
    Options, Result,
    database::{Database, Kind},
};

const PATIENCE: Duration = Duration::from_secs(60);
const MESSAGE_BYTES: usize = 400;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Contender {
    AgentKit(Kind),
    Dbos,
    Restate,
}

pub(super) const CONTENDERS: [Contender; 4] = [
    Contender::AgentKit(Kind::Postgres),
    Contender::Dbos,
    Contender::Restate,
    Contender::AgentKit(Kind::Sqlite),
];

impl Contender {
    pub(super) fn kind(self) -> Kind {
        match self {
            Self::AgentKit(kind) => kind,
            Self::Dbos | Self::Restate => Kind::Postgres,
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::AgentKit(_) => "AgentKit",
            Self::Dbos => "DBOS for Rust 0.5.0",
            Self::Restate => "Restate 1.7.12, node SDK",
        }
    }

    pub(super) fn key(self) -> &'static str {
        match self {
            Self::AgentKit(Kind::Postgres) => "agentkit",
            Self::AgentKit(Kind::Sqlite) => "agentkit-sqlite",
            Self::Dbos => "dbos",
            Self::Restate => "restate",
        }
    }
}

/// One that is ready, and its chats.
pub(super) struct Running {
    pub(super) contender: Contender,
    pub(super) processes: Vec<Child>,
    pub(super) database: Option<Database>,
    /// What it keeps without a database.
    pub(super) files: TempDir,
    url: String,
    ports: [u16; 4],
    client: reqwest::Client,
}

impl Running {
    pub(super) async fn start(options: &Options, contender: Contender) -> Result<Self> {
        Self::start_with(options, contender, &[]).await
    }

    pub(super) async fn start_with(
        options: &Options,
        contender: Contender,
        environment: &[(&str, String)],
    ) -> Result<Self> {
        let database = match contender {
            Contender::AgentKit(kind) => Some(options.database(kind).await?),
            Contender::Dbos => Some(options.database(Kind::Postgres).await?),
            Contender::Restate => None,
        };
        let mut running = Self {
            contender,
            processes: Vec::new(),
            database,
            files: TempDir::new()?,
            url: String::new(),
            ports: free_ports()?,
            client: reqwest::Client::builder().no_proxy().build()?,
        };
        running.start_processes(environment).await?;
        if contender == Contender::Restate {
            running.register().await?;
        }
        Ok(running)
    }

    /// Starts what it consists of, on what it keeps.
    pub(super) async fn start_processes(&mut self, environment: &[(&str, String)]) -> Result<()> {
        let environment = environment.to_vec();
        match self.contender {
            Contender::AgentKit(_) => {
                let program = std::env::current_exe()?.with_file_name("turns");
                let mut command = Command::new(program);
                command.env("AGENTKIT_BIND", "127.0.0.1:0");
                self.start_beside_database(command, environment).await
            }
            Contender::Dbos => {
                let command = Command::new(variable("BENCH_DBOS")?);
                self.start_beside_database(command, environment).await
            }
            Contender::Restate => self.start_restate(environment).await,
        }
    }

    async fn start_beside_database(
        &mut self,
        mut command: Command,
        environment: Vec<(&str, String)>,
    ) -> Result<()> {
        let database = self.database.as_ref().ok_or("no database")?;
        let mut process = command
            .env("DATABASE_URL", database.url())
            .env("RUST_LOG", "warn")
            .envs(environment)
            .current_dir(self.files.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        let stdout = process.stdout.take().ok_or("no stdout")?;
        let mut lines = BufReader::new(stdout).lines();
        let line = lines.next_line().await?.ok_or("a server does not start")?;
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        let (_, rest) = line.split_once("http://").ok_or("no address")?;
        let address = rest.split([',', ' ', '/']).next().unwrap_or_default();
        self.url = format!("http://{address}");
        self.processes = vec![process];
        self.until_ready(&format!("{}/readyz", self.url)).await
    }

    async fn start_restate(&mut self, environment: Vec<(&str, String)>) -> Result<()> {
        let packages = PathBuf::from(variable("BENCH_RESTATE")?);
        let [node, ingress, admin, service] = self.ports;
        let service = Command::new("node")
            .arg(packages.join("turns.mjs"))
            .arg(service.to_string())
            .envs(environment)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        let server =
            packages.join("node_modules/@restatedev/restate-server-linux-x64/bin/restate-server");
        let address = |port| format!("127.0.0.1:{port}");
        let server = Command::new(server)
            .arg("--base-dir")
            .arg(self.files.path())
            .env("RESTATE_BIND_ADDRESS", address(node))
            .env("RESTATE_INGRESS__BIND_ADDRESS", address(ingress))
            .env("RESTATE_ADMIN__BIND_ADDRESS", address(admin))
            .env("RESTATE_DISABLE_TELEMETRY", "true")
            .env("RESTATE_LOG_FILTER", "warn")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        self.url = format!("http://{}", address(ingress));
        self.processes = vec![server, service];
        self.until_ready(&format!("{}/restate/health", self.url))
            .await?;
        self.until_ready(&format!("http://{}/health", address(admin)))
            .await
    }

    async fn register(&self) -> Result<()> {
        let [_, _, admin, service] = self.ports;
        let begun = Instant::now();
        loop {
            let request = self
                .client
                .post(format!("http://127.0.0.1:{admin}/deployments"));
            let uri = json!({"uri": format!("http://127.0.0.1:{service}")});
            match request.json(&uri).send().await {
                Ok(answer) if answer.status().is_success() => return Ok(()),
                _ if begun.elapsed() > PATIENCE => return Err("Restate takes no service".into()),
                _ => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    }

    async fn until_ready(&mut self, url: &str) -> Result<()> {
        let begun = Instant::now();
        loop {
            match self.client.get(url).send().await {
                Ok(answer) if answer.status().is_success() => return Ok(()),
                _ if begun.elapsed() > PATIENCE => return Err("a server is not ready".into()),
                _ => tokio::time::sleep(Duration::from_millis(2)).await,
            }
        }
    }

    pub(super) fn key(&self) -> &'static str {
        self.contender.key()
    }

    pub(super) fn name(&self) -> String {
        match self.contender {
            Contender::AgentKit(kind) => format!("AgentKit, {}", kind.name()),
            other => other.name().to_owned(),
        }
    }

    pub(super) async fn new_chat(&self) -> Result<String> {
        if !matches!(self.contender, Contender::AgentKit(_)) {
            return Ok(uuid::Uuid::now_v7().to_string());
        }
        let request = self.client.post(format!("{}/conversations", self.url));
        let made: Value = request.json(&json!({})).send().await?.json().await?;
        Ok(made["id"]
            .as_str()
            .ok_or("a conversation has an id")?
            .to_owned())
    }

    /// One turn.
    pub(super) async fn ask(&self, chat: &str) -> Result<()> {
        let message = "m".repeat(MESSAGE_BYTES);
        let post = |path: String| self.client.post(format!("{}{path}", self.url));
        let request = match self.contender {
            Contender::AgentKit(_) => {
                post(format!("/chats/{chat}/messages")).json(&json!({"content": message}))
            }
            Contender::Dbos => post("/turns".to_owned()).body(message),
            Contender::Restate => post(format!("/chat/{chat}/turn")).json(&message),
        };
        let answer = request.send().await?.error_for_status()?.text().await?;
        match answer.contains("3333333333") {
            true => Ok(()),
            false => Err(format!("a wrong answer: {answer}").into()),
        }
    }

    pub(super) fn process_ids(&self) -> impl Iterator<Item = u32> {
        self.processes.iter().filter_map(Child::id)
    }

    pub(super) async fn kill(&mut self) -> Result<()> {
        for process in &mut self.processes {
            process.kill().await?;
        }
        Ok(())
    }

    pub(super) async fn stop(mut self) -> Result<()> {
        self.kill().await?;
        if let Some(database) = self.database {
            database.remove().await?;
        }
        Ok(())
    }
}

fn variable(name: &str) -> Result<String> {
    std::env::var(name).map_err(|_| format!("{name} is not set: use bench/run").into())
}

fn free_ports() -> Result<[u16; 4]> {
    let listeners: Result<Vec<_>, _> = (0..4).map(|_| TcpListener::bind("127.0.0.1:0")).collect();
    let ports: Result<Vec<_>, _> = listeners?
        .iter()
        .map(|listener| Ok::<_, std::io::Error>(listener.local_addr()?.port()))
        .collect();
    ports?.try_into().map_err(|_| "four ports".into())
}

/// What the files below a directory take.
pub(super) fn size_of_files(directory: &Path) -> Result<u64> {
    let mut size = 0;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        size += if metadata.is_dir() {
            size_of_files(&entry.path())?
        } else {
            metadata.len()
        };
    }
    Ok(size)
}

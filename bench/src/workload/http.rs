//! The workload "HTTP": `agentkit serve` against the original design's stack, on the same PostgreSQL.

use std::{io::Write, process::Stdio};

use futures::{StreamExt, TryStreamExt, stream};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::process::Command;

use crate::{
    Options, Result, WARM_UP,
    database::{Database, Kind},
    report::{Report, Table},
    rounds::{self, median},
    server::Server,
};

const CONNECTIONS: usize = 16;
/// Those that are read and spoken to, a part of them in each round: so many that a chat need not have
/// more than ten turns.
const CONVERSATIONS: usize = 1600;
const TURNS: usize = 10;
const QUESTION: &str = "What is 17 * 23?";

const ORIGINAL: &str = "FastAPI, Tortoise, AsyncPostgresSaver";

#[derive(Default, Deserialize)]
struct Load {
    requests_per_second: f64,
    /// Microseconds.
    p50: f64,
    p99: f64,
}

pub(crate) async fn run(options: &Options, report: &mut Report) -> Result<()> {
    let cores = std::thread::available_parallelism()?.get();
    let contenders = [
        ("agentkit serve".to_owned(), "agentkit serve", Ours(1)),
        (
            "agentkit serve, three servers".to_owned(),
            "three servers",
            Ours(3),
        ),
        (
            format!("{ORIGINAL}, one process"),
            "original/1",
            Original(1),
        ),
        (
            format!("{ORIGINAL}, {cores} processes"),
            "original/cores",
            Original(cores),
        ),
    ];
    report.write(&format!(
        "\n## HTTP\n\nRequests/s at {CONNECTIONS} connections (wrk), on PostgreSQL; times are p50 / p99. \
         A turn: “{QUESTION}”, with a tool call, by agentkit's offline agent and by a LangGraph \
         graph that does as much.\n"
    ));
    let mut table = Table::new(&[
        "server",
        "POST /conversations",
        "ms",
        "GET /conversations/{id}",
        "ms",
        "POST /chats/{id}/messages",
        "ms",
    ]);
    let mut running = Vec::new();
    for (name, key, contender) in contenders {
        if options.takes(Kind::Postgres, &name) {
            running.push(Running::start(options, name, key, contender).await?);
        }
    }
    let mut rows: Vec<_> = running
        .iter()
        .map(|server| vec![server.name.clone()])
        .collect();
    for request in requests() {
        for servers in &running {
            servers
                .load(options, &request, 0, WARM_UP.as_secs_f64())
                .await?;
        }
        let key = |servers: &Running| format!("http/{}/{}", servers.key, request.key);
        let measured = rounds::measure(
            &running,
            |servers| options.rounds_of(&key(servers)),
            async |servers, round| {
                servers
                    .load(options, &request, 1 + round, options.seconds)
                    .await
            },
        );
        for ((servers, row), loads) in running.iter().zip(&mut rows).zip(measured.await?) {
            let rates: Vec<_> = loads.iter().map(|load| load.requests_per_second).collect();
            let p50 = median(loads.iter().map(|load| load.p50).collect());
            let p99 = median(loads.iter().map(|load| load.p99).collect());
            row.push(format!("{:.0}", median(rates.clone())));
            row.push(format!("{:.1} / {:.1}", p50 / 1e3, p99 / 1e3));
            report.record(key(servers), rates);
        }
    }
    for row in rows {
        table.row(row);
        report.progress(&table);
    }
    for servers in running {
        servers.stop().await?;
    }
    report.table(&table);
    Ok(())
}

enum Contender {
    /// So many servers on one database.
    Ours(usize),
    /// One server of so many processes.
    Original(usize),
}
use Contender::{Original, Ours};

/// What is asked for.
struct Request {
    key: &'static str,
    method: &'static str,
    body: String,
    /// Of a conversation.
    path: fn(&str) -> String,
    /// How often a path is asked for before the next.
    repeats: usize,
    /// For so many connections wrk has a thread, with paths of its own; the fewer, the less it takes
    /// of the machine.
    connections_of_thread: usize,
}

fn new_conversation() -> Value {
    json!({"title": "Planning a trip", "metadata": {"customer": 7}})
}

fn requests() -> [Request; 3] {
    [
        Request {
            key: "post",
            method: "POST",
            body: new_conversation().to_string(),
            path: |_| "/conversations".to_owned(),
            repeats: 1,
            connections_of_thread: 8,
        },
        Request {
            key: "get",
            method: "GET",
            body: String::new(),
            path: |id| format!("/conversations/{id}"),
            repeats: 1,
            connections_of_thread: 8,
        },
        Request {
            key: "turn",
            method: "POST",
            body: json!({"content": QUESTION}).to_string(),
            path: |id| format!("/chats/{id}/messages"),
            repeats: TURNS,
            // No two speak to one chat.
            connections_of_thread: 1,
        },
    ]
}

/// A contender, ready.
struct Running {
    name: String,
    key: &'static str,
    database: Database,
    servers: Vec<Server>,
    conversations: Vec<String>,
}

impl Running {
    async fn start(
        options: &Options,
        name: String,
        key: &'static str,
        contender: Contender,
    ) -> Result<Self> {
        let database = options.database(Kind::Postgres).await?;
        let mut servers = Vec::new();
        match contender {
            Ours(count) => {
                for _ in 0..count {
                    servers.push(Server::start(database.url()).await?);
                }
            }
            Original(processes) => {
                // The first one makes the tables, which several at once could not.
                Server::start_original(database.url(), 1)
                    .await?
                    .stop()
                    .await?;
                servers.push(Server::start_original(database.url(), processes).await?);
            }
        }
        database.settle().await?;
        let new = new_conversation();
        let conversations = stream::iter(0..CONVERSATIONS)
            .map(async |_| {
                let made = servers[0].post("/conversations", &new).await?;
                let id = made["id"].as_str().ok_or("a conversation has an id")?;
                Ok::<_, Box<dyn std::error::Error + Send + Sync>>(id.to_owned())
            })
            .buffer_unordered(CONNECTIONS)
            .try_collect()
            .await?;
        Ok(Self {
            name,
            key,
            database,
            servers,
            conversations,
        })
    }

    /// On the conversations of this round, of which the first is the warm-up. The servers share the
    /// connections and the paths.
    async fn load(
        &self,
        options: &Options,
        request: &Request,
        round: usize,
        seconds: f64,
    ) -> Result<Load> {
        let share = CONVERSATIONS / (1 + options.rounds);
        let conversations = &self.conversations[round * share..][..share];
        let servers = self.servers.len();
        let loads = self
            .servers
            .iter()
            .enumerate()
            .map(async |(number, server)| {
                let connections = (CONNECTIONS + number) / servers;
                let own = conversations.iter().skip(number).step_by(servers);
                let paths = own.map(|id| (request.path)(id)).collect::<Vec<_>>();
                wrk(server, request, connections, seconds, &paths.join("\n")).await
            });
        let loads = futures::future::try_join_all(loads).await?;
        Ok(loads.into_iter().fold(Load::default(), |all, load| Load {
            requests_per_second: all.requests_per_second + load.requests_per_second,
            // Of the slowest server.
            p50: all.p50.max(load.p50),
            p99: all.p99.max(load.p99),
        }))
    }

    async fn stop(self) -> Result<()> {
        for server in self.servers {
            server.stop().await?;
        }
        self.database.remove().await
    }
}

async fn wrk(
    server: &Server,
    request: &Request,
    connections: usize,
    seconds: f64,
    paths: &str,
) -> Result<Load> {
    let mut file = tempfile::NamedTempFile::new()?;
    file.write_all(paths.as_bytes())?;
    let threads = (connections / request.connections_of_thread).max(1);
    let output = Command::new("wrk")
        .arg(format!("--threads={threads}"))
        .arg(format!("--connections={connections}"))
        .arg(format!("--duration={}s", seconds.ceil()))
        .arg(format!("--header=X-Threads: {threads}"))
        .arg(concat!("--script=", env!("CARGO_MANIFEST_DIR"), "/wrk.lua"))
        .arg(&server.url)
        .args([
            "--",
            request.method,
            &request.repeats.to_string(),
            &request.body,
        ])
        .arg(file.path())
        .stdin(Stdio::null())
        .output()
        .await?;
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().find(|line| line.starts_with('{'));
    let found: Value = serde_json::from_str(line.ok_or_else(|| format!("wrk: {text}"))?)?;
    match found["errors"].as_u64() {
        Some(0) => Ok(serde_json::from_value(found)?),
        _ => Err(format!("{}: {} requests failed", request.key, found["errors"]).into()),
    }
}
